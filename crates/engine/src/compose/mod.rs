//! The compose verbs.

pub(crate) mod build;
mod cleanup;
pub(crate) mod context;
mod encode;
pub(crate) mod finish;
pub(crate) mod inputs;
mod job;
mod layers;
pub(crate) mod metadata;
mod previous;
mod record;
mod resolve;
mod rootdir;
mod version;

use std::ops::ControlFlow::{Break, Continue};

use anyhow::Result;
use apt_ostree_model::compose::{
    CommitRequest, ImageRequest, InstallRequest, Outcome, PostprocessRequest, RootfsRequest,
    TreeRequest,
};
use apt_ostree_model::{ErrorKind, Kinded, Reporter};
use fn_error_context::context;

use context::Run;
use finish::Built;
use job::Wanted;
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
    let wanted = Wanted {
        install: &request.install,
        layer_repo: request.layer_repo.as_deref(),
        previous: &previous,
        lint: &request.lint,
        image: (!request.image.formats.is_empty()).then_some(&request.image),
    };
    let unchanged = |resolved: &_| record::unchanged(run, request, resolved, &previous);
    let ready = match wanted.fetch(run, spec, unchanged)? {
        Continue(ready) => ready,
        Break(outcome) => return Ok(outcome),
    };
    let report = ready.build(|resolved, built| {
        let commit = || record::commit(run, request, resolved, built, &previous, &target);
        encode::images_and_commit(run, resolved, built, &request.image, commit)
    })?;
    record::publish(run, request, &ready.resolved, &previous, &target, &report)?;
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
    let wanted = Wanted {
        install: &request.install,
        layer_repo: request.layer_repo.as_deref(),
        previous: &previous,
        lint: &request.lint,
        image: None,
    };
    let ready = match wanted.fetch(run, spec, |_| Ok(None))? {
        Continue(ready) => ready,
        Break(outcome) => return Ok(outcome),
    };
    if request.postprocess {
        ready.build(|_, built| rootdir::export(run, &built.tree, &dest))?;
    } else {
        ready.configure(|tree| rootdir::export(run, tree, &dest))?;
    }
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
    let wanted = Wanted {
        install: &request.install,
        layer_repo: None,
        previous: &Previous::default(),
        lint: &request.lint,
        image: None,
    };
    let ready = match wanted.fetch(run, spec, |_| Ok(None))? {
        Continue(ready) => ready,
        Break(outcome) => return Ok(outcome),
    };
    ready.build(|_, built| rootdir::export(run, &built.image_tree(run)?, &dest))?;
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
    let wanted = Wanted {
        install: &request.install,
        layer_repo: request.layer_repo.as_deref(),
        previous: &previous,
        lint: &request.lint,
        image: Some(&request.image),
    };
    let unchanged = |resolved: &Resolved| {
        let same = previous.has_inputhash(&resolved.inputhash) && !request.install.force_nocache;
        Ok(same.then(|| Outcome::Unchanged {
            r#ref: None,
            commit: None,
            inputhash: resolved.inputhash.clone(),
        }))
    };
    let ready = match wanted.fetch(run, spec, unchanged)? {
        Continue(ready) => ready,
        Break(outcome) => return Ok(outcome),
    };
    let report = ready.build(|resolved, built| {
        let mut report = record::report_without_commit(resolved, built, &previous)?;
        let output = (request.format, output.as_path());
        let image = encode::image_at(run, resolved, built, &request.image, &report, output)?;
        report.images.push(image);
        Ok(report)
    })?;
    record::touch(&request.previous)?;
    Ok(Outcome::Composed(report))
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
