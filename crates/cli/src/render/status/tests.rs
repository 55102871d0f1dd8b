use apt_ostree_model::PackageName;
use apt_ostree_model::status::DiffChange;
use insta::assert_snapshot;
use serde_json::json;

use super::*;

fn checksum(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn id(name: &str, version: &str) -> PackageId {
    let name: PackageName = name.parse().unwrap();
    PackageId::new(&name, &version.parse().unwrap(), &"amd64".parse().unwrap())
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// A plain deployment of a branch.
fn plain(digit: char, version: &str) -> Deployment {
    Deployment {
        id: format!("debian-{}.0", checksum(digit)),
        osname: "debian".to_owned(),
        checksum: checksum(digit),
        version: Some(version.to_owned()),
        timestamp: 1_764_496_800,
        origin: Some("origin:debian/13/x86_64".to_owned()),
        unlocked: "none".to_owned(),
        ..Deployment::default()
    }
}

fn layered() -> Deployment {
    Deployment {
        booted: true,
        base_checksum: Some(checksum('b')),
        base_version: Some("13.1".to_owned()),
        base_timestamp: Some(1_764_410_400),
        packages: strings(&["vim", "htop", "openssh-server", "zstd", "tmux", "git"]),
        requested_packages: strings(&[
            "vim",
            "htop",
            "bash",
            "openssh-server",
            "zstd",
            "tmux",
            "git",
        ]),
        requested_local_packages: strings(&["mytool_1.0_amd64"]),
        pinned: true,
        ..plain('a', "13.1")
    }
}

fn overridden() -> Deployment {
    Deployment {
        base_checksum: Some(checksum('d')),
        requested_base_removals: strings(&["nano", "gone"]),
        base_removals: vec![id("nano", "7.2-1")],
        requested_base_local_replacements: strings(&["bash_5.3-1_amd64", "old_1_amd64"]),
        base_local_replacements: vec![(id("bash", "5.3-1"), id("bash", "5.2-2"))],
        requested_base_remote_replacements: vec![(
            "suite=sid".to_owned(),
            strings(&["systemd", "libsystemd0", "udev", "absent"]),
        )],
        base_remote_replacements: BTreeMap::from([(
            "suite=sid".to_owned(),
            vec![
                (id("udev", "260-1"), id("udev", "257-1")),
                (id("systemd", "260-1"), id("systemd", "257-1")),
                (id("libsystemd0", "1:260-1"), id("libsystemd0", "257-1")),
            ],
        )]),
        regenerate_initramfs: true,
        initramfs_args: strings(&["-I", "/etc/my file"]),
        initramfs_etc: strings(&["/etc/crypttab"]),
        unlocked: "development".to_owned(),
        endoflife: Some("use debian/14".to_owned()),
        ..plain('c', "13.0")
    }
}

fn staged_image() -> Deployment {
    Deployment {
        staged: true,
        finalization_locked: true,
        origin: None,
        container_image_reference: Some("ostree-unverified-image:oci:/srv/image".to_owned()),
        container_image_reference_digest: Some(format!("sha256:{}", checksum('1'))),
        version: None,
        ..plain('e', "")
    }
}

fn of(deployments: Vec<Deployment>) -> Status {
    Status {
        deployments,
        ..Status::default()
    }
}

fn shown(status: &Status, verbose: bool, width: Option<usize>) -> String {
    let text = status_text(
        status,
        &StatusNotes::default(),
        StatusView { verbose, width },
    );
    anstream::adapter::strip_str(&text).to_string()
}

#[test]
fn a_layered_booted_deployment_between_a_pending_and_a_rollback_one() {
    let pending = Deployment {
        staged: true,
        ..plain('f', "13.2")
    };
    let status = of(vec![pending, layered(), plain('9', "13.0")]);
    assert_snapshot!("status_layered", shown(&status, false, Some(60)));
    assert_snapshot!("status_layered_verbose", shown(&status, true, None));
}

#[test]
fn overrides_and_the_initramfs() {
    assert_snapshot!(
        "status_overridden",
        shown(&of(vec![overridden()]), false, None)
    );
}

#[test]
fn a_locked_image_a_custom_origin_and_a_live_system() {
    let custom = Deployment {
        custom_origin: Some((
            "https://example".to_owned(),
            "Our build\u{1b}[2J".to_owned(),
        )),
        remote_error: Some("remote 'x' not found".to_owned()),
        gpg_enabled: Some(true),
        signatures: Some(vec![json!([])]),
        booted: true,
        live_replaced: Some(checksum('7')),
        base_checksum: Some(checksum('8')),
        ..plain('6', "1")
    };
    let status = of(vec![staged_image(), custom]);
    assert_snapshot!("status_image", shown(&status, false, None));
}

#[test]
fn the_head_tells_who_works_and_the_tail_what_is_new() {
    let change: DiffChange = (
        0,
        "bash".to_owned(),
        ("1".to_owned(), "amd64".to_owned()),
        ("2".to_owned(), "amd64".to_owned()),
    );
    let status = Status {
        deployments: Vec::new(),
        transaction: Some(("upgrade".to_owned(), ":1.5".to_owned(), "/x".to_owned())),
        cached_update: Some(CachedUpdate {
            checksum: checksum('2'),
            version: Some("13.3".to_owned()),
            timestamp: 1_764_496_800,
            ref_has_new_commit: true,
            rpm_diff: UpdateDiff {
                upgraded: vec![change],
                ..UpdateDiff::default()
            },
            ..CachedUpdate::default()
        }),
        update_driver: Some(UpdateDriver {
            driver_name: "Agent".to_owned(),
            driver_sd_unit: "agent.service".to_owned(),
        }),
    };
    assert_snapshot!("status_busy", shown(&status, false, None));
}

#[test]
fn only_the_booted_deployment_is_marked() {
    let text = status_text(
        &of(vec![plain('f', "1"), layered()]),
        &StatusNotes::default(),
        StatusView::default(),
    );
    let marked: Vec<&str> = text.lines().filter(|line| line.contains('●')).collect();
    assert_eq!(marked.len(), 1);
    // Escapes are there for the printer to take away where they have no place.
    assert!(marked[0].starts_with('\u{1b}'));
    assert_eq!(text.matches('\u{1b}').count(), 4);
}

#[test]
fn json_has_the_keys_of_rpm_ostree() {
    let status = of(vec![staged_image(), layered(), overridden()]);
    assert_snapshot!("status_json", status_json(&status, None).unwrap());
}

#[test]
fn jsonpath_gives_an_array_of_what_is_found() {
    let status = of(vec![staged_image(), layered()]);
    let find = |expr: &str| {
        let text = status_json(&status, Some(&expr.parse().unwrap())).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    assert_eq!(find("$.deployments[0].checksum"), json!([checksum('e')]));
    assert_eq!(
        find("$.deployments[?(@.booted)].base-checksum"),
        json!([checksum('b')])
    );
    assert_eq!(find("$.deployments[9]"), json!([]));
}

#[test]
fn times_are_in_utc() {
    assert_eq!(utc(0), "1970-01-01T00:00:00Z");
    assert_eq!(utc(1_764_496_800), "2025-11-30T10:00:00Z");
    assert_eq!(utc(u64::MAX), format!("@{}", u64::MAX));
}

#[test]
fn initramfs_tells_each_deployment() {
    let status = of(vec![overridden(), layered()]);
    let text = anstream::adapter::strip_str(&initramfs_text(&status)).to_string();
    assert_snapshot!(text, @r"
      origin:debian/13/x86_64
         Initramfs: -I '/etc/my file'
      InitramfsEtc: /etc/crypttab
    ● origin:debian/13/x86_64
      Initramfs: of the base
    ");
}

#[test]
fn the_daemon_tells_who_does_what_and_what_the_timer_does() {
    let mut status = of(Vec::new());
    let mut notes = StatusNotes {
        automatic: Some(AutomaticUpdates {
            policy: "none".to_owned(),
            timer: Some("x.timer: inactive".to_owned()),
        }),
        ..StatusNotes::default()
    };
    let shown = |status: &Status, notes: &StatusNotes, verbose| {
        let view = StatusView {
            verbose,
            width: None,
        };
        status_text(status, notes, view)
    };
    assert_eq!(
        shown(&status, &notes, false),
        "State: idle\nNo deployments.\n"
    );
    assert_eq!(
        shown(&status, &notes, true),
        "State: idle\nAutomaticUpdates: disabled\nNo deployments.\n"
    );
    notes.automatic.as_mut().unwrap().policy = "stage".to_owned();
    status.transaction = Some(("KernelArgs".into(), ":1.5".into(), "/x".into()));
    notes.transaction = Some(("kargs".into(), "client(id:cli dbus:1.5 uid:0)".into()));
    assert_eq!(
        shown(&status, &notes, false),
        "State: busy\nAutomaticUpdates: stage; x.timer: inactive\nTransaction: kargs\n  \
         Initiator: client(id:cli dbus:1.5 uid:0)\nNo deployments.\n"
    );
}
