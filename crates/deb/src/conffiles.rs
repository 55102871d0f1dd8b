//! The `conffiles` member.

use std::collections::HashMap;

use crate::error::{DebError, quote};
use crate::limits::Limits;
use crate::path;

/// One declared conffile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConffileDecl {
    /// Absolute path.
    pub path: String,
    /// True for `remove-on-upgrade`: the package no longer ships it.
    pub remove_on_upgrade: bool,
}

pub(crate) fn parse(bytes: &[u8], limits: &Limits) -> Result<Vec<ConffileDecl>, DebError> {
    let mut list: Vec<ConffileDecl> = Vec::new();
    let mut seen = HashMap::new();
    for (number, line) in lines("conffiles", bytes)? {
        let fail = |reason: String| {
            DebError::invalid(format!("member 'conffiles', line {number}"), reason)
        };
        let line = line.trim_ascii_end();
        if line.is_empty() {
            continue;
        }
        let (flag, path) = match line.split_once(' ') {
            Some((flag, path)) if !flag.starts_with('/') => (Some(flag), path),
            _ => (None, line),
        };
        if let Some(other) = flag.filter(|f| *f != "remove-on-upgrade") {
            return Err(fail(format!("unknown flag {}", quote(other.as_bytes()))));
        }
        path::clean_absolute(path, limits)
            .map_err(|e| fail(format!("{}: {e}", quote(path.as_bytes()))))?;
        let remove_on_upgrade = flag.is_some();
        match seen.insert(path, remove_on_upgrade) {
            Some(before) if before == remove_on_upgrade => continue,
            Some(_) => {
                let path = quote(path.as_bytes());
                return Err(fail(format!(
                    "{path} is declared twice with different flags"
                )));
            }
            None => {}
        }
        list.push(ConffileDecl {
            path: path.to_owned(),
            remove_on_upgrade,
        });
    }
    Ok(list)
}

/// The numbered lines of a control member that must be text with a final newline.
pub(crate) fn lines<'a>(
    member: &str,
    bytes: &'a [u8],
) -> Result<impl Iterator<Item = (usize, &'a str)>, DebError> {
    let fail = |reason| DebError::invalid(format!("member '{member}'"), reason);
    let text = std::str::from_utf8(bytes).map_err(|_| fail("it is not UTF-8 text"))?;
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(fail("the final newline is missing"));
    }
    let lines = text.split_terminator('\n').enumerate();
    Ok(lines.map(|(index, line)| (index + 1, line)))
}
