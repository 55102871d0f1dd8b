//! Treefiles: YAML or JSON that says what a tree is made of.
//!
//! A treefile goes through one type per step: text, document in which each value knows
//! its line, the same checked against the table of fields, fields merged over all
//! includes, and last [`ComposeSpec`]. Files are read only through a [`Loader`]. The table is also
//! where the JSON schema and the reference come from.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod accounts;
mod check;
mod checked;
mod condition;
mod error;
mod fields;
mod include;
mod loader;
mod merge;
mod names;
mod node;
mod packages;
mod reference;
mod repos;
mod schema;
pub mod spec;
mod substitute;
#[cfg(test)]
mod tests;
mod variables;
mod yaml;

use std::collections::BTreeMap;

use apt_ostree_model::Arch;
use camino::{Utf8Path, Utf8PathBuf};

pub use error::{Location, TreefileError};
pub use loader::{DirLoader, FileKind, LoadError, LoadedFile, Loader, MemoryLoader};
pub use reference::reference;
pub use schema::json_schema;
pub use spec::ComposeSpec;

/// What decides about a treefile besides its text.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Architecture asked for; `None`: the treefile's, else that of the host.
    pub arch: Option<Arch>,
    /// Architecture of the host.
    pub host_arch: Arch,
    /// Variables that win over those of the treefile.
    pub variables: BTreeMap<String, String>,
    /// Base URL for repositories without `url`; `None` leaves them without.
    pub mirror: Option<String>,
    /// Directory of `*.sources` files; `None`: beside the treefile that names them.
    pub source_root: Option<Utf8PathBuf>,
}

impl LoadOptions {
    /// The defaults for a host.
    pub fn new(host_arch: Arch) -> Self {
        Self {
            arch: None,
            host_arch,
            variables: BTreeMap::new(),
            mirror: None,
            source_root: None,
        }
    }
}

/// Reads the treefile `path`, relative to the loader's root, with all that it includes.
///
/// # Errors
/// When a file can't be read, or is not a valid treefile; names file, line and column.
pub fn load(
    loader: &dyn Loader,
    path: impl AsRef<Utf8Path>,
    options: &LoadOptions,
) -> Result<ComposeSpec, TreefileError> {
    let context = include::Context {
        loader,
        arch: options.arch.as_ref().map(Arch::as_str),
        host_arch: options.host_arch.as_str(),
        variables: variables::from_arguments(&options.variables)?,
    };
    let merged = include::read(&context, path.as_ref())?;
    checked::build(merged, loader, options)
}

/// Reads a request for one package: `NAME`, `NAME:ARCH`, `NAME=VERSION` or `NAME/SUITE`.
///
/// # Errors
/// When the text is nothing of that; the message says what is wrong with it.
pub fn parse_request(text: &str) -> Result<spec::PackageRequest, String> {
    packages::parse(text)
}

/// Loads `data` as a treefile that can include itself, so that a fuzzer reaches every step.
///
/// Never panics, and is bounded in time and memory.
pub fn parse_for_fuzzing(data: &[u8]) {
    let Ok(arch) = "amd64".parse::<Arch>() else {
        return;
    };
    let loader = MemoryLoader::new()
        .with("tree.yaml", data)
        .with("tree.json", data)
        .with(
            "main.yaml",
            "include: [tree.yaml, tree.json]\nvariables: {a: 1}\n",
        )
        .with("a.sources", data)
        .with("passwd", data);
    let options = LoadOptions::new(arch);
    for name in ["tree.yaml", "tree.json", "main.yaml"] {
        drop(load(&loader, name, &options));
    }
    let text = "repos: [a]\ncheck-passwd: {type: file, filename: passwd}\npackages: [bash]\n";
    drop(load(
        &loader.with("other.yaml", text),
        "other.yaml",
        &options,
    ));
}
