//! The compose verbs.

mod build;
mod context;
mod encode;
mod finish;
mod inputs;
mod layers;
mod metadata;
mod previous;
mod record;
mod resolve;
mod rootdir;
mod version;

use anyhow::Result;
use apt_ostree_model::compose::{
    CommitRequest, ImageRequest, InstallOptions, InstallRequest, Outcome, PostprocessRequest,
    RootfsRequest, TreeRequest,
};
use apt_ostree_model::{ErrorKind, Kinded, Reporter};
use apt_ostree_store::DamagedObject;
use fn_error_context::context;

use build::Wanted;
use context::Run;
use finish::Built;
use previous::Previous;
use resolve::Resolved;

/// `compose tree`: treefile to commit, and images when asked for.
///
/// # Errors
/// When a step fails; refs and images are untouched then.
#[context("composing '{}'", request.treefile.display())]
pub fn tree(request: &TreeRequest, reporter: &dyn Reporter) -> Result<Outcome> {
    Run::within(&request.work, reporter, |run| tree_in(run, request))
}

fn tree_in(run: &Run<'_>, request: &TreeRequest) -> Result<Outcome> {
    let spec = resolve::load(run, &request.treefile, &request.install)?;
    let target = record::open_target(request.repo.as_deref())?;
    let previous = Previous::load(&spec, &target, &request.previous, &request.commit)?;
    let resolved = resolve::resolve(
        run,
        spec,
        &request.install,
        &previous,
        request.layer_repo.as_deref(),
    )?;
    if request.install.dry_run {
        return planned(resolved, &request.install);
    }
    if let Some(unchanged) = record::unchanged(run, request, &resolved, &previous)? {
        return Ok(unchanged);
    }
    let debs = match build::acquire(run, &resolved, &request.install)? {
        build::Acquired::Debs(debs) => debs,
        build::Acquired::Stop(outcome) => return Ok(*outcome),
    };
    let (built, report) = mending(run, || {
        let wanted = Wanted {
            previous: &previous,
            lint: &request.lint,
            image: (!request.image.formats.is_empty()).then_some(&request.image),
        };
        let built = build::build(run, &resolved, &debs, wanted)?;
        let mut report = record::commit(run, request, &resolved, &built, &previous, &target)?;
        report.images = encode::images(run, &resolved, &built, &request.image, &report)?;
        Ok((built, report))
    })?;
    resolve::write_lockfile(&resolved, &built.tree, run, &request.install)?;
    record::publish(run, request, &resolved, &previous, &target, &report)?;
    Ok(Outcome::Composed(report))
}

/// `compose install`: the installed root in `DEST/rootfs`.
///
/// # Errors
/// When a step fails; the destination is untouched then.
#[context("installing '{}'", request.treefile.display())]
pub fn install(request: &InstallRequest, reporter: &dyn Reporter) -> Result<Outcome> {
    Run::within(&request.work, reporter, |run| install_in(run, request))
}

fn install_in(run: &Run<'_>, request: &InstallRequest) -> Result<Outcome> {
    let dest = context::utf8(&request.dest)?.join("rootfs");
    rootdir::require_absent(&dest)?;
    let spec = resolve::load(run, &request.treefile, &request.install)?;
    let previous = Previous::optional(&spec, request.repo.as_deref(), &request.previous)?;
    let resolved = resolve::resolve(
        run,
        spec,
        &request.install,
        &previous,
        request.layer_repo.as_deref(),
    )?;
    if request.install.dry_run {
        return planned(resolved, &request.install);
    }
    let debs = match build::acquire(run, &resolved, &request.install)? {
        build::Acquired::Debs(debs) => debs,
        build::Acquired::Stop(outcome) => return Ok(*outcome),
    };
    let tree = mending(run, || {
        let tree = if request.postprocess {
            let wanted = Wanted {
                previous: &previous,
                lint: &request.lint,
                image: None,
            };
            build::build(run, &resolved, &debs, wanted)?.tree
        } else {
            let configured = build::configured(run, &resolved, &debs, |_| {})?;
            configured.live.tree().clone()
        };
        rootdir::export(run, &tree, &dest)?;
        Ok(tree)
    })?;
    resolve::write_lockfile(&resolved, &tree, run, &request.install)?;
    Ok(Outcome::Root { path: dest.into() })
}

/// `compose rootfs`: a root directory in the form that a container image has.
///
/// # Errors
/// When a step fails; the destination is untouched then.
#[context("making a root from '{}'", request.treefile.display())]
pub fn rootfs(request: &RootfsRequest, reporter: &dyn Reporter) -> Result<Outcome> {
    Run::within(&request.work, reporter, |run| rootfs_in(run, request))
}

fn rootfs_in(run: &Run<'_>, request: &RootfsRequest) -> Result<Outcome> {
    let dest = context::utf8(&request.dest)?;
    rootdir::require_absent(&dest)?;
    let spec = resolve::load(run, &request.treefile, &request.install)?;
    let previous = Previous::default();
    let resolved = resolve::resolve(run, spec, &request.install, &previous, None)?;
    if request.install.dry_run {
        return planned(resolved, &request.install);
    }
    let debs = match build::acquire(run, &resolved, &request.install)? {
        build::Acquired::Debs(debs) => debs,
        build::Acquired::Stop(outcome) => return Ok(*outcome),
    };
    let built = mending(run, || {
        let wanted = Wanted {
            previous: &previous,
            lint: &request.lint,
            image: None,
        };
        let built = build::build(run, &resolved, &debs, wanted)?;
        rootdir::export(run, &built.image_tree(run)?, &dest)?;
        Ok(built)
    })?;
    resolve::write_lockfile(&resolved, &built.tree, run, &request.install)?;
    Ok(Outcome::Root { path: dest.into() })
}

/// `compose postprocess`: finishes an installed root in place.
///
/// # Errors
/// When a step fails; the root is as it was then.
#[context("postprocessing '{}'", request.rootfs.display())]
pub fn postprocess(request: &PostprocessRequest, reporter: &dyn Reporter) -> Result<Outcome> {
    Run::within(&request.work, reporter, |run| postprocess_in(run, request))
}

fn postprocess_in(run: &Run<'_>, request: &PostprocessRequest) -> Result<Outcome> {
    let dir = rootdir::require_root(&request.rootfs)?;
    let spec = match &request.treefile {
        Some(treefile) => Some(resolve::load(run, treefile, &Default::default())?),
        None => None,
    };
    let tree = run.store.scan_dir(&dir)?;
    let built = finish::finish_rootdir(run, tree, spec.as_ref(), &request.lint)?;
    rootdir::replace(run, &built.tree, &dir)?;
    Ok(Outcome::Root { path: dir.into() })
}

/// `compose commit`: commits a finished root.
///
/// # Errors
/// When a step fails; the ref is untouched then.
#[context("committing '{}'", request.rootfs.display())]
pub fn commit(request: &CommitRequest, reporter: &dyn Reporter) -> Result<Outcome> {
    Run::within(&request.work, reporter, |run| commit_in(run, request))
}

fn commit_in(run: &Run<'_>, request: &CommitRequest) -> Result<Outcome> {
    let dir = rootdir::require_root(&request.rootfs)?;
    let spec = resolve::load(run, &request.treefile, &Default::default())?;
    let target = record::open_target(request.repo.as_deref())?;
    let previous = Previous::load(&spec, &target, &request.previous, &request.commit)?;
    let tree = run.store.scan_dir(&dir)?;
    let resolved = Resolved::of_rootdir(run, spec, &tree)?;
    let built = Built::of_rootdir(tree)?;
    let tree_request = TreeRequest {
        treefile: request.treefile.clone(),
        repo: request.repo.clone(),
        layer_repo: None,
        work: request.work.clone(),
        install: Default::default(),
        commit: request.commit.clone(),
        previous: request.previous.clone(),
        image: Default::default(),
        lint: Default::default(),
    };
    let report = record::commit(run, &tree_request, &resolved, &built, &previous, &target)?;
    record::publish(run, &tree_request, &resolved, &previous, &target, &report)?;
    Ok(Outcome::Composed(report))
}

/// `compose image`: treefile to one image file.
///
/// # Errors
/// When a step fails; the output is untouched then.
#[context("composing an image from '{}'", request.treefile.display())]
pub fn image(request: &ImageRequest, reporter: &dyn Reporter) -> Result<Outcome> {
    Run::within(&request.work, reporter, |run| image_in(run, request))
}

fn image_in(run: &Run<'_>, request: &ImageRequest) -> Result<Outcome> {
    let output = context::utf8(&request.output)?;
    let spec = resolve::load(run, &request.treefile, &request.install)?;
    let mut previous = Previous::of_image(&output, request.format, request.initialize)?;
    previous.apply(&request.previous);
    let resolved = resolve::resolve(
        run,
        spec,
        &request.install,
        &previous,
        request.layer_repo.as_deref(),
    )?;
    if request.install.dry_run {
        return planned(resolved, &request.install);
    }
    if previous.has_inputhash(&resolved.inputhash) && !request.install.force_nocache {
        let inputhash = resolved.inputhash;
        return Ok(Outcome::Unchanged {
            r#ref: None,
            commit: None,
            inputhash,
        });
    }
    let debs = match build::acquire(run, &resolved, &request.install)? {
        build::Acquired::Debs(debs) => debs,
        build::Acquired::Stop(outcome) => return Ok(*outcome),
    };
    let (built, report) = mending(run, || {
        let wanted = Wanted {
            previous: &previous,
            lint: &request.lint,
            image: Some(&request.image),
        };
        let built = build::build(run, &resolved, &debs, wanted)?;
        let mut report = record::report_without_commit(&resolved, &built, &previous)?;
        let output = (request.format, output.as_path());
        let image = encode::image_at(run, &resolved, &built, &request.image, &report, output)?;
        report.images.push(image);
        Ok((built, report))
    })?;
    resolve::write_lockfile(&resolved, &built.tree, run, &request.install)?;
    record::touch(&request.previous)?;
    Ok(Outcome::Composed(report))
}

/// How often work starts over because a cached object turned out to be damaged. Each time one
/// package or state is dropped from the cache; more than this means a failing disk.
const DAMAGE_RETRIES: usize = 32;

/// Does `work` again, as long as the reason of its failure is a damaged object of the cache: the
/// store has dropped what had it, and the next attempt makes it again from the package.
fn mending<T>(run: &Run<'_>, work: impl Fn() -> Result<T>) -> Result<T> {
    for _ in 0..DAMAGE_RETRIES {
        match work() {
            Err(error) if error.downcast_ref::<DamagedObject>().is_some() => {
                run.reporter
                    .warning(format!("{error:#}; starting over without it"));
                run.clear_scratch()?;
            }
            result => return result,
        }
    }
    work()
}

/// The end of `--dry-run`.
fn planned(resolved: Resolved, options: &InstallOptions) -> Result<Outcome> {
    resolve::write_plan_lockfile(&resolved, options)?;
    Ok(Outcome::Planned {
        plan: resolved.plan,
    })
}

/// `SOURCE_DATE_EPOCH` of the environment in seconds since 1970.
///
/// # Errors
/// When it is set and no number.
pub(crate) fn source_date_epoch() -> Result<Option<i64>> {
    let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") else {
        return Ok(None);
    };
    match text.trim().parse::<i64>() {
        Ok(epoch) if epoch >= 0 => Ok(Some(epoch)),
        _ => {
            let message = format!(
                "SOURCE_DATE_EPOCH '{}' is not a number of seconds",
                text.escape_debug()
            );
            Err(Kinded::new(ErrorKind::Usage, message).into())
        }
    }
}
