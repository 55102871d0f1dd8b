//! The treefile's changes of files: filters, files to remove and to add.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use apt_ostree_model::tree::{join, split};
use apt_ostree_model::{Dir, ErrorKind, Kinded, Meta, Node, PackageName};
use regex::RegexSet;

use super::AddedKind;
use super::ownership::merged_path;
use super::work::Work;

/// Documentation apart from `/usr/share/doc`, which keeps its copyright files.
const DOCUMENTATION: [&str; 8] = [
    "usr/share/man",
    "usr/share/info",
    "usr/share/doc-base",
    "usr/share/gtk-doc",
    "usr/share/help",
    "usr/share/lintian",
    "usr/share/linda",
    "usr/share/groff/examples",
];

const DPKG_CONFIG: &str = "etc/dpkg/dpkg.cfg.d/apt-ostree-documentation";

/// Drops documentation but keeps copyright files, and tells dpkg to do the same from now on.
pub(super) fn filter_documentation(work: &mut Work<'_>) -> Result<()> {
    if work.options().documentation {
        return Ok(());
    }
    for path in DOCUMENTATION {
        for name in work.names(path) {
            work.drop_path(&join(path, &name));
        }
    }
    let mut dropped = Vec::new();
    if let Some(doc) = work.tree.dir_mut("usr/share/doc") {
        keep_copyright(doc, "usr/share/doc", &mut dropped);
    }
    work.report.dropped.extend(dropped);
    if work.tree.dir("etc/dpkg").is_none() {
        return Ok(());
    }
    let mut text =
        String::from("path-exclude=/usr/share/doc/*\npath-include=/usr/share/doc/*/copyright\n");
    for path in DOCUMENTATION {
        text.push_str(&format!("path-exclude=/{path}/*\n"));
    }
    work.write(DPKG_CONFIG, 0o644, text.as_bytes())
}

/// Removes all but copyright files and links to directories of other packages.
fn keep_copyright(dir: &mut Dir, path: &str, dropped: &mut Vec<String>) {
    let at_top = path == "usr/share/doc";
    dir.entries.retain(|name, node| {
        let path = join(path, name);
        let keep = match node {
            Node::Dir(child) => {
                keep_copyright(child, &path, dropped);
                !child.entries.is_empty() || at_top
            }
            Node::Symlink(_) => at_top || name == "copyright",
            Node::File(_) => name == "copyright",
        };
        if !keep && node.as_dir().is_none() {
            dropped.push(format!("/{path}"));
        }
        keep
    });
}

/// Drops translations of languages that the treefile does not list.
pub(super) fn filter_locales(work: &mut Work<'_>) -> Result<()> {
    let Some(languages) = &work.options().install_langs else {
        return Ok(());
    };
    for dir in [
        "usr/share/locale",
        "usr/share/locale-langpack",
        "usr/share/help",
    ] {
        drop_languages(work, dir, languages);
    }
    for name in work.names("usr/share/man") {
        let path = join("usr/share/man", &name);
        let is_section = name.starts_with("man");
        if !is_section && work.tree.dir(&path).is_some() && !keeps_language(languages, &name) {
            work.drop_path(&path);
        }
    }
    Ok(())
}

fn drop_languages(work: &mut Work<'_>, dir: &str, languages: &[String]) {
    for name in work.names(dir) {
        let path = join(dir, &name);
        let always = matches!(name.as_str(), "C" | "POSIX" | "l10n");
        if !always && work.tree.dir(&path).is_some() && !keeps_language(languages, &name) {
            work.drop_path(&path);
        }
    }
}

/// True when `name` is a wanted locale, one of a wanted language, or the plain language of a
/// wanted locale.
fn keeps_language(languages: &[String], name: &str) -> bool {
    let base = |text: &str| {
        text.split(['_', '@', '.'])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    languages.iter().any(|wanted| {
        let plain = wanted.split('.').next().unwrap_or_default();
        name == plain || name == base(wanted) || base(name) == *wanted
    })
}

/// Clears the write bits of executables in /usr.
pub(super) fn readonly_executables(work: &mut Work<'_>) -> Result<()> {
    if !work.options().readonly_executables {
        return Ok(());
    }
    let writable: Vec<String> = work
        .tree
        .walk_from("usr")
        .filter(|(_, node)| {
            let mode = node.as_file().map_or(0, |file| file.meta.mode);
            mode & 0o111 != 0 && mode & 0o222 != 0
        })
        .map(|(path, _)| path)
        .collect();
    for path in writable {
        let Some(Node::File(file)) = work.tree.get_mut(&path) else {
            continue;
        };
        let meta = Meta {
            mode: file.meta.mode & !0o222,
            ..file.meta.clone()
        };
        *file = work
            .content
            .change_meta(file, &meta)
            .with_context(|| format!("changing the mode of '/{path}'"))?;
    }
    Ok(())
}

/// Removes files and directories by path.
pub(super) fn remove_files(work: &mut Work<'_>) -> Result<()> {
    for path in &work.options().remove_files {
        let path = work.real_path(path.trim_matches('/'));
        if work.drop_path(&path).is_none() {
            work.warn(format!("'remove-files': '/{path}' is not in the tree"));
        }
    }
    Ok(())
}

/// Adds the files of the treefile, owned by root.
pub(super) fn add_files(work: &mut Work<'_>) -> Result<()> {
    for added in &work.options().add_files {
        let path = work.real_path(&added.path);
        match &added.kind {
            AddedKind::Symlink(target) => work.symlink(&path, target),
            AddedKind::File { data, executable } => {
                work.write(&path, if *executable { 0o755 } else { 0o644 }, data)
            }
        }
        .with_context(|| format!("adding '/{}'", added.path))?;
    }
    Ok(())
}

/// Removes the files of a package whose absolute path fits one of the regular expressions.
pub(super) fn remove_from_packages(work: &mut Work<'_>) -> Result<()> {
    for (name, patterns) in &work.options().remove_from_packages {
        let set = RegexSet::new(patterns).map_err(|error| {
            let message = format!("'remove-from-packages' of '{name}': {error}");
            Kinded::new(ErrorKind::InvalidInput, message)
        })?;
        let paths = package_paths(work, name)?;
        let matching: BTreeSet<&String> = paths.iter().filter(|p| set.is_match(p)).collect();
        for path in matching.into_iter().rev() {
            remove_of_package(work, path);
        }
    }
    Ok(())
}

fn package_paths(work: &Work<'_>, name: &PackageName) -> Result<Vec<String>> {
    let packages = work.input.packages.iter().filter(|p| p.name == *name);
    let lists: Vec<&Vec<String>> = packages.map(|p| &p.list).collect();
    if lists.is_empty() {
        let message = format!("'remove-from-packages': package '{name}' is not installed");
        return Err(Kinded::new(ErrorKind::InvalidInput, message).into());
    }
    Ok(lists.into_iter().flatten().cloned().collect())
}

/// Removes a file, or a directory that is empty by now.
fn remove_of_package(work: &mut Work<'_>, listed: &str) {
    let path = work.real_path(&merged_path(listed));
    if split(&path).1.is_empty() || path == "." || path.ends_with("/.") {
        return;
    }
    if work
        .tree
        .dir(&path)
        .is_none_or(|dir| dir.entries.is_empty())
    {
        work.drop_path(&path);
    }
}

#[cfg(test)]
mod tests {
    use super::keeps_language;

    #[test]
    fn languages_keep_their_locales_and_the_other_way_round() {
        let wanted = ["de".to_owned(), "pt_BR.UTF-8".to_owned()];
        for keep in ["de", "de_AT", "de@hebrew", "pt_BR", "pt"] {
            assert!(keeps_language(&wanted, keep), "{keep}");
        }
        for drop in ["fr", "pt_PT", "den", "d"] {
            assert!(!keeps_language(&wanted, drop), "{drop}");
        }
    }
}
