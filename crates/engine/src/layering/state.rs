//! The digest of all that decides a layered commit.

use anyhow::Result;

use super::LayerJob;
use super::solve::Chosen;
use crate::compose::inputs::canonical;

/// Part of the digest: changes when the same inputs give another commit.
const LAYER_VERSION: u32 = 1;

/// SHA-512 in hexadecimal over base, requests, overrides, initramfs and the packages themselves.
pub(super) fn digest(job: &LayerJob<'_>, chosen: &Chosen) -> Result<String> {
    let sorted = |texts: &[String]| {
        let mut texts = texts.to_vec();
        texts.sort();
        texts
    };
    let packages = &chosen.additions.plan.packages;
    let mut packages: Vec<String> = packages
        .iter()
        .map(|p| format!("{} {} {}", p.id(), p.sha256, p.auto))
        .collect();
    packages.sort();
    let is_frozen = |text: &&String| {
        let name = text.split('/').next().unwrap_or_default();
        job.freeze.iter().any(|frozen| frozen == name)
    };
    let replace = job.replace.iter().filter(|text| !is_frozen(text));
    let replace: Vec<String> = replace.cloned().collect();
    let mut value = serde_json::json!({
        "version": LAYER_VERSION,
        "base": job.base,
        "packages": sorted(job.packages),
        "local": chosen.local,
        "remove": sorted(job.remove),
        "replace": sorted(&replace),
        "initramfs": [job.initramfs.regenerate.to_string(), job.initramfs.args.join("\n")],
        "plan": packages,
        "epoch": crate::compose::source_date_epoch()?,
    });
    if !chosen.replacing.is_empty() {
        value["replacing"] = serde_json::json!(chosen.replacing);
    }
    Ok(hex::encode(openssl::sha::sha512(
        canonical(&value).as_bytes(),
    )))
}
