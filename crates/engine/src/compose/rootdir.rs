//! Root directories of the user: read, written and replaced as a whole.

use std::path::Path;

use anyhow::{Context as _, Result};
use apt_ostree_model::{ErrorKind, Kinded, Tree};
use camino::{Utf8Path, Utf8PathBuf};

use super::context::{Run, utf8};

/// A destination must not exist, or be an empty directory.
pub(super) fn require_absent(dest: &Utf8Path) -> Result<()> {
    let empty = match dest.read_dir_utf8() {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if empty {
        return Ok(());
    }
    let message = format!("'{dest}' exists and is not an empty directory");
    Err(Kinded::new(ErrorKind::InvalidInput, message)
        .with_hint("remove it or name another directory")
        .into())
}

/// A source must be a directory, and not `/`.
pub(super) fn require_root(path: &Path) -> Result<Utf8PathBuf> {
    let path = utf8(path)?;
    let real = path
        .canonicalize_utf8()
        .with_context(|| format!("opening '{path}'"))?;
    if real == "/" || !real.is_dir() {
        let message = format!("'{path}' is not the directory of a root file system");
        return Err(Kinded::new(ErrorKind::InvalidInput, message).into());
    }
    Ok(real)
}

/// Writes `tree` to `dest`: beside it first, then renamed. Files are copies, so that changing
/// them never touches the cache.
pub(super) fn export(run: &Run<'_>, tree: &Tree, dest: &Utf8Path) -> Result<()> {
    let parent = dest.parent().unwrap_or_else(|| Utf8Path::new("/"));
    std::fs::create_dir_all(parent).with_context(|| format!("creating '{parent}'"))?;
    let temporary = beside(dest, "new");
    remove(&temporary)?;
    std::fs::create_dir(&temporary).with_context(|| format!("creating '{temporary}'"))?;
    if let Err(error) = run.store.checkout_copy(tree, &temporary) {
        remove(&temporary)?;
        return Err(error.context(format!("writing '{dest}'")));
    }
    if dest.exists() {
        std::fs::remove_dir(dest).with_context(|| format!("replacing '{dest}'"))?;
    }
    std::fs::rename(&temporary, dest).with_context(|| format!("renaming to '{dest}'"))
}

/// Puts `tree` in the place of the directory `dest`.
pub(super) fn replace(run: &Run<'_>, tree: &Tree, dest: &Utf8Path) -> Result<()> {
    let (fresh, old) = (beside(dest, "finished"), beside(dest, "old"));
    for leftover in [&fresh, &old] {
        remove(leftover)?;
    }
    export(run, tree, &fresh)?;
    std::fs::rename(dest, &old).with_context(|| format!("moving '{dest}' away"))?;
    if let Err(error) = std::fs::rename(&fresh, dest) {
        std::fs::rename(&old, dest).with_context(|| format!("moving '{dest}' back"))?;
        return Err(error).with_context(|| format!("replacing '{dest}'"));
    }
    remove(&old)
}

fn beside(dest: &Utf8Path, what: &str) -> Utf8PathBuf {
    let name = dest.file_name().unwrap_or("root");
    dest.with_file_name(format!(".{name}.apt-ostree-{what}"))
}

fn remove(path: &Utf8Path) -> Result<()> {
    if std::fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    apt_ostree_fsx::remove_tree(path).with_context(|| format!("removing '{path}'"))
}
