//! Runs one verb: reads a request from standard input, writes replies to standard output.
//!
//! The command line starts one worker per verb, so libapt's global state, its crashes and the
//! worker's mounts end with the verb.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod failure;
mod reporter;

use std::fs::File;
use std::io::Read;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use anyhow::Context as _;
use apt_ostree_fsx::cancel;
use apt_ostree_model::compose::{Failure, Outcome, Reply, Request};
use apt_ostree_model::{ErrorKind, Kinded};
use rustix::fs::Mode;
use rustix::process::Signal;

use crate::reporter::LineReporter;

/// A request is a command line, so it is never larger than one.
const MAX_REQUEST: u64 = 8 << 20;

fn main() -> ExitCode {
    // The sandbox starts this program again for its own processes.
    if let Some(code) = apt_ostree_sandbox::maybe_init() {
        return code;
    }
    failure::keep_panics();
    // What apt and libostree make must be readable, whatever the caller's umask is.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    start_log();
    let reporter = match prepare() {
        Ok(out) => LineReporter::new(out, cancel::cancel),
        // Without its pipe the worker can tell only through its exit code.
        Err(_) => return ExitCode::FAILURE,
    };
    let reply = match run(&reporter) {
        Ok(finished) => Reply::Finished { finished },
        Err(failed) => Reply::Failed { failed },
    };
    reporter.reply(&reply);
    match reply {
        Reply::Failed { failed } => ExitCode::from(failed.kind.exit_code()),
        _ => ExitCode::SUCCESS,
    }
}

/// Log messages go to standard error when `APTOSTREE_LOG` asks for them.
fn start_log() {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("APTOSTREE_LOG") {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .init();
    }
}

/// Keeps the pipe to the command line for replies alone: what C libraries or child processes print
/// goes to standard error.
fn prepare() -> std::io::Result<File> {
    let out = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), 3)?;
    rustix::stdio::dup2_stdout(std::io::stderr())?;
    cancel::install()?;
    // End with the command line, even when that is killed.
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    Ok(File::from(out))
}

fn run(reporter: &LineReporter) -> Result<Outcome, Failure> {
    let request = read_request(std::io::stdin()).map_err(|error| failure::of_error(&error))?;
    let work = AssertUnwindSafe(|| apt_ostree_engine::run(&request, reporter));
    match std::panic::catch_unwind(work) {
        Ok(result) => result.map_err(|error| failure::of_error(&error)),
        Err(payload) => Err(failure::of_panic(payload.as_ref())),
    }
}

fn read_request(input: impl Read) -> anyhow::Result<Request> {
    let mut text = Vec::new();
    input
        .take(MAX_REQUEST)
        .read_to_end(&mut text)
        .context("reading the request")?;
    serde_json::from_slice(&text).map_err(|error| {
        Kinded::new(ErrorKind::Usage, format!("reading the request: {error}"))
            .with_hint("start 'apt-ostree', which starts this program")
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_none_is_wrong_usage() {
        for text in ["", "{}", "{\"verb\":\"format-disk\"}", "[1,2"] {
            let error = read_request(text.as_bytes()).unwrap_err();
            assert_eq!(failure::of_error(&error).kind, ErrorKind::Usage, "{text}");
        }
    }
}
