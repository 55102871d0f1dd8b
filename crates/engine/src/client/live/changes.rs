//! Which files of `/usr` differ.

use std::collections::{BTreeMap, BTreeSet};

use apt_ostree_model::tree::join;
use apt_ostree_model::{Dir, Node, Tree};

/// A path that differs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// It was there before an interrupted change, too.
    pub(super) old: bool,
    /// Something else may have been there.
    pub(super) replaced: bool,
    /// It is there afterwards.
    pub(super) new: bool,
}

/// Files and links that differ, by path below `/usr`.
#[derive(Debug, Default)]
pub(super) struct Changes(pub(super) BTreeMap<String, Change>);

impl Changes {
    /// What is different in `new` from any of `olds`; the first of them is what was there before
    /// an interrupted change.
    pub(super) fn between(olds: &[&Tree], new: &Tree) -> Self {
        let mut paths = BTreeSet::new();
        for old in olds {
            differing(&old.root, &new.root, "", &mut paths);
        }
        let leaf = |tree: &'_ Tree, path: &str| tree.get(path).filter(|n| !is_dir(n)).cloned();
        let change = |path: String| {
            let after = leaf(new, &path);
            let before = |old: &Tree| leaf(old, &path);
            let other = |old: &Option<Node>| old.is_some() && *old != after;
            let change = Change {
                old: olds.first().copied().and_then(before).is_some(),
                replaced: olds.iter().copied().map(before).any(|old| other(&old)),
                new: after.is_some(),
            };
            (path, change)
        };
        let changes = paths.into_iter().map(change);
        Self(changes.filter(|(_, c)| c.replaced || c.new).collect())
    }

    /// Whether something below one of these directories differs.
    pub(super) fn touch(&self, dirs: &[&str]) -> bool {
        dirs.iter().any(|dir| self.below(dir).next().is_some())
    }

    /// What differs below a directory, by path below that.
    pub(super) fn below<'s>(&'s self, dir: &'s str) -> impl Iterator<Item = (&'s str, Change)> {
        self.0
            .range(dir.to_owned()..)
            .map_while(move |(path, change)| path.starts_with(dir).then_some((path, change)))
            .filter_map(move |(path, change)| {
                let rest = path.strip_prefix(dir)?.strip_prefix('/')?;
                Some((rest, *change))
            })
    }

    /// Names of files with an extension directly below directories that are there afterwards.
    pub(super) fn fragments(&self, dirs: &[&str]) -> Vec<String> {
        let names = dirs.iter().flat_map(|dir| self.below(dir));
        let fits = |(name, change): &(&str, Change)| {
            change.new && name.ends_with(".conf") && !name.contains('/')
        };
        let names: BTreeSet<String> = names.filter(fits).map(|(n, _)| n.to_owned()).collect();
        names.into_iter().collect()
    }
}

pub(super) const fn is_dir(node: &Node) -> bool {
    matches!(node, Node::Dir(_))
}

/// Whether two nodes are the same, of directories without what is in them.
pub(super) fn same(a: Option<&Node>, b: Option<&Node>) -> bool {
    match (a, b) {
        (Some(Node::Dir(a)), Some(Node::Dir(b))) => a.meta == b.meta,
        (a, b) => a == b,
    }
}

/// All paths that differ between two directories.
pub(super) fn differing(old: &Dir, new: &Dir, path: &str, paths: &mut BTreeSet<String>) {
    let names: BTreeSet<&String> = old.entries.keys().chain(new.entries.keys()).collect();
    for name in names {
        let (before, after) = (old.entries.get(name), new.entries.get(name));
        let path = join(path, name);
        if !same(before, after) {
            paths.insert(path.clone());
        }
        match (before, after) {
            (Some(Node::Dir(before)), Some(Node::Dir(after))) => {
                differing(before, after, &path, paths);
            }
            (Some(Node::Dir(dir)), _) | (_, Some(Node::Dir(dir))) => all(dir, &path, paths),
            _ => {}
        }
    }
}

fn all(dir: &Dir, path: &str, paths: &mut BTreeSet<String>) {
    for (name, node) in dir.entries.iter() {
        let path = join(path, name);
        if let Node::Dir(dir) = node {
            all(dir, &path, paths);
        }
        paths.insert(path);
    }
}

#[cfg(test)]
mod tests {
    use apt_ostree_model::{Meta, Sha256Digest, Symlink};

    use super::*;

    fn tree(files: &[(&str, u8)]) -> Tree {
        let mut tree = Tree::default();
        for (path, content) in files {
            for (at, _) in path.match_indices('/') {
                tree.ensure_dir(&path[..at], &Meta::root(0o755)).unwrap();
            }
            let link = Symlink {
                target: content.to_string(),
                uid: 0,
                gid: 0,
                checksum: Sha256Digest::new([*content; 32]),
            };
            tree.insert(path, Node::Symlink(link)).unwrap();
        }
        tree
    }

    #[test]
    fn what_an_interrupted_change_brought_is_still_new() {
        let now = tree(&[("lib/a", 1), ("lib/b", 1)]);
        let half = tree(&[("lib/a", 2), ("lib/b", 1), ("lib/new/c", 1)]);
        let goal = half.clone();
        let changes = Changes::between(&[&now, &half], &goal);
        let change = |path: &str| changes.0[path];
        assert_eq!(changes.0.len(), 2);
        assert!(change("lib/a").replaced && change("lib/a").old);
        assert!(!change("lib/new/c").old && !change("lib/new/c").replaced);
        assert_eq!(changes.below("lib/new").count(), 1);
        assert!(!changes.touch(&["lib/n"]));

        let back = Changes::between(&[&now, &half], &now);
        assert!(back.0["lib/new/c"].replaced && !back.0["lib/new/c"].new);
    }
}
