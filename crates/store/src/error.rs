//! Errors with a kind.

use std::fmt::Display;
use std::io;

use apt_ostree_model::{ErrorKind, Kinded};

/// An error of the repository or the disk below it.
pub(crate) fn storage(error: impl Display) -> anyhow::Error {
    Kinded::new(ErrorKind::Storage, escape(&error.to_string())).into()
}

/// An error that is the fault of the user's input.
pub(crate) fn invalid_input(message: impl Into<String>) -> anyhow::Error {
    Kinded::new(ErrorKind::InvalidInput, message).into()
}

/// Wraps an error for interfaces that know only I/O errors.
pub(crate) fn into_io(error: &anyhow::Error) -> io::Error {
    io::Error::other(format!("{error:#}"))
}

/// Text without control characters.
pub(crate) fn escape(text: &str) -> String {
    let escape = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escape).collect()
}

/// A path or other name in single quotes, control characters escaped.
pub(crate) fn quote(name: &str) -> String {
    format!("'{}'", escape(name))
}
