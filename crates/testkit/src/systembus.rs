//! A system bus and a polkit of their own: real ones, apart from those of the host.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::success;

/// The data directory of the source.
pub const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data");

/// A bus; it and what runs on it end when it is dropped.
#[derive(Debug)]
pub struct SystemBus {
    /// Configuration, actions and rules.
    dir: tempfile::TempDir,
    socket: PathBuf,
    processes: Vec<Child>,
}

impl SystemBus {
    /// Starts a bus with our policy that listens at `socket`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(socket: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("test-bus.").tempdir()?;
        // Polkit reads its files as another user.
        success(Command::new("chmod").arg("755").arg(dir.path()))?;
        let mut bus = Self {
            dir,
            socket: socket.to_owned(),
            processes: Vec::new(),
        };
        let path = bus.dir.path().join("bus.conf");
        std::fs::write(&path, bus.config())?;
        let mut command = Command::new("dbus-daemon");
        command
            .arg("--nofork")
            .arg("--nopidfile")
            .arg(format!("--config-file={}", path.display()));
        bus.processes.push(quiet(&mut command)?);
        wait_for("the bus", || bus.socket.exists())?;
        Ok(bus)
    }

    /// Where it listens, as D-Bus writes it.
    pub fn address(&self) -> String {
        format!("unix:path={}", self.socket.display())
    }

    fn config(&self) -> String {
        format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN\"\n \
             \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n<busconfig>\
             <type>system</type><listen>{}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow user=\"*\"/><deny own=\"*\"/>\
             <deny send_type=\"method_call\"/><allow send_type=\"signal\"/>\
             <allow send_requested_reply=\"true\" send_type=\"method_return\"/>\
             <allow send_requested_reply=\"true\" send_type=\"error\"/>\
             <allow receive_type=\"method_call\"/><allow receive_type=\"method_return\"/>\
             <allow receive_type=\"error\"/><allow receive_type=\"signal\"/>\
             <allow send_destination=\"org.freedesktop.DBus\"/></policy>\
             <includedir>/usr/share/dbus-1/system.d</includedir>\
             <include>{DATA}/dbus/org.aptostree1.conf</include>\
             <limit name=\"max_replies_per_connection\">50000</limit></busconfig>",
            self.address()
        )
    }

    /// Starts polkit on it with our actions and JavaScript `rules`. Polkit reads both at fixed
    /// places, so it runs where those are ours.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_polkit(&mut self, rules: &str) -> Result<()> {
        let actions = self.dir.path().join("actions");
        std::fs::create_dir(&actions)?;
        std::fs::copy(
            format!("{DATA}/polkit/org.aptostree1.policy"),
            actions.join("org.aptostree1.policy"),
        )?;
        let rules_dir = self.dir.path().join("rules");
        std::fs::create_dir(&rules_dir)?;
        std::fs::write(rules_dir.join("50-test.rules"), rules)?;
        let script = "mount --bind \"$1\" /usr/share/polkit-1/actions && \
                      mount --bind \"$2\" /etc/polkit-1/rules.d && \
                      mount --bind \"$2\" /usr/share/polkit-1/rules.d && \
                      exec /usr/lib/polkit-1/polkitd --no-debug";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--", "sh", "-ec", script, "sh"])
            .arg(&actions)
            .arg(&rules_dir)
            .env("DBUS_SYSTEM_BUS_ADDRESS", self.address());
        self.processes.push(quiet(&mut command)?);
        wait_for("polkit", || self.has_name("org.freedesktop.PolicyKit1"))
    }

    /// Whether somebody has the name.
    pub fn has_name(&self, name: &str) -> bool {
        let output = Command::new("busctl")
            .arg(format!("--address={}", self.address()))
            .args(["call", "org.freedesktop.DBus", "/org/freedesktop/DBus"])
            .args(["org.freedesktop.DBus", "NameHasOwner", "s", name])
            .output();
        output.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("true"))
    }
}

impl Drop for SystemBus {
    fn drop(&mut self) {
        for mut child in self.processes.drain(..).rev() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Starts a program that says nothing and hears nothing.
///
/// # Errors
/// When it can't be started.
pub fn quiet(command: &mut Command) -> Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {command:?}"))
}

/// Waits at most half a minute.
///
/// # Errors
/// When it is not done then.
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        ensure!(Instant::now() < end, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
