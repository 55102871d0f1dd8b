//! The files of the machine that decide where packages come from: `/etc` of a deployment over the
//! base.

use std::io::ErrorKind::NotFound;

use anyhow::{Context as _, Result};
use apt_ostree_apt::MachineFiles;
use apt_ostree_model::Tree;
use apt_ostree_store::CacheRepo;
use camino::Utf8Path;

use crate::content;

/// See the module.
pub(super) struct Machine<'a> {
    /// `/etc`; `None`: that of the base.
    pub(super) etc: Option<&'a Utf8Path>,
    /// The base, with `usr/etc`.
    pub(super) tree: &'a Tree,
    /// Its content.
    pub(super) store: &'a CacheRepo,
}

impl Machine<'_> {
    /// Where a path of `/etc` is on disk.
    fn on_disk(&self, path: &str) -> Option<camino::Utf8PathBuf> {
        Some(self.etc?.join(path.strip_prefix("etc/")?))
    }
}

impl MachineFiles for Machine<'_> {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        if let Some(file) = self.on_disk(path) {
            return match std::fs::read(&file) {
                Ok(data) => Ok(Some(data)),
                Err(error) if error.kind() == NotFound => Ok(None),
                Err(error) => Err(error).with_context(|| format!("reading '{file}'")),
            };
        }
        let path = in_commit(path);
        match self.tree.resolve(&path) {
            Some(real) => content::read(self.tree, self.store, &real),
            None => Ok(None),
        }
    }

    fn names(&self, dir: &str) -> Result<Vec<String>> {
        let Some(path) = self.on_disk(dir) else {
            let dir = self.tree.dir(&in_commit(dir)).into_iter();
            return Ok(dir.flat_map(|d| d.entries.keys().cloned()).collect());
        };
        let entries = match path.read_dir_utf8() {
            Ok(entries) => entries,
            Err(error) if error.kind() == NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("reading '{path}'")),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.with_context(|| format!("reading '{path}'"))?;
            names.push(entry.file_name().to_owned());
        }
        names.sort();
        Ok(names)
    }
}

/// Where a commit has a path.
fn in_commit(path: &str) -> String {
    match path.strip_prefix("etc/") {
        Some(rest) => format!("usr/etc/{rest}"),
        None => path.to_owned(),
    }
}
