//! Making the cache smaller.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use apt_ostree_fsx::prune::{Cached, Limits, Pruned, excess};
use apt_ostree_model::{ErrorKind, Kinded, Sha256Digest};
use camino::Utf8Path;
use fn_error_context::context;
use ostree::glib::Variant;
use ostree::{ObjectType, Repo, gio};

use crate::CacheRepo;
use crate::error::{invalid_input, storage};
use crate::import::LONG_VERSION;
use crate::load::digest;
use crate::lock::RepoGuard;
use crate::manifest::PREFIX;
use crate::refname::unescape_ref;

const NO_CANCEL: Option<&gio::Cancellable> = gio::Cancellable::NONE;

impl CacheRepo {
    /// Drops the packages and trees that the limits don't leave room for, and all objects that
    /// nothing needs any more. Says how many packages and trees and how many bytes went.
    ///
    /// # Errors
    /// When someone else uses the cache, or it can't be changed.
    #[context("cleaning up the package cache '{}'", self.path())]
    pub fn prune(&self, limits: &Limits) -> Result<Pruned> {
        if self.system {
            return Err(invalid_input("it is the repository of a system"));
        }
        let mut guard = self
            .guard
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *guard = None;
        let result = self.prune_alone(limits);
        self.lock.share()?;
        *guard = Some(RepoGuard::start(&self.handle)?);
        result
    }

    fn prune_alone(&self, limits: &Limits) -> Result<Pruned> {
        if !self.lock.try_alone()? {
            return Err(Kinded::new(ErrorKind::Busy, "another process uses the cache").into());
        }
        let repo = self.repo()?;
        let mut refs = self.refs(&repo)?;
        let mut total = 0_u64;
        self.each_object(|_, size| total = total.saturating_add(size))?;
        // Which tree needs which object only matters when there is too much.
        let too_large = total > limits.bytes;
        if too_large {
            self.measure(&repo, &mut refs)?;
        }
        let gone = excess(refs, limits);
        for cached in &gone {
            self.drop_ref(&cached.item.name)?;
        }
        if gone.is_empty() && !too_large {
            return Ok(Pruned::default());
        }
        Ok(Pruned {
            count: gone.len(),
            bytes: self.drop_objects(&repo)?,
        })
    }

    /// All packages and trees with the time of their last use, without their sizes.
    fn refs(&self, repo: &Repo) -> Result<Vec<Cached<Ref>>> {
        let flags = ostree::RepoListRefsExtFlags::NONE;
        let refs = repo
            .list_refs_ext(Some(PREFIX), flags, NO_CANCEL)
            .map_err(storage)?;
        let with_time = |(name, commit)| {
            let path = self.path().join("refs/heads").join(&name);
            let used = std::fs::metadata(&path)
                .and_then(|m| m.modified())
                .with_context(|| format!("reading '{path}'"))?;
            Ok(Cached {
                item: Ref { name, commit },
                used,
                bytes: 0,
            })
        };
        refs.into_iter().map(with_time).collect()
    }

    /// Gives each package and tree the size of those objects that none used after it needs.
    fn measure(&self, repo: &Repo, refs: &mut [Cached<Ref>]) -> Result<()> {
        let mut sizes = Sizes::new();
        self.each_object(|object, size| *sizes.entry(object).or_default() += size)?;
        refs.sort_by_key(|cached| std::cmp::Reverse(cached.used));
        for cached in refs {
            cached.bytes = take_commit(repo, &cached.item.commit, &mut sizes);
        }
        Ok(())
    }

    /// Calls `visit` with the checksum and the size on disk of each object.
    fn each_object(&self, mut visit: impl FnMut(Sha256Digest, u64)) -> Result<()> {
        let objects = self.path().join("objects");
        let failed = || format!("reading '{objects}'");
        for dir in objects.read_dir_utf8().with_context(failed)? {
            let dir = dir.with_context(failed)?;
            for entry in dir.path().read_dir_utf8().with_context(failed)? {
                let entry = entry.with_context(failed)?;
                let rest = entry.file_name().split('.').next().unwrap_or_default();
                let object = format!("{}{rest}", dir.file_name());
                if let Ok(object) = object.parse() {
                    visit(
                        object,
                        entry.metadata().with_context(failed)?.blocks() * 512,
                    );
                }
            }
        }
        Ok(())
    }

    /// Deletes the objects that no ref needs; returns their size.
    fn drop_objects(&self, repo: &Repo) -> Result<u64> {
        let prune = || repo.prune(ostree::RepoPruneFlags::REFS_ONLY, 0, NO_CANCEL);
        let pruned = prune().or_else(|_| {
            // A tree without all its directories keeps libostree from telling what is needed.
            for cached in self.refs(repo)? {
                let Ref { name, commit } = cached.item;
                if repo.traverse_commit(&commit, 0, NO_CANCEL).is_err() {
                    self.drop_ref(&name)?;
                }
            }
            prune().map_err(storage)
        });
        let (_, _, bytes) = pruned?;
        Ok(bytes)
    }
}

/// Objects and their sizes on disk.
type Sizes = HashMap<Sha256Digest, u64>;

/// A cached package or tree.
struct Ref {
    name: String,
    commit: String,
}

/// Takes the objects of a commit out of `sizes`; returns the size of those that were still there.
fn take_commit(repo: &Repo, commit: &str, sizes: &mut Sizes) -> u64 {
    let mut taken = 0;
    let mut take = |object: Result<Sha256Digest>| {
        let size = object.ok().and_then(|object| sizes.remove(&object));
        taken += size.unwrap_or_default();
        size.is_some()
    };
    take(commit.parse().map_err(Into::into));
    let Ok((commit, _)) = repo.load_commit(commit) else {
        return taken;
    };
    let sum = |variant: &Variant, index| digest(&variant.child_value(index));
    let mut dirs = vec![(sum(&commit, 6), sum(&commit, 7))];
    while let Some((contents, meta)) = dirs.pop() {
        take(meta);
        let Ok(contents) = contents else { continue };
        // Where one tree has been, another finds nothing more.
        if !take(Ok(contents)) {
            continue;
        }
        // What is missing or damaged takes no room.
        let Ok(tree) = repo.load_variant(ObjectType::DirTree, &contents.to_string()) else {
            continue;
        };
        for file in tree.child_value(0).iter() {
            take(sum(&file, 1));
        }
        for dir in tree.child_value(1).iter() {
            dirs.push((sum(&dir, 1), sum(&dir, 2)));
        }
    }
    taken
}

/// One package, as a ref of the cache names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CachedPackage {
    /// Name.
    pub name: String,
    /// Version and architecture, with a dot between; `None` when they were too long for the ref.
    pub version_arch: Option<String>,
}

impl CachedPackage {
    /// Reads `aptostree/pkg/NAME/VERSION.ARCH-DIGEST`.
    fn of_ref(name: &str) -> Option<Self> {
        let rest = name.strip_prefix(PREFIX)?.strip_prefix("/pkg/")?;
        let (name, version) = rest.split_once('/')?;
        let (version, _digest) = version.rsplit_once('-')?;
        let version_arch = (version != LONG_VERSION).then(|| unescape_ref(version));
        Some(Self {
            name: unescape_ref(name)?,
            version_arch: version_arch.flatten(),
        })
    }
}

/// Drops from the repository of a system the packages and trees that were not used for `unused`,
/// except packages that are `needed`. Their objects go with the next pruning of the repository.
/// Says how many went.
///
/// # Errors
/// When the repository can't be read or changed.
#[context("dropping unused packages from repository '{repo}'")]
pub fn drop_unused(
    repo: &Utf8Path,
    needed: impl Fn(&CachedPackage) -> bool,
    unused: Duration,
) -> Result<usize> {
    let handle = Repo::new_for_path(repo);
    handle.open(NO_CANCEL).map_err(storage)?;
    let now = SystemTime::now();
    let mut dropped = 0;
    for kind in ["pkg", "tree"] {
        let prefix = format!("{PREFIX}/{kind}");
        let refs = handle
            .list_refs_ext(Some(&prefix), ostree::RepoListRefsExtFlags::NONE, NO_CANCEL)
            .map_err(storage)?;
        for name in refs.keys() {
            let path = repo.join("refs/heads").join(name);
            let used = std::fs::metadata(&path).and_then(|meta| meta.modified())?;
            // A time in the future is no age.
            let age = now.duration_since(used).unwrap_or_default();
            let is_needed = CachedPackage::of_ref(name).is_some_and(|package| needed(&package));
            if age >= unused && !is_needed {
                handle
                    .set_ref_immediate(None, name, None, NO_CANCEL)
                    .map_err(storage)?;
                if let Some(dir) = path.parent() {
                    // Of a package in another version, or of all trees.
                    drop(std::fs::remove_dir(dir));
                }
                dropped += 1;
            }
        }
    }
    Ok(dropped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_read_from_refs() {
        let digest = "0".repeat(32);
        let read = |name: &str| CachedPackage::of_ref(&format!("{name}-{digest}"));
        let package = |name: &str, version_arch: Option<&str>| {
            Some(CachedPackage {
                name: name.to_owned(),
                version_arch: version_arch.map(str::to_owned),
            })
        };
        assert_eq!(
            read("aptostree/pkg/libstdc_2B_2B6/1_3A12-1.amd64"),
            package("libstdc++6", Some("1:12-1.amd64"))
        );
        assert_eq!(read("aptostree/pkg/a/long"), package("a", None));
        assert_eq!(read("aptostree/tree/a"), None);
    }
}
