//! Deployments in a directory that looks like the root of a disk.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{IFlags, Mode, OFlags};

use crate::{Project, success, target_dir};

/// The treefile of the tree that [`Sysroot::with_bootable`] deploys.
pub const BOOTABLE: &str = include_str!("../../../examples/bootable.yaml");

/// Name of the stateroot.
pub const STATEROOT: &str = "debian";

/// A physical root directory with an OSTree repository and deployments.
#[derive(Debug)]
pub struct Sysroot {
    path: Utf8PathBuf,
    /// Removes the directory in the end.
    temporary: Option<tempfile::TempDir>,
}

/// What the boot loader would start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootEntry {
    /// Kernel, as a path of the host.
    pub linux: Utf8PathBuf,
    /// Initramfs, as a path of the host.
    pub initrd: Utf8PathBuf,
    /// Archives that are added to it, in order.
    pub added: Vec<Utf8PathBuf>,
    /// Kernel arguments.
    pub options: String,
}

impl BootEntry {
    /// The `ostree=` argument with its name.
    pub fn ostree_argument(&self) -> Option<&str> {
        self.options
            .split_whitespace()
            .find(|word| word.starts_with("ostree="))
    }
}

impl Sysroot {
    /// Makes an empty sysroot that mounts read-only and installs no boot loader.
    ///
    /// # Errors
    /// When the directory can't be made.
    pub fn new() -> Result<Self> {
        let parent = target_dir()?.join("test-work");
        std::fs::create_dir_all(&parent)?;
        let dir = tempfile::TempDir::with_prefix_in("sysroot-", &parent)?;
        let path = Utf8Path::from_path(dir.path()).context("a path is not UTF-8")?;
        let mut sysroot = Self::create(path)?;
        sysroot.temporary = Some(dir);
        Ok(sysroot)
    }

    /// The sysroot that was made in a directory before.
    pub fn at(path: &Utf8Path) -> Self {
        Self {
            path: path.to_owned(),
            temporary: None,
        }
    }

    /// Like [`Sysroot::new`], in an empty directory of the caller's.
    ///
    /// # Errors
    /// When `ostree` says so.
    pub fn create(path: &Utf8Path) -> Result<Self> {
        let sysroot = Self::at(path);
        success(Command::new("ostree").args(["admin", "init-fs", "--modern", path.as_str()]))?;
        for (key, value) in [("sysroot.bootloader", "none"), ("sysroot.readonly", "true")] {
            success(
                Command::new("ostree")
                    .arg(sysroot.repo_option())
                    .args(["config", "set", key, value]),
            )?;
        }
        success(Command::new("ostree").args(["admin", "os-init", &sysroot.option(), STATEROOT]))?;
        Ok(sysroot)
    }

    /// The directory.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Makes the repository at `url` a remote, without signatures.
    ///
    /// # Errors
    /// When `ostree` says so.
    pub fn add_remote(&self, name: &str, url: &str) -> Result<()> {
        success(Command::new("ostree").arg(self.repo_option()).args([
            "remote",
            "add",
            "--if-not-exists",
            "--no-gpg-verify",
            name,
            url,
        ]))?;
        Ok(())
    }

    /// Changes where a remote is.
    ///
    /// # Errors
    /// When `ostree` says so.
    pub fn set_remote_url(&self, name: &str, url: &str) -> Result<()> {
        let key = format!("remote \"{name}\".url");
        success(
            Command::new("ostree")
                .arg(self.repo_option())
                .args(["config", "set", &key, url]),
        )?;
        Ok(())
    }

    /// Changes one byte of the object of the regular file that holds exactly `content`; returns
    /// its checksum.
    ///
    /// # Errors
    /// When there is none.
    pub fn damage_object(&self, content: &str) -> Result<String> {
        let objects = self.path().join("ostree/repo/objects");
        for dir in objects.read_dir_utf8()? {
            let dir = dir?;
            for entry in dir.path().read_dir_utf8()? {
                let path = entry?.into_path();
                let is_file = path.symlink_metadata()?.is_file();
                if path.extension() != Some("file") || !is_file {
                    continue;
                }
                if std::fs::read(&path)? == content.as_bytes() {
                    std::fs::write(&path, content.to_uppercase().replace('2', "3"))?;
                    let stem = path.file_stem().unwrap_or_default();
                    return Ok(format!("{}{stem}", dir.file_name()));
                }
            }
        }
        anyhow::bail!("no object of '{objects}' holds {content:?}")
    }

    /// Pulls a branch of a remote and deploys it, so that the deployment follows it.
    ///
    /// # Errors
    /// When `ostree` says so.
    pub fn deploy_remote(&self, remote: &str, branch: &str, kargs: &[&str]) -> Result<()> {
        let refspec = format!("{remote}:{branch}");
        success(
            Command::new("ostree")
                .arg(self.repo_option())
                .args(["pull", remote, branch]),
        )?;
        let mut command = Command::new("ostree");
        command
            .args(["admin", "deploy", &self.option(), "--os", STATEROOT])
            .args(kargs.iter().map(|karg| format!("--karg={karg}")))
            .arg(refspec);
        success(&mut command)?;
        Ok(())
    }

    /// Composes the bootable example and deploys it; the project has its repository and
    /// `lock.json`.
    ///
    /// # Errors
    /// When composing or deploying fails.
    pub fn with_bootable(kargs: &[&str]) -> Result<(Self, Project)> {
        let project = Project::new(BOOTABLE)?;
        project.tree(&["--write-lockfile-to", "lock.json"])?;
        let sysroot = Self::new()?;
        sysroot.deploy(&project.path().join("output/repo"), &bootable_ref(), kargs)?;
        Ok((sysroot, project))
    }

    /// The persistent `/var`.
    pub fn var(&self) -> Utf8PathBuf {
        self.path()
            .join("ostree/deploy")
            .join(STATEROOT)
            .join("var")
    }

    fn option(&self) -> String {
        format!("--sysroot={}", self.path())
    }

    fn repo_option(&self) -> String {
        format!("--repo={}", self.path().join("ostree/repo"))
    }

    /// Pulls a ref of `repo` and deploys it with kernel arguments.
    ///
    /// # Errors
    /// When `ostree` says so.
    pub fn deploy(&self, repo: &Utf8Path, name: &str, kargs: &[&str]) -> Result<()> {
        success(Command::new("ostree").arg(self.repo_option()).args([
            "pull-local",
            repo.as_str(),
            name,
        ]))?;
        let mut command = Command::new("ostree");
        command.args(["admin", "deploy", &self.option(), "--os", STATEROOT]);
        command
            .args(kargs.iter().map(|karg| format!("--karg={karg}")))
            .arg(name);
        success(&mut command)?;
        Ok(())
    }

    /// The entry that boots next: the one with the highest version.
    ///
    /// # Errors
    /// When there is none, or it lacks a key.
    pub fn default_entry(&self) -> Result<BootEntry> {
        let mut best: Option<(u64, String)> = None;
        let dir = self.path().join("boot/loader/entries");
        for file in dir
            .read_dir_utf8()
            .with_context(|| format!("reading '{dir}'"))?
        {
            let text = std::fs::read_to_string(file?.path())?;
            let version = value(&text, "version")?.parse()?;
            if best.as_ref().is_none_or(|(highest, _)| version > *highest) {
                best = Some((version, text));
            }
        }
        let (_, text) = best.with_context(|| format!("no entry in '{dir}'"))?;
        let boot = |name: &str| -> Result<Utf8PathBuf> {
            let path = self.path().join("boot").join(name.trim_start_matches('/'));
            ensure!(path.is_file(), "'{path}' is missing");
            Ok(path)
        };
        let initrds = text.lines().filter_map(|line| line.strip_prefix("initrd "));
        let added = initrds.skip(1).map(|name| boot(name.trim()));
        Ok(BootEntry {
            linux: boot(value(&text, "linux")?)?,
            initrd: boot(value(&text, "initrd")?)?,
            added: added.collect::<Result<_>>()?,
            options: value(&text, "options")?.to_owned(),
        })
    }

    /// The directory of the deployment that an entry boots.
    ///
    /// # Errors
    /// When its `ostree=` argument is missing or leads nowhere.
    pub fn deployment(&self, entry: &BootEntry) -> Result<Utf8PathBuf> {
        let argument = entry
            .ostree_argument()
            .context("the boot entry has no 'ostree=' argument")?;
        let link = argument
            .trim_start_matches("ostree=")
            .trim_start_matches('/');
        let link = self.path().join(link);
        link.canonicalize_utf8()
            .with_context(|| format!("resolving '{link}'"))
    }

    /// Takes away the flag that keeps deployments from being deleted.
    fn unlock(&self) -> Result<()> {
        let dir = self
            .path()
            .join("ostree/deploy")
            .join(STATEROOT)
            .join("deploy");
        for entry in dir.read_dir_utf8()? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                let handle = rustix::fs::open(
                    entry.path().as_std_path(),
                    OFlags::RDONLY | OFlags::DIRECTORY,
                    Mode::empty(),
                )?;
                let flags = rustix::fs::ioctl_getflags(&handle)?;
                rustix::fs::ioctl_setflags(&handle, flags - IFlags::IMMUTABLE)?;
            }
        }
        Ok(())
    }
}

impl Drop for Sysroot {
    fn drop(&mut self) {
        if self.temporary.is_some() {
            drop(self.unlock());
        }
    }
}

/// The ref of [`BOOTABLE`] on this machine.
pub fn bootable_ref() -> String {
    format!("debian/13/{}/bootable", std::env::consts::ARCH)
}

/// The value of a key of a boot loader entry.
fn value<'t>(text: &'t str, key: &str) -> Result<&'t str> {
    let mut lines = text
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace));
    let found = lines.find(|(name, _)| *name == key);
    Ok(found
        .with_context(|| format!("no '{key}' in the boot entry:\n{text}"))?
        .1
        .trim())
}
