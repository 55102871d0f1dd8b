//! A store of content objects in a directory, and trees to write.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use apt_ostree_model::compose::Compression;
use apt_ostree_model::tree::HexBytes;
use apt_ostree_model::{
    Arch, ContentReader, File, Meta, Node, NullReporter, Sha256Digest, Symlink, Tree,
};
use apt_ostree_oci::{
    BlobCache, Component, ComponentId, Image, ImageConfig, Layer, LayerEncoder, LayerPlan,
    plan_layers,
};
use tempfile::TempDir;

pub(crate) const TIMESTAMP: u64 = 1_700_000_000;
pub(crate) const REFERENCE: &str = "localhost/test/sample:latest";

/// Content objects as files, and how often they were opened.
pub(crate) struct Objects {
    dir: TempDir,
    opened: AtomicUsize,
}

impl Objects {
    pub(crate) fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            opened: AtomicUsize::new(0),
        }
    }

    pub(crate) fn path(&self, checksum: &Sha256Digest) -> PathBuf {
        self.dir.path().join(checksum.to_string())
    }

    pub(crate) fn put(&self, meta: Meta, data: &[u8]) -> File {
        let mut all = serde_json::to_vec(&meta).unwrap();
        all.extend_from_slice(data);
        let checksum = Sha256Digest::new(openssl::sha::sha256(&all));
        fs::write(self.path(&checksum), data).unwrap();
        File {
            meta,
            size: data.len() as u64,
            checksum,
        }
    }

    /// How often a content was opened since the last call.
    pub(crate) fn take_opened(&self) -> usize {
        self.opened.swap(0, Ordering::SeqCst)
    }
}

impl ContentReader for Objects {
    fn open(&self, checksum: &Sha256Digest) -> io::Result<fs::File> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        fs::File::open(self.path(checksum))
    }
}

/// A tree with its objects and the packages that own its files.
pub(crate) struct Sample {
    pub(crate) tree: Tree,
    pub(crate) objects: Objects,
    pub(crate) components: Vec<Component>,
    pub(crate) owners: BTreeMap<String, ComponentId>,
}

pub(crate) fn meta(mode: u32, uid: u32, gid: u32) -> Meta {
    Meta {
        mode,
        uid,
        gid,
        ..Meta::root(0)
    }
}

pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut byte = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(|_| byte()).collect()
}

impl Sample {
    pub(crate) fn empty() -> Self {
        Self {
            tree: Tree::default(),
            objects: Objects::new(),
            components: Vec::new(),
            owners: BTreeMap::new(),
        }
    }

    pub(crate) fn file(&mut self, path: &str, meta: Meta, data: &[u8]) {
        self.parents(path);
        let file = self.objects.put(meta, data);
        self.tree.insert(path, Node::File(file)).unwrap();
    }

    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.parents(path);
        let link = Symlink {
            target: target.to_owned(),
            uid: 0,
            gid: 5,
            checksum: Sha256Digest::new([1; 32]),
        };
        self.tree.insert(path, Node::Symlink(link)).unwrap();
    }

    pub(crate) fn dir(&mut self, path: &str, meta: &Meta) {
        self.parents(path);
        self.tree.ensure_dir(path, meta).unwrap();
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.tree.ensure_dir(parent, &Meta::root(0o755)).unwrap();
        }
    }

    /// Adds a package with one program and its documentation directory.
    pub(crate) fn package(&mut self, name: &str, source: &str, data: &[u8]) {
        let id = ComponentId(self.components.len());
        self.components.push(Component {
            name: name.to_owned(),
            source: source.to_owned(),
        });
        for path in [
            format!("usr/bin/{name}"),
            format!("usr/share/doc/{name}/copyright"),
        ] {
            self.file(&path, Meta::root(0o755), data);
            self.owners.insert(path, id);
        }
    }

    pub(crate) fn plans(&self, max_layers: usize) -> Vec<LayerPlan> {
        let owner = |path: &str| self.owners.get(path).copied();
        plan_layers(&self.tree, &owner, &self.components, max_layers).unwrap()
    }

    pub(crate) fn encoder<'a>(&'a self, cache: &'a BlobCache) -> LayerEncoder<'a> {
        LayerEncoder {
            tree: &self.tree,
            content: &self.objects,
            cache,
            compression: Compression::Gzip,
            timestamp: TIMESTAMP,
            threads: 2,
            reporter: &NullReporter,
        }
    }

    pub(crate) fn layers(&self, cache: &BlobCache) -> Vec<Layer> {
        self.encoder(cache).encode(&self.plans(64)).unwrap()
    }

    pub(crate) fn image(&self, cache: &BlobCache) -> Image {
        config().build(self.layers(cache)).unwrap()
    }
}

pub(crate) fn config() -> ImageConfig {
    let labels = [("containers.bootc", "1"), ("ostree.bootable", "true")];
    ImageConfig {
        arch: "amd64".parse::<Arch>().unwrap(),
        created: TIMESTAMP.cast_signed(),
        author: Some("somebody".to_owned()),
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        annotations: BTreeMap::from([("org.example.kind".to_owned(), "test".to_owned())]),
        cmd: vec!["/sbin/init".to_owned()],
        env: vec!["PATH=/usr/sbin:/usr/bin".to_owned()],
        user_config: None,
    }
}

/// `cap_net_raw+ep` as the kernel stores it.
pub(crate) fn capability() -> HexBytes {
    let mut value = vec![0; 20];
    value[..6].copy_from_slice(&[1, 0, 0, 2, 0, 0x20]);
    HexBytes(value)
}

/// Everything that is hard to carry in a tar stream.
pub(crate) fn awkward() -> Sample {
    let mut sample = Sample::empty();
    for name in ["boot", "dev", "proc", "run", "sys", "var"] {
        sample.dir(name, &Meta::root(0o755));
    }
    sample.dir("tmp", &Meta::root(0o1777));
    sample.file(
        "etc/passwd",
        Meta::root(0o644),
        b"root:x:0:0::/root:/bin/sh\n",
    );
    sample.file("etc/shadow", meta(0o640, 0, 42), b"root:*:1::::::\n");
    sample.file("etc/empty", Meta::root(0o600), b"");
    sample.dir("var/lib/private", &meta(0o2700, 1_000, 3_000_000_000));
    sample.package("ping", "iputils", b"#!/bin/sh\n");
    let mut ping = Meta::root(0o755);
    ping.xattrs
        .insert("security.capability".to_owned(), capability());
    sample.file("usr/bin/ping", ping.clone(), b"ELF ping");
    sample.file("usr/bin/su", Meta::root(0o4755), b"ELF su");
    sample.file("usr/lib/big", Meta::root(0o644), &noise(3_300_000, 1));
    sample.package("big-program", "big-source", &noise(5 << 20, 2));
    sample.package("big-other", "big-source", &noise(4 << 20, 3));
    sample.file(
        "usr/lib/modules/6.1.0-1-amd64/vmlinuz",
        Meta::root(0o644),
        &noise(99_999, 4),
    );
    sample.file(
        "usr/lib/modules/6.1.0-1-amd64/initramfs.img",
        Meta::root(0o600),
        b"initramfs",
    );
    sample.file(
        "usr/lib/sysimage/dpkg/status",
        Meta::root(0o644),
        b"Package: ping\n",
    );
    let certificate = "etc/ssl/certs/NetLock_Arany_=Class_Gold=_Főtanúsítvány.crt";
    sample.file(certificate, Meta::root(0o644), b"certificate");
    sample.file(
        &format!("usr/share/{}", "ű".repeat(127)),
        Meta::root(0o644),
        b"long name",
    );
    let deep = vec!["directory-of-many-letters"; 20].join("/");
    sample.dir(&format!("usr/share/{deep}"), &Meta::root(0o750));
    let mut deep_meta = ping;
    deep_meta.mode = 0o700;
    sample.file(&format!("usr/share/{deep}/file"), deep_meta, b"deep");
    sample.symlink(
        &format!("usr/share/{deep}/link"),
        &format!("/usr/share/{deep}/file"),
    );
    sample.file(
        "usr/share/with\nnewline and space",
        Meta::root(0o644),
        b"odd",
    );
    sample.symlink("usr/share/dangling", "../nowhere/ő");
    sample.symlink("bin", "usr/bin");
    let data = sample.tree.dir_mut("usr/share").unwrap();
    let value = HexBytes(b"binary \n= \xff\x00 value".to_vec());
    data.meta.xattrs.insert("user.test".to_owned(), value);
    sample
}

/// Compares a directory on disk with the tree: nothing missing, nothing more, nothing different.
pub(crate) fn assert_same(sample: &Sample, root: &Path) {
    let mut expected: BTreeMap<String, String> = BTreeMap::new();
    for (path, node) in sample.tree.walk() {
        expected.insert(path, describe_node(sample, node));
    }
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    collect(root, "", &mut found);
    for (path, text) in &expected {
        assert_eq!(found.get(path), Some(text), "{path:?}");
    }
    for path in found.keys() {
        assert!(expected.contains_key(path), "{path:?} is too much");
    }
}

fn describe_node(sample: &Sample, node: &Node) -> String {
    let (uid, gid) = node.owner();
    let time = TIMESTAMP;
    let (kind, mode, content, xattrs) = match node {
        Node::Dir(dir) => ("dir", dir.meta.mode, String::new(), dir.meta.xattrs.clone()),
        Node::File(file) => {
            let data = fs::read(sample.objects.path(&file.checksum)).unwrap();
            let digest = hex(&openssl::sha::sha256(&data));
            ("file", file.meta.mode, digest, file.meta.xattrs.clone())
        }
        Node::Symlink(link) => ("link", 0o777, link.target.clone(), BTreeMap::new()),
    };
    format!("{kind} {mode:o} {uid}:{gid} {time} {content} {xattrs:?}")
}

fn collect(dir: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = apt_ostree_model::tree::join(prefix, &name);
        let real = entry.path();
        let metadata = fs::symlink_metadata(&real).unwrap();
        let (kind, content) = if metadata.is_dir() {
            collect(&real, &path, found);
            ("dir", String::new())
        } else if metadata.is_symlink() {
            let target = fs::read_link(&real).unwrap();
            ("link", target.into_os_string().into_string().unwrap())
        } else {
            assert!(metadata.is_file(), "{path}");
            (
                "file",
                hex(&openssl::sha::sha256(&fs::read(&real).unwrap())),
            )
        };
        let mode = metadata.permissions().mode() & 0o7777;
        let time = metadata.mtime();
        let xattrs = xattrs(&real);
        let (uid, gid) = (metadata.uid(), metadata.gid());
        found.insert(
            path,
            format!("{kind} {mode:o} {uid}:{gid} {time} {content} {xattrs:?}"),
        );
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, HexBytes> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap();
    let mut map = BTreeMap::new();
    for name in names[..length].split(|&b| b == 0).filter(|n| !n.is_empty()) {
        let name = std::ffi::OsStr::from_bytes(name).to_str().unwrap();
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        value.truncate(length);
        map.insert(name.to_owned(), HexBytes(value));
    }
    map
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
