//! Reading and writing small files of a [`Tree`].

use anyhow::{Context as _, Result};
use apt_ostree_model::{ContentReader, ContentWriter, Meta, Node, Tree};

/// Both directions of content access.
pub trait Content: ContentReader + ContentWriter {}

impl<T: ContentReader + ContentWriter> Content for T {}

/// The content of the regular file at `path`; `None` when there is none.
///
/// # Errors
/// When the object can't be read.
pub fn read(
    tree: &Tree,
    content: &(impl ContentReader + ?Sized),
    path: &str,
) -> Result<Option<Vec<u8>>> {
    let Some(file) = tree.file(path) else {
        return Ok(None);
    };
    let data = content
        .read(file)
        .with_context(|| format!("reading '/{path}'"))?;
    Ok(Some(data))
}

/// Like [`read`], as text; bytes that are not UTF-8 become U+FFFD, a missing file is empty.
///
/// # Errors
/// When the object can't be read.
pub fn read_text(tree: &Tree, content: &dyn ContentReader, path: &str) -> Result<String> {
    let data = read(tree, content, path)?.unwrap_or_default();
    Ok(String::from_utf8(data)
        .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

/// Writes a regular file owned by root; missing parents become directories of mode 0755.
///
/// # Errors
/// When the object can't be written or a parent is no directory.
pub fn write(
    tree: &mut Tree,
    content: &dyn ContentWriter,
    path: &str,
    mode: u32,
    data: &[u8],
) -> Result<()> {
    let meta = Meta::root(mode);
    let file = content
        .put_file(&meta, data)
        .with_context(|| format!("storing '/{path}'"))?;
    place(tree, path, Node::File(file))
}

/// Makes a symbolic link owned by root; missing parents become directories of mode 0755.
///
/// # Errors
/// When the object can't be written or a parent is no directory.
pub fn link(tree: &mut Tree, content: &dyn ContentWriter, path: &str, target: &str) -> Result<()> {
    let link = content
        .put_symlink(target, 0, 0)
        .with_context(|| format!("storing '/{path}'"))?;
    place(tree, path, Node::Symlink(link))
}

fn place(tree: &mut Tree, path: &str, node: Node) -> Result<()> {
    tree.ensure_dir(apt_ostree_model::tree::split(path).0, &Meta::root(0o755))?;
    tree.insert(path, node)?;
    Ok(())
}
