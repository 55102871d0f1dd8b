//! What a deployment follows and what was asked for on top of it: the typed origin file, and the
//! rules by which a request changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::client::{InitramfsEtcRequest, ReplaceFrom, UpdateRequest};
use crate::reference::Follows;
use crate::{Arch, ErrorKind, Kinded, PackageName, Sha256Digest, Version};

/// An origin file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Origin {
    /// What it follows; `None`: nothing, so it can't be upgraded.
    pub follows: Option<Follows>,
    /// The revision that was deployed instead of the newest one, until the next upgrade: a
    /// commit, or the digest of an image.
    pub override_commit: Option<String>,
    /// URL and description of an origin that someone else manages.
    pub custom_origin: Option<(String, String)>,
    /// Why upgrades fail until someone sets something up.
    pub unconfigured_state: Option<String>,
    /// Packages to layer: `NAME`, `NAME=VERSION`, `NAME:ARCH`, `NAME/SUITE`.
    pub packages: BTreeSet<String>,
    /// Local packages to layer.
    pub local_packages: BTreeSet<LocalRequest>,
    /// Local packages to layer, which may replace files of others.
    pub local_packages_replacing_files: BTreeSet<LocalRequest>,
    /// Base packages to remove.
    pub override_remove: BTreeSet<String>,
    /// Local packages that replace base packages.
    pub override_replace_local: BTreeSet<LocalRequest>,
    /// Base packages to take from another source, by source: `suite=X` or `origin=X`.
    pub override_replace: BTreeMap<String, BTreeSet<String>>,
    /// How the initramfs is made.
    pub initramfs: Initramfs,
    /// Groups and keys of the file that mean nothing here, with their raw values.
    pub unknown: BTreeMap<String, BTreeMap<String, String>>,
}

/// How the initramfs is made on this system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Initramfs {
    /// Whether it is made here at all.
    pub regenerate: bool,
    /// Arguments for dracut.
    pub args: Vec<String>,
    /// Files of `/etc` that are added to it.
    pub etc: BTreeSet<String>,
}

/// A local package by content: `SHA256:NAME_VERSION_ARCH` in origin files.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub struct LocalRequest {
    pub name: PackageName,
    pub version: Version,
    pub arch: Arch,
    pub sha256: Sha256Digest,
}

/// The local packages of a request, read by whoever has the files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalRequests {
    /// Those of `install_local`.
    pub install: Vec<LocalRequest>,
    /// Those of `override_replace_local`.
    pub override_replace: Vec<LocalRequest>,
}

impl LocalRequest {
    /// `NAME_VERSION_ARCH`.
    pub fn id(&self) -> String {
        format!("{}_{}_{}", self.name, self.version, self.arch)
    }

    fn is(&self, text: &str) -> bool {
        self.name.as_str() == text || self.id() == text
    }
}

impl Origin {
    /// Whether the commit must be made on this system: something is layered or overridden, or
    /// the initramfs is made here. Files that are added to the initramfs are no part of a commit.
    pub fn needs_layering(&self) -> bool {
        self.has_packages()
            || self.has_overrides()
            || self.initramfs.regenerate
            || !self.initramfs.args.is_empty()
    }

    /// Whether a deployment is more than the commit that is followed.
    pub fn is_changed_here(&self) -> bool {
        self.needs_layering() || !self.initramfs.etc.is_empty()
    }

    /// Whether packages are layered.
    pub fn has_packages(&self) -> bool {
        !(self.packages.is_empty()
            && self.local_packages.is_empty()
            && self.local_packages_replacing_files.is_empty())
    }

    /// Whether packages of the base are removed or replaced.
    pub fn has_overrides(&self) -> bool {
        !(self.override_remove.is_empty()
            && self.override_replace_local.is_empty()
            && self.override_replace.is_empty())
    }

    /// Follows something else from now on; what belonged to the old one goes.
    ///
    /// # Errors
    /// When that is what it follows already.
    pub fn rebase(&mut self, follows: Follows) -> Result<(), Kinded> {
        if self.follows.as_ref() == Some(&follows) {
            return Err(refused(format!("old and new refs are equal: '{follows}'"))
                .with_hint("use 'upgrade' for a newer commit of it"));
        }
        self.follows = Some(follows);
        self.override_commit = None;
        self.custom_origin = None;
        self.unconfigured_state = None;
        Ok(())
    }

    /// Makes the changes of requests, overrides and initramfs that `request` asks for: first what
    /// goes, then what comes. True when anything is different then.
    ///
    /// # Errors
    /// When something to be added is there, or something to be dropped is not, unless the request
    /// is idempotent; and when a name is malformed. The origin is unchanged then.
    pub fn apply(
        &mut self,
        request: &UpdateRequest,
        local: &LocalRequests,
    ) -> Result<bool, Kinded> {
        let mut new = self.clone();
        let allow = request.idempotent;
        if request.uninstall_all {
            new.packages.clear();
            new.local_packages.clear();
            new.local_packages_replacing_files.clear();
        }
        if request.override_reset_all {
            new.override_remove.clear();
            new.override_replace_local.clear();
            new.override_replace.clear();
        }
        if request.reset_initramfs {
            new.initramfs = Initramfs::default();
        }
        for name in &request.uninstall {
            new.uninstall(name, allow)?;
        }
        for name in &request.override_reset {
            new.override_reset(name, allow)?;
        }
        for name in &request.override_remove {
            new.override_remove(name, allow)?;
        }
        for package in &local.override_replace {
            new.override_replace_local(package, allow)?;
        }
        // Those to be frozen follow their source until it is known what that has.
        for source in &request.override_replace {
            new.override_replace(source)?;
        }
        for name in &request.install {
            new.install(name, allow)?;
        }
        for package in &local.install {
            new.install_local(package, request.force_replace_files, allow)?;
        }
        let changed = *self != new;
        *self = new;
        Ok(changed)
    }

    /// Asks for replacements of base packages by their content from now on, instead of following
    /// the source that they were found in.
    pub fn freeze(&mut self, packages: &[LocalRequest]) {
        for package in packages {
            self.drop_replacement(package.name.as_str());
            self.override_replace_local.insert(package.clone());
        }
    }

    /// Sets how the initramfs is made. The files of `/etc` stay.
    ///
    /// # Errors
    /// When that is how it is made already, or there are arguments for what is not made.
    pub fn set_initramfs(&mut self, regenerate: bool, args: &[String]) -> Result<(), Kinded> {
        if !regenerate && !args.is_empty() {
            return Err(Kinded::new(
                ErrorKind::Usage,
                "arguments need an initramfs that is made here",
            ));
        }
        if let Some(bad) = args.iter().find(|arg| arg.chars().any(char::is_control)) {
            return Err(refused(format!(
                "argument '{}' has control characters",
                bad.escape_debug()
            )));
        }
        if self.initramfs.regenerate == regenerate && self.initramfs.args == args {
            let state = if regenerate { "enabled" } else { "disabled" };
            return Err(refused(format!(
                "initramfs regeneration is already {state}"
            )));
        }
        self.initramfs.regenerate = regenerate;
        self.initramfs.args = args.to_vec();
        Ok(())
    }

    /// Changes which files of `/etc` are added to the initramfs: first what goes, then what comes.
    /// True when the list is different then.
    ///
    /// # Errors
    /// When a path to be added is not below `/etc`.
    pub fn set_initramfs_etc(&mut self, request: &InitramfsEtcRequest) -> Result<bool, Kinded> {
        let before = self.initramfs.etc.clone();
        let mut files = before.clone();
        if request.untrack_all {
            files.clear();
        }
        for path in &request.untrack {
            files.remove(trimmed(path));
        }
        for path in &request.track {
            files.insert(require_etc(path)?.to_owned());
        }
        self.initramfs.etc = files;
        Ok(self.initramfs.etc != before)
    }

    fn install(&mut self, text: &str, allow: bool) -> Result<(), Kinded> {
        let new = request_target(text)?;
        if self.packages.contains(text) {
            return already(allow, format!("package '{text}' is already requested"));
        }
        // Another version or suite of the same package takes the place of the old request.
        self.packages
            .retain(|old| request_target(old).is_ok_and(|old| old != new));
        self.packages.insert(text.to_owned());
        Ok(())
    }

    fn install_local(
        &mut self,
        package: &LocalRequest,
        replacing: bool,
        allow: bool,
    ) -> Result<(), Kinded> {
        if self.locals().any(|old| old == package) {
            let message = format!("package '{}' is already requested", package.id());
            return already(allow, message);
        }
        let other = |old: &LocalRequest| (&old.name, &old.arch) != (&package.name, &package.arch);
        self.local_packages.retain(other);
        self.local_packages_replacing_files.retain(other);
        if replacing {
            self.local_packages_replacing_files.insert(package.clone());
        } else {
            self.local_packages.insert(package.clone());
        }
        Ok(())
    }

    /// Drops a request by the text that made it, by the name of the package, or by the id of a
    /// local package.
    fn uninstall(&mut self, text: &str, allow: bool) -> Result<(), Kinded> {
        if self.packages.remove(text) {
            return Ok(());
        }
        let before = self.packages.len() + self.locals().count();
        self.packages.retain(|old| {
            request_target(old).map_or(old != text, |(name, _)| name.as_str() != text)
        });
        self.local_packages.retain(|old| !old.is(text));
        self.local_packages_replacing_files
            .retain(|old| !old.is(text));
        if self.packages.len() + self.locals().count() == before {
            let message = format!("package '{}' is not requested", text.escape_debug());
            return already(allow, message);
        }
        Ok(())
    }

    fn override_remove(&mut self, name: &str, allow: bool) -> Result<(), Kinded> {
        require_name(name)?;
        if self.override_remove.contains(name) {
            return already(allow, format!("package '{name}' is already removed"));
        }
        if self.is_replaced(name) {
            return Err(overridden(name));
        }
        self.override_remove.insert(name.to_owned());
        Ok(())
    }

    fn override_replace_local(
        &mut self,
        package: &LocalRequest,
        allow: bool,
    ) -> Result<(), Kinded> {
        let name = package.name.as_str();
        if self.override_replace_local.contains(package) {
            let message = format!("override '{}' is already requested", package.id());
            return already(allow, message);
        }
        if self.override_remove.contains(name) {
            return Err(overridden(name));
        }
        self.override_replace_local
            .retain(|old| (&old.name, &old.arch) != (&package.name, &package.arch));
        self.drop_replacement(name);
        self.override_replace_local.insert(package.clone());
        Ok(())
    }

    fn override_replace(&mut self, source: &ReplaceFrom) -> Result<(), Kinded> {
        let known = |(kind, name): (&str, &str)| {
            matches!(kind, "suite" | "origin")
                && !name.is_empty()
                && !name.contains(|c: char| c.is_control() || c == ',' || c == ';')
        };
        if !source.from.split_once('=').is_some_and(known) {
            let message = format!("'{}' is no source", source.from.escape_debug());
            return Err(refused(message).with_hint("write suite=NAME or origin=NAME"));
        }
        for name in &source.packages {
            require_name(name)?;
            if self.override_remove.contains(name) {
                return Err(overridden(name));
            }
            self.override_replace_local
                .retain(|old| old.name.as_str() != name);
            self.drop_replacement(name);
            self.override_replace
                .entry(source.from.clone())
                .or_default()
                .insert(name.clone());
        }
        Ok(())
    }

    fn override_reset(&mut self, text: &str, allow: bool) -> Result<(), Kinded> {
        let before = self.override_replace_local.len();
        self.override_replace_local.retain(|old| !old.is(text));
        let local = before != self.override_replace_local.len();
        let removed = self.override_remove.remove(text);
        if self.drop_replacement(text) || removed || local {
            return Ok(());
        }
        let message = format!("no overrides for package '{}'", text.escape_debug());
        already(allow, message)
    }

    fn drop_replacement(&mut self, name: &str) -> bool {
        let mut found = false;
        for names in self.override_replace.values_mut() {
            found |= names.remove(name);
        }
        self.override_replace.retain(|_, names| !names.is_empty());
        found
    }

    fn is_replaced(&self, name: &str) -> bool {
        self.override_replace_local
            .iter()
            .any(|old| old.name.as_str() == name)
            || self.override_replace.values().any(|n| n.contains(name))
    }

    fn locals(&self) -> impl Iterator<Item = &LocalRequest> {
        self.local_packages
            .iter()
            .chain(&self.local_packages_replacing_files)
    }
}

impl fmt::Display for LocalRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sha256, self.id())
    }
}

impl FromStr for LocalRequest {
    type Err = Kinded;

    fn from_str(text: &str) -> Result<Self, Kinded> {
        let malformed = || {
            let shown: String = text.chars().take(120).collect();
            refused(format!(
                "'{}' is not SHA256:NAME_VERSION_ARCH",
                shown.escape_debug()
            ))
        };
        let (sha256, id) = text.split_once(':').ok_or_else(malformed)?;
        let (name, rest) = id.split_once('_').ok_or_else(malformed)?;
        let (version, arch) = rest.rsplit_once('_').ok_or_else(malformed)?;
        Ok(Self {
            name: name.parse().map_err(|_| malformed())?,
            version: version.parse().map_err(|_| malformed())?,
            arch: arch.parse().map_err(|_| malformed())?,
            sha256: sha256.parse().map_err(|_| malformed())?,
        })
    }
}

impl PartialOrd for LocalRequest {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for LocalRequest {
    /// By text; the versions of one package have no order of their own here.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |r: &Self| (r.id(), r.sha256);
        key(self).cmp(&key(other))
    }
}

/// The package that a request is about: `NAME[:ARCH][=VERSION|/SUITE]`.
///
/// # Errors
/// When it is malformed.
pub fn request_target(text: &str) -> Result<(PackageName, Option<Arch>), Kinded> {
    let malformed = || {
        let shown: String = text.chars().take(120).collect();
        refused(format!("'{}' is no package request", shown.escape_debug()))
            .with_hint("write NAME, NAME=VERSION, NAME:ARCH or NAME/SUITE")
    };
    let package = if let Some((package, version)) = text.split_once('=') {
        version.parse::<Version>().map_err(|_| malformed())?;
        package
    } else if let Some((package, suite)) = text.split_once('/') {
        let word = |c: char| c.is_ascii_alphanumeric() || "-_.~+/".contains(c);
        if suite.is_empty() || !suite.chars().all(word) {
            return Err(malformed());
        }
        package
    } else {
        text
    };
    let (name, arch) = match package.split_once(':') {
        Some((name, arch)) => (name, Some(arch.parse().map_err(|_| malformed())?)),
        None => (package, None),
    };
    Ok((name.parse().map_err(|_| malformed())?, arch))
}

fn trimmed(path: &str) -> &str {
    path.trim_end_matches('/')
}

/// A path below `/etc` as it is kept.
fn require_etc(path: &str) -> Result<&str, Kinded> {
    let trimmed = trimmed(path);
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    let good = trimmed
        .strip_prefix("/etc/")
        .is_some_and(|rest| rest.split('/').all(plain) && !rest.chars().any(char::is_control));
    if good {
        return Ok(trimmed);
    }
    Err(refused(format!(
        "'{}' is not a path below /etc",
        path.escape_debug()
    ))
    .with_hint("name a file or directory such as /etc/crypttab"))
}

fn require_name(name: &str) -> Result<(), Kinded> {
    name.parse::<PackageName>()
        .map_err(|error| refused(error.to_string()))?;
    Ok(())
}

/// An error, unless the request takes it as done.
fn already(allow: bool, message: String) -> Result<(), Kinded> {
    if allow {
        return Ok(());
    }
    Err(refused(message).with_hint("use --idempotent to take that as done"))
}

fn overridden(name: &str) -> Kinded {
    refused(format!("override already exists for package '{name}'"))
        .with_hint(format!("drop it first: apt-ostree override reset {name}"))
}

fn refused(message: impl Into<String>) -> Kinded {
    Kinded::new(ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests;
