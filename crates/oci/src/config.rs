//! The image configuration and the manifest.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use apt_ostree_model::{Arch, ErrorKind, Kinded, Sha256Digest};
use fn_error_context::context;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cache::Layer;
use crate::descriptor::{CONFIG_TYPE, Descriptor, MANIFEST_TYPE, OciDigest, digest_of};
use crate::shown;

/// Labels whose meaning is ours to decide.
const RESERVED_LABELS: [&str; 3] = ["ostree.", "containers.bootc", "apt-ostree."];

/// What an image says about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageConfig {
    /// Architecture.
    pub arch: Arch,
    /// Creation time in seconds since 1970.
    pub created: i64,
    /// Who made it.
    pub author: Option<String>,
    /// Labels of the configuration.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// What a container runs; empty: nothing is said.
    pub cmd: Vec<String>,
    /// Environment as `NAME=VALUE`.
    pub env: Vec<String>,
    /// An object to merge over the `config` object: its `Labels` join the others, every other key
    /// replaces what is there, `null` removes it.
    pub user_config: Option<Value>,
}

/// An image: its documents and its layers, ready to be written.
#[derive(Debug, Clone)]
pub struct Image {
    /// The configuration document.
    pub config: Vec<u8>,
    /// Its digest, which every format shares.
    pub config_digest: Sha256Digest,
    /// The OCI manifest.
    pub manifest: Vec<u8>,
    /// Its digest.
    pub manifest_digest: Sha256Digest,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
}

/// The configuration document in the order of its specification.
#[derive(Debug, Serialize)]
struct ConfigDocument<'a> {
    created: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<&'a str>,
    architecture: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<&'a str>,
    os: &'a str,
    config: RunConfig,
    rootfs: RootFs,
    history: Vec<History<'a>>,
}

#[derive(Debug, Serialize)]
struct RootFs {
    r#type: &'static str,
    diff_ids: Vec<OciDigest>,
}

#[derive(Debug, Serialize)]
struct History<'a> {
    created: &'a str,
    created_by: &'a str,
}

/// The `config` object: how to run the image.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RunConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exposed_ports: BTreeMap<String, Empty>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    entrypoint: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cmd: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    volumes: BTreeMap<String, Empty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_dir: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<String>,
    /// Keys of newer tools.
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

/// `{}`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Empty {}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ManifestDocument<'a> {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

impl ImageConfig {
    /// The image of `layers`, lowest first.
    ///
    /// # Errors
    /// When the user's object is no `config` object or sets a reserved label, or the creation
    /// time can't be written as a date.
    #[context("making the image configuration")]
    pub fn build(&self, layers: Vec<Layer>) -> Result<Image> {
        let created = jiff::Timestamp::from_second(self.created)
            .with_context(|| format!("{} seconds is no date", self.created))?
            .to_string();
        let (architecture, variant) = self.arch.oci();
        let history = layers.iter().map(|layer| History {
            created: &created,
            created_by: &layer.title,
        });
        let config = serde_json::to_vec(&ConfigDocument {
            created: &created,
            author: self.author.as_deref(),
            architecture,
            variant,
            os: "linux",
            config: self.run_config()?,
            rootfs: RootFs {
                r#type: "layers",
                diff_ids: layers.iter().map(|l| OciDigest(l.diff_id)).collect(),
            },
            history: history.collect(),
        })?;
        let config_digest = digest_of(&config);
        let manifest = serde_json::to_vec(&ManifestDocument {
            schema_version: 2,
            media_type: MANIFEST_TYPE,
            config: Descriptor::new(CONFIG_TYPE, config_digest, config.len() as u64),
            layers: layers.iter().map(Layer::descriptor).collect(),
            annotations: &self.annotations,
        })?;
        Ok(Image {
            config,
            config_digest,
            manifest_digest: digest_of(&manifest),
            manifest,
            layers,
        })
    }

    fn run_config(&self) -> Result<RunConfig> {
        let base = RunConfig {
            env: self.env.clone(),
            cmd: self.cmd.clone(),
            labels: self.labels.clone(),
            ..RunConfig::default()
        };
        let Some(user) = &self.user_config else {
            return Ok(base);
        };
        let Value::Object(user) = user else {
            bail!(invalid("the image config is not a JSON object"));
        };
        let mut merged = match serde_json::to_value(base)? {
            Value::Object(object) => object,
            _ => Map::new(),
        };
        for (key, value) in user {
            merge_key(&mut merged, key, value)?;
        }
        serde_json::from_value(Value::Object(merged))
            .map_err(|e| invalid(format!("the image config is not valid: {e}")).into())
    }
}

fn merge_key(merged: &mut Map<String, Value>, key: &str, value: &Value) -> Result<()> {
    match value {
        Value::Null => {
            merged.shift_remove(key);
        }
        Value::Object(labels) if key == "Labels" => {
            let here = merged
                .entry(key)
                .or_insert_with(|| Value::Object(Map::new()));
            for (name, text) in labels {
                if RESERVED_LABELS.iter().any(|r| name.starts_with(r)) {
                    let name = shown(name);
                    bail!(invalid(format!(
                        "the image config sets the reserved label '{name}'"
                    )));
                }
                here[name] = text.clone();
            }
        }
        _ => {
            merged.insert(key.to_owned(), value.clone());
        }
    }
    Ok(())
}

fn invalid(message: impl Into<String>) -> Kinded {
    Kinded::new(ErrorKind::InvalidInput, message)
}
