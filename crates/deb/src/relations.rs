//! Syntax of dependency fields, as dpkg reads them.

use apt_ostree_model::{Arch, PackageName, Version};

use crate::error::quote;

const ALTERNATIVES: [&str; 5] = [
    "Depends",
    "Pre-Depends",
    "Recommends",
    "Suggests",
    "Enhances",
];
const PLAIN: [&str; 4] = ["Conflicts", "Breaks", "Replaces", "Provides"];
const OPERATORS: [&str; 7] = ["<<", "<=", ">>", ">=", "=", "<", ">"];

/// Checks the syntax of a dependency field's value; other fields pass.
///
/// # Errors
/// The column, counted from 1 in the value, and what is wrong there.
pub fn check_relations(field: &str, value: &str) -> Result<(), String> {
    let is_in = |list: &[&str]| list.iter().any(|n| n.eq_ignore_ascii_case(field));
    let alternatives = is_in(&ALTERNATIVES);
    if !alternatives && !is_in(&PLAIN) || value.is_empty() {
        return Ok(());
    }
    let mut parser = Parser { text: value, at: 0 };
    let exact_only = field.eq_ignore_ascii_case("Provides");
    parser.list(alternatives, exact_only).map_err(|reason| {
        let column = value[..parser.at].chars().count() + 1;
        format!("column {column}: {reason}")
    })
}

struct Parser<'a> {
    text: &'a str,
    /// Where parsing is, and after an error, where the error is.
    at: usize,
}

impl<'a> Parser<'a> {
    fn list(&mut self, alternatives: bool, exact_only: bool) -> Result<(), String> {
        loop {
            self.relation(exact_only)?;
            self.blanks();
            match self.peek() {
                None => return Ok(()),
                Some(',') => {}
                Some('|') if alternatives => {}
                Some('|') => return Err("alternatives are not allowed in this field".into()),
                Some(_) => return Err(format!("expected ',' instead of {}", self.rest())),
            }
            self.at += 1;
        }
    }

    fn relation(&mut self, exact_only: bool) -> Result<(), String> {
        self.blanks();
        let start = self.at;
        let word = self.word(|c| !c.is_ascii_whitespace() && !"(),|".contains(c));
        if word.is_empty() {
            return Err("a package name is missing".into());
        }
        let (name, arch) = match word.split_once(':') {
            Some((name, arch)) => (name, Some(arch)),
            None => (word, None),
        };
        let checked = name.parse::<PackageName>().map(|_| ());
        let checked = checked.and_then(|()| arch.map_or(Ok(()), |a| a.parse::<Arch>().map(|_| ())));
        if let Err(error) = checked {
            self.at = start;
            return Err(error.to_string());
        }
        self.blanks();
        if self.peek() == Some('(') {
            self.version(exact_only)?;
        }
        Ok(())
    }

    fn version(&mut self, exact_only: bool) -> Result<(), String> {
        self.at += 1;
        self.blanks();
        let start = self.at;
        let operator = self.word(|c| "<>=".contains(c));
        let known = OPERATORS.contains(&operator);
        if !known || exact_only && operator != "=" {
            self.at = start;
            return Err(match (known, operator) {
                (true, _) => "only '=' is allowed in this field".into(),
                (false, "") => "a version operator is missing".into(),
                (false, other) => format!("unknown version operator {}", quote(other.as_bytes())),
            });
        }
        self.blanks();
        let start = self.at;
        let version = self.word(|c| !c.is_ascii_whitespace() && c != ')' && c != '(');
        if let Err(error) = version.parse::<Version>() {
            self.at = start;
            return Err(error.to_string());
        }
        self.blanks();
        if self.peek() != Some(')') {
            return Err("expected ')' after the version".into());
        }
        self.at += 1;
        Ok(())
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn rest(&self) -> String {
        let end = self.text[self.at..].char_indices().nth(20);
        let end = end.map_or(self.text.len(), |(i, _)| self.at + i);
        quote(&self.text.as_bytes()[self.at..end])
    }

    fn blanks(&mut self) {
        self.word(|c| c.is_ascii_whitespace());
    }

    fn word(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let end = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }
}

#[cfg(test)]
mod tests {
    use super::check_relations;

    #[test]
    fn real_relations_are_accepted() {
        for (field, value) in [
            (
                "Depends",
                "libc6 (>= 2.34), aa | bb:any (<< 1:2~rc1),\n c-d ( = 3 )",
            ),
            ("depends", "python3:any (>= 3.11~)"),
            ("Depends", ""),
            ("Depends", "aa(>=1)"),
            ("Conflicts", "xx (<< 2), yy"),
            ("Provides", "vv (= 1.0), ww"),
            ("Breaks", "old (< 1)"),
            ("Description", "not (a relation"),
        ] {
            assert_eq!(check_relations(field, value), Ok(()), "{field}: {value}");
        }
    }

    #[test]
    fn broken_relations_are_refused_with_their_column() {
        for (field, value, column) in [
            ("Depends", "libc6 (>= 2.34", 15),
            ("Depends", "libc6, , foo", 8),
            ("Depends", "libc6,", 7),
            ("Depends", "libc6 libm6", 7),
            ("Depends", "libc6 (2.3)", 8),
            ("Depends", "libc6 (=> 2.3)", 8),
            ("Depends", "libc6 (>= )", 11),
            ("Depends", "libc6 (>= 1 2)", 13),
            ("Depends", "LibC", 1),
            ("Depends", "aa:é", 1),
            ("Depends", "libc6 [amd64]", 7),
            ("Depends", "aa | ", 6),
            ("Pre-Depends", "aa, ../x", 5),
            ("Conflicts", "aa | bb", 4),
            ("Provides", "aa (>= 1)", 5),
        ] {
            let error = check_relations(field, value).unwrap_err();
            assert!(
                error.starts_with(&format!("column {column}: ")),
                "{value}: {error}"
            );
        }
    }
}
