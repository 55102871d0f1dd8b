//! Finished layer blobs, kept between composes.
//!
//! `blobs/keys/KEY.json` says which blob an input gives, `blobs/sha256/DIGEST` is the blob. Every
//! file appears by a rename, so that any number of processes may share the cache and a killed one
//! leaves nothing half-written. A blob is hashed whenever it is taken; a damaged one is no hit and
//! the next store replaces it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use apt_ostree_fsx::prune::{Cached, Limits, Pruned, excess};
use apt_ostree_model::Sha256Digest;
use apt_ostree_model::compose::Compression;
use fn_error_context::context;
use openssl::sha::Sha256;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::descriptor::{COMPONENTS, Descriptor, layer_type};

/// More than any key file needs.
const KEY_FILE_LIMIT: u64 = 4096;

/// A temporary file of this age belongs to nobody any more.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// A cache of layer blobs in a directory.
#[derive(Debug, Clone)]
pub struct BlobCache {
    dir: PathBuf,
}

/// What a cache entry says about a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct BlobInfo {
    pub(crate) digest: Sha256Digest,
    pub(crate) diff_id: Sha256Digest,
    pub(crate) size: u64,
    pub(crate) uncompressed_size: u64,
}

/// An open blob. It stays readable when the cache drops its name.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(crate) file: Arc<File>,
    pub(crate) path: PathBuf,
}

/// A finished layer. Its blob stays open, so a layer is usable as long as it lives.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Title of its plan.
    pub title: String,
    /// Names of the packages in it, sorted.
    pub components: Vec<String>,
    /// Digest of the compressed blob.
    pub digest: Sha256Digest,
    /// Digest of the tar stream.
    pub diff_id: Sha256Digest,
    /// Size of the compressed blob in bytes.
    pub size: u64,
    /// Size of the tar stream in bytes.
    pub uncompressed_size: u64,
    /// How the blob is compressed.
    pub compression: Compression,
    /// True when it was taken from the cache.
    pub cached: bool,
    pub(crate) blob: Blob,
}

impl Layer {
    /// The OCI media type of the blob.
    pub const fn media_type(&self) -> &'static str {
        layer_type(self.compression)
    }

    pub(crate) fn descriptor(&self) -> Descriptor {
        let mut descriptor = Descriptor::new(self.media_type(), self.digest, self.size);
        if !self.components.is_empty() {
            let names = self.components.join(",");
            descriptor.annotations.insert(COMPONENTS.to_owned(), names);
        }
        descriptor
    }
}

impl BlobCache {
    /// Opens `blobs` inside the cache directory; makes it when missing.
    ///
    /// # Errors
    /// When the directories can't be made.
    #[context("opening blob cache in '{}'", cachedir.display())]
    pub fn open(cachedir: &Path) -> Result<Self> {
        let cache = Self {
            dir: cachedir.join("blobs"),
        };
        for name in ["sha256", "keys", "tmp"] {
            std::fs::create_dir_all(cache.dir.join(name))?;
        }
        cache.sweep_temporary()?;
        Ok(cache)
    }

    /// Removes what killed processes left behind.
    fn sweep_temporary(&self) -> Result<()> {
        for entry in std::fs::read_dir(self.dir.join("tmp"))? {
            let entry = entry?;
            // Another process may be sweeping as well.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let age = metadata.modified().map(|time| time.elapsed());
            if matches!(age, Ok(Ok(age)) if age > STALE) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes the blobs that the limits don't leave room for, and what points to none. Layers that
    /// are in use stay readable, so nothing is too fresh to go.
    ///
    /// # Errors
    /// When the cache can't be read or changed.
    #[context("pruning blob cache '{}'", self.dir.display())]
    pub fn prune(&self, limits: &Limits) -> Result<Pruned> {
        let mut blobs = Vec::new();
        for entry in std::fs::read_dir(self.dir.join("sha256"))? {
            let entry = entry?;
            if let Ok(metadata) = entry.metadata() {
                blobs.push(Cached {
                    item: entry.path(),
                    used: metadata.modified()?,
                    bytes: metadata.len(),
                });
            }
        }
        let limits = Limits {
            fresh: Duration::ZERO,
            ..*limits
        };
        let mut pruned = Pruned::default();
        for blob in excess(blobs, &limits) {
            remove(&blob.item)?;
            pruned.add(blob.bytes);
        }
        self.prune_keys()?;
        Ok(pruned)
    }

    /// Removes keys whose blob is gone.
    fn prune_keys(&self) -> Result<()> {
        for entry in std::fs::read_dir(self.dir.join("keys"))? {
            let path = entry?.path();
            let info = read_info(&path)?;
            if !info.is_some_and(|info| self.blob_path(&info.digest).exists()) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    fn key_path(&self, key: &Sha256Digest) -> PathBuf {
        self.dir.join("keys").join(format!("{key}.json"))
    }

    fn blob_path(&self, digest: &Sha256Digest) -> PathBuf {
        self.dir.join("sha256").join(digest.to_string())
    }

    /// The blob of `key`, hashed and found right.
    pub(crate) fn get(&self, key: &Sha256Digest) -> Result<Lookup> {
        let Some(info) = read_info(&self.key_path(key))? else {
            return Ok(Lookup::Missing);
        };
        let path = self.blob_path(&info.digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Lookup::Missing),
            Err(e) => return Err(e).with_context(|| format!("opening '{}'", path.display())),
        };
        if file.metadata()?.len() != info.size || hash_file(&file)? != info.digest {
            return Ok(Lookup::Damaged);
        }
        // The time of the last use, for pruning. Not worth an error on a read-only cache.
        let _unused = file.set_modified(SystemTime::now());
        let blob = Blob {
            file: Arc::new(file),
            path,
        };
        Ok(Lookup::Found(info, blob))
    }

    /// A new file for a blob.
    pub(crate) fn temporary(&self) -> Result<NamedTempFile> {
        NamedTempFile::new_in(self.dir.join("tmp")).context("making a temporary blob")
    }

    /// Keeps `file` as the blob of `key`.
    #[context("storing blob '{}'", info.digest)]
    pub(crate) fn put(
        &self,
        key: &Sha256Digest,
        file: NamedTempFile,
        info: &BlobInfo,
    ) -> Result<Blob> {
        let path = self.blob_path(&info.digest);
        let file = publish(file, &path)?;
        let mut note = self.temporary()?;
        note.write_all(&serde_json::to_vec(info)?)?;
        publish(note, &self.key_path(key))?;
        Ok(Blob {
            file: Arc::new(file),
            path,
        })
    }
}

/// What the cache has for a key.
#[derive(Debug)]
pub(crate) enum Lookup {
    Found(BlobInfo, Blob),
    Damaged,
    Missing,
}

/// Moves a finished temporary file to its place.
fn publish(file: NamedTempFile, path: &Path) -> Result<File> {
    file.as_file()
        .set_permissions(std::fs::Permissions::from_mode(0o644))?;
    Ok(file.persist(path)?)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Reads a key file; `None` when it is missing or makes no sense.
fn read_info(path: &Path) -> Result<Option<BlobInfo>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("opening '{}'", path.display())),
    };
    let mut text = Vec::new();
    file.take(KEY_FILE_LIMIT).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}

fn hash_file(file: &File) -> io::Result<Sha256Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut reader = BlobReader::new(file);
    loop {
        let length = reader.read(&mut buffer)?;
        if length == 0 {
            return Ok(Sha256Digest::new(hasher.finish()));
        }
        hasher.update(&buffer[..length]);
    }
}

/// Reads a file from its start, whatever other users of the handle do.
#[derive(Debug)]
pub(crate) struct BlobReader<'a> {
    file: &'a File,
    position: u64,
}

impl<'a> BlobReader<'a> {
    pub(crate) const fn new(file: &'a File) -> Self {
        Self { file, position: 0 }
    }
}

impl io::Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(buffer, self.position)?;
        self.position += length as u64;
        Ok(length)
    }
}
