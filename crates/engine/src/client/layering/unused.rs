//! What layering keeps in the repository of a system for later, and for how long.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use apt_ostree_fsx::prune::{Limits, prune_files};
use apt_ostree_store::CachedPackage;
use apt_ostree_sysroot::{CommitInfo, LockedSysroot};

use super::local_debs;

/// For how long packages stay that no deployment needs: someone may have downloaded them for later,
/// or may take them back.
pub(in crate::client) const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Drops packages, trees and files that no deployment needs and that were not used for `unused`.
/// Pruning the repository frees their room.
///
/// # Errors
/// When the deployments can't be read or something can't be removed.
pub(in crate::client) fn drop_unused(sysroot: &LockedSysroot, unused: Duration) -> Result<usize> {
    let repo = sysroot.repo_path();
    let needed = layered_packages(sysroot)?;
    let is_needed = |package: &CachedPackage| match &package.version_arch {
        Some(version_arch) => needed.contains(&(package.name.clone(), version_arch.clone())),
        None => needed.iter().any(|(name, _)| *name == package.name),
    };
    let dropped = apt_ostree_store::drop_unused(&repo, is_needed, unused)?;
    let debs = apt_ostree_store::system_dir(&repo).join("debs");
    let local = local_debs(sysroot)?;
    let limits = Limits {
        fresh: unused,
        ..Limits::unused_for(unused)
    };
    let files = prune_files(&debs, &limits, |name| !local.contains(name))
        .with_context(|| format!("clearing '{debs}'"))?;
    Ok(dropped + files.count)
}

/// Name, and version with architecture, of the packages that deployments have on top of their
/// bases.
fn layered_packages(sysroot: &LockedSysroot) -> Result<BTreeSet<(String, String)>> {
    let all = |commit: &CommitInfo| -> BTreeSet<(String, String)> {
        let packages = commit.packages().unwrap_or_default().into_iter();
        packages
            .map(|(name, version, arch)| (name, format!("{version}.{arch}")))
            .collect()
    };
    let mut needed = BTreeSet::new();
    for deployment in sysroot.deployments() {
        let commit = sysroot.commit(&deployment.commit())?;
        if commit.layers.is_none() {
            continue;
        }
        let base = sysroot.commit_optional(commit.base())?;
        let base = base.as_ref().map(all).unwrap_or_default();
        needed.extend(all(&commit).difference(&base).cloned());
    }
    Ok(needed)
}
