//! Commits that are merged before and over the packages.

use std::path::Path;

use anyhow::Result;
use apt_ostree_model::{Dir, ErrorKind, Kinded, Node, Tree};
use apt_ostree_treefile::ComposeSpec;

use super::context::Run;
use super::record;

/// `ostree-layers` and `ostree-override-layers`.
#[derive(Default)]
pub(super) struct Layers {
    /// Merged before the packages.
    pub(super) below: Vec<Tree>,
    /// Merged over the configured root.
    pub(super) above: Vec<Tree>,
    /// Content checksums of all of them.
    pub(super) checksums: Vec<String>,
}

impl Layers {
    /// Reads the layers that the treefile names, with their contents.
    pub(super) fn load(run: &Run<'_>, spec: &ComposeSpec, repo: Option<&Path>) -> Result<Self> {
        let mut layers = Self::default();
        if spec.ostree_layers.is_empty() && spec.ostree_override_layers.is_empty() {
            return Ok(layers);
        }
        let repo = record::open_target(repo)?;
        for (names, above) in [
            (&spec.ostree_layers, false),
            (&spec.ostree_override_layers, true),
        ] {
            for name in names {
                let Some(checksum) = repo.resolve_ref(name)? else {
                    let message = format!("layer '{name}' is not in repository '{}'", repo.path());
                    return Err(Kinded::new(ErrorKind::InvalidInput, message)
                        .with_hint("pull it there, or give --layer-repo")
                        .into());
                };
                let commit = repo.load_commit(&checksum)?;
                run.store.import_commit(&commit, &repo)?;
                layers.checksums.push(commit.content_checksum.clone());
                if above {
                    layers.above.push(commit.tree);
                } else {
                    layers.below.push(commit.tree);
                }
            }
        }
        Ok(layers)
    }
}

/// Lays `layers` over `tree`; files of later layers win.
pub(super) fn merge(mut tree: Tree, layers: &[Tree]) -> Tree {
    for layer in layers {
        let mut layer = layer.clone();
        // A commit has /usr/etc where an installed root has /etc.
        if !layer.contains("etc")
            && let Some(etc) = layer.remove("usr/etc")
        {
            layer.root.entries.insert("etc".to_owned(), etc);
        }
        for (name, node) in layer.root.entries {
            let into = match (tree.root.entries.get(&name), &node) {
                // What a layer has in /lib goes where the link of merged /usr leads.
                (Some(Node::Symlink(_)), Node::Dir(_)) => tree.resolve(&name),
                _ => None,
            };
            merge_node(&mut tree, into.as_deref().unwrap_or(&name), node);
        }
    }
    tree
}

/// Puts `node` at `path`; a directory is merged with the one that is there.
fn merge_node(tree: &mut Tree, path: &str, node: Node) {
    fn join(into: &mut Dir, from: Dir) {
        for (name, node) in from.entries {
            match (into.entries.get_mut(&name), node) {
                (Some(Node::Dir(a)), Node::Dir(b)) => join(a, b),
                (_, node) => drop(into.entries.insert(name, node)),
            }
        }
    }
    match (tree.dir_mut(path), node) {
        (Some(into), Node::Dir(from)) => join(into, from),
        (_, node) => drop(tree.insert(path, node)),
    }
}

#[cfg(test)]
mod tests {
    use apt_ostree_model::{File, Meta, Sha256Digest, Symlink};

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
            let parent = apt_ostree_model::tree::split(path).0;
            tree.ensure_dir(parent, &Meta::root(0o755)).unwrap();
            tree.insert(path, file(*byte)).unwrap();
        }
        tree
    }

    #[test]
    fn files_of_later_layers_win_and_configuration_goes_to_etc() {
        let layers = [
            tree(&[("usr/a", 2), ("usr/etc/c", 2)]),
            tree(&[("usr/a", 3)]),
        ];
        let merged = merge(tree(&[("usr/a", 1), ("usr/b", 1)]), &layers);
        let byte = |path: &str| merged.file(path).map(|f| f.checksum.as_bytes()[0]);
        assert_eq!(
            [byte("usr/a"), byte("usr/b"), byte("etc/c")],
            [Some(3), Some(1), Some(2)]
        );
    }

    #[test]
    fn a_layers_lib_directory_goes_where_the_link_leads() {
        let mut base = tree(&[("usr/lib/a", 1)]);
        let link = Symlink {
            target: "usr/lib".to_owned(),
            uid: 0,
            gid: 0,
            checksum: Sha256Digest::new([9; 32]),
        };
        base.insert("lib", Node::Symlink(link)).unwrap();
        let merged = merge(base, &[tree(&[("lib/b", 2)])]);
        assert!(merged.file("usr/lib/a").is_some() && merged.file("usr/lib/b").is_some());
        assert!(matches!(merged.root.entries["lib"], Node::Symlink(_)));
    }
}
