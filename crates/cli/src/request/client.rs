//! From what was typed to what is asked of a system.

use apt_ostree_model::client::{
    ApplyLiveRequest, BaseChange, CleanupRequest, DbRequest, FinalizeRequest, InitramfsEtcRequest,
    InitramfsRequest, KargsRequest, LocalPackage, ReplaceFrom, RollbackRequest, StatusRequest,
    Target, TransactionOptions, UpdateRequest,
};
use apt_ostree_model::compose::Request;
use apt_ostree_model::query::{LintRequest, Query, QueryRequest, RefreshRequest};
use apt_ostree_model::{ErrorKind, Kinded};

use crate::cli::client::{
    ApplyLiveArgs, CacheArgs, ChangeArgs, CleanupArgs, ClientVerb, ContainerVerb, DbVerb,
    DeployArgs, ExVerb, FinalizeArgs, InitramfsArgs, InitramfsEtcArgs, InstallArgs, KargsArgs,
    LintVerbArgs, OverrideCommonArgs, OverrideRemoveArgs, OverrideReplaceArgs, OverrideResetArgs,
    OverrideVerb, PackageArg, PackageArgs, RebaseArgs, ResetArgs, RollbackArgs, TargetArgs,
    UninstallArgs, UpgradeArgs,
};

impl TryFrom<ClientVerb> for Request {
    type Error = Kinded;

    fn try_from(verb: ClientVerb) -> Result<Self, Kinded> {
        let update = |request: UpdateRequest| Self::Update(Box::new(request));
        Ok(match verb {
            ClientVerb::Status(args) => Self::Status(StatusRequest {
                target: args.target.into(),
            }),
            ClientVerb::Upgrade(args) => update(args.into()),
            ClientVerb::Rollback(args) => Self::Rollback(args.into()),
            ClientVerb::Deploy(args) => update(args.into()),
            ClientVerb::Rebase(args) => update(args.into()),
            ClientVerb::Install(args) => update(args.into()),
            ClientVerb::Uninstall(args) => update(args.into()),
            ClientVerb::Override(args) => update(match args.verb {
                OverrideVerb::Replace(args) => args.try_into()?,
                OverrideVerb::Remove(args) => args.into(),
                OverrideVerb::Reset(args) => args.into(),
            }),
            ClientVerb::Reset(args) => update(args.into()),
            ClientVerb::Kargs(args) => Self::Kargs(args.into()),
            ClientVerb::Initramfs(args) => Self::Initramfs(args.into()),
            ClientVerb::InitramfsEtc(args) => Self::InitramfsEtc(args.into()),
            ClientVerb::ApplyLive(args) => Self::ApplyLive(args.into()),
            ClientVerb::Ex(args) => match args.verb {
                ExVerb::ApplyLive(args) => Self::ApplyLive(args.into()),
                ExVerb::InitramfsEtc(args) => Self::InitramfsEtc(args.into()),
                ExVerb::History(_) => return Err(no_request()),
            },
            ClientVerb::Usroverlay(_) => return Err(no_request()),
            ClientVerb::Cleanup(args) => Self::Cleanup(args.into()),
            ClientVerb::FinalizeDeployment(args) => Self::Finalize(args.into()),
            ClientVerb::Db(args) => Self::Db(args.verb.into()),
            ClientVerb::Search(args) => Self::Query(QueryRequest {
                target: args.target.into(),
                query: Query::Search(args.terms),
                fetch: true,
            }),
            ClientVerb::RefreshMd(args) => Self::RefreshMd(RefreshRequest {
                target: args.target.into(),
                options: TransactionOptions::default(),
                force: args.force,
            }),
            ClientVerb::Container(args) => match args.verb {
                ContainerVerb::Lint(args) => Self::Lint(args.into()),
            },
            ClientVerb::Cancel | ClientVerb::Reload | ClientVerb::StartDaemon(_) => {
                return Err(usage("the verb is not one for a worker"));
            }
        })
    }
}

/// The error for a verb that the command line carries out itself.
fn no_request() -> Kinded {
    Kinded::new(ErrorKind::Failed, "the verb needs no worker")
}

/// The options of `request`, when it has some.
pub(crate) fn options_mut(request: &mut Request) -> Option<&mut TransactionOptions> {
    match request {
        Request::Update(request) => Some(&mut request.options),
        Request::Rollback(request) => Some(&mut request.options),
        Request::Kargs(request) => Some(&mut request.options),
        Request::Initramfs(request) => Some(&mut request.options),
        Request::InitramfsEtc(request) => Some(&mut request.options),
        Request::ApplyLive(request) => Some(&mut request.options),
        Request::Finalize(request) => Some(&mut request.options),
        Request::RefreshMd(request) => Some(&mut request.options),
        _ => None,
    }
}

/// An update that changes nothing but what is filled in later.
fn update(target: TargetArgs, change: &ChangeArgs) -> UpdateRequest {
    UpdateRequest {
        target: target.into(),
        options: change.into(),
        ..UpdateRequest::default()
    }
}

impl From<UpgradeArgs> for UpdateRequest {
    fn from(args: UpgradeArgs) -> Self {
        let mut request = update(args.target, &args.change);
        request.base = BaseChange::Upgrade;
        request.check = args.check;
        request.preview = args.preview;
        request.allow_downgrade = args.allow_downgrade;
        args.cache.apply(&mut request.options);
        args.packages.apply(&mut request);
        request
    }
}

impl From<DeployArgs> for UpdateRequest {
    fn from(args: DeployArgs) -> Self {
        let mut request = update(args.target, &args.change);
        request.base = BaseChange::Deploy {
            revision: args.revision,
        };
        request.preview = args.preview;
        request.allow_downgrade = !args.disallow_downgrade;
        request.skip_branch_check = args.skip_branch_check;
        args.cache.apply(&mut request.options);
        args.packages.apply(&mut request);
        request
    }
}

impl From<RebaseArgs> for UpdateRequest {
    fn from(args: RebaseArgs) -> Self {
        let mut request = update(args.target, &args.change);
        let typed = args.refspec.unwrap_or_default();
        let (refspec, revision) = match (args.remote, args.branch) {
            (None, None) => (typed, args.revision),
            (remote, branch) => {
                let branch = branch.unwrap_or_default();
                let refspec = remote.map_or(branch.clone(), |name| format!("{name}:{branch}"));
                (refspec, Some(typed).filter(|text| !text.is_empty()))
            }
        };
        request.base = BaseChange::Rebase { refspec, revision };
        request.allow_downgrade = !args.disallow_downgrade;
        request.skip_purge = args.skip_purge;
        request.custom_origin = args
            .custom_origin_description
            .map(|text| (text, args.custom_origin_url.unwrap_or_default()));
        args.cache.apply(&mut request.options);
        args.packages.apply(&mut request);
        request
    }
}

impl From<InstallArgs> for UpdateRequest {
    fn from(args: InstallArgs) -> Self {
        let mut request = update(args.target, &args.change);
        request.options.dry_run = args.dry_run;
        (request.install, request.install_local) = split(args.packages);
        request.uninstall = args.uninstall;
        request.idempotent = args.idempotent;
        request.allow_inactive = args.allow_inactive;
        request.force_replace_files = args.force_replacefiles;
        request.apply_live = args.apply_live;
        args.cache.apply(&mut request.options);
        request
    }
}

impl From<UninstallArgs> for UpdateRequest {
    fn from(args: UninstallArgs) -> Self {
        let mut request = update(args.target, &args.change);
        request.options.dry_run = args.dry_run;
        args.cache.apply(&mut request.options);
        // What is left was resolved before, so nothing new is needed.
        request.options.cache_only |= args.install.is_empty() && !args.cache.download_only;
        (request.install, request.install_local) = split(args.install);
        request.uninstall = args.packages;
        request.uninstall_all = args.all;
        request.idempotent = args.idempotent;
        request.apply_live = args.apply_live;
        request
    }
}

impl From<OverrideCommonArgs> for UpdateRequest {
    fn from(args: OverrideCommonArgs) -> Self {
        let mut request = update(args.target, &args.change);
        request.options.dry_run = args.dry_run;
        request.options.cache_only = args.cache_only;
        args.packages.apply(&mut request);
        request
    }
}

impl TryFrom<OverrideReplaceArgs> for UpdateRequest {
    type Error = Kinded;

    fn try_from(args: OverrideReplaceArgs) -> Result<Self, Kinded> {
        let mut request = Self::from(args.common);
        let (named, local) = split(args.replacements);
        request.override_replace_local = local;
        request.override_remove = args.remove;
        match (args.from, named.first()) {
            (Some(_), None) => {
                return Err(usage(
                    "--from is for named packages, but all are .deb files",
                ));
            }
            (None, Some(name)) => {
                let message = format!("'{name}' is not a .deb file, and there is no --from");
                return Err(usage(message)
                    .with_hint("say where to take it from: --from suite=NAME or origin=NAME"));
            }
            (Some(source), Some(_)) => request.override_replace.push(ReplaceFrom {
                from: source.as_str().to_owned(),
                packages: named,
                freeze: args.freeze,
            }),
            (None, None) => {}
        }
        Ok(request)
    }
}

fn usage(message: impl Into<String>) -> Kinded {
    Kinded::new(ErrorKind::Usage, message)
}

impl From<OverrideRemoveArgs> for UpdateRequest {
    fn from(args: OverrideRemoveArgs) -> Self {
        let mut request = Self::from(args.common);
        request.override_remove = args.removals;
        (_, request.override_replace_local) = split(args.replace);
        request
    }
}

impl From<OverrideResetArgs> for UpdateRequest {
    fn from(args: OverrideResetArgs) -> Self {
        let mut request = Self::from(args.common);
        request.override_reset = args.overrides;
        request.override_reset_all = args.all;
        request
    }
}

impl From<ResetArgs> for UpdateRequest {
    fn from(args: ResetArgs) -> Self {
        let all = !(args.overlays || args.overrides || args.initramfs);
        let mut request = update(args.target, &args.change);
        request.uninstall_all = all || args.overlays;
        request.override_reset_all = all || args.overrides;
        request.reset_initramfs = all || args.initramfs;
        args.packages.apply(&mut request);
        request
    }
}

impl From<RollbackArgs> for RollbackRequest {
    fn from(args: RollbackArgs) -> Self {
        Self {
            target: args.target.into(),
            options: TransactionOptions {
                reboot: args.reboot,
                ..TransactionOptions::default()
            },
        }
    }
}

impl From<KargsArgs> for KargsRequest {
    fn from(args: KargsArgs) -> Self {
        Self {
            target: args.target.into(),
            options: (&args.change).into(),
            deploy_index: args.deploy_index,
            expected: None,
            append: args.append,
            append_if_missing: args.append_if_missing,
            replace: args.replace,
            delete: args.delete,
            delete_if_present: args.delete_if_present,
            import_proc_cmdline: args.import_proc_cmdline,
            replace_all: None,
        }
    }
}

impl From<InitramfsArgs> for InitramfsRequest {
    fn from(args: InitramfsArgs) -> Self {
        Self {
            target: args.target.into(),
            options: (&args.change).into(),
            regenerate: args.enable,
            args: args.args,
        }
    }
}

impl From<InitramfsEtcArgs> for InitramfsEtcRequest {
    fn from(args: InitramfsEtcArgs) -> Self {
        Self {
            target: args.target.into(),
            options: (&args.change).into(),
            track: args.track,
            untrack: args.untrack,
            untrack_all: args.untrack_all,
            force_sync: args.force_sync,
        }
    }
}

impl From<ApplyLiveArgs> for ApplyLiveRequest {
    fn from(args: ApplyLiveArgs) -> Self {
        Self {
            target: args.system.into(),
            options: TransactionOptions {
                dry_run: args.dry_run,
                ..TransactionOptions::default()
            },
            commit: args.commit,
            reset: args.reset,
            allow_replacement: args.allow_replacement,
        }
    }
}

impl From<CleanupArgs> for CleanupRequest {
    fn from(args: CleanupArgs) -> Self {
        Self {
            target: args.target.into(),
            base: args.base,
            pending: args.pending,
            rollback: args.rollback,
            repomd: args.repomd,
        }
    }
}

impl From<FinalizeArgs> for FinalizeRequest {
    fn from(args: FinalizeArgs) -> Self {
        Self {
            target: args.target.into(),
            options: TransactionOptions {
                reboot: true,
                ..TransactionOptions::default()
            },
            checksum: args.checksum,
            allow_missing_checksum: args.allow_missing_checksum,
            allow_unlocked: args.allow_unlocked,
        }
    }
}

impl From<LintVerbArgs> for LintRequest {
    fn from(args: LintVerbArgs) -> Self {
        Self {
            rootfs: Some(args.rootfs),
            skip: args.skip,
            list: args.list,
        }
    }
}

impl From<DbVerb> for DbRequest {
    fn from(verb: DbVerb) -> Self {
        let diff = matches!(verb, DbVerb::Diff(_));
        let (repo, revisions, prefixes) = match verb {
            DbVerb::Diff(args) => (
                args.repo,
                args.from.into_iter().chain(args.to).collect(),
                Vec::new(),
            ),
            DbVerb::List(args) => {
                let (mut revisions, prefixes): (Vec<_>, Vec<_>) =
                    args.rest.into_iter().partition(|word| is_revision(word));
                revisions.insert(0, args.revision);
                (args.repo, revisions, prefixes)
            }
            DbVerb::Version(args) => (args.repo, args.revisions, Vec::new()),
        };
        Self {
            target: repo.target.into(),
            repo: repo.repo,
            revisions,
            diff,
            prefixes,
            changelogs: false,
        }
    }
}

/// Whether `word` can't be the start of a package name: a refspec, or something with a whole
/// checksum in it.
fn is_revision(word: &str) -> bool {
    let hex_runs = word.split(|c: char| !matches!(c, '0'..='9' | 'a'..='f'));
    word.contains(['/', ':', '^']) || hex_runs.map(str::len).any(|length| length == 64)
}

impl From<TargetArgs> for Target {
    fn from(args: TargetArgs) -> Self {
        Self {
            sysroot: args.sysroot,
            stateroot: args.stateroot,
        }
    }
}

impl From<&ChangeArgs> for TransactionOptions {
    fn from(args: &ChangeArgs) -> Self {
        Self {
            reboot: args.reboot,
            lock_finalization: args.lock_finalization,
            ..Self::default()
        }
    }
}

impl CacheArgs {
    fn apply(&self, options: &mut TransactionOptions) {
        options.cache_only = self.cache_only;
        options.download_only = self.download_only;
    }
}

impl PackageArgs {
    fn apply(self, request: &mut UpdateRequest) {
        (request.install, request.install_local) = split(self.install);
        request.uninstall = self.uninstall;
    }
}

/// Requests by name and files.
fn split(packages: Vec<PackageArg>) -> (Vec<String>, Vec<LocalPackage>) {
    let mut named = Vec::new();
    let mut local = Vec::new();
    for package in packages {
        match package {
            PackageArg::Request(name) => named.push(name),
            PackageArg::File(file) => local.push(file),
        }
    }
    (named, local)
}

#[cfg(test)]
mod tests;
