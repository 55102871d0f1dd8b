//! What every compose verb opens first: cache, work directory, reporter.

use std::sync::Mutex;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use apt_ostree_fsx::WorkDir;
use apt_ostree_model::compose::WorkOptions;
use apt_ostree_model::{ErrorKind, Kinded, Reporter};
use apt_ostree_store::CacheRepo;
use camino::{Utf8Path, Utf8PathBuf};
use fn_error_context::context;

use super::cleanup;
use crate::rootfs::live::LiveRoot;

/// Where the cache is when nobody says.
const DEFAULT_CACHE: &str = "/var/cache/apt-ostree";

/// The surroundings of one run.
pub(crate) struct Run<'r> {
    /// Where events go.
    pub(crate) reporter: &'r dyn Reporter,
    /// Indices, packages, configured states and layers.
    pub(crate) cachedir: Utf8PathBuf,
    /// Package and tree cache.
    pub(crate) store: CacheRepo,
    /// Temporary work, removed at the end of the run.
    pub(crate) work: WorkDir,
    /// How many threads to use.
    pub(crate) threads: usize,
    /// Threads that remove what is no longer needed; before `work`, which removes the rest.
    removing: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.finish_removing();
    }
}

impl<'r> Run<'r> {
    /// Runs a verb in fresh surroundings. When it fails and the user wants that, the work
    /// directory stays, until the next run sweeps it.
    pub(crate) fn within<T>(
        options: &WorkOptions,
        reporter: &'r dyn Reporter,
        verb: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<T> {
        let mut run = Self::open(options, reporter)?;
        let result = verb(&run);
        if result.is_ok() {
            cleanup::clean(&run);
        }
        if result.is_err() && options.keep_workdir {
            run.work.keep();
            reporter.warning(format!(
                "keeping the work directory '{}' until the next run",
                run.work.path()
            ));
        }
        result
    }

    /// Opens the cache and makes a work directory; sweeps what killed runs left.
    #[context("opening the cache")]
    fn open(options: &WorkOptions, reporter: &'r dyn Reporter) -> Result<Self> {
        let cachedir = utf8(
            options
                .cachedir
                .as_deref()
                .unwrap_or_else(|| DEFAULT_CACHE.as_ref()),
        )?;
        std::fs::create_dir_all(&cachedir).with_context(|| format!("creating '{cachedir}'"))?;
        let cachedir = cachedir
            .canonicalize_utf8()
            .with_context(|| format!("opening '{cachedir}'"))?;
        let workdir = match &options.workdir {
            Some(dir) => utf8(dir)?,
            None => cachedir.join("work"),
        };
        std::fs::create_dir_all(&workdir).with_context(|| format!("creating '{workdir}'"))?;
        let workdir = workdir
            .canonicalize_utf8()
            .with_context(|| format!("opening '{workdir}'"))?;
        require_same_device(&cachedir, &workdir)?;
        apt_ostree_fsx::sweep(&workdir)?;
        let work = WorkDir::create(&workdir)?;
        let threads = options.threads.unwrap_or_else(default_threads).max(1);
        let store = CacheRepo::open(&cachedir)?;
        Ok(Self {
            reporter,
            cachedir,
            store,
            work,
            threads,
            removing: Mutex::default(),
        })
    }

    /// Runs a verb in the surroundings of a system: its repository is the cache.
    pub(crate) fn within_system<T>(
        repo: &Utf8Path,
        reporter: &'r dyn Reporter,
        verb: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<T> {
        verb(&Self::open_system(repo, reporter)?)
    }

    #[context("opening the package cache of the system")]
    fn open_system(repo: &Utf8Path, reporter: &'r dyn Reporter) -> Result<Self> {
        let repo = repo
            .canonicalize_utf8()
            .with_context(|| format!("opening '{repo}'"))?;
        let store = CacheRepo::open_system(&repo)?;
        let cachedir = apt_ostree_store::system_dir(&repo);
        let workdir = cachedir.join("work");
        std::fs::create_dir_all(&workdir).with_context(|| format!("creating '{workdir}'"))?;
        apt_ostree_fsx::sweep(&workdir)?;
        Ok(Self {
            reporter,
            work: WorkDir::create(&workdir)?,
            cachedir,
            store,
            threads: default_threads(),
            removing: Mutex::default(),
        })
    }

    /// Removes what a root has on disk, while other work goes on.
    pub(crate) fn remove_scratch(&self, live: LiveRoot<'_>) {
        let dir = live.into_dir();
        let thread = std::thread::spawn(move || {
            // The work directory as a whole is removed at the end.
            if let Err(error) = apt_ostree_fsx::remove_tree(&dir) {
                tracing::debug!("leaving '{dir}' behind: {error}");
            }
        });
        if let Ok(mut threads) = self.removing.lock() {
            threads.push(thread);
        }
    }

    fn finish_removing(&self) {
        if let Ok(mut threads) = self.removing.lock() {
            for thread in threads.drain(..) {
                // A panic in it has been printed.
                drop(thread.join());
            }
        }
    }

    /// Empties the work directory.
    pub(crate) fn clear_scratch(&self) -> Result<()> {
        self.finish_removing();
        for entry in self.work.path().read_dir_utf8()? {
            let path = entry?.into_path();
            apt_ostree_fsx::remove_tree(&path).with_context(|| format!("removing '{path}'"))?;
        }
        Ok(())
    }

    /// Makes an empty directory for temporary work.
    pub(crate) fn scratch(&self, name: &str) -> Result<Utf8PathBuf> {
        let dir = self.work.path().join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("creating '{dir}'"))?;
        Ok(dir)
    }
}

/// One thread per processor.
fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Hard links can't leave a file system.
fn require_same_device(cachedir: &Utf8Path, workdir: &Utf8Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    if std::fs::metadata(cachedir)?.dev() == std::fs::metadata(workdir)?.dev() {
        return Ok(());
    }
    let message =
        format!("work directory '{workdir}' is not on the file system of the cache '{cachedir}'");
    Err(Kinded::new(ErrorKind::InvalidInput, message)
        .with_hint("choose --workdir and --cachedir on one file system")
        .into())
}

/// The path as UTF-8, made absolute.
pub(crate) fn utf8(path: &std::path::Path) -> Result<Utf8PathBuf> {
    let absolute =
        std::path::absolute(path).with_context(|| format!("resolving '{}'", path.display()))?;
    Utf8PathBuf::from_path_buf(absolute).map_err(|path| {
        let message = format!(
            "path '{}' is not UTF-8",
            path.display().to_string().escape_debug()
        );
        Kinded::new(ErrorKind::Usage, message).into()
    })
}
