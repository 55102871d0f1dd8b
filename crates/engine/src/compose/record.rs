//! The last steps: the commit, what is said about it, and the ref, which moves last.

use std::path::Path;

use anyhow::{Context as _, Result};
use apt_ostree_model::compose::{
    CommitOptions, ComposeReport, Outcome, PreviousOptions, TreeRequest,
};
use apt_ostree_model::{IdLock, Sha256Digest, Step};
use apt_ostree_store::{CommitRequest, TargetRepo};
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use super::context::{Run, utf8};
use super::finish::Built;
use super::metadata::{self, Facts};
use super::previous::Previous;
use super::resolve::Resolved;

/// Where the repository is when nobody says.
const DEFAULT_REPO: &str = "output/repo";

/// Opens the target repository; a missing one is made.
pub(super) fn open_target(repo: Option<&Path>) -> Result<TargetRepo> {
    TargetRepo::open_or_create(&utf8(repo.unwrap_or_else(|| DEFAULT_REPO.as_ref()))?)
}

/// What a finished compose left behind, to see whether it is still there.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    report: ComposeReport,
    /// Images with size and modification time of the file that changes with them.
    images: Vec<(Utf8PathBuf, u64, i64)>,
}

fn record_path(run: &Run<'_>, request: &TreeRequest, inputhash: &str) -> Result<Utf8PathBuf> {
    let options = serde_json::to_string(&(&request.image, &request.repo))?;
    let here = std::env::current_dir().context("reading the working directory")?;
    let key = openssl::sha::sha256(format!("{inputhash} {options} {}", here.display()).as_bytes());
    Ok(run
        .cachedir
        .join("composed")
        .join(format!("{}.json", Sha256Digest::new(key))))
}

/// Says "unchanged" when the previous compose had the same inputs and its images are as it left
/// them.
pub(super) fn unchanged(
    run: &Run<'_>,
    request: &TreeRequest,
    resolved: &Resolved,
    previous: &Previous,
) -> Result<Option<Outcome>> {
    let inputhash = &resolved.inputhash;
    let same_ids = previous
        .ids
        .as_ref()
        .is_none_or(|ids| agree(ids, &resolved.ids));
    if request.install.force_nocache || !previous.has_inputhash(inputhash) || !same_ids {
        return Ok(None);
    }
    if !request.image.formats.is_empty() {
        let path = record_path(run, request, inputhash)?;
        let Ok(text) = std::fs::read(&path) else {
            return Ok(None);
        };
        let Ok(record) = serde_json::from_slice::<Record>(&text) else {
            return Ok(None);
        };
        let same = |(path, size, mtime): &(Utf8PathBuf, u64, i64)| {
            fingerprint(path) == Some((*size, *mtime))
        };
        if record.images.len() != request.image.formats.len() || !record.images.iter().all(same) {
            return Ok(None);
        }
        // Another process may have removed it; then the images are made again next time.
        drop(apt_ostree_fsx::prune::touch(&path));
    }
    let commit = previous.commit.as_ref().map(|c| c.checksum.clone());
    Ok(Some(Outcome::Unchanged {
        r#ref: resolved.spec.r#ref.clone(),
        commit,
        inputhash: inputhash.clone(),
    }))
}

/// True when every account that both know has the same id in both.
fn agree(ids: &IdLock, lock: &IdLock) -> bool {
    ids.users
        .iter()
        .all(|(name, id)| lock.users.get(name).is_none_or(|locked| locked == id))
        && ids
            .groups
            .iter()
            .all(|(name, id)| lock.groups.get(name).is_none_or(|locked| locked == id))
}

/// Size and modification time (nanoseconds) of an image, or of a layout's index.
fn fingerprint(path: &camino::Utf8Path) -> Option<(u64, i64)> {
    use std::os::unix::fs::MetadataExt as _;
    let file = if path.is_dir() {
        path.join("index.json")
    } else {
        path.to_owned()
    };
    let meta = std::fs::metadata(file).ok()?;
    Some((
        meta.len(),
        meta.mtime()
            .wrapping_mul(1_000_000_000)
            .wrapping_add(meta.mtime_nsec()),
    ))
}

/// Writes the commit without moving a ref.
pub(super) fn commit(
    run: &Run<'_>,
    request: &TreeRequest,
    resolved: &Resolved,
    built: &Built,
    previous: &Previous,
    target: &TargetRepo,
) -> Result<ComposeReport> {
    let mut report = report_without_commit(resolved, built, previous)?;
    let facts = Facts {
        spec: &resolved.spec,
        plan: &resolved.plan,
        inputhash: &resolved.inputhash,
        version: built.version.as_deref(),
        kernel: built.kernel.as_deref(),
    };
    let metadata = metadata::collect(&facts, &request.commit)?;
    let commit = CommitRequest {
        subject: String::new(),
        timestamp: built.timestamp,
        parent: parent(request, &resolved.inputhash, previous),
        metadata: metadata.inline,
        detached: metadata.detached,
        gpg_key: resolved.spec.gpg_key.clone(),
        ref_binding: resolved.spec.r#ref.clone(),
    };
    let written = run.reporter.step(Step::Commit, || {
        let written = run.store.commit(&built.tree, &commit, target)?;
        let summary = format!(
            "{} new objects",
            written.stats.n_content_written + written.stats.n_metadata_written
        );
        Ok::<_, anyhow::Error>((written, summary))
    })?;
    report.commit = written.checksum;
    report.content_checksum = written.content_checksum;
    report.stats = written.stats;
    report.repo = Some(target.path().as_std_path().to_owned());
    Ok(report)
}

/// The commit before the new one. With the inputs of the ref's commit, for an image that is missing,
/// it is that commit's own parent: then the same commit comes out, and the ref stays.
fn parent(request: &TreeRequest, inputhash: &str, previous: &Previous) -> Option<String> {
    let tip = previous.commit.as_ref().filter(|commit| {
        Some(&commit.checksum) == previous.parent.as_ref()
            && previous.has_inputhash(inputhash)
            && !request.install.force_nocache
    });
    tip.map_or_else(|| previous.parent.clone(), |tip| tip.parent.clone())
}

/// What is known before there is a commit.
pub(super) fn report_without_commit(
    resolved: &Resolved,
    built: &Built,
    previous: &Previous,
) -> Result<ComposeReport> {
    Ok(ComposeReport {
        r#ref: resolved.spec.r#ref.clone(),
        version: built.version.clone(),
        timestamp: built.timestamp,
        inputhash: resolved.inputhash.clone(),
        packages: resolved.plan.packages.len(),
        size: built.tree.total_size(),
        pkgdiff: metadata::package_diff(previous.commit.as_ref(), &resolved.plan),
        ..ComposeReport::default()
    })
}

/// Makes the result visible: side files first, the ref or commit id last.
pub(super) fn publish(
    run: &Run<'_>,
    request: &TreeRequest,
    resolved: &Resolved,
    previous: &Previous,
    target: &TargetRepo,
    report: &ComposeReport,
) -> Result<()> {
    write_composejson(&request.commit, report)?;
    match (&request.commit.write_commitid_to, &resolved.spec.r#ref) {
        (Some(path), _) => {
            apt_ostree_fsx::write_atomic(&utf8(path)?, report.commit.as_bytes(), 0o644)?;
        }
        (None, Some(name)) => target.set_ref(name, &report.commit)?,
        (None, None) => {}
    }
    if !previous.has_inputhash(&report.inputhash) || request.install.force_nocache {
        touch(&request.previous)?;
    }
    remember(run, request, report)
}

fn write_composejson(options: &CommitOptions, report: &ComposeReport) -> Result<()> {
    let Some(path) = &options.write_composejson_to else {
        return Ok(());
    };
    let text = serde_json::to_string_pretty(&metadata::compose_json(report))? + "\n";
    apt_ostree_fsx::write_atomic(&utf8(path)?, text.as_bytes(), 0o644)?;
    Ok(())
}

/// `--touch-if-changed`.
pub(super) fn touch(options: &PreviousOptions) -> Result<()> {
    let Some(path) = &options.touch_if_changed else {
        return Ok(());
    };
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path);
    let file = file.with_context(|| format!("touching '{}'", path.display()))?;
    file.set_modified(std::time::SystemTime::now())?;
    Ok(())
}

fn remember(run: &Run<'_>, request: &TreeRequest, report: &ComposeReport) -> Result<()> {
    let mut images = Vec::new();
    for image in &report.images {
        let path = utf8(&image.path)?;
        if let Some((size, mtime)) = fingerprint(&path) {
            images.push((path, size, mtime));
        }
    }
    let record = Record {
        report: report.clone(),
        images,
    };
    let path = record_path(run, request, &report.inputhash)?;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    apt_ostree_fsx::write_atomic(&path, &serde_json::to_vec(&record)?, 0o644)?;
    Ok(())
}
