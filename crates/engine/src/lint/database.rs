//! Lints of the dpkg database.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::Result;
use apt_ostree_model::Node;

use super::{Lint, LintInput, Outcome, clean, found_items};
use crate::postprocess::ownership::merged_path;
use crate::postprocess::work::{read_optional, read_text_optional, real_path};

const ADMINDIR: &str = "usr/lib/sysimage/dpkg";

pub(super) static LINTS: [Lint; 2] = [
    Lint::fatal(
        "dpkg-status",
        "every package is fully installed",
        dpkg_status,
    ),
    Lint::fatal(
        "file-owners",
        "no file belongs to two packages",
        file_owners,
    ),
];

fn dpkg_status(input: &LintInput<'_>) -> Outcome {
    let path = format!("{ADMINDIR}/status");
    let Some(text) = read_text_optional(input.tree, input.content, &path)? else {
        if input.facts.packages.is_empty() {
            return clean();
        }
        return found_items("no package database", vec![format!("/{path}")]);
    };
    let mut bad = Vec::new();
    for stanza in text.split("\n\n").filter(|s| !s.trim().is_empty()) {
        let field = |name: &str| {
            let value = stanza.lines().find_map(|line| line.strip_prefix(name));
            value.unwrap_or_default().trim()
        };
        let (package, status) = (field("Package:"), field("Status:"));
        // A package that was removed may have left its configuration.
        let fine = [
            "install ok installed",
            "hold ok installed",
            "deinstall ok config-files",
        ];
        if !fine.contains(&status) {
            bad.push(format!("{package} ({status})"));
        }
        if !field("Triggers-Pending:").is_empty() || !field("Triggers-Awaited:").is_empty() {
            bad.push(format!("{package} (triggers)"));
        }
    }
    found_items("packages not fully installed", bad)
}

fn file_owners(input: &LintInput<'_>) -> Outcome {
    let info = format!("{ADMINDIR}/info");
    let Some(dir) = input.tree.dir(&info) else {
        return clean();
    };
    let mut first: HashMap<String, usize> = HashMap::new();
    let mut shared: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let lists: Vec<&String> = dir
        .entries
        .keys()
        .filter(|n| n.ends_with(".list"))
        .collect();
    for (index, name) in lists.iter().enumerate() {
        let data = read_optional(input.tree, input.content, &format!("{info}/{name}"))?;
        let text = String::from_utf8_lossy(&data.unwrap_or_default()).into_owned();
        for line in text.lines().filter(|line| line.len() > 1) {
            let path = merged_path(line);
            let Some(other) = first.get(&path) else {
                first.insert(path, index);
                continue;
            };
            let (one, two) = (package_of(lists[*other]), package_of(name));
            if one != two {
                shared.entry(path).or_default().extend([one, two]);
            }
        }
    }
    let diverted = diverted_paths(input)?;
    let shared = shared
        .into_iter()
        .filter(|(path, _)| !diverted.contains(path) && !is_shareable(input, path));
    let shared = shared.map(|(path, packages)| {
        let packages: Vec<&str> = packages.into_iter().collect();
        format!("/{path} ({})", packages.join(", "))
    });
    found_items("files of two packages", shared.collect())
}

/// The package of a `NAME.list` or `NAME:ARCH.list` file.
fn package_of(list: &str) -> &str {
    let stem = list.strip_suffix(".list").unwrap_or(list);
    stem.split(':').next().unwrap_or(stem)
}

/// Directories, links to directories and paths that are gone may be in several lists.
fn is_shareable(input: &LintInput<'_>, path: &str) -> bool {
    let place = if path.starts_with("etc/") {
        format!("usr/{path}")
    } else {
        path.to_owned()
    };
    let real = real_path(input.tree, &place);
    match input.tree.get(&real) {
        Some(Node::File(_)) => false,
        Some(Node::Symlink(_)) => {
            let target = input.image.resolve(path);
            target.is_none_or(|target| input.image.dir(&target).is_some())
        }
        Some(Node::Dir(_)) | None => true,
    }
}

/// Both names of each diversion, below a merged /usr.
fn diverted_paths(input: &LintInput<'_>) -> Result<BTreeSet<String>> {
    let path = format!("{ADMINDIR}/diversions");
    let text = read_text_optional(input.tree, input.content, &path)?.unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let records = lines.chunks(3).flat_map(|record| record.iter().take(2));
    Ok(records.map(|path| merged_path(path)).collect())
}
