//! The compose before this one: what it said, and which ids it used.

use std::path::Path;

use anyhow::{Context as _, Result};
use apt_ostree_model::compose::{CommitOptions, ImageFormat, InitializeMode, PreviousOptions};
use apt_ostree_model::{ErrorKind, IdLock, Kinded};
use apt_ostree_store::{CommitTree, TargetRepo};
use apt_ostree_treefile::ComposeSpec;
use camino::Utf8Path;

use super::metadata;

/// The previous compose; empty for the first one.
#[derive(Debug, Default)]
pub(super) struct Previous {
    /// Its commit with the tree, when it can be read.
    pub(super) commit: Option<CommitTree>,
    /// The ref's commit before this run, or what `--parent` says.
    pub(super) parent: Option<String>,
    /// Its input hash.
    pub(super) inputhash: Option<String>,
    /// Its version.
    pub(super) version: Option<String>,
    /// Its user and group ids.
    pub(super) ids: Option<IdLock>,
}

impl Previous {
    /// The commit that the spec's ref points to in `target`, or what the options name.
    pub(super) fn load(
        spec: &ComposeSpec,
        target: &TargetRepo,
        options: &PreviousOptions,
        commit: &CommitOptions,
    ) -> Result<Self> {
        let tip = match &spec.r#ref {
            Some(name) => target.resolve_ref(name)?,
            None => None,
        };
        let wanted = match &options.previous_commit {
            Some(rev) => Some(require_rev(target, rev)?),
            None => tip.clone(),
        };
        let mut previous = Self::default();
        if let Some(checksum) = wanted {
            previous.read_commit(target, &checksum)?;
        }
        previous.parent = match (&commit.parent, commit.no_parent) {
            (Some(rev), _) => Some(require_rev(target, rev)?),
            (None, true) => None,
            (None, false) => tip,
        };
        previous.apply(options);
        Ok(previous)
    }

    /// Like [`Self::load`] for verbs that need no repository.
    pub(super) fn optional(
        spec: &ComposeSpec,
        repo: Option<&Path>,
        options: &PreviousOptions,
    ) -> Result<Self> {
        match repo {
            Some(_) => Self::load(
                spec,
                &super::record::open_target(repo)?,
                options,
                &CommitOptions::default(),
            ),
            None => {
                let mut previous = Self::default();
                previous.apply(options);
                Ok(previous)
            }
        }
    }

    /// What the image at `output` says of itself.
    pub(super) fn of_image(
        output: &Utf8Path,
        format: ImageFormat,
        mode: InitializeMode,
    ) -> Result<Self> {
        let exists = output.exists();
        match mode {
            InitializeMode::Always => return Ok(Self::default()),
            InitializeMode::IfNotExists | InitializeMode::Query if !exists => {
                return Ok(Self::default());
            }
            InitializeMode::Never if !exists => {
                let message = format!("there is no previous image at '{output}'");
                return Err(Kinded::new(ErrorKind::InvalidInput, message)
                    .with_hint("make the first one with --initialize")
                    .into());
            }
            _ => {}
        }
        if format == ImageFormat::DockerArchive {
            return Ok(Self::default());
        }
        let image = apt_ostree_oci::read_oci_image(output.as_std_path())
            .with_context(|| format!("reading the previous image '{output}'"))?;
        let Some(image) = image else {
            return Ok(Self::default());
        };
        Ok(Self {
            inputhash: image.labels.get(super::encode::INPUT_HASH_LABEL).cloned(),
            version: image.labels.get(super::encode::VERSION_LABEL).cloned(),
            ..Self::default()
        })
    }

    /// Lets the command line override what the commit says.
    pub(super) fn apply(&mut self, options: &PreviousOptions) {
        if let Some(hash) = &options.previous_inputhash {
            self.inputhash = Some(hash.clone());
        }
        if let Some(version) = &options.previous_version {
            self.version = Some(version.clone());
        }
    }

    /// True when the previous compose had these inputs.
    pub(super) fn has_inputhash(&self, hash: &str) -> bool {
        self.inputhash.as_deref() == Some(hash)
    }

    fn read_commit(&mut self, target: &TargetRepo, checksum: &str) -> Result<()> {
        let commit = target
            .load_commit(checksum)
            .with_context(|| format!("reading the previous commit {checksum}"))?;
        self.inputhash = commit.string(metadata::INPUT_HASH);
        self.version = commit.string("version");
        self.ids = Some(
            crate::postprocess::id_lock(&commit.tree, target)
                .context("reading its user and group ids")?,
        );
        self.commit = Some(commit);
        Ok(())
    }
}

fn require_rev(target: &TargetRepo, rev: &str) -> Result<String> {
    target.resolve_ref(rev)?.ok_or_else(|| {
        let message = format!(
            "there is no commit or ref '{rev}' in repository '{}'",
            target.path()
        );
        Kinded::new(ErrorKind::InvalidInput, message).into()
    })
}
