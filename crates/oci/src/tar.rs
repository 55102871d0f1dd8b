//! Tar headers, written and read.
//!
//! Written are GNU headers with whole seconds and numeric owners only. A name longer than a
//! header holds goes into a GNU `L` or `K` record as raw UTF-8; PAX records appear for extended
//! attributes alone. That is the common ground of all importers: some trip over PAX paths that
//! are not ASCII, and over fractions of seconds.

use apt_ostree_model::tree::Xattrs;

/// Size of a tar block.
pub(crate) const BLOCK: usize = 512;

/// The two zero blocks at the end of an archive.
pub(crate) const TRAILER: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

const NAME_LENGTH: usize = 100;
const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// What an entry is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind<'a> {
    /// A regular file and its size.
    File(u64),
    /// A directory.
    Dir,
    /// A symbolic link and its target.
    Symlink(&'a str),
}

/// One member of an archive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) path: &'a str,
    pub(crate) kind: Kind<'a>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: u64,
    pub(crate) xattrs: Option<&'a Xattrs>,
}

impl<'a> Entry<'a> {
    /// A member of an image archive: owned by root, mode 0644, time 0.
    pub(crate) const fn plain(path: &'a str, size: u64) -> Self {
        Self {
            path,
            kind: Kind::File(size),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: None,
        }
    }

    /// Appends the header blocks. The content, if any, and its [`padding`] must follow.
    pub(crate) fn write_header(&self, out: &mut Vec<u8>) {
        if let Some(xattrs) = self.xattrs.filter(|xattrs| !xattrs.is_empty()) {
            write_pax(xattrs, out);
        }
        let path: std::borrow::Cow<'_, str> = match self.kind {
            Kind::Dir if self.path.is_empty() => "./".into(),
            Kind::Dir => format!("{}/", self.path).into(),
            _ => self.path.into(),
        };
        let (flag, size, target) = match self.kind {
            Kind::File(size) => (b'0', size, ""),
            Kind::Dir => (b'5', 0, ""),
            Kind::Symlink(target) => (b'2', 0, target),
        };
        if target.len() > NAME_LENGTH {
            write_long(b'K', target, out);
        }
        if path.len() > NAME_LENGTH {
            write_long(b'L', &path, out);
        }
        let mut block = Header::new(flag, path.as_bytes(), size);
        block.field(157, NAME_LENGTH, target.as_bytes());
        block.number(100, 8, u64::from(self.mode & 0o7777));
        block.number(108, 8, u64::from(self.uid));
        block.number(116, 8, u64::from(self.gid));
        block.number(136, 12, self.mtime);
        block.finish(out);
    }
}

/// How many zero bytes follow content of `size` bytes.
pub(crate) const fn padding(size: u64) -> usize {
    let rest = (size % BLOCK as u64) as usize;
    if rest == 0 { 0 } else { BLOCK - rest }
}

struct Header([u8; BLOCK]);

impl Header {
    fn new(flag: u8, name: &[u8], size: u64) -> Self {
        let mut block = Self(ZEROS);
        block.field(0, NAME_LENGTH, name);
        block.number(100, 8, 0o644);
        block.number(108, 8, 0);
        block.number(116, 8, 0);
        block.number(124, 12, size);
        block.number(136, 12, 0);
        block.0[156] = flag;
        block.field(257, 8, b"ustar  \0");
        block
    }

    /// Copies as much of `text` as fits.
    fn field(&mut self, start: usize, width: usize, text: &[u8]) {
        let length = text.len().min(width);
        self.0[start..start + length].copy_from_slice(&text[..length]);
    }

    /// Octal digits and a NUL, or base-256 when there are too few digits.
    fn number(&mut self, start: usize, width: usize, value: u64) {
        let field = &mut self.0[start..start + width];
        if value >> (3 * (width - 1)) == 0 {
            let text = format!("{value:0digits$o}\0", digits = width - 1);
            field.copy_from_slice(text.as_bytes());
        } else {
            field.fill(0);
            let bytes = value.to_be_bytes();
            let length = bytes.len().min(width - 1);
            field[width - length..].copy_from_slice(&bytes[bytes.len() - length..]);
            field[0] = 0x80;
        }
    }

    fn finish(mut self, out: &mut Vec<u8>) {
        let text = format!("{:06o}\0 ", checksum(&self.0));
        self.field(148, 8, text.as_bytes());
        out.extend_from_slice(&self.0);
    }
}

/// Sum of all header bytes, the checksum field taken as spaces.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let all: u32 = block.iter().map(|&b| u32::from(b)).sum();
    let own: u32 = block[148..156].iter().map(|&b| u32::from(b)).sum();
    all - own + 8 * u32::from(b' ')
}

fn write_record(flag: u8, name: &[u8], data: &[u8], out: &mut Vec<u8>) {
    let mut block = Header::new(flag, name, data.len() as u64);
    if flag == b'x' {
        block.field(257, 8, b"ustar\x0000");
    }
    block.finish(out);
    out.extend_from_slice(data);
    out.extend_from_slice(&ZEROS[..padding(data.len() as u64)]);
}

fn write_long(flag: u8, text: &str, out: &mut Vec<u8>) {
    let mut data = text.as_bytes().to_vec();
    data.push(0);
    write_record(flag, b"././@LongLink", &data, out);
}

fn write_pax(xattrs: &Xattrs, out: &mut Vec<u8>) {
    let mut data = Vec::new();
    for (name, value) in xattrs {
        // The length at the start of a record counts its own digits.
        let rest = " SCHILY.xattr.".len() + name.len() + "=".len() + value.0.len() + "\n".len();
        let mut length = rest;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        data.extend_from_slice(format!("{length} SCHILY.xattr.{name}=").as_bytes());
        data.extend_from_slice(&value.0);
        data.push(b'\n');
    }
    write_record(b'x', b"././@PaxHeader", &data, out);
}

/// A header as the reader of image archives needs it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// The name in the header itself; records for long names are not looked at.
    pub(crate) name: String,
    /// Size of the content that follows.
    pub(crate) size: u64,
    /// True for a regular file.
    pub(crate) is_file: bool,
}

/// Reads a header block; `Ok(None)` for a zero block, which ends the archive.
pub(crate) fn parse_header(block: &[u8; BLOCK]) -> Result<Option<Member>, &'static str> {
    if block.iter().all(|&b| b == 0) {
        return Ok(None);
    }
    let sum = parse_number(&block[148..156]).ok_or("has a malformed checksum")?;
    if sum != u64::from(checksum(block)) {
        return Err("has a wrong checksum");
    }
    let size = parse_number(&block[124..136]).ok_or("has a malformed size")?;
    let mut name = text(&block[..NAME_LENGTH])?;
    if block[257..263] == *b"ustar\0" {
        let prefix = text(&block[345..500])?;
        if !prefix.is_empty() {
            name = format!("{prefix}/{name}");
        }
    }
    let is_file = matches!(block[156], b'0' | 0);
    Ok(Some(Member {
        name,
        size,
        is_file,
    }))
}

fn text(field: &[u8]) -> Result<String, &'static str> {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    std::str::from_utf8(&field[..end])
        .map(str::to_owned)
        .map_err(|_| "has a name that is not UTF-8")
}

fn parse_number(field: &[u8]) -> Option<u64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let (high, low) = rest.split_at(rest.len().saturating_sub(8));
        if first != 0x80 || high.iter().any(|&b| b != 0) {
            return None;
        }
        return Some(low.iter().fold(0, |sum, &b| sum << 8 | u64::from(b)));
    }
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches([' ', '\0']);
    if digits.is_empty() || !digits.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
        return None;
    }
    u64::from_str_radix(digits, 8).ok()
}

#[cfg(test)]
mod tests {
    use apt_ostree_model::tree::HexBytes;
    use proptest::prelude::*;

    use super::*;

    fn header(entry: &Entry<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        entry.write_header(&mut out);
        out
    }

    fn last_block(data: &[u8]) -> &[u8; BLOCK] {
        data[data.len() - BLOCK..].try_into().unwrap()
    }

    #[test]
    fn a_short_entry_is_one_block() {
        let data = header(&Entry::plain("etc/passwd", 1000));
        assert_eq!(data.len(), BLOCK);
        let member = parse_header(last_block(&data)).unwrap().unwrap();
        assert_eq!(member.name, "etc/passwd");
        assert_eq!(member.size, 1000);
        assert!(member.is_file);
    }

    #[test]
    fn names_of_more_than_100_bytes_get_a_long_name_record() {
        let fits = "n".repeat(100);
        assert_eq!(header(&Entry::plain(&fits, 0)).len(), BLOCK);
        let long = "ü".repeat(51);
        let data = header(&Entry::plain(&long, 0));
        assert_eq!(data.len(), 3 * BLOCK);
        assert_eq!(data[156], b'L');
        assert_eq!(&data[BLOCK..BLOCK + 102], long.as_bytes());
        assert_eq!(data[BLOCK + 102], 0);
    }

    #[test]
    fn big_numbers_become_base_256() {
        let entry = Entry {
            uid: u32::MAX,
            ..Entry::plain("x", 9 << 30)
        };
        let data = header(&entry);
        assert_eq!(parse_number(&data[108..116]), Some(u64::from(u32::MAX)));
        assert_eq!(parse_number(&data[124..136]), Some(9 << 30));
        assert_eq!(data[124], 0x80);
    }

    #[test]
    fn the_length_of_a_pax_record_counts_itself() {
        for size in [0, 60, 80, 81, 82, 83, 84, 85, 970, 980, 990] {
            let xattrs = Xattrs::from([("user.a".to_owned(), HexBytes(vec![b'v'; size]))]);
            let mut out = Vec::new();
            write_pax(&xattrs, &mut out);
            let data = &out[BLOCK..];
            let end = parse_number(&out[124..136]).unwrap() as usize;
            let space = data.iter().position(|&b| b == b' ').unwrap();
            let length: usize = std::str::from_utf8(&data[..space])
                .unwrap()
                .parse()
                .unwrap();
            assert_eq!(length, end, "value of {size} bytes");
            assert_eq!(data[end - 1], b'\n');
        }
    }

    proptest! {
        #[test]
        fn numbers_round_trip(value: u64) {
            let mut block = Header::new(b'0', b"", 0);
            block.number(124, 12, value);
            prop_assert_eq!(parse_number(&block.0[124..136]), Some(value));
        }

        #[test]
        fn any_block_is_parsed_or_refused(data in proptest::collection::vec(any::<u8>(), BLOCK)) {
            let mut block: [u8; BLOCK] = data.try_into().unwrap();
            let _parsed = parse_header(&block);
            // The same with a valid checksum gets past the first check.
            let sum = format!("{:06o}\0 ", checksum(&block));
            block[148..156].copy_from_slice(sum.as_bytes());
            let _parsed = parse_header(&block);
        }
    }
}
