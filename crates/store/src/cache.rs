//! The cache repository.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::sync::Mutex;

use anyhow::{Context as _, Result};
use apt_ostree_model::{ContentReader, ContentWriter, File, Meta, Sha256Digest, Symlink};
use camino::{Utf8Path, Utf8PathBuf};
use fn_error_context::context;
use ostree::{Repo, RepoMode, gio};

use crate::content::ContentDir;
use crate::error::{into_io, invalid_input, storage};
use crate::handle::RepoHandle;
use crate::lock::{CacheLock, RepoGuard};

/// The `bare` repository below a cache directory; usable from several threads.
#[derive(Debug)]
pub struct CacheRepo {
    pub(crate) handle: RepoHandle,
    content: ContentDir,
    pub(crate) guard: Mutex<Option<RepoGuard>>,
    pub(crate) lock: CacheLock,
    /// Whether it is the repository of a system: others read it, and it survives a power cut.
    pub(crate) system: bool,
}

impl CacheRepo {
    /// Opens `cachedir/repo`, which is made if missing. Several processes may do so; the first
    /// one sweeps what killed runs left.
    ///
    /// # Errors
    /// When the cache can't be created or read, is no `bare` repository, or someone cleans it up
    /// for more than a quarter of an hour.
    #[context("opening the package cache in '{cachedir}'")]
    pub fn open(cachedir: &Utf8Path) -> Result<Self> {
        let path = cachedir.join("repo");
        make_private(&path)?;
        let lock = CacheLock::open(&cachedir.join("repo.lock"))?;
        if lock.try_alone()? {
            create(&path)?;
            sweep(&path)?;
        }
        lock.share()?;
        let handle = RepoHandle::new(path, false);
        Self::start(handle, lock, false)
    }

    /// Opens the repository of a system, which must be `bare`, as a cache: packages are refs of
    /// that repository, and its commits' contents are used where they are. What is written is on
    /// disk before it can be seen. Temporary work belongs in [`system_dir`].
    ///
    /// # Errors
    /// When there is no such repository, it can't be written to, or is not `bare`.
    #[context("opening the package cache in repository '{repo}'")]
    pub fn open_system(repo: &Utf8Path) -> Result<Self> {
        let handle = RepoHandle::new(repo.to_owned(), true);
        require_bare(&handle)?;
        let dir = system_dir(repo);
        make_private(&dir)?;
        let lock = CacheLock::open(&dir.join("lock"))?;
        lock.share()?;
        Self::start(handle, lock, true)
    }

    fn start(handle: RepoHandle, lock: CacheLock, system: bool) -> Result<Self> {
        require_bare(&handle)?;
        let content = ContentDir::open_repo(handle.path())?;
        let guard = RepoGuard::start(&handle)?;
        Ok(Self {
            handle,
            content: if system { content.durable() } else { content },
            guard: Mutex::new(Some(guard)),
            lock,
            system,
        })
    }

    /// Where the repository is.
    pub fn path(&self) -> &Utf8Path {
        self.handle.path()
    }

    /// The contents.
    pub const fn content(&self) -> &ContentDir {
        &self.content
    }

    pub(crate) fn repo(&self) -> Result<Repo> {
        self.handle.repo()
    }
}

/// Where a system's repository keeps what belongs to the cache but is no object: indices,
/// downloads, temporary work.
pub fn system_dir(repo: &Utf8Path) -> Utf8PathBuf {
    repo.join("extensions/aptostree")
}

/// Makes a directory that only its owner can look into: cached set-uid programs are nobody's
/// business.
fn make_private(path: &Utf8Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("creating '{path}'"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    Ok(())
}

fn require_bare(handle: &RepoHandle) -> Result<()> {
    if handle.repo()?.mode() == RepoMode::Bare {
        return Ok(());
    }
    Err(invalid_input(format!(
        "repository '{}' is not in mode 'bare'",
        handle.path()
    )))
}

/// Makes the repository, or makes it whole when a run was killed while making it.
fn create(path: &Utf8Path) -> Result<()> {
    let cancellable = gio::Cancellable::NONE;
    let repo = Repo::create_at(
        ostree::AT_FDCWD,
        path.as_str(),
        RepoMode::Bare,
        None,
        cancellable,
    )
    .map_err(storage)?;
    let config = repo.copy_config();
    let wanted = [
        ("fsync", "false"),
        ("min-free-space-percent", "0"),
        ("auto-update-summary", "false"),
    ];
    if wanted
        .iter()
        .all(|(key, value)| config.string("core", key).is_ok_and(|v| v == *value))
    {
        return Ok(());
    }
    for (key, value) in wanted {
        config.set_string("core", key, value);
    }
    repo.write_config(&config).map_err(storage)
}

/// Deletes temporary files; nobody else uses the cache.
fn sweep(path: &Utf8Path) -> Result<()> {
    let tmp: Utf8PathBuf = path.join("tmp");
    for entry in std::fs::read_dir(&tmp).with_context(|| format!("reading '{tmp}'"))? {
        let entry = entry?;
        if entry.file_name() == "cache" {
            continue;
        }
        let path = entry.path();
        let removed = if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.with_context(|| format!("removing '{}'", path.display()))?;
    }
    Ok(())
}

impl ContentReader for CacheRepo {
    fn open(&self, checksum: &Sha256Digest) -> io::Result<std::fs::File> {
        self.content.open(checksum)
    }
}

impl ContentWriter for CacheRepo {
    fn put_file(&self, meta: &Meta, data: &[u8]) -> io::Result<File> {
        let mut reader = data;
        self.put_reader(meta, data.len() as u64, &mut reader)
            .map_err(|e| into_io(&e))
    }

    fn put_symlink(&self, target: &str, uid: u32, gid: u32) -> io::Result<Symlink> {
        self.put_link(target, uid, gid).map_err(|e| into_io(&e))
    }

    fn change_meta(&self, file: &File, meta: &Meta) -> io::Result<File> {
        self.put_with_meta(file, meta).map_err(|e| into_io(&e))
    }
}
