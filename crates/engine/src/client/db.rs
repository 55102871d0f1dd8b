//! `db`: packages of commits.

use std::collections::BTreeMap;

use anyhow::Result;
use apt_ostree_model::client::{ClientOutcome, DbRequest};
use apt_ostree_model::compose::PackageDiff;
use apt_ostree_model::{ErrorKind, Kinded};
use apt_ostree_sysroot::{CommitInfo, Deployment, Sysroot, load_commit};
use camino::Utf8Path;

use super::system;

/// Lists or compares the packages of commits.
pub(super) fn db(request: &DbRequest) -> Result<ClientOutcome> {
    let source = Source::open(request)?;
    if request.diff {
        let (from, to) = source.pair(&request.revisions)?;
        packages(&from)?;
        packages(&to)?;
        return Ok(ClientOutcome::Diff {
            packages: difference(&from, &to),
            from: from.checksum,
            to: to.checksum,
        });
    }
    let mut commits = BTreeMap::new();
    for revision in &request.revisions {
        let mut list = packages(&source.commit(revision)?)?;
        list.retain(|(name, _, _)| {
            request.prefixes.is_empty() || request.prefixes.iter().any(|p| name.starts_with(p))
        });
        list.sort();
        commits.insert(revision.clone(), list);
    }
    Ok(ClientOutcome::Packages { commits })
}

/// How the packages of `new` differ from those of `old`, by name; nothing when one of them has no
/// list.
pub(super) fn difference(old: &CommitInfo, new: &CommitInfo) -> Vec<PackageDiff> {
    let (Some(old), Some(new)) = (old.packages(), new.packages()) else {
        return Vec::new();
    };
    let mut diff: BTreeMap<(String, String), PackageDiff> = BTreeMap::new();
    let entry = |name: &str| PackageDiff {
        name: name.to_owned(),
        previous: None,
        new: None,
    };
    for (name, version, arch) in old {
        let key = (name.clone(), arch.clone());
        let diff = diff.entry(key).or_insert_with(|| entry(&name));
        diff.previous = Some((version, arch));
    }
    for (name, version, arch) in new {
        let key = (name.clone(), arch.clone());
        let diff = diff.entry(key).or_insert_with(|| entry(&name));
        diff.new = Some((version, arch));
    }
    diff.into_values().filter(|d| d.previous != d.new).collect()
}

fn packages(commit: &CommitInfo) -> Result<Vec<(String, String, String)>> {
    commit.packages().ok_or_else(|| {
        let message = format!("commit {} has no list of packages", commit.checksum);
        Kinded::new(ErrorKind::InvalidInput, message).into()
    })
}

/// Where commits are looked up.
enum Source<'a> {
    Repo(&'a Utf8Path),
    System(Sysroot, String),
}

impl<'a> Source<'a> {
    fn open(request: &'a DbRequest) -> Result<Self> {
        if let Some(repo) = &request.repo {
            let repo = Utf8Path::from_path(repo).ok_or_else(|| {
                let message = format!("path '{}' is not UTF-8", repo.display());
                Kinded::new(ErrorKind::Usage, message)
            })?;
            return Ok(Self::Repo(repo));
        }
        let sysroot = system::open(&request.target)?;
        let stateroot = sysroot.stateroot(request.target.stateroot.as_deref())?;
        Ok(Self::System(sysroot, stateroot))
    }

    fn commit(&self, revision: &str) -> Result<CommitInfo> {
        match self {
            Self::Repo(repo) => load_commit(repo, revision),
            Self::System(sysroot, _) => match sysroot.deployment_by_id(revision) {
                Some(deployment) => sysroot.commit(&deployment.commit()),
                None => load_commit(&sysroot.repo_path(), revision),
            },
        }
    }

    fn pair(&self, revisions: &[String]) -> Result<(CommitInfo, CommitInfo)> {
        if let [from, to] = revisions {
            return Ok((self.commit(from)?, self.commit(to)?));
        }
        let Self::System(sysroot, stateroot) = self else {
            return Err(usage("two commits of the repository are needed"));
        };
        let own = sysroot.deployments_of(stateroot);
        let booted = sysroot
            .booted()
            .and_then(|booted| own.iter().position(|d| d.is(&booted)))
            .unwrap_or(0);
        let load = |at: usize| match own.get(at) {
            Some(deployment) => sysroot.commit(&Deployment::commit(deployment)),
            None => Err(usage("there is no second deployment to compare with")),
        };
        match revisions {
            [to] => Ok((load(booted)?, self.commit(to)?)),
            [] if booted > 0 => Ok((load(booted)?, load(0)?)),
            [] => Ok((load(booted + 1)?, load(booted)?)),
            _ => Err(usage("only two commits can be compared")),
        }
    }
}

fn usage(message: &str) -> anyhow::Error {
    Kinded::new(ErrorKind::Usage, message).into()
}
