//! Packages and what decides which of their files are installed.

use std::collections::{BTreeMap, BTreeSet};

use apt_ostree_model::PackageName;
use camino::{Utf8Path, Utf8PathBuf};

use super::{View, package_name};
use crate::error::{TreefileError, escape};
use crate::loader::{FileKind, Loader};
use crate::node::Node;
use crate::packages;
use crate::repos::{Repos, priority};
use crate::spec::{PackageRequest, Pin};

/// Types of debconf questions, and `seen`.
const DEBCONF_TYPES: [&str; 10] = [
    "string",
    "boolean",
    "select",
    "multiselect",
    "note",
    "text",
    "password",
    "title",
    "error",
    "seen",
];

/// What is to be installed and what not.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) packages: Vec<PackageRequest>,
    pub(super) repo_packages: Vec<(String, Vec<PackageName>)>,
    pub(super) excluded: BTreeSet<PackageName>,
}

/// Requests, those of `repo-packages` as well, and exclusions.
pub(super) fn packages(view: View<'_>, repos: &Repos) -> Result<Chosen, TreefileError> {
    let mut excluded = BTreeMap::new();
    for node in view.items("exclude-packages") {
        excluded.entry(package_name(node)?).or_insert(node);
    }
    let mut requests = Vec::new();
    let mut names = BTreeMap::new();
    let mut add = |node: &Node, request: PackageRequest| {
        if let PackageRequest::Package { name, .. } = &request
            && let Some(other) = excluded.get(name)
        {
            let message = format!(
                "package '{name}' is both asked for and excluded (at {})",
                other.mark.brief()
            );
            return Err(node.error(message));
        }
        packages::add(&mut requests, &mut names, request).map_err(|why| node.error(why))
    };
    for node in view.items("packages") {
        add(
            node,
            packages::parse(node.text()).map_err(|why| node.error(why))?,
        )?;
    }
    let mut repo_packages = Vec::new();
    for entry in view.items("repo-packages") {
        let Some(repo) = entry.get("repo") else {
            continue;
        };
        repos.require(repo)?;
        let mut from_repo = Vec::new();
        for node in entry.get("packages").map_or(&[][..], Node::items) {
            for text in packages::split(node.text()).map_err(|why| node.error(why))? {
                let name = packages::parse_name(text).map_err(|why| node.error(why))?;
                let request = PackageRequest::Package {
                    name: name.clone(),
                    arch: None,
                    version: None,
                    suite: None,
                };
                add(node, request)?;
                from_repo.push(name);
            }
        }
        repo_packages.push((repo.text().to_owned(), from_repo));
    }
    Ok(Chosen {
        packages: requests,
        repo_packages,
        excluded: excluded.into_keys().collect(),
    })
}

/// apt pins.
pub(super) fn pins(view: View<'_>) -> Result<Vec<Pin>, TreefileError> {
    let mut pins = Vec::new();
    for entry in view.items("pins") {
        let (Some(names), Some(pin)) = (entry.get("packages"), entry.get("pin")) else {
            continue;
        };
        let pattern = |node: &Node| {
            let text = node.text();
            let ok = text.bytes().all(|b| b.is_ascii_graphic() && b != b',');
            let message =
                || node.error(format!("'{}' is not a package name or glob", escape(text)));
            ok.then(|| text.to_owned()).ok_or_else(message)
        };
        let known = ["release ", "origin ", "version "]
            .iter()
            .any(|p| pin.text().starts_with(p));
        if !known {
            return Err(pin.error(
                "a pin begins with 'release', 'origin' or 'version', as in 'release n=sid'",
            ));
        }
        pins.push(Pin {
            packages: names
                .one_or_many()
                .iter()
                .map(pattern)
                .collect::<Result<_, _>>()?,
            pin: pin.text().to_owned(),
            priority: priority(entry.get("priority"))?.unwrap_or(500),
        });
    }
    Ok(pins)
}

/// Local `.deb` files, each once.
pub(super) fn local_packages(
    view: View<'_>,
    loader: &dyn Loader,
) -> Result<Vec<Utf8PathBuf>, TreefileError> {
    let mut paths = Vec::new();
    for node in view.items("local-packages") {
        if !node.text().ends_with(".deb") {
            return Err(node.error(format!("'{}' does not end in '.deb'", escape(node.text()))));
        }
        let path = loader
            .locate(
                &node.mark.source.dir,
                Utf8Path::new(node.text()),
                FileKind::File,
            )
            .map_err(|e| node.error(e.to_string()))?;
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Locales to keep.
pub(super) fn install_langs(view: View<'_>) -> Result<Option<Vec<String>>, TreefileError> {
    let check = |text: &str| {
        let start = text.starts_with(|c: char| c.is_ascii_alphabetic());
        if start
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.@-".contains(&b))
        {
            return Ok(());
        }
        Err(format!(
            "'{}' is not the name of a locale, such as 'de' or 'pt_BR'",
            escape(text)
        ))
    };
    match view.node("install-langs") {
        None => Ok(None),
        Some(_) => view.verified("install-langs", check).map(Some),
    }
}

/// debconf answers, one per line; comments are dropped.
pub(super) fn debconf(view: View<'_>) -> Result<Vec<String>, TreefileError> {
    let mut lines = Vec::new();
    for node in view.items("debconf") {
        for line in node.text().lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let words: Vec<&str> = line.split_whitespace().take(4).collect();
            let kind_ok = words
                .get(2)
                .is_some_and(|kind| DEBCONF_TYPES.contains(kind));
            if !kind_ok || line.contains(char::is_control) && !line.contains('\t') {
                let message = format!("'{}' must be 'package question type value'", escape(line));
                return Err(node.error(message));
            }
            lines.push(line.to_owned());
        }
    }
    Ok(lines)
}
