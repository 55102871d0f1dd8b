//! The update that the last check found, kept for `status`.

use std::cmp::Ordering;

use anyhow::{Context as _, Result};
use apt_ostree_fsx::{sha256_reader, write_atomic};
use apt_ostree_model::Version;
use apt_ostree_model::client::{BaseChange, DeployReport, UpdateRequest};
use apt_ostree_model::compose::PackageDiff;
use apt_ostree_model::origin::Origin;
use apt_ostree_model::status::{CachedUpdate, UpdateDiff};
use apt_ostree_sysroot::{CommitInfo, Sysroot};
use camino::Utf8PathBuf;

use super::system::{Before, System};

const FILE: &str = "cached-update.json";

/// The kinds of packages in an [`UpdateDiff`].
const BASE: u32 = 0;
const LAYERED: u32 = 1;

/// Whether `request` looks for what `upgrade` would bring. Nothing else is an update.
pub(super) fn is_check(request: &UpdateRequest) -> bool {
    (request.check || request.preview) && request.base == BaseChange::Upgrade
}

/// Keeps what a check found.
pub(super) fn keep(
    system: &System,
    before: &Before,
    origin: &Origin,
    base: &CommitInfo,
    report: &DeployReport,
) -> Result<()> {
    let now = system.sysroot.deployment_status(&before.deployment)?;
    let moved = base.checksum != before.commit.base();
    let rpm_diff = diff_of(&report.pkgdiff, if moved { BASE } else { LAYERED });
    let seen = serde_json::to_vec(&(&base.checksum, &rpm_diff))?;
    let update = CachedUpdate {
        deployment: before.deployment.id(),
        osname: system.stateroot.clone(),
        checksum: base.checksum.clone(),
        version: base.version.clone(),
        timestamp: base.timestamp,
        origin: origin
            .follows
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        gpg_enabled: now.gpg_enabled.unwrap_or_default(),
        ref_has_new_commit: moved,
        update_sha256: sha256_reader(&*seen)?.0.to_string(),
        rpm_diff,
        ..CachedUpdate::default()
    };
    let path = path(&system.sysroot);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("creating '{dir}'"))?;
    }
    write_atomic(&path, &serde_json::to_vec(&update)?, 0o644)
        .with_context(|| format!("writing '{path}'"))
}

/// Forgets what a check found: there is nothing new.
pub(super) fn forget(system: &System) -> Result<()> {
    let path = path(&system.sysroot);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing '{path}'"))
        }
        _ => Ok(()),
    }
}

/// What the last check found, as long as changes still build upon the deployment that it looked at.
pub(super) fn read(sysroot: &Sysroot) -> Option<CachedUpdate> {
    let text = std::fs::read(path(sysroot)).ok()?;
    let update: CachedUpdate = serde_json::from_slice(&text).ok()?;
    let own = sysroot.deployments_of(&update.osname);
    let current = own.first()?;
    (current.id() == update.deployment).then_some(update)
}

fn path(sysroot: &Sysroot) -> Utf8PathBuf {
    apt_ostree_store::system_dir(&sysroot.repo_path()).join(FILE)
}

fn diff_of(packages: &[PackageDiff], kind: u32) -> UpdateDiff {
    let mut diff = UpdateDiff::default();
    for package in packages {
        let name = package.name.clone();
        match (&package.previous, &package.new) {
            (None, None) => {}
            (None, Some((version, arch))) => {
                diff.added.push((kind, name, version.clone(), arch.clone()));
            }
            (Some((version, arch)), None) => {
                diff.removed
                    .push((kind, name, version.clone(), arch.clone()));
            }
            (Some(old), Some(new)) => {
                let list = if is_older(&new.0, &old.0) {
                    &mut diff.downgraded
                } else {
                    &mut diff.upgraded
                };
                list.push((kind, name, old.clone(), new.clone()));
            }
        }
    }
    diff
}

fn is_older(new: &str, old: &str) -> bool {
    match (new.parse::<Version>(), old.parse()) {
        (Ok(new), Ok(old)) => new.dpkg_cmp(&old) == Ordering::Less,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_sorted_by_what_happens_to_them() {
        let side = |version: &str| Some((version.to_owned(), "all".to_owned()));
        let package = |name: &str, previous, new| PackageDiff {
            name: name.to_owned(),
            previous,
            new,
        };
        let diff = diff_of(
            &[
                package("a", None, side("1")),
                package("b", side("1"), None),
                package("c", side("1~rc"), side("1")),
                package("d", side("1:1"), side("2")),
            ],
            BASE,
        );
        assert_eq!(diff.added[0].1, "a");
        assert_eq!(diff.removed[0].1, "b");
        assert_eq!(diff.upgraded[0].1, "c");
        assert_eq!(diff.downgraded[0].1, "d");
        assert_eq!(diff.added.len() + diff.removed.len(), 2);
        assert_eq!(diff.upgraded.len() + diff.downgraded.len(), 2);
    }
}
