//! Variables in merged fields.

use crate::error::TreefileError;
use crate::fields::{self, Merge, Shape};
use crate::merge::Fields;
use crate::node::{Mark, Node, Resolved, Scalar, Value};
use crate::variables::{self, Variables};

/// Most bytes of text that variables may make in one treefile.
const MAX_TEXT: usize = 4 * 1024 * 1024;

/// Replaces `${name}` in all fields that allow it; repository definitions know `repovars` too.
pub(crate) fn substitute_all(all: &mut Fields, variables: &Variables) -> Result<(), TreefileError> {
    let mut for_repos = variables.clone();
    if let Some(repovars) = all.get("repovars") {
        for_repos.extend(variables::declared(repovars)?);
    }
    let mut left = MAX_TEXT;
    for (name, node) in all.iter_mut() {
        let Some(field) = fields::find(name) else {
            continue;
        };
        let is_repos = field.merge == Merge::Repos;
        let variables = if is_repos { &for_repos } else { variables };
        let mut replacer = Replacer { variables, left };
        if is_repos {
            replacer.repos(node, &field.shape)?;
        } else if field.substitute {
            replacer.node(node, &field.shape)?;
        }
        left = replacer.left;
    }
    Ok(())
}

/// Variables, and how many bytes they may still make.
struct Replacer<'a> {
    variables: &'a Variables,
    left: usize,
}

impl Replacer<'_> {
    /// Only those fields of a repository that allow it.
    fn repos(&mut self, node: &mut Node, shape: &Shape) -> Result<(), TreefileError> {
        match (&mut node.value, shape) {
            (Value::List(items), Shape::List(inner)) => items
                .iter_mut()
                .try_for_each(|item| self.repos(item, inner)),
            (Value::Map(entries), Shape::Either(either)) => {
                let Some(Shape::Record(known)) = &either.map else {
                    return Ok(());
                };
                entries.iter_mut().try_for_each(|(key, value)| {
                    let field = known.iter().find(|f| f.name == key.text && f.substitute);
                    field.map_or(Ok(()), |f| self.node(value, &f.shape))
                })
            }
            _ => Ok(()),
        }
    }

    /// Texts, their lists, and the values of maps; not what is deeper in free data.
    fn node(&mut self, node: &mut Node, shape: &Shape) -> Result<(), TreefileError> {
        match (&mut node.value, shape) {
            (Value::Scalar(scalar), _) => self.scalar(scalar, &node.mark),
            (Value::List(items), Shape::List(inner)) => {
                items.iter_mut().try_for_each(|item| self.node(item, inner))
            }
            (Value::Map(entries), Shape::Map(inner)) => entries
                .iter_mut()
                .try_for_each(|(_, value)| self.node(value, inner)),
            _ => Ok(()),
        }
    }

    /// Text only: a number stays a number.
    fn scalar(&mut self, scalar: &mut Scalar, mark: &Mark) -> Result<(), TreefileError> {
        if !scalar.text.contains("${") || scalar.resolve() != Resolved::Text {
            return Ok(());
        }
        scalar.text = variables::substitute(&scalar.text, self.variables, mark)?;
        scalar.plain = false;
        match self.left.checked_sub(scalar.text.len()) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(mark.error(format!(
                "variables make more than {} MiB of text",
                MAX_TEXT >> 20
            ))),
        }
    }
}
