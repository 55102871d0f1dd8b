//! A system, opened.

use std::ops::Deref;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use apt_ostree_fsx::cancel;
use apt_ostree_model::{ErrorKind, Kinded};
use camino::{Utf8Path, Utf8PathBuf};
use ostree::{Repo, gio, glib};
use rustix::fs::StatVfsMountFlags;
use rustix::mount::MountFlags;

use crate::deployment::Deployment;
use crate::error::{self, invalid};
use crate::holder;

/// How long to wait for mounts to become writable.
const REMOUNT_LIMIT: Duration = Duration::from_secs(10);

/// A system to read from.
#[derive(Debug)]
pub struct Sysroot {
    pub(crate) inner: ostree::Sysroot,
    path: Utf8PathBuf,
}

/// A system that nobody else changes at the same time. Dropping it frees it.
#[derive(Debug)]
pub struct LockedSysroot(Sysroot);

impl Sysroot {
    /// Opens the system whose physical root is `path`; `None`: the one that runs.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSysroot`] when there is none, or what runs is none.
    pub fn open(path: Option<&Utf8Path>) -> Result<Self> {
        let sysroot = Self::handle(path)?;
        sysroot.load()?;
        Ok(sysroot)
    }

    /// As [`Sysroot::open`], but caches below its repository can be written; deployments are not
    /// locked and must not be changed. For the system that runs, this thread gets a mount namespace
    /// in which `/sysroot` is writable.
    ///
    /// # Errors
    /// Those of [`Sysroot::open`], and when mounts can't be changed.
    pub fn open_caches(path: Option<&Utf8Path>) -> Result<Self> {
        let sysroot = Self::handle(path)?;
        if sysroot.path == "/" {
            Self::handle(path)?
                .inner
                .initialize_with_mount_namespace(gio::Cancellable::NONE)
                .map_err(|e| error::ostree(&e))
                .context("making a mount namespace")?;
            make_writable(Utf8Path::new("/sysroot"))?;
        }
        sysroot.load()?;
        Ok(sysroot)
    }

    /// A system of which nothing has been read yet.
    fn handle(path: Option<&Utf8Path>) -> Result<Self> {
        let path = path.unwrap_or(Utf8Path::new("/"));
        if path == "/" && !Utf8Path::new("/run/ostree-booted").exists() {
            return Err(not_booted().into());
        }
        Ok(Self {
            inner: ostree::Sysroot::new(Some(&gio::File::for_path(path))),
            path: path.to_owned(),
        })
    }

    /// Tries again for a while when the kernel is too busy to remount a file system.
    fn try_lock(&self) -> Result<bool> {
        let start = Instant::now();
        loop {
            match self.inner.try_lock() {
                Err(error)
                    if error.matches(gio::IOErrorEnum::Busy) && start.elapsed() < REMOUNT_LIMIT =>
                {
                    cancel::check()?;
                    std::thread::sleep(Duration::from_millis(50));
                }
                result => return result.map_err(|e| error::ostree(&e)),
            }
        }
    }

    fn load(&self) -> Result<()> {
        self.inner
            .load(gio::Cancellable::NONE)
            .map_err(|error| self.invalid(&error).into())
    }

    fn invalid(&self, error: &glib::Error) -> Kinded {
        let reason = apt_ostree_fsx::escape(error.message());
        let message = format!(
            "'{}' is not the root of an OSTree system: {reason}",
            self.path
        );
        Kinded::new(ErrorKind::InvalidSysroot, message)
            .with_hint("name the physical root of one with --sysroot")
    }

    /// The physical root.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Where its repository is.
    pub fn repo_path(&self) -> Utf8PathBuf {
        self.path.join("ostree/repo")
    }

    pub(crate) fn repo(&self) -> Repo {
        self.inner.repo()
    }

    /// The deployment that runs, when this system runs.
    pub fn booted(&self) -> Option<Deployment> {
        self.inner.booted_deployment().map(Deployment::new)
    }

    /// The deployment that the next shutdown writes.
    pub fn staged(&self) -> Option<Deployment> {
        self.inner.staged_deployment().map(Deployment::new)
    }

    /// All deployments in boot order.
    pub fn deployments(&self) -> Vec<Deployment> {
        self.inner
            .deployments()
            .into_iter()
            .map(Deployment::new)
            .collect()
    }

    /// All deployments of one stateroot in boot order.
    pub fn deployments_of(&self, stateroot: &str) -> Vec<Deployment> {
        let mut all = self.deployments();
        all.retain(|d| d.stateroot() == stateroot);
        all
    }

    /// The stateroot to work on: the one asked for, the booted one, or the only one.
    ///
    /// # Errors
    /// When it does not exist, or there are several to choose from.
    pub fn stateroot(&self, name: Option<&str>) -> Result<String> {
        if let Some(name) = name {
            let dir = self.path.join("ostree/deploy").join(name);
            if name.is_empty() || name.contains('/') || name.starts_with('.') || !dir.is_dir() {
                let shown = apt_ostree_fsx::escape_cut(name, 80);
                return Err(invalid(format!("there is no stateroot '{shown}'")).into());
            }
            return Ok(name.to_owned());
        }
        if let Some(booted) = self.booted() {
            return Ok(booted.stateroot());
        }
        let mut names: Vec<String> = self
            .deployments()
            .iter()
            .map(Deployment::stateroot)
            .collect();
        names.sort();
        names.dedup();
        match names.len() {
            0 => Err(Kinded::new(
                ErrorKind::InvalidSysroot,
                format!("system '{}' has no deployment", self.path),
            )
            .into()),
            1 => Ok(names.remove(0)),
            _ => Err(invalid(format!(
                "there are several stateroots: {}",
                names.join(", ")
            ))
            .with_hint("choose one with --stateroot")
            .into()),
        }
    }

    /// The deployment that changes build upon: the one that boots next, else the booted one.
    ///
    /// # Errors
    /// When the stateroot has none.
    pub fn merge_deployment(&self, stateroot: &str) -> Result<Deployment> {
        self.deployments_of(stateroot)
            .into_iter()
            .next()
            .ok_or_else(|| {
                invalid(format!(
                    "stateroot '{stateroot}' has no deployment to build upon"
                ))
                .into()
            })
    }

    /// The deployment whose `/etc` is merged: the booted one, else the one that boots next.
    pub(crate) fn etc_deployment(&self, stateroot: &str) -> Option<Deployment> {
        self.booted()
            .filter(|d| d.stateroot() == stateroot)
            .or_else(|| {
                self.inner
                    .merge_deployment(Some(stateroot))
                    .map(Deployment::new)
            })
    }

    /// The directory of a deployment.
    pub fn deployment_path(&self, deployment: &Deployment) -> Utf8PathBuf {
        self.path.join(format!(
            "ostree/deploy/{}/deploy/{}.{}",
            deployment.stateroot(),
            deployment.commit(),
            deployment.serial()
        ))
    }

    /// `/etc` of a deployment as programs on it see it.
    pub fn etc_path(&self, deployment: &Deployment) -> Utf8PathBuf {
        if self.path == "/" && self.booted().is_some_and(|b| b.is(deployment)) {
            return "/etc".into();
        }
        self.deployment_path(deployment).join("etc")
    }

    /// The deployment at a place of the boot order.
    ///
    /// # Errors
    /// When there are not so many.
    pub fn deployment_at(&self, index: usize) -> Result<Deployment> {
        let mut all = self.deployments();
        if index >= all.len() {
            let message = format!("there is no deployment {index}, only {}", all.len());
            return Err(invalid(message).into());
        }
        Ok(all.swap_remove(index))
    }

    /// The deployment with an id (`STATEROOT-CHECKSUM.SERIAL`).
    pub fn deployment_by_id(&self, id: &str) -> Option<Deployment> {
        self.deployments().into_iter().find(|d| d.id() == id)
    }
}

/// True when who started this process gave it a mount namespace of its own. libostree compares with
/// the first process, which one without `CAP_SYS_PTRACE` may not look at.
fn has_own_mounts() -> bool {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt"));
    let Some(parent) = rustix::process::getppid() else {
        return false;
    };
    let parent = namespace(&parent.as_raw_nonzero().to_string());
    matches!((namespace("self"), parent), (Ok(own), Ok(other)) if own != other)
}

impl LockedSysroot {
    /// Opens a system for changes; see [`Sysroot::open`]. For the one that runs, this thread gets
    /// a mount namespace in which `/sysroot` is writable.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when someone else changes it, and those of [`Sysroot::open`].
    pub fn open(path: Option<&Utf8Path>) -> Result<Self> {
        let sysroot = Sysroot::handle(path)?;
        if sysroot.path == "/" {
            if !has_own_mounts() {
                // With a handle of its own: that one has seen the read-only mounts.
                Sysroot::handle(path)?
                    .inner
                    .initialize_with_mount_namespace(gio::Cancellable::NONE)
                    .map_err(|e| error::ostree(&e))
                    .context("making a mount namespace")?;
            }
            sysroot.inner.set_mount_namespace_in_use();
        }
        if !sysroot.path.join("ostree/repo").is_dir() {
            sysroot.load()?;
        }
        // Before anything is read: this is what makes the mounts writable.
        let locked = sysroot
            .try_lock()
            .with_context(|| format!("locking system '{}'", sysroot.path))?;
        if !locked {
            return Err(holder::busy(&sysroot.path).into());
        }
        let locked = Self(sysroot);
        locked.load()?;
        Ok(locked)
    }

    /// Reads again what is deployed.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn reload(&self) -> Result<()> {
        self.inner
            .load_if_changed(gio::Cancellable::NONE)
            .map_err(|e| error::ostree(&e))
            .context("reading deployments")?;
        Ok(())
    }
}

impl Deref for LockedSysroot {
    type Target = Sysroot;

    fn deref(&self) -> &Sysroot {
        &self.0
    }
}

impl Drop for LockedSysroot {
    fn drop(&mut self) {
        self.0.inner.unlock();
    }
}

/// Remounts `dir` unless it is writable.
fn make_writable(dir: &Utf8Path) -> Result<()> {
    let context = || format!("making '{dir}' writable");
    let state = rustix::fs::statvfs(dir.as_str()).with_context(context)?;
    if state.f_flag.contains(StatVfsMountFlags::RDONLY) {
        rustix::mount::mount_remount(dir.as_str(), MountFlags::SILENT, "").with_context(context)?;
    }
    Ok(())
}

/// Whether this libostree fills `/var` of a new stateroot from the `/var` of a commit.
pub fn fills_var() -> bool {
    ostree::check_version(2024, 3)
}

fn not_booted() -> Kinded {
    let error = |message| Kinded::new(ErrorKind::InvalidSysroot, message);
    if Utf8Path::new("/run/.containerenv").exists() || Utf8Path::new("/.dockerenv").exists() {
        return error("this is a container, not a booted OSTree system");
    }
    error("this system was not booted from an OSTree deployment")
        .with_hint("name the physical root of one with --sysroot")
}
