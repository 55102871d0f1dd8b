//! The lints of `bootc container lint`, on the container form of the tree.

use std::collections::BTreeSet;

use anyhow::Result;
use apt_ostree_model::{Node, Tree};

use super::{Lint, LintInput, Outcome, clean, found, found_items};
use crate::postprocess::accounts::Accounts;
use crate::postprocess::sysusers;
use crate::postprocess::tmpfiles;
use crate::postprocess::work::{read_optional, read_text_optional};

pub(super) static LINTS: [Lint; 15] = [
    Lint::fatal(
        "api-base-directories",
        "/dev, /proc, /sys, /run, /tmp and /var are directories",
        api_base_directories,
    )
    .of_bootc(),
    Lint::fatal(
        "baseimage-root",
        "/sysroot is a directory and /ostree a link to 'sysroot/ostree'",
        baseimage_root,
    )
    .of_bootc(),
    Lint::fatal(
        "bootc-kargs",
        "files in /usr/lib/bootc/kargs.d can be read",
        bootc_kargs,
    )
    .of_bootc(),
    Lint::fatal(
        "etc-usretc",
        "a tree has /etc or /usr/etc, not both",
        etc_usretc,
    )
    .of_bootc(),
    Lint::fatal("kernel", "there is at most one kernel", kernel).of_bootc(),
    Lint::fatal(
        "utf8",
        "names and link targets have no control characters",
        printable_names,
    )
    .of_bootc(),
    Lint::fatal("var-run", "/var/run is a link", var_run).of_bootc(),
    Lint::warning(
        "baseimage-composefs",
        "prepare-root.conf turns composefs on",
        baseimage_composefs,
    )
    .of_bootc(),
    Lint::warning(
        "buildah-injected",
        "/etc/hostname and /etc/resolv.conf are not empty files",
        buildah_injected,
    )
    .of_bootc(),
    Lint::warning("nonempty-boot", "/boot is empty", nonempty_boot).of_bootc(),
    Lint::warning(
        "nonempty-run-tmp",
        "/run and /tmp are empty",
        nonempty_run_tmp,
    )
    .of_bootc(),
    Lint::warning(
        "sysusers",
        "each user and group has a sysusers.d entry",
        sysusers_entries,
    )
    .of_bootc(),
    Lint::warning("var-log", "/var/log has no files with content", var_log).of_bootc(),
    Lint::warning(
        "var-tmpfiles",
        "everything in /var is made by tmpfiles.d",
        var_tmpfiles,
    )
    .of_bootc(),
    Lint::warning(
        "tmpfiles-syntax",
        "tmpfiles.d lines can be read",
        tmpfiles_syntax,
    ),
];

fn api_base_directories(input: &LintInput<'_>) -> Outcome {
    let dirs = ["dev", "proc", "sys", "run", "tmp", "var"];
    let missing = dirs.iter().filter(|dir| input.image.dir(dir).is_none());
    found_items(
        "no directory",
        missing.map(|dir| format!("/{dir}")).collect(),
    )
}

fn baseimage_root(input: &LintInput<'_>) -> Outcome {
    for base in ["", "usr/share/doc/bootc/baseimage/base/"] {
        if !base.is_empty() && input.image.dir(base.trim_end_matches('/')).is_none() {
            continue;
        }
        if input.image.dir(&format!("{base}sysroot")).is_none() {
            return found(format!("'/{base}sysroot' is no directory"));
        }
        let link = input
            .image
            .get(&format!("{base}ostree"))
            .and_then(Node::as_symlink);
        if link.is_none_or(|link| link.target != "sysroot/ostree") {
            return found(format!("'/{base}ostree' is no link to 'sysroot/ostree'"));
        }
    }
    clean()
}

fn bootc_kargs(input: &LintInput<'_>) -> Outcome {
    const DIR: &str = "usr/lib/bootc/kargs.d";
    let mut bad = Vec::new();
    let entries = input
        .image
        .dir(DIR)
        .into_iter()
        .flat_map(|d| d.entries.keys());
    for name in entries.filter(|name| name.ends_with(".toml")) {
        let path = format!("{DIR}/{name}");
        let data = read_optional(input.image, input.content, &path)?;
        let text = String::from_utf8(data.unwrap_or_default()).unwrap_or_default();
        if !is_kargs_file(&text) {
            bad.push(format!("/{path}"));
        }
    }
    found_items("no valid kernel argument file", bad)
}

/// True for a table with only the lists of strings `kargs` and `match-architectures`.
fn is_kargs_file(text: &str) -> bool {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    struct Kargs {
        #[serde(default, rename = "kargs")]
        _kargs: Vec<String>,
        #[serde(default, rename = "match-architectures")]
        _match_architectures: Vec<String>,
    }
    toml::from_str::<Kargs>(text).is_ok()
}

fn etc_usretc(input: &LintInput<'_>) -> Outcome {
    let both = |tree: &Tree| {
        tree.dir("etc").is_some_and(|d| !d.entries.is_empty()) && tree.dir("usr/etc").is_some()
    };
    if both(input.tree) || both(input.image) {
        return found("both '/etc' and '/usr/etc' exist");
    }
    clean()
}

fn kernel(input: &LintInput<'_>) -> Outcome {
    let dir = input.image.dir("usr/lib/modules");
    let names = dir.into_iter().flat_map(|d| d.entries.keys());
    let kernels: Vec<String> = names
        .map(|name| format!("usr/lib/modules/{name}/vmlinuz"))
        .filter(|path| input.image.file(path).is_some())
        .collect();
    if kernels.len() > 1 {
        return found_items("several kernels", kernels);
    }
    clean()
}

/// The tree's names are UTF-8 by their type; what is left to refuse are control characters.
fn printable_names(input: &LintInput<'_>) -> Outcome {
    let bad = input.image.walk().filter(|(path, node)| {
        let target = node.as_symlink().map_or("", |link| &link.target);
        path.rsplit('/')
            .next()
            .unwrap_or_default()
            .chars()
            .any(char::is_control)
            || target.chars().any(char::is_control)
    });
    found_items(
        "control characters in names",
        bad.map(|(path, _)| format!("/{path}")).collect(),
    )
}

fn var_run(input: &LintInput<'_>) -> Outcome {
    match input.image.get("var/run") {
        None | Some(Node::Symlink(_)) => clean(),
        Some(_) => found("'/var/run' is no link"),
    }
}

fn baseimage_composefs(input: &LintInput<'_>) -> Outcome {
    let mut bases = vec![""];
    const BASEIMAGE: &str = "usr/share/doc/bootc/baseimage/base";
    if input.image.dir(BASEIMAGE).is_some() {
        bases.push("usr/share/doc/bootc/baseimage/base/");
    }
    for base in bases {
        let paths = ["etc", "usr/lib"].map(|dir| format!("{base}{dir}/ostree/prepare-root.conf"));
        let mut text = None;
        for path in paths {
            text = match text {
                Some(text) => Some(text),
                None => read_text_optional(input.image, input.content, &path)?,
            };
        }
        let Some(text) = text else {
            return found(format!("no '/{base}usr/lib/ostree/prepare-root.conf'"));
        };
        if !turns_composefs_on(&text) {
            return found(format!(
                "'/{base}usr/lib/ostree/prepare-root.conf' does not turn composefs on"
            ));
        }
    }
    clean()
}

fn turns_composefs_on(text: &str) -> bool {
    let mut section = "";
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        let (key, value) = (key.trim(), value.trim());
        let yes = matches!(value, "yes" | "true" | "1");
        let composefs = yes || matches!(value, "maybe" | "verity" | "signed");
        if (section == "[composefs]" && key == "enabled" && composefs)
            || (section == "[root]" && key == "transient" && yes)
        {
            return true;
        }
    }
    false
}

fn buildah_injected(input: &LintInput<'_>) -> Outcome {
    let files = ["etc/hostname", "etc/resolv.conf"];
    let empty = files
        .iter()
        .filter(|path| input.image.file(path).is_some_and(|file| file.size == 0));
    found_items(
        "empty files",
        empty.map(|path| format!("/{path}")).collect(),
    )
}

fn nonempty_boot(input: &LintInput<'_>) -> Outcome {
    let Some(boot) = input.image.dir("boot") else {
        return found("'/boot' is no directory");
    };
    let names = boot.entries.keys().filter(|name| *name != "EFI");
    found_items(
        "'/boot' has content",
        names.map(|n| format!("/boot/{n}")).collect(),
    )
}

fn nonempty_run_tmp(input: &LintInput<'_>) -> Outcome {
    const TOLERATED: [&str; 3] = [
        "run/systemd",
        "run/systemd/resolve",
        "run/systemd/resolve/stub-resolv.conf",
    ];
    let nodes = ["run", "tmp"]
        .iter()
        .flat_map(|dir| input.image.walk_from(dir));
    let paths = nodes.map(|(path, _)| path);
    let paths = paths.filter(|path| !TOLERATED.contains(&path.as_str()));
    found_items(
        "content that a boot hides",
        paths.map(|p| format!("/{p}")).collect(),
    )
}

fn sysusers_entries(input: &LintInput<'_>) -> Outcome {
    let accounts = Accounts::load(input.image, input.content)?;
    let entries = sysusers::entries_of(input.image, input.content)?;
    let has = |kinds: &[char], name: &str| {
        entries
            .iter()
            .any(|e| kinds.contains(&e.kind) && e.name == name)
    };
    let mut missing = Vec::new();
    for user in &accounts.users {
        if !has(&['u'], &user.name) {
            missing.push(format!("user {}", user.name));
        }
    }
    for group in &accounts.groups {
        if !has(&['u', 'g'], &group.name) {
            missing.push(format!("group {}", group.name));
        }
    }
    found_items("no sysusers.d entry", missing)
}

fn var_log(input: &LintInput<'_>) -> Outcome {
    let files = input.image.walk_from("var/log");
    let logs = files.filter(|(_, node)| node.as_file().is_some_and(|f| f.size > 0));
    found_items("logs", logs.map(|(path, _)| format!("/{path}")).collect())
}

fn var_tmpfiles(input: &LintInput<'_>) -> Outcome {
    let lines = tmpfiles::lines_of(input.image, input.content)?;
    let made: BTreeSet<String> = lines
        .into_iter()
        .filter(tmpfiles::Line::creates)
        .map(|line| resolved_parent(input.image, &line.path))
        .collect();
    let mut bad = Vec::new();
    for (path, node) in input.image.walk_from("var") {
        let path = format!("/{path}");
        if matches!(node, Node::File(_)) || !made.contains(&path) {
            bad.push(path);
        }
    }
    found_items("not made by tmpfiles.d", bad)
}

/// The path with links in its parents followed, so that a line for `/root/x` counts for
/// `/var/roothome/x`.
fn resolved_parent(image: &Tree, path: &str) -> String {
    let real = crate::postprocess::work::real_path(image, path.trim_start_matches('/'));
    format!("/{real}")
}

fn tmpfiles_syntax(input: &LintInput<'_>) -> Outcome {
    let mut bad: Vec<String> = Vec::new();
    for dir in ["etc/tmpfiles.d", "usr/lib/tmpfiles.d"] {
        bad.extend(bad_lines(input, dir)?);
    }
    found_items("lines that can't be read", bad)
}

fn bad_lines(input: &LintInput<'_>, dir: &str) -> Result<Vec<String>> {
    let mut bad = Vec::new();
    for name in input
        .image
        .dir(dir)
        .into_iter()
        .flat_map(|d| d.entries.keys())
    {
        let path = format!("{dir}/{name}");
        let data = read_optional(input.image, input.content, &path)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&data);
        for (index, line) in text.lines().enumerate() {
            if tmpfiles::parse_line(line).is_err() {
                bad.push(format!("/{path}:{}", index + 1));
            }
        }
    }
    Ok(bad)
}
