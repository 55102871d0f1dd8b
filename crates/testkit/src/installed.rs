//! Two installations of the same packages compared: files, package database, accounts.
//!
//! Numbers that scripts allocate (users, groups) are compared by name, and databases whose order
//! carries no meaning are compared as sets. What may differ is listed in text files, one
//! `path-glob<TAB>what<TAB>reason` per line.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use camino::Utf8Path;

use crate::root::{Entry, scan};

/// Where dpkg keeps its status.
const STATUS: &str = "var/lib/dpkg/status";

/// `SOURCE_DATE_EPOCH` of installations that are compared.
pub const SCRIPT_EPOCH: i64 = 1_700_000_000;

/// What was compared and what differs.
#[derive(Debug, Default)]
pub struct Comparison {
    /// How many paths there are in either installation.
    pub entries: usize,
    /// How many packages there are in either database.
    pub packages: usize,
    /// Details of each difference by path and kind.
    ///
    /// Kinds are `missing`, `extra`, `type`, `mode`, `owner`, `content` and `xattrs`; for the path
    /// `var/lib/dpkg/status:PACKAGE:ARCH` also the name of a field.
    pub differences: BTreeMap<(String, String), String>,
}

impl Comparison {
    fn add(&mut self, path: &str, what: &str, detail: String) {
        self.differences
            .insert((path.to_owned(), what.to_owned()), detail);
    }
}

/// Compares the installation in `ours` with the one in `theirs`.
///
/// # Errors
/// When one can't be read.
pub fn compare(ours: &Utf8Path, theirs: &Utf8Path) -> Result<Comparison> {
    let (our_entries, their_entries) = (scan(ours)?, scan(theirs)?);
    let (our_names, their_names) = (Accounts::read(ours)?, Accounts::read(theirs)?);
    let paths: BTreeSet<&String> = our_entries.keys().chain(their_entries.keys()).collect();
    let mut result = Comparison {
        entries: paths.len(),
        ..Comparison::default()
    };
    for path in paths {
        let (one, other) = match (our_entries.get(path), their_entries.get(path)) {
            (Some(one), Some(other)) => (one, other),
            (None, _) => {
                result.add(path, "missing", String::new());
                continue;
            }
            (_, None) => {
                result.add(path, "extra", String::new());
                continue;
            }
        };
        let (our_owner, their_owner) = (our_names.owner(one), their_names.owner(other));
        if our_owner != their_owner {
            result.add(path, "owner", format!("{our_owner} / {their_owner}"));
        }
        compare_entries(&mut result, path, one, other);
        if one.content != other.content
            && !same_meaning(path, [(ours, &our_names), (theirs, &their_names)])?
        {
            result.add(
                path,
                "content",
                format!("{} / {}", one.content, other.content),
            );
        }
    }
    compare_status(&mut result, ours, theirs)?;
    Ok(result)
}

fn compare_entries(result: &mut Comparison, path: &str, one: &Entry, other: &Entry) {
    if one.kind != other.kind {
        result.add(path, "type", format!("{} / {}", one.kind, other.kind));
    }
    if one.kind != 'l' && one.mode != other.mode {
        result.add(path, "mode", format!("{:o} / {:o}", one.mode, other.mode));
    }
    if one.xattrs != other.xattrs {
        result.add(
            path,
            "xattrs",
            format!("{:?} / {:?}", one.xattrs, other.xattrs),
        );
    }
}

/// Names of users and groups by number.
#[derive(Debug)]
struct Accounts {
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

impl Accounts {
    fn read(root: &Utf8Path) -> Result<Self> {
        let names = |path: &str| -> Result<BTreeMap<u32, String>> {
            let text = read(root, path)?;
            let fields = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
            Ok(fields
                .filter_map(|f| Some((f.get(2)?.parse().ok()?, (*f.first()?).to_owned())))
                .collect())
        };
        Ok(Self {
            users: names("etc/passwd")?,
            groups: names("etc/group")?,
        })
    }

    fn owner(&self, entry: &Entry) -> String {
        let name = |names: &BTreeMap<u32, String>, id: u32| {
            names.get(&id).cloned().unwrap_or_else(|| id.to_string())
        };
        format!(
            "{}:{}",
            name(&self.users, entry.owner.0),
            name(&self.groups, entry.owner.1)
        )
    }

    /// The group's name instead of its number.
    fn group(&self, id: &str) -> String {
        id.parse()
            .ok()
            .and_then(|id: u32| self.groups.get(&id))
            .cloned()
            .unwrap_or_else(|| id.to_owned())
    }
}

fn read(root: &Utf8Path, path: &str) -> Result<String> {
    let data =
        std::fs::read(root.join(path)).with_context(|| format!("reading '{root}/{path}'"))?;
    Ok(String::from_utf8_lossy(&data).into_owned())
}

/// True when the two versions of a database differ in order or allocated numbers only.
fn same_meaning(path: &str, roots: [(&Utf8Path, &Accounts); 2]) -> Result<bool> {
    if path == STATUS {
        return Ok(true); // compared by field
    }
    let [one, other] = roots.map(|(root, names)| -> Result<Option<Vec<String>>> {
        let mut parts = match path {
            "etc/passwd" | "etc/passwd-" => passwd(&read(root, path)?, names),
            "etc/group" | "etc/group-" => group(&read(root, path)?),
            "var/lib/dpkg/diversions" => triples(&read(root, path)?),
            "usr/lib/sysimage/apt/extended_states" => {
                let text = read(root, path)?;
                text.trim_end().split("\n\n").map(str::to_owned).collect()
            }
            _ if path.starts_with("var/lib/dpkg/triggers/") => lines(&read(root, path)?),
            "etc/shadow"
            | "etc/gshadow"
            | "etc/shadow-"
            | "etc/gshadow-"
            | "etc/shells"
            | "var/lib/dpkg/statoverride"
            | "usr/lib/sysimage/ucf/hashfile"
            | "usr/lib/sysimage/ucf/registry"
            | "var/lib/ucf/hashfile"
            | "var/lib/ucf/registry" => lines(&read(root, path)?),
            _ => return Ok(None),
        };
        parts.sort();
        Ok(Some(parts))
    });
    let (one, other) = (one?, other?);
    Ok(one.is_some() && one == other)
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn triples(text: &str) -> Vec<String> {
    lines(text).chunks(3).map(|c| c.join("\n")).collect()
}

/// Lines of `passwd` without the user's number and with the group's name.
fn passwd(text: &str, names: &Accounts) -> Vec<String> {
    let line = |line: &str| match line.split(':').collect::<Vec<_>>()[..] {
        [name, password, _, gid, ref rest @ ..] => {
            format!("{name}:{password}:{}:{}", names.group(gid), rest.join(":"))
        }
        _ => line.to_owned(),
    };
    text.lines().map(line).collect()
}

/// Lines of `group` without the number.
fn group(text: &str) -> Vec<String> {
    let line = |line: &str| match line.split(':').collect::<Vec<_>>()[..] {
        [name, password, _, ref rest @ ..] => format!("{name}:{password}:{}", rest.join(":")),
        _ => line.to_owned(),
    };
    text.lines().map(line).collect()
}

type Fields = BTreeMap<String, String>;

fn compare_status(result: &mut Comparison, ours: &Utf8Path, theirs: &Utf8Path) -> Result<()> {
    let (ours, theirs) = (
        stanzas(&read(ours, STATUS)?),
        stanzas(&read(theirs, STATUS)?),
    );
    let packages: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    result.packages = packages.len();
    let none = Fields::new();
    for package in packages {
        let path = format!("{STATUS}:{package}");
        let one = ours.get(package).unwrap_or(&none);
        let other = theirs.get(package).unwrap_or(&none);
        let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
        for name in names
            .into_iter()
            .filter(|name| one.get(*name) != other.get(*name))
        {
            result.add(
                &path,
                name,
                format!("{:?} / {:?}", one.get(name), other.get(name)),
            );
        }
    }
    Ok(())
}

/// Fields of each package by `NAME:ARCH`.
fn stanzas(text: &str) -> BTreeMap<String, Fields> {
    let mut packages = BTreeMap::new();
    for stanza in text.split("\n\n").filter(|s| !s.trim().is_empty()) {
        let mut fields = Fields::new();
        let mut last = String::new();
        for line in stanza.lines() {
            if line.starts_with([' ', '\t']) {
                let value = fields.entry(last.clone()).or_default();
                value.push('\n');
                value.push_str(line);
            } else if let Some((name, value)) = line.split_once(':') {
                name.clone_into(&mut last);
                fields.insert(last.clone(), value.trim().to_owned());
            }
        }
        let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
        packages.insert(
            format!("{}:{}", field("Package"), field("Architecture")),
            fields,
        );
    }
    packages
}

/// A difference that is known and has a reason.
#[derive(Debug)]
struct Allowed<'a> {
    place: String,
    glob: &'a str,
    what: &'a str,
}

/// Parses a list; `name` is for messages. A line may name several kinds, with commas.
fn parse_list<'a>(name: &str, text: &'a str) -> Result<Vec<Allowed<'a>>> {
    let mut list = Vec::new();
    for (index, line) in text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.is_empty() && !l.starts_with('#'))
    {
        let place = format!("{name}:{}", index + 1);
        let fields: Vec<&str> = line.split('\t').collect();
        let &[glob, kinds, reason] = fields.as_slice() else {
            anyhow::bail!("{place}: not path-glob<TAB>what<TAB>reason: '{line}'");
        };
        ensure!(
            !reason.trim().is_empty(),
            "{place}: a difference needs a reason"
        );
        list.extend(kinds.split(',').map(|what| Allowed {
            place: place.clone(),
            glob,
            what,
        }));
    }
    Ok(list)
}

/// Compares two installations, prints how much that was, and fails with what `lists` don't allow
/// and with what nothing needs in them.
///
/// # Errors
/// Those, and when an installation or a list can't be read.
pub fn require_same(ours: &Utf8Path, theirs: &Utf8Path, lists: &[(&str, &str)]) -> Result<()> {
    let found = compare(ours, theirs)?;
    let complaints = complaints(&found, lists)?;
    let counts = format!(
        "{} entries, {} packages, {} listed differences",
        found.entries,
        found.packages,
        found.differences.len()
    );
    drop(std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("{counts}\n").as_bytes(),
    ));
    ensure!(
        complaints.is_empty(),
        "{counts}, {} complaints:\n{}",
        complaints.len(),
        complaints.join("\n")
    );
    Ok(())
}

/// Compares differences with the lists that allow them (name and text each): one line per
/// difference that no entry allows, and per entry that nothing needs.
///
/// # Errors
/// When a list is malformed.
pub fn complaints(found: &Comparison, lists: &[(&str, &str)]) -> Result<Vec<String>> {
    let mut allowed = Vec::new();
    for (name, text) in lists {
        allowed.extend(parse_list(name, text)?);
    }
    let mut used = vec![false; allowed.len()];
    let mut complaints = Vec::new();
    for ((path, what), detail) in &found.differences {
        let mut matched = false;
        for (_, used) in allowed
            .iter()
            .zip(&mut used)
            .filter(|(a, _)| a.what == what && matches(a.glob, path))
        {
            *used = true;
            matched = true;
        }
        if !matched {
            complaints.push(format!("not listed: {path}\t{what}\t{detail}"));
        }
    }
    for (entry, _) in allowed.iter().zip(used).filter(|(_, used)| !used) {
        complaints.push(format!(
            "{}: no longer needed: {}\t{}",
            entry.place, entry.glob, entry.what
        ));
    }
    Ok(complaints)
}

/// Glob match: `*` stands for anything but `/`, `**` for anything.
fn matches(glob: &str, path: &str) -> bool {
    let Some((start, rest)) = glob.split_once('*') else {
        return glob == path;
    };
    let Some(tail) = path.strip_prefix(start) else {
        return false;
    };
    if let Some(rest) = rest.strip_prefix('*') {
        return (0..=tail.len()).any(|i| tail.is_char_boundary(i) && matches(rest, &tail[i..]));
    }
    let end = tail.find('/').unwrap_or(tail.len());
    (0..=end).any(|i| tail.is_char_boundary(i) && matches(rest, &tail[i..]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn found(differences: &[(&str, &str)]) -> Comparison {
        let mut found = Comparison::default();
        for (path, what) in differences {
            found.add(path, what, String::new());
        }
        found
    }

    #[test]
    fn globs_stop_at_slashes_unless_doubled() {
        assert!(matches("dev/*", "dev/null") && !matches("dev/*", "dev/pts/0"));
        assert!(matches("dev/**", "dev/pts/0") && !matches("dev/**", "etc/dev/x"));
        assert!(matches("a*c", "abc") && !matches("a*c", "abcd") && matches("**/x", "a/b/x"));
    }

    #[test]
    fn unlisted_and_unneeded_are_complaints() {
        let found = found(&[("etc/x", "mode"), ("etc/y", "owner")]);
        let list = "# why\n\netc/x\tmode,content\tbecause\n";
        let complaints = complaints(&found, &[("list", list)]).unwrap();
        assert_eq!(
            complaints,
            [
                "not listed: etc/y\towner\t",
                "list:3: no longer needed: etc/x\tcontent"
            ]
        );
    }

    #[test]
    fn a_list_line_needs_a_reason() {
        assert!(complaints(&found(&[]), &[("list", "etc/x\tmode\n")]).is_err());
        assert!(complaints(&found(&[]), &[("list", "etc/x\tmode\t \n")]).is_err());
    }

    #[test]
    fn accounts_are_compared_without_numbers() {
        let names = |gid: u32| Accounts {
            users: BTreeMap::new(),
            groups: BTreeMap::from([(gid, "mail".to_owned())]),
        };
        let one = passwd("m:x:100:8:Mail:/var/mail:/bin/sh\n", &names(8));
        let other = passwd("m:x:101:9:Mail:/var/mail:/bin/sh\n", &names(9));
        assert_eq!(one, other);
        assert_ne!(
            one,
            passwd("m:x:101:9:Mail:/var/mail:/bin/false\n", &names(9))
        );
    }

    #[test]
    fn stanzas_keep_continuation_lines() {
        let parsed = stanzas(
            "Package: a\nArchitecture: all\nConffiles:\n /etc/a 1\n\nPackage: b\nArchitecture: i386\n",
        );
        assert_eq!(parsed["a:all"]["Conffiles"], "\n /etc/a 1");
        assert!(parsed.contains_key("b:i386"));
    }
}
