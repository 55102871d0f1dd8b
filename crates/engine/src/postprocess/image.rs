//! The form of a tree that a container image has.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use apt_ostree_model::tree::split;
use apt_ostree_model::{Dir, Meta, Node, Tree};
use fn_error_context::context;

use super::Content;
use super::accounts::Accounts;
use super::tmpfiles::{self, Line};

/// Maps `/usr/etc` back to `/etc` and puts into `/var` the directories and links that tmpfiles.d
/// would make at boot, because systemd-tmpfiles does not run in a container: dpkg and apt find
/// their database through them. `/var` gets no regular file.
///
/// # Errors
/// When content can't be read or written.
#[context("making the container form of the tree")]
pub fn image_tree(tree: &Tree, content: &dyn Content) -> Result<Tree> {
    let mut image = tree.clone();
    if image.contains("usr/etc") {
        image.remove("etc");
        image.rename("usr/etc", "etc")?;
    }
    let accounts = Accounts::load(&image, content)?;
    let mut first: BTreeMap<String, Line> = BTreeMap::new();
    for line in tmpfiles::lines_of(&image, content)? {
        if line.creates() && line.path.starts_with("/var/") {
            first.entry(line.path.clone()).or_insert(line);
        }
    }
    for (path, line) in first {
        let path = path.trim_start_matches('/');
        let parent_is_dir = image.dir(split(path).0).is_some();
        if image.contains(path) || !parent_is_dir {
            continue;
        }
        if let Some(node) = node_of(&line, &image, content, &accounts)? {
            image
                .insert(path, node)
                .with_context(|| format!("adding '/{path}'"))?;
        }
    }
    Ok(image)
}

/// What a line makes, as far as it depends on nothing but the tree.
pub(super) fn node_of(
    line: &Line,
    image: &Tree,
    content: &dyn Content,
    accounts: &Accounts,
) -> Result<Option<Node>> {
    if line.is_dir() {
        return Ok(line_meta(line, accounts, 0o755).map(|meta| Node::Dir(Dir::new(meta))));
    }
    if line.kind == 'C' {
        let source = line.argument.trim_start_matches('/');
        let dir = image.dir(source);
        return Ok(dir.map(|dir| Node::Dir(Dir::new(dir.meta.clone()))));
    }
    if line.kind == 'L' && !line.argument.is_empty() {
        let link = content
            .put_symlink(&line.argument, 0, 0)
            .with_context(|| format!("storing link '{}'", line.path))?;
        return Ok(Some(Node::Symlink(link)));
    }
    Ok(None)
}

/// Owner and mode of a line that makes something; `None` when it names an account that is not in
/// the tree.
pub(super) fn line_meta(line: &Line, accounts: &Accounts, default: u32) -> Option<Meta> {
    let uid = match &line.user {
        None => 0,
        Some(name) => match accounts.users.iter().find(|u| u.name == *name) {
            Some(user) => user.uid,
            None => name.parse().ok()?,
        },
    };
    let gid = match &line.group {
        None => 0,
        Some(name) => match accounts.groups.iter().find(|g| g.name == *name) {
            Some(group) => group.gid,
            None => name.parse().ok()?,
        },
    };
    let mode = line.mode.unwrap_or(default) & 0o7777;
    Some(Meta {
        mode,
        uid,
        gid,
        ..Meta::root(mode)
    })
}
