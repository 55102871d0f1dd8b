//! B: the control archive.

use apt_ostree_deb::{Limits, TriggerKind};

use crate::builder::*;

/// The good control file with one line changed or added.
fn with_line(line: &str) -> Vec<u8> {
    let name = line.split(':').next().unwrap();
    let kept = CONTROL
        .split_inclusive('\n')
        .filter(|l| !l.starts_with(&format!("{name}:")));
    with_control(kept.collect::<String>() + line + "\n")
}

fn without(name: &str) -> Vec<u8> {
    let kept = CONTROL
        .split_inclusive('\n')
        .filter(|l| !l.starts_with(name));
    with_control(kept.collect::<String>())
}

#[test]
fn broken_fields_are_refused_by_name() {
    let rows = [
        (
            "B01 no Package",
            without("Package"),
            "'Package': the field is missing",
        ),
        (
            "B01 no Version",
            without("Version"),
            "'Version': the field is missing",
        ),
        (
            "B01 no Architecture",
            without("Arch"),
            "'Architecture': the field is missing",
        ),
        (
            "B01 empty",
            with_control(CONTROL.replace("Package: demo", "Package:")),
            "'Package': the field is empty",
        ),
        (
            "B02 version",
            with_line("Version: a b/../c"),
            "'Version': invalid version",
        ),
        (
            "B02 version in two lines",
            with_line("Version: 1\n 2"),
            "'Version': invalid version",
        ),
        (
            "B03 name",
            with_line("Package: ../../../x"),
            "'Package': invalid package name",
        ),
        (
            "B04 slash",
            with_line("Package: ev/il"),
            "'Package': invalid package name",
        ),
        (
            "B04 upper case",
            with_line("Package: Demo"),
            "'Package': invalid package name",
        ),
        (
            "B04 option",
            with_line("Package: -rf"),
            "'Package': invalid package name",
        ),
        (
            "B15 bad arch",
            with_line("Architecture: ../x"),
            "'Architecture': invalid arch",
        ),
        (
            "B15 any",
            with_line("Architecture: any"),
            "'any' is not the architecture of",
        ),
        (
            "B15 wildcard",
            with_line("Architecture: linux-any"),
            "is not the architecture of",
        ),
        (
            "B15 source",
            with_line("Architecture: source"),
            "is not the architecture of",
        ),
    ];
    for (id, bytes, words) in rows {
        assert_refused(id, &bytes, words);
    }
}

#[test]
fn values_that_dpkg_would_act_on_are_checked() {
    let rows = [
        (
            "B20 Multi-Arch",
            with_line("Multi-Arch: nonsense"),
            "'nonsense' is none of",
        ),
        (
            "B20 Multi-Arch case",
            with_line("Multi-Arch: Same"),
            "'Same' is none of",
        ),
        (
            "B20 Essential",
            with_line("Essential: maybe"),
            "neither 'yes' nor 'no'",
        ),
        (
            "B20 Protected",
            with_line("protected: YES!"),
            "neither 'yes' nor 'no'",
        ),
        (
            "B20 Status",
            with_line("Status: install ok installed"),
            "not allowed in a package",
        ),
        (
            "B20 Conffiles",
            with_line("conffiles:\n /etc/passwd 0"),
            "not allowed in a package",
        ),
        (
            "B20 Triggers",
            with_line("Triggers-Awaited: x"),
            "not allowed in a package",
        ),
        (
            "B20 Revision",
            with_line("Package_Revision: 9"),
            "name is obsolete",
        ),
        (
            "B14 Depends",
            with_line("Depends: libc6 (>= 2.34"),
            "'Depends': column 15",
        ),
        (
            "B14 Pre-Depends",
            with_line("Pre-Depends: aa,,bb"),
            "'Pre-Depends': column 4",
        ),
        (
            "B14 version",
            with_line("Breaks: xx (<< a_b)"),
            "'Breaks': column 8",
        ),
    ];
    for (id, bytes, words) in rows {
        assert_refused(id, &bytes, words);
    }
}

#[test]
fn same_is_refused_for_architecture_all() {
    let text = CONTROL.replace("amd64", "all") + "Multi-Arch: same\n";
    assert_refused(
        "B20",
        &with_control(text),
        "not possible for architecture 'all'",
    );
}

#[test]
fn broken_stanzas_are_refused() {
    let add = |text: &str| with_control(format!("{CONTROL}{text}"));
    let rows = [
        (
            "B05 duplicate",
            add("version: 2\n"),
            "'version': the field appears twice",
        ),
        ("B06 NUL", add("Homepage: a\0b\n"), "holds a NUL byte"),
        (
            "B08 second stanza",
            add("\nPackage: other\nVersion: 1\n"),
            "more than one stanza",
        ),
        ("B08 blank line", add(" \t\nX: 1\n"), "nothing but blanks"),
        ("no final newline", add("X: 1"), "final newline is missing"),
        (
            "empty last field",
            add("X:\n"),
            "'X': the file ends before its value",
        ),
        ("empty", with_control(""), "it is empty"),
        ("only newlines", with_control("\n\n"), "it is empty"),
        (
            "continuation first",
            with_control(format!(" x\n{CONTROL}")),
            "line 1",
        ),
        (
            "no colon",
            add("nonsense\n"),
            "line 6: a line without a colon",
        ),
        ("no name", add(": x\n"), "bad field name ''"),
        ("comment", add("# a: b\n"), "bad field name"),
        ("hyphen", add("-X: b\n"), "bad field name '-X'"),
        ("blank in name", add("X Y: b\n"), "bad field name 'X Y'"),
        (
            "ESC in name",
            add("X\x1b: b\n"),
            "bad field name 'X\\u{1b}'",
        ),
    ];
    for (id, bytes, words) in rows {
        assert_refused(id, &bytes, words);
    }
}

#[test]
fn empty_lines_around_the_stanza_are_dropped() {
    let bytes = with_control(format!("\n{CONTROL}\n\n"));
    assert_eq!(open(&bytes).unwrap().control().text(), CONTROL);
}

#[test]
fn descriptive_text_may_hold_any_bytes() {
    let latin = [CONTROL.as_bytes(), b"X-Name: J\xf6rg\nX-Esc: a\x1b[31m%n\n"].concat();
    let bytes = with_control(&latin);
    let reader = open(&bytes).unwrap();
    assert_eq!(reader.control().field("X-Name"), Some("J\u{fffd}rg"), "B07");
    assert_eq!(reader.control().field("X-Esc"), Some("a\x1b[31m%n"), "B19");
    assert_eq!(reader.control().bytes(), latin, "B07");
}

#[test]
fn hostile_text_is_escaped_and_cut_in_messages() {
    let long = format!("Multi-Arch: \x1b[2J\u{202e}%n{}", "x".repeat(1 << 19));
    assert_refused("B19", &with_line(&long), "\\u{1b}[2J\\u{202e}%nxxx");
    let name = format!("{}\x1b", "F".repeat(100_000));
    assert_refused("B19", &with_line(&format!("{name}: 1")), "...'");
    assert_refused("B19", &with_line("Package: a\x1b[31m"), "\\u{1b}");
    assert_refused("B19", &with_line("Depends: a\x1b[31m"), "\\u{1b}");
}

#[test]
fn continuation_lines_are_kept() {
    let bytes = with_line("Description: short\n long\n .\n more");
    let reader = open(&bytes).unwrap();
    assert_eq!(
        reader.control().field("Description"),
        Some("short\n long\n .\n more")
    );
}

#[test]
fn hostile_control_members_are_refused() {
    let rows = [
        (
            "B09 control is a link",
            symlink("./control", "/etc/passwd"),
            "links are not allowed",
        ),
        (
            "B09 member is a link",
            symlink("./md5sums", "/etc/passwd"),
            "links are not allowed",
        ),
        (
            "B21 script is a link",
            symlink("./postinst", "/bin/sh"),
            "links are not allowed",
        ),
        (
            "B21 script is a hard link",
            hardlink("./postinst", "./control"),
            "links are not",
        ),
        (
            "B21 script is a directory",
            dir("./postinst/"),
            "not a regular file at the top",
        ),
        ("B10 parent", file("../x", ""), "'..' component"),
        (
            "B10 parent inside",
            file("./a/../../x", ""),
            "'..' component",
        ),
        (
            "B11 absolute",
            file("/postinst", ""),
            "the path is absolute",
        ),
        (
            "B12 link",
            symlink("./sub", "/tmp"),
            "links are not allowed",
        ),
        (
            "B12 below",
            file("./sub/x", ""),
            "not a valid name for a control member",
        ),
        ("directory", dir("./sub/"), "not a regular file at the top"),
        (
            "device",
            TarEntry::new("./null", b'3'),
            "device nodes are not allowed",
        ),
        (
            "fifo",
            TarEntry::new("./pipe", b'6'),
            "fifos are not allowed",
        ),
        (
            "twice",
            file("./control", CONTROL),
            "the member appears twice",
        ),
        (
            "hidden",
            file("./.hidden", ""),
            "not a valid name for a control member",
        ),
        (
            "blank",
            file("./a b", ""),
            "not a valid name for a control member",
        ),
        (
            "colon",
            file("./a:b", ""),
            "not a valid name for a control member",
        ),
        (
            "long",
            file(format!("./{}", "n".repeat(101)), ""),
            "not a valid name",
        ),
        ("list", file("./list", ""), "dpkg's own"),
        (
            "C06 root is a file",
            file("./", ""),
            "not a regular file at the top",
        ),
        (
            "file named as directory",
            file("./postinst/", ""),
            "not a regular file at the top",
        ),
    ];
    for (id, entry, words) in rows {
        assert_refused(id, &with_members(&[entry]), words);
    }
}

#[test]
fn control_file_must_be_there() {
    let bytes = package(tar(&[dir("./"), file("./md5sums", "")]), tar(&[dir("./")]));
    assert_refused("B01", &bytes, "the control file is missing");
    let bytes = package(vec![0; 1024], tar(&[dir("./")]));
    assert_refused("B01", &bytes, "the control file is missing");
    let bytes = package(
        tar(&[symlink("./control", "/etc/passwd")]),
        tar(&[dir("./")]),
    );
    assert_refused("B09", &bytes, "links are not allowed");
}

#[test]
fn control_sizes_are_limited() {
    let big = format!("{CONTROL}X: {}\n", "x".repeat(1 << 20));
    assert_refused(
        "B13 control file",
        &with_control(big),
        "larger than 1048576 bytes",
    );
    let huge = control_tar(CONTROL, &[file("./templates", vec![b'a'; 17 << 20])]);
    let packed = ar(&[
        format_member(),
        ("control.tar.xz", pack(&huge, ".xz")),
        ("data.tar", tar(&[dir("./")])),
    ]);
    assert_refused("B13 bomb", &packed, "unpacks to more than 16777216 bytes");
    let plain = package(huge, tar(&[dir("./")]));
    assert_refused("B13 plain", &plain, "larger than 16777216 bytes");
    let many: Vec<_> = (0..1000).map(|i| file(format!("./m{i}"), "")).collect();
    assert_refused(
        "B13 members",
        &with_members(&many),
        "more than 1000 members",
    );
}

#[test]
fn claimed_size_of_a_control_member_allocates_nothing() {
    for size in [2 << 30, 0o77_777_777_777] {
        let member = file("./templates", "x").size(size);
        assert_refused(
            "C34",
            &with_members(&[member]),
            "archive ends inside of the file",
        );
    }
}

#[test]
fn scripts_get_the_mode_that_dpkg_gives_them() {
    let modes = [
        (0o644, 0o755),
        (0o700, 0o755),
        (0o555, 0o555),
        (0o4755, 0o755),
        (0o775, 0o775),
    ];
    for (shipped, given) in modes {
        let bytes = with_members(&[file("./prerm", "#!/bin/sh\n").mode(shipped)]);
        assert_eq!(
            open(&bytes).unwrap().members()["prerm"].mode,
            given,
            "B22 {shipped:o}"
        );
    }
    let bytes = with_members(&[file("./config", "#!/bin/sh\n").mode(0o644)]);
    assert_eq!(open(&bytes).unwrap().members()["config"].mode, 0o644);
}

fn with_conffiles(text: &str, data: &[TarEntry]) -> Vec<u8> {
    let control = control_tar(CONTROL, &[file("./conffiles", text)]);
    package(
        control,
        tar(&[&[dir("./"), dir("./etc/"), file("./etc/a b", "")], data].concat()),
    )
}

#[test]
fn broken_conffiles_are_refused() {
    let rows = [
        (
            "B16 parent",
            "/etc/../x\n",
            "line 1: '/etc/../x': the path has a '..' component",
        ),
        ("B16 relative", "etc/x\n", "not absolute"),
        (
            "B16 not shipped",
            "/etc/x\n",
            "conffile '/etc/x': is not among",
        ),
        ("B16 directory", "/etc\n", "conffile '/etc': is not among"),
        ("B16 root", "/\n", "empty component"),
        ("B16 unknown flag", "keep /etc/a b\n", "unknown flag 'keep'"),
        (
            "B16 flag without path",
            "remove-on-upgrade\n",
            "not absolute",
        ),
        (
            "B16 shipped",
            "remove-on-upgrade /etc/a b\n",
            "but the package ships it",
        ),
        (
            "B16 two flags",
            "/etc/x\nremove-on-upgrade /etc/x\n",
            "twice with different flags",
        ),
        ("B16 no newline", "/etc/a b", "final newline is missing"),
        ("B16 control character", "/etc/\x1b\n", "control character"),
        ("B16 link", "/etc/link\n", "is not among"),
        ("B16 below a link", "/etc/link/x\n", "is not among"),
    ];
    for (id, text, words) in rows {
        let link = symlink("./etc/link", "/tmp");
        assert_refused(id, &with_conffiles(text, &[link]), words);
    }
    let control = control_tar(CONTROL, &[file("./conffiles", b"/etc/\xff\n")]);
    assert_refused("B16", &package(control, tar(&[dir("./")])), "not UTF-8");
}

#[test]
fn good_conffiles_are_listed() {
    let text = "/etc/a b \n\nremove-on-upgrade /etc/old\n/etc/a b\n/etc/hard\n";
    let bytes = with_conffiles(text, &[hardlink("./etc/hard", "./etc/a b")]);
    let reader = open(&bytes).unwrap();
    let list: Vec<_> = reader
        .conffiles()
        .iter()
        .map(|c| (c.path.as_str(), c.remove_on_upgrade))
        .collect();
    assert_eq!(
        list,
        [
            ("/etc/a b", false),
            ("/etc/old", true),
            ("/etc/hard", false)
        ]
    );
    reader.data(&mut Collect::default()).unwrap();
}

#[test]
fn broken_triggers_are_refused() {
    let rows = [
        (
            "B23 unknown",
            "explode foo\n",
            "unknown directive 'explode'",
        ),
        ("B23 no name", "interest\n", "the name is missing"),
        ("B23 two names", "interest a b\n", "holds a blank"),
        (
            "B23 comment after a name",
            "interest a # b\n",
            "holds a blank",
        ),
        ("B23 parent", "interest /usr/../etc\n", "'..' component"),
        ("B23 traversal", "interest ../x\n", "not a trigger name"),
        (
            "B23 inner traversal",
            "interest a/../../x\n",
            "not a trigger name",
        ),
        ("B23 dpkg's file", "interest File\n", "not a trigger name"),
        ("B23 ESC", "interest a\x1b\n", "not ASCII"),
        ("B23 no newline", "interest a", "final newline is missing"),
    ];
    for (id, text, words) in rows {
        assert_refused(id, &with_members(&[file("./triggers", text)]), words);
    }
}

#[test]
fn good_triggers_are_listed() {
    let text = "# comment\n\n interest /usr/share/icons \ninterest-await a\n\
        interest-noawait\tb\nactivate c\nactivate-await d\nactivate-noawait /e/\n";
    let bytes = with_members(&[file("./triggers", text)]);
    let reader = open(&bytes).unwrap();
    let list: Vec<_> = reader
        .triggers()
        .iter()
        .map(|t| (t.kind, t.wait, t.name.as_str(), t.is_file()))
        .collect();
    let (interest, activate) = (TriggerKind::Interest, TriggerKind::Activate);
    assert_eq!(
        list,
        [
            (interest, true, "/usr/share/icons", true),
            (interest, true, "a", false),
            (interest, false, "b", false),
            (activate, true, "c", false),
            (activate, true, "d", false),
            (activate, false, "/e/", true),
        ]
    );
}

#[test]
fn control_file_can_be_checked_alone() {
    let limits = Limits::default();
    assert!(apt_ostree_deb::Control::parse(CONTROL.as_bytes(), &limits).is_ok());
    assert!(apt_ostree_deb::Control::parse(b"Package: x\n", &limits).is_err());
}
