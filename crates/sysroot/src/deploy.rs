//! New deployments, and which of them boots.

use anyhow::{Context as _, Result};
use apt_ostree_model::origin::Origin;
use apt_ostree_model::{ErrorKind, Kinded, Reporter, Step};
use ostree::glib::KeyFile;
use ostree::{
    SysrootDeployTreeOpts, SysrootSimpleWriteDeploymentFlags, SysrootWriteDeploymentsOpts, gio,
};

use crate::deployment::Deployment;
use crate::error::{self, invalid};
use crate::kargs::KernelArguments;
use crate::system::{LockedSysroot, Sysroot};
use crate::{finalize, origin};

/// A deployment to make.
#[derive(Debug, Clone, Copy)]
pub struct NewDeployment<'a> {
    /// Its stateroot.
    pub stateroot: &'a str,
    /// Its commit.
    pub commit: &'a str,
    /// What it follows and has on top.
    pub origin: &'a Origin,
    /// Its kernel arguments; `None`: those of what boots next now.
    pub kargs: Option<&'a KernelArguments>,
    /// Leave it to `finalize-deployment` to let a shutdown write it.
    pub lock_finalization: bool,
}

impl Sysroot {
    /// Whether a new deployment is staged: the system runs, so a shutdown will write it.
    pub fn stages(&self) -> bool {
        self.booted().is_some()
    }

    /// The deployment that a rollback would boot: the booted one when another boots next, else
    /// the second.
    ///
    /// # Errors
    /// When there is none, or one is staged.
    pub fn rollback_target(&self, stateroot: &str) -> Result<Deployment> {
        if self.staged().is_some() {
            return Err(invalid("a deployment is staged for the next boot")
                .with_hint("drop it first: apt-ostree cleanup -p")
                .into());
        }
        let mut own = self.deployments_of(stateroot);
        let booted = self
            .booted()
            .and_then(|booted| own.iter().position(|d| d.is(&booted)));
        let target = match booted {
            Some(at) if at > 0 => at,
            _ => 1,
        };
        if target >= own.len() {
            return Err(invalid("there is no deployment to roll back to").into());
        }
        Ok(own.swap_remove(target))
    }
}

impl LockedSysroot {
    /// Makes a deployment that boots next: staged when the system runs, else written at once. The
    /// booted, the pinned and the rollback deployment stay.
    ///
    /// The commit must have been compared with its checksums.
    ///
    /// # Errors
    /// When kernel arguments are refused, or libostree fails; what boots next is as before then.
    pub fn deploy(&self, new: &NewDeployment<'_>, reporter: &dyn Reporter) -> Result<Deployment> {
        if !new.origin.initramfs.etc.is_empty() && self.ignores_initrds() {
            reporter.warning(
                "GRUB's menu is made by '15_ostree', which loads no files that are added to the \
                 initramfs; they need a GRUB that reads entries itself (blscfg)"
                    .to_owned(),
            );
        }
        reporter.step(Step::Deploy, || {
            let deployment = self
                .write(new)
                .with_context(|| format!("deploying commit {}", new.commit))?;
            let how = if deployment.is_staged() {
                "staged"
            } else {
                "written"
            };
            Ok((deployment, how.to_owned()))
        })
    }

    fn write(&self, new: &NewDeployment<'_>) -> Result<Deployment> {
        let kargs = match new.kargs {
            Some(kargs) => kargs.clone(),
            None => self
                .deployments_of(new.stateroot)
                .first()
                .map(Deployment::kernel_arguments)
                .unwrap_or_default(),
        };
        kargs.require_clean()?;
        let argv: Vec<&str> = kargs.as_slice().iter().map(String::as_str).collect();
        let file = origin::to_key_file(new.origin);
        let etc = self.etc_deployment(new.stateroot);
        let tracked = &new.origin.initramfs.etc;
        let initrd = match &etc {
            Some(deployment) => self.stage_initrd(&self.etc_path(deployment), tracked)?,
            None => None,
        };
        let initrds = initrd.as_deref().map(|name| [name]);
        let etc = etc.as_ref().map(|d| &d.inner);
        let options = SysrootDeployTreeOpts {
            locked: self.stages() && new.lock_finalization,
            override_kernel_argv: Some(&argv),
            overlay_initrds: initrds.as_ref().map(<[&str; 1]>::as_slice),
        };
        if self.stages() {
            self.stage(new, &file, etc, &options)
        } else {
            self.write_now(new, &file, etc, &options)
        }
    }

    fn stage(
        &self,
        new: &NewDeployment<'_>,
        origin: &KeyFile,
        etc: Option<&ostree::Deployment>,
        options: &SysrootDeployTreeOpts<'_>,
    ) -> Result<Deployment> {
        let staged = finalize::with_lock(new.lock_finalization, || {
            self.inner
                .stage_tree_with_options(
                    Some(new.stateroot),
                    new.commit,
                    Some(origin),
                    etc,
                    options,
                    gio::Cancellable::NONE,
                )
                .map_err(|e| error::ostree(&e))
        })?;
        self.reload()?;
        Ok(self.staged().unwrap_or_else(|| Deployment::new(staged)))
    }

    fn write_now(
        &self,
        new: &NewDeployment<'_>,
        origin: &KeyFile,
        etc: Option<&ostree::Deployment>,
        options: &SysrootDeployTreeOpts<'_>,
    ) -> Result<Deployment> {
        let (stateroot, none) = (Some(new.stateroot), gio::Cancellable::NONE);
        let written = self
            .inner
            .deploy_tree_with_options(
                stateroot,
                new.commit,
                Some(origin),
                etc,
                Some(options),
                none,
            )
            .map_err(|e| error::ostree(&e))?;
        // A new list of deployments is one rename; before it nothing is visible.
        self.thawed_in_the_end(|| {
            let flags = SysrootSimpleWriteDeploymentFlags::NO_CLEAN;
            self.inner
                .simple_write_deployment(stateroot, &written, etc, flags, none)
                .map_err(|e| error::ostree(&e))
        })?;
        self.reload()?;
        Ok(Deployment::new(written))
    }

    /// Boots another deployment next; the others keep their order.
    ///
    /// # Errors
    /// As [`Sysroot::rollback_target`], and when libostree fails.
    pub fn rollback(&self, stateroot: &str) -> Result<Deployment> {
        let target = self.rollback_target(stateroot)?;
        let mut order = vec![target.clone()];
        order.extend(self.deployments().into_iter().filter(|d| !d.is(&target)));
        self.write_order(&order)
            .with_context(|| format!("rolling back to deployment '{}'", target.id()))?;
        Ok(target)
    }

    /// Makes exactly these deployments stay, in this order.
    pub(crate) fn write_order(&self, deployments: &[Deployment]) -> Result<()> {
        // Not their own `clone`, a deep copy: libostree compares pointers.
        let list: Vec<_> = deployments.iter().map(|d| Clone::clone(&d.inner)).collect();
        // Cleaning up comes after, so that it can say what it freed.
        let options = SysrootWriteDeploymentsOpts {
            do_postclean: false,
        };
        self.thawed_in_the_end(|| {
            self.inner
                .write_deployments_with_options(&list, &options, gio::Cancellable::NONE)
                .map_err(|e| error::ostree(&e))
        })?;
        self.reload()
    }

    /// Keeps a deployment until it is unpinned, or stops that.
    ///
    /// # Errors
    /// When it is staged or so already, or its origin file can't be written.
    pub fn set_pinned(&self, deployment: &Deployment, pinned: bool) -> Result<()> {
        let id = deployment.id();
        if deployment.is_staged() {
            return Err(invalid(format!("deployment '{id}' is staged and can't be pinned")).into());
        }
        if deployment.is_pinned() == pinned {
            let state = if pinned { "already" } else { "not" };
            return Err(invalid(format!("deployment '{id}' is {state} pinned")).into());
        }
        self.inner
            .deployment_set_pinned(&deployment.inner, pinned)
            .map_err(|e| error::ostree(&e))
            .with_context(|| format!("pinning deployment '{id}'"))
    }

    /// Refuses to go on when what boots next is not what it was when the work began, although
    /// this system is locked.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when someone else changed it without asking for the lock.
    pub fn require_unchanged(&self, stateroot: &str, before: &Deployment) -> Result<()> {
        self.reload()?;
        if self.merge_deployment(stateroot)?.is(before) {
            return Ok(());
        }
        Err(Kinded::new(
            ErrorKind::Busy,
            "another program changed the deployments meanwhile",
        )
        .with_hint("try again")
        .into())
    }
}
