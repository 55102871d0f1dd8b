//! Layering: packages on top of a commit.
//!
//! The same steps as a compose, with a commit as the base instead of nothing. Everything happens
//! in the repository of the system, so contents of the base are used where they are and the new
//! commit shares them.

mod apply;
mod base;
mod commit;
mod fetch;
mod finish;
mod machine;
mod query;
mod solve;
mod state;

use anyhow::Result;
use apt_ostree_apt::BaseChange;
use apt_ostree_model::compose::PackageDiff;
use apt_ostree_model::{PackageName, Plan, Reporter, Sha256Digest};
use camino::{Utf8Path, Utf8PathBuf};
use fn_error_context::context;

use crate::compose::context::Run;
use base::Base;
use solve::Chosen;

pub use query::{Indices, Look, look, with_machine};

/// Key of the requests that were not satisfied by the base, sorted (`as`).
pub const PACKAGES: &str = "aptostree.packages";
/// Key of the base packages that are not there, as `NAME VERSION` (`as`).
pub const REMOVED: &str = "aptostree.removed-base-packages";
/// Key of the base packages in other versions, as `NAME OLD NEW` (`as`).
pub const REPLACED: &str = "aptostree.replaced-base-packages";
/// Key of the digest of all that decided the commit, as [`Layered::state`].
pub const STATE: &str = "aptostree.state-sha512";
/// The ref that keeps the newest commit made here until something else does. Whoever cleans up
/// may drop it.
pub const TMP_REF: &str = apt_ostree_sysroot::LAYERED_REF;

/// A `.deb` file that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalDeb {
    /// Where it is; `None` for one that was layered before: it is kept by its digest.
    pub path: Option<Utf8PathBuf>,
    /// What its SHA-256 must be; `None`: anything.
    pub sha256: Option<Sha256Digest>,
}

/// Whether and how the initramfs is made on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InitramfsState {
    /// Make it, with this machine's configuration. Without it, it is made only when a change of
    /// packages makes that necessary.
    pub regenerate: bool,
    /// More arguments for dracut.
    pub args: Vec<String>,
}

/// What is to be layered on which commit.
#[derive(Debug, Clone, Copy)]
pub struct LayerJob<'a> {
    /// The system's repository, mode `bare`.
    pub repo: &'a Utf8Path,
    /// Checksum of the base commit.
    pub base: &'a str,
    /// `/etc` of the deployment whose package sources, accounts and initramfs configuration
    /// apply; `None`: that of the base.
    pub etc: Option<&'a Utf8Path>,
    /// Requests: `NAME`, `NAME=VERSION`, `NAME:ARCH` or `NAME/SUITE`.
    pub packages: &'a [String],
    /// `.deb` files to add.
    pub local: &'a [LocalDeb],
    /// `.deb` files to add, which may replace files of other packages.
    pub local_replacing: &'a [LocalDeb],
    /// Base packages to remove.
    pub remove: &'a [String],
    /// Requests that may take the place of base packages: `NAME/SUITE` or `NAME/origin=ORIGIN`.
    pub replace: &'a [String],
    /// Names of those of them that are asked for by their content from now on: the commit is the
    /// one that their `.deb` files as [`LayerJob::replace_local`] would give.
    pub freeze: &'a [String],
    /// `.deb` files that may do so.
    pub replace_local: &'a [LocalDeb],
    /// The initramfs.
    pub initramfs: &'a InitramfsState,
    /// Add Recommends as well; `None`: as the base was composed.
    pub recommends: Option<bool>,
    /// [`Layered::state`] of what is there: the same one again means nothing to do.
    pub current_state: Option<&'a str>,
    /// Use only what is downloaded already.
    pub cache_only: bool,
    /// Stop after packages are downloaded and imported.
    pub download_only: bool,
    /// Stop after packages are chosen.
    pub dry_run: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Layered {
    /// The commit: the base itself when nothing had to be done to it. `None` when the job asked
    /// for less, or nothing has changed.
    pub commit: Option<String>,
    /// True when [`LayerJob::current_state`] is what would come out again.
    pub unchanged: bool,
    /// Digest of all that decides the commit.
    pub state: String,
    /// The packages that are added or take the place of others. Those from files have the
    /// repo `@local`.
    pub plan: Plan,
    /// Requests that the base satisfies.
    pub inactive: Vec<String>,
    /// Files whose package the base has in that version.
    pub inactive_local: Vec<Sha256Digest>,
    /// Packages to remove that the base does not have.
    pub inactive_removals: Vec<PackageName>,
    /// Base packages that are removed.
    pub removed: Vec<BaseChange>,
    /// Base packages that are replaced.
    pub replaced: Vec<BaseChange>,
    /// How packages differ from those of the base.
    pub pkgdiff: Vec<PackageDiff>,
    /// Bytes that were downloaded.
    pub downloaded: u64,
}

/// Layers packages on a commit.
///
/// No ref moves but [`TMP_REF`]; nothing outside the repository is changed. The caller holds the
/// system's lock, and deploys the commit before it gives it up.
///
/// # Errors
/// When a step fails; nothing has changed then. `Unsatisfiable` when packages don't exist or can't
/// be had without a change of the base that no override asks for: the message names the packages
/// and who asks. `Script` when a maintainer script fails: with its name and last lines.
#[context("layering packages on commit {}", job.base)]
pub fn layer(job: &LayerJob<'_>, reporter: &dyn Reporter) -> Result<Layered> {
    Run::within_system(job.repo, reporter, |run| layer_in(run, job))
}

fn layer_in(run: &Run<'_>, job: &LayerJob<'_>) -> Result<Layered> {
    let base = Base::load(run, job)?;
    let chosen = solve::choose(run, job, &base)?;
    let mut layered = Layered::of_plan(&chosen, state::digest(job, &chosen)?);
    if job.dry_run {
        return Ok(layered);
    }
    if job.current_state == Some(&layered.state) {
        layered.unchanged = true;
        return Ok(layered);
    }
    let packages = fetch::fetch(run, job, &chosen, &mut layered.downloaded)?;
    if job.download_only {
        return Ok(layered);
    }
    if chosen.is_empty() && !job.initramfs.regenerate {
        layered.commit = Some(job.base.to_owned());
        return Ok(layered);
    }
    let base = base.open(run)?;
    let live = apply::apply(run, job, &base, &chosen, &packages)?;
    let finished = finish::finish(run, job, &base, live, (&chosen, &packages.packages))?;
    layered.commit = Some(commit::commit(
        run,
        job,
        &base,
        (&chosen, &layered),
        &finished,
    )?);
    fetch::clean(run, &chosen);
    Ok(layered)
}

impl Layered {
    fn of_plan(chosen: &Chosen, state: String) -> Self {
        let additions = &chosen.additions;
        let (replaced, removed) = additions
            .changes
            .iter()
            .cloned()
            .partition(|change| change.new.is_some());
        Self {
            commit: None,
            unchanged: false,
            state,
            plan: additions.plan.clone(),
            inactive: chosen.inactive.clone(),
            inactive_local: additions.inactive_local.clone(),
            inactive_removals: additions.inactive_removals.clone(),
            removed,
            replaced,
            pkgdiff: chosen.pkgdiff(),
            downloaded: 0,
        }
    }
}
