//! From a finished tree to image files.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use apt_ostree_model::compose::{
    ComposeReport, Compression, ImageFormat, ImageOptions, ImageReport,
};
use apt_ostree_model::{ErrorKind, ImportedPackage, Kinded, NullReporter, Step, Tree};
use apt_ostree_oci::{
    BlobCache, Component, ComponentId, Image, ImageConfig, LayerEncoder, LayerPlan,
};
use camino::{Utf8Path, Utf8PathBuf};

use super::build::join;
use super::cleanup;
use super::context::{Run, utf8};
use super::finish::Built;
use super::resolve::Resolved;
use crate::postprocess::{self, Input, Options};
use crate::rootfs::assemble;

/// Label with the input hash of the compose.
pub(super) const INPUT_HASH_LABEL: &str = "apt-ostree.inputhash";
/// Label with the version.
pub(super) const VERSION_LABEL: &str = "org.opencontainers.image.version";
/// Layers of an image when nobody says.
const DEFAULT_LAYERS: usize = 64;

/// Writes the commit and every image that was asked for. Layers are made while `commit` writes
/// the commit, as both only read the tree; no image is there before the commit is.
pub(super) fn images_and_commit(
    run: &Run<'_>,
    resolved: &Resolved,
    built: &Built,
    options: &ImageOptions,
    commit: impl FnOnce() -> Result<ComposeReport>,
) -> Result<ComposeReport> {
    if options.formats.is_empty() {
        return commit();
    }
    std::thread::scope(|scope| {
        let image = scope.spawn(|| encode(run, resolved, built, options));
        let mut report = commit()?;
        let outputs: Vec<(ImageFormat, Utf8PathBuf)> = options
            .formats
            .iter()
            .map(|f| Ok((*f, image_path(*f, options, &report)?)))
            .collect::<Result<_>>()?;
        let borrowed: Vec<(ImageFormat, &Utf8Path)> =
            outputs.iter().map(|(f, p)| (*f, p.as_path())).collect();
        report.images = write(run, &report, &borrowed, || join(image))?;
        Ok(report)
    })
}

/// Writes one image at a path that the user chose.
pub(super) fn image_at(
    run: &Run<'_>,
    resolved: &Resolved,
    built: &Built,
    options: &ImageOptions,
    report: &ComposeReport,
    output: (ImageFormat, &Utf8Path),
) -> Result<ImageReport> {
    let image = || encode(run, resolved, built, options);
    let mut reports = write(run, report, &[output], image)?;
    reports.pop().context("no image was written")
}

/// Where an image of a ref goes: `test/minimal` becomes `test_minimal.tar`.
pub(super) fn image_path(
    format: ImageFormat,
    options: &ImageOptions,
    report: &ComposeReport,
) -> Result<Utf8PathBuf> {
    let dir = utf8(
        options
            .output_dir
            .as_deref()
            .unwrap_or_else(|| "output".as_ref()),
    )?;
    let name = report.r#ref.as_deref().unwrap_or("image").replace('/', "_");
    let extension = match format {
        ImageFormat::Oci => "oci",
        ImageFormat::OciArchive => "oci.tar",
        ImageFormat::DockerArchive => "tar",
    };
    Ok(dir.join(format!("{name}.{extension}")))
}

fn write(
    run: &Run<'_>,
    report: &ComposeReport,
    outputs: &[(ImageFormat, &Utf8Path)],
    image: impl FnOnce() -> Result<Image>,
) -> Result<Vec<ImageReport>> {
    run.reporter.step(Step::Encode, || {
        let image = image()?;
        let mut reports = Vec::new();
        for (format, path) in outputs {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir).with_context(|| format!("creating '{dir}'"))?;
            }
            let reference = reference(report);
            let written = image.write(*format, path.as_std_path(), &reference, run.threads);
            reports.push(written.with_context(|| format!("writing '{path}'"))?);
        }
        let summary = format!("{} layers, {} written", image.layers.len(), reports.len());
        Ok((reports, summary))
    })
}

/// The name that `podman load` gives the image.
fn reference(report: &ComposeReport) -> String {
    let name = report.r#ref.as_deref().unwrap_or("image").to_lowercase();
    format!("localhost/{name}:latest")
}

fn encode(
    run: &Run<'_>,
    resolved: &Resolved,
    built: &Built,
    options: &ImageOptions,
) -> Result<Image> {
    let tree = built.image_tree(run)?;
    let plans = plans(resolved, built, &tree, options)?;
    let cache = BlobCache::open(run.cachedir.as_std_path())?;
    let layers =
        encoder(run, built.timestamp, &tree, &cache, options.compression).encode(&plans)?;
    let image = config(resolved, built, options)?.build(layers)?;
    cache.prune(&cleanup::BLOBS)?;
    Ok(image)
}

fn plans(
    resolved: &Resolved,
    built: &Built,
    tree: &Tree,
    options: &ImageOptions,
) -> Result<Vec<LayerPlan>> {
    let (components, owners) = owners(resolved, built, tree);
    let max_layers = options.max_layers.unwrap_or(DEFAULT_LAYERS);
    let owner = |path: &str| owners.get(path).copied();
    apt_ostree_oci::plan_layers(tree, &owner, &components, max_layers)
}

fn encoder<'a>(
    run: &'a Run<'_>,
    timestamp: i64,
    tree: &'a Tree,
    cache: &'a BlobCache,
    compression: Compression,
) -> LayerEncoder<'a> {
    LayerEncoder {
        tree,
        content: &run.store,
        cache,
        compression,
        timestamp: u64::try_from(timestamp).unwrap_or_default(),
        threads: run.threads,
        reporter: run.reporter,
    }
}

/// What will most likely be in the tree, while its scripts still run: the files of its packages.
/// Layers of packages that no script changes come out the same.
pub(super) struct Guess<'a> {
    /// The packages, in the order of the plan.
    pub(super) packages: Vec<ImportedPackage>,
    /// Time of the commit in seconds since 1970.
    pub(super) timestamp: i64,
    /// What the treefile wants.
    pub(super) options: &'a Options,
    /// The images that will be made.
    pub(super) image: &'a ImageOptions,
}

impl Guess<'_> {
    /// Compresses layers into the cache until `stop` is set. A guess that can't be made is no error.
    pub(super) fn warm(self, run: &Run<'_>, resolved: &Resolved, stop: &AtomicBool) {
        if let Err(error) = self.try_warm(run, resolved, stop) {
            run.reporter
                .detail(format!("compressing no layers beforehand: {error:#}"));
        }
    }

    fn try_warm(self, run: &Run<'_>, resolved: &Resolved, stop: &AtomicBool) -> Result<()> {
        let mut tree = Tree::default();
        let packages = assemble::in_order(self.packages.iter().collect());
        let (owners, unowned) = (assemble::Owners::new(), assemble::Unowned::GivesWay);
        assemble::unpack(&mut tree, owners, &packages, &[], unowned)?;
        let input = Input {
            content: &run.store,
            packages: &self.packages,
            options: self.options,
        };
        let tree = postprocess::apply_treefile(tree, input)?.tree;
        let built = Built {
            tree: postprocess::finish(tree, input, None)?.tree,
            packages: self.packages,
            kernel: None,
            timestamp: self.timestamp,
            version: None,
        };
        let tree = built.image_tree(run)?;
        let mut plans = plans(resolved, &built, &tree, self.image)?;
        // The rest of the work takes long enough to give the memory back.
        drop(built);
        plans.retain(|plan| plan.by_package);
        // The large ones first: the fewer bytes are left at the end, the better.
        plans.sort_by_cached_key(|plan| Reverse(size(&tree, plan)));
        let cache = BlobCache::open(run.cachedir.as_std_path())?;
        let encoder = LayerEncoder {
            threads: 1,
            reporter: &NullReporter,
            ..encoder(run, self.timestamp, &tree, &cache, self.image.compression)
        };
        for plan in plans {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            encoder.encode(&[plan])?;
        }
        Ok(())
    }
}

fn size(tree: &Tree, plan: &LayerPlan) -> u64 {
    let files = plan.paths.iter().filter_map(|path| tree.file(path));
    files.map(|file| file.size).sum()
}

/// Components are source packages; a path belongs to the package that ships it.
fn owners(
    resolved: &Resolved,
    built: &Built,
    tree: &Tree,
) -> (Vec<Component>, BTreeMap<String, ComponentId>) {
    let components: BTreeMap<&str, Component> = resolved
        .plan
        .packages
        .iter()
        .map(|p| {
            (
                p.source.as_str(),
                Component {
                    name: p.source.clone(),
                    source: p.source.clone(),
                },
            )
        })
        .collect();
    let ids: BTreeMap<&str, usize> = components
        .keys()
        .enumerate()
        .map(|(i, name)| (*name, i))
        .collect();
    let mut owners = BTreeMap::new();
    for (planned, package) in resolved.plan.packages.iter().zip(&built.packages) {
        let Some(id) = ids.get(planned.source.as_str()) else {
            continue;
        };
        for (path, node) in package.tree.walk() {
            if node.as_dir().is_some() {
                continue;
            }
            let path = crate::postprocess::ownership::real_path_of(tree, &path);
            owners.insert(path, ComponentId(*id));
        }
    }
    (components.into_values().collect(), owners)
}

fn config(resolved: &Resolved, built: &Built, options: &ImageOptions) -> Result<ImageConfig> {
    let mut labels = BTreeMap::from([
        ("containers.bootc".to_owned(), "1".to_owned()),
        (INPUT_HASH_LABEL.to_owned(), resolved.inputhash.clone()),
    ]);
    if let Some(kernel) = &built.kernel {
        labels.insert("ostree.bootable".to_owned(), "true".to_owned());
        labels.insert("ostree.linux".to_owned(), kernel.clone());
    }
    if let Some(version) = &built.version {
        labels.insert(VERSION_LABEL.to_owned(), version.clone());
    }
    labels.extend(options.labels.clone());
    let default_cmd = if built.tree.resolve("usr/sbin/init").is_some() {
        vec!["/sbin/init".to_owned()]
    } else {
        vec!["/bin/bash".to_owned()]
    };
    let user_config = match &options.image_config {
        Some(path) => Some(load_json(&utf8(path)?)?),
        None => None,
    };
    Ok(ImageConfig {
        arch: resolved.plan.arch.clone(),
        created: built.timestamp,
        author: None,
        labels,
        annotations: BTreeMap::new(),
        cmd: resolved.spec.container_cmd.clone().unwrap_or(default_cmd),
        env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
        user_config,
    })
}

fn load_json(path: &Utf8Path) -> Result<serde_json::Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading '{path}'"))?;
    serde_json::from_str(&text).map_err(|error| {
        Kinded::new(
            ErrorKind::InvalidInput,
            format!("'{path}' is not JSON: {error}"),
        )
        .into()
    })
}
