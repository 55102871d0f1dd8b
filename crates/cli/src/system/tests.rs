use clap::Parser;

use super::*;
use crate::cli::{Cli, Verb};

fn verb(line: &str) -> ClientVerb {
    let args = std::iter::once("apt-ostree").chain(line.split(' '));
    match Cli::try_parse_from(args).unwrap().verb {
        Some(Verb::Client(verb)) => verb,
        _ => panic!("no verb on a system in '{line}'"),
    }
}

#[test]
fn check_and_preview_of_an_upgrade_imply_status_77() {
    for (line, expected) in [
        ("upgrade", false),
        ("upgrade --check", true),
        ("upgrade --preview", true),
        ("upgrade --unchanged-exit-77", true),
        ("deploy x --preview", false),
        ("deploy x --unchanged-exit-77", true),
        ("install xx --unchanged-exit-77", true),
        ("kargs --append a --unchanged-exit-77", true),
        ("rollback", false),
    ] {
        assert_eq!(How::of(&verb(line)).unchanged_exit_77, expected, "{line}");
    }
}

#[test]
fn only_changes_of_the_running_system_are_asked_about() {
    for (line, expected) in [
        ("install xx", false),
        ("install xx -A", true),
        ("uninstall xx -A", true),
        ("install xx -A -y", false),
        ("install xx -A -n", false),
        ("install xx -A --json", false),
    ] {
        assert_eq!(How::of(&verb(line)).ask, expected, "{line}");
    }
}

#[test]
fn kargs_without_changes_prints() {
    for (line, expected) in [
        ("kargs", true),
        ("kargs --deploy-index 1", true),
        ("kargs --append a", false),
        ("kargs --delete-if-present a", false),
        ("kargs --import-proc-cmdline", false),
        ("kargs --editor", false),
    ] {
        let ClientVerb::Kargs(args) = verb(line) else {
            panic!("not kargs")
        };
        assert_eq!(args.only_prints(), expected, "{line}");
    }
}

#[test]
fn every_change_can_wait() {
    for line in [
        "upgrade",
        "rollback",
        "deploy 1",
        "rebase x",
        "install xx",
        "uninstall xx",
        "override remove xx",
        "override reset -a",
        "override replace x.deb",
        "reset",
        "kargs --append a",
        "initramfs --enable",
        "cleanup -b",
        "finalize-deployment --allow-missing-checksum",
    ] {
        assert!(!How::of(&verb(line)).wait, "{line}");
        assert!(How::of(&verb(&format!("{line} --wait"))).wait, "{line}");
    }
}
