//! Cached packages and trees: commits with a manifest.

use std::collections::BTreeMap;
use std::io::Read as _;

use anyhow::{Context as _, Result, bail};
use apt_ostree_model::{ContentReader as _, Dir, ImportedPackage, Meta, Node, Sha256Digest, Tree};
use fn_error_context::context;
use ostree::glib::{Variant, VariantDict};
use ostree::{Repo, gio};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};
use serde::de::DeserializeOwned;

use crate::CacheRepo;
use crate::commit::in_transaction;
use crate::error::{escape, storage};
use crate::metavalue::{self, MetaValue};
use crate::refname::escape_ref;
use crate::treewriter::{TreeWriter, write_commit};

/// Where everything of ours is.
pub(crate) const PREFIX: &str = "aptostree";
/// Raised whenever an import or a manifest would come out differently.
pub(crate) const FORMAT: u64 = 1;

const FORMAT_KEY: &str = "aptostree.cache-format";
const MANIFEST_KEY: &str = "aptostree.manifest";
const MANIFEST_NAME: &str = "manifest.json.zst";
/// No manifest is larger than this, unpacked.
const MAX_MANIFEST: u64 = 4 << 30;

/// What a cached commit is.
pub(crate) struct Cached<'a> {
    pub(crate) name: &'a str,
    pub(crate) tree: &'a Tree,
    pub(crate) time: u64,
    pub(crate) metadata: BTreeMap<String, MetaValue>,
    /// The manifest as JSON.
    pub(crate) manifest: Vec<u8>,
}

impl CacheRepo {
    /// Caches a tree under a key of the caller's.
    ///
    /// # Errors
    /// When it can't be written.
    #[context("caching a tree as '{}'", escape(key))]
    pub fn save_tree(&self, key: &str, tree: &Tree) -> Result<()> {
        self.save(Cached {
            name: &tree_ref(key),
            tree,
            time: 0,
            metadata: BTreeMap::new(),
            manifest: serde_json::to_vec(tree)?,
        })
    }

    /// The tree that was saved under `key`. One that can't be read is dropped and counts as
    /// missing. Contents are not looked at; [`CacheRepo::checkout`] does that.
    ///
    /// # Errors
    /// When a damaged tree can't be dropped.
    pub fn load_tree(&self, key: &str) -> Result<Option<Tree>> {
        self.load(&tree_ref(key))
    }

    /// The cached import of a package.
    pub(crate) fn load_package(
        &self,
        name: &str,
        digest: &Sha256Digest,
    ) -> Result<Option<ImportedPackage>> {
        let package: Option<ImportedPackage> = self.load(name)?;
        Ok(package.filter(|p| p.sha256 == *digest))
    }

    /// Writes a cached commit, its ref last.
    pub(crate) fn save(&self, cached: Cached<'_>) -> Result<()> {
        let packed = compress(&cached.manifest)?;
        let size = packed.len() as u64;
        let manifest = self.put_reader(&Meta::root(0o600), size, &mut packed.as_slice())?;
        let mut metadata = cached.metadata;
        metadata.insert(FORMAT_KEY.to_owned(), MetaValue::U64(FORMAT));
        metadata.insert(
            MANIFEST_KEY.to_owned(),
            MetaValue::String(manifest.checksum.to_string()),
        );
        let mut root = Dir::new(Meta::root(0o755));
        root.entries
            .insert(MANIFEST_NAME.to_owned(), Node::File(manifest));
        let metadata = metavalue::dict(&metadata)?;
        let write = |repo: &Repo| {
            let mut writer = TreeWriter::new(Some(repo));
            let sums = writer.write_with(&root, "data", &cached.tree.root)?;
            write_commit(repo, sums, cached.time, &metadata, (cached.name, None))
        };
        let (repo, commit) = if self.system {
            // libostree syncs what a transaction writes; objects alone it does not.
            let repo = self.handle.open()?;
            let commit = in_transaction(&repo, || write(&repo))?;
            (repo, commit)
        } else {
            let repo = self.repo()?;
            let commit = write(&repo)?;
            (repo, commit)
        };
        repo.set_ref_immediate(None, cached.name, Some(&commit), gio::Cancellable::NONE)
            .map_err(storage)
    }

    fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        match self.try_load(name) {
            Ok(found) => {
                if found.is_some() {
                    self.touch(name);
                }
                Ok(found)
            }
            Err(error) => {
                tracing::warn!("dropping cached '{name}': {error:#}");
                self.drop_ref(name)?;
                Ok(None)
            }
        }
    }

    fn try_load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let repo = self.repo()?;
        let Some(commit) = repo.resolve_rev(name, true).map_err(storage)? else {
            return Ok(None);
        };
        let (variant, _) = repo.load_commit(&commit).map_err(storage)?;
        let metadata = VariantDict::new(Some(&variant.child_value(0)));
        if lookup::<u64>(&metadata, FORMAT_KEY) != Some(FORMAT) {
            return Ok(None);
        }
        let checksum: String =
            lookup(&metadata, MANIFEST_KEY).context("the commit names no manifest")?;
        let packed = self.content().open(&checksum.parse()?)?;
        let json = decompress(packed)?;
        serde_json::from_slice(&json)
            .context("reading the manifest")
            .map(Some)
    }

    /// Notes that a ref was used.
    fn touch(&self, name: &str) {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        let path = self.path().join("refs/heads").join(name);
        if let Err(error) =
            rustix::fs::utimensat(CWD, path.as_str(), &times, AtFlags::SYMLINK_NOFOLLOW)
        {
            tracing::debug!("touching '{path}': {error}");
        }
    }

    /// Deletes a ref, even one that holds garbage.
    pub(crate) fn drop_ref(&self, name: &str) -> Result<()> {
        self.repo()?
            .set_ref_immediate(None, name, None, gio::Cancellable::NONE)
            .map_err(storage)
    }
}

fn lookup<T: ostree::glib::variant::FromVariant>(dict: &VariantDict, key: &str) -> Option<T> {
    dict.lookup_value(key, None).as_ref().and_then(Variant::get)
}

/// The ref of a saved tree.
pub(crate) fn tree_ref(key: &str) -> String {
    let name = escape_ref(key);
    if name.len() <= 200 {
        return format!("{PREFIX}/tree/{name}");
    }
    format!("{PREFIX}/tree/{}", crate::object::sha256(key.as_bytes()))
}

fn compress(data: &[u8]) -> Result<Vec<u8>> {
    use std::io::Write as _;
    let mut encoder = zstd::Encoder::new(Vec::new(), 1)?;
    encoder.include_checksum(true)?;
    encoder.write_all(data)?;
    Ok(encoder.finish()?)
}

fn decompress(packed: std::fs::File) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    zstd::Decoder::new(packed)?
        .take(MAX_MANIFEST + 1)
        .read_to_end(&mut data)?;
    if data.len() as u64 > MAX_MANIFEST {
        bail!("the manifest has more than {MAX_MANIFEST} bytes");
    }
    Ok(data)
}
