//! A parsed document in which every value knows where it was written.

use std::sync::Arc;

use camino::Utf8PathBuf;

use crate::error::{Location, TreefileError};

/// A file that was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// How messages name it.
    pub(crate) display: String,
    /// The directory that relative paths in it start from.
    pub(crate) dir: Utf8PathBuf,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) source: Arc<Source>,
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) mark: Mark,
}

/// What YAML and JSON have in common, before any meaning is given to a scalar.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// Text as written; `plain` when it was not quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) plain: bool,
}

/// The key of a map entry.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) mark: Mark,
}

impl Mark {
    /// The start of a file.
    pub(crate) fn start_of(source: &Arc<Source>) -> Self {
        Self {
            source: Arc::clone(source),
            line: 1,
            column: 1,
        }
    }

    /// An error at this place.
    pub(crate) fn error(&self, message: impl Into<String>) -> TreefileError {
        TreefileError {
            location: Some(Location {
                file: self.source.display.clone(),
                line: self.line,
                column: self.column,
            }),
            message: message.into(),
        }
    }

    /// `FILE:LINE` for a message that names a second place.
    pub(crate) fn brief(&self) -> String {
        format!(
            "{}:{}",
            crate::error::escape(&self.source.display),
            self.line
        )
    }
}

impl Node {
    /// A quoted scalar at `mark`.
    pub(crate) fn text_at(text: impl Into<String>, mark: &Mark) -> Self {
        let scalar = Scalar {
            text: text.into(),
            plain: false,
        };
        Self {
            value: Value::Scalar(scalar),
            mark: mark.clone(),
        }
    }

    /// A list at `mark`.
    pub(crate) fn list_at(items: Vec<Self>, mark: &Mark) -> Self {
        Self {
            value: Value::List(items),
            mark: mark.clone(),
        }
    }

    /// An error at this value.
    pub(crate) fn error(&self, message: impl Into<String>) -> TreefileError {
        self.mark.error(message)
    }

    /// The text of a scalar; empty for anything else.
    pub(crate) fn text(&self) -> &str {
        match &self.value {
            Value::Scalar(scalar) => &scalar.text,
            _ => "",
        }
    }

    /// The items of a list; none for anything else.
    pub(crate) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The entries of a map; none for anything else.
    pub(crate) fn entries(&self) -> &[(Key, Self)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The value of `key` in a map, unless it is absent or null.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entries()
            .iter()
            .find_map(|(k, v)| (k.text == key).then_some(v))
            .filter(|v| !v.is_null())
    }

    /// A list's items, or the value itself as the only one.
    pub(crate) fn one_or_many(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => std::slice::from_ref(self),
        }
    }

    /// True for an empty value, `~` and `null`.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(s) if s.resolve() == Resolved::Null)
    }

    /// `true` or `false` when it is one.
    pub(crate) fn as_bool(&self) -> Option<bool> {
        match &self.value {
            Value::Scalar(scalar) => match scalar.resolve() {
                Resolved::Bool(value) => Some(value),
                _ => None,
            },
            _ => None,
        }
    }

    /// A whole number when it is one.
    pub(crate) fn as_integer(&self) -> Option<i64> {
        match &self.value {
            Value::Scalar(scalar) => match scalar.resolve() {
                Resolved::Integer(value) => Some(value),
                _ => None,
            },
            _ => None,
        }
    }

    /// What it is, for `expected X, found Y`.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
            Value::Scalar(scalar) => match scalar.resolve() {
                Resolved::Null => "nothing".to_owned(),
                Resolved::Bool(value) => format!("{value}"),
                Resolved::Integer(_) | Resolved::Float(_) => {
                    format!("the number {}", crate::error::escape(&scalar.text))
                }
                Resolved::Text => format!("the text '{}'", crate::error::escape(&scalar.text)),
            },
        }
    }
}

/// What a scalar means where any type is allowed (YAML 1.2 core schema).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Resolved {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text,
}

impl Scalar {
    /// Gives a plain scalar its YAML 1.2 meaning; a quoted one is always text.
    pub(crate) fn resolve(&self) -> Resolved {
        if !self.plain {
            return Resolved::Text;
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => Resolved::Null,
            "true" | "True" | "TRUE" => Resolved::Bool(true),
            "false" | "False" | "FALSE" => Resolved::Bool(false),
            text => number(text),
        }
    }
}

/// Decimal numbers; a leading zero or plus sign makes text, as in JSON.
fn number(text: &str) -> Resolved {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let whole = digits.split(['.', 'e', 'E']).next().unwrap_or_default();
    let leading_zero = whole.len() > 1 && whole.starts_with('0');
    let numeric = digits
        .bytes()
        .all(|b| b.is_ascii_digit() || b".eE+-".contains(&b));
    let starts_with_digit = whole.starts_with(|c: char| c.is_ascii_digit());
    if !starts_with_digit || leading_zero || !numeric {
        return Resolved::Text;
    }
    if let Ok(value) = text.parse::<i64>() {
        return Resolved::Integer(value);
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Resolved::Float(value),
        _ => Resolved::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Resolved {
        let text = text.to_owned();
        Scalar { text, plain: true }.resolve()
    }

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        assert_eq!(plain("true"), Resolved::Bool(true));
        assert_eq!(plain("~"), Resolved::Null);
        assert_eq!(plain("-12"), Resolved::Integer(-12));
        assert_eq!(plain("1.5"), Resolved::Float(1.5));
        assert_eq!(plain("1e3"), Resolved::Float(1000.0));
    }

    #[test]
    fn yaml_1_1_oddities_are_text() {
        for text in [
            "no",
            "yes",
            "on",
            "010",
            "0x10",
            "2026-11-21",
            "1_000",
            "+1",
            "1e999",
            "1:30",
            ".inf",
        ] {
            assert_eq!(plain(text), Resolved::Text, "{text}");
        }
    }

    #[test]
    fn quoted_scalars_are_text() {
        let scalar = Scalar {
            text: "true".into(),
            plain: false,
        };
        assert_eq!(scalar.resolve(), Resolved::Text);
    }
}
