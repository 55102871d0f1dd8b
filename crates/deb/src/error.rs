//! What can go wrong, in words fit for a terminal.

use std::fmt::{self, Write as _};
use std::io;

/// How many characters of a package's own text a message shows.
const MAX_SHOWN: usize = 200;

/// A package can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DebError {
    /// The package is malformed or goes over a limit.
    #[error("{subject}: {reason}")]
    #[non_exhaustive]
    Invalid {
        /// The member, field or path that is wrong.
        subject: String,
        /// What is wrong with it.
        reason: String,
        /// What its maker can do about it.
        hint: Option<&'static str>,
    },
    /// The reader below failed; this says nothing about the package.
    #[error("reading the package")]
    Read(#[source] io::Error),
    /// The sink refused an entry.
    #[error("storing {}", quote(.path.as_bytes()))]
    Sink {
        /// The entry's path.
        path: String,
        /// Why.
        source: anyhow::Error,
    },
}

impl DebError {
    pub(crate) fn invalid(subject: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self::Invalid {
            subject: subject.to_string(),
            reason: reason.to_string(),
            hint: None,
        }
    }

    pub(crate) fn with_hint(mut self, text: &'static str) -> Self {
        if let Self::Invalid { hint, .. } = &mut self {
            *hint = Some(text);
        }
        self
    }

    /// True if the package itself is at fault.
    pub const fn is_invalid(&self) -> bool {
        matches!(self, Self::Invalid { .. })
    }

    /// What can be done about it, if known.
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { hint, .. } => *hint,
            _ => None,
        }
    }

    /// Carries `self` through interfaces that know only I/O errors; see [`from_io`].
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}

/// Takes a [`DebError`] out of an I/O error, or else makes one of what a decoder says about
/// corrupt input.
pub(crate) fn from_io(error: io::Error, subject: impl fmt::Display) -> DebError {
    if !error.get_ref().is_some_and(|e| e.is::<DebError>()) {
        let reason = match error.kind() {
            io::ErrorKind::UnexpectedEof => "the compressed data is cut short".to_owned(),
            _ => format!("the compressed data is corrupt ({error})"),
        };
        return DebError::invalid(subject, reason);
    }
    match error.into_inner().map(|e| e.downcast::<DebError>()) {
        Some(Ok(error)) => *error,
        _ => DebError::invalid(subject, "can't be read"),
    }
}

/// Text of a package in single quotes: control and invisible characters and bytes that aren't
/// UTF-8 escaped, long text cut.
pub(crate) fn quote(text: &[u8]) -> String {
    let mut out = String::from("'");
    let mut shown = 0;
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            if shown == MAX_SHOWN {
                return out + "...'";
            }
            shown += 1;
            if c == '\\' || c.is_control() || is_invisible(c) {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            if shown == MAX_SHOWN {
                return out + "...'";
            }
            shown += 1;
            // Writing to a string can't fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('\'');
    out
}

/// Characters that change how a terminal shows the text around them.
const fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_bad_utf8_are_escaped() {
        assert_eq!(quote(b"a\x1b[31m\n"), "'a\\u{1b}[31m\\n'");
        assert_eq!(quote(b"\xff/\xc3\xa9"), "'\\xff/\u{e9}'");
        assert_eq!(quote("a\u{202e}b".as_bytes()), "'a\\u{202e}b'");
        assert_eq!(quote(b"a\\nb"), "'a\\\\nb'");
    }

    #[test]
    fn long_text_is_cut_at_200_characters() {
        assert_eq!(quote(&[b'x'; 200]).len(), 202);
        assert_eq!(quote(&[b'x'; 201]), format!("'{}...'", "x".repeat(200)));
        assert_eq!(
            quote(&[0xff; 5000]),
            format!("'{}...'", "\\xff".repeat(200))
        );
    }
}
