//! Objects that are not what they were: found when used, verified, dropped.

use std::io::Read as _;

use anyhow::{Error, Result};
use apt_ostree_model::{ContentReader as _, ErrorKind, File, Kinded, Sha256Digest, Symlink};
use openssl::sha::Sha256;
use ostree::gio;
use rustix::fs::{AtFlags, Timespec, Timestamps};

use crate::CacheRepo;
use crate::content::Looks;
use crate::error::storage;
use crate::manifest::PREFIX;
use crate::object;
use crate::refname::unescape_ref;

/// A cached object was missing or changed. It and everything cached that needs it is gone from
/// the cache now, so that a second run makes it anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cached object {checksum} is damaged")]
pub struct DamagedObject {
    /// Which object.
    pub checksum: Sha256Digest,
    /// Refs of packages and trees that needed it.
    pub dropped: Vec<String>,
}

impl CacheRepo {
    /// Makes sure that a regular file's object is whole. Cheap as long as it looks good.
    pub(crate) fn require_file(&self, file: &File) -> Result<()> {
        match self
            .content()
            .look_at_file(&file.checksum, &file.meta, file.size)?
        {
            Looks::Good => return Ok(()),
            Looks::Odd if self.verify_file(file)? => return self.reset_time(&file.checksum),
            Looks::Odd | Looks::Missing => {}
        }
        Err(damaged(&file.checksum))
    }

    /// Makes sure that a symbolic link's object is whole.
    pub(crate) fn require_symlink(&self, link: &Symlink) -> Result<()> {
        match self.content().look_at_symlink(link)? {
            Looks::Good => Ok(()),
            Looks::Odd | Looks::Missing => Err(damaged(&link.checksum)),
        }
    }

    /// Computes the checksum of what is on disk.
    fn verify_file(&self, file: &File) -> Result<bool> {
        let mut content = self.content().open(&file.checksum)?;
        let found = rustix::fs::fstat(&content)?;
        let mut meta = file.meta.clone();
        (meta.mode, meta.uid, meta.gid) = (found.st_mode & 0o7777, found.st_uid, found.st_gid);
        let mut hasher = Sha256::new();
        hasher.update(&object::file_header(&meta));
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = content.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
        }
        Ok(object::finish(hasher) == file.checksum)
    }

    /// Gives an object that was verified the time that marks it as good.
    fn reset_time(&self, checksum: &Sha256Digest) -> Result<()> {
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: zero,
            last_modification: zero,
        };
        let path = object::content_path(checksum);
        Ok(rustix::fs::utimensat(
            self.content().dir(),
            path,
            &times,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// If `error` tells of a damaged object, drops what is cached from it and says so.
    pub(crate) fn handle_damage(&self, error: Error) -> Error {
        let Some(damage) = error
            .downcast_ref::<DamagedObject>()
            .filter(|d| d.dropped.is_empty())
        else {
            return error;
        };
        let checksum = damage.checksum;
        if self.system {
            // It may be part of a deployment: not ours to delete.
            let what = format!(
                "object {checksum} of repository '{}' is damaged",
                self.path()
            );
            return error.context(Kinded::new(ErrorKind::Storage, what).with_hint(
                "run 'ostree fsck --delete', then pull or install again what it reports",
            ));
        }
        match self.drop_object(&checksum) {
            Ok(dropped) => report(DamagedObject { checksum, dropped }),
            Err(other) => other.context(format!("dropping damaged object {checksum}")),
        }
    }

    /// Deletes an object after all cached refs that need it; returns those.
    fn drop_object(&self, checksum: &Sha256Digest) -> Result<Vec<String>> {
        let repo = self.repo()?;
        let none = gio::Cancellable::NONE;
        let wanted = checksum.to_string();
        let refs = repo
            .list_refs_ext(Some(PREFIX), ostree::RepoListRefsExtFlags::NONE, none)
            .map_err(storage)?;
        let mut dropped = Vec::new();
        for (name, commit) in refs {
            // What can't be traversed is of no use either.
            let needs = repo
                .traverse_commit(&commit, 0, none)
                .map_or(true, |objects| {
                    objects.iter().any(|o| o.checksum() == wanted)
                });
            if needs {
                self.drop_ref(&name)?;
                dropped.push(name);
            }
        }
        self.content().delete(checksum)?;
        dropped.sort_unstable();
        Ok(dropped)
    }
}

fn damaged(checksum: &Sha256Digest) -> Error {
    DamagedObject {
        checksum: *checksum,
        dropped: Vec::new(),
    }
    .into()
}

fn report(damage: DamagedObject) -> Error {
    let packages = damage.dropped.iter().filter_map(|name| {
        let name = name.strip_prefix(PREFIX)?.strip_prefix("/pkg/")?;
        unescape_ref(name.split('/').next()?)
    });
    let packages: Vec<String> = packages.map(|name| format!("'{name}'")).collect();
    let what = match packages.as_slice() {
        [] => format!(
            "cached object {} was damaged and has been dropped",
            damage.checksum
        ),
        [one] => format!("the cached package {one} was damaged and has been dropped"),
        many => format!(
            "the cached packages {} were damaged and have been dropped",
            many.join(", ")
        ),
    };
    Error::new(damage)
        .context(Kinded::new(ErrorKind::Storage, what).with_hint("run the compose again"))
}
