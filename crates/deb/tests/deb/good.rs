//! What is accepted, and how it is given.

use std::io::Read;

use apt_ostree_deb::{
    ConffileDecl, DataSink, DebError, Entry, EntryKind, MultiArch, Trigger, TriggerKind,
};

use crate::builder::*;

#[test]
fn control_archive_is_given_in_parts() {
    let bytes = good(".xz");
    let reader = open(&bytes).unwrap();
    let control = reader.control();
    assert_eq!(control.package().as_str(), "demo");
    assert_eq!(control.version().as_str(), "1.0-1");
    assert_eq!(control.arch().as_str(), "amd64");
    assert_eq!(control.multi_arch(), MultiArch::No);
    assert_eq!(control.text(), CONTROL);
    assert_eq!(control.bytes(), CONTROL.as_bytes());
    assert_eq!(
        control.field("maintainer"),
        Some("Jane Doe <jane@example.org>")
    );
    assert_eq!(control.field("Depends"), None);
    assert_eq!(control.fields().count(), 5);
    let conffile = ConffileDecl {
        path: "/etc/demo.conf".into(),
        remove_on_upgrade: false,
    };
    assert_eq!(reader.conffiles(), [conffile]);
    let trigger = Trigger {
        kind: TriggerKind::Activate,
        wait: false,
        name: "ldconfig".into(),
    };
    assert_eq!(reader.triggers(), [trigger]);
    let names: Vec<_> = reader.members().keys().collect();
    assert_eq!(names, ["conffiles", "postinst", "triggers"]);
    assert_eq!(reader.members()["conffiles"].data, b"/etc/demo.conf\n");
    assert_eq!(reader.members()["conffiles"].mode, 0o644);
    assert_eq!(reader.date(), 1000);
}

#[test]
fn data_archive_is_given_entry_by_entry() {
    let (sink, summary) = read(&good(".zst")).unwrap();
    let long = "long".repeat(30);
    let kinds: Vec<_> = sink
        .entries
        .iter()
        .map(|(e, _)| (e.path.as_str(), e.kind.clone()))
        .collect();
    let target = "usr/bin/demo".to_owned();
    assert_eq!(
        kinds,
        [
            ("", EntryKind::Dir),
            ("etc", EntryKind::Dir),
            ("etc/demo.conf", EntryKind::File { size: 6 }),
            ("usr", EntryKind::Dir),
            ("usr/bin", EntryKind::Dir),
            ("usr/bin/demo", EntryKind::File { size: 20_000 }),
            (
                "usr/bin/demo2",
                EntryKind::Symlink {
                    target: "demo".into()
                }
            ),
            ("usr/bin/demo3", EntryKind::Hardlink { target }),
            (&format!("usr/{long}"), EntryKind::Dir),
            (&format!("usr/{long}/x"), EntryKind::File { size: 1 }),
        ]
    );
    assert_eq!(sink.entries[2].1, b"a = 1\n");
    assert_eq!(
        sink.entries[5].0.mode, 0o4755,
        "C18: set-id bits reach the sink"
    );
    assert_eq!(sink.entries[5].0.mtime, 1000);
    assert_eq!((summary.entries, summary.size), (10, 20_007));
}

/// Takes a byte of each file only.
struct Lazy(u64);

impl DataSink for Lazy {
    fn entry(&mut self, _: &Entry, content: &mut dyn Read) -> anyhow::Result<()> {
        self.0 += content.read(&mut [0])? as u64;
        Ok(())
    }
}

#[test]
fn content_that_the_sink_leaves_is_skipped() {
    let mut sink = Lazy(0);
    let summary = open(&good(".gz")).unwrap().data(&mut sink).unwrap();
    assert_eq!((sink.0, summary.size), (3, 20_007));
}

struct Refuse;

impl DataSink for Refuse {
    fn entry(&mut self, entry: &Entry, _: &mut dyn Read) -> anyhow::Result<()> {
        anyhow::ensure!(entry.path != "usr/bin", "no space left");
        Ok(())
    }
}

#[test]
fn refusal_of_the_sink_is_passed_on_with_its_path() {
    let error = open(&good("")).unwrap().data(&mut Refuse).unwrap_err();
    assert!(!error.is_invalid());
    assert_eq!(error.to_string(), "storing 'usr/bin'");
    let DebError::Sink { path, source } = error else {
        panic!("{error:?}");
    };
    assert_eq!(
        (path.as_str(), source.to_string().as_str()),
        ("usr/bin", "no space left")
    );
}

/// Swallows read errors.
struct Deaf;

impl DataSink for Deaf {
    fn entry(&mut self, _: &Entry, content: &mut dyn Read) -> anyhow::Result<()> {
        let mut buffer = Vec::new();
        content.read_to_end(&mut buffer).ok();
        content.read_to_end(&mut buffer).ok();
        Ok(())
    }
}

#[test]
fn sink_that_ignores_read_errors_does_not_hide_them() {
    let data = tar(&[dir("./"), file("./a", vec![7; 100_000])]);
    let package = with_data_tar(data[..50_000].to_vec());
    let error = open(&package).unwrap().data(&mut Deaf).unwrap_err();
    assert!(error.is_invalid(), "{error:?}");
    assert!(
        error.to_string().contains("ends inside of the file"),
        "{error}"
    );
}

#[test]
fn names_may_lack_the_leading_dot() {
    let data = tar(&[
        dir("usr/"),
        file("usr/a", "1"),
        hardlink("./usr/b", "usr/a"),
    ]);
    assert_eq!(
        read(&with_data_tar(data)).unwrap().0.paths(),
        ["usr", "usr/a", "usr/b"]
    );
}

#[test]
fn root_may_be_written_in_two_ways() {
    for name in [".", "./"] {
        assert_eq!(
            read(&with_data_tar(tar(&[dir(name)]))).unwrap().0.paths(),
            [""]
        );
    }
}

#[test]
fn ustar_headers_with_prefix_are_read() {
    let entry = file("name", "1")
        .patch(257, b"ustar\x0000")
        .patch(345, b"./usr/share");
    let entries = [dir("./usr/").patch(257, b"ustar\x0000"), entry];
    assert_eq!(
        read(&with_data(&entries)).unwrap().0.paths(),
        ["", "usr", "usr/share/name"]
    );
}

#[test]
fn prefix_area_of_gnu_headers_is_no_name() {
    let entry = file("./name", "1").patch(345, b"00000001750");
    assert_eq!(read(&with_data(&[entry])).unwrap().0.paths(), ["", "name"]);
}

#[test]
fn repeated_directory_is_given_once() {
    let entries = [dir("./usr/"), file("./usr/a", ""), dir("./usr"), dir("./")];
    assert_eq!(
        read(&with_data(&entries)).unwrap().0.paths(),
        ["", "usr", "usr/a"]
    );
}

#[test]
fn directories_may_be_implied_or_come_later() {
    let entries = [file("./usr/bin/a", ""), dir("./usr/")];
    assert_eq!(
        read(&with_data(&entries)).unwrap().0.paths(),
        ["", "usr/bin/a", "usr"]
    );
}

#[test]
fn negative_and_huge_times_are_given_as_they_are() {
    let negative = (-1_000_000_000_i64).to_be_bytes();
    let huge = (1_i64 << 40).to_be_bytes();
    let entries = [
        file("./a", "").patch(136, [&[0xff; 4][..], &negative].concat()),
        file("./b", "").patch(136, [&[0x80, 0, 0, 0][..], &huge].concat()),
    ];
    let (sink, _) = read(&with_data(&entries)).unwrap();
    let times: Vec<_> = sink.entries.iter().map(|(e, _)| e.mtime).collect();
    assert_eq!(times, [1000, -1_000_000_000, 1 << 40], "C27");
}

#[test]
fn date_is_clamped_to_years_that_exist() {
    let negative = [&[0xff; 4][..], &(-5_i64).to_be_bytes()].concat();
    let huge = file("./templates", "").patch(
        136,
        [&[0x80, 0, 0, 0][..], &i64::MAX.to_be_bytes()].concat(),
    );
    assert_eq!(
        open(&with_members(&[huge])).unwrap().date(),
        253_402_300_799,
        "C27"
    );
    let past = file("./templates", "").patch(136, &negative);
    assert_eq!(open(&with_members(&[past])).unwrap().date(), 1000, "C27");
    let only_past = file("./control", CONTROL).patch(136, &negative);
    let bytes = package(tar(&[only_past]), tar(&[dir("./")]));
    assert_eq!(open(&bytes).unwrap().date(), 0, "C27");
}

#[test]
fn package_without_any_entry_is_fine_when_the_archive_ends_properly() {
    assert_eq!(read(&with_data_tar(vec![0; 10_240])).unwrap().1.entries, 0);
}

#[test]
fn unusual_but_harmless_names_are_given_literally() {
    let names = [
        "./.wh.x",
        "./.wh..wh..opq",
        "./a.dpkg-new",
        "./A",
        "./a",
        "./caf\u{e9}",
        "./cafe\u{301}",
    ];
    let entries = names.map(|n| file(n, ""));
    let (sink, _) = read(&with_data(&entries)).unwrap();
    assert_eq!(sink.paths()[1..], names.map(|n| &n[2..]), "C44 C45");
}

#[test]
fn world_writable_directory_reaches_the_sink_with_its_mode() {
    let (sink, _) = read(&with_data(&[dir("./open/").mode(0o777)])).unwrap();
    assert_eq!(sink.entries[1].0.mode, 0o777, "C19");
}

#[test]
fn any_mode_of_the_root_reaches_the_sink() {
    let (sink, _) = read(&with_data_tar(tar(&[dir("./").mode(0)]))).unwrap();
    assert_eq!(sink.entries[0].0.mode, 0, "C06");
}

#[test]
fn symlinks_may_point_anywhere() {
    for target in ["/etc/shadow", "../../../../x", "a//b/.", "/"] {
        let (sink, _) = read(&with_data(&[symlink("./l", target)])).unwrap();
        let kind = EntryKind::Symlink {
            target: target.into(),
        };
        assert_eq!(sink.entries[1].0.kind, kind, "C07 C08");
    }
}

#[test]
fn long_link_targets_are_read() {
    let target = "t".repeat(200);
    let (sink, _) = read(&with_data(&[symlink("./l", &target)])).unwrap();
    assert_eq!(sink.entries[1].0.kind, EntryKind::Symlink { target });
}
