//! A streaming reader of Debian binary packages (`.deb`) that trusts nothing in them.
//!
//! [`DebReader::open`] reads everything up to the data archive: the format version and the whole
//! control archive, all checked. [`DebReader::data`] then hands the members of the data archive to
//! a [`DataSink`], one by one, without keeping their content, and reads on to the end of the file.
//! Only [`std::io::Read`] is used: no disk, no processes.
//!
//! # What is accepted
//!
//! The verdict may be stricter than dpkg's, but is never looser:
//!
//! * The file is an `ar` archive of `debian-binary`, `control.tar*` and `data.tar*` in this order.
//!   Members whose name starts with `_` may stand anywhere after the first one, and any others
//!   after the data archive as long as they are not a second data or control archive: deb(5)
//!   reserves them for extensions, so they are skipped. Bytes that are not a member (garbage at
//!   the end, a missing or wrong padding byte) are refused.
//! * A member's name alone decides how it is decompressed. A compressed stream must end exactly
//!   where its member ends, and be complete. See [`Compression`].
//! * The archives are tar files in ustar or GNU format, without PAX headers, sparse files or
//!   device nodes. After the end marker only zero bytes follow, in whole blocks. The end marker
//!   may be missing if the last entry is complete and there is at least one.
//! * Paths are relative with an optional leading `./`, and directories may end in `/`. They are
//!   never repaired: an absolute path, an empty, `.` or `..` component, a control character or
//!   text that isn't UTF-8 is refused.
//! * A path appears once, except that a directory may be repeated with the same owner and mode.
//!   Nothing lies below a file or a link, and a hard link names an earlier regular file.
//!
//! All sizes and counts have a limit, see [`Limits`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod ar;
mod conffiles;
mod control;
mod data;
mod decoder;
mod error;
mod info;
mod limits;
mod path;
mod reader;
mod relations;
mod seen;
mod tar;
mod triggers;

pub use conffiles::ConffileDecl;
pub use control::{Control, MultiArch};
pub use data::{DataSink, DataSummary, Entry, EntryKind};
pub use decoder::Compression;
pub use error::DebError;
pub use limits::Limits;
pub use reader::DebReader;
pub use relations::check_relations;
pub use triggers::{Trigger, TriggerKind};
