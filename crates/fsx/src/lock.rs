//! Lock files that tell who holds them.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::time::{Duration, Instant};

use apt_ostree_model::{ErrorKind, Kinded};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::{cancel, escape_cut};

/// How often a waiting process looks again.
const POLL: Duration = Duration::from_millis(100);

/// Whether others may hold the lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Nobody else may.
    Exclusive,
    /// Other shared holders may.
    Shared,
}

/// What to do when the lock is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Fail at once.
    No,
    /// Wait at most this long, or until cancelled.
    AtMost(Duration),
    /// Wait until it is free, or until cancelled.
    Forever,
}

/// A held lock; dropping it, or the end of the process, frees it.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: Utf8PathBuf,
}

/// What the lock file holds while someone has it exclusively.
#[derive(Serialize, Deserialize)]
struct Holder {
    pid: u32,
    command: String,
    since: i64,
}

impl Lock {
    /// Takes the lock at `path`; creates the file when missing.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] naming the holder when it is taken, [`ErrorKind::Cancelled`],
    /// or [`ErrorKind::Storage`] when the file can't be opened.
    pub fn acquire(path: &Utf8Path, mode: LockMode, wait: Wait) -> Result<Self, Kinded> {
        let failed =
            |e: io::Error| Kinded::new(ErrorKind::Storage, format!("locking '{path}': {e}"));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path.as_str(), flags, Mode::from_raw_mode(0o644))
            .map_err(|e| failed(e.into()))?;
        let mut lock = Self {
            file: File::from(fd),
            path: path.to_owned(),
        };
        let operation = match mode {
            LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
            LockMode::Shared => FlockOperation::NonBlockingLockShared,
        };
        let start = Instant::now();
        loop {
            match rustix::fs::flock(&lock.file, operation) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => {
                    let left = match wait {
                        Wait::No => Duration::ZERO,
                        Wait::AtMost(limit) => limit.saturating_sub(start.elapsed()),
                        Wait::Forever => POLL,
                    };
                    if left.is_zero() {
                        return Err(lock.busy());
                    }
                    cancel::check()?;
                    std::thread::sleep(left.min(POLL));
                }
                Err(e) => return Err(failed(e.into())),
            }
        }
        if mode == LockMode::Exclusive {
            lock.write_holder().map_err(failed)?;
        }
        Ok(lock)
    }

    /// The lock file.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    fn write_holder(&mut self) -> io::Result<()> {
        let holder = Holder {
            pid: std::process::id(),
            command: command_name(),
            since: jiff::Timestamp::now().as_second(),
        };
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(&serde_json::to_vec(&holder)?)
    }

    /// The error for a lock that someone else holds.
    fn busy(&self) -> Kinded {
        let mut text = Vec::new();
        // A shared holder or one that has just started leaves no note: then nobody is named.
        let read = (&self.file).take(4096).read_to_end(&mut text);
        let holder = read
            .ok()
            .and_then(|_| serde_json::from_slice::<Holder>(&text).ok());
        let by = holder.map_or_else(
            || "by another process".to_owned(),
            |h| {
                let since = jiff::Timestamp::from_second(h.since)
                    .map(|t| t.strftime(" since %Y-%m-%d %H:%M:%S UTC").to_string())
                    .unwrap_or_default();
                format!(
                    "by process {} ({}){since}",
                    h.pid,
                    escape_cut(&h.command, 60)
                )
            },
        );
        Kinded::new(ErrorKind::Busy, format!("'{}' is held {by}", self.path))
            .with_hint("wait for it to finish, or stop it")
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Best effort: a stale note names a process that is gone, the lock itself is free. The
        // note of another holder is never touched because shared holders leave none.
        if rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            drop(self.file.set_len(0));
        }
    }
}

fn command_name() -> String {
    std::env::args_os()
        .next()
        .and_then(|arg| {
            let path = std::path::PathBuf::from(arg);
            Some(path.file_name()?.to_string_lossy().into_owned())
        })
        .unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().join("lock")).unwrap();
        (dir, path)
    }

    #[test]
    fn second_exclusive_lock_is_busy_and_names_the_holder() {
        let (_guard, path) = scratch();
        let held = Lock::acquire(&path, LockMode::Exclusive, Wait::No).unwrap();
        for mode in [LockMode::Exclusive, LockMode::Shared] {
            let error = Lock::acquire(&path, mode, Wait::No).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Busy);
            let pid = format!("process {} (", std::process::id());
            assert!(error.message.contains(&pid), "{}", error.message);
            assert!(error.message.ends_with(" UTC"), "{}", error.message);
        }
        drop(held);
        Lock::acquire(&path, LockMode::Exclusive, Wait::No).unwrap();
    }

    #[test]
    fn shared_locks_share_and_keep_writers_out() {
        let (_guard, path) = scratch();
        let one = Lock::acquire(&path, LockMode::Shared, Wait::No).unwrap();
        let two = Lock::acquire(&path, LockMode::Shared, Wait::No).unwrap();
        drop(one);
        let error = Lock::acquire(
            &path,
            LockMode::Exclusive,
            Wait::AtMost(Duration::from_millis(5)),
        )
        .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Busy);
        drop(two);
        Lock::acquire(&path, LockMode::Exclusive, Wait::No).unwrap();
    }

    #[test]
    fn waiting_gets_the_lock_once_it_is_free() {
        let (_guard, path) = scratch();
        let held = Lock::acquire(&path, LockMode::Exclusive, Wait::No).unwrap();
        let waiter = {
            let path = path.clone();
            std::thread::spawn(move || {
                Lock::acquire(&path, LockMode::Exclusive, Wait::Forever).map(drop)
            })
        };
        drop(held);
        waiter.join().unwrap().unwrap();
    }

    #[test]
    fn a_link_is_not_followed() {
        let (_guard, path) = scratch();
        let target = path.with_file_name("target");
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(Lock::acquire(&path, LockMode::Exclusive, Wait::No).is_err());
        assert!(!target.exists());
    }
}
