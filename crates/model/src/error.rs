//! The kinds of error that callers act on.

use serde::{Deserialize, Serialize};

/// What kind of failure an error is: the `kind` field of JSON output and, later, the D-Bus error
/// name. The exit code is 1 for all of them but [`ErrorKind::Usage`], which is 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// Anything without a kind of its own.
    Failed,
    /// The command line is wrong.
    Usage,
    /// A treefile or another input file is wrong.
    InvalidInput,
    /// A package, index or image is malformed.
    InvalidPackage,
    /// A signature, digest, expiry or policy check failed.
    Verification,
    /// The packages asked for can't be installed together.
    Unsatisfiable,
    /// Something could not be fetched.
    Network,
    /// A maintainer script or another program in the target failed.
    Script,
    /// Another process holds the repository, cache or system.
    Busy,
    /// Polkit does not allow it to the caller.
    NotAuthorized,
    /// There is no OSTree system where one is needed, or it can't be read.
    InvalidSysroot,
    /// No space, read-only, or an I/O error.
    Storage,
    /// A lint refused the finished tree.
    Lint,
    /// The user or a signal stopped the work.
    Cancelled,
}

impl ErrorKind {
    /// The process exit code of this kind.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            _ => 1,
        }
    }
}

/// An error with a kind and, where known, what to do about it.
///
/// Put it at the root of an `anyhow` chain; [`Kinded::of`] finds it again at the edge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Kinded {
    /// What kind of failure this is.
    pub kind: ErrorKind,
    /// What went wrong: names the file, package or URL. Lowercase, no full stop.
    pub message: String,
    /// What the user can do; an imperative sentence without the final full stop.
    pub hint: Option<String>,
}

impl Kinded {
    /// An error of `kind` without a hint.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
