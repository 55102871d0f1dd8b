//! dpkg's database, written as if `dpkg --unpack` had just run.
//!
//! Formats: `deb-triggers(5)`, `dpkg-divert(1)`, and the files below `/var/lib/dpkg` as dpkg 1.21
//! to 1.23 read them. dpkg rewrites `status` in its own field order at its first run, so the order
//! here is free.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use apt_ostree_model::{
    Arch, ContentReader, ContentWriter, ImportedPackage, Meta, Node, PlannedPackage, Tree, Version,
    control_field,
};

use super::assemble::{self, Claim, Owners};
use crate::content::{self, Content};

/// Where the database is while packages are installed.
pub const ADMIN_DIR: &str = "var/lib/dpkg";

/// One diversion: `path` of every package but `package` goes to `divert_to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diversion {
    /// Absolute path that is diverted.
    pub path: String,
    /// Absolute path it is diverted to.
    pub divert_to: String,
    /// The package whose own file stays; `:` for a local diversion.
    pub package: String,
}

/// Parses the `diversions` file: three lines each. An incomplete last entry is ignored.
pub fn parse_diversions(text: &str) -> Vec<Diversion> {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .chunks_exact(3)
        .map(|c| Diversion {
            path: c[0].to_owned(),
            divert_to: c[1].to_owned(),
            package: c[2].to_owned(),
        })
        .collect()
}

/// Interest of a package in a trigger.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interest {
    trigger: String,
    no_await: bool,
}

/// The interest directives of a `triggers` member; other directives take effect when dpkg
/// configures the package.
fn parse_interests(text: &str) -> Vec<Interest> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let no_await = match words.next()? {
                "interest" | "interest-await" => false,
                "interest-noawait" => true,
                _ => return None,
            };
            Some(Interest {
                trigger: words.next()?.to_owned(),
                no_await,
            })
        })
        .collect()
}

/// Makes the empty database of a fresh root.
///
/// # Errors
/// When an object can't be written.
pub fn init(
    tree: &mut Tree,
    writer: &dyn ContentWriter,
    arch: &Arch,
    foreign: &[Arch],
) -> Result<()> {
    for dir in [
        "",
        "/alternatives",
        "/info",
        "/parts",
        "/triggers",
        "/updates",
    ] {
        tree.ensure_dir(&format!("{ADMIN_DIR}{dir}"), &Meta::root(0o755))?;
    }
    let arches = std::iter::once(arch)
        .chain(foreign)
        .fold(String::new(), |text, a| text + a.as_str() + "\n");
    let native = format!("{arch}\n");
    let files: [(&str, &str); 6] = [
        ("info/format", "1\n"),
        ("arch", &arches),
        ("arch-native", &native),
        ("status", ""),
        ("diversions", ""),
        ("triggers/File", ""),
    ];
    for (name, text) in files {
        content::write(
            tree,
            writer,
            &format!("{ADMIN_DIR}/{name}"),
            0o644,
            text.as_bytes(),
        )?;
    }
    Ok(())
}

/// A package of an existing database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// Its architecture.
    pub arch: Arch,
    /// Its stanza of `status`.
    pub control: String,
}

impl Installed {
    /// The stem of its info files.
    fn info_stem(&self) -> String {
        match control_field(&self.control, "Multi-Arch").as_deref() {
            Some("same") => format!("{}:{}", self.name, self.arch),
            _ => self.name.clone(),
        }
    }
}

/// The packages that the text of a `status` file says are installed.
pub fn installed(status: &str) -> Vec<Installed> {
    let stanzas = status.split("\n\n").filter(|s| !s.trim().is_empty());
    stanzas
        .filter_map(|stanza| {
            let field = |name: &str| control_field(stanza, name);
            if !field("Status")?.ends_with(" installed") {
                return None;
            }
            Some(Installed {
                name: field("Package")?,
                version: field("Version")?.parse().ok()?,
                arch: field("Architecture")?.parse().ok()?,
                control: stanza.to_owned(),
            })
        })
        .collect()
}

/// The owners of all files of the tree, by its database and where diversions put them.
///
/// # Errors
/// When an object can't be read.
pub fn owners<'p>(
    tree: &Tree,
    content: &dyn ContentReader,
    packages: &'p [Installed],
) -> Result<Owners<'p>> {
    let diversions = content::read_text(tree, content, &admin("diversions"))?;
    let diversions = parse_diversions(&diversions);
    let mut owners = Owners::new();
    for package in packages {
        let claim = Claim {
            name: &package.name,
            version: &package.version,
            control: &package.control,
        };
        let path = admin(&format!("info/{}.list", package.info_stem()));
        for path in content::read_text(tree, content, &path)?.lines() {
            let diverted = diversions
                .iter()
                .find(|d| d.path == path && d.package != package.name);
            let path = diverted.map_or(path, |d| d.divert_to.as_str());
            owners.insert(assemble::merged(path.trim_start_matches('/')), claim);
        }
    }
    Ok(owners)
}

/// Gives files that `packages` have just put there the owner and mode that a statoverride says.
///
/// # Errors
/// When an object can't be read or written.
pub fn apply_statoverrides(
    tree: &mut Tree,
    content: &dyn Content,
    packages: &[&ImportedPackage],
) -> Result<()> {
    let text = content::read_text(tree, content, &admin("statoverride"))?;
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let [user, group, mode, path] = words.as_slice() else {
            continue;
        };
        if !packages
            .iter()
            .any(|p| p.list.iter().any(|listed| listed == path))
        {
            continue;
        }
        let ids = (
            id_of(tree, content, "etc/passwd", user)?,
            id_of(tree, content, "etc/group", group)?,
        );
        let ((Some(uid), Some(gid)), Ok(mode)) = (ids, u32::from_str_radix(mode, 8)) else {
            continue;
        };
        let path = assemble::merged(path.trim_start_matches('/'));
        let change = |meta: &Meta| Meta {
            mode,
            uid,
            gid,
            xattrs: meta.xattrs.clone(),
        };
        match tree.get_mut(&path) {
            Some(Node::File(file)) => *file = content.change_meta(file, &change(&file.meta))?,
            Some(Node::Dir(dir)) => dir.meta = change(&dir.meta),
            _ => {}
        }
    }
    Ok(())
}

/// The number of an account, which may be given as `#NUMBER`.
fn id_of(tree: &Tree, content: &dyn ContentReader, path: &str, name: &str) -> Result<Option<u32>> {
    if let Some(number) = name.strip_prefix('#') {
        return Ok(number.parse().ok());
    }
    let text = content::read_text(tree, content, path)?;
    let mut lines = text.lines().map(|line| line.split(':'));
    Ok(lines.find_map(|mut fields| {
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    }))
}

/// Adds `packages` as unpacked: status stanzas, info files, trigger interests, and activations of
/// file triggers that configured packages wait for.
///
/// # Errors
/// When an object can't be read or written.
pub fn add_unpacked(
    tree: &mut Tree,
    content: &dyn Content,
    packages: &[&ImportedPackage],
) -> Result<()> {
    let status = content::read_text(tree, content, &admin("status"))?;
    let mut status = without(&status, packages);
    let mut file_triggers = content::read_text(tree, content, &admin("triggers/File"))?;
    let activations = activations(&file_triggers, packages);
    for package in packages {
        status.push_str(&stanza(package));
        write_info(tree, content, package)?;
        for interest in package
            .member_text("triggers")
            .map(parse_interests)
            .unwrap_or_default()
        {
            let suffix = if interest.no_await { "/noawait" } else { "" };
            if interest.trigger.starts_with('/') {
                let _ = writeln!(
                    file_triggers,
                    "{} {}{suffix}",
                    interest.trigger,
                    package.info_stem()
                );
            } else {
                let path = admin(&format!("triggers/{}", interest.trigger));
                let text = content::read_text(tree, content, &path)?
                    + &package.info_stem()
                    + suffix
                    + "\n";
                content::write(tree, content, &path, 0o644, text.as_bytes())?;
            }
        }
    }
    content::write(tree, content, &admin("status"), 0o644, status.as_bytes())?;
    content::write(
        tree,
        content,
        &admin("triggers/File"),
        0o644,
        file_triggers.as_bytes(),
    )?;
    content::write(
        tree,
        content,
        &admin("triggers/Unincorp"),
        0o644,
        activations.as_bytes(),
    )
}

/// `status` without what is left of earlier installations of `packages`.
fn without(status: &str, packages: &[&ImportedPackage]) -> String {
    let is_of = |stanza: &str| {
        let field = |name| control_field(stanza, name).unwrap_or_default();
        let (name, arch) = (field("Package"), field("Architecture"));
        let same_arch = |p: &ImportedPackage| p.arch.as_str() == arch || !p.is_multi_arch_same();
        packages
            .iter()
            .any(|p| p.name.as_str() == name && same_arch(p))
    };
    let names: std::collections::BTreeSet<&str> =
        packages.iter().map(|p| p.name.as_str()).collect();
    // Most stanzas need no closer look.
    let may_be = |stanza: &str| {
        let first = stanza
            .lines()
            .find_map(|line| line.strip_prefix("Package: "));
        first.is_some_and(|name| names.contains(name.trim()))
    };
    status
        .split_inclusive("\n\n")
        .filter(|stanza| !(may_be(stanza) && is_of(stanza)))
        .collect()
}

fn admin(name: &str) -> String {
    format!("{ADMIN_DIR}/{name}")
}

/// The lines of `triggers/Unincorp` for file triggers of already configured packages that lie
/// above a path of the new packages. Nobody awaits them (`-`).
fn activations(file_triggers: &str, packages: &[&ImportedPackage]) -> String {
    let mut active = std::collections::BTreeSet::new();
    let interests: std::collections::BTreeSet<&str> = file_triggers
        .lines()
        .filter_map(|line| line.rsplit_once(' ').map(|(path, _)| path))
        .collect();
    for path in packages.iter().flat_map(|p| &p.list) {
        let mut prefix = path.as_str();
        while !prefix.is_empty() {
            if let Some(interest) = interests.get(prefix) {
                active.insert(*interest);
            }
            prefix = prefix.rsplit_once('/').map_or("", |(dir, _)| dir);
        }
    }
    active
        .into_iter()
        .fold(String::new(), |text, path| text + path + " -\n")
}

/// The status stanza of an unpacked package. Conffiles are recorded with the hash of the shipped
/// content: dpkg keeps it when there is no `.dpkg-new` file.
fn stanza(package: &ImportedPackage) -> String {
    let mut text = String::new();
    let mut lines = package.control.lines();
    if let Some(first) = lines.next() {
        let _ = writeln!(text, "{first}\nStatus: install ok unpacked");
    }
    for line in lines.filter(|line| !line.is_empty()) {
        let _ = writeln!(text, "{line}");
    }
    if !package.conffiles.is_empty() {
        text.push_str("Conffiles:\n");
        for conffile in &package.conffiles {
            let _ = match &conffile.md5 {
                Some(md5) => writeln!(text, " {} {md5}", conffile.path),
                None => writeln!(text, " {} newconffile remove-on-upgrade", conffile.path),
            };
        }
    }
    text.push('\n');
    text
}

/// Writes `info/STEM.*`.
fn write_info(
    tree: &mut Tree,
    writer: &dyn ContentWriter,
    package: &ImportedPackage,
) -> Result<()> {
    let stem = admin(&format!("info/{}", package.info_stem()));
    let list = package
        .list
        .iter()
        .fold(String::new(), |text, path| text + path + "\n");
    content::write(
        tree,
        writer,
        &format!("{stem}.list"),
        0o644,
        list.as_bytes(),
    )?;
    for (name, member) in &package.members {
        content::write(
            tree,
            writer,
            &format!("{stem}.{name}"),
            member.mode & 0o777,
            &member.data,
        )?;
    }
    Ok(())
}

/// apt's `extended_states`: which packages were installed only as dependencies.
pub fn extended_states(packages: &[PlannedPackage], native: &Arch) -> String {
    let automatic = packages.iter().filter(|p| p.auto);
    let by_name: BTreeMap<(&str, &str), ()> = automatic
        .map(|p| {
            let arch = if p.arch.as_str() == "all" {
                native
            } else {
                &p.arch
            };
            ((p.name.as_str(), arch.as_str()), ())
        })
        .collect();
    by_name.keys().fold(String::new(), |text, (name, arch)| {
        text + &format!("Package: {name}\nArchitecture: {arch}\nAuto-Installed: 1\n\n")
    })
}

/// Name and status words of every stanza whose package is neither installed nor removed.
pub fn not_installed(status: &str) -> Vec<(String, String)> {
    let stanzas = status.split("\n\n").filter(|s| !s.trim().is_empty());
    stanzas
        .filter_map(|stanza| {
            let field = |name: &str| {
                stanza
                    .lines()
                    .find_map(|l| l.strip_prefix(name))
                    .unwrap_or_default()
                    .trim()
            };
            let state = field("Status:");
            let fine = state.ends_with(" ok installed") || state.ends_with(" ok config-files");
            (!fine).then(|| (field("Package:").to_owned(), state.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, control: &str) -> ImportedPackage {
        ImportedPackage {
            name: name.parse().unwrap(),
            version: "1".parse().unwrap(),
            arch: "amd64".parse().unwrap(),
            sha256: apt_ostree_model::Sha256Digest::new([0; 32]),
            control: format!("Package: {name}\nVersion: 1\nArchitecture: amd64\n{control}"),
            members: BTreeMap::new(),
            conffiles: Vec::new(),
            list: vec![
                "/.".to_owned(),
                "/usr".to_owned(),
                format!("/usr/share/{name}/x"),
            ],
            tree: Tree::default(),
            date: 0,
        }
    }

    #[test]
    fn diversions_come_in_threes() {
        let list = parse_diversions("/a\n/b\npkg\n/c\n/d\n:\n/left\n");
        assert_eq!(list.len(), 2);
        assert_eq!(
            (list[0].path.as_str(), list[0].divert_to.as_str()),
            ("/a", "/b")
        );
        assert_eq!(list[1].package, ":");
    }

    #[test]
    fn only_interests_are_registered() {
        let list = parse_interests(
            "# comment\ninterest /usr/x # tail\ninterest-noawait y\nactivate z\n\nbroken\n",
        );
        assert_eq!(list.len(), 2);
        assert!(!list[0].no_await && list[1].no_await);
    }

    #[test]
    fn stanza_has_status_and_conffiles() {
        let mut p = package("foo", "Description: x\n y\n");
        p.conffiles = vec![
            apt_ostree_model::Conffile {
                path: "/etc/foo".into(),
                md5: Some("abc".into()),
            },
            apt_ostree_model::Conffile {
                path: "/etc/old".into(),
                md5: None,
            },
        ];
        assert_eq!(
            stanza(&p),
            "Package: foo\nStatus: install ok unpacked\nVersion: 1\nArchitecture: amd64\nDescription: x\n y\n\
             Conffiles:\n /etc/foo abc\n /etc/old newconffile remove-on-upgrade\n\n"
        );
    }

    #[test]
    fn file_triggers_above_new_paths_are_activated() {
        let p = package("foo", "");
        let text = activations(
            "/usr/share/foo dbus/noawait\n/usr/share/bar man\n/usr/share/fo x\n",
            &[&p],
        );
        assert_eq!(text, "/usr/share/foo -\n");
    }

    #[test]
    fn states_other_than_installed_are_found() {
        let text = "Package: a\nStatus: install ok installed\n\nPackage: b\nStatus: install ok half-configured\n\n";
        assert_eq!(
            not_installed(text),
            [("b".to_owned(), "install ok half-configured".to_owned())]
        );
    }
}
