//! Which version of each package may be installed.
//!
//! libapt's own policy chooses a candidate from pins and suites. What it can't express, because it
//! tells repositories apart by their Release files only, is decided here: priorities of one repo,
//! packages that must come from one repo, local packages, and lockfiles.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use apt_ostree_model::{ErrorKind, PlannedPackage, Reporter};
use rust_apt::{Cache, Package, PackageFile, Version};

use crate::aptconf::Layout;
use crate::error::{fail, fail_hint};
use crate::sources::{LOCAL, Sources};
use crate::spec::SolveSpec;

/// Everything that restricts versions.
pub(crate) struct Rules<'a> {
    pub(crate) spec: &'a SolveSpec,
    pub(crate) sources: &'a Sources,
    /// Locked packages by `name` or `name:arch`; empty for none.
    pub(crate) locked: BTreeMap<String, PlannedPackage>,
    lists: BTreeMap<String, usize>,
}

impl<'a> Rules<'a> {
    pub(crate) fn new(
        spec: &'a SolveSpec,
        sources: &'a Sources,
        layout: &Layout,
        locked: BTreeMap<String, PlannedPackage>,
    ) -> Self {
        let dir = layout.lists();
        let lists = sources.list.iter().enumerate().flat_map(|(at, source)| {
            let dir = dir.clone();
            source
                .indices()
                .into_iter()
                .map(move |index| (dir.join(index.list).into_string(), at))
        });
        Self {
            spec,
            sources,
            locked,
            lists: lists.collect(),
        }
    }

    /// Repo id of a package file.
    pub(crate) fn repo(&self, file: &PackageFile<'_>) -> Option<&'a str> {
        let at = self.lists.get(file.filename()?)?;
        Some(self.sources.list.get(*at)?.repo.as_str())
    }

    /// Suite of a package file, as requested.
    pub(crate) fn suite(&self, file: &PackageFile<'_>) -> Option<&'a str> {
        let at = self.lists.get(file.filename()?)?;
        Some(self.sources.list.get(*at)?.suite.as_str())
    }

    /// Priority of a package file.
    pub(crate) fn file_priority(&self, file: &PackageFile<'_>) -> i32 {
        let repo = self.repo(file);
        let own = |r: &&apt_ostree_treefile::spec::RepoSpec| Some(r.name.as_str()) == repo;
        match self.spec.repos.iter().find(own).and_then(|r| r.priority) {
            Some(priority) => priority,
            None if repo == Some(LOCAL) => i32::MAX,
            None => file.priority(),
        }
    }

    /// True when the version may be used and comes from `file`.
    pub(crate) fn visible(&self, version: &Version<'_>, file: &PackageFile<'_>) -> bool {
        let Some(repo) = self.repo(file) else {
            return false;
        };
        if !self.spec.lockfile_repos.iter().any(|r| r == repo) {
            return true;
        }
        let locked = self.locked.get(&key(&version.parent(), &self.spec.arch));
        locked.is_some_and(|p| p.version.as_str() == version.version())
    }

    /// The repo that `repo-packages` prescribes.
    fn prescribed(&self, name: &str) -> Option<&'a str> {
        self.spec
            .repo_packages
            .iter()
            .find(|(_, names)| names.iter().any(|n| n.as_str() == name))
            .map(|(repo, _)| repo.as_str())
    }

    /// How much a version is wanted; `None`: not at all.
    fn rank(&self, cache: &Cache, version: &Version<'_>) -> Option<i32> {
        let pinned = cache.priority_with_files(version, false);
        let prescribed = self.prescribed(version.parent().name());
        let best = version
            .package_files()
            .filter(|file| self.visible(version, file))
            .filter(|file| prescribed.is_none_or(|repo| self.repo(file) == Some(repo)))
            .map(|file| self.file_priority(&file))
            .max()?;
        let rank = match (pinned, best) {
            (0, best) | (1.., best @ i32::MAX) => best,
            (pinned, _) => pinned,
        };
        (rank >= 0).then_some(rank)
    }

    /// The version to install by default.
    pub(crate) fn best<'c>(&self, cache: &'c Cache, package: &Package<'c>) -> Option<Version<'c>> {
        let mut best: Option<(i32, Version<'c>)> = None;
        for version in package.versions() {
            let Some(rank) = self.rank(cache, &version) else {
                continue;
            };
            // Versions come newest first.
            if best.as_ref().is_none_or(|(old, _)| rank > *old) {
                best = Some((rank, version));
            }
        }
        best.map(|(_, version)| version)
    }

    /// Sets candidates where they differ from libapt's choice. Returns the names of packages that
    /// must have none at all, which only preferences can express.
    pub(crate) fn apply(&self, cache: &Cache, reporter: &dyn Reporter) -> Result<BTreeSet<String>> {
        let mut hidden = BTreeSet::new();
        let everything = !self.spec.lockfile_repos.is_empty()
            || self.spec.repos.iter().any(|repo| repo.priority.is_some());
        let packages: Vec<Package<'_>> = match everything {
            true => cache.iter().filter(Package::has_versions).collect(),
            false => self.special(cache),
        };
        for package in &packages {
            let best = self.best(cache, package);
            let now = package.candidate();
            match (&best, now) {
                (Some(best), Some(now)) if best.index() == now.index() => {}
                (Some(best), _) => best.set_candidate(),
                (None, Some(_)) => {
                    hidden.insert(package.name().to_owned());
                }
                (None, None) => {}
            }
        }
        self.check_prescribed(cache)?;
        self.apply_lock(cache, reporter);
        Ok(hidden)
    }

    /// Packages that have a rule of their own.
    fn special<'c>(&self, cache: &'c Cache) -> Vec<Package<'c>> {
        let prescribed = self.spec.repo_packages.iter().flat_map(|(_, names)| names);
        let local = self.sources.debs.iter().map(|deb| &deb.name);
        let names: BTreeSet<_> = prescribed.chain(local).collect();
        let archs = std::iter::once(&self.spec.arch).chain(&self.sources.foreign);
        archs
            .flat_map(|arch| names.iter().map(move |name| format!("{name}:{arch}")))
            .filter_map(|full| cache.get(&full))
            .collect()
    }

    fn check_prescribed(&self, cache: &Cache) -> Result<()> {
        for (repo, names) in &self.spec.repo_packages {
            for name in names {
                let found = cache.get(name.as_str()).is_some_and(|package| {
                    package
                        .versions()
                        .any(|v| v.package_files().any(|f| self.repo(&f) == Some(repo)))
                });
                if !found {
                    return Err(fail_hint(
                        ErrorKind::Unsatisfiable,
                        format!("package '{name}' of 'repo-packages' is not in repo '{repo}'"),
                        "correct the name or the repo",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Makes locked versions the candidates.
    fn apply_lock(&self, cache: &Cache, reporter: &dyn Reporter) {
        for (name, locked) in &self.locked {
            let version = cache.get(name).and_then(|package| {
                package
                    .versions()
                    .find(|v| v.version() == locked.version.as_str())
            });
            match version {
                Some(version) if self.spec.exclude_packages.contains(&locked.name) => {
                    drop(version);
                }
                Some(version) => version.set_candidate(),
                None => reporter.warning(format!(
                    "locked package '{name}' {} is in no repo; another version may be used",
                    locked.version
                )),
            }
        }
    }
}

/// `name`, or `name:arch` for a foreign architecture.
pub(crate) fn key(package: &Package<'_>, native: &apt_ostree_model::Arch) -> String {
    match package.arch() == native.as_str() || package.arch() == "all" {
        true => package.name().to_owned(),
        false => format!("{}:{}", package.name(), package.arch()),
    }
}

/// The text of apt's preferences: the treefile's pins, exclusions, and packages to hide.
pub(crate) fn preferences(spec: &SolveSpec, hidden: &BTreeSet<String>) -> Result<String> {
    let mut text = String::new();
    let mut add = |packages: &str, pin: &str, priority: i32| {
        text.push_str(&format!(
            "Package: {packages}\nPin: {pin}\nPin-Priority: {priority}\n\n"
        ));
    };
    for name in spec.exclude_packages.iter().map(|n| n.as_str()) {
        add(&format!("{name} {name}:any"), "version *", -1);
    }
    for name in hidden {
        add(&format!("{name} {name}:any"), "version *", -1);
    }
    for pin in &spec.pins {
        let packages = pin.packages.join(" ");
        let kind = pin.pin.split_whitespace().next().unwrap_or("");
        let plain = |text: &str| !text.trim().is_empty() && !text.chars().any(char::is_control);
        if !plain(&packages)
            || !plain(&pin.pin)
            || !["release", "origin", "version"].contains(&kind)
        {
            return Err(fail(
                ErrorKind::InvalidInput,
                format!(
                    "pin '{}' for '{packages}' is not a pin of apt_preferences(5)",
                    pin.pin
                ),
            ));
        }
        if pin.priority == 0 || i16::try_from(pin.priority).is_err() {
            return Err(fail(
                ErrorKind::InvalidInput,
                format!(
                    "pin for '{packages}': priority {} is out of range",
                    pin.priority
                ),
            ));
        }
        add(&packages, &pin.pin, pin.priority);
    }
    text.push_str(&spec.preferences);
    Ok(text)
}
