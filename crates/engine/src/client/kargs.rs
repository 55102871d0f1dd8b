//! `kargs`: kernel arguments of a deployment.

use anyhow::Result;
use apt_ostree_model::Reporter;
use apt_ostree_model::client::{ClientOutcome, KargsRequest};
use apt_ostree_sysroot::{Deployment, KargsChange, KernelArguments, Sysroot};

use super::system::{self, Before, NewCommit, System};

/// Prints or changes them.
pub(super) fn kargs(request: &KargsRequest, reporter: &dyn Reporter) -> Result<ClientOutcome> {
    let change = KargsChange::new(request)?;
    if change.is_empty() {
        let sysroot = system::open(&request.target)?;
        let stateroot = sysroot.stateroot(request.target.stateroot.as_deref())?;
        let kargs = chosen(&sysroot, &stateroot, request)?.kernel_arguments();
        return Ok(ClientOutcome::Kargs {
            kargs: kargs.to_string(),
        });
    }
    let system = System::lock(&request.target)?;
    let deployment = chosen(&system.sysroot, &system.stateroot, request)?;
    let current = if request.import_proc_cmdline {
        KernelArguments::of_running_kernel()?
    } else {
        deployment.kernel_arguments()
    };
    let kargs = change.apply(&current)?;
    if kargs == deployment.kernel_arguments() {
        return Ok(ClientOutcome::Unchanged {
            message: "No changes.".to_owned(),
        });
    }
    let before = Before::new(&system.sysroot, deployment)?;
    let mut report = before.report(&before.commit, Some(Vec::new()));
    if request.options.dry_run {
        return Ok(ClientOutcome::Planned(report));
    }
    let new = NewCommit {
        commit: &before.commit.checksum,
        origin: &before.origin,
        kargs: Some(&kargs),
        known: Some(&before.commit.checksum),
    };
    let deployment = system.deploy(&new, &request.options, reporter)?;
    report.staged = deployment.is_staged();
    report.reboot = request.options.reboot;
    Ok(ClientOutcome::Deployed(report))
}

fn chosen(sysroot: &Sysroot, stateroot: &str, request: &KargsRequest) -> Result<Deployment> {
    match request.deploy_index {
        Some(index) => sysroot.deployment_at(index),
        None => sysroot.merge_deployment(stateroot),
    }
}
