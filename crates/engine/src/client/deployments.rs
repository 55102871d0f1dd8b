//! `status`, `rollback`, `cleanup` and `finalize-deployment`: what is done with deployments that
//! are there.

use std::time::Duration;

use anyhow::Result;
use apt_ostree_model::client::{
    CleanupRequest, ClientOutcome, FinalizeRequest, RollbackRequest, StatusRequest,
};
use apt_ostree_model::{ErrorKind, Kinded, Reporter, Step};
use apt_ostree_sysroot::{Cleaned, CleanupOptions, FinalizeCheck};

use super::system::{self, System};
use super::{cached, image, layering};

/// Tells what is deployed.
pub(super) fn status(request: &StatusRequest) -> Result<ClientOutcome> {
    let sysroot = system::open(&request.target)?;
    let mut status = sysroot.status()?;
    status.cached_update = cached::read(&sysroot);
    Ok(ClientOutcome::Status(Box::new(status)))
}

/// Boots the other deployment next.
pub(super) fn rollback(
    request: &RollbackRequest,
    reporter: &dyn Reporter,
) -> Result<ClientOutcome> {
    let system = System::lock(&request.target)?;
    let before = system.before()?;
    let target = system.sysroot.rollback_target(&system.stateroot)?;
    let commit = system.sysroot.commit(&target.commit())?;
    let mut report = before.report(&commit, None);
    if request.options.dry_run {
        return Ok(ClientOutcome::Planned(report));
    }
    reporter.step(Step::Deploy, || {
        let target = system.sysroot.rollback(&system.stateroot)?;
        Ok::<_, anyhow::Error>(((), target.id()))
    })?;
    report.reboot = request.options.reboot;
    Ok(ClientOutcome::Deployed(report))
}

/// Removes deployments and what nobody needs.
pub(super) fn cleanup(request: &CleanupRequest, reporter: &dyn Reporter) -> Result<ClientOutcome> {
    if !(request.base || request.pending || request.rollback || request.repomd) {
        return Err(
            Kinded::new(ErrorKind::Usage, "nothing to clean up was named")
                .with_hint("name --base, --pending, --rollback or --repomd")
                .into(),
        );
    }
    let system = System::lock(&request.target)?;
    let cleaned = reporter.step(Step::Cleanup, || {
        let options = CleanupOptions {
            base: request.base,
            pending: request.pending,
            rollback: request.rollback,
        };
        let mut cleaned = Cleaned::default();
        if options != CleanupOptions::default() {
            cleaned = system.sysroot.cleanup(&system.stateroot, options)?;
            image::drop_unused(&system.sysroot)?;
            cleaned.bytes += system.sysroot.prune()?;
        }
        if request.repomd {
            cleaned.bytes += layering::clear_cache(&system.sysroot)?;
        }
        let all = request.base || request.repomd;
        let unused = if all { Duration::ZERO } else { layering::KEPT };
        if layering::drop_unused(&system.sysroot, unused)? > 0 {
            cleaned.bytes += system.sysroot.prune()?;
        }
        let summary = format!("{} deployments", cleaned.deployments);
        Ok::<_, anyhow::Error>((cleaned, summary))
    })?;
    Ok(ClientOutcome::Cleaned {
        bytes: cleaned.bytes,
        deployments: cleaned.deployments,
    })
}

/// Lets a shutdown write what is staged.
pub(super) fn finalize(request: &FinalizeRequest) -> Result<ClientOutcome> {
    let usage = |message: &str| Err(Kinded::new(ErrorKind::Usage, message).into());
    if request.checksum.is_none() && !request.allow_missing_checksum {
        return usage("the checksum of what is to be finalized is missing");
    }
    if request.checksum.is_some() && request.allow_missing_checksum {
        return usage("a checksum is given and allowed to be missing");
    }
    let system = System::lock(&request.target)?;
    let before = system.before()?;
    let staged = system.sysroot.require_finalizable(&FinalizeCheck {
        checksum: request.checksum.as_deref(),
        allow_unlocked: request.allow_unlocked,
    })?;
    let commit = system.sysroot.commit(&staged.commit())?;
    let mut report = before.report(&commit, Some(Vec::new()));
    report.staged = true;
    if request.options.dry_run {
        return Ok(ClientOutcome::Planned(report));
    }
    system.sysroot.unlock_finalization(&staged)?;
    // Finalizing is what a reboot does.
    report.reboot = true;
    Ok(ClientOutcome::Deployed(report))
}
