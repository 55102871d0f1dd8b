//! Keeps the cache within limits. What a compose uses is noted as used and safe for a day, also
//! from composes of other processes; how much of the rest stays is listed here and, for apt's
//! state, in the apt crate.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use apt_ostree_fsx::prune::{Limits, Pruned, prune_files};
use apt_ostree_model::{ErrorKind, Kinded};
use apt_ostree_oci::BlobCache;

use super::context::Run;

/// Imported packages and configured states.
const STORE: Limits = Limits::new(40 << 30);
/// Downloaded packages.
const DEBS: Limits = Limits::new(20 << 30);
/// Compressed layers.
pub(super) const BLOBS: Limits = Limits::new(20 << 30);
/// What is known of finished composes.
const COMPOSED: Limits = Limits::new(64 << 20);

/// Looking at a large cache takes a second, so it is not done for each compose.
const EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes what is too old or too much, once a day. A compose that has succeeded does not fail
/// for it.
pub(super) fn clean(run: &Run<'_>) {
    if let Err(error) = clean_when_due(run) {
        run.reporter.warning(format!("{error:#}"));
    }
}

fn clean_when_due(run: &Run<'_>) -> Result<()> {
    let stamp = run.cachedir.join("cleaned");
    let last = std::fs::metadata(&stamp).and_then(|meta| meta.modified());
    // A stamp from the future is as good as none.
    let age = last.ok().and_then(|last| last.elapsed().ok());
    if age.is_some_and(|age| age < EVERY) {
        return Ok(());
    }
    // A new cache has nothing to remove.
    let new = age.is_none();
    if new || remove(run)? {
        let file = std::fs::File::create(&stamp).with_context(|| format!("writing '{stamp}'"))?;
        file.set_modified(SystemTime::now())?;
    }
    Ok(())
}

/// Removes what has to go; false when some of it is for another time, because another process
/// uses the cache.
fn remove(run: &Run<'_>) -> Result<bool> {
    let dir = &run.cachedir;
    let mut pruned = apt_ostree_apt::prune_debs(&dir.join("debs"), &DEBS)?;
    let composed = dir.join("composed");
    pruned += prune_files(&composed, &COMPOSED, |_| true)
        .with_context(|| format!("pruning '{composed}'"))?;
    pruned += BlobCache::open(dir.as_std_path())?.prune(&BLOBS)?;
    let store = run.store.prune(&STORE);
    let busy = matches!(&store, Err(error) if is_busy(error));
    if !busy {
        pruned += store?;
    }
    if pruned != Pruned::default() {
        run.reporter.detail(format!(
            "removed {} files and trees from the cache, {:.1} MB",
            pruned.count,
            super::build::megabytes(pruned.bytes)
        ));
    }
    Ok(!busy)
}

fn is_busy(error: &anyhow::Error) -> bool {
    let kinded = error.downcast_ref::<Kinded>();
    kinded.is_some_and(|kinded| kinded.kind == ErrorKind::Busy)
}
