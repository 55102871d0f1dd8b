use apt_ostree_model::client::{ClientOutcome, DeployReport, LiveReport};
use insta::assert_snapshot;
use proptest::prelude::*;

use super::super::ending::{Ending, client_text};
use super::*;

fn entry(name: &str, old: Option<(&str, &str)>, new: Option<(&str, &str)>) -> PackageDiff {
    let side = |(version, arch): (&str, &str)| (version.to_owned(), arch.to_owned());
    PackageDiff {
        name: name.to_owned(),
        previous: old.map(side),
        new: new.map(side),
    }
}

fn diff() -> Vec<PackageDiff> {
    let amd64 = |version| Some((version, "amd64"));
    vec![
        entry("bash", amd64("5.2-1"), amd64("5.2-2")),
        entry("htop", None, amd64("3.2.2-2")),
        entry("libc6", amd64("2.40-1"), amd64("2.41-1")),
        entry("libc6", Some(("2.40-1", "i386")), Some(("2.41-1", "i386"))),
        entry("nano", amd64("7.2-1"), None),
        entry("vim", amd64("2:9.1-1"), amd64("2:9.1~rc1-1")),
        entry("zstd", amd64("9"), amd64("10")),
    ]
}

fn sides() -> (DiffSide, DiffSide) {
    let side = |digit: &str, what| DiffSide {
        revision: digit.repeat(64),
        what,
    };
    (side("a", Some("booted deployment")), side("b", None))
}

fn formatted(format: DiffFormat) -> String {
    let (from, to) = sides();
    diff_text(&from, &to, &diff(), format).unwrap()
}

#[test]
fn a_block_for_each_kind_of_difference() {
    assert_snapshot!(formatted(DiffFormat::Block), @r"
    ostree diff commit from: booted deployment (aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa)
    ostree diff commit to:   bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
    Upgraded:
      bash 5.2-1 -> 5.2-2
      libc6:amd64 2.40-1 -> 2.41-1
      libc6:i386 2.40-1 -> 2.41-1
      zstd 9 -> 10
    Downgraded:
      vim 2:9.1-1 -> 2:9.1~rc1-1
    Removed:
      nano 7.2-1
    Added:
      htop 3.2.2-2
    ");
}

#[test]
fn a_line_for_each_side() {
    let text = formatted(DiffFormat::Diff);
    let lines: Vec<&str> = text.lines().skip(2).take(3).collect();
    assert_eq!(
        lines,
        [
            "!bash_5.2-1_amd64",
            "=bash_5.2-2_amd64",
            "+htop_3.2.2-2_amd64"
        ]
    );
    assert!(text.contains("\n-nano_7.2-1_amd64\n"));
}

#[test]
fn json_has_the_shape_of_rpm_ostree() {
    let value: Value = serde_json::from_str(&formatted(DiffFormat::Json)).unwrap();
    assert_eq!(value["ostree-commit-from"], "a".repeat(64));
    assert_eq!(value["ostree-commit-to"], "b".repeat(64));
    let expected = json!([
        "bash",
        2,
        {"PreviousPackage": ["bash", "5.2-1", "amd64"], "NewPackage": ["bash", "5.2-2", "amd64"]}
    ]);
    assert_eq!(value["pkgdiff"][0], expected);
    let expected = json!(["htop", 0, {"NewPackage": ["htop", "3.2.2-2", "amd64"]}]);
    assert_eq!(value["pkgdiff"][1], expected);
    let kinds: Vec<u64> = value["pkgdiff"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry[1].as_u64().unwrap())
        .collect();
    assert_eq!(kinds, [2, 0, 2, 2, 1, 3, 2]);
}

fn report() -> DeployReport {
    DeployReport {
        checksum: "c".repeat(64),
        version: Some("13.2".to_owned()),
        staged: true,
        pkgdiff: diff(),
        reboot: false,
        live: None,
    }
}

fn live() -> LiveReport {
    LiveReport {
        checksum: "c".repeat(64),
        pkgdiff: diff(),
        restart: vec!["cron.service".to_owned()],
        start: vec!["new\u{1b}.service".to_owned()],
        ..LiveReport::default()
    }
}

#[test]
fn a_live_change_ends_with_what_is_left_to_do() {
    let text = client_text(&ClientOutcome::Live(live()), Ending::default());
    assert!(text.contains("restart or stop them:\n  cron.service\n"));
    assert!(
        text.contains("\"systemctl start\":\n  new\\x1b.service\n"),
        "{text}"
    );
    assert!(text.ends_with("Changes are applied to the running system.\n"));
    let reset = LiveReport {
        reset: true,
        ..LiveReport::default()
    };
    let text = client_text(&ClientOutcome::Live(reset), Ending::default());
    assert_eq!(text, "The running system is as it was booted.\n");
}

#[test]
fn a_change_ends_with_what_to_do_next() {
    let plain = Ending::default();
    let last = |report: DeployReport, ending| {
        let text = client_text(&ClientOutcome::Deployed(report), ending);
        text.lines().last().unwrap().to_owned()
    };
    assert_eq!(
        last(report(), plain),
        "Changes queued for next boot. Run \"systemctl reboot\" to start a reboot"
    );
    let locked = Ending {
        locked: true,
        ..plain
    };
    assert!(last(report(), locked).contains(&format!("finalize-deployment {}", "c".repeat(64))));
    let offline = Ending {
        offline: true,
        ..plain
    };
    assert_eq!(
        last(report(), offline),
        format!("Deployed {}", "c".repeat(64))
    );
    let live = DeployReport {
        live: Some(live()),
        ..report()
    };
    assert_eq!(
        last(live, plain),
        "Changes are applied to the running system and boot next"
    );
    let rebooting = DeployReport {
        reboot: true,
        ..report()
    };
    assert_eq!(last(rebooting, plain), "Rebooting.");
    let text = client_text(&ClientOutcome::Deployed(report()), plain);
    assert!(
        text.starts_with("Upgraded:\n  bash 5.2-1 -> 5.2-2\n"),
        "{text}"
    );
}

#[test]
fn other_outcomes_are_a_sentence_or_a_block() {
    let text = |outcome| client_text(&outcome, Ending::default());
    let message = "No updates available.".to_owned();
    assert_eq!(
        text(ClientOutcome::Unchanged { message }),
        "No updates available.\n"
    );
    assert_eq!(
        text(ClientOutcome::Planned(DeployReport::default())),
        "No packages change.\n"
    );
    let bytes = 12_345_678;
    assert_eq!(
        text(ClientOutcome::Downloaded { bytes }),
        "Downloaded 12.3 MB.\n"
    );
    let cleaned = |bytes, deployments| text(ClientOutcome::Cleaned { bytes, deployments });
    assert_eq!(cleaned(0, 0), "Deployments unchanged.\n");
    assert_eq!(cleaned(1_000, 1), "Removed 1 deployment.\nFreed: 1.0 kB\n");
    let kargs = "root=UUID=1 quiet".to_owned();
    assert_eq!(text(ClientOutcome::Kargs { kargs }), "root=UUID=1 quiet\n");
    let available = ClientOutcome::Available(report());
    assert_snapshot!(text(available.clone()), @r"
    AvailableUpdate:
      Version: 13.2
       Commit: cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc
         Diff: 4 upgraded, 1 downgraded, 1 removed, 1 added
    ");
    let preview = Ending {
        preview: true,
        ..Ending::default()
    };
    assert!(client_text(&available, preview).contains("\nUpgraded:\n  bash"));
}

#[test]
fn a_list_has_a_line_a_package_and_a_version_does_not_depend_on_their_order() {
    let row = |name: &str| (name.to_owned(), "1".to_owned(), "all".to_owned());
    let packages = [row("b"), row("a")];
    assert_eq!(
        package_list_text("x", &packages),
        "ostree commit: x\n b 1 all\n a 1 all\n"
    );
    let text = package_version_text("x", &packages).unwrap();
    assert_eq!(
        text,
        package_version_text("x", &[row("a"), row("b")]).unwrap()
    );
    assert!(text.starts_with("ostree commit: x\n  2:"), "{text}");
    assert_ne!(text, package_version_text("x", &packages[..1]).unwrap());
}

proptest! {
    #[test]
    fn every_entry_is_shown_once_and_harmless(
        names in prop::collection::vec("\\PC{1,8}|[\0-\u{7f}]{1,8}", 0..8),
        sides in 0u8..3,
    ) {
        let some = |shown| if shown { Some(("1", "all")) } else { None };
        let diff: Vec<PackageDiff> =
            names.iter().map(|name| entry(name, some(sides != 0), some(sides != 1))).collect();
        let text = pkgdiff_text(&diff);
        let lines = text.split('\n').filter(|line| line.starts_with("  ")).count();
        prop_assert_eq!(lines, diff.len());
        prop_assert!(text.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()));
    }
}
