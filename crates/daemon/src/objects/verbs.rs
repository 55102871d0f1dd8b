//! Methods that make transactions, but for those of `update`.

use std::collections::{BTreeSet, HashMap};

use apt_ostree_ipc::error::invalid;
use apt_ostree_ipc::options::{Dict, MAX_TEXT_BYTES, Options, check_list, check_text};
use apt_ostree_ipc::update::transaction_options;
use apt_ostree_ipc::{Action, Error, Result, action};
use apt_ostree_model::client::{
    ApplyLiveRequest, CleanupRequest, FinalizeRequest, InitramfsEtcRequest, InitramfsRequest,
    KargsRequest, RollbackRequest, TransactionOptions,
};
use apt_ostree_model::compose::Request;
use zbus::message::Header;

use super::Os;
use crate::caller::Caller;
use crate::transaction::{self, Order};

pub(super) async fn rollback(os: &Os, options: Dict, header: &Header<'_>) -> Result<String> {
    let (caller, _pass) = os.daemon.enter(header).await?;
    let options = only_transaction_options(options)?;
    let actions = with(Action::Rollback, &options);
    let request = RollbackRequest {
        target: os.daemon.status.target(&os.name),
        options: options.clone(),
    };
    let order = order("Rollback", "rollback", &options, Request::Rollback(request));
    order_for(os, caller, actions, order).await
}

pub(super) async fn clear_rollback(os: &Os, options: Dict, header: &Header<'_>) -> Result<String> {
    let (caller, _pass) = os.daemon.enter(header).await?;
    let options = only_transaction_options(options)?;
    let actions = with(Action::Rollback, &options);
    let request = Request::Cleanup(CleanupRequest {
        target: os.daemon.status.target(&os.name),
        rollback: true,
        ..CleanupRequest::default()
    });
    let title = "cleanup of the rollback deployment";
    let order = order("ClearRollbackTarget", title, &options, request);
    order_for(os, caller, actions, order).await
}

pub(super) async fn initramfs(
    os: &Os,
    regenerate: bool,
    args: Vec<String>,
    options: Dict,
    header: &Header<'_>,
) -> Result<String> {
    let (caller, _pass) = os.daemon.enter(header).await?;
    check_list("args", &args)?;
    let options = only_transaction_options(options)?;
    if regenerate {
        require_unlocked(os)?;
    }
    let actions = with(Action::Bootconfig, &options);
    let request = Request::Initramfs(InitramfsRequest {
        target: os.daemon.status.target(&os.name),
        options: options.clone(),
        regenerate,
        args,
    });
    let order = order("SetInitramfsState", "initramfs", &options, request);
    order_for(os, caller, actions, order).await
}

/// The lists and flags of `InitramfsEtc`.
#[derive(Debug)]
pub(super) struct InitramfsEtc {
    pub(super) track: Vec<String>,
    pub(super) untrack: Vec<String>,
    pub(super) untrack_all: bool,
    pub(super) force_sync: bool,
}

pub(super) async fn initramfs_etc(
    os: &Os,
    change: InitramfsEtc,
    options: Dict,
    header: &Header<'_>,
) -> Result<String> {
    let (caller, _pass) = os.daemon.enter(header).await?;
    let InitramfsEtc {
        track,
        untrack,
        untrack_all,
        force_sync,
    } = change;
    check_list("track", &track)?;
    check_list("untrack", &untrack)?;
    let options = only_transaction_options(options)?;
    if !track.is_empty() {
        require_unlocked(os)?;
    }
    let actions = with(Action::Bootconfig, &options);
    let request = Request::InitramfsEtc(InitramfsEtcRequest {
        target: os.daemon.status.target(&os.name),
        options: options.clone(),
        track,
        untrack,
        untrack_all,
        force_sync,
    });
    let order = order("InitramfsEtc", "initramfs-etc", &options, request);
    order_for(os, caller, actions, order).await
}

pub(super) async fn apply_live(os: &Os, options: Dict, header: &Header<'_>) -> Result<String> {
    let (caller, _pass) = os.daemon.enter(header).await?;
    let mut given = Options::new(options);
    let options = TransactionOptions {
        command_line: given.text("initiating-command-line")?.unwrap_or_default(),
        dry_run: given.is_set("dry-run")?,
        ..TransactionOptions::default()
    };
    let request = ApplyLiveRequest {
        target: os.daemon.status.target(&os.name),
        options: options.clone(),
        commit: given.text("target")?,
        reset: given.is_set("reset")?,
        allow_replacement: given.is_set("replace")?,
    };
    given.finish()?;
    if request.reset && request.commit.is_some() {
        return Err(invalid("'reset' excludes 'target'"));
    }
    let title = if request.reset {
        "apply-live --reset"
    } else {
        "apply-live"
    };
    let actions = with(Action::ApplyLive, &options);
    let order = order("LiveFs", title, &options, Request::ApplyLive(request));
    order_for(os, caller, actions, order).await
}

pub(super) async fn kargs(
    os: &Os,
    existing: &str,
    lists: [Vec<String>; 3],
    options: Dict,
    header: &Header<'_>,
) -> Result<String> {
    let (caller, _pass) = os.daemon.enter(header).await?;
    let [append, replace, delete] = lists;
    check_list("kernel_args_added", &append)?;
    check_list("kernel_args_replaced", &replace)?;
    check_list("kernel_args_removed", &delete)?;
    check_text("existing_kernel_args", existing, MAX_TEXT_BYTES)?;
    let mut given = Options::new(options);
    let mut options = transaction_options(&mut given)?;
    options.dry_run = given.is_set("dry-run")?;
    let request = KargsRequest {
        target: os.daemon.status.target(&os.name),
        options: options.clone(),
        expected: (!existing.is_empty()).then(|| existing.to_owned()),
        append,
        replace,
        delete,
        append_if_missing: given.list("append-if-missing")?,
        delete_if_present: given.list("delete-if-present")?,
        replace_all: given.text("final-kernel-args")?,
        import_proc_cmdline: given.is_set("import-proc-cmdline")?,
        deploy_index: given.number("deploy-index")?.map(|n| n as usize),
    };
    given.finish()?;
    let actions = with(Action::Bootconfig, &options);
    let order = order("KernelArgs", "kargs", &options, Request::Kargs(request));
    order_for(os, caller, actions, order).await
}

pub(super) async fn cleanup(os: &Os, elements: &[String], header: &Header<'_>) -> Result<String> {
    let (caller, _pass) = os.daemon.enter(header).await?;
    check_list("elements", elements)?;
    let mut request = CleanupRequest {
        target: os.daemon.status.target(&os.name),
        ..CleanupRequest::default()
    };
    for element in elements {
        match element.as_str() {
            "base" => request.base = true,
            "pending-deploy" => request.pending = true,
            "rollback-deploy" => request.rollback = true,
            "repomd" => request.repomd = true,
            _ => return Err(invalid(format!("element '{element}' is unknown"))),
        }
    }
    if elements.is_empty() {
        return Err(invalid("there are no elements to clean up"));
    }
    let options = TransactionOptions::default();
    let order = order("Cleanup", "cleanup", &options, Request::Cleanup(request));
    order_for(os, caller, [Action::Cleanup].into(), order).await
}

pub(super) async fn finalize(os: &Os, options: Dict, header: &Header<'_>) -> Result<String> {
    let (caller, _pass) = os.daemon.enter(header).await?;
    let mut given = Options::new(options);
    let options = TransactionOptions {
        command_line: given.text("initiating-command-line")?.unwrap_or_default(),
        // The deployment is written by the shutdown: that is what it is for.
        reboot: true,
        ..TransactionOptions::default()
    };
    let request = FinalizeRequest {
        target: os.daemon.status.target(&os.name),
        options: options.clone(),
        checksum: given.text("checksum")?,
        allow_missing_checksum: given.is_set("allow-missing-checksum")?,
        allow_unlocked: given.is_set("allow-unlocked")?,
    };
    given.finish()?;
    if request.checksum.is_none() && !request.allow_missing_checksum {
        return Err(invalid("'checksum' or 'allow-missing-checksum' is needed"));
    }
    let actions = with(Action::FinalizeDeployment, &options);
    let request = Request::Finalize(request);
    let order = order(
        "FinalizeDeployment",
        "finalize-deployment",
        &options,
        request,
    );
    order_for(os, caller, actions, order).await
}

fn only_transaction_options(options: Dict) -> Result<TransactionOptions> {
    let mut given = Options::new(options);
    let options = transaction_options(&mut given)?;
    given.finish()?;
    Ok(options)
}

fn with(action: Action, options: &TransactionOptions) -> BTreeSet<Action> {
    let mut actions = action::of_options(options);
    actions.insert(action);
    actions
}

fn order(
    method: &'static str,
    title: &str,
    options: &TransactionOptions,
    request: Request,
) -> Order {
    Order {
        method,
        title: title.to_owned(),
        reboot: options.reboot,
        request,
        files: Vec::new(),
    }
}

/// # Errors
/// [`Error::Locked`] when the configuration forbids to change the base.
pub(super) fn require_unlocked(os: &Os) -> Result<()> {
    if os.daemon.config().lock_layering {
        return Err(Error::Locked(
            "LockLayering in /etc/apt-ostreed.conf forbids changes of the base".into(),
        ));
    }
    Ok(())
}

/// Asks polkit and makes the transaction.
pub(super) async fn order_for(
    os: &Os,
    caller: Caller,
    actions: BTreeSet<Action>,
    order: Order,
) -> Result<String> {
    let details = HashMap::from([("request", order.title.as_str())]);
    caller
        .require(&os.daemon.connection, actions, &details)
        .await?;
    transaction::create(&os.daemon, caller, order).await
}
