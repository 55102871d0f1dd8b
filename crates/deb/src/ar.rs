//! The outer `ar` archive.

use std::io::{self, BufRead, BufReader, Read};

use crate::error::{DebError, quote};

const MAGIC: &[u8] = b"!<arch>\n";
const HEADER: usize = 60;
const FILE: &str = "package file";

/// Walks the members of an `ar` archive.
#[derive(Debug)]
pub(crate) struct Ar<R> {
    input: BufReader<R>,
    /// Bytes of the current member that were not read yet.
    left: u64,
    /// Whether a padding byte follows the current member.
    padded: bool,
    members: usize,
    max_members: usize,
}

/// The header of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) size: u64,
}

/// The content of the current member; an early end of the file is an error.
pub(crate) struct Content<'a> {
    input: &'a mut dyn BufRead,
    left: &'a mut u64,
    member: &'a Member,
}

impl<R: Read> Ar<R> {
    pub(crate) fn open(reader: R, max_members: usize) -> Result<Self, DebError> {
        let mut ar = Self {
            input: BufReader::with_capacity(128 * 1024, reader),
            left: 0,
            padded: false,
            members: 0,
            max_members,
        };
        let mut magic = [0; MAGIC.len()];
        let got = fill(&mut ar.input, &mut magic)?;
        if got == 0 {
            return Err(DebError::invalid(FILE, "the file is empty"));
        }
        if magic[..got] != *MAGIC {
            return Err(DebError::invalid(FILE, "not a Debian package"));
        }
        Ok(ar)
    }

    /// The next member, or `None` at the end of the file. What is left of the current one is
    /// skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, DebError> {
        self.skip()?;
        let mut header = [0; HEADER];
        let got = fill(&mut self.input, &mut header)?;
        if got == 0 {
            return Ok(None);
        }
        if got < HEADER || &header[58..] != b"`\n" {
            let reason = format!(
                "{} bytes that are no member follow member {}",
                if got < HEADER {
                    got.to_string()
                } else {
                    "some".to_owned()
                },
                self.members
            );
            return Err(DebError::invalid(FILE, reason));
        }
        self.members += 1;
        if self.members > self.max_members {
            let reason = format!("more than {} members", self.max_members);
            return Err(DebError::invalid(FILE, reason));
        }
        let member = parse_header(&header)?;
        self.left = member.size;
        self.padded = member.size % 2 == 1;
        Ok(Some(member))
    }

    /// The content of `member`, which must be the one that [`Ar::next`] gave last.
    pub(crate) fn content<'a>(&'a mut self, member: &'a Member) -> Content<'a> {
        Content {
            input: &mut self.input,
            left: &mut self.left,
            member,
        }
    }

    fn skip(&mut self) -> Result<(), DebError> {
        while self.left > 0 {
            let available = fill_buf(&mut self.input).map_err(DebError::Read)?.len();
            if available == 0 {
                let reason = format!("member {} is cut short", self.members);
                return Err(DebError::invalid(FILE, reason));
            }
            let take = usize::try_from(self.left).map_or(available, |left| left.min(available));
            self.input.consume(take);
            self.left -= take as u64;
        }
        if std::mem::take(&mut self.padded) {
            let mut byte = [0];
            if fill(&mut self.input, &mut byte)? == 0 || byte != *b"\n" {
                let reason = format!("no padding after member {}", self.members);
                return Err(DebError::invalid(FILE, reason));
            }
        }
        Ok(())
    }
}

impl Content<'_> {
    /// How many bytes were not read yet.
    pub(crate) const fn left(&self) -> u64 {
        *self.left
    }
}

impl BufRead for Content<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if *self.left == 0 {
            return Ok(&[]);
        }
        let buffer = fill_buf(self.input).map_err(|e| DebError::Read(e).into_io())?;
        if buffer.is_empty() {
            let Member { name, size } = self.member;
            let reason = format!("the file ends after {} of {size} bytes", size - *self.left);
            let subject = format!("member {}", quote(name.as_bytes()));
            return Err(DebError::invalid(subject, reason).into_io());
        }
        let end = usize::try_from(*self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        Ok(&buffer[..end])
    }

    fn consume(&mut self, amount: usize) {
        self.input.consume(amount);
        *self.left = self.left.saturating_sub(amount as u64);
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// Like [`BufRead::fill_buf`], again and again while signals interrupt it.
fn fill_buf(input: &mut (impl BufRead + ?Sized)) -> io::Result<&[u8]> {
    loop {
        match input.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // The buffer is full now, so that this returns it at once.
    input.fill_buf()
}

/// Reads until `buffer` is full or the input ends.
fn fill(input: &mut impl BufRead, buffer: &mut [u8]) -> Result<usize, DebError> {
    let mut got = 0;
    while got < buffer.len() {
        let available = fill_buf(input).map_err(DebError::Read)?;
        if available.is_empty() {
            break;
        }
        let count = available.len().min(buffer.len() - got);
        buffer[got..got + count].copy_from_slice(&available[..count]);
        input.consume(count);
        got += count;
    }
    Ok(got)
}

fn parse_header(header: &[u8; HEADER]) -> Result<Member, DebError> {
    let name = header[..16].trim_ascii_end();
    // GNU ar ends names with a slash.
    let name = name.strip_suffix(b"/").unwrap_or(name);
    let subject = || format!("member {}", quote(name));
    let graphic = |b: &u8| b.is_ascii_graphic() && *b != b'/';
    if name.is_empty() || !name.iter().all(graphic) {
        return Err(DebError::invalid(subject(), "not a valid member name"));
    }
    let digits = header[48..58].trim_ascii_end();
    let size = parse_decimal(digits)
        .ok_or_else(|| DebError::invalid(subject(), format!("bad size field {}", quote(digits))))?;
    Ok(Member {
        name: String::from_utf8_lossy(name).into_owned(),
        size,
    })
}

fn parse_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
