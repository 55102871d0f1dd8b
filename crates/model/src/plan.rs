//! The plan: what the solver decided. It is the lockfile, the dry-run output and the SBOM input.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Arch, PackageName, Sha256Digest, Version};

/// Every package of a tree, exactly, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Plan {
    /// The architecture of the tree.
    pub arch: Arch,
    /// Packages in configure order: by [`PlannedPackage::group`], then by name and architecture.
    pub packages: Vec<PlannedPackage>,
    /// The package indices the packages were chosen from, in treefile order.
    pub sources: Vec<SourceInfo>,
}

/// One package version to install.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PlannedPackage {
    /// Package name.
    pub name: PackageName,
    /// Full version.
    pub version: Version,
    /// Architecture of the package; `all` or that of the tree, or a foreign one.
    pub arch: Arch,
    /// SHA-256 of the `.deb`.
    pub sha256: Sha256Digest,
    /// Size of the `.deb` in bytes.
    pub size: u64,
    /// Installed size in KiB as the index gives it; 0 when unknown.
    #[serde(default)]
    pub installed_size: u64,
    /// Name of the source package.
    pub source: String,
    /// Version of the source package.
    pub source_version: String,
    /// Id of the treefile repo it comes from; `@local` for a local `.deb`.
    pub repo: String,
    /// Where to fetch it: an absolute URL (`http`, `https`, `file`).
    pub uri: String,
    /// True when it was installed only because something depends on it.
    #[serde(default)]
    pub auto: bool,
    /// True when the index says `Essential: yes`.
    #[serde(default)]
    pub essential: bool,
    /// Configure group. 0 is the bootstrap group: essential packages and all targets of
    /// Pre-Depends, closed under Depends. Later groups follow the order of the request; a group
    /// depends only on the groups before it, so a cached result of a prefix can be reused.
    pub group: u32,
    /// The fields of the index stanza that a solver needs (`Depends`, `Provides`, ...), so that a
    /// lockfile alone is enough to solve again.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
}

impl PlannedPackage {
    /// `name_version_arch`, the usual way to write one package version.
    pub fn id(&self) -> String {
        format!("{}_{}_{}", self.name, self.version, self.arch)
    }

    /// `name`, or `name:arch` for a package of a foreign architecture.
    pub fn display_name(&self, native: &Arch) -> String {
        if self.arch == *native || self.arch.as_str() == "all" {
            self.name.to_string()
        } else {
            format!("{}:{}", self.name, self.arch)
        }
    }
}

impl Plan {
    /// Bytes to download when nothing is cached.
    pub fn download_size(&self) -> u64 {
        self.packages.iter().map(|p| p.size).sum()
    }
}

/// One release of one repository, as its signed Release file describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SourceInfo {
    /// Id of the treefile repo.
    pub repo: String,
    /// Suite as requested in the treefile.
    pub suite: String,
    /// `Codename` of the Release file; empty when it has none.
    #[serde(default)]
    pub codename: String,
    /// `Origin` of the Release file; empty when it has none.
    #[serde(default)]
    pub origin: String,
    /// `Date` of the Release file in seconds since 1970; 0 when it has none.
    #[serde(default)]
    pub date: i64,
    /// SHA-256 of the Release or InRelease file.
    pub release_sha256: Sha256Digest,
}

/// One account with its fixed id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Account {
    /// Numeric user id.
    pub uid: u32,
    /// Numeric id of the primary group.
    pub gid: u32,
}

/// User and group ids that must not change from one compose to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct IdLock {
    /// Users by name.
    #[serde(default)]
    pub users: BTreeMap<String, Account>,
    /// Group ids by name.
    #[serde(default)]
    pub groups: BTreeMap<String, u32>,
}
