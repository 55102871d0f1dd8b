//! Looking for packages in the indices and in what is installed.

use std::collections::BTreeSet;

use apt_ostree_model::query::MatchGroup;
use rust_apt::{Cache, Package, Version};

use crate::candidates::Rules;

/// A search shows at most so many packages of each group.
const GROUP_LIMIT: usize = 50;

/// Other questions have at most so many answers.
const ANSWER_LIMIT: usize = 1000;

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Find<'a> {
    /// Terms in names and summaries, each of which must be somewhere.
    Search(&'a [String]),
    /// What provides one of these names.
    Provides(&'a [String]),
    /// Packages with one of these names.
    Names(&'a [String]),
}

/// A package that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where the terms are; `None`: there were none.
    pub group: Option<MatchGroup>,
    /// Its name.
    pub name: String,
    /// The version that would be installed, else the installed one.
    pub version: String,
    /// Its architecture.
    pub arch: String,
    /// Its description in one line.
    pub summary: String,
    /// The repo that it comes from; `None`: it is only installed.
    pub repo: Option<String>,
    /// The installed version.
    pub installed: Option<String>,
}

/// Finds packages; those of a search by group and name, others by name.
pub(crate) fn find(cache: &Cache, rules: &Rules<'_>, what: Find<'_>) -> Vec<Found> {
    match what {
        Find::Search(terms) => search(cache, rules, terms),
        Find::Provides(names) => {
            let mut seen = BTreeSet::new();
            let providers = names.iter().filter_map(|name| cache.get(name));
            let mut found = Vec::new();
            for package in providers {
                let own = package.versions().map(|v| v.parent());
                let others = package.provides().map(|p| p.package());
                for package in own.chain(others) {
                    if seen.insert(package.fullname(false)) {
                        found.extend(chosen(&package).map(|v| describe(rules, &v, None)));
                    }
                }
            }
            sorted(found)
        }
        Find::Names(names) => {
            let packages = names.iter().flat_map(|name| with_name(cache, rules, name));
            let versions = packages.filter_map(|package| chosen(&package));
            sorted(versions.map(|v| describe(rules, &v, None)).collect())
        }
    }
}

fn sorted(mut found: Vec<Found>) -> Vec<Found> {
    found.sort_by(|a, b| (&a.name, &a.arch).cmp(&(&b.name, &b.arch)));
    found.dedup();
    found.truncate(ANSWER_LIMIT);
    found
}

/// The package called `name`, or all that it fits when it has wildcards.
fn with_name<'c>(cache: &'c Cache, rules: &Rules<'_>, name: &str) -> Vec<Package<'c>> {
    if !is_pattern(name) {
        return cache.get(name).into_iter().collect();
    }
    let pattern = name.to_lowercase();
    native(cache, rules)
        .filter(|package| fits(&pattern, package.name()))
        .collect()
}

/// Packages of the native architecture, and what is installed of others.
fn native<'c>(cache: &'c Cache, rules: &Rules<'_>) -> impl Iterator<Item = Package<'c>> {
    let arch = rules.spec.arch.to_string();
    cache.iter().filter(move |package| {
        package.has_versions() && (package.arch() == arch || package.is_installed())
    })
}

/// The version that would be installed, else the installed one.
fn chosen<'c>(package: &Package<'c>) -> Option<Version<'c>> {
    package.candidate().or_else(|| package.installed())
}

fn describe(rules: &Rules<'_>, version: &Version<'_>, group: Option<MatchGroup>) -> Found {
    let package = version.parent();
    let mut files = version.package_files();
    let repo = files.find_map(|file| rules.repo(&file).map(str::to_owned));
    Found {
        group,
        name: package.name().to_owned(),
        version: version.version().to_owned(),
        arch: version.arch().to_owned(),
        summary: version.summary().unwrap_or_default(),
        repo,
        installed: package.installed().map(|v| v.version().to_owned()),
    }
}

fn search(cache: &Cache, rules: &Rules<'_>, terms: &[String]) -> Vec<Found> {
    let terms: Vec<String> = terms.iter().map(|term| term.to_lowercase()).collect();
    if terms.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for package in native(cache, rules) {
        let Some(version) = chosen(&package) else {
            continue;
        };
        let summary = version.summary().unwrap_or_default();
        if let Some(group) = group_of(&terms, package.name(), &summary.to_lowercase()) {
            found.push(describe(rules, &version, Some(group)));
        }
    }
    found.sort_by(|a, b| (a.group, &a.name, &a.arch).cmp(&(b.group, &b.name, &b.arch)));
    let mut kept: Vec<Found> = Vec::new();
    for package in found {
        let same = kept.iter().filter(|k| k.group == package.group).count();
        if same < GROUP_LIMIT {
            kept.push(package);
        }
    }
    kept
}

/// Where the terms are; `None`: one of them is nowhere.
fn group_of(terms: &[String], name: &str, summary: &str) -> Option<MatchGroup> {
    let all = |text: &str| terms.iter().all(|term| matches(term, text));
    match (all(name), all(summary)) {
        (true, true) => Some(MatchGroup::NameAndSummary),
        (true, false) => Some(MatchGroup::Name),
        (false, true) => Some(MatchGroup::Summary),
        (false, false) => {
            let mut each = terms.iter();
            let somewhere = each.all(|term| matches(term, name) || matches(term, summary));
            somewhere.then_some(MatchGroup::NameAndSummary)
        }
    }
}

/// Whether a term is a part of `text`, or fits it when it has wildcards.
fn matches(term: &str, text: &str) -> bool {
    if is_pattern(term) {
        fits(term, text)
    } else {
        text.contains(term)
    }
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Whether `text` as a whole fits a pattern with `*` and `?`. Takes time in proportion to the
/// product of their lengths at most.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut pos) = (0, 0);
    let mut star = None;
    while pos < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, pos));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[pos] => {
                at += 1;
                pos += 1;
            }
            _ => match star {
                Some((back, from)) => {
                    star = Some((back, from + 1));
                    at = back + 1;
                    pos = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_the_whole_text() {
        for (pattern, text, expected) in [
            ("nginx*", "nginx-core", true),
            ("*core", "nginx-core", true),
            ("n?inx", "nginx", true),
            ("n*x*e", "nginx-core", true),
            ("nginx?", "nginx", false),
            ("core*", "nginx-core", false),
            ("*", "", true),
            ("a*b", "aab-", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn terms_are_sought_in_name_and_summary() {
        let group = |terms: &[&str]| {
            let terms: Vec<String> = terms.iter().map(|t| (*t).to_owned()).collect();
            group_of(&terms, "nginx-core", "nginx web server")
        };
        assert_eq!(group(&["nginx"]), Some(MatchGroup::NameAndSummary));
        assert_eq!(group(&["core"]), Some(MatchGroup::Name));
        assert_eq!(group(&["web"]), Some(MatchGroup::Summary));
        assert_eq!(group(&["core", "web"]), Some(MatchGroup::NameAndSummary));
        assert_eq!(group(&["core", "mail"]), None);
        assert_eq!(group(&["*-core"]), Some(MatchGroup::Name));
        assert_eq!(group(&["*server"]), Some(MatchGroup::Summary));
    }
}
