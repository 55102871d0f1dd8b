//! Turns a configured Debian root into the tree that is committed, in memory.
//!
//! The work has two halves, because the treefile's own scripts run between them in a root that
//! still looks like Debian (`/etc`, `/var/lib/dpkg`, `/boot`):
//!
//! 1. [`apply_treefile`] drops what the build machine left, then does what the treefile asks:
//!    sources, filters, units, added and removed files.
//! 2. The engine runs the scripts and builds the initramfs.
//! 3. [`finish`] makes the OSTree layout: accounts, secrets, kernel, package database, `/var`,
//!    and last `/etc` to `/usr/etc`.
//!
//! [`image_tree`] gives the form that a container image has.

pub(crate) mod accounts;
mod apt_sources;
mod boot;
mod clean;
mod config;
mod edits;
mod idcheck;
mod identity;
mod image;
mod layout;
mod options;
pub(crate) mod ownership;
mod pkgdb;
mod presets;
mod reopen;
pub(crate) mod secrets;
pub(crate) mod sysusers;
pub(crate) mod tmpfiles;
mod units;
mod var;
mod var_rules;
pub(crate) mod work;

#[cfg(test)]
mod real_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod treefile_tests;

use anyhow::Result;
use apt_ostree_model::{File, ImportedPackage, Tree};
use fn_error_context::context;
use serde::Serialize;

pub use accounts::id_lock;
pub use apt_sources::AptSource;
pub use boot::{Kernel, find_kernel};
pub use config::prepare_root_conf;
pub use idcheck::{IdChanges, check_ids};
pub use image::image_tree;
pub use options::{AddedFile, AddedKind, Options, kept_treefile};
pub use reopen::{Reopened, reopen};

pub use crate::content::Content;

/// What both halves work from.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// Content objects of the tree.
    pub content: &'a dyn Content,
    /// All installed packages.
    pub packages: &'a [ImportedPackage],
    /// What the treefile asks for.
    pub options: &'a Options,
}

impl std::fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input")
            .field("packages", &self.packages.len())
            .field("options", self.options)
            .finish_non_exhaustive()
    }
}

/// What postprocessing changed, for the log and for `--json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct PostprocessReport {
    /// Moves, as old and new path.
    pub moved: Vec<(String, String)>,
    /// Files and directories that were dropped; a directory stands for all below it.
    pub dropped: Vec<String>,
    /// Secrets made at build time that were removed or blanked.
    pub secrets: Vec<String>,
    /// Directories and files of /var that are copied from the factory tree at boot.
    pub factory: Vec<String>,
    /// Users and groups that got a generated sysusers.d entry.
    pub accounts: Vec<String>,
    /// What the author of the treefile should look at.
    pub warnings: Vec<String>,
}

impl PostprocessReport {
    /// Appends what `other` says.
    pub fn merge(&mut self, other: Self) {
        self.moved.extend(other.moved);
        self.dropped.extend(other.dropped);
        self.secrets.extend(other.secrets);
        self.factory.extend(other.factory);
        self.accounts.extend(other.accounts);
        self.warnings.extend(other.warnings);
    }
}

/// A tree and what was done to it.
#[derive(Debug, Clone)]
pub struct Output {
    /// The changed tree.
    pub tree: Tree,
    /// What was changed.
    pub report: PostprocessReport,
}

/// First half: what the build machine left goes, what the treefile asks for comes. The result
/// still has the shape of an installed Debian root.
///
/// # Errors
/// When the treefile names units, packages or paths that can't be, or content can't be read.
#[context("applying the treefile to the tree")]
pub fn apply_treefile(tree: Tree, input: Input<'_>) -> Result<Output> {
    let mut work = work::Work::new(tree, input)?;
    layout::check_merged_usr(&work)?;
    identity::drop_build_identity(&mut work)?;
    apt_sources::write_sources(&mut work)?;
    config::write_prepare_root(&mut work)?;
    edits::filter_documentation(&mut work)?;
    edits::filter_locales(&mut work)?;
    units::enable_units(&mut work)?;
    units::set_default_target(&mut work)?;
    config::write_treefile(&mut work)?;
    config::mutate_os_release(&mut work)?;
    edits::remove_files(&mut work)?;
    edits::add_files(&mut work)?;
    edits::remove_from_packages(&mut work)?;
    Ok(work.into_output())
}

/// Takes away documentation and translations that the tree is not to have, as the first half does.
///
/// # Errors
/// When content can't be written.
pub fn filter(tree: Tree, input: Input<'_>) -> Result<Tree> {
    if input.options.documentation && input.options.install_langs.is_none() {
        return Ok(tree);
    }
    let mut work = work::Work::new(tree, input)?;
    edits::filter_documentation(&mut work)?;
    edits::filter_locales(&mut work)?;
    Ok(work.into_output().tree)
}

/// Second half: makes the OSTree layout of a configured root, with the initramfs if there is one.
///
/// # Errors
/// When the root is no merged-/usr Debian root, has no or several kernels, or broken account
/// files.
#[context("finishing the tree")]
pub fn finish(tree: Tree, input: Input<'_>, initramfs: Option<File>) -> Result<Output> {
    let mut work = work::Work::new(tree, input)?;
    layout::check_merged_usr(&work)?;
    clean::remove_leftovers(&mut work);
    clean::normalise(&mut work)?;
    identity::write_identity(&mut work)?;
    identity::prepare_first_boot(&mut work)?;
    secrets::sweep(&mut work)?;
    accounts::scrub(&mut work)?;
    accounts::write_sysusers(&mut work)?;
    edits::readonly_executables(&mut work)?;
    boot::place_kernel(&mut work, initramfs)?;
    config::write_home_defaults(&mut work)?;
    config::write_install_config(&mut work)?;
    presets::freeze(&mut work)?;
    layout::link_toplevel(&mut work)?;
    pkgdb::move_registries(&mut work)?;
    var::move_out(&mut work)?;
    layout::make_base_dirs(&mut work)?;
    layout::move_etc(&mut work)?;
    Ok(work.into_output())
}
