//! A layer of files as a tree.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;

use anyhow::{Context as _, Result};
use apt_ostree_fsx::{cancel, escape, escape_bytes};
use apt_ostree_model::tree::{self, Xattrs};
use apt_ostree_model::{File, Meta, Node, Symlink, Tree};

use super::malformed;
use super::merge::{OPAQUE, WHITEOUT};
use super::tarread::{Entry, Kind, Limits, TarReader};

/// Directories that a running system fills; what is in them in an image is dropped.
const RUNTIME: [&str; 6] = ["dev", "proc", "run", "sys", "sysroot", "tmp"];
/// The repository inside of images that hold an OSTree commit.
const REPOSITORY: &str = "sysroot/ostree/repo/";

/// Takes the contents of a layer.
pub trait LayerStore {
    /// Stores a regular file of exactly `size` bytes.
    ///
    /// # Errors
    /// When it can't be read or written.
    fn put_file(&self, meta: &Meta, size: u64, content: &mut dyn Read) -> Result<File>;

    /// Stores a symbolic link.
    ///
    /// # Errors
    /// When it can't be written.
    fn put_symlink(&self, target: &str, uid: u32, gid: u32) -> Result<Symlink>;

    /// Whether an extended attribute belongs to a file; others are dropped.
    fn keeps_xattr(&self, name: &str) -> bool;
}

/// How a layer becomes part of an OSTree commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Layout {
    /// `/var` stays where it is, because libostree fills it at the first boot; else its content
    /// goes to `usr/share/factory/var`.
    pub keep_var: bool,
    /// How much is read.
    pub limits: Limits,
}

/// What is in a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerTree {
    /// Its files, and whiteouts as files `.wh.NAME`.
    pub tree: Tree,
    /// Directories that it does not describe itself.
    pub implied: BTreeSet<String>,
    /// How many entries were dropped, by top-level directory.
    pub dropped: BTreeMap<String, u64>,
}

/// Reads the tar stream of a layer to the end of the archive.
///
/// # Errors
/// When it is malformed, holds what no image may hold, goes over a limit, or can't be stored.
pub fn read_layer(
    reader: &mut dyn Read,
    store: &dyn LayerStore,
    layout: Layout,
) -> Result<LayerTree> {
    let mut tar = TarReader::new(reader, layout.limits);
    let mut builder = Builder {
        store,
        layout,
        layer: LayerTree::default(),
        objects: HashMap::new(),
        var_dirs: HashMap::new(),
        count: 0,
    };
    builder.layer.implied.insert(String::new());
    while let Some(entry) = tar.next()? {
        cancel::check()?;
        builder
            .add(&entry, &mut tar.content())
            .with_context(|| format!("reading entry '{}'", shown(&entry.path)))?;
    }
    Ok(builder.layer)
}

struct Builder<'s> {
    store: &'s dyn LayerStore,
    layout: Layout,
    layer: LayerTree,
    /// Changed objects of a repository inside of the image: files may be links to them.
    objects: HashMap<String, File>,
    /// Directories below `/var`, which come into being with the first file in them: a booted
    /// system makes the others.
    var_dirs: HashMap<String, Meta>,
    count: u64,
}

/// Where an entry goes.
enum Place {
    At(String),
    /// To a path that stands for one of `/var`.
    Var(String),
    /// Nowhere; it belongs to this top-level directory.
    Dropped(String),
    Repository(String),
}

impl Builder<'_> {
    fn add(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<()> {
        self.count(1)?;
        let (path, in_var) = match self.place(&entry.path)? {
            Place::At(path) => (path, false),
            Place::Var(path) => (path, true),
            Place::Dropped(top) => {
                self.drop_entry(top);
                return Ok(());
            }
            Place::Repository(path) => return self.add_object(path, entry, content),
        };
        check_whiteout(&path, entry)?;
        match entry.kind {
            Kind::Dir if in_var => {
                self.var_dirs.insert(path, self.meta(entry));
                Ok(())
            }
            Kind::Symlink if in_var => {
                self.drop_entry("var".to_owned());
                Ok(())
            }
            Kind::Dir => self.add_dir(&path, entry),
            Kind::File => {
                let file = self
                    .store
                    .put_file(&self.meta(entry), entry.size, content)?;
                self.put(&path, Node::File(file))
            }
            Kind::Symlink => {
                let link = self.symlink(entry)?;
                self.put(&path, Node::Symlink(link))
            }
            Kind::Hardlink => self.add_hard_link(&path, entry),
            Kind::Special => {
                let message = "device nodes and fifos are not allowed in an image";
                Err(malformed(message).into())
            }
        }
    }

    fn add_dir(&mut self, path: &str, entry: &Entry) -> Result<()> {
        let meta = self.meta(entry);
        if !path.is_empty() {
            self.make_dirs(path)?;
        }
        self.layer.implied.remove(path);
        let dir = self.layer.tree.dir_mut(path);
        dir.context("the directory is missing")?.meta = meta;
        Ok(())
    }

    /// A second name of a file or link of this layer.
    fn add_hard_link(&mut self, path: &str, entry: &Entry) -> Result<()> {
        let target = match self.place(&entry.link)? {
            Place::At(target) | Place::Var(target) => target,
            // The file that the base has, under a name that it has as well.
            Place::Repository(object) => match self.objects.get(&object) {
                Some(file) => return self.put(path, Node::File(file.clone())),
                None => {
                    self.drop_entry("sysroot".to_owned());
                    return Ok(());
                }
            },
            Place::Dropped(_) => return Err(no_target(&entry.link)),
        };
        let node = match self.layer.tree.get(&target) {
            Some(node @ (Node::File(_) | Node::Symlink(_))) => node.clone(),
            _ => return Err(no_target(&entry.link)),
        };
        self.put(path, node)
    }

    /// An object of a repository inside of the image; only a change of it means something.
    fn add_object(&mut self, path: String, entry: &Entry, content: &mut dyn Read) -> Result<()> {
        if entry.kind == Kind::File {
            let file = self
                .store
                .put_file(&self.meta(entry), entry.size, content)?;
            self.objects.insert(path, file);
        } else {
            self.drop_entry("sysroot".to_owned());
        }
        Ok(())
    }

    fn symlink(&self, entry: &Entry) -> Result<Symlink> {
        let target = std::str::from_utf8(&entry.link).ok();
        let target = target.filter(|t| !t.is_empty() && !t.contains('\0'));
        let target = target.ok_or_else(|| malformed("its target is not clean UTF-8 text"))?;
        self.store.put_symlink(target, entry.uid, entry.gid)
    }

    /// Places a file or link. A later entry replaces an earlier one, as tar does.
    fn put(&mut self, path: &str, node: Node) -> Result<()> {
        if path.is_empty() {
            return Err(malformed("the root is no directory").into());
        }
        self.make_dirs(tree::split(path).0)?;
        if matches!(self.layer.tree.get(path), Some(Node::Dir(_))) {
            return Err(malformed("it takes the place of a directory of the same layer").into());
        }
        self.layer.tree.insert(path, node)?;
        Ok(())
    }

    /// Makes a directory and its parents. Nothing in this layer may be in the way: a link there
    /// would be written through.
    fn make_dirs(&mut self, path: &str) -> Result<()> {
        if self.layer.tree.dir(path).is_some() {
            return Ok(());
        }
        let ends = path.char_indices().filter(|(_, c)| *c == '/');
        let ends: Vec<usize> = ends.map(|(at, _)| at).chain([path.len()]).collect();
        for end in ends {
            let part = &path[..end];
            match self.layer.tree.get(part) {
                Some(Node::Dir(_)) => {}
                Some(_) => {
                    let message = format!("'{}' is no directory", escape(part));
                    return Err(malformed(message).into());
                }
                None => {
                    self.count(1)?;
                    let known = self.var_dirs.get(part);
                    let meta = known.cloned().unwrap_or_else(|| Meta::root(0o755));
                    self.layer.tree.ensure_dir(part, &meta)?;
                    if known.is_none() {
                        self.layer.implied.insert(part.to_owned());
                    }
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, more: u64) -> Result<()> {
        self.count += more;
        let limit = self.layout.limits.entries;
        if self.count > limit {
            return Err(malformed(format!("the layer has more than {limit} entries")).into());
        }
        Ok(())
    }

    fn drop_entry(&mut self, top: String) {
        *self.layer.dropped.entry(top).or_default() += 1;
    }

    fn meta(&self, entry: &Entry) -> Meta {
        let mut xattrs = Xattrs::new();
        for (name, value) in &entry.xattrs {
            if let Ok(name) = std::str::from_utf8(name)
                && !name.contains('\0')
                && self.store.keeps_xattr(name)
            {
                xattrs.insert(name.to_owned(), value.clone());
            }
        }
        Meta {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            xattrs,
        }
    }

    fn place(&self, name: &[u8]) -> Result<Place> {
        let path = clean(name, &self.layout.limits)?;
        let (top, rest) = path.split_once('/').unwrap_or((&path, ""));
        Ok(match top {
            "sysroot" if path.starts_with(REPOSITORY) => Place::Repository(path),
            _ if RUNTIME.contains(&top) && !rest.is_empty() => Place::Dropped(top.to_owned()),
            "etc" => Place::At(format!("usr/{path}")),
            "var" if rest.is_empty() => Place::At(path),
            "var" if self.layout.keep_var => Place::Var(path),
            "var" => Place::Var(format!("usr/share/factory/{path}")),
            _ => Place::At(path),
        })
    }
}

/// The one rule for names: a relative path without `..`; `.` and double slashes mean nothing.
fn clean(name: &[u8], limits: &Limits) -> Result<String> {
    let text = std::str::from_utf8(name).map_err(|_| malformed("the path is not UTF-8 text"))?;
    if text.starts_with('/') {
        return Err(malformed("the path is absolute").into());
    }
    if text.contains('\0') {
        return Err(malformed("the path holds a NUL byte").into());
    }
    let mut parts = Vec::new();
    for part in text.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            return Err(malformed("the path has a '..' component").into());
        }
        if part.len() > 255 {
            return Err(malformed("a component of the path is longer than 255 bytes").into());
        }
        parts.push(part);
    }
    if parts.len() > limits.depth {
        let depth = limits.depth;
        return Err(malformed(format!("the path has more than {depth} components")).into());
    }
    Ok(parts.join("/"))
}

/// Refuses a whiteout that is no empty file or hides what is no name, and anything below one.
fn check_whiteout(path: &str, entry: &Entry) -> Result<()> {
    let (dir, name) = tree::split(path);
    if dir.split('/').any(|part| part.starts_with(WHITEOUT)) {
        return Err(malformed("it is below a whiteout").into());
    }
    let Some(hidden) = name.strip_prefix(WHITEOUT) else {
        return Ok(());
    };
    if entry.kind != Kind::File || entry.size != 0 {
        return Err(malformed("a whiteout is no empty file").into());
    }
    let known = name == OPAQUE || !hidden.starts_with(WHITEOUT);
    if !known || matches!(hidden, "" | "." | "..") {
        return Err(malformed("the whiteout hides no name").into());
    }
    Ok(())
}

fn no_target(link: &[u8]) -> anyhow::Error {
    let link = shown(link);
    malformed(format!(
        "it is a link to '{link}', which is no file of this layer"
    ))
    .into()
}

fn shown(name: &[u8]) -> String {
    escape_bytes(&name[..name.len().min(200)])
}
