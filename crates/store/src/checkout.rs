//! Trees as real files: hard links to the objects of the cache.

use std::fs::File as DiskFile;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Error, Result};
use apt_ostree_model::{ContentReader as _, File, Meta, Symlink, Tree};
use camino::Utf8Path;
use fn_error_context::context;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::CacheRepo;
use crate::error::{invalid_input, quote};
use crate::object;
use crate::plan::{self, Item, PlanDir};
use crate::xattr;

/// Threads that link files. More only wait for the journal.
const THREADS: usize = 2;
/// Below this many entries one thread is faster.
const MIN_PARALLEL: usize = 2000;

const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl CacheRepo {
    /// Makes `tree` below `dest`, an empty or missing directory on the cache's file system.
    ///
    /// Files are hard links to cached objects and must not be written to; put an overlay above.
    /// Those below `etc` and `var` are copies: scripts copy and rename them, and two paths with
    /// one inode are the same file to `cp` and `mv`. All times are 0. Set-up is not synced to disk.
    ///
    /// # Errors
    /// When `dest` isn't empty or can't be written, or an object is missing or damaged
    /// ([`crate::DamagedObject`]; what was cached from it is dropped then).
    #[context("checking out a tree to '{dest}'")]
    pub fn checkout(&self, tree: &Tree, dest: &Utf8Path) -> Result<()> {
        self.materialise(&plan::whole(tree)?, dest, false)
    }

    /// Like [`CacheRepo::checkout`], but every file is a copy of its own that may be written to,
    /// and `dest` may be on any file system.
    ///
    /// # Errors
    /// As [`CacheRepo::checkout`].
    #[context("copying a tree to '{dest}'")]
    pub fn checkout_copy(&self, tree: &Tree, dest: &Utf8Path) -> Result<()> {
        self.materialise(&plan::whole(tree)?, dest, true)
    }

    /// Makes an overlay layer below `dest` that turns a checkout of `from`, when mounted above
    /// it, into `to`: what is new or different, whiteouts for what is gone, opaque directories
    /// for those that replace something else.
    ///
    /// # Errors
    /// As [`CacheRepo::checkout`].
    #[context("checking out what changed to '{dest}'")]
    pub fn checkout_diff(&self, from: &Tree, to: &Tree, dest: &Utf8Path) -> Result<()> {
        self.materialise(&plan::diff(from, to)?, dest, false)
    }

    fn materialise(&self, plan: &[PlanDir<'_>], dest: &Utf8Path, copy: bool) -> Result<()> {
        let root = open_empty(dest)?;
        for dir in &plan[1..] {
            rustix::fs::mkdirat(&root, dir.path.as_str(), Mode::RWXU)
                .with_context(|| format!("creating directory {}", quote(&dir.path)))?;
        }
        let work = Work {
            cache: self,
            root: &root,
            plan,
            copy,
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            error: Mutex::new(None),
        };
        let entries: usize = plan.iter().map(|d| 1 + d.items.len()).sum();
        if entries < MIN_PARALLEL {
            work.run();
        } else {
            std::thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| work.run());
                }
            });
        }
        match work
            .error
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
        {
            None => Ok(()),
            Some((_, error)) => Err(self.handle_damage(error)),
        }
    }
}

/// Opens `dest` as a directory, made if missing; it must be empty.
fn open_empty(dest: &Utf8Path) -> Result<OwnedFd> {
    match rustix::fs::mkdir(dest.as_str(), Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error).with_context(|| format!("creating '{dest}'")),
    }
    let fd = rustix::fs::open(dest.as_str(), DIRECTORY, Mode::empty())
        .with_context(|| format!("opening '{dest}'"))?;
    for entry in rustix::fs::Dir::read_from(&fd)? {
        let entry = entry?;
        if ![&b"."[..], b".."].contains(&entry.file_name().to_bytes()) {
            return Err(invalid_input(format!("directory '{dest}' is not empty")));
        }
    }
    Ok(fd)
}

/// Directories to fill, shared by threads.
struct Work<'w> {
    cache: &'w CacheRepo,
    root: &'w OwnedFd,
    plan: &'w [PlanDir<'w>],
    /// Whether files are copies rather than links.
    copy: bool,
    next: AtomicUsize,
    stop: AtomicBool,
    /// The error of the first directory that has one.
    error: Mutex<Option<(usize, Error)>>,
}

impl Work<'_> {
    fn run(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(dir) = self.plan.get(index) else {
                return;
            };
            let Err(error) = self.fill(dir) else { continue };
            self.stop.store(true, Ordering::Relaxed);
            let mut slot = self
                .error
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if slot.as_ref().is_none_or(|(first, _)| index < *first) {
                *slot = Some((index, error));
            }
        }
    }

    fn fill(&self, dir: &PlanDir<'_>) -> Result<()> {
        let path = if dir.path.is_empty() {
            "."
        } else {
            dir.path.as_str()
        };
        let fd = rustix::fs::openat(self.root, path, DIRECTORY, Mode::empty())
            .with_context(|| format!("opening directory {}", quote(&dir.path)))?;
        let copy = self.copy || is_state(&dir.path);
        for (name, item) in &dir.items {
            self.put((&fd, copy), name, item).with_context(|| {
                format!("creating {} in directory {}", quote(name), quote(&dir.path))
            })?;
        }
        set_meta(&fd, dir.meta)?;
        if dir.opaque {
            rustix::fs::fsetxattr(&fd, xattr::OPAQUE, b"y", XattrFlags::empty())
                .context("marking a directory as opaque")?;
        }
        set_time(fd.as_fd(), 0)?;
        Ok(())
    }

    /// Makes an entry of a directory, whose files are copies or links.
    fn put(&self, (dir, copy): (&OwnedFd, bool), name: &str, item: &Item<'_>) -> Result<()> {
        match item {
            Item::File(file) => self.put_file((dir, copy), name, file),
            Item::Symlink(link) => self.put_symlink(dir, name, link),
            Item::Whiteout => Ok(rustix::fs::mknodat(
                dir,
                name,
                FileType::CharacterDevice,
                Mode::empty(),
                0,
            )?),
        }
    }

    fn put_file(&self, (dir, copy): (&OwnedFd, bool), name: &str, file: &File) -> Result<()> {
        if file.size == 0 {
            // Too many empty files are alike for one inode's link count.
            let fd = create(dir, name)?;
            return finish_file(&fd, &file.meta);
        }
        self.cache.require_file(file)?;
        if !copy {
            match self.link(dir, name, &file.checksum) {
                Err(Errno::MLINK) => {}
                other => return Ok(other?),
            }
        }
        let mut to = DiskFile::from(create(dir, name)?);
        let mut from = self.cache.content().open(&file.checksum)?;
        std::io::copy(&mut from, &mut to)?;
        finish_file(&to, &file.meta)
    }

    fn put_symlink(&self, dir: &OwnedFd, name: &str, link: &Symlink) -> Result<()> {
        self.cache.require_symlink(link)?;
        match self.link(dir, name, &link.checksum) {
            Err(Errno::MLINK) => {}
            other => return Ok(other?),
        }
        rustix::fs::symlinkat(link.target.as_str(), dir, name)?;
        let owner = (
            rustix::fs::Uid::from_raw(link.uid),
            rustix::fs::Gid::from_raw(link.gid),
        );
        rustix::fs::chownat(
            dir,
            name,
            Some(owner.0),
            Some(owner.1),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        rustix::fs::utimensat(dir, name, &times(0), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// Makes a hard link to an object; `EMLINK` when a copy is needed.
    fn link(
        &self,
        dir: &OwnedFd,
        name: &str,
        checksum: &apt_ostree_model::Sha256Digest,
    ) -> rustix::io::Result<()> {
        if self.copy {
            return Err(Errno::MLINK);
        }
        let objects = self.cache.content().dir();
        rustix::fs::linkat(
            objects,
            object::content_path(checksum),
            dir,
            name,
            AtFlags::empty(),
        )
    }
}

/// True for directories with files that scripts replace by one another. dpkg's own records of
/// packages are many, and only dpkg writes them.
fn is_state(dir: &str) -> bool {
    let below = |top: &str| {
        dir.strip_prefix(top)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    (below("etc") || below("var")) && !below("var/lib/dpkg/info")
}

fn create(dir: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(
        dir,
        name,
        flags,
        Mode::RUSR | Mode::WUSR,
    )?)
}

/// Gives a written file its metadata and the time 0.
pub(crate) fn finish_file(fd: &impl AsFd, meta: &Meta) -> Result<()> {
    set_meta(fd, meta)?;
    set_time(fd.as_fd(), 0)?;
    Ok(())
}

/// Sets owner, then mode (changing the owner clears set-id bits), then attributes.
fn set_meta(fd: &impl AsFd, meta: &Meta) -> Result<()> {
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(meta.uid),
        rustix::fs::Gid::from_raw(meta.gid),
    );
    rustix::fs::fchown(fd, Some(uid), Some(gid)).context("setting the owner")?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(meta.mode)).context("setting the mode")?;
    xattr::write(fd, &meta.xattrs).context("setting extended attributes")
}

fn times(seconds: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn set_time(fd: BorrowedFd<'_>, seconds: i64) -> Result<()> {
    rustix::fs::futimens(fd, &times(seconds)).context("setting the time")
}

/// Sets the times of `root` and of all directories below it to `epoch`, following no links and
/// staying on one file system.
///
/// # Errors
/// When a directory can't be read or changed.
#[context("setting directory times below '{root}'")]
pub fn set_directory_times(root: &Utf8Path, epoch: i64) -> Result<()> {
    let fd = rustix::fs::open(root.as_str(), DIRECTORY, Mode::empty())?;
    let device = rustix::fs::fstat(&fd)?.st_dev;
    set_times_below(&fd, device, epoch, 0)
}

fn set_times_below(fd: &OwnedFd, device: u64, epoch: i64, depth: usize) -> Result<()> {
    if depth > crate::treewriter::MAX_DEPTH {
        return Err(invalid_input("directories are nested too deeply"));
    }
    for entry in rustix::fs::Dir::read_from(fd)? {
        let entry = entry?;
        let name = entry.file_name();
        if [&b"."[..], b".."].contains(&name.to_bytes())
            || !matches!(entry.file_type(), FileType::Directory | FileType::Unknown)
        {
            continue;
        }
        match rustix::fs::openat(fd, name, DIRECTORY, Mode::empty()) {
            Ok(child) if rustix::fs::fstat(&child)?.st_dev == device => {
                set_times_below(&child, device, epoch, depth + 1)?;
            }
            Ok(_) | Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    set_time(fd.as_fd(), epoch)
}
