//! Keeps the first boot from enabling units that the compose left disabled.
//!
//! With machine-id `uninitialized` the first boot enables every unit that no preset disables, and
//! Debian disables few. A preset names the installable units that are not enabled now.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use apt_ostree_model::{ContentReader, Node, Tree};

use super::units::{Install, split_unit, unit_text};
use super::work::Work;

/// After presets of an image's author, before those of packages.
pub(super) const PRESET: &str = "usr/lib/systemd/system-preset/80-apt-ostree.preset";

pub(super) fn freeze(work: &mut Work<'_>) -> Result<()> {
    let disabled = disabled_units(&work.tree, work.content)?;
    if disabled.is_empty() {
        return Ok(());
    }
    let lines: String = disabled
        .iter()
        .map(|unit| format!("disable {unit}\n"))
        .collect();
    let text =
        format!("# Not enabled in this image; the first boot is not to enable them.\n{lines}");
    work.write(PRESET, 0o644, text.as_bytes())
}

/// Units with an `[Install]` section that nothing enables.
fn disabled_units(
    tree: &Tree,
    content: &(impl ContentReader + ?Sized),
) -> Result<BTreeSet<String>> {
    let enabled = enabled_units(tree);
    let mut disabled = linked_units(tree);
    disabled.retain(|name| !enabled.contains(name));
    for (name, path) in unit_files(tree) {
        let Some((stem, instance, kind)) = split_unit(&name) else {
            continue;
        };
        let template = format!("{stem}@.{kind}");
        if enabled.contains(&name) || (instance.is_some() && enabled.contains(&template)) {
            continue;
        }
        let text = unit_text(tree, content, &path)?;
        let install = Install::parse(&text.unwrap_or_default());
        if !install.is_empty() && !only_also_enabled(&install, &enabled) {
            disabled.insert(name);
        }
    }
    Ok(disabled)
}

/// True for a unit that only names others in `Also=`, one of which is enabled.
fn only_also_enabled(install: &Install, enabled: &BTreeSet<String>) -> bool {
    let alone = Install {
        also: Vec::new(),
        ..install.clone()
    };
    alone.is_empty() && install.also.iter().any(|unit| enabled.contains(unit))
}

/// Regular unit files by name; one in /etc hides one in /usr.
fn unit_files(tree: &Tree) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for dir in ["usr/lib/systemd/system", "etc/systemd/system"] {
        for (name, node) in tree.dir(dir).into_iter().flat_map(|d| &d.entries) {
            if matches!(node, Node::File(_)) {
                files.insert(name.clone(), format!("{dir}/{name}"));
            }
        }
    }
    files
}

/// Units whose file is a link to elsewhere in /usr (those of dracut): a preset would link them
/// into /etc, whether they have an `[Install]` section or not.
fn linked_units(tree: &Tree) -> BTreeSet<String> {
    const DIR: &str = "usr/lib/systemd/system";
    let entries = tree.dir(DIR).into_iter().flat_map(|d| &d.entries);
    let links = entries.filter(|(name, node)| {
        let is_unit = node.as_symlink().is_some() && split_unit(name).is_some();
        is_unit
            && tree.resolve(&format!("{DIR}/{name}")).is_some_and(|real| {
                tree.file(&real).is_some() && !real.contains("/systemd/system/")
            })
    });
    links.map(|(name, _)| name.clone()).collect()
}

/// Names and templates of units that links in /etc enable.
fn enabled_units(tree: &Tree) -> BTreeSet<String> {
    let mut enabled = BTreeSet::new();
    for (path, node) in tree.walk_from("etc/systemd/system") {
        let Node::Symlink(link) = node else {
            continue;
        };
        let file = link.target.rsplit('/').next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        enabled.insert(file.to_owned());
        enabled.insert(name.to_owned());
    }
    enabled
}
