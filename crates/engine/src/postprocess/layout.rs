//! Top-level directories and links, /opt, /usr/local and the move of /etc.

use anyhow::Result;
use apt_ostree_model::tree::join;
use apt_ostree_model::{Dir, ErrorKind, Kinded, Meta, Node};
use apt_ostree_treefile::spec::OptUsrLocal;

use super::ownership::MERGED;
use super::tmpfiles;
use super::work::Work;

/// Directories that become links into /var (or /run), each with link text, place and mode of
/// the place.
pub(super) const VAR_LINKS: [(&str, &str, &str, u32); 4] = [
    ("home", "var/home", "var/home", 0o755),
    ("root", "var/roothome", "var/roothome", 0o700),
    ("srv", "var/srv", "var/srv", 0o755),
    ("mnt", "var/mnt", "var/mnt", 0o755),
];

/// Directories that must be there and empty, with their mode.
const EMPTY_DIRS: [(&str, u32); 6] = [
    ("boot", 0o755),
    ("dev", 0o755),
    ("proc", 0o755),
    ("run", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
];

/// Refuses a tree whose `/bin`, `/lib` and so on are directories.
pub(super) fn check_merged_usr(work: &Work<'_>) -> Result<()> {
    if work.tree.dir("usr").is_none() {
        return Err(
            Kinded::new(ErrorKind::InvalidInput, "the tree has no '/usr' directory").into(),
        );
    }
    let unmerged: Vec<String> = MERGED
        .iter()
        .filter(|name| match work.tree.get(name) {
            None => false,
            Some(Node::Symlink(link)) => {
                link.target.trim_start_matches('/') != format!("usr/{name}")
            }
            Some(_) => true,
        })
        .map(|name| format!("'/{name}'"))
        .collect();
    if unmerged.is_empty() {
        return Ok(());
    }
    let message = format!(
        "no merged /usr: {} is no link into /usr",
        unmerged.join(", ")
    );
    let hint = "install 'usr-is-merged' or use Debian 12 or newer";
    Err(Kinded::new(ErrorKind::InvalidInput, message)
        .with_hint(hint)
        .into())
}

/// Moves the content of `/home`, `/root`, ... into `/var` and leaves links; its files and
/// directories then follow the rules of `/var`.
pub(super) fn link_toplevel(work: &mut Work<'_>) -> Result<()> {
    for (path, target, place, mode) in VAR_LINKS {
        link_into_var(work, path, target, &(place, mode))?;
    }
    match work.options().opt_usrlocal {
        OptUsrLocal::Var => {
            relocate_opt(work)?;
            link_into_var(work, "opt", "var/opt", &("var/opt", 0o755))?;
            link_into_var(
                work,
                "usr/local",
                "../var/usrlocal",
                &("var/usrlocal", 0o755),
            )?;
        }
        OptUsrLocal::Root => keep_opt_usrlocal(work)?,
        OptUsrLocal::StateOverlay => {
            keep_opt_usrlocal(work)?;
            enable_state_overlays(work)?;
        }
    }
    link_media(work)?;
    drop_unknown_links(work);
    Ok(())
}

fn link_into_var(work: &mut Work<'_>, path: &str, target: &str, place: &(&str, u32)) -> Result<()> {
    let (place, mode) = *place;
    let taken = work.tree.remove(path);
    let dir = match taken {
        Some(Node::Dir(dir)) => dir,
        Some(Node::Symlink(link)) if link.target.trim_start_matches('/') == target => {
            Dir::new(Meta::root(mode))
        }
        Some(_) => {
            let message = format!("'/{path}' is neither a directory nor a link to '{target}'");
            return Err(Kinded::new(ErrorKind::InvalidInput, message).into());
        }
        None => Dir::new(Meta::root(mode)),
    };
    merge_dir(work, dir, place)?;
    // systemd's own lines want directories in these places and would log errors at each boot.
    let line = tmpfiles::link_line(&format!("/{path}"), target, false);
    work.early_lines.insert(format!("/{path}"), line);
    work.symlink(path, target)
}

/// Puts the entries of `dir` below `place`; what is there already stays.
fn merge_dir(work: &mut Work<'_>, dir: Dir, place: &str) -> Result<()> {
    if !work.tree.contains(place) {
        work.tree
            .ensure_dir(super::work::parent(place), &Meta::root(0o755))?;
        work.tree.insert(place, Node::Dir(dir))?;
        return Ok(());
    }
    for (name, node) in dir.entries {
        let path = join(place, &name);
        match node {
            Node::Dir(child) if work.tree.dir(&path).is_some() => merge_dir(work, child, &path)?,
            node if !work.tree.contains(&path) => {
                work.tree.insert(&path, node)?;
            }
            _ => work.warn(format!(
                "'/{path}' exists already, the other one is left out"
            )),
        }
    }
    Ok(())
}

/// Directories in `/opt` stay in the image as `usr/lib/opt/NAME`, with a link in `/var/opt`.
fn relocate_opt(work: &mut Work<'_>) -> Result<()> {
    for name in work.names("opt") {
        let from = join("opt", &name);
        if work
            .tree
            .dir(&from)
            .is_none_or(|dir| dir.entries.is_empty())
        {
            continue;
        }
        let to = join("usr/lib/opt", &name);
        work.move_path(&from, &to)?;
        work.symlink(&join("var/opt", &name), &format!("../../{to}"))?;
    }
    Ok(())
}

fn keep_opt_usrlocal(work: &mut Work<'_>) -> Result<()> {
    for path in ["opt", "usr/local"] {
        work.tree.ensure_dir(path, &Meta::root(0o755))?;
    }
    Ok(())
}

fn enable_state_overlays(work: &mut Work<'_>) -> Result<()> {
    const TEMPLATE: &str = "usr/lib/systemd/system/ostree-state-overlay@.service";
    if !work.tree.contains(TEMPLATE) {
        let message = "opt-usrlocal 'state-overlay' needs 'ostree-state-overlay@.service', which the tree's OSTree lacks";
        return Err(Kinded::new(ErrorKind::InvalidInput, message)
            .with_hint("install a newer 'ostree-boot' or use 'opt-usrlocal: var'")
            .into());
    }
    for instance in ["opt", "usr-local"] {
        let link = format!(
            "usr/lib/systemd/system/local-fs.target.requires/ostree-state-overlay@{instance}.service"
        );
        work.symlink(&link, "../ostree-state-overlay@.service")?;
    }
    Ok(())
}

fn link_media(work: &mut Work<'_>) -> Result<()> {
    if let Some(Node::Dir(dir)) = work.tree.remove("media") {
        for name in dir.entries.keys() {
            work.report.dropped.push(format!("/media/{name}"));
        }
    }
    work.symlink("media", "run/media")?;
    let line = tmpfiles::dir_line("/run/media", 0o755, "root", "root");
    work.early_lines.insert("/run/media".to_owned(), line);
    Ok(())
}

/// Links that kernel packages leave in the root.
fn drop_unknown_links(work: &mut Work<'_>) {
    for name in ["vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old"] {
        if matches!(work.tree.get(name), Some(Node::Symlink(_))) {
            work.drop_path(name);
        }
    }
}

/// `/sysroot`, `/ostree` and the directories that hold something only on a running system.
pub(super) fn make_base_dirs(work: &mut Work<'_>) -> Result<()> {
    for (path, mode) in EMPTY_DIRS {
        if path == "tmp" && !work.options().tmp_is_dir {
            continue;
        }
        let meta = match work.tree.remove(path) {
            Some(Node::Dir(dir)) => {
                let entries = dir.entries.keys().map(|name| format!("/{path}/{name}"));
                work.report.dropped.extend(entries);
                Meta::root(if path == "tmp" { mode } else { dir.meta.mode })
            }
            _ => Meta::root(mode),
        };
        work.tree.insert(path, Node::Dir(Dir::new(meta)))?;
    }
    if !work.options().tmp_is_dir {
        work.tree.remove("tmp");
        work.symlink("tmp", "sysroot/tmp")?;
    }
    let sysroot = Node::Dir(Dir::new(Meta::root(0o755)));
    if work
        .tree
        .insert("sysroot", sysroot)?
        .is_some_and(|n| n.as_dir().is_none_or(|d| !d.entries.is_empty()))
    {
        work.warn("'/sysroot' had content, it was dropped");
    }
    work.symlink("ostree", "sysroot/ostree")?;
    warn_about_extra_dirs(work);
    Ok(())
}

fn warn_about_extra_dirs(work: &mut Work<'_>) {
    const KNOWN: [&str; 17] = [
        "boot", "dev", "etc", "home", "media", "mnt", "opt", "ostree", "proc", "root", "run",
        "srv", "sys", "sysroot", "tmp", "usr", "var",
    ];
    for name in work.names("") {
        if !KNOWN.contains(&name.as_str()) && !MERGED.contains(&name.as_str()) {
            work.warn(format!(
                "'/{name}' is no standard directory; it is read-only on a booted machine"
            ));
        }
    }
}

/// `/etc` becomes `/usr/etc`.
pub(super) fn move_etc(work: &mut Work<'_>) -> Result<()> {
    if work.tree.contains("usr/etc") {
        return Err(Kinded::new(ErrorKind::InvalidInput, "the tree has '/usr/etc' already").into());
    }
    work.tree.ensure_dir("etc", &Meta::root(0o755))?;
    work.tree.rename("etc", "usr/etc")?;
    Ok(())
}
