//! Commits of any repository as trees.

use std::collections::HashMap;

use anyhow::{Context as _, Result, anyhow, bail};
use apt_ostree_model::tree::{HexBytes, Xattrs};
use apt_ostree_model::{Dir, File, Meta, Node, Sha256Digest, Symlink, Tree};
use camino::Utf8PathBuf;
use ostree::glib::variant::FromVariant;
use ostree::glib::{Variant, VariantDict};
use ostree::prelude::*;
use ostree::{ObjectType, Repo, RepoMode, gio};

use crate::content::ContentDir;

use crate::error::storage;
use crate::treewriter::{DirSums, MAX_DEPTH, require_name};

/// No commit has more nodes than this; small objects could stand for any number of them.
const MAX_NODES: usize = 10_000_000;

/// A commit and its tree.
#[derive(Debug, Clone)]
pub struct CommitTree {
    /// Checksum of the commit.
    pub checksum: String,
    /// Checksum of what is in it, the same for two commits of one tree.
    pub content_checksum: String,
    /// What is in it.
    pub tree: Tree,
    /// When it was made, in seconds since 1970.
    pub timestamp: u64,
    /// The commit before it.
    pub parent: Option<String>,
    /// Its first line.
    pub subject: String,
    metadata: Variant,
}

impl CommitTree {
    /// The metadata, `a{sv}`.
    pub const fn metadata(&self) -> &Variant {
        &self.metadata
    }

    /// A string of the metadata.
    pub fn string(&self, key: &str) -> Option<String> {
        self.value(key)
    }

    /// A list of strings of the metadata.
    pub fn strings(&self, key: &str) -> Option<Vec<String>> {
        self.value(key)
    }

    /// A package list of the metadata; see [`crate::MetaValue::PackageList`].
    pub fn package_list(&self, key: &str) -> Option<Vec<[String; 5]>> {
        let list: Vec<(String, String, String, String, String)> = self.value(key)?;
        Some(
            list.into_iter()
                .map(|(a, b, c, d, e)| [a, b, c, d, e])
                .collect(),
        )
    }

    fn value<T: FromVariant>(&self, key: &str) -> Option<T> {
        VariantDict::new(Some(&self.metadata))
            .lookup_value(key, None)?
            .get()
    }
}

/// Reads a commit with its whole tree.
pub(crate) fn load_commit(repo: &Repo, checksum: &str) -> Result<CommitTree> {
    let (commit, _) = repo.load_commit(checksum).map_err(storage)?;
    let sum = |index| digest(&commit.child_value(index));
    let mut loader = Loader {
        repo,
        files: HashMap::new(),
        metas: HashMap::new(),
        nodes: 0,
        bare: bare_objects(repo)?,
    };
    let root = loader
        .dir(&sum(6)?, &sum(7)?, 0)
        .with_context(|| format!("reading the tree of commit {checksum}"))?;
    Ok(CommitTree {
        checksum: checksum.to_owned(),
        content_checksum: DirSums {
            contents: sum(6)?,
            meta: sum(7)?,
        }
        .content_checksum(),
        tree: Tree { root },
        timestamp: ostree::commit_get_timestamp(&commit),
        parent: ostree::commit_get_parent(&commit).map(Into::into),
        subject: commit.child_value(3).str().unwrap_or_default().to_owned(),
        metadata: commit.child_value(0),
    })
}

fn bare_objects(repo: &Repo) -> Result<Option<ContentDir>> {
    let path = repo
        .path()
        .path()
        .and_then(|p| Utf8PathBuf::from_path_buf(p).ok());
    match path {
        // Objects may also be in a parent repository, which only libostree looks into.
        Some(path) if repo.mode() == RepoMode::Bare && repo.parent().is_none() => {
            Ok(Some(ContentDir::open_repo(&path)?))
        }
        _ => Ok(None),
    }
}

struct Loader<'r> {
    repo: &'r Repo,
    files: HashMap<Sha256Digest, Node>,
    metas: HashMap<Sha256Digest, Meta>,
    nodes: usize,
    /// Reads objects directly, which is several times faster, where their files have all there is
    /// to know.
    bare: Option<ContentDir>,
}

impl Loader<'_> {
    fn dir(&mut self, contents: &Sha256Digest, meta: &Sha256Digest, depth: usize) -> Result<Dir> {
        if depth > MAX_DEPTH {
            bail!("there are more than {MAX_DEPTH} levels of directories");
        }
        let mut dir = Dir::new(self.meta(meta)?);
        let tree = self
            .repo
            .load_variant(ObjectType::DirTree, &contents.to_string())
            .map_err(storage)?;
        ostree::validate_structureof_dirtree(&tree).map_err(storage)?;
        for entry in tree.child_value(0).iter() {
            let node = self.file(&digest(&entry.child_value(1))?)?;
            self.add(&mut dir, &entry, node)?;
        }
        for entry in tree.child_value(1).iter() {
            let (contents, meta) = (
                digest(&entry.child_value(1))?,
                digest(&entry.child_value(2))?,
            );
            let node = Node::Dir(self.dir(&contents, &meta, depth + 1)?);
            self.add(&mut dir, &entry, node)?;
        }
        Ok(dir)
    }

    fn add(&mut self, dir: &mut Dir, entry: &Variant, node: Node) -> Result<()> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            bail!("there are more than {MAX_NODES} files and directories");
        }
        let name: String = entry.child_get(0);
        require_name(&name)?;
        if dir.entries.insert(name, node).is_some() {
            bail!("a directory has one name twice");
        }
        Ok(())
    }

    fn meta(&mut self, checksum: &Sha256Digest) -> Result<Meta> {
        if let Some(meta) = self.metas.get(checksum) {
            return Ok(meta.clone());
        }
        let meta = self
            .repo
            .load_variant(ObjectType::DirMeta, &checksum.to_string())
            .map_err(storage)?;
        ostree::validate_structureof_dirmeta(&meta).map_err(storage)?;
        let number = |index| u32::from_be(meta.child_get::<u32>(index));
        let meta = Meta {
            mode: number(2) & 0o7777,
            uid: number(0),
            gid: number(1),
            xattrs: xattrs(&meta.child_value(3))?,
        };
        self.metas.insert(*checksum, meta.clone());
        Ok(meta)
    }

    /// Asks libostree about a content object.
    fn query(&self, checksum: &Sha256Digest) -> Result<Node> {
        let (info, attributes) = self
            .repo
            .query_file(&checksum.to_string(), gio::Cancellable::NONE)
            .map_err(storage)?;
        let number = |name| info.attribute_uint32(name);
        let (uid, gid) = (number("unix::uid"), number("unix::gid"));
        Ok(if info.file_type() == gio::FileType::SymbolicLink {
            let target = info.symlink_target().context("a link has no target")?;
            let target = target
                .into_os_string()
                .into_string()
                .map_err(|_| anyhow!("the target of a link is not UTF-8"))?;
            Node::Symlink(Symlink {
                target,
                uid,
                gid,
                checksum: *checksum,
            })
        } else {
            let meta = Meta {
                mode: number("unix::mode") & 0o7777,
                uid,
                gid,
                xattrs: xattrs(&attributes)?,
            };
            Node::File(File {
                meta,
                size: u64::try_from(info.size())?,
                checksum: *checksum,
            })
        })
    }

    fn file(&mut self, checksum: &Sha256Digest) -> Result<Node> {
        if let Some(node) = self.files.get(checksum) {
            return Ok(node.clone());
        }
        let node = match &self.bare {
            Some(objects) => objects
                .read_node(checksum)
                .with_context(|| format!("reading object {checksum}"))?,
            None => self.query(checksum)?,
        };
        self.files.insert(*checksum, node.clone());
        Ok(node)
    }
}

/// The checksum that a variant of type `ay` holds.
pub(crate) fn digest(value: &Variant) -> Result<Sha256Digest> {
    let bytes: [u8; 32] = value
        .fixed_array::<u8>()?
        .try_into()
        .context("a checksum has the wrong length")?;
    Ok(Sha256Digest::new(bytes))
}

fn xattrs(list: &Variant) -> Result<Xattrs> {
    let mut xattrs = Xattrs::new();
    for pair in list.iter() {
        let (name, value) = (pair.child_value(0), pair.child_value(1));
        let name = name.fixed_array::<u8>()?;
        let name = std::str::from_utf8(name.strip_suffix(&[0]).unwrap_or(name))?;
        xattrs.insert(
            name.to_owned(),
            HexBytes(value.fixed_array::<u8>()?.to_vec()),
        );
    }
    Ok(xattrs)
}
