//! From the changed root to a tree that can be committed.

use std::collections::BTreeSet;

use anyhow::Result;
use apt_ostree_model::compose::LintOptions;
use apt_ostree_model::{File, ImportedPackage, Meta, Node, Step, Tree};
use camino::Utf8Path;

use super::LayerJob;
use super::apply::epoch;
use super::base::OpenBase;
use super::solve::Chosen;
use crate::compose::build::megabytes;
use crate::compose::context::Run;
use crate::compose::finish::{finish_tree, has_no_kernel};
use crate::lint;
use crate::postprocess::{self, Input, find_kernel};
use crate::rootfs::initramfs;
use crate::rootfs::live::LiveRoot;

/// Configuration of a machine that dracut takes in.
const MACHINE_CONFIG: [&str; 9] = [
    "crypttab",
    "dracut.conf",
    "dracut.conf.d",
    "lvm",
    "mdadm",
    "modprobe.d",
    "modules-load.d",
    "multipath.conf",
    "vconsole.conf",
];

/// A tree that can be committed.
pub(super) struct Finished {
    /// The tree.
    pub(super) tree: Tree,
    /// Kernel version, if there is a kernel.
    pub(super) kernel: Option<String>,
    /// Time of the commit in seconds since 1970.
    pub(super) timestamp: i64,
}

/// Postprocesses the root as the base was, makes the initramfs if that has to be, and checks the
/// result.
pub(super) fn finish(
    run: &Run<'_>,
    job: &LayerJob<'_>,
    base: &OpenBase,
    mut live: LiveRoot<'_>,
    (chosen, packages): (&Chosen, &[ImportedPackage]),
) -> Result<Finished> {
    let timestamp = epoch(base, packages)?;
    let input = Input {
        content: &run.store,
        // dpkg's own lists tell what packages ship.
        packages: &[],
        options: &base.options,
    };
    live.set(postprocess::filter(live.tree().clone(), input)?);
    let initramfs = initramfs(run, job, base, &mut live, timestamp)?;
    let tree = live.tree().clone();
    run.remove_scratch(live);
    let finished = finish_tree(run, tree, input, initramfs)?;
    for warning in finished.report.warnings {
        let known = |path: &String| warning.contains(&format!("'{path}'"));
        if !base.root.factory.iter().any(known) {
            run.reporter.warning(warning);
        }
    }
    let tree = finished.tree;
    check(run, base, &tree, (chosen, packages))?;
    Ok(Finished {
        kernel: find_kernel(&tree)?.map(|kernel| kernel.version),
        tree,
        timestamp,
    })
}

/// The initramfs of the tree: that of the base as long as it would come out again.
fn initramfs(
    run: &Run<'_>,
    job: &LayerJob<'_>,
    base: &OpenBase,
    live: &mut LiveRoot<'_>,
    epoch: i64,
) -> Result<Option<File>> {
    let Some(kernel) = find_kernel(live.tree())? else {
        return Ok(None);
    };
    let mut args = base.initramfs_args();
    args.extend(job.initramfs.args.iter().cloned());
    let initramfs_job = initramfs::Job {
        kernel: &kernel.version,
        args: &args,
        epoch,
        workdir: &run.scratch("initramfs")?,
    };
    let old_kernel = find_kernel(&base.root.tree)?.map(|kernel| kernel.version);
    let same_kernel = old_kernel.as_ref() == Some(&kernel.version);
    if same_kernel && !job.initramfs.regenerate {
        let Some(image) = &base.root.initramfs else {
            return Ok(None);
        };
        let (before, after) = (&base.root.tree, live.tree());
        if initramfs::unchanged(&initramfs_job, before, after, (image, &run.store))? {
            run.reporter.detail("the initramfs of the base is right");
            return Ok(Some(image.clone()));
        }
    }
    run.reporter.step(Step::Initramfs, || {
        let before = live.tree().clone();
        if let Some(etc) = job.etc.filter(|_| job.initramfs.regenerate) {
            live.set(with_machine_config(run, before.clone(), etc)?);
        }
        let built = initramfs::build(&initramfs_job, live, run.reporter)?;
        live.set(before);
        let summary = format!(
            "{} files, {:.1} MB",
            built.paths.len(),
            megabytes(built.file.size)
        );
        Ok::<_, anyhow::Error>((Some(built.file), summary))
    })
}

/// The tree with the machine's own configuration for the initramfs.
fn with_machine_config(run: &Run<'_>, mut tree: Tree, etc: &Utf8Path) -> Result<Tree> {
    use apt_ostree_model::ContentWriter as _;
    for name in MACHINE_CONFIG {
        let path = etc.join(name);
        let inside = format!("etc/{name}");
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            tree.remove(&inside);
            continue;
        };
        let node = if meta.is_dir() {
            Node::Dir(run.store.scan_dir(&path)?.root)
        } else if meta.is_file() {
            let data = std::fs::read(&path)?;
            Node::File(run.store.put_file(&Meta::root(0o600), &data)?)
        } else {
            continue;
        };
        tree.insert(&inside, node)?;
    }
    Ok(tree)
}

/// Lints the tree. What the base is guilty of already does not count.
fn check(
    run: &Run<'_>,
    base: &OpenBase,
    tree: &Tree,
    (chosen, packages): (&Chosen, &[ImportedPackage]),
) -> Result<()> {
    let facts = |tree: &Tree| lint::Facts {
        container: base.options.container || has_no_kernel(tree),
        packages,
        initramfs_paths: None,
    };
    let options = LintOptions::default();
    run.reporter.step(Step::Lint, || {
        let mut report = lint::check(tree, &run.store, &facts(tree), &options)?;
        if !report.failures.is_empty() {
            let base = &base.commit.tree;
            let before = lint::check(base, &run.store, &facts(base), &options)?;
            report.failures.retain(|failure| {
                let known = before.failures.iter().filter(|f| f.name == failure.name);
                let known: BTreeSet<&String> = known.flat_map(|f| &f.items).collect();
                let same = before.failures.contains(failure);
                let all_known = !failure.items.is_empty()
                    && failure.items.iter().all(|item| known.contains(item));
                !same && !all_known && !is_asked_for(failure, chosen)
            });
        }
        let summary = format!("{} passed", report.passed.len());
        report.into_result()?;
        Ok::<_, anyhow::Error>(((), summary))
    })
}

/// Whether two packages have files in common only because one was allowed to replace those of
/// others: dpkg notes them for both.
fn is_asked_for(failure: &lint::Finding, chosen: &Chosen) -> bool {
    let packages = chosen.additions.plan.packages.iter();
    let names: Vec<&str> = packages
        .filter(|package| chosen.replacing.contains(&package.sha256))
        .map(|package| package.name.as_str())
        .collect();
    let by_one_of_them = |item: &String| {
        let owners = item.rsplit_once(" (").map_or("", |(_, owners)| owners);
        let mut owners = owners.trim_end_matches(')').split(", ");
        owners.any(|owner| names.contains(&owner))
    };
    failure.name == "file-owners"
        && !failure.items.is_empty()
        && failure.items.iter().all(by_one_of_them)
}
