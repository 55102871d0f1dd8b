//! From the members of a data archive to a tree of cached contents.

use std::collections::BTreeMap;
use std::io::{self, Read};

use anyhow::{Context as _, Result, anyhow};
use apt_ostree_deb::{ConffileDecl, DataSink, Entry, EntryKind};
use apt_ostree_model::{Conffile, ContentReader as _, File, Meta, Node, Tree, tree};
use openssl::hash::{Hasher, MessageDigest};

use crate::CacheRepo;

/// Collects one package.
pub(crate) struct PackageSink<'c> {
    cache: &'c CacheRepo,
    tree: Tree,
    list: Vec<String>,
    /// MD5 of each declared conffile, by relative path, once it was seen.
    md5: BTreeMap<String, Option<String>>,
}

impl<'c> PackageSink<'c> {
    /// A sink that computes the MD5 of `conffiles` on the way.
    pub(crate) fn new(cache: &'c CacheRepo, conffiles: &[ConffileDecl]) -> Self {
        let md5 = conffiles.iter().filter(|c| !c.remove_on_upgrade);
        let md5 = md5.map(|c| (relative(&c.path).to_owned(), None)).collect();
        Self {
            cache,
            tree: Tree::default(),
            list: vec!["/.".to_owned()],
            md5,
        }
    }

    /// The tree, the list of paths, and the conffiles in the order of `declared`. A conffile that
    /// the package does not ship as a regular file is none.
    pub(crate) fn finish(self, declared: &[ConffileDecl]) -> (Tree, Vec<String>, Vec<Conffile>) {
        let conffile = |c: &ConffileDecl| {
            let md5 = self.md5.get(relative(&c.path)).cloned().flatten();
            (c.remove_on_upgrade || md5.is_some()).then(|| Conffile {
                path: c.path.clone(),
                md5,
            })
        };
        let conffiles = declared.iter().filter_map(conffile).collect();
        (self.tree, self.list, conffiles)
    }

    fn file(&mut self, entry: &Entry, size: u64, content: &mut dyn Read) -> Result<Node> {
        let Some(slot) = self.md5.get_mut(&entry.path) else {
            return Ok(Node::File(self.cache.put_reader(
                &meta(entry),
                size,
                content,
            )?));
        };
        let mut reader = Md5Reader {
            inner: content,
            hasher: Hasher::new(MessageDigest::md5())?,
        };
        let file = self.cache.put_reader(&meta(entry), size, &mut reader)?;
        *slot = Some(hex(&reader.hasher.finish()?));
        Ok(Node::File(file))
    }

    fn hard_link(&mut self, entry: &Entry, target: &str) -> Result<Node> {
        let file = self
            .tree
            .file(target)
            .ok_or_else(|| anyhow!("its target is no file"))?
            .clone();
        if self.md5.contains_key(&entry.path) {
            let sum = self.md5_of(&file)?;
            self.md5.insert(entry.path.clone(), Some(sum));
        }
        Ok(Node::File(file))
    }

    fn md5_of(&self, file: &File) -> Result<String> {
        let inner = &mut self.cache.open(&file.checksum)?;
        let mut reader = Md5Reader {
            inner,
            hasher: Hasher::new(MessageDigest::md5())?,
        };
        io::copy(&mut reader, &mut io::sink())?;
        Ok(hex(&reader.hasher.finish()?))
    }

    /// Places a directory, which may be there already as the parent of something.
    fn directory(&mut self, entry: &Entry) -> Result<()> {
        if !entry.path.is_empty() {
            self.tree.ensure_dir(&entry.path, &Meta::root(0o755))?.meta = meta(entry);
        }
        Ok(())
    }

    fn place(&mut self, path: &str, node: Node) -> Result<()> {
        self.tree
            .ensure_dir(tree::split(path).0, &Meta::root(0o755))?;
        if self.tree.insert(path, node)?.is_some() {
            return Err(anyhow!("the path is there already"));
        }
        Ok(())
    }
}

impl DataSink for PackageSink<'_> {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<()> {
        match &entry.kind {
            EntryKind::Dir => self.directory(entry)?,
            EntryKind::File { size } => {
                let node = self.file(entry, *size, content)?;
                self.place(&entry.path, node)?;
            }
            EntryKind::Symlink { target } => {
                let link = self.cache.put_link(target, entry.uid, entry.gid)?;
                self.place(&entry.path, Node::Symlink(link))?;
            }
            EntryKind::Hardlink { target } => {
                let node = self
                    .hard_link(entry, target)
                    .with_context(|| format!("linking to '{}'", target.escape_debug()))?;
                self.place(&entry.path, node)?;
            }
        }
        let path = format!("/{}", entry.path);
        if !entry.path.is_empty() && self.list.last() != Some(&path) {
            self.list.push(path);
        }
        Ok(())
    }
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

fn meta(entry: &Entry) -> Meta {
    Meta {
        mode: entry.mode & 0o7777,
        uid: entry.uid,
        gid: entry.gid,
        xattrs: BTreeMap::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, byte| {
        // Writing to a string can't fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

struct Md5Reader<'r> {
    inner: &'r mut dyn Read,
    hasher: Hasher,
}

impl Read for Md5Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read])?;
        Ok(read)
    }
}
