//! The input hash: equal hashes give equal trees, so nothing needs to be done.

use anyhow::{Context as _, Result};
use apt_ostree_model::{Plan, Sha256Digest};
use apt_ostree_treefile::ComposeSpec;

/// Part of the hash: changes when the same inputs give another tree.
const TREE_VERSION: u32 = 1;

/// Hashes all that decides the tree: the flattened treefile without `metadata`, the files it
/// names, the content of its layers and every package by its SHA-256. Ids to keep are not part of
/// it: those of a lockfile are what the same packages got, and disagreement is looked for apart.
///
/// # Errors
/// When a file of the treefile can't be read.
pub(super) fn input_hash(spec: &ComposeSpec, plan: &Plan, layers: &[String]) -> Result<String> {
    let mut hasher = openssl::sha::Sha256::new();
    let mut add = |part: &str| {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    };
    add(&format!("{TREE_VERSION} {}", plan.arch));
    let mut treefile = spec.flattened.clone();
    if let Some(map) = treefile.as_object_mut() {
        map.remove("metadata");
    }
    add(&canonical(&treefile));
    for file in &spec.files {
        let (digest, _) = apt_ostree_fsx::sha256_file(&file.path)
            .with_context(|| format!("reading '{}'", file.path))?;
        add(&format!("{} {}", file.role, digest));
    }
    for layer in layers {
        add(layer);
    }
    let mut packages: Vec<String> = plan
        .packages
        .iter()
        .map(|p| format!("{} {} {}", p.sha256, p.auto, p.group))
        .collect();
    packages.sort();
    for package in &packages {
        add(package);
    }
    if let Some(epoch) = super::source_date_epoch()? {
        add(&epoch.to_string());
    }
    Ok(Sha256Digest::new(hasher.finish()).to_string())
}

/// JSON with sorted keys, so that the order in the treefile does not matter where it has no
/// meaning.
pub(crate) fn canonical(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let sorted: std::collections::BTreeMap<_, _> = map.iter().collect();
            let items: Vec<String> = sorted
                .iter()
                .map(|(k, v)| format!("{}:{}", Value::from(k.as_str()), canonical(v)))
                .collect();
            format!("{{{}}}", items.join(","))
        }
        Value::Array(list) => format!(
            "[{}]",
            list.iter().map(canonical).collect::<Vec<_>>().join(",")
        ),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_order_does_not_matter() {
        let a = serde_json::json!({"b": [1, {"y": 1, "x": "q\""}], "a": null});
        let b = serde_json::json!({"a": null, "b": [1, {"x": "q\"", "y": 1}]});
        assert_eq!(canonical(&a), canonical(&b));
        assert_ne!(
            canonical(&a),
            canonical(&serde_json::json!({"a": null, "b": [{"x": "q\"", "y": 1}, 1]}))
        );
    }
}
