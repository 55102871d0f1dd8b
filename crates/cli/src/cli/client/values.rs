//! Values of the verbs on a system.

use std::path::PathBuf;
use std::str::FromStr;

use apt_ostree_model::client::LocalPackage;
use apt_ostree_model::{Arch, PackageName, Sha256Digest, Version};

use crate::jsonpath::JsonPath;

/// Longer kernel command lines are cut by the kernel.
const MAX_KARG: usize = 2000;

/// What can be layered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackageArg {
    /// `NAME`, `NAME=VERSION`, `NAME:ARCH` or `NAME/SUITE`.
    Request(String),
    /// A `.deb` file.
    File(LocalPackage),
}

/// `--from`: where replacements come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source(String);

impl Source {
    /// `suite=NAME` or `origin=NAME`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("suite", name)) if is_suite(name) => Ok(Self(text.to_owned())),
            // The origin of a repository is free text, such as `Debian Backports`.
            Some(("origin", name)) if !name.trim().is_empty() => parse_line(text).map(Self),
            _ => Err("must be suite=NAME or origin=NAME".to_owned()),
        }
    }
}

/// A `.deb` file or a request.
pub(super) fn parse_package(text: &str) -> Result<PackageArg, String> {
    if text.starts_with("http://") || text.starts_with("https://") {
        return Err("URLs are not fetched; download the .deb and name the file".to_owned());
    }
    let path = text.strip_prefix("file://").unwrap_or(text);
    let (plain, _) = split_digest(path);
    let is_file = plain.ends_with(".deb") || plain.starts_with(['/', '.', '~']);
    if is_file || path.len() < text.len() {
        parse_deb(text)
    } else {
        parse_request(text).map(PackageArg::Request)
    }
}

/// A `.deb` file, perhaps with `#sha256=DIGEST` behind it.
pub(super) fn parse_deb(text: &str) -> Result<PackageArg, String> {
    let path = text.strip_prefix("file://").unwrap_or(text);
    let (path, digest) = split_digest(path);
    let path = parse_line(path)?;
    if !path.ends_with(".deb") {
        return Err("the name of a package file must end in .deb".to_owned());
    }
    let sha256 = match digest {
        Some(digest) => Some(digest.parse::<Sha256Digest>().map_err(|e| e.to_string())?),
        None => None,
    };
    Ok(PackageArg::File(LocalPackage {
        path: PathBuf::from(path),
        sha256,
    }))
}

fn split_digest(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once("#sha256=") {
        Some((path, digest)) => (path, Some(digest)),
        None => (text, None),
    }
}

/// `NAME[:ARCH][=VERSION|/SUITE]`.
pub(super) fn parse_request(text: &str) -> Result<String, String> {
    let (name, version, suite) = match text.find(['=', '/']) {
        Some(at) if text[at..].starts_with('=') => (&text[..at], Some(&text[at + 1..]), None),
        Some(at) => (&text[..at], None, Some(&text[at + 1..])),
        None => (text, None, None),
    };
    let (name, arch) = match name.split_once(':') {
        Some((name, arch)) => (name, Some(arch)),
        None => (name, None),
    };
    name.parse::<PackageName>().map_err(|e| e.to_string())?;
    if let Some(arch) = arch {
        arch.parse::<Arch>().map_err(|e| e.to_string())?;
    }
    if let Some(version) = version {
        version.parse::<Version>().map_err(|e| e.to_string())?;
    }
    if suite.is_some_and(|suite| !is_suite(suite)) {
        return Err("the suite holds a character other than letters, digits and '-._/'".to_owned());
    }
    Ok(text.to_owned())
}

fn is_suite(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._/".contains(c))
}

/// What was requested before: a request, or `NAME_VERSION_ARCH` of a file.
pub(super) fn parse_installed(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split('_').collect();
    let [name, version, arch] = parts[..] else {
        return parse_request(text);
    };
    name.parse::<PackageName>().map_err(|e| e.to_string())?;
    version.parse::<Version>().map_err(|e| e.to_string())?;
    arch.parse::<Arch>().map_err(|e| e.to_string())?;
    Ok(text.to_owned())
}

/// Text of one line that is not empty and has no control characters.
pub(super) fn parse_line(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("must not hold control characters".to_owned());
    }
    Ok(text.to_owned())
}

/// A path below `/etc`; what else is wrong with it is for others to say.
pub(super) fn parse_path(text: &str) -> Result<String, String> {
    let path = parse_line(text)?;
    if !path.starts_with("/etc/") {
        return Err("only files below /etc can be added".to_owned());
    }
    Ok(path)
}

/// The name of a stateroot: one path component.
pub(super) fn parse_stateroot(text: &str) -> Result<String, String> {
    if text == "." || text == ".." || text.contains('/') {
        return Err("must be the name of a directory in /ostree/deploy".to_owned());
    }
    parse_line(text)
}

/// The checksum of a commit.
pub(super) fn parse_checksum(text: &str) -> Result<String, String> {
    match text.parse::<Sha256Digest>() {
        Ok(checksum) => Ok(checksum.to_string()),
        Err(_) => {
            Err("must be a whole commit checksum: 64 lowercase hexadecimal digits".to_owned())
        }
    }
}

/// One kernel argument: `KEY` or `KEY=VALUE`. Blanks need double quotes, as for the kernel.
pub(super) fn parse_karg(text: &str) -> Result<String, String> {
    let text = parse_line(text)?;
    if text.len() > MAX_KARG {
        return Err(format!("is longer than {MAX_KARG} bytes"));
    }
    if text.starts_with('=') {
        return Err("has no key".to_owned());
    }
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                return Err("holds a blank outside of double quotes".to_owned());
            }
            _ => {}
        }
    }
    if quoted {
        return Err("has a double quote that is not closed".to_owned());
    }
    Ok(text)
}

/// A kernel argument with a value.
pub(super) fn parse_karg_value(text: &str) -> Result<String, String> {
    let text = parse_karg(text)?;
    if !text.contains('=') {
        return Err("must have the form KEY=VALUE or KEY=VALUE=NEWVALUE".to_owned());
    }
    Ok(text)
}

/// A JSONPath expression.
pub(super) fn parse_jsonpath(text: &str) -> Result<JsonPath, String> {
    text.parse()
        .map_err(|error: crate::jsonpath::InvalidPath| error.to_string())
}

#[cfg(test)]
mod tests;
