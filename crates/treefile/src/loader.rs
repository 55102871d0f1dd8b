//! How treefiles and the files they name are found and read.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};

/// Largest file whose content is read.
const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// Most `*.sources` files looked at in one directory.
const MAX_LISTED: usize = 200;

/// Access to the files of a treefile.
///
/// `base` is always the directory of a file that this loader found, [`Loader::root`], or a
/// directory that the caller of [`crate::load`] named; `path` comes from a treefile.
pub trait Loader: fmt::Debug {
    /// The directory of the first treefile, absolute.
    ///
    /// # Errors
    /// When it can't be named.
    fn root(&self) -> Result<Utf8PathBuf, LoadError>;

    /// Reads the file `path`, relative to `base`.
    ///
    /// # Errors
    /// When it is missing, not a regular file, too large, or not allowed.
    fn open(&self, base: &Utf8Path, path: &Utf8Path) -> Result<LoadedFile, LoadError>;

    /// Finds a file or directory without reading it; a file may have any size.
    ///
    /// # Errors
    /// When it is missing, of another kind, or not allowed.
    fn locate(
        &self,
        base: &Utf8Path,
        path: &Utf8Path,
        kind: FileKind,
    ) -> Result<Utf8PathBuf, LoadError>;

    /// Names of the entries of `base` that end in `suffix`, sorted.
    ///
    /// # Errors
    /// When the directory can't be read.
    fn list(&self, base: &Utf8Path, suffix: &str) -> Result<Vec<String>, LoadError>;
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedFile {
    /// Absolute path.
    pub path: Utf8PathBuf,
    /// Content.
    pub data: Vec<u8>,
    /// Equal for equal files, whatever they were called.
    pub identity: String,
    /// Anyone may change it.
    pub world_writable: bool,
}

/// What [`Loader::locate`] looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
}

/// A file can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Nothing there.
    #[error("'{0}' does not exist")]
    NotFound(String),
    /// An absolute path.
    #[error("'{0}' is absolute; name it relative to this file")]
    Absolute(String),
    /// `..` or a symbolic link leads out.
    #[error("'{0}' is outside the treefile's directory")]
    Outside(String),
    /// Not what is needed there.
    #[error("'{path}' is {found}, not {wanted}")]
    WrongKind {
        /// The file.
        path: String,
        /// What it is.
        found: &'static str,
        /// What is needed.
        wanted: &'static str,
    },
    /// Too large.
    #[error("'{path}' is larger than {limit} MiB")]
    TooLarge {
        /// The file.
        path: String,
        /// The limit in MiB.
        limit: u64,
    },
    /// The system refused.
    #[error("reading '{path}': {message}")]
    Io {
        /// The file.
        path: String,
        /// What the system says.
        message: String,
    },
}

impl LoadError {
    fn io(path: &Utf8Path, error: &std::io::Error) -> Self {
        let path = escaped(path);
        if error.kind() == std::io::ErrorKind::NotFound {
            return Self::NotFound(path);
        }
        let message = error.to_string();
        Self::Io { path, message }
    }
}

fn escaped(path: &Utf8Path) -> String {
    crate::error::escape(path.as_str())
}

/// Reads below one directory.
///
/// Unless told otherwise it refuses absolute paths, and paths that lead out of the directory by
/// `..` or by symbolic links. A relative path in a file starts at that file's directory as it was
/// named, without resolving links.
#[derive(Debug, Clone)]
pub struct DirLoader {
    root: Utf8PathBuf,
    allow_outside: bool,
}

impl DirLoader {
    /// A loader for `directory`; empty means the current one.
    pub fn new(directory: impl Into<Utf8PathBuf>) -> Self {
        let mut root = directory.into();
        if root.as_str().is_empty() {
            root.push(".");
        }
        Self {
            root,
            allow_outside: false,
        }
    }

    /// Allows files everywhere.
    #[must_use]
    pub fn allow_outside(mut self, allow: bool) -> Self {
        self.allow_outside = allow;
        self
    }

    /// Joins and checks; the result exists and is allowed.
    fn resolve(&self, base: &Utf8Path, path: &Utf8Path) -> Result<Utf8PathBuf, LoadError> {
        if path.as_str().is_empty() {
            return Err(LoadError::NotFound(String::new()));
        }
        if path.is_absolute() && !self.allow_outside {
            return Err(LoadError::Absolute(escaped(path)));
        }
        let joined = base.join(path);
        let real = |p: &Utf8Path| p.canonicalize_utf8().map_err(|e| LoadError::io(p, &e));
        if !self.allow_outside {
            let target = match real(&joined) {
                Err(LoadError::NotFound(_)) => return Err(LoadError::NotFound(escaped(&joined))),
                other => other?,
            };
            let root = real(&self.root()?)?;
            let base = real(base)?;
            let allowed = target.starts_with(&root)
                || (!base.starts_with(&root) && target.starts_with(&base));
            if !allowed {
                return Err(LoadError::Outside(escaped(path)));
            }
        }
        Ok(joined)
    }
}

impl Loader for DirLoader {
    fn root(&self) -> Result<Utf8PathBuf, LoadError> {
        camino::absolute_utf8(&self.root).map_err(|e| LoadError::io(&self.root, &e))
    }

    fn open(&self, base: &Utf8Path, path: &Utf8Path) -> Result<LoadedFile, LoadError> {
        let path = self.resolve(base, path)?;
        require_kind(&path, &stat(&path)?, FileKind::File)?;
        // A fifo put there in the meantime must not block.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(&path)
            .map_err(|e| LoadError::io(&path, &e))?;
        let metadata = file.metadata().map_err(|e| LoadError::io(&path, &e))?;
        require_kind(&path, &metadata, FileKind::File)?;
        let data = read_limited(&file, &path)?;
        Ok(LoadedFile {
            data,
            identity: format!("{}:{}", metadata.dev(), metadata.ino()),
            world_writable: metadata.mode() & 0o002 != 0,
            path,
        })
    }

    fn locate(
        &self,
        base: &Utf8Path,
        path: &Utf8Path,
        kind: FileKind,
    ) -> Result<Utf8PathBuf, LoadError> {
        let path = self.resolve(base, path)?;
        require_kind(&path, &stat(&path)?, kind)?;
        Ok(path)
    }

    fn list(&self, base: &Utf8Path, suffix: &str) -> Result<Vec<String>, LoadError> {
        let error = |e: std::io::Error| LoadError::io(base, &e);
        let mut names = Vec::new();
        for entry in base.read_dir_utf8().map_err(error)? {
            let name = entry.map_err(error)?.file_name().to_owned();
            if name.ends_with(suffix) && !name.starts_with('.') {
                names.push(name);
            }
            if names.len() > MAX_LISTED {
                let message = format!("more than {MAX_LISTED} files end in '{suffix}'");
                return Err(LoadError::Io {
                    path: escaped(base),
                    message,
                });
            }
        }
        names.sort();
        Ok(names)
    }
}

fn stat(path: &Utf8Path) -> Result<Metadata, LoadError> {
    path.metadata().map_err(|e| LoadError::io(path, &e))
}

fn require_kind(path: &Utf8Path, metadata: &Metadata, kind: FileKind) -> Result<(), LoadError> {
    let file_type = metadata.file_type();
    let (ok, wanted) = match kind {
        FileKind::File => (file_type.is_file(), "a file"),
        FileKind::Directory => (file_type.is_dir(), "a directory"),
    };
    if ok {
        return Ok(());
    }
    let found = if file_type.is_dir() {
        "a directory"
    } else if file_type.is_fifo() {
        "a pipe"
    } else if file_type.is_socket() {
        "a socket"
    } else if file_type.is_file() {
        "a file"
    } else {
        "a device"
    };
    let path = escaped(path);
    Err(LoadError::WrongKind {
        path,
        found,
        wanted,
    })
}

fn read_limited(file: &File, path: &Utf8Path) -> Result<Vec<u8>, LoadError> {
    let mut data = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut data)
        .map_err(|e| LoadError::io(path, &e))?;
    if data.len() as u64 > MAX_BYTES {
        return Err(LoadError::TooLarge {
            path: escaped(path),
            limit: MAX_BYTES >> 20,
        });
    }
    Ok(data)
}

/// Files in memory, below `/`: for callers that have the text already.
#[derive(Debug, Clone, Default)]
pub struct MemoryLoader {
    files: BTreeMap<Utf8PathBuf, Vec<u8>>,
}

impl MemoryLoader {
    /// No files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file; `path` is relative to the root.
    #[must_use]
    pub fn with(mut self, path: &str, data: impl Into<Vec<u8>>) -> Self {
        self.files
            .insert(Utf8Path::new("/").join(path), data.into());
        self
    }

    fn resolve(base: &Utf8Path, path: &Utf8Path) -> Result<Utf8PathBuf, LoadError> {
        if path.is_absolute() {
            return Err(LoadError::Absolute(escaped(path)));
        }
        let mut resolved = base.to_owned();
        for part in path.components() {
            let inside = match part {
                Utf8Component::ParentDir => resolved.pop(),
                Utf8Component::Normal(name) => {
                    resolved.push(name);
                    true
                }
                _ => true,
            };
            if !inside {
                return Err(LoadError::Outside(escaped(path)));
            }
        }
        Ok(resolved)
    }
}

impl Loader for MemoryLoader {
    fn root(&self) -> Result<Utf8PathBuf, LoadError> {
        Ok(Utf8PathBuf::from("/"))
    }

    fn open(&self, base: &Utf8Path, path: &Utf8Path) -> Result<LoadedFile, LoadError> {
        let path = Self::resolve(base, path)?;
        let Some(data) = self.files.get(&path) else {
            return Err(LoadError::NotFound(escaped(&path)));
        };
        Ok(LoadedFile {
            data: data.clone(),
            identity: path.to_string(),
            world_writable: false,
            path,
        })
    }

    fn locate(
        &self,
        base: &Utf8Path,
        path: &Utf8Path,
        kind: FileKind,
    ) -> Result<Utf8PathBuf, LoadError> {
        let path = Self::resolve(base, path)?;
        let found = match kind {
            FileKind::File => self.files.contains_key(&path),
            FileKind::Directory => self
                .files
                .keys()
                .any(|f| f.starts_with(&path) && *f != path),
        };
        if found {
            return Ok(path);
        }
        Err(LoadError::NotFound(escaped(&path)))
    }

    fn list(&self, base: &Utf8Path, suffix: &str) -> Result<Vec<String>, LoadError> {
        let beside = self.files.keys().filter(|f| f.parent() == Some(base));
        let names = beside
            .filter_map(|f| f.file_name())
            .filter(|n| n.ends_with(suffix));
        Ok(names.map(str::to_owned).collect())
    }
}
