//! What no deployment needs of images.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use apt_ostree_model::reference::Follows;
use apt_ostree_store::TargetRepo;
use apt_ostree_store::images::{
    BASE_IMAGE_REFS, IMAGE_REFS, LAYER_REFS, MANIFEST, MANIFEST_DIGEST, layer_ref,
};
use apt_ostree_sysroot::LockedSysroot;

use super::local::{self, layer_digests};

/// Drops refs of images that no deployment follows, and of layers that no image has; names the
/// images that layered deployments have as their base, so that ostree-ext keeps their layers. Objects go with the next
/// pruning of the repository.
pub(in crate::client) fn drop_unused(sysroot: &LockedSysroot) -> Result<()> {
    let repo = TargetRepo::open(&sysroot.repo_path())?;
    let mut bases = BTreeMap::new();
    let mut images = BTreeSet::new();
    for deployment in sysroot.deployments() {
        if let Some(Follows::Container(reference)) = deployment.origin()?.follows {
            images.insert(local::reference_ref(&reference));
        }
        let Some(commit) = sysroot.commit_optional(&deployment.commit())? else {
            continue;
        };
        let base = commit.base();
        let image = sysroot.commit_optional(base)?;
        let image = image.is_some_and(|base| base.string(MANIFEST_DIGEST).is_some());
        if commit.layers.is_some() && image {
            bases.insert(format!("{BASE_IMAGE_REFS}/{base}"), base.to_owned());
        }
    }
    let kept = repo.refs(BASE_IMAGE_REFS)?;
    for (name, base) in &bases {
        if !kept.contains_key(name) {
            repo.set_ref(name, base)?;
        }
    }
    let stale = |refs: BTreeMap<String, String>, wanted: &dyn Fn(&str) -> bool| {
        let mut stale = refs.into_keys().filter(|name| !wanted(name));
        stale.try_for_each(|name| repo.remove_ref(&name))
    };
    stale(kept, &|name| bases.contains_key(name))?;
    stale(repo.refs(IMAGE_REFS)?, &|name| images.contains(name))?;
    let commits = local::commits(sysroot)?;
    let manifests = commits.iter().filter_map(|commit| commit.string(MANIFEST));
    let layers: BTreeSet<String> = manifests
        .flat_map(|manifest| layer_digests(&manifest))
        .map(|digest| layer_ref(&digest))
        .collect();
    stale(repo.refs(LAYER_REFS)?, &|name| layers.contains(name))
}
