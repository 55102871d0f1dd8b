//! Questions about packages and package sources of a system, and the changes that belong to them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::client::{Target, TransactionOptions};

/// A question that changes nothing but, perhaps, the package indices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct QueryRequest {
    /// Which system.
    #[serde(default)]
    pub target: Target,
    /// What is asked.
    pub query: Query,
    /// Fetch package indices when there are none yet. Without it, only what is here is looked at.
    #[serde(default)]
    pub fetch: bool,
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Query {
    /// Packages in whose name or summary every term is found: as a part, or, with `*` or `?` in
    /// it, as the whole. Case does not count.
    Search(Vec<String>),
    /// Packages that provide one of these names.
    Provides(Vec<String>),
    /// Packages with one of these names.
    Packages(Vec<String>),
    /// The package sources.
    Sources,
    /// The boot loader entry of a deployment.
    BootConfig {
        /// Its id; empty: the pending or the booted one, as the next field says.
        deployment: String,
        /// Of two deployments without a name, take the one that boots next.
        pending: bool,
    },
}

/// `refresh-md`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct RefreshRequest {
    /// Which system.
    pub target: Target,
    /// How it is carried out.
    pub options: TransactionOptions,
    /// Fetch all indices anew, also those that have not changed.
    pub force: bool,
}

/// A change of one package source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct SourceRequest {
    /// Which system.
    pub target: Target,
    /// How it is carried out.
    pub options: TransactionOptions,
    /// The id that the list of sources gives.
    pub id: String,
    /// Whether packages come from it.
    pub enabled: bool,
}

/// `container lint`: a root file system is checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct LintRequest {
    /// The root; `None`: `/`.
    pub rootfs: Option<PathBuf>,
    /// Names of lints that don't run.
    pub skip: Vec<String>,
    /// Only list the lints.
    pub list: bool,
}

/// In what a search term was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MatchGroup {
    /// In name and summary.
    #[serde(rename = "match_group_a")]
    NameAndSummary,
    /// In the name.
    #[serde(rename = "match_group_b")]
    Name,
    /// In the summary.
    #[serde(rename = "match_group_c")]
    Summary,
}

/// A package that was found, with the keys of rpm-ostree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct FoundPackage {
    /// Only of a search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<MatchGroup>,
    pub name: String,
    /// That of the version.
    pub epoch: u64,
    /// The version without epoch and revision.
    pub version: String,
    pub arch: String,
    /// `NAME_VERSION_ARCH`.
    pub nevra: String,
    /// The whole version.
    pub evr: String,
    pub summary: String,
    /// The source that it comes from; empty: it is only installed.
    pub reponame: String,
    /// The version that is installed; `None`: none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed: Option<String>,
    /// Whether it is installed as a layer over the base.
    #[serde(default)]
    pub layered: bool,
}

/// A package source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub struct PackageSource {
    /// The name of its file, with a number when that has several sources.
    pub id: String,
    /// Address, suites and components.
    pub description: String,
    /// Whether it has packages with debugging symbols.
    pub is_devel: bool,
    /// Whether it has source packages only.
    pub is_source: bool,
    pub is_enabled: bool,
}

/// A lint and what it came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LintResult {
    /// Its name.
    pub name: String,
    /// What it checks.
    pub description: String,
    /// Whether a finding is an error.
    pub fatal: bool,
    /// What came of it; `None`: it was only listed.
    pub outcome: Option<LintOutcome>,
}

/// What came of a lint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LintOutcome {
    /// It found nothing.
    Passed,
    /// It did not run.
    Skipped,
    /// What it found.
    Found(String),
}
