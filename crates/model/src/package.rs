//! A package as the import cache holds it: everything of the `.deb`, nothing interpreted away.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Arch, PackageName, Sha256Digest, Tree, Version};

/// An imported package. File contents are objects of the store; all else is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedPackage {
    /// Package name, from the control file.
    pub name: PackageName,
    /// Full version, from the control file.
    pub version: Version,
    /// Architecture, from the control file.
    pub arch: Arch,
    /// SHA-256 of the whole `.deb`.
    pub sha256: Sha256Digest,
    /// The control file's only stanza, verbatim, with one final newline.
    pub control: String,
    /// The control archive's other members (scripts, `conffiles`, `md5sums`, `triggers`, ...) by
    /// name.
    pub members: BTreeMap<String, ControlMember>,
    /// Conffiles in the order of the `conffiles` member.
    pub conffiles: Vec<Conffile>,
    /// Absolute paths in archive order, `/.` first: the content of dpkg's `info/*.list`.
    pub list: Vec<String>,
    /// The data archive, at the paths that the package uses (`etc/...`, `lib/...`).
    pub tree: Tree,
    /// Newest modification time of a control member in seconds since 1970: when it was built.
    pub date: i64,
}

/// One member of the control archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlMember {
    /// Permission bits.
    pub mode: u32,
    /// Content.
    #[serde(with = "crate::tree::hex_bytes")]
    pub data: Vec<u8>,
}

/// One line of the `conffiles` member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conffile {
    /// Absolute path.
    pub path: String,
    /// MD5 of the shipped content in hexadecimal; `None` for `remove-on-upgrade` entries.
    pub md5: Option<String>,
}

/// A field of one stanza of control data, with continuation lines joined by newlines.
pub fn control_field(stanza: &str, name: &str) -> Option<String> {
    let mut lines = stanza.lines();
    let first = lines.by_ref().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (!line.starts_with([' ', '\t']) && key.eq_ignore_ascii_case(name))
            .then(|| value.trim().to_owned())
    })?;
    let rest = lines.take_while(|line| line.starts_with([' ', '\t']));
    Some(rest.fold(first, |value, line| value + "\n" + line))
}

impl ImportedPackage {
    /// A field of the control file, with continuation lines joined by newlines.
    pub fn field(&self, name: &str) -> Option<String> {
        control_field(&self.control, name)
    }

    /// True for `Multi-Arch: same`, whose dpkg info files carry the architecture.
    pub fn is_multi_arch_same(&self) -> bool {
        self.field("Multi-Arch").as_deref() == Some("same")
    }

    /// The stem of dpkg's info files: `name`, or `name:arch` for `Multi-Arch: same`.
    pub fn info_stem(&self) -> String {
        if self.is_multi_arch_same() {
            format!("{}:{}", self.name, self.arch)
        } else {
            self.name.to_string()
        }
    }

    /// The text of a control member, if it is there and UTF-8.
    pub fn member_text(&self, name: &str) -> Option<&str> {
        self.members
            .get(name)
            .and_then(|m| std::str::from_utf8(&m.data).ok())
    }
}
