//! Manifest and configuration of an image, read and checked.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use apt_ostree_fsx::escape_cut;
use apt_ostree_model::Sha256Digest;
use serde::Deserialize;

use super::malformed;

/// No manifest and no configuration is larger, in bytes.
pub(crate) const MAX_DOCUMENT: u64 = 8 << 20;
/// Layers of an image.
const MAX_LAYERS: usize = 2000;
/// Bytes of one layer as it is transferred.
const MAX_LAYER_SIZE: u64 = 32 << 30;
/// Names the last layer that holds objects of an OSTree commit.
const FINAL_LAYER_LABELS: [&str; 2] = ["ostree.final-diffid", "ostree.diffid"];
const VERSION_LABELS: [&str; 2] = ["org.opencontainers.image.version", "version"];
const CREATED: &str = "org.opencontainers.image.created";

/// An image as its manifest and configuration describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteImage {
    /// The manifest as it was served.
    pub manifest: String,
    /// Its digest.
    pub digest: Sha256Digest,
    /// The configuration as it was served.
    pub config: String,
    /// Its digest.
    pub config_digest: Sha256Digest,
    /// Its layers, lowest first.
    pub layers: Vec<RemoteLayer>,
    /// Labels of the configuration.
    pub labels: BTreeMap<String, String>,
    /// When it was made, in seconds since 1970.
    pub created: Option<u64>,
    /// Architecture in the words of the OCI specification.
    pub architecture: String,
    /// How many of the first layers hold one OSTree commit; 0: none.
    encapsulated: usize,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteLayer {
    /// Digest of the blob.
    pub digest: Sha256Digest,
    /// Digest of the tar stream in it.
    pub diff_id: Sha256Digest,
    /// Bytes of the blob.
    pub size: u64,
}

/// What is in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// An OSTree commit and its directories.
    Commit,
    /// Contents of that commit.
    Chunk,
    /// Files.
    Files,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    config: Blob,
    layers: Vec<Blob>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct Blob {
    digest: String,
    size: u64,
}

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    created: Option<String>,
    architecture: String,
    os: String,
    #[serde(default)]
    config: Option<RunConfig>,
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
struct RunConfig {
    #[serde(rename = "Labels", default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

impl RemoteImage {
    /// Reads a manifest and its configuration; `digest` is the one that the manifest was served
    /// under.
    ///
    /// # Errors
    /// When one of them is malformed, or they don't fit together.
    pub fn parse(digest: &str, manifest: &[u8], config: &[u8]) -> Result<Self> {
        let image = Self::read(digest, manifest, config);
        image.context("reading the manifest of the image")
    }

    fn read(digest: &str, manifest: &[u8], config: &[u8]) -> Result<Self> {
        let document: Manifest = parsed("manifest", manifest)?;
        let details: Config = parsed("configuration", config)?;
        if document.schema_version != 2 {
            let version = document.schema_version;
            return Err(malformed(format!("schema version {version} is not known")).into());
        }
        if details.os != "linux" {
            let os = escape_cut(&details.os, 40);
            return Err(malformed(format!("the image is for '{os}', not linux")).into());
        }
        let config_digest = parse_digest(&document.config.digest)?;
        if Sha256Digest::new(openssl::sha::sha256(config)) != config_digest {
            let message = format!("the configuration is not {}", config_digest.to_oci());
            return Err(super::rejected(message).into());
        }
        let layers = layers(&document.layers, &details.rootfs.diff_ids)?;
        let labels = details.config.and_then(|c| c.labels).unwrap_or_default();
        let annotation = document.annotations.as_ref().and_then(|a| a.get(CREATED));
        let created = annotation.or(details.created.as_ref());
        Ok(Self {
            manifest: text("manifest", manifest)?,
            digest: parse_digest(digest)?,
            config: text("configuration", config)?,
            config_digest,
            encapsulated: encapsulated(&labels, &layers)?,
            layers,
            labels,
            created: created.and_then(|text| seconds(text)),
            architecture: details.architecture,
        })
    }

    /// What layer number `index` holds.
    pub const fn kind(&self, index: usize) -> LayerKind {
        match index {
            _ if index >= self.encapsulated => LayerKind::Files,
            0 => LayerKind::Commit,
            _ => LayerKind::Chunk,
        }
    }

    /// Whether the first layers hold an OSTree commit.
    pub const fn is_encapsulated(&self) -> bool {
        self.encapsulated > 0
    }

    /// The version in its labels.
    pub fn version(&self) -> Option<&str> {
        let label = |name: &&str| self.labels.get(*name);
        VERSION_LABELS.iter().find_map(label).map(String::as_str)
    }

    /// Whether its labels say that it can be booted.
    pub fn is_bootable(&self) -> bool {
        ["containers.bootc", "ostree.bootable"]
            .iter()
            .any(|name| self.labels.contains_key(*name))
    }
}

/// Digest and size of the configuration that a manifest names.
pub(crate) fn config_of(manifest: &[u8]) -> Result<(Sha256Digest, u64)> {
    let document: Manifest = parsed("manifest", manifest)?;
    Ok((parse_digest(&document.config.digest)?, document.config.size))
}

fn layers(blobs: &[Blob], diff_ids: &[String]) -> Result<Vec<RemoteLayer>> {
    if blobs.is_empty() {
        return Err(malformed("the image has no layers").into());
    }
    if blobs.len() > MAX_LAYERS {
        let count = blobs.len();
        return Err(malformed(format!(
            "the image has {count} layers, at most {MAX_LAYERS}"
        ))
        .into());
    }
    if blobs.len() != diff_ids.len() {
        let (layers, ids) = (blobs.len(), diff_ids.len());
        let message = format!("the manifest has {layers} layers, the configuration {ids}");
        return Err(malformed(message).into());
    }
    let layer = |(blob, diff_id): (&Blob, &String)| {
        if blob.size > MAX_LAYER_SIZE {
            let size = blob.size;
            return Err(malformed(format!("a layer of {size} bytes is too large")).into());
        }
        let layer = RemoteLayer {
            digest: parse_digest(&blob.digest)?,
            diff_id: parse_digest(diff_id)?,
            size: blob.size,
        };
        Ok(layer)
    };
    let layers: Result<Vec<RemoteLayer>> = blobs.iter().zip(diff_ids).map(layer).collect();
    let layers = layers?;
    // One blob has one content; the same layer twice is fine.
    let mut content = BTreeMap::new();
    for layer in &layers {
        if *content.entry(layer.digest).or_insert(layer.diff_id) != layer.diff_id {
            let digest = layer.digest.to_oci();
            return Err(malformed(format!("layer {digest} stands for two contents")).into());
        }
    }
    Ok(layers)
}

fn encapsulated(labels: &BTreeMap<String, String>, layers: &[RemoteLayer]) -> Result<usize> {
    let label = FINAL_LAYER_LABELS.iter().find_map(|l| labels.get(*l));
    let Some(label) = label else {
        return Ok(0);
    };
    let last = parse_digest(label)?;
    let at = layers.iter().position(|layer| layer.diff_id == last);
    let at = at.ok_or_else(|| {
        let last = last.to_oci();
        malformed(format!(
            "the last layer of its OSTree commit, {last}, is missing"
        ))
    })?;
    Ok(at + 1)
}

fn parsed<'d, T: Deserialize<'d>>(what: &str, data: &'d [u8]) -> Result<T> {
    let error = |e: serde_json::Error| {
        let reason = escape_cut(&e.to_string(), 200);
        malformed(format!("the {what} is malformed: {reason}"))
    };
    Ok(serde_json::from_slice(data).map_err(error)?)
}

fn text(what: &str, data: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(data)
        .ok()
        .filter(|text| !text.contains('\0'));
    let text = text.ok_or_else(|| malformed(format!("the {what} is not UTF-8 text")))?;
    Ok(text.to_owned())
}

/// A digest of the only algorithm that is in use.
pub(crate) fn parse_digest(text: &str) -> Result<Sha256Digest> {
    let digest = text.strip_prefix("sha256:").and_then(|d| d.parse().ok());
    Ok(digest.ok_or_else(|| {
        let shown = escape_cut(text, 100);
        malformed(format!("'{shown}' is not a SHA-256 digest"))
    })?)
}

/// Seconds since 1970 of a date; what is no date says nothing.
fn seconds(text: &str) -> Option<u64> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const A: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const B: &str = "sha256:01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b";

    fn image(change: impl FnOnce(&mut Value, &mut Value)) -> Result<RemoteImage> {
        let mut config = json!({
            "created": "2026-01-01T00:00:00Z", "architecture": "amd64", "os": "linux",
            "config": {"Labels": {"org.opencontainers.image.version": "1.2"}},
            "rootfs": {"type": "layers", "diff_ids": [A, B]}
        });
        let mut manifest = json!({
            "schemaVersion": 2, "config": {"digest": "", "size": 1},
            "layers": [{"digest": A, "size": 1}, {"digest": B, "size": 2}]
        });
        change(&mut manifest, &mut config);
        let config = serde_json::to_vec(&config)?;
        if manifest["config"]["digest"] == "" {
            let digest = Sha256Digest::new(openssl::sha::sha256(&config));
            manifest["config"]["digest"] = digest.to_oci().into();
        }
        RemoteImage::parse(A, &serde_json::to_vec(&manifest)?, &config)
    }

    #[test]
    fn a_plain_image_has_layers_of_files() {
        let image = image(|_, _| ()).unwrap();
        assert_eq!(image.version(), Some("1.2"));
        assert_eq!(image.created, Some(1_767_225_600));
        assert_eq!(image.kind(0), LayerKind::Files);
        assert!(!image.is_encapsulated() && !image.is_bootable());
    }

    #[test]
    fn the_label_tells_where_the_commit_ends() {
        let label = |at: &'static str| {
            image(move |_, config| config["config"]["Labels"]["ostree.final-diffid"] = at.into())
        };
        let image = label(A).unwrap();
        assert_eq!(image.kind(0), LayerKind::Commit);
        assert_eq!(image.kind(1), LayerKind::Files);
        assert_eq!(label(B).unwrap().kind(1), LayerKind::Chunk);
        let absent = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
        assert!(label(absent).is_err());
    }

    #[test]
    fn what_can_not_be_is_refused() {
        type Change = fn(&mut Value, &mut Value);
        let bad: [Change; 10] = [
            |m, _| m["schemaVersion"] = 1.into(),
            |m, _| m["layers"] = json!([]),
            |m, _| m["layers"][0]["digest"] = "sha256:../../etc".into(),
            |m, _| m["layers"][0]["digest"] = "sha512:00".into(),
            |m, _| m["layers"][0]["size"] = (-1).into(),
            |m, _| m["layers"][0]["size"] = u64::MAX.into(),
            |m, _| m["layers"][1]["digest"] = A.into(),
            |m, _| m["config"]["digest"] = B.into(),
            |_, c| c["rootfs"]["diff_ids"] = json!([A]),
            |_, c| c["os"] = "windows".into(),
        ];
        for (at, change) in bad.into_iter().enumerate() {
            assert!(image(change).is_err(), "{at}");
        }
    }
}
