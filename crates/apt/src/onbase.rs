//! Choosing packages to add to a tree that has packages already.
//!
//! The packages of the tree stay as they are: first everything is solved with them held. Only when
//! that fails it is solved without, to say what would have to change and who asks for it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use apt_ostree_model::{ErrorKind, NullReporter, PackageName, Plan, Reporter};
use apt_ostree_treefile::spec::PackageRequest;
use rust_apt::{Cache, Package};

use crate::candidates::Rules;
use crate::error::fail_hint;
use crate::localrepo::LocalDeb;
use crate::request::{self, Wanted, full_name};
use crate::spec::BaseSpec;
use crate::{explain, planner};

/// A package of the base that does not stay as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BaseChange {
    /// Its name, with the architecture when that is a foreign one.
    pub name: String,
    /// Its version in the base.
    pub version: String,
    /// The version that takes its place; `None`: it goes.
    pub new: Option<String>,
}

/// What is to be added to a base.
#[derive(Debug, Clone, PartialEq)]
pub struct Additions {
    /// New packages, and those that take the place of others.
    pub plan: Plan,
    /// Requests that the base satisfies.
    pub inactive: Vec<PackageRequest>,
    /// Local packages (by SHA-256) that the base has.
    pub inactive_local: Vec<apt_ostree_model::Sha256Digest>,
    /// Packages to remove that the base does not have.
    pub inactive_removals: Vec<PackageName>,
    /// Packages of the base that overrides remove or replace.
    pub changes: Vec<BaseChange>,
}

/// One thing that is asked for: its name for people and the full names of its packages.
struct Ask {
    text: String,
    packages: Vec<String>,
}

struct Solver<'a> {
    cache: &'a Cache,
    /// Opens another cache: libapt's resolver never forgets what was held.
    open: &'a dyn Fn() -> Result<Cache>,
    rules: &'a Rules<'a>,
    base: &'a BaseSpec,
    reporter: &'a dyn Reporter,
    /// Requests that the base does not satisfy.
    active: Vec<&'a PackageRequest>,
    debs: Vec<&'a LocalDeb>,
    /// Packages that were broken before.
    broken: BTreeSet<String>,
}

/// Solves the requests of `rules` on `base`.
pub(crate) fn solve(
    open: &dyn Fn() -> Result<Cache>,
    rules: &Rules<'_>,
    base: &BaseSpec,
    reporter: &dyn Reporter,
) -> Result<Additions> {
    let cache = &open()?;
    let (inactive, active): (Vec<_>, Vec<_>) = rules
        .spec
        .packages
        .iter()
        .partition(|request| satisfied(cache, request));
    let (known, debs): (Vec<_>, Vec<_>) = rules.sources.debs.iter().partition(|deb| {
        let package = cache.get(&deb_name(deb));
        let installed = package.and_then(|p| p.installed());
        installed.is_some_and(|v| v.version() == deb.version.as_str())
    });
    let broken = cache.iter().filter(Package::is_now_broken);
    let solver = Solver {
        cache,
        open,
        rules,
        base,
        reporter,
        active,
        debs,
        broken: broken.map(|p| p.fullname(false)).collect(),
    };
    let wanted = solver.solve()?;
    let plan = planner::plan(cache, rules, &[], &wanted)?;
    let there = |name: &&PackageName| cache.get(name.as_str()).is_some_and(|p| p.is_installed());
    Ok(Additions {
        plan,
        inactive: inactive.into_iter().cloned().collect(),
        inactive_local: known.into_iter().map(|deb| deb.sha256).collect(),
        inactive_removals: base.remove.iter().filter(|n| !there(n)).cloned().collect(),
        changes: solver.changes(),
    })
}

/// True when the base has what is asked for.
fn satisfied(cache: &Cache, request: &PackageRequest) -> bool {
    let PackageRequest::Package { version, suite, .. } = request else {
        return false;
    };
    let Some(package) = full_name(request).and_then(|full| cache.get(&full)) else {
        return false;
    };
    if !package.has_versions() {
        return package.provides().any(|p| p.package().is_installed());
    }
    let Some(installed) = package.installed() else {
        return false;
    };
    match (version, suite) {
        (Some(version), _) => installed.version() == version,
        (None, None) => true,
        // Another version in that suite is another request.
        (None, Some(suite)) => !package.versions().any(|v| {
            let in_suite = v.package_files().any(|file| {
                file.archive() == Some(suite.as_str()) || file.codename() == Some(suite.as_str())
            });
            in_suite && v.version() != installed.version()
        }),
    }
}

fn deb_name(deb: &LocalDeb) -> String {
    match deb.arch.as_str() {
        "all" => deb.name.to_string(),
        arch => format!("{}:{arch}", deb.name),
    }
}

fn describe(request: &PackageRequest) -> String {
    match request {
        PackageRequest::Package {
            name,
            arch,
            version,
            suite,
        } => {
            let mut text = name.to_string();
            for (separator, part) in [
                (':', arch.as_ref().map(ToString::to_string)),
                ('=', version.clone()),
                ('/', suite.clone()),
            ] {
                if let Some(part) = part {
                    text.push(separator);
                    text.push_str(&part);
                }
            }
            text
        }
        PackageRequest::Task(name) => format!("task:{name}"),
        PackageRequest::Priority(name) => format!("priority:{name}"),
    }
}

impl Solver<'_> {
    fn solve(&self) -> Result<Wanted> {
        let wanted = self.expand(&self.active, &self.debs, self.reporter)?;
        let names: Vec<&String> = wanted.requests.iter().flatten().collect();
        self.hold();
        if self.mark(&names) && self.forbidden().is_empty() && self.has_versions(&wanted) {
            return Ok(wanted);
        }
        Err(self.refusal(&wanted)?)
    }

    /// True unless a request wants another version of a package than the base has: the one that
    /// is held is no answer to it.
    fn has_versions(&self, wanted: &Wanted) -> bool {
        let requests = self
            .active
            .iter()
            .map(|request| full_name(request).is_some());
        let replace = self.base.replace.iter().map(|_| false);
        let exact = requests
            .chain(replace)
            .chain(self.debs.iter().map(|_| true));
        let mut names = exact
            .zip(&wanted.requests)
            .filter(|(exact, _)| *exact)
            .flat_map(|(_, names)| names);
        names.all(|name| {
            let package = self.cache.get(name);
            package.is_none_or(|package| !package.is_installed() || package.marked_install())
        })
    }

    /// Sets the candidates that requests and overrides prescribe.
    fn expand(
        &self,
        requests: &[&PackageRequest],
        debs: &[&LocalDeb],
        reporter: &dyn Reporter,
    ) -> Result<Wanted> {
        let all: Vec<&PackageRequest> =
            requests.iter().copied().chain(&self.base.replace).collect();
        request::expand(self.cache, self.rules, (&all, debs), reporter)
    }

    /// Packages that overrides may change.
    fn is_free(&self, package: &Package<'_>) -> bool {
        let name = package.name();
        let by_request = self.base.replace.iter().any(|r| match r {
            PackageRequest::Package { name: n, .. } => n.as_str() == name,
            _ => false,
        });
        let by_file = self
            .debs
            .iter()
            .any(|deb| deb.name.as_str() == name && self.base.replace_local.contains(&deb.path));
        by_request || by_file || self.base.remove.iter().any(|n| n.as_str() == name)
    }

    /// Lets packages of the base have no other version than theirs.
    fn hold(&self) {
        let held = self
            .cache
            .iter()
            .filter(|p| p.is_installed() && !self.is_free(p));
        for package in held {
            if let Some(version) = package.installed() {
                version.set_candidate();
                package.protect();
            }
        }
    }

    /// Marks what is wanted and removed; true when everything fits.
    fn mark(&self, names: &[&String]) -> bool {
        for name in &self.base.remove {
            if let Some(package) = self.cache.get(name.as_str()).filter(Package::is_installed) {
                package.mark_delete(false);
                package.protect();
            }
        }
        let mut names = names.to_vec();
        names.sort();
        names.dedup();
        let roots: Vec<_> = names
            .iter()
            .filter_map(|name| self.cache.get(name))
            .collect();
        for package in &roots {
            package.mark_install(false, true);
            package.protect();
        }
        for package in &roots {
            package.mark_install(true, true);
        }
        if self.has_broken() && self.cache.resolve(true).is_err() {
            drop(crate::error::drain());
        }
        let there =
            |p: &Package<'_>| p.marked_install() || (p.is_installed() && !p.marked_delete());
        !self.has_broken() && roots.iter().all(there)
    }

    fn has_broken(&self) -> bool {
        self.cache.depcache().broken_count() > 0
            && self
                .cache
                .iter()
                .any(|p| p.is_inst_broken() && !self.broken.contains(&p.fullname(false)))
    }

    /// What happens to packages of the base.
    fn changes(&self) -> Vec<BaseChange> {
        let mut changes: Vec<BaseChange> = self
            .cache
            .iter()
            .filter_map(|package| {
                let version = package.installed()?;
                let new = package.install_version();
                let same = new
                    .as_ref()
                    .is_some_and(|new| new.version() == version.version());
                (!same && (package.marked_delete() || package.marked_install())).then(|| {
                    BaseChange {
                        name: crate::candidates::key(&package, &self.rules.spec.arch),
                        version: version.version().to_owned(),
                        new: new.map(|new| new.version().to_owned()),
                    }
                })
            })
            .collect();
        changes.sort();
        changes
    }

    /// Changes that no override asks for.
    fn forbidden(&self) -> Vec<BaseChange> {
        let free = |change: &BaseChange| {
            self.cache
                .get(&change.name)
                .is_some_and(|package| self.is_free(&package))
        };
        self.changes().into_iter().filter(|c| !free(c)).collect()
    }

    /// What would become of the base if it were not held: whether that solves it, and the changes
    /// that no override asks for.
    fn unheld(&self, names: &[&String]) -> Result<(bool, Vec<BaseChange>)> {
        let cache = (self.open)()?;
        let solver = Solver {
            cache: &cache,
            active: self.active.clone(),
            debs: self.debs.clone(),
            broken: self.broken.clone(),
            ..*self
        };
        solver.expand(&self.active, &self.debs, &NullReporter)?;
        Ok((solver.mark(names), solver.forbidden()))
    }

    /// Why it can't be done with the base as it is.
    fn refusal(&self, wanted: &Wanted) -> Result<anyhow::Error> {
        let names: Vec<&String> = wanted.requests.iter().flatten().collect();
        let (possible, forbidden) = self.unheld(&names)?;
        if possible && !forbidden.is_empty() {
            return self.forbidden_error(&forbidden, wanted);
        }
        let cache = (self.open)()?;
        request::expand(
            &cache,
            self.rules,
            (&self.active, &self.debs),
            &NullReporter,
        )?;
        let names: Vec<String> = names.into_iter().cloned().collect();
        let chain = explain::explain(&cache, self.rules, &names);
        Ok(fail_hint(
            ErrorKind::Unsatisfiable,
            chain,
            "run 'apt-ostree upgrade' when base and package archive are out of step, or request versions that fit the base",
        ))
    }

    fn removed_names(&self) -> String {
        let names = self.base.remove.iter().map(|name| format!("'{name}'"));
        names.collect::<Vec<_>>().join(", ")
    }

    /// All that may ask for a change, one by one.
    fn asks(&self, wanted: &Wanted) -> Vec<Ask> {
        let requests = self.active.iter().map(|request| describe(request));
        let replace = self.base.replace.iter().map(describe);
        let debs = self.debs.iter().map(|deb| deb.path.to_string());
        let texts = requests.chain(replace).chain(debs);
        let asks = texts.zip(&wanted.requests);
        asks.map(|(text, packages)| Ask {
            text,
            packages: packages.clone(),
        })
        .collect()
    }

    fn forbidden_error(&self, forbidden: &[BaseChange], wanted: &Wanted) -> Result<anyhow::Error> {
        let mut by: BTreeMap<&BaseChange, Vec<String>> = BTreeMap::new();
        // Removals are marked whatever else is; what they alone ask for is nobody else's fault.
        let (_, by_removal) = self.unheld(&[])?;
        for change in forbidden.iter().filter(|c| by_removal.contains(c)) {
            by.entry(change)
                .or_default()
                .push(format!("removing {}", self.removed_names()));
        }
        for ask in self.asks(wanted) {
            let (_, found) = self.unheld(&ask.packages.iter().collect::<Vec<_>>())?;
            let new = |c: &&BaseChange| found.contains(c) && !by_removal.contains(c);
            for change in forbidden.iter().filter(new) {
                by.entry(change)
                    .or_default()
                    .push(format!("'{}'", ask.text));
            }
        }
        let everything = || vec!["the requests together".to_owned()];
        let text = |change: &BaseChange| {
            let who = by.get(change).cloned().unwrap_or_else(everything);
            let who = who.join(" and ");
            match &change.new {
                None => format!(
                    "{who} would remove the base package '{}' {}",
                    change.name, change.version
                ),
                Some(new) => format!(
                    "{who} would replace the base package '{}' {} by {new}",
                    change.name, change.version
                ),
            }
        };
        let messages: Vec<String> = forbidden.iter().map(text).collect();
        Ok(fail_hint(
            ErrorKind::Unsatisfiable,
            messages.join("; "),
            hint(forbidden),
        ))
    }
}

/// What to do about changes of the base.
fn hint(forbidden: &[BaseChange]) -> String {
    let mut hints = Vec::new();
    let (replaced, removed): (Vec<_>, Vec<_>) = forbidden.iter().partition(|c| c.new.is_some());
    if !replaced.is_empty() {
        let names: Vec<String> = replaced
            .iter()
            .map(|c| format!("{}={}", c.name, c.new.as_deref().unwrap_or_default()))
            .collect();
        hints.push(format!(
            "the base is older than the package archive: run 'apt-ostree upgrade' for a newer base, or 'apt-ostree override replace' with {}",
            names.join(" ")
        ));
    }
    if !removed.is_empty() {
        let names: Vec<&str> = removed.iter().map(|c| c.name.as_str()).collect();
        hints.push(format!(
            "to remove base packages on purpose, use 'apt-ostree override remove {}'",
            names.join(" ")
        ));
    }
    hints.join("; ")
}
