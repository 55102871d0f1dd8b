//! Is this document a treefile? Checks names and types against the table; meaning comes later.

use crate::error::{TreefileError, escape};
use crate::fields::{self, Either, Field, Shape, Status};
use crate::node::{Key, Mark, Node, Resolved, Value};

/// Checks a whole treefile and adds what its author should know to `warnings`.
pub(crate) fn treefile(node: &Node, warnings: &mut Vec<String>) -> Result<(), TreefileError> {
    let Value::Map(entries) = &node.value else {
        let message = format!("a treefile is a map of fields, found {}", node.describe());
        return Err(node.error(message));
    };
    for (key, value) in entries {
        if let Some((_, shape)) = arch_packages(key)? {
            check(value, &shape, &key.text)?;
            continue;
        }
        let field = top_field(key)?;
        if let Some(first) = entries
            .iter()
            .map(|(k, _)| k)
            .find(|k| field.is_called(&k.text))
            && first.text != key.text
        {
            let message = format!(
                "'{}' is another spelling of '{}'; give one of them",
                key.text, first.text
            );
            return Err(key.mark.error(message));
        }
        if value.is_null() {
            continue;
        }
        check_field(field, value, &key.text)?;
        if let Status::Deprecated(instead) = field.status {
            let message = format!("'{}' is deprecated; use '{instead}'", key.text);
            warnings.push(key.mark.error(message).to_string());
        }
    }
    Ok(())
}

/// The architecture and shape of a `packages-ARCH` field.
pub(crate) fn arch_packages(key: &Key) -> Result<Option<(&'static str, Shape)>, TreefileError> {
    if fields::find(&key.text).is_some() {
        return Ok(None);
    }
    let Some(arch) = key.text.strip_prefix("packages-") else {
        return Ok(None);
    };
    let shape = fields::find("packages").map_or(Shape::Any, |f| f.shape);
    match fields::debian_arch(arch) {
        Some(arch) => Ok(Some((arch, shape))),
        None => Err(unknown_arch(
            arch,
            &key.mark,
            &format!("'{}': ", escape(&key.text)),
        )),
    }
}

/// An error that names the nearest known architecture.
pub(crate) fn unknown_arch(arch: &str, mark: &Mark, prefix: &str) -> TreefileError {
    let known = fields::ARCHITECTURES
        .iter()
        .flat_map(|(deb, base)| [*deb, *base]);
    let hint = match fields::suggest(arch, known) {
        Some(name) => format!(", did you mean '{name}'?"),
        None => "; use Debian's name, such as 'amd64' or 'arm64'".to_owned(),
    };
    mark.error(format!(
        "{prefix}unknown architecture '{}'{hint}",
        escape(arch)
    ))
}

fn top_field(key: &Key) -> Result<&'static Field, TreefileError> {
    let Some(field) = fields::find(&key.text) else {
        let known = fields::FIELDS
            .iter()
            .filter(|f| f.is_usable())
            .map(|f| f.name);
        return Err(unknown(key, known, ""));
    };
    match field.status {
        Status::Refused(instead) => {
            let message = format!("field '{}' is not supported: {instead}", key.text);
            Err(key.mark.error(message))
        }
        Status::Derived(instead) => {
            let message = format!(
                "field '{}' describes an installed system and has no place in a treefile to compose; {instead}",
                key.text
            );
            Err(key.mark.error(message))
        }
        _ => Ok(field),
    }
}

fn unknown<'a>(
    key: &Key,
    known: impl Iterator<Item = &'a str> + Clone,
    within: &str,
) -> TreefileError {
    let place = if within.is_empty() {
        String::new()
    } else {
        format!(" in '{within}'")
    };
    let hint = match fields::suggest(&key.text, known.clone()) {
        Some(name) => format!(", did you mean '{name}'?"),
        None if within.is_empty() => String::new(),
        None => format!("; known are {}", quoted(known)),
    };
    key.mark.error(format!(
        "unknown field '{}'{place}{hint}",
        escape(&key.text)
    ))
}

fn quoted<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words
        .map(|w| format!("'{w}'"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Checks a value, with the reasons the table gives for words it refuses.
fn check_field(field: &Field, value: &Node, path: &str) -> Result<(), TreefileError> {
    if let Value::Scalar(scalar) = &value.value
        && let Some((word, why)) = field
            .refused_values
            .iter()
            .find(|(word, _)| *word == scalar.text)
    {
        return Err(value.error(format!("'{path}: {word}' is not supported: {why}")));
    }
    check(value, &field.shape, path)
}

fn check(node: &Node, shape: &Shape, path: &str) -> Result<(), TreefileError> {
    match (shape, &node.value) {
        (Shape::Treefile, Value::Map(_)) => treefile(node, &mut Vec::new()),
        (Shape::Any, _) => Ok(()),
        (Shape::Record(fields), Value::Map(entries)) => record(node, entries, fields, path),
        (Shape::Map(inner), Value::Map(entries)) => entries.iter().try_for_each(|(key, value)| {
            check(value, inner, &format!("{path}.{}", escape(&key.text)))
        }),
        (Shape::List(inner), Value::List(items)) => list(items, inner, path),
        (Shape::Pair(inner), Value::List(items)) => {
            if items.len() != 2 {
                let message = format!("'{path}' must have two items, found {}", items.len());
                return Err(node.error(message));
            }
            list(items, inner, path)
        }
        (Shape::Either(either), value) => {
            let inner = match value {
                Value::Scalar(_) => either.scalar,
                Value::List(_) => either.list,
                Value::Map(_) => either.map,
            };
            match inner {
                Some(inner) => check(node, &inner, path),
                None => Err(expected(node, shape, path)),
            }
        }
        (_, Value::Scalar(_)) => scalar(node, shape, path),
        _ => Err(expected(node, shape, path)),
    }
}

fn list(items: &[Node], inner: &Shape, path: &str) -> Result<(), TreefileError> {
    for (index, item) in items.iter().enumerate() {
        check(item, inner, &format!("{path}[{index}]"))?;
    }
    Ok(())
}

fn record(
    node: &Node,
    entries: &[(Key, Node)],
    fields: &[Field],
    path: &str,
) -> Result<(), TreefileError> {
    for (key, value) in entries {
        let Some(field) = fields.iter().find(|f| f.name == key.text) else {
            return Err(unknown(key, fields.iter().map(|f| f.name), path));
        };
        if !value.is_null() {
            check_field(field, value, &format!("{path}.{}", field.name))?;
        }
    }
    match fields
        .iter()
        .find(|f| f.required && node.get(f.name).is_none())
    {
        Some(missing) => Err(node.error(format!("'{path}' needs '{}'", missing.name))),
        None => Ok(()),
    }
}

fn scalar(node: &Node, shape: &Shape, path: &str) -> Result<(), TreefileError> {
    let text = node.text();
    let ok = match shape {
        Shape::Text => {
            if text.contains(char::is_control) {
                let message = format!("'{path}' must be one line without control characters");
                return Err(node.error(message));
            }
            !text.is_empty() && !node.is_null()
        }
        Shape::Lines => !text.is_empty() && !node.is_null(),
        Shape::Bool => node.as_bool().is_some(),
        Shape::Integer(min, max) => node
            .as_integer()
            .is_some_and(|n| (*min..=*max).contains(&n)),
        Shape::Choice(words) => words.contains(&text),
        Shape::Scalar => scalar_variable(node),
        _ => false,
    };
    if ok {
        Ok(())
    } else {
        Err(expected(node, shape, path))
    }
}

/// Variables hold no null and no fraction.
fn scalar_variable(node: &Node) -> bool {
    let Value::Scalar(scalar) = &node.value else {
        return false;
    };
    !matches!(scalar.resolve(), Resolved::Null | Resolved::Float(_))
}

fn expected(node: &Node, shape: &Shape, path: &str) -> TreefileError {
    let hint = match (shape, node.text()) {
        (Shape::Bool, "yes" | "Yes" | "on" | "On") => "; write true",
        (Shape::Bool, "no" | "No" | "off" | "Off") => "; write false",
        _ => "",
    };
    let found = node.describe();
    node.error(format!(
        "'{path}' must be {}, found {found}{hint}",
        wanted(shape)
    ))
}

/// A shape in words.
fn wanted(shape: &Shape) -> String {
    match shape {
        Shape::Text | Shape::Lines => "text".to_owned(),
        Shape::Bool => "true or false".to_owned(),
        Shape::Integer(min, max) => format!("a whole number from {min} to {max}"),
        Shape::Choice([word]) => format!("'{word}'"),
        Shape::Choice(words) => format!("one of {}", quoted(words.iter().copied())),
        Shape::Scalar => "true, false, a whole number or text".to_owned(),
        Shape::Any => "a value".to_owned(),
        Shape::List(inner) => format!("a list of {}", plural(inner)),
        Shape::Pair(_) => "a list of two texts".to_owned(),
        Shape::Map(_) | Shape::Record(_) => "a map".to_owned(),
        Shape::Treefile => "a treefile".to_owned(),
        Shape::Either(Either { scalar, list, map }) => {
            let shapes = [scalar, list, map].into_iter().flatten();
            shapes.map(wanted).collect::<Vec<_>>().join(" or ")
        }
    }
}

fn plural(shape: &Shape) -> &'static str {
    match shape {
        Shape::Text | Shape::Lines => "texts",
        Shape::List(_) | Shape::Pair(_) => "lists",
        Shape::Record(_) | Shape::Map(_) => "maps",
        Shape::Integer(..) => "numbers",
        _ => "entries",
    }
}
