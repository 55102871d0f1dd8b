//! Layers of others: what is in them, what is refused, and that nothing panics.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;
use std::io::Read;

use anyhow::Result;
use apt_ostree_model::{File, Meta, Node, Sha256Digest, Symlink, Tree};
use apt_ostree_oci::pull::{
    CommitObjects, Content, ContentKind, LayerStore, LayerTree, Layout, Limits, MergeLayer,
    ObjectKind, ObjectStore, merge, read_chunk, read_commit, read_layer,
};
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

/// Keeps nothing; a file's checksum is that of its content.
struct Store;

impl LayerStore for Store {
    fn put_file(&self, meta: &Meta, size: u64, content: &mut dyn Read) -> Result<File> {
        let mut data = Vec::new();
        content.take(size).read_to_end(&mut data)?;
        anyhow::ensure!(data.len() as u64 == size, "the content is cut off");
        Ok(File {
            meta: meta.clone(),
            size,
            checksum: Sha256Digest::new(openssl::sha::sha256(&data)),
        })
    }

    fn put_symlink(&self, target: &str, uid: u32, gid: u32) -> Result<Symlink> {
        Ok(Symlink {
            target: target.to_owned(),
            uid,
            gid,
            checksum: Sha256Digest::new(openssl::sha::sha256(target.as_bytes())),
        })
    }

    fn keeps_xattr(&self, name: &str) -> bool {
        name == "security.capability"
    }
}

impl ObjectStore for Store {
    fn check_commit(&mut self, _: &CommitObjects) -> Result<()> {
        Ok(())
    }

    fn put_metadata(&mut self, _: ObjectKind, _: &Sha256Digest, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn put_content(&mut self, content: Content<'_>) -> Result<()> {
        if let ContentKind::File { content, .. } = content.kind {
            std::io::copy(content, &mut std::io::sink())?;
        }
        Ok(())
    }
}

/// A tar stream; names are written as they are, however bad.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn add(mut self, kind: EntryType, path: &str, link: &str, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o4755);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn file(self, path: &str, data: &str) -> Self {
        self.add(EntryType::Regular, path, "", data.as_bytes())
    }

    fn dir(self, path: &str) -> Self {
        self.add(EntryType::Directory, path, "", b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.add(EntryType::Symlink, path, target, b"")
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.add(EntryType::Link, path, target, b"")
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        let records = records.iter().copied();
        self.0.append_pax_extensions(records).unwrap();
        self
    }

    fn read(self) -> Result<LayerTree> {
        read(&self.0.into_inner().unwrap(), Layout::default())
    }
}

fn read(data: &[u8], layout: Layout) -> Result<LayerTree> {
    let mut data = data;
    read_layer(&mut data, &Store, layout)
}

fn paths(tree: &Tree) -> Vec<String> {
    tree.walk().map(|(path, _)| path).collect()
}

#[test]
fn files_directories_and_links_become_a_tree() {
    let layer = Layer::new()
        .dir("./")
        .dir("./usr/")
        .file("usr/bin/a", "aa")
        .link("usr/bin/b", "./usr/bin/a")
        .symlink("usr/bin/c", "../../outside/is/fine")
        .pax(&[
            ("SCHILY.xattr.security.capability", b"\x01\0cap"),
            ("SCHILY.xattr.user.x", b"1"),
        ])
        .file("usr/bin/d", "")
        .read()
        .unwrap();
    let file = layer.tree.file("usr/bin/a").unwrap();
    assert_eq!(
        (file.meta.mode, file.meta.uid, file.meta.gid),
        (0o4755, 7, 8)
    );
    assert_eq!(layer.tree.file("usr/bin/b"), Some(file));
    let link = layer
        .tree
        .get("usr/bin/c")
        .and_then(Node::as_symlink)
        .unwrap();
    assert_eq!(link.target, "../../outside/is/fine");
    let xattrs = &layer.tree.file("usr/bin/d").unwrap().meta.xattrs;
    assert_eq!(xattrs.len(), 1);
    assert_eq!(xattrs["security.capability"].0, b"\x01\0cap");
    // Only what the layer says nothing about is implied.
    assert_eq!(layer.implied, BTreeSet::from(["usr/bin".to_owned()]));
}

#[test]
fn the_tree_is_laid_out_as_commits_are() {
    let layer = || {
        Layer::new()
            .file("etc/x", "")
            .dir("var")
            .dir("var/lib/empty")
            .symlink("var/run", "/run")
            .dir("var/lib")
            .file("var/lib/y", "")
            .dir("run")
            .file("run/z", "")
            .file("tmp/z", "")
            .add(EntryType::Char, "dev/null", "", b"")
            .file("sysroot/ostree/repo/objects/aa/bb.file", "changed")
            .link("usr/q", "sysroot/ostree/repo/objects/aa/bb.file")
            .link("usr/same", "sysroot/ostree/repo/objects/aa/cc.file")
            .0
            .into_inner()
            .unwrap()
    };
    let factory = read(&layer(), Layout::default()).unwrap();
    let expected = [
        "run",
        "usr",
        "usr/etc",
        "usr/etc/x",
        "usr/q",
        "usr/share",
        "usr/share/factory",
        "usr/share/factory/var",
        "usr/share/factory/var/lib",
        "usr/share/factory/var/lib/y",
        "var",
    ];
    assert_eq!(paths(&factory.tree), expected);
    assert_eq!(factory.dropped.values().sum::<u64>(), 5);
    let lib = factory.tree.dir("usr/share/factory/var/lib").unwrap();
    assert_eq!(lib.meta.mode, 0o4755);
    let layout = Layout {
        keep_var: true,
        ..Layout::default()
    };
    assert!(read(&layer(), layout).unwrap().tree.contains("var/lib/y"));
}

fn refuse(cases: Vec<(&str, Layer)>) {
    for (number, (expected, layer)) in cases.into_iter().enumerate() {
        let error = layer.read().expect_err(expected);
        let text = format!("{error:#}");
        assert!(text.contains(expected), "{number} {expected}: {text}");
        assert!(!text.contains('\0'), "{text:?}");
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let cases: Vec<(&str, Layer)> = vec![
        ("absolute", Layer::new().file("/etc/passwd", "")),
        ("'..'", Layer::new().file("usr/../../etc/passwd", "")),
        ("'..'", Layer::new().dir("..")),
        (
            "'..'",
            Layer::new().file("a", "").link("b", "../../etc/shadow"),
        ),
        ("absolute", Layer::new().link("b", "/etc/shadow")),
        (
            "no file of this layer",
            Layer::new().link("b", "etc/shadow"),
        ),
        (
            "no file of this layer",
            Layer::new().dir("a").link("b", "a"),
        ),
        (
            "no directory",
            Layer::new().symlink("a", "/etc").file("a/passwd", ""),
        ),
        ("no directory", Layer::new().file("a", "").file("a/b", "")),
        ("no directory", Layer::new().symlink("a", "/etc").dir("a/")),
        (
            "place of a directory",
            Layer::new().dir("a").symlink("a", "/etc"),
        ),
    ];
    refuse(cases);
}

#[test]
fn entries_that_are_no_files_are_refused() {
    let long = "d/".repeat(40);
    let cases: Vec<(&str, Layer)> = vec![
        (
            "device",
            Layer::new().add(EntryType::Char, "usr/null", "", b""),
        ),
        (
            "device",
            Layer::new().add(EntryType::Block, "usr/sda", "", b""),
        ),
        (
            "device",
            Layer::new().add(EntryType::Fifo, "usr/fifo", "", b""),
        ),
        (
            "sparse",
            Layer::new().add(EntryType::GNUSparse, "usr/s", "", b""),
        ),
        (
            "sparse",
            Layer::new()
                .pax(&[("GNU.sparse.major", b"1")])
                .file("a", ""),
        ),
        ("no name", Layer::new().file("", "")),
        ("no directory", Layer::new().file("./", "")),
        (
            "UTF-8",
            Layer::new().pax(&[("path", b"\xff")]).file("a", ""),
        ),
        ("NUL", Layer::new().pax(&[("path", b"a\0b")]).file("a", "")),
        ("clean", Layer::new().symlink("a", "")),
        ("hides no name", Layer::new().file("usr/.wh.", "")),
        ("hides no name", Layer::new().file("usr/.wh...", "")),
        ("hides no name", Layer::new().file("usr/.wh..wh.plnk", "")),
        ("empty file", Layer::new().file("usr/.wh.x", "text")),
        ("empty file", Layer::new().symlink("usr/.wh.x", "/")),
        ("below a whiteout", Layer::new().file("usr/.wh.x/y", "")),
        (
            "has content",
            Layer::new().add(EntryType::Directory, "a", "", b"x"),
        ),
        (
            "out of range",
            Layer::new().pax(&[("uid", b"4294967295")]).file("a", ""),
        ),
        (
            "malformed",
            Layer::new().pax(&[("size", b"-1")]).file("a", ""),
        ),
        (
            "components",
            Layer::new()
                .pax(&[("path", long.repeat(8).as_bytes())])
                .file("a", ""),
        ),
        (
            "255 bytes",
            Layer::new()
                .pax(&[("path", "x".repeat(256).as_bytes())])
                .file("a", ""),
        ),
        (
            "4096 bytes",
            Layer::new()
                .pax(&[("path", "x/".repeat(3000).as_bytes())])
                .file("a", ""),
        ),
    ];
    refuse(cases);
}

#[test]
fn limits_end_what_goes_on_for_ever() {
    let many = || {
        let layer = (0..50).fold(Layer::new(), |layer, at| layer.file(&format!("f{at}"), ""));
        layer.0.into_inner().unwrap()
    };
    let layout = |limits| Layout {
        keep_var: false,
        limits,
    };
    let few = Limits {
        entries: 20,
        ..Limits::default()
    };
    assert!(read(&many(), layout(few)).is_err());
    let short = Limits {
        names: 20,
        ..Limits::default()
    };
    assert!(read(&many(), layout(short)).is_err());
    let deep = Layer::new()
        .file(&"d/".repeat(45), "")
        .0
        .into_inner()
        .unwrap();
    let few = Limits {
        entries: 20,
        ..Limits::default()
    };
    assert!(read(&deep, layout(few)).is_err());
    let header = Limits {
        header: 100,
        ..Limits::default()
    };
    let large = Layer::new()
        .pax(&[("path", "x/".repeat(100).as_bytes())])
        .file("a", "");
    assert!(read(&large.0.into_inner().unwrap(), layout(header)).is_err());
}

#[test]
fn what_is_cut_off_is_refused() {
    let data = Layer::new()
        .file("a", &"x".repeat(600))
        .0
        .into_inner()
        .unwrap();
    for length in 1..data.len() - 1024 {
        // At whole entries it is an archive without an end marker.
        assert!(
            read(&data[..length], Layout::default()).is_err(),
            "{length}"
        );
    }
}

fn merged(layers: Vec<Layer>) -> Tree {
    let layers: Vec<LayerTree> = layers.into_iter().map(|l| l.read().unwrap()).collect();
    let layers = layers.iter().map(|layer| MergeLayer {
        tree: &layer.tree,
        implied: &layer.implied,
    });
    merge(Tree::default(), layers)
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let lower = || {
        Layer::new()
            .dir("d")
            .file("d/a", "1")
            .file("d/b", "1")
            .file("e/a", "1")
            .file("f", "1")
            .file("g/x/y", "1")
    };
    let upper = Layer::new()
        .file("d/.wh.a", "")
        .file("d/a", "2")
        .file("d/.wh.b", "")
        .file("d/.wh.never", "")
        .file("e/new", "")
        .file("e/.wh..wh..opq", "")
        .file(".wh.f", "")
        .symlink("g", "d");
    let tree = merged(vec![lower(), upper]);
    assert_eq!(paths(&tree), ["d", "d/a", "e", "e/new", "g"]);
    let two = Sha256Digest::new(openssl::sha::sha256(b"2"));
    assert_eq!(tree.file("d/a").unwrap().checksum, two);
    // A directory that the upper layer only implies keeps its mode.
    assert_eq!(tree.dir("d").unwrap().meta.mode, 0o4755);
    // And a third layer brings back what a second one hid.
    let hide = || Layer::new().file(".wh.d", "");
    let tree = merged(vec![lower(), hide(), Layer::new().file("d/z", "")]);
    assert_eq!(tree.dir("d").unwrap().entries.len(), 1);
    let tree = merged(vec![
        Layer::new().symlink("d", "/etc"),
        Layer::new().file("d/z", ""),
    ]);
    assert!(tree.file("d/z").is_some());
}

/// One entry of a layer, well formed or not.
fn entry() -> impl Strategy<Value = (u8, String, String, String)> {
    let name =
        "(\\./|/)?[a-c]{0,2}(/(\\.\\.|\\.|\\.wh\\.[a-c]|\\.wh\\.\\.wh\\.\\.opq|[a-c])){0,3}/?";
    let kind = prop::sample::select(&b"0125346xgLK7S"[..]);
    (kind, name, "[a-c./]{0,6}", "[a-z]{0,3}")
}

fn stream(entries: &[(u8, String, String, String)]) -> Vec<u8> {
    let add = |layer: Layer, (kind, path, link, data): &(u8, String, String, String)| {
        layer.add(EntryType::new(*kind), path, link, data.as_bytes())
    };
    let layer = entries.iter().fold(Layer::new(), add);
    layer.0.into_inner().unwrap()
}

proptest! {
    #[test]
    fn any_layer_is_refused_or_becomes_a_clean_tree(entries in prop::collection::vec(entry(), 0..12)) {
        if let Ok(layer) = read(&stream(&entries), Layout::default()) {
            for (path, _) in layer.tree.walk() {
                prop_assert!(!path.split('/').any(|p| matches!(p, "" | "." | "..")), "{}", path);
            }
            let upper = MergeLayer { tree: &layer.tree, implied: &layer.implied };
            let merged = merge(layer.tree.clone(), [upper]);
            prop_assert!(merged.len() <= layer.tree.len());
            for (path, _) in merge(Tree::default(), [upper]).walk() {
                prop_assert!(!path.contains(".wh."), "{}", path);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        entries in prop::collection::vec(entry(), 1..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut data = stream(&entries);
        for (at, byte) in changes {
            let at = at.index(data.len());
            data[at] = byte;
        }
        let results = (
            read(&data, Layout::default()).is_ok(),
            read_chunk(&mut &data[..], &mut Store).is_ok(),
            read_commit(&mut &data[..], &mut Store).is_ok(),
        );
        prop_assert!(!results.2);
    }
}
