//! What is deployed, in rpm-ostree's words.

use std::collections::BTreeMap;

use anyhow::Result;
use apt_ostree_model::origin::{LocalRequest, Origin};
use apt_ostree_model::reference::Follows;
use apt_ostree_model::status::{Deployment as Entry, Status};

use crate::commit::CommitInfo;
use crate::deployment::Deployment;
use crate::system::Sysroot;

impl Sysroot {
    /// All deployments. What only a daemon knows is empty.
    ///
    /// # Errors
    /// When a commit or an origin file can't be read.
    pub fn status(&self) -> Result<Status> {
        let deployments = self.deployments();
        let deployments: Result<Vec<Entry>> = deployments
            .iter()
            .map(|d| self.deployment_status(d))
            .collect();
        Ok(Status {
            deployments: deployments?,
            ..Status::default()
        })
    }

    /// One deployment.
    ///
    /// # Errors
    /// When its commit or origin file can't be read.
    pub fn deployment_status(&self, deployment: &Deployment) -> Result<Entry> {
        let commit = self.commit(&deployment.commit())?;
        let origin = deployment.origin()?;
        let booted = self.booted().is_some_and(|b| b.is(deployment));
        let mut entry = Entry {
            id: deployment.id(),
            osname: deployment.stateroot(),
            checksum: commit.checksum.clone(),
            serial: deployment.serial(),
            booted,
            staged: deployment.is_staged(),
            pinned: deployment.is_pinned(),
            finalization_locked: deployment.is_finalization_locked(),
            unlocked: deployment.unlocked().to_owned(),
            version: commit.version.clone(),
            timestamp: commit.timestamp,
            custom_origin: origin.custom_origin.clone(),
            endoflife: commit.string("ostree.endoflife"),
            ..Entry::default()
        };
        if booted {
            self.add_live(&mut entry, &commit)?;
        }
        self.add_commits(&mut entry, &commit)?;
        add_requests(&mut entry, &origin);
        match &origin.follows {
            Some(Follows::Container(reference)) => {
                entry.container_image_reference = Some(reference.to_string());
                let base = self.commit_optional(commit.base())?;
                entry.container_image_reference_digest =
                    base.and_then(|b| b.string("ostree.manifest-digest"));
            }
            Some(follows) => {
                entry.origin = Some(follows.to_string());
                self.add_remote(&mut entry, follows, commit.base())?;
            }
            None => {}
        }
        Ok(entry)
    }

    fn add_live(&self, entry: &mut Entry, commit: &CommitInfo) -> Result<()> {
        let state = self.live_state()?;
        if let Some(live) = &state.live
            && let Some(live) = self.commit_optional(live)?
        {
            entry.live_diff = package_counts(commit, &live);
        }
        entry.live_replaced = state.live;
        entry.live_inprogress = state.in_progress;
        Ok(())
    }

    fn add_commits(&self, entry: &mut Entry, commit: &CommitInfo) -> Result<()> {
        let Some(layers) = &commit.layers else {
            entry.base_commit_meta = commit.metadata();
            return Ok(());
        };
        entry.packages.clone_from(&layers.packages);
        entry.base_removals.clone_from(&layers.base_removals);
        entry
            .base_local_replacements
            .clone_from(&layers.base_local_replacements);
        entry
            .base_remote_replacements
            .clone_from(&layers.base_remote_replacements);
        entry.layered_commit_meta = Some(commit.metadata());
        entry.base_checksum = Some(commit.base().to_owned());
        if let Some(base) = self.commit_optional(commit.base())? {
            entry.base_timestamp = Some(base.timestamp);
            entry.base_commit_meta = base.metadata();
            entry.base_version = base.version;
        }
        Ok(())
    }

    /// What its remote says, as far as it is known here.
    fn add_remote(&self, entry: &mut Entry, follows: &Follows, base: &str) -> Result<()> {
        let repo = self.repo();
        entry.gpg_enabled = Some(false);
        if let Some(remote) = follows.remote() {
            match repo.remote_get_gpg_verify(remote) {
                Ok(enabled) => entry.gpg_enabled = Some(enabled),
                Err(error) => entry.remote_error = Some(apt_ostree_fsx::escape(error.message())),
            }
        }
        let Follows::Branch(refspec) = follows else {
            return Ok(());
        };
        let newest = self.resolve_ref(&refspec.to_string())?;
        let Some(newest) = newest.filter(|newest| newest != base) else {
            return Ok(());
        };
        if let Some(commit) = self.commit_optional(&newest)? {
            entry.pending_base_checksum = Some(newest);
            entry.pending_base_version = commit.version;
            entry.pending_base_timestamp = Some(commit.timestamp);
        }
        Ok(())
    }
}

/// How packages of two commits differ in numbers, such as `2 added, 1 changed`.
fn package_counts(old: &CommitInfo, new: &CommitInfo) -> Option<String> {
    let versions = |commit: &CommitInfo| -> Option<BTreeMap<(String, String), String>> {
        let list = commit.packages()?.into_iter();
        Some(
            list.map(|(n, version, arch)| ((n, arch), version))
                .collect(),
        )
    };
    let (old, new) = (versions(old)?, versions(new)?);
    let added = new.keys().filter(|key| !old.contains_key(*key)).count();
    let removed = old.keys().filter(|key| !new.contains_key(*key)).count();
    let changed = old
        .iter()
        .filter(|(key, version)| new.get(*key).is_some_and(|new| new != *version))
        .count();
    let counts = [(changed, "changed"), (added, "added"), (removed, "removed")];
    let words: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    (!words.is_empty()).then(|| words.join(", "))
}

fn add_requests(entry: &mut Entry, origin: &Origin) {
    let ids =
        |set: &std::collections::BTreeSet<LocalRequest>| set.iter().map(LocalRequest::id).collect();
    entry.requested_packages = origin.packages.iter().cloned().collect();
    entry.requested_local_packages = ids(&origin.local_packages);
    entry.requested_local_fileoverride_packages = ids(&origin.local_packages_replacing_files);
    entry.requested_base_removals = origin.override_remove.iter().cloned().collect();
    entry.requested_base_local_replacements = ids(&origin.override_replace_local);
    entry.requested_base_remote_replacements = origin
        .override_replace
        .iter()
        .map(|(source, names)| (source.clone(), names.iter().cloned().collect()))
        .collect();
    entry.regenerate_initramfs = origin.initramfs.regenerate;
    entry.initramfs_args.clone_from(&origin.initramfs.args);
    entry.initramfs_etc = origin.initramfs.etc.iter().cloned().collect();
}
