//! Layers upon each other.

use std::collections::BTreeSet;

use apt_ostree_model::{Dir, Node, Tree, tree};

/// Prefix of the names of whiteouts.
pub(crate) const WHITEOUT: &str = ".wh.";
/// Hides all that the layers below have in a directory.
pub(crate) const OPAQUE: &str = ".wh..wh..opq";

/// A layer to put on top.
#[derive(Debug, Clone, Copy)]
pub struct MergeLayer<'l> {
    /// Its files and whiteouts.
    pub tree: &'l Tree,
    /// Directories that it does not describe: those below keep their owner and mode.
    pub implied: &'l BTreeSet<String>,
}

/// Puts `layers` upon `lower`, the lowest first, as container runtimes do: a directory joins a
/// directory, everything else takes the place of what is there, and whiteouts hide what lower
/// layers have.
pub fn merge<'l>(lower: Tree, layers: impl IntoIterator<Item = MergeLayer<'l>>) -> Tree {
    let mut merged = lower;
    for layer in layers {
        apply(&mut merged.root, &layer.tree.root, "", layer.implied);
    }
    merged
}

fn apply(lower: &mut Dir, upper: &Dir, path: &str, implied: &BTreeSet<String>) {
    if !implied.contains(path) {
        lower.meta = upper.meta.clone();
    }
    if upper.entries.contains_key(OPAQUE) {
        lower.entries.clear();
    }
    for name in upper.entries.keys() {
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            lower.entries.remove(hidden);
        }
    }
    for (name, node) in &upper.entries {
        if name.starts_with(WHITEOUT) {
            continue;
        }
        let Node::Dir(dir) = node else {
            lower.entries.insert(name.clone(), node.clone());
            continue;
        };
        let here = lower.entries.entry(name.clone());
        let here = here.or_insert_with(|| Node::Dir(Dir::new(dir.meta.clone())));
        if !matches!(here, Node::Dir(_)) {
            *here = Node::Dir(Dir::new(dir.meta.clone()));
        }
        if let Node::Dir(below) = here {
            apply(below, dir, &tree::join(path, name), implied);
        }
    }
}
