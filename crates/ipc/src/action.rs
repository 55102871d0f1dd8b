//! Which polkit actions a request needs. All of them must be allowed.
//!
//! Requests are taken apart without `..`, so a new field doesn't compile before somebody has
//! decided which action it needs.

use std::collections::BTreeSet;

use apt_ostree_model::client::{BaseChange, TransactionOptions, UpdateRequest};

/// A polkit action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Layer and remove packages of the configured repositories.
    InstallUninstallPackages,
    /// Layer packages that the caller brings.
    InstallLocalPackages,
    /// Replace or remove packages of the base.
    Override,
    /// Deploy another revision of the same branch or image, perhaps an older one.
    Deploy,
    /// Deploy the newest revision.
    Upgrade,
    /// Follow another branch or image.
    Rebase,
    /// Boot the other deployment.
    Rollback,
    /// Kernel arguments and initramfs.
    Bootconfig,
    /// Read the configuration again.
    ReloadDaemon,
    /// Cancel a transaction of somebody else.
    Cancel,
    /// Remove deployments and caches.
    Cleanup,
    /// Look for updates and fetch metadata.
    RepoRefresh,
    /// Enable and disable package sources.
    RepoModify,
    /// Let a staged deployment be finalized.
    FinalizeDeployment,
    /// Change the running system.
    ApplyLive,
    /// Keep the daemon running.
    ClientManagement,
    /// Reboot; an action of logind.
    Reboot,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 17] = [
        Self::InstallUninstallPackages,
        Self::InstallLocalPackages,
        Self::Override,
        Self::Deploy,
        Self::Upgrade,
        Self::Rebase,
        Self::Rollback,
        Self::Bootconfig,
        Self::ReloadDaemon,
        Self::Cancel,
        Self::Cleanup,
        Self::RepoRefresh,
        Self::RepoModify,
        Self::FinalizeDeployment,
        Self::ApplyLive,
        Self::ClientManagement,
        Self::Reboot,
    ];

    /// Its name for polkit.
    pub const fn id(self) -> &'static str {
        match self {
            Self::InstallUninstallPackages => "org.aptostree1.install-uninstall-packages",
            Self::InstallLocalPackages => "org.aptostree1.install-local-packages",
            Self::Override => "org.aptostree1.override",
            Self::Deploy => "org.aptostree1.deploy",
            Self::Upgrade => "org.aptostree1.upgrade",
            Self::Rebase => "org.aptostree1.rebase",
            Self::Rollback => "org.aptostree1.rollback",
            Self::Bootconfig => "org.aptostree1.bootconfig",
            Self::ReloadDaemon => "org.aptostree1.reload-daemon",
            Self::Cancel => "org.aptostree1.cancel",
            Self::Cleanup => "org.aptostree1.cleanup",
            Self::RepoRefresh => "org.aptostree1.repo-refresh",
            Self::RepoModify => "org.aptostree1.repo-modify",
            Self::FinalizeDeployment => "org.aptostree1.finalize-deployment",
            Self::ApplyLive => "org.aptostree1.apply-live",
            Self::ClientManagement => "org.aptostree1.client-management",
            Self::Reboot => "org.freedesktop.login1.reboot",
        }
    }
}

/// What `UpdateDeployment` needs; never empty.
pub fn of_update(request: &UpdateRequest) -> BTreeSet<Action> {
    let UpdateRequest {
        // The daemon's own choice.
        target: _,
        options,
        base,
        check,
        preview,
        allow_downgrade,
        // Leaves a ref behind; the rebase that it belongs to is authorised.
        skip_purge: _,
        skip_branch_check,
        custom_origin,
        install,
        install_local,
        uninstall,
        uninstall_all,
        override_remove,
        override_replace_local,
        override_replace,
        override_reset,
        override_reset_all,
        reset_initramfs,
        // Both only decide whether a request for packages is an error.
        idempotent: _,
        allow_inactive: _,
        force_replace_files,
        apply_live,
    } = request;
    let older = *allow_downgrade || *skip_branch_check;
    let look = *check || *preview;
    let upgrade = *base == BaseChange::Upgrade;
    let needed = [
        (upgrade && look, Action::RepoRefresh),
        (upgrade && !look, Action::Upgrade),
        (upgrade && older && !look, Action::Deploy),
        (*base == BaseChange::Keep && older, Action::Deploy),
        (matches!(base, BaseChange::Deploy { .. }), Action::Deploy),
        (matches!(base, BaseChange::Rebase { .. }), Action::Rebase),
        (custom_origin.is_some(), Action::Rebase),
        (
            !(install.is_empty() && uninstall.is_empty()) || *uninstall_all,
            Action::InstallUninstallPackages,
        ),
        (
            !install_local.is_empty() || !override_replace_local.is_empty() || *force_replace_files,
            Action::InstallLocalPackages,
        ),
        (
            !(override_remove.is_empty()
                && override_replace_local.is_empty()
                && override_replace.is_empty()
                && override_reset.is_empty())
                || *override_reset_all
                || *force_replace_files,
            Action::Override,
        ),
        (*reset_initramfs, Action::Bootconfig),
        (*apply_live, Action::ApplyLive),
    ];
    let mut actions = of_options(options);
    let own = actions.len();
    actions.extend(needed.iter().filter(|(need, _)| *need).map(|(_, a)| *a));
    if actions.len() == own {
        actions.insert(Action::Override);
    }
    actions
}

/// What the options of a transaction need beside the action of its method.
pub fn of_options(options: &TransactionOptions) -> BTreeSet<Action> {
    let TransactionOptions {
        reboot,
        // Text for people; and options that only make less happen.
        command_line: _,
        lock_finalization: _,
        dry_run: _,
        download_only: _,
        cache_only: _,
    } = options;
    reboot.then_some(Action::Reboot).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use apt_ostree_model::client::{LocalPackage, ReplaceFrom};

    use super::*;

    fn needs(request: &UpdateRequest) -> Vec<Action> {
        of_update(request).into_iter().collect()
    }

    #[test]
    fn the_base_decides_between_upgrade_deploy_and_rebase() {
        let with = |base| UpdateRequest {
            base,
            ..UpdateRequest::default()
        };
        assert_eq!(needs(&with(BaseChange::Upgrade)), [Action::Upgrade]);
        let deploy = with(BaseChange::Deploy {
            revision: "1".into(),
        });
        assert_eq!(needs(&deploy), [Action::Deploy]);
        let rebase = with(BaseChange::Rebase {
            refspec: "x".into(),
            revision: None,
        });
        assert_eq!(needs(&rebase), [Action::Rebase]);
    }

    #[test]
    fn a_rule_for_upgrades_allows_no_downgrade_and_a_check_no_upgrade() {
        let mut request = UpdateRequest {
            base: BaseChange::Upgrade,
            allow_downgrade: true,
            ..UpdateRequest::default()
        };
        assert_eq!(needs(&request), [Action::Deploy, Action::Upgrade]);
        request.check = true;
        assert_eq!(needs(&request), [Action::RepoRefresh]);
    }

    #[test]
    fn every_field_needs_its_action() {
        let local = || {
            vec![LocalPackage {
                path: "/x".into(),
                sha256: None,
            }]
        };
        let list = || vec!["x".to_owned()];
        let packages = Action::InstallUninstallPackages;
        type Change = Box<dyn Fn(&mut UpdateRequest)>;
        let cases: Vec<(Change, Vec<Action>)> = vec![
            (Box::new(move |r| r.install = list()), vec![packages]),
            (Box::new(move |r| r.uninstall = list()), vec![packages]),
            (Box::new(|r| r.uninstall_all = true), vec![packages]),
            (
                Box::new(move |r| r.install_local = local()),
                vec![Action::InstallLocalPackages],
            ),
            (
                Box::new(move |r| r.override_replace_local = local()),
                vec![Action::InstallLocalPackages, Action::Override],
            ),
            (
                Box::new(|r| r.force_replace_files = true),
                vec![Action::InstallLocalPackages, Action::Override],
            ),
            (
                Box::new(move |r| r.override_remove = list()),
                vec![Action::Override],
            ),
            (
                Box::new(move |r| r.override_reset = list()),
                vec![Action::Override],
            ),
            (
                Box::new(|r| r.override_reset_all = true),
                vec![Action::Override],
            ),
            (
                Box::new(|r| {
                    r.override_replace = vec![ReplaceFrom {
                        from: "suite=x".into(),
                        packages: vec![],
                        freeze: false,
                    }];
                }),
                vec![Action::Override],
            ),
            (
                Box::new(|r| r.reset_initramfs = true),
                vec![Action::Bootconfig],
            ),
            (Box::new(|r| r.apply_live = true), vec![Action::ApplyLive]),
            (
                Box::new(|r| r.custom_origin = Some((String::new(), String::new()))),
                vec![Action::Rebase],
            ),
            (
                Box::new(|r| r.skip_branch_check = true),
                vec![Action::Deploy],
            ),
            (
                Box::new(|r| r.options.reboot = true),
                vec![Action::Override, Action::Reboot],
            ),
            (Box::new(|_| ()), vec![Action::Override]),
        ];
        for (number, (change, expected)) in cases.into_iter().enumerate() {
            let mut request = UpdateRequest::default();
            change(&mut request);
            assert_eq!(needs(&request), expected, "case {number}");
        }
    }

    #[test]
    fn names_are_unique() {
        let ids: BTreeSet<&str> = Action::ALL.iter().map(|a| a.id()).collect();
        assert_eq!(ids.len(), Action::ALL.len());
    }
}
