//! One libostree repository, used from several threads.
//!
//! libostree's repository object is bound to a thread in Rust, so each thread opens its own on
//! first use and keeps it. Several of them on one repository are as safe as several processes.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use ostree::{Repo, gio};

use crate::error::storage;

/// How many repositories a thread keeps open.
const MAX_OPEN: usize = 4;

static NEXT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static OPEN: RefCell<Vec<(u64, Repo)>> = const { RefCell::new(Vec::new()) };
}

/// A repository by its path.
#[derive(Debug)]
pub(crate) struct RepoHandle {
    path: Utf8PathBuf,
    id: u64,
    fsync: bool,
}

impl RepoHandle {
    /// A handle of the repository at `path`; `fsync` says whether writes are synced.
    pub(crate) fn new(path: Utf8PathBuf, fsync: bool) -> Self {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { path, id, fsync }
    }

    /// Where the repository is.
    pub(crate) fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// This thread's repository object.
    pub(crate) fn repo(&self) -> Result<Repo> {
        OPEN.with_borrow_mut(|open| {
            if let Some((_, repo)) = open.iter().find(|(id, _)| *id == self.id) {
                return Ok(repo.clone());
            }
            let repo = self.open()?;
            if open.len() >= MAX_OPEN {
                open.remove(0);
            }
            open.push((self.id, repo.clone()));
            Ok(repo)
        })
    }

    /// A repository object of its own, for a transaction that others don't share.
    pub(crate) fn open(&self) -> Result<Repo> {
        let repo = Repo::new_for_path(&self.path);
        repo.open(gio::Cancellable::NONE).map_err(storage)?;
        if !self.fsync {
            repo.set_disable_fsync(true);
        }
        Ok(repo)
    }
}

impl Drop for RepoHandle {
    fn drop(&mut self) {
        // Other threads drop theirs when they end or open more.
        let _ = OPEN.try_with(|open| {
            if let Ok(mut open) = open.try_borrow_mut() {
                open.retain(|(id, _)| *id != self.id);
            }
        });
    }
}
