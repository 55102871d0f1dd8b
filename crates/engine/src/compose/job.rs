//! What all verbs that start from a treefile do: choose packages, get them, build, and build again
//! while the cache turns out to be damaged.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Result;
use apt_ostree_model::compose::{ImageOptions, InstallOptions, LintOptions, Outcome};
use apt_ostree_model::{Step, Tree};
use apt_ostree_store::{DamagedObject, Import};
use apt_ostree_treefile::ComposeSpec;
use camino::Utf8PathBuf;

use super::build::{self, megabytes};
use super::context::Run;
use super::finish::Built;
use super::previous::Previous;
use super::resolve::{self, Resolved};

/// How often work starts over because a cached object turned out to be damaged. Each time one
/// package or state is dropped from the cache; more than this means a failing disk.
const DAMAGE_RETRIES: usize = 32;

/// What a verb wants besides what the treefile says.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// How packages are chosen, and how far to go.
    pub(super) install: &'a InstallOptions,
    /// Repository of the layers; `None`: the default one.
    pub(super) layer_repo: Option<&'a Path>,
    /// The compose before.
    pub(super) previous: &'a Previous,
    /// Which lints run.
    pub(super) lint: &'a LintOptions,
    /// Images that will be made of the tree.
    pub(super) image: Option<&'a ImageOptions>,
}

/// Everything that a build needs.
pub(super) struct Ready<'a> {
    /// What decides the tree.
    pub(super) resolved: Resolved,
    /// The `.deb` files, in the order of the plan.
    debs: Vec<Utf8PathBuf>,
    wanted: Wanted<'a>,
    run: &'a Run<'a>,
}

impl<'a> Wanted<'a> {
    /// Chooses packages and gets them. Breaks where the user wants no more than that, and where
    /// `unchanged` finds nothing to do.
    pub(super) fn fetch(
        self,
        run: &'a Run<'a>,
        spec: ComposeSpec,
        unchanged: impl FnOnce(&Resolved) -> Result<Option<Outcome>>,
    ) -> Result<ControlFlow<Outcome, Ready<'a>>> {
        let resolved = resolve::resolve(run, spec, self.install, self.previous, self.layer_repo)?;
        if self.install.dry_run {
            resolve::write_plan_lockfile(&resolved, self.install)?;
            let plan = resolved.plan;
            return Ok(ControlFlow::Break(Outcome::Planned { plan }));
        }
        if let Some(outcome) = unchanged(&resolved)? {
            return Ok(ControlFlow::Break(outcome));
        }
        let debs = acquire(run, &resolved)?;
        if self.install.download_only || self.install.download_only_debs {
            if !self.install.download_only_debs {
                let requests = build::import_requests(&resolved.plan, &debs);
                let import = Import::new(&run.store, &requests, run.reporter);
                build::run_import(run, &import)?;
                import.finish()?;
            }
            resolve::write_plan_lockfile(&resolved, self.install)?;
            return Ok(ControlFlow::Break(Outcome::Downloaded {
                packages: debs.len(),
                bytes: resolved.plan.download_size(),
            }));
        }
        Ok(ControlFlow::Continue(Ready {
            resolved,
            debs,
            wanted: self,
            run,
        }))
    }
}

/// Downloads what is missing.
fn acquire(run: &Run<'_>, resolved: &Resolved) -> Result<Vec<Utf8PathBuf>> {
    let plan = &resolved.plan;
    let Some(session) = &resolved.session else {
        return Ok(Vec::new());
    };
    run.reporter.step(Step::Acquire, || {
        let debs = session.acquire(plan, run.reporter)?;
        let summary = format!(
            "{} packages, {:.1} MB",
            plan.packages.len(),
            megabytes(plan.download_size())
        );
        Ok((debs, summary))
    })
}

impl Ready<'_> {
    /// Builds the finished tree and does with it what the verb is for.
    pub(super) fn build<T>(&self, then: impl Fn(&Resolved, &Built) -> Result<T>) -> Result<T> {
        self.make(|| {
            let built = build::build(self.run, &self.resolved, &self.debs, self.wanted)?;
            let value = then(&self.resolved, &built)?;
            Ok((built.tree, value))
        })
    }

    /// Configures the packages and does with their tree, as dpkg left it, what the verb is for.
    pub(super) fn configure<T>(&self, then: impl Fn(&Tree) -> Result<T>) -> Result<T> {
        self.make(|| {
            let configured = build::configured(self.run, &self.resolved, &self.debs, |_| {})?;
            let tree = configured.live.tree().clone();
            let value = then(&tree)?;
            Ok((tree, value))
        })
    }

    /// Does `work` again, as long as the reason of its failure is a damaged object of the cache:
    /// the store has dropped what had it, and the next attempt makes it again from the package.
    /// At the end the lockfile is written, with the ids of the tree.
    fn make<T>(&self, work: impl Fn() -> Result<(Tree, T)>) -> Result<T> {
        let mut retries = 0;
        let (tree, value) = loop {
            match work() {
                Err(error) if retries < DAMAGE_RETRIES && error.is::<DamagedObject>() => {
                    self.run
                        .reporter
                        .warning(format!("{error:#}; starting over without it"));
                    self.run.clear_scratch()?;
                    retries += 1;
                }
                result => break result?,
            }
        };
        resolve::write_lockfile(&self.resolved, &tree, self.run, self.wanted.install)?;
        Ok(value)
    }
}
