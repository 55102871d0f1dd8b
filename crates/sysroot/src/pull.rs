//! Fetching commits with libostree.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use apt_ostree_fsx::cancel;
use apt_ostree_model::{Event, Reporter, Step};
use ostree::glib::{Variant, VariantDict};
use ostree::prelude::*;
use ostree::{AsyncProgress, RepoPullFlags, gio};

use crate::error;
use crate::system::LockedSysroot;

/// What to fetch.
#[derive(Debug)]
pub(crate) struct Pull<'a> {
    /// A remote, or the URL of a repository.
    pub(crate) from: &'a str,
    /// A branch or checksum there.
    pub(crate) reference: &'a str,
    /// The commit that the branch shall be at; `None`: its newest.
    pub(crate) commit: Option<&'a str>,
    /// Without trees.
    pub(crate) commit_only: bool,
    /// How many commits before it.
    pub(crate) depth: i32,
}

impl LockedSysroot {
    /// Fetches a commit; returns the bytes that were transferred.
    pub(crate) fn pull(&self, pull: &Pull<'_>, reporter: &dyn Reporter) -> Result<u64> {
        let options = VariantDict::new(None);
        let mut flags = RepoPullFlags::NONE;
        if pull.commit_only {
            flags |= RepoPullFlags::COMMIT_ONLY;
        }
        if pull.from.starts_with("file://") {
            flags |= RepoPullFlags::UNTRUSTED;
        }
        options.insert("flags", flags.bits().cast_signed());
        options.insert_value("refs", &[pull.reference].to_variant());
        options.insert("depth", pull.depth);
        // A delta is one more format to trust, and not all servers make them.
        options.insert("disable-static-deltas", true);
        if let Some(commit) = pull.commit {
            options.insert_value("override-commit-ids", &[commit].to_variant());
        }
        let options: Variant = options.end();
        // An error may leave libostree's own progress of the fetch behind; ours ends here.
        let progress = AsyncProgress::new();
        let watch = CancelWatch::start();
        let result = report_progress(&progress, reporter, || {
            self.repo().pull_with_options(
                pull.from,
                &options,
                Some(&progress),
                Some(&watch.cancellable),
            )
        });
        drop(watch);
        result.map_err(|e| error::fetch(&e)).with_context(|| {
            let shown = apt_ostree_fsx::escape_cut(pull.reference, 120);
            format!(
                "pulling '{shown}' from '{}'",
                apt_ostree_fsx::escape_cut(pull.from, 200)
            )
        })?;
        Ok(progress.uint64("bytes-transferred"))
    }
}

/// Runs `work` and tells about `progress` meanwhile.
fn report_progress<T>(
    progress: &AsyncProgress,
    reporter: &dyn Reporter,
    work: impl FnOnce() -> T,
) -> T {
    std::thread::scope(|scope| {
        let (send, receive) = std::sync::mpsc::channel();
        // The signal's handler outlives its borrows as far as the type system knows, so it only
        // passes numbers on.
        let handler = progress.connect_changed(move |progress| {
            let _ = send.send((
                u64::from(progress.uint("fetched")),
                u64::from(progress.uint("requested")),
            ));
        });
        scope.spawn(move || {
            for (done, total) in receive {
                reporter.report(Event::StepProgress {
                    step: Step::Pull,
                    done,
                    total,
                    bytes: false,
                    item: None,
                });
            }
        });
        let result = work();
        progress.finish();
        progress.disconnect(handler);
        result
    })
}

/// A cancellable that follows the process-wide flag.
struct CancelWatch {
    cancellable: gio::Cancellable,
    stop: Arc<AtomicBool>,
}

impl CancelWatch {
    fn start() -> Self {
        let watch = Self {
            cancellable: gio::Cancellable::new(),
            stop: Arc::new(AtomicBool::new(false)),
        };
        let (cancellable, stop) = (watch.cancellable.clone(), Arc::clone(&watch.stop));
        // Without the thread a fetch can't be interrupted, but it still works.
        let thread = std::thread::Builder::new()
            .name("cancel-watch".to_owned())
            .spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if cancel::cancelled() {
                        cancellable.cancel();
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
        drop(thread);
        watch
    }
}

impl Drop for CancelWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
