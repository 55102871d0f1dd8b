//! Packages into the cache.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
}

/// Imported packages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imported {
    /// The packages, in the order in which they were asked for.
    pub packages: Vec<ImportedPackage>,
    /// How many of them were not in the cache before.
    pub fresh: usize,
}

impl ImportRequest {
    /// The ref that caches the package.
    fn ref_name(&self) -> String {
        let name = escape_ref(self.name.as_str());
        let version = escape_ref(&format!("{}.{}", self.version, self.arch));
        let digest = self.sha256.to_string();
        // A version can have 255 characters; a file name has no more.
        let version = if version.len() > 200 {
            "long".to_owned()
        } else {
            version
        };
        format!("{PREFIX}/pkg/{name}/{version}-{}", &digest[..32])
    }
}

impl CacheRepo {
    /// Imports packages, those with the largest files first, on `threads` threads. A package
    /// that is cached already is only looked up; its file isn't read and may be missing.
    ///
    /// # Errors
    /// When a file can't be read, is not what the request says (`Verification`), or is malformed
    /// (`InvalidPackage`). Packages that were imported before the error stay cached.
    pub fn import(
        &self,
        requests: &[ImportRequest],
        threads: usize,
        reporter: &dyn Reporter,
    ) -> Result<Imported> {
        let size = |r: &ImportRequest| std::fs::metadata(&r.path).map_or(0, |m| m.len());
        let mut order: Vec<(u64, usize)> = requests
            .iter()
            .enumerate()
            .map(|(at, r)| (size(r), at))
            .collect();
        order.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let progress = Progress::new(reporter, order.iter().map(|(size, _)| size).sum());
        let job = Job {
            cache: self,
            requests,
            order: &order,
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            fresh: AtomicUsize::new(0),
            results: Mutex::new(BTreeMap::new()),
            progress,
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.clamp(1, requests.len().max(1)) {
                scope.spawn(|| job.run());
            }
            job.run();
        });
        let fresh = job.fresh.into_inner();
        let results = job
            .results
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut packages = Vec::with_capacity(requests.len());
        // In this order, so that the first error is the same in every run.
        for result in results.into_values() {
            packages.push(result?);
        }
        if packages.len() != requests.len() {
            return Err(anyhow!("importing packages was interrupted"));
        }
        Ok(Imported { packages, fresh })
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

/// Packages to import, shared by threads.
struct Job<'j> {
    cache: &'j CacheRepo,
    requests: &'j [ImportRequest],
    /// File size and index, largest first.
    order: &'j [(u64, usize)],
    next: AtomicUsize,
    stop: AtomicBool,
    fresh: AtomicUsize,
    results: Mutex<BTreeMap<usize, Result<ImportedPackage>>>,
    progress: Progress<'j>,
}

impl Job<'_> {
    fn run(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let Some((size, at)) = self.order.get(self.next.fetch_add(1, Ordering::Relaxed)) else {
                return;
            };
            let request = &self.requests[*at];
            let result = self
                .cache
                .import_one(request)
                .with_context(|| format!("importing package '{}'", request.name));
            let result = result.map(|(package, fresh)| {
                self.fresh.fetch_add(usize::from(fresh), Ordering::Relaxed);
                package
            });
            if result.is_err() {
                self.stop.store(true, Ordering::Relaxed);
            }
            self.progress.add(*size, request);
            let mut results = self
                .results
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            results.insert(*at, result);
        }
    }
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
