//! From an image to a commit: each layer is a commit of its own, which a later image with the same
//! layer uses again; the image is one that merges them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use anyhow::{Context as _, Result};
use apt_ostree_model::reference::{ContainerReference, Verification};
use apt_ostree_model::{
    Dir, ErrorKind, File, Kinded, Meta, Node, Sha256Digest, Step, Symlink, Tree,
};
use apt_ostree_oci::pull::{
    CommitObjects, Content, ContentKind, LayerKind, LayerStore, LayerStream, Layout, MergeLayer,
    ObjectKind, ObjectStore, Progress, RemoteImage, RemoteLayer, Skopeo, merge, read_chunk,
    read_commit, read_layer,
};
use apt_ostree_store::images::{self, ObjectWriter};
use apt_ostree_store::{CacheRepo, CommitRequest, MetaValue, TargetRepo};

use super::local;
use crate::compose::context::Run;
use crate::compose::metadata::{PACKAGE_LIST, parted};
use crate::content;
use crate::rootfs::dpkgdb;

/// Directories that a layer does not describe itself, in the metadata of its commit.
const IMPLIED: &str = "aptostree.layer.implied";
/// Files that builders of containers leave, where they are empty.
const INJECTED: [&str; 2] = ["usr/etc/hostname", "usr/etc/resolv.conf"];
/// Where the database of packages may be, the first that is there.
const DATABASES: [&str; 3] = [
    "usr/lib/sysimage/dpkg/status",
    "var/lib/dpkg/status",
    "usr/share/factory/var/lib/dpkg/status",
];

/// An image on its way into the repository.
pub(super) struct Import<'i> {
    /// The ref is named after this.
    pub(super) reference: &'i ContainerReference,
    pub(super) image: &'i RemoteImage,
    pub(super) run: &'i Run<'i>,
    pub(super) repo: &'i TargetRepo,
    /// Refs of layers by what they unpack to.
    pub(super) known: BTreeMap<Sha256Digest, String>,
}

impl Import<'_> {
    /// Tells how much there is to fetch.
    pub(super) fn announce(&self) -> Result<()> {
        let missing = self.missing()?;
        let size: u64 = missing.iter().map(|(_, layer)| layer.size).sum();
        self.run.reporter.message(format!(
            "{} of {} layers are new: {} MB",
            missing.len(),
            self.image.layers.len(),
            size.div_ceil(1_000_000)
        ));
        Ok(())
    }

    /// Fetches what is missing and writes the commit; returns it and the bytes that were fetched.
    pub(super) fn run(&self, skopeo: &mut Skopeo) -> Result<(String, u64)> {
        self.require_verifiable()?;
        self.announce()?;
        let missing = self.missing()?;
        let total = missing.iter().map(|(_, layer)| layer.size).sum();
        apt_ostree_fsx::require_space(self.repo.path(), total)?;
        let mut before = 0;
        for (kind, layer) in missing {
            let progress = Progress {
                reporter: self.run.reporter,
                before,
                total,
            };
            let commit = self.fetch(kind, skopeo.layer(layer, progress)?)?;
            // From here on the layer is there, whatever happens to the others.
            self.repo
                .set_ref(&images::layer_ref(&layer.digest), &commit)?;
            before += layer.size;
        }
        let commit = self.run.reporter.step(Step::Commit, || {
            let commit = self.write_merged()?;
            Ok::<_, anyhow::Error>((commit.clone(), commit))
        })?;
        let name = local::reference_ref(self.reference);
        self.repo.set_ref(&name, &commit)?;
        Ok((commit, total))
    }

    /// The layers that are not here, contents of a commit before the commit itself. A layer that
    /// is here under another digest gets its name.
    fn missing(&self) -> Result<Vec<(LayerKind, &RemoteLayer)>> {
        let mut missing = Vec::new();
        let mut seen = BTreeSet::new();
        for (at, layer) in self.image.layers.iter().enumerate() {
            let name = images::layer_ref(&layer.digest);
            if self.repo.resolve_ref(&name)?.is_some() || !seen.insert(layer.digest) {
                continue;
            }
            let same = self.known.get(&layer.diff_id);
            let same = same.map(|name| self.repo.resolve_ref(name)).transpose()?;
            match same.flatten() {
                Some(commit) => self.repo.set_ref(&name, &commit)?,
                None => missing.push((self.image.kind(at), layer)),
            }
        }
        missing.sort_by_key(|(kind, _)| match kind {
            LayerKind::Chunk => 0,
            LayerKind::Commit => 1,
            LayerKind::Files => 2,
        });
        Ok(missing)
    }

    /// Refuses an image whose files no remote can have signed.
    fn require_verifiable(&self) -> Result<()> {
        let Verification::Remote(remote) = &self.reference.verification else {
            return Ok(());
        };
        let last = self.image.layers.len() - 1;
        if self.image.is_encapsulated() && self.image.kind(last) != LayerKind::Files {
            return Ok(());
        }
        let message = format!("the image has files that remote '{remote}' can't have signed");
        Err(Kinded::new(ErrorKind::Verification, message)
            .with_hint("follow it with ostree-image-signed: or ostree-unverified-image:")
            .into())
    }

    fn fetch(&self, kind: LayerKind, stream: LayerStream<'_>) -> Result<String> {
        match kind {
            LayerKind::Files => self.fetch_files(stream),
            LayerKind::Chunk => self.fetch_chunk(stream),
            LayerKind::Commit => self.fetch_commit(stream),
        }
    }

    fn fetch_files(&self, mut stream: LayerStream<'_>) -> Result<String> {
        let store = Store(&self.run.store);
        let layout = Layout {
            keep_var: apt_ostree_sysroot::fills_var(),
            ..Layout::default()
        };
        let result = read_layer(&mut stream, &store, layout);
        let layer = stream.finish(result)?;
        for (top, count) in &layer.dropped {
            let text = format!("{count} entries below /{top} of the image are dropped");
            self.run.reporter.detail(text);
        }
        let implied = layer.implied.into_iter().collect();
        let metadata = BTreeMap::from([(IMPLIED.to_owned(), MetaValue::Strings(implied))]);
        self.commit(
            &layer.tree,
            &CommitRequest {
                metadata,
                ..CommitRequest::default()
            },
        )
    }

    /// Contents of a commit, which a tree of their own keeps until the commit has come.
    fn fetch_chunk(&self, mut stream: LayerStream<'_>) -> Result<String> {
        let mut objects = self.objects()?;
        let result = read_chunk(&mut stream, &mut objects);
        stream.finish(result)?;
        let nodes = objects.nodes.take();
        objects.writer.finish()?;
        let mut root = Dir::new(Meta::root(0o755));
        root.entries.extend(nodes);
        self.commit(&Tree { root }, &CommitRequest::default())
    }

    fn fetch_commit(&self, mut stream: LayerStream<'_>) -> Result<String> {
        let mut objects = self.objects()?;
        let result = read_commit(&mut stream, &mut objects);
        let commit = stream.finish(result)?;
        objects.writer.finish()?;
        let detached = commit.detached.as_deref();
        self.repo
            .write_commit(&commit.checksum, &commit.commit, detached)?;
        Ok(commit.checksum.to_string())
    }

    fn objects(&self) -> Result<Objects<'_>> {
        Ok(Objects {
            writer: ObjectWriter::start(&self.run.store)?,
            nodes: RefCell::default(),
            verify: match &self.reference.verification {
                Verification::Remote(remote) => Some((self.repo, remote)),
                _ => None,
            },
        })
    }

    fn commit(&self, tree: &Tree, request: &CommitRequest) -> Result<String> {
        let written = self.run.store.commit(tree, request, self.repo)?;
        Ok(written.checksum)
    }

    fn write_merged(&self) -> Result<String> {
        let mut base = None;
        let mut layers = Vec::new();
        for (at, layer) in self.image.layers.iter().enumerate() {
            let kind = self.image.kind(at);
            if kind == LayerKind::Chunk {
                continue;
            }
            let name = images::layer_ref(&layer.digest);
            let commit = self.repo.resolve_ref(&name)?;
            let commit = commit.with_context(|| format!("layer '{name}' is missing"))?;
            let commit = self.repo.load_commit(&commit)?;
            match kind {
                LayerKind::Commit => base = Some(commit),
                _ => layers.push(commit),
            }
        }
        if let (Some(base), Verification::Remote(remote)) = (&base, &self.reference.verification) {
            // It may have come with an image that nobody had to have signed.
            self.repo.verify_commit(remote, &base.checksum)?;
        }
        let implied: Vec<BTreeSet<String>> = layers
            .iter()
            .map(|layer| {
                layer
                    .strings(IMPLIED)
                    .unwrap_or_default()
                    .into_iter()
                    .collect()
            })
            .collect();
        let upper = layers
            .iter()
            .zip(&implied)
            .map(|(layer, implied)| MergeLayer {
                tree: &layer.tree,
                implied,
            });
        let parent = base.as_ref().map(|base| base.checksum.clone());
        let lower = base.map(|base| base.tree).unwrap_or_default();
        let mut tree = merge(lower, upper);
        for path in INJECTED {
            if tree.file(path).is_some_and(|file| file.size == 0) {
                tree.remove(path);
            }
        }
        let created = self.image.created.map(i64::try_from).transpose()?;
        let request = CommitRequest {
            timestamp: created.unwrap_or_else(|| jiff::Timestamp::now().as_second()),
            metadata: self.metadata(&tree)?,
            parent,
            ..CommitRequest::default()
        };
        self.commit(&tree, &request)
    }

    fn metadata(&self, tree: &Tree) -> Result<BTreeMap<String, MetaValue>> {
        let text = |text: &str| MetaValue::String(text.to_owned());
        let image = self.image;
        let mut metadata = BTreeMap::from([
            (
                images::MANIFEST_DIGEST.to_owned(),
                text(&image.digest.to_oci()),
            ),
            (images::MANIFEST.to_owned(), text(&image.manifest)),
            (images::IMAGE_CONFIG.to_owned(), text(&image.config)),
        ]);
        if let Some(version) = image.version() {
            metadata.insert("version".to_owned(), text(version));
        }
        let modules = tree.dir("usr/lib/modules");
        let mut names = modules.into_iter().flat_map(|dir| dir.entries.keys());
        let kernel = names.find(|name| tree.contains(&format!("usr/lib/modules/{name}/vmlinuz")));
        let kernel = kernel.ok_or_else(|| {
            let message = format!("image '{}' has no kernel", self.reference.image());
            Kinded::new(ErrorKind::InvalidInput, message)
        })?;
        metadata.insert("ostree.bootable".to_owned(), MetaValue::Bool(true));
        metadata.insert("ostree.linux".to_owned(), text(kernel));
        if let Some(status) = DATABASES.iter().find(|path| tree.file(path).is_some()) {
            let status = content::read_text(tree, &self.run.store, status)?;
            let packages = dpkgdb::installed(&status);
            let list = packages
                .iter()
                .map(|p| parted(&p.name, &p.version, p.arch.as_str()));
            let list = MetaValue::PackageList(list.collect());
            metadata.insert(PACKAGE_LIST.to_owned(), list);
        }
        Ok(metadata)
    }
}

/// Takes the contents of layers of files.
struct Store<'s>(&'s CacheRepo);

impl LayerStore for Store<'_> {
    fn put_file(&self, meta: &Meta, size: u64, content: &mut dyn Read) -> Result<File> {
        self.0.put_content(meta, size, content)
    }

    fn put_symlink(&self, target: &str, uid: u32, gid: u32) -> Result<Symlink> {
        use apt_ostree_model::ContentWriter as _;
        Ok(self.0.put_symlink(target, uid, gid)?)
    }

    fn keeps_xattr(&self, name: &str) -> bool {
        CacheRepo::keeps_xattr(name)
    }
}

/// Takes the objects of layers of a commit.
struct Objects<'o> {
    writer: ObjectWriter<'o>,
    /// Contents by their checksum.
    nodes: RefCell<BTreeMap<String, Node>>,
    /// The remote whose keys must have signed the commit.
    verify: Option<(&'o TargetRepo, &'o str)>,
}

impl ObjectStore for Objects<'_> {
    fn check_commit(&mut self, commit: &CommitObjects) -> Result<()> {
        let Some((repo, remote)) = self.verify else {
            return Ok(());
        };
        let detached = commit.detached.as_deref().unwrap_or_default();
        repo.verify_signature(remote, &commit.commit, detached)
    }

    fn put_metadata(
        &mut self,
        kind: ObjectKind,
        checksum: &Sha256Digest,
        data: &[u8],
    ) -> Result<()> {
        let tree = kind == ObjectKind::DirTree;
        self.writer.put_directory(tree, checksum, data)
    }

    fn put_content(&mut self, content: Content<'_>) -> Result<()> {
        let Content {
            checksum,
            uid,
            gid,
            mode,
            xattrs,
            kind,
        } = content;
        let node = match kind {
            ContentKind::File { size, content } => {
                let meta = Meta {
                    uid,
                    gid,
                    ..Meta::root(mode)
                };
                self.writer
                    .put_file(&checksum, &meta, xattrs, (size, content))?
            }
            ContentKind::Symlink { target } => {
                self.writer
                    .put_symlink(&checksum, (uid, gid), xattrs, target)?
            }
        };
        self.nodes.borrow_mut().insert(checksum.to_string(), node);
        Ok(())
    }
}
