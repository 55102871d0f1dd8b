//! Conditions of `conditional-include`: `VARIABLE OPERATOR VALUE`.

use std::cmp::Ordering;

use crate::error::{TreefileError, escape};
use crate::node::{Node, Resolved, Scalar};
use crate::variables::{Variable, Variables, undefined};

/// Operators, those first that begin with another one.
const OPERATORS: [&str; 6] = ["==", "!=", "<=", ">=", "<", ">"];

/// True when all conditions hold. All are looked at, so that an error never hides behind a false
/// one.
pub(crate) fn all_hold(conditions: &Node, variables: &Variables) -> Result<bool, TreefileError> {
    let mut all = true;
    for condition in conditions.one_or_many() {
        all &= holds(condition, variables)?;
    }
    Ok(all)
}

fn holds(node: &Node, variables: &Variables) -> Result<bool, TreefileError> {
    let text = node.text().trim();
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let rest = rest.trim_start();
    let found = OPERATORS
        .iter()
        .find_map(|op| Some((*op, rest.strip_prefix(op)?)));
    let (false, Some((operator, value))) = (name.is_empty(), found) else {
        let message = format!(
            "condition '{}' must be VARIABLE OPERATOR VALUE, with one of == != < <= > >=",
            escape(text)
        );
        return Err(node.error(message));
    };
    let Some(left) = variables.get(name) else {
        return Err(undefined(name, variables, &node.mark));
    };
    let right = literal(value.trim(), node)?;
    compare(left, operator, &right)
        .map_err(|why| node.error(format!("condition '{}': {why}", escape(text))))
}

/// A quoted text, a boolean or a whole number.
fn literal(text: &str, node: &Node) -> Result<Variable, TreefileError> {
    for quote in ['"', '\''] {
        let inner = text.strip_prefix(quote).and_then(|t| t.strip_suffix(quote));
        if let Some(inner) = inner.filter(|i| !i.contains([quote, '\\'])) {
            return Ok(Variable::Text(inner.to_owned()));
        }
    }
    let scalar = Scalar {
        text: text.to_owned(),
        plain: true,
    };
    match scalar.resolve() {
        Resolved::Bool(_) | Resolved::Integer(_) => Ok(Variable::from_scalar(&scalar)),
        _ => {
            let message = format!(
                "'{}' in a condition must be \"text\" in quotes, a whole number, true or false",
                escape(text)
            );
            Err(node.error(message))
        }
    }
}

fn compare(left: &Variable, operator: &str, right: &Variable) -> Result<bool, String> {
    if left.kind() != right.kind() {
        return Err(format!(
            "the variable is {}, the value is {}",
            left.kind(),
            right.kind()
        ));
    }
    let order = match (left, right) {
        (Variable::Number(a), Variable::Number(b)) => Some(a.cmp(b)),
        _ => None,
    };
    match (operator, order) {
        ("==", _) => Ok(left == right),
        ("!=", _) => Ok(left != right),
        ("<", Some(order)) => Ok(order == Ordering::Less),
        ("<=", Some(order)) => Ok(order != Ordering::Greater),
        (">", Some(order)) => Ok(order == Ordering::Greater),
        (">=", Some(order)) => Ok(order != Ordering::Less),
        _ => Err(format!("{} has no order; only numbers do", left.kind())),
    }
}
