//! Drawing of events, results and errors: the only place that prints.

mod ending;
mod fields;
mod lines;
mod packages;
mod query;
mod report;
mod status;
mod view;

use std::io::{ErrorKind as IoErrorKind, Write};

use apt_ostree_fsx::escape;
use apt_ostree_model::{ErrorKind, Kinded};
use owo_colors::OwoColorize;

pub(crate) use ending::kargs_text;
pub use ending::{Ending, client_text};
pub use lines::{Level, Line, Lines};
pub use packages::pkgdiff_text;
pub(crate) use packages::{
    DiffSide, PackageRow, diff_text, package_list_text, package_version_text,
};
pub(crate) use query::{json_text, lint_text, search_text};
pub use report::{Timings, outcome_text};
pub use status::{AutomaticUpdates, StatusNotes, StatusView, status_text};
pub(crate) use status::{initramfs_etc_text, initramfs_text, status_json};
pub(crate) use view::View;

/// Writes a result to standard output. A reader that has seen enough is no error.
pub(crate) fn print_stdout(text: &str) -> Result<(), Kinded> {
    let mut stdout = anstream::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != IoErrorKind::BrokenPipe => Err(Kinded::new(
            ErrorKind::Storage,
            format!("writing to standard output: {error}"),
        )),
        _ => Ok(()),
    }
}

/// Writes to standard error.
pub(crate) fn print_stderr(text: &str) {
    // Nobody is left to tell when standard error is gone.
    drop(anstream::stderr().lock().write_all(text.as_bytes()));
}

/// Prints `error: ...` and, where there is one, `hint: ...` to standard error.
pub(crate) fn print_error(error: &Kinded) {
    let word = "error:".red().bold().to_string();
    print_stderr(&format!("{word} {}", indented(&error.message)));
    if let Some(hint) = &error.hint {
        let word = "hint:".cyan().bold().to_string();
        print_stderr(&format!("{word} {}", indented(hint)));
    }
}

/// Prints `warning: ...` to standard error.
pub(crate) fn print_warning(text: &str) {
    let word = "warning:".yellow().bold().to_string();
    print_stderr(&format!("{word} {}", indented(text)));
}

/// Escapes `text` line by line, indents what follows the first line and ends with a newline.
fn indented(text: &str) -> String {
    let lines: Vec<String> = text.trim_end().lines().map(escape).collect();
    lines.join("\n  ") + "\n"
}

#[cfg(test)]
mod tests;
