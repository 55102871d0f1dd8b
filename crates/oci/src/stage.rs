//! Files and directories that appear whole or not at all.
//!
//! They grow under a fixed name beside the target (`.NAME.part`), locked, and are then renamed.
//! The fixed name lets the next run remove what a killed one left; the lock makes a second
//! writer of the same target wait. Nothing is synced to the disk: a killed process leaves the old
//! or the new target, a power cut may lose either, which digests then tell.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use apt_ostree_model::{ErrorKind, Kinded};
use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags};
use rustix::io::Errno;

/// A target that is being written; removed again unless published.
#[derive(Debug)]
pub(crate) struct Staged {
    /// The open file, or the open directory.
    handle: File,
    temporary: PathBuf,
    target: PathBuf,
    is_dir: bool,
    published: bool,
}

impl Staged {
    /// Starts a file.
    pub(crate) fn file(target: &Path) -> Result<Self> {
        Self::start(target, false)
    }

    /// Starts a directory.
    pub(crate) fn dir(target: &Path) -> Result<Self> {
        Self::start(target, true)
    }

    fn start(target: &Path, is_dir: bool) -> Result<Self> {
        let temporary = beside(target, ".part")?;
        let describe = || format!("making '{}'", temporary.display());
        loop {
            let made = make(&temporary, is_dir).with_context(describe)?;
            let Some(handle) = lock(&temporary).with_context(describe)? else {
                continue;
            };
            if made && is_empty(&handle, &temporary)? {
                return Ok(Self {
                    handle,
                    temporary,
                    target: target.to_owned(),
                    is_dir,
                    published: false,
                });
            }
            // Somebody was killed before publishing this.
            remove(&temporary).with_context(describe)?;
        }
    }

    /// The file to write.
    pub(crate) const fn handle(&self) -> &File {
        &self.handle
    }

    /// The directory to fill.
    pub(crate) fn path(&self) -> &Path {
        &self.temporary
    }

    /// Puts the finished file or directory in the place of the target.
    pub(crate) fn publish(mut self) -> Result<()> {
        let result = if self.is_dir {
            self.publish_dir()
        } else {
            fs::rename(&self.temporary, &self.target).map_err(Into::into)
        };
        result.with_context(|| format!("moving the image to '{}'", self.target.display()))?;
        self.published = true;
        Ok(())
    }

    fn publish_dir(&self) -> Result<()> {
        let (new, target) = (&self.temporary, &self.target);
        loop {
            // Takes the place of nothing or of an empty directory, and of nothing else.
            match fs::rename(new, target) {
                Err(e) if is_occupied(&e) => check_replaceable(target)?,
                result => return Ok(result?),
            }
            // Whoever waits for the staging name must not take the old directory for a leftover
            // while it is being removed, so it is locked before it gets that name.
            let Some(old) = lock(target)? else {
                continue;
            };
            match rustix::fs::renameat_with(CWD, new, CWD, target, RenameFlags::EXCHANGE) {
                Ok(()) => remove(new)?,
                Err(Errno::INVAL | Errno::NOSYS) => replace_in_two_steps(new, target)?,
                Err(e) => return Err(e.into()),
            }
            drop(old);
            return Ok(());
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published {
            // The error that led here matters more; the next run removes what stays.
            let _ignored = remove(&self.temporary);
        }
    }
}

/// True when something other than an empty directory is in the way.
fn is_occupied(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, NotADirectory};
    matches!(
        error.kind(),
        AlreadyExists | DirectoryNotEmpty | NotADirectory
    )
}

/// For file systems that can't exchange names: a crash between the renames leaves the old
/// directory as `.NAME.old`.
fn replace_in_two_steps(new: &Path, target: &Path) -> Result<()> {
    let aside = beside(target, ".old")?;
    remove(&aside)?;
    fs::rename(target, &aside)?;
    fs::rename(new, target)?;
    remove(&aside)?;
    Ok(())
}

/// `.NAMESUFFIX` beside `target`.
fn beside(target: &Path, suffix: &str) -> Result<PathBuf> {
    let Some(name) = target.file_name() else {
        let message = format!("'{}' names no file", target.display());
        bail!(Kinded::new(ErrorKind::Usage, message));
    };
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(suffix);
    Ok(target.with_file_name(hidden))
}

/// Makes an empty file or directory; false when something is there already.
fn make(path: &Path, is_dir: bool) -> io::Result<bool> {
    let made = if is_dir {
        fs::create_dir(path)
    } else {
        File::create_new(path).map(drop)
    };
    match made {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    }
}

/// Opens and locks what is at `path`, waiting for other holders; `None` when it is another thing
/// after the wait.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let open = |write| {
        OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(flags.cast_signed())
            .open(path)
    };
    let handle = match open(true) {
        Err(e) if e.kind() == io::ErrorKind::IsADirectory => open(false),
        result => result,
    };
    let handle = match handle {
        Ok(handle) => handle,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    rustix::fs::flock(handle.as_fd(), FlockOperation::LockExclusive)?;
    let here = match fs::symlink_metadata(path) {
        Ok(here) => here,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mine = handle.metadata()?;
    Ok(((here.dev(), here.ino()) == (mine.dev(), mine.ino())).then_some(handle))
}

/// True when nothing was written yet.
fn is_empty(handle: &File, path: &Path) -> io::Result<bool> {
    let metadata = handle.metadata()?;
    if metadata.is_dir() {
        return Ok(fs::read_dir(path)?.next().is_none());
    }
    Ok(metadata.len() == 0)
}

/// Refuses to throw away a directory that is no image.
fn check_replaceable(target: &Path) -> Result<()> {
    let is_image = fs::symlink_metadata(target)?.is_dir() && target.join("oci-layout").exists();
    if !is_image {
        let message = format!(
            "'{}' exists and is not an OCI image directory",
            target.display()
        );
        let hint = "remove it or choose another output";
        bail!(Kinded::new(ErrorKind::InvalidInput, message).with_hint(hint));
    }
    Ok(())
}

/// Removes a file or a directory tree; following no link.
fn remove(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
