//! The checked treefile: what a compose is to do, free of YAML, includes and variables.

use std::collections::{BTreeMap, BTreeSet};

use apt_ostree_model::{Arch, IdLock, PackageName};
use camino::Utf8PathBuf;
use serde::Serialize;

/// A complete, valid description of a tree. Only the loader of this crate makes one.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct ComposeSpec {
    /// OSTree ref to write; `None` where the verb needs none.
    pub r#ref: Option<String>,
    /// Target architecture.
    pub arch: Arch,
    /// Free data of the author; not part of the input hash.
    pub metadata: BTreeMap<String, serde_json::Value>,
    /// Package repositories in treefile order.
    pub repos: Vec<RepoSpec>,
    /// Ids of repos that serve only locked packages.
    pub lockfile_repos: Vec<String>,
    /// Packages to install, in the order in which they are first named.
    pub packages: Vec<PackageRequest>,
    /// Packages that must come from one repo: repo id and names.
    pub repo_packages: Vec<(String, Vec<PackageName>)>,
    /// Packages that the solver must not use.
    pub exclude_packages: BTreeSet<PackageName>,
    /// apt pins, as in `preferences(5)`.
    pub pins: Vec<Pin>,
    /// Local `.deb` files, absolute paths.
    pub local_packages: Vec<Utf8PathBuf>,
    /// Install Recommends as well.
    pub recommends: bool,
    /// Keep documentation (`/usr/share/{doc,man,info,...}`); copyright files always stay.
    pub documentation: bool,
    /// Keep only these locales; `None` keeps all. Names as in `/usr/share/locale`.
    pub install_langs: Option<Vec<String>>,
    /// debconf answers, one `package question type value` line each.
    pub debconf: Vec<String>,
    /// No kernel, no initramfs, no boot checks.
    pub container: bool,
    /// Commits merged before the packages.
    pub ostree_layers: Vec<String>,
    /// Commits merged over the packages.
    pub ostree_override_layers: Vec<String>,
    /// Initramfs options.
    pub initramfs: InitramfsSpec,
    /// `/opt` and `/usr/local`.
    pub opt_usrlocal: OptUsrLocal,
    /// `/tmp` is a directory; else a link to `sysroot/tmp`.
    pub tmp_is_dir: bool,
    /// Clear write bits of executables.
    pub readonly_executables: bool,
    /// Units to enable.
    pub units: Vec<String>,
    /// Target of `default.target`.
    pub default_target: Option<String>,
    /// Ship `/etc/machine-id` with `uninitialized`; else ship none.
    pub machineid_compat: bool,
    /// Version rules.
    pub version: VersionSpec,
    /// os-release: text to replace by the version.
    pub mutate_os_release: Option<String>,
    /// Where fixed ids come from and what may change.
    pub ids: IdSpec,
    /// Run systemd-sysusers: `true` even for packages that don't ask for it in a script.
    pub sysusers_forced: bool,
    /// Changes of the finished tree.
    pub edits: EditSpec,
    /// Strings, numbers and lists for the commit metadata.
    pub add_commit_metadata: BTreeMap<String, serde_json::Value>,
    /// Where repository dates are noted.
    pub repo_metadata: MetadataPlacement,
    /// Key id for a GPG signature on the commit.
    pub gpg_key: Option<String>,
    /// `CMD` of the image.
    pub container_cmd: Option<Vec<String>>,
    /// `composefs.enabled` of prepare-root.conf; `None`: decided by the target's libostree.
    pub composefs: Option<String>,
    /// Every file outside the treefile that the tree depends on.
    pub files: Vec<ExternalFile>,
    /// The flattened treefile as `--print-only` shows it and the image keeps it.
    pub flattened: serde_json::Value,
    /// Directory of the outermost treefile.
    pub directory: Utf8PathBuf,
    /// What the author should know, one sentence each: deprecated fields, unsafe file modes.
    pub warnings: Vec<String>,
}

/// One package repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RepoSpec {
    /// Id, unique in the treefile: letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Base URL (`http`, `https`, `file`); `None`: the host's mirror for `distribution`.
    pub url: Option<String>,
    /// `debian` or `ubuntu`: whose default suite, keyring and mirror apply.
    pub distribution: String,
    /// Suites; for a flat repository one suite that ends in `/`.
    pub suites: Vec<String>,
    /// Components; empty for a flat repository.
    pub components: Vec<String>,
    /// Architectures; empty: that of the tree.
    pub architectures: Vec<Arch>,
    /// Keyring files (absolute) or armored key blocks; empty: the distribution's keyring.
    pub gpg_keys: Vec<GpgKey>,
    /// Use it although it is unsigned or its signature is unknown.
    pub trusted: bool,
    /// Refuse expired Release files.
    pub check_valid_until: bool,
    /// apt priority of all its packages; `None`: apt's 500.
    pub priority: Option<i32>,
}

/// A key that may sign a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GpgKey {
    /// An absolute path of a keyring, binary or armored.
    File(Utf8PathBuf),
    /// An armored public key block.
    Armored(String),
}

/// One entry of `packages`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PackageRequest {
    /// `name`, `name:arch`, `name=version`, `name/suite`.
    Package {
        /// Package or virtual package name.
        name: PackageName,
        /// Wanted architecture.
        arch: Option<Arch>,
        /// Exact version.
        version: Option<String>,
        /// Suite or codename to take it from.
        suite: Option<String>,
    },
    /// `task:NAME`: all packages of an archive task.
    Task(String),
    /// `priority:required`, `important` or `standard`: all packages of that priority.
    Priority(String),
}

/// An apt pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pin {
    /// Package names or globs.
    pub packages: Vec<String>,
    /// `release a=...`, `origin ...` or `version ...`.
    pub pin: String,
    /// Priority.
    pub priority: i32,
}

/// How the initramfs is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct InitramfsSpec {
    /// Make one when there is a kernel.
    pub enabled: bool,
    /// More dracut arguments.
    pub args: Vec<String>,
}

/// What `/opt` and `/usr/local` are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptUsrLocal {
    /// Links into `/var`; packaged `/opt` content lives in `usr/lib/opt` with links.
    Var,
    /// Plain directories of the image.
    Root,
    /// Directories of the image with a writable overlay kept in `/var`.
    StateOverlay,
}

/// Where the commit's version comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct VersionSpec {
    /// `automatic-version-prefix`, variables expanded, `<date:...>` not yet.
    pub automatic_prefix: Option<String>,
    /// `automatic-version-suffix`, default `.`.
    pub automatic_suffix: Option<char>,
}

/// Id rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct IdSpec {
    /// Take ids from the previous commit.
    pub preserve: bool,
    /// What users are compared with.
    pub check_passwd: IdCheck,
    /// What groups are compared with.
    pub check_groups: IdCheck,
    /// Users that may vanish; `*` for all.
    pub ignore_removed_users: BTreeSet<String>,
    /// Groups that may vanish; `*` for all.
    pub ignore_removed_groups: BTreeSet<String>,
}

/// What ids are compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdCheck {
    /// Nothing.
    None,
    /// The previous commit.
    Previous,
    /// Fixed entries, from a file or the treefile; only the matching half (users or groups) is
    /// filled.
    Fixed(IdLock),
}

/// Changes of the finished tree, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct EditSpec {
    /// Paths to remove, relative to the root.
    pub remove_files: Vec<String>,
    /// Files to add: absolute source and path in the tree, relative to the root.
    pub add_files: Vec<(Utf8PathBuf, String)>,
    /// Package and regular expressions of its files to remove.
    pub remove_from_packages: Vec<(PackageName, Vec<String>)>,
    /// Scripts run in the tree: their text, each with its `#!` line.
    pub postprocess: Vec<String>,
}

/// Where a piece of metadata goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetadataPlacement {
    /// Into the commit.
    Inline,
    /// Into the commit's detached metadata.
    Detached,
    /// Nowhere.
    Disabled,
}

/// A file outside the treefile whose content belongs to the input hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExternalFile {
    /// Absolute path.
    pub path: Utf8PathBuf,
    /// What it is for, such as `add-files`.
    pub role: String,
}
