//! Writing a tree's directories as OSTree objects.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use apt_ostree_model::compose::CommitStats;
use apt_ostree_model::{Dir, Meta, Node, Sha256Digest};
use ostree::glib::Variant;
use ostree::prelude::*;
use ostree::{ObjectType, Repo, gio};

use crate::error::{invalid_input, quote, storage};
use crate::metavalue::require_no_nul;
use crate::object;

/// Deeper trees than this are refused, before they exhaust the stack.
pub(crate) const MAX_DEPTH: usize = 1000;

/// Checksums of a directory's two objects.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DirSums {
    /// Of what it holds.
    pub(crate) contents: Sha256Digest,
    /// Of its owner and mode.
    pub(crate) meta: Sha256Digest,
}

impl DirSums {
    /// The checksum that stands for a whole tree with this root, as libostree computes it.
    pub(crate) fn content_checksum(&self) -> String {
        let sums = [*self.contents.as_bytes(), *self.meta.as_bytes()].concat();
        object::sha256(&sums).to_string()
    }
}

/// Writes directories bottom-up, each object once.
pub(crate) struct TreeWriter<'r> {
    /// `None` to compute checksums only.
    repo: Option<&'r Repo>,
    metas: HashMap<Meta, Sha256Digest>,
    done: HashSet<Sha256Digest>,
    /// How many objects there were, and how many were new.
    pub(crate) stats: CommitStats,
}

impl<'r> TreeWriter<'r> {
    pub(crate) fn new(repo: Option<&'r Repo>) -> Self {
        Self {
            repo,
            metas: HashMap::new(),
            done: HashSet::new(),
            stats: CommitStats::default(),
        }
    }

    /// Writes `dir` and all directories below it.
    pub(crate) fn write(&mut self, dir: &Dir) -> Result<DirSums> {
        self.write_dir(dir, 0)
    }

    /// Writes `dir` with one more directory in it.
    pub(crate) fn write_with(&mut self, dir: &Dir, name: &str, child: &Dir) -> Result<DirSums> {
        let files = dir.entries.iter().filter_map(|(name, node)| match node {
            Node::File(file) => Some(entry(name, &[&file.checksum])),
            _ => None,
        });
        let files: Vec<Variant> = files.collect();
        let child = self.write(child)?;
        let dirs = vec![entry(name, &[&child.contents, &child.meta])];
        self.write_entries(files, dirs, &dir.meta)
    }

    fn write_dir(&mut self, dir: &Dir, depth: usize) -> Result<DirSums> {
        if depth > MAX_DEPTH {
            return Err(invalid_input(format!(
                "the tree has more than {MAX_DEPTH} levels of directories"
            )));
        }
        let mut files = Vec::new();
        let mut dirs = Vec::new();
        for (name, node) in &dir.entries {
            require_name(name)?;
            match node {
                Node::File(file) => files.push(entry(name, &[&file.checksum])),
                Node::Symlink(link) => files.push(entry(name, &[&link.checksum])),
                Node::Dir(child) => {
                    let sums = self.write_dir(child, depth + 1)?;
                    dirs.push(entry(name, &[&sums.contents, &sums.meta]));
                }
            }
        }
        self.write_entries(files, dirs, &dir.meta)
    }

    fn write_entries(
        &mut self,
        files: Vec<Variant>,
        dirs: Vec<Variant>,
        meta: &Meta,
    ) -> Result<DirSums> {
        let files = Variant::array_from_iter::<(String, Vec<u8>)>(files);
        let dirs = Variant::array_from_iter::<(String, Vec<u8>, Vec<u8>)>(dirs);
        let tree = Variant::tuple_from_iter([files, dirs]);
        let contents = self.put(ObjectType::DirTree, &tree)?;
        Ok(DirSums {
            contents,
            meta: self.write_meta(meta)?,
        })
    }

    fn write_meta(&mut self, meta: &Meta) -> Result<Sha256Digest> {
        if let Some(checksum) = self.metas.get(meta) {
            return Ok(*checksum);
        }
        let checksum = self.put(ObjectType::DirMeta, &object::dirmeta(meta))?;
        self.metas.insert(meta.clone(), checksum);
        Ok(checksum)
    }

    fn put(&mut self, kind: ObjectType, object: &Variant) -> Result<Sha256Digest> {
        let checksum = object::sha256(object.data());
        if !self.done.insert(checksum) {
            return Ok(checksum);
        }
        self.stats.n_metadata_total += 1;
        let Some(repo) = self.repo else {
            return Ok(checksum);
        };
        let name = checksum.to_string();
        let none = gio::Cancellable::NONE;
        if !repo.has_object(kind, &name, none).map_err(storage)? {
            repo.write_metadata_trusted(kind, &name, object, none)
                .map_err(storage)?;
            self.stats.n_metadata_written += 1;
        }
        Ok(checksum)
    }
}

fn entry(name: &str, checksums: &[&Sha256Digest]) -> Variant {
    let sums = checksums.iter().map(|c| object::bytes(c.as_bytes()));
    Variant::tuple_from_iter(std::iter::once(name.to_variant()).chain(sums))
}

/// Refuses names that a directory can't have; a tree made by hand could.
pub(crate) fn require_name(name: &str) -> Result<()> {
    require_no_nul(name)?;
    if name.is_empty() || name == "." || name == ".." || name.contains('/') || name.len() > 255 {
        return Err(invalid_input(format!("{} is no file name", quote(name))));
    }
    Ok(())
}

/// Writes a commit of the directory `root`; refs are not touched. Returns its checksum.
pub(crate) fn write_commit(
    repo: &Repo,
    root: DirSums,
    time: u64,
    metadata: &Variant,
    about: (&str, Option<&str>),
) -> Result<String> {
    let none = gio::Cancellable::NONE;
    let (subject, parent) = about;
    let mtree = ostree::MutableTree::from_checksum(
        repo,
        &root.contents.to_string(),
        &root.meta.to_string(),
    );
    let root = repo.write_mtree(&mtree, none).map_err(storage)?;
    let root = root
        .downcast::<ostree::RepoFile>()
        .map_err(|_| storage("the repository has no root"))?;
    let commit = repo
        .write_commit_with_time(
            parent,
            Some(subject),
            None,
            Some(metadata),
            &root,
            time,
            none,
        )
        .map_err(storage)?;
    Ok(commit.to_string())
}
