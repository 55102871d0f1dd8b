//! Empties /var: what a machine needs there is made at boot by tmpfiles.d.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use apt_ostree_model::tree::{join, split};
use apt_ostree_model::{Dir, Meta, Node};
use fn_error_context::context;

use super::accounts::Accounts;
use super::tmpfiles;
use super::var_rules::{is_dropped, is_login_record, is_service_data, unit_of};
use super::work::Work;

pub(super) const FACTORY: &str = "usr/share/factory/var";
/// Sorts before the fragments of packages, whose lines for the same path then don't count.
pub(super) const EARLY: &str = "usr/lib/tmpfiles.d/00-apt-ostree.conf";
pub(super) const AUTOVAR: &str = "usr/lib/tmpfiles.d/apt-ostree-autovar.conf";

/// Gives everything in /var its place: dropped, made by a tmpfiles.d line, or copied from the
/// factory tree.
#[context("emptying /var")]
pub(super) fn move_out(work: &mut Work<'_>) -> Result<()> {
    work.tree.ensure_dir("var", &Meta::root(0o755))?;
    drop_content(work);
    let units = content_units(work);
    let mut lines: BTreeMap<String, String> = BTreeMap::new();
    for unit in &units {
        move_to_factory(work, unit)?;
        let path = format!("/var/{unit}");
        let line = tmpfiles::copy_line(&path, &format!("/{FACTORY}/{unit}"));
        lines.insert(path, line);
    }
    add_node_lines(work, &mut lines)?;
    work.tree.remove("var");
    work.tree
        .insert("var", Node::Dir(Dir::new(Meta::root(0o755))))?;
    write_lines(work, &lines)
}

/// Removes logs, caches and so on. Directories stay, but below `cache` only the first level and
/// what packages ship: the rest is made by the programs themselves.
fn drop_content(work: &mut Work<'_>) {
    let mut dropped = Vec::new();
    let mut cache_dirs = Vec::new();
    for (path, node) in work.tree.walk_from("var") {
        let Some(inner) = path.strip_prefix("var/") else {
            continue;
        };
        match node {
            Node::File(file) if is_login_record(inner) && file.size == 0 => {}
            Node::File(_) if is_dropped(inner) || is_login_record(inner) => dropped.push(path),
            Node::Symlink(_) if is_dropped(inner) && !keeps_link(inner) => dropped.push(path),
            Node::Dir(_) if is_transient_dir(inner) => cache_dirs.push(path),
            _ => {}
        }
    }
    for path in dropped {
        work.drop_path(&path);
    }
    for path in cache_dirs.iter().rev() {
        let empty = work.tree.dir(path).is_some_and(|d| d.entries.is_empty());
        if empty && !work.owned().contains(path) {
            work.tree.remove(path);
        }
    }
}

/// Links that are no content: into the documentation, and to the one machine id.
fn keeps_link(path: &str) -> bool {
    path.starts_with("log/") || path == "lib/dbus/machine-id"
}

/// Directories below a cache, or in a place that is emptied anyway.
fn is_transient_dir(path: &str) -> bool {
    let depth = path.split('/').count();
    (path.starts_with("cache/") && depth > 2)
        || ((path.starts_with("tmp/") || path.starts_with("backups/")) && depth > 1)
        || (path.starts_with("lib/apt/lists/") && depth > 3)
}

/// Units of state with content: at least one file that has bytes.
fn content_units(work: &mut Work<'_>) -> BTreeSet<String> {
    let mut units: BTreeMap<String, bool> = BTreeMap::new();
    let paths: Vec<String> = work
        .tree
        .walk_from("var")
        .filter(|(_, node)| node.as_file().is_some_and(|f| f.size > 0))
        .map(|(path, _)| path)
        .collect();
    for path in paths {
        let known = is_known(work, &path);
        if let Some(inner) = path.strip_prefix("var/") {
            let unit = units.entry(unit_of(inner).to_owned()).or_insert(true);
            *unit &= known;
        }
    }
    for (unit, known) in &units {
        if is_service_data(unit) {
            work.warn(format!(
                "'/var/{unit}' holds data that a service made on the build machine; each machine starts with a copy of it"
            ));
        } else if !known {
            work.warn(format!(
                "'/var/{unit}' holds files of no package; each machine starts with a copy of them"
            ));
        }
    }
    units.into_keys().collect()
}

/// True for content of packages, and for what was below `/root` and so on.
fn is_known(work: &mut Work<'_>, path: &str) -> bool {
    let original = [
        ("var/roothome/", "root/"),
        ("var/home/", "home/"),
        ("var/srv/", "srv/"),
        ("var/mnt/", "mnt/"),
        ("var/opt/", "opt/"),
        ("var/usrlocal/", "usr/local/"),
    ]
    .iter()
    .find_map(|(place, dir)| path.strip_prefix(place).map(|rest| format!("{dir}{rest}")));
    let skeleton = matches!(path, "var/roothome/.bashrc" | "var/roothome/.profile");
    skeleton || work.owned().contains(original.as_deref().unwrap_or(path))
}

fn move_to_factory(work: &mut Work<'_>, unit: &str) -> Result<()> {
    let from = join("var", unit);
    let to = join(FACTORY, unit);
    copy_parents(work, unit)?;
    if work.tree.contains(&to) {
        work.warn(format!("'/{to}' exists already and is replaced"));
        work.tree.remove(&to);
    }
    work.tree.rename(&from, &to)?;
    work.report.factory.push(format!("/{from}"));
    Ok(())
}

/// Makes the parents of a unit in the factory tree; they are never copied themselves.
fn copy_parents(work: &mut Work<'_>, unit: &str) -> Result<()> {
    let parent = join(FACTORY, split(unit).0);
    work.tree
        .ensure_dir(parent.trim_end_matches('/'), &Meta::root(0o755))?;
    Ok(())
}

/// Adds a line for each directory, link and empty file that is left and that no package's own
/// tmpfiles.d makes.
fn add_node_lines(work: &mut Work<'_>, lines: &mut BTreeMap<String, String>) -> Result<()> {
    let accounts = Accounts::load(&work.tree, work.content)?;
    let given: BTreeSet<String> = tmpfiles::lines_of(&work.tree, work.content)?
        .into_iter()
        .filter(tmpfiles::Line::creates)
        .map(|line| line.path)
        .collect();
    for (path, node) in work.tree.walk_from("var") {
        let path = format!("/{path}");
        if given.contains(&path) || work.early_lines.contains_key(&path) {
            continue;
        }
        let line = match node {
            Node::Dir(dir) => {
                let (user, group) = owner_names(&accounts, &dir.meta);
                tmpfiles::dir_line(&path, dir.meta.mode, &user, &group)
            }
            Node::File(file) => {
                let (user, group) = owner_names(&accounts, &file.meta);
                tmpfiles::file_line(&path, file.meta.mode, &user, &group)
            }
            Node::Symlink(link) => tmpfiles::link_line(&path, &link.target, false),
        };
        lines.insert(path, line);
    }
    Ok(())
}

fn owner_names(accounts: &Accounts, meta: &Meta) -> (String, String) {
    (accounts.user_name(meta.uid), accounts.group_name(meta.gid))
}

fn write_lines(work: &mut Work<'_>, lines: &BTreeMap<String, String>) -> Result<()> {
    let early: Vec<&str> = work.early_lines.values().map(String::as_str).collect();
    let early = format!(
        "# Links of the image; first, so that they win.\n{}\n",
        early.join("\n")
    );
    let auto: Vec<&str> = lines.values().map(String::as_str).collect();
    let auto = format!("# What packages have in /var.\n{}\n", auto.join("\n"));
    if !work.early_lines.is_empty() {
        work.write(EARLY, 0o644, early.as_bytes())?;
    }
    if !lines.is_empty() {
        work.write(AUTOVAR, 0o644, auto.as_bytes())?;
    }
    Ok(())
}
