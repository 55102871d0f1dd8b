//! The one place that reboots.

use std::time::Duration;

use apt_ostree_fsx::Cmd;
use apt_ostree_model::{ErrorKind, Kinded};

/// Asks systemd for a reboot. It refuses while a program inhibits that.
///
/// # Errors
/// Why there will be none.
pub fn reboot() -> Result<(), Kinded> {
    let asked = Cmd::new("systemctl")
        .arg("reboot")
        .timeout(Duration::from_secs(60))
        .run();
    match asked {
        Ok(_) => Ok(()),
        Err(error) => Err(Kinded::new(
            ErrorKind::Failed,
            format!("the reboot was refused: {error}"),
        )
        .with_hint("the change is there all the same; reboot when nothing is in the way")),
    }
}
