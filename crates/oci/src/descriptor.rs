//! Digests and descriptors as OCI documents write them.

use std::collections::BTreeMap;

use apt_ostree_model::Sha256Digest;
use apt_ostree_model::compose::Compression;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// Annotation of a manifest in an index: its name and tag.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Annotation of a layer: names of its packages, sorted and comma-joined.
pub(crate) const COMPONENTS: &str = "ostree.components";

/// The media type of a layer.
pub(crate) const fn layer_type(compression: Compression) -> &'static str {
    match compression {
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        Compression::None => LAYER_TYPE,
    }
}

/// A digest that JSON carries as `sha256:` and hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OciDigest(pub(crate) Sha256Digest);

impl Serialize for OciDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_oci())
    }
}

impl<'de> Deserialize<'de> for OciDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.strip_prefix("sha256:")
            .and_then(|hex| hex.parse().ok())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("a digest is not sha256 and 64 hex digits"))
    }
}

/// A blob and what it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: OciDigest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Sha256Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: OciDigest(digest),
            size,
            annotations: BTreeMap::new(),
        }
    }
}

/// The SHA-256 of `data`.
pub(crate) fn digest_of(data: &[u8]) -> Sha256Digest {
    Sha256Digest::new(openssl::sha::sha256(data))
}
