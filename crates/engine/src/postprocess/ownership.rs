//! Which package ships a path.

use std::collections::HashMap;

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

/// Paths that packages ship, by merged-/usr path.
#[derive(Debug)]
pub(crate) struct Owned<'a> {
    paths: HashMap<String, Vec<(&'a ImportedPackage, &'a Node)>>,
}

impl<'a> Owned<'a> {
    /// Indexes the trees of all packages.
    pub(crate) fn new(packages: &'a [ImportedPackage]) -> Self {
        let mut paths: HashMap<String, Vec<_>> = HashMap::new();
        for package in packages {
            for (path, node) in package.tree.walk() {
                paths
                    .entry(merged_path(&path))
                    .or_default()
                    .push((package, node));
            }
        }
        Self { paths }
    }

    /// True when a package ships `path`.
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.paths.contains_key(path)
    }

    /// The packages that ship `path`, each with what it ships there.
    pub(crate) fn owners(&self, path: &str) -> &[(&'a ImportedPackage, &'a Node)] {
        self.paths.get(path).map_or(&[], Vec::as_slice)
    }
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
