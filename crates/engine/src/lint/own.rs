//! Lints that `bootc container lint` lacks: boot, leftovers, secrets, links.

use anyhow::Result;
use apt_ostree_model::{Node, Tree};

use super::{Lint, LintInput, Outcome, clean, found, found_items};
use crate::postprocess::ownership::owners_of;
use crate::postprocess::secrets::find_private_keys;
use crate::postprocess::work::read_text_optional;

/// What `ostree-boot` adds to dracut.
const DRACUT_MODULE: &str = "usr/lib/dracut/modules.d/98ostree/module-setup.sh";

pub(super) static LINTS: [Lint; 9] = [
    Lint::fatal(
        "bootable",
        "a kernel, its modules and its initramfs are there (not in containers)",
        bootable,
    ),
    Lint::fatal(
        "ostree-in-initramfs",
        "the initramfs has ostree-prepare-root",
        ostree_in_initramfs,
    ),
    Lint::fatal("var-empty", "the commit has nothing in /var", var_empty),
    Lint::fatal(
        "layout",
        "/home, /root, /srv, /mnt and /media are links to where a machine keeps them",
        layout,
    ),
    Lint::fatal(
        "dpkg-leftovers",
        "no file is left from an interrupted unpacking",
        dpkg_leftovers,
    ),
    Lint::fatal(
        "secrets",
        "no private key, host key or machine id was made at build time",
        secrets,
    ),
    Lint::fatal("mount-links", "/etc/mtab is a link to /proc", mtab),
    Lint::warning(
        "dangling-links",
        "links in /usr point to something",
        dangling_links,
    ),
    Lint::warning(
        "default-target",
        "default.target exists (not in containers)",
        default_target,
    ),
];

fn kernel_dirs(tree: &Tree) -> Vec<String> {
    let dir = tree.dir("usr/lib/modules");
    let names = dir.into_iter().flat_map(|d| d.entries.keys());
    names
        .map(|name| format!("usr/lib/modules/{name}"))
        .filter(|dir| tree.file(&format!("{dir}/vmlinuz")).is_some())
        .collect()
}

fn bootable(input: &LintInput<'_>) -> Outcome {
    let kernels = kernel_dirs(input.tree);
    if input.facts.container {
        return found_items("a container has a kernel", kernels);
    }
    let Some(dir) = kernels.first() else {
        return found("no '/usr/lib/modules/VERSION/vmlinuz'");
    };
    if input.tree.file(&format!("{dir}/modules.dep")).is_none() {
        return found(format!("no '/{dir}/modules.dep'"));
    }
    let initramfs = input.tree.file(&format!("{dir}/initramfs.img"));
    if input.facts.initramfs_paths.is_some() && initramfs.is_none_or(|file| file.size == 0) {
        return found(format!("no '/{dir}/initramfs.img'"));
    }
    clean()
}

fn ostree_in_initramfs(input: &LintInput<'_>) -> Outcome {
    let Some(paths) = input
        .facts
        .initramfs_paths
        .filter(|_| !input.facts.container)
    else {
        return clean();
    };
    let named = |name: &str| {
        paths
            .iter()
            .any(|path| path.rsplit('/').next() == Some(name))
    };
    // libostree before 2023 has no configuration, and its dracut module copies none.
    let module = read_text_optional(input.tree, input.content, DRACUT_MODULE)?;
    let has_config = module.is_none_or(|text| text.contains("prepare-root.conf"));
    if named("ostree-prepare-root") && (named("prepare-root.conf") || !has_config) {
        return clean();
    }
    found(
        "the initramfs lacks ostree-prepare-root or its configuration; is 'ostree-boot' installed?",
    )
}

fn var_empty(input: &LintInput<'_>) -> Outcome {
    let names = input
        .tree
        .dir("var")
        .into_iter()
        .flat_map(|d| d.entries.keys());
    found_items(
        "'/var' has content",
        names.map(|n| format!("/var/{n}")).collect(),
    )
}

fn layout(input: &LintInput<'_>) -> Outcome {
    const LINKS: [(&str, &str); 5] = [
        ("home", "var/home"),
        ("root", "var/roothome"),
        ("srv", "var/srv"),
        ("mnt", "var/mnt"),
        ("media", "run/media"),
    ];
    let wrong = LINKS.iter().filter(|(path, target)| {
        let link = input.tree.get(path).and_then(Node::as_symlink);
        link.is_none_or(|link| link.target != *target)
    });
    found_items(
        "no link into /var or /run",
        wrong.map(|(p, _)| format!("/{p}")).collect(),
    )
}

fn dpkg_leftovers(input: &LintInput<'_>) -> Outcome {
    let left = input.tree.walk().filter(|(path, node)| {
        let suffixes = [".dpkg-new", ".dpkg-tmp", ".dpkg-divert.tmp"];
        node.as_dir().is_none() && suffixes.iter().any(|suffix| path.ends_with(suffix))
    });
    let mut left: Vec<String> = left.map(|(path, _)| format!("/{path}")).collect();
    let updates = input.tree.dir("usr/lib/sysimage/dpkg/updates");
    let names = updates.into_iter().flat_map(|d| d.entries.keys());
    left.extend(names.map(|name| format!("/usr/lib/sysimage/dpkg/updates/{name}")));
    found_items("left from unpacking", left)
}

fn secrets(input: &LintInput<'_>) -> Outcome {
    let keys = find_private_keys(input.tree, input.content, input.facts.packages)?;
    let mut bad: Vec<String> = keys.into_iter().map(|path| format!("/{path}")).collect();
    for (path, _) in input.tree.walk_from("usr/etc/ssh") {
        if path.contains("/ssh_host_") {
            bad.push(format!("/{path}"));
        }
    }
    if let Some(id) = read_text_optional(input.tree, input.content, "usr/etc/machine-id")?
        && !matches!(id.trim(), "" | "uninitialized")
    {
        bad.push("/usr/etc/machine-id".to_owned());
    }
    found_items("made at build time", bad)
}

fn mtab(input: &LintInput<'_>) -> Outcome {
    match input.image.get("etc/mtab") {
        None => clean(),
        Some(Node::Symlink(link)) if link.target.contains("proc/") => clean(),
        Some(_) => found("'/etc/mtab' is no link to /proc"),
    }
}

/// Places that are filled on a running system only.
const RUNTIME: [&str; 6] = ["run/", "proc/", "sys/", "dev/", "tmp/", "var/"];

/// Links that packages ship may point into packages that are not installed; but not to what
/// postprocessing has moved.
fn dangling_links(input: &LintInput<'_>) -> Outcome {
    let links = input.image.walk_from("usr").filter_map(|(path, node)| {
        let link = node.as_symlink()?;
        if input.image.resolve(&path).is_some() {
            return None;
        }
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        let target = absolute(dir, &link.target);
        let moved = is_made_at_boot(input.image, &target);
        let runtime = RUNTIME.iter().any(|place| target.starts_with(place));
        let fine = !moved && (runtime || !owners_of(input.facts.packages, &path).is_empty());
        (!fine).then(|| format!("/{path} -> {}", link.target))
    });
    found_items("links to nothing", links.collect::<Vec<_>>())
}

/// A link into /var is only worth a look when tmpfiles.d makes its first directories.
fn is_made_at_boot(image: &Tree, target: &str) -> bool {
    target.starts_with("var/") && {
        let first: Vec<&str> = target.splitn(4, '/').take(3).collect();
        image
            .resolve(&first.join("/"))
            .is_some_and(|real| !real.starts_with("var/"))
    }
}

/// The target of a link in `dir` as a path relative to the root, without following links.
fn absolute(dir: &str, target: &str) -> String {
    let mut parts: Vec<&str> = if target.starts_with('/') {
        Vec::new()
    } else {
        dir.split('/').filter(|p| !p.is_empty()).collect()
    };
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn default_target(input: &LintInput<'_>) -> Outcome {
    if input.facts.container {
        return clean();
    }
    check_default_target(input.image)
}

fn check_default_target(image: &Tree) -> Result<Option<super::Found>> {
    let paths = ["etc/systemd/system", "usr/lib/systemd/system"];
    let path = paths
        .iter()
        .map(|dir| format!("{dir}/default.target"))
        .find(|path| image.contains(path));
    match path {
        Some(path) if image.resolve(&path).is_some() => clean(),
        Some(path) => found(format!("'/{path}' points to nothing")),
        None => found("there is no default.target"),
    }
}
