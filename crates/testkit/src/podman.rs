//! Containers from the images that tests make.

use std::process::Command;

use anyhow::Result;
use camino::Utf8Path;

use crate::{stdout, success};

/// podman with storage of its own, and the flags that it needs on machines without systemd and
/// with a mixed cgroup hierarchy.
#[derive(Debug)]
pub struct Podman {
    dir: tempfile::TempDir,
}

impl Podman {
    /// Makes empty storage.
    ///
    /// # Errors
    /// When the directory can't be made.
    pub fn new() -> Result<Self> {
        let dir = tempfile::TempDir::new()?;
        Ok(Self { dir })
    }

    /// `podman ARGS`.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("podman");
        let dir = self.dir.path();
        command
            .arg("--root")
            .arg(dir.join("root"))
            .arg("--runroot")
            .arg(dir.join("run"));
        command
            .arg("--tmpdir")
            .arg(dir.join("tmp"))
            .args(["--runtime", "runc"])
            .args(args);
        command
    }

    /// `podman run --rm IMAGE ARGS`; gives standard output.
    ///
    /// # Errors
    /// When the command fails.
    pub fn run(&self, image: &str, args: &[&str]) -> Result<String> {
        let flags = [
            "run",
            "--rm",
            "--network=none",
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=1024:1024",
            image,
        ];
        Ok(stdout(&success(self.command(&flags).args(args))?))
    }

    /// Builds the Containerfile in `context` as the image `tag`, without network and with
    /// `packages` as the directory `/packages`.
    ///
    /// # Errors
    /// When a step fails.
    pub fn build(&self, tag: &str, context: &Utf8Path, packages: &Utf8Path) -> Result<()> {
        let volume = format!("{packages}:/packages:ro");
        let flags = [
            "build",
            "--network=none",
            "--pull=never",
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=1024:1024",
            "--volume",
            &volume,
            "--tag",
            tag,
        ];
        success(self.command(&flags).arg(context))?;
        Ok(())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        drop(self.command(&["system", "reset", "--force"]).output());
    }
}
