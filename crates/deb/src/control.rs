//! The control file.

use std::collections::HashSet;

use apt_ostree_model::{Arch, PackageName, Version};

use crate::error::{DebError, quote};
use crate::limits::Limits;
use crate::relations;

/// Fields that belong to dpkg's own database; one in a package would forge its state.
const DATABASE_FIELDS: [&str; 5] = [
    "Status",
    "Config-Version",
    "Conffiles",
    "Triggers-Pending",
    "Triggers-Awaited",
];

/// Old names that dpkg still takes for other fields.
const OBSOLETE_FIELDS: [&str; 6] = [
    "Recommended",
    "Optional",
    "Class",
    "Revision",
    "Package-Revision",
    "Package_Revision",
];

const BOOLEAN_FIELDS: [&str; 3] = ["Essential", "Protected", "Important"];

/// How packages of several architectures share a system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MultiArch {
    /// Not declared.
    #[default]
    No,
    /// `same`: installed once per architecture.
    Same,
    /// `foreign`: satisfies dependencies of any architecture.
    Foreign,
    /// `allowed`: does so for dependencies marked `:any`.
    Allowed,
}

/// The checked control file of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    package: PackageName,
    version: Version,
    arch: Arch,
    multi_arch: MultiArch,
    bytes: Vec<u8>,
    text: String,
    fields: Vec<(String, String)>,
}

impl Control {
    /// Reads a control file: exactly one stanza, in dpkg's grammar.
    ///
    /// # Errors
    /// When the grammar, or the value of a field that dpkg interprets, is wrong.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, DebError> {
        let subject = "control file";
        if bytes.len() as u64 > limits.max_control_file_size {
            let reason = format!("larger than {} bytes", limits.max_control_file_size);
            return Err(DebError::invalid(subject, reason));
        }
        if bytes.contains(&0) {
            return Err(DebError::invalid(subject, "it holds a NUL byte"));
        }
        let stanza = bytes.trim_ascii();
        if stanza.is_empty() {
            return Err(DebError::invalid(subject, "it is empty"));
        }
        if !bytes.ends_with(b"\n") {
            return Err(DebError::invalid(subject, "the final newline is missing"));
        }
        let text = stanza_text(bytes);
        let fields = parse_fields(&text)?;
        let value = |name| find(&fields, name);
        let package = parse_required("Package", value("Package"))?;
        let version = parse_required("Version", value("Version"))?;
        let arch = parse_required("Architecture", value("Architecture"))?;
        check_arch(&arch)?;
        let multi_arch = parse_multi_arch(value("Multi-Arch"), &arch)?;
        for (name, value) in &fields {
            check_field(name, value)?;
        }
        Ok(Self {
            package,
            version,
            arch,
            multi_arch,
            bytes: bytes.to_vec(),
            text,
            fields,
        })
    }

    /// The package's name.
    pub const fn package(&self) -> &PackageName {
        &self.package
    }

    /// The package's full version.
    pub const fn version(&self) -> &Version {
        &self.version
    }

    /// The package's architecture, which may be `all`.
    pub const fn arch(&self) -> &Arch {
        &self.arch
    }

    /// The `Multi-Arch` field.
    pub const fn multi_arch(&self) -> MultiArch {
        self.multi_arch
    }

    /// The stanza with one final newline. Bytes that aren't UTF-8, which only descriptive fields
    /// can hold, are replaced by U+FFFD.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The control file as it was shipped.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The value of a field, whose case doesn't matter. Continuation lines are kept with their
    /// leading space.
    pub fn field(&self, name: &str) -> Option<&str> {
        find(&self.fields, name)
    }

    /// All fields, in the order of the file.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// The file without the empty lines around its stanza.
fn stanza_text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    format!("{}\n", text.trim_matches('\n'))
}

fn find<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = fields
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

fn field_error(name: &str, reason: impl std::fmt::Display) -> DebError {
    DebError::invalid(
        format!("control file, field {}", quote(name.as_bytes())),
        reason,
    )
}

fn parse_fields(text: &str) -> Result<Vec<(String, String)>, DebError> {
    let mut fields: Vec<(String, String)> = Vec::new();
    let mut names = HashSet::new();
    for (index, line) in text.split_terminator('\n').enumerate() {
        let fail =
            |reason: &str| DebError::invalid(format!("control file, line {}", index + 1), reason);
        if line.trim().is_empty() {
            return Err(fail(if line.is_empty() {
                "there is more than one stanza"
            } else {
                "a line holds nothing but blanks"
            }));
        }
        if line.starts_with([' ', '\t']) {
            let Some((_, value)) = fields.last_mut() else {
                return Err(fail("a continuation line without a field"));
            };
            value.push('\n');
            value.push_str(line.trim_end());
            continue;
        }
        let Some((name, value)) = line.split_once(':') else {
            return Err(fail("a line without a colon"));
        };
        let graphic = name.bytes().all(|b| b.is_ascii_graphic());
        if name.is_empty() || !graphic || name.starts_with(['#', '-']) {
            return Err(fail(&format!("bad field name {}", quote(name.as_bytes()))));
        }
        if !names.insert(name.to_ascii_lowercase()) {
            return Err(field_error(name, "the field appears twice"));
        }
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
    // So does dpkg: it takes the final newline for a missing value.
    if let Some((name, _)) = fields.last().filter(|(_, value)| value.is_empty()) {
        return Err(field_error(name, "the file ends before its value"));
    }
    Ok(fields)
}

fn parse_required<T>(name: &str, value: Option<&str>) -> Result<T, DebError>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    match value {
        None => Err(field_error(name, "the field is missing")),
        Some("") => Err(field_error(name, "the field is empty")),
        Some(value) => value.parse().map_err(|e| field_error(name, e)),
    }
}

fn check_arch(arch: &Arch) -> Result<(), DebError> {
    let text = arch.as_str();
    if text == "source" || text.split('-').any(|part| part == "any") {
        let reason = format!("'{text}' is not the architecture of a binary package");
        return Err(field_error("Architecture", reason));
    }
    Ok(())
}

fn parse_multi_arch(value: Option<&str>, arch: &Arch) -> Result<MultiArch, DebError> {
    let fail = |reason: String| Err(field_error("Multi-Arch", reason));
    match value {
        None | Some("no") => Ok(MultiArch::No),
        Some("same") if arch.as_str() == "all" => {
            fail("'same' is not possible for architecture 'all'".into())
        }
        Some("same") => Ok(MultiArch::Same),
        Some("foreign") => Ok(MultiArch::Foreign),
        Some("allowed") => Ok(MultiArch::Allowed),
        Some(other) => fail(format!(
            "{} is none of 'no', 'same', 'foreign', 'allowed'",
            quote(other.as_bytes())
        )),
    }
}

fn check_field(name: &str, value: &str) -> Result<(), DebError> {
    let is_in = |list: &[&str]| list.iter().any(|n| n.eq_ignore_ascii_case(name));
    if is_in(&DATABASE_FIELDS) {
        return Err(field_error(name, "the field is not allowed in a package"));
    }
    if is_in(&OBSOLETE_FIELDS) {
        return Err(field_error(name, "the field's name is obsolete"));
    }
    if is_in(&BOOLEAN_FIELDS) && !matches!(value, "yes" | "no") {
        let reason = format!("{} is neither 'yes' nor 'no'", quote(value.as_bytes()));
        return Err(field_error(name, reason));
    }
    relations::check_relations(name, value).map_err(|reason| field_error(name, reason))
}
