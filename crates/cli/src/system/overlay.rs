//! `usroverlay`: libostree's own way to make `/usr` writable.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use apt_ostree_model::{ErrorKind, Kinded};

use crate::cli::client::UsroverlayArgs;
use crate::worker;

/// Becomes `ostree admin unlock`: no other process has the mounts of whoever asks.
pub(super) fn run(args: &UsroverlayArgs) -> Result<ExitCode, Kinded> {
    worker::require_root("only root can make /usr writable")?;
    if !Path::new("/run/ostree-booted").exists() {
        let message = "this system was not booted from an OSTree deployment";
        return Err(Kinded::new(ErrorKind::InvalidSysroot, message));
    }
    let mut ostree = Command::new("ostree");
    ostree.args(["admin", "unlock"]);
    if args.hotfix {
        ostree.arg("--hotfix");
    }
    if args.transient {
        ostree.arg("--transient");
    }
    let error = ostree.exec();
    Err(
        Kinded::new(ErrorKind::Failed, format!("starting 'ostree': {error}"))
            .with_hint("install the package that provides 'ostree'"),
    )
}
