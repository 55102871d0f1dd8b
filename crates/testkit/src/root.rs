//! Root directories compared entry by entry.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result};
use camino::Utf8Path;

/// What a path is, as far as two installations can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `f`, `d`, `l`, `c`, `b`, `p` or `s`.
    pub kind: char,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Link target, or hash and size of a file's content.
    pub content: String,
    /// Extended attributes by name, values in hexadecimal.
    pub xattrs: BTreeMap<String, String>,
}

impl Entry {
    /// What differs from `other`, in words; empty when nothing does.
    pub fn difference(&self, other: &Self) -> String {
        let mut words = Vec::new();
        if self.kind != other.kind {
            words.push(format!("type {} / {}", self.kind, other.kind));
        }
        if self.kind != 'l' && self.mode != other.mode {
            words.push(format!("mode {:o} / {:o}", self.mode, other.mode));
        }
        if self.owner != other.owner {
            words.push(format!("owner {:?} / {:?}", self.owner, other.owner));
        }
        if self.content != other.content {
            words.push("content".to_owned());
        }
        if self.xattrs != other.xattrs {
            words.push("xattrs".to_owned());
        }
        words.join(", ")
    }
}

/// Reads every entry below `root` by its path relative to it.
///
/// # Errors
/// When something can't be read.
pub fn scan(root: &Utf8Path) -> Result<BTreeMap<String, Entry>> {
    let mut entries = BTreeMap::new();
    scan_dir(root, "", &mut entries)?;
    Ok(entries)
}

fn scan_dir(root: &Utf8Path, dir: &str, entries: &mut BTreeMap<String, Entry>) -> Result<()> {
    for entry in
        std::fs::read_dir(root.join(dir)).with_context(|| format!("reading '{root}/{dir}'"))?
    {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let path = if dir.is_empty() {
            name
        } else {
            format!("{dir}/{name}")
        };
        let found =
            read_entry(&root.join(&path)).with_context(|| format!("reading '{root}/{path}'"))?;
        let is_dir = found.kind == 'd';
        entries.insert(path.clone(), found);
        if is_dir {
            scan_dir(root, &path, entries)?;
        }
    }
    Ok(())
}

fn read_entry(path: &Utf8Path) -> Result<Entry> {
    let meta = std::fs::symlink_metadata(path)?;
    let kind = match meta.mode() & 0o170_000 {
        0o100_000 => 'f',
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        _ => 's',
    };
    let content = match kind {
        'l' => std::fs::read_link(path)?.to_string_lossy().into_owned(),
        'f' => hash(path)?,
        _ => String::new(),
    };
    let xattrs = if matches!(kind, 'f' | 'd') {
        xattrs(path)?
    } else {
        BTreeMap::new()
    };
    Ok(Entry {
        kind,
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        content,
        xattrs,
    })
}

/// FNV-1a and size: two roots are compared, nobody attacks the hash.
fn hash(path: &Utf8Path) -> Result<String> {
    let data = std::fs::read(path)?;
    Ok(format!("{:016x} {}", fnv(&data), data.len()))
}

fn fnv(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn xattrs(path: &Utf8Path) -> Result<BTreeMap<String, String>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path.as_std_path(), &mut names)?;
    let mut found = BTreeMap::new();
    for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path.as_std_path(), name, &mut value)?;
        let hex = value[..length]
            .iter()
            .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        found.insert(String::from_utf8_lossy(name).into_owned(), hex);
    }
    Ok(found)
}
