//! Forgetting what the container form of a tree has in `/var` beyond the committed one.

use std::collections::BTreeMap;

use anyhow::Result;
use apt_ostree_model::tree::join;
use apt_ostree_model::{Node, Tree};

use crate::content::Content;
use crate::postprocess::tmpfiles::{self, Line};

/// Removes links and empty directories that tmpfiles.d makes again. A directory that a machine copies
/// from the factory tree, and that has content of its own, gets the factory's as well.
pub(super) fn forget_made(tree: &mut Tree, content: &dyn Content) -> Result<()> {
    let mut lines: BTreeMap<String, Line> = BTreeMap::new();
    for line in tmpfiles::lines_of(tree, content)? {
        if line.creates() && line.path.starts_with("/var/") {
            let path = line.path.trim_start_matches('/').to_owned();
            lines.entry(path).or_insert(line);
        }
    }
    let paths: Vec<String> = tree.walk_from("var").map(|(path, _)| path).collect();
    for path in paths.iter().rev().filter(|path| *path != "var") {
        let Some(line) = lines.get(path) else {
            continue;
        };
        let is_made = match tree.get(path) {
            Some(Node::Symlink(_)) => line.kind == 'L',
            Some(Node::Dir(dir)) => dir.entries.is_empty(),
            _ => false,
        };
        if is_made {
            tree.remove(path);
        }
    }
    for (path, line) in lines.iter().filter(|(_, line)| line.kind == 'C') {
        let source = line.argument.trim_start_matches('/');
        if tree.dir(path).is_some() && tree.dir(source).is_some() {
            merge(tree, source, path)?;
            tree.remove(source);
        }
    }
    Ok(())
}

/// Moves what is in `from` and not in `to`.
fn merge(tree: &mut Tree, from: &str, to: &str) -> Result<()> {
    let names: Vec<String> = tree
        .dir(from)
        .into_iter()
        .flat_map(|dir| dir.entries.keys().cloned())
        .collect();
    for name in names {
        let (source, place) = (join(from, &name), join(to, &name));
        if !tree.contains(&place) {
            tree.rename(&source, &place)?;
        } else if tree.dir(&source).is_some() && tree.dir(&place).is_some() {
            merge(tree, &source, &place)?;
        }
    }
    Ok(())
}
