//! Helpers for tests: a content store in memory, and trees made from short descriptions.

use std::collections::HashMap;
use std::io::{Seek as _, Write as _};
use std::sync::Mutex;

use apt_ostree_model::tree::split;
use apt_ostree_model::{
    ContentReader, ContentWriter, File, ImportedPackage, Meta, Node, Sha256Digest, Symlink, Tree,
};

use super::{Input, Options, Output};

/// Content objects in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryContent {
    objects: Mutex<HashMap<Sha256Digest, Vec<u8>>>,
}

fn digest(parts: &[&[u8]]) -> Sha256Digest {
    let mut hasher = openssl::sha::Sha256::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    Sha256Digest::new(hasher.finish())
}

fn meta_bytes(meta: &Meta) -> Vec<u8> {
    serde_json::to_vec(meta).unwrap()
}

impl ContentReader for MemoryContent {
    fn open(&self, checksum: &Sha256Digest) -> std::io::Result<std::fs::File> {
        let objects = self.objects.lock().unwrap();
        let data = objects
            .get(checksum)
            .ok_or_else(|| std::io::Error::other(format!("no object {checksum}")))?;
        let mut file = tempfile::tempfile()?;
        file.write_all(data)?;
        file.rewind()?;
        Ok(file)
    }
}

impl ContentWriter for MemoryContent {
    fn put_file(&self, meta: &Meta, data: &[u8]) -> std::io::Result<File> {
        let checksum = digest(&[b"file", &meta_bytes(meta), data]);
        let mut objects = self.objects.lock().unwrap();
        objects.insert(checksum, data.to_vec());
        Ok(File {
            meta: meta.clone(),
            size: data.len() as u64,
            checksum,
        })
    }

    fn put_symlink(&self, target: &str, uid: u32, gid: u32) -> std::io::Result<Symlink> {
        let owner = format!("{uid}:{gid}");
        Ok(Symlink {
            target: target.to_owned(),
            uid,
            gid,
            checksum: digest(&[b"link", owner.as_bytes(), target.as_bytes()]),
        })
    }

    fn change_meta(&self, file: &File, meta: &Meta) -> std::io::Result<File> {
        let data = self.read(file)?;
        self.put_file(meta, &data)
    }
}

/// A tree under construction together with its content.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) content: MemoryContent,
    pub(crate) tree: Tree,
    pub(crate) packages: Vec<ImportedPackage>,
    pub(crate) options: Options,
}

pub(crate) const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nman:x:6:12:man:/var/cache/man:/usr/sbin/nologin\n_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n";
pub(crate) const GROUP: &str =
    "root:x:0:\nadm:x:4:_apt\nman:x:12:\nshadow:x:42:\nnogroup:x:65534:\n";

impl Sample {
    /// A small merged-/usr Debian root of a container.
    pub(crate) fn debian() -> Self {
        let mut sample = Self {
            content: MemoryContent::default(),
            tree: Tree::default(),
            packages: Vec::new(),
            options: Options {
                container: true,
                ..Options::default()
            },
        };
        for dir in [
            "boot", "dev", "etc", "home", "media", "mnt", "opt", "proc", "run", "srv", "sys", "tmp",
        ] {
            sample.dir(dir, 0o755);
        }
        for dir in [
            "usr/bin",
            "usr/sbin",
            "usr/lib",
            "usr/local",
            "var/lib",
            "var/cache",
            "var/log",
        ] {
            sample.dir(dir, 0o755);
        }
        sample.dir("root", 0o700);
        for name in ["bin", "sbin", "lib"] {
            sample.link(name, &format!("usr/{name}"));
        }
        sample.file("etc/passwd", PASSWD);
        sample.file("etc/group", GROUP);
        sample
    }

    /// The same with a kernel.
    pub(crate) fn bootable() -> Self {
        let mut sample = Self::debian();
        sample.options.container = false;
        sample.file("boot/vmlinuz-6.12-amd64", "kernel");
        sample.file("usr/lib/modules/6.12-amd64/modules.dep", "x");
        sample
    }

    pub(crate) fn dir(&mut self, path: &str, mode: u32) {
        let dir = self.tree.ensure_dir(path, &Meta::root(0o755)).unwrap();
        dir.meta.mode = mode;
    }

    pub(crate) fn file(&mut self, path: &str, text: &str) {
        self.file_as(path, &Meta::root(0o644), text.as_bytes());
    }

    pub(crate) fn file_as(&mut self, path: &str, meta: &Meta, data: &[u8]) {
        let file = self.content.put_file(meta, data).unwrap();
        self.put(path, Node::File(file));
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        let link = self.content.put_symlink(target, 0, 0).unwrap();
        self.put(path, Node::Symlink(link));
    }

    fn put(&mut self, path: &str, node: Node) {
        let dir = self
            .tree
            .ensure_dir(split(path).0, &Meta::root(0o755))
            .unwrap();
        dir.entries.insert(split(path).1.to_owned(), node);
    }

    /// Adds a package that ships `paths` as they are in the tree now.
    pub(crate) fn package(&mut self, name: &str, paths: &[&str]) -> &mut ImportedPackage {
        let mut tree = Tree::default();
        for path in paths {
            tree.ensure_dir(split(path).0, &Meta::root(0o755)).unwrap();
            tree.insert(path, self.tree.get(path).unwrap().clone())
                .unwrap();
        }
        self.packages.push(package(name, tree));
        self.packages.last_mut().unwrap()
    }

    pub(crate) fn input(&self) -> Input<'_> {
        Input {
            content: &self.content,
            packages: &self.packages,
            options: &self.options,
        }
    }

    pub(crate) fn apply(&self) -> anyhow::Result<Output> {
        super::apply_treefile(self.tree.clone(), self.input())
    }

    pub(crate) fn finish(&self) -> anyhow::Result<Output> {
        super::finish(self.tree.clone(), self.input(), None)
    }

    pub(crate) fn text(&self, tree: &Tree, path: &str) -> String {
        let file = tree
            .file(path)
            .unwrap_or_else(|| panic!("no file '{path}'"));
        String::from_utf8(self.content.read(file).unwrap()).unwrap()
    }

    /// Lines of both tmpfiles.d files that we generate.
    pub(crate) fn tmpfiles(&self, tree: &Tree) -> Vec<String> {
        let files = ["00-apt-ostree.conf", "apt-ostree-autovar.conf"];
        let texts = files.map(|name| {
            let path = format!("usr/lib/tmpfiles.d/{name}");
            tree.file(&path)
                .map_or_else(String::new, |_| self.text(tree, &path))
        });
        texts
            .iter()
            .flat_map(|t| t.lines())
            .map(str::to_owned)
            .collect()
    }
}

/// A package with the given tree.
pub(crate) fn package(name: &str, tree: Tree) -> ImportedPackage {
    let list = tree.walk().map(|(path, _)| format!("/{path}"));
    ImportedPackage {
        name: name.parse().unwrap(),
        version: "1".parse().unwrap(),
        arch: "amd64".parse().unwrap(),
        sha256: Sha256Digest::new([0; 32]),
        control: format!("Package: {name}\nVersion: 1\nArchitecture: amd64\n"),
        members: std::collections::BTreeMap::new(),
        conffiles: Vec::new(),
        list: std::iter::once("/.".to_owned()).chain(list).collect(),
        tree,
        date: 0,
    }
}

/// The link text at `path`.
pub(crate) fn target<'t>(tree: &'t Tree, path: &str) -> &'t str {
    let link = tree.get(path).and_then(Node::as_symlink);
    &link.unwrap_or_else(|| panic!("no link '{path}'")).target
}

/// The error with a kind in a chain.
pub(crate) fn kinded(error: &anyhow::Error) -> &apt_ostree_model::Kinded {
    error
        .chain()
        .find_map(|e| e.downcast_ref::<apt_ostree_model::Kinded>())
        .unwrap()
}
