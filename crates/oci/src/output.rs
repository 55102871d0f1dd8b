//! Image files: OCI layout directory, OCI archive, docker archive.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, anyhow, bail};
use apt_ostree_model::compose::{ImageFormat, ImageReport};
use apt_ostree_model::{ErrorKind, Kinded, Sha256Digest};
use fn_error_context::context;
use openssl::sha::Sha256;
use serde::Serialize;

use crate::cache::{Blob, BlobReader, Layer};
use crate::compress::decoder;
use crate::config::Image;
use crate::descriptor::{Descriptor, INDEX_TYPE, MANIFEST_TYPE, REF_NAME};
use crate::shown;
use crate::stage::Staged;
use crate::tar::{Entry, Kind, TRAILER, padding};

const BUFFER: usize = 1 << 20;

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: &'static str,
    manifests: [Descriptor; 1],
}

/// `manifest.json` of a docker archive.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest<'a> {
    config: &'a str,
    repo_tags: [&'a str; 1],
    layers: &'a [String],
}

impl Image {
    /// Writes the image to `path` under the name and tag `reference`; what is there is replaced
    /// when all is written.
    ///
    /// # Errors
    /// When `reference` is not `NAME:TAG`, something other than an image is at `path`, or writing
    /// fails.
    pub fn write(
        &self,
        format: ImageFormat,
        path: &Path,
        reference: &str,
        threads: usize,
    ) -> Result<ImageReport> {
        check_reference(reference)?;
        match format {
            ImageFormat::Oci => self.write_oci_dir(path, reference),
            ImageFormat::OciArchive => self.write_oci_archive(path, reference),
            ImageFormat::DockerArchive => self.write_docker_archive(path, reference, threads),
        }?;
        Ok(ImageReport {
            format,
            path: path.to_owned(),
            digest: self.manifest_digest,
            reference: reference.to_owned(),
            layers: self.layers.len(),
            size: self.layers_size(format),
        })
    }

    /// Sum of the layer sizes as the format stores them.
    fn layers_size(&self, format: ImageFormat) -> u64 {
        let stored = |layer: &Layer| match format {
            ImageFormat::Oci | ImageFormat::OciArchive => layer.size,
            ImageFormat::DockerArchive => layer.uncompressed_size,
        };
        self.layers.iter().map(stored).sum()
    }

    /// `index.json`: the manifest and its name.
    fn index(&self, reference: &str) -> Result<Vec<u8>> {
        let size = self.manifest.len() as u64;
        let mut manifest = Descriptor::new(MANIFEST_TYPE, self.manifest_digest, size);
        manifest
            .annotations
            .insert(REF_NAME.to_owned(), reference.to_owned());
        Ok(serde_json::to_vec(&Index {
            schema_version: 2,
            media_type: INDEX_TYPE,
            manifests: [manifest],
        })?)
    }

    /// Layers by digest, each digest once.
    fn blobs(&self) -> Vec<&Layer> {
        let mut layers: Vec<&Layer> = self.layers.iter().collect();
        layers.sort_by_key(|layer| layer.digest);
        layers.dedup_by_key(|layer| layer.digest);
        layers
    }

    #[context("writing OCI directory '{}'", path.display())]
    fn write_oci_dir(&self, path: &Path, reference: &str) -> Result<()> {
        let staged = Staged::dir(path)?;
        let blobs = staged.path().join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        for layer in self.blobs() {
            let target = blobs.join(layer.digest.to_string());
            place(&layer.blob, &target, layer.size)
                .with_context(|| format!("writing layer '{}'", layer.title))?;
        }
        fs::write(blobs.join(self.config_digest.to_string()), &self.config)?;
        fs::write(blobs.join(self.manifest_digest.to_string()), &self.manifest)?;
        fs::write(staged.path().join("index.json"), self.index(reference)?)?;
        fs::write(staged.path().join("oci-layout"), LAYOUT)?;
        staged.publish()
    }

    #[context("writing OCI archive '{}'", path.display())]
    fn write_oci_archive(&self, path: &Path, reference: &str) -> Result<()> {
        let staged = Staged::file(path)?;
        let mut archive = Archive::new(staged.handle());
        // The small documents first, for whoever reads only them.
        archive.member("oci-layout", LAYOUT)?;
        archive.member("index.json", &self.index(reference)?)?;
        archive.dir("blobs")?;
        archive.dir("blobs/sha256")?;
        archive.member(&blob_name(&self.manifest_digest), &self.manifest)?;
        archive.member(&blob_name(&self.config_digest), &self.config)?;
        for layer in self.blobs() {
            archive
                .copy(&blob_name(&layer.digest), layer)
                .with_context(|| format!("writing layer '{}'", layer.title))?;
        }
        archive.finish()?;
        staged.publish()
    }

    /// The layers are plain tar files, as `docker save` makes them. They are decompressed on all
    /// threads, each to its place in the archive.
    #[context("writing docker archive '{}'", path.display())]
    fn write_docker_archive(&self, path: &Path, reference: &str, threads: usize) -> Result<()> {
        let staged = Staged::file(path)?;
        let mut archive = Archive::new(staged.handle());
        let config = format!("{}.json", self.config_digest);
        let names: Vec<String> = self
            .layers
            .iter()
            .map(|layer| format!("{}.tar", layer.diff_id))
            .collect();
        let manifest = serde_json::to_vec(&[DockerManifest {
            config: &config,
            repo_tags: [reference],
            layers: &names,
        }])?;
        archive.member("manifest.json", &manifest)?;
        archive.member(&config, &self.config)?;
        let mut layers: Vec<&Layer> = self.layers.iter().collect();
        layers.sort_by_key(|layer| layer.diff_id);
        layers.dedup_by_key(|layer| layer.diff_id);
        let mut jobs = Vec::new();
        for layer in layers {
            let name = format!("{}.tar", layer.diff_id);
            jobs.push((layer, archive.reserve(&name, layer.uncompressed_size)?));
        }
        archive.finish()?;
        unpack_layers(&jobs, staged.handle(), threads)?;
        staged.publish()
    }
}

/// Decompresses each layer to its offset in `file`.
fn unpack_layers(jobs: &[(&Layer, u64)], file: &File, threads: usize) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<anyhow::Error>> = Mutex::new(None);
    let work = || {
        while let Some(&(layer, offset)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = unpack_layer(layer, file, offset)
                .with_context(|| format!("decompressing layer '{}'", layer.title));
            if let Err(e) = result {
                next.store(jobs.len(), Ordering::Relaxed);
                if let Ok(mut failure) = failure.lock() {
                    failure.get_or_insert(e);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, jobs.len().max(1)) {
            scope.spawn(work);
        }
    });
    match failure.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(error),
        Err(_) => bail!("a decompressing thread panicked"),
    }
}

fn unpack_layer(layer: &Layer, file: &File, offset: u64) -> Result<()> {
    let mut plain = decoder(layer.compression, BlobReader::new(&layer.blob.file))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut written = 0;
    loop {
        let length = plain.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
        if written + length as u64 > layer.uncompressed_size {
            bail!("the blob holds more than {} bytes", layer.uncompressed_size);
        }
        file.write_all_at(&buffer[..length], offset + written)?;
        written += length as u64;
    }
    let diff_id = Sha256Digest::new(hasher.finish());
    if diff_id != layer.diff_id {
        bail!("the blob gives {diff_id}, not {}", layer.diff_id);
    }
    Ok(())
}

/// Writes a tar file; all offsets are multiples of the block size.
struct Archive<'a> {
    file: &'a File,
    position: u64,
}

impl<'a> Archive<'a> {
    const fn new(file: &'a File) -> Self {
        Self { file, position: 0 }
    }

    fn append(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, self.position)?;
        self.position += data.len() as u64;
        Ok(())
    }

    fn header(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let mut header = Vec::new();
        entry.write_header(&mut header);
        self.append(&header)
    }

    fn dir(&mut self, name: &str) -> io::Result<()> {
        self.header(&Entry {
            kind: Kind::Dir,
            mode: 0o755,
            ..Entry::plain(name, 0)
        })
    }

    fn member(&mut self, name: &str, data: &[u8]) -> io::Result<()> {
        let offset = self.reserve(name, data.len() as u64)?;
        self.file.write_all_at(data, offset)
    }

    fn copy(&mut self, name: &str, layer: &Layer) -> Result<()> {
        let offset = self.reserve(name, layer.size)?;
        copy_blob(&layer.blob.file, self.file, offset, layer.size)
    }

    /// Writes the header of a member and leaves room for its content, padded with zeros (a hole
    /// in the file); returns the offset of the content.
    fn reserve(&mut self, name: &str, size: u64) -> io::Result<u64> {
        self.header(&Entry::plain(name, size))?;
        let offset = self.position;
        self.position += size + padding(size) as u64;
        Ok(offset)
    }

    fn finish(mut self) -> io::Result<()> {
        self.append(&TRAILER)
    }
}

/// Copies a blob of `size` bytes to an offset of a file.
fn copy_blob(blob: &File, target: &File, offset: u64, size: u64) -> Result<()> {
    let mut reader = BlobReader::new(blob);
    let mut buffer = vec![0; BUFFER];
    let mut done = 0;
    loop {
        let length = reader.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        if done + length as u64 > size {
            bail!("the blob grew while being copied");
        }
        target.write_all_at(&buffer[..length], offset + done)?;
        done += length as u64;
    }
    if done != size {
        bail!("the blob has {done} bytes, not {size}");
    }
    Ok(())
}

/// Puts a blob at `target`: as a clone or a second name of the cached file where the file system
/// can do that, else as a copy.
fn place(blob: &Blob, target: &Path, size: u64) -> Result<()> {
    let mut file = File::create_new(target)?;
    if rustix::fs::ioctl_ficlone(file.as_fd(), blob.file.as_fd()).is_ok() {
        return Ok(());
    }
    fs::remove_file(target)?;
    if fs::hard_link(&blob.path, target).is_ok() {
        // The name may belong to another file by now.
        let (linked, mine) = (fs::symlink_metadata(target)?, blob.file.metadata()?);
        if (linked.dev(), linked.ino()) == (mine.dev(), mine.ino()) {
            return Ok(());
        }
        fs::remove_file(target)?;
    }
    file = File::create_new(target)?;
    copy_blob(&blob.file, &file, 0, size)?;
    file.flush()?;
    Ok(())
}

fn blob_name(digest: &Sha256Digest) -> String {
    format!("blobs/sha256/{digest}")
}

/// `NAME:TAG` in the letters that every tool accepts.
fn check_reference(reference: &str) -> Result<()> {
    let (name, tag) = reference.rsplit_once(':').unwrap_or((reference, ""));
    let plain = |c: char, extra: &str| c.is_ascii_alphanumeric() || extra.contains(c);
    let good = reference.len() <= 255
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| plain(c, "._-/:") && !c.is_ascii_uppercase())
        && tag.starts_with(|c: char| plain(c, "_"))
        && tag.chars().all(|c| plain(c, "._-"));
    if good {
        return Ok(());
    }
    let message = format!("'{}' is not an image name and tag", shown(reference));
    let error = Kinded::new(ErrorKind::InvalidInput, message)
        .with_hint("write NAME:TAG in lower case, such as localhost/test/minimal:latest");
    Err(anyhow!(error))
}
