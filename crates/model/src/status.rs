//! What is deployed, with the keys and shapes of rpm-ostree's `status --json`.
//!
//! Arrays are always there, also when empty: scripts rely on it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Arch, PackageName, Version};

/// The whole answer of `status --json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Status {
    /// All deployments in the order in which they are offered for booting.
    pub deployments: Vec<Deployment>,
    /// What runs now: method, sender and object path. Only the daemon knows.
    pub transaction: Option<(String, String, String)>,
    /// The update that the last check found.
    pub cached_update: Option<CachedUpdate>,
    /// Who else updates this system.
    pub update_driver: Option<UpdateDriver>,
}

/// One deployment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Deployment {
    /// `STATEROOT-CHECKSUM.SERIAL`.
    pub id: String,
    /// The stateroot.
    pub osname: String,
    /// The commit.
    pub checksum: String,
    /// Counts deployments of one commit in one stateroot.
    pub serial: i32,
    /// It runs.
    pub booted: bool,
    /// It is written at the next shutdown.
    pub staged: bool,
    /// It is kept until it is unpinned.
    pub pinned: bool,
    /// A shutdown doesn't write it before `finalize-deployment`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub finalization_locked: bool,
    /// `none`, `development`, `hotfix` or `transient`.
    pub unlocked: String,
    /// `version` of the commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When the commit was made, in seconds since 1970.
    pub timestamp: u64,
    /// The refspec or checksum that it follows, unless that is an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The image that it follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_image_reference: Option<String>,
    /// Digest of that image's manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_image_reference_digest: Option<String>,
    /// URL and description of a custom origin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_origin: Option<(String, String)>,
    /// The commit below the layers; only with layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_checksum: Option<String>,
    /// Its `version`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_version: Option<String>,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_timestamp: Option<u64>,
    /// Metadata of the base commit, without lists of packages.
    pub base_commit_meta: BTreeMap<String, Value>,
    /// Metadata of the commit with layers, without lists of packages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layered_commit_meta: Option<BTreeMap<String, Value>>,
    /// The commit that the ref points to now, when it is another one than the base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_base_checksum: Option<String>,
    /// Its `version`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_base_version: Option<String>,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_base_timestamp: Option<u64>,
    /// What is wrong with the configuration of its remote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_error: Option<String>,
    /// Whether commits of its remote must be signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpg_enabled: Option<bool>,
    /// Signatures of the base commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signatures: Option<Vec<Value>>,
    /// Why its branch gets no more updates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endoflife: Option<String>,
    /// Requests that are layered.
    pub packages: Vec<String>,
    /// What was requested by name.
    pub requested_packages: Vec<String>,
    /// Local packages that were requested, as `NAME_VERSION_ARCH`.
    pub requested_local_packages: Vec<String>,
    /// Those of them that may replace files of others.
    pub requested_local_fileoverride_packages: Vec<String>,
    /// Always empty: Debian has no modules.
    pub modules: Vec<String>,
    /// Always empty.
    pub requested_modules: Vec<String>,
    /// Always empty.
    pub requested_modules_enabled: Vec<String>,
    /// Base packages that shall go.
    pub requested_base_removals: Vec<String>,
    /// Local packages that shall replace base packages, as `NAME_VERSION_ARCH`.
    pub requested_base_local_replacements: Vec<String>,
    /// Sources (`suite=X`) and the packages that shall come from them.
    pub requested_base_remote_replacements: Vec<(String, Vec<String>)>,
    /// Base packages that are gone.
    pub base_removals: Vec<PackageId>,
    /// Local packages that replace others: new, old.
    pub base_local_replacements: Vec<(PackageId, PackageId)>,
    /// Packages that replace others: new and old by source.
    pub base_remote_replacements: BTreeMap<String, Vec<(PackageId, PackageId)>>,
    /// Whether the initramfs is made on this system.
    pub regenerate_initramfs: bool,
    /// Arguments for making it.
    pub initramfs_args: Vec<String>,
    /// Files of `/etc` that are added to it.
    pub initramfs_etc: Vec<String>,
    /// The commit that `apply-live` was interrupted in applying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_inprogress: Option<String>,
    /// The commit that is applied live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_replaced: Option<String>,
    /// How many packages differ between the commit that was booted and the one that is applied
    /// live, such as `1 added`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_diff: Option<String>,
}

/// A package as rpm-ostree's six fields: the whole name (`NAME_VERSION_ARCH`), name, epoch,
/// upstream version, revision and architecture.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PackageId(
    pub String,
    pub String,
    pub u64,
    pub String,
    pub String,
    pub String,
);

impl PackageId {
    /// Splits the version of a package. A native version has the revision `""`.
    pub fn new(name: &PackageName, version: &Version, arch: &Arch) -> Self {
        let text = version.as_str();
        let (epoch, rest) = text.split_once(':').unwrap_or(("0", text));
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        Self(
            format!("{name}_{version}_{arch}"),
            name.to_string(),
            epoch.parse().unwrap_or_default(),
            upstream.to_owned(),
            revision.to_owned(),
            arch.to_string(),
        )
    }
}

/// What a commit that was made on this system says about its layers: the value of
/// [`LayerRecord::KEY`] in its metadata, as JSON. Its parent is the base.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct LayerRecord {
    /// Requests that are layered, as they were made.
    pub packages: Vec<String>,
    /// Base packages that are gone.
    pub base_removals: Vec<PackageId>,
    /// Local packages that replace others: new, old.
    pub base_local_replacements: Vec<(PackageId, PackageId)>,
    /// Packages that replace others: new and old by source.
    pub base_remote_replacements: BTreeMap<String, Vec<(PackageId, PackageId)>>,
    /// Stands for all that the commit was made from: the base, the packages, how the initramfs was
    /// made. The same again needs no new commit.
    pub inputs: String,
}

impl LayerRecord {
    /// Key of the record in the metadata of the commit, a string.
    pub const KEY: &str = "aptostree.clientlayer";
}

/// The update that a check found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct CachedUpdate {
    /// Id of the deployment that it would replace.
    pub deployment: String,
    /// Its stateroot.
    pub osname: String,
    /// The new base commit.
    pub checksum: String,
    /// Its `version`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When it was made.
    pub timestamp: u64,
    /// What is followed.
    pub origin: String,
    /// Whether commits must be signed.
    pub gpg_enabled: bool,
    /// Signatures of the new commit.
    pub signatures: Vec<Value>,
    /// Whether the base moves, not only layered packages.
    pub ref_has_new_commit: bool,
    /// Stands for all that the check looked at.
    pub update_sha256: String,
    /// The difference in packages.
    pub rpm_diff: UpdateDiff,
    /// Security and other advisories: id, kind, severity, packages, references.
    pub advisories: Vec<Value>,
    /// The difference in layers, for images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest_diff: Option<ManifestDiff>,
}

/// A package of an [`UpdateDiff`] with one version: 0 base or 1 layered, name, version,
/// architecture.
pub type DiffPackage = (u32, String, String, String);

/// A package of an [`UpdateDiff`] that changed: 0 base or 1 layered, name, version and
/// architecture before, the same after.
pub type DiffChange = (u32, String, (String, String), (String, String));

/// How an update changes packages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub struct UpdateDiff {
    pub upgraded: Vec<DiffChange>,
    pub downgraded: Vec<DiffChange>,
    pub added: Vec<DiffPackage>,
    pub removed: Vec<DiffPackage>,
}

/// How an update changes an image: numbers and bytes of layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub struct ManifestDiff {
    pub total: u64,
    pub total_size: u64,
    pub n_removed: u64,
    pub removed_size: u64,
    pub n_added: u64,
    pub added_size: u64,
}

/// A program that has taken over updates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct UpdateDriver {
    /// Its name.
    pub driver_name: String,
    /// Its systemd unit.
    pub driver_sd_unit: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_there_also_when_empty_and_unknown_facts_are_not() {
        let value = serde_json::to_value(Deployment::default()).unwrap();
        for key in [
            "packages",
            "requested-packages",
            "requested-local-packages",
            "requested-local-fileoverride-packages",
            "requested-base-removals",
            "requested-base-local-replacements",
            "requested-base-remote-replacements",
            "base-removals",
            "base-local-replacements",
            "initramfs-args",
            "initramfs-etc",
        ] {
            assert_eq!(value[key], serde_json::json!([]), "{key}");
        }
        for key in ["booted", "staged", "pinned", "regenerate-initramfs"] {
            assert_eq!(value[key], false, "{key}");
        }
        for key in ["version", "origin", "base-checksum", "finalization-locked"] {
            assert!(value.get(key).is_none(), "{key}");
        }
    }

    #[test]
    fn a_status_without_anything_has_its_keys() {
        let value = serde_json::to_value(Status::default()).unwrap();
        let expected = serde_json::json!({
            "deployments": [], "transaction": null, "cached-update": null, "update-driver": null
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn versions_are_split_as_debian_splits_them() {
        let id = |version: &str| {
            PackageId::new(
                &"bash".parse().unwrap(),
                &version.parse().unwrap(),
                &"amd64".parse().unwrap(),
            )
        };
        let full = id("1:5.2-rc1-3");
        assert_eq!(full.0, "bash_1:5.2-rc1-3_amd64");
        assert_eq!(
            (full.2, full.3.as_str(), full.4.as_str()),
            (1, "5.2-rc1", "3")
        );
        let native = id("12");
        assert_eq!(
            (native.2, native.3.as_str(), native.4.as_str()),
            (0, "12", "")
        );
    }
}
