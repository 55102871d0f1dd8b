//! From the treefile's requests to package versions.

use std::collections::BTreeSet;

use anyhow::Result;
use apt_ostree_model::{ErrorKind, PackageName, Reporter};
use apt_ostree_treefile::spec::PackageRequest;
use rust_apt::{Cache, DepType, Package, Version};

use crate::candidates::Rules;
use crate::error::fail_hint;
use crate::localrepo::LocalDeb;

/// How a suite starts that is none but the origin of a repository.
const ORIGIN: &str = "origin=";

/// The packages that the requests stand for: one list per request, full names (`name:arch`).
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) requests: Vec<Vec<String>>,
    problems: Vec<String>,
    hints: Vec<String>,
}

struct Expander<'a, 'r> {
    cache: &'a Cache,
    rules: &'r Rules<'r>,
    reporter: &'r dyn Reporter,
    wanted: Wanted,
}

/// `name` or `name:arch` of a request for a package.
pub(crate) fn full_name(request: &PackageRequest) -> Option<String> {
    match request {
        PackageRequest::Package {
            name,
            arch: Some(arch),
            ..
        } => Some(format!("{name}:{arch}")),
        PackageRequest::Package { name, .. } => Some(name.to_string()),
        PackageRequest::Task(_) | PackageRequest::Priority(_) => None,
    }
}

/// Expands all requests and sets the candidates that they prescribe.
pub(crate) fn expand_all(
    cache: &Cache,
    rules: &Rules<'_>,
    reporter: &dyn Reporter,
) -> Result<Wanted> {
    let requests: Vec<&PackageRequest> = rules.spec.packages.iter().collect();
    let debs: Vec<&LocalDeb> = rules.sources.debs.iter().collect();
    expand(cache, rules, (&requests, &debs), reporter)
}

/// Expands requests and local packages and sets the candidates that they prescribe.
pub(crate) fn expand(
    cache: &Cache,
    rules: &Rules<'_>,
    (requests, debs): (&[&PackageRequest], &[&LocalDeb]),
    reporter: &dyn Reporter,
) -> Result<Wanted> {
    let mut expander = Expander {
        cache,
        rules,
        reporter,
        wanted: Wanted::default(),
    };
    for request in requests {
        let full = full_name(request).unwrap_or_default();
        let found = match request {
            PackageRequest::Package {
                name,
                version,
                suite,
                ..
            } => expander.package(name, &full, version.as_deref(), suite.as_deref()),
            PackageRequest::Task(task) => expander.task(task),
            PackageRequest::Priority(priority) => expander.priority(priority),
        };
        expander.wanted.requests.push(found);
    }
    for deb in debs {
        let full = match deb.arch.as_str() {
            "all" => deb.name.to_string(),
            arch => format!("{}:{arch}", deb.name),
        };
        let found = expander.package(&deb.name, &full, Some(deb.version.as_str()), None);
        expander.wanted.requests.push(found);
    }
    let wanted = expander.wanted;
    if wanted.problems.is_empty() {
        return Ok(wanted);
    }
    Err(fail_hint(
        ErrorKind::Unsatisfiable,
        wanted.problems.join("; "),
        match wanted.hints.is_empty() {
            true if rules.spec.base.is_some() => {
                "check the names, and the package sources in /etc/apt".to_owned()
            }
            true => "correct 'packages' in the treefile".to_owned(),
            false => wanted.hints.join("; "),
        },
    ))
}

impl<'a> Expander<'a, '_> {
    fn problem(&mut self, text: String) -> Vec<String> {
        self.wanted.problems.push(text);
        Vec::new()
    }

    fn package(
        &mut self,
        name: &PackageName,
        full: &str,
        version: Option<&str>,
        suite: Option<&str>,
    ) -> Vec<String> {
        if self.rules.spec.exclude_packages.contains(name) {
            return self.problem(format!(
                "package '{full}' is requested, but 'exclude-packages' forbids it"
            ));
        }
        let package = self.cache.get(full);
        let Some(package) = package.filter(Package::has_versions) else {
            return self.provided(full);
        };
        let chosen = match (version, suite) {
            (Some(version), _) => package.versions().find(|v| v.version() == version),
            (None, Some(suite)) => package.versions().find(|v| self.in_suite(v, suite)),
            (None, None) => {
                if package.candidate().is_some() {
                    return vec![package.fullname(false)];
                }
                let why = "no repo may provide it (pins or lockfile-repos hide all its versions)";
                return self.problem(format!("package '{full}' can't be used: {why}"));
            }
        };
        let Some(chosen) = chosen else {
            let what = version.map_or_else(
                || format!("is not in {}", source_text(suite.unwrap_or_default())),
                |version| format!("has no version '{version}'"),
            );
            let known: Vec<_> = package.versions().map(|v| v.version().to_owned()).collect();
            self.wanted
                .hints
                .push(format!("'{full}' is there as: {}", known.join(", ")));
            return self.problem(format!("package '{full}' {what}"));
        };
        chosen.set_candidate();
        if let Some(suite) = suite {
            self.follow_suite(&chosen, suite, &mut BTreeSet::new());
        }
        vec![package.fullname(false)]
    }

    fn in_suite(&self, version: &Version<'_>, suite: &str) -> bool {
        let origin = suite.strip_prefix(ORIGIN);
        version.package_files().any(|file| {
            if let Some(origin) = origin {
                return self.rules.repo(&file).is_some() && file.origin() == Some(origin);
            }
            self.rules.suite(&file) == Some(suite)
                || file.archive() == Some(suite)
                || file.codename() == Some(suite)
        })
    }

    /// Dependencies that today's candidates don't satisfy are taken from the same suite.
    fn follow_suite(&self, version: &Version<'a>, suite: &str, seen: &mut BTreeSet<usize>) {
        let mut queue = vec![version.clone()];
        while let Some(version) = queue.pop() {
            if !seen.insert(version.index()) {
                continue;
            }
            for kind in [DepType::PreDepends, DepType::Depends] {
                for group in version.get_depends(&kind).into_iter().flatten() {
                    let satisfied = group
                        .iter()
                        .any(|dep| dep.all_targets().iter().any(|target| is_candidate(target)));
                    if satisfied {
                        continue;
                    }
                    let targets = group.iter().flat_map(|dep| {
                        let targets = dep.all_targets();
                        targets
                            .iter()
                            .map(|t| (t.parent().fullname(false), t.index()))
                            .collect::<Vec<_>>()
                    });
                    let found = targets.filter_map(|(name, index)| {
                        self.cache
                            .get(&name)?
                            .versions()
                            .find(|v| v.index() == index)
                    });
                    if let Some(found) = found.into_iter().find(|v| self.in_suite(v, suite)) {
                        found.set_candidate();
                        queue.push(found);
                    }
                }
            }
        }
    }

    /// A virtual package: takes one of its providers.
    fn provided(&mut self, full: &str) -> Vec<String> {
        let package = self.cache.get(full);
        let mut providers: Vec<(u8, String)> = package
            .iter()
            .flat_map(Package::provides)
            .filter(|provider| is_candidate(&provider.version()))
            .map(|provider| {
                let package = provider.package();
                (
                    priority_rank(provider.version().priority_str().ok()),
                    package.fullname(true),
                )
            })
            .collect();
        providers.sort();
        providers.dedup();
        match providers.as_slice() {
            [] => {
                let near = self.near(full);
                if !near.is_empty() {
                    self.wanted
                        .hints
                        .push(format!("instead of '{full}' did you mean {near}?"));
                }
                self.problem(format!("unknown package '{full}'"))
            }
            [(_, only)] => vec![only.clone()],
            [(_, first), ..] => {
                let names: Vec<&str> = providers.iter().map(|(_, name)| name.as_str()).collect();
                self.reporter.message(format!(
                    "virtual package '{full}' is provided by {}; taking '{first}'",
                    names.join(", ")
                ));
                vec![first.clone()]
            }
        }
    }

    /// Up to three names that look like `full`.
    fn near(&self, full: &str) -> String {
        let wanted = full.split(':').next().unwrap_or(full);
        let limit = 1 + wanted.len() / 4;
        let mut names: Vec<(usize, String)> = self
            .cache
            .iter()
            .filter(|package| package.arch() == self.rules.spec.arch.as_str())
            .filter(|package| {
                package.name().len().abs_diff(wanted.len()) <= limit && package.has_versions()
            })
            .map(|package| {
                (
                    strsim::damerau_levenshtein(wanted, package.name()),
                    package.name().to_owned(),
                )
            })
            .filter(|(distance, _)| *distance <= limit)
            .collect();
        names.sort();
        names.dedup();
        let quoted = names.iter().take(3).map(|(_, name)| format!("'{name}'"));
        quoted.collect::<Vec<_>>().join(", ")
    }

    /// Native packages whose candidate passes `test`, sorted by name.
    fn select(&self, test: impl Fn(&Version<'a>) -> bool) -> Vec<String> {
        let mut names: Vec<String> = self
            .cache
            .iter()
            .filter(|package| package.arch() == self.rules.spec.arch.as_str())
            .filter(|package| package.candidate().is_some_and(|version| test(&version)))
            .map(|package| package.fullname(false))
            .collect();
        names.sort();
        names
    }

    fn task(&mut self, task: &str) -> Vec<String> {
        let names = self.select(|version| {
            let field = version.get_record("Task").unwrap_or_default();
            field.split([',', ' ']).any(|word| word == task)
        });
        if names.is_empty() {
            return self.problem(format!("no package belongs to task '{task}'"));
        }
        names
    }

    fn priority(&mut self, priority: &str) -> Vec<String> {
        let names = self.select(|version| version.priority_str().ok() == Some(priority));
        if names.is_empty() {
            return self.problem(format!("no package has priority '{priority}'"));
        }
        names
    }
}

/// A suite, or an origin, in words.
fn source_text(suite: &str) -> String {
    match suite.strip_prefix(ORIGIN) {
        Some(origin) => format!("a repository of origin '{origin}'"),
        None => format!("suite '{suite}'"),
    }
}

/// True when the version is the one that would be installed.
pub(crate) fn is_candidate(version: &Version<'_>) -> bool {
    let candidate = version.parent().candidate();
    candidate.is_some_and(|candidate| candidate.index() == version.index())
}

fn priority_rank(priority: Option<&str>) -> u8 {
    match priority {
        Some("required") => 0,
        Some("important") => 1,
        Some("standard") => 2,
        Some("optional") => 3,
        _ => 4,
    }
}
