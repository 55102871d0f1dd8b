//! The control archive.

use std::collections::BTreeMap;
use std::io::Read;

use apt_ostree_model::ControlMember;

use crate::conffiles::{self, ConffileDecl};
use crate::control::Control;
use crate::decoder::Decoder;
use crate::error::{DebError, quote};
use crate::limits::Limits;
use crate::path;
use crate::tar::{RawEntry, RawKind, TarReader, entry_error};
use crate::triggers::{self, Trigger};

const SCRIPTS: [&str; 4] = ["preinst", "postinst", "prerm", "postrm"];

/// The longest member name that dpkg takes.
const MAX_NAME: usize = 100;

/// The last second of the year 9999: later times don't fit everywhere.
const MAX_DATE: i64 = 253_402_300_799;

/// Everything of the control archive.
#[derive(Debug)]
pub(crate) struct Info {
    pub(crate) control: Control,
    pub(crate) members: BTreeMap<String, ControlMember>,
    pub(crate) conffiles: Vec<ConffileDecl>,
    pub(crate) triggers: Vec<Trigger>,
    pub(crate) date: i64,
}

impl Info {
    /// Reads the control archive to its end.
    pub(crate) fn read<'a>(
        decoder: Decoder<'a>,
        subject: &'a str,
        limits: &Limits,
    ) -> Result<Self, DebError> {
        let (mut members, date) = read_members(decoder, subject, limits)?;
        let Some(control) = members.remove("control") else {
            return Err(DebError::invalid(subject, "the control file is missing"));
        };
        let control = Control::parse(&control.data, limits)?;
        let data = |name| members.get(name).map_or(&[][..], |m| m.data.as_slice());
        let conffiles = conffiles::parse(data("conffiles"), limits)?;
        let triggers = triggers::parse(data("triggers"), limits)?;
        Ok(Self {
            control,
            conffiles,
            triggers,
            members,
            date,
        })
    }
}

fn read_members<'a>(
    decoder: Decoder<'a>,
    subject: &'a str,
    limits: &Limits,
) -> Result<(BTreeMap<String, ControlMember>, i64), DebError> {
    let mut tar = TarReader::new(decoder, subject, limits.max_path);
    let mut members = BTreeMap::new();
    let mut date = 0;
    let mut headers = 0;
    while let Some(raw) = tar.next()? {
        let fail = |reason: String| entry_error(subject, &raw.name, reason);
        headers += 1;
        if headers > limits.max_control_members {
            let reason = format!("more than {} members", limits.max_control_members);
            return Err(DebError::invalid(subject, reason));
        }
        let Some(name) = member_name(&raw, limits).map_err(fail)? else {
            continue;
        };
        date = date.max(raw.mtime.min(MAX_DATE));
        let data = read_member(&mut tar, &raw, limits)?;
        let mode = member_mode(&name, raw.mode);
        if members.insert(name, ControlMember { mode, data }).is_some() {
            return Err(fail("the member appears twice".into()));
        }
    }
    Ok((members, date))
}

/// The name of a control member; `None` for the archive's root directory.
fn member_name(raw: &RawEntry, limits: &Limits) -> Result<Option<String>, String> {
    let name = path::clean(&raw.name, limits)?;
    match raw.kind {
        RawKind::Dir if name.is_empty() => return Ok(None),
        RawKind::File if !raw.name.ends_with(b"/") => {}
        RawKind::Symlink | RawKind::Hardlink => {
            return Err("links are not allowed in the control archive".into());
        }
        _ => return Err("not a regular file at the top of the control archive".into()),
    }
    let ok = |c: char| c.is_ascii_alphanumeric() || "-_.+~".contains(c);
    let plain = name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(ok);
    if !plain || name.len() > MAX_NAME {
        return Err("not a valid name for a control member".into());
    }
    if name == "list" {
        return Err("the name is that of a file of dpkg's own".into());
    }
    Ok(Some(name))
}

fn read_member(
    tar: &mut TarReader<'_>,
    raw: &RawEntry,
    limits: &Limits,
) -> Result<Vec<u8>, DebError> {
    let mut data = Vec::new();
    let mut content = tar.content(&raw.name);
    // The decoder bounds the whole archive, so that no size field can make this large.
    let result = content
        .by_ref()
        .take(limits.max_control_size)
        .read_to_end(&mut data);
    if let Some(error) = content.into_error() {
        return Err(error);
    }
    match result {
        Ok(got) if got as u64 == raw.size => Ok(data),
        _ => Err(DebError::invalid(
            format!("control member {}", quote(&raw.name)),
            format!("larger than {} bytes", limits.max_control_size),
        )),
    }
}

/// dpkg runs a script in any case: it makes it executable first if it isn't.
fn member_mode(name: &str, mode: u32) -> u32 {
    if SCRIPTS.contains(&name) && mode & 0o555 != 0o555 {
        return 0o755;
    }
    mode & 0o777
}
