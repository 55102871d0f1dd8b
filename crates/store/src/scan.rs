//! Real directories as trees: whole ones, and the upper layer of an overlay.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File as DiskFile;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use apt_ostree_model::tree::join;
use apt_ostree_model::{Dir, File, Meta, Node, Tree};
use camino::Utf8Path;
use fn_error_context::context;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::CacheRepo;
use crate::error::{invalid_input, quote};
use crate::treewriter::MAX_DEPTH;
use crate::xattr;

/// What a scan met besides files, directories and links.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanReport {
    /// Device nodes; they are not in the tree.
    pub devices: Vec<String>,
    /// Sockets and pipes; they are not in the tree.
    pub dropped: Vec<String>,
    /// Directories on which something is mounted; they are empty in the tree.
    pub mounts: Vec<String>,
    /// Regular files whose content was read.
    pub files: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

impl CacheRepo {
    /// Reads a whole directory tree into the cache. No link is followed and no mount point
    /// crossed; sockets and pipes are left out.
    ///
    /// # Errors
    /// When something can't be read, is a device node, or has a name that is not UTF-8.
    pub fn scan_dir(&self, dir: &Utf8Path) -> Result<Tree> {
        let (tree, report) = self.scan_dir_reporting(dir)?;
        if let Some(first) = report.devices.first() {
            let count = report.devices.len();
            let more = if count > 1 {
                format!(" and {} more", count - 1)
            } else {
                String::new()
            };
            return Err(invalid_input(format!(
                "'{dir}' holds the device node {}{more}",
                quote(&format!("/{first}"))
            )));
        }
        Ok(tree)
    }

    /// Like [`CacheRepo::scan_dir`], and tells what is not in the tree.
    ///
    /// # Errors
    /// When something can't be read or has a name that is not UTF-8.
    #[context("reading directory '{dir}'")]
    pub fn scan_dir_reporting(&self, dir: &Utf8Path) -> Result<(Tree, ScanReport)> {
        let mut tree = Tree::default();
        let mut scanner = Scanner::new(self, false);
        scanner.merge(&open_root(dir)?, "", &mut tree.root, 0)?;
        Ok((tree, scanner.report))
    }

    /// Applies the upper directory of an overlay to `base`, the tree that its lower layers show.
    /// A file that was copied up but is the same as before stays the same node.
    ///
    /// # Errors
    /// When something can't be read, has a name that is not UTF-8, or was mounted with options
    /// (`metacopy`, `redirect_dir`) that leave content elsewhere.
    #[context("reading the changes in '{upper}'")]
    pub fn scan_upper(&self, upper: &Utf8Path, base: &Tree) -> Result<(Tree, ScanReport)> {
        let mut tree = base.clone();
        let mut scanner = Scanner::new(self, true);
        scanner.merge(&open_root(upper)?, "", &mut tree.root, 0)?;
        Ok((tree, scanner.report))
    }
}

fn open_root(dir: &Utf8Path) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir.as_str(), flags, Mode::empty())?)
}

struct Scanner<'s> {
    cache: &'s CacheRepo,
    /// Whether whiteouts and opaque directories have their meaning.
    overlay: bool,
    /// Files with several names, by device and inode.
    linked: HashMap<(u64, u64), File>,
    report: ScanReport,
}

impl<'s> Scanner<'s> {
    fn new(cache: &'s CacheRepo, overlay: bool) -> Self {
        Self {
            cache,
            overlay,
            linked: HashMap::new(),
            report: ScanReport::default(),
        }
    }

    /// Puts what is in the open directory over `into`.
    fn merge(&mut self, fd: &OwnedFd, path: &str, into: &mut Dir, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(invalid_input(format!(
                "there are more than {MAX_DEPTH} levels of directories"
            )));
        }
        let shown = || quote(&format!("/{path}"));
        let stat = rustix::fs::fstat(fd)?;
        into.meta = meta(&stat);
        into.meta.xattrs = xattr::read(fd.as_fd(), xattr::is_kept)
            .with_context(|| format!("reading attributes of {}", shown()))?;
        for name in names(fd, path)? {
            let path = join(path, &name);
            self.entry(fd, &name, &path, into, depth)
                .with_context(|| format!("reading {}", quote(&format!("/{path}"))))?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        fd: &OwnedFd,
        name: &str,
        path: &str,
        into: &mut Dir,
        depth: usize,
    ) -> Result<()> {
        let stat = rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let node = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return self.directory(fd, name, path, into, depth),
            FileType::RegularFile => self.file(fd, name)?.map(Node::File),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(fd, name, Vec::new())?;
                let target = target
                    .to_str()
                    .map_err(|_| invalid_input("its target is not UTF-8"))?;
                Some(Node::Symlink(self.cache.put_link(
                    target,
                    stat.st_uid,
                    stat.st_gid,
                )?))
            }
            FileType::CharacterDevice if self.overlay && stat.st_rdev == 0 => None,
            FileType::Fifo | FileType::Socket => {
                self.report.dropped.push(path.to_owned());
                None
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => {
                self.report.devices.push(path.to_owned());
                None
            }
        };
        match node {
            Some(node) => into.entries.insert(name.to_owned(), node),
            None => into.entries.remove(name),
        };
        Ok(())
    }

    fn directory(
        &mut self,
        fd: &OwnedFd,
        name: &str,
        path: &str,
        into: &mut Dir,
        depth: usize,
    ) -> Result<()> {
        let child = match open_below(fd, name, OFlags::DIRECTORY) {
            Ok(child) => child,
            Err(Errno::XDEV) => {
                self.report.mounts.push(path.to_owned());
                let stat = rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
                into.entries
                    .insert(name.to_owned(), Node::Dir(Dir::new(meta(&stat))));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let opaque = self.overlay && self.is_opaque(&child)?;
        let known = matches!(into.entries.get(name), Some(Node::Dir(_)));
        if opaque || !known {
            into.entries
                .insert(name.to_owned(), Node::Dir(Dir::new(Meta::root(0))));
        }
        match into.entries.get_mut(name) {
            Some(Node::Dir(dir)) => self.merge(&child, path, dir, depth + 1),
            _ => Ok(()),
        }
    }

    fn is_opaque(&self, dir: &OwnedFd) -> Result<bool> {
        if xattr::get(dir.as_fd(), "trusted.overlay.redirect")?.is_some() {
            return Err(invalid_input(
                "the directory was renamed by an overlay mounted with redirect_dir",
            ));
        }
        Ok(xattr::get(dir.as_fd(), xattr::OPAQUE)?.as_deref() == Some(b"y"))
    }

    /// Stores a regular file; `None` for one that stands for a deletion.
    fn file(&mut self, fd: &OwnedFd, name: &str) -> Result<Option<File>> {
        let file = match open_below(fd, name, OFlags::NONBLOCK) {
            Err(Errno::XDEV) => return Err(invalid_input("it is a mount point")),
            other => other?,
        };
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(invalid_input("it changed while it was read"));
        }
        let key = (stat.st_dev, stat.st_ino);
        if let Some(known) = self.linked.get(&key) {
            return Ok(Some(known.clone()));
        }
        if self.overlay {
            if xattr::get(file.as_fd(), "trusted.overlay.metacopy")?.is_some() {
                return Err(invalid_input(
                    "its content is elsewhere: the overlay is mounted with metacopy",
                ));
            }
            if stat.st_size == 0 && xattr::get(file.as_fd(), "trusted.overlay.whiteout")?.is_some()
            {
                return Ok(None);
            }
        }
        let mut meta = meta(&stat);
        meta.xattrs = xattr::read(file.as_fd(), xattr::is_kept)?;
        let size = u64::try_from(stat.st_size)?;
        let node = self
            .cache
            .put_reader(&meta, size, &mut DiskFile::from(file))?;
        self.report.files += 1;
        self.report.bytes += size;
        if stat.st_nlink > 1 {
            self.linked.insert(key, node.clone());
        }
        Ok(Some(node))
    }
}

fn meta(stat: &Stat) -> Meta {
    Meta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        xattrs: Default::default(),
    }
}

/// Opens one entry of a directory, refusing links and mount points.
fn open_below(fd: &OwnedFd, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(fd, name, flags, Mode::empty(), resolve)
}

/// The names in a directory, in byte order.
fn names(fd: &OwnedFd, path: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(fd)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if [&b"."[..], b".."].contains(&name.to_bytes()) {
            continue;
        }
        let name = name.to_str().map_err(|_| {
            let name = name.to_bytes().escape_ascii();
            invalid_input(format!(
                "the name '{name}' in directory {} is not UTF-8",
                quote(&format!("/{path}"))
            ))
        })?;
        names.push(name.to_owned());
    }
    names.sort_unstable();
    Ok(names)
}
