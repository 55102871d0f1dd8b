//! A file tree as metadata: what a package holds, what a root is, what a commit will be.
//!
//! File contents are named by their OSTree object checksum, so joining, moving and comparing
//! trees never touches file data. A path is relative to the root, uses `/`, and has no empty, `.`
//! or `..` component; the root itself is `""`.

use std::collections::{BTreeMap, btree_map};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Sha256Digest;

/// Extended attributes by name. Names and values are bytes without a trailing NUL.
pub type Xattrs = BTreeMap<String, HexBytes>;

/// Bytes that JSON carries as hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HexBytes(#[serde(with = "hex_bytes")] pub Vec<u8>);

/// Bytes as a hexadecimal string.
pub mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the bytes as lowercase hexadecimal.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    /// Reads hexadecimal text.
    ///
    /// # Errors
    /// When the text is not hexadecimal.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        hex::decode(text.as_bytes()).map_err(serde::de::Error::custom)
    }
}

/// Owner, permission bits and extended attributes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Meta {
    /// Permission bits with set-id and sticky bits (`0o7777`), without the file type.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: Xattrs,
}

impl Meta {
    /// Owned by root, without extended attributes.
    pub const fn root(mode: u32) -> Self {
        Self {
            mode,
            uid: 0,
            gid: 0,
            xattrs: BTreeMap::new(),
        }
    }
}

/// A directory, a regular file or a symbolic link; an image holds nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Dir(Dir),
    /// A regular file.
    File(File),
    /// A symbolic link.
    Symlink(Symlink),
}

/// A directory and what it holds, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dir {
    /// Owner and mode.
    pub meta: Meta,
    /// What it holds.
    pub entries: Entries,
}

/// Entries of a directory by name, in byte order. Copies share them until one changes: a tree of
/// a hundred thousand files is copied at each step of a compose, and changed in a few places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entries(Arc<BTreeMap<String, Node>>);

impl Deref for Entries {
    type Target = BTreeMap<String, Node>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Entries {
    fn deref_mut(&mut self) -> &mut Self::Target {
        Arc::make_mut(&mut self.0)
    }
}

impl IntoIterator for Entries {
    type Item = (String, Node);
    type IntoIter = btree_map::IntoIter<String, Node>;

    fn into_iter(self) -> Self::IntoIter {
        Arc::unwrap_or_clone(self.0).into_iter()
    }
}

impl<'a> IntoIterator for &'a Entries {
    type Item = (&'a String, &'a Node);
    type IntoIter = btree_map::Iter<'a, String, Node>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Owner and mode.
    pub meta: Meta,
    /// Size in bytes.
    pub size: u64,
    /// OSTree checksum of the content object (covers content, owner, mode and xattrs).
    pub checksum: Sha256Digest,
}

/// A symbolic link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symlink {
    /// Where it points.
    pub target: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// OSTree checksum of the content object.
    pub checksum: Sha256Digest,
}

/// A tree operation met something other than it needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The path has an empty, `.` or `..` component, or starts with `/`.
    #[error("'{0}' is not a clean relative path")]
    BadPath(String),
    /// A parent of the path is missing.
    #[error("'{0}' has no parent directory")]
    NoParent(String),
    /// A parent of the path is a file or link.
    #[error("a parent of '{0}' is not a directory")]
    NotADirectory(String),
    /// The path is missing.
    #[error("'{0}' does not exist")]
    Missing(String),
    /// The path exists already.
    #[error("'{0}' exists already")]
    Exists(String),
}

impl Dir {
    /// An empty directory.
    pub fn new(meta: Meta) -> Self {
        Self {
            meta,
            entries: Entries::default(),
        }
    }
}

impl Node {
    /// The directory, if it is one.
    pub const fn as_dir(&self) -> Option<&Dir> {
        match self {
            Self::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    /// The regular file, if it is one.
    pub const fn as_file(&self) -> Option<&File> {
        match self {
            Self::File(file) => Some(file),
            _ => None,
        }
    }

    /// The symbolic link, if it is one.
    pub const fn as_symlink(&self) -> Option<&Symlink> {
        match self {
            Self::Symlink(link) => Some(link),
            _ => None,
        }
    }

    /// Owner and group.
    pub const fn owner(&self) -> (u32, u32) {
        match self {
            Self::Dir(dir) => (dir.meta.uid, dir.meta.gid),
            Self::File(file) => (file.meta.uid, file.meta.gid),
            Self::Symlink(link) => (link.uid, link.gid),
        }
    }
}

/// A root directory with path operations. No operation follows a symbolic link, except
/// [`Tree::resolve`].
///
/// As JSON it is a flat list, parents first, so that no depth of directories nests the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<FlatNode>", into = "Vec<FlatNode>")]
pub struct Tree {
    /// The root directory.
    pub root: Dir,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            root: Dir::new(Meta::root(0o755)),
        }
    }
}

/// One node of a [`Tree`] in its JSON form: a link has a target, a file a size, a directory
/// neither.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlatNode {
    #[serde(rename = "p")]
    path: String,
    #[serde(rename = "m", default)]
    mode: u32,
    #[serde(rename = "u", default)]
    uid: u32,
    #[serde(rename = "g", default)]
    gid: u32,
    #[serde(rename = "x", default, skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: Xattrs,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    checksum: Option<Sha256Digest>,
}

impl FlatNode {
    fn new(path: String, meta: Meta) -> Self {
        let Meta {
            mode,
            uid,
            gid,
            xattrs,
        } = meta;
        Self {
            path,
            mode,
            uid,
            gid,
            xattrs,
            size: None,
            target: None,
            checksum: None,
        }
    }

    fn collect(dir: Dir, path: &str, list: &mut Vec<Self>) {
        list.push(Self::new(path.to_owned(), dir.meta));
        for (name, node) in dir.entries {
            let path = join(path, &name);
            match node {
                Node::Dir(dir) => Self::collect(dir, &path, list),
                Node::File(file) => list.push(Self {
                    size: Some(file.size),
                    checksum: Some(file.checksum),
                    ..Self::new(path, file.meta)
                }),
                Node::Symlink(link) => list.push(Self {
                    target: Some(link.target),
                    checksum: Some(link.checksum),
                    ..Self::new(
                        path,
                        Meta {
                            mode: 0,
                            uid: link.uid,
                            gid: link.gid,
                            xattrs: Xattrs::new(),
                        },
                    )
                }),
            }
        }
    }

    fn into_node(self) -> (String, Node) {
        let meta = Meta {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            xattrs: self.xattrs,
        };
        let node = match (self.size, self.target, self.checksum) {
            (Some(size), _, Some(checksum)) => Node::File(File {
                meta,
                size,
                checksum,
            }),
            (None, Some(target), Some(checksum)) => Node::Symlink(Symlink {
                target,
                uid: meta.uid,
                gid: meta.gid,
                checksum,
            }),
            _ => Node::Dir(Dir::new(meta)),
        };
        (self.path, node)
    }
}

impl From<Tree> for Vec<FlatNode> {
    fn from(tree: Tree) -> Self {
        let mut list = Self::new();
        FlatNode::collect(tree.root, "", &mut list);
        list
    }
}

impl TryFrom<Vec<FlatNode>> for Tree {
    type Error = TreeError;

    fn try_from(list: Vec<FlatNode>) -> Result<Self, TreeError> {
        let mut tree = Self::default();
        for flat in list {
            let (path, node) = flat.into_node();
            match node {
                Node::Dir(dir) if path.is_empty() => tree.root.meta = dir.meta,
                node => {
                    if tree.insert(&path, node)?.is_some() {
                        return Err(TreeError::Exists(path));
                    }
                }
            }
        }
        Ok(tree)
    }
}

/// Splits a path into components; the root has none.
fn components(path: &str) -> Result<Vec<&str>, TreeError> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let parts: Vec<&str> = path.split('/').collect();
    if parts
        .iter()
        .any(|p| p.is_empty() || *p == "." || *p == "..")
    {
        return Err(TreeError::BadPath(path.to_owned()));
    }
    Ok(parts)
}

/// Joins a directory path and a name; the root is `""`.
pub fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    }
}

/// Splits a path into its directory and its last component.
pub fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Tree {
    /// The node at `path`; `None` when it or a parent is missing or a parent is no directory.
    /// The root is no [`Node`]: `get("")` is `None`; use [`Tree::dir`].
    pub fn get(&self, path: &str) -> Option<&Node> {
        let (dir, name) = split(path);
        self.dir(dir)?.entries.get(name)
    }

    /// The node at `path`, to change it.
    pub fn get_mut(&mut self, path: &str) -> Option<&mut Node> {
        let (dir, name) = split(path);
        self.dir_mut(dir)?.entries.get_mut(name)
    }

    /// The directory at `path`; the root for `""`.
    pub fn dir(&self, path: &str) -> Option<&Dir> {
        let mut dir = &self.root;
        for part in components(path).ok()? {
            dir = dir.entries.get(part)?.as_dir()?;
        }
        Some(dir)
    }

    /// The directory at `path`, to change it.
    pub fn dir_mut(&mut self, path: &str) -> Option<&mut Dir> {
        let mut dir = &mut self.root;
        for part in components(path).ok()? {
            let Node::Dir(next) = dir.entries.get_mut(part)? else {
                return None;
            };
            dir = next;
        }
        Some(dir)
    }

    /// True when something is at `path`.
    pub fn contains(&self, path: &str) -> bool {
        path.is_empty() || self.get(path).is_some()
    }

    /// The regular file at `path`, following no link.
    pub fn file(&self, path: &str) -> Option<&File> {
        self.get(path).and_then(Node::as_file)
    }

    /// Puts `node` at `path` and returns what was there. The parent must exist.
    ///
    /// # Errors
    /// When the path is not clean or its parent is missing or no directory.
    pub fn insert(&mut self, path: &str, node: Node) -> Result<Option<Node>, TreeError> {
        components(path)?;
        let (dir, name) = split(path);
        if name.is_empty() {
            return Err(TreeError::BadPath(path.to_owned()));
        }
        let parent = self
            .dir_mut(dir)
            .ok_or_else(|| TreeError::NoParent(path.to_owned()))?;
        Ok(parent.entries.insert(name.to_owned(), node))
    }

    /// Takes away what is at `path` and returns it.
    pub fn remove(&mut self, path: &str) -> Option<Node> {
        let (dir, name) = split(path);
        self.dir_mut(dir)?.entries.remove(name)
    }

    /// Moves what is at `from` to `to`, which must not exist; parents of `to` must.
    ///
    /// # Errors
    /// When `from` is missing, `to` exists or has no parent directory.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), TreeError> {
        if self.contains(to) {
            return Err(TreeError::Exists(to.to_owned()));
        }
        if self.dir(split(to).0).is_none() {
            return Err(TreeError::NoParent(to.to_owned()));
        }
        let node = self
            .remove(from)
            .ok_or_else(|| TreeError::Missing(from.to_owned()))?;
        self.insert(to, node).map(drop)
    }

    /// The directory at `path`; it and its missing parents are made with `meta`.
    ///
    /// # Errors
    /// When the path is not clean or a part of it is a file or link.
    pub fn ensure_dir(&mut self, path: &str, meta: &Meta) -> Result<&mut Dir, TreeError> {
        let mut dir = &mut self.root;
        for part in components(path)? {
            let node = dir
                .entries
                .entry(part.to_owned())
                .or_insert_with(|| Node::Dir(Dir::new(meta.clone())));
            let Node::Dir(next) = node else {
                return Err(TreeError::NotADirectory(path.to_owned()));
            };
            dir = next;
        }
        Ok(dir)
    }

    /// The real path of `path` after following symbolic links inside the tree, in every component
    /// and at the end, as if the tree were `/`. `None` when something is missing, a loop, or a
    /// component is no directory.
    pub fn resolve(&self, path: &str) -> Option<String> {
        let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut done: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    done.pop();
                    continue;
                }
                _ => {}
            }
            let here = join(&done.join("/"), &part);
            match self.get(&here)? {
                Node::Symlink(link) => {
                    links += 1;
                    if links > 40 {
                        return None;
                    }
                    if link.target.starts_with('/') {
                        done.clear();
                    }
                    todo.extend(link.target.split('/').rev().map(str::to_owned));
                }
                Node::Dir(_) => done.push(part),
                Node::File(_) => {
                    if !todo.is_empty() {
                        return None;
                    }
                    done.push(part);
                }
            }
        }
        Some(done.join("/"))
    }

    /// Visits every node below the root, parents first, names in byte order.
    pub fn walk(&self) -> Walk<'_> {
        Walk {
            stack: vec![(String::new(), self.root.entries.iter())],
        }
    }

    /// Visits every node below the directory at `path`; nothing when it is missing.
    pub fn walk_from(&self, path: &str) -> Walk<'_> {
        let stack = self
            .dir(path)
            .map(|dir| (path.to_owned(), dir.entries.iter()));
        Walk {
            stack: stack.into_iter().collect(),
        }
    }

    /// How many nodes there are below the root.
    pub fn len(&self) -> usize {
        fn count(dir: &Dir) -> usize {
            dir.entries
                .values()
                .map(|n| 1 + n.as_dir().map_or(0, count))
                .sum()
        }
        count(&self.root)
    }

    /// True when the root is empty.
    pub fn is_empty(&self) -> bool {
        self.root.entries.is_empty()
    }

    /// Sum of the sizes of all regular files in bytes.
    pub fn total_size(&self) -> u64 {
        self.walk()
            .filter_map(|(_, node)| node.as_file())
            .map(|file| file.size)
            .sum()
    }
}

/// Iterator of [`Tree::walk`]: `(path, node)`.
#[derive(Debug)]
pub struct Walk<'a> {
    stack: Vec<(String, std::collections::btree_map::Iter<'a, String, Node>)>,
}

impl<'a> Iterator for Walk<'a> {
    type Item = (String, &'a Node);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (dir, entries) = self.stack.last_mut()?;
            let Some((name, node)) = entries.next() else {
                self.stack.pop();
                continue;
            };
            let path = join(dir, name);
            if let Node::Dir(child) = node {
                self.stack.push((path.clone(), child.entries.iter()));
            }
            return Some((path, node));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> Sha256Digest {
        Sha256Digest::new([byte; 32])
    }

    fn file(byte: u8) -> Node {
        Node::File(File {
            meta: Meta::root(0o644),
            size: u64::from(byte),
            checksum: digest(byte),
        })
    }

    fn link(target: &str) -> Node {
        Node::Symlink(Symlink {
            target: target.to_owned(),
            uid: 0,
            gid: 0,
            checksum: digest(0),
        })
    }

    fn sample() -> Tree {
        let mut tree = Tree::default();
        tree.ensure_dir("usr/bin", &Meta::root(0o755)).unwrap();
        tree.ensure_dir("etc", &Meta::root(0o755)).unwrap();
        tree.insert("usr/bin/a", file(1)).unwrap();
        tree.insert("bin", link("usr/bin")).unwrap();
        tree.insert("etc/abs", link("/bin/a")).unwrap();
        tree.insert("etc/up", link("../../../usr/bin/a")).unwrap();
        tree.insert("etc/loop", link("loop")).unwrap();
        tree
    }

    #[test]
    fn walk_is_sorted_and_parents_come_first() {
        let paths: Vec<String> = sample().walk().map(|(p, _)| p).collect();
        assert_eq!(
            paths,
            [
                "bin",
                "etc",
                "etc/abs",
                "etc/loop",
                "etc/up",
                "usr",
                "usr/bin",
                "usr/bin/a"
            ]
        );
        assert_eq!(sample().len(), paths.len());
    }

    #[test]
    fn unclean_paths_are_refused() {
        let mut tree = sample();
        for bad in ["/x", "x//y", "../x", "usr/../x", "usr/.", "x/"] {
            assert!(
                matches!(tree.insert(bad, file(2)), Err(TreeError::BadPath(_))),
                "{bad}"
            );
        }
        assert!(tree.get("../etc").is_none());
    }

    #[test]
    fn operations_do_not_follow_links() {
        let mut tree = sample();
        assert!(tree.get("bin/a").is_none());
        assert_eq!(
            tree.insert("bin/b", file(2)),
            Err(TreeError::NoParent("bin/b".to_owned()))
        );
        assert!(tree.ensure_dir("bin/c", &Meta::root(0o755)).is_err());
    }

    #[test]
    fn resolve_follows_links_inside_the_tree() {
        let tree = sample();
        for path in ["bin/a", "etc/abs", "etc/up", "/usr/./bin/../bin/a"] {
            assert_eq!(tree.resolve(path).as_deref(), Some("usr/bin/a"), "{path}");
        }
        assert_eq!(tree.resolve("etc/loop"), None);
        assert_eq!(tree.resolve("etc/missing"), None);
        assert_eq!(tree.resolve("usr/bin/a/b"), None);
    }

    #[test]
    fn rename_moves_a_directory_with_its_content() {
        let mut tree = sample();
        tree.rename("etc", "usr/etc").unwrap();
        assert!(tree.get("usr/etc/abs").is_some() && !tree.contains("etc"));
        assert!(matches!(
            tree.rename("usr/etc", "bin"),
            Err(TreeError::Exists(_))
        ));
        assert!(tree.contains("usr/etc"));
    }

    #[test]
    fn json_round_trips() {
        let tree = sample();
        let json = serde_json::to_string(&tree).unwrap();
        assert_eq!(serde_json::from_str::<Tree>(&json).unwrap(), tree);
    }
}
