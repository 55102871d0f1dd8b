//! Packages into the cache.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, anyhow};
use apt_ostree_deb::{DebError, DebReader, Limits};
use apt_ostree_model::{
    Arch, ErrorKind, Event, ImportedPackage, Kinded, PackageName, Reporter, Sha256Digest, Step,
    Version,
};
use camino::Utf8PathBuf;
use openssl::sha::Sha256;

use crate::CacheRepo;
use crate::error::escape;
use crate::manifest::{Cached, PREFIX};
use crate::metavalue::MetaValue;
use crate::object;
use crate::refname::escape_ref;
use crate::sink::PackageSink;

/// How much nicer than others the threads that import are.
const NICE: i32 = 5;

/// A package to import, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportRequest {
    /// The `.deb` file.
    pub path: Utf8PathBuf,
    /// SHA-256 of the whole file.
    pub sha256: Sha256Digest,
    /// Package name.
    pub name: PackageName,
    /// Full version.
    pub version: Version,
    /// Architecture.
    pub arch: Arch,
    /// Requests of a lower stage are imported before those of a higher one.
    pub stage: u32,
}

/// Imported packages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imported {
    /// The packages, in the order in which they were asked for.
    pub packages: Vec<ImportedPackage>,
    /// How many of them were not in the cache before.
    pub fresh: usize,
}

/// What stands for a version that is too long for a file name.
pub(crate) const LONG_VERSION: &str = "long";

impl ImportRequest {
    /// The ref that caches the package.
    fn ref_name(&self) -> String {
        let name = escape_ref(self.name.as_str());
        let version = escape_ref(&format!("{}.{}", self.version, self.arch));
        let digest = self.sha256.to_string();
        // A version can have 255 characters; a file name has no more.
        let version = if version.len() > 200 {
            LONG_VERSION.to_owned()
        } else {
            version
        };
        format!("{PREFIX}/pkg/{name}/{version}-{}", &digest[..32])
    }
}

impl CacheRepo {
    /// Imports packages on `threads` threads and waits for all of them; see [`Import`].
    ///
    /// # Errors
    /// As [`Import::finish`].
    pub fn import(
        &self,
        requests: &[ImportRequest],
        threads: usize,
        reporter: &dyn Reporter,
    ) -> Result<Imported> {
        let import = Import::new(self, requests, reporter);
        drop(import.run(threads));
        import.finish()
    }

    /// True when a package is cached: its file is not needed then.
    ///
    /// # Errors
    /// When a damaged entry can't be dropped.
    pub fn is_imported(&self, request: &ImportRequest) -> Result<bool> {
        let found = self.load_package(&request.ref_name(), &request.sha256)?;
        Ok(found.is_some())
    }

    /// Imports one package unless it is cached; tells whether it was not.
    fn import_one(&self, request: &ImportRequest) -> Result<(ImportedPackage, bool)> {
        let name = request.ref_name();
        if let Some(package) = self.load_package(&name, &request.sha256)?
            && (&package.name, &package.version, &package.arch)
                == (&request.name, &request.version, &request.arch)
        {
            return Ok((package, false));
        }
        let package = self.import_file(request)?;
        let text = |text: &str| MetaValue::String(text.to_owned());
        let metadata = [
            ("aptostree.name", text(package.name.as_str())),
            ("aptostree.version", text(package.version.as_str())),
            ("aptostree.arch", text(package.arch.as_str())),
            ("aptostree.sha256", text(&package.sha256.to_string())),
        ];
        self.save(Cached {
            name: &name,
            tree: &package.tree,
            time: u64::try_from(package.date).unwrap_or_default(),
            metadata: metadata.map(|(key, value)| (key.to_owned(), value)).into(),
            manifest: serde_json::to_vec(&package)?,
        })?;
        Ok((package, true))
    }

    /// Reads the file once, hashing all of it.
    fn import_file(&self, request: &ImportRequest) -> Result<ImportedPackage> {
        let file =
            File::open(&request.path).with_context(|| format!("opening '{}'", request.path))?;
        let mut reader = BufReader::with_capacity(
            256 << 10,
            HashReader {
                file,
                hasher: Sha256::new(),
            },
        );
        let package = self.read_package(&mut reader, request);
        io::copy(&mut reader, &mut io::sink())
            .with_context(|| format!("reading '{}'", request.path))?;
        let found = object::finish(reader.into_inner().hasher);
        // A file that is not the right one has no other error worth telling.
        if found != request.sha256 {
            let message = format!(
                "'{}' has SHA-256 {found}, not {} as the package index says",
                request.path, request.sha256
            );
            return Err(Kinded::new(ErrorKind::Verification, message)
                .with_hint("delete the file and run again")
                .into());
        }
        package
    }

    fn read_package(
        &self,
        reader: &mut impl Read,
        request: &ImportRequest,
    ) -> Result<ImportedPackage> {
        let fail = |error| deb_error(error, request);
        let deb = DebReader::open(reader, Limits::default()).map_err(fail)?;
        let control = deb.control();
        require_same(
            "Package",
            control.package().as_str(),
            request.name.as_str(),
            request,
        )?;
        require_same(
            "Version",
            control.version().as_str(),
            request.version.as_str(),
            request,
        )?;
        require_same(
            "Architecture",
            control.arch().as_str(),
            request.arch.as_str(),
            request,
        )?;
        let control = format!("{}\n", control.text().trim_end_matches('\n'));
        let (members, declared, date) =
            (deb.members().clone(), deb.conffiles().to_vec(), deb.date());
        let mut sink = PackageSink::new(self, &declared);
        deb.data(&mut sink).map_err(fail)?;
        let (tree, list, conffiles) = sink.finish(&declared);
        Ok(ImportedPackage {
            name: request.name.clone(),
            version: request.version.clone(),
            arch: request.arch.clone(),
            sha256: request.sha256,
            control,
            members,
            conffiles,
            list,
            tree,
            date,
        })
    }
}

fn require_same(field: &str, found: &str, wanted: &str, request: &ImportRequest) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    let message = format!(
        "'{}' has {field} '{}', not '{}' as the package index says",
        request.path,
        escape(found),
        escape(wanted)
    );
    Err(Kinded::new(ErrorKind::Verification, message).into())
}

fn deb_error(error: DebError, request: &ImportRequest) -> Error {
    match error {
        DebError::Read(error) => Error::new(error).context(format!("reading '{}'", request.path)),
        DebError::Sink { path, source } => {
            source.context(format!("storing '{}' of '{}'", escape(&path), request.path))
        }
        error => {
            let mut kinded = Kinded::new(
                ErrorKind::InvalidPackage,
                format!("'{}': {error}", request.path),
            );
            kinded.hint = error.hint().map(str::to_owned);
            kinded.into()
        }
    }
}

/// Computes the digest of all that is read.
struct HashReader {
    file: File,
    hasher: Sha256,
}

impl Read for HashReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

/// Packages on their way into the cache, shared by the threads that import them and those that
/// wait for some of them.
///
/// Requests are imported stage by stage (see [`ImportRequest::stage`]), within a stage the largest
/// files first. A package that is cached already is only looked up; its file isn't read and may be
/// missing.
pub struct Import<'j> {
    cache: &'j CacheRepo,
    requests: &'j [ImportRequest],
    /// File size and index, in the order of work.
    order: Vec<(u64, usize)>,
    next: AtomicUsize,
    stop: AtomicBool,
    fresh: AtomicUsize,
    packages: Vec<OnceLock<ImportedPackage>>,
    /// Errors by the index of their request; whoever waits is woken through this lock.
    errors: Mutex<BTreeMap<usize, Error>>,
    progressed: Condvar,
    progress: Progress<'j>,
}

impl fmt::Debug for Import<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Import")
            .field("requests", &self.requests.len())
            .finish_non_exhaustive()
    }
}

impl<'j> Import<'j> {
    /// Prepares the import of `requests` into `cache`; nothing is read yet.
    pub fn new(
        cache: &'j CacheRepo,
        requests: &'j [ImportRequest],
        reporter: &'j dyn Reporter,
    ) -> Self {
        let size = |r: &ImportRequest| std::fs::metadata(&r.path).map_or(0, |m| m.len());
        let mut order: Vec<(u64, usize)> = requests
            .iter()
            .enumerate()
            .map(|(at, r)| (size(r), at))
            .collect();
        order.sort_by_key(|&(size, at)| (requests[at].stage, Reverse(size), at));
        let progress = Progress::new(reporter, order.iter().map(|(size, _)| size).sum());
        Self {
            cache,
            requests,
            order,
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            fresh: AtomicUsize::new(0),
            packages: requests.iter().map(|_| OnceLock::new()).collect(),
            errors: Mutex::default(),
            progressed: Condvar::new(),
            progress,
        }
    }

    /// Imports everything on `threads` threads and returns it. They yield to threads that need the
    /// first packages to go on: what depends on the others is never in a hurry.
    ///
    /// # Errors
    /// As [`Import::wait`].
    pub fn run(&self, threads: usize) -> Result<Vec<&ImportedPackage>> {
        std::thread::scope(|scope| {
            for _ in 0..threads.clamp(1, self.requests.len().max(1)) {
                scope.spawn(|| {
                    // Nicer by nothing is as good, only slower.
                    let _nicer = rustix::process::nice(NICE);
                    self.work();
                });
            }
        });
        self.wait(0..self.requests.len())
    }

    /// Waits until the requests of `range` are imported, while other threads are in
    /// [`Import::run`].
    ///
    /// # Errors
    /// When the import has failed; [`Import::finish`] says why.
    pub fn wait(&self, range: Range<usize>) -> Result<Vec<&ImportedPackage>> {
        let mut errors = self.lock();
        loop {
            let packages: Option<Vec<&ImportedPackage>> = self.packages[range.clone()]
                .iter()
                .map(OnceLock::get)
                .collect();
            if let Some(packages) = packages {
                return Ok(packages);
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(interrupted());
            }
            errors = self
                .progressed
                .wait(errors)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The packages, in the order of the requests, after [`Import::run`].
    ///
    /// # Errors
    /// When a file can't be read, is not what the request says (`Verification`), or is malformed
    /// (`InvalidPackage`). Packages that were imported before the error stay cached.
    pub fn finish(self) -> Result<Imported> {
        if let Some(error) = self.take_error() {
            return Err(error);
        }
        let packages: Option<Vec<ImportedPackage>> = self
            .packages
            .into_iter()
            .map(OnceLock::into_inner)
            .collect();
        Ok(Imported {
            packages: packages.ok_or_else(interrupted)?,
            fresh: self.fresh.into_inner(),
        })
    }

    /// Makes [`Import::run`] return after the packages that it is at.
    pub fn stop(&self) {
        let guard = self.lock();
        self.stop.store(true, Ordering::Relaxed);
        drop(guard);
        self.progressed.notify_all();
    }

    /// Takes the error of the first request that has one.
    pub fn take_error(&self) -> Option<Error> {
        self.lock().pop_first().map(|(_, error)| error)
    }

    /// How many of the packages were not in the cache before.
    pub fn fresh(&self) -> usize {
        self.fresh.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Error>> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let Some((size, at)) = self.order.get(self.next.fetch_add(1, Ordering::Relaxed)) else {
                return;
            };
            let request = &self.requests[*at];
            let result = self
                .cache
                .import_one(request)
                .with_context(|| format!("importing package '{}'", request.name));
            self.progress.add(*size, request);
            let mut errors = self.lock();
            match result {
                Ok((package, fresh)) => {
                    self.fresh.fetch_add(usize::from(fresh), Ordering::Relaxed);
                    // Each index is handed out once.
                    drop(self.packages[*at].set(package));
                }
                Err(error) => {
                    errors.insert(*at, error);
                    self.stop.store(true, Ordering::Relaxed);
                }
            }
            drop(errors);
            self.progressed.notify_all();
        }
    }
}

fn interrupted() -> Error {
    anyhow!("importing packages was interrupted")
}

/// Bytes done so far, told a few times per second.
struct Progress<'r> {
    reporter: &'r dyn Reporter,
    total: u64,
    state: Mutex<(u64, Instant)>,
}

impl<'r> Progress<'r> {
    fn new(reporter: &'r dyn Reporter, total: u64) -> Self {
        Self {
            reporter,
            total,
            state: Mutex::new((0, Instant::now())),
        }
    }

    fn add(&self, bytes: u64, request: &ImportRequest) {
        let done = {
            let mut state = self
                .state
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            state.0 += bytes;
            if state.1.elapsed() < Duration::from_millis(250) {
                return;
            }
            state.1 = Instant::now();
            state.0
        };
        let item = Some(request.name.to_string());
        self.reporter.report(Event::StepProgress {
            step: Step::Import,
            done,
            total: self.total,
            bytes: true,
            item,
        });
    }
}
