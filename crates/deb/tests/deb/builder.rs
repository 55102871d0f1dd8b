//! Writes packages, also broken ones, and reads them back.

use std::io::{Read, Write};

use apt_ostree_deb::{DataSink, DataSummary, DebError, DebReader, Entry, Limits};

pub(crate) const CONTROL: &str = "Package: demo\nVersion: 1.0-1\nArchitecture: amd64\n\
    Maintainer: Jane Doe <jane@example.org>\nDescription: demo package\n";

/// One tar entry; every header byte can be overwritten.
#[derive(Debug, Clone)]
pub(crate) struct TarEntry {
    name: Vec<u8>,
    flag: u8,
    link: Vec<u8>,
    mode: u32,
    content: Vec<u8>,
    size: Option<u64>,
    patches: Vec<(usize, Vec<u8>)>,
    late_patches: Vec<(usize, Vec<u8>)>,
}

impl TarEntry {
    pub(crate) fn new(name: impl AsRef<[u8]>, flag: u8) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            flag,
            link: Vec::new(),
            mode: if flag == b'5' { 0o755 } else { 0o644 },
            content: Vec::new(),
            size: None,
            patches: Vec::new(),
            late_patches: Vec::new(),
        }
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// The size that the header claims.
    pub(crate) fn size(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    /// Overwrites header bytes before the checksum is made.
    pub(crate) fn patch(mut self, at: usize, bytes: impl AsRef<[u8]>) -> Self {
        self.patches.push((at, bytes.as_ref().to_vec()));
        self
    }

    /// Overwrites header bytes after the checksum was made.
    pub(crate) fn break_at(mut self, at: usize, bytes: impl AsRef<[u8]>) -> Self {
        self.late_patches.push((at, bytes.as_ref().to_vec()));
        self
    }

    pub(crate) fn content(&self) -> &[u8] {
        &self.content
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.name.len() > 100 {
            out.extend(long(b'L', &self.name));
        }
        if self.link.len() > 100 {
            out.extend(long(b'K', &self.link));
        }
        let mut block = [0u8; 512];
        put(&mut block, 0, &self.name[..self.name.len().min(100)]);
        put(&mut block, 100, format!("{:07o}", self.mode).as_bytes());
        put(&mut block, 108, b"0000000\x000000000\0");
        let size = self.size.unwrap_or(self.content.len() as u64);
        put(
            &mut block,
            124,
            format!("{size:011o}\000000001750").as_bytes(),
        );
        block[156] = self.flag;
        put(&mut block, 157, &self.link[..self.link.len().min(100)]);
        put(&mut block, 257, b"ustar  \0root\0");
        for (at, bytes) in &self.patches {
            put(&mut block, *at, bytes);
        }
        put(&mut block, 148, b"        ");
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        put(&mut block, 148, format!("{sum:06o}\0 ").as_bytes());
        for (at, bytes) in &self.late_patches {
            put(&mut block, *at, bytes);
        }
        out.extend(block);
        out.extend(&self.content);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }
}

fn put(block: &mut [u8; 512], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A GNU long name (`L`) or long link (`K`) entry.
pub(crate) fn long(flag: u8, text: &[u8]) -> Vec<u8> {
    let mut entry = TarEntry::new("././@LongLink", flag);
    entry.content = [text, b"\0"].concat();
    entry.bytes()
}

pub(crate) fn dir(name: impl AsRef<[u8]>) -> TarEntry {
    TarEntry::new(name, b'5')
}

pub(crate) fn file(name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> TarEntry {
    let mut entry = TarEntry::new(name, b'0');
    entry.content = content.as_ref().to_vec();
    entry
}

pub(crate) fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> TarEntry {
    let mut entry = TarEntry::new(name, b'2').mode(0o777);
    entry.link = target.as_ref().to_vec();
    entry
}

pub(crate) fn hardlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> TarEntry {
    let mut entry = TarEntry::new(name, b'1');
    entry.link = target.as_ref().to_vec();
    entry
}

/// An archive with its end marker.
pub(crate) fn tar(entries: &[TarEntry]) -> Vec<u8> {
    let mut bytes = tar_without_end(entries);
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

pub(crate) fn tar_without_end(entries: &[TarEntry]) -> Vec<u8> {
    entries.iter().flat_map(TarEntry::bytes).collect()
}

/// The control archive of a control file and other members.
pub(crate) fn control_tar(control: impl AsRef<[u8]>, members: &[TarEntry]) -> Vec<u8> {
    let mut entries = vec![dir("./"), file("./control", control)];
    entries.extend_from_slice(members);
    tar(&entries)
}

/// An ar archive of members, with header fields as they come.
pub(crate) fn ar(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in members {
        bytes.extend(ar_member(name, &content.len().to_string(), content));
    }
    bytes
}

pub(crate) fn ar_member(name: &str, size: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{name:<16}{:<12}0     0     100644  {size:<10}`\n", 1000).into_bytes();
    bytes.extend(content);
    if content.len() % 2 == 1 {
        bytes.push(b'\n');
    }
    bytes
}

pub(crate) fn format_member() -> (&'static str, Vec<u8>) {
    ("debian-binary", b"2.0\n".to_vec())
}

/// A package of the two given archives, uncompressed.
pub(crate) fn package(control: Vec<u8>, data: Vec<u8>) -> Vec<u8> {
    ar(&[
        format_member(),
        ("control.tar", control),
        ("data.tar", data),
    ])
}

pub(crate) fn with_control(control: impl AsRef<[u8]>) -> Vec<u8> {
    package(control_tar(control, &[]), tar(&[dir("./")]))
}

pub(crate) fn with_members(members: &[TarEntry]) -> Vec<u8> {
    package(control_tar(CONTROL, members), tar(&[dir("./")]))
}

pub(crate) fn with_data(entries: &[TarEntry]) -> Vec<u8> {
    with_data_tar(tar(&[&[dir("./")], entries].concat()))
}

pub(crate) fn with_data_tar(data: Vec<u8>) -> Vec<u8> {
    package(control_tar(CONTROL, &[]), data)
}

/// A package as builders make it, with every kind of entry, compressed with `ending`.
pub(crate) fn good(ending: &str) -> Vec<u8> {
    let noise: Vec<u8> = (0..20_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let data = tar(&[
        dir("./"),
        dir("./etc/"),
        file("./etc/demo.conf", "a = 1\n"),
        dir("./usr/"),
        dir("./usr/bin/"),
        file("./usr/bin/demo", &noise).mode(0o4755),
        symlink("./usr/bin/demo2", "demo"),
        hardlink("./usr/bin/demo3", "./usr/bin/demo"),
        dir(format!("./usr/{}/", "long".repeat(30))),
        file(format!("./usr/{}/x", "long".repeat(30)), b"x"),
    ]);
    let control = control_tar(
        CONTROL,
        &[
            file("./conffiles", "/etc/demo.conf\n"),
            file("./postinst", "#!/bin/sh\nexit 0\n"),
            file("./triggers", "activate-noawait ldconfig\n"),
        ],
    );
    let (control_name, data_name) = (format!("control.tar{ending}"), format!("data.tar{ending}"));
    ar(&[
        format_member(),
        (&control_name, pack(&control, ending)),
        (&data_name, pack(&data, ending)),
    ])
}

/// Compresses as the ending of the name says.
pub(crate) fn pack(bytes: &[u8], ending: &str) -> Vec<u8> {
    match ending {
        ".gz" => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        ".xz" => pack_xz(bytes, 1),
        ".lzma" => {
            let options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
            let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
            let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        ".zst" => zstd::encode_all(bytes, 3).unwrap(),
        "" => bytes.to_vec(),
        other => panic!("no encoder for '{other}'"),
    }
}

pub(crate) fn pack_xz(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), level);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Keeps all entries with their content.
#[derive(Debug, Default)]
pub(crate) struct Collect {
    pub(crate) entries: Vec<(Entry, Vec<u8>)>,
}

impl DataSink for Collect {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        self.entries.push((entry.clone(), bytes));
        Ok(())
    }
}

impl Collect {
    pub(crate) fn paths(&self) -> Vec<&str> {
        self.entries
            .iter()
            .map(|(entry, _)| entry.path.as_str())
            .collect()
    }
}

pub(crate) fn open(bytes: &[u8]) -> Result<DebReader<&[u8]>, DebError> {
    DebReader::open(bytes, Limits::default())
}

/// Reads a whole package.
pub(crate) fn read(bytes: &[u8]) -> Result<(Collect, DataSummary), DebError> {
    read_with(bytes, Limits::default())
}

pub(crate) fn read_with(bytes: &[u8], limits: Limits) -> Result<(Collect, DataSummary), DebError> {
    let mut sink = Collect::default();
    let summary = DebReader::open(bytes, limits)?.data(&mut sink)?;
    Ok((sink, summary))
}

/// Checks that a package is refused, with a message that holds `words` and is fit to show.
pub(crate) fn assert_refused(id: &str, bytes: &[u8], words: &str) {
    assert_refused_with(id, bytes, words, Limits::default());
}

pub(crate) fn assert_refused_with(id: &str, bytes: &[u8], words: &str, limits: Limits) {
    let error = match read_with(bytes, limits) {
        Err(error) => error,
        Ok((sink, _)) => panic!("{id}: accepted with {:?}", sink.paths()),
    };
    assert!(error.is_invalid(), "{id}: {error:?}");
    let message = error.to_string();
    assert!(
        message.contains(words),
        "{id}: '{words}' is not in '{message}'"
    );
    assert!(!message.contains(char::is_control), "{id}: {message:?}");
    assert!(message.len() < 2000, "{id}: {message}");
    assert!(
        message.starts_with(|c: char| c.is_lowercase()),
        "{id}: {message}"
    );
    assert!(!message.ends_with('.'), "{id}: {message}");
}
