//! Commits of a few files, for tests of deployments.

use std::os::unix::fs::symlink;
use std::process::Command;

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};

use crate::{stdout, success, target_dir};

/// A repository of tiny commits that can be deployed, and with the `/usr` of the host above them
/// be booted in a namespace.
#[derive(Debug)]
pub struct TinyRepo {
    dir: tempfile::TempDir,
}

/// One commit.
#[derive(Debug, Clone, Copy)]
pub struct TinyCommit<'a> {
    /// The branch.
    pub branch: &'a str,
    /// Its `version`, also the content of `/usr/share/version` and `/etc/default-version`.
    pub version: &'a str,
    /// When it was made, in seconds since 1970.
    pub timestamp: u64,
    /// Version of its package `demo`.
    pub package: &'a str,
}

impl TinyRepo {
    /// Makes an empty repository.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn new() -> Result<Self> {
        let parent = target_dir()?.join("test-work");
        std::fs::create_dir_all(&parent)?;
        let repo = Self {
            dir: tempfile::TempDir::with_prefix_in("tiny-", &parent)?,
        };
        success(Command::new("ostree").args(["init", "--mode=archive", &repo.option()]))?;
        Ok(repo)
    }

    /// Where it is.
    pub fn path(&self) -> Utf8PathBuf {
        let dir = Utf8Path::from_path(self.dir.path());
        dir.unwrap_or(Utf8Path::new("/nonexistent")).join("repo")
    }

    fn option(&self) -> String {
        format!("--repo={}", self.path())
    }

    /// Adds a commit; returns its checksum.
    ///
    /// # Errors
    /// When `ostree` says so.
    pub fn commit(&self, commit: &TinyCommit<'_>) -> Result<String> {
        let tree = self.path().with_file_name("tree");
        write_tree(&tree, commit.version)?;
        let mut command = Command::new("ostree");
        command.arg(self.option()).args([
            "commit",
            "--owner-uid=0",
            "--owner-gid=0",
            &format!("--branch={}", commit.branch),
            &format!("--tree=dir={tree}"),
            &format!("--timestamp=@{}", commit.timestamp),
            &format!("--add-metadata-string=version={}", commit.version),
            &format!(
                "--add-metadata=aptostree.dpkg.pkglist=[('demo','0','{}','1','amd64')]",
                commit.package
            ),
        ]);
        let output = success(&mut command)?;
        std::fs::remove_dir_all(&tree)?;
        Ok(stdout(&output).trim().to_owned())
    }
}

fn write_tree(tree: &Utf8Path, version: &str) -> Result<()> {
    for dir in [
        "boot",
        "dev",
        "proc",
        "run",
        "sys",
        "sysroot",
        "tmp",
        "var",
        "usr/etc",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "usr/share",
        "usr/lib/modules/6.1.0",
    ] {
        std::fs::create_dir_all(tree.join(dir))?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), tree.join(name))?;
    }
    symlink("sysroot/ostree", tree.join("ostree"))?;
    let files = [
        (
            "usr/lib/os-release",
            "ID=debian\nPRETTY_NAME=\"Tiny\"\n".to_owned(),
        ),
        ("usr/lib/modules/6.1.0/vmlinuz", format!("kernel {version}")),
        (
            "usr/lib/modules/6.1.0/initramfs.img",
            "initramfs".to_owned(),
        ),
        ("usr/share/version", format!("{version}\n")),
        ("usr/etc/default-version", format!("{version}\n")),
        (
            "usr/etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\n".to_owned(),
        ),
    ];
    for (name, text) in files {
        std::fs::write(tree.join(name), text)?;
    }
    Ok(())
}
