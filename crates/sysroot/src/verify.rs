//! Whether the objects of a commit are what their checksums say.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use apt_ostree_fsx::cancel;
use apt_ostree_model::{ErrorKind, Event, Kinded, Reporter, Step};
use ostree::{ObjectType, Repo, gio};

use crate::error;
use crate::system::Sysroot;

/// Objects that a thread takes at a time.
const CHUNK: usize = 64;

impl Sysroot {
    /// Compares every object of a commit with its checksum. The objects that `known`, a commit
    /// that was compared before, has as well are left out.
    ///
    /// # Errors
    /// [`ErrorKind::Verification`] naming the first object that is missing or damaged.
    pub fn verify_commit(
        &self,
        checksum: &str,
        known: Option<&str>,
        reporter: &dyn Reporter,
    ) -> Result<()> {
        reporter.step(Step::Verify, || {
            let mut objects = self.objects(checksum)?;
            if let Some(known) = known {
                for object in self.objects(known)? {
                    objects.remove(&object);
                }
            }
            let objects: Vec<_> = objects.into_iter().collect();
            self.verify_objects(&objects, reporter)
                .with_context(|| format!("checking commit {checksum}"))?;
            Ok(((), format!("{} objects", objects.len())))
        })
    }

    fn objects(&self, checksum: &str) -> Result<HashSet<(String, ObjectType)>> {
        let none = gio::Cancellable::NONE;
        let objects = self.repo().traverse_commit(checksum, 0, none);
        let objects = objects.map_err(|e| damaged(&e))?;
        Ok(objects
            .into_iter()
            .map(|o| (o.checksum().to_owned(), o.object_type()))
            .collect())
    }

    fn verify_objects(
        &self,
        objects: &[(String, ObjectType)],
        reporter: &dyn Reporter,
    ) -> Result<()> {
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let failure: Mutex<Option<anyhow::Error>> = Mutex::new(None);
        let path = self.repo_path();
        let work = || -> Result<()> {
            let none = gio::Cancellable::NONE;
            let repo = Repo::new_for_path(&path);
            repo.open(none).map_err(|e| error::ostree(&e))?;
            loop {
                let start = next.fetch_add(CHUNK, Ordering::Relaxed);
                let Some(chunk) = objects.get(start..objects.len().min(start + CHUNK)) else {
                    return Ok(());
                };
                if chunk.is_empty() {
                    return Ok(());
                }
                cancel::check()?;
                for (checksum, kind) in chunk {
                    repo.fsck_object(*kind, checksum, none)
                        .map_err(|e| damaged(&e))?;
                }
                let done = done.fetch_add(chunk.len(), Ordering::Relaxed) + chunk.len();
                reporter.report(progress(done, objects.len()));
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    if let Err(error) = work() {
                        // The others end at their next chunk.
                        next.store(objects.len(), Ordering::Relaxed);
                        failure
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .get_or_insert(error);
                    }
                });
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

fn progress(done: usize, total: usize) -> Event {
    Event::StepProgress {
        step: Step::Verify,
        done: done as u64,
        total: total as u64,
        bytes: false,
        item: None,
    }
}

fn damaged(error: &ostree::glib::Error) -> anyhow::Error {
    let message = apt_ostree_fsx::escape(error.message());
    Kinded::new(ErrorKind::Verification, message)
        .with_hint("remove what is damaged with 'ostree fsck --delete' and fetch it again")
        .into()
}
