//! Writing commits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use apt_ostree_model::compose::CommitStats;
use apt_ostree_model::{Node, Sha256Digest, Tree};
use fn_error_context::context;
use ostree::glib::Variant;
use ostree::{ObjectType, Repo, RepoMode, gio};
use rustix::io::Errno;

use crate::error::{invalid_input, quote, storage};
use crate::metavalue::{self, MetaValue, require_no_nul};
use crate::treewriter::{TreeWriter, write_commit};
use crate::{CacheRepo, CommitTree, ContentDir, TargetRepo};

/// Threads that compress objects for an `archive` repository.
const MAX_THREADS: usize = 8;
/// Objects that a thread takes at a time.
const CHUNK: usize = 64;

/// What a commit says of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CommitRequest {
    /// Its first line.
    pub subject: String,
    /// When it was made, in seconds since 1970.
    pub timestamp: i64,
    /// The commit before it.
    pub parent: Option<String>,
    /// Metadata that is part of the commit.
    pub metadata: BTreeMap<String, MetaValue>,
    /// Metadata beside the commit, which can change later.
    pub detached: BTreeMap<String, MetaValue>,
    /// GPG key to sign with, from the key ring in `GNUPGHOME` or the home directory.
    pub gpg_key: Option<String>,
    /// The ref that the commit is made for (`ostree.ref-binding`): clients refuse it under
    /// another name.
    pub ref_binding: Option<String>,
}

/// A written commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitResult {
    /// Its checksum.
    pub checksum: String,
    /// Checksum of what is in it, the same for two commits of one tree.
    pub content_checksum: String,
    /// How many objects it has and how many were new.
    pub stats: CommitStats,
}

impl CacheRepo {
    /// Commits `tree`, whose contents are in this cache, to `target`. No ref moves: that is for
    /// [`TargetRepo::set_ref`], after everything else. Until then the repository has only objects
    /// that nothing names.
    ///
    /// # Errors
    /// When an object is missing or damaged ([`crate::DamagedObject`]), the commit can't be
    /// signed, or `target` can't be written.
    #[context("writing a commit to repository '{}'", target.path())]
    pub fn commit(
        &self,
        tree: &Tree,
        request: &CommitRequest,
        target: &TargetRepo,
    ) -> Result<CommitResult> {
        require_no_nul(&request.subject)?;
        let time = u64::try_from(request.timestamp)
            .map_err(|_| invalid_input("the commit's time is before 1970"))?;
        let metadata = metadata(request)?;
        let detached = metavalue::dict(&request.detached)?;
        // An object of its own: a transaction belongs to one.
        let repo = target.handle.open()?;
        let mut writer = TreeWriter::new(Some(&repo));
        // libostree moves the objects of a transaction to their places in any order: what the
        // commit names must be there before it is, wherever that is cut off.
        let (contents, root) = in_transaction(&repo, || {
            Ok((self.export(tree, target, &repo)?, writer.write(&tree.root)?))
        })?;
        let about = (request.subject.as_str(), request.parent.as_deref());
        let checksum = in_transaction(&repo, || {
            let checksum = write_commit(&repo, root, time, &metadata, about)?;
            finish(&repo, &checksum, &detached, request)?;
            Ok(checksum)
        })?;
        let stats = CommitStats {
            n_metadata_total: writer.stats.n_metadata_total + 1,
            n_metadata_written: writer.stats.n_metadata_written + 1,
            ..contents
        };
        Ok(CommitResult {
            checksum,
            content_checksum: root.content_checksum(),
            stats,
        })
    }

    /// The content checksum that a commit of `tree` has; nothing is written.
    ///
    /// # Errors
    /// When the tree has names that a commit can't have.
    pub fn content_checksum(&self, tree: &Tree) -> Result<String> {
        let root = TreeWriter::new(None).write(&tree.root)?;
        Ok(root.content_checksum())
    }

    /// Puts the contents of `tree` into `target`, as hard links where possible. `repo` is the
    /// target with an open transaction; more threads have transactions of their own.
    fn export(&self, tree: &Tree, target: &TargetRepo, repo: &Repo) -> Result<CommitStats> {
        let nodes: BTreeMap<Sha256Digest, &Node> = tree
            .walk()
            .filter_map(|(_, node)| Some((checksum(node)?, node)))
            .collect();
        let nodes: Vec<(Sha256Digest, &Node)> = nodes.into_iter().collect();
        let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        // Linking is bound by the file system, compressing is not.
        let threads = if target.mode() == RepoMode::Archive {
            available.min(MAX_THREADS)
        } else {
            1
        };
        let objects = match target.mode() {
            RepoMode::Bare => {
                // A link shows at once, and it must not outlive a crash without its content.
                self.content().sync()?;
                Some(ContentDir::open_repo(target.path())?)
            }
            _ => None,
        };
        let export = Export {
            cache: self,
            target,
            objects,
            nodes: &nodes,
            next: AtomicUsize::new(0),
            stats: Mutex::default(),
        };
        let results: Vec<Result<()>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (1..threads)
                .map(|_| scope.spawn(|| export.run_alone()))
                .collect();
            let mut results = vec![export.run(repo)];
            results.extend(
                workers
                    .into_iter()
                    .map(|w| w.join().unwrap_or_else(|_| Err(storage("a thread died")))),
            );
            results
        });
        for result in results {
            result.map_err(|error| self.handle_damage(error))?;
        }
        Ok(export
            .stats
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Copies the contents of another repository's commit into this cache, so that its tree can
    /// be used like any other.
    ///
    /// # Errors
    /// When an object can't be read or written, or is not what its checksum says.
    #[context("copying commit {} to the cache", commit.checksum)]
    pub fn import_commit(&self, commit: &CommitTree, source: &TargetRepo) -> Result<()> {
        let (repo, from) = (self.repo()?, source.repo()?);
        let contents: BTreeSet<Sha256Digest> = commit
            .tree
            .walk()
            .filter_map(|(_, node)| checksum(node))
            .collect();
        for checksum in contents {
            copy(&repo, &from, &checksum, false)?;
        }
        Ok(())
    }
}

/// Does `work` in a transaction of `repo`, which is given up when that fails.
pub(crate) fn in_transaction<T>(repo: &Repo, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let none = gio::Cancellable::NONE;
    let transaction = repo.auto_transaction(none).map_err(storage)?;
    let done = work()?;
    transaction.commit(none).map_err(storage)?;
    Ok(done)
}

/// Contents on their way to another repository.
struct Export<'e> {
    cache: &'e CacheRepo,
    target: &'e TargetRepo,
    /// The target's objects when they can be links to those of the cache.
    objects: Option<ContentDir>,
    nodes: &'e [(Sha256Digest, &'e Node)],
    next: AtomicUsize,
    stats: Mutex<CommitStats>,
}

impl Export<'_> {
    fn run_alone(&self) -> Result<()> {
        let repo = self.target.handle.open()?;
        in_transaction(&repo, || self.run(&repo))
    }

    fn run(&self, repo: &Repo) -> Result<()> {
        let from = self.cache.repo()?;
        let mut stats = CommitStats::default();
        loop {
            let start = self.next.fetch_add(CHUNK, Ordering::Relaxed);
            let Some(chunk) = self.nodes.get(start..self.nodes.len().min(start + CHUNK)) else {
                break;
            };
            for (checksum, node) in chunk {
                self.require(node)?;
                stats.n_content_total += 1;
                stats.n_cache_hits += 1;
                if self.put(repo, &from, checksum)? {
                    stats.n_content_written += 1;
                    stats.content_bytes_written += node.as_file().map_or(0, |f| f.size);
                }
            }
        }
        let mut total = self
            .stats
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        total.n_content_total += stats.n_content_total;
        total.n_cache_hits += stats.n_cache_hits;
        total.n_content_written += stats.n_content_written;
        total.content_bytes_written += stats.content_bytes_written;
        Ok(())
    }

    /// Links or copies one content object; false when it was there.
    fn put(&self, repo: &Repo, from: &Repo, checksum: &Sha256Digest) -> Result<bool> {
        if let Some(objects) = &self.objects {
            match objects.link_from(self.cache.content(), checksum) {
                Ok(()) => return Ok(true),
                Err(Errno::EXIST) => return Ok(false),
                // Another file system, or too many links of one object.
                Err(_) => {}
            }
        }
        copy(repo, from, checksum, true)
    }

    fn require(&self, node: &Node) -> Result<()> {
        match node {
            Node::File(file) => self.cache.require_file(file),
            Node::Symlink(link) => self.cache.require_symlink(link),
            Node::Dir(_) => Ok(()),
        }
    }
}

fn checksum(node: &Node) -> Option<Sha256Digest> {
    match node {
        Node::File(file) => Some(file.checksum),
        Node::Symlink(link) => Some(link.checksum),
        Node::Dir(_) => None,
    }
}

/// Copies or links one content object; false when it was there.
fn copy(to: &Repo, from: &Repo, checksum: &Sha256Digest, trusted: bool) -> Result<bool> {
    let none = gio::Cancellable::NONE;
    let name = checksum.to_string();
    if to
        .has_object(ObjectType::File, &name, none)
        .map_err(storage)?
    {
        return Ok(false);
    }
    to.import_object_from_with_trust(from, ObjectType::File, &name, trusted, none)
        .map_err(storage)?;
    Ok(true)
}

/// Adds what stands beside the commit.
fn finish(repo: &Repo, checksum: &str, detached: &Variant, request: &CommitRequest) -> Result<()> {
    let none = gio::Cancellable::NONE;
    if !request.detached.is_empty() {
        repo.write_commit_detached_metadata(checksum, Some(detached), none)
            .map_err(storage)?;
    }
    if let Some(key) = &request.gpg_key {
        repo.sign_commit(checksum, key, None, none)
            .map_err(storage)
            .with_context(|| format!("signing with key {}", quote(key)))?;
    }
    Ok(())
}

fn metadata(request: &CommitRequest) -> Result<Variant> {
    let mut metadata = request.metadata.clone();
    if let Some(name) = &request.ref_binding {
        ostree::validate_rev(name).map_err(storage)?;
        metadata.insert(
            "ostree.ref-binding".to_owned(),
            MetaValue::Strings(vec![name.clone()]),
        );
    }
    metavalue::dict(&metadata)
}
