//! Removing deployments and what nobody uses.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use camino::Utf8Path;
use ostree::{RepoPruneFlags, gio};

use crate::deployment::Deployment;
use crate::error;
use crate::system::{LockedSysroot, Sysroot};

/// Prefix of refs that keep a commit from when it was fetched until it is deployed.
pub const TEMPORARY_REFS: &str = "aptostree/base";

/// Prefix of refs that keep the bases of layered deployments.
const BASE_REFS: &str = "aptostree/deployed";

/// The ref that keeps the newest layered commit from when it was made until it is deployed.
pub const LAYERED_REF: &str = "aptostree/layered/tmp";

/// What to remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CleanupOptions {
    /// Temporary refs.
    pub base: bool,
    /// Deployments that would boot next, before the booted one.
    pub pending: bool,
    /// Deployments after the booted one.
    pub rollback: bool,
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// How many deployments.
    pub deployments: usize,
    /// Bytes of objects.
    pub bytes: u64,
}

impl Sysroot {
    /// The deployments of a stateroot that a clean-up removes: never the booted one, the one that
    /// boots when the system does not run, or one that is pinned.
    fn removable(&self, stateroot: &str, options: CleanupOptions) -> Vec<Deployment> {
        let own = self.deployments_of(stateroot);
        let booted = self.booted();
        let stays = booted
            .as_ref()
            .and_then(|b| own.iter().position(|d| d.is(b)));
        // The booted one may be of another stateroot; nothing here runs then.
        let stays = stays.unwrap_or(0);
        own.into_iter()
            .enumerate()
            .filter(|(at, deployment)| {
                let asked = *at < stays && options.pending || *at > stays && options.rollback;
                asked && !deployment.is_pinned()
            })
            .map(|(_, deployment)| deployment)
            .collect()
    }
}

impl LockedSysroot {
    /// Removes what `options` say, and then all objects that nothing needs any more.
    ///
    /// # Errors
    /// When the deployments or the repository can't be changed.
    pub fn cleanup(&self, stateroot: &str, options: CleanupOptions) -> Result<Cleaned> {
        let removable = self.removable(stateroot, options);
        if !removable.is_empty() {
            let mut stay = self.deployments();
            stay.retain(|d| !removable.iter().any(|r| r.is(d)));
            self.write_order(&stay).context("removing deployments")?;
        }
        if options.base {
            self.remove_temporary_refs()?;
        }
        Ok(Cleaned {
            deployments: removable.len(),
            bytes: self.prune()?,
        })
    }

    /// Removes directories of old deployments, and objects that no deployment and no ref needs;
    /// returns how many bytes of objects went.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn prune(&self) -> Result<u64> {
        let none = gio::Cancellable::NONE;
        self.remove_old_layers()?;
        self.inner
            .prepare_cleanup(none)
            .map_err(|e| error::ostree(&e))
            .context("removing old deployments")?;
        remove_orphans(&self.path().join("ostree/deploy"))?;
        self.keep_bases()?;
        let mut freed = 0;
        // Commits first: one that is there and lacks objects would look damaged to others, should
        // this be stopped in between.
        for flags in [RepoPruneFlags::COMMIT_ONLY, RepoPruneFlags::NONE] {
            let (_, _, bytes) = self
                .repo()
                .prune(RepoPruneFlags::REFS_ONLY | flags, 0, none)
                .map_err(|e| error::ostree(&e))
                .context("removing unused objects")?;
            freed += bytes;
        }
        Ok(freed)
    }

    /// Keeps the bases of layered deployments, which have no ref of their own once the branch has
    /// moved: layers are taken off and put on them again.
    fn keep_bases(&self) -> Result<()> {
        let none = gio::Cancellable::NONE;
        let repo = self.repo();
        let mut wanted = BTreeSet::new();
        for deployment in self.deployments() {
            let commit = self.commit(&deployment.commit())?;
            if commit.layers.is_some() && self.commit_optional(commit.base())?.is_some() {
                wanted.insert(commit.base().to_owned());
            }
        }
        let kept = repo
            .list_refs_ext(Some(BASE_REFS), ostree::RepoListRefsExtFlags::NONE, none)
            .map_err(|e| error::ostree(&e))
            .context("listing refs")?;
        let kept: BTreeSet<String> = kept.into_values().collect();
        let set = |checksum: &String, keep: bool| {
            let name = format!("{BASE_REFS}/{checksum}");
            repo.set_ref_immediate(None, &name, keep.then_some(checksum.as_str()), none)
                .map_err(|e| error::ostree(&e))
                .with_context(|| format!("setting ref '{name}'"))
        };
        for checksum in wanted.difference(&kept) {
            set(checksum, true)?;
        }
        for checksum in kept.difference(&wanted) {
            set(checksum, false)?;
        }
        Ok(())
    }

    /// Drops the refs that kept fetched and layered commits; what is deployed needs them no more.
    ///
    /// # Errors
    /// When they can't be removed.
    pub fn remove_temporary_refs(&self) -> Result<()> {
        let none = gio::Cancellable::NONE;
        let repo = self.repo();
        let names = repo
            .list_refs_ext(
                Some(TEMPORARY_REFS),
                ostree::RepoListRefsExtFlags::NONE,
                none,
            )
            .map_err(|e| error::ostree(&e))
            .context("listing refs")?;
        let layered = repo
            .resolve_rev(LAYERED_REF, true)
            .map_err(|e| error::ostree(&e))
            .context("listing refs")?;
        let layered = layered.map(|_| LAYERED_REF.into());
        for name in names.into_keys().chain(layered) {
            let name = name.as_str();
            repo.set_ref_immediate(None, name, None, none)
                .map_err(|e| error::ostree(&e))
                .with_context(|| format!("removing ref '{name}'"))?;
        }
        Ok(())
    }
}

/// Removes what libostree from 2024.7 on keeps beside deployments (`backing/COMMIT.SERIAL`) when the
/// deployment is gone: one that was being made by a process that was killed leaves it for ever.
fn remove_orphans(stateroots: &Utf8Path) -> Result<()> {
    let names = |dir: &Utf8Path| -> Result<Vec<String>> {
        match dir.read_dir_utf8() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => {
                let names = entries
                    .and_then(|e| e.map(|e| Ok(e?.file_name().to_owned())).collect())
                    .with_context(|| format!("reading '{dir}'"))?;
                Ok(names)
            }
        }
    };
    for stateroot in names(stateroots)? {
        let dir = stateroots.join(stateroot);
        let kept = dir.join("backing");
        for name in names(&kept)? {
            let path = kept.join(&name);
            if !dir.join("deploy").join(&name).exists() {
                apt_ostree_fsx::remove_tree(&path).with_context(|| format!("removing '{path}'"))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_beside_deployments_goes_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        for path in [
            "debian/deploy/a.0",
            "debian/backing/a.0/x",
            "debian/backing/b.0/x",
            "old",
        ] {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        remove_orphans(root).unwrap();
        assert!(root.join("debian/backing/a.0/x").exists());
        assert!(!root.join("debian/backing/b.0").exists());
        remove_orphans(&root.join("nothing")).unwrap();
    }
}
