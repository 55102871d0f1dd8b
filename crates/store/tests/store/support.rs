//! Caches in temporary directories, and trees to put into them.

use std::process::Command;

use apt_ostree_model::{ContentWriter as _, Meta, Node, Tree, tree};
use apt_ostree_store::CacheRepo;
use camino::{Utf8Path, Utf8PathBuf};
use proptest::prelude::*;

/// A cache and room beside it.
pub(crate) struct Fixture {
    dir: tempfile::TempDir,
    pub(crate) cache: CacheRepo,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root"
        );
        let dir = tempfile::tempdir().unwrap();
        let cache =
            CacheRepo::open(&Utf8Path::from_path(dir.path()).unwrap().join("cache")).unwrap();
        Self { dir, cache }
    }

    /// A path beside the cache.
    pub(crate) fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.dir.path()).unwrap().join(name)
    }

    pub(crate) fn put(&self, tree: &mut Tree, path: &str, mode: u32, data: &str) {
        let file = self
            .cache
            .put_file(&Meta::root(mode), data.as_bytes())
            .unwrap();
        place(tree, path, Node::File(file));
    }

    pub(crate) fn link(&self, tree: &mut Tree, path: &str, target: &str) {
        let link = self.cache.put_symlink(target, 0, 0).unwrap();
        place(tree, path, Node::Symlink(link));
    }

    /// Where an object is.
    pub(crate) fn object(&self, tree: &Tree, path: &str) -> Utf8PathBuf {
        let sum = tree.file(path).unwrap().checksum.to_string();
        self.cache
            .path()
            .join(format!("objects/{}/{}.file", &sum[..2], &sum[2..]))
    }

    pub(crate) fn fsck(&self) {
        fsck(self.cache.path());
    }

    /// Stores what a generated tree describes.
    pub(crate) fn build(&self, specs: &[Spec]) -> Tree {
        let mut tree = Tree::default();
        for spec in specs {
            let dir = tree::split(&spec.path).0.to_owned();
            if tree.contains(&spec.path) || tree.ensure_dir(&dir, &Meta::root(0o755)).is_err() {
                continue;
            }
            let node = match &spec.kind {
                SpecKind::Dir => Node::Dir(apt_ostree_model::Dir::new(spec.meta.clone())),
                SpecKind::File(data) => Node::File(self.cache.put_file(&spec.meta, data).unwrap()),
                SpecKind::Link(target) => Node::Symlink(
                    self.cache
                        .put_symlink(target, spec.meta.uid, spec.meta.gid)
                        .unwrap(),
                ),
            };
            tree.insert(&spec.path, node).unwrap();
        }
        tree
    }
}

fn place(tree: &mut Tree, path: &str, node: Node) {
    tree.ensure_dir(tree::split(path).0, &Meta::root(0o755))
        .unwrap();
    tree.insert(path, node).unwrap();
}

pub(crate) fn fsck(repo: &Utf8Path) {
    run("ostree", &["fsck", "--quiet", &format!("--repo={repo}")]);
}

/// Runs a program that must succeed and returns its output.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {args:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// One node of a generated tree.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    path: String,
    meta: Meta,
    kind: SpecKind,
}

#[derive(Debug, Clone)]
enum SpecKind {
    Dir,
    File(Vec<u8>),
    Link(String),
}

/// Generates trees with few names, so that two of them have much in common.
pub(crate) fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let name = prop_oneof![Just("a"), Just("b"), Just("ä ö"), Just("c.d"), Just("-x\n")];
    let path = prop::collection::vec(name, 1..4).prop_map(|parts| parts.join("/"));
    let xattrs = prop_oneof![3 => Just(None), 1 => Just(Some(("user.note", b"v".to_vec())))];
    let mode = prop_oneof![
        Just(0o644),
        Just(0o4755),
        Just(0o2750),
        Just(0o1777),
        Just(0o000)
    ];
    let owner = prop_oneof![Just(0_u32), Just(33), Just(4_000_000_000)];
    let kind = prop_oneof![
        Just(SpecKind::Dir),
        Just(SpecKind::File(Vec::new())),
        "[xy]{0,4}".prop_map(|text| SpecKind::File(text.into_bytes())),
        Just(SpecKind::Link("../a".to_owned())),
        Just(SpecKind::Link("/ä".to_owned())),
    ];
    let spec = (path, mode, owner.clone(), owner, xattrs, kind).prop_map(
        |(path, mode, uid, gid, xattr, kind)| {
            let xattrs = xattr
                .into_iter()
                .map(|(name, value)| (name.to_owned(), tree::HexBytes(value)))
                .collect();
            Spec {
                path,
                meta: Meta {
                    mode,
                    uid,
                    gid,
                    xattrs,
                },
                kind,
            }
        },
    );
    prop::collection::vec(spec, 0..12)
}
