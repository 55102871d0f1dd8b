//! The `triggers` member.

use crate::conffiles::lines;
use crate::error::{DebError, quote};
use crate::limits::Limits;
use crate::path;

/// Files of dpkg's own in the directory where it keeps one file per trigger.
const RESERVED: [&str; 3] = ["File", "Unincorp", "Lock"];

/// What a trigger directive does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TriggerKind {
    /// The package wants to be told.
    Interest,
    /// The package tells others.
    Activate,
}

/// One directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// What it does.
    pub kind: TriggerKind,
    /// False for the `-noawait` directives, which don't hold up the activating package.
    pub wait: bool,
    /// A trigger's name, or an absolute path for a file trigger.
    pub name: String,
}

impl Trigger {
    /// True for a file trigger: its name is an absolute path.
    pub fn is_file(&self) -> bool {
        self.name.starts_with('/')
    }
}

pub(crate) fn parse(bytes: &[u8], limits: &Limits) -> Result<Vec<Trigger>, DebError> {
    let mut list = Vec::new();
    for (number, line) in lines("triggers", bytes)? {
        let fail =
            |reason: String| DebError::invalid(format!("member 'triggers', line {number}"), reason);
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, name) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let (kind, wait) = directive(word)
            .ok_or_else(|| fail(format!("unknown directive {}", quote(word.as_bytes()))))?;
        let name = name.trim_ascii_start();
        check_name(name, limits)
            .map_err(|e| fail(format!("trigger {}: {e}", quote(name.as_bytes()))))?;
        list.push(Trigger {
            kind,
            wait,
            name: name.to_owned(),
        });
    }
    Ok(list)
}

fn directive(word: &str) -> Option<(TriggerKind, bool)> {
    Some(match word {
        "interest" | "interest-await" => (TriggerKind::Interest, true),
        "interest-noawait" => (TriggerKind::Interest, false),
        "activate" | "activate-await" => (TriggerKind::Activate, true),
        "activate-noawait" => (TriggerKind::Activate, false),
        _ => return None,
    })
}

fn check_name(name: &str, limits: &Limits) -> Result<(), String> {
    if name.is_empty() {
        return Err("the name is missing".into());
    }
    if !name.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("the name holds a blank or a character that is not ASCII".into());
    }
    if name.starts_with('/') {
        let path = name.strip_suffix('/').unwrap_or(name);
        return path::clean_absolute(path, limits).map(|_| ());
    }
    if name.len() > limits.max_component {
        return Err(format!(
            "the name is longer than {} bytes",
            limits.max_component
        ));
    }
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !starts_well || name.contains('/') || RESERVED.contains(&name) {
        return Err("not a trigger name".into());
    }
    Ok(())
}
