//! Scratch directories that a killed run can't leave behind for good.
//!
//! A run's directory is `run-<pid>-<random>` below a common parent and is itself locked (flock on
//! the directory) for as long as the run lives. Whoever gets that lock later knows the run is dead.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use apt_ostree_model::{ErrorKind, Kinded};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{AtFlags, Dir, FlockOperation, Mode};

use crate::file::{dir_flags, open_dir};
use crate::remove::remove_tree_at;

const PREFIX: &str = "run-";

/// A scratch directory of this process; dropping it removes it with all it holds.
#[derive(Debug)]
pub struct WorkDir {
    path: Utf8PathBuf,
    parent: OwnedFd,
    name: String,
    _lock: OwnedFd,
    keep: bool,
}

impl WorkDir {
    /// Makes a new directory below `parent`, which is created when missing.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`] when that fails.
    pub fn create(parent: &Utf8Path) -> Result<Self, Kinded> {
        let failed = |e: io::Error| {
            Kinded::new(
                ErrorKind::Storage,
                format!("creating a work directory in '{parent}': {e}"),
            )
        };
        std::fs::create_dir_all(parent).map_err(failed)?;
        let handle = open_dir(parent).map_err(failed)?;
        loop {
            let name = format!(
                "{PREFIX}{}-{:016x}",
                std::process::id(),
                random().map_err(failed)?
            );
            rustix::fs::mkdirat(&handle, &name, Mode::RWXU).map_err(|e| failed(e.into()))?;
            // Between the two calls a sweeper may have taken the directory for a dead one.
            if let Some(lock) = lock_run(&handle, &name).map_err(failed)? {
                return Ok(Self {
                    path: parent.join(&name),
                    parent: handle,
                    name,
                    _lock: lock,
                    keep: false,
                });
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Makes the directory outlive this value, for looking at it after a failure.
    /// The next [`sweep`] after this process removes it.
    pub const fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = remove_tree_at(&self.parent, &self.name) {
            tracing::warn!("leaving '{}' behind: {error}", self.path);
        }
    }
}

/// Removes the directories of runs that are dead; says how many. A missing `parent` is fine.
///
/// # Errors
/// [`ErrorKind::Storage`] when `parent` can't be read. What can't be removed is only logged.
pub fn sweep(parent: &Utf8Path) -> Result<usize, Kinded> {
    let failed = |e: io::Error| {
        Kinded::new(
            ErrorKind::Storage,
            format!("sweeping work directories in '{parent}': {e}"),
        )
    };
    let handle = match open_dir(parent) {
        Ok(handle) => handle,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(failed(e)),
    };
    let mut removed = 0;
    for entry in Dir::read_from(&handle).map_err(|e| failed(e.into()))? {
        let entry = entry.map_err(|e| failed(e.into()))?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        if !name.starts_with(PREFIX) {
            continue;
        }
        // Not ours to judge when it can't be opened as a directory.
        let Ok(Some(_lock)) = lock_run(&handle, name) else {
            continue;
        };
        match remove_tree_at(&handle, name) {
            Ok(()) => removed += 1,
            Err(error) => tracing::warn!("leaving '{parent}/{name}' behind: {error}"),
        }
    }
    Ok(removed)
}

/// Opens and locks the run directory `name`; none when someone else has it or it is gone.
fn lock_run(parent: &OwnedFd, name: &str) -> io::Result<Option<OwnedFd>> {
    let handle = match rustix::fs::openat(parent, name, dir_flags(), Mode::empty()) {
        Ok(handle) => handle,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    if rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(None);
    }
    let Ok(there) = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) else {
        return Ok(None);
    };
    let ours = rustix::fs::fstat(handle.as_fd())?;
    Ok(((there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)).then_some(handle))
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    openssl::rand::rand_bytes(&mut bytes).map_err(io::Error::other)?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().join("work")).unwrap();
        (dir, path)
    }

    #[test]
    fn dropping_removes_the_directory_with_its_content() {
        let (_guard, parent) = scratch();
        let work = WorkDir::create(&parent).unwrap();
        std::fs::create_dir_all(work.path().join("a/b")).unwrap();
        let path = work.path().to_owned();
        drop(work);
        assert!(!path.exists());
    }

    #[test]
    fn sweeping_removes_dead_runs_only() {
        let (_guard, parent) = scratch();
        assert_eq!(sweep(&parent).unwrap(), 0);
        let alive = WorkDir::create(&parent).unwrap();
        let mut dead = WorkDir::create(&parent).unwrap();
        dead.keep();
        let dead_path = dead.path().to_owned();
        std::fs::create_dir_all(dead_path.join("sub")).unwrap();
        drop(dead);
        assert!(dead_path.exists());
        std::fs::write(parent.join("other"), "").unwrap();
        std::fs::write(parent.join("run-file"), "").unwrap();
        std::os::unix::fs::symlink("/", parent.join("run-link")).unwrap();
        assert_eq!(sweep(&parent).unwrap(), 1);
        assert!(alive.path().exists());
        assert!(!dead_path.exists());
        assert!(parent.join("other").exists());
    }

    #[test]
    fn work_directory_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let (_guard, parent) = scratch();
        let work = WorkDir::create(&parent).unwrap();
        let mode = std::fs::metadata(work.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
    }
}
