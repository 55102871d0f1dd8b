//! The tree under work with the few operations that every step needs.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use apt_ostree_model::tree::{join, split};
use apt_ostree_model::{ErrorKind, Kinded, Meta, Node, Tree};

use super::ownership::Owned;
use super::{Content, Input, Options, Output, PostprocessReport};

/// The state that the steps share.
pub(super) struct Work<'a> {
    pub(super) tree: Tree,
    pub(super) content: &'a dyn Content,
    pub(super) input: Input<'a>,
    pub(super) report: PostprocessReport,
    /// tmpfiles.d lines that must win over those of packages, by path.
    pub(super) early_lines: BTreeMap<String, String>,
    owned: Owned,
}

impl<'a> Work<'a> {
    pub(super) fn new(tree: Tree, input: Input<'a>) -> Result<Self> {
        let owned = owned_paths(&tree, input)?;
        Ok(Self {
            tree,
            content: input.content,
            input,
            report: PostprocessReport::default(),
            early_lines: BTreeMap::new(),
            owned,
        })
    }

    pub(super) fn into_output(self) -> Output {
        Output {
            tree: self.tree,
            report: self.report,
        }
    }

    pub(super) fn options(&self) -> &'a Options {
        self.input.options
    }

    /// What packages ship outside /usr.
    pub(super) fn owned(&self) -> &Owned {
        &self.owned
    }

    pub(super) fn warn(&mut self, message: impl Into<String>) {
        self.report.warnings.push(message.into());
    }

    /// The content of the regular file at `path`, following no link; `None` when there is none.
    pub(super) fn read_optional(&self, path: &str) -> Result<Option<Vec<u8>>> {
        read_optional(&self.tree, self.content, path)
    }

    /// Like [`Self::read_optional`], as text; bytes that are not UTF-8 are an error.
    pub(super) fn read_text_optional(&self, path: &str) -> Result<Option<String>> {
        read_text_optional(&self.tree, self.content, path)
    }

    /// Writes a file owned by root, with missing parents, over a file or link that is there.
    pub(super) fn write(&mut self, path: &str, mode: u32, data: &[u8]) -> Result<()> {
        self.write_as(path, &Meta::root(mode), data)
    }

    /// Writes new content into the file at `path` and keeps owner and mode; without such a file
    /// it becomes one of root with mode 0644.
    pub(super) fn rewrite(&mut self, path: &str, data: &[u8]) -> Result<()> {
        let meta = self
            .tree
            .file(path)
            .map_or_else(|| Meta::root(0o644), |file| file.meta.clone());
        self.write_as(path, &meta, data)
    }

    pub(super) fn write_as(&mut self, path: &str, meta: &Meta, data: &[u8]) -> Result<()> {
        let file = self
            .content
            .put_file(meta, data)
            .with_context(|| format!("storing '{path}'"))?;
        self.put(path, Node::File(file))
    }

    /// Makes a symbolic link owned by root, with missing parents, over a file or link.
    pub(super) fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        let link = self
            .content
            .put_symlink(target, 0, 0)
            .with_context(|| format!("storing link '{path}'"))?;
        self.put(path, Node::Symlink(link))
    }

    /// Puts `node` at `path`, with missing parents; a directory in its place is an error.
    pub(super) fn put(&mut self, path: &str, node: Node) -> Result<()> {
        if self.tree.dir(path).is_some() {
            return Err(Kinded::new(
                ErrorKind::InvalidInput,
                format!("'/{path}' is a directory, not a file"),
            )
            .into());
        }
        let dir = self.tree.ensure_dir(split(path).0, &Meta::root(0o755))?;
        dir.entries.insert(split(path).1.to_owned(), node);
        Ok(())
    }

    /// Takes away what is at `path` and notes it.
    pub(super) fn drop_path(&mut self, path: &str) -> Option<Node> {
        let node = self.tree.remove(path)?;
        self.report.dropped.push(format!("/{path}"));
        Some(node)
    }

    /// Moves what is at `from` to `to`, which must not exist, and notes it.
    pub(super) fn move_path(&mut self, from: &str, to: &str) -> Result<()> {
        self.tree
            .ensure_dir(split(to).0, &Meta::root(0o755))
            .with_context(|| format!("moving '/{from}' to '/{to}'"))?;
        self.tree
            .rename(from, to)
            .with_context(|| format!("moving '/{from}'"))?;
        self.report
            .moved
            .push((format!("/{from}"), format!("/{to}")));
        Ok(())
    }

    /// The path with the links of its parent directories followed, so that `bin/x` becomes
    /// `usr/bin/x`. The last component is not followed. Missing parents stay as written.
    pub(super) fn real_path(&self, path: &str) -> String {
        real_path(&self.tree, path)
    }

    /// Names of the entries of a directory; empty when it is none.
    pub(super) fn names(&self, dir: &str) -> Vec<String> {
        self.tree
            .dir(dir)
            .map(|d| d.entries.keys().cloned().collect())
            .unwrap_or_default()
    }
}

/// What packages ship outside /usr; by dpkg's own lists when the packages are not at hand.
fn owned_paths(tree: &Tree, input: Input<'_>) -> Result<Owned> {
    const INFO: &str = "var/lib/dpkg/info";
    let mut owned = Owned::new(input.packages);
    if !input.packages.is_empty() {
        return Ok(owned);
    }
    let names = tree.dir(INFO).into_iter().flat_map(|d| d.entries.keys());
    for name in names.filter(|name| name.ends_with(".list")) {
        let data = read_optional(tree, input.content, &join(INFO, name))?;
        owned.add_list(&String::from_utf8_lossy(&data.unwrap_or_default()));
    }
    Ok(owned)
}

/// See [`Work::real_path`].
pub(crate) fn real_path(tree: &Tree, path: &str) -> String {
    let (dir, name) = split(path);
    if dir.is_empty() {
        return path.to_owned();
    }
    if tree.dir(dir).is_some() {
        return path.to_owned();
    }
    if let Some(real) = tree.resolve(dir) {
        return join(&real, name);
    }
    join(&real_path(tree, dir), name)
}

pub(crate) use crate::content::read as read_optional;

/// Like [`read_optional`], as text.
pub(crate) fn read_text_optional(
    tree: &Tree,
    content: &(impl apt_ostree_model::ContentReader + ?Sized),
    path: &str,
) -> Result<Option<String>> {
    let Some(data) = read_optional(tree, content, path)? else {
        return Ok(None);
    };
    String::from_utf8(data)
        .map(Some)
        .map_err(|_| Kinded::new(ErrorKind::InvalidInput, format!("'/{path}' is not UTF-8")).into())
}

/// The directory part of a path.
pub(super) fn parent(path: &str) -> &str {
    split(path).0
}
