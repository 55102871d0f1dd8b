//! The command line of apt-ostree.
//!
//! [`cli`] says what can be typed, [`request`] turns that into a worker request, [`worker`] runs the
//! worker, [`render`] draws what it reports. Nothing here composes anything.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod cli;
mod compose;
pub mod format;
pub mod render;
pub mod request;
mod version;
mod worker;

use std::ffi::OsString;
use std::process::ExitCode;

use apt_ostree_model::{ErrorKind, Kinded};
use clap::Parser;

use crate::cli::{Cli, Verb};

/// Runs the program with `args` (the program name first) and says how it ends.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match try_run(args.into_iter().collect()) {
        Ok(code) => code,
        Err(error) => {
            render::print_error(&error);
            ExitCode::from(error.kind.exit_code())
        }
    }
}

fn try_run(args: Vec<OsString>) -> Result<ExitCode, Kinded> {
    require_utf8(&args)?;
    let parsed = match Cli::try_parse_from(args) {
        Ok(parsed) => parsed,
        Err(error) => return Ok(print_clap_error(&error)),
    };
    if parsed.version {
        render::print_stdout(&version::yaml())?;
        return Ok(ExitCode::SUCCESS);
    }
    match parsed.verb {
        Some(Verb::Compose(compose)) => compose::run(compose.verb, parsed.verbosity),
        None => Ok(print_usage(&mut cli::command())),
    }
}

/// Prints the help of `command` to standard error, as for a call without any verb.
fn print_usage(command: &mut clap::Command) -> ExitCode {
    let help = command.render_help();
    render::print_stderr(&help.ansi().to_string());
    ExitCode::FAILURE
}

/// Prints help to standard output, or what is wrong with the command line to standard error.
fn print_clap_error(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell when the stream is gone.
    drop(error.print());
    if error.use_stderr() {
        ExitCode::from(ErrorKind::Usage.exit_code())
    } else {
        ExitCode::SUCCESS
    }
}

fn require_utf8(args: &[OsString]) -> Result<(), Kinded> {
    match args.iter().position(|arg| arg.to_str().is_none()) {
        None => Ok(()),
        Some(index) => Err(Kinded::new(
            ErrorKind::Usage,
            format!(
                "argument {index} is not valid UTF-8: '{}'",
                args[index].to_string_lossy().escape_debug()
            ),
        )),
    }
}
