//! Removes what two builds would make differently, and what a build leaves behind.

use anyhow::Result;
use apt_ostree_model::Node;
use apt_ostree_model::tree::join;

use super::ownership::{POLICY, owners_of};
use super::work::Work;

/// Files in `/etc` that tools leave when they change another file.
const ETC_LEFTOVERS: [&str; 10] = [
    "passwd-",
    "group-",
    "shadow-",
    "gshadow-",
    "subuid-",
    "subgid-",
    ".pwd.lock",
    ".updated",
    "passwd.lock",
    "group.lock",
];

/// Removes backups, locks and build helpers.
pub(super) fn remove_leftovers(work: &mut Work<'_>) {
    for name in ETC_LEFTOVERS {
        work.drop_path(&join("etc", name));
    }
    work.drop_path("usr/share/info/dir.old");
    work.drop_path("var/.updated");
    if owners_of(work.input.packages, POLICY).is_empty() && !work.owned().contains(POLICY) {
        work.drop_path(POLICY);
    }
    for name in work.names("") {
        if name.starts_with(".docker") || name == ".containerenv" {
            work.drop_path(&name);
        }
    }
}

/// Rewrites files that carry the time of their making.
pub(super) fn normalise(work: &mut Work<'_>) -> Result<()> {
    drop_lines(work, "etc/mdadm/mdadm.conf", |line| {
        line.starts_with("# This configuration was auto-generated on ")
    })?;
    if !matches!(work.tree.get("etc/mtab"), Some(Node::Symlink(_))) {
        work.symlink("etc/mtab", "../proc/self/mounts")?;
    }
    Ok(())
}

fn drop_lines(work: &mut Work<'_>, path: &str, unwanted: fn(&str) -> bool) -> Result<()> {
    let Some(text) = work.read_text_optional(path)? else {
        return Ok(());
    };
    if !text.lines().any(unwanted) {
        return Ok(());
    }
    let kept: String = text
        .split_inclusive('\n')
        .filter(|line| !unwanted(line))
        .collect();
    work.rewrite(path, kept.as_bytes())
}
