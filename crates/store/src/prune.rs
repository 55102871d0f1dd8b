//! Making the cache smaller.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use apt_ostree_model::{ErrorKind, Kinded};
use fn_error_context::context;
use ostree::gio;

use crate::CacheRepo;
use crate::error::storage;
use crate::lock::RepoGuard;
use crate::manifest::PREFIX;

/// What a clean-up did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Packages and trees that were dropped.
    pub refs: usize,
    /// Objects that were deleted.
    pub objects: u64,
    /// Bytes that were freed.
    pub bytes: u64,
}

impl CacheRepo {
    /// Drops packages and trees that were not used for `max_age`, and all objects that nothing
    /// needs any more.
    ///
    /// # Errors
    /// When someone else uses the cache, or it can't be changed.
    #[context("cleaning up the cache")]
    pub fn prune(&self, max_age: Duration) -> Result<Pruned> {
        let mut guard = self
            .guard
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *guard = None;
        let result = self.prune_alone(max_age);
        self.lock.share()?;
        *guard = Some(RepoGuard::start(&self.handle)?);
        result
    }

    fn prune_alone(&self, max_age: Duration) -> Result<Pruned> {
        if !self.lock.try_alone()? {
            return Err(Kinded::new(ErrorKind::Busy, "another process uses the cache").into());
        }
        let repo = self.repo()?;
        let none = gio::Cancellable::NONE;
        let refs = repo
            .list_refs_ext(Some(PREFIX), ostree::RepoListRefsExtFlags::NONE, none)
            .map_err(storage)?;
        let mut pruned = Pruned::default();
        for name in refs.keys() {
            if self.age(name)? > max_age {
                self.drop_ref(name)?;
                pruned.refs += 1;
            }
        }
        let (_, objects, bytes) = repo
            .prune(ostree::RepoPruneFlags::REFS_ONLY, 0, none)
            .map_err(storage)?;
        pruned.objects = u64::try_from(objects).unwrap_or_default();
        pruned.bytes = bytes;
        Ok(pruned)
    }

    /// How long ago a ref was used.
    fn age(&self, name: &str) -> Result<Duration> {
        let path = self.path().join("refs/heads").join(name);
        let used = std::fs::metadata(&path)
            .and_then(|m| m.modified())
            .with_context(|| format!("reading '{path}'"))?;
        // A time in the future is no age.
        Ok(SystemTime::now().duration_since(used).unwrap_or_default())
    }
}
