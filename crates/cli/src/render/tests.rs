use std::collections::BTreeMap;

use apt_ostree_model::compose::{
    CommitStats, ComposeReport, ImageFormat, ImageReport, Outcome, PackageDiff,
};
use apt_ostree_model::{Event, Plan, Sha256Digest, Step};
use insta::assert_snapshot;

use super::*;

/// Everything that `events` print, warnings marked by `!`.
fn rendered(level: Level, announce: bool, events: &[Event]) -> String {
    let mut lines = Lines::new(level, announce);
    let mut text = String::new();
    for event in events {
        match lines.render(event) {
            Some(Line::Out(out)) => text.push_str(&out),
            Some(Line::Warning(warning)) => {
                text.push_str(lines.break_line());
                text.push_str(&format!("! {warning}\n"));
            }
            None => {}
        }
    }
    text
}

fn finished(step: Step, seconds: f64, summary: &str) -> Event {
    Event::StepFinished {
        step,
        seconds,
        summary: summary.to_owned(),
    }
}

fn run() -> Vec<Event> {
    let text = |text: &str| text.to_owned();
    vec![
        Event::StepStarted { step: Step::Import },
        Event::StepProgress {
            step: Step::Import,
            done: 1,
            total: 12,
            bytes: false,
            item: Some(text("bash")),
        },
        finished(Step::Import, 3.21, "173 packages, 12 imported"),
        Event::Message {
            text: text("A message."),
        },
        Event::StepStarted {
            step: Step::Configure,
        },
        Event::Detail {
            text: text("group 0: 60 packages"),
        },
        Event::Output {
            source: text("libc6.postinst"),
            line: text("a\x1b[2Jb"),
        },
        Event::Warning {
            text: text("'x' is odd"),
        },
        finished(Step::Configure, 75.0, "173 packages"),
        Event::StepStarted { step: Step::Lint },
        finished(Step::Lint, 0.04, ""),
    ]
}

#[test]
fn a_pipe_gets_one_line_per_step() {
    assert_snapshot!(rendered(Level::Normal, true, &run()), @r#"
    Importing packages... 173 packages, 12 imported (3.2s)
    A message.
    Running maintainer scripts...
    ! 'x' is odd
    Running maintainer scripts... 173 packages (1m15s)
    Checking tree... (0.0s)
    "#);
}

#[test]
fn verbose_shows_details_and_script_output_with_control_bytes_escaped() {
    assert_snapshot!(rendered(Level::Verbose, true, &run()), @r#"
    Importing packages... 173 packages, 12 imported (3.2s)
    A message.
    Running maintainer scripts...
      group 0: 60 packages
      libc6.postinst: a\x1b[2Jb
    ! 'x' is odd
    Running maintainer scripts... 173 packages (1m15s)
    Checking tree... (0.0s)
    "#);
}

#[test]
fn a_terminal_gets_a_line_when_a_step_is_done() {
    assert_snapshot!(rendered(Level::Normal, false, &run()), @r#"
    Importing packages... 173 packages, 12 imported (3.2s)
    A message.
    ! 'x' is odd
    Running maintainer scripts... 173 packages (1m15s)
    Checking tree... (0.0s)
    "#);
}

#[test]
fn quiet_shows_warnings_only() {
    assert_snapshot!(rendered(Level::Quiet, true, &run()), @"! 'x' is odd");
}

fn digest(byte: u8) -> Sha256Digest {
    format!("{byte:02x}").repeat(32).parse().unwrap()
}

fn image(format: ImageFormat, path: &str, layers: usize) -> ImageReport {
    ImageReport {
        format,
        path: path.into(),
        digest: digest(0xab),
        reference: "localhost/test/minimal:latest".to_owned(),
        layers,
        size: 98_100_000,
    }
}

fn report() -> ComposeReport {
    let version = |version: &str| Some((version.to_owned(), "amd64".to_owned()));
    let diff = |name: &str, previous, new| PackageDiff {
        name: name.to_owned(),
        previous,
        new,
    };
    ComposeReport {
        r#ref: Some("test/minimal".to_owned()),
        repo: Some("output/repo".into()),
        commit: "ab".repeat(32),
        content_checksum: "cd".repeat(32),
        version: Some("13.1".to_owned()),
        timestamp: 1_700_000_000,
        inputhash: "ef".repeat(32),
        packages: 173,
        size: 312_449_000,
        images: vec![
            image(ImageFormat::Oci, "output/test_minimal.oci", 12),
            image(ImageFormat::DockerArchive, "my dir/test_minimal.tar", 1),
        ],
        pkgdiff: vec![
            diff("bash", version("5.2-1"), version("5.2-2")),
            diff("gawk", None, version("1:5")),
            diff("mawk", version("1.3"), None),
        ],
        stats: CommitStats {
            n_metadata_total: 900,
            n_metadata_written: 20,
            n_content_total: 9000,
            n_content_written: 7,
            n_cache_hits: 0,
            content_bytes_written: 4096,
        },
    }
}

fn timings() -> Timings {
    Timings {
        steps: BTreeMap::from([
            (Step::Load, 0.001),
            (Step::Acquire, 4.25),
            (Step::Configure, 61.0),
        ]),
        total: 66.3,
    }
}

#[test]
fn a_compose_ends_with_what_was_made_and_how_to_run_it() {
    let outcome = Outcome::Composed(report());
    assert_snapshot!(outcome_text(&outcome, &timings(), false), @r#"
    test/minimal: 173 packages, 312.4 MB
      commit      abababababababababababababababababababababababababababababababab
      version     13.1
      repository  output/repo
      image       output/test_minimal.oci
                  oci, localhost/test/minimal:latest, 12 layers, 98.1 MB
                  sha256:abababababababababababababababababababababababababababababababab
      image       my dir/test_minimal.tar
                  docker-archive, localhost/test/minimal:latest, 1 layer, 98.1 MB
                  sha256:abababababababababababababababababababababababababababababababab
      packages    1 changed, 1 added, 1 removed
      time        acquire 4.2s, configure 1m01s, total 1m06s
    Try it:
      skopeo inspect oci:output/test_minimal.oci
      podman load -i 'my dir/test_minimal.tar'
      podman run --rm -it localhost/test/minimal:latest bash
      ostree --repo=output/repo ls test/minimal
    "#);
}

#[test]
fn verbose_adds_checksums_and_package_changes() {
    let outcome = Outcome::Composed(report());
    assert_snapshot!(outcome_text(&outcome, &timings(), true), @r#"
    test/minimal: 173 packages, 312.4 MB
      commit      abababababababababababababababababababababababababababababababab
      version     13.1
      repository  output/repo
      content     cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd
      input hash  efefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefef
      objects     20 of 900 metadata and 7 of 9000 content objects written, 4.0 kB
      image       output/test_minimal.oci
                  oci, localhost/test/minimal:latest, 12 layers, 98.1 MB
                  sha256:abababababababababababababababababababababababababababababababab
      image       my dir/test_minimal.tar
                  docker-archive, localhost/test/minimal:latest, 1 layer, 98.1 MB
                  sha256:abababababababababababababababababababababababababababababababab
      packages    1 changed, 1 added, 1 removed
                  bash 5.2-1 -> 5.2-2
                  + gawk 1:5
                  - mawk 1.3
      time        acquire 4.2s, configure 1m01s, total 1m06s
    Try it:
      skopeo inspect oci:output/test_minimal.oci
      podman load -i 'my dir/test_minimal.tar'
      podman run --rm -it localhost/test/minimal:latest bash
      ostree --repo=output/repo ls test/minimal
    "#);
}

#[test]
fn paths_below_the_current_directory_are_short() {
    let mut long = report();
    long.repo = Some("/w/output/repo".into());
    long.images = vec![
        image(ImageFormat::Oci, "/w/output/x.oci", 1),
        image(ImageFormat::Oci, "/w", 1),
        image(ImageFormat::Oci, "/www/x.oci", 1),
    ];
    let mut outcome = Outcome::Composed(long);
    report::shorten_paths(&mut outcome, "/w".as_ref());
    let Outcome::Composed(short) = outcome else {
        panic!("still a compose")
    };
    assert_eq!(short.repo, Some("output/repo".into()));
    let paths: Vec<_> = short
        .images
        .iter()
        .map(|image| image.path.to_str())
        .collect();
    assert_eq!(
        paths,
        [Some("output/x.oci"), Some("/w"), Some("/www/x.oci")]
    );
}

#[test]
fn unchanged_says_how_to_go_on_anyway() {
    let outcome = Outcome::Unchanged {
        r#ref: Some("test/minimal".to_owned()),
        commit: Some("ab".repeat(32)),
        inputhash: "ef".repeat(32),
    };
    assert_snapshot!(outcome_text(&outcome, &timings(), false), @r#"
    No apparent changes since the previous compose of test/minimal; use --force-nocache to compose again
      commit      abababababababababababababababababababababababababababababababab
    "#);
}

#[test]
fn a_dry_run_prints_a_table_of_packages() {
    let package = |name: &str, arch: &str, size: u64| {
        serde_json::json!({
            "name": name, "version": "1:2.0-1", "arch": arch, "sha256": digest(1), "size": size,
            "source": "s", "source-version": "1", "repo": "debian", "uri": "file:/x", "group": 0,
        })
    };
    let plan: Plan = serde_json::from_value(serde_json::json!({
        "arch": "amd64",
        "sources": [],
        "packages": [
            package("libc6", "amd64", 2_800_000),
            package("libc6", "i386", 2_500_000),
            package("adduser", "all", 900),
        ],
    }))
    .unwrap();
    assert_snapshot!(outcome_text(&Outcome::Planned { plan }, &timings(), false), @r#"
    libc6       1:2.0-1  debian  2.8 MB
    libc6:i386  1:2.0-1  debian  2.5 MB
    adduser     1:2.0-1  debian  900 bytes
    3 packages, 5.3 MB to download when nothing is cached
    "#);
}

#[test]
fn downloads_and_roots_are_one_line() {
    let downloaded = Outcome::Downloaded {
        packages: 3,
        bytes: 1_500,
    };
    assert_snapshot!(outcome_text(&downloaded, &timings(), false), @"Downloaded 3 packages, 1.5 kB");
    let root = Outcome::Root {
        path: "dest/rootfs".into(),
    };
    assert_snapshot!(outcome_text(&root, &timings(), false), @r#"
    Root directory: dest/rootfs
      time        acquire 4.2s, configure 1m01s, total 1m06s
    "#);
}

#[test]
fn messages_of_several_lines_are_indented_and_escaped() {
    assert_eq!(indented("one\ntwo\x1b[0m\n"), "one\n  two\\x1b[0m\n");
}
