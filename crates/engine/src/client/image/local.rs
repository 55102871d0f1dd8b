//! Images that are in the system already.

use std::collections::BTreeMap;

use anyhow::Result;
use apt_ostree_model::Sha256Digest;
use apt_ostree_model::reference::{ContainerReference, Follows, Revision, Verification};
use apt_ostree_store::images::{IMAGE_CONFIG, IMAGE_REFS, MANIFEST, MANIFEST_DIGEST, image_ref};
use apt_ostree_store::{TargetRepo, images};
use apt_ostree_sysroot::{CommitInfo, Sysroot};
use serde::Deserialize;

use super::Search;

/// An image and its commit.
#[derive(Debug)]
pub(super) struct Pulled {
    pub(super) commit: CommitInfo,
    pub(super) digest: String,
}

impl Pulled {
    fn of(sysroot: &Sysroot, checksum: &str) -> Result<Option<Self>> {
        let commit = sysroot.commit_optional(checksum)?;
        let commit = commit.filter(|commit| commit.complete);
        Ok(commit.and_then(|commit| {
            let digest = commit.string(MANIFEST_DIGEST)?;
            Some(Self { commit, digest })
        }))
    }
}

/// The image that was pulled last under the reference. A ref doesn't say how its image was
/// verified, so where that matters only deployments count.
pub(super) fn newest(search: &Search<'_>) -> Result<Option<Pulled>> {
    let sysroot = &search.system.sysroot;
    if search.reference.verification != Verification::Unverified {
        return Ok(verified(search)?.into_iter().next());
    }
    let name = image_ref(&search.reference.image());
    match sysroot.resolve_ref(&name)? {
        Some(checksum) => Pulled::of(sysroot, &checksum),
        None => Ok(None),
    }
}

/// An image that was verified as the reference asks for, and has a digest.
pub(super) fn deployed(search: &Search<'_>, digest: &str) -> Result<Option<Pulled>> {
    Ok(verified(search)?.into_iter().find(|p| p.digest == digest))
}

/// The image that a revision means, if it is one that was verified as the reference asks for.
pub(super) fn revision(search: &Search<'_>, revision: &Revision) -> Result<Option<Pulled>> {
    Ok(verified(search)?.into_iter().find(|pulled| match revision {
        Revision::Checksum(checksum) => pulled.commit.checksum == *checksum,
        Revision::Version(version) => pulled.commit.version.as_ref() == Some(version),
        Revision::Digest(digest) => pulled.digest == *digest,
    }))
}

/// The images of all deployments that follow the very reference.
fn verified(search: &Search<'_>) -> Result<Vec<Pulled>> {
    let sysroot = &search.system.sysroot;
    let mut all = Vec::new();
    for deployment in sysroot.deployments_of(&search.system.stateroot) {
        let follows = deployment.origin()?.follows;
        if follows != Some(Follows::Container(search.reference.clone())) {
            continue;
        }
        let Some(commit) = sysroot.commit_optional(&deployment.commit())? else {
            continue;
        };
        all.extend(Pulled::of(sysroot, commit.base())?);
    }
    Ok(all)
}

/// Refs of layers of all images in the system by what they unpack to: a layer that was only
/// packed again is not fetched again.
pub(super) fn layers(search: &Search<'_>) -> Result<BTreeMap<Sha256Digest, String>> {
    let sysroot = &search.system.sysroot;
    let mut layers = BTreeMap::new();
    for commit in commits(sysroot)? {
        let digests = commit.string(MANIFEST).map(|text| layer_digests(&text));
        let diff_ids = commit.string(IMAGE_CONFIG).map(|text| diff_ids(&text));
        let digests = digests.into_iter().flatten();
        for (digest, diff_id) in digests.zip(diff_ids.into_iter().flatten()) {
            layers.insert(diff_id, images::layer_ref(&digest));
        }
    }
    Ok(layers)
}

/// The commits of all images: those that refs name, and bases of deployments.
pub(super) fn commits(sysroot: &Sysroot) -> Result<Vec<CommitInfo>> {
    let repo = TargetRepo::open(&sysroot.repo_path())?;
    let mut checksums: Vec<String> = repo.refs(IMAGE_REFS)?.into_values().collect();
    for deployment in sysroot.deployments() {
        if let Some(commit) = sysroot.commit_optional(&deployment.commit())? {
            checksums.push(commit.base().to_owned());
        }
    }
    checksums.sort();
    checksums.dedup();
    let mut commits = Vec::new();
    for checksum in checksums {
        commits.extend(sysroot.commit_optional(&checksum)?);
    }
    commits.retain(|commit| commit.string(MANIFEST_DIGEST).is_some());
    Ok(commits)
}

/// The digests of the layers that a manifest names.
pub(super) fn layer_digests(manifest: &str) -> Vec<Sha256Digest> {
    #[derive(Deserialize)]
    struct Manifest {
        layers: Vec<Layer>,
    }
    #[derive(Deserialize)]
    struct Layer {
        digest: String,
    }
    let manifest: Option<Manifest> = serde_json::from_str(manifest).ok();
    let layers = manifest.map(|m| m.layers).unwrap_or_default();
    layers.iter().filter_map(|l| digest(&l.digest)).collect()
}

fn diff_ids(config: &str) -> Vec<Sha256Digest> {
    #[derive(Deserialize)]
    struct Config {
        rootfs: RootFs,
    }
    #[derive(Deserialize)]
    struct RootFs {
        diff_ids: Vec<String>,
    }
    let config: Option<Config> = serde_json::from_str(config).ok();
    let ids = config.map(|c| c.rootfs.diff_ids).unwrap_or_default();
    ids.iter().filter_map(|id| digest(id)).collect()
}

fn digest(text: &str) -> Option<Sha256Digest> {
    text.strip_prefix("sha256:")?.parse().ok()
}

/// The ref under which the image of a reference is kept.
pub(super) fn reference_ref(reference: &ContainerReference) -> String {
    image_ref(&reference.image())
}
