//! Requests to the worker, as the command line and the daemon make them.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use apt_ostree_model::client::ClientOutcome;
use apt_ostree_model::compose::{Failure, Outcome, Reply, Request};

/// Runs `command`, a worker, with one request about a system.
///
/// # Errors
/// When it does not answer.
pub fn ask(command: &mut Command, request: &Request) -> Result<Result<ClientOutcome, Failure>> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let text = serde_json::to_vec(request)?;
    let mut stdin = child.stdin.take().context("the worker has no input")?;
    stdin.write_all(&text)?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(last) = text.lines().last() else {
        bail!("no answer: {}", String::from_utf8_lossy(&output.stderr));
    };
    match serde_json::from_str(last)? {
        Reply::Finished {
            finished: Outcome::Client(outcome),
        } => Ok(Ok(outcome)),
        Reply::Failed { failed } => Ok(Err(failed)),
        other => bail!("it answered {other:?}"),
    }
}
