//! The repository that commits are written to.

use std::fs::File;
use std::io;

use anyhow::{Context as _, Result};
use apt_ostree_model::{ContentReader, ErrorKind, Kinded, Sha256Digest};
use camino::Utf8Path;
use fn_error_context::context;
use ostree::prelude::*;
use ostree::{ObjectType, Repo, RepoMode, gio};
use rustix::fs::MemfdFlags;

use crate::content::ContentDir;
use crate::error::{escape, into_io, invalid_input, storage};
use crate::handle::RepoHandle;
use crate::load::{self, CommitTree};

/// A repository of any mode; usable from several threads.
#[derive(Debug)]
pub struct TargetRepo {
    pub(crate) handle: RepoHandle,
    mode: RepoMode,
}

impl TargetRepo {
    /// Opens the repository at `path`, or makes one in mode `bare`: its objects are hard links to
    /// those of a cache on the same file system, and it can be deployed from directly. For
    /// serving over HTTP, make one with `ostree init --mode=archive` first.
    ///
    /// # Errors
    /// When it can't be made, opened or written to.
    #[context("opening repository '{path}'")]
    pub fn open_or_create(path: &Utf8Path) -> Result<Self> {
        if !path.join("config").exists() {
            if path.exists() && path.read_dir_utf8()?.next().is_some() {
                return Err(invalid_input(
                    "the directory is neither empty nor a repository",
                ));
            }
            std::fs::create_dir_all(path)?;
            Repo::create_at(
                ostree::AT_FDCWD,
                path.as_str(),
                RepoMode::Bare,
                None,
                gio::Cancellable::NONE,
            )
            .map_err(storage)?;
        }
        let target = Self::open(path)?;
        target.repo()?.is_writable().map_err(|error| {
            let message = format!(
                "repository '{path}' can't be written to: {}",
                escape(error.message())
            );
            Kinded::new(ErrorKind::Storage, message)
        })?;
        Ok(target)
    }

    /// Opens an existing repository.
    ///
    /// # Errors
    /// When there is none or it can't be read.
    #[context("opening repository '{path}'")]
    pub fn open(path: &Utf8Path) -> Result<Self> {
        if !path.join("config").exists() {
            return Err(
                Kinded::new(ErrorKind::InvalidInput, "there is no repository")
                    .with_hint(format!(
                        "make one with: ostree init --mode=archive --repo={path}"
                    ))
                    .into(),
            );
        }
        let handle = RepoHandle::new(path.to_owned(), true);
        let mode = handle.repo()?.mode();
        Ok(Self { handle, mode })
    }

    /// Where it is.
    pub fn path(&self) -> &Utf8Path {
        self.handle.path()
    }

    pub(crate) fn repo(&self) -> Result<Repo> {
        self.handle.repo()
    }

    /// The kind of repository.
    pub(crate) const fn mode(&self) -> RepoMode {
        self.mode
    }

    /// The commit that a ref, or a checksum itself, names; `None` when there is none.
    ///
    /// # Errors
    /// When `name` is no valid ref or the repository can't be read.
    pub fn resolve_ref(&self, name: &str) -> Result<Option<String>> {
        let context = || {
            format!(
                "resolving '{}' in repository '{}'",
                escape(name),
                self.path()
            )
        };
        let repo = self.repo()?;
        let Some(checksum) = repo
            .resolve_rev(name, true)
            .map_err(storage)
            .with_context(context)?
        else {
            return Ok(None);
        };
        let there = repo
            .has_object(ObjectType::Commit, &checksum, gio::Cancellable::NONE)
            .map_err(storage)
            .with_context(context)?;
        Ok(there.then(|| checksum.into()))
    }

    /// Points a ref to a commit of this repository, in one step.
    ///
    /// # Errors
    /// When `name` is no valid ref or the repository can't be written.
    pub fn set_ref(&self, name: &str, checksum: &str) -> Result<()> {
        let context = || {
            format!(
                "setting ref '{}' in repository '{}'",
                escape(name),
                self.path()
            )
        };
        ostree::validate_rev(name)
            .map_err(storage)
            .with_context(context)?;
        ostree::validate_checksum_string(checksum)
            .map_err(storage)
            .with_context(context)?;
        let repo = self.repo()?;
        let none = gio::Cancellable::NONE;
        if !repo
            .has_object(ObjectType::Commit, checksum, none)
            .map_err(storage)?
        {
            return Err(storage(format!("there is no commit {checksum}"))).with_context(context);
        }
        repo.set_ref_immediate(None, name, Some(checksum), none)
            .map_err(storage)
            .with_context(context)
    }

    /// Reads a commit with its whole tree.
    ///
    /// # Errors
    /// When an object is missing or malformed.
    #[context("reading commit {checksum} of repository '{}'", self.path())]
    pub fn load_commit(&self, checksum: &str) -> Result<CommitTree> {
        load::load_commit(&self.repo()?, checksum)
    }

    fn open_stream(&self, checksum: &Sha256Digest) -> Result<File> {
        let (stream, _, _) = self
            .repo()?
            .load_file(&checksum.to_string(), gio::Cancellable::NONE)
            .map_err(storage)?;
        let stream = stream.context("the object is a link")?;
        let mut file = File::from(rustix::fs::memfd_create("object", MemfdFlags::CLOEXEC)?);
        io::copy(&mut stream.into_read(), &mut file)?;
        io::Seek::rewind(&mut file)?;
        Ok(file)
    }
}

impl ContentReader for TargetRepo {
    fn open(&self, checksum: &Sha256Digest) -> io::Result<File> {
        if self.mode == RepoMode::Bare {
            return ContentDir::open_repo(self.path())?.open(checksum);
        }
        let result = self
            .open_stream(checksum)
            .with_context(|| format!("opening object {checksum}"));
        result.map_err(|e| into_io(&e))
    }
}
