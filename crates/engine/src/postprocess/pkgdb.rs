//! The package database and other registries of packages: from /var into the image.
//!
//! What a package's scripts note in `/var` belongs to the image, so that it is right after an
//! upgrade and there when packages are layered. It lives in `usr/lib/sysimage`; tmpfiles.d makes
//! the links that dpkg, apt and scripts go through.

use anyhow::Result;
use apt_ostree_model::tree::{join, split};
use apt_ostree_model::{Meta, Node};

use super::tmpfiles;
use super::work::Work;

pub(super) const SYSIMAGE: &str = "usr/lib/sysimage";

/// Registries: the path below `/var` and the one below `usr/lib/sysimage`.
pub(super) const REGISTRIES: [(&str, &str); 26] = [
    ("lib/dpkg", "dpkg"),
    ("lib/apt/extended_states", "apt/extended_states"),
    ("cache/debconf", "debconf"),
    ("lib/ucf", "ucf"),
    ("lib/pam", "pam"),
    ("lib/shells.state", "shells.state"),
    (
        "lib/systemd/deb-systemd-helper-enabled",
        "deb-systemd-helper-enabled",
    ),
    (
        "lib/systemd/deb-systemd-helper-masked",
        "deb-systemd-helper-masked",
    ),
    (
        "lib/systemd/deb-systemd-user-helper-enabled",
        "deb-systemd-user-helper-enabled",
    ),
    (
        "lib/systemd/deb-systemd-user-helper-masked",
        "deb-systemd-user-helper-masked",
    ),
    ("lib/sgml-base", "sgml-base"),
    ("lib/xml-core", "xml-core"),
    ("lib/ispell", "ispell"),
    ("lib/aspell", "aspell"),
    ("lib/dictionaries-common", "dictionaries-common"),
    ("cache/dictionaries-common", "dictionaries-common-cache"),
    ("lib/xfonts", "xfonts"),
    ("lib/emacsen-common", "emacsen-common"),
    ("lib/doc-base", "doc-base"),
    ("lib/python", "python"),
    ("lib/gconf", "gconf"),
    ("lib/ghc", "ghc"),
    ("lib/ghostscript", "ghostscript"),
    ("lib/texmf", "texmf"),
    ("lib/tex-common", "tex-common"),
    ("lib/dkms", "dkms"),
];

/// Parts of the registries that never ship: locks, backups, passwords. `*` stands for any text
/// in a name.
const NEVER_SHIPPED: [&str; 17] = [
    "dpkg/lock",
    "dpkg/lock-frontend",
    "dpkg/*-old",
    "dpkg/available",
    "dpkg/triggers/Lock",
    "dpkg/info/*.dpkg-new",
    "dpkg/info/*.dpkg-tmp",
    "dpkg/parts/*",
    "debconf/passwords.dat",
    "debconf/*-old",
    "debconf/tmp.*",
    "ucf/hashfile.*",
    "ucf/registry.*",
    "pam/*.pam-old",
    "dkms/mok.*",
    "dkms/dkms_dbversion.lock",
    "sgml-base/*.old",
];

/// Moves all registries that the tree has.
pub(super) fn move_registries(work: &mut Work<'_>) -> Result<()> {
    for (var_path, name) in REGISTRIES {
        let from = join("var", var_path);
        if matches!(work.tree.get(&from), None | Some(Node::Symlink(_))) {
            continue;
        }
        let to = join(SYSIMAGE, name);
        if work.tree.contains(&to) {
            work.warn(format!("'/{to}' exists already; '/{from}' is dropped"));
            work.drop_path(&from);
            continue;
        }
        work.move_path(&from, &to)?;
        link_at_boot(work, &from, &to);
    }
    for pattern in NEVER_SHIPPED {
        drop_matching(work, &join(SYSIMAGE, pattern));
    }
    sort_status(work)?;
    write_apt_config(work)
}

/// Has tmpfiles.d make `from` a relative link to `to`.
fn link_at_boot(work: &mut Work<'_>, from: &str, to: &str) {
    let up = "../".repeat(from.matches('/').count());
    let path = format!("/{from}");
    let line = tmpfiles::link_line(&path, &format!("{up}{to}"), true);
    work.early_lines.insert(path, line);
}

fn drop_matching(work: &mut Work<'_>, pattern: &str) {
    let (dir, name_pattern) = split(pattern);
    for name in work.names(dir) {
        if super::var_rules::name_matches(name_pattern, &name) {
            work.drop_path(&join(dir, &name));
        }
    }
}

/// Sorts the status file by package and architecture, as dpkg does when it writes it.
fn sort_status(work: &mut Work<'_>) -> Result<()> {
    let path = join(SYSIMAGE, "dpkg/status");
    let Some(text) = work.read_text_optional(&path)? else {
        return Ok(());
    };
    let sorted = sorted_stanzas(&text);
    if sorted != text {
        work.rewrite(&path, sorted.as_bytes())?;
    }
    Ok(())
}

fn sorted_stanzas(text: &str) -> String {
    let field = |stanza: &str, name: &str| {
        let value = stanza.lines().find_map(|line| line.strip_prefix(name));
        value.unwrap_or_default().trim().to_owned()
    };
    let mut stanzas: Vec<(String, String, &str)> = text
        .split("\n\n")
        .map(|stanza| stanza.trim_matches('\n'))
        .filter(|stanza| !stanza.is_empty())
        .map(|stanza| {
            (
                field(stanza, "Package:"),
                field(stanza, "Architecture:"),
                stanza,
            )
        })
        .collect();
    stanzas.sort();
    stanzas
        .iter()
        .map(|(_, _, stanza)| format!("{stanza}\n\n"))
        .collect()
}

/// Tells apt where its marks are, so that it works where the link in /var is missing and never
/// replaces the link by a file.
fn write_apt_config(work: &mut Work<'_>) -> Result<()> {
    if work.tree.dir("etc/apt").is_none() {
        return Ok(());
    }
    work.tree
        .ensure_dir(&join(SYSIMAGE, "apt"), &Meta::root(0o755))?;
    work.write(
        "etc/apt/apt.conf.d/00apt-ostree",
        0o644,
        b"Dir::State::extended_states \"/usr/lib/sysimage/apt/extended_states\";\n",
    )
}

#[cfg(test)]
mod tests {
    use super::sorted_stanzas;

    #[test]
    fn status_stanzas_are_sorted_by_name_and_architecture() {
        let text = "Package: b\nArchitecture: i386\nX: 1\n\nPackage: b\nArchitecture: amd64\n\n\nPackage: a\nArchitecture: all\n";
        assert_eq!(
            sorted_stanzas(text),
            "Package: a\nArchitecture: all\n\nPackage: b\nArchitecture: amd64\n\nPackage: b\nArchitecture: i386\nX: 1\n\n"
        );
    }
}
