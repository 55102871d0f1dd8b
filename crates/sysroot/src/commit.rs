//! What a commit says about itself.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use apt_ostree_model::status::LayerRecord;
use camino::Utf8Path;
use ostree::glib::{Variant, VariantClass, VariantDict};
use ostree::{ObjectType, Repo, RepoCommitState, gio};
use serde_json::Value;

use crate::error;
use crate::system::Sysroot;

/// Lists that are no part of a status: they are long, and `db` shows them.
const LONG: [&str; 8] = [
    "aptostree.dpkg.pkglist",
    "aptostree.repos",
    "aptostree.clientlayer",
    "rpmostree.rpmdb.pkglist",
    "rpmostree.advisories",
    "rpmostree.spec",
    "ostree.manifest",
    "ostree.container.image-config",
];
/// Key of the package list of composed and layered commits.
const PACKAGE_LIST: &str = "aptostree.dpkg.pkglist";
/// Key of the configuration of an image, whose labels may have the version.
const IMAGE_CONFIG: &str = "ostree.container.image-config";
/// Values nest no deeper than this.
const MAX_DEPTH: usize = 16;

/// A commit, without its tree.
#[derive(Debug, Clone)]
pub struct CommitInfo {
    /// Its checksum.
    pub checksum: String,
    /// When it was made, in seconds since 1970.
    pub timestamp: u64,
    /// `version` of its metadata.
    pub version: Option<String>,
    /// The commit before it.
    pub parent: Option<String>,
    /// Its layers, when it was made on a system; its parent is the base then.
    pub layers: Option<LayerRecord>,
    /// Whether all its objects are there, as far as libostree knows.
    pub complete: bool,
    metadata: Variant,
}

impl CommitInfo {
    /// The commit below its layers, or itself.
    pub fn base(&self) -> &str {
        match (&self.layers, &self.parent) {
            (Some(_), Some(parent)) => parent,
            _ => &self.checksum,
        }
    }

    /// A string of its metadata.
    pub fn string(&self, key: &str) -> Option<String> {
        VariantDict::new(Some(&self.metadata))
            .lookup(key)
            .ok()
            .flatten()
    }

    /// Its metadata, without lists that are long.
    pub fn metadata(&self) -> BTreeMap<String, Value> {
        let mut metadata = BTreeMap::new();
        for entry in self.metadata.iter() {
            let key = entry.child_value(0).str().unwrap_or_default().to_owned();
            if !LONG.contains(&key.as_str()) {
                metadata.insert(key, json(&entry.child_value(1), 0));
            }
        }
        metadata
    }

    /// Its packages as name, version and architecture; `None` when the commit has no list.
    pub fn packages(&self) -> Option<Vec<(String, String, String)>> {
        let list: Vec<(String, String, String, String, String)> =
            VariantDict::new(Some(&self.metadata))
                .lookup(PACKAGE_LIST)
                .ok()
                .flatten()?;
        let package =
            |(name, epoch, upstream, revision, arch): (String, String, String, String, String)| {
                let mut version = upstream;
                if !matches!(epoch.as_str(), "" | "0") {
                    version = format!("{epoch}:{version}");
                }
                if !revision.is_empty() {
                    version = format!("{version}-{revision}");
                }
                (name, version, arch)
            };
        Some(list.into_iter().map(package).collect())
    }
}

impl Sysroot {
    /// Reads a commit of this system; `None` when it is not there.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn commit_optional(&self, checksum: &str) -> Result<Option<CommitInfo>> {
        load_optional(&self.repo(), checksum)
    }

    /// Reads a commit of this system.
    ///
    /// # Errors
    /// When it is not there or can't be read.
    pub fn commit(&self, checksum: &str) -> Result<CommitInfo> {
        self.commit_optional(checksum)?
            .with_context(|| format!("commit {checksum} is missing"))
    }

    /// The commit that a ref or checksum names; `None` when there is none.
    ///
    /// # Errors
    /// When it is malformed, or the repository can't be read.
    pub fn resolve_ref(&self, name: &str) -> Result<Option<String>> {
        let checksum = self
            .repo()
            .resolve_rev(name, true)
            .map_err(|e| error::ostree(&e))
            .with_context(|| format!("resolving '{}'", apt_ostree_fsx::escape_cut(name, 120)))?;
        Ok(checksum.map(Into::into))
    }
}

/// Reads the commit that a ref or checksum names in any repository.
///
/// # Errors
/// When there is no such repository or commit, or it can't be read.
pub fn load_commit(repo: &Utf8Path, revision: &str) -> Result<CommitInfo> {
    let shown = || apt_ostree_fsx::escape_cut(revision, 120);
    let handle = Repo::new_for_path(repo);
    let commit = handle
        .open(gio::Cancellable::NONE)
        .and_then(|()| handle.resolve_rev(revision, false))
        .map_err(|e| error::invalid(apt_ostree_fsx::escape(e.message())))
        .with_context(|| format!("resolving '{}' in repository '{repo}'", shown()))?;
    let commit = commit.map(|checksum| load_optional(&handle, &checksum));
    commit
        .transpose()?
        .flatten()
        .with_context(|| format!("commit '{}' is missing in repository '{repo}'", shown()))
}

pub(crate) fn load_optional(repo: &Repo, checksum: &str) -> Result<Option<CommitInfo>> {
    let failed = |e| error::ostree(&e);
    let there = repo
        .has_object(ObjectType::Commit, checksum, gio::Cancellable::NONE)
        .map_err(failed)?;
    if !there {
        return Ok(None);
    }
    let (commit, state) = repo
        .load_commit(checksum)
        .map_err(failed)
        .with_context(|| format!("reading commit {checksum}"))?;
    let metadata = commit.child_value(0);
    let dict = VariantDict::new(Some(&metadata));
    let text = |key: &str| dict.lookup::<String>(key).ok().flatten();
    let layers = text(LayerRecord::KEY)
        .map(|record| serde_json::from_str(&record))
        .transpose()
        .with_context(|| format!("reading the layers of commit {checksum}"))?;
    Ok(Some(CommitInfo {
        checksum: checksum.to_owned(),
        timestamp: ostree::commit_get_timestamp(&commit),
        version: text("version").or_else(|| image_version(&text(IMAGE_CONFIG)?)),
        parent: ostree::commit_get_parent(&commit).map(Into::into),
        layers,
        complete: state == RepoCommitState::NORMAL,
        metadata,
    }))
}

/// The version in the labels of an image's configuration.
fn image_version(config: &str) -> Option<String> {
    let config: Value = serde_json::from_str(config).ok()?;
    let labels = config.get("config")?.get("Labels")?;
    let version = labels.get("org.opencontainers.image.version")?;
    version.as_str().map(str::to_owned)
}

/// A value of commit metadata as JSON.
fn json(value: &Variant, depth: usize) -> Value {
    if depth > MAX_DEPTH {
        return Value::Null;
    }
    let children = || value.iter().map(|v| json(&v, depth + 1));
    match value.classify() {
        VariantClass::Boolean => value.get::<bool>().into(),
        VariantClass::Byte => value.get::<u8>().into(),
        VariantClass::Int16 => value.get::<i16>().into(),
        VariantClass::Uint16 => value.get::<u16>().into(),
        VariantClass::Int32 => value.get::<i32>().into(),
        VariantClass::Uint32 => value.get::<u32>().into(),
        VariantClass::Int64 => value.get::<i64>().into(),
        VariantClass::Uint64 => value.get::<u64>().into(),
        VariantClass::Double => value.get::<f64>().into(),
        VariantClass::String | VariantClass::ObjectPath | VariantClass::Signature => {
            value.str().into()
        }
        VariantClass::Variant => value
            .as_variant()
            .map_or(Value::Null, |inner| json(&inner, depth + 1)),
        VariantClass::Maybe => value
            .as_maybe()
            .map_or(Value::Null, |inner| json(&inner, depth + 1)),
        VariantClass::Array if value.type_().element().is_dict_entry() => {
            let entry = |entry: Variant| {
                let key = entry.child_value(0);
                let name = key
                    .str()
                    .map_or_else(|| key.print(false).into(), str::to_owned);
                (name, json(&entry.child_value(1), depth + 1))
            };
            value
                .iter()
                .map(entry)
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        _ => children().collect::<Vec<_>>().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_becomes_plain_json() {
        let text = "{'a': <uint64 7>, 'b': <['x', 'y']>, 'c': <{'d': <true>}>, 'e': <(1, 's')>, 'f': <@ms nothing>}";
        let value = Variant::parse(None, text).unwrap();
        let expected = serde_json::json!({
            "a": 7, "b": ["x", "y"], "c": {"d": true}, "e": [1, "s"], "f": null
        });
        assert_eq!(json(&value, 0), expected);
    }
}
