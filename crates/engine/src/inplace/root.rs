//! A directory as a tree, without reading its files.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use apt_ostree_model::tree::{HexBytes, Xattrs, join};
use apt_ostree_model::{
    ContentReader, ContentWriter, Dir, ErrorKind, File, Kinded, Meta, Node, Sha256Digest, Symlink,
    Tree,
};
use camino::{Utf8Path, Utf8PathBuf};

/// Directories of the kernel, and those that a boot hides.
pub(super) const API_DIRS: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];

const CAPABILITY: &str = "security.capability";

/// Contents of a root on disk, and new ones in memory.
///
/// The checksum of a file on disk stands for its place and its inode's state, so that files which
/// are the same before and after are the same nodes.
pub(super) struct RootContent {
    root: Utf8PathBuf,
    mounts: BTreeSet<String>,
    sources: Mutex<HashMap<Sha256Digest, Source>>,
}

/// Where the content of a file is.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// On disk, relative to the root.
    Disk(String),
    /// In memory.
    Data(Arc<[u8]>),
}

impl RootContent {
    /// Opens a root.
    pub(super) fn new(root: &Utf8Path) -> Result<Self> {
        if !root.is_dir() {
            let message = format!("'{root}' is not the directory of a root file system");
            return Err(Kinded::new(ErrorKind::InvalidInput, message).into());
        }
        let root = root
            .canonicalize_utf8()
            .with_context(|| format!("opening '{root}'"))?;
        Ok(Self {
            mounts: mounts_below(&root)?,
            root,
            sources: Mutex::default(),
        })
    }

    /// Where a path of the tree is on disk.
    pub(super) fn on_disk(&self, path: &str) -> Utf8PathBuf {
        self.root.join(path)
    }

    /// Whether something is mounted at a path.
    pub(super) fn is_mount(&self, path: &str) -> bool {
        self.mounts.contains(path)
    }

    /// Whether something is mounted at a path or below it.
    pub(super) fn has_mount_below(&self, path: &str) -> bool {
        let below = |mount: &String| Utf8Path::new(mount).starts_with(path);
        self.mounts.iter().any(below)
    }

    /// Where the content of a file is.
    pub(super) fn source(&self, file: &File) -> Option<Source> {
        self.lock().get(&file.checksum).cloned()
    }

    /// Reads what is there. What is mounted, devices, sockets and pipes are left out; directories
    /// of the kernel are empty.
    pub(super) fn scan(&self) -> Result<Tree> {
        let root = self.scan_dir("")?;
        Ok(Tree { root })
    }

    fn scan_dir(&self, path: &str) -> Result<Dir> {
        let place = self.on_disk(path);
        let context = || format!("reading directory '{place}'");
        let meta = std::fs::symlink_metadata(&place).with_context(context)?;
        let mut dir = Dir::new(meta_of(&place, &meta));
        if self.is_mount(path) {
            return Ok(dir);
        }
        for entry in std::fs::read_dir(&place).with_context(context)? {
            let name = entry.with_context(context)?.file_name();
            let name = name.into_string().map_err(|name| {
                let message = format!("a name in '{place}' is not UTF-8: {}", name.display());
                Kinded::new(ErrorKind::InvalidInput, message.escape_debug().to_string())
            })?;
            let child = join(path, &name);
            if let Some(node) = self.scan_node(&child)? {
                dir.entries.insert(name, node);
            }
        }
        Ok(dir)
    }

    fn scan_node(&self, path: &str) -> Result<Option<Node>> {
        let place = self.on_disk(path);
        let context = || format!("reading '{place}'");
        let meta = std::fs::symlink_metadata(&place).with_context(context)?;
        if self.is_mount(path) && !API_DIRS.contains(&path) {
            return Ok(None);
        }
        Ok(if meta.is_dir() {
            Some(Node::Dir(self.scan_dir(path)?))
        } else if meta.is_file() {
            Some(Node::File(self.scan_file(path)?))
        } else if meta.is_symlink() {
            let target = std::fs::read_link(&place).with_context(context)?;
            let target = target
                .into_os_string()
                .into_string()
                .map_err(|_| Kinded::new(ErrorKind::InvalidInput, "its target is not UTF-8"));
            let target = target.with_context(context)?;
            Some(Node::Symlink(link(&target, meta.uid(), meta.gid())))
        } else {
            None
        })
    }

    /// The regular file at a path as it is now.
    pub(super) fn scan_file(&self, path: &str) -> Result<File> {
        let place = self.on_disk(path);
        let stat =
            std::fs::symlink_metadata(&place).with_context(|| format!("reading '{place}'"))?;
        let meta = meta_of(&place, &stat);
        let state = format!(
            "disk {path} {} {} {}.{} {}",
            stat.ino(),
            stat.size(),
            stat.mtime(),
            stat.mtime_nsec(),
            shown(&meta)
        );
        let checksum = digest(&[state.as_bytes()]);
        self.lock().insert(checksum, Source::Disk(path.to_owned()));
        Ok(File {
            meta,
            size: stat.size(),
            checksum,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Sha256Digest, Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ContentReader for RootContent {
    fn open(&self, checksum: &Sha256Digest) -> io::Result<std::fs::File> {
        let source = self.lock().get(checksum).cloned();
        match source {
            Some(Source::Disk(path)) => std::fs::File::open(self.on_disk(&path)),
            Some(Source::Data(data)) => {
                use io::{Seek as _, Write as _};
                let mut file = tempfile::tempfile()?;
                file.write_all(&data)?;
                file.rewind()?;
                Ok(file)
            }
            None => Err(io::Error::other(format!("there is no content {checksum}"))),
        }
    }
}

impl ContentWriter for RootContent {
    fn put_file(&self, meta: &Meta, data: &[u8]) -> io::Result<File> {
        let checksum = digest(&[b"data ", shown(meta).as_bytes(), b"\n", data]);
        self.lock().insert(checksum, Source::Data(data.into()));
        Ok(File {
            meta: meta.clone(),
            size: data.len() as u64,
            checksum,
        })
    }

    fn put_symlink(&self, target: &str, uid: u32, gid: u32) -> io::Result<Symlink> {
        Ok(link(target, uid, gid))
    }

    fn change_meta(&self, file: &File, meta: &Meta) -> io::Result<File> {
        if file.meta == *meta {
            return Ok(file.clone());
        }
        let mut sources = self.lock();
        let source = sources.get(&file.checksum).cloned();
        let source = source.ok_or_else(|| io::Error::other("the content is not known"))?;
        let text = format!("meta {} {}", file.checksum, shown(meta));
        let checksum = digest(&[text.as_bytes()]);
        sources.insert(checksum, source);
        Ok(File {
            meta: meta.clone(),
            size: file.size,
            checksum,
        })
    }
}

fn digest(parts: &[&[u8]]) -> Sha256Digest {
    let mut hash = openssl::sha::Sha256::new();
    for part in parts {
        hash.update(part);
    }
    Sha256Digest::new(hash.finish())
}

fn shown(meta: &Meta) -> String {
    format!(
        "{:o} {} {} {:?}",
        meta.mode, meta.uid, meta.gid, meta.xattrs
    )
}

fn link(target: &str, uid: u32, gid: u32) -> Symlink {
    Symlink {
        target: target.to_owned(),
        uid,
        gid,
        checksum: digest(&[format!("link {uid} {gid} {target}").as_bytes()]),
    }
}

/// Of extended attributes only file capabilities count here.
fn meta_of(place: &Utf8Path, stat: &std::fs::Metadata) -> Meta {
    let mut xattrs = Xattrs::new();
    if stat.is_file() {
        let mut value = [0_u8; 256];
        if let Ok(length) = rustix::fs::lgetxattr(place.as_str(), CAPABILITY, &mut value) {
            xattrs.insert(CAPABILITY.to_owned(), HexBytes(value[..length].to_vec()));
        }
    }
    Meta {
        mode: stat.mode() & 0o7777,
        uid: stat.uid(),
        gid: stat.gid(),
        xattrs,
    }
}

/// What is mounted below `root`, relative to it.
fn mounts_below(root: &Utf8Path) -> Result<BTreeSet<String>> {
    const TABLE: &str = "/proc/self/mountinfo";
    if !Path::new(TABLE).exists() {
        return Ok(BTreeSet::new());
    }
    let text = std::fs::read(TABLE).context("reading the mounts")?;
    let text = String::from_utf8_lossy(&text);
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    let below = points.filter_map(|point| {
        let point = unescaped(point);
        let rest = Utf8Path::new(&point).strip_prefix(root).ok()?;
        (rest != "").then(|| rest.to_string())
    });
    Ok(below.collect())
}

/// Blanks and backslashes are octal in the table of mounts.
fn unescaped(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (code, plain)| {
        text.replace(code, plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unchanged_is_the_same_node_and_what_is_not_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        std::fs::create_dir(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/a"), "one").unwrap();
        std::os::unix::fs::symlink("a", root.join("etc/b")).unwrap();
        let content = RootContent::new(root).unwrap();
        let tree = content.scan().unwrap();
        assert_eq!(content.scan().unwrap(), tree);
        let file = tree.file("etc/a").unwrap();
        assert_eq!(content.read(file).unwrap(), b"one");
        assert_eq!(content.change_meta(file, &file.meta).unwrap(), *file);
        let other = content.change_meta(file, &Meta::root(0o600)).unwrap();
        assert_eq!(content.read(&other).unwrap(), b"one");
        std::fs::write(root.join("etc/a"), "other").unwrap();
        assert_ne!(content.scan().unwrap().file("etc/a"), Some(file));
        let new = content.put_file(&Meta::root(0o644), b"new").unwrap();
        assert_eq!(content.read(&new).unwrap(), b"new");
    }
}
