//! What is wrong with a treefile, and where.

use std::fmt;

/// A place in a file; lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The file, as the user named it or relative to the first treefile.
    pub file: String,
    /// Line, or 0 when the whole file is meant.
    pub line: u32,
    /// Column in characters, or 0 when the whole line is meant.
    pub column: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", escape(&self.file))?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if self.line > 0 && self.column > 0 {
            write!(f, ":{}", self.column)?;
        }
        Ok(())
    }
}

/// A treefile can't be read, parsed, merged or used. Prints as `FILE:LINE:COLUMN: message`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct TreefileError {
    /// Where; `None` when no file is to blame.
    pub location: Option<Location>,
    /// What is wrong, and what to write instead when that is known.
    pub message: String,
}

impl fmt::Display for TreefileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl TreefileError {
    /// An error that no place in a file is to blame for.
    pub(crate) fn unplaced(message: impl Into<String>) -> Self {
        Self {
            location: None,
            message: message.into(),
        }
    }

    /// An error about a whole file.
    pub(crate) fn in_file(file: &str, message: impl Into<String>) -> Self {
        let location = Location {
            file: file.to_owned(),
            line: 0,
            column: 0,
        };
        Self {
            location: Some(location),
            message: message.into(),
        }
    }
}

/// Text from a file, fit for a message: control characters escaped, cut after 80 characters.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == 80 {
            out.push('…');
            break;
        }
        if c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
