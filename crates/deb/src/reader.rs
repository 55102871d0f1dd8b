//! From the file to checked parts.

use std::collections::BTreeMap;
use std::io::Read;

use apt_ostree_model::ControlMember;

use crate::ar::{Ar, Member};
use crate::conffiles::ConffileDecl;
use crate::control::Control;
use crate::data::{DataReader, DataSink, DataSummary};
use crate::decoder::{Bounds, Compression, Decoder};
use crate::error::{DebError, from_io, quote};
use crate::info::Info;
use crate::limits::Limits;
use crate::triggers::Trigger;

/// The `debian-binary` member holds a version number; anything long is something else.
const MAX_FORMAT_SIZE: u64 = 1024;

const FILE: &str = "package file";

/// A package that was read up to its data archive.
#[derive(Debug)]
pub struct DebReader<R> {
    ar: Ar<R>,
    limits: Limits,
    info: Info,
    data: Member,
    compression: Compression,
}

/// What the name of an `ar` member means.
enum Part {
    Format,
    Control(Compression),
    Data(Compression),
    Extension,
    Unknown,
}

impl<R: Read> DebReader<R> {
    /// Reads and checks everything before the data archive, and finds that there is one.
    ///
    /// # Errors
    /// [`DebError::Invalid`] when the package is malformed, [`DebError::Read`] when `reader`
    /// fails.
    pub fn open(reader: R, limits: Limits) -> Result<Self, DebError> {
        let mut ar = Ar::open(reader, limits.max_ar_members)?;
        read_format(&mut ar)?;
        let (control, compression) = loop {
            let member = require(&mut ar, "control.tar")?;
            match part(&member)? {
                Part::Control(compression) => break (member, compression),
                Part::Extension => {}
                Part::Data(_) => {
                    return Err(invalid(&member, "the data archive precedes 'control.tar'"));
                }
                Part::Format | Part::Unknown => {
                    return Err(invalid(&member, "not expected before 'control.tar'"));
                }
            }
        };
        let info = read_control(&mut ar, &control, compression, &limits)?;
        let (data, compression) = loop {
            let member = require(&mut ar, "data.tar")?;
            match part(&member)? {
                Part::Data(compression) => break (member, compression),
                Part::Extension => {}
                Part::Control(_) => return Err(invalid(&member, "a second control archive")),
                Part::Format | Part::Unknown => {
                    return Err(invalid(&member, "not expected before 'data.tar'"));
                }
            }
        };
        Ok(Self {
            ar,
            limits,
            info,
            data,
            compression,
        })
    }

    /// The control file.
    pub const fn control(&self) -> &Control {
        &self.info.control
    }

    /// The members of the control archive other than `control`, by name. A maintainer script that
    /// is not executable for all has the mode 0755, which dpkg gives it before it runs it.
    pub const fn members(&self) -> &BTreeMap<String, ControlMember> {
        &self.info.members
    }

    /// The declared conffiles in the order of their member, without repetitions.
    pub fn conffiles(&self) -> &[ConffileDecl] {
        &self.info.conffiles
    }

    /// The trigger directives in the order of their member.
    pub fn triggers(&self) -> &[Trigger] {
        &self.info.triggers
    }

    /// The newest modification time of a control member in seconds since 1970, from 0 to the end
    /// of the year 9999: when the package was built.
    pub const fn date(&self) -> i64 {
        self.info.date
    }

    /// How the data archive is compressed.
    pub const fn compression(&self) -> Compression {
        self.compression
    }

    /// Gives the data archive's entries to `sink` and reads on to the end of the file. Only when
    /// this succeeds is the package complete: keep nothing of it otherwise.
    ///
    /// # Errors
    /// As [`DebReader::open`], and [`DebError::Sink`] when `sink` refuses an entry.
    pub fn data(mut self, sink: &mut dyn DataSink) -> Result<DataSummary, DebError> {
        let subject = describe(&self.data);
        let content = self.ar.content(&self.data);
        let bounds = Bounds::data(&self.limits);
        let decoder = Decoder::new(content, self.compression, &subject, bounds)?;
        let mut reader = DataReader::new(&subject, &self.limits);
        let summary = reader.read(decoder, sink)?;
        reader.check_conffiles(&self.info.conffiles)?;
        while let Some(member) = self.ar.next()? {
            if is_standard(&member) {
                return Err(invalid(&member, "not expected after the data archive"));
            }
        }
        Ok(summary)
    }
}

fn describe(member: &Member) -> String {
    format!("member {}", quote(member.name.as_bytes()))
}

fn invalid(member: &Member, reason: impl std::fmt::Display) -> DebError {
    DebError::invalid(describe(member), reason)
}

fn require<R: Read>(ar: &mut Ar<R>, name: &str) -> Result<Member, DebError> {
    let missing = || DebError::invalid(FILE, format!("the member '{name}' is missing"));
    ar.next()?.ok_or_else(missing)
}

/// True for names that stand for one of the three parts of a package.
fn is_standard(member: &Member) -> bool {
    let name = member.name.as_str();
    ["debian-binary", "control.tar", "data.tar"]
        .iter()
        .any(|part| name.starts_with(part))
}

fn part(member: &Member) -> Result<Part, DebError> {
    let name = member.name.as_str();
    if name == "debian-binary" {
        return Ok(Part::Format);
    }
    if let Some(ending) = name.strip_prefix("control.tar") {
        let compression = Compression::from_ending(ending);
        return match compression {
            Some(Compression::Lzma) | None => Err(invalid(
                member,
                "unsupported compression; known are none, gz, xz, zst",
            )),
            Some(compression) => Ok(Part::Control(compression)),
        };
    }
    if let Some(ending) = name.strip_prefix("data.tar") {
        let compression = Compression::from_ending(ending);
        return compression.map(Part::Data).ok_or_else(|| {
            invalid(
                member,
                "unsupported compression; known are none, gz, xz, lzma, zst",
            )
        });
    }
    if name.starts_with('_') {
        return Ok(Part::Extension);
    }
    Ok(Part::Unknown)
}

/// Checks the first member, the format version: the first line counts, later ones are reserved.
fn read_format<R: Read>(ar: &mut Ar<R>) -> Result<(), DebError> {
    let member = require(ar, "debian-binary")?;
    if member.name != "debian-binary" {
        return Err(invalid(&member, "the first member is not 'debian-binary'"));
    }
    if member.size > MAX_FORMAT_SIZE {
        return Err(invalid(&member, "too large for a format version"));
    }
    let mut bytes = Vec::new();
    let mut content = ar.content(&member);
    content
        .read_to_end(&mut bytes)
        .map_err(|e| from_io(e, describe(&member)))?;
    let Some(end) = bytes.iter().position(|b| *b == b'\n') else {
        return Err(invalid(&member, "no format version"));
    };
    let line = &bytes[..end];
    let minor = line.strip_prefix(b"2.").unwrap_or(b"");
    if minor.is_empty() || minor.len() > 9 || !minor.iter().all(u8::is_ascii_digit) {
        return Err(invalid(
            &member,
            format!("unsupported format version {}", quote(line)),
        ));
    }
    Ok(())
}

fn read_control<R: Read>(
    ar: &mut Ar<R>,
    member: &Member,
    compression: Compression,
    limits: &Limits,
) -> Result<Info, DebError> {
    if member.size > limits.max_control_size {
        let reason = format!("larger than {} bytes", limits.max_control_size);
        return Err(invalid(member, reason));
    }
    let subject = describe(member);
    let content = ar.content(member);
    let decoder = Decoder::new(content, compression, &subject, Bounds::control(limits))?;
    Info::read(decoder, &subject, limits)
}
