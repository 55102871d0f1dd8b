//! The lockfile: a plan as a file.
//!
//! JSON, sorted, one final newline. It is input too, so everything in it is checked when it is read.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use apt_ostree_model::{
    Arch, ErrorKind, IdLock, PackageName, Plan, PlannedPackage, Sha256Digest, SourceInfo, Version,
};
use camino::Utf8Path;
use serde::{Deserialize, Serialize};

use crate::error::{fail, fail_hint};
use crate::{files, uri};

/// A lockfile of 20 000 packages has about 30 MB.
const SIZE_LIMIT: u64 = 64 * 1024 * 1024;
const PACKAGE_LIMIT: usize = 100_000;
const FORMAT: u32 = 1;

/// Fields of an index stanza that a plan keeps: those a solver needs.
pub(crate) const FIELDS: [&str; 16] = [
    "Breaks",
    "Conflicts",
    "Depends",
    "Enhances",
    "Essential",
    "Important",
    "Installed-Size",
    "Multi-Arch",
    "Pre-Depends",
    "Priority",
    "Protected",
    "Provides",
    "Recommends",
    "Replaces",
    "Section",
    "Task",
];

/// The content of one or more lockfiles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Lock {
    #[serde(rename = "apt-ostree-lockfile")]
    format: u32,
    arch: Arch,
    packages: BTreeMap<String, LockedPackage>,
    sources: Vec<SourceInfo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ids: Option<IdLock>,
    /// Only locked packages may be used; not part of the file.
    #[serde(skip)]
    strict: bool,
}

/// One locked package: a [`PlannedPackage`] without its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct LockedPackage {
    version: Version,
    arch: Arch,
    sha256: Sha256Digest,
    size: u64,
    #[serde(default)]
    installed_size: u64,
    source: String,
    source_version: String,
    repo: String,
    uri: String,
    #[serde(default)]
    auto: bool,
    #[serde(default)]
    essential: bool,
    #[serde(default)]
    group: u32,
    #[serde(default)]
    fields: BTreeMap<String, String>,
}

impl Lock {
    /// The lock of a plan.
    pub fn from_plan(plan: &Plan, ids: Option<&IdLock>) -> Self {
        let entry = |package: &PlannedPackage| {
            let p = package.clone();
            let locked = LockedPackage {
                version: p.version,
                arch: p.arch,
                sha256: p.sha256,
                size: p.size,
                installed_size: p.installed_size,
                source: p.source,
                source_version: p.source_version,
                repo: p.repo,
                uri: p.uri,
                auto: p.auto,
                essential: p.essential,
                group: p.group,
                fields: p.fields,
            };
            (package.display_name(&plan.arch), locked)
        };
        Self {
            format: FORMAT,
            arch: plan.arch.clone(),
            packages: plan.packages.iter().map(entry).collect(),
            sources: plan.sources.clone(),
            ids: ids.cloned(),
            strict: false,
        }
    }

    /// The plan that was locked.
    ///
    /// # Errors
    /// When a name is invalid.
    pub fn to_plan(&self) -> Result<Plan> {
        let mut packages = self
            .packages
            .iter()
            .map(|(key, locked)| planned(key, locked))
            .collect::<Result<Vec<_>>>()?;
        sort(&mut packages);
        Ok(Plan {
            arch: self.arch.clone(),
            packages,
            sources: self.sources.clone(),
        })
    }

    /// Reads lockfiles; a later one overrides an earlier one per package. With `strict` only
    /// locked packages may be used.
    ///
    /// # Errors
    /// When a file can't be read or is no valid lockfile; the error names it.
    pub fn load(paths: &[impl AsRef<Utf8Path>], strict: bool) -> Result<Self> {
        let mut merged: Option<Self> = None;
        for path in paths.iter().map(AsRef::as_ref) {
            let data = files::read_limited(path, SIZE_LIMIT).map_err(|error| {
                fail(
                    ErrorKind::InvalidInput,
                    format!("reading lockfile '{path}': {error}"),
                )
            })?;
            let lock = Self::parse(&data, path.as_str())?;
            match &mut merged {
                None => merged = Some(lock),
                Some(old) => old.merge(lock, path)?,
            }
        }
        let mut lock = merged.context("no lockfile given")?;
        lock.strict = strict;
        Ok(lock)
    }

    /// Reads the text of a lockfile called `name`.
    ///
    /// # Errors
    /// When it is no valid lockfile.
    pub fn parse(data: &[u8], name: &str) -> Result<Self> {
        let invalid =
            |why: String| fail(ErrorKind::InvalidInput, format!("lockfile '{name}': {why}"));
        let lock: Self =
            serde_json::from_slice(data).map_err(|error| invalid(error.to_string()))?;
        if lock.format != FORMAT {
            return Err(invalid(format!("format {} is not known", lock.format)));
        }
        if lock.packages.len() > PACKAGE_LIMIT {
            return Err(invalid(format!("more than {PACKAGE_LIMIT} packages")));
        }
        for (key, locked) in &lock.packages {
            check(key, locked, &lock.arch)
                .map_err(|why| invalid(format!("package '{key}': {why}")))?;
        }
        Ok(lock)
    }

    fn merge(&mut self, other: Self, path: &Utf8Path) -> Result<()> {
        if self.arch != other.arch {
            return Err(fail(
                ErrorKind::InvalidInput,
                format!(
                    "lockfile '{path}' is for architecture '{}', the one before it for '{}'",
                    other.arch, self.arch
                ),
            ));
        }
        self.packages.extend(other.packages);
        for source in other.sources {
            let same = |s: &&mut SourceInfo| s.repo == source.repo && s.suite == source.suite;
            match self.sources.iter_mut().find(same) {
                Some(old) => *old = source,
                None => self.sources.push(source),
            }
        }
        if let Some(ids) = other.ids {
            let merged = self.ids.get_or_insert_with(IdLock::default);
            merged.users.extend(ids.users);
            merged.groups.extend(ids.groups);
        }
        Ok(())
    }

    /// The locked ids.
    pub fn ids(&self) -> Option<&IdLock> {
        self.ids.as_ref()
    }

    /// The architecture it was made for.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// True when only locked packages may be used.
    pub fn is_strict(&self) -> bool {
        self.strict
    }

    /// The file's text.
    ///
    /// # Errors
    /// Never for valid data.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Fails when it was made for another architecture.
    pub(crate) fn check_arch(&self, arch: &Arch) -> Result<()> {
        if self.arch == *arch {
            return Ok(());
        }
        Err(fail_hint(
            ErrorKind::InvalidInput,
            format!(
                "the lockfile is for architecture '{}', not '{arch}'",
                self.arch
            ),
            "use the lockfile that was written for this architecture",
        ))
    }
}

/// The text of the lockfile of `plan`.
///
/// # Errors
/// Never for valid data.
pub fn to_json(plan: &Plan, ids: Option<&IdLock>) -> Result<String> {
    Lock::from_plan(plan, ids).to_json()
}

/// Sorts packages as [`Plan::packages`] wants them.
pub(crate) fn sort(packages: &mut [PlannedPackage]) {
    packages.sort_by(|a, b| (a.group, &a.name, &a.arch).cmp(&(b.group, &b.name, &b.arch)));
}

fn planned(key: &str, locked: &LockedPackage) -> Result<PlannedPackage> {
    let name = key.split(':').next().unwrap_or(key);
    let p = locked.clone();
    Ok(PlannedPackage {
        name: name.parse()?,
        version: p.version,
        arch: p.arch,
        sha256: p.sha256,
        size: p.size,
        installed_size: p.installed_size,
        source: p.source,
        source_version: p.source_version,
        repo: p.repo,
        uri: p.uri,
        auto: p.auto,
        essential: p.essential,
        group: p.group,
        fields: p.fields,
    })
}

/// What serde does not check.
fn check(key: &str, locked: &LockedPackage, native: &Arch) -> Result<(), String> {
    let (name, arch) = match key.split_once(':') {
        Some((name, arch)) => (name, Some(arch)),
        None => (key, None),
    };
    name.parse::<PackageName>().map_err(|e| e.to_string())?;
    let expected = match arch {
        Some(arch) => arch == locked.arch.as_str() && arch != native.as_str(),
        None => locked.arch == *native || locked.arch.as_str() == "all",
    };
    if !expected {
        return Err(format!("its architecture '{}' does not fit", locked.arch));
    }
    locked
        .source
        .parse::<PackageName>()
        .map_err(|e| e.to_string())?;
    locked
        .source_version
        .parse::<Version>()
        .map_err(|e| e.to_string())?;
    if locked.repo.chars().any(char::is_control) {
        return Err("its repo holds control characters".to_owned());
    }
    check_uri(&locked.uri)?;
    for (field, value) in &locked.fields {
        if !FIELDS.contains(&field.as_str()) {
            return Err(format!(
                "field '{}' is not known",
                crate::error::clean(field)
            ));
        }
        if value.chars().any(char::is_control) {
            return Err(format!("field '{field}' holds control characters"));
        }
    }
    Ok(())
}

/// The URI of a package goes to a downloader, so it must be plain.
pub(crate) fn check_uri(text: &str) -> Result<(), String> {
    let plain = text.bytes().all(|b| b.is_ascii_graphic());
    let known = text.starts_with("http://")
        || text.starts_with("https://")
        || uri::file_path(text).is_some();
    let path = text.split_once("//").map_or(text, |(_, rest)| rest);
    let climbs = path
        .split('/')
        .any(|part| part == ".." || part.eq_ignore_ascii_case("%2e%2e"));
    match plain && known && !climbs {
        true => Ok(()),
        false => Err(format!(
            "'{}' is not an absolute http, https or file URL",
            crate::error::clean(text)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn plan() -> Plan {
        let package = |name: &str, arch: &str, group: u32| PlannedPackage {
            name: name.parse().unwrap(),
            version: "1:2.0-1".parse().unwrap(),
            arch: arch.parse().unwrap(),
            sha256: Sha256Digest::new([group as u8; 32]),
            size: 10,
            installed_size: 20,
            source: "src".to_owned(),
            source_version: "2.0-1".to_owned(),
            repo: "debian".to_owned(),
            uri: format!("http://example.org/debian/pool/{name}.deb"),
            auto: group > 0,
            essential: group == 0,
            group,
            fields: [("Depends".to_owned(), "libc6 (>= 2)".to_owned())].into(),
        };
        Plan {
            arch: "amd64".parse().unwrap(),
            packages: vec![
                package("bash", "amd64", 0),
                package("libc6", "i386", 1),
                package("zz-doc", "all", 1),
            ],
            sources: vec![SourceInfo {
                repo: "debian".to_owned(),
                suite: "trixie".to_owned(),
                codename: "trixie".to_owned(),
                origin: "Debian".to_owned(),
                date: 5,
                release_sha256: Sha256Digest::new([9; 32]),
            }],
        }
    }

    #[test]
    fn a_plan_round_trips() {
        let ids = IdLock::default();
        let text = to_json(&plan(), Some(&ids)).unwrap();
        assert!(text.ends_with("}\n"));
        let lock = Lock::parse(text.as_bytes(), "x").unwrap();
        assert_eq!(lock.to_plan().unwrap(), plan());
        assert_eq!(lock.to_json().unwrap(), text);
        assert_eq!(lock.ids(), Some(&ids));
    }

    #[test]
    fn hostile_lockfiles_are_refused_by_name() {
        let good = to_json(&plan(), None).unwrap();
        let cases = [
            ("\"size\": 10", "\"size\": -1"),
            ("\"size\": 10", "\"sizes\": 10"),
            ("\"Depends\"", "\"Filename\""),
            ("libc6 (>= 2)", "libc6\\nSHA256: x"),
            ("\"bash\"", "\"../bash\""),
            ("\"libc6:i386\"", "\"libc6\""),
            (
                "http://example.org/debian/pool/bash",
                "ftp://example.org/bash",
            ),
            ("example.org/debian/pool/bash", "example.org/../bash"),
            ("pool/bash.deb", "pool/ba sh.deb"),
            ("\"apt-ostree-lockfile\": 1", "\"apt-ostree-lockfile\": 2"),
            ("1:2.0-1", "1:2.0/-1"),
        ];
        for (old, new) in cases {
            let bad = good.replacen(old, new, 1);
            assert_ne!(bad, good, "{old}");
            let error = Lock::parse(bad.as_bytes(), "my.lock")
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("my.lock") && !error.contains('\n'),
                "{error}"
            );
        }
    }

    #[test]
    fn later_lockfiles_override_earlier_ones_per_package() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let mut second = plan();
        second.packages.retain(|p| p.name.as_str() == "bash");
        second.packages[0].version = "3".parse().unwrap();
        let paths = [dir.join("a"), dir.join("b")];
        for (path, plan) in paths.iter().zip([plan(), second]) {
            std::fs::write(path, to_json(&plan, None).unwrap()).unwrap();
        }
        let lock = Lock::load(&paths, true).unwrap();
        assert!(lock.is_strict());
        let merged = lock.to_plan().unwrap();
        assert_eq!(merged.packages.len(), 3);
        assert_eq!(merged.packages[0].version.as_str(), "3");
    }

    #[test]
    fn lockfiles_of_another_architecture_are_refused() {
        let lock = Lock::from_plan(&plan(), None);
        assert!(lock.check_arch(&"arm64".parse().unwrap()).is_err());
        lock.check_arch(&"amd64".parse().unwrap()).unwrap();
    }
}
