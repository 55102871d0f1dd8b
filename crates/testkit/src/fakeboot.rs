//! A booted deployment without a machine: mount, pid, ipc and uts namespaces in which libostree
//! takes the root for the booted deployment.
//!
//! Each program runs in namespaces of its own; `/run` is kept from one to the next, until the
//! shutdown.

use std::process::Command;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::sysroot::{STATEROOT, Sysroot};
use crate::{binary, success, target_dir};

/// There is no systemd inside: what it is asked for is written down.
const SYSTEMCTL: &str = "#!/bin/sh\necho \"$*\" >>/run/systemctl.log\n";

/// A running system.
#[derive(Debug)]
pub struct FakeBoot {
    sysroot: Utf8PathBuf,
    deployment: Utf8PathBuf,
    run: tempfile::TempDir,
    /// Directories of the host that are there as `/run/host/NAME`.
    shared: Vec<(String, Utf8PathBuf)>,
}

impl FakeBoot {
    /// Boots the default deployment.
    ///
    /// # Errors
    /// When there is none.
    pub fn start(sysroot: &Sysroot) -> Result<Self> {
        let entry = sysroot.default_entry()?;
        let parent = target_dir()?.join("test-work");
        let run = tempfile::TempDir::with_prefix_in("run-", &parent)?;
        // Users look into it.
        success(Command::new("chmod").arg("755").arg(run.path()))?;
        std::fs::create_dir_all(run.path().join("ostree"))?;
        let systemctl = run.path().join("systemctl");
        std::fs::write(&systemctl, SYSTEMCTL)?;
        success(Command::new("chmod").arg("755").arg(&systemctl))?;
        std::fs::write(run.path().join("ostree-booted"), "")?;
        let programs = binary("testkit-fakeboot")?;
        let programs = programs.parent().context("a program has no directory")?;
        Ok(Self {
            sysroot: sysroot.path().to_owned(),
            deployment: sysroot.deployment(&entry)?,
            run,
            shared: vec![("programs".to_owned(), programs.to_owned())],
        })
    }

    /// Shows a directory of the host as `/run/host/NAME`.
    pub fn share(&mut self, name: &str, dir: &Utf8Path) {
        self.shared.push((name.to_owned(), dir.to_owned()));
    }

    /// The directory of the deployment that runs.
    pub fn deployment(&self) -> &Utf8Path {
        &self.deployment
    }

    /// The directory that is `/run`.
    pub fn run_dir(&self) -> Result<&Utf8Path> {
        Utf8Path::from_path(self.run.path()).context("a path is not UTF-8")
    }

    /// What `systemctl` was asked for so far, a line each.
    pub fn systemctl_calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.run.path().join("systemctl.log"));
        text.unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// A command that runs a program inside. Programs of the workspace are in
    /// `/run/host/programs`.
    ///
    /// # Errors
    /// When the helper has not been built.
    pub fn command(&self, program: &str, args: &[&str]) -> Result<Command> {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--ipc", "--uts"])
            .args(["--kill-child", "--propagation", "private", "--"])
            .arg(binary("testkit-fakeboot")?)
            .arg(&self.sysroot)
            .arg(&self.deployment)
            .arg(STATEROOT)
            .arg(self.run_dir()?);
        for (name, dir) in &self.shared {
            command.arg(format!("{name}={dir}"));
        }
        command.arg("--").arg(program).args(args);
        Ok(command)
    }

    /// Shuts down: what is staged is written, unless it is locked.
    ///
    /// # Errors
    /// When that fails.
    pub fn shutdown(self) -> Result<()> {
        if self.run.path().join("ostree/staged-deployment").exists() {
            self.finalize()?;
        }
        Ok(())
    }

    /// `/sysroot` is no file system of its own here, and remounting that of the host, as libostree
    /// does, fails while others are busy with it.
    fn finalize(&self) -> Result<()> {
        let mut left = 100;
        loop {
            let finalized = success(&mut self.command("ostree", &["admin", "finalize-staged"])?);
            match finalized {
                Err(error) if left > 0 && error.to_string().contains("resource busy") => {
                    left -= 1;
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
                finalized => return finalized.map(drop),
            }
        }
    }
}
