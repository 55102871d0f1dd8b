//! Man pages: one for the program, one for each verb.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

/// Writes `NAME.1` for `command` and all that is below it into `dir`.
pub(crate) fn write(command: &Command, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("making '{}'", dir.display()))?;
    let mut command = command.clone();
    command.build();
    write_tree(&command, command.get_name(), &[], dir)
}

fn write_tree(command: &Command, name: &str, parents: &[String], dir: &Path) -> Result<()> {
    let children: Vec<(&Command, String)> = command
        .get_subcommands()
        .filter(|child| !child.is_hide_set())
        .map(|child| (child, format!("{name}-{}", child.get_name())))
        .collect();
    let mut related = parents.to_vec();
    related.extend(children.iter().map(|(_, name)| name.clone()));
    let path = dir.join(format!("{name}.1"));
    let text = page(command, name, &related)?;
    fs::write(&path, text).with_context(|| format!("writing '{}'", path.display()))?;
    let mut parents = parents.to_vec();
    parents.push(name.to_owned());
    for (child, child_name) in children {
        write_tree(child, &child_name, &parents, dir)?;
    }
    Ok(())
}

fn page(command: &Command, name: &str, related: &[String]) -> Result<Vec<u8>> {
    // `name` has to be the one with dashes in title and NAME, and the one with blanks in SYNOPSIS.
    let named = command
        .clone()
        .display_name(name.to_owned())
        .disable_help_subcommand(true);
    let man = Man::new(named)
        .title(name.to_uppercase())
        .section("1")
        .source(format!("apt-ostree {}", env!("CARGO_PKG_VERSION")))
        .manual("apt-ostree");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        man.render_options_section(&mut text)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    common_sections(related).to_writer(&mut text)?;
    Ok(text)
}

/// What holds for every verb.
fn common_sections(related: &[String]) -> Roff {
    let mut roff = Roff::new();
    section(&mut roff, "EXIT STATUS");
    entry(&mut roff, "0", "Done.");
    entry(&mut roff, "1", "Failure; standard error tells why.");
    entry(&mut roff, "2", "The command line is wrong.");
    entry(
        &mut roff,
        "77",
        "Nothing changed, with --unchanged-exit-77, upgrade --check or upgrade --preview; or a \
         deployment waits for a reboot, with status --pending-exit-77.",
    );
    section(&mut roff, "ENVIRONMENT");
    for (name, text) in ENVIRONMENT {
        entry(&mut roff, name, text);
    }
    section(&mut roff, "SEE ALSO");
    let mut pages: Vec<String> = related.iter().map(|name| format!("{name}(1)")).collect();
    pages.extend(["ostree(1)", "sources.list(5)"].map(str::to_owned));
    roff.text([roman(pages.join(", "))]);
    roff
}

const ENVIRONMENT: [(&str, &str); 7] = [
    (
        "SOURCE_DATE_EPOCH",
        "Time of the commit in seconds since 1970, instead of that of the newest package.",
    ),
    (
        "http_proxy, https_proxy",
        "Proxies for downloads; --proxy goes first.",
    ),
    (
        "APTOSTREE_PRESERVE_TMPDIR",
        "When set, temporary work is kept when a run fails, as with --keep-workdir.",
    ),
    (
        "APTOSTREE_SUPPRESS_REQUIRES_ROOT_CHECK",
        "When set, verbs don't ask to be run as root.",
    ),
    (
        "VISUAL, EDITOR",
        "Editor for kargs --editor; VISUAL goes first.",
    ),
    ("APTOSTREE_WORKER", "Path of another worker program."),
    (
        "APTOSTREE_LOG",
        "Filter for log messages of the worker, such as debug.",
    ),
];

fn section(roff: &mut Roff, title: &str) {
    roff.control("SH", [title]);
}

fn entry(roff: &mut Roff, term: &str, text: &str) {
    roff.control("TP", []);
    roff.text([roman(term)]);
    roff.text([roman(text)]);
}
