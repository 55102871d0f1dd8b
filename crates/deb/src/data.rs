//! The data archive: from raw tar entries to checked ones.

use std::io::Read;

use crate::conffiles::ConffileDecl;
use crate::decoder::Decoder;
use crate::error::{DebError, quote};
use crate::limits::Limits;
use crate::path;
use crate::seen::{Kind, Seen};
use crate::tar::{RawEntry, RawKind, TarReader, entry_error};

/// One member of the data archive. Its path and numbers are checked; see the crate's rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative path without a leading `./` or trailing `/`; the root is `""`.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with set-id and sticky bits. A package can give its root entry any mode:
    /// that says nothing about the root of a system.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in seconds since 1970; any value, also negative.
    pub mtime: i64,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory. It may come after entries below it, and may be missing altogether.
    Dir,
    /// A regular file of `size` bytes.
    File {
        /// Size in bytes.
        size: u64,
    },
    /// A symbolic link, which may point anywhere, also out of the root.
    Symlink {
        /// Where it points: neither empty nor with control characters, else unchecked.
        target: String,
    },
    /// A hard link to a file that came earlier.
    Hardlink {
        /// The path of that file, like [`Entry::path`].
        target: String,
    },
}

/// Takes the members of a data archive, in the order of the archive.
pub trait DataSink {
    /// Takes one entry. `content` holds a regular file's bytes and is empty for others; what is
    /// not read is skipped.
    ///
    /// # Errors
    /// When the entry can't be stored; reading ends with [`DebError::Sink`].
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> anyhow::Result<()>;
}

/// What a whole data archive held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DataSummary {
    /// Entries given to the sink.
    pub entries: u64,
    /// Bytes of all regular files.
    pub size: u64,
}

/// Checks entries against each other and gives them to a sink.
pub(crate) struct DataReader<'a> {
    subject: &'a str,
    limits: &'a Limits,
    seen: Seen,
}

impl<'a> DataReader<'a> {
    pub(crate) fn new(subject: &'a str, limits: &'a Limits) -> Self {
        Self {
            subject,
            limits,
            seen: Seen::new(limits),
        }
    }

    /// Reads the archive to its end.
    pub(crate) fn read(
        &mut self,
        decoder: Decoder<'a>,
        sink: &mut dyn DataSink,
    ) -> Result<DataSummary, DebError> {
        let max_name = self.limits.max_path;
        let mut tar = TarReader::new(decoder, self.subject, max_name);
        let mut summary = DataSummary::default();
        let mut headers = 0;
        while let Some(raw) = tar.next()? {
            headers += 1;
            if headers > self.limits.max_entries {
                let reason = format!("more than {} entries", self.limits.max_entries);
                return Err(DebError::invalid(self.subject, reason));
            }
            let fail = |reason| entry_error(self.subject, &raw.name, reason);
            let entry = checked_entry(&raw, self.limits).map_err(fail)?;
            if !record(&mut self.seen, &entry).map_err(fail)? {
                continue;
            }
            summary.entries += 1;
            summary.size += raw.size;
            give(&mut tar, &entry, &raw.name, sink)?;
        }
        Ok(summary)
    }

    /// Checks that the conffiles are there, and those to be removed are not.
    pub(crate) fn check_conffiles(&self, conffiles: &[ConffileDecl]) -> Result<(), DebError> {
        for ConffileDecl {
            path,
            remove_on_upgrade,
        } in conffiles
        {
            let relative = path.trim_start_matches('/');
            let reason = if *remove_on_upgrade {
                if !self.seen.contains(relative) {
                    continue;
                }
                "is to be removed on upgrade, but the package ships it"
            } else {
                if self.seen.is_file(relative) {
                    continue;
                }
                "is not among the package's regular files"
            };
            return Err(DebError::invalid(
                format!("conffile {}", quote(path.as_bytes())),
                reason,
            ));
        }
        Ok(())
    }
}

fn give(
    tar: &mut TarReader<'_>,
    entry: &Entry,
    name: &[u8],
    sink: &mut dyn DataSink,
) -> Result<(), DebError> {
    let mut content = tar.content(name);
    let result = sink.entry(entry, &mut content);
    // What a sink makes of a read error matters less than the error itself.
    if let Some(error) = content.into_error() {
        return Err(error);
    }
    result.map_err(|source| DebError::Sink {
        path: entry.path.clone(),
        source,
    })
}

fn checked_entry(raw: &RawEntry, limits: &Limits) -> Result<Entry, String> {
    let path = path::clean(&raw.name, limits)?;
    if raw.kind != RawKind::Dir && raw.name.ends_with(b"/") {
        return Err("the path of an entry that is no directory ends in '/'".into());
    }
    let kind = match raw.kind {
        RawKind::Dir => EntryKind::Dir,
        RawKind::File => {
            if raw.size > limits.max_file_size {
                return Err(format!(
                    "the file is larger than {} bytes",
                    limits.max_file_size
                ));
            }
            EntryKind::File { size: raw.size }
        }
        RawKind::Symlink => EntryKind::Symlink {
            target: link_target(&raw.link, limits)?,
        },
        RawKind::Hardlink => EntryKind::Hardlink {
            target: path::clean(&raw.link, limits)
                .map_err(|e| format!("hard link to {}: {e}", quote(&raw.link)))?,
        },
    };
    Ok(Entry {
        path,
        kind,
        mode: raw.mode,
        uid: raw.uid,
        gid: raw.gid,
        mtime: raw.mtime,
    })
}

fn link_target(target: &[u8], limits: &Limits) -> Result<String, String> {
    if target.is_empty() {
        return Err("the symbolic link has no target".into());
    }
    if target.len() >= limits.max_path {
        return Err(format!(
            "the link target is longer than {} bytes",
            limits.max_path - 1
        ));
    }
    let Ok(text) = std::str::from_utf8(target) else {
        return Err(format!(
            "the link target {} is not UTF-8 text",
            quote(target)
        ));
    };
    if text.chars().any(char::is_control) {
        return Err(format!(
            "the link target {} holds a control character",
            quote(target)
        ));
    }
    Ok(text.to_owned())
}

/// Adds the entry's path; false for a directory that is repeated as it was.
fn record(seen: &mut Seen, entry: &Entry) -> Result<bool, String> {
    let kind = match &entry.kind {
        EntryKind::Dir => Kind::Dir((entry.mode, entry.uid, entry.gid)),
        EntryKind::File { .. } => Kind::File,
        EntryKind::Symlink { .. } => Kind::Symlink,
        EntryKind::Hardlink { target } => {
            if !seen.is_file(target) {
                let target = quote(target.as_bytes());
                return Err(format!("hard link to {target}, which is no earlier file"));
            }
            Kind::File
        }
    };
    seen.add(&entry.path, kind)
}
