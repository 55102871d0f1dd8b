//! Errors with a kind, and what libapt reports.

use apt_ostree_model::{ErrorKind, Kinded};

/// An error of `kind`.
pub(crate) fn fail(kind: ErrorKind, message: impl Into<String>) -> anyhow::Error {
    Kinded::new(kind, clean(&message.into())).into()
}

/// An error of `kind` that tells what to do.
pub(crate) fn fail_hint(
    kind: ErrorKind,
    message: impl Into<String>,
    hint: impl Into<String>,
) -> anyhow::Error {
    Kinded::new(kind, clean(&message.into()))
        .with_hint(hint)
        .into()
}

/// Escapes control bytes of text that came from outside.
pub(crate) fn clean(text: &str) -> String {
    let escape = |c: char| -> String {
        match c.is_control() {
            true => c.escape_default().collect(),
            false => c.to_string(),
        }
    };
    text.chars().map(escape).collect()
}

/// What libapt has queued: errors first.
pub(crate) fn drain() -> (Vec<String>, Vec<String>) {
    split(&rust_apt::error::AptErrors::new())
}

/// Splits into errors and warnings, each one cleaned line.
pub(crate) fn split(errors: &rust_apt::error::AptErrors) -> (Vec<String>, Vec<String>) {
    // What follows the first line repeats it in numbers.
    let line = |text: &str| clean(text.trim().lines().next().unwrap_or("").trim_end());
    let text = |error: &rust_apt::error::AptError| line(&error.msg);
    let (bad, mild): (Vec<_>, Vec<_>) = errors.iter().partition(|error| error.is_error);
    (
        bad.into_iter().map(text).collect(),
        mild.into_iter().map(text).collect(),
    )
}

/// One message of everything that libapt complained about.
pub(crate) fn apt_error(kind: ErrorKind, errors: &rust_apt::error::AptErrors) -> anyhow::Error {
    let (bad, mild) = split(errors);
    let text = if bad.is_empty() { mild } else { bad };
    let text = if text.is_empty() {
        "libapt failed without a message".to_owned()
    } else {
        text.join("; ")
    };
    fail(kind, text)
}
