//! Layers: packages, overrides and an initramfs of the system's own, on a base commit.

mod unused;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use apt_ostree_fsx::prune::{Limits, prune_files};
use apt_ostree_model::compose::PackageDiff;
use apt_ostree_model::origin::{LocalRequest, Origin};
use apt_ostree_model::{ErrorKind, Kinded, Plan, PlannedPackage, Reporter};
use apt_ostree_sysroot::{LockedSysroot, Sysroot};
use camino::Utf8PathBuf;

use super::db::difference;
use crate::layering::{InitramfsState, LayerJob, LocalDeb};

pub(super) use unused::{KEPT, drop_unused};

/// A `.deb` that a request names. The file may be gone later; its content must be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFile {
    /// What it is; the digest is that of the file when it was read.
    pub request: LocalRequest,
    /// Where it is now.
    pub path: PathBuf,
}

/// How layers are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerOptions {
    /// Only find out what would be done.
    pub dry_run: bool,
    /// Stop once everything is downloaded.
    pub download_only: bool,
    /// Use indices and packages that are here already.
    pub cache_only: bool,
    /// Take requests for what the base has already.
    pub allow_inactive: bool,
}

/// What to make.
#[derive(Debug, Clone, Copy)]
pub struct LayerRequest<'a> {
    /// The system; its repository holds the base and takes the new commit.
    pub sysroot: &'a LockedSysroot,
    /// The stateroot.
    pub stateroot: &'a str,
    /// The base, a commit without layers.
    pub base: &'a str,
    /// The commit that boots next so far: same inputs need no new commit, and differences in
    /// packages are told against it.
    pub previous: &'a str,
    /// What is asked for.
    pub origin: &'a Origin,
    /// Local packages that this request brings; those of earlier requests were kept.
    pub local: &'a [LocalFile],
    /// Names of base packages that another source replaces: they stay at the version that is found.
    pub freeze: &'a [String],
    /// How.
    pub options: LayerOptions,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layered {
    /// The commit, complete but not checked, with the base as its parent and a
    /// [`apt_ostree_model::status::LayerRecord`]; `previous` when its inputs are the same;
    /// `None` when it was only to be found out or downloaded.
    pub commit: Option<String>,
    /// How its packages differ from those of `previous`.
    pub pkgdiff: Vec<PackageDiff>,
    /// Bytes that were downloaded.
    pub downloaded: u64,
    /// What the names to freeze came to.
    pub frozen: Vec<LocalRequest>,
}

/// Makes the commit that `request` describes. Moves no ref and deploys nothing.
///
/// # Errors
/// When the requests can't be met; the repository holds at most unused objects then.
pub fn layer(request: &LayerRequest<'_>, reporter: &dyn Reporter) -> Result<Layered> {
    let LayerRequest { origin, .. } = request;
    let repo = request.sysroot.repo_path();
    let previous = request.sysroot.commit(request.previous)?;
    let etc = etc(request)?;
    let (packages, remove) = (texts(&origin.packages), texts(&origin.override_remove));
    let local = debs(origin.local_packages.iter(), request.local)?;
    let replacing = origin.local_packages_replacing_files.iter();
    let local_replacing = debs(replacing, request.local)?;
    let replace_local = debs(origin.override_replace_local.iter(), request.local)?;
    let initramfs = InitramfsState {
        regenerate: origin.initramfs.regenerate,
        args: origin.initramfs.args.clone(),
    };
    let job = LayerJob {
        repo: &repo,
        base: request.base,
        etc: etc.as_deref(),
        packages: &packages,
        local: &local,
        local_replacing: &local_replacing,
        remove: &remove,
        replace: &replacements(origin)?,
        freeze: request.freeze,
        replace_local: &replace_local,
        initramfs: &initramfs,
        recommends: None,
        current_state: previous.layers.as_ref().map(|layers| &*layers.inputs),
        cache_only: request.options.cache_only,
        download_only: request.options.download_only,
        dry_run: request.options.dry_run,
    };
    let done = crate::layering::layer(&job, reporter)?;
    if !request.options.allow_inactive {
        let merge = request.sysroot.merge_deployment(request.stateroot)?;
        let old = merge.origin()?.packages;
        let new = done.inactive.iter().filter(|name| !old.contains(*name));
        require_active(&new.cloned().collect::<Vec<_>>())?;
    }
    let commit = match done.unchanged {
        true => Some(request.previous.to_owned()),
        false => done.commit,
    };
    // Against what boots next, as far as there is a commit to compare.
    let pkgdiff = match &commit {
        Some(commit) => difference(&previous, &request.sysroot.commit(commit)?),
        None => done.pkgdiff,
    };
    Ok(Layered {
        commit,
        pkgdiff,
        downloaded: done.downloaded,
        frozen: frozen(&done.plan, request.freeze),
    })
}

/// Planned packages as they are asked for by content.
fn frozen(plan: &Plan, names: &[String]) -> Vec<LocalRequest> {
    let named = |package: &&PlannedPackage| names.iter().any(|n| *n == package.name.as_str());
    let request = |package: &PlannedPackage| LocalRequest {
        name: package.name.clone(),
        version: package.version.clone(),
        arch: package.arch.clone(),
        sha256: package.sha256,
    };
    plan.packages.iter().filter(named).map(request).collect()
}

fn texts(set: &BTreeSet<String>) -> Vec<String> {
    set.iter().cloned().collect()
}

/// `/etc` of the deployment whose configuration goes on.
fn etc(request: &LayerRequest<'_>) -> Result<Option<Utf8PathBuf>> {
    let deployment = request.sysroot.merge_deployment(request.stateroot)?;
    let path = request.sysroot.deployment_path(&deployment).join("etc");
    // One that is staged has none yet.
    Ok(path.is_dir().then_some(path))
}

/// Files by their digest: new ones where they are, others from where they were kept.
fn debs<'l>(
    wanted: impl Iterator<Item = &'l LocalRequest>,
    files: &[LocalFile],
) -> Result<Vec<LocalDeb>> {
    let deb = |wanted: &LocalRequest| {
        let file = files.iter().find(|f| f.request.sha256 == wanted.sha256);
        let path = file.map(|f| Utf8PathBuf::try_from(f.path.clone()));
        Ok(LocalDeb {
            path: path
                .transpose()
                .context("the path of a package is not UTF-8")?,
            sha256: Some(wanted.sha256),
        })
    };
    wanted.map(deb).collect()
}

/// Requests for base packages from another source.
fn replacements(origin: &Origin) -> Result<Vec<String>> {
    let mut requests = Vec::new();
    for (source, names) in &origin.override_replace {
        let place = match source.split_once('=') {
            Some(("suite", suite)) => suite,
            Some(("origin", _)) => source,
            _ => {
                let message = format!("base packages can't be replaced from '{source}'");
                return Err(Kinded::new(ErrorKind::Usage, message)
                    .with_hint("name a suite or an origin: --from suite=NAME or origin=NAME")
                    .into());
            }
        };
        requests.extend(names.iter().map(|name| format!("{name}/{place}")));
    }
    Ok(requests)
}

fn require_active(inactive: &[String]) -> Result<()> {
    if inactive.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = inactive.iter().map(|name| format!("'{name}'")).collect();
    let message = format!("the base has {} already", names.join(", "));
    Err(Kinded::new(ErrorKind::Unsatisfiable, message)
        .with_hint("nothing needs to be installed; --allow-inactive keeps the request")
        .into())
}

/// Removes downloaded indices and packages; returns the bytes that were freed. Local packages that
/// a deployment asks for stay: nobody could download them again.
///
/// # Errors
/// When they can't be removed.
pub fn clear_cache(sysroot: &LockedSysroot) -> Result<u64> {
    let dir = apt_ostree_store::system_dir(&sysroot.repo_path());
    let (indices, debs) = (dir.join("apt"), dir.join("debs"));
    let before = apt_ostree_fsx::free_space(sysroot.path())?;
    if indices.is_dir() {
        apt_ostree_fsx::remove_tree(&indices).with_context(|| format!("removing '{indices}'"))?;
    }
    let kept = local_debs(sysroot)?;
    let wanted = |name: &str| name.ends_with(".deb") && !kept.contains(name);
    let all = Limits {
        age: Duration::ZERO,
        bytes: 0,
        fresh: Duration::ZERO,
    };
    prune_files(&debs, &all, wanted).with_context(|| format!("clearing '{debs}'"))?;
    Ok(apt_ostree_fsx::free_space(sysroot.path())?.saturating_sub(before))
}

/// The files of all local packages that deployments ask for.
fn local_debs(sysroot: &Sysroot) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for deployment in sysroot.deployments() {
        let origin = deployment.origin()?;
        let requests = origin
            .local_packages
            .iter()
            .chain(&origin.local_packages_replacing_files)
            .chain(&origin.override_replace_local);
        names.extend(requests.map(|request| format!("{}.deb", request.sha256)));
    }
    Ok(names)
}
