//! A system, opened for a verb, and what its changes build upon.

use anyhow::Result;
use apt_ostree_model::client::{DeployReport, Target, TransactionOptions};
use apt_ostree_model::compose::PackageDiff;
use apt_ostree_model::origin::Origin;
use apt_ostree_model::{Reporter, Step};
use apt_ostree_sysroot::{
    CommitInfo, Deployment, KernelArguments, LockedSysroot, NewDeployment, Sysroot,
};
use camino::Utf8PathBuf;

use super::image;
use super::journal;
use super::layering;
use crate::compose::context::utf8;

/// A locked system and the stateroot to work on.
#[derive(Debug)]
pub(super) struct System {
    pub(super) sysroot: LockedSysroot,
    pub(super) stateroot: String,
}

/// The deployment that changes build upon.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) deployment: Deployment,
    pub(super) commit: CommitInfo,
    pub(super) origin: Origin,
}

/// Opens a system to read from.
pub(super) fn open(target: &Target) -> Result<Sysroot> {
    Sysroot::open(path(target)?.as_deref())
}

/// Opens a system to read from, with writable caches.
pub(super) fn open_caches(target: &Target) -> Result<Sysroot> {
    Sysroot::open_caches(path(target)?.as_deref())
}

impl System {
    /// Opens and locks a system.
    pub(super) fn lock(target: &Target) -> Result<Self> {
        let sysroot = LockedSysroot::open(path(target)?.as_deref())?;
        let stateroot = sysroot.stateroot(target.stateroot.as_deref())?;
        Ok(Self { sysroot, stateroot })
    }

    /// What changes build upon.
    pub(super) fn before(&self) -> Result<Before> {
        let deployment = self.sysroot.merge_deployment(&self.stateroot)?;
        Before::new(&self.sysroot, deployment)
    }

    /// Compares a commit with its checksums and makes it boot next; then removes what nothing
    /// needs any more. Objects that `known`, a deployed commit, has are not compared again.
    pub(super) fn deploy(
        &self,
        new: &NewCommit<'_>,
        options: &TransactionOptions,
        reporter: &dyn Reporter,
    ) -> Result<Deployment> {
        self.sysroot
            .verify_commit(new.commit, new.known, reporter)?;
        let deployment = self.sysroot.deploy(
            &NewDeployment {
                stateroot: &self.stateroot,
                commit: new.commit,
                origin: new.origin,
                kargs: new.kargs,
                lock_finalization: options.lock_finalization,
            },
            reporter,
        )?;
        let info = self.sysroot.commit(new.commit)?;
        let about = (&info, new.origin);
        journal::deployed(&self.sysroot, &deployment, about, &options.command_line);
        self.clean_up(reporter);
        Ok(deployment)
    }

    /// What is not needed any more costs space only: the deployment is there, so that it could not
    /// be removed is a warning.
    fn clean_up(&self, reporter: &dyn Reporter) {
        let removed = reporter.step(Step::Cleanup, || {
            self.sysroot.remove_temporary_refs()?;
            image::drop_unused(&self.sysroot)?;
            layering::drop_unused(&self.sysroot, layering::KEPT)?;
            let bytes = self.sysroot.prune()?;
            Ok::<_, anyhow::Error>(((), format!("{bytes} bytes freed")))
        });
        if let Err(error) = removed {
            reporter.warning(format!("Cleaning up failed: {error:#}"));
        }
    }
}

/// A commit to deploy.
#[derive(Debug)]
pub(super) struct NewCommit<'a> {
    pub(super) commit: &'a str,
    pub(super) origin: &'a Origin,
    /// `None`: as before.
    pub(super) kargs: Option<&'a KernelArguments>,
    pub(super) known: Option<&'a str>,
}

impl Before {
    pub(super) fn new(sysroot: &Sysroot, deployment: Deployment) -> Result<Self> {
        Ok(Self {
            commit: sysroot.commit(&deployment.commit())?,
            origin: deployment.origin()?,
            deployment,
        })
    }

    /// A report about a commit that is there and would take, or has taken, the place of this one.
    pub(super) fn report(
        &self,
        new: &CommitInfo,
        pkgdiff: Option<Vec<PackageDiff>>,
    ) -> DeployReport {
        DeployReport {
            checksum: new.checksum.clone(),
            version: new.version.clone(),
            staged: false,
            pkgdiff: pkgdiff.unwrap_or_else(|| super::db::difference(&self.commit, new)),
            ..DeployReport::default()
        }
    }
}

/// The sysroot as an absolute path; `None`: that of the running system.
fn path(target: &Target) -> Result<Option<Utf8PathBuf>> {
    target.sysroot.as_deref().map(utf8).transpose()
}
