//! Variables: what they hold, where they come from, and `${name}` in text.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{TreefileError, escape};
use crate::node::{Mark, Node, Resolved, Scalar, Value};

/// Names that are always defined.
pub(crate) const RESERVED: [&str; 3] = ["basearch", "releasever", "suite"];
/// Longest value.
const MAX_VALUE: usize = 4096;
/// Longest text that a substitution may make.
const MAX_RESULT: usize = 64 * 1024;

/// What a variable holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Variable {
    Bool(bool),
    Number(i64),
    Text(String),
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
        }
    }
}

impl Variable {
    /// A scalar's YAML meaning; what is no boolean or whole number is text.
    pub(crate) fn from_scalar(scalar: &Scalar) -> Self {
        match scalar.resolve() {
            Resolved::Bool(value) => Self::Bool(value),
            Resolved::Integer(value) => Self::Number(value),
            _ => Self::Text(scalar.text.clone()),
        }
    }

    /// The meaning of text from the command line.
    pub(crate) fn from_argument(text: &str) -> Self {
        Self::from_scalar(&Scalar {
            text: text.to_owned(),
            plain: true,
        })
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
        }
    }
}

/// Variables by name.
pub(crate) type Variables = BTreeMap<String, Variable>;

/// The `variables` of one treefile.
pub(crate) fn declared(node: &Node) -> Result<Variables, TreefileError> {
    let mut variables = Variables::new();
    for (key, value) in node.entries() {
        check_name(&key.text).map_err(|why| key.mark.error(why))?;
        if let Value::Scalar(scalar) = &value.value {
            let variable = Variable::from_scalar(scalar);
            check_value(&key.text, &variable).map_err(|why| value.error(why))?;
            variables.insert(key.text.clone(), variable);
        }
    }
    Ok(variables)
}

/// The variables of the command line.
pub(crate) fn from_arguments(
    arguments: &BTreeMap<String, String>,
) -> Result<Variables, TreefileError> {
    let mut variables = Variables::new();
    for (name, text) in arguments {
        let variable = Variable::from_argument(text);
        check_name(name)
            .and_then(|()| check_value(name, &variable))
            .map_err(|why| TreefileError::unplaced(format!("{why} (on the command line)")))?;
        variables.insert(name.clone(), variable);
    }
    Ok(variables)
}

fn check_name(name: &str) -> Result<(), String> {
    if RESERVED.contains(&name) {
        return Err(format!(
            "variable '{name}' is always defined and can't be set"
        ));
    }
    if is_name(name) {
        return Ok(());
    }
    let name = escape(name);
    Err(format!(
        "'{name}' is not a variable name: only letters, digits and '_' are allowed"
    ))
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && name.len() <= 64
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A value with `${` would look as if it were replaced in turn.
fn check_value(name: &str, variable: &Variable) -> Result<(), String> {
    match variable {
        Variable::Text(text) if text.len() > MAX_VALUE => Err(format!(
            "variable '{name}' is longer than {MAX_VALUE} bytes"
        )),
        Variable::Text(text) if text.contains("${") => {
            Err(format!("variable '{name}' must not use another variable"))
        }
        Variable::Text(text) if text.contains(char::is_control) => Err(format!(
            "variable '{name}' must be one line without control characters"
        )),
        _ => Ok(()),
    }
}

/// Replaces every `${name}` in `text`, once.
pub(crate) fn substitute(
    text: &str,
    variables: &Variables,
    mark: &Mark,
) -> Result<String, TreefileError> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let Some((name, tail)) = after.split_once('}') else {
            return Err(mark.error("'${' has no closing '}'"));
        };
        let Some(value) = variables.get(name) else {
            return Err(undefined(name, variables, mark));
        };
        out.push_str(&value.to_string());
        if out.len() > MAX_RESULT {
            return Err(mark.error(format!(
                "text with variables is longer than {MAX_RESULT} bytes"
            )));
        }
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

/// The error for a variable that nothing defines.
pub(crate) fn undefined(name: &str, variables: &Variables, mark: &Mark) -> TreefileError {
    let hint = match crate::fields::suggest(name, variables.keys().map(String::as_str)) {
        Some(known) => format!(", did you mean '{known}'?"),
        None => String::new(),
    };
    mark.error(format!("undefined variable '{}'{hint}", escape(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Source;
    use std::sync::Arc;

    fn mark() -> Mark {
        Mark::start_of(&Arc::new(Source {
            display: "t.yaml".into(),
            dir: "/".into(),
        }))
    }

    fn variables() -> Variables {
        let mut v = Variables::new();
        v.insert("suite".into(), Variable::Text("trixie".into()));
        v.insert("n".into(), Variable::Number(13));
        v.insert("on".into(), Variable::Bool(true));
        v
    }

    #[test]
    fn all_types_are_replaced() {
        let text = substitute("debian/${n}/${suite}-${on}$", &variables(), &mark()).unwrap();
        assert_eq!(text, "debian/13/trixie-true$");
    }

    #[test]
    fn undefined_and_unclosed_are_errors() {
        let error = substitute("${siute}", &variables(), &mark())
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "t.yaml:1:1: undefined variable 'siute', did you mean 'suite'?"
        );
        assert!(substitute("${suite", &variables(), &mark()).is_err());
        assert!(substitute("${}", &variables(), &mark()).is_err());
    }

    #[test]
    fn results_are_bounded() {
        let mut v = Variables::new();
        v.insert("a".into(), Variable::Text("x".repeat(1000)));
        assert!(substitute(&"${a}".repeat(1000), &v, &mark()).is_err());
    }

    #[test]
    fn names_and_values_are_checked() {
        for (name, value) in [
            ("1a", "x"),
            ("a-b", "x"),
            ("basearch", "x"),
            ("a", "${b}"),
            ("a", "x\ny"),
            ("", "x"),
        ] {
            let arguments = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            assert!(from_arguments(&arguments).is_err(), "{name}={value}");
        }
    }
}
