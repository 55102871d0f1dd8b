//! What a checkout has to make, as a list of directories.

use anyhow::Result;
use apt_ostree_model::tree::join;
use apt_ostree_model::{Dir, File, Meta, Node, Symlink, Tree};

use crate::error::invalid_input;
use crate::treewriter::{MAX_DEPTH, require_name};

/// One directory and what to put into it; its subdirectories have their own.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PlanDir<'t> {
    /// Path below the destination, which is `""` itself.
    pub(crate) path: String,
    pub(crate) meta: &'t Meta,
    /// Whether it hides the directory below it in an overlay.
    pub(crate) opaque: bool,
    pub(crate) items: Vec<(&'t str, Item<'t>)>,
}

/// Something other than a directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item<'t> {
    File(&'t File),
    Symlink(&'t Symlink),
    /// Hides what has the name in the layers below.
    Whiteout,
}

/// Everything of `tree`, parents first.
pub(crate) fn whole(tree: &Tree) -> Result<Vec<PlanDir<'_>>> {
    let mut plan = Vec::new();
    add_whole(&tree.root, String::new(), 0, &mut plan)?;
    Ok(plan)
}

/// What an overlay layer above `from` needs to show `to`, parents first.
pub(crate) fn diff<'t>(from: &'t Tree, to: &'t Tree) -> Result<Vec<PlanDir<'t>>> {
    let mut plan = Vec::new();
    add_diff(&from.root, &to.root, String::new(), 0, &mut plan)?;
    if plan.is_empty() {
        plan.push(PlanDir {
            path: String::new(),
            meta: &to.root.meta,
            opaque: false,
            items: Vec::new(),
        });
    }
    Ok(plan)
}

fn start<'t>(
    dir: &'t Dir,
    path: String,
    depth: usize,
    plan: &mut Vec<PlanDir<'t>>,
) -> Result<usize> {
    if depth > MAX_DEPTH {
        return Err(invalid_input(format!(
            "the tree has more than {MAX_DEPTH} levels of directories"
        )));
    }
    plan.push(PlanDir {
        path,
        meta: &dir.meta,
        opaque: false,
        items: Vec::new(),
    });
    Ok(plan.len() - 1)
}

fn add_whole<'t>(
    dir: &'t Dir,
    path: String,
    depth: usize,
    plan: &mut Vec<PlanDir<'t>>,
) -> Result<()> {
    let at = start(dir, path, depth, plan)?;
    for (name, node) in &dir.entries {
        require_name(name)?;
        match node {
            Node::File(file) => plan[at].items.push((name, Item::File(file))),
            Node::Symlink(link) => plan[at].items.push((name, Item::Symlink(link))),
            Node::Dir(child) => add_whole(child, join(&plan[at].path, name), depth + 1, plan)?,
        }
    }
    Ok(())
}

fn add_diff<'t>(
    from: &'t Dir,
    to: &'t Dir,
    path: String,
    depth: usize,
    plan: &mut Vec<PlanDir<'t>>,
) -> Result<()> {
    let at = start(to, path, depth, plan)?;
    for name in from.entries.keys().filter(|n| !to.entries.contains_key(*n)) {
        require_name(name)?;
        plan[at].items.push((name, Item::Whiteout));
    }
    for (name, node) in &to.entries {
        require_name(name)?;
        let before = from.entries.get(name);
        match node {
            Node::Dir(child) => {
                let path = join(&plan[at].path, name);
                if let Some(Node::Dir(before)) = before {
                    add_diff(before, child, path, depth + 1, plan)?;
                } else {
                    let first = plan.len();
                    add_whole(child, path, depth + 1, plan)?;
                    plan[first].opaque = before.is_some();
                }
            }
            _ if before == Some(node) => {}
            Node::File(file) => plan[at].items.push((name, Item::File(file))),
            Node::Symlink(link) => plan[at].items.push((name, Item::Symlink(link))),
        }
    }
    let unchanged = plan.len() == at + 1 && plan[at].items.is_empty() && from.meta == to.meta;
    if unchanged {
        plan.pop();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use apt_ostree_model::Sha256Digest;

    use super::*;

    fn file(byte: u8) -> Node {
        Node::File(File {
            meta: Meta::root(0o644),
            size: 1,
            checksum: Sha256Digest::new([byte; 32]),
        })
    }

    fn tree(files: &[(&str, u8)]) -> Tree {
        let mut tree = Tree::default();
        for (path, byte) in files {
            tree.ensure_dir(apt_ostree_model::tree::split(path).0, &Meta::root(0o755))
                .unwrap();
            tree.insert(path, file(*byte)).unwrap();
        }
        tree
    }

    fn shown(plan: &[PlanDir<'_>]) -> Vec<String> {
        let mut out = Vec::new();
        for dir in plan {
            out.push(format!(
                "{}/{}",
                dir.path,
                if dir.opaque { " opaque" } else { "" }
            ));
            for (name, item) in &dir.items {
                let kind = if *item == Item::Whiteout { " gone" } else { "" };
                out.push(format!("{}{kind}", join(&dir.path, name)));
            }
        }
        out
    }

    #[test]
    fn a_layer_has_only_what_differs() {
        let from = tree(&[
            ("a/same", 1),
            ("a/changed", 1),
            ("a/gone", 1),
            ("b/same", 1),
            ("c", 1),
            ("d/x", 1),
        ]);
        let to = tree(&[
            ("a/same", 1),
            ("a/changed", 2),
            ("a/new/y", 1),
            ("b/same", 1),
            ("c/z", 1),
            ("d", 1),
        ]);
        let plan = diff(&from, &to).unwrap();
        assert_eq!(
            shown(&plan),
            [
                "/",
                "d",
                "a/",
                "a/gone gone",
                "a/changed",
                "a/new/",
                "a/new/y",
                "c/ opaque",
                "c/z"
            ]
        );
    }

    #[test]
    fn equal_trees_need_an_empty_layer() {
        let tree = tree(&[("a/b/c", 1)]);
        assert_eq!(shown(&diff(&tree, &tree).unwrap()), ["/"]);
    }

    #[test]
    fn a_directory_that_changes_only_its_mode_is_in_the_layer() {
        let from = tree(&[("a/b/c", 1)]);
        let mut to = from.clone();
        to.dir_mut("a/b").unwrap().meta.mode = 0o700;
        assert_eq!(shown(&diff(&from, &to).unwrap()), ["/", "a/", "a/b/"]);
    }
}
