//! From text to segments.

use serde_json::Value;

use super::{Comparison, Expr, InvalidPath, Operand, Segment, Selector};

/// Deeper filters and parentheses are refused, so that no text can exhaust the stack.
const MAX_DEPTH: usize = 32;

type Parsed<T> = Result<T, InvalidPath>;

/// A whole expression.
pub(super) fn path(text: &str) -> Parsed<Vec<Segment>> {
    let mut parser = Parser {
        chars: text.chars().collect(),
        at: 0,
        depth: 0,
    };
    parser.blanks();
    if !parser.eat("$") {
        return parser.fail("expected '$'");
    }
    let segments = parser.segments()?;
    parser.blanks();
    if parser.peek().is_some() {
        return parser.fail("expected '.' or '['");
    }
    Ok(segments)
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    depth: usize,
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

impl Parser {
    fn fail<T>(&self, reason: &'static str) -> Parsed<T> {
        Err(InvalidPath {
            position: self.at + 1,
            reason,
        })
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn eat(&mut self, text: &str) -> bool {
        let matches = text
            .chars()
            .enumerate()
            .all(|(offset, c)| self.chars.get(self.at + offset) == Some(&c));
        if matches {
            self.at += text.chars().count();
        }
        matches
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth == MAX_DEPTH {
            return self.fail("nested too deeply");
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn segments(&mut self) -> Parsed<Vec<Segment>> {
        let mut segments = Vec::new();
        loop {
            let descend = self.eat("..");
            let selectors = if self.peek() == Some('[') {
                self.bracket()?
            } else if descend || self.eat(".") {
                vec![self.dotted()?]
            } else {
                return Ok(segments);
            };
            segments.push(Segment { descend, selectors });
        }
    }

    /// What follows a dot.
    fn dotted(&mut self) -> Parsed<Selector> {
        if self.eat("*") {
            return Ok(Selector::All);
        }
        let name = self.take_while(is_name);
        if name.is_empty() {
            return self.fail("expected a name or '*'");
        }
        Ok(Selector::Name(name))
    }

    fn take_while(&mut self, test: fn(char) -> bool) -> String {
        let start = self.at;
        while self.peek().is_some_and(test) {
            self.at += 1;
        }
        self.chars[start..self.at].iter().collect()
    }

    fn bracket(&mut self) -> Parsed<Vec<Selector>> {
        self.eat("[");
        let mut selectors = Vec::new();
        loop {
            self.blanks();
            selectors.push(self.selector()?);
            self.blanks();
            if self.eat("]") {
                return Ok(selectors);
            }
            if !self.eat(",") {
                return self.fail("expected ']'");
            }
        }
    }

    fn selector(&mut self) -> Parsed<Selector> {
        match self.peek() {
            Some('*') => {
                self.at += 1;
                Ok(Selector::All)
            }
            Some('?') => {
                self.at += 1;
                self.deeper(Self::either).map(Selector::Filter)
            }
            Some('\'' | '"') => self.string().map(Selector::Name),
            _ => self.index_or_slice(),
        }
    }

    fn index_or_slice(&mut self) -> Parsed<Selector> {
        let from = self.integer()?;
        self.blanks();
        if self.eat(":") {
            self.blanks();
            return Ok(Selector::Slice(from, self.integer()?));
        }
        match from {
            Some(index) => Ok(Selector::Index(index)),
            None => self.fail("expected an index, a quoted name, '*' or '?'"),
        }
    }

    fn integer(&mut self) -> Parsed<Option<i64>> {
        let text = self.take_while(|c| c.is_ascii_digit() || c == '-');
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) if text.is_empty() => Ok(None),
            Err(_) => self.fail("expected a whole number before this"),
        }
    }

    /// A string in single or double quotes; a backslash takes the next character as it is.
    fn string(&mut self) -> Parsed<String> {
        let quote = self.peek();
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.peek() {
                None => return self.fail("expected a closing quote"),
                end if end == quote => {
                    self.at += 1;
                    return Ok(text);
                }
                Some('\\') => {
                    self.at += 1;
                    match self.peek() {
                        None => return self.fail("expected a closing quote"),
                        Some(c) => text.push(c),
                    }
                }
                Some(c) => text.push(c),
            }
            self.at += 1;
        }
    }

    fn either(&mut self) -> Parsed<Expr> {
        let mut left = self.both()?;
        while self.eat("||") {
            left = Expr::Or(Box::new(left), Box::new(self.both()?));
        }
        Ok(left)
    }

    fn both(&mut self) -> Parsed<Expr> {
        let mut left = self.term()?;
        while self.eat("&&") {
            left = Expr::And(Box::new(left), Box::new(self.term()?));
        }
        Ok(left)
    }

    /// Leaves no blanks behind it.
    fn term(&mut self) -> Parsed<Expr> {
        self.blanks();
        let expr = if self.eat("!") {
            Expr::Not(Box::new(self.deeper(Self::term)?))
        } else if self.eat("(") {
            let inner = self.deeper(Self::either)?;
            if !self.eat(")") {
                return self.fail("expected ')'");
            }
            inner
        } else {
            self.comparison()?
        };
        self.blanks();
        Ok(expr)
    }

    fn comparison(&mut self) -> Parsed<Expr> {
        const SIGNS: [(&str, Comparison); 6] = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessEqual),
            (">=", Comparison::GreaterEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let left = self.operand()?;
        self.blanks();
        for (sign, comparison) in SIGNS {
            if self.eat(sign) {
                self.blanks();
                return Ok(Expr::Compare(left, comparison, self.operand()?));
            }
        }
        match left {
            Operand::Literal(_) => self.fail("expected a comparison"),
            path => Ok(Expr::Holds(path)),
        }
    }

    fn operand(&mut self) -> Parsed<Operand> {
        if self.eat("@") {
            return self.deeper(Self::segments).map(Operand::Here);
        }
        if self.eat("$") {
            return self.deeper(Self::segments).map(Operand::Root);
        }
        if matches!(self.peek(), Some('\'' | '"')) {
            return self
                .string()
                .map(|text| Operand::Literal(Value::String(text)));
        }
        let start = self.at;
        let word = self.take_while(|c| is_name(c) || c == '.' || c == '+');
        match serde_json::from_str(&word) {
            Ok(value) => Ok(Operand::Literal(value)),
            Err(_) => {
                self.at = start;
                self.fail("expected '@', '$', a string, a number, true, false or null")
            }
        }
    }
}
