//! Joining package trees to one root, in memory: what `dpkg --unpack` would put on disk.

use std::collections::BTreeMap;

use anyhow::Result;
use apt_ostree_model::tree::join;
use apt_ostree_model::{
    Dir, ErrorKind, ImportedPackage, Kinded, Meta, Node, Tree, Version, control_field,
};

use super::dpkgdb::Diversion;

/// Top-level directories that are links into `usr` on a merged-/usr system.
const MERGED: [&str; 7] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32"];

/// Where a package may not put files: the package database, and what the system mounts over.
const RESERVED: [&str; 7] = [
    "var/lib/dpkg",
    "proc",
    "sys",
    "dev",
    "run",
    "sysroot",
    "ostree",
];

/// The order in which packages are laid over each other.
pub fn in_order(mut packages: Vec<&ImportedPackage>) -> Vec<&ImportedPackage> {
    // base-files ships the links of merged /usr that all other paths go through.
    packages.sort_by_key(|p| p.name.as_str() != "base-files");
    packages
}

/// A package as far as it matters who owns a file.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'p> {
    /// Its name.
    pub name: &'p str,
    /// Its version.
    pub version: &'p Version,
    /// Its control data: one stanza.
    pub control: &'p str,
}

impl<'p> From<&'p ImportedPackage> for Claim<'p> {
    fn from(package: &'p ImportedPackage) -> Self {
        Self {
            name: package.name.as_str(),
            version: &package.version,
            control: &package.control,
        }
    }
}

/// Which package put a path there.
pub type Owners<'p> = BTreeMap<String, Claim<'p>>;

/// The owners of all files of `packages`.
pub fn owners<'p>(packages: &[&'p ImportedPackage]) -> Owners<'p> {
    let mut owners = Owners::new();
    for package in packages {
        let leaves = package
            .tree
            .walk()
            .filter(|(_, node)| node.as_dir().is_none());
        owners.extend(leaves.map(|(path, _)| (merged(&path), Claim::from(*package))));
    }
    owners
}

/// What becomes of a conffile's place where there is a file that no package owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unowned {
    /// The package's file takes it: what was there came from a layer below the packages.
    GivesWay,
    /// It stays, as with dpkg: somebody made it on the system.
    Stays,
}

/// Adds the data of `packages` to `tree`, whose files have the `owners`.
///
/// What a package ships below `bin`, `sbin` or `lib*` goes below `usr` (merged /usr). Directories
/// that exist keep their owner and mode, as dpkg does. A link to a directory, in the tree or in
/// the package, counts as that directory when the other side has one. Two packages may
/// ship the same path when one of them `Replaces` the other, a diversion parts them, or the files
/// are identical (`Multi-Arch: same`).
///
/// # Errors
/// When two packages ship the same path for no such reason, or one ships a path through a file.
pub fn unpack<'p>(
    tree: &mut Tree,
    mut owners: Owners<'p>,
    packages: &[&'p ImportedPackage],
    diversions: &[Diversion],
    unowned: Unowned,
) -> Result<()> {
    for package in packages {
        let mut unpacker = Unpacker {
            tree: &mut *tree,
            owners: &mut owners,
            package,
            diversions,
            unowned,
        };
        unpacker.dir("", "", &package.tree.root)?;
    }
    Ok(())
}

struct Unpacker<'a, 'p> {
    tree: &'a mut Tree,
    /// Which package put a path there, for `Replaces` and for error messages.
    owners: &'a mut Owners<'p>,
    package: &'p ImportedPackage,
    diversions: &'a [Diversion],
    unowned: Unowned,
}

impl Unpacker<'_, '_> {
    /// Adds the entries of `dir`, which the package calls `source` and the tree `dest`.
    fn dir(&mut self, source: &str, dest: &str, dir: &Dir) -> Result<()> {
        for (name, node) in &dir.entries {
            let source = join(source, name);
            if let Node::Dir(child) = node {
                let dest = self.ensure_dir(&merged(&join(dest, name)), &child.meta)?;
                self.dir(&source, &dest, child)?;
            } else {
                self.leaf(&source, dest, name, node)?;
            }
        }
        Ok(())
    }

    /// Makes the directory at `path` unless it exists, and returns its real path.
    fn ensure_dir(&mut self, path: &str, meta: &Meta) -> Result<String> {
        match self.tree.get(path) {
            None => {
                // A mapped path such as `usr/lib` may come before the package's own `usr`.
                let parent = apt_ostree_model::tree::split(path).0;
                self.tree.ensure_dir(parent, &Meta::root(0o755))?;
                self.tree.insert(path, Node::Dir(Dir::new(meta.clone())))?;
                Ok(path.to_owned())
            }
            Some(Node::Dir(_)) => Ok(path.to_owned()),
            Some(Node::Symlink(_)) => match self.tree.resolve(path) {
                Some(real) if self.tree.dir(&real).is_some() => Ok(real),
                _ => Err(self.through_non_dir(path)),
            },
            Some(Node::File(_)) => Err(self.through_non_dir(path)),
        }
    }

    fn leaf(&mut self, source: &str, dest_dir: &str, name: &str, node: &Node) -> Result<()> {
        let path = match self.diverted(source) {
            Some(divert_to) => self.diverted_path(&divert_to)?,
            None => join(dest_dir, name),
        };
        self.refuse_reserved(&path)?;
        match (self.tree.get(&path), node) {
            (None, _) => {}
            // dpkg keeps a directory where a package ships a link to one.
            (Some(Node::Dir(_)), Node::Symlink(link)) => {
                let (dir, _) = apt_ostree_model::tree::split(&path);
                let target = if link.target.starts_with('/') {
                    link.target.clone()
                } else {
                    join(dir, &link.target)
                };
                let real = self.tree.resolve(&target);
                if real.is_some_and(|real| self.tree.dir(&real).is_some()) {
                    return Ok(());
                }
                return Err(self.conflict(&path));
            }
            (Some(Node::Dir(_)), _) => return Err(self.conflict(&path)),
            (Some(existing), _) if existing == node => {}
            (Some(_), _) => match self.precedence(&path) {
                Precedence::Ours => {}
                Precedence::Theirs => return Ok(()),
                Precedence::Nobody => return Err(self.conflict(&path)),
            },
        }
        self.tree.insert(&path, node.clone())?;
        self.owners.insert(path, self.package.into());
        Ok(())
    }

    fn refuse_reserved(&self, path: &str) -> Result<()> {
        let below = |dir: &str| {
            path == dir
                || path
                    .strip_prefix(dir)
                    .is_some_and(|rest| rest.starts_with('/'))
        };
        if !RESERVED.iter().any(|dir| below(dir)) {
            return Ok(());
        }
        let message = format!(
            "package '{}' ships '/{path}', which no package may ship",
            self.package.name
        );
        Err(Kinded::new(ErrorKind::InvalidPackage, message).into())
    }

    fn diverted(&self, source: &str) -> Option<String> {
        let name = self.package.name.as_str();
        let matches =
            |d: &&Diversion| d.path.strip_prefix('/') == Some(source) && d.package != name;
        self.diversions
            .iter()
            .find(matches)
            .map(|d| d.divert_to.clone())
    }

    fn diverted_path(&mut self, divert_to: &str) -> Result<String> {
        let path = divert_to.trim_start_matches('/');
        let (dir, name) = apt_ostree_model::tree::split(path);
        let dir = self.ensure_dir(&merged(dir), &Meta::root(0o755))?;
        Ok(join(&dir, name))
    }

    /// Who wins `path`, which an earlier package owns.
    fn precedence(&self, path: &str) -> Precedence {
        let Some(theirs) = self.owners.get(path) else {
            let mut conffiles = self.package.conffiles.iter();
            let is_conffile = conffiles.any(|c| c.path.strip_prefix('/') == Some(path));
            return if is_conffile && self.unowned == Unowned::Stays {
                Precedence::Theirs
            } else {
                Precedence::Ours
            };
        };
        let ours = Claim::from(self.package);
        if replaces(&ours, theirs) {
            Precedence::Ours
        } else if replaces(theirs, &ours) {
            Precedence::Theirs
        } else {
            Precedence::Nobody
        }
    }

    fn conflict(&self, path: &str) -> anyhow::Error {
        let ours = self.package;
        let other = self.owners.get(path).map_or_else(
            || "another package".to_owned(),
            |p| format!("'{}' {}", p.name, p.version),
        );
        let message = format!(
            "'/{path}' is in package '{}' {} and in {other}",
            ours.name, ours.version
        );
        Kinded::new(ErrorKind::InvalidPackage, message)
            .with_hint("leave one of the packages out, or ask its maintainer for a Replaces or a diversion")
            .into()
    }

    fn through_non_dir(&self, path: &str) -> anyhow::Error {
        let message = format!(
            "package '{}' ships files below '/{path}', which is not a directory",
            self.package.name
        );
        Kinded::new(ErrorKind::InvalidPackage, message).into()
    }
}

enum Precedence {
    Ours,
    Theirs,
    Nobody,
}

/// True when `a` declares `Replaces` that covers `b`.
fn replaces(a: &Claim<'_>, b: &Claim<'_>) -> bool {
    let Some(field) = control_field(a.control, "Replaces") else {
        return false;
    };
    field.split(',').any(|item| {
        let item = item.trim();
        let (name, restriction) = match item.split_once('(') {
            Some((name, rest)) => (name.trim(), Some(rest.trim_end_matches(')').trim())),
            None => (item, None),
        };
        let name = name.split(':').next().unwrap_or_default();
        let provides = || {
            control_field(b.control, "Provides").is_some_and(|p| {
                p.split(',')
                    .any(|i| i.split_whitespace().next() == Some(name))
            })
        };
        (name == b.name || (restriction.is_none() && provides()))
            && restriction.is_none_or(|r| version_matches(b.version, r))
    })
}

/// True when `version` satisfies a relation such as `<< 1.2`.
fn version_matches(version: &apt_ostree_model::Version, relation: &str) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let (operator, wanted) = relation.split_at(
        relation
            .find(|c: char| !"<>=".contains(c))
            .unwrap_or(relation.len()),
    );
    let Ok(wanted) = wanted.trim().parse::<apt_ostree_model::Version>() else {
        return false;
    };
    let order = version.dpkg_cmp(&wanted);
    match operator {
        "<<" => order == Less,
        "<=" | "<" => order != Greater,
        "=" => order == Equal,
        ">=" | ">" => order != Less,
        ">>" => order == Greater,
        _ => false,
    }
}

/// Maps a path below a merged top-level directory into `usr`.
pub(super) fn merged(path: &str) -> String {
    let top = path.split('/').next().unwrap_or_default();
    if MERGED.contains(&top) {
        format!("usr/{path}")
    } else {
        path.to_owned()
    }
}

/// The merged-/usr links that the tree needs and base-files did not ship (before Debian 13).
pub fn missing_merged_links(tree: &Tree, arch: &str) -> Vec<&'static str> {
    let wanted: &[&str] = if arch == "amd64" {
        &MERGED[..6]
    } else {
        &MERGED[..3]
    };
    let shipped = tree.contains("bin");
    let lib64 = MERGED[4];
    MERGED
        .iter()
        .copied()
        .filter(|name| {
            let needed = wanted.contains(name) || (*name == lib64 && tree.contains("usr/lib64"));
            !shipped && needed && !tree.contains(name)
        })
        .collect()
}
