//! The tar formats that layers come in: ustar, GNU and PAX headers.

use std::io::{self, Read};

use apt_ostree_fsx::escape_bytes;
use apt_ostree_model::Kinded;
use apt_ostree_model::tree::HexBytes;

use super::malformed;

const BLOCK: usize = 512;
const GNU_MAGIC: &[u8] = b"ustar  \0";
const USTAR_MAGIC: &[u8] = b"ustar\x0000";
/// The largest id; the one above means "no change" to chown.
const MAX_ID: u64 = 0xffff_fffe;
const XATTR: &[u8] = b"SCHILY.xattr.";

/// Bounds on what is read from one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries, and directories that are only implied by a path.
    pub entries: u64,
    /// Bytes of a path or link target.
    pub path: usize,
    /// Components of a path.
    pub depth: usize,
    /// Bytes of all paths and link targets together.
    pub names: u64,
    /// Bytes of one extended header; extended attributes are in them.
    pub header: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 1_000_000,
            path: 4096,
            depth: 255,
            names: 128 << 20,
            header: 1 << 20,
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Hardlink,
    Symlink,
    Dir,
    /// A device node or a fifo.
    Special,
}

/// One entry with checked numbers; names are as they stand in the archive.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Extended attributes in their order; names may be anything.
    pub(crate) xattrs: Vec<(Vec<u8>, HexBytes)>,
}

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TarError {
    #[error(transparent)]
    Malformed(#[from] Kinded),
    #[error("reading the layer")]
    Read(#[source] io::Error),
}

/// Walks the entries of a tar stream.
pub(crate) struct TarReader<R> {
    input: R,
    limits: Limits,
    /// Bytes of the current entry's content that were not read yet.
    left: u64,
    /// Bytes from there to the next block.
    padding: usize,
    /// The number of the current header.
    headers: u64,
    names: u64,
}

/// Values of extended headers, which replace those of the header.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    xattrs: Vec<(Vec<u8>, HexBytes)>,
}

type Block = [u8; BLOCK];

impl<R: Read> TarReader<R> {
    pub(crate) const fn new(input: R, limits: Limits) -> Self {
        Self {
            input,
            limits,
            left: 0,
            padding: 0,
            headers: 0,
            names: 0,
        }
    }

    /// The next entry; `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_content()?;
        let mut extended = Extended::default();
        loop {
            let Some(block) = self.header()? else {
                return Ok(None);
            };
            match block[156] {
                b'L' => extended.path = Some(self.long_name(&block)?),
                b'K' => extended.link = Some(self.long_name(&block)?),
                b'x' => {
                    let data = self.header_content(&block)?;
                    self.extend(&mut extended, &data)?;
                }
                // Values for all entries: git writes a comment, others nothing that matters.
                b'g' => drop(self.header_content(&block)?),
                _ => return self.entry(&block, extended).map(Some),
            }
        }
    }

    /// The content of the entry that [`TarReader::next`] gave last.
    pub(crate) const fn content(&mut self) -> TarContent<'_, R> {
        TarContent { tar: self }
    }

    fn bad(&self, reason: impl std::fmt::Display) -> TarError {
        malformed(format!("header {} of the layer: {reason}", self.headers)).into()
    }

    fn entry(&mut self, block: &Block, extended: Extended) -> Result<Entry, TarError> {
        let path = extended.path.unwrap_or_else(|| short_name(block));
        let fail = |reason: String| {
            let path = escape_bytes(&path[..path.len().min(200)]);
            TarError::from(malformed(format!("entry '{path}' of the layer: {reason}")))
        };
        let kind = match block[156] {
            b'0' | b'7' | 0 => Kind::File,
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'5' => Kind::Dir,
            b'3' | b'4' | b'6' => Kind::Special,
            b'S' => return Err(fail("sparse files are not allowed".into())),
            flag => return Err(fail(format!("type {flag} is not known"))),
        };
        let link = extended
            .link
            .unwrap_or_else(|| text(&block[157..257]).to_vec());
        if path.is_empty() {
            return Err(fail("it has no name".into()));
        }
        self.names += (path.len() + link.len()) as u64;
        if self.names > self.limits.names {
            return Err(fail(format!(
                "all names have more than {} bytes",
                self.limits.names
            )));
        }
        if path.len() > self.limits.path || link.len() > self.limits.path {
            return Err(fail(format!(
                "a name has more than {} bytes",
                self.limits.path
            )));
        }
        let field = |what, range| number(what, &block[range]).map_err(fail);
        let size = extended.size.map_or_else(|| field("size", 124..136), Ok)?;
        if kind != Kind::File && size != 0 {
            return Err(fail("it is no file and has content".into()));
        }
        let id = |what, value: Option<u64>, range| {
            let value = value.map_or_else(|| field(what, range), Ok)?;
            let id = u32::try_from(value).ok().filter(|_| value <= MAX_ID);
            id.ok_or_else(|| fail(format!("the {what} {value} is out of range")))
        };
        let entry = Entry {
            kind,
            size,
            // Some writers put the type of the file there as well.
            mode: u32::try_from(field("mode", 100..108)? & 0o7777).unwrap_or(0),
            uid: id("owner", extended.uid, 108..116)?,
            gid: id("group", extended.gid, 116..124)?,
            xattrs: extended.xattrs,
            link,
            path,
        };
        self.start_content(size);
        Ok(entry)
    }

    fn extend(&self, extended: &mut Extended, data: &[u8]) -> Result<(), TarError> {
        let mut rest = data;
        while !rest.is_empty() {
            let (key, value, next) =
                record(rest).ok_or_else(|| self.bad("an extended header is malformed"))?;
            rest = next;
            let number = || {
                let text = std::str::from_utf8(value).ok();
                text.and_then(|t| t.parse().ok())
                    .ok_or_else(|| self.bad("an extended number is malformed"))
            };
            match key {
                b"path" => extended.path = Some(value.to_vec()),
                b"linkpath" => extended.link = Some(value.to_vec()),
                b"size" => extended.size = Some(number()?),
                b"uid" => extended.uid = Some(number()?),
                b"gid" => extended.gid = Some(number()?),
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(self.bad("sparse files are not allowed"));
                }
                key => {
                    if let Some(name) = key.strip_prefix(XATTR) {
                        let value = HexBytes(value.to_vec());
                        extended.xattrs.push((name.to_vec(), value));
                    }
                }
            }
        }
        Ok(())
    }

    /// The content of a GNU long name entry.
    fn long_name(&mut self, block: &Block) -> Result<Vec<u8>, TarError> {
        let mut name = self.header_content(block)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn header_content(&mut self, block: &Block) -> Result<Vec<u8>, TarError> {
        let size = number("size", &block[124..136]).map_err(|e| self.bad(e))?;
        let max = self.limits.header;
        if size > max {
            return Err(self.bad(format!("an extended header has more than {max} bytes")));
        }
        self.start_content(size);
        let mut data = vec![0; usize::try_from(size).unwrap_or_default()];
        self.fill(&mut data)?;
        self.left = 0;
        self.skip_content()?;
        Ok(data)
    }

    /// The next header with a good checksum, or `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Block>, TarError> {
        let mut block = [0; BLOCK];
        let mut length = 0;
        while length < BLOCK {
            match self.input.read(&mut block[length..]) {
                // Some writers leave the end marker out.
                Ok(0) if length == 0 => return Ok(None),
                Ok(0) => return Err(self.bad("the layer ends inside of it")),
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error)),
            }
        }
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        self.headers += 1;
        if self.headers > 4 * self.limits.entries {
            return Err(self.bad("there are too many headers"));
        }
        let sum = block.iter().map(|b| u64::from(*b)).sum::<u64>();
        let field = block[148..156].iter().map(|b| u64::from(*b)).sum::<u64>();
        if number("checksum", &block[148..156]) != Ok(sum - field + 8 * u64::from(b' ')) {
            return Err(self.bad("its checksum is wrong"));
        }
        if ![GNU_MAGIC, USTAR_MAGIC].contains(&&block[257..265]) {
            return Err(self.bad("it is neither in ustar nor in GNU format"));
        }
        Ok(Some(block))
    }

    const fn start_content(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
    }

    fn skip_content(&mut self) -> Result<(), TarError> {
        let left = std::mem::take(&mut self.left);
        let mut content = (&mut self.input).take(left);
        let skipped = io::copy(&mut content, &mut io::sink()).map_err(TarError::Read)?;
        if skipped != left {
            return Err(self.bad("the layer ends inside of its content"));
        }
        let mut padding = [0; BLOCK];
        let count = std::mem::take(&mut self.padding);
        self.fill(&mut padding[..count])
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), TarError> {
        match self.input.read_exact(buffer) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.bad("the layer ends inside of its content"))
            }
            Err(error) => Err(TarError::Read(error)),
        }
    }
}

/// The content of one entry.
pub(crate) struct TarContent<'t, R> {
    tar: &'t mut TarReader<R>,
}

impl<R: Read> Read for TarContent<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.tar.left).unwrap_or(usize::MAX);
        let end = buffer.len().min(left);
        if end == 0 {
            return Ok(0);
        }
        let read = self.tar.input.read(&mut buffer[..end])?;
        if read == 0 {
            return Err(io::Error::other("the layer ends inside of a file"));
        }
        self.tar.left -= read as u64;
        Ok(read)
    }
}

/// One record of an extended header, `LENGTH KEY=VALUE\n`, and what follows it.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|b| *b == b' ')?;
    let length: usize = std::str::from_utf8(&data[..space]).ok()?.parse().ok()?;
    let record = data.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &data[length..]))
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

/// A numeric field: octal text, or a big-endian number marked by the top bit.
fn number(what: &str, field: &[u8]) -> Result<u64, String> {
    let bad = || format!("the {what} is malformed or out of range");
    if field.first() == Some(&0x80) {
        let digits = &field[1..];
        let split = digits.len().saturating_sub(8);
        if digits[..split].iter().any(|b| *b != 0) {
            return Err(bad());
        }
        let value = digits[split..].iter();
        return Ok(value.fold(0, |value: u64, b| value << 8 | u64::from(*b)));
    }
    let text = std::str::from_utf8(field).map_err(|_| bad())?;
    let text = text.trim_matches([' ', '\0']);
    // An empty field is what some writers make of 0.
    if text.is_empty() {
        return Ok(0);
    }
    if !text.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
        return Err(bad());
    }
    u64::from_str_radix(text, 8).map_err(|_| bad())
}
