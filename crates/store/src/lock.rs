//! Who uses a cache: many users at a time, or one that deletes.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use apt_ostree_fsx::cancel;
use apt_ostree_model::{ErrorKind, Kinded};
use camino::Utf8Path;
use ostree::gio;

use crate::error::storage;
use crate::handle::RepoHandle;

/// How long to wait for someone who deletes; a slow disk takes minutes for a million objects.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// The lock file of a cache.
#[derive(Debug)]
pub(crate) struct CacheLock(File);

impl CacheLock {
    /// Opens the lock file without locking it.
    pub(crate) fn open(path: &Utf8Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
        let file = options
            .open(path)
            .with_context(|| format!("opening lock file '{path}'"))?;
        Ok(Self(file))
    }

    /// True when nobody else uses the cache; it is locked against others then.
    pub(crate) fn try_alone(&self) -> Result<bool> {
        match self.0.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error).context("locking the cache"),
        }
    }

    /// Uses the cache along with others; waits for someone who deletes.
    pub(crate) fn share(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            match self.0.try_lock_shared() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {
                    cancel::check()?;
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Kinded::new(
                        ErrorKind::Busy,
                        "another process cleans up the cache",
                    )
                    .into());
                }
                Err(TryLockError::Error(error)) => return Err(error).context("locking the cache"),
            }
        }
    }
}

/// Holds libostree's own shared lock, so that an `ostree prune` from outside waits.
#[derive(Debug)]
pub(crate) struct RepoGuard {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RepoGuard {
    /// Takes the lock. The thread is needed because a repository object can't change threads.
    pub(crate) fn start(handle: &RepoHandle) -> Result<Self> {
        let (stop, stopped) = channel::<()>();
        let (ready, started) = channel();
        let private = RepoHandle::new(handle.path().to_owned(), false);
        let hold = move || {
            let repo = match private.open() {
                Ok(repo) => repo,
                Err(error) => return drop(ready.send(Err(error))),
            };
            match repo.auto_transaction(gio::Cancellable::NONE) {
                Ok(_transaction) => {
                    drop(ready.send(Ok(())));
                    // Ends when the sender is dropped.
                    let _ended = stopped.recv();
                }
                Err(error) => drop(ready.send(Err(storage(error)))),
            }
        };
        let builder = std::thread::Builder::new().name("repo-lock".to_owned());
        let thread = builder.spawn(hold).context("starting a thread")?;
        started
            .recv()
            .unwrap_or_else(|_| Err(anyhow!("locking the repository")))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for RepoGuard {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
