//! Reads a package. Input without the magic of a package is taken as its data archive, with the
//! header checksums mended, so that the rules behind them are reached.
#![no_main]

use std::collections::BTreeSet;
use std::io::Read;

use apt_ostree_deb::{DataSink, DebReader, Entry, EntryKind, Limits};
use libfuzzer_sys::fuzz_target;

const CONTROL: &str = "Package: demo\nVersion: 1\nArchitecture: all\n";

/// Checks what holds for every entry of a package that is accepted so far.
#[derive(Default)]
struct Check {
    paths: BTreeSet<String>,
    files: BTreeSet<String>,
    others: BTreeSet<String>,
}

impl DataSink for Check {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> anyhow::Result<()> {
        let path = &entry.path;
        let clean = path.split('/').all(|c| !matches!(c, "" | "." | ".."));
        assert!(path.is_empty() || clean, "{path:?}");
        assert!(self.paths.insert(path.clone()), "{path:?} appears twice");
        for (index, _) in path.match_indices('/') {
            let parent = &path[..index];
            assert!(
                !self.others.contains(parent),
                "{path:?} is below a file or link"
            );
        }
        let count = std::io::copy(content, &mut std::io::sink())?;
        match &entry.kind {
            EntryKind::Dir => {}
            EntryKind::File { size } => {
                assert_eq!(*size, count);
                self.files.insert(path.clone());
            }
            EntryKind::Hardlink { target } => {
                assert!(self.files.contains(target), "{target:?} is no earlier file");
                self.files.insert(path.clone());
            }
            EntryKind::Symlink { .. } => {}
        }
        if entry.kind != EntryKind::Dir {
            self.others.insert(path.clone());
        }
        Ok(())
    }
}

fuzz_target!(|input: &[u8]| {
    if input.starts_with(b"!<arch>") {
        read(input);
    } else {
        read(&package(input));
    }
});

fn read(bytes: &[u8]) {
    let limits = Limits {
        max_total_size: 64 << 20,
        max_decoder_memory: 64 << 20,
        ..Limits::default()
    };
    let Ok(reader) = DebReader::open(bytes, limits) else {
        return;
    };
    if let Err(error) = reader.data(&mut Check::default()) {
        assert!(!error.to_string().contains(char::is_control), "{error:?}");
    }
}

/// A package around the data archive `data`.
fn package(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    for block in data.chunks_exact_mut(512) {
        mend(block);
    }
    let mut control = vec![0; 512];
    control[..9].copy_from_slice(b"./control");
    control[100..124].copy_from_slice(b"0000644\x000000000\x000000000\0");
    control[124..148]
        .copy_from_slice(format!("{:011o}\x0000000000000\0", CONTROL.len()).as_bytes());
    control[156] = b'0';
    control[257..265].copy_from_slice(b"ustar  \0");
    mend(&mut control);
    control.extend(CONTROL.as_bytes());
    control.resize(2048, 0);
    let mut bytes = b"!<arch>\n".to_vec();
    let parts: [(&str, &[u8]); 3] = [
        ("debian-binary", b"2.0\n"),
        ("control.tar", &control),
        ("data.tar", &data),
    ];
    for (name, content) in parts {
        let size = content.len();
        bytes.extend(format!("{name:<16}0           0     0     100644  {size:<10}`\n").as_bytes());
        bytes.extend(content);
        if size % 2 == 1 {
            bytes.push(b'\n');
        }
    }
    bytes
}

/// Writes the right checksum into a header.
fn mend(block: &mut [u8]) {
    if &block[257..262] != b"ustar" {
        return;
    }
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
