//! Removing deployments and what nobody uses.

use anyhow::{Context as _, Result};
use ostree::{RepoPruneFlags, gio};

use crate::deployment::Deployment;
use crate::error;
use crate::system::{LockedSysroot, Sysroot};

/// Prefix of refs that keep a commit from when it was fetched until it is deployed.
pub const TEMPORARY_REFS: &str = "aptostree/base";

/// What to remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CleanupOptions {
    /// Temporary refs.
    pub base: bool,
    /// Deployments that would boot next, before the booted one.
    pub pending: bool,
    /// Deployments after the booted one.
    pub rollback: bool,
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// How many deployments.
    pub deployments: usize,
    /// Bytes of objects.
    pub bytes: u64,
}

impl Sysroot {
    /// The deployments of a stateroot that a clean-up removes: never the booted one, the one that
    /// boots when the system does not run, or one that is pinned.
    fn removable(&self, stateroot: &str, options: CleanupOptions) -> Vec<Deployment> {
        let own = self.deployments_of(stateroot);
        let booted = self.booted();
        let stays = booted
            .as_ref()
            .and_then(|b| own.iter().position(|d| d.is(b)));
        // The booted one may be of another stateroot; nothing here runs then.
        let stays = stays.unwrap_or(0);
        own.into_iter()
            .enumerate()
            .filter(|(at, deployment)| {
                let asked = *at < stays && options.pending || *at > stays && options.rollback;
                asked && !deployment.is_pinned()
            })
            .map(|(_, deployment)| deployment)
            .collect()
    }
}

impl LockedSysroot {
    /// Removes what `options` say, and then all objects that nothing needs any more.
    ///
    /// # Errors
    /// When the deployments or the repository can't be changed.
    pub fn cleanup(&self, stateroot: &str, options: CleanupOptions) -> Result<Cleaned> {
        let removable = self.removable(stateroot, options);
        if !removable.is_empty() {
            let mut stay = self.deployments();
            stay.retain(|d| !removable.iter().any(|r| r.is(d)));
            self.write_order(&stay).context("removing deployments")?;
        }
        if options.base {
            self.remove_temporary_refs()?;
        }
        Ok(Cleaned {
            deployments: removable.len(),
            bytes: self.prune()?,
        })
    }

    /// Removes directories of old deployments, and objects that no deployment and no ref needs;
    /// returns how many bytes of objects went.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn prune(&self) -> Result<u64> {
        let none = gio::Cancellable::NONE;
        self.inner
            .prepare_cleanup(none)
            .map_err(|e| error::ostree(&e))
            .context("removing old deployments")?;
        let (_, _, bytes) = self
            .repo()
            .prune(RepoPruneFlags::REFS_ONLY, 0, none)
            .map_err(|e| error::ostree(&e))
            .context("removing unused objects")?;
        Ok(bytes)
    }

    /// Drops the refs that kept fetched commits; what is deployed needs them no more.
    ///
    /// # Errors
    /// When they can't be removed.
    pub fn remove_temporary_refs(&self) -> Result<()> {
        let none = gio::Cancellable::NONE;
        let repo = self.repo();
        let names = repo
            .list_refs_ext(
                Some(TEMPORARY_REFS),
                ostree::RepoListRefsExtFlags::NONE,
                none,
            )
            .map_err(|e| error::ostree(&e))
            .context("listing refs")?;
        for name in names.keys() {
            repo.set_ref_immediate(None, name, None, none)
                .map_err(|e| error::ostree(&e))
                .with_context(|| format!("removing ref '{name}'"))?;
        }
        Ok(())
    }
}
