//! Reading content objects straight from a `bare` repository.

use std::fs::File as DiskFile;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result};
use apt_ostree_model::{ContentReader, File, Meta, Node, Sha256Digest, Symlink};
use camino::Utf8Path;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::checkout::finish_file;
use crate::object;
use crate::xattr;

/// The `objects` directory of a `bare` repository.
#[derive(Debug)]
pub struct ContentDir {
    dir: OwnedFd,
    /// Whether an object is on disk before it has its name.
    durable: bool,
}

/// What a look at a content object says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Looks {
    /// There is none.
    Missing,
    /// As it was written.
    Good,
    /// Its size, owner, mode or time is not what it must be.
    Odd,
}

impl ContentDir {
    /// Opens `repo/objects`.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn open_repo(repo: &Utf8Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(repo.join("objects").as_str(), flags, Mode::empty())?;
        Ok(Self {
            dir,
            durable: false,
        })
    }

    /// The same directory, whose objects are on disk before they have their names: a power cut
    /// leaves none that is cut off.
    pub(crate) fn durable(self) -> Self {
        Self {
            durable: true,
            ..self
        }
    }

    /// The directory, for calls that link objects.
    pub(crate) const fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// Compares a regular file's object with what it must be, without reading it. Whoever writes
    /// to an object, through a hard link too, changes its time.
    pub(crate) fn look_at_file(
        &self,
        checksum: &Sha256Digest,
        meta: &Meta,
        size: u64,
    ) -> io::Result<Looks> {
        let Some(stat) = self.stat(checksum)? else {
            return Ok(Looks::Missing);
        };
        let good = stat.st_mode == object::S_IFREG | meta.mode
            && (stat.st_uid, stat.st_gid) == (meta.uid, meta.gid)
            && u64::try_from(stat.st_size) == Ok(size)
            && (stat.st_mtime, stat.st_mtime_nsec) == (0, 0);
        Ok(if good { Looks::Good } else { Looks::Odd })
    }

    /// Compares a symbolic link's object with what it must be.
    pub(crate) fn look_at_symlink(&self, link: &Symlink) -> io::Result<Looks> {
        let Some(stat) = self.stat(&link.checksum)? else {
            return Ok(Looks::Missing);
        };
        let good = stat.st_mode == object::SYMLINK_MODE
            && (stat.st_uid, stat.st_gid) == (link.uid, link.gid)
            && u64::try_from(stat.st_size).is_ok_and(|size| size == link.target.len() as u64);
        Ok(if good { Looks::Good } else { Looks::Odd })
    }

    fn stat(&self, checksum: &Sha256Digest) -> io::Result<Option<rustix::fs::Stat>> {
        let path = object::content_path(checksum);
        match rustix::fs::statat(&self.dir, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What an object's file says of itself.
    pub(crate) fn read_node(&self, checksum: &Sha256Digest) -> io::Result<Node> {
        let stat = self
            .stat(checksum)?
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let (uid, gid, checksum) = (stat.st_uid, stat.st_gid, *checksum);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target =
                    rustix::fs::readlinkat(&self.dir, object::content_path(&checksum), Vec::new())?;
                let target = target
                    .into_string()
                    .map_err(|_| io::Error::other("its target is not UTF-8"))?;
                Ok(Node::Symlink(Symlink {
                    target,
                    uid,
                    gid,
                    checksum,
                }))
            }
            FileType::RegularFile => {
                let xattrs = xattr::read(self.open(&checksum)?.as_fd(), |_| true)?;
                let meta = Meta {
                    mode: stat.st_mode & 0o7777,
                    uid,
                    gid,
                    xattrs,
                };
                let size = u64::try_from(stat.st_size).unwrap_or_default();
                Ok(Node::File(File {
                    meta,
                    size,
                    checksum,
                }))
            }
            _ => Err(io::Error::other("it is neither a file nor a link")),
        }
    }

    /// A nameless file that can become an object.
    pub(crate) fn create(&self) -> Result<DiskFile> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.dir, ".", flags, Mode::RUSR | Mode::WUSR);
        Ok(fd.context("creating an object")?.into())
    }

    /// Makes a written file the object `checksum`, as a `bare` repository has it: with its owner,
    /// mode and attributes, and the time 0. That object may be there already.
    pub(crate) fn place(
        &self,
        file: &DiskFile,
        meta: &Meta,
        checksum: &Sha256Digest,
    ) -> Result<()> {
        finish_file(file, meta)?;
        if self.durable {
            file.sync_all().context("writing an object to disk")?;
        }
        let from = format!("/proc/self/fd/{}", file.as_raw_fd());
        match self.link((CWD, &from), AtFlags::SYMLINK_FOLLOW, checksum) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("storing object {checksum}")),
        }
    }

    /// Makes an object of `from`, on the same file system, one of this directory too.
    pub(crate) fn link_from(&self, from: &Self, checksum: &Sha256Digest) -> rustix::io::Result<()> {
        let path = object::content_path(checksum);
        self.link((from.dir.as_fd(), &path), AtFlags::empty(), checksum)
    }

    fn link(
        &self,
        (dir, path): (BorrowedFd<'_>, &str),
        flags: AtFlags,
        checksum: &Sha256Digest,
    ) -> rustix::io::Result<()> {
        let to = object::content_path(checksum);
        let link = || rustix::fs::linkat(dir, path, &self.dir, &to, flags);
        match link() {
            Err(Errno::NOENT) => {
                let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
                match rustix::fs::mkdirat(&self.dir, &to[..2], mode) {
                    Ok(()) | Err(Errno::EXIST) => link(),
                    Err(error) => Err(error),
                }
            }
            other => other,
        }
    }

    /// Waits until everything on the file system is on disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.dir)?)
    }

    /// Deletes an object; it may be missing.
    pub(crate) fn delete(&self, checksum: &Sha256Digest) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.dir, object::content_path(checksum), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl ContentReader for ContentDir {
    fn open(&self, checksum: &Sha256Digest) -> io::Result<DiskFile> {
        let path = object::content_path(checksum);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.dir, path, flags, Mode::empty()) {
            Ok(fd) => Ok(DiskFile::from(fd)),
            Err(error) => {
                let error = io::Error::from(error);
                Err(io::Error::new(
                    error.kind(),
                    format!("opening object {checksum}: {error}"),
                ))
            }
        }
    }
}
