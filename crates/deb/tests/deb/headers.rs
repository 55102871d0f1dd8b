//! C: tar headers, numbers, long names and the end of the archive.

use apt_ostree_deb::Limits;

use crate::builder::*;

fn refuse_all(rows: &[(&str, Vec<TarEntry>, &str)]) {
    for (id, entries, words) in rows {
        assert_refused(id, &with_data(entries), words);
    }
}

#[test]
fn numbers_out_of_range_are_refused() {
    let big = |value: i64, width: usize| {
        let mut field = vec![if value < 0 { 0xff } else { 0 }; width - 8];
        field.extend(value.to_be_bytes());
        field[0] |= 0x80;
        field
    };
    let at = |at, bytes: Vec<u8>| vec![file("./a", "").patch(at, bytes)];
    refuse_all(&[
        (
            "C26 owner 2^33",
            at(108, b"\x80\0\0\x02\0\0\0\0".to_vec()),
            "the owner 8589934592 is",
        ),
        (
            "C26 owner 2^32-1",
            at(108, b"\x80\0\0\0\xff\xff\xff\xff".to_vec()),
            "owner 4294967295",
        ),
        (
            "C26 group -2",
            at(116, big(-2, 8)),
            "the group -2 is out of range",
        ),
        (
            "C26 letters",
            at(108, b"12x4567\0".to_vec()),
            "bad owner field '12x4567\\u{0}'",
        ),
        ("C26 empty", at(108, vec![0; 8]), "bad owner field"),
        (
            "mode",
            at(100, b"7777777\0".to_vec()),
            "the mode 7777777 is out of range",
        ),
        (
            "mode letters",
            at(100, b"rwxr-x\0\0".to_vec()),
            "bad mode field",
        ),
        (
            "C27 letters",
            at(136, b"yesterday\0\0\0".to_vec()),
            "bad time field",
        ),
        (
            "C27 beyond 64 bits",
            at(136, vec![0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            "the time is",
        ),
        (
            "C34 8 EiB",
            at(124, big(i64::MAX, 12)),
            "the file is larger than",
        ),
        (
            "C34 beyond 64 bits",
            at(124, vec![0x80, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            "the size is",
        ),
        (
            "C34 negative",
            at(124, big(-512, 12)),
            "the size -512 is negative",
        ),
        (
            "C34 no number",
            at(124, b"- 12345678 \0".to_vec()),
            "bad size field",
        ),
    ]);
    let highest = file("./a", "").patch(108, b"\x80\0\0\0\xff\xff\xff\xfe");
    assert_eq!(
        read(&with_data(&[highest])).unwrap().0.entries[1].0.uid,
        u32::MAX - 1
    );
}

#[test]
fn broken_headers_are_refused() {
    refuse_all(&[
        (
            "C31 checksum",
            vec![file("./a", "").break_at(148, "000000")],
            "entry 2 has a bad check",
        ),
        (
            "C31 changed name",
            vec![file("./a", "").break_at(2, "b")],
            "bad checksum",
        ),
        (
            "C31 no checksum",
            vec![file("./a", "").break_at(148, [0; 8])],
            "bad checksum",
        ),
        (
            "C31 empty name and checksum",
            vec![file("", "").break_at(148, [b'7'; 8])],
            "bad check",
        ),
        (
            "old format",
            vec![file("./a", "").patch(257, [0; 8])],
            "neither in ustar nor in GNU",
        ),
        (
            "other magic",
            vec![file("./a", "").patch(257, b"tar\0\0\0\0\0")],
            "neither in ustar",
        ),
        (
            "link without target",
            vec![symlink("./a", "")],
            "has no target",
        ),
        (
            "C24 link target",
            vec![symlink("./a", "x\x1b[31m")],
            "holds a control character",
        ),
        (
            "C22 link target",
            vec![symlink("./a", b"\xff")],
            "'\\xff' is not UTF-8",
        ),
        (
            "C25 link target",
            vec![symlink("./a", "t".repeat(4096))],
            "longer than 4095 bytes",
        ),
    ]);
}

#[test]
fn claimed_size_without_data_is_refused() {
    for size in [2 << 30, 513, 0o77_777_777_777] {
        let entries = [dir("./"), file("./a", "").size(size)];
        let limits = Limits {
            max_file_size: u64::MAX,
            ..Limits::default()
        };
        let bytes = with_data_tar(tar_without_end(&entries));
        assert_refused_with("C32 C34", &bytes, "the archive ends inside of", limits);
    }
}

#[test]
fn archive_may_lack_the_end_marker_but_no_part_of_an_entry() {
    let entries = [dir("./"), file("./a", vec![7; 700])];
    let full = tar_without_end(&entries);
    assert_eq!(
        read(&with_data_tar(full.clone())).unwrap().1.size,
        700,
        "C33"
    );
    assert_eq!(
        read(&with_data_tar([&full[..], &[0; 512]].concat()))
            .unwrap()
            .1
            .size,
        700,
        "C33"
    );
    for keep in 1..full.len() {
        if keep == 512 {
            continue;
        }
        assert_refused(
            "C32",
            &with_data_tar(full[..keep].to_vec()),
            "the archive ends inside of",
        );
    }
}

#[test]
fn only_zero_blocks_follow_the_end_marker() {
    let end = tar(&[dir("./"), file("./a", "x")]);
    let with = |tail: Vec<u8>| with_data_tar([end.clone(), tail].concat());
    assert!(read(&with(vec![0; 10_240])).is_ok());
    let rows = [
        (
            "C35 hidden entry",
            with(tar(&[file("./b", "")])),
            "data follows the end",
        ),
        ("C35 garbage", with(vec![1; 512]), "data follows the end"),
        (
            "C33 part of a block",
            with(vec![0; 100]),
            "does not end with a whole block",
        ),
        (
            "A28 zeros",
            with(vec![0; 2 << 20]),
            "more than 1048576 zero bytes",
        ),
    ];
    for (id, bytes, words) in rows {
        assert_refused(id, &bytes, words);
    }
    let lone = [
        &tar_without_end(&[dir("./")])[..],
        &[0; 512],
        &file("./b", "").bytes(),
    ]
    .concat();
    assert_refused(
        "C35 lone zero block",
        &with_data_tar(lone),
        "data follows the end",
    );
}

#[test]
fn hostile_long_names_are_refused() {
    let root = dir("./").bytes();
    let raw = |parts: &[&[u8]]| with_data_tar([&root, &parts.concat()[..], &[0; 1024]].concat());
    let entry = file("./a", "").bytes();
    let claim = |size| TarEntry::new("././@LongLink", b'L').size(size).bytes();
    let rows = [
        (
            "C36 1 GiB",
            raw(&[&claim(1 << 30)]),
            "a name is longer than 4096 bytes",
        ),
        (
            "C36 1 MiB",
            raw(&[&long(b'L', &[b'a'; 1 << 20]), &entry]),
            "longer than 4096 bytes",
        ),
        (
            "C36 long link",
            raw(&[&long(b'K', &[b'a'; 1 << 20]), &entry]),
            "longer than 4096 bytes",
        ),
        (
            "C36 at the end",
            raw(&[&long(b'L', b"./x")]),
            "a long name without an entry",
        ),
        (
            "C36 twice",
            raw(&[&long(b'L', b"./x"), &long(b'L', b"./y"), &entry]),
            "two long names",
        ),
        (
            "C36 empty",
            raw(&[&claim(0), &entry]),
            "a long name is empty",
        ),
        (
            "C36 only NUL",
            raw(&[&long(b'L', b""), &entry]),
            "a long name is empty",
        ),
        (
            "C36 NUL inside",
            raw(&[&long(b'L', b"./x\0y"), &entry]),
            "holds a NUL byte",
        ),
        (
            "C36 parent",
            raw(&[&long(b'L', b"./../x"), &entry]),
            "'..' component",
        ),
        (
            "C36 link for a file",
            raw(&[&long(b'K', b"x"), &entry]),
            "that is no link",
        ),
        (
            "C36 parent link",
            raw(&[&long(b'K', b"../x"), &hardlink("./h", "./a").bytes()]),
            "'..'",
        ),
        (
            "C36 negative",
            raw(&[&TarEntry::new("x", b'L').patch(124, [0xff; 12]).bytes()]),
            "name",
        ),
    ];
    for (id, bytes, words) in rows {
        assert_refused(id, &bytes, words);
    }
    let cut = [root, long(b'L', &[b'a'; 4000])[..2048].to_vec()].concat();
    assert_refused(
        "C36 cut",
        &with_data_tar(cut),
        "the archive ends inside of entry 2",
    );
}
