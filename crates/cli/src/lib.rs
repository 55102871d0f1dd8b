//! The command line of apt-ostree.
//!
//! [`cli`] says what can be typed, [`request`] turns that into a request, [`worker`] runs the worker
//! for it, [`render`] draws what it reports. Requests about a system all go through [`client`], which
//! knows whether [`bus`] or [`worker`] carries them out.
//! Nothing here composes or deploys anything.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod bus;
pub mod cli;
mod client;
mod compose;
pub mod format;
pub mod jsonpath;
pub mod render;
pub mod request;
mod system;
mod version;
mod worker;
mod wrapper;

use std::ffi::OsString;
use std::process::ExitCode;

use apt_ostree_model::{ErrorKind, Kinded};
use clap::Parser;

use crate::cli::{Cli, Verb};
use crate::format::shell_word;

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
    // Its arguments are another program's.
    if args.get(1).is_some_and(|verb| verb == "cliwrap") {
        return wrapper::run(args.into_iter().skip(2).collect());
    }
    require_utf8(&args)?;
    let command_line = command_line(&args);
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
        Some(Verb::Client(verb)) => system::run(verb, parsed.verbosity, &command_line),
        None => Ok(print_usage(&mut cli::command())),
    }
}

/// What was typed, as a shell reads it; the program by its own name, wherever it was found.
fn command_line(args: &[OsString]) -> String {
    let typed = args
        .iter()
        .skip(1)
        .map(|arg| shell_word(&arg.to_string_lossy()));
    let words: Vec<String> = std::iter::once("apt-ostree".to_owned())
        .chain(typed)
        .collect();
    words.join(" ")
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
