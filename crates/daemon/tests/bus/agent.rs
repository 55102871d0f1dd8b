//! The command line on a terminal.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use apt_ostree_testkit::{binary, privileged};

use crate::fixture::{Fixture, Options};

/// Runs the program as a user on a system that seems to be booted.
const SCRIPT: &str = "mount -t tmpfs tmpfs /run && touch /run/ostree-booted && \
    exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$1\" kargs --stateroot=test-os --append=asked=1";

#[test]
fn a_user_on_a_terminal_is_asked_by_polkit() -> Result<()> {
    if !privileged("a_user_on_a_terminal_is_asked_by_polkit") {
        return Ok(());
    }
    let fixture = Fixture::new(&Options::default())?;
    let program = binary("apt-ostree")?;
    // `script` gives the terminal.
    let line = format!("unshare --mount sh -ec '{SCRIPT}' sh {program}");
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("DBUS_SYSTEM_BUS_ADDRESS", fixture.address())
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no pipe")?;
    let mut stdout = child.stdout.take().context("no pipe")?;
    let mut text = String::new();
    let mut buffer = [0; 1024];
    let mut answered = 0;
    loop {
        let count = stdout.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        if text.matches("Password:").count() > answered {
            answered += 1;
            stdin.write_all(b"wrong\n")?;
        }
    }
    let status = child.wait()?;
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(
        text.contains("AUTHENTICATING FOR org.aptostree1.bootconfig"),
        "{text}"
    );
    assert!(text.contains("not authorised"), "{text}");
    assert!(!fixture.boots_with("asked=1"));
    Ok(())
}
