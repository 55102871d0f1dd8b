//! Downloading packages by the plan alone, with apt's own fetcher.
//!
//! A plan may come from a lockfile whose packages no index lists any more, so nothing here needs
//! libapt's cache: `apt-helper` fetches URIs with apt's methods, proxies, retries and resumption.
//! A file appears in the cache directory only after its size and SHA-256 were checked, under its
//! SHA-256 as a name; therefore a cached file is checked by its size only. Whoever reads it hashes
//! it anyway, and calls [`crate::Session::discard_damaged`] when one was damaged later.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::Duration;

use anyhow::{Context, Result};
use apt_ostree_fsx::prune::touch;
use apt_ostree_fsx::{Cmd, Lock, LockMode, Wait};
use apt_ostree_model::{ErrorKind, Event, Plan, PlannedPackage, Reporter, Sha256Digest, Step};
use camino::{Utf8Path, Utf8PathBuf};

use crate::aptconf::{Layout, PROXY_ENV};
use crate::error::{fail, fail_hint};
use crate::{files, prune, uri};

const HELPER: &str = "/usr/lib/apt/apt-helper";
/// Packages per run of the helper; keeps its command line short.
const BATCH: usize = 400;
const PULSE: Duration = Duration::from_millis(250);

/// Where a package is, once it was fetched.
pub(crate) fn cached_path(debs_dir: &Utf8Path, sha256: &Sha256Digest) -> Utf8PathBuf {
    debs_dir.join(format!("{sha256}.deb"))
}

/// Removes a package from the cache because its content turned out to be wrong.
///
/// # Errors
/// When it can't be removed.
fn discard(debs_dir: &Utf8Path, sha256: &Sha256Digest) -> std::io::Result<()> {
    match std::fs::remove_file(cached_path(debs_dir, sha256)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the packages of the plan whose cached files have another size or SHA-256; returns how
/// many. Each is told as a warning.
pub(crate) fn discard_damaged(
    plan: &Plan,
    debs_dir: &Utf8Path,
    reporter: &dyn Reporter,
) -> Result<usize> {
    let _lock = Lock::acquire(&debs_dir.join(".lock"), LockMode::Exclusive, Wait::Forever)?;
    let mut count = 0;
    for package in &plan.packages {
        let path = cached_path(debs_dir, &package.sha256);
        match files::hash_file(&path) {
            Ok(found) if found == (package.sha256, package.size) => continue,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            // What can't be read is replaced, too.
            _ => {}
        }
        discard(debs_dir, &package.sha256).with_context(|| format!("removing '{path}'"))?;
        reporter.warning(format!("'{path}' is damaged and was removed"));
        count += 1;
    }
    Ok(count)
}

/// Fetches what is missing; the paths are in the order of the plan.
pub(crate) fn acquire(
    plan: &Plan,
    debs_dir: &Utf8Path,
    layout: &Layout,
    offline: bool,
    reporter: &dyn Reporter,
) -> Result<Vec<Utf8PathBuf>> {
    files::make_dir(debs_dir).with_context(|| format!("creating '{debs_dir}'"))?;
    let missing = missing(plan, debs_dir)?;
    let paths = plan
        .packages
        .iter()
        .map(|p| cached_path(debs_dir, &p.sha256))
        .collect();
    if missing.is_empty() {
        return Ok(paths);
    }
    let remote = |p: &&&PlannedPackage| !p.uri.starts_with("file:");
    if offline && let Some(package) = missing.values().find(remote) {
        return Err(fail_hint(
            ErrorKind::Network,
            format!(
                "package '{}' is not cached, and --offline forbids downloading it",
                package.id()
            ),
            "run once without --offline, for example with --download-only",
        ));
    }
    let partial = debs_dir.join(".partial");
    prepare(&partial)?;
    let _lock = Lock::acquire(&debs_dir.join(".lock"), LockMode::Exclusive, Wait::Forever)?;
    let size: u64 = missing.values().map(|p| p.size).sum();
    apt_ostree_fsx::require_space(debs_dir, size)?;
    let job = Job {
        debs_dir,
        partial: &partial,
        layout,
        reporter,
        total: size,
    };
    let (local, remote): (Vec<_>, Vec<_>) = missing
        .into_values()
        .partition(|p| p.uri.starts_with("file:"));
    let mut done = 0;
    for package in local {
        job.copy(package)?;
        done += package.size;
        job.progress(done, Some(package));
    }
    for batch in remote.chunks(BATCH) {
        job.fetch(batch, done)?;
        done += batch.iter().map(|p| p.size).sum::<u64>();
        job.progress(done, batch.last().copied());
    }
    Ok(paths)
}

/// The packages of the plan that are not there. The others are noted as used, so that no other
/// process takes them for superfluous as long as this one may read them.
fn missing<'p>(
    plan: &'p Plan,
    debs_dir: &Utf8Path,
) -> Result<BTreeMap<Sha256Digest, &'p PlannedPackage>> {
    let _lock = prune::lock_debs(debs_dir, LockMode::Shared, Wait::Forever)?;
    let is_cached = |package: &PlannedPackage| {
        let path = cached_path(debs_dir, &package.sha256);
        let meta = std::fs::symlink_metadata(&path);
        meta.is_ok_and(|meta| meta.is_file() && meta.len() == package.size) && touch(&path).is_ok()
    };
    let mut missing = BTreeMap::new();
    for package in plan.packages.iter().filter(|package| !is_cached(package)) {
        crate::lock::check_uri(&package.uri).map_err(|why| {
            fail(
                ErrorKind::InvalidInput,
                format!("package '{}': {why}", package.id()),
            )
        })?;
        missing.insert(package.sha256, package);
    }
    Ok(missing)
}

/// Makes the directory for unfinished downloads; it belongs to apt's unprivileged user.
fn prepare(partial: &Utf8Path) -> Result<()> {
    files::make_dir(partial).with_context(|| format!("creating '{partial}'"))?;
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == "_apt").then(|| fields.nth(1)?.parse::<u32>().ok())?
    });
    // Without that user apt downloads as root.
    chown(partial, user, None).with_context(|| format!("changing the owner of '{partial}'"))?;
    std::fs::set_permissions(partial, std::fs::Permissions::from_mode(0o700))?;
    Ok(())
}

struct Job<'a> {
    debs_dir: &'a Utf8Path,
    partial: &'a Utf8Path,
    layout: &'a Layout,
    reporter: &'a dyn Reporter,
    total: u64,
}

impl Job<'_> {
    fn progress(&self, done: u64, package: Option<&PlannedPackage>) {
        self.reporter.report(Event::StepProgress {
            step: Step::Acquire,
            done: done.min(self.total),
            total: self.total,
            bytes: true,
            item: package.map(|p| p.name.to_string()),
        });
    }

    fn unfinished(&self, package: &PlannedPackage) -> Utf8PathBuf {
        cached_path(self.partial, &package.sha256)
    }

    /// A package that is on this machine.
    fn copy(&self, package: &PlannedPackage) -> Result<()> {
        let from = uri::file_path(&package.uri).context("the URI is no file")?;
        let to = self.unfinished(package);
        let failed = |error: std::io::Error| {
            fail(
                ErrorKind::Network,
                format!("fetching package '{}' from '{from}': {error}", package.id()),
            )
        };
        if !std::fs::metadata(&from).map_err(failed)?.is_file() {
            return Err(failed(std::io::Error::other("not a regular file")));
        }
        std::fs::copy(&from, &to).map_err(failed)?;
        self.finish(package)
    }

    /// Runs the fetcher for one batch and checks what it brought.
    fn fetch(&self, batch: &[&PlannedPackage], before: u64) -> Result<()> {
        let mut command = Cmd::new(HELPER)
            .arg("--option=APT::Sandbox::Seccomp=false")
            .arg("-qq")
            .arg("download-file")
            .env("APT_CONFIG", self.layout.conf().as_str());
        for name in PROXY_ENV {
            command = command.inherit_env(name);
        }
        for package in batch {
            command = command
                .arg(package.uri.as_str())
                .arg(self.unfinished(package).as_str())
                .arg(format!("SHA256:{}", package.sha256));
        }
        let captured = std::thread::scope(|scope| {
            let run = scope.spawn(|| command.run_unchecked());
            while !run.is_finished() {
                std::thread::park_timeout(PULSE);
                self.watch(batch, before);
            }
            run.join()
        });
        let captured = match captured {
            Ok(captured) => captured.map_err(apt_ostree_model::Kinded::from)?,
            Err(_) => return Err(fail(ErrorKind::Failed, "the download thread died")),
        };
        let first_error = self.finish_all(batch);
        if captured.status.success() {
            return first_error;
        }
        let mut lines: Vec<&str> = captured
            .stderr
            .iter()
            .filter_map(|line| line.strip_prefix("E: "))
            .filter(|line| *line != "Download Failed")
            .collect();
        lines.dedup();
        first_error.map_err(|error| refused(error, &lines))
    }

    /// Reports how much of the batch has arrived.
    fn watch(&self, batch: &[&PlannedPackage], before: u64) {
        let mut done = before;
        let mut current = None;
        for package in batch {
            if let Ok(meta) = std::fs::symlink_metadata(self.unfinished(package)) {
                let size = meta.len().min(package.size);
                done += size;
                if size < package.size {
                    current = Some(*package);
                }
            }
        }
        self.progress(done, current);
    }

    /// Takes every finished package of the batch, then tells the first that is not there.
    fn finish_all(&self, batch: &[&PlannedPackage]) -> Result<()> {
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(4);
        let share = batch.len().div_ceil(threads).max(1);
        let work = |part: &[&PlannedPackage]| -> Vec<Result<()>> {
            part.iter().map(|package| self.finish(package)).collect()
        };
        let work = &work;
        let results: Vec<Result<()>> = std::thread::scope(|scope| {
            let running: Vec<_> = batch
                .chunks(share)
                .map(|part| scope.spawn(move || work(part)))
                .collect();
            running
                .into_iter()
                .flat_map(|thread| {
                    let died = |_| vec![Err(fail(ErrorKind::Failed, "a hashing thread died"))];
                    thread.join().unwrap_or_else(died)
                })
                .collect()
        });
        results.into_iter().collect()
    }

    /// Checks a fetched package and moves it into the cache.
    fn finish(&self, package: &PlannedPackage) -> Result<()> {
        let path = self.unfinished(package);
        let meta = match std::fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(fail(
                    ErrorKind::Network,
                    format!(
                        "package '{}' could not be fetched from '{}'",
                        package.id(),
                        package.uri
                    ),
                ));
            }
            Err(error) => return Err(error).with_context(|| format!("reading '{path}'")),
        };
        if meta.is_file() && meta.len() < package.size && !package.uri.starts_with("file:") {
            // Kept: the next run resumes it.
            return Err(fail(
                ErrorKind::Network,
                format!(
                    "package '{}' was not fetched completely from '{}'",
                    package.id(),
                    package.uri
                ),
            ));
        }
        // From here on nobody but root can change it.
        chown(&path, Some(0), Some(0))
            .with_context(|| format!("changing the owner of '{path}'"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
        let (sha256, size) = match meta.is_file() {
            true => files::hash_file(&path).with_context(|| format!("reading '{path}'"))?,
            false => (Sha256Digest::new([0; 32]), 0),
        };
        if (sha256, size) != (package.sha256, package.size) {
            std::fs::remove_file(&path).with_context(|| format!("removing '{path}'"))?;
            return Err(fail(
                ErrorKind::Verification,
                format!(
                    "package '{}' from '{}' has SHA-256 {sha256} and {size} bytes; expected were {} and {}",
                    package.id(),
                    package.uri,
                    package.sha256,
                    package.size
                ),
            ));
        }
        let target = cached_path(self.debs_dir, &package.sha256);
        std::fs::rename(&path, &target).with_context(|| format!("writing '{target}'"))
    }
}

/// Adds what the fetcher said; a wrong hash is more than a network failure.
fn refused(error: anyhow::Error, lines: &[&str]) -> anyhow::Error {
    let text = lines.join("; ");
    let distrust = ["Hash Sum mismatch", "unexpected size", "Hashes of"];
    let kind = match distrust.iter().any(|word| text.contains(word)) {
        true => ErrorKind::Verification,
        false => match error.downcast_ref::<apt_ostree_model::Kinded>() {
            Some(kinded) => kinded.kind,
            None => ErrorKind::Network,
        },
    };
    match text.is_empty() {
        true => error,
        false => fail(kind, format!("{error}: {text}")),
    }
}
