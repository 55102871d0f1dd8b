//! From a plan to a finished tree: acquire, import, configure, postprocess, lint.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;

use anyhow::{Context as _, Result};
use apt_ostree_model::compose::{ImageOptions, InstallOptions, LintOptions, Outcome};
use apt_ostree_model::{ErrorKind, ImportedPackage, Kinded, Step, Tree};
use apt_ostree_store::{Import, ImportRequest};
use apt_ostree_treefile::ComposeSpec;
use camino::Utf8PathBuf;

use super::context::Run;
use super::encode::Guess;
use super::layers;
use super::previous::Previous;
use super::resolve::Resolved;
use crate::postprocess::{self, Input, Options};
use crate::rootfs::initramfs::{self, Initramfs};
use crate::rootfs::live::{LiveRoot, Script};
use crate::rootfs::{configure, dpkgdb};
use crate::{content, lint};

/// What came of acquiring packages.
pub(super) enum Acquired {
    /// The `.deb` files, in the order of the plan.
    Debs(Vec<Utf8PathBuf>),
    /// The user wanted no more than that.
    Stop(Box<Outcome>),
}

/// Downloads what is missing.
pub(super) fn acquire(
    run: &Run<'_>,
    resolved: &Resolved,
    options: &InstallOptions,
) -> Result<Acquired> {
    let plan = &resolved.plan;
    let Some(session) = &resolved.session else {
        return Ok(Acquired::Debs(Vec::new()));
    };
    let debs = run.reporter.step(Step::Acquire, || {
        let debs = session.acquire(plan, run.reporter)?;
        Ok::<_, anyhow::Error>((
            debs,
            format!(
                "{} packages, {:.1} MB",
                plan.packages.len(),
                megabytes(plan.download_size())
            ),
        ))
    })?;
    if options.download_only_debs || options.download_only {
        if !options.download_only_debs {
            let requests = import_requests(resolved, &debs);
            let import = Import::new(&run.store, &requests, run.reporter);
            run_import(run, &import)?;
            import.finish()?;
        }
        super::resolve::write_plan_lockfile(resolved, options)?;
        return Ok(Acquired::Stop(Box::new(Outcome::Downloaded {
            packages: debs.len(),
            bytes: plan.download_size(),
        })));
    }
    Ok(Acquired::Debs(debs))
}

fn import_requests(resolved: &Resolved, debs: &[Utf8PathBuf]) -> Vec<ImportRequest> {
    resolved
        .plan
        .packages
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
fn run_import(run: &Run<'_>, import: &Import<'_>) -> Result<()> {
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
    let requests = import_requests(resolved, debs);
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
fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A tree that can be committed.
pub(super) struct Built {
    /// The finished tree, with `usr/etc`.
    pub(super) tree: Tree,
    /// The packages in it; empty for a root that was not made here.
    pub(super) packages: Vec<ImportedPackage>,
    /// Kernel version, if there is a kernel.
    pub(super) kernel: Option<String>,
    /// Time of the commit in seconds since 1970.
    pub(super) timestamp: i64,
    /// Version of the commit.
    pub(super) version: Option<String>,
}

impl Built {
    /// A root directory as it is.
    pub(super) fn of_rootdir(tree: Tree) -> Result<Self> {
        let kernel = postprocess::find_kernel(&tree)?.map(|k| k.version);
        let timestamp = super::source_date_epoch()?.unwrap_or_else(now);
        Ok(Self {
            tree,
            packages: Vec::new(),
            kernel,
            timestamp,
            version: None,
        })
    }

    /// The form that a container image has.
    pub(super) fn image_tree(&self, run: &Run<'_>) -> Result<Tree> {
        postprocess::image_tree(&self.tree, &run.store)
    }
}

/// Bytes in units of 10^6, for summaries.
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// What is wanted of a build besides its packages.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The compose before.
    pub(super) previous: &'a Previous,
    /// Which lints run.
    pub(super) lint: &'a LintOptions,
    /// Images that will be made of the tree.
    pub(super) image: Option<&'a ImageOptions>,
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
    options.version.clone_from(&version);
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
        let built = configured(run, resolved, debs, warm)
            .and_then(|configured| finish(run, resolved, configured, options, wanted));
        stop.store(true, Ordering::Relaxed);
        Ok(Built { version, ..built? })
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

/// From a configured root to a tree that can be committed.
fn finish(
    run: &Run<'_>,
    resolved: &Resolved,
    configured: Configured<'_>,
    options: &Options,
    wanted: Wanted<'_>,
) -> Result<Built> {
    let Configured { mut live, packages } = configured;
    let timestamp = timestamp(packages.iter(), super::source_date_epoch()?);
    let input = Input {
        content: &run.store,
        packages: &packages,
        options,
    };
    let applied = run.reporter.step(Step::Postprocess, || {
        let applied = postprocess::apply_treefile(live.tree().clone(), input)?;
        Ok::<_, anyhow::Error>((applied, "treefile applied".to_owned()))
    })?;
    live.set(applied.tree);
    run_scripts(run, &resolved.spec, &mut live, timestamp)?;
    let initramfs = make_initramfs(run, &resolved.spec, &mut live, &packages)?;
    let tree = live.tree().clone();
    run.remove_scratch(live);
    let finished = run.reporter.step(Step::Postprocess, || {
        let finished =
            postprocess::finish(tree, input, initramfs.as_ref().map(|i| i.file.clone()))?;
        let summary = format!(
            "{} moved, {} dropped, {} secrets",
            finished.report.moved.len(),
            finished.report.dropped.len(),
            finished.report.secrets.len()
        );
        Ok::<_, anyhow::Error>((finished, summary))
    })?;
    for warning in applied
        .report
        .warnings
        .iter()
        .chain(&finished.report.warnings)
    {
        run.reporter.warning(warning.clone());
    }
    check_ids(run, resolved, wanted.previous, &finished.tree)?;
    let kernel = postprocess::find_kernel(&finished.tree)?.map(|k| k.version);
    let container = resolved.spec.container || has_no_kernel(&finished.tree);
    let facts = lint::Facts {
        container,
        packages: &packages,
        initramfs_paths: initramfs.as_ref().map(|i| i.paths.as_slice()),
    };
    run_lints(run, &finished.tree, &facts, wanted.lint)?;
    Ok(Built {
        tree: finished.tree,
        packages,
        kernel,
        timestamp,
        version: None,
    })
}

/// Postprocesses a root that was not made here.
pub(super) fn finish_rootdir(
    run: &Run<'_>,
    tree: Tree,
    spec: Option<&ComposeSpec>,
    lint: &LintOptions,
) -> Result<Built> {
    let plan = super::resolve::plan_of_rootdir(run, spec, &tree)?;
    let options = match spec {
        Some(spec) => Options::from_spec(spec, &plan)?,
        None => Options::default(),
    };
    let input = Input {
        content: &run.store,
        packages: &[],
        options: &options,
    };
    let timestamp = super::source_date_epoch()?.unwrap_or_else(now);
    let tree = postprocess::apply_treefile(tree, input)?.tree;
    let mut live = LiveRoot::new(&run.store, run.scratch("root")?, tree);
    let mut initramfs = None;
    if let Some(spec) = spec {
        run_scripts(run, spec, &mut live, timestamp)?;
        initramfs = make_initramfs(run, spec, &mut live, &[])?;
    }
    let tree = live.tree().clone();
    let finished = postprocess::finish(tree, input, initramfs.as_ref().map(|i| i.file.clone()))?;
    for warning in &finished.report.warnings {
        run.reporter.warning(warning.clone());
    }
    let container = options.container || has_no_kernel(&finished.tree);
    let facts = lint::Facts {
        container,
        packages: &[],
        initramfs_paths: initramfs.as_ref().map(|i| i.paths.as_slice()),
    };
    run_lints(run, &finished.tree, &facts, lint)?;
    let kernel = postprocess::find_kernel(&finished.tree)?.map(|k| k.version);
    Ok(Built {
        tree: finished.tree,
        packages: Vec::new(),
        kernel,
        timestamp,
        version: None,
    })
}

/// A tree without any kernel modules is a container's, whether the treefile says so or not.
fn has_no_kernel(tree: &Tree) -> bool {
    tree.dir("usr/lib/modules")
        .is_none_or(|dir| dir.entries.is_empty())
}

fn run_lints(
    run: &Run<'_>,
    tree: &Tree,
    facts: &lint::Facts<'_>,
    options: &LintOptions,
) -> Result<()> {
    if options.no_lint {
        return Ok(());
    }
    run.reporter.step(Step::Lint, || {
        let report = lint::check(tree, &run.store, facts, options)?;
        for warning in &report.warnings {
            run.reporter
                .warning(format!("lint {}: {}", warning.name, warning.message));
        }
        let summary = format!(
            "{} passed, {} warnings",
            report.passed.len(),
            report.warnings.len()
        );
        report.into_result()?;
        Ok::<_, anyhow::Error>(((), summary))
    })
}

/// Runs the treefile's `postprocess` scripts in the root.
fn run_scripts(
    run: &Run<'_>,
    spec: &ComposeSpec,
    live: &mut LiveRoot<'_>,
    epoch: i64,
) -> Result<()> {
    if spec.edits.postprocess.is_empty() {
        return Ok(());
    }
    let dir = run.scratch("scripts")?;
    live.begin(epoch);
    for (index, text) in spec.edits.postprocess.iter().enumerate() {
        let path = dir.join(format!("postprocess-{index}"));
        std::fs::write(&path, text).with_context(|| format!("writing '{path}'"))?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let name = format!("postprocess script {}", index + 1);
        let inside = format!("/run/apt-ostree-scripts/postprocess-{index}");
        let argv = [inside.as_str()];
        let mut script = Script::new(&name, &argv);
        script.binds = vec![apt_ostree_sandbox::Bind {
            source: dir.clone(),
            target: "/run/apt-ostree-scripts".into(),
            writable: false,
        }];
        live.run(&script, run.reporter)?;
    }
    Ok(())
}

fn make_initramfs(
    run: &Run<'_>,
    spec: &ComposeSpec,
    live: &mut LiveRoot<'_>,
    packages: &[ImportedPackage],
) -> Result<Option<Initramfs>> {
    let Some(kernel) = postprocess::find_kernel(live.tree())? else {
        return Ok(None);
    };
    if spec.container || !spec.initramfs.enabled {
        return Ok(None);
    }
    // The kernel's own date, so that other packages don't change the archive.
    let of_kernel = packages
        .iter()
        .filter(|p| p.name.as_str().ends_with(&kernel.version))
        .map(|p| p.date)
        .max();
    let job = initramfs::Job {
        kernel: &kernel.version,
        args: &spec.initramfs.args,
        epoch: super::source_date_epoch()?
            .or(of_kernel)
            .unwrap_or_default(),
        workdir: &run.scratch("initramfs")?,
    };
    run.reporter.step(Step::Initramfs, || {
        let built = initramfs::build(&job, live, run.reporter)?;
        let origin = if built.cached { "from cache" } else { "built" };
        let summary = format!(
            "{origin}, {} files, {:.1} MB",
            built.paths.len(),
            megabytes(built.file.size)
        );
        Ok(Some(built)).map(|i| (i, summary))
    })
}

/// Compares the tree's ids with what the treefile wants them compared with.
fn check_ids(run: &Run<'_>, resolved: &Resolved, previous: &Previous, tree: &Tree) -> Result<()> {
    let ids = &resolved.spec.ids;
    postprocess::check_ids(
        ids,
        previous.ids.as_ref(),
        &postprocess::id_lock(tree, &run.store)?,
    )?;
    Ok(())
}

/// The text of the tree's dpkg status, wherever the database is.
pub(super) fn status_text(run: &Run<'_>, tree: &Tree) -> Result<String> {
    for dir in [dpkgdb::ADMIN_DIR, "usr/lib/sysimage/dpkg"] {
        let path = format!("{dir}/status");
        if tree.file(&path).is_some() {
            return content::read_text(tree, &run.store, &path);
        }
    }
    Ok(String::new())
}
