//! JSONPath expressions over `status --json`.
//!
//! Understood are `$`, `.name`, `.*`, `..name`, `[0]`, `[-1]`, `[1:3]`, `['name']`, `[*]`, lists of
//! these in one bracket, and filters `[?(...)]` with `@` and `$` paths, literals, `==`, `!=`, `<`,
//! `<=`, `>`, `>=`, `!`, `&&`, `||` and parentheses.
//!
//! It is written here because crates that follow RFC 9535 disagree with what people type:
//! `[?(@.booted)]` finds every deployment, as all have the key, and `.base-checksum` is an error. Here
//! a bare path in a filter holds where there is a value other than `false` and `null`, and names may
//! hold dashes.

mod parse;

use std::str::FromStr;

use serde_json::Value;

/// A JSONPath expression.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath(Vec<Segment>);

/// The text is not a JSONPath expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidPath {
    /// Where, in characters from 1.
    position: usize,
    reason: &'static str,
}

impl std::fmt::Display for InvalidPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at character {}", self.reason, self.position)
    }
}

impl std::error::Error for InvalidPath {}

/// One step down.
#[derive(Debug, Clone, PartialEq)]
struct Segment {
    /// From everything below as well.
    descend: bool,
    selectors: Vec<Selector>,
}

#[derive(Debug, Clone, PartialEq)]
enum Selector {
    Name(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    Filter(Expr),
}

#[derive(Debug, Clone, PartialEq)]
enum Expr {
    Or(Box<Self>, Box<Self>),
    And(Box<Self>, Box<Self>),
    Not(Box<Self>),
    Compare(Operand, Comparison, Operand),
    Holds(Operand),
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    /// `@...`
    Here(Vec<Segment>),
    /// `$...`
    Root(Vec<Segment>),
    Literal(Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

impl FromStr for JsonPath {
    type Err = InvalidPath;

    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        parse::path(text).map(Self)
    }
}

impl JsonPath {
    /// All values in `root` that the expression finds, in their order there.
    pub fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        walk(&self.0, root, root)
    }
}

fn walk<'a>(segments: &[Segment], start: &'a Value, root: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![start];
    for segment in segments {
        let mut next = Vec::new();
        for value in found {
            if segment.descend {
                descend(segment, value, root, &mut next);
            } else {
                select(segment, value, root, &mut next);
            }
        }
        found = next;
    }
    found
}

fn descend<'a>(segment: &Segment, value: &'a Value, root: &'a Value, found: &mut Vec<&'a Value>) {
    select(segment, value, root, found);
    for child in children(value) {
        descend(segment, child, root, found);
    }
}

fn select<'a>(segment: &Segment, value: &'a Value, root: &'a Value, found: &mut Vec<&'a Value>) {
    for selector in &segment.selectors {
        match selector {
            Selector::Name(name) => found.extend(value.get(name)),
            Selector::Index(index) => {
                found.extend(value.as_array().and_then(|array| at(array, *index)));
            }
            Selector::Slice(from, to) => {
                found.extend(
                    value
                        .as_array()
                        .into_iter()
                        .flat_map(|a| slice(a, *from, *to)),
                );
            }
            Selector::All => found.extend(children(value)),
            Selector::Filter(expr) => {
                found.extend(children(value).filter(|child| holds(expr, child, root)));
            }
        }
    }
}

fn children(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(array) => Box::new(array.iter()),
        Value::Object(map) => Box::new(map.values()),
        _ => Box::new(std::iter::empty()),
    }
}

fn at(array: &[Value], index: i64) -> Option<&Value> {
    let distance = usize::try_from(index.unsigned_abs()).ok()?;
    if index < 0 {
        array.get(array.len().checked_sub(distance)?)
    } else {
        array.get(distance)
    }
}

fn slice(array: &[Value], from: Option<i64>, to: Option<i64>) -> &[Value] {
    let bound = |index: i64| {
        let distance = usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX);
        if index < 0 {
            array.len().saturating_sub(distance)
        } else {
            distance.min(array.len())
        }
    };
    let (from, to) = (from.map_or(0, bound), to.map_or(array.len(), bound));
    array.get(from..to).unwrap_or_default()
}

fn holds(expr: &Expr, here: &Value, root: &Value) -> bool {
    match expr {
        Expr::Or(a, b) => holds(a, here, root) || holds(b, here, root),
        Expr::And(a, b) => holds(a, here, root) && holds(b, here, root),
        Expr::Not(inner) => !holds(inner, here, root),
        Expr::Compare(a, comparison, b) => {
            comparison.holds(operand(a, here, root), operand(b, here, root))
        }
        Expr::Holds(path) => !matches!(
            operand(path, here, root),
            None | Some(Value::Null | Value::Bool(false))
        ),
    }
}

/// The first value that a path finds, or the literal.
fn operand<'a>(operand: &'a Operand, here: &'a Value, root: &'a Value) -> Option<&'a Value> {
    match operand {
        Operand::Here(path) => walk(path, here, root).first().copied(),
        Operand::Root(path) => walk(path, root, root).first().copied(),
        Operand::Literal(value) => Some(value),
    }
}

impl Comparison {
    fn holds(self, a: Option<&Value>, b: Option<&Value>) -> bool {
        let order = match (a, b) {
            (Some(Value::String(a)), Some(Value::String(b))) => Some(a.cmp(b)),
            (Some(Value::Number(a)), Some(Value::Number(b))) => a
                .as_f64()
                .zip(b.as_f64())
                .and_then(|(a, b)| a.partial_cmp(&b)),
            _ => None,
        };
        let equal = order.map_or(a == b, std::cmp::Ordering::is_eq);
        match self {
            Self::Equal => equal,
            Self::NotEqual => !equal,
            Self::Less => order.is_some_and(std::cmp::Ordering::is_lt),
            Self::LessEqual => order.is_some_and(std::cmp::Ordering::is_le),
            Self::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
            Self::GreaterEqual => order.is_some_and(std::cmp::Ordering::is_ge),
        }
    }
}

#[cfg(test)]
mod tests;
