//! Which package ships a path.

use std::collections::HashSet;

use apt_ostree_model::{ImportedPackage, Node, Tree};

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

/// A program that a build puts there, unless a package ships it.
pub(crate) const POLICY: &str = "usr/sbin/policy-rc.d";

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

    /// Adds the paths of one dpkg file list.
    pub(crate) fn add_list(&mut self, list: &str) {
        let paths = list.lines().map(merged_path);
        let in_state_dir = |path: &String| {
            let mut rests = STATE_DIRS.iter().filter_map(|dir| path.strip_prefix(dir));
            path == POLICY || rests.any(|rest| rest.starts_with('/'))
        };
        self.paths.extend(paths.filter(in_state_dir));
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

/// Where a package's file is in a finished tree or its container form.
pub(crate) fn real_path_of(tree: &Tree, path: &str) -> String {
    let path = merged_path(path);
    if tree.contains(&path) {
        return path;
    }
    let mut places = Vec::new();
    for (from, to) in MOVED {
        if let Some(rest) = path.strip_prefix(from) {
            places.push(format!("{to}{rest}"));
        }
    }
    if let Some(name) = path.strip_prefix("boot/")
        && let Some((kind, version)) = name.split_once('-')
    {
        places.push(format!("usr/lib/modules/{version}/{kind}"));
    }
    let place = places.into_iter().find(|place| tree.contains(place));
    place.unwrap_or(path)
}

/// Prefixes of package paths and where postprocessing may have put them.
const MOVED: [(&str, &str); 9] = [
    ("etc/", "usr/etc/"),
    ("opt/", "usr/lib/opt/"),
    ("var/", "usr/share/factory/var/"),
    ("root/", "usr/share/factory/var/roothome/"),
    ("home/", "usr/share/factory/var/home/"),
    ("srv/", "usr/share/factory/var/srv/"),
    ("usr/local/", "usr/share/factory/var/usrlocal/"),
    ("var/lib/", "usr/lib/sysimage/"),
    ("var/cache/", "usr/lib/sysimage/"),
];

#[cfg(test)]
mod tests {
    use super::{merged_path, real_path_of};
    use crate::postprocess::testing::Sample;

    #[test]
    fn package_files_are_found_where_postprocessing_put_them() {
        let mut sample = Sample::bootable();
        for path in [
            "usr/bin/tool",
            "etc/tool.conf",
            "opt/vendor/x",
            "root/.profile",
            "var/lib/ghostscript/x",
        ] {
            sample.file(path, "x");
        }
        let tree = sample.finish().unwrap().tree;
        for (path, place) in [
            ("bin/tool", "usr/bin/tool"),
            ("etc/tool.conf", "usr/etc/tool.conf"),
            ("opt/vendor/x", "usr/lib/opt/vendor/x"),
            ("root/.profile", "usr/share/factory/var/roothome/.profile"),
            ("var/lib/ghostscript/x", "usr/lib/sysimage/ghostscript/x"),
            (
                "boot/vmlinuz-6.12-amd64",
                "usr/lib/modules/6.12-amd64/vmlinuz",
            ),
            ("usr/none", "usr/none"),
        ] {
            assert_eq!(real_path_of(&tree, path), place);
        }
    }

    #[test]
    fn merged_paths_are_below_usr() {
        assert_eq!(merged_path("/lib/x/y"), "usr/lib/x/y");
        assert_eq!(merged_path("bin"), "usr/bin");
        assert_eq!(merged_path("etc/x"), "etc/x");
        assert_eq!(merged_path("library/x"), "library/x");
    }
}
