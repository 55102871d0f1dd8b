//! C: the data archive.

use apt_ostree_deb::Limits;

use crate::builder::*;

fn refuse_all(rows: &[(&str, Vec<TarEntry>, &str)]) {
    for (id, entries, words) in rows {
        assert_refused(id, &with_data(entries), words);
    }
}

#[test]
fn paths_that_are_not_clean_are_refused() {
    refuse_all(&[
        (
            "C01 absolute",
            vec![file("/tmp/x", "")],
            "'/tmp/x': the path is absolute",
        ),
        ("C01 root", vec![dir("/")], "the path is absolute"),
        (
            "C01 after dot",
            vec![file(".//tmp/x", "")],
            "empty component",
        ),
        ("C02 parent", vec![file("./../../x", "")], "'..' component"),
        ("C02 parent alone", vec![dir("..")], "'..' component"),
        ("C02 trailing parent", vec![dir("./a/..")], "'..' component"),
        (
            "C03 parent inside",
            vec![file("./usr/../../x", "")],
            "'..' component",
        ),
        (
            "C04 empty component",
            vec![file("./usr//a", "")],
            "empty component",
        ),
        (
            "C04 dot component",
            vec![file("./usr/./a", "")],
            "'.' component",
        ),
        ("C04 leading dots", vec![file("././a", "")], "'.' component"),
        (
            "C04 trailing slashes",
            vec![dir("./usr//")],
            "empty component",
        ),
        (
            "C05 empty name",
            vec![file("", "")],
            "entry 2 has an empty name",
        ),
        ("C06 root is a file", vec![file("./", "x")], "ends in '/'"),
        (
            "C06 root is a file",
            vec![file(".", "x")],
            "root entry is not a directory",
        ),
        (
            "C06 root is a link",
            vec![symlink(".", "/tmp")],
            "root entry is not a directory",
        ),
        (
            "C22 not UTF-8",
            vec![file(b"./caf\xe9", "")],
            "'./caf\\xe9': the path is not UTF-8",
        ),
        (
            "C23 newline",
            vec![file("./a\nb", "")],
            "'./a\\nb': the path holds a control",
        ),
        (
            "C24 ESC",
            vec![file("./a\x1b[31mb", "")],
            "holds a control character",
        ),
        (
            "C24 C1 control",
            vec![file("./a\u{9b}31mb", "")],
            "holds a control character",
        ),
        (
            "C25 component",
            vec![file(format!("./{}", "c".repeat(300)), "")],
            "longer than 255",
        ),
        (
            "C25 path",
            vec![file("./a/".to_owned() + &"b/".repeat(2600), "")],
            "longer than 4096",
        ),
        (
            "C39 depth",
            vec![dir("./".to_owned() + &"d/".repeat(2000))],
            "more than 255 components",
        ),
        ("file with slash", vec![file("./a/", "x")], "ends in '/'"),
        ("link with slash", vec![symlink("./a/", "x")], "ends in '/'"),
    ]);
}

#[test]
fn nothing_is_below_a_link_or_file() {
    let below = |entries: &[TarEntry]| [entries, &[file("./l/x", "")]].concat();
    refuse_all(&[
        (
            "C07",
            below(&[symlink("./l", "/tmp")]),
            "'./l/x': 'l' is a symbolic link",
        ),
        (
            "C08",
            below(&[symlink("./l", "../../tmp")]),
            "'l' is a symbolic link",
        ),
        (
            "C09",
            below(&[
                symlink("./c", "/tmp"),
                symlink("./b", "c"),
                symlink("./l", "b"),
            ]),
            "'l' is a symbolic link",
        ),
        (
            "C10",
            below(&[dir("./l"), symlink("./l", "/tmp")]),
            "'./l': the path appears twice",
        ),
        ("C10 file", below(&[file("./l", "")]), "'l' is a file"),
        (
            "C10 hard link",
            below(&[file("./a", ""), hardlink("./l", "./a")]),
            "'l' is a file",
        ),
        (
            "C10 deep",
            vec![symlink("./l", "/"), dir("./l/a/b/")],
            "'l' is a symbolic link",
        ),
    ]);
}

#[test]
fn hard_links_name_an_earlier_file() {
    let link = |target: &str| hardlink("./h", target);
    refuse_all(&[
        (
            "C11 absolute",
            vec![link("/etc/shadow")],
            "hard link to '/etc/shadow': the path is abs",
        ),
        (
            "C12 parent",
            vec![link("../../etc/shadow")],
            "'..' component",
        ),
        (
            "C13 out, then over",
            vec![link("../x"), file("./h", "new")],
            "'..' component",
        ),
        (
            "C14 missing",
            vec![link("./missing")],
            "hard link to 'missing', which is no earlier",
        ),
        (
            "C14 later",
            vec![link("./a"), file("./a", "")],
            "no earlier file",
        ),
        ("C14 itself", vec![link("./h")], "no earlier file"),
        ("C14 empty", vec![link("")], "the name is empty"),
        (
            "C14 directory",
            vec![dir("./d"), link("./d")],
            "no earlier file",
        ),
        ("C14 root", vec![link("./")], "no earlier file"),
        (
            "C15 link",
            vec![symlink("./l", "/etc/shadow"), link("./l")],
            "no earlier file",
        ),
        (
            "C15 below a link",
            vec![symlink("./l", "/etc"), link("./l/shadow")],
            "no earlier file",
        ),
    ]);
}

#[test]
fn special_entries_are_refused() {
    let special = |flag| vec![TarEntry::new("./s", flag)];
    refuse_all(&[
        (
            "C16 character device",
            special(b'3'),
            "'./s': device nodes are not allowed",
        ),
        (
            "C16 block device",
            special(b'4'),
            "'./s': device nodes are not allowed",
        ),
        ("C17 fifo", special(b'6'), "fifos are not allowed"),
        ("C28 unknown", special(b'Z'), "unknown entry type 'Z'"),
        ("C28 contiguous", special(b'7'), "unknown entry type '7'"),
        ("C28 volume", special(b'V'), "unknown entry type 'V'"),
        ("C28 byte", special(0xfe), "unknown entry type '\\xfe'"),
        (
            "C37 sparse",
            vec![TarEntry::new("./s", b'S').size(2 << 30)],
            "sparse files",
        ),
        (
            "directory with content",
            vec![dir("./d").size(512)],
            "no file has content",
        ),
        (
            "link with content",
            vec![symlink("./d", "x").size(512)],
            "no file has content",
        ),
        (
            "hard link with content",
            vec![hardlink("./d", "x").size(512)],
            "no file has content",
        ),
    ]);
}

#[test]
fn pax_headers_are_refused_with_a_hint() {
    let pax = |flag, record: &str| {
        let mut header = file("./PaxHeaders/a", format!("{} {record}\n", record.len() + 4));
        header = header.patch(156, [flag]);
        vec![header, file("./a", "")]
    };
    let rows = [
        (
            "C20 capability",
            pax(b'x', "SCHILY.xattr.security.capability=x"),
        ),
        ("C29 long path", pax(b'x', "path=./long")),
        ("C30 path override", pax(b'x', "path=../../x")),
        ("C35 size", pax(b'x', "size=512")),
        ("C35 global", pax(b'g', "size=512")),
        ("C35 Solaris", pax(b'X', "size=512")),
    ];
    for (id, entries) in rows {
        let bytes = with_data(&entries);
        assert_refused(id, &bytes, "PAX headers are not allowed");
        let hint = read(&bytes).unwrap_err().hint();
        assert_eq!(
            hint,
            Some("build the package with GNU tar's 'gnu' format"),
            "{id}"
        );
    }
}

#[test]
fn path_appears_once() {
    let twice = "'./a': the path appears twice";
    refuse_all(&[
        ("C21 files", vec![file("./a", "1"), file("./a", "2")], twice),
        (
            "C21 equal files",
            vec![file("./a", "1"), file("./a", "1")],
            twice,
        ),
        (
            "C21 file and link",
            vec![file("./a", "1"), symlink("./a", "x")],
            twice,
        ),
        (
            "C21 file and dir",
            vec![file("./a", "1"), dir("./a")],
            twice,
        ),
        (
            "C21 dir and file",
            vec![dir("./a"), file("./a", "1")],
            twice,
        ),
        (
            "C21 implied dir and file",
            vec![file("./a/b", ""), file("./a", "1")],
            twice,
        ),
        (
            "C21 other spelling",
            vec![file("a", "1"), file("./a", "1")],
            twice,
        ),
        (
            "C21 links",
            vec![symlink("./a", "x"), symlink("./a", "x")],
            twice,
        ),
        (
            "C21 dirs of other mode",
            vec![dir("./a"), dir("./a").mode(0o700)],
            "appears twice with different owner or mode",
        ),
        (
            "C21 roots of other owner",
            vec![dir("./").patch(108, "0000001")],
            "appears twice with different owner or mode",
        ),
    ]);
}

#[test]
fn a_hundred_thousand_entries_are_read() {
    let entries: Vec<_> = (0..100_000).map(|i| file(format!("./d/{i}"), "")).collect();
    let bytes = with_data(&entries);
    assert_eq!(read(&bytes).unwrap().1.entries, 100_001, "C38");
}

#[test]
fn counts_and_sizes_are_limited() {
    let files = |n: usize| {
        (0..n)
            .map(|i| file(format!("./{i:04}"), ""))
            .collect::<Vec<_>>()
    };
    let limits = |change: fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        limits
    };
    let rows = [
        (
            "C39 entries",
            files(1001),
            "than 1000 entries",
            limits(|l| l.max_entries = 1000),
        ),
        (
            "C39 repeated directories",
            vec![dir("./"); 1001],
            "more than 1000 entries",
            limits(|l| l.max_entries = 1000),
        ),
        (
            "C39 implied directories",
            vec![dir("./a/b/c/d/e/f/g/h/i/j/k")],
            "more than 10 entries",
            limits(|l| l.max_entries = 10),
        ),
        (
            "C39 names",
            files(101),
            "more than 400 bytes",
            limits(|l| l.max_names_size = 400),
        ),
        (
            "C34 file",
            vec![file("./a", vec![0; 1001])],
            "the file is larger than 1000 bytes",
            limits(|l| l.max_file_size = 1000),
        ),
        (
            "A28 total",
            vec![file("./a", vec![0; 20_000])],
            "unpacks to more than 10000 bytes",
            limits(|l| l.max_total_size = 10_000),
        ),
    ];
    for (id, entries, words, limits) in rows {
        assert_refused_with(id, &with_data(&entries), words, limits);
    }
}
