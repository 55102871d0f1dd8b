//! From layer plans to layer blobs.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, anyhow, bail};
use apt_ostree_model::compose::Compression;
use apt_ostree_model::tree::Node;
use apt_ostree_model::{ContentReader, ErrorKind, Kinded, Reporter, Sha256Digest, Tree};
use fn_error_context::context;
use openssl::sha::Sha256;

use crate::cache::{Blob, BlobCache, BlobInfo, Layer, Lookup};
use crate::compress::fingerprint;
use crate::pipeline::{self, Job, Progress};
use crate::plan::LayerPlan;
use crate::shown;
use crate::tar::{Entry, Kind};

/// Part of every cache key; changes with the shape of the tar stream.
const ENCODER: &[u8] = b"apt-ostree layer 1\0";

/// More threads would need more memory than they save time.
const MAX_THREADS: usize = 24;

/// Makes layer blobs of a tree.
#[derive(Clone, Copy)]
pub struct LayerEncoder<'a> {
    /// The tree in image layout (`/etc`, not `/usr/etc`).
    pub tree: &'a Tree,
    /// Where file contents come from.
    pub content: &'a dyn ContentReader,
    /// Where finished blobs are kept.
    pub cache: &'a BlobCache,
    /// How to compress.
    pub compression: Compression,
    /// Modification time of every entry in seconds since 1970.
    pub timestamp: u64,
    /// How many threads compress; the result is the same for any number.
    pub threads: usize,
    /// Where progress goes.
    pub reporter: &'a dyn Reporter,
}

impl fmt::Debug for LayerEncoder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerEncoder")
            .field("compression", &self.compression)
            .field("timestamp", &self.timestamp)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

/// An entry of a layer and, for a regular file, its content object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item<'a> {
    pub(crate) entry: Entry<'a>,
    pub(crate) content: Option<Sha256Digest>,
}

impl LayerEncoder<'_> {
    /// The layers of `plans`, in their order, from the cache where possible.
    ///
    /// # Errors
    /// When a plan names what is not in the tree, a name can't be in a tar stream, a content
    /// object can't be read or has another size than the tree says, or the cache can't be written.
    #[context("encoding layers")]
    pub fn encode(&self, plans: &[LayerPlan]) -> Result<Vec<Layer>> {
        let fingerprint = fingerprint(self.compression)?;
        let mut layers: Vec<Option<Layer>> = Vec::new();
        let mut missing: Vec<(usize, Sha256Digest)> = Vec::new();
        for (index, result) in self.look_up(plans, &fingerprint)?.into_iter().enumerate() {
            let (key, lookup) = result?;
            let title = &plans[index].title;
            if matches!(lookup, Lookup::Damaged) {
                self.reporter.warning(format!(
                    "The cached layer '{title}' is damaged; it is made anew."
                ));
            }
            if let Lookup::Found(info, blob) = lookup {
                self.reporter.detail(format!("layer '{title}': cached"));
                layers.push(Some(self.layer(&plans[index], &info, blob, true)));
            } else {
                missing.push((index, key));
                layers.push(None);
            }
        }
        for (index, layer) in self.encode_missing(plans, &missing)? {
            layers[index] = Some(layer);
        }
        layers
            .into_iter()
            .map(|layer| layer.context("a layer was not made"))
            .collect()
    }

    /// Looks all plans up in the cache, on all threads because every blob found is hashed.
    fn look_up(
        &self,
        plans: &[LayerPlan],
        fingerprint: &[u8; 32],
    ) -> Result<Vec<Result<(Sha256Digest, Lookup)>>> {
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::new());
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(plan) = plans.get(index) else {
                    return;
                };
                let result = self.key(plan, fingerprint).and_then(|key| {
                    let lookup = self.cache.get(&key)?;
                    Ok((key, lookup))
                });
                if let Ok(mut results) = results.lock() {
                    results.push((index, result));
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.threads().min(plans.len()) {
                scope.spawn(work);
            }
        });
        let mut results = results
            .into_inner()
            .map_err(|_| anyhow!("a thread that reads the blob cache panicked"))?;
        results.sort_by_key(|&(index, _)| index);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }

    fn encode_missing(
        &self,
        plans: &[LayerPlan],
        missing: &[(usize, Sha256Digest)],
    ) -> Result<Vec<(usize, Layer)>> {
        let total = missing
            .iter()
            .flat_map(|&(index, _)| &plans[index].paths)
            .filter_map(|path| self.tree.file(path))
            .map(|file| file.size)
            .sum();
        let mut progress = Progress::new(self.reporter, total);
        let mut layers = Vec::new();
        let sources = missing
            .iter()
            .map(|&(index, _)| (plans[index].title.as_str(), self.items(&plans[index])));
        let job = Job {
            content: self.content,
            cache: self.cache,
            compression: self.compression,
            threads: self.threads(),
        };
        let store = |number: usize, file: tempfile::NamedTempFile, info: &BlobInfo| {
            let (index, key) = missing[number];
            let blob = self.cache.put(&key, file, info)?;
            layers.push((index, self.layer(&plans[index], info, blob, false)));
            Ok(())
        };
        pipeline::run(&job, sources, &mut progress, store)?;
        Ok(layers)
    }

    fn layer(&self, plan: &LayerPlan, info: &BlobInfo, blob: Blob, cached: bool) -> Layer {
        Layer {
            title: plan.title.clone(),
            components: plan.components.clone(),
            digest: info.digest,
            diff_id: info.diff_id,
            size: info.size,
            uncompressed_size: info.uncompressed_size,
            compression: self.compression,
            cached,
            blob,
        }
    }

    fn threads(&self) -> usize {
        self.threads.clamp(1, MAX_THREADS)
    }

    /// Names everything that the blob follows from: the encoder, each header (it holds path,
    /// type, size, owner, mode, time and extended attributes) and each content object.
    fn key(&self, plan: &LayerPlan, fingerprint: &[u8; 32]) -> Result<Sha256Digest> {
        let mut hasher = Sha256::new();
        hasher.update(ENCODER);
        hasher.update(format!("{:?}\0", self.compression).as_bytes());
        hasher.update(fingerprint);
        let mut header = Vec::new();
        for item in self.items(plan)? {
            header.clear();
            item.entry.write_header(&mut header);
            hasher.update(&header);
            if let Some(content) = item.content {
                hasher.update(content.as_bytes());
            }
        }
        Ok(Sha256Digest::new(hasher.finish()))
    }

    /// The entries of a layer: the planned paths and all their parents, in byte order, which puts
    /// parents first.
    fn items<'p>(&'p self, plan: &'p LayerPlan) -> Result<Vec<Item<'p>>> {
        let mut paths: BTreeSet<&str> = BTreeSet::new();
        for path in &plan.paths {
            let mut path = path.as_str();
            while paths.insert(path) {
                match path.rsplit_once('/') {
                    Some((parent, _)) => path = parent,
                    None => break,
                }
            }
        }
        paths.into_iter().map(|path| self.item(path)).collect()
    }

    fn item<'p>(&'p self, path: &'p str) -> Result<Item<'p>> {
        let entry = Entry {
            mtime: self.timestamp,
            ..Entry::plain(path, 0)
        };
        let dir = |dir: &'p apt_ostree_model::Dir| Item {
            entry: Entry {
                kind: Kind::Dir,
                mode: dir.meta.mode,
                uid: dir.meta.uid,
                gid: dir.meta.gid,
                xattrs: Some(&dir.meta.xattrs),
                ..entry
            },
            content: None,
        };
        if path.is_empty() {
            return Ok(dir(&self.tree.root));
        }
        let item = match self.tree.get(path) {
            None => bail!("'{}' is not in the tree", shown(path)),
            Some(Node::Dir(node)) => dir(node),
            Some(Node::File(file)) => Item {
                entry: Entry {
                    kind: Kind::File(file.size),
                    mode: file.meta.mode,
                    uid: file.meta.uid,
                    gid: file.meta.gid,
                    xattrs: Some(&file.meta.xattrs),
                    ..entry
                },
                content: Some(file.checksum),
            },
            Some(Node::Symlink(link)) => Item {
                entry: Entry {
                    kind: Kind::Symlink(&link.target),
                    mode: 0o777,
                    uid: link.uid,
                    gid: link.gid,
                    ..entry
                },
                content: None,
            },
        };
        check(&item.entry)?;
        Ok(item)
    }
}

/// Refuses what would read back as something else.
fn check(entry: &Entry<'_>) -> Result<()> {
    let problem = match (entry.kind, entry.xattrs) {
        (Kind::Symlink(""), _) => "points nowhere",
        (Kind::Symlink(target), _) if target.contains('\0') => "points to a name with a NUL byte",
        (_, Some(xattrs))
            if xattrs
                .keys()
                .any(|name| name.is_empty() || name.contains(['=', '\0'])) =>
        {
            "has an extended attribute with '=' or a NUL byte in its name"
        }
        _ => return Ok(()),
    };
    let message = format!("'{}' can't be in an image: it {problem}", shown(entry.path));
    bail!(Kinded::new(ErrorKind::InvalidInput, message))
}
