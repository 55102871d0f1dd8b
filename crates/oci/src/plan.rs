//! Which path goes into which layer.
//!
//! The split must not move when a package comes or goes, so that an update pulls what changed and
//! nothing else. It therefore never balances sizes across packages:
//!
//! * A source package of at least [`OWN_LAYER_SIZE`] has a layer of its own; the largest come first
//!   when there are more of them than half the layers.
//! * Every other source package goes into one of a fixed number of bins, chosen by a hash of its
//!   name.
//! * The kernel with its modules, the initramfs, the package database and everything that no
//!   package owns have one layer each.
//!
//! A new leaf package so changes its bin, the database and the layer of unowned files (caches).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use apt_ostree_model::tree::{Dir, Node, join};
use apt_ostree_model::{ErrorKind, Kinded, Tree};
use openssl::sha::sha256;

use crate::shown;

/// A source package with at least this many bytes in the tree gets its own layer.
pub(crate) const OWN_LAYER_SIZE: u64 = 8 << 20;

/// Below this many layers there is no split at all.
const MIN_SPLIT: usize = 8;

/// More layers than any tool accepts.
const MAX_LAYERS: usize = 500;

/// Kernel, initramfs, unowned files, database.
const FIXED_LAYERS: usize = 4;

const DATABASE: &str = "usr/lib/sysimage/";
const MODULES: &str = "usr/lib/modules/";

/// A binary package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Component {
    /// Package name.
    pub name: String,
    /// Name of its source package; packages of one source change together.
    pub source: String,
}

/// Index of a [`Component`] in the list given to [`plan_layers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ComponentId(pub usize);

/// What one layer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerPlan {
    /// Name for people: a source package, `bin 7`, `kernel`, `initramfs`, `unowned`,
    /// `package database` or `everything`.
    pub title: String,
    /// Names of the packages with files in the layer, sorted.
    pub components: Vec<String>,
    /// Files, links and empty directories, sorted; `""` is the root directory. Parent directories
    /// are implied.
    pub paths: Vec<String>,
    /// Whether the layer holds the files of some packages and nothing else.
    pub by_package: bool,
}

/// Where a path goes. The order of the variants is the order of the layers: what changes most is
/// on top.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Source(String),
    Bin(usize),
    Kernel,
    Initramfs,
    Unowned,
    Database,
    Everything,
}

impl Slot {
    /// The slot of paths that don't go by package.
    fn fixed(path: &str) -> Option<Self> {
        if path.starts_with(DATABASE) {
            return Some(Self::Database);
        }
        let (_, file) = path.strip_prefix(MODULES)?.split_once('/')?;
        Some(if file == "initramfs.img" {
            Self::Initramfs
        } else {
            Self::Kernel
        })
    }

    fn title(&self) -> String {
        match self {
            Self::Source(name) => name.clone(),
            Self::Bin(number) => format!("bin {number}"),
            Self::Kernel => "kernel".to_owned(),
            Self::Initramfs => "initramfs".to_owned(),
            Self::Unowned => "unowned".to_owned(),
            Self::Database => "package database".to_owned(),
            Self::Everything => "everything".to_owned(),
        }
    }
}

/// A file, link or empty directory with its owner.
struct Leaf<'a> {
    path: String,
    size: u64,
    component: Option<&'a Component>,
}

/// Splits `tree` into at most `max_layers` layers.
///
/// `owner` tells which package a path belongs to. With fewer than 8 layers all goes into one.
///
/// # Errors
/// When `max_layers` is 0 or more than 500, or a name means something else in a layer: it starts
/// with `.wh.` (which deletes) or has a NUL byte.
pub fn plan_layers(
    tree: &Tree,
    owner: &dyn Fn(&str) -> Option<ComponentId>,
    components: &[Component],
    max_layers: usize,
) -> Result<Vec<LayerPlan>> {
    if !(1..=MAX_LAYERS).contains(&max_layers) {
        let message = format!("{max_layers} layers are not between 1 and {MAX_LAYERS}");
        bail!(Kinded::new(ErrorKind::Usage, message));
    }
    let leaves = leaves(tree, owner, components)?;
    let slots = Slots::new(&leaves, max_layers);
    let mut layers: BTreeMap<Slot, (BTreeSet<&str>, Vec<String>)> = BTreeMap::new();
    for leaf in leaves {
        let (names, paths) = layers.entry(slots.of(&leaf)).or_default();
        names.extend(leaf.component.map(|c| c.name.as_str()));
        paths.push(leaf.path);
    }
    let plan = |(slot, (names, mut paths)): (Slot, (BTreeSet<&str>, Vec<String>))| {
        paths.sort_unstable();
        LayerPlan {
            by_package: matches!(slot, Slot::Source(_) | Slot::Bin(_)),
            title: slot.title(),
            components: names.into_iter().map(str::to_owned).collect(),
            paths,
        }
    };
    Ok(layers.into_iter().map(plan).collect())
}

/// The rule that gives a leaf its slot.
struct Slots<'a> {
    split: bool,
    own: BTreeSet<&'a str>,
    bins: usize,
}

impl<'a> Slots<'a> {
    fn new(leaves: &[Leaf<'a>], max_layers: usize) -> Self {
        let by_package = max_layers.saturating_sub(FIXED_LAYERS);
        let bins = by_package.div_ceil(2);
        let mut sizes: BTreeMap<&str, u64> = BTreeMap::new();
        for leaf in leaves {
            if let (Some(component), None) = (leaf.component, Slot::fixed(&leaf.path)) {
                *sizes.entry(&component.source).or_default() += leaf.size;
            }
        }
        let mut big: Vec<(&str, u64)> = sizes
            .into_iter()
            .filter(|&(_, size)| size >= OWN_LAYER_SIZE)
            .collect();
        big.sort_by_key(|&(name, size)| (std::cmp::Reverse(size), name));
        Self {
            split: max_layers >= MIN_SPLIT,
            own: big
                .into_iter()
                .take(by_package - bins)
                .map(|(name, _)| name)
                .collect(),
            bins,
        }
    }

    fn of(&self, leaf: &Leaf<'_>) -> Slot {
        if !self.split {
            return Slot::Everything;
        }
        if let Some(slot) = Slot::fixed(&leaf.path) {
            return slot;
        }
        match leaf.component {
            None => Slot::Unowned,
            Some(component) if self.own.contains(component.source.as_str()) => {
                Slot::Source(component.source.clone())
            }
            Some(component) => Slot::Bin(bin(&component.source, self.bins)),
        }
    }
}

/// The bin of a source package: a hash of its name alone.
fn bin(source: &str, bins: usize) -> usize {
    let hash = sha256(source.as_bytes());
    let number = hash[..4].iter().fold(0, |n, &b| n << 8 | usize::from(b));
    number % bins
}

fn leaves<'a>(
    tree: &Tree,
    owner: &dyn Fn(&str) -> Option<ComponentId>,
    components: &'a [Component],
) -> Result<Vec<Leaf<'a>>> {
    let mut leaves = vec![Leaf {
        path: String::new(),
        size: 0,
        component: None,
    }];
    let mut todo: Vec<(String, &Dir)> = vec![(String::new(), &tree.root)];
    while let Some((dir_path, dir)) = todo.pop() {
        for (name, node) in &dir.entries {
            let path = join(&dir_path, name);
            check_name(name, &path)?;
            match node {
                Node::Dir(dir) if !dir.entries.is_empty() => todo.push((path, dir)),
                _ => leaves.push(Leaf {
                    size: node.as_file().map_or(0, |file| file.size),
                    component: owner(&path).and_then(|id| components.get(id.0)),
                    path,
                }),
            }
        }
    }
    Ok(leaves)
}

fn check_name(name: &str, path: &str) -> Result<()> {
    if name.starts_with(".wh.") {
        let message = format!(
            "'{}' can't be in an image: its name marks a deletion",
            shown(path)
        );
        let hint = "remove the file, or the package that ships it";
        bail!(Kinded::new(ErrorKind::InvalidInput, message).with_hint(hint));
    }
    if name.is_empty() || name.contains(['\0', '/']) {
        let message = format!("'{}' is not a file name", shown(path));
        bail!(Kinded::new(ErrorKind::InvalidInput, message));
    }
    Ok(())
}
