//! The verbs about the daemon itself.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use apt_ostree_model::{ErrorKind, Kinded};

use crate::cli::client::StartDaemonArgs;
use crate::{client, render, worker};

const PROGRAM: &str = "apt-ostreed";

/// `cancel`.
pub(super) fn cancel() -> Result<ExitCode, Kinded> {
    if !client::cancel()? {
        render::print_stdout("No active transaction.\n")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `reload`.
pub(super) fn reload() -> Result<ExitCode, Kinded> {
    client::reload()?;
    Ok(ExitCode::SUCCESS)
}

/// `start-daemon`: becomes the daemon.
pub(super) fn start(args: &StartDaemonArgs) -> Result<ExitCode, Kinded> {
    worker::require_root("only root can run apt-ostreed")?;
    let program = find()?;
    let mut command = Command::new(&program);
    if let Some(sysroot) = &args.sysroot {
        command.arg("--sysroot").arg(sysroot);
    }
    let error = command.exec();
    let message = format!("starting '{}': {error}", program.display());
    Err(Kinded::new(ErrorKind::Failed, message))
}

/// The daemon is beside the worker.
fn find() -> Result<PathBuf, Kinded> {
    let worker = apt_ostree_ipc::worker::find(None).map_err(worker::kinded)?;
    let program = worker.parent().unwrap_or(Path::new("/")).join(PROGRAM);
    if program.is_file() {
        return Ok(program);
    }
    let message = format!("'{}' is missing", program.display());
    Err(Kinded::new(ErrorKind::Failed, message).with_hint("install apt-ostree completely"))
}
