//! The base: a commit as an installed root again.

use std::ops::Deref;

use anyhow::{Context as _, Result};
use apt_ostree_model::{Arch, IdLock, Step};
use apt_ostree_store::{CommitTree, TargetRepo};
use camino::Utf8Path;

use super::LayerJob;
use crate::compose::context::Run;
use crate::content;
use crate::postprocess::{self, Options, Reopened, accounts};
use crate::rootfs::dpkgdb::{self, Installed};

/// First id of people's own accounts.
const FIRST_USER: u32 = 1000;

/// The commit that packages are layered on.
pub(super) struct Base {
    /// The commit.
    pub(super) commit: CommitTree,
    /// Its repository.
    pub(super) target: TargetRepo,
    /// Its package database.
    pub(super) status: String,
    /// The packages in it.
    pub(super) installed: Vec<Installed>,
    /// apt's marks.
    pub(super) extended_states: String,
    /// Native architecture.
    pub(super) arch: Arch,
    /// Foreign architectures.
    pub(super) foreign: Vec<Arch>,
    /// Ids to keep: those of the base and of the machine.
    pub(super) ids: IdLock,
    /// How the tree is postprocessed.
    pub(super) options: Options,
    /// The treefile of the compose; null when it is not known.
    treefile: serde_json::Value,
}

/// The base as an installed root again.
pub(super) struct OpenBase {
    base: Base,
    /// The root.
    pub(super) root: Reopened,
}

impl Deref for OpenBase {
    type Target = Base;

    fn deref(&self) -> &Base {
        &self.base
    }
}

impl Base {
    /// Makes the installed root.
    pub(super) fn open(self, run: &Run<'_>) -> Result<OpenBase> {
        let root = postprocess::reopen(self.commit.tree.clone(), &run.store)?;
        Ok(OpenBase { base: self, root })
    }

    /// Reads the base of a job.
    pub(super) fn load(run: &Run<'_>, job: &LayerJob<'_>) -> Result<Self> {
        run.reporter.step(Step::Load, || {
            let base = Self::read(run, job)?;
            let summary = format!("{} packages in the base", base.installed.len());
            Ok::<_, anyhow::Error>((base, summary))
        })
    }

    fn read(run: &Run<'_>, job: &LayerJob<'_>) -> Result<Self> {
        let target = TargetRepo::open(run.store.path())?;
        let commit = target.load_commit(job.base)?;
        let treefile = postprocess::kept_treefile(&commit.tree, &run.store)?;
        let options = Options::of_tree(&commit.tree, &treefile);
        let text = |name: &str| {
            let path = format!("usr/lib/sysimage/{name}");
            content::read_text(&commit.tree, &run.store, &path)
        };
        let status = text("dpkg/status")?;
        let mut arches = text("dpkg/arch")?
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .collect::<Vec<Arch>>()
            .into_iter();
        let mut ids = postprocess::id_lock(&commit.tree, &run.store)?;
        if let Some(etc) = job.etc {
            add_machine_ids(&mut ids, etc, run)?;
        }
        Ok(Self {
            installed: dpkgdb::installed(&status),
            extended_states: text("apt/extended_states")?,
            arch: arches.next().unwrap_or_else(Arch::host),
            foreign: arches.collect(),
            status,
            ids,
            options,
            treefile,
            commit,
            target,
        })
    }

    /// Whether the base was composed with Recommends.
    pub(super) fn recommends(&self) -> bool {
        self.treefile["recommends"] == true
    }

    /// The arguments for dracut that the base was composed with.
    pub(super) fn initramfs_args(&self) -> Vec<String> {
        let args = self.treefile["initramfs-args"].as_array();
        let args = args.into_iter().flatten().filter_map(|arg| arg.as_str());
        args.map(str::to_owned).collect()
    }
}

/// Adds the system accounts that the machine has and the base has not: a package that makes one
/// of them again gets the same id, and no other gets it.
fn add_machine_ids(ids: &mut IdLock, etc: &Utf8Path, run: &Run<'_>) -> Result<()> {
    let read = |name: &str| -> Result<String> {
        let path = etc.join(name);
        match std::fs::read(&path) {
            Ok(data) => Ok(String::from_utf8_lossy(&data).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error).with_context(|| format!("reading '{path}'")),
        }
    };
    let (passwd, group) = (read("passwd")?, read("group")?);
    let parsed = accounts::parse_passwd(&passwd, "/etc/passwd")
        .and_then(|users| Ok((users, accounts::parse_group(&group, "/etc/group")?)));
    let (users, groups) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            run.reporter
                .warning(format!("ids of the machine are not kept: {error:#}"));
            return Ok(());
        }
    };
    for group in groups.iter().filter(|g| g.gid < FIRST_USER) {
        if !ids.groups.values().any(|gid| *gid == group.gid) {
            ids.groups.entry(group.name.clone()).or_insert(group.gid);
        }
    }
    for user in users.iter().filter(|u| u.uid < FIRST_USER) {
        if !ids.users.values().any(|account| account.uid == user.uid) {
            let account = apt_ostree_model::Account {
                uid: user.uid,
                gid: user.gid,
            };
            ids.users.entry(user.name.clone()).or_insert(account);
        }
    }
    Ok(())
}
