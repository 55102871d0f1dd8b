//! One deployment.

use anyhow::{Context as _, Result};
use apt_ostree_model::origin::Origin;
use ostree::DeploymentUnlockedState;
use ostree::glib::{Bytes, Variant, VariantDict};

use crate::finalize::{STAGED, STAGED_LOCKED};
use crate::kargs::KernelArguments;
use crate::origin;

/// A commit that is, or at the next shutdown will be, ready to boot.
#[derive(Debug, Clone)]
pub struct Deployment {
    pub(crate) inner: ostree::Deployment,
}

impl Deployment {
    pub(crate) const fn new(inner: ostree::Deployment) -> Self {
        Self { inner }
    }

    /// `STATEROOT-CHECKSUM.SERIAL`.
    pub fn id(&self) -> String {
        format!("{}-{}.{}", self.stateroot(), self.commit(), self.serial())
    }

    /// The commit.
    pub fn commit(&self) -> String {
        self.inner.csum().into()
    }

    /// The stateroot.
    pub fn stateroot(&self) -> String {
        self.inner.osname().into()
    }

    /// Counts deployments of one commit in one stateroot.
    pub fn serial(&self) -> i32 {
        self.inner.deployserial()
    }

    /// Whether a shutdown has yet to write it.
    pub fn is_staged(&self) -> bool {
        self.inner.is_staged()
    }

    /// Whether it is kept until it is unpinned.
    pub fn is_pinned(&self) -> bool {
        self.inner.is_pinned()
    }

    /// Whether two handles are of one deployment.
    pub fn is(&self, other: &Self) -> bool {
        self.id() == other.id()
    }

    /// Whether it is staged, and a shutdown leaves it alone until it is unlocked.
    pub fn is_finalization_locked(&self) -> bool {
        self.is_staged() && (std::path::Path::new(STAGED_LOCKED).exists() || locked_inside())
    }

    /// `none`, `development`, `hotfix` or `transient`.
    pub fn unlocked(&self) -> &'static str {
        match self.inner.unlocked() {
            DeploymentUnlockedState::Development => "development",
            DeploymentUnlockedState::Hotfix => "hotfix",
            DeploymentUnlockedState::Transient => "transient",
            _ => "none",
        }
    }

    /// What it follows and has on top.
    ///
    /// # Errors
    /// When its origin file has values that can't be.
    pub fn origin(&self) -> Result<Origin> {
        let file = self.inner.origin().unwrap_or_default();
        origin::from_key_file(&file)
            .with_context(|| format!("reading the origin of deployment '{}'", self.id()))
    }

    /// Its kernel arguments, without the one by which libostree finds it.
    pub fn kernel_arguments(&self) -> KernelArguments {
        let options = self.inner.bootconfig().and_then(|c| c.get("options"));
        KernelArguments::parse(options.as_deref().unwrap_or_default())
    }

    /// The keys of its boot loader entry that are set.
    pub fn boot_entry(&self) -> Vec<(String, String)> {
        const KEYS: [&str; 6] = [
            "title",
            "version",
            "linux",
            "initrd",
            "devicetree",
            "options",
        ];
        let config = self.inner.bootconfig();
        let value = |key: &str| Some((key.to_owned(), config.as_ref()?.get(key)?.to_string()));
        KEYS.iter().filter_map(|key| value(key)).collect()
    }
}

/// Newer libostree keeps the lock in the description of what is staged.
fn locked_inside() -> bool {
    std::fs::read(STAGED)
        .map(|data| {
            let variant = Variant::from_bytes::<std::collections::HashMap<String, Variant>>(
                &Bytes::from_owned(data),
            );
            VariantDict::new(Some(&variant))
                .lookup::<bool>("locked")
                .ok()
                .flatten()
                .unwrap_or(false)
        })
        .unwrap_or(false)
}
