//! What the next build needs to know of an image that was built before.
//!
//! The image may come from anywhere, so every document is limited in size, every digest is
//! checked, no link is followed, and a document that could be read in two ways is refused. Layers
//! are not opened.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use apt_ostree_model::{ErrorKind, Kinded, Sha256Digest};
use fn_error_context::context;
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::descriptor::{
    COMPONENTS, CONFIG_TYPE, Descriptor, INDEX_TYPE, LAYER_TYPE, MANIFEST_TYPE, OciDigest,
    digest_of,
};
use crate::shown;
use crate::tar::{BLOCK, padding, parse_header};

/// The largest document that is read.
const DOCUMENT_LIMIT: u64 = 4 << 20;

/// The most layers an image may have.
const LAYER_LIMIT: usize = 500;

/// The most members an archive may have.
const MEMBER_LIMIT: usize = 10_000;

/// An image that was built before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousImage {
    /// Digest of its manifest.
    pub manifest_digest: Sha256Digest,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Labels of the configuration.
    pub labels: BTreeMap<String, String>,
    /// Its layers, lowest first.
    pub layers: Vec<PreviousLayer>,
}

/// A layer of an image that was built before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousLayer {
    /// Title of its plan, from the image history; empty when the history doesn't tell.
    pub title: String,
    /// Names of the packages in it.
    pub components: Vec<String>,
    /// Media type.
    pub media_type: String,
    /// Digest of the blob.
    pub digest: Sha256Digest,
    /// Digest of the tar stream.
    pub diff_id: Sha256Digest,
    /// Size of the blob in bytes.
    pub size: u64,
}

#[derive(Deserialize)]
struct Layout {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: Option<String>,
    manifests: Vec<Descriptor>,
    layers: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
    manifests: Option<IgnoredAny>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    config: Option<RunConfig>,
    rootfs: RootFs,
    #[serde(default)]
    history: Vec<History>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RunConfig {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<OciDigest>,
}

#[derive(Deserialize)]
struct History {
    #[serde(default)]
    created_by: String,
    #[serde(default)]
    empty_layer: bool,
}

/// Reads the image in an OCI layout directory or an OCI archive; `None` when nothing is at `path`.
///
/// # Errors
/// When what is there is not a sound OCI image, or holds several.
#[context("reading image '{}'", path.display())]
pub fn read_oci_image(path: &Path) -> Result<Option<PreviousImage>> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let image = if metadata.is_dir() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        read_image(&|name| read_in_dir(&dir, name))
    } else if metadata.is_file() {
        let archive = Members::scan(File::open(path)?)?;
        read_image(&|name| archive.read(name))
    } else {
        bail!(invalid("it is neither a directory nor a file"));
    };
    image.map(Some)
}

/// Reads a member of an image by name.
type ReadMember<'a> = dyn Fn(&str) -> Result<Vec<u8>> + 'a;

fn read_image(read: &ReadMember<'_>) -> Result<PreviousImage> {
    let layout: Layout = parse("oci-layout", &read("oci-layout")?)?;
    if layout.version != "1.0.0" {
        let version = shown(&layout.version);
        bail!(invalid(format!("layout version '{version}' is unknown")));
    }
    let index: Index = parse("index.json", &read("index.json")?)?;
    check_document("index", index.schema_version, index.media_type, INDEX_TYPE)?;
    if index.layers.is_some() || index.config.is_some() {
        bail!(invalid("the index is a manifest at the same time"));
    }
    let [descriptor] = index.manifests.as_slice() else {
        let count = index.manifests.len();
        bail!(invalid(format!("it holds {count} images, not one")));
    };
    let manifest: Manifest = parse("manifest", &read_blob(read, descriptor, MANIFEST_TYPE)?)?;
    check_document(
        "manifest",
        manifest.schema_version,
        manifest.media_type,
        MANIFEST_TYPE,
    )?;
    if manifest.manifests.is_some() {
        bail!(invalid("the manifest is an index at the same time"));
    }
    let config: Config = parse("config", &read_blob(read, &manifest.config, CONFIG_TYPE)?)?;
    Ok(PreviousImage {
        manifest_digest: descriptor.digest.0,
        annotations: manifest.annotations,
        labels: config.config.and_then(|c| c.labels).unwrap_or_default(),
        layers: layers(manifest.layers, config.rootfs, &config.history)?,
    })
}

fn layers(
    descriptors: Vec<Descriptor>,
    rootfs: RootFs,
    history: &[History],
) -> Result<Vec<PreviousLayer>> {
    let count = descriptors.len();
    if count > LAYER_LIMIT {
        bail!(invalid(format!("it has more than {LAYER_LIMIT} layers")));
    }
    if rootfs.diff_ids.len() != count {
        let ids = rootfs.diff_ids.len();
        bail!(invalid(format!("it has {count} layers but {ids} diff ids")));
    }
    let titles: Vec<&str> = history
        .iter()
        .filter(|entry| !entry.empty_layer)
        .map(|entry| entry.created_by.as_str())
        .collect();
    let layer = |(index, (mut layer, diff_id)): (usize, (Descriptor, OciDigest))| {
        if !layer.media_type.starts_with(LAYER_TYPE) {
            let found = shown(&layer.media_type);
            bail!(invalid(format!("layer media type '{found}' is unknown")));
        }
        let components = layer.annotations.remove(COMPONENTS).unwrap_or_default();
        let title = titles.get(index).filter(|_| titles.len() == count);
        Ok(PreviousLayer {
            title: title.copied().unwrap_or_default().to_owned(),
            components: components
                .split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
            media_type: layer.media_type,
            digest: layer.digest.0,
            diff_id: diff_id.0,
            size: layer.size,
        })
    };
    let pairs = descriptors.into_iter().zip(rootfs.diff_ids);
    pairs.enumerate().map(layer).collect()
}

/// Reads the blob of a descriptor that must have the given media type.
fn read_blob(read: &ReadMember<'_>, descriptor: &Descriptor, media_type: &str) -> Result<Vec<u8>> {
    if descriptor.media_type != media_type {
        let found = shown(&descriptor.media_type);
        bail!(invalid(format!(
            "media type '{found}' is not '{media_type}'"
        )));
    }
    let digest = descriptor.digest.0;
    let data = read(&format!("blobs/sha256/{digest}"))?;
    if data.len() as u64 != descriptor.size {
        let (size, found) = (descriptor.size, data.len());
        bail!(invalid(format!(
            "blob {digest} has {found} bytes, not {size}"
        )));
    }
    if digest_of(&data) != digest {
        bail!(invalid(format!("blob {digest} has another digest")));
    }
    Ok(data)
}

fn check_document(what: &str, version: u32, found: Option<String>, wanted: &str) -> Result<()> {
    if version != 2 {
        bail!(invalid(format!("the {what} has schema version {version}")));
    }
    match found {
        Some(found) if found != wanted => {
            let found = shown(&found);
            bail!(invalid(format!("the {what} says that it is '{found}'")));
        }
        _ => Ok(()),
    }
}

fn parse<T: DeserializeOwned>(what: &str, data: &[u8]) -> Result<T> {
    serde_json::from_slice(data).map_err(|e| {
        let reason = shown(&e.to_string());
        invalid(format!("'{what}' is malformed: {reason}")).into()
    })
}

/// Reads a file below a directory, following no link.
fn read_in_dir(dir: &OwnedFd, name: &str) -> Result<Vec<u8>> {
    let mut parts = name.split('/').peekable();
    let mut here: Option<OwnedFd> = None;
    while let Some(part) = parts.next() {
        let mut flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if parts.peek().is_some() {
            flags |= OFlags::DIRECTORY;
        }
        let parent = here.as_ref().unwrap_or(dir);
        let next = rustix::fs::openat(parent, part, flags, Mode::empty())
            .with_context(|| format!("opening '{name}'"))?;
        here = Some(next);
    }
    let Some(file) = here.map(File::from) else {
        bail!("opening '{name}'");
    };
    if !file.metadata()?.is_file() {
        bail!(invalid(format!("'{name}' is not a regular file")));
    }
    let mut data = Vec::new();
    file.take(DOCUMENT_LIMIT + 1).read_to_end(&mut data)?;
    check_size(name, data.len() as u64)?;
    Ok(data)
}

fn check_size(name: &str, size: u64) -> Result<()> {
    if size > DOCUMENT_LIMIT {
        bail!(invalid(format!(
            "'{}' is larger than {DOCUMENT_LIMIT} bytes",
            shown(name)
        )));
    }
    Ok(())
}

/// The regular files of a tar archive: where they start and how long they are.
struct Members {
    file: File,
    places: BTreeMap<String, (u64, u64)>,
}

impl Members {
    /// Goes from header to header; skips what can't hold a document of an image.
    fn scan(file: File) -> Result<Self> {
        let length = file.metadata()?.len();
        let mut places = BTreeMap::new();
        let mut position = 0;
        for _ in 0..MEMBER_LIMIT {
            let mut block = [0; BLOCK];
            if position == length {
                return Ok(Self { file, places });
            }
            file.read_exact_at(&mut block, position)
                .map_err(|_| invalid(format!("the archive is cut at byte {position}")))?;
            let member = parse_header(&block)
                .map_err(|problem| invalid(format!("the header at byte {position} {problem}")))?;
            let Some(member) = member else {
                return Ok(Self { file, places });
            };
            let start = position + BLOCK as u64;
            let end = start.checked_add(member.size).filter(|&end| end <= length);
            let Some(end) = end else {
                bail!(invalid(format!("the member at byte {position} is cut")));
            };
            if member.is_file {
                let name = member.name.trim_start_matches("./").to_owned();
                if places.insert(name, (start, member.size)).is_some() {
                    let name = shown(&member.name);
                    bail!(invalid(format!("it has two members '{name}'")));
                }
            }
            position = end + padding(member.size) as u64;
        }
        bail!(invalid(format!("it has more than {MEMBER_LIMIT} members")));
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let Some(&(start, size)) = self.places.get(name) else {
            bail!(invalid(format!("'{name}' is missing")));
        };
        check_size(name, size)?;
        let mut data = vec![0; size as usize];
        self.file
            .read_exact_at(&mut data, start)
            .with_context(|| format!("reading '{name}'"))?;
        Ok(data)
    }
}

fn invalid(message: impl Into<String>) -> Kinded {
    Kinded::new(ErrorKind::InvalidInput, message)
}
