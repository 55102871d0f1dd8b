//! Lints of owners, modes and capabilities.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use apt_ostree_model::{File, ImportedPackage, Meta, Node};

use super::{Lint, LintInput, Outcome, clean, found_items};
use crate::postprocess::accounts::Accounts;
use crate::postprocess::ownership::{merged_path, owners_of};
use crate::postprocess::work::read_text_optional;

const CAPABILITY: &str = "security.capability";

pub(super) static LINTS: [Lint; 4] = [
    Lint::fatal(
        "privileged-files",
        "set-id bits and capabilities are those that packages declare",
        privileged_files,
    ),
    Lint::fatal(
        "sensitive-modes",
        "shadow, gshadow, sudoers and passwd have safe owners and modes",
        sensitive_modes,
    ),
    Lint::fatal(
        "known-owners",
        "every owner and group of a file has a name",
        known_owners,
    ),
    Lint::warning(
        "world-writable",
        "nothing is writable for all, but sticky directories",
        world_writable,
    ),
];

const fn meta(node: &Node) -> Option<&Meta> {
    match node {
        Node::Dir(dir) => Some(&dir.meta),
        Node::File(file) => Some(&file.meta),
        Node::Symlink(_) => None,
    }
}

fn privileged_files(input: &LintInput<'_>) -> Outcome {
    if input.facts.packages.is_empty() {
        return clean();
    }
    let overrides = stat_overrides(input)?;
    let mut surprises = Vec::new();
    for (path, node) in input.image.walk() {
        let Node::File(file) = node else {
            continue;
        };
        let special = file.meta.mode & 0o6000 != 0 || file.meta.xattrs.contains_key(CAPABILITY);
        let declared = special
            && (overrides.get(&path) == Some(&file.meta.mode)
                || is_declared(input.facts.packages, &path, file));
        if special && !declared {
            surprises.push(format!("/{path} ({:04o})", file.meta.mode));
        }
    }
    found_items("privileges that no package declares", surprises)
}

/// True when a package ships the file with these privileges, or its postinst sets them.
fn is_declared(packages: &[ImportedPackage], path: &str, file: &File) -> bool {
    owners_of(packages, path).iter().any(|(package, node)| {
        let shipped = node.as_file().is_some_and(|shipped| {
            let bits = |meta: &Meta| meta.mode & 0o6000;
            bits(&shipped.meta) == bits(&file.meta)
                && shipped.meta.xattrs.get(CAPABILITY) == file.meta.xattrs.get(CAPABILITY)
        });
        shipped || postinst_sets(package, path)
    })
}

/// True when the package's postinst names the file and a program that gives privileges.
fn postinst_sets(package: &ImportedPackage, path: &str) -> bool {
    const PROGRAMS: [&str; 3] = ["setcap", "chmod", "dpkg-statoverride"];
    let name = path.rsplit('/').next().unwrap_or(path);
    package.member_text("postinst").is_some_and(|text| {
        text.contains(name) && PROGRAMS.iter().any(|program| text.contains(program))
    })
}

/// Mode by path, from dpkg's statoverride file.
fn stat_overrides(input: &LintInput<'_>) -> Result<BTreeMap<String, u32>> {
    const PATH: &str = "usr/lib/sysimage/dpkg/statoverride";
    let text = read_text_optional(input.tree, input.content, PATH)?.unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.splitn(4, ' ');
        let mode = u32::from_str_radix(fields.nth(2)?, 8).ok()?;
        let path = merged_path(fields.next()?);
        Some((path, mode))
    });
    Ok(lines.collect())
}

/// A path with the widest mode that it may have, and whether the group `shadow` may own it.
const SENSITIVE: [(&str, u32, bool); 9] = [
    ("etc/shadow", 0o640, true),
    ("etc/shadow-", 0o640, true),
    ("etc/gshadow", 0o640, true),
    ("etc/gshadow-", 0o640, true),
    ("etc/sudoers", 0o640, false),
    ("etc/passwd", 0o644, false),
    ("etc/group", 0o644, false),
    ("etc/machine-id", 0o644, false),
    ("etc/ssl/private", 0o750, false),
];

fn sensitive_modes(input: &LintInput<'_>) -> Outcome {
    let accounts = Accounts::load(input.image, input.content)?;
    let group = |name: &str| {
        accounts
            .groups
            .iter()
            .find(|g| g.name == name)
            .map(|g| g.gid)
    };
    let mut bad = Vec::new();
    let mut check = |path: &str, widest: u32, groups: &[Option<u32>]| {
        let Some(meta) = input.image.get(path).and_then(meta) else {
            return;
        };
        let group_ok = meta.gid == 0 || groups.contains(&Some(meta.gid));
        if meta.mode & !widest != 0 || meta.uid != 0 || !group_ok {
            bad.push(format!(
                "/{path} ({:04o} {}:{})",
                meta.mode, meta.uid, meta.gid
            ));
        }
    };
    for (path, widest, shadow) in SENSITIVE {
        let groups = match path {
            "etc/ssl/private" => vec![group("ssl-cert")],
            _ if shadow => vec![group("shadow")],
            _ => Vec::new(),
        };
        check(path, widest, &groups);
    }
    let sudoers = input.image.dir("etc/sudoers.d");
    for name in sudoers.into_iter().flat_map(|d| d.entries.keys()) {
        check(&format!("etc/sudoers.d/{name}"), 0o755 & !0o022, &[]);
    }
    found_items("unsafe owner or mode", bad)
}

fn known_owners(input: &LintInput<'_>) -> Outcome {
    let accounts = Accounts::load(input.image, input.content)?;
    let users: BTreeSet<u32> = accounts.users.iter().map(|u| u.uid).chain([0]).collect();
    let groups: BTreeSet<u32> = accounts.groups.iter().map(|g| g.gid).chain([0]).collect();
    let unknown = input.image.walk().filter_map(|(path, node)| {
        let (uid, gid) = node.owner();
        let known = users.contains(&uid) && groups.contains(&gid);
        (!known).then(|| format!("/{path} ({uid}:{gid})"))
    });
    found_items("owners without a name", unknown.collect())
}

fn world_writable(input: &LintInput<'_>) -> Outcome {
    let open = input.image.walk().filter(|(_, node)| {
        meta(node).is_some_and(|meta| {
            let sticky_dir = node.as_dir().is_some() && meta.mode & 0o1000 != 0;
            meta.mode & 0o002 != 0 && !sticky_dir
        })
    });
    found_items(
        "writable for all",
        open.map(|(path, _)| format!("/{path}")).collect(),
    )
}
