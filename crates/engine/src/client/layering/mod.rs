//! Layers: packages, overrides and an initramfs of the system's own, on a base commit.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use apt_ostree_model::compose::PackageDiff;
use apt_ostree_model::origin::{LocalRequest, Origin};
use apt_ostree_model::{ErrorKind, Kinded, Reporter};
use apt_ostree_sysroot::{LockedSysroot, Sysroot};
use camino::Utf8PathBuf;

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
}

/// Makes the commit that `request` describes. Moves no ref and deploys nothing.
///
/// # Errors
/// When the requests can't be met; the repository holds at most unused objects then.
pub fn layer(_request: &LayerRequest<'_>, _reporter: &dyn Reporter) -> Result<Layered> {
    Err(Kinded::new(
        ErrorKind::Failed,
        "packages and an initramfs of the system's own can't be layered yet",
    )
    .with_hint("drop the requests: apt-ostree reset")
    .into())
}

/// Removes downloaded indices and packages; returns the bytes that were freed.
///
/// # Errors
/// When they can't be removed.
pub fn clear_cache(sysroot: &LockedSysroot, stateroot: &str) -> Result<u64> {
    let dir = cache_dir(sysroot, stateroot);
    if !dir.is_dir() {
        return Ok(0);
    }
    let before = apt_ostree_fsx::free_space(&dir)?;
    apt_ostree_fsx::clear_dir(&dir).with_context(|| format!("clearing '{dir}'"))?;
    Ok(apt_ostree_fsx::free_space(&dir)?.saturating_sub(before))
}

/// Where indices and packages of a system are kept.
pub fn cache_dir(sysroot: &Sysroot, stateroot: &str) -> Utf8PathBuf {
    let var = match sysroot.booted() {
        Some(booted) if booted.stateroot() == stateroot => Utf8PathBuf::from("/var"),
        _ => sysroot
            .path()
            .join("ostree/deploy")
            .join(stateroot)
            .join("var"),
    };
    var.join("cache/apt-ostree")
}
