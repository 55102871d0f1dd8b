//! Which package ships a path.

use std::collections::HashSet;

use apt_ostree_model::{ImportedPackage, Node};

/// Top-level directories that a merged /usr turns into links.
pub(crate) const MERGED: [&str; 7] = ["bin", "sbin", "lib", "lib32", "lib64", "libo32", "libx32"];

/// The path below a merged /usr: `lib/x` is `usr/lib/x`.
pub(crate) fn merged_path(path: &str) -> String {
    let path = path.trim_start_matches('/');
    let first = path.split('/').next().unwrap_or_default();
    if MERGED.contains(&first) {
        format!("usr/{path}")
    } else {
        path.to_owned()
    }
}

/// Directories whose files scripts change, so that it matters who ships them.
const STATE_DIRS: [&str; 8] = [
    "etc",
    "home",
    "mnt",
    "opt",
    "root",
    "srv",
    "usr/local",
    "var",
];

/// Paths outside /usr that packages ship.
#[derive(Debug)]
pub(crate) struct Owned {
    paths: HashSet<String>,
}

impl Owned {
    /// Indexes the trees of all packages.
    pub(crate) fn new(packages: &[ImportedPackage]) -> Self {
        let trees = packages.iter().map(|package| &package.tree);
        let paths = trees.flat_map(|tree| STATE_DIRS.iter().flat_map(|dir| tree.walk_from(dir)));
        Self {
            paths: paths.map(|(path, _)| path).collect(),
        }
    }

    /// True when a package ships `path`, which is in `/etc`, `/var` or another place of state.
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.paths.contains(path)
    }
}

/// The packages that ship a merged-/usr path, each with what it ships there. Asks every package:
/// for a few paths only.
pub(crate) fn owners_of<'a>(
    packages: &'a [ImportedPackage],
    path: &str,
) -> Vec<(&'a ImportedPackage, &'a Node)> {
    let unmerged = path.strip_prefix("usr/").filter(|p| merged_path(p) == path);
    let shipped = |package: &'a ImportedPackage| {
        let node = package.tree.get(path);
        let node = node.or_else(|| unmerged.and_then(|path| package.tree.get(path)))?;
        Some((package, node))
    };
    packages.iter().filter_map(shipped).collect()
}

#[cfg(test)]
mod tests {
    use super::merged_path;

    #[test]
    fn merged_paths_are_below_usr() {
        assert_eq!(merged_path("/lib/x/y"), "usr/lib/x/y");
        assert_eq!(merged_path("bin"), "usr/bin");
        assert_eq!(merged_path("etc/x"), "etc/x");
        assert_eq!(merged_path("library/x"), "library/x");
    }
}
