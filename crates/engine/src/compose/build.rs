//! From a plan and its packages to a finished tree.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;

use anyhow::Result;
use apt_ostree_model::{ErrorKind, ImportedPackage, Kinded, Plan, Step, Tree};
use apt_ostree_store::{Import, ImportRequest};
use camino::Utf8PathBuf;

use super::context::Run;
use super::encode::Guess;
use super::finish::{Built, Finish};
use super::job::Wanted;
use super::layers;
use super::resolve::Resolved;
use crate::postprocess::Options;
use crate::rootfs::configure;
use crate::rootfs::live::LiveRoot;

/// What the plan asks the cache for.
pub(crate) fn import_requests(plan: &Plan, debs: &[Utf8PathBuf]) -> Vec<ImportRequest> {
    plan.packages
        .iter()
        .zip(debs)
        .map(|(p, path)| ImportRequest {
            path: path.clone(),
            sha256: p.sha256,
            name: p.name.clone(),
            version: p.version.clone(),
            arch: p.arch.clone(),
            stage: p.group,
        })
        .collect()
}

/// Imports everything as one step, which ends early when that fails.
pub(crate) fn run_import(run: &Run<'_>, import: &Import<'_>) -> Result<()> {
    run.reporter.step(Step::Import, || {
        let packages = import.run(run.threads)?.len();
        Ok::<_, anyhow::Error>(((), format!("{packages} packages, {} new", import.fresh())))
    })
}

/// A configured root and the packages in it.
pub(super) struct Configured<'r> {
    /// The root as dpkg left it.
    pub(super) live: LiveRoot<'r>,
    /// The packages, in the order of the plan.
    pub(super) packages: Vec<ImportedPackage>,
}

/// Imports and configures all packages. The first are configured while the others are imported;
/// when all are, and some of them were not in the cache before, `fresh` is called with them.
pub(super) fn configured<'r>(
    run: &'r Run<'_>,
    resolved: &Resolved,
    debs: &[Utf8PathBuf],
    fresh: impl Fn(&[&ImportedPackage]),
) -> Result<Configured<'r>> {
    let error = match try_configured(run, resolved, debs, &fresh) {
        Err(error) => error,
        done => return done,
    };
    let wrong = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<Kinded>())
        .any(|cause| cause.kind == ErrorKind::Verification);
    let Some(session) = resolved.session.as_ref().filter(|_| wrong) else {
        return Err(error);
    };
    // A file of the cache that is not what was downloaded: get it again.
    if session.discard_damaged(&resolved.plan, run.reporter)? == 0 {
        return Err(error);
    }
    run.clear_scratch()?;
    let debs = session.acquire(&resolved.plan, run.reporter)?;
    try_configured(run, resolved, &debs, &fresh)
}

fn try_configured<'r>(
    run: &'r Run<'_>,
    resolved: &Resolved,
    debs: &[Utf8PathBuf],
    fresh: &dyn Fn(&[&ImportedPackage]),
) -> Result<Configured<'r>> {
    let requests = import_requests(&resolved.plan, debs);
    let import = Import::new(&run.store, &requests, run.reporter);
    let packages = |range| import.wait(range);
    let workdir = run.scratch("configure")?;
    let job = configure::Job {
        plan: &resolved.plan,
        packages: &packages,
        debconf: &resolved.spec.debconf,
        lock: &resolved.ids,
        epoch: super::source_date_epoch()?,
        base: layers::merge(Tree::default(), &resolved.layers.below),
        // Layers above the packages don't change what scripts see.
        base_key: resolved.layers.checksums[..resolved.layers.below.len()].join(" "),
        workdir: &workdir,
        force: resolved.force,
    };
    let configuring = std::thread::scope(|scope| {
        let configuring = scope.spawn(|| {
            let configured = configure::configure(&job, &run.store, run.reporter);
            configured.inspect_err(|_| import.stop())
        });
        if run_import(run, &import).is_err() {
            return join(configuring);
        }
        if import.fresh() > 0 {
            fresh(&import.wait(0..requests.len())?);
        }
        run.reporter.step(Step::Configure, || {
            let (live, stats) = join(configuring)?;
            let summary = format!(
                "{} configured, {} from cache",
                stats.configured, stats.cached
            );
            Ok::<_, anyhow::Error>(((live, stats), summary))
        })
    });
    // Whoever waited for a package only knows that it doesn't come.
    if let Some(error) = import.take_error() {
        return Err(error);
    }
    let (mut live, _) = configuring?;
    let packages = import.finish()?.packages;
    if !resolved.layers.above.is_empty() {
        let tree = layers::merge(live.tree().clone(), &resolved.layers.above);
        live.set(tree);
    }
    Ok(Configured { live, packages })
}

/// The result of a thread; its panic goes on here.
pub(super) fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Bytes in units of 10^6, for summaries.
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Builds the finished tree. While scripts run, another thread compresses the layers that will most
/// likely be needed.
pub(super) fn build(
    run: &Run<'_>,
    resolved: &Resolved,
    debs: &[Utf8PathBuf],
    wanted: Wanted<'_>,
) -> Result<Built> {
    let epoch = super::source_date_epoch()?;
    let version = super::version::next_version(
        &resolved.spec.version,
        wanted.previous.version.as_deref(),
        epoch.unwrap_or_else(now),
    )?;
    let mut options = Options::from_spec(&resolved.spec, &resolved.plan)?;
    options.version = version;
    options.sources = resolved.image_sources()?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (options, stop) = (&options, &stop);
        let warm = |packages: &[&ImportedPackage]| {
            let Some(image) = wanted.image.filter(|_| run.threads > 1) else {
                return;
            };
            let guess = Guess {
                packages: packages.iter().map(|p| files_of(p)).collect(),
                timestamp: timestamp(packages.iter().copied(), epoch),
                options,
                image,
            };
            scope.spawn(move || {
                // Scripts run one after the other; compressing fills the time beside them.
                let _nicer = rustix::process::nice(10);
                guess.warm(run, resolved, stop);
            });
        };
        let built = configured(run, resolved, debs, warm).and_then(|configured| {
            let finish = Finish {
                spec: Some(&resolved.spec),
                options,
                previous: Some(wanted.previous),
                lint: wanted.lint,
                timestamp: timestamp(configured.packages.iter(), epoch),
            };
            finish.run(run, configured)
        });
        stop.store(true, Ordering::Relaxed);
        built
    })
}

/// The package without what only dpkg needs.
fn files_of(package: &ImportedPackage) -> ImportedPackage {
    ImportedPackage {
        control: String::new(),
        members: Default::default(),
        conffiles: Vec::new(),
        list: package.list.clone(),
        tree: package.tree.clone(),
        name: package.name.clone(),
        version: package.version.clone(),
        arch: package.arch.clone(),
        ..*package
    }
}

/// Time of a commit: that of the newest package unless the environment says another.
fn timestamp<'a>(packages: impl Iterator<Item = &'a ImportedPackage>, epoch: Option<i64>) -> i64 {
    epoch.unwrap_or_else(|| packages.map(|p| p.date).max().unwrap_or_default())
}
