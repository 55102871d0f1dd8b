//! How the base moves.

use anyhow::{Result, anyhow};
use apt_ostree_model::client::{BaseChange, UpdateRequest};
use apt_ostree_model::origin::Origin;
use apt_ostree_model::reference::{Follows, RebaseTarget, Revision};
use apt_ostree_model::{ErrorKind, Kinded, Reporter, Step};
use apt_ostree_sysroot::{BaseRequest, CommitInfo, ResolvedBase};

use super::image::{self, Search};
use super::system::{Before, System};

/// Where the base is to be.
#[derive(Debug)]
pub(super) struct Base {
    /// Its checksum; empty when it is an image that was only looked at.
    pub(super) checksum: String,
    /// Its version.
    pub(super) version: Option<String>,
    /// The commit, unless it was only looked at.
    pub(super) commit: Option<CommitInfo>,
    /// Bytes that were fetched for it.
    pub(super) fetched: u64,
}

/// Where the base was found.
enum Found {
    Commit(ResolvedBase),
    Image(image::Found),
}

/// Changes what `origin` follows as the request says, and finds and fetches the base.
pub(super) fn resolve(
    system: &System,
    before: &Before,
    origin: &mut Origin,
    request: &UpdateRequest,
    reporter: &dyn Reporter,
) -> Result<Base> {
    let not_before = match request.allow_downgrade {
        true => 0,
        false => made(system, before)?,
    };
    let here = (system, not_before);
    let found = match &request.base {
        BaseChange::Keep => None,
        BaseChange::Upgrade => upgrade(here, origin, request, reporter)?,
        BaseChange::Deploy { revision } => Some(deploy(here, origin, revision, request, reporter)?),
        BaseChange::Rebase { refspec, revision } => {
            let revision = revision.as_deref();
            Some(rebase(
                here,
                origin,
                (refspec, revision),
                request,
                reporter,
            )?)
        }
    };
    let resolved = match found {
        None => commit(system, before.commit.base(), 0)?,
        Some(Found::Commit(found)) => commit(system, &found.checksum, found.fetched)?,
        Some(Found::Image(found)) => match &found.commit {
            Some(checksum) => commit(system, checksum, found.fetched)?,
            None => {
                return Ok(Base {
                    checksum: String::new(),
                    version: found.version,
                    commit: None,
                    fetched: 0,
                });
            }
        },
    };
    if let Some(commit) = &resolved.commit
        && !request.allow_downgrade
        && resolved.checksum != before.commit.base()
    {
        let what = format!("commit {}", resolved.checksum);
        require_newer(system, before, &what, commit.timestamp)?;
    }
    Ok(resolved)
}

fn commit(system: &System, checksum: &str, fetched: u64) -> Result<Base> {
    let commit = system.sysroot.commit(checksum)?;
    Ok(Base {
        checksum: checksum.to_owned(),
        version: commit.version.clone(),
        commit: Some(commit),
        fetched,
    })
}

fn upgrade(
    (system, not_before): (&System, u64),
    origin: &mut Origin,
    request: &UpdateRequest,
    reporter: &dyn Reporter,
) -> Result<Option<Found>> {
    if let Some(state) = &origin.unconfigured_state {
        return Err(Kinded::new(ErrorKind::Failed, apt_ostree_fsx::escape(state)).into());
    }
    match origin.follows.clone() {
        None => Err(follows_nothing()),
        Some(Follows::Container(reference)) => {
            if let Some(digest) = reference.digest() {
                reporter.message(format!("Pinned to image {digest}; the base stays"));
                return Ok(None);
            }
            origin.override_commit = None;
            let search = Search {
                system,
                reference: &reference,
                request,
                not_before,
                reporter,
            };
            search.newest().map(Found::Image).map(Some)
        }
        Some(Follows::Checksum { checksum, .. }) => {
            reporter.message(format!("Pinned to commit {checksum}; the base stays"));
            Ok(None)
        }
        Some(follows) => {
            origin.override_commit = None;
            let found = fetch(system, &follows, None, request, reporter)?;
            Ok(Some(Found::Commit(found)))
        }
    }
}

fn deploy(
    (system, not_before): (&System, u64),
    origin: &mut Origin,
    revision: &str,
    request: &UpdateRequest,
    reporter: &dyn Reporter,
) -> Result<Found> {
    let revision: Revision = revision.parse()?;
    let follows = match &origin.follows {
        None => return Err(follows_nothing()),
        Some(Follows::Container(reference)) => {
            let search = Search {
                system,
                reference: &reference.clone(),
                request,
                not_before,
                reporter,
            };
            let found = search.revision(&revision)?;
            origin.override_commit = Some(found.digest.clone());
            return Ok(Found::Image(found));
        }
        Some(follows) => follows.clone(),
    };
    let found = fetch(system, &follows, Some(&revision), request, reporter)?;
    origin.override_commit = Some(found.checksum.clone());
    Ok(Found::Commit(found))
}

fn rebase(
    (system, not_before): (&System, u64),
    origin: &mut Origin,
    (refspec, revision): (&str, Option<&str>),
    request: &UpdateRequest,
    reporter: &dyn Reporter,
) -> Result<Found> {
    let target = RebaseTarget::parse(refspec, origin.follows.as_ref())?;
    let revision: Option<Revision> = revision.map(str::parse).transpose()?;
    let found = match target {
        RebaseTarget::Follow(Follows::Container(reference)) => {
            let search = Search {
                system,
                reference: &reference,
                request,
                not_before,
                reporter,
            };
            rebase_to_image(&search, origin, revision.as_ref())?
        }
        RebaseTarget::Follow(follows) => {
            // To the same branch it is a deploy of one of its revisions.
            if revision.is_none() || origin.follows.as_ref() != Some(&follows) {
                origin.rebase(follows.clone())?;
            }
            let found = fetch(system, &follows, revision.as_ref(), request, reporter)?;
            origin.override_commit = revision.map(|_| found.checksum.clone());
            Found::Commit(found)
        }
        RebaseTarget::LocalRepo { path, reference } => {
            if revision.is_some() {
                let message = "a local repository is followed at one commit";
                return Err(Kinded::new(ErrorKind::Usage, message)
                    .with_hint("write PATH:CHECKSUM")
                    .into());
            }
            let found = reporter.step(Step::Pull, || {
                let found = system.sysroot.pull_local(&path, &reference, reporter)?;
                let summary = found.checksum.clone();
                Ok::<_, anyhow::Error>((found, summary))
            })?;
            origin.rebase(Follows::Checksum {
                remote: None,
                checksum: found.checksum.clone(),
            })?;
            Found::Commit(found)
        }
    };
    if let Some((description, url)) = &request.custom_origin {
        origin.custom_origin = Some((url.clone(), description.clone()));
    }
    Ok(found)
}

/// To the same image it is a deploy of one of its revisions.
fn rebase_to_image(
    search: &Search<'_>,
    origin: &mut Origin,
    revision: Option<&Revision>,
) -> Result<Found> {
    let follows = Follows::Container(search.reference.clone());
    if revision.is_none() || origin.follows.as_ref() != Some(&follows) {
        origin.rebase(follows)?;
    }
    let found = match revision {
        None => search.newest()?,
        Some(revision) => search.revision(revision)?,
    };
    origin.override_commit = revision.map(|_| found.digest.clone());
    Ok(Found::Image(found))
}

fn fetch(
    system: &System,
    follows: &Follows,
    revision: Option<&Revision>,
    request: &UpdateRequest,
    reporter: &dyn Reporter,
) -> Result<ResolvedBase> {
    reporter.step(Step::Pull, || {
        let base = BaseRequest {
            follows,
            revision,
            metadata_only: request.check || request.preview,
            cache_only: request.options.cache_only,
            skip_branch_check: request.skip_branch_check,
        };
        let found = system.sysroot.resolve_base(&base, reporter)?;
        let summary = found.checksum.clone();
        Ok((found, summary))
    })
}

/// Refuses a base that was made before the one that is deployed: a server could serve old commits
/// with old holes.
fn require_newer(system: &System, before: &Before, what: &str, timestamp: u64) -> Result<()> {
    let old = made(system, before)?;
    if timestamp >= old {
        return Ok(());
    }
    Err(older(what, timestamp, old)?.into())
}

/// When the deployed base was made; 0 when nobody knows.
fn made(system: &System, before: &Before) -> Result<u64> {
    let old = system.sysroot.commit_optional(before.commit.base())?;
    Ok(old.map_or(0, |commit| commit.timestamp))
}

/// An error about a base that was made before the deployed one.
pub(super) fn older(what: &str, new: u64, old: u64) -> Result<Kinded> {
    let (new, old) = (time(new)?, time(old)?);
    let message = format!("{what} of {new} is older than the deployed one of {old}");
    let error = Kinded::new(ErrorKind::Verification, message);
    Ok(error.with_hint("allow that with --allow-downgrade"))
}

fn time(seconds: u64) -> Result<String> {
    let time = jiff::Timestamp::from_second(i64::try_from(seconds)?)
        .map_err(|error| anyhow!("time of a commit: {error}"))?;
    Ok(time.to_string())
}

fn follows_nothing() -> anyhow::Error {
    Kinded::new(
        ErrorKind::InvalidInput,
        "the deployment follows no branch and no image",
    )
    .with_hint("choose one: apt-ostree rebase REMOTE:BRANCH")
    .into()
}
