//! From a configured root to a tree that can be committed: postprocess, initramfs, lint.

use anyhow::{Context as _, Result};
use apt_ostree_model::compose::LintOptions;
use apt_ostree_model::{File, ImportedPackage, Step, Tree};
use apt_ostree_treefile::ComposeSpec;

use super::build::{Configured, megabytes, now};
use super::context::Run;
use super::previous::Previous;
use crate::lint;
use crate::postprocess::{self, Input, Options, Output};
use crate::rootfs::initramfs::{self, Initramfs};
use crate::rootfs::live::{LiveRoot, Script};

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

/// What turns a root into a tree that can be committed.
pub(super) struct Finish<'a> {
    /// The treefile, if there is one.
    pub(super) spec: Option<&'a ComposeSpec>,
    /// What postprocessing takes from it.
    pub(super) options: &'a Options,
    /// The compose before, when ids are to be compared with it.
    pub(super) previous: Option<&'a Previous>,
    /// Which lints run.
    pub(super) lint: &'a LintOptions,
    /// Time of the commit in seconds since 1970.
    pub(super) timestamp: i64,
}

impl Finish<'_> {
    /// Does it: postprocesses the root, runs the treefile's scripts in it, makes the initramfs and
    /// checks the result.
    pub(super) fn run(&self, run: &Run<'_>, configured: Configured<'_>) -> Result<Built> {
        let Configured { mut live, packages } = configured;
        let input = Input {
            content: &run.store,
            packages: &packages,
            options: self.options,
        };
        let applied = run.reporter.step(Step::Postprocess, || {
            let applied = postprocess::apply_treefile(live.tree().clone(), input)?;
            Ok::<_, anyhow::Error>((applied, "treefile applied".to_owned()))
        })?;
        live.set(applied.tree);
        let mut initramfs = None;
        if let Some(spec) = self.spec {
            run_scripts(run, spec, &mut live, self.timestamp)?;
            initramfs = make_initramfs(run, spec, &mut live, &packages)?;
        }
        let tree = live.tree().clone();
        run.remove_scratch(live);
        let file = initramfs.as_ref().map(|i| i.file.clone());
        let finished = finish_tree(run, tree, input, file)?;
        let warnings = [applied.report.warnings, finished.report.warnings];
        for warning in warnings.into_iter().flatten() {
            run.reporter.warning(warning);
        }
        let tree = finished.tree;
        self.check_ids(run, &tree)?;
        let facts = lint::Facts {
            container: self.options.container || has_no_kernel(&tree),
            packages: &packages,
            initramfs_paths: initramfs.as_ref().map(|i| i.paths.as_slice()),
        };
        run_lints(run, &tree, &facts, self.lint)?;
        Ok(Built {
            kernel: postprocess::find_kernel(&tree)?.map(|k| k.version),
            tree,
            packages,
            timestamp: self.timestamp,
            version: self.options.version.clone(),
        })
    }

    /// Compares the tree's ids with what the treefile wants them compared with.
    fn check_ids(&self, run: &Run<'_>, tree: &Tree) -> Result<()> {
        let (Some(spec), Some(previous)) = (self.spec, self.previous) else {
            return Ok(());
        };
        let ids = postprocess::id_lock(tree, &run.store)?;
        postprocess::check_ids(&spec.ids, previous.ids.as_ref(), &ids)?;
        Ok(())
    }
}

/// Turns an installed root into the tree of a commit, as one step.
pub(crate) fn finish_tree(
    run: &Run<'_>,
    tree: Tree,
    input: Input<'_>,
    initramfs: Option<File>,
) -> Result<Output> {
    run.reporter.step(Step::Postprocess, || {
        let finished = postprocess::finish(tree, input, initramfs)?;
        let report = &finished.report;
        let summary = format!(
            "{} moved, {} dropped, {} secrets",
            report.moved.len(),
            report.dropped.len(),
            report.secrets.len()
        );
        Ok((finished, summary))
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
    let root = Configured {
        live: LiveRoot::new(&run.store, run.scratch("root")?, tree),
        packages: Vec::new(),
    };
    let finish = Finish {
        spec,
        options: &options,
        previous: None,
        lint,
        timestamp: super::source_date_epoch()?.unwrap_or_else(now),
    };
    finish.run(run, root)
}

/// A tree without any kernel modules is a container's, whether the treefile says so or not.
pub(crate) fn has_no_kernel(tree: &Tree) -> bool {
    tree.dir("usr/lib/modules")
        .is_none_or(|dir| dir.entries.is_empty())
}

/// Checks a finished tree.
pub(crate) fn run_lints(
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
