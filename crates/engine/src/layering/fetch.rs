//! Getting packages: downloads, and the import into the repository.

use anyhow::Result;
use apt_ostree_model::{ErrorKind, ImportedPackage, Kinded, Plan, Step};
use apt_ostree_store::Import;
use camino::Utf8PathBuf;

use super::LayerJob;
use super::solve::{Chosen, debs_dir};
use crate::compose::build::{import_requests, megabytes, run_import};
use crate::compose::context::Run;

/// Packages that are there.
pub(super) struct Fetched {
    /// The packages, in the order of the plan.
    pub(super) packages: Vec<ImportedPackage>,
    /// Where their `.deb` files are, or would be: those of imported packages may be gone.
    pub(super) debs: Vec<Utf8PathBuf>,
}

/// Gets the packages of the plan; `downloaded` counts the bytes.
pub(super) fn fetch(
    run: &Run<'_>,
    job: &LayerJob<'_>,
    chosen: &Chosen,
    downloaded: &mut u64,
) -> Result<Fetched> {
    match try_fetch(run, job, chosen, downloaded) {
        Err(error) if is_verification(&error) && !job.cache_only => {
            // A downloaded file that is not what it was: get it again.
            let plan = &chosen.additions.plan;
            if chosen.session.discard_damaged(plan, run.reporter)? == 0 {
                return Err(error);
            }
            try_fetch(run, job, chosen, downloaded)
        }
        result => result,
    }
}

fn is_verification(error: &anyhow::Error) -> bool {
    let mut kinds = error.chain().filter_map(|e| e.downcast_ref::<Kinded>());
    kinds.any(|cause| cause.kind == ErrorKind::Verification)
}

fn try_fetch(
    run: &Run<'_>,
    job: &LayerJob<'_>,
    chosen: &Chosen,
    downloaded: &mut u64,
) -> Result<Fetched> {
    let plan = &chosen.additions.plan;
    let dir = debs_dir(run);
    let debs: Vec<Utf8PathBuf> = plan
        .packages
        .iter()
        .map(|p| dir.join(format!("{}.deb", p.sha256)))
        .collect();
    let requests = import_requests(plan, &debs);
    let mut needed = Plan {
        arch: plan.arch.clone(),
        packages: Vec::new(),
        sources: Vec::new(),
    };
    for (package, request) in plan.packages.iter().zip(&requests) {
        // dpkg itself unpacks what replaces a package of the base.
        if chosen.is_unpacked_by_dpkg(package) || !run.store.is_imported(request)? {
            needed.packages.push(package.clone());
        }
    }
    let missing = needed.packages.iter().filter(|p| {
        let path = dir.join(format!("{}.deb", p.sha256));
        !path.exists() && !p.uri.starts_with("file:")
    });
    *downloaded += missing.map(|p| p.size).sum::<u64>();
    run.reporter.step(Step::Acquire, || {
        chosen.session.acquire(&needed, run.reporter)?;
        let summary = format!(
            "{} packages, {:.1} MB",
            needed.packages.len(),
            megabytes(needed.download_size())
        );
        Ok::<_, anyhow::Error>(((), summary))
    })?;
    let import = Import::new(&run.store, &requests, run.reporter);
    let imported = run_import(run, &import);
    if let Some(error) = import.take_error() {
        return Err(error);
    }
    imported?;
    let packages = import.finish()?.packages;
    if job.download_only {
        clean(run, chosen);
    }
    Ok(Fetched { packages, debs })
}

/// Removes the files of packages that the repository has now; those that come from nowhere else
/// or are unpacked again each time stay.
pub(super) fn clean(run: &Run<'_>, chosen: &Chosen) {
    for package in &chosen.additions.plan.packages {
        if chosen.local.contains(&package.sha256) || chosen.is_unpacked_by_dpkg(package) {
            continue;
        }
        let path = debs_dir(run).join(format!("{}.deb", package.sha256));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                run.reporter.detail(format!("removing '{path}': {error}"));
            }
            _ => {}
        }
    }
}
