//! How the base moves.

use anyhow::{Result, anyhow};
use apt_ostree_model::client::{BaseChange, UpdateRequest};
use apt_ostree_model::origin::Origin;
use apt_ostree_model::reference::{ContainerReference, Follows, RebaseTarget, Revision};
use apt_ostree_model::{ErrorKind, Kinded, Reporter, Step};
use apt_ostree_sysroot::{BaseRequest, CommitInfo, ResolvedBase};

use super::system::{Before, System};

/// Where the base is to be.
#[derive(Debug)]
pub(super) struct Base {
    /// The commit.
    pub(super) commit: CommitInfo,
    /// Bytes that were fetched for it.
    pub(super) fetched: u64,
}

/// Changes what `origin` follows as the request says, and finds and fetches the base.
pub(super) fn resolve(
    system: &System,
    before: &Before,
    origin: &mut Origin,
    request: &UpdateRequest,
    reporter: &dyn Reporter,
) -> Result<Base> {
    let found = match &request.base {
        BaseChange::Keep => None,
        BaseChange::Upgrade => upgrade(system, origin, request, reporter)?,
        BaseChange::Deploy { revision } => {
            Some(deploy(system, origin, revision, request, reporter)?)
        }
        BaseChange::Rebase { refspec, revision } => {
            let revision = revision.as_deref();
            Some(rebase(
                system,
                origin,
                (refspec, revision),
                request,
                reporter,
            )?)
        }
    };
    let found = found.unwrap_or_else(|| ResolvedBase {
        checksum: before.commit.base().to_owned(),
        fetched: 0,
    });
    let commit = system.sysroot.commit(&found.checksum)?;
    if !request.allow_downgrade && commit.checksum != before.commit.base() {
        require_newer(system, before, &commit)?;
    }
    Ok(Base {
        commit,
        fetched: found.fetched,
    })
}

fn upgrade(
    system: &System,
    origin: &mut Origin,
    request: &UpdateRequest,
    reporter: &dyn Reporter,
) -> Result<Option<ResolvedBase>> {
    if let Some(state) = &origin.unconfigured_state {
        return Err(Kinded::new(ErrorKind::Failed, apt_ostree_fsx::escape(state)).into());
    }
    match origin.follows.clone() {
        None => Err(follows_nothing()),
        Some(Follows::Container(reference)) => Err(container(&reference)),
        Some(Follows::Checksum { checksum, .. }) => {
            reporter.message(format!("Pinned to commit {checksum}; the base stays"));
            Ok(None)
        }
        Some(follows) => {
            origin.override_commit = None;
            fetch(system, &follows, None, request, reporter).map(Some)
        }
    }
}

fn deploy(
    system: &System,
    origin: &mut Origin,
    revision: &str,
    request: &UpdateRequest,
    reporter: &dyn Reporter,
) -> Result<ResolvedBase> {
    let revision: Revision = revision.parse()?;
    let follows = match &origin.follows {
        None => return Err(follows_nothing()),
        Some(Follows::Container(reference)) => return Err(container(reference)),
        Some(follows) => follows.clone(),
    };
    let found = fetch(system, &follows, Some(&revision), request, reporter)?;
    origin.override_commit = Some(found.checksum.clone());
    Ok(found)
}

fn rebase(
    system: &System,
    origin: &mut Origin,
    (refspec, revision): (&str, Option<&str>),
    request: &UpdateRequest,
    reporter: &dyn Reporter,
) -> Result<ResolvedBase> {
    let target = RebaseTarget::parse(refspec, origin.follows.as_ref())?;
    let revision: Option<Revision> = revision.map(str::parse).transpose()?;
    let found = match target {
        RebaseTarget::Follow(Follows::Container(reference)) => return Err(container(&reference)),
        RebaseTarget::Follow(follows) => {
            // To the same branch it is a deploy of one of its revisions.
            if revision.is_none() || origin.follows.as_ref() != Some(&follows) {
                origin.rebase(follows.clone())?;
            }
            let found = fetch(system, &follows, revision.as_ref(), request, reporter)?;
            origin.override_commit = revision.map(|_| found.checksum.clone());
            found
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
            found
        }
    };
    if let Some((description, url)) = &request.custom_origin {
        origin.custom_origin = Some((url.clone(), description.clone()));
    }
    Ok(found)
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
fn require_newer(system: &System, before: &Before, new: &CommitInfo) -> Result<()> {
    let Some(old) = system.sysroot.commit_optional(before.commit.base())? else {
        return Ok(());
    };
    if new.timestamp >= old.timestamp {
        return Ok(());
    }
    let message = format!(
        "commit {} of {} is older than the deployed one of {}",
        new.checksum,
        time(new.timestamp)?,
        time(old.timestamp)?
    );
    Err(Kinded::new(ErrorKind::Verification, message)
        .with_hint("allow that with --allow-downgrade")
        .into())
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

fn container(reference: &ContainerReference) -> anyhow::Error {
    Kinded::new(
        ErrorKind::InvalidInput,
        format!("'{reference}' is a container image, and only OSTree refs can be deployed yet"),
    )
    .with_hint("rebase to an OSTree ref: REMOTE:BRANCH")
    .into()
}
