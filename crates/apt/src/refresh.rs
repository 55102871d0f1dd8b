//! Refreshing package indices, strictly: what can't be refreshed and verified is an error.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use apt_ostree_model::{ErrorKind, Event, Reporter, Sha256Digest, SourceInfo, Step};
use rust_apt::Cache;
use rust_apt::progress::{AcquireProgress, DynAcquireProgress};
use rust_apt::raw::{AcqTextStatus, ItemDesc, PkgAcquire};
use serde::{Deserialize, Serialize};

use crate::aptconf::Layout;
use crate::error::{fail, fail_hint, split};
use crate::files;
use crate::release::Release;
use crate::sources::{Source, Sources};

/// How often indices that contradict each other are fetched.
const REFRESH_TRIES: u32 = 3;
/// Archives are a few hundred kilobytes at most.
const RELEASE_LIMIT: u64 = 64 * 1024 * 1024;

/// The state of all package indices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceState {
    /// One entry per suite, in treefile order.
    pub sources: Vec<SourceInfo>,
    /// Over all Release files and the configuration of the sources: the same digest means the
    /// same packages.
    pub digest: Sha256Digest,
}

/// The Release files that were verified, by source.
type Verified = BTreeMap<String, VerifiedRelease>;

/// A Release file that was verified as its source wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct VerifiedRelease {
    sha256: Sha256Digest,
    /// How the names of the lists start that belong to it.
    lists: String,
}

/// Reports download progress of indices.
struct Progress<'a>(&'a dyn Reporter);

impl DynAcquireProgress for Progress<'_> {
    fn pulse_interval(&self) -> usize {
        250_000
    }

    fn hit(&mut self, item: &ItemDesc) {
        self.0.detail(format!(
            "unchanged: {}",
            crate::error::clean(&item.description())
        ));
    }

    fn fetch(&mut self, item: &ItemDesc) {
        self.0.detail(format!(
            "fetching: {}",
            crate::error::clean(&item.description())
        ));
    }

    fn fail(&mut self, _item: &ItemDesc) {}

    fn pulse(&mut self, status: &AcqTextStatus, _owner: &PkgAcquire) {
        self.0.report(Event::StepProgress {
            step: Step::Update,
            done: status.current_bytes(),
            total: status.total_bytes(),
            bytes: true,
            item: None,
        });
    }

    fn done(&mut self, _item: &ItemDesc) {}

    fn start(&mut self) {}

    fn stop(&mut self, _status: &AcqTextStatus) {}
}

/// Refreshes the sources (only those without a network when `offline`) and checks them.
pub(crate) fn update(
    layout: &Layout,
    sources: &Sources,
    offline: bool,
    reporter: &dyn Reporter,
) -> Result<SourceState> {
    write_sources(layout, sources)?;
    sweep(layout, sources)?;
    let refresh: Vec<&Source> = sources
        .list
        .iter()
        .filter(|s| !offline || s.is_local())
        .collect();
    if !refresh.is_empty() {
        let file = if offline {
            layout.local_sources()
        } else {
            layout.sources()
        };
        set("Dir::Etc::sourcelist", file.as_str());
        let result = run_patiently(layout, sources, reporter);
        set("Dir::Etc::sourcelist", layout.sources().as_str());
        result?;
    }
    let mut verified = read_verified(layout);
    let mut infos = Vec::new();
    let mut summary = String::new();
    for source in &sources.list {
        let digest = source.digest();
        let (text, release_sha256) = read_release(layout, source, offline)?;
        let key = digest.to_string();
        let release = VerifiedRelease {
            sha256: release_sha256,
            lists: source.list_prefix(),
        };
        if offline && !source.is_local() {
            if verified.get(&key) != Some(&release) {
                return Err(not_cached(source));
            }
        } else {
            // The lists are those of this Release file; no other will be asked for again.
            verified.retain(|_, old| old.lists != release.lists || *old == release);
            verified.insert(key, release);
        }
        let release = Release::parse(&text);
        check(source, &release, reporter)?;
        summary.push_str(&format!("{digest} {release_sha256}\n"));
        if !source.generated {
            infos.push(info(source, release, release_sha256));
        }
    }
    write_verified(layout, &verified)?;
    Ok(SourceState {
        sources: infos,
        digest: files::hash(summary.as_bytes()),
    })
}

/// Forgets verified Release files except those whose lists are there; `lists` has their names or
/// how they start.
pub(crate) fn forget_all_but(layout: &Layout, lists: &BTreeSet<String>) -> Result<()> {
    let mut verified = read_verified(layout);
    verified.retain(|_, release| lists.iter().any(|list| list.starts_with(&release.lists)));
    write_verified(layout, &verified)
}

fn set(key: &str, value: &str) {
    rust_apt::raw::config::set(key.to_owned(), value.to_owned());
}

fn write_sources(layout: &Layout, sources: &Sources) -> Result<()> {
    let join = |local_only: bool| -> String {
        let wanted = sources.list.iter().filter(|s| !local_only || s.is_local());
        wanted.map(Source::stanza).collect::<Vec<_>>().join("\n")
    };
    for (path, text) in [
        (layout.sources(), join(false)),
        (layout.local_sources(), join(true)),
    ] {
        files::write_if_changed(&path, text.as_bytes())
            .with_context(|| format!("writing '{path}'"))?;
    }
    Ok(())
}

/// Removes lists of generated repositories whose content is gone. Other lists stay, because other
/// treefiles may use them.
fn sweep(layout: &Layout, sources: &Sources) -> Result<()> {
    let generated = crate::uri::list_name(&crate::uri::from_path(&layout.root.join("local/")));
    let current: Vec<String> = sources.list.iter().map(Source::list_prefix).collect();
    let lists = layout.lists();
    for entry in lists
        .read_dir_utf8()
        .with_context(|| format!("reading '{lists}'"))?
    {
        let entry = entry?;
        let name = entry.file_name();
        if name.starts_with(&generated) && !current.iter().any(|c| name.starts_with(c.as_str())) {
            std::fs::remove_file(entry.path())
                .with_context(|| format!("removing '{}'", entry.path()))?;
        }
    }
    Ok(())
}

/// A mirror that is being updated can be inconsistent for a moment.
fn run_patiently(layout: &Layout, sources: &Sources, reporter: &dyn Reporter) -> Result<()> {
    let mut tries = 1;
    loop {
        let error = match run(layout, sources, reporter) {
            Err(error) if tries < REFRESH_TRIES => error,
            result => return result,
        };
        let text = error.to_string();
        if !["Mirror sync in progress", "Hash Sum mismatch"]
            .iter()
            .any(|word| text.contains(word))
        {
            return Err(error);
        }
        reporter.detail(format!("trying again: {text}"));
        tries += 1;
    }
}

/// Lets libapt refresh; its warnings about trust are errors.
fn run(layout: &Layout, sources: &Sources, reporter: &dyn Reporter) -> Result<()> {
    let cache = open_or_clear(layout)?;
    let mut progress = AcquireProgress::new(Progress(reporter));
    let result = cache.update(&mut progress);
    let mut problems = match &result {
        Ok(()) => (Vec::new(), Vec::new()),
        Err(errors) => split(errors),
    };
    let (errors, warnings) = crate::error::drain();
    problems.0.extend(errors);
    for warning in problems.1.drain(..).chain(warnings) {
        match judge(&warning, sources) {
            Verdict::Error => problems.0.push(warning),
            Verdict::Warning => reporter.warning(warning),
            Verdict::Detail => reporter.detail(warning),
        }
    }
    problems.0.dedup();
    if problems.0.is_empty() && result.is_ok() {
        return Ok(());
    }
    Err(refresh_error(&problems.0))
}

const NO_FILES: [&str; 0] = [];

/// Opens the cache; if what an earlier run left is broken, starts from nothing.
fn open_or_clear(layout: &Layout) -> Result<Cache> {
    match Cache::new(&NO_FILES) {
        Ok(cache) => Ok(cache),
        Err(_) => {
            let cache = layout.root.join("cache");
            for dir in [layout.lists(), cache] {
                std::fs::remove_dir_all(&dir).with_context(|| format!("clearing '{dir}'"))?;
                files::make_dir(&dir)?;
            }
            open()
        }
    }
}

/// Opens the cache on indices that were refreshed.
pub(crate) fn open() -> Result<Cache> {
    Cache::new(&NO_FILES).map_err(|errors| {
        crate::error::apt_error(ErrorKind::Failed, &errors).context("reading package indices")
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Error,
    Warning,
    Detail,
}

/// How serious a warning of libapt is.
fn judge(text: &str, sources: &Sources) -> Verdict {
    if text.contains("performed unsandboxed") || text.contains("No sandbox user") {
        return Verdict::Detail;
    }
    // What is signed well today but will be refused one day.
    if text.contains("Policy will reject") || text.contains("will be rejected") {
        return Verdict::Warning;
    }
    // Components and architectures are checked by us, with better words.
    if text.contains("Skipping acquire of configured file")
        || text.contains("Conflicting distribution")
    {
        return Verdict::Detail;
    }
    // libapt writes file:/x for file:///x.
    let about = |source: &&Source| {
        let uri = source.uri.trim_end_matches('/');
        text.contains(uri) || text.contains(&uri.replace("file:///", "file:/"))
    };
    if sources
        .list
        .iter()
        .filter(about)
        .any(|source| source.trusted)
    {
        return Verdict::Warning;
    }
    let serious = [
        "GPG error",
        "NO_PUBKEY",
        "EXPKEYSIG",
        "signature",
        "signed",
        "signatures",
        "weak",
        "insecure",
        "authenticat",
        "Failed to fetch",
        "old ones used",
        "not available",
        "expired",
        "not valid",
        "invalid",
        "Invalid",
        "configured multiple times",
        "changed its",
    ];
    match serious.iter().any(|word| text.contains(word)) {
        true => Verdict::Error,
        false => Verdict::Warning,
    }
}

fn refresh_error(problems: &[String]) -> anyhow::Error {
    let text = match problems {
        [] => "libapt gave no reason".to_owned(),
        _ => problems.join("; "),
    };
    let message = format!("refreshing package indices: {text}");
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if has(&[
        "network require authentication",
        "Clearsigned file isn't valid",
        "NODATA",
    ]) {
        return fail_hint(
            ErrorKind::Verification,
            message,
            "the server may have sent a login page instead of the index",
        );
    }
    if has(&[
        "NO_PUBKEY",
        "Missing key",
        "is not signed",
        "no longer signed",
        "does not have a Release file",
    ]) {
        return fail_hint(
            ErrorKind::Verification,
            message,
            "check 'gpg-keys' of this repo; 'trusted: true' uses it without verification",
        );
    }
    if has(&["is expired"]) {
        return fail_hint(
            ErrorKind::Verification,
            message,
            "check the clock; 'check-valid-until: false' accepts an old index of this repo",
        );
    }
    if has(&["is not valid yet", "from the future"]) {
        return fail_hint(
            ErrorKind::Verification,
            message,
            "check the clock of this machine",
        );
    }
    if has(&["changed its"]) {
        return fail_hint(
            ErrorKind::Verification,
            message,
            "ask who publishes this repo; if the change is right, remove 'apt/lists' in the cache directory",
        );
    }
    let distrust = [
        "Hash Sum mismatch",
        "hash",
        "signature",
        "GPG error",
        "unexpected size",
        "weak",
        "insecure",
        "Unable to find expected entry",
    ];
    match has(&distrust) {
        true => fail(ErrorKind::Verification, message),
        false => fail(ErrorKind::Network, message),
    }
}

fn read_verified(layout: &Layout) -> Verified {
    let data = std::fs::read(layout.verified()).ok();
    data.and_then(|data| serde_json::from_slice(&data).ok())
        .unwrap_or_default()
}

fn write_verified(layout: &Layout, verified: &Verified) -> Result<()> {
    let json = serde_json::to_vec_pretty(verified)?;
    files::write_if_changed(&layout.verified(), &json).context("noting verified indices")?;
    Ok(())
}

/// The Release file as apt keeps it after verifying it.
fn read_release(layout: &Layout, source: &Source, offline: bool) -> Result<(String, Sha256Digest)> {
    for name in source.release_lists() {
        let path = layout.lists().join(name);
        match files::read_limited(&path, RELEASE_LIMIT) {
            Ok(data) => {
                let digest = files::hash(&data);
                return Ok((String::from_utf8_lossy(&data).into_owned(), digest));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("reading '{path}'")),
        }
    }
    // A repository may have no Release file only where it is trusted without.
    if source.trusted && (!offline || has_index(layout, source)) {
        return Ok(hash_of_indices(layout, source));
    }
    if offline {
        return Err(not_cached(source));
    }
    Err(fail(
        ErrorKind::Verification,
        format!(
            "repo '{}': suite '{}' has no Release file",
            source.repo, source.suite
        ),
    ))
}

fn has_index(layout: &Layout, source: &Source) -> bool {
    let lists = layout.lists();
    let mut indices = source.indices().into_iter();
    indices.any(|index| lists.join(index.list).exists())
}

/// Stands in for the Release file of a trusted repository without one.
fn hash_of_indices(layout: &Layout, source: &Source) -> (String, Sha256Digest) {
    let mut all = String::new();
    for index in source.indices() {
        if let Ok((digest, _)) = files::hash_file(&layout.lists().join(&index.list)) {
            all.push_str(&format!("{} {digest}\n", index.list));
        }
    }
    (String::new(), files::hash(all.as_bytes()))
}

fn not_cached(source: &Source) -> anyhow::Error {
    fail_hint(
        ErrorKind::Network,
        format!(
            "repo '{}': no verified package index of suite '{}' is cached, and --offline forbids fetching it",
            source.repo, source.suite
        ),
        "run once without --offline",
    )
}

fn check(source: &Source, release: &Release, reporter: &dyn Reporter) -> Result<()> {
    if source.generated {
        return Ok(());
    }
    release.check_suite(&source.repo, &source.suite)?;
    for component in &source.components {
        for arch in &source.archs {
            release.check_index(&source.repo, &source.suite, component, arch)?;
        }
    }
    for arch in source
        .extra_archs
        .iter()
        .filter(|arch| !release.has_arch(arch))
    {
        reporter.detail(format!(
            "repo '{}': suite '{}' has no packages for architecture '{arch}'",
            source.repo, source.suite
        ));
    }
    if source.trusted {
        reporter.warning(format!(
            "repo '{}' is used without verification",
            source.repo
        ));
    }
    Ok(())
}

fn info(source: &Source, release: Release, release_sha256: Sha256Digest) -> SourceInfo {
    SourceInfo {
        repo: source.repo.clone(),
        suite: source.suite.clone(),
        codename: release.codename,
        origin: release.origin,
        date: release.date,
        release_sha256,
    }
}

#[cfg(test)]
mod tests {
    use apt_ostree_model::Kinded;

    use super::*;

    #[test]
    fn warnings_about_trust_are_errors() {
        let sources = Sources {
            image: Vec::new(),
            list: Vec::new(),
            debs: Vec::new(),
            foreign: Vec::new(),
        };
        for text in [
            "An error occurred during the signature verification. The repository is not updated and the previous index files will be used. GPG error: x",
            "Failed to fetch http://example.org/InRelease  Could not connect",
            "Some index files failed to download. They have been ignored, or old ones used instead.",
            "Target Packages (main/binary-amd64/Packages) is configured multiple times",
        ] {
            assert_eq!(judge(text, &sources), Verdict::Error, "{text}");
        }
        let text = "http://x: Policy will reject signature within a year, see --audit for details";
        assert_eq!(judge(text, &sources), Verdict::Warning);
    }

    #[test]
    fn refresh_errors_have_a_kind_and_a_hint() {
        let kind = |text: &str| {
            let error = refresh_error(&[text.to_owned()]);
            let kinded = error.downcast_ref::<Kinded>().unwrap().clone();
            (kinded.kind, kinded.hint.is_some())
        };
        let verification = ErrorKind::Verification;
        assert_eq!(
            kind("The repository 'x' is not signed."),
            (verification, true)
        );
        assert_eq!(
            kind("Release file for x is expired (invalid since 1d)"),
            (verification, true)
        );
        assert_eq!(
            kind("File has unexpected size (1 != 2)"),
            (verification, false)
        );
        assert_eq!(kind("Could not resolve 'x'"), (ErrorKind::Network, false));
    }
}
