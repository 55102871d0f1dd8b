//! Packages of commits and how they differ.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use apt_ostree_fsx::{escape, sha256_reader};
use apt_ostree_model::compose::PackageDiff;
use apt_ostree_model::{ErrorKind, Kinded, Version};
use serde_json::{Value, json};

use super::status::counts;
use crate::cli::client::DiffFormat;

/// Name, version and architecture of a package.
pub(crate) type PackageRow = (String, String, String);

/// A commit that is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiffSide {
    /// Its checksum, or what was typed.
    pub(crate) revision: String,
    /// Which deployment it is.
    pub(crate) what: Option<&'static str>,
}

/// How a package differs, in the order and with the numbers of rpm-ostree's JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Added = 0,
    Removed = 1,
    Upgraded = 2,
    Downgraded = 3,
}

/// The order in which kinds are shown.
const SHOWN: [(Kind, &str); 4] = [
    (Kind::Upgraded, "Upgraded"),
    (Kind::Downgraded, "Downgraded"),
    (Kind::Removed, "Removed"),
    (Kind::Added, "Added"),
];

fn kind(package: &PackageDiff) -> Kind {
    match (&package.previous, &package.new) {
        (None, _) => Kind::Added,
        (Some(_), None) => Kind::Removed,
        (Some((old, _)), Some((new, _))) => match (old.parse::<Version>(), new.parse()) {
            (Ok(old), Ok(new)) if old.dpkg_cmp(&new) == Ordering::Greater => Kind::Downgraded,
            _ => Kind::Upgraded,
        },
    }
}

/// A block each for packages that are upgraded, downgraded, removed and added.
pub fn pkgdiff_text(diff: &[PackageDiff]) -> String {
    let names = Names::of(diff);
    let mut text = String::new();
    for (kind_shown, title) in SHOWN {
        let mut packages = diff
            .iter()
            .filter(|package| kind(package) == kind_shown)
            .peekable();
        if packages.peek().is_none() {
            continue;
        }
        let _ = writeln!(text, "{title}:");
        for package in packages {
            let (name, versions) = (names.shown(package), versions(package, " -> "));
            let _ = writeln!(text, "  {} {}", escape(&name), escape(&versions));
        }
    }
    text
}

/// Such as `2 upgraded, 1 added`; `None` when nothing differs.
pub(super) fn pkgdiff_counts(diff: &[PackageDiff]) -> Option<String> {
    let count = |kind_counted| diff.iter().filter(|p| kind(p) == kind_counted).count();
    counts(&[
        (count(Kind::Upgraded), "upgraded"),
        (count(Kind::Downgraded), "downgraded"),
        (count(Kind::Removed), "removed"),
        (count(Kind::Added), "added"),
    ])
}

fn versions(package: &PackageDiff, arrow: &str) -> String {
    let sides = [&package.previous, &package.new];
    let versions: Vec<&str> = sides
        .into_iter()
        .flatten()
        .map(|(v, _)| v.as_str())
        .collect();
    versions.join(arrow)
}

/// Which names need their architecture to be told apart.
struct Names<'a>(BTreeMap<&'a str, usize>);

impl<'a> Names<'a> {
    fn of(diff: &'a [PackageDiff]) -> Self {
        let mut names = BTreeMap::new();
        for package in diff {
            *names.entry(package.name.as_str()).or_default() += 1;
        }
        Self(names)
    }

    fn shown(&self, package: &PackageDiff) -> String {
        let arch = package
            .new
            .as_ref()
            .or(package.previous.as_ref())
            .map(|(_, arch)| arch);
        match arch {
            Some(arch)
                if self
                    .0
                    .get(package.name.as_str())
                    .is_some_and(|&count| count > 1) =>
            {
                format!("{}:{arch}", package.name)
            }
            _ => package.name.clone(),
        }
    }
}

/// `db diff`.
pub(crate) fn diff_text(
    from: &DiffSide,
    to: &DiffSide,
    diff: &[PackageDiff],
    format: DiffFormat,
) -> Result<String, Kinded> {
    match format {
        DiffFormat::Block => Ok(format!("{}{}", diff_head(from, to), pkgdiff_text(diff))),
        DiffFormat::Diff => Ok(diff_head(from, to) + &diff_lines(diff)),
        DiffFormat::Json => serde_json::to_string_pretty(&diff_json(from, to, diff))
            .map(|text| text + "\n")
            .map_err(|error| failed(format!("printing the difference: {error}"))),
    }
}

fn failed(message: String) -> Kinded {
    Kinded::new(ErrorKind::Failed, message)
}

fn diff_head(from: &DiffSide, to: &DiffSide) -> String {
    let side = |side: &DiffSide| match side.what {
        Some(what) => format!("{what} ({})", escape(&side.revision)),
        None => escape(&side.revision),
    };
    format!(
        "ostree diff commit from: {}\nostree diff commit to:   {}\n",
        side(from),
        side(to)
    )
}

/// `!` and `=` for the old and the new version, `-` for what is removed, `+` for what is added.
fn diff_lines(diff: &[PackageDiff]) -> String {
    let mut text = String::new();
    for package in diff {
        let mut line = |sign: char, (version, arch): &(String, String)| {
            let whole = format!("{}_{version}_{arch}", package.name);
            let _ = writeln!(text, "{sign}{}", escape(&whole));
        };
        match (&package.previous, &package.new) {
            (Some(old), Some(new)) => {
                line('!', old);
                line('=', new);
            }
            (Some(old), None) => line('-', old),
            (None, Some(new)) => line('+', new),
            (None, None) => {}
        }
    }
    text
}

fn diff_json(from: &DiffSide, to: &DiffSide, diff: &[PackageDiff]) -> Value {
    let entries: Vec<Value> = diff
        .iter()
        .map(|package| {
            let mut sides = serde_json::Map::new();
            for (key, side) in [
                ("PreviousPackage", &package.previous),
                ("NewPackage", &package.new),
            ] {
                if let Some((version, arch)) = side {
                    sides.insert(key.to_owned(), json!([package.name, version, arch]));
                }
            }
            json!([package.name, kind(package) as u32, sides])
        })
        .collect();
    json!({
        "ostree-commit-from": from.revision,
        "ostree-commit-to": to.revision,
        "pkgdiff": entries,
        "advisories": [],
    })
}

/// `db list` of one commit.
pub(crate) fn package_list_text(revision: &str, packages: &[PackageRow]) -> String {
    let mut text = format!("ostree commit: {}\n", escape(revision));
    for (name, version, arch) in packages {
        let _ = writeln!(text, " {}", escape(&format!("{name} {version} {arch}")));
    }
    text
}

/// `db version` of one commit: how many packages it has, and the checksum of the sorted list.
pub(crate) fn package_version_text(
    revision: &str,
    packages: &[PackageRow],
) -> Result<String, Kinded> {
    let mut lines: Vec<String> = packages
        .iter()
        .map(|(name, version, arch)| format!("{name} {version} {arch}\n"))
        .collect();
    lines.sort_unstable();
    let (digest, _) = sha256_reader(lines.concat().as_bytes())
        .map_err(|error| failed(format!("hashing the list of packages: {error}")))?;
    let revision = escape(revision);
    Ok(format!(
        "ostree commit: {revision}\n  {}:{digest}\n",
        packages.len()
    ))
}

#[cfg(test)]
mod tests;
