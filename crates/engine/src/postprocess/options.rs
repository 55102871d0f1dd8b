//! What the treefile asks of postprocessing, as plain data.

use std::io::Read as _;

use anyhow::{Context as _, Result};
use apt_ostree_model::{ContentReader, ErrorKind, Kinded, PackageName, Plan, Tree};
use apt_ostree_treefile::spec::{ComposeSpec, OptUsrLocal};
use camino::Utf8Path;

use super::AptSource;
use crate::content;

/// Largest file that `add-files` takes.
const ADDED_FILE_LIMIT: u64 = 1 << 30;

/// The part of a treefile that postprocessing obeys. The default is a tree without wishes.
#[derive(Debug, Clone)]
pub struct Options {
    /// No kernel and no boot checks.
    pub container: bool,
    /// What `/opt` and `/usr/local` are.
    pub opt_usrlocal: OptUsrLocal,
    /// `/tmp` is a directory; else a link to `sysroot/tmp`.
    pub tmp_is_dir: bool,
    /// Clear write bits of executables.
    pub readonly_executables: bool,
    /// Keep documentation.
    pub documentation: bool,
    /// Keep only these locales; `None` keeps all.
    pub install_langs: Option<Vec<String>>,
    /// Units to enable.
    pub units: Vec<String>,
    /// Target of `default.target`.
    pub default_target: Option<String>,
    /// Ship `/etc/machine-id` with `uninitialized`; else ship none.
    pub machineid_compat: bool,
    /// os-release: text to replace by [`Options::version`].
    pub mutate_os_release: Option<String>,
    /// Version of the commit.
    pub version: Option<String>,
    /// Paths to remove, relative to the root.
    pub remove_files: Vec<String>,
    /// Files to add.
    pub add_files: Vec<AddedFile>,
    /// Package and regular expressions of its files to remove.
    pub remove_from_packages: Vec<(PackageName, Vec<String>)>,
    /// Content of `prepare-root.conf` with its path; `None` keeps what is there.
    pub prepare_root: Option<(String, Vec<u8>)>,
    /// prepare-root.conf replaces one that is there: the treefile asked for its content.
    pub prepare_root_forced: bool,
    /// The flattened treefile that the image keeps.
    pub treefile: Option<serde_json::Value>,
    /// apt sources that the image gets; empty keeps what is there.
    pub sources: Vec<AptSource>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            container: false,
            opt_usrlocal: OptUsrLocal::Var,
            tmp_is_dir: true,
            readonly_executables: false,
            documentation: true,
            install_langs: None,
            units: Vec::new(),
            default_target: None,
            machineid_compat: true,
            mutate_os_release: None,
            version: None,
            remove_files: Vec::new(),
            add_files: Vec::new(),
            remove_from_packages: Vec::new(),
            prepare_root: None,
            prepare_root_forced: false,
            treefile: None,
            sources: Vec::new(),
        }
    }
}

/// A file or link of `add-files`, read already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedFile {
    /// Where it goes, relative to the root.
    pub path: String,
    /// What it is.
    pub kind: AddedKind,
}

/// The kinds of [`AddedFile`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddedKind {
    /// A regular file.
    File {
        /// Its content.
        data: Vec<u8>,
        /// Mode 0755 instead of 0644.
        executable: bool,
    },
    /// A symbolic link with its target.
    Symlink(String),
}

impl Options {
    /// Takes what postprocessing needs from the treefile and reads the files that it adds.
    ///
    /// The engine fills in [`Options::version`] and [`Options::sources`] itself.
    ///
    /// # Errors
    /// When a file of `add-files` can't be read.
    pub fn from_spec(spec: &ComposeSpec, plan: &Plan) -> Result<Self> {
        let add_files = spec.edits.add_files.iter();
        let add_files = add_files
            .map(|(source, path)| AddedFile::load(source, path))
            .collect::<Result<_>>()?;
        Ok(Self {
            container: spec.container,
            opt_usrlocal: spec.opt_usrlocal,
            tmp_is_dir: spec.tmp_is_dir,
            readonly_executables: spec.readonly_executables,
            documentation: spec.documentation,
            install_langs: spec.install_langs.clone(),
            units: spec.units.clone(),
            default_target: spec.default_target.clone(),
            machineid_compat: spec.machineid_compat,
            mutate_os_release: spec.mutate_os_release.clone(),
            version: None,
            remove_files: spec.edits.remove_files.clone(),
            add_files,
            remove_from_packages: spec.edits.remove_from_packages.clone(),
            prepare_root: Some(super::prepare_root_conf(spec.composefs.as_deref(), plan)),
            prepare_root_forced: spec.composefs.is_some(),
            treefile: Some(spec.flattened.clone()),
            sources: Vec::new(),
        })
    }
}

impl Options {
    /// How a finished tree was postprocessed, as far as it and the treefile that it keeps (see
    /// [`kept_treefile`]) tell: what finishing it again must do.
    pub fn of_tree(tree: &Tree, treefile: &serde_json::Value) -> Self {
        let overlays =
            "usr/lib/systemd/system/local-fs.target.requires/ostree-state-overlay@opt.service";
        let opt_usrlocal = if tree.contains(overlays) {
            OptUsrLocal::StateOverlay
        } else if tree.dir("opt").is_some() {
            OptUsrLocal::Root
        } else {
            OptUsrLocal::Var
        };
        let languages = treefile["install-langs"].as_array().map(|list| {
            let list = list.iter().filter_map(|language| language.as_str());
            list.map(str::to_owned).collect()
        });
        let modules = tree.dir("usr/lib/modules");
        Self {
            container: modules.is_none_or(|dir| dir.entries.is_empty()),
            opt_usrlocal,
            tmp_is_dir: tree.dir("tmp").is_some(),
            readonly_executables: treefile["readonly-executables"] == true,
            documentation: treefile["documentation"] != false,
            install_langs: languages,
            machineid_compat: ["usr/etc/machine-id", "etc/machine-id"]
                .iter()
                .any(|path| tree.contains(path)),
            ..Self::default()
        }
    }
}

/// The flattened treefile that a composed tree keeps; null when there is none.
///
/// # Errors
/// When it can't be read.
pub fn kept_treefile(tree: &Tree, content: &dyn ContentReader) -> Result<serde_json::Value> {
    let data = content::read(tree, content, super::config::TREEFILE)?;
    let value = data.and_then(|data| serde_json::from_slice(&data).ok());
    Ok(value.unwrap_or_default())
}

impl AddedFile {
    /// Reads a file or link of the build machine. Of its mode only the executable bit of the
    /// owner counts, so that the umask of a checkout does not matter.
    ///
    /// # Errors
    /// When it can't be read or is neither file nor link.
    pub fn load(source: &Utf8Path, path: &str) -> Result<Self> {
        let kind = read_added(source).with_context(|| format!("reading '{source}' to add"))?;
        Ok(Self {
            path: path.trim_start_matches('/').to_owned(),
            kind,
        })
    }
}

fn read_added(source: &Utf8Path) -> Result<AddedKind> {
    use std::os::unix::fs::PermissionsExt as _;

    let meta = std::fs::symlink_metadata(source)?;
    if meta.is_symlink() {
        let target = std::fs::read_link(source)?;
        let target = target
            .into_os_string()
            .into_string()
            .map_err(|_| Kinded::new(ErrorKind::InvalidInput, "its link target is not UTF-8"))?;
        return Ok(AddedKind::Symlink(target));
    }
    if !meta.is_file() {
        return Err(Kinded::new(ErrorKind::InvalidInput, "not a regular file or link").into());
    }
    let mut data = Vec::new();
    let file = std::fs::File::open(source)?;
    file.take(ADDED_FILE_LIMIT + 1).read_to_end(&mut data)?;
    if data.len() as u64 > ADDED_FILE_LIMIT {
        let message = format!("larger than {ADDED_FILE_LIMIT} bytes");
        return Err(Kinded::new(ErrorKind::InvalidInput, message).into());
    }
    Ok(AddedKind::File {
        data,
        executable: meta.permissions().mode() & 0o100 != 0,
    })
}
