//! The kernel and its initramfs.

use std::collections::BTreeMap;

use anyhow::Result;
use apt_ostree_model::tree::join;
use apt_ostree_model::{ErrorKind, File, Kinded, Node, Tree};

use super::work::Work;

pub(super) const MODULES: &str = "usr/lib/modules";

/// Prefixes of kernel images in `/boot`, as Debian's architectures name them.
const IMAGE_PREFIXES: [&str; 2] = ["vmlinuz-", "vmlinux-"];

/// The kernel of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Its release, such as `6.12.43+deb13-amd64`.
    pub version: String,
    /// Where its image is, relative to the root.
    pub path: String,
}

/// The only kernel of the tree, in `/boot` or in its modules directory; `None` when there is none.
///
/// # Errors
/// When there are several.
pub fn find_kernel(tree: &Tree) -> Result<Option<Kernel>> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for (name, node) in tree.dir("boot").into_iter().flat_map(|d| &d.entries) {
        let version = IMAGE_PREFIXES.iter().find_map(|p| name.strip_prefix(p));
        if let (Some(version), Node::File(_)) = (version, node) {
            found.insert(version.to_owned(), join("boot", name));
        }
    }
    for name in tree.dir(MODULES).into_iter().flat_map(|d| d.entries.keys()) {
        let path = format!("{MODULES}/{name}/vmlinuz");
        if tree.file(&path).is_some() {
            found.insert(name.clone(), path);
        }
    }
    if found.len() > 1 {
        let versions: Vec<String> = found.keys().map(|v| format!("'{v}'")).collect();
        let message = format!("several kernels: {}", versions.join(", "));
        return Err(Kinded::new(ErrorKind::InvalidInput, message)
            .with_hint("leave one linux-image package in the treefile")
            .into());
    }
    Ok(found
        .pop_first()
        .map(|(version, path)| Kernel { version, path }))
}

/// Moves the kernel into its modules directory, puts the initramfs beside it and empties `/boot`.
pub(super) fn place_kernel(work: &mut Work<'_>, initramfs: Option<File>) -> Result<()> {
    let kernel = find_kernel(&work.tree)?;
    match (kernel, work.options().container) {
        (Some(kernel), true) => {
            let message = format!(
                "the tree is a container but has the kernel '{}'",
                kernel.version
            );
            return Err(Kinded::new(ErrorKind::InvalidInput, message)
                .with_hint("drop the package that needs linux-image, or 'container: true'")
                .into());
        }
        (None, false) => work.warn(
            "the tree has no kernel and can't boot on a machine; add a linux-image package, or set 'container: true'",
        ),
        (None, true) => {}
        (Some(kernel), false) => move_kernel(work, &kernel, initramfs)?,
    }
    for name in work.names("boot") {
        work.drop_path(&join("boot", &name));
    }
    Ok(())
}

fn move_kernel(work: &mut Work<'_>, kernel: &Kernel, initramfs: Option<File>) -> Result<()> {
    let dir = join(MODULES, &kernel.version);
    if work.tree.dir(&dir).is_none() {
        let message = format!("kernel '{}' has no '/{dir}'", kernel.version);
        return Err(Kinded::new(ErrorKind::InvalidInput, message).into());
    }
    let image = join(&dir, "vmlinuz");
    if kernel.path == image {
        let in_boot = format!("boot/vmlinuz-{}", kernel.version);
        work.drop_path(&in_boot);
    } else {
        work.move_path(&kernel.path, &image)?;
    }
    for name in ["System.map", "config"] {
        let from = format!("boot/{name}-{}", kernel.version);
        let to = join(&dir, name);
        if work.tree.file(&from).is_some() && !work.tree.contains(&to) {
            work.move_path(&from, &to)?;
        }
    }
    if let Some(file) = initramfs {
        work.put(&join(&dir, "initramfs.img"), Node::File(file))?;
    }
    Ok(())
}
