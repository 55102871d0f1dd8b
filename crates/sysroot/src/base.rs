//! Which commit the base is to be.

use anyhow::{Context as _, Result};
use apt_ostree_fsx::escape_cut;
use apt_ostree_model::reference::{Follows, Refspec, Revision};
use apt_ostree_model::{ErrorKind, Kinded, Reporter};
use ostree::gio;

use crate::cleanup::TEMPORARY_REFS;
use crate::commit::CommitInfo;
use crate::error::{self, invalid};
use crate::pull::Pull;
use crate::system::LockedSysroot;

/// How many commits of a branch are looked at, step by step: most looks end in the first.
const DEPTHS: [i32; 3] = [30, 300, 5000];

/// What to look for.
#[derive(Debug, Clone, Copy)]
pub struct BaseRequest<'a> {
    /// What is followed: a branch or a commit.
    pub follows: &'a Follows,
    /// Which of its commits; `None`: the newest.
    pub revision: Option<&'a Revision>,
    /// Fetch no trees.
    pub metadata_only: bool,
    /// Fetch nothing.
    pub cache_only: bool,
    /// Take a commit that is not in the history of the branch.
    pub skip_branch_check: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedBase {
    /// The commit.
    pub checksum: String,
    /// Bytes that were fetched.
    pub fetched: u64,
}

impl LockedSysroot {
    /// Finds the commit that a request means and fetches it.
    ///
    /// # Errors
    /// [`ErrorKind::Network`] when it can't be fetched, [`ErrorKind::Verification`] when its
    /// signature is missing or wrong, [`ErrorKind::InvalidInput`] when there is no such commit.
    pub fn resolve_base(
        &self,
        request: &BaseRequest<'_>,
        reporter: &dyn Reporter,
    ) -> Result<ResolvedBase> {
        match request.follows {
            Follows::Branch(refspec) => self.resolve_branch(refspec, request, reporter),
            Follows::Checksum { remote, checksum } => {
                if request.revision.is_some() {
                    let message = format!("the system is pinned to commit {checksum}");
                    return Err(invalid(message)
                        .with_hint("follow a branch first: apt-ostree rebase REMOTE:BRANCH")
                        .into());
                }
                let fetched = match remote {
                    Some(remote) => self.fetch(remote, checksum, None, request, reporter)?,
                    None => 0,
                };
                self.require(checksum, request)?;
                self.keep(checksum)?;
                Ok(ResolvedBase {
                    checksum: checksum.clone(),
                    fetched,
                })
            }
            Follows::Container(reference) => Err(Kinded::new(
                ErrorKind::InvalidInput,
                format!("'{reference}' is no OSTree ref"),
            )
            .into()),
        }
    }

    /// Fetches a ref of another repository on this machine; returns its commit.
    ///
    /// # Errors
    /// When there is no such repository or ref, or it is damaged.
    pub fn pull_local(
        &self,
        path: &str,
        reference: &str,
        reporter: &dyn Reporter,
    ) -> Result<ResolvedBase> {
        let context = || format!("opening repository '{}'", escape_cut(path, 200));
        let other = ostree::Repo::new_for_path(path);
        other
            .open(gio::Cancellable::NONE)
            .map_err(|e| error::ostree(&e))
            .with_context(context)?;
        let checksum = other
            .resolve_rev(reference, false)
            .map_err(|e| error::ostree(&e))
            .with_context(context)?
            .with_context(context)?
            .to_string();
        let pull = Pull {
            from: &format!("file://{path}"),
            reference: &checksum,
            commit: None,
            commit_only: false,
            depth: 0,
        };
        let fetched = self.pull(&pull, reporter)?;
        self.keep(&checksum)?;
        Ok(ResolvedBase { checksum, fetched })
    }

    fn resolve_branch(
        &self,
        refspec: &Refspec,
        request: &BaseRequest<'_>,
        reporter: &dyn Reporter,
    ) -> Result<ResolvedBase> {
        let commit = match request.revision {
            None => None,
            Some(Revision::Checksum(checksum)) if request.skip_branch_check => {
                Some(checksum.clone())
            }
            Some(revision) => Some(self.find_revision(refspec, revision, request, reporter)?),
        };
        let fetched = match &refspec.remote {
            Some(remote) => self.fetch(
                remote,
                &refspec.branch,
                commit.as_deref(),
                request,
                reporter,
            )?,
            None => 0,
        };
        let checksum = match commit {
            Some(checksum) => checksum,
            None => self.newest(refspec)?,
        };
        self.require(&checksum, request)?;
        Ok(ResolvedBase { checksum, fetched })
    }

    fn fetch(
        &self,
        remote: &str,
        reference: &str,
        commit: Option<&str>,
        request: &BaseRequest<'_>,
        reporter: &dyn Reporter,
    ) -> Result<u64> {
        if request.cache_only {
            return Ok(0);
        }
        let pull = Pull {
            from: remote,
            reference,
            commit,
            commit_only: request.metadata_only,
            depth: 0,
        };
        self.pull(&pull, reporter)
    }

    fn newest(&self, refspec: &Refspec) -> Result<String> {
        self.resolve_ref(&refspec.to_string())?.ok_or_else(|| {
            invalid(format!("there is no branch '{refspec}' in this system"))
                .with_hint("fetch it without --cache-only")
                .into()
        })
    }

    /// Refuses a commit that is not there, or not wholly.
    fn require(&self, checksum: &str, request: &BaseRequest<'_>) -> Result<()> {
        let found = self.commit_optional(checksum)?;
        if found.is_some_and(|commit| commit.complete || request.metadata_only) {
            return Ok(());
        }
        let error = invalid(format!("commit {checksum} is not wholly in this system"));
        let hint = if request.cache_only {
            "fetch it without --cache-only"
        } else {
            "name the remote that has it: REMOTE:CHECKSUM"
        };
        Err(error.with_hint(hint).into())
    }

    /// Keeps a commit that no branch leads to from being pruned until it is deployed.
    fn keep(&self, checksum: &str) -> Result<()> {
        let name = format!("{TEMPORARY_REFS}/{checksum}");
        self.repo()
            .set_ref_immediate(None, &name, Some(checksum), gio::Cancellable::NONE)
            .map_err(|e| error::ostree(&e))
            .with_context(|| format!("setting ref '{name}'"))
    }

    /// The commit with a version or checksum in the history of a branch.
    fn find_revision(
        &self,
        refspec: &Refspec,
        revision: &Revision,
        request: &BaseRequest<'_>,
        reporter: &dyn Reporter,
    ) -> Result<String> {
        let (wanted, what) = match revision {
            Revision::Checksum(checksum) => (checksum, "commit"),
            Revision::Version(version) => (version, "version"),
            Revision::Digest(digest) => {
                let message = format!("branch '{refspec}' has no image '{digest}'");
                return Err(invalid(message)
                    .with_hint("digests are for systems that follow an image")
                    .into());
            }
        };
        let found = |commit: &CommitInfo| {
            commit.checksum == *wanted || commit.version.as_deref() == Some(wanted)
        };
        let mut seen = 0;
        for depth in DEPTHS {
            if let (Some(remote), false) = (&refspec.remote, request.cache_only) {
                let pull = Pull {
                    from: remote,
                    reference: &refspec.branch,
                    commit: None,
                    commit_only: true,
                    depth,
                };
                self.pull(&pull, reporter)?;
            }
            let mut next = Some(self.newest(refspec)?);
            seen = 0;
            while let Some(checksum) = next.take() {
                let Some(commit) = self.commit_optional(&checksum)? else {
                    break;
                };
                if found(&commit) {
                    return Ok(commit.checksum);
                }
                seen += 1;
                next = commit.parent;
            }
            if seen <= depth {
                break;
            }
        }
        let wanted = escape_cut(wanted, 80);
        let message = format!("{what} '{wanted}' is not among the {seen} commits of '{refspec}'");
        let error = invalid(message);
        if matches!(revision, Revision::Checksum(_)) {
            return Err(error
                .with_hint("deploy it nevertheless with --skip-branch-check")
                .into());
        }
        Err(error.into())
    }

    /// Removes the local copy of a branch of a remote that is not followed any more.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn purge_branch(&self, follows: &Follows) -> Result<()> {
        let Follows::Branch(refspec) = follows else {
            return Ok(());
        };
        // A branch of this repository may be someone's only copy.
        let Some(remote) = &refspec.remote else {
            return Ok(());
        };
        self.repo()
            .set_ref_immediate(Some(remote), &refspec.branch, None, gio::Cancellable::NONE)
            .map_err(|e| error::ostree(&e))
            .with_context(|| format!("removing branch '{refspec}'"))
    }
}
