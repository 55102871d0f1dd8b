//! Package indices made from `.deb` files or from a lockfile: flat repositories in the state
//! directory. Only the index lives there; the packages are fetched from where they are.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};
use apt_ostree_deb::{DebReader, Limits};
use apt_ostree_model::{Arch, ErrorKind, PackageName, PlannedPackage, Sha256Digest, Version};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::deb822;
use crate::error::fail;
use crate::files;

/// Fields that the index writes itself or that have no place in one.
const OWN_FIELDS: [&str; 8] = [
    "filename",
    "size",
    "md5sum",
    "sha1",
    "sha256",
    "sha512",
    "status",
    "x-apt-ostree-path",
];

/// A `.deb` file on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalDeb {
    pub(crate) path: Utf8PathBuf,
    pub(crate) name: PackageName,
    pub(crate) version: Version,
    pub(crate) arch: Arch,
    pub(crate) sha256: Sha256Digest,
    pub(crate) size: u64,
    control: String,
}

/// What is remembered of a file so that it is read only once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    stamp: (u64, u64, i64, i64, i64, i64),
    sha256: Sha256Digest,
    control: String,
}

/// Reads `paths`, taking from `memory` (a file) what has not changed since the last time.
pub(crate) fn read_debs(paths: &[Utf8PathBuf], memory: &Utf8Path) -> Result<Vec<LocalDeb>> {
    let old: BTreeMap<Utf8PathBuf, Remembered> = std::fs::read(memory)
        .ok()
        .and_then(|data| serde_json::from_slice(&data).ok())
        .unwrap_or_default();
    let mut new = BTreeMap::new();
    let mut debs = Vec::new();
    for path in paths {
        let meta = std::fs::metadata(path).map_err(|error| {
            fail(
                ErrorKind::InvalidInput,
                format!("opening '{path}': {error}"),
            )
        })?;
        let stamp = (
            meta.ino(),
            meta.len(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        );
        let known = old.get(path).filter(|known| known.stamp == stamp);
        let entry = match known {
            Some(known) => known.clone(),
            None => Remembered {
                stamp,
                control: read_control(path)?,
                sha256: files::hash_file(path)
                    .with_context(|| format!("reading '{path}'"))?
                    .0,
            },
        };
        debs.push(local_deb(path, &entry)?);
        new.insert(path.clone(), entry);
    }
    let json = serde_json::to_vec(&new)?;
    files::write_if_changed(memory, &json).with_context(|| format!("writing '{memory}'"))?;
    Ok(debs)
}

fn read_control(path: &Utf8Path) -> Result<String> {
    let invalid = |error: apt_ostree_deb::DebError| {
        fail(
            ErrorKind::InvalidPackage,
            format!("reading package '{path}': {error}"),
        )
    };
    if !std::fs::metadata(path)?.is_file() {
        return Err(fail(
            ErrorKind::InvalidPackage,
            format!("'{path}' is not a regular file"),
        ));
    }
    let file = std::io::BufReader::new(std::fs::File::open(path)?);
    let reader = DebReader::open(file, Limits::default()).map_err(invalid)?;
    Ok(reader.control().text().to_owned())
}

fn local_deb(path: &Utf8Path, entry: &Remembered) -> Result<LocalDeb> {
    let invalid = |why: String| {
        fail(
            ErrorKind::InvalidPackage,
            format!("control file of '{path}': {why}"),
        )
    };
    let stanza = deb822::stanzas(&entry.control)
        .next()
        .ok_or_else(|| invalid("it is empty".to_owned()))?;
    let field = |name: &str| {
        stanza
            .joined(name)
            .ok_or_else(|| invalid(format!("it has no field '{name}'")))
    };
    let parse = |error: apt_ostree_model::InvalidName| invalid(error.to_string());
    Ok(LocalDeb {
        path: path.to_owned(),
        name: field("Package")?.parse().map_err(parse)?,
        version: field("Version")?.parse().map_err(parse)?,
        arch: field("Architecture")?.parse().map_err(parse)?,
        sha256: entry.sha256,
        size: entry.stamp.1,
        control: entry.control.clone(),
    })
}

/// The index stanza of a local package.
pub(crate) fn stanza(deb: &LocalDeb) -> String {
    let mut text = String::new();
    let control = deb822::stanzas(&deb.control).next();
    for (name, lines) in control.iter().flat_map(|stanza| stanza.fields()) {
        let own = OWN_FIELDS.iter().any(|f| name.eq_ignore_ascii_case(f));
        let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic());
        if plain && !own {
            let _ = writeln!(text, "{name}: {}", lines.join("\n "));
        }
    }
    let _ = writeln!(text, "Filename: ./{}.deb", deb.sha256);
    let _ = writeln!(text, "Size: {}", deb.size);
    let _ = writeln!(text, "SHA256: {}", deb.sha256);
    let _ = writeln!(
        text,
        "X-Apt-Ostree-Path: {}",
        crate::uri::from_path(&deb.path)
    );
    text
}

/// The index stanza of a locked package.
pub(crate) fn planned_stanza(package: &PlannedPackage) -> String {
    let p = package;
    let mut text = format!(
        "Package: {}\nVersion: {}\nArchitecture: {}\n",
        p.name, p.version, p.arch
    );
    if p.source != p.name.as_str() || p.source_version != p.version.as_str() {
        let _ = writeln!(text, "Source: {} ({})", p.source, p.source_version);
    }
    for (name, value) in &p.fields {
        let _ = writeln!(text, "{name}: {value}");
    }
    let _ = writeln!(text, "Filename: ./{}.deb", p.sha256);
    let _ = writeln!(text, "Size: {}\nSHA256: {}", p.size, p.sha256);
    text
}

/// Writes `stanzas` as a flat repository below `dir` and returns its directory.
///
/// The directory is named by the content, because apt would not notice a second change within one
/// second. Earlier content is removed.
pub(crate) fn write_repo(dir: &Utf8Path, stanzas: &[String]) -> Result<Utf8PathBuf> {
    let packages = stanzas.join("\n");
    let digest = files::hash(packages.as_bytes());
    let repo = dir.join(digest.to_string());
    if !repo.exists() && dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("clearing '{dir}'"))?;
    }
    for dir in [dir, &repo] {
        files::make_dir(dir).with_context(|| format!("creating '{dir}'"))?;
    }
    let release = format!(
        "Date: Thu, 01 Jan 1970 00:00:00 UTC\nSHA256:\n {digest} {} Packages\n",
        packages.len()
    );
    for (name, text) in [("Packages", packages), ("Release", release)] {
        let path = repo.join(name);
        files::write_if_changed(&path, text.as_bytes())
            .with_context(|| format!("writing '{path}'"))?;
    }
    Ok(repo)
}

/// The `.deb` files of a directory that has no index of its own; `None` when it has one.
pub(crate) fn bare_directory(dir: &Utf8Path) -> Result<Option<Vec<Utf8PathBuf>>> {
    let entries = dir
        .read_dir_utf8()
        .map_err(|error| fail(ErrorKind::InvalidInput, format!("opening '{dir}': {error}")))?;
    let mut debs = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("reading directory '{dir}'"))?;
        let name = entry.file_name();
        if name == "InRelease" || name == "Release" || name.split('.').next() == Some("Packages") {
            return Ok(None);
        }
        if name.ends_with(".deb") {
            debs.push(entry.into_path());
        }
    }
    debs.sort();
    Ok(Some(debs))
}
