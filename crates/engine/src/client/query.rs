//! Questions about packages, sources and boot loader entries; and the changes that belong to them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use apt_ostree_apt::{Find, Found, MachineFiles, list_sources, switch_source};
use apt_ostree_model::client::{ClientOutcome, Target};
use apt_ostree_model::query::{FoundPackage, Query, QueryRequest, RefreshRequest, SourceRequest};
use apt_ostree_model::status::PackageId;
use apt_ostree_model::{ErrorKind, Kinded, Reporter};
use apt_ostree_sysroot::{Deployment, Sysroot};
use camino::Utf8PathBuf;

use super::system::{self, System};
use crate::layering::{Indices, Look, look, with_machine};

/// Terms or names of one question.
const MAX_TERMS: usize = 64;

/// Answers a question.
pub(super) fn query(request: &QueryRequest, reporter: &dyn Reporter) -> Result<ClientOutcome> {
    let place = Place::open(&request.target)?;
    let indices = if request.fetch {
        Indices::HereOrFetched
    } else {
        Indices::Here
    };
    match &request.query {
        Query::Search(terms) => place.find(Find::Search(terms), terms, indices, reporter),
        Query::Provides(names) => place.find(Find::Provides(names), names, indices, reporter),
        Query::Packages(names) => place.find(Find::Names(names), names, indices, reporter),
        Query::Sources => {
            let sources = with_machine(&place.job(indices), reporter, list_sources)?;
            Ok(ClientOutcome::Sources { sources })
        }
        Query::BootConfig {
            deployment,
            pending,
        } => place.boot_config(deployment, *pending),
    }
}

/// Fetches package indices.
pub(super) fn refresh(request: &RefreshRequest, reporter: &dyn Reporter) -> Result<ClientOutcome> {
    // Nobody removes the cache meanwhile.
    let system = System::lock(&request.target)?;
    let place = Place::of(&system.sysroot, &system.stateroot)?;
    let indices = if request.force {
        Indices::FetchedAnew
    } else {
        Indices::Fetched
    };
    let sources = look(&place.job(indices), reporter, |_, state| {
        let line = |s: &apt_ostree_model::SourceInfo| format!("{} {}", s.repo, s.suite);
        Ok(state.sources.iter().map(line).collect())
    })?;
    Ok(ClientOutcome::Refreshed { sources })
}

/// Enables or disables a package source in `/etc` of the running or the default deployment.
pub(super) fn modify_source(
    request: &SourceRequest,
    reporter: &dyn Reporter,
) -> Result<ClientOutcome> {
    let system = System::lock(&request.target)?;
    let place = Place::of(&system.sysroot, &system.stateroot)?;
    let Some(etc) = &place.etc else {
        let message = "the deployment that boots next has no '/etc' before a reboot";
        return Err(Kinded::new(ErrorKind::Failed, message)
            .with_hint("reboot first, or edit the files in /etc/apt")
            .into());
    };
    let switch = |machine: &dyn MachineFiles| switch_source(machine, &request.id, request.enabled);
    let changed = with_machine(&place.job(Indices::Here), reporter, switch)?;
    let Some((path, text)) = changed else {
        let state = if request.enabled {
            "enabled"
        } else {
            "disabled"
        };
        let message = format!("Source '{}' is {state} already.", request.id);
        return Ok(ClientOutcome::Unchanged { message });
    };
    let below = path.strip_prefix("etc/").unwrap_or(&path);
    let file = etc.join(below);
    apt_ostree_fsx::write_atomic(&file, text.as_bytes(), 0o644)
        .with_context(|| format!("writing '{file}'"))?;
    let sources = with_machine(&place.job(Indices::Here), reporter, list_sources)?;
    Ok(ClientOutcome::Sources { sources })
}

/// The deployment whose packages and sources count.
struct Place<'s> {
    sysroot: Opened<'s>,
    stateroot: String,
    repo: Utf8PathBuf,
    deployment: Deployment,
    commit: String,
    /// Its `/etc`, once it has one.
    etc: Option<Utf8PathBuf>,
}

enum Opened<'s> {
    Own(Sysroot),
    Locked(&'s Sysroot),
}

impl std::ops::Deref for Opened<'_> {
    type Target = Sysroot;

    fn deref(&self) -> &Sysroot {
        match self {
            Self::Own(sysroot) => sysroot,
            Self::Locked(sysroot) => sysroot,
        }
    }
}

impl<'s> Place<'s> {
    fn open(target: &Target) -> Result<Self> {
        let sysroot = system::open_caches(target)?;
        let stateroot = sysroot.stateroot(target.stateroot.as_deref())?;
        Self::new(Opened::Own(sysroot), stateroot)
    }

    fn of(sysroot: &'s Sysroot, stateroot: &str) -> Result<Self> {
        Self::new(Opened::Locked(sysroot), stateroot.to_owned())
    }

    /// The booted deployment, else the one that boots next.
    fn new(sysroot: Opened<'s>, stateroot: String) -> Result<Self> {
        let booted = sysroot.booted().filter(|d| d.stateroot() == stateroot);
        let deployment = match booted {
            Some(booted) => booted,
            None => sysroot.merge_deployment(&stateroot)?,
        };
        let etc = sysroot.etc_path(&deployment);
        Ok(Self {
            repo: sysroot.repo_path(),
            commit: deployment.commit(),
            etc: etc.is_dir().then_some(etc),
            sysroot,
            stateroot,
            deployment,
        })
    }

    fn job(&self, indices: Indices) -> Look<'_> {
        Look {
            repo: &self.repo,
            commit: &self.commit,
            etc: self.etc.as_deref(),
            indices,
        }
    }

    fn find(
        &self,
        what: Find<'_>,
        terms: &[String],
        indices: Indices,
        reporter: &dyn Reporter,
    ) -> Result<ClientOutcome> {
        if terms.is_empty() || terms.len() > MAX_TERMS || terms.iter().any(String::is_empty) {
            let message = format!("give one to {MAX_TERMS} words to look for, none of them empty");
            return Err(Kinded::new(ErrorKind::Usage, message).into());
        }
        let found = look(&self.job(indices), reporter, |session, _| {
            session.find(what, reporter)
        })?;
        let layered = self.layered()?;
        let found = found.into_iter().filter_map(|f| package(f, &layered));
        Ok(ClientOutcome::Found {
            found: found.collect(),
        })
    }

    /// Names of the packages that the commit has and its base has not.
    fn layered(&self) -> Result<BTreeSet<String>> {
        let commit = self.sysroot.commit(&self.commit)?;
        if commit.base() == commit.checksum {
            return Ok(BTreeSet::new());
        }
        let names = |packages: Option<Vec<(String, String, String)>>| -> BTreeSet<String> {
            let packages = packages.unwrap_or_default().into_iter();
            packages.map(|(name, _, _)| name).collect()
        };
        let base = names(self.sysroot.commit(commit.base())?.packages());
        let own = names(commit.packages());
        Ok(own.difference(&base).cloned().collect())
    }

    fn boot_config(&self, id: &str, pending: bool) -> Result<ClientOutcome> {
        let deployment = match id {
            "" if pending => self.sysroot.merge_deployment(&self.stateroot)?,
            "" => self.deployment.clone(),
            id => self.sysroot.deployment_by_id(id).ok_or_else(|| {
                let id = apt_ostree_fsx::escape_cut(id, 128);
                let message = format!("there is no deployment '{id}'");
                Kinded::new(ErrorKind::InvalidInput, message)
            })?,
        };
        let mut entry: BTreeMap<String, serde_json::Value> = deployment
            .boot_entry()
            .into_iter()
            .map(|(key, value)| (key, value.into()))
            .collect();
        entry.insert("staged".to_owned(), deployment.is_staged().into());
        Ok(ClientOutcome::BootConfig { entry })
    }
}

/// A package that was found as it is shown; `None` when its version is none.
pub(crate) fn package(found: Found, layered: &BTreeSet<String>) -> Option<FoundPackage> {
    let name = found.name.parse().ok()?;
    let version = found.version.parse().ok()?;
    let arch = found.arch.parse().ok()?;
    let PackageId(nevra, name, epoch, upstream, _, arch) = PackageId::new(&name, &version, &arch);
    let layered = found.installed.is_some() && layered.contains(&name);
    // One source may be several repos, which have its name and a number.
    let repo = found.repo.unwrap_or_default();
    let source = repo.rsplit_once('-').map_or(&*repo, |(source, _)| source);
    Some(FoundPackage {
        key: found.group,
        name,
        epoch,
        version: upstream,
        arch,
        nevra,
        evr: found.version,
        summary: found.summary,
        reponame: source.to_owned(),
        installed: found.installed,
        layered,
    })
}
