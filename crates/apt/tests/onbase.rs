//! Choice on top of a base: its packages stay as they are.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::fmt::Write as _;

use apt_ostree_apt::{Additions, AptConfig, BaseSpec, Session};
use apt_ostree_model::{ErrorKind, RecordingReporter};
use camino::Utf8Path;
use common::*;

/// The archive: newer than the base where a package has version 2.
const ARCHIVE: [(&str, &str, &str); 9] = [
    ("base", "1", "Essential: yes"),
    ("lib", "2", ""),
    ("tool", "1", "Depends: lib"),
    ("dev", "2", "Depends: lib (= 2)"),
    ("either", "1", "Depends: dev | tool"),
    ("mta", "1", "Provides: agent\nConflicts: agent"),
    ("leaf", "2", ""),
    ("user", "1", "Depends: leaf"),
    ("lost", "1", "Depends: nowhere"),
];

/// `name version fields` of what is installed.
const BASE: [(&str, &str, &str); 5] = [
    ("base", "1", "Essential: yes"),
    ("lib", "1", ""),
    ("old-mta", "1", "Provides: agent\nConflicts: agent"),
    ("leaf", "1", ""),
    ("needs-leaf", "1", "Depends: leaf"),
];

fn status() -> String {
    let mut text = String::new();
    for (name, version, fields) in BASE {
        writeln!(
            text,
            "Package: {name}\nStatus: install ok installed\nMaintainer: x\nArchitecture: amd64\nVersion: {version}\nDescription: x\n{fields}\n"
        )
        .unwrap();
    }
    text.replace("x\n\n\n", "x\n\n")
}

fn on_base(dir: &Utf8Path, packages: &[&str], base: BaseSpec) -> AptConfig {
    let mut repo = Repo::new(dir, "repo", "good");
    for (name, version, fields) in ARCHIVE {
        repo.stanza(name, version, fields);
    }
    repo.publish();
    let mut config = config(dir, vec![repo.spec("test")], packages);
    config.spec.base = Some(BaseSpec {
        status: status(),
        ..base
    });
    config
}

fn solve_on_base(config: AptConfig) -> anyhow::Result<Additions> {
    let reporter = RecordingReporter::default();
    let mut session = Session::open(config, &reporter)?;
    session.update(&reporter)?;
    session.solve_on_base(&reporter)
}

fn refusal(config: AptConfig) -> String {
    let (kind, text) = refused(solve_on_base(config));
    assert_eq!(kind, ErrorKind::Unsatisfiable, "{text}");
    text
}

#[test]
fn only_what_is_missing_is_planned() {
    steps(
        "only_what_is_missing_is_planned",
        &[&|dir| {
            let config = on_base(
                dir,
                &["tool", "leaf", "agent", "either"],
                BaseSpec::default(),
            );
            let found = solve_on_base(config).unwrap();
            assert_eq!(names(&found.plan), ["either=1", "tool=1"]);
            assert_eq!(found.inactive.len(), 2);
            assert_eq!(found.changes, []);
        }],
    );
}

#[test]
fn changes_of_the_base_are_refused_and_say_who_asks() {
    steps(
        "changes_of_the_base_are_refused_and_say_who_asks",
        &[
            &|dir| {
                let text = refusal(on_base(dir, &["tool", "dev"], BaseSpec::default()));
                assert!(
                    text.contains("'dev' would replace the base package 'lib' 1 by 2"),
                    "{text}"
                );
                assert!(
                    text.contains("apt-ostree upgrade") && text.contains("lib=2"),
                    "{text}"
                );
                assert!(!text.contains("'tool'"), "{text}");
            },
            &|dir| {
                let text = refusal(on_base(dir, &["mta"], BaseSpec::default()));
                assert!(
                    text.contains("'mta' would remove the base package 'old-mta' 1"),
                    "{text}"
                );
            },
            &|dir| {
                let text = refusal(on_base(dir, &["leaf=2"], BaseSpec::default()));
                assert!(
                    text.contains("'leaf=2' would replace the base package 'leaf' 1 by 2"),
                    "{text}"
                );
            },
            &|dir| {
                let text = refusal(on_base(dir, &["nope", "nada", "tool"], BaseSpec::default()));
                assert!(text.contains("'nope'") && text.contains("'nada'"), "{text}");
            },
            &|dir| {
                let text = refusal(on_base(dir, &["lost"], BaseSpec::default()));
                assert!(text.contains("lost needs nowhere"), "{text}");
            },
        ],
    );
}

#[test]
fn overrides_change_the_base() {
    steps(
        "overrides_change_the_base",
        &[
            &|dir| {
                let base = BaseSpec {
                    remove: vec!["old-mta".parse().unwrap(), "absent".parse().unwrap()],
                    ..BaseSpec::default()
                };
                let found = solve_on_base(on_base(dir, &["mta"], base)).unwrap();
                assert_eq!(names(&found.plan), ["mta=1"]);
                assert_eq!(found.changes.len(), 1);
                assert_eq!(found.changes[0].name, "old-mta");
                assert_eq!(found.changes[0].new, None);
                assert_eq!(found.inactive_removals.len(), 1);
            },
            &|dir| {
                let base = BaseSpec {
                    replace: vec![request("lib=2")],
                    ..BaseSpec::default()
                };
                let found = solve_on_base(on_base(dir, &["dev"], base)).unwrap();
                assert_eq!(names(&found.plan), ["dev=2", "lib=2"]);
                assert_eq!(found.changes[0].new.as_deref(), Some("2"));
            },
            &|dir| {
                let base = BaseSpec {
                    remove: vec!["leaf".parse().unwrap()],
                    ..BaseSpec::default()
                };
                let text = refusal(on_base(dir, &[], base));
                assert!(
                    text.contains("'needs-leaf'") && text.contains("'leaf'"),
                    "{text}"
                );
            },
        ],
    );
}
