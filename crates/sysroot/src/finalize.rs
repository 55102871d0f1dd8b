//! Letting a shutdown write what is staged.

use std::path::Path;

use anyhow::{Context as _, Result};
use apt_ostree_fsx::Cmd;

use crate::deployment::Deployment;
use crate::error::invalid;
use crate::system::LockedSysroot;

const RUN_STATE: &str = "/run/ostree";
/// Where libostree describes what is staged.
pub(crate) const STAGED: &str = "/run/ostree/staged-deployment";
/// While this file is there, a shutdown leaves what is staged alone.
pub(crate) const STAGED_LOCKED: &str = "/run/ostree/staged-deployment-locked";

/// Stages something by `work`, locked or not. libostree before 2023.8 knows the lock only as a
/// file: it is there before what is staged is, so that no shutdown comes between.
pub(crate) fn with_lock<T>(locked: bool, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let was_locked = Path::new(STAGED_LOCKED).exists();
    if locked {
        std::fs::create_dir_all(RUN_STATE)
            .and_then(|()| std::fs::write(STAGED_LOCKED, ""))
            .with_context(|| format!("writing '{STAGED_LOCKED}'"))?;
    }
    let result = work();
    if result.is_err() && locked && !was_locked || result.is_ok() && !locked {
        remove_lock()?;
    }
    result
}

fn remove_lock() -> Result<()> {
    match std::fs::remove_file(STAGED_LOCKED) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing '{STAGED_LOCKED}'"))
        }
        _ => Ok(()),
    }
}

/// What must hold before something is finalized.
#[derive(Debug, Clone, Copy)]
pub struct FinalizeCheck<'a> {
    /// The base commit that must be staged; `None`: any.
    pub checksum: Option<&'a str>,
    /// It need not be locked.
    pub allow_unlocked: bool,
}

impl LockedSysroot {
    /// The staged deployment, when it may be finalized.
    ///
    /// # Errors
    /// When nothing is staged, it is another commit, or is not locked.
    pub fn require_finalizable(&self, check: &FinalizeCheck<'_>) -> Result<Deployment> {
        let staged = self
            .staged()
            .ok_or_else(|| invalid("no deployment is staged"))?;
        let commit = self.commit(&staged.commit())?;
        let (checksum, base) = (commit.checksum.as_str(), commit.base());
        if let Some(wanted) = check.checksum.filter(|w| *w != base && *w != checksum) {
            let wanted = apt_ostree_fsx::escape_cut(wanted, 80);
            return Err(invalid(format!("commit {base} is staged, not '{wanted}'")).into());
        }
        if !check.allow_unlocked && !staged.is_finalization_locked() {
            return Err(invalid("the staged deployment is not locked")
                .with_hint("allow that with --allow-unlocked")
                .into());
        }
        Ok(staged)
    }

    /// Lets the next shutdown write what is staged, as the last thing that is done to the system.
    ///
    /// # Errors
    /// When the lock can't be removed.
    pub fn unlock_finalization(self, staged: &Deployment) -> Result<()> {
        remove_lock()?;
        if staged.is_finalization_locked() {
            // libostree from 2023.8 on keeps the lock elsewhere, behind a call that the oldest
            // supported one lacks. The command waits for the lock of the system, which is ours.
            drop(self);
            Cmd::new("ostree")
                .args(["admin", "lock-finalization", "--unlock"])
                .run()?;
        }
        Ok(())
    }
}
