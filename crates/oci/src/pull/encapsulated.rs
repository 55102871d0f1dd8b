//! Layers that hold the objects of an OSTree commit.
//!
//! Such a layer is a tar stream of a repository in mode `bare-split-xattrs`: contents are files of
//! it, their extended attributes are files of their own, and a link says which belong to which.
//! The tree that one sees besides is hard links to them, and not looked at here.

use std::collections::HashMap;
use std::io::Read;

use anyhow::{Context as _, Result, bail};
use apt_ostree_fsx::{cancel, escape, escape_bytes};
use apt_ostree_model::Sha256Digest;

use super::tarread::{Entry, Kind, Limits, TarReader};
use super::{malformed, rejected};

/// Where objects are in the tar stream.
const OBJECTS: &[u8] = b"sysroot/ostree/repo/objects/";
/// Bytes of a directory or commit object; libostree has the same limit.
const MAX_METADATA: u64 = 10 << 20;
/// Bytes of the extended attributes of one file.
const MAX_XATTRS: u64 = 1 << 20;
/// Bytes of all of them that are kept for later files.
const MAX_ALL_XATTRS: usize = 64 << 20;

/// Objects of directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// What is in a directory.
    DirTree,
    /// Owner and mode of one.
    DirMeta,
}

/// A content object.
#[derive(Debug)]
pub struct Content<'c> {
    /// What its checksum must be.
    pub checksum: Sha256Digest,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Extended attributes as libostree serialises them, `a(ayay)`.
    pub xattrs: &'c [u8],
    /// A file or a link.
    pub kind: ContentKind<'c>,
}

/// What a content object is.
pub enum ContentKind<'c> {
    /// A regular file.
    File {
        /// Its size in bytes.
        size: u64,
        /// What is in it.
        content: &'c mut dyn Read,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: &'c str,
    },
}

impl std::fmt::Debug for ContentKind<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { size, .. } => f.debug_struct("File").field("size", size).finish(),
            Self::Symlink { target } => f.debug_struct("Symlink").field("target", target).finish(),
        }
    }
}

/// Takes objects. Whoever implements it compares them with their checksums.
pub trait ObjectStore {
    /// Decides, before anything is stored, whether a commit is wanted.
    ///
    /// # Errors
    /// When it is not, such as for a signature.
    fn check_commit(&mut self, commit: &CommitObjects) -> Result<()>;

    /// Stores an object of a directory.
    ///
    /// # Errors
    /// When it is not what its checksum says, or can't be written.
    fn put_metadata(
        &mut self,
        kind: ObjectKind,
        checksum: &Sha256Digest,
        data: &[u8],
    ) -> Result<()>;

    /// Stores a content.
    ///
    /// # Errors
    /// When it is not what its checksum says, or can't be written.
    fn put_content(&mut self, content: Content<'_>) -> Result<()>;
}

/// A commit object and what stands beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitObjects {
    /// What its checksum must be.
    pub checksum: Sha256Digest,
    /// The object.
    pub commit: Vec<u8>,
    /// Its detached metadata, with its signatures.
    pub detached: Option<Vec<u8>>,
}

/// Reads a layer of contents.
///
/// # Errors
/// When it is malformed, holds other objects, or something can't be stored.
pub fn read_chunk(reader: &mut dyn Read, store: &mut dyn ObjectStore) -> Result<()> {
    Reader::new(reader).rest(store, false)
}

/// Reads the layer of the commit and its directories.
///
/// # Errors
/// When it is malformed, the commit is not wanted, or something can't be stored.
pub fn read_commit(reader: &mut dyn Read, store: &mut dyn ObjectStore) -> Result<CommitObjects> {
    let mut reader = Reader::new(reader);
    let Some((checksum, suffix, entry)) = reader.next()? else {
        bail!(malformed("the layer holds no OSTree objects"));
    };
    if suffix != "commit" {
        bail!(malformed("the first object is no commit"));
    }
    let mut commit = CommitObjects {
        checksum,
        commit: reader.data(&entry, MAX_METADATA)?,
        detached: None,
    };
    let next = reader.next()?;
    if let Some((sum, "commitmeta", entry)) = next {
        if sum != checksum {
            bail!(malformed("the signatures are those of another commit"));
        }
        commit.detached = Some(reader.data(&entry, MAX_METADATA)?);
        store.check_commit(&commit)?;
    } else {
        store.check_commit(&commit)?;
        if let Some((sum, suffix, entry)) = next {
            reader.object((sum, suffix), &entry, store, true)?;
        }
    }
    reader.rest(store, true)?;
    Ok(commit)
}

struct Reader<'r> {
    tar: TarReader<&'r mut dyn Read>,
    /// Extended attributes by their checksum.
    xattrs: HashMap<Sha256Digest, Vec<u8>>,
    xattrs_size: usize,
    /// The content that the next object must be, and its attributes.
    expected: Option<(Sha256Digest, Sha256Digest)>,
    count: u64,
}

type Named = (Sha256Digest, &'static str, Entry);

/// Suffixes of objects.
const SUFFIXES: [&str; 8] = [
    "commit",
    "commitmeta",
    "dirtree",
    "dirmeta",
    "file",
    "file-xattrs",
    "file-xattrs-link",
    "tombstone-commit",
];

impl<'r> Reader<'r> {
    fn new(reader: &'r mut dyn Read) -> Self {
        Self {
            tar: TarReader::new(reader, Limits::default()),
            xattrs: HashMap::new(),
            xattrs_size: 0,
            expected: None,
            count: 0,
        }
    }

    /// The next object; everything else in the stream is passed over.
    fn next(&mut self) -> Result<Option<Named>> {
        loop {
            cancel::check()?;
            let Some(entry) = self.tar.next()? else {
                return Ok(None);
            };
            self.count += 1;
            let limit = 4 * Limits::default().entries;
            if self.count > limit {
                bail!(malformed(format!(
                    "the layer has more than {limit} entries"
                )));
            }
            let path = entry.path.strip_prefix(b"./").unwrap_or(&entry.path);
            let Some(name) = path.strip_prefix(OBJECTS) else {
                continue;
            };
            if entry.kind == Kind::Dir {
                continue;
            }
            let (checksum, suffix) = parse(name)?;
            return Ok(Some((checksum, suffix, entry)));
        }
    }

    fn rest(&mut self, store: &mut dyn ObjectStore, directories: bool) -> Result<()> {
        while let Some((checksum, suffix, entry)) = self.next()? {
            self.object((checksum, suffix), &entry, store, directories)?;
        }
        Ok(())
    }

    fn object(
        &mut self,
        (checksum, suffix): (Sha256Digest, &str),
        entry: &Entry,
        store: &mut dyn ObjectStore,
        directories: bool,
    ) -> Result<()> {
        let kind = match suffix {
            "file" => return self.content(checksum, entry, store),
            "file-xattrs" => return self.keep_xattrs(entry, Some(checksum)).map(drop),
            "file-xattrs-link" => return self.expect(checksum, entry),
            "dirtree" if directories => ObjectKind::DirTree,
            "dirmeta" if directories => ObjectKind::DirMeta,
            _ => bail!(malformed(format!("there is an object of type '{suffix}'"))),
        };
        let data = self.data(entry, MAX_METADATA)?;
        store
            .put_metadata(kind, &checksum, &data)
            .with_context(|| format!("storing object {checksum}.{suffix}"))
    }

    fn content(
        &mut self,
        checksum: Sha256Digest,
        entry: &Entry,
        store: &mut dyn ObjectStore,
    ) -> Result<()> {
        let expected = self
            .expected
            .take()
            .filter(|(content, _)| *content == checksum);
        let xattrs = expected.and_then(|(_, sum)| self.xattrs.get(&sum));
        let Some(xattrs) = xattrs else {
            let message = format!("object {checksum}.file has no extended attributes");
            bail!(malformed(message));
        };
        let mut content = self.tar.content();
        let kind = match entry.kind {
            Kind::File => ContentKind::File {
                size: entry.size,
                content: &mut content,
            },
            Kind::Symlink => ContentKind::Symlink {
                target: std::str::from_utf8(&entry.link)
                    .map_err(|_| malformed("the target of a link is not UTF-8 text"))?,
            },
            _ => bail!(malformed(format!("object {checksum}.file is no file"))),
        };
        let content = Content {
            checksum,
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode,
            xattrs,
            kind,
        };
        store
            .put_content(content)
            .with_context(|| format!("storing object {checksum}.file"))
    }

    /// Notes which extended attributes the next content has.
    fn expect(&mut self, checksum: Sha256Digest, entry: &Entry) -> Result<()> {
        let sum = match entry.kind {
            Kind::Hardlink => {
                let parts = entry.link.rsplitn(3, |b| *b == b'/');
                let mut parts: Vec<&[u8]> = parts.take(2).collect();
                parts.reverse();
                let (sum, suffix) = parse(&parts.join(&b'/'))?;
                if suffix != "file-xattrs" {
                    bail!(malformed("a link to extended attributes points elsewhere"));
                }
                sum
            }
            Kind::File => self.keep_xattrs(entry, None)?,
            _ => bail!(malformed("extended attributes are no file")),
        };
        if self.expected.replace((checksum, sum)).is_some() {
            bail!(malformed("extended attributes belong to no file"));
        }
        Ok(())
    }

    fn keep_xattrs(&mut self, entry: &Entry, sum: Option<Sha256Digest>) -> Result<Sha256Digest> {
        let data = self.data(entry, MAX_XATTRS)?;
        let found = Sha256Digest::new(openssl::sha::sha256(&data));
        if sum.is_some_and(|sum| sum != found) {
            bail!(rejected(format!(
                "extended attributes {found} have another name"
            )));
        }
        self.xattrs_size += data.len();
        if self.xattrs_size > MAX_ALL_XATTRS {
            bail!(malformed("there are too many extended attributes"));
        }
        self.xattrs.insert(found, data);
        Ok(found)
    }

    fn data(&mut self, entry: &Entry, limit: u64) -> Result<Vec<u8>> {
        if entry.kind != Kind::File || entry.size > limit {
            let name = escape_bytes(&entry.path[..entry.path.len().min(200)]);
            bail!(malformed(format!(
                "'{name}' is no file of at most {limit} bytes"
            )));
        }
        let mut data = Vec::new();
        self.tar.content().read_to_end(&mut data)?;
        Ok(data)
    }
}

/// The checksum and the suffix in `XX/XXXX.SUFFIX`.
fn parse(name: &[u8]) -> Result<(Sha256Digest, &'static str)> {
    let parsed = || {
        let name = std::str::from_utf8(name).ok()?;
        let (stem, suffix) = name.split_once('.')?;
        let suffix = SUFFIXES.iter().find(|known| **known == suffix)?;
        let (start, rest) = stem.split_once('/')?;
        let checksum = (start.len() == 2).then(|| format!("{start}{rest}"))?;
        Some((checksum.parse().ok()?, *suffix))
    };
    Ok(parsed().ok_or_else(|| {
        let name = escape(&String::from_utf8_lossy(&name[..name.len().min(100)]));
        malformed(format!("'{name}' is not the name of an object"))
    })?)
}
