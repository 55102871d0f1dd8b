//! `apply-live`: what boots next, or any commit, on the system that runs.
//!
//! The order makes every moment safe to be killed in: the goal is written down, a complete layer
//! is mounted on `/usr` in one call, `/etc` changes file by file, and only then the goal is noted
//! as reached. Whoever applies after an interruption knows all commits that files may be from.

mod changes;
mod etc;
mod follow_up;
mod services;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use apt_ostree_fsx::fail_point;
use apt_ostree_model::client::{ApplyLiveRequest, ClientOutcome, DeployReport, LiveReport};
use apt_ostree_model::compose::PackageDiff;
use apt_ostree_model::{ErrorKind, Kinded, Node, Reporter, Step, Tree};
use apt_ostree_store::{CacheRepo, TargetRepo};
use apt_ostree_sysroot::{Deployment, LiveState};

use self::changes::Changes;
use super::db::difference;
use super::system::System;

/// Applies what `request` names to the running system.
pub(super) fn apply_live(
    request: &ApplyLiveRequest,
    reporter: &dyn Reporter,
) -> Result<ClientOutcome> {
    if request.reset && request.commit.is_some() {
        let message = "a commit to apply is named, and that the booted one shall be";
        return Err(Kinded::new(ErrorKind::Usage, message).into());
    }
    let system = System::lock(&request.target)?;
    let booted = system.sysroot.require_booted()?;
    let goal = goal(&system, &booted, request)?;
    let allow = request.allow_replacement || request.reset;
    let Some(change) = Change::plan(&system, &goal, allow)? else {
        return Ok(ClientOutcome::Unchanged {
            message: "The running system is as asked for.".to_owned(),
        });
    };
    if request.options.dry_run {
        return Ok(ClientOutcome::Planned(DeployReport {
            checksum: goal,
            pkgdiff: change.pkgdiff,
            ..DeployReport::default()
        }));
    }
    if request.commit.is_some() {
        let known = booted.commit();
        system
            .sysroot
            .verify_commit(&goal, Some(&known), reporter)?;
    }
    Ok(ClientOutcome::Live(change.carry_out(&system, reporter)?))
}

/// The commit to apply.
fn goal(system: &System, booted: &Deployment, request: &ApplyLiveRequest) -> Result<String> {
    if request.reset {
        return Ok(booted.commit());
    }
    if let Some(name) = &request.commit {
        let shown = apt_ostree_fsx::escape_cut(name, 80);
        let missing = || {
            Kinded::new(
                ErrorKind::InvalidInput,
                format!("there is no commit '{shown}'"),
            )
        };
        return Ok(system.sysroot.resolve_ref(name)?.ok_or_else(missing)?);
    }
    let next = system.sysroot.merge_deployment(&booted.stateroot())?;
    if next.is(booted) {
        let message = "no deployment waits for a boot";
        return Err(Kinded::new(ErrorKind::InvalidInput, message)
            .with_hint("change something first, or name a commit with --target")
            .into());
    }
    Ok(next.commit())
}

/// A change of the running system that may be made.
#[derive(Debug)]
pub(super) struct Change {
    booted: String,
    state: LiveState,
    goal: String,
    pkgdiff: Vec<PackageDiff>,
}

impl Change {
    /// Looks whether `goal` may be applied; `None`: it is already.
    ///
    /// # Errors
    /// When this system does not run, its `/usr` was unlocked, or packages would be removed or
    /// replaced, and that is not to be.
    pub(super) fn plan(system: &System, goal: &str, allow: bool) -> Result<Option<Self>> {
        let booted = system.sysroot.require_booted()?;
        system.sysroot.require_not_unlocked(&booted)?;
        let (booted, state) = (booted.commit(), system.sysroot.live_state()?);
        let now = state.live.as_ref().unwrap_or(&booted);
        if now == goal && state.in_progress.is_none() {
            return Ok(None);
        }
        let (old, new) = (system.sysroot.commit(now)?, system.sysroot.commit(goal)?);
        let pkgdiff = difference(&old, &new);
        if !allow {
            require_additions(&pkgdiff)?;
        }
        Ok(Some(Self {
            booted,
            state,
            goal: goal.to_owned(),
            pkgdiff,
        }))
    }

    /// Makes the change.
    ///
    /// # Errors
    /// When a step fails. What is done then stays; the next change continues from there.
    pub(super) fn carry_out(self, system: &System, reporter: &dyn Reporter) -> Result<LiveReport> {
        let report = reporter.step(Step::Live, || {
            let report = self.run(system, reporter).with_context(|| {
                format!(
                    "applying commit {} to the running system, which is interrupted",
                    self.goal
                )
            })?;
            Ok::<_, anyhow::Error>((report, "done".to_owned()))
        })?;
        Ok(report)
    }

    fn run(&self, system: &System, reporter: &dyn Reporter) -> Result<LiveReport> {
        let sysroot = &system.sysroot;
        let repo = TargetRepo::open(&sysroot.repo_path())?;
        let trees = Trees::load(&repo, self)?;
        let changes = Changes::between(&trees.shown(self), trees.get(&self.goal));
        let running = services::Running::look()?;
        sysroot.set_live_state(&LiveState {
            live: self.state.live.clone(),
            in_progress: Some(self.goal.clone()),
        })?;
        fail_point("live::recorded");
        let reset = self.goal == self.booted;
        if !reset {
            let layer = sysroot.live_layer()?;
            let goal = with_modules(trees.get(&self.goal), trees.get(&self.booted));
            CacheRepo::open_system(&sysroot.repo_path())?.checkout_diff(
                trees.get(&self.booted),
                &goal,
                &layer,
            )?;
            fail_point("live::layer");
            sysroot.mount_live(&layer)?;
            fail_point("live::mounted");
        }
        let merged = etc::merge(&repo, &trees.all(self), trees.get(&self.goal))?;
        fail_point("live::merged");
        if reset {
            sysroot.unmount_live()?;
            fail_point("live::unmounted");
        }
        follow_up::run(&changes, merged.stale_cache, reporter)?;
        fail_point("live::followed-up");
        sysroot.set_live_state(&LiveState {
            live: (!reset).then(|| self.goal.clone()),
            in_progress: None,
        })?;
        if let Err(error) = sysroot.remove_old_layers() {
            reporter.warning(format!("Cleaning up failed: {error:#}"));
        }
        Ok(LiveReport {
            checksum: self.goal.clone(),
            reset,
            pkgdiff: self.pkgdiff.clone(),
            restart: running.outdated(&changes),
            start: services::enabled(&changes, &running),
            kept: merged.kept,
        })
    }
}

fn require_additions(pkgdiff: &[PackageDiff]) -> Result<()> {
    let removed = pkgdiff.iter().filter(|p| p.new.is_none()).count();
    let replaced = pkgdiff
        .iter()
        .filter(|p| p.new.is_some() && p.previous.is_some())
        .count();
    if removed + replaced == 0 {
        return Ok(());
    }
    let message = format!(
        "{removed} packages would be removed and {replaced} replaced on the running system"
    );
    Err(Kinded::new(ErrorKind::InvalidInput, message)
        .with_hint("reboot to change them, or allow it: apt-ostree apply-live --allow-replacement")
        .into())
}

/// `/usr` of all commits that are concerned.
#[derive(Debug)]
struct Trees(BTreeMap<String, Tree>);

impl Trees {
    fn load(repo: &TargetRepo, change: &Change) -> Result<Self> {
        let mut trees = BTreeMap::new();
        let state = [&change.state.live, &change.state.in_progress];
        let commits = [&change.booted, &change.goal];
        for commit in commits.into_iter().chain(state.into_iter().flatten()) {
            if trees.contains_key(commit) {
                continue;
            }
            let tree = repo.load_commit(commit)?.tree;
            let usr = tree.dir("usr").cloned();
            let root = usr.with_context(|| format!("commit {commit} has no directory '/usr'"))?;
            trees.insert(commit.clone(), Tree { root });
        }
        Ok(Self(trees))
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "only commits that were loaded are asked for"
    )]
    fn get(&self, commit: &str) -> &Tree {
        &self.0[commit]
    }

    /// Those of which files may be seen before the change.
    fn shown(&self, change: &Change) -> Vec<&Tree> {
        let now = change.state.live.as_ref().unwrap_or(&change.booted);
        let half = change.state.in_progress.iter();
        std::iter::once(now)
            .chain(half)
            .map(|commit| self.get(commit))
            .collect()
    }

    /// Those, and the booted one: an administrator's file that is the same as one of them is no
    /// change.
    fn all(&self, change: &Change) -> Vec<&Tree> {
        let mut trees = self.shown(change);
        trees.push(self.get(&change.booted));
        trees
    }
}

/// The goal with the modules of the kernel that runs, which it goes on loading.
fn with_modules(goal: &Tree, booted: &Tree) -> Tree {
    const MODULES: &str = "lib/modules";
    let mut tree = goal.clone();
    let versions = booted.dir(MODULES).map(|dir| dir.entries.iter());
    for (name, node) in versions.into_iter().flatten() {
        let path = format!("{MODULES}/{name}");
        if matches!(node, Node::Dir(_)) && !tree.contains(&path) {
            // Without that directory there is no place for them.
            drop(tree.insert(&path, node.clone()));
        }
    }
    tree
}
