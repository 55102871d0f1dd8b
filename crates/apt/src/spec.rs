//! What a session is asked for.

use std::collections::BTreeSet;

use apt_ostree_model::{Arch, PackageName};
use apt_ostree_treefile::ComposeSpec;
use apt_ostree_treefile::spec::{PackageRequest, Pin, RepoSpec};
use camino::Utf8PathBuf;
use serde::Serialize;

use crate::{Lock, MachineSources};

/// The part of a treefile that decides which packages are installed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SolveSpec {
    /// Target architecture.
    pub arch: Arch,
    /// Package repositories in treefile order.
    pub repos: Vec<RepoSpec>,
    /// Ids of repos that serve only locked packages.
    pub lockfile_repos: Vec<String>,
    /// Packages to install, in the order in which they are first named.
    pub packages: Vec<PackageRequest>,
    /// Packages that must come from one repo: repo id and names.
    pub repo_packages: Vec<(String, Vec<PackageName>)>,
    /// Packages that the solver must not use.
    pub exclude_packages: BTreeSet<PackageName>,
    /// apt pins, as in `preferences(5)`.
    pub pins: Vec<Pin>,
    /// Local `.deb` files to install, absolute paths; they win over every repo.
    pub local_packages: Vec<Utf8PathBuf>,
    /// Install Recommends as well.
    pub recommends: bool,
    /// More pins, the text of a file as in `preferences(5)`.
    pub preferences: String,
    /// The packages of the tree that others are added to; `None`: it starts empty.
    pub base: Option<BaseSpec>,
}

impl SolveSpec {
    /// No request: only the packages of `base`, and where more would come from.
    pub fn without_requests(
        arch: Arch,
        sources: MachineSources,
        recommends: bool,
        base: BaseSpec,
    ) -> Self {
        Self {
            arch,
            repos: sources.repos,
            lockfile_repos: Vec::new(),
            packages: Vec::new(),
            repo_packages: Vec::new(),
            exclude_packages: BTreeSet::new(),
            pins: Vec::new(),
            local_packages: Vec::new(),
            recommends,
            preferences: sources.preferences,
            base: Some(base),
        }
    }
}

/// A tree with packages, and what may happen to them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BaseSpec {
    /// dpkg's `status`.
    pub status: String,
    /// apt's `extended_states`.
    pub extended_states: String,
    /// Foreign architectures in use.
    pub foreign: Vec<Arch>,
    /// Packages to remove.
    pub remove: Vec<PackageName>,
    /// Packages that may take the place of those of the base. Their suite may also be
    /// `origin=NAME`: any repository whose Release file has that `Origin`.
    pub replace: Vec<PackageRequest>,
    /// Those of [`SolveSpec::local_packages`] that may do so.
    pub replace_local: Vec<Utf8PathBuf>,
}

impl From<&ComposeSpec> for SolveSpec {
    fn from(spec: &ComposeSpec) -> Self {
        Self {
            arch: spec.arch.clone(),
            repos: spec.repos.clone(),
            lockfile_repos: spec.lockfile_repos.clone(),
            packages: spec.packages.clone(),
            repo_packages: spec.repo_packages.clone(),
            exclude_packages: spec.exclude_packages.clone(),
            pins: spec.pins.clone(),
            local_packages: spec.local_packages.clone(),
            recommends: spec.recommends,
            preferences: String::new(),
            base: None,
        }
    }
}

/// How a session works.
#[derive(Debug, Clone)]
pub struct AptConfig {
    /// What to install, and from where.
    pub spec: SolveSpec,
    /// Directory for apt's state: indices, keyrings, generated configuration, cached plans.
    pub state_dir: Utf8PathBuf,
    /// Directory for verified `.deb` files, each named by its SHA-256.
    pub debs_dir: Utf8PathBuf,
    /// Mirror for repos without a URL; `None`: the one that the host itself uses.
    pub mirror: Option<String>,
    /// HTTP proxy; `None`: what the environment and the host's apt configuration say.
    pub proxy: Option<String>,
    /// Use no network.
    pub offline: bool,
    /// Versions to keep.
    pub lock: Option<Lock>,
}
