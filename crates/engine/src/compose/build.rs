//! From a plan to a finished tree: acquire, import, configure, postprocess, lint.

use anyhow::{Context as _, Result};
use apt_ostree_model::compose::{InstallOptions, LintOptions, Outcome};
use apt_ostree_model::{ImportedPackage, Step, Tree};
use apt_ostree_store::ImportRequest;
use apt_ostree_treefile::ComposeSpec;
use camino::Utf8PathBuf;

use super::context::Run;
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
            import(run, resolved, &debs)?;
        }
        super::resolve::write_plan_lockfile(resolved, options)?;
        return Ok(Acquired::Stop(Box::new(Outcome::Downloaded {
            packages: debs.len(),
            bytes: plan.download_size(),
        })));
    }
    Ok(Acquired::Debs(debs))
}

fn import(
    run: &Run<'_>,
    resolved: &Resolved,
    debs: &[Utf8PathBuf],
) -> Result<Vec<ImportedPackage>> {
    let requests: Vec<ImportRequest> = resolved
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
        })
        .collect();
    run.reporter.step(Step::Import, || {
        let imported = run.store.import(&requests, run.threads, run.reporter)?;
        let fresh = imported.fresh;
        let summary = format!("{} packages, {fresh} new", imported.packages.len());
        Ok((imported.packages, summary))
    })
}

/// A configured root and the packages in it.
pub(super) struct Configured {
    /// The root as dpkg left it.
    pub(super) tree: Tree,
    /// The packages, in the order of the plan.
    pub(super) packages: Vec<ImportedPackage>,
}

/// Imports and configures all packages.
pub(super) fn configured(
    run: &Run<'_>,
    resolved: &Resolved,
    debs: &[Utf8PathBuf],
) -> Result<Configured> {
    let packages = import(run, resolved, debs)?;
    let workdir = run.scratch("configure")?;
    let job = configure::Job {
        plan: &resolved.plan,
        packages: &packages,
        debconf: &resolved.spec.debconf,
        lock: &resolved.ids,
        epoch: super::source_date_epoch()?,
        base: merge_layers(Tree::default(), &resolved.layers.below),
        base_key: resolved.layers.checksums.join(" "),
        workdir: &workdir,
        force: resolved.force,
    };
    let tree = run.reporter.step(Step::Configure, || {
        let (tree, stats) = configure::configure(&job, &run.store, run.reporter)?;
        Ok::<_, anyhow::Error>((
            tree,
            format!(
                "{} configured, {} from cache",
                stats.configured, stats.cached
            ),
        ))
    })?;
    let tree = merge_layers(tree, &resolved.layers.above);
    Ok(Configured { tree, packages })
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

/// Builds the finished tree.
pub(super) fn build(
    run: &Run<'_>,
    resolved: &Resolved,
    debs: &[Utf8PathBuf],
    previous: &Previous,
    lint: &LintOptions,
) -> Result<Built> {
    let configured = configured(run, resolved, debs)?;
    let epoch = super::source_date_epoch()?;
    let newest = configured
        .packages
        .iter()
        .map(|p| p.date)
        .max()
        .unwrap_or_default();
    let timestamp = epoch.unwrap_or(newest);
    let version = super::version::next_version(
        &resolved.spec.version,
        previous.version.as_deref(),
        epoch.unwrap_or_else(now),
    )?;
    let mut options = Options::from_spec(&resolved.spec, &resolved.plan)?;
    options.version.clone_from(&version);
    options.sources = resolved.image_sources()?;
    let input = Input {
        content: &run.store,
        packages: &configured.packages,
        options: &options,
    };
    let applied = run.reporter.step(Step::Postprocess, || {
        let applied = postprocess::apply_treefile(configured.tree, input)?;
        Ok::<_, anyhow::Error>((applied, "treefile applied".to_owned()))
    })?;
    let tree = run_scripts(run, &resolved.spec, applied.tree, timestamp)?;
    let initramfs = make_initramfs(run, &resolved.spec, &tree, &configured.packages)?;
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
    check_ids(run, resolved, previous, &finished.tree)?;
    let kernel = postprocess::find_kernel(&finished.tree)?.map(|k| k.version);
    let container = resolved.spec.container || has_no_kernel(&finished.tree);
    let facts = lint::Facts {
        container,
        packages: &configured.packages,
        initramfs_paths: initramfs.as_ref().map(|i| i.paths.as_slice()),
    };
    run_lints(run, &finished.tree, &facts, lint)?;
    Ok(Built {
        tree: finished.tree,
        packages: configured.packages,
        kernel,
        timestamp,
        version,
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
    let mut tree = postprocess::apply_treefile(tree, input)?.tree;
    if let Some(spec) = spec {
        tree = run_scripts(run, spec, tree, timestamp)?;
    }
    let initramfs = match spec {
        Some(spec) => make_initramfs(run, spec, &tree, &[])?,
        None => None,
    };
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

/// Runs the treefile's `postprocess` scripts in the tree.
fn run_scripts(run: &Run<'_>, spec: &ComposeSpec, tree: Tree, epoch: i64) -> Result<Tree> {
    if spec.edits.postprocess.is_empty() {
        return Ok(tree);
    }
    let dir = run.scratch("scripts")?;
    let mut live = LiveRoot::new(&run.store, run.scratch("scripts-root")?, tree, epoch);
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
    Ok(live.into_tree())
}

fn make_initramfs(
    run: &Run<'_>,
    spec: &ComposeSpec,
    tree: &Tree,
    packages: &[ImportedPackage],
) -> Result<Option<Initramfs>> {
    let Some(kernel) = postprocess::find_kernel(tree)? else {
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
        tree,
        kernel: &kernel.version,
        args: &spec.initramfs.args,
        epoch: super::source_date_epoch()?
            .or(of_kernel)
            .unwrap_or_default(),
        workdir: &run.scratch("initramfs")?,
    };
    run.reporter.step(Step::Initramfs, || {
        let built = initramfs::build(&job, &run.store, run.reporter)?;
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

/// Lays `layers` over `tree`; files of later layers win.
fn merge_layers(mut tree: Tree, layers: &[Tree]) -> Tree {
    fn merge(into: &mut apt_ostree_model::Dir, from: &apt_ostree_model::Dir) {
        use apt_ostree_model::Node;
        for (name, node) in &from.entries {
            match (into.entries.get_mut(name), node) {
                (Some(Node::Dir(a)), Node::Dir(b)) => merge(a, b),
                _ => drop(into.entries.insert(name.clone(), node.clone())),
            }
        }
    }
    for layer in layers {
        let mut layer = layer.clone();
        // A commit has /usr/etc where an installed root has /etc.
        if !layer.contains("etc")
            && let Some(etc) = layer.remove("usr/etc")
        {
            layer.root.entries.insert("etc".to_owned(), etc);
        }
        merge(&mut tree.root, &layer.root);
    }
    tree
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
