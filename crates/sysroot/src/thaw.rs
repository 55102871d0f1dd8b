//! `/boot` thaws, whatever happens.
//!
//! Before it changes what boots, libostree freezes and thaws the file system of `/boot`, because
//! boot loaders don't read its journal. Its own watchdog is content when the main process is gone,
//! so SIGKILL in between would leave the file system, often that of everything, frozen for good.

use anyhow::{Context as _, Result};
use apt_ostree_fsx::Heir;

use crate::system::LockedSysroot;

impl LockedSysroot {
    /// Runs `work`, which may freeze `/boot`. Should it fail, or this process die, someone else
    /// thaws it.
    pub(crate) fn thawed_in_the_end<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let boot = self.path().join("boot");
        let heir = Heir::wait_for_death("fsfreeze", &["--unfreeze", boot.as_str()])
            .context("guarding '/boot'")?;
        let done = work()?;
        heir.dismiss();
        Ok(done)
    }
}
