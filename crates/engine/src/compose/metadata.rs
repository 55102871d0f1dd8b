//! Commit metadata, under the keys that rpm-ostree's readers know, and ours.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use apt_ostree_model::compose::{CommitOptions, PackageDiff};
use apt_ostree_model::{ErrorKind, Kinded, Plan, PlannedPackage, Version};
use apt_ostree_store::{CommitTree, MetaValue};
use apt_ostree_treefile::ComposeSpec;
use apt_ostree_treefile::spec::MetadataPlacement;

/// Key of the input hash.
pub(super) const INPUT_HASH: &str = "aptostree.inputhash";
/// Key of the package list: (name, epoch, upstream version, revision, architecture) each, the
/// shape of `rpmostree.rpmdb.pkglist`.
pub(crate) const PACKAGE_LIST: &str = "aptostree.dpkg.pkglist";
/// Key of the package indices that were used.
pub(crate) const REPOS: &str = "aptostree.repos";

/// Keys that only we may set.
const RESERVED: [&str; 4] = ["aptostree.", "ostree.", "rpmostree.", "version"];

/// What the metadata is made of.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// The treefile.
    pub(super) spec: &'a ComposeSpec,
    /// The packages.
    pub(super) plan: &'a Plan,
    /// The input hash.
    pub(super) inputhash: &'a str,
    /// The version, if any.
    pub(super) version: Option<&'a str>,
    /// Kernel version, if there is a kernel.
    pub(super) kernel: Option<&'a str>,
}

/// Metadata of a commit: what goes into it and what beside it.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    /// Part of the commit.
    pub(super) inline: BTreeMap<String, MetaValue>,
    /// Detached.
    pub(super) detached: BTreeMap<String, MetaValue>,
}

/// Collects the metadata of a commit.
///
/// # Errors
/// When a metadata file can't be read or sets a reserved key.
pub(super) fn collect(facts: &Facts<'_>, options: &CommitOptions) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    let mut user = BTreeMap::new();
    for (key, value) in &facts.spec.add_commit_metadata {
        user.insert(key.clone(), value.clone());
    }
    for path in &options.add_metadata_from_json {
        user.extend(load_json(path)?);
    }
    for (key, value) in &options.add_metadata_strings {
        user.insert(key.clone(), serde_json::Value::from(value.as_str()));
    }
    for (key, value) in user {
        refuse_reserved(&key)?;
        metadata.inline.insert(key, MetaValue::Json(value));
    }
    let inline = &mut metadata.inline;
    inline.insert(
        INPUT_HASH.to_owned(),
        MetaValue::String(facts.inputhash.to_owned()),
    );
    inline.insert(
        PACKAGE_LIST.to_owned(),
        MetaValue::PackageList(facts.plan.packages.iter().map(five_strings).collect()),
    );
    if let Some(version) = facts.version {
        inline.insert("version".to_owned(), MetaValue::String(version.to_owned()));
    }
    if let Some(kernel) = facts.kernel {
        inline.insert("ostree.bootable".to_owned(), MetaValue::Bool(true));
        inline.insert(
            "ostree.linux".to_owned(),
            MetaValue::String(kernel.to_owned()),
        );
    }
    if let Some(cmd) = &facts.spec.container_cmd {
        inline.insert(
            "ostree.container-cmd".to_owned(),
            MetaValue::Strings(cmd.clone()),
        );
    }
    let repos = MetaValue::Json(repos(facts.plan));
    match facts.spec.repo_metadata {
        MetadataPlacement::Inline => drop(metadata.inline.insert(REPOS.to_owned(), repos)),
        MetadataPlacement::Detached => drop(metadata.detached.insert(REPOS.to_owned(), repos)),
        MetadataPlacement::Disabled => {}
    }
    Ok(metadata)
}

fn load_json(path: &std::path::Path) -> Result<BTreeMap<String, serde_json::Value>> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("reading '{name}'"))?;
    serde_json::from_str(&text).map_err(|error| {
        Kinded::new(
            ErrorKind::InvalidInput,
            format!("'{name}' is not a JSON object: {error}"),
        )
        .into()
    })
}

fn refuse_reserved(key: &str) -> Result<()> {
    if !RESERVED.iter().any(|r| {
        if r.ends_with('.') {
            key.starts_with(r)
        } else {
            key == *r
        }
    }) {
        return Ok(());
    }
    let message = format!("commit metadata key '{key}' is reserved");
    Err(Kinded::new(ErrorKind::InvalidInput, message)
        .with_hint("choose a key with a prefix of your own")
        .into())
}

/// The package indices that were used.
pub(crate) fn repos(plan: &Plan) -> serde_json::Value {
    plan.sources
        .iter()
        .map(|s| serde_json::json!({"id": s.repo, "suite": s.suite, "codename": s.codename, "timestamp": s.date}))
        .collect()
}

/// Name, epoch, upstream version, revision and architecture.
fn five_strings(package: &PlannedPackage) -> [String; 5] {
    parted(
        package.name.as_str(),
        &package.version,
        package.arch.as_str(),
    )
}

/// Name, epoch, upstream version, revision and architecture.
pub(crate) fn parted(name: &str, version: &Version, arch: &str) -> [String; 5] {
    let full = version;
    let version = version.as_str();
    let epoch = version.split_once(':').map_or("0", |(epoch, _)| epoch);
    let rest = full.without_epoch();
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    [
        name.to_owned(),
        epoch.to_owned(),
        upstream.to_owned(),
        revision.to_owned(),
        arch.to_owned(),
    ]
}

/// Joins what [`PACKAGE_LIST`] parted.
fn full_version(epoch: &str, upstream: &str, revision: &str) -> String {
    let epoch = if epoch == "0" {
        String::new()
    } else {
        format!("{epoch}:")
    };
    let revision = if revision.is_empty() {
        String::new()
    } else {
        format!("-{revision}")
    };
    format!("{epoch}{upstream}{revision}")
}

/// What changed from the packages of `parent` to those of `plan`, by name.
pub(super) fn package_diff(parent: Option<&CommitTree>, plan: &Plan) -> Vec<PackageDiff> {
    let Some(list) = parent.and_then(|p| p.package_list(PACKAGE_LIST)) else {
        return Vec::new();
    };
    let mut diff: BTreeMap<(String, String), PackageDiff> = BTreeMap::new();
    for [name, epoch, upstream, revision, arch] in list {
        let previous = Some((full_version(&epoch, &upstream, &revision), arch.clone()));
        diff.insert(
            (name.clone(), arch),
            PackageDiff {
                name,
                previous,
                new: None,
            },
        );
    }
    for package in &plan.packages {
        let name = package.name.to_string();
        let key = (name.clone(), package.arch.to_string());
        let entry = diff.entry(key).or_insert(PackageDiff {
            name,
            previous: None,
            new: None,
        });
        entry.new = Some((package.version.to_string(), package.arch.to_string()));
    }
    diff.into_values().filter(|d| d.previous != d.new).collect()
}

/// The compose result in rpm-ostree's JSON shape (`--write-composejson-to`).
pub(super) fn compose_json(report: &apt_ostree_model::compose::ComposeReport) -> serde_json::Value {
    let stats = &report.stats;
    let timestamp = jiff::Timestamp::from_second(report.timestamp)
        .map(|t| t.to_string())
        .unwrap_or_default();
    let mut json = serde_json::json!({
        "ostree-commit": report.commit,
        "ostree-content-checksum": report.content_checksum,
        "ostree-timestamp": timestamp,
        "ostree-n-metadata-total": stats.n_metadata_total,
        "ostree-n-metadata-written": stats.n_metadata_written,
        "ostree-n-content-total": stats.n_content_total,
        "ostree-n-content-written": stats.n_content_written,
        "ostree-n-cache-hits": stats.n_cache_hits,
        "ostree-content-bytes-written": stats.content_bytes_written,
        "apt-ostree-inputhash": report.inputhash,
        "rpm-ostree-inputhash": report.inputhash,
        "pkgdiff": report.pkgdiff.iter().map(pkgdiff_json).collect::<Vec<_>>(),
        "images": report.images,
    });
    if let Some(name) = &report.r#ref {
        json["ref"] = name.as_str().into();
    }
    if let Some(version) = &report.version {
        json["ostree-version"] = version.as_str().into();
    }
    json
}

/// One entry of `pkgdiff`: name, type (0 added, 1 removed, 2 upgraded, 3 downgraded), packages.
fn pkgdiff_json(diff: &PackageDiff) -> serde_json::Value {
    let package = |p: &(String, String)| serde_json::json!([diff.name, p.0, p.1]);
    let mut packages = serde_json::Map::new();
    if let Some(previous) = &diff.previous {
        packages.insert("PreviousPackage".to_owned(), package(previous));
    }
    if let Some(new) = &diff.new {
        packages.insert("NewPackage".to_owned(), package(new));
    }
    let parse = |p: &(String, String)| p.0.parse::<apt_ostree_model::Version>().ok();
    let kind = match (&diff.previous, &diff.new) {
        (None, _) => 0,
        (_, None) => 1,
        (Some(a), Some(b)) => match (parse(a), parse(b)) {
            (Some(a), Some(b)) if a.dpkg_cmp(&b).is_gt() => 3,
            _ => 2,
        },
    };
    serde_json::json!([diff.name, kind, packages])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_part_and_join() {
        for version in ["1.0", "1.0-1", "2:1.0-1-2", "0.1~rc1-3+b1"] {
            let package: PlannedPackage = serde_json::from_value(serde_json::json!({
                "name": "foo", "version": version, "arch": "amd64", "sha256": "0".repeat(64), "size": 1,
                "source": "foo", "source-version": version, "repo": "r", "uri": "file:///x", "group": 0,
            }))
            .unwrap();
            let [_, epoch, upstream, revision, _] = five_strings(&package);
            assert_eq!(full_version(&epoch, &upstream, &revision), version);
        }
    }

    #[test]
    fn reserved_keys_are_refused() {
        for key in ["ostree.bootable", "version", "aptostree.x", "rpmostree.y"] {
            assert!(refuse_reserved(key).is_err(), "{key}");
        }
        assert!(refuse_reserved("com.example.build").is_ok());
    }

    #[test]
    fn pkgdiff_has_rpm_ostrees_shape() {
        let diff = PackageDiff {
            name: "a".into(),
            previous: Some(("2".into(), "amd64".into())),
            new: Some(("1".into(), "amd64".into())),
        };
        let expected = serde_json::json!(["a", 3, {"PreviousPackage": ["a", "2", "amd64"], "NewPackage": ["a", "1", "amd64"]}]);
        assert_eq!(pkgdiff_json(&diff), expected);
    }
}
