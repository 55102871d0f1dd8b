//! The tar subset that packages use: ustar and GNU headers, GNU long names.

use std::io::{self, BufRead, BufReader, Read};

use crate::decoder::Decoder;
use crate::error::{DebError, from_io, quote};

const BLOCK: usize = 512;

/// Zero bytes that may follow the end marker: writers fill up their last record.
const MAX_PADDING: u64 = 1 << 20;

/// The largest id; the one above means "no change" to chown.
const MAX_ID: i64 = 0xffff_fffe;

const GNU_MAGIC: &[u8] = b"ustar  \0";
const USTAR_MAGIC: &[u8] = b"ustar\x0000";

/// What a header says its entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RawKind {
    File,
    Hardlink,
    Symlink,
    Dir,
}

/// One entry with checked numbers; names are as they stand in the archive.
#[derive(Debug)]
pub(crate) struct RawEntry {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: RawKind,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
}

/// Walks the entries of a tar archive.
pub(crate) struct TarReader<'a> {
    input: BufReader<Decoder<'a>>,
    subject: &'a str,
    max_name: usize,
    /// Bytes of the current entry's content that were not read yet.
    left: u64,
    /// Bytes from there to the next block.
    padding: usize,
    /// The number of the current header.
    entries: u64,
}

/// The content of the current entry. An error is kept, as the caller may drop it.
pub(crate) struct EntryContent<'r, 'a> {
    tar: &'r mut TarReader<'a>,
    name: &'r [u8],
    error: Option<DebError>,
}

type Block = [u8; BLOCK];

impl<'a> TarReader<'a> {
    /// `max_name` is the limit for names and link targets.
    pub(crate) fn new(decoder: Decoder<'a>, subject: &'a str, max_name: usize) -> Self {
        Self {
            input: BufReader::with_capacity(64 * 1024, decoder),
            subject,
            max_name,
            left: 0,
            padding: 0,
            entries: 0,
        }
    }

    /// The next entry. `None` means that the archive ended as it should, and with it the
    /// compressed data and the member.
    pub(crate) fn next(&mut self) -> Result<Option<RawEntry>, DebError> {
        self.skip_content()?;
        let mut long_name = None;
        let mut long_link = None;
        loop {
            let Some(block) = self.header()? else {
                if long_name.is_some() || long_link.is_some() {
                    return Err(self.invalid("a long name without an entry ends the archive"));
                }
                return Ok(None);
            };
            let slot = match block[156] {
                b'L' => &mut long_name,
                b'K' => &mut long_link,
                _ => return self.entry(&block, long_name, long_link).map(Some),
            };
            if slot.is_some() {
                return Err(self.invalid("two long names for one entry"));
            }
            *slot = Some(self.long_name(&block)?);
        }
    }

    /// The content of the entry that [`TarReader::next`] gave last.
    pub(crate) const fn content<'r>(&'r mut self, name: &'r [u8]) -> EntryContent<'r, 'a> {
        EntryContent {
            tar: self,
            name,
            error: None,
        }
    }

    fn invalid(&self, reason: impl std::fmt::Display) -> DebError {
        DebError::invalid(self.subject, reason)
    }

    fn entry_error(&self, name: &[u8], reason: impl std::fmt::Display) -> DebError {
        entry_error(self.subject, name, reason)
    }

    fn entry(
        &mut self,
        block: &Block,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<RawEntry, DebError> {
        let name = long_name.unwrap_or_else(|| short_name(block));
        let fail = |reason: String| self.entry_error(&name, reason);
        if name.is_empty() {
            return Err(self.invalid(format!("entry {} has an empty name", self.entries)));
        }
        let kind = self.kind(block[156], &name)?;
        let long_link_kind = matches!(kind, RawKind::Hardlink | RawKind::Symlink);
        if long_link.is_some() && !long_link_kind {
            return Err(fail(
                "a long link target for an entry that is no link".into(),
            ));
        }
        let link = long_link.unwrap_or_else(|| text(&block[157..257]).to_vec());
        let number = |what, range| number(what, &block[range]).map_err(fail);
        let id = |what: &'static str, range| {
            let id = number(what, range)?;
            if !(0..=MAX_ID).contains(&id) {
                return Err(fail(format!("the {what} {id} is out of range")));
            }
            u32::try_from(id).map_err(|_| fail(format!("the {what} {id} is out of range")))
        };
        let mode = number("mode", 100..108)?;
        if !(0..=0o177_777).contains(&mode) {
            return Err(fail(format!("the mode {mode:o} is out of range")));
        }
        let size = number("size", 124..136)?;
        let size = u64::try_from(size).map_err(|_| fail(format!("the size {size} is negative")))?;
        if kind != RawKind::File && size != 0 {
            return Err(fail("an entry that is no file has content".into()));
        }
        let entry = RawEntry {
            link,
            kind,
            size,
            mode: u32::try_from(mode & 0o7777).unwrap_or(0),
            uid: id("owner", 108..116)?,
            gid: id("group", 116..124)?,
            mtime: number("time", 136..148)?,
            name: name.clone(),
        };
        self.start_content(size);
        Ok(entry)
    }

    fn kind(&self, flag: u8, name: &[u8]) -> Result<RawKind, DebError> {
        let what = match flag {
            b'0' | 0 => return Ok(RawKind::File),
            b'1' => return Ok(RawKind::Hardlink),
            b'2' => return Ok(RawKind::Symlink),
            b'5' => return Ok(RawKind::Dir),
            b'3' | b'4' => "device nodes are not allowed in a package".to_owned(),
            b'6' => "fifos are not allowed in a package".to_owned(),
            b'S' => "sparse files are not allowed in a package".to_owned(),
            b'x' | b'g' | b'X' => {
                return Err(self
                    .entry_error(name, "PAX headers are not allowed in a package")
                    .with_hint("build the package with GNU tar's 'gnu' format"));
            }
            other => format!("unknown entry type {}", quote(&[other])),
        };
        Err(self.entry_error(name, what))
    }

    /// The content of a GNU long name entry.
    fn long_name(&mut self, block: &Block) -> Result<Vec<u8>, DebError> {
        let size = number("size", &block[124..136]).map_err(|e| self.invalid(e))?;
        let max = self.max_name;
        let size = usize::try_from(size).ok().filter(|size| *size <= max + 1);
        let Some(size) = size else {
            return Err(self.invalid(format!("a name is longer than {max} bytes")));
        };
        self.start_content(size as u64);
        let mut name = vec![0; size];
        self.fill(&mut name)?;
        self.left = 0;
        self.skip_content()?;
        while name.last() == Some(&0) {
            name.pop();
        }
        if name.is_empty() {
            return Err(self.invalid("a long name is empty"));
        }
        if name.contains(&0) {
            return Err(self.entry_error(&name, "the name holds a NUL byte"));
        }
        Ok(name)
    }

    /// The next header with a good checksum, or `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Block>, DebError> {
        if self.buffer()?.is_empty() {
            if self.entries == 0 {
                return Err(self.invalid("the archive is empty"));
            }
            return Ok(None);
        }
        self.entries += 1;
        let mut block = [0; BLOCK];
        self.fill(&mut block)?;
        if block.iter().all(|b| *b == 0) {
            self.read_padding()?;
            return Ok(None);
        }
        let sum = block.iter().map(|b| i64::from(*b)).sum::<i64>();
        let field = block[148..156].iter().map(|b| i64::from(*b)).sum::<i64>();
        let expected = sum - field + 8 * i64::from(b' ');
        if number("checksum", &block[148..156]) != Ok(expected) {
            let place = self.entries;
            return Err(self.invalid(format!("the header of entry {place} has a bad checksum")));
        }
        if ![GNU_MAGIC, USTAR_MAGIC].contains(&&block[257..265]) {
            let name = text(&block[..100]);
            return Err(self.entry_error(name, "the header is neither in ustar nor in GNU format"));
        }
        Ok(Some(block))
    }

    /// Reads what follows the end marker's first block: zero bytes to the end of the stream.
    fn read_padding(&mut self) -> Result<(), DebError> {
        let mut padding = 0;
        loop {
            let buffer = self.buffer()?;
            let count = buffer.len();
            if count == 0 {
                break;
            }
            padding += count as u64;
            if buffer.iter().any(|b| *b != 0) {
                return Err(self.invalid("data follows the end of the archive"));
            }
            if padding > MAX_PADDING {
                let reason = format!("more than {MAX_PADDING} zero bytes end the archive");
                return Err(self.invalid(reason));
            }
            self.input.consume(count);
        }
        if padding % BLOCK as u64 != 0 {
            return Err(self.invalid("the archive does not end with a whole block"));
        }
        Ok(())
    }

    const fn start_content(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
    }

    fn skip_content(&mut self) -> Result<(), DebError> {
        while self.left > 0 {
            let available = self.buffer()?.len();
            if available == 0 {
                return Err(self.cut_short());
            }
            let count = usize::try_from(self.left).map_or(available, |left| left.min(available));
            self.input.consume(count);
            self.left -= count as u64;
        }
        let mut padding = [0; BLOCK];
        let count = std::mem::take(&mut self.padding);
        self.fill(&mut padding[..count])
    }

    fn cut_short(&self) -> DebError {
        self.invalid(format!("the archive ends inside of entry {}", self.entries))
    }

    fn buffer(&mut self) -> Result<&[u8], DebError> {
        let subject = self.subject;
        self.input.fill_buf().map_err(|e| from_io(e, subject))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), DebError> {
        self.input.read_exact(buffer).map_err(|error| {
            let ours = error.get_ref().is_some_and(|e| e.is::<DebError>());
            if ours {
                from_io(error, self.subject)
            } else {
                self.cut_short()
            }
        })
    }
}

/// An error about the entry `name` of the archive `subject`.
pub(crate) fn entry_error(subject: &str, name: &[u8], reason: impl std::fmt::Display) -> DebError {
    DebError::invalid(format!("{subject}, entry {}", quote(name)), reason)
}

impl EntryContent<'_, '_> {
    /// What went wrong below, if anything did.
    pub(crate) fn into_error(self) -> Option<DebError> {
        self.error
    }
}

impl Read for EntryContent<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = &self.error {
            return Err(io::Error::other(error.to_string()));
        }
        let left = usize::try_from(self.tar.left).unwrap_or(usize::MAX);
        let end = buffer.len().min(left);
        if end == 0 {
            return Ok(0);
        }
        let error = match self.tar.input.read(&mut buffer[..end]) {
            Ok(0) => self
                .tar
                .entry_error(self.name, "the archive ends inside of the file"),
            Ok(count) => {
                self.tar.left -= count as u64;
                return Ok(count);
            }
            Err(error) => from_io(error, self.tar.subject),
        };
        let copy = io::Error::other(error.to_string());
        self.error = Some(error);
        Err(copy)
    }
}

/// A text field: up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0);
    &field[..end.unwrap_or(field.len())]
}

/// The name that the header itself holds. Only ustar has a prefix.
fn short_name(block: &Block) -> Vec<u8> {
    let name = text(&block[..100]);
    let prefix = text(&block[345..500]);
    if &block[257..265] == USTAR_MAGIC && !prefix.is_empty() {
        return [prefix, b"/", name].concat();
    }
    name.to_vec()
}

/// A numeric field: octal text, or a big-endian two's complement number marked by the top bit.
fn number(what: &str, field: &[u8]) -> Result<i64, String> {
    let bad = || format!("bad {what} field {}", quote(field));
    match field.first() {
        Some(0x80) => {
            let digits = &field[1..];
            let split = digits.len().saturating_sub(8);
            if digits[..split].iter().any(|b| *b != 0) {
                return Err(format!("the {what} is out of range"));
            }
            let value = digits[split..]
                .iter()
                .fold(0, |value: u64, b| value << 8 | u64::from(*b));
            i64::try_from(value).map_err(|_| format!("the {what} is out of range"))
        }
        Some(0xff) => {
            let split = field.len().saturating_sub(8);
            if field[..split].iter().any(|b| *b != 0xff) {
                return Err(format!("the {what} is out of range"));
            }
            let value = field[split..]
                .iter()
                .fold(-1, |value: i64, b| value << 8 | i64::from(*b));
            if value >= 0 {
                return Err(format!("the {what} is out of range"));
            }
            Ok(value)
        }
        _ => octal(field).ok_or_else(bad),
    }
}

fn octal(field: &[u8]) -> Option<i64> {
    let start = field.iter().position(|b| *b != b' ')?;
    let field = &field[start..];
    let end = field
        .iter()
        .position(|b| *b == b' ' || *b == 0)
        .unwrap_or(field.len());
    let (digits, rest) = field.split_at(end);
    let clean = digits.iter().all(|b| (b'0'..=b'7').contains(b))
        && rest.iter().all(|b| *b == b' ' || *b == 0);
    if !clean {
        return None;
    }
    i64::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_fields_end_with_space_or_nul() {
        assert_eq!(number("n", b"0000644\0"), Ok(0o644));
        assert_eq!(number("n", b"  644 \0\0"), Ok(0o644));
        assert_eq!(number("n", b"77777777"), Ok(0o77_777_777));
        for bad in [
            &b""[..],
            b"\0\0",
            b"   ",
            b"-1",
            b"+1",
            b"8",
            b"7 7",
            b"7\x007",
        ] {
            assert!(number("n", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn binary_fields_are_bounded_by_64_bits() {
        assert_eq!(number("n", b"\x80\0\0\0\0\0\x01\0"), Ok(256));
        assert_eq!(number("n", b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Ok(-2));
        assert_eq!(
            number("n", b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"),
            Ok(i64::MAX)
        );
        assert!(number("n", b"\x80\0\0\0\x80\0\0\0\0\0\0\0").is_err());
        assert!(number("n", b"\x80\0\0\x01\0\0\0\0\0\0\0\0").is_err());
        assert!(number("n", b"\xff\xff\xff\xff\x7f\0\0\0\0\0\0\0").is_err());
        assert!(number("n", b"\x81\0\0\0\0\0\0\0").is_err());
    }
}
