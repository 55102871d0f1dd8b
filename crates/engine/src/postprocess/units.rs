//! Enables units the way `systemctl enable` does, by their `[Install]` section.

use std::collections::BTreeSet;

use anyhow::Result;
use apt_ostree_model::{ContentReader, ErrorKind, Kinded, Node, Tree};
use fn_error_context::context;

use super::work::{Work, read_text_optional};

/// Where unit files are, those that win first.
const UNIT_DIRS: [&str; 3] = [
    "etc/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
];

/// The `[Install]` section of a unit file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Install {
    pub(super) wanted_by: Vec<String>,
    pub(super) required_by: Vec<String>,
    pub(super) upheld_by: Vec<String>,
    pub(super) alias: Vec<String>,
    pub(super) also: Vec<String>,
    pub(super) default_instance: Option<String>,
}

impl Install {
    /// Reads the text of a unit file.
    pub(super) fn parse(text: &str) -> Self {
        let mut install = Self::default();
        let mut in_section = false;
        for line in joined_lines(text) {
            let line = line.trim();
            if line.starts_with('[') {
                in_section = line == "[Install]";
            }
            let Some((key, value)) = line.split_once('=').filter(|_| in_section) else {
                continue;
            };
            let list = match key.trim() {
                "WantedBy" => &mut install.wanted_by,
                "RequiredBy" => &mut install.required_by,
                "UpheldBy" => &mut install.upheld_by,
                "Alias" => &mut install.alias,
                "Also" => &mut install.also,
                "DefaultInstance" => {
                    install.default_instance = Some(value.trim().to_owned());
                    continue;
                }
                _ => continue,
            };
            if value.trim().is_empty() {
                list.clear();
            }
            list.extend(value.split_whitespace().map(str::to_owned));
        }
        install
    }

    /// True when enabling the unit does nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.wanted_by.is_empty()
            && self.required_by.is_empty()
            && self.upheld_by.is_empty()
            && self.alias.is_empty()
            && self.also.is_empty()
    }
}

/// Lines without comments, with lines that end in a backslash joined to the next one.
fn joined_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        let (part, more) = match line.strip_suffix('\\') {
            Some(part) => (part, true),
            None => (line, false),
        };
        match lines.last_mut().filter(|_| open) {
            Some(last) => {
                last.push(' ');
                last.push_str(part);
            }
            None => lines.push(part.to_owned()),
        }
        open = more;
    }
    lines
}

/// Splits `name@instance.type` into name, instance and type; the instance is `None` for a plain
/// unit and empty for a template.
pub(super) fn split_unit(unit: &str) -> Option<(&str, Option<&str>, &str)> {
    let (stem, kind) = unit.rsplit_once('.')?;
    if stem.is_empty() || kind.is_empty() || unit.contains('/') {
        return None;
    }
    match stem.split_once('@') {
        Some((name, instance)) => Some((name, Some(instance), kind)),
        None => Some((stem, None, kind)),
    }
}

/// The unit file of a unit: its path. An alias link is followed inside the unit directories;
/// a link to `/dev/null` means masked and is returned as a link.
pub(super) fn find_unit(tree: &Tree, file: &str) -> Option<String> {
    let mut paths = UNIT_DIRS.iter().map(|dir| format!("{dir}/{file}"));
    paths.find(|path| tree.contains(path))
}

/// Text of a unit file; `None` when there is none or it is masked.
pub(super) fn unit_text(
    tree: &Tree,
    content: &(impl ContentReader + ?Sized),
    path: &str,
) -> Result<Option<String>> {
    let real = match tree.get(path) {
        Some(Node::Symlink(_)) => tree.resolve(path),
        _ => Some(path.to_owned()),
    };
    match real {
        Some(real) => read_text_optional(tree, content, &real),
        None => Ok(None),
    }
}

/// Enables the units of the treefile.
#[context("enabling units")]
pub(super) fn enable_units(work: &mut Work<'_>) -> Result<()> {
    let mut done = BTreeSet::new();
    let mut todo: Vec<String> = work.options().units.iter().rev().cloned().collect();
    while let Some(unit) = todo.pop() {
        if done.insert(unit.clone()) {
            let also = enable(work, &unit)?;
            todo.extend(also.into_iter().rev());
        }
    }
    Ok(())
}

/// Enables one unit; returns the units of its `Also=`.
fn enable(work: &mut Work<'_>, unit: &str) -> Result<Vec<String>> {
    let invalid =
        |what: &str| Kinded::new(ErrorKind::InvalidInput, format!("unit '{unit}' {what}"));
    let (name, instance, kind) =
        split_unit(unit).ok_or_else(|| invalid("is no unit name such as 'ssh.service'"))?;
    let file = match instance {
        Some(_) => format!("{name}@.{kind}"),
        None => unit.to_owned(),
    };
    let path = [unit, file.as_str()]
        .iter()
        .find_map(|file| find_unit(&work.tree, file))
        .ok_or_else(|| {
            invalid("is not in the tree")
                .with_hint("add the package that ships it, or fix the name")
        })?;
    let text = unit_text(&work.tree, work.content, &path)?;
    let text = text.ok_or_else(|| invalid("is masked or its file is missing"))?;
    let install = Install::parse(&text);
    if install.is_empty() {
        return Err(invalid("has no [Install] section, so it can't be enabled").into());
    }
    let linked = match (instance, &install.default_instance) {
        (Some(""), Some(default)) => format!("{name}@{default}.{kind}"),
        (Some(""), None) => return Err(invalid("is a template and needs an instance").into()),
        _ => unit.to_owned(),
    };
    link_unit(work, &linked, &path, &install)?;
    Ok(install.also)
}

/// Makes the links. Those for `RequiredBy=` go to /usr: left behind in /etc after the unit has
/// vanished from a later image, they would make the other unit fail.
fn link_unit(work: &mut Work<'_>, unit: &str, path: &str, install: &Install) -> Result<()> {
    let real = match work.tree.get(path) {
        Some(Node::Symlink(_)) => work.tree.resolve(path).unwrap_or_else(|| path.to_owned()),
        _ => path.to_owned(),
    };
    let target = format!("/{real}");
    for (list, dir, suffix) in [
        (&install.wanted_by, "etc", "wants"),
        (&install.required_by, "usr/lib", "requires"),
        (&install.upheld_by, "etc", "upholds"),
    ] {
        for other in list {
            let other = expand(other, unit)?;
            let link = format!("{dir}/systemd/system/{other}.{suffix}/{unit}");
            work.symlink(&link, &target)?;
        }
    }
    for alias in &install.alias {
        let alias = expand(alias, unit)?;
        let link = format!("etc/systemd/system/{alias}");
        if alias != unit && link != path {
            work.symlink(&link, &target)?;
        }
    }
    Ok(())
}

/// Expands the specifiers that `[Install]` allows, and refuses what is no unit name.
fn expand(text: &str, unit: &str) -> Result<String> {
    let (name, instance, _) = split_unit(unit).unwrap_or((unit, None, ""));
    let stem = unit.rsplit_once('.').map_or(unit, |(stem, _)| stem);
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('%') => out.push('%'),
            Some('n') => out.push_str(unit),
            Some('N') => out.push_str(stem),
            Some('p') => out.push_str(name),
            Some('i' | 'I') => out.push_str(instance.unwrap_or_default()),
            Some('j') => out.push_str(name.rsplit('-').next().unwrap_or(name)),
            _ => {
                let message = format!("unit '{unit}': '{text}' depends on the machine");
                return Err(Kinded::new(ErrorKind::InvalidInput, message).into());
            }
        }
    }
    if split_unit(&out).is_none() {
        let message = format!("unit '{unit}': '{}' is no unit name", out.escape_default());
        return Err(Kinded::new(ErrorKind::InvalidInput, message).into());
    }
    Ok(out)
}

/// Links `default.target`.
pub(super) fn set_default_target(work: &mut Work<'_>) -> Result<()> {
    let Some(target) = work.options().default_target.clone() else {
        return Ok(());
    };
    let path = find_unit(&work.tree, &target)
        .filter(|_| target.ends_with(".target"))
        .ok_or_else(|| {
            let message = format!("default target '{target}' is not in the tree");
            Kinded::new(ErrorKind::InvalidInput, message)
        })?;
    work.symlink("etc/systemd/system/default.target", &format!("/{path}"))
}
