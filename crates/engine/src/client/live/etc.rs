//! New defaults of `/etc`, where the administrator has changed nothing.
//!
//! Each file is exchanged in one step. A file that is as any of the commits has it that may have
//! been applied is not the administrator's.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use apt_ostree_fsx::fail_point;
use apt_ostree_model::tree::split;
use apt_ostree_model::{ContentReader, File, Meta, Node, Symlink, Tree};
use apt_ostree_store::TargetRepo;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::changes::{differing, same};

/// Accounts are systemd-sysusers' business: these files are no defaults.
const ACCOUNTS: [&str; 6] = ["passwd", "group", "shadow", "gshadow", "subuid", "subgid"];
/// Made from what is in `/usr`, by others as well.
const LOADER_CACHE: &str = "ld.so.cache";
/// A file that is being written, directly in `/etc`. A killed run leaves no other.
const TEMPORARY: &str = ".aptostree-live";

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// Files that the administrator has changed and that stay.
    pub(super) kept: Vec<String>,
    /// The cache of the dynamic loader is of this machine and must be made anew.
    pub(super) stale_cache: bool,
}

/// Brings `/etc` from the defaults of any of `olds` to those of `new`.
pub(super) fn merge(repo: &TargetRepo, olds: &[&Tree], new: &Tree) -> Result<Merged> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let etc = rustix::fs::open("/etc", flags, Mode::empty()).context("opening '/etc'")?;
    let mut merge = Merge {
        repo,
        olds,
        new,
        etc,
        merged: Merged::default(),
        doomed: Vec::new(),
    };
    remove(&merge.etc, TEMPORARY, AtFlags::empty())?;
    for path in merge.paths() {
        merge
            .path(&path)
            .with_context(|| format!("changing '/etc/{path}'"))?;
    }
    while let Some(path) = merge.doomed.pop() {
        merge.remove_dir(&path)?;
    }
    Ok(merge.merged)
}

struct Merge<'m> {
    repo: &'m TargetRepo,
    olds: &'m [&'m Tree],
    new: &'m Tree,
    etc: OwnedFd,
    merged: Merged,
    /// Directories that go when they are empty, parents first.
    doomed: Vec<String>,
}

impl Merge<'_> {
    /// All paths below `/etc` with defaults that differ, parents first.
    fn paths(&self) -> BTreeSet<String> {
        let mut paths = BTreeSet::new();
        let empty = Tree::default();
        let etc = |tree: &Tree| {
            tree.dir("etc")
                .cloned()
                .unwrap_or_else(|| empty.root.clone())
        };
        let new = etc(self.new);
        for old in self.olds {
            differing(&etc(old), &new, "", &mut paths);
        }
        paths.retain(|path| !ACCOUNTS.contains(&path.trim_end_matches('-')));
        paths
    }

    fn path(&mut self, path: &str) -> Result<()> {
        let default = format!("etc/{path}");
        let wanted = self.new.get(&default);
        let (parent, name) = split(path);
        let Some(dir) = self.open_dir(parent)? else {
            // The administrator has removed the directory, or has something else there.
            if wanted.is_some() {
                self.merged.kept.push(format!("/etc/{path}"));
            }
            return Ok(());
        };
        let stat = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error.into()),
        };
        let here = Here {
            dir: &dir,
            name,
            stat,
        };
        if self.is(&here, wanted)? {
            return Ok(());
        }
        let mut ours = false;
        for old in self.olds {
            let old = old.get(&default);
            ours = ours || !same(old, wanted) && self.is(&here, old)?;
        }
        if !ours && path == LOADER_CACHE {
            self.merged.stale_cache = true;
            return Ok(());
        }
        if !ours {
            self.merged.kept.push(format!("/etc/{path}"));
            return Ok(());
        }
        self.change(&here, wanted, path)?;
        fail_point("live::etc");
        Ok(())
    }

    fn open_dir(&self, path: &str) -> Result<Option<OwnedFd>> {
        let path = if path.is_empty() { "." } else { path };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(&self.etc, path, flags, Mode::empty(), resolve) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether what is there is as `node` says.
    fn is(&self, here: &Here<'_>, node: Option<&Node>) -> Result<bool> {
        let (Some(stat), Some(node)) = (&here.stat, node) else {
            return Ok(here.stat.is_none() && node.is_none());
        };
        let owned = |meta: &Meta| {
            stat.st_mode & 0o7777 == meta.mode && (stat.st_uid, stat.st_gid) == (meta.uid, meta.gid)
        };
        Ok(match (node, FileType::from_raw_mode(stat.st_mode)) {
            (Node::Dir(dir), FileType::Directory) => owned(&dir.meta),
            (Node::Symlink(link), FileType::Symlink) => {
                let target = rustix::fs::readlinkat(here.dir, here.name, Vec::new())?;
                target.as_bytes() == link.target.as_bytes()
            }
            (Node::File(file), FileType::RegularFile) => {
                owned(&file.meta)
                    && u64::try_from(stat.st_size).is_ok_and(|size| size == file.size)
                    && self.has_content(here, file)?
            }
            _ => false,
        })
    }

    fn has_content(&self, here: &Here<'_>, file: &File) -> Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let own = rustix::fs::openat(here.dir, here.name, flags, Mode::empty())?;
        let (mut own, mut other) = (
            std::io::BufReader::new(std::fs::File::from(own)),
            std::io::BufReader::new(self.repo.open(&file.checksum)?),
        );
        let (mut a, mut b) = ([0; 8192], [0; 8192]);
        loop {
            let read = read_full(&mut own, &mut a)?;
            if read_full(&mut other, &mut b)? != read || a[..read] != b[..read] {
                return Ok(false);
            }
            if read == 0 {
                return Ok(true);
            }
        }
    }

    fn change(&mut self, here: &Here<'_>, wanted: Option<&Node>, path: &str) -> Result<()> {
        let was_dir = here
            .stat
            .is_some_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
        match wanted {
            None if was_dir => self.doomed.push(path.to_owned()),
            None => remove(here.dir, here.name, AtFlags::empty())?,
            Some(Node::Dir(dir)) => {
                if !was_dir {
                    remove(here.dir, here.name, AtFlags::empty())?;
                    rustix::fs::mkdirat(here.dir, here.name, Mode::RWXU)?;
                }
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(here.dir, here.name, flags, Mode::empty())?;
                set_meta(&made, &dir.meta)?;
            }
            Some(node) => {
                match node {
                    Node::File(file) => self.write(file)?,
                    Node::Symlink(link) => self.link(link)?,
                    Node::Dir(_) => {}
                }
                if was_dir {
                    // Only an empty one: what is in it is the administrator's.
                    remove(here.dir, here.name, AtFlags::REMOVEDIR)?;
                }
                rustix::fs::renameat(&self.etc, TEMPORARY, here.dir, here.name)?;
            }
        }
        Ok(())
    }

    fn write(&self, file: &File) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let made = rustix::fs::openat(&self.etc, TEMPORARY, flags, mode)?;
        let mut made = std::fs::File::from(made);
        std::io::copy(&mut self.repo.open(&file.checksum)?, &mut made)?;
        set_meta(&made, &file.meta)?;
        // A power cut after the renaming must not leave an empty file.
        made.sync_data()?;
        Ok(())
    }

    fn link(&self, link: &Symlink) -> Result<()> {
        rustix::fs::symlinkat(link.target.as_str(), &self.etc, TEMPORARY)?;
        let (uid, gid) = owner(link.uid, link.gid);
        rustix::fs::chownat(&self.etc, TEMPORARY, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    fn remove_dir(&self, path: &str) -> Result<()> {
        let (parent, name) = split(path);
        let Some(dir) = self.open_dir(parent)? else {
            return Ok(());
        };
        match rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
            // Something of the administrator's is in it.
            Ok(()) | Err(Errno::NOTEMPTY | Errno::NOENT) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("removing '/etc/{path}'")),
        }
    }
}

/// A place in `/etc`.
struct Here<'h> {
    dir: &'h OwnedFd,
    name: &'h str,
    stat: Option<Stat>,
}

fn read_full(file: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

fn remove(dir: &OwnedFd, name: &str, flags: AtFlags) -> Result<()> {
    match rustix::fs::unlinkat(dir, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn owner(uid: u32, gid: u32) -> (Option<rustix::fs::Uid>, Option<rustix::fs::Gid>) {
    (
        Some(rustix::fs::Uid::from_raw(uid)),
        Some(rustix::fs::Gid::from_raw(gid)),
    )
}

fn set_meta(file: impl std::os::fd::AsFd, meta: &Meta) -> Result<()> {
    let (uid, gid) = owner(meta.uid, meta.gid);
    rustix::fs::fchown(&file, uid, gid)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(meta.mode))?;
    for (name, value) in &meta.xattrs {
        rustix::fs::fsetxattr(&file, name.as_str(), &value.0, XattrFlags::empty())?;
    }
    Ok(())
}
