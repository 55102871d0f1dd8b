//! What must be told of new files: what a boot, or dpkg's triggers, would do.

use anyhow::Result;
use apt_ostree_fsx::Cmd;
use apt_ostree_model::Reporter;
use apt_ostree_sysroot::in_system;

use super::changes::Changes;

/// Directories with units.
const UNITS: [&str; 4] = [
    "lib/systemd/system",
    "etc/systemd/system",
    "lib/systemd/user",
    "etc/systemd/user",
];

/// Makes users and directories and lets services read their configuration again. What fails is
/// a warning: the files are there.
pub(super) fn run(changes: &Changes, stale_cache: bool, reporter: &dyn Reporter) -> Result<()> {
    let warn = |result: Result<()>| {
        if let Err(error) = result {
            apt_ostree_fsx::cancel::check()?;
            reporter.warning(format!("{error:#}"));
        }
        Ok::<_, anyhow::Error>(())
    };
    let program = |program: &[&str], files: &[String]| {
        let args = program
            .iter()
            .copied()
            .chain(files.iter().map(String::as_str));
        in_system(&args.collect::<Vec<_>>()).map(drop)
    };
    let users = changes.fragments(&["lib/sysusers.d", "etc/sysusers.d"]);
    if !users.is_empty() {
        warn(program(&["systemd-sysusers"], &users))?;
    }
    if stale_cache {
        warn(program(&["ldconfig"], &[]))?;
    }
    let files = changes.fragments(&["lib/tmpfiles.d", "etc/tmpfiles.d"]);
    if !files.is_empty() {
        warn(program(&["systemd-tmpfiles", "--create"], &files))?;
    }
    let ask = |program: &str, args: &[&str]| -> Result<()> {
        Cmd::new(program)
            .args(args.iter().copied())
            .timeout(std::time::Duration::from_secs(120))
            .run()?;
        Ok(())
    };
    if changes.touch(&UNITS) {
        warn(ask("systemctl", &["daemon-reload"]))?;
    }
    // They watch directories, but those that were there before.
    if changes.touch(&["share/dbus-1", "etc/dbus-1"]) {
        warn(ask("systemctl", &["reload", "dbus.service"]))?;
    }
    if changes.touch(&["lib/udev", "etc/udev"]) {
        warn(ask("udevadm", &["control", "--reload"]))?;
    }
    Ok(())
}
