//! Changes of the finished tree.

use apt_ostree_model::PackageName;
use camino::{Utf8Path, Utf8PathBuf};

use super::{View, external, package_name};
use crate::error::{TreefileError, escape};
use crate::loader::{FileKind, Loader};
use crate::names;
use crate::node::Node;
use crate::spec::{EditSpec, ExternalFile};

/// Largest compiled regular expression in bytes.
const MAX_REGEX: usize = 1 << 20;

/// Edits, and the files that they read.
#[derive(Debug)]
pub(super) struct Edits {
    pub(super) spec: EditSpec,
    pub(super) files: Vec<ExternalFile>,
}

/// Reads all fields that change the tree.
pub(super) fn edits(view: View<'_>, loader: &dyn Loader) -> Result<Edits, TreefileError> {
    let add_files = add_files(view, loader)?;
    let mut files: Vec<ExternalFile> = add_files
        .iter()
        .map(|(source, _)| external(source.clone(), "add-files"))
        .collect();
    let mut postprocess = view.verified("postprocess", names::check_script)?;
    if let Some(node) = view.node("postprocess-script") {
        let (text, path) = script_file(node, loader)?;
        postprocess.push(text);
        files.push(external(path, "postprocess-script"));
    }
    let spec = EditSpec {
        remove_files: view.parsed("remove-files", names::tree_path)?,
        add_files,
        remove_from_packages: remove_from_packages(view)?,
        postprocess,
    };
    Ok(Edits { spec, files })
}

fn add_files(
    view: View<'_>,
    loader: &dyn Loader,
) -> Result<Vec<(Utf8PathBuf, String)>, TreefileError> {
    let mut files = Vec::new();
    for pair in view.items("add-files") {
        let [source, target] = pair.items() else {
            continue;
        };
        let path = names::tree_path(target.text())
            .and_then(|path| names::check_added_path(&path).map(|()| path))
            .map_err(|why| target.error(why))?;
        let file = loader
            .locate(
                &source.mark.source.dir,
                Utf8Path::new(source.text()),
                FileKind::File,
            )
            .map_err(|e| source.error(e.to_string()))?;
        files.push((file, path));
    }
    Ok(files)
}

fn script_file(node: &Node, loader: &dyn Loader) -> Result<(String, Utf8PathBuf), TreefileError> {
    let file = loader
        .open(&node.mark.source.dir, Utf8Path::new(node.text()))
        .map_err(|e| node.error(e.to_string()))?;
    let text = String::from_utf8(file.data)
        .map_err(|_| node.error(format!("'{}' is not UTF-8 text", escape(node.text()))))?;
    names::check_script(&text)
        .map_err(|why| node.error(format!("'{}': {why}", escape(node.text()))))?;
    Ok((text, file.path))
}

fn remove_from_packages(view: View<'_>) -> Result<Vec<(PackageName, Vec<String>)>, TreefileError> {
    let mut removals = Vec::new();
    for entry in view.items("remove-from-packages") {
        let Some((name, patterns)) = entry.items().split_first().filter(|(_, p)| !p.is_empty())
        else {
            return Err(entry.error("an entry is a package and at least one regular expression"));
        };
        let compile = |node: &Node| match regex::RegexBuilder::new(node.text())
            .size_limit(MAX_REGEX)
            .build()
        {
            Ok(_) => Ok(node.text().to_owned()),
            Err(error) => {
                let reason = error.to_string();
                let reason = reason.lines().last().unwrap_or_default();
                let reason = reason.trim_start_matches("error: ");
                Err(node.error(format!(
                    "'{}' is not a regular expression: {}",
                    escape(node.text()),
                    escape(reason)
                )))
            }
        };
        removals.push((
            package_name(name)?,
            patterns.iter().map(compile).collect::<Result<_, _>>()?,
        ));
    }
    Ok(removals)
}
