//! A: the outer archive and compression.

use apt_ostree_deb::Limits;

use crate::builder::*;

fn control() -> (&'static str, Vec<u8>) {
    ("control.tar", control_tar(CONTROL, &[]))
}

fn data() -> (&'static str, Vec<u8>) {
    ("data.tar", tar(&[dir("./"), file("./a", "content")]))
}

fn cat(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn files_that_are_no_package_are_refused() {
    let other_magic = cat(&[b"!<thin>\n", &good("")[8..]]);
    let rows: &[(&str, &[u8], &str)] = &[
        ("A01 empty file", b"", "the file is empty"),
        ("A02 cut in the magic", b"!<arc", "not a Debian package"),
        ("A03 wrong magic", &other_magic, "not a Debian package"),
        ("A03 text", b"hello, this is text", "not a Debian package"),
        (
            "A04 only the magic",
            b"!<arch>\n",
            "the member 'debian-binary' is missing",
        ),
    ];
    for (id, bytes, words) in rows {
        assert_refused(id, bytes, words);
    }
}

#[test]
fn members_must_be_there_in_order_and_once() {
    let f = format_member;
    let unknown = || ("extra", b"x".to_vec());
    let format = |text: &str| ("debian-binary", text.as_bytes().to_vec());
    let rows = [
        (
            "A04 no debian-binary",
            ar(&[control(), data()]),
            "first member is not 'debian-binary'",
        ),
        (
            "A05 format 3.0",
            ar(&[format("3.0\n"), control(), data()]),
            "format version '3.0'",
        ),
        (
            "A05 format without newline",
            ar(&[format("2.0"), control(), data()]),
            "no format",
        ),
        (
            "A05 format 2.x",
            ar(&[format("2.x\n"), control(), data()]),
            "format version '2.x'",
        ),
        (
            "A05 huge format",
            ar(&[format(&"2".repeat(2000)), control(), data()]),
            "too large",
        ),
        (
            "A06 data first",
            ar(&[f(), data(), control()]),
            "precedes 'control.tar'",
        ),
        ("A07 no control", ar(&[f()]), "'control.tar' is missing"),
        (
            "A07 control as an ordinary name",
            ar(&[f(), ("control", vec![]), data()]),
            "'control'",
        ),
        (
            "A08 no data",
            ar(&[f(), control()]),
            "'data.tar' is missing",
        ),
        (
            "A09 unknown before control",
            ar(&[f(), unknown(), control(), data()]),
            "'extra'",
        ),
        (
            "A09 unknown before data",
            ar(&[f(), control(), unknown(), data()]),
            "'extra'",
        ),
        (
            "A11 two controls",
            ar(&[f(), control(), control(), data()]),
            "second control archive",
        ),
        (
            "A11 control after data",
            ar(&[f(), control(), data(), control()]),
            "after the data",
        ),
        (
            "A12 two data",
            ar(&[f(), control(), data(), data()]),
            "after the data",
        ),
        (
            "A12 second data in another format",
            ar(&[f(), control(), data(), ("data.tar.br", vec![1])]),
            "after the data",
        ),
        (
            "A12 second format",
            ar(&[f(), control(), data(), f()]),
            "after the data",
        ),
    ];
    for (id, bytes, words) in rows {
        assert_refused(id, &bytes, words);
    }
}

#[test]
fn missing_data_archive_is_found_before_anything_is_used() {
    let error = open(&ar(&[format_member(), control()]))
        .map(|_| ())
        .unwrap_err();
    assert!(
        error.to_string().contains("'data.tar' is missing"),
        "{error}"
    );
}

#[test]
fn extension_members_are_skipped() {
    let extra = || ("_gpgbuilder", b"signature".to_vec());
    let bytes = ar(&[
        format_member(),
        extra(),
        control(),
        extra(),
        data(),
        extra(),
        ("future", b"x".to_vec()),
    ]);
    let (sink, _) = read(&bytes).unwrap();
    assert_eq!(sink.paths(), ["", "a"], "A10");
}

#[test]
fn member_count_is_limited() {
    let mut members = vec![format_member(), control(), data()];
    members.extend((0..200).map(|_| ("_x", Vec::new())));
    assert_refused("A10 many members", &ar(&members), "more than 100 members");
}

#[test]
fn broken_member_headers_are_refused() {
    let head = ar(&[format_member()]);
    let name = "control.tar";
    let with_size = |size: &str| cat(&[&head, &ar_member(name, size, &control().1)]);
    let mut bad_end = with_size("1");
    let end = head.len() + 58;
    bad_end[end] = b'x';
    let slash = cat(&[&head, &ar_member("a/../b", "1", b"x")]);
    let rows = [
        (
            "A13 letters in size",
            with_size("12ab"),
            "bad size field '12ab'",
        ),
        ("A13 empty size", with_size(""), "bad size field ''"),
        (
            "A13 leading blank",
            with_size(" 12"),
            "bad size field ' 12'",
        ),
        ("A14 negative size", with_size("-5"), "bad size field '-5'"),
        ("A14 signed size", with_size("+5"), "bad size field '+5'"),
        (
            "A15 size beyond the file",
            with_size("9999999999"),
            "larger than",
        ),
        (
            "A15 small size beyond the file",
            with_size("999999"),
            "the file ends after",
        ),
        ("A15 bad end of header", bad_end, "no member"),
        ("A15 name with slashes", slash, "not a valid member name"),
        (
            "A15 no name",
            cat(&[&head, &ar_member("", "1", b"x")]),
            "not a valid member name",
        ),
    ];
    for (id, bytes, words) in rows {
        assert_refused(id, &bytes, words);
    }
}

#[test]
fn data_member_beyond_the_file_is_refused() {
    let bytes = cat(&[
        &ar(&[format_member(), control()]),
        &ar_member("data.tar", "9999999999", &data().1),
    ]);
    assert_refused("A15", &bytes, "the file ends after");
}

#[test]
fn size_bigger_than_the_archive_that_swallows_what_follows_is_refused() {
    let (name, content) = data();
    let claimed = (content.len() + 60).to_string();
    let bytes = cat(&[
        &ar(&[format_member(), control()]),
        &ar_member(name, &claimed, &content),
        &ar_member("_x", "0", b""),
    ]);
    assert_refused("A15", &bytes, "data follows the end of the archive");
}

#[test]
fn padding_must_be_there() {
    let mut wrong = good(".zst");
    let odd = ar(&[format_member(), ("_odd", b"x".to_vec()), control(), data()]);
    let mut bad = odd.clone();
    let pad = 8 + 60 + 4 + 60 + 1;
    assert_eq!(bad[pad], b'\n');
    bad[pad] = b'?';
    assert!(read(&odd).is_ok());
    assert_refused("wrong padding", &bad, "no padding after member 2");
    wrong.pop();
    assert!(read(&wrong).is_err());
}

#[test]
fn garbage_after_the_last_member_is_refused() {
    for (id, tail) in [
        ("A24 7 kB of garbage", vec![0x55; 7000]),
        ("A24 zero bytes", vec![0; 512]),
        ("A24 one byte", vec![b'\n']),
        ("A24 another package", good("")),
    ] {
        assert_refused(id, &cat(&[&good(".gz"), &tail]), "no member");
    }
}

#[test]
fn every_compression_is_read() {
    let plain = read(&good("")).unwrap();
    for ending in [".gz", ".xz", ".zst"] {
        let (sink, summary) = read(&good(ending)).unwrap();
        assert_eq!(sink.entries, plain.0.entries, "{ending}");
        assert_eq!(summary, plain.1, "{ending}");
    }
    let lzma = ar(&[
        format_member(),
        control(),
        ("data.tar.lzma", pack(&data().1, ".lzma")),
    ]);
    assert_eq!(read(&lzma).unwrap().0.paths(), ["", "a"]);
}

#[test]
fn streams_in_several_parts_are_read() {
    let data = data().1;
    let (one, two) = data.split_at(700);
    for ending in [".gz", ".zst"] {
        let name = format!("data.tar{ending}");
        let joined = cat(&[&pack(one, ending), &pack(two, ending)]);
        let bytes = ar(&[format_member(), control(), (&name, joined)]);
        assert_eq!(read(&bytes).unwrap().0.paths(), ["", "a"], "{ending}");
    }
}

#[test]
fn compression_is_decided_by_the_name() {
    let data = data().1;
    let package = |name, content| ar(&[format_member(), control(), (name, content)]);
    let rows = [
        (
            "A22 gz is xz",
            package("data.tar.gz", pack(&data, ".xz")),
            "corrupt",
        ),
        (
            "A22 xz is gz",
            package("data.tar.xz", pack(&data, ".gz")),
            "corrupt",
        ),
        (
            "A22 zst is xz",
            package("data.tar.zst", pack(&data, ".xz")),
            "corrupt",
        ),
        (
            "A22 lzma is xz",
            package("data.tar.lzma", pack(&data, ".xz")),
            "corrupt",
        ),
        (
            "A22 tar is xz",
            package("data.tar", pack(&data, ".xz")),
            "entry 1",
        ),
        (
            "A22 xz is tar",
            package("data.tar.xz", data.clone()),
            "corrupt",
        ),
        (
            "A23 br",
            package("data.tar.br", data.clone()),
            "known are none, gz, xz, lzma, zst",
        ),
        (
            "A23 bz2",
            package("data.tar.bz2", data.clone()),
            "known are none, gz, xz, lzma, zst",
        ),
        (
            "A23 upper case",
            package("data.tar.XZ", pack(&data, ".xz")),
            "unsupported compression",
        ),
        (
            "A23 data.tarx",
            package("data.tarx", data),
            "unsupported compression",
        ),
        (
            "A23 lzma control",
            ar(&[
                format_member(),
                ("control.tar.lzma", pack(&control().1, ".lzma")),
            ]),
            "known are none, gz, xz, zst",
        ),
    ];
    for (id, bytes, words) in rows {
        assert_refused(id, &bytes, words);
    }
}

#[test]
fn incomplete_compressed_data_is_refused() {
    for ending in [".gz", ".xz", ".zst", ".lzma"] {
        let name = format!("data.tar{ending}");
        let full = pack(&data().1, ending);
        for keep in 0..full.len() {
            let bytes = ar(&[format_member(), control(), (&name, full[..keep].to_vec())]);
            let words = if keep == 0 {
                "the member is empty"
            } else {
                "compressed data is"
            };
            assert_refused(
                &format!("A17 A20 A21 {ending} cut to {keep}"),
                &bytes,
                words,
            );
        }
        if ending != ".lzma" {
            let name = format!("control.tar{ending}");
            let full = pack(&control().1, ending);
            let bytes = ar(&[
                format_member(),
                (&name, full[..full.len() / 2].to_vec()),
                data(),
            ]);
            assert_refused(&format!("A16 {ending}"), &bytes, &format!("'{name}'"));
        }
    }
}

#[test]
fn empty_but_valid_compressed_data_is_refused() {
    for ending in [".gz", ".xz", ".zst"] {
        let name = format!("data.tar{ending}");
        let bytes = ar(&[format_member(), control(), (&name, pack(b"", ending))]);
        assert_refused("A21", &bytes, "the archive is empty");
    }
    // A skippable frame: valid zstd without content.
    let frame = b"\x50\x2a\x4d\x18\x04\0\0\0abcd".to_vec();
    let bytes = ar(&[format_member(), control(), ("data.tar.zst", frame)]);
    assert_refused("A21 skippable frame", &bytes, "the archive is empty");
}

#[test]
fn bytes_after_the_compressed_data_are_refused() {
    for ending in [".gz", ".xz", ".zst"] {
        let name = format!("data.tar{ending}");
        for tail in [&b"\0\0\0\0"[..], b"garbage", b"\n"] {
            let packed = cat(&[&pack(&data().1, ending), tail]);
            let bytes = ar(&[format_member(), control(), (&name, packed)]);
            assert_refused(
                &format!("A24 {ending} {tail:?}"),
                &bytes,
                &format!("'{name}'"),
            );
        }
    }
    let two = cat(&[&pack(&data().1, ".xz"), &pack(&data().1, ".xz")]);
    let bytes = ar(&[format_member(), control(), ("data.tar.xz", two)]);
    assert_refused(
        "A24 second xz stream",
        &bytes,
        "follow the end of the compressed data",
    );
}

#[test]
fn one_flipped_bit_in_compressed_data_is_refused() {
    let noise: Vec<u8> = (0..200_000u32)
        .map(|i| (i.wrapping_mul(0x9e37_79b9) >> 11) as u8)
        .collect();
    let archive = tar(&[dir("./"), file("./noise", noise)]);
    for ending in [".gz", ".xz"] {
        let name = format!("data.tar{ending}");
        let mut packed = pack(&archive, ending);
        let middle = packed.len() / 2;
        packed[middle] ^= 0x10;
        let bytes = ar(&[format_member(), control(), (&name, packed)]);
        assert_refused(&format!("A18 {ending}"), &bytes, "compressed data is");
    }
}

#[test]
fn bombs_are_stopped_by_ratio_and_size() {
    let zeros = vec![0; 64 << 20];
    let archive = tar(&[dir("./"), file("./zeros", &zeros)]);
    let limits = || Limits {
        free_size: 1 << 20,
        ..Limits::default()
    };
    for ending in [".xz", ".zst", ".gz"] {
        let name = format!("data.tar{ending}");
        let bytes = ar(&[format_member(), control(), (&name, pack(&archive, ending))]);
        assert_refused_with(
            "A28 ratio",
            &bytes,
            "more than 100 times its size",
            limits(),
        );
        let small = Limits {
            max_total_size: 1 << 20,
            ..Limits::default()
        };
        assert_refused_with("A28 total size", &bytes, "more than 1048576 bytes", small);
        assert!(read(&bytes).is_ok(), "{ending}");
    }
}

#[test]
fn decoder_memory_is_limited() {
    let packed = pack_xz(&data().1, 9);
    let bytes = ar(&[format_member(), control(), ("data.tar.xz", packed)]);
    assert!(read(&bytes).is_ok());
    let limits = Limits {
        max_decoder_memory: 1 << 20,
        ..Limits::default()
    };
    assert_refused_with("A28 memory", &bytes, "emory", limits);
}

#[test]
fn failure_of_the_source_is_not_the_packages_fault() {
    struct Broken(usize);
    impl std::io::Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let package = good(".xz");
            let end = (self.0 + buffer.len().min(100)).min(package.len() / 2);
            if end == self.0 {
                return Err(std::io::Error::other("disk on fire"));
            }
            let count = end - self.0;
            buffer[..count].copy_from_slice(&package[self.0..end]);
            self.0 = end;
            Ok(count)
        }
    }
    let result = apt_ostree_deb::DebReader::open(Broken(0), Limits::default())
        .and_then(|reader| reader.data(&mut Collect::default()));
    let error = result.unwrap_err();
    assert!(
        matches!(error, apt_ostree_deb::DebError::Read(_)),
        "{error:?}"
    );
}
