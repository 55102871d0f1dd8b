//! From marked packages to a plan.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use apt_ostree_model::{Arch, ErrorKind, PackageName, Plan, PlannedPackage, Sha256Digest, Version};
use rust_apt::{Cache, DepType, VersionFile};

use crate::candidates::{Rules, key};
use crate::error::{clean, fail};
use crate::groups::{self, Node};
use crate::lock::{FIELDS, check_uri, sort};
use crate::request::Wanted;
use crate::sources::LOCK;
use crate::uri;

/// The plan for everything that is marked, without its sources.
pub(crate) fn plan(
    cache: &Cache,
    rules: &Rules<'_>,
    essential: &[String],
    wanted: &Wanted,
) -> Result<Plan> {
    let mut marked: Vec<_> = cache.iter().filter(|p| p.marked_install()).collect();
    marked.sort_by_cached_key(|p| (p.name().to_owned(), p.arch().to_owned()));
    let mut packages = Vec::new();
    let mut index = BTreeMap::new();
    let mut position = BTreeMap::new();
    let mut versions = Vec::new();
    for package in marked {
        let version = package
            .install_version()
            .context("a marked package has no version")?;
        let full = package.fullname(false);
        let planned = describe(rules, &version)
            .with_context(|| format!("planning package '{}'", clean(&full)))?;
        index.insert(version.index(), packages.len());
        position.insert(full, packages.len());
        packages.push(planned);
        versions.push(version);
    }
    let at = |names: &[String]| -> Vec<usize> {
        names
            .iter()
            .filter_map(|name| {
                let full = cache.get(name)?.fullname(false);
                position.get(&full).copied()
            })
            .collect()
    };
    let requests: Vec<Vec<usize>> = wanted.requests.iter().map(|names| at(names)).collect();
    let roots = at(essential);
    let mut nodes: Vec<Node> = versions
        .iter()
        .map(|version| edges(version, &index, rules.spec.recommends))
        .collect();
    for package in &mut packages {
        package.auto = true;
    }
    for &root in &roots {
        nodes[root].essential = true;
        packages[root].essential = true;
        packages[root].auto = false;
    }
    for &requested in requests.iter().flatten() {
        packages[requested].auto = false;
    }
    let groups = groups::assign(&nodes, &requests);
    for (package, group) in packages.iter_mut().zip(groups) {
        package.group = group;
    }
    sort(&mut packages);
    Ok(Plan {
        arch: rules.spec.arch.clone(),
        packages,
        sources: Vec::new(),
    })
}

/// The planned packages that satisfy the dependencies of `version`.
fn edges(
    version: &rust_apt::Version<'_>,
    index: &BTreeMap<usize, usize>,
    recommends: bool,
) -> Node {
    let targets = |kind: DepType| -> Vec<usize> {
        let groups = version.get_depends(&kind).into_iter().flatten();
        groups
            .filter_map(|group| {
                group.iter().find_map(|dep| {
                    dep.all_targets()
                        .iter()
                        .find_map(|target| index.get(&target.index()).copied())
                })
            })
            .collect()
    };
    Node {
        pre_depends: targets(DepType::PreDepends),
        depends: targets(DepType::Depends),
        recommends: match recommends {
            true => targets(DepType::Recommends),
            false => Vec::new(),
        },
        essential: false,
    }
}

/// One place where a version can be fetched.
struct Offer<'a> {
    file: VersionFile<'a>,
    repo: String,
    sha256: Sha256Digest,
    priority: i32,
}

fn verification(message: String) -> anyhow::Error {
    fail(ErrorKind::Verification, message)
}

/// All offers of a version text, also those whose dependencies differ.
fn offers<'a>(
    rules: &Rules<'_>,
    version: &rust_apt::Version<'a>,
) -> Result<Vec<(usize, Offer<'a>)>> {
    let mut offers = Vec::new();
    for other in version
        .parent()
        .versions()
        .filter(|v| v.version() == version.version())
    {
        for file in other.version_files() {
            let from = file.package_file();
            let Some(repo) = rules.repo(&from).filter(|_| rules.visible(&other, &from)) else {
                continue;
            };
            let text = file
                .lookup()
                .hash_find("SHA256".to_owned())
                .unwrap_or_default();
            let sha256 = text.to_ascii_lowercase().parse().map_err(|_| {
                verification(format!(
                    "repo '{repo}' gives no SHA256 for version '{}'",
                    clean(version.version())
                ))
            })?;
            let offer = Offer {
                repo: repo.to_owned(),
                sha256,
                priority: rules.file_priority(&from),
                file,
            };
            offers.push((other.index(), offer));
        }
    }
    Ok(offers)
}

/// The offer to use. One version with two contents is refused unless the treefile decides.
fn choose<'a>(rules: &Rules<'_>, version: &rust_apt::Version<'a>) -> Result<Offer<'a>> {
    let offers = offers(rules, version)?;
    let package = version.parent();
    let locked = rules.locked.get(&key(&package, &rules.spec.arch));
    let locked = locked.filter(|locked| locked.version.as_str() == version.version());
    let prescribed = rules
        .spec
        .repo_packages
        .iter()
        .find(|(_, names)| names.iter().any(|name| name.as_str() == package.name()))
        .map(|(repo, _)| repo);
    let allowed = |offer: &Offer<'_>| prescribed.is_none_or(|repo| *repo == offer.repo);
    let highest = offers
        .iter()
        .filter(|(_, o)| allowed(o))
        .map(|(_, o)| o.priority)
        .max();
    let mut rivals: Vec<_> = offers
        .into_iter()
        .filter(|(_, offer)| match locked {
            Some(locked) => offer.sha256 == locked.sha256,
            None => allowed(offer) && Some(offer.priority) == highest,
        })
        .collect();
    if let (Some(locked), true) = (locked, rivals.is_empty()) {
        return Err(verification(format!(
            "the index gives another SHA256 for version '{}' than the lockfile ({})",
            locked.version, locked.sha256
        )));
    }
    if let Some((_, first)) = rivals.first()
        && let Some((_, other)) = rivals.iter().find(|(_, o)| o.sha256 != first.sha256)
    {
        return Err(verification(format!(
            "version '{}' exists twice with different content: repo '{}' has SHA256 {}, repo '{}' has {}",
            clean(version.version()),
            first.repo,
            first.sha256,
            other.repo,
            other.sha256
        )));
    }
    rivals.retain(|(index, _)| *index == version.index());
    match rivals.into_iter().next() {
        Some((_, offer)) => Ok(offer),
        None => Err(verification(format!(
            "version '{}' is described in different ways by its repos",
            clean(version.version())
        ))),
    }
}

fn describe(rules: &Rules<'_>, version: &rust_apt::Version<'_>) -> Result<PlannedPackage> {
    let offer = choose(rules, version)?;
    let record = offer.file.lookup();
    let get = |name: &str| record.get_field(name.to_owned());
    let filename = record.filename();
    let invalid = |why: String| {
        fail(
            ErrorKind::InvalidPackage,
            format!("repo '{}': {why}", offer.repo),
        )
    };
    let name: PackageName = version.parent().name().parse()?;
    let parsed: Version = version.version().parse()?;
    let arch: Arch = version.arch().parse()?;
    if offer.repo == LOCK {
        return from_lock(rules, version, offer.sha256);
    }
    let field = |name: &&str| {
        let value = get(name)?;
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        (!value.is_empty()).then(|| ((*name).to_owned(), clean(&value)))
    };
    let fields: BTreeMap<String, String> = FIELDS.iter().filter_map(field).collect();
    let uri = match get("X-Apt-Ostree-Path") {
        Some(path) if generated(rules, &offer.repo) => path.trim().to_owned(),
        _ => {
            check_filename(&filename).map_err(invalid)?;
            let from = offer.file.package_file();
            absolute(&from.index_file().archive_uri(&filename))
        }
    };
    check_uri(&uri).map_err(invalid)?;
    let size = get("Size").and_then(|size| size.trim().parse().ok());
    Ok(PlannedPackage {
        name,
        version: parsed,
        arch,
        sha256: offer.sha256,
        size: size.ok_or_else(|| invalid("the index gives no size".to_owned()))?,
        installed_size: fields
            .get("Installed-Size")
            .and_then(|s| s.parse().ok())
            .unwrap_or(0),
        source: version.source_name().to_owned(),
        source_version: version.source_version().to_owned(),
        repo: offer.repo.clone(),
        uri,
        auto: true,
        essential: false,
        group: 0,
        fields,
    })
}

fn generated(rules: &Rules<'_>, repo: &str) -> bool {
    rules
        .sources
        .list
        .iter()
        .any(|source| source.repo == repo && source.generated)
}

/// A package of a strict lockfile is exactly what the lockfile says.
fn from_lock(
    rules: &Rules<'_>,
    version: &rust_apt::Version<'_>,
    sha256: Sha256Digest,
) -> Result<PlannedPackage> {
    let key = key(&version.parent(), &rules.spec.arch);
    let locked = rules
        .locked
        .get(&key)
        .filter(|locked| locked.sha256 == sha256);
    let mut planned = locked.context("the lockfile and its index differ")?.clone();
    if let Some(deb) = rules.sources.debs.iter().find(|deb| deb.sha256 == sha256) {
        planned.uri = uri::from_path(&deb.path);
    }
    planned.auto = true;
    planned.essential = false;
    planned.group = 0;
    Ok(planned)
}

/// `Filename` must stay below the repository.
fn check_filename(filename: &str) -> Result<(), String> {
    let climbs = filename
        .split('/')
        .any(|part| part == ".." || part.eq_ignore_ascii_case("%2e%2e"));
    let scheme = filename
        .split('/')
        .next()
        .is_some_and(|first| first.contains(':'));
    let plain = !filename.chars().any(char::is_control);
    match !filename.is_empty() && !filename.starts_with('/') && !climbs && !scheme && plain {
        true => Ok(()),
        false => Err(format!(
            "its index names the file '{}', which is not below the repository",
            clean(filename)
        )),
    }
}

/// `file:/x` as `file:///x`; spaces encoded.
fn absolute(uri: &str) -> String {
    match uri::file_path(uri) {
        Some(path) => uri::from_path(&path),
        None => uri.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_stay_below_the_repository() {
        for good in ["pool/main/a/a_1%3a2.deb", "./a.deb", "a..b.deb"] {
            check_filename(good).unwrap();
        }
        for bad in [
            "",
            "/etc/passwd",
            "../a",
            "pool/../../a",
            "pool/%2E%2e/a",
            "http://x/a",
            "a\nb",
        ] {
            assert!(check_filename(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn file_uris_have_an_empty_host() {
        assert_eq!(absolute("file:/srv/a.deb"), "file:///srv/a.deb");
        assert_eq!(absolute("http://x/a%20b"), "http://x/a%20b");
    }
}
