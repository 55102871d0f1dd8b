//! From documents to one set of fields: names made uniform, included fields merged.

use std::collections::{BTreeMap, HashSet};

use crate::error::{TreefileError, escape};
use crate::fields::{self, Field, Merge, Shape};
use crate::node::{Node, Resolved, Scalar, Value};
use crate::{check, packages};

/// Values by the field's proper name; none of them is null.
pub(crate) type Fields = BTreeMap<&'static str, Node>;

/// The fields of one checked document, for one architecture (Debian's name).
///
/// `packages`, `bootstrap-packages` and `packages-ARCH` become one list with one name per item.
pub(crate) fn normalize(document: &Node, arch: &str) -> Result<Fields, TreefileError> {
    let mut fields = Fields::new();
    // In this order whatever the order in the file.
    let mut plain = Vec::new();
    let mut for_arch = Vec::new();
    for (key, value) in document.entries() {
        match check::arch_packages(key)? {
            Some((wanted, _)) => for_arch.push((wanted == arch, value)),
            None => plain.push((key, value)),
        }
    }
    for (key, value) in plain {
        let Some(field) = fields::find(&key.text) else {
            continue;
        };
        match field.name {
            _ if value.is_null() || field.merge == Merge::Local => {}
            "packages" | "bootstrap-packages" => add_packages(&mut fields, value, true)?,
            "exclude-packages" => {
                append(&mut fields, "exclude-packages", split_names(value)?, value);
            }
            name @ ("repos" | "lockfile-repos") => {
                refuse_twins(value)?;
                fields.insert(name, value.clone());
            }
            name => {
                fields.insert(name, value.clone());
            }
        }
    }
    for (wanted, value) in for_arch {
        add_packages(&mut fields, value, wanted)?;
    }
    Ok(fields)
}

/// Adds the names of a `packages` value; when they are for another architecture they are only
/// split, to find errors.
fn add_packages(fields: &mut Fields, value: &Node, wanted: bool) -> Result<(), TreefileError> {
    let (include, exclude) = match &value.value {
        Value::Map(_) => (value.get("include"), value.get("exclude")),
        _ => (Some(value), None),
    };
    for (name, list) in [("packages", include), ("exclude-packages", exclude)] {
        if let Some(list) = list {
            let names = split_names(list)?;
            if wanted {
                append(fields, name, names, list);
            }
        }
    }
    Ok(())
}

fn append(fields: &mut Fields, name: &'static str, mut items: Vec<Node>, at: &Node) {
    let list = fields
        .entry(name)
        .or_insert_with(|| Node::list_at(Vec::new(), &at.mark));
    if let Value::List(existing) = &mut list.value {
        existing.append(&mut items);
    }
}

fn split_names(list: &Node) -> Result<Vec<Node>, TreefileError> {
    let mut names = Vec::new();
    for item in list.items() {
        for name in packages::split(item.text()).map_err(|why| item.error(why))? {
            names.push(Node::text_at(name, &item.mark));
        }
    }
    Ok(names)
}

/// One list must not define a repository twice.
fn refuse_twins(repos: &Node) -> Result<(), TreefileError> {
    let mut seen: BTreeMap<&str, &Node> = BTreeMap::new();
    for repo in repos.items() {
        let name = repo.get("name").unwrap_or(repo);
        if let Some(first) = seen.insert(name.text(), name) {
            let message = format!(
                "repository '{}' is given twice; first at {}",
                escape(name.text()),
                first.mark.brief()
            );
            return Err(name.error(message));
        }
    }
    Ok(())
}

/// Merges the fields of an included treefile into those of the including one.
pub(crate) fn merge(outer: &mut Fields, included: Fields) {
    for (name, inner) in included {
        let merged = match outer.remove(name) {
            None => inner,
            Some(own) => combine(fields::find(name), own, inner),
        };
        outer.insert(name, merged);
    }
}

fn combine(field: Option<&Field>, outer: Node, included: Node) -> Node {
    let mark = outer.mark.clone();
    let rule = field.map_or(Merge::Outer, |f| f.merge);
    let value = match (rule, outer.value, included.value) {
        (Merge::Outer | Merge::Local, own, _) => own,
        (Merge::Map, Value::Map(own), Value::Map(mut inner)) => {
            let names: HashSet<String> = own.iter().map(|(k, _)| k.text.clone()).collect();
            inner.retain(|(k, _)| !names.contains(&k.text));
            inner.extend(own);
            Value::Map(inner)
        }
        (Merge::Repos, Value::List(own), Value::List(mut inner)) => {
            for repo in own {
                replace_or_push(&mut inner, repo);
            }
            Value::List(inner)
        }
        (_, Value::List(own), Value::List(mut inner)) => {
            inner.extend(own);
            Value::List(inner)
        }
        (_, own, _) => own,
    };
    Node { value, mark }
}

/// An outer repository takes the place of an included one with its name. A bare name only refers
/// to it.
fn replace_or_push(repos: &mut Vec<Node>, repo: Node) {
    let is_map = |node: &Node| matches!(node.value, Value::Map(_));
    let name_of = |node: &Node| node.get("name").unwrap_or(node).text().to_owned();
    let name = name_of(&repo);
    match repos.iter_mut().find(|r| name_of(r) == name) {
        Some(existing) if is_map(&repo) => *existing = repo,
        Some(_) => {}
        None => repos.push(repo),
    }
}

/// Last step of merging: sets hold each item once, packages of repositories are disjoint.
pub(crate) fn settle(all: &mut Fields) {
    for (name, node) in all.iter_mut() {
        let rule = fields::find(name).map_or(Merge::Outer, |f| f.merge);
        let Value::List(items) = &mut node.value else {
            continue;
        };
        match rule {
            Merge::Set => {
                let mut seen = HashSet::new();
                items.retain(|item| seen.insert(item.text().to_owned()));
            }
            Merge::RepoPackages => settle_repo_packages(items),
            _ => {}
        }
    }
}

/// The last entry that names a package keeps it; entries left empty vanish.
fn settle_repo_packages(entries: &mut Vec<Node>) {
    let mut taken = HashSet::new();
    for entry in entries.iter_mut().rev() {
        let Value::Map(fields) = &mut entry.value else {
            continue;
        };
        for (_, names) in fields.iter_mut().filter(|(key, _)| key.text == "packages") {
            if let Value::List(names) = &mut names.value {
                names.retain(|name| taken.insert(name.text().to_owned()));
            }
        }
    }
    entries.retain(|entry| entry.get("packages").is_some_and(|p| !p.items().is_empty()));
}

/// The merged treefile as JSON, in the order of the reference; what resolving used up is gone.
pub(crate) fn flatten(all: &Fields) -> serde_json::Value {
    let mut object = serde_json::Map::new();
    for field in fields::FIELDS.iter() {
        if let Some(node) = all.get(field.name) {
            object.insert(field.name.to_owned(), to_json(node, &field.shape));
        }
    }
    serde_json::Value::Object(object)
}

fn to_json(node: &Node, shape: &Shape) -> serde_json::Value {
    use serde_json::Value as Json;
    let shape = match (shape, &node.value) {
        (Shape::Either(e), Value::Scalar(_)) => e.scalar.unwrap_or(Shape::Any),
        (Shape::Either(e), Value::List(_)) => e.list.unwrap_or(Shape::Any),
        (Shape::Either(e), Value::Map(_)) => e.map.unwrap_or(Shape::Any),
        (other, _) => *other,
    };
    match (&node.value, shape) {
        (Value::Scalar(s), Shape::Any | Shape::Scalar | Shape::Bool | Shape::Integer(..)) => {
            scalar_to_json(s)
        }
        (Value::Scalar(s), Shape::Choice(words))
            if words.iter().all(|w| matches!(*w, "true" | "false")) =>
        {
            scalar_to_json(s)
        }
        (Value::Scalar(s), _) => Json::from(s.text.as_str()),
        (Value::List(items), Shape::List(inner) | Shape::Pair(inner)) => {
            Json::Array(items.iter().map(|item| to_json(item, inner)).collect())
        }
        (Value::List(items), _) => Json::Array(
            items
                .iter()
                .map(|item| to_json(item, &Shape::Any))
                .collect(),
        ),
        (Value::Map(entries), shape) => {
            let mut sorted: Vec<_> = entries
                .iter()
                .filter(|(_, v)| !v.is_null() || matches!(shape, Shape::Any))
                .collect();
            sorted.sort_by(|(a, _), (b, _)| a.text.cmp(&b.text));
            let convert = |(key, value): &(crate::node::Key, Node)| {
                let inner = match shape {
                    Shape::Map(inner) => *inner,
                    Shape::Record(fields) => fields
                        .iter()
                        .find(|f| f.name == key.text)
                        .map_or(Shape::Any, |f| f.shape),
                    _ => Shape::Any,
                };
                (key.text.clone(), to_json(value, &inner))
            };
            Json::Object(sorted.into_iter().map(convert).collect())
        }
    }
}

fn scalar_to_json(scalar: &Scalar) -> serde_json::Value {
    use serde_json::Value as Json;
    match scalar.resolve() {
        Resolved::Null => Json::Null,
        Resolved::Bool(value) => Json::from(value),
        Resolved::Integer(value) => Json::from(value),
        Resolved::Float(value) => Json::from(value),
        Resolved::Text => Json::from(scalar.text.as_str()),
    }
}

/// A value as JSON, scalars with their YAML meaning.
pub(crate) fn json_of(node: &Node) -> serde_json::Value {
    to_json(node, &Shape::Any)
}
