//! `UpdateDeployment` and its kin.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;

use apt_ostree_ipc::error::invalid;
use apt_ostree_ipc::options::{Dict, Options};
use apt_ostree_ipc::update::{self, PassedFile, UpdateCall};
use apt_ostree_ipc::{Action, Result, action};
use apt_ostree_model::client::{BaseChange, LocalPackage, TransactionOptions, UpdateRequest};
use apt_ostree_model::compose::Request;
use zbus::message::Header;
use zbus::zvariant::Value;

use super::Os;
use super::verbs::{order_for, require_unlocked};
use crate::config::UpdatePolicy;
use crate::files;
use crate::title::title_of;
use crate::transaction::{self, Order};

/// A dictionary that this side makes.
pub(super) fn modifiers<const N: usize>(entries: [(&str, Value<'_>); N]) -> Dict {
    entries
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value.try_into_owned().ok()?)))
        .collect()
}

/// Reads the request, asks polkit, makes the transaction.
pub(super) async fn run(
    os: &Os,
    method: &'static str,
    modifiers: Dict,
    options: Dict,
    header: &Header<'_>,
) -> Result<String> {
    let (caller, _pass) = os.daemon.enter(header).await?;
    let target = os.daemon.status.target(&os.name);
    let mut call = update::parse(target, modifiers, options)?;
    // Polkit need only know that there are some. They are read when the caller may bring them.
    call.request.install_local = placeholders(call.install.len());
    call.request.override_replace_local = placeholders(call.replace.len());
    if adds_to_base(&call.request) {
        require_unlocked(os)?;
    }
    let title = title_of(&call.request);
    let details = HashMap::from([("request", title.as_str())]);
    let actions = action::of_update(&call.request);
    caller
        .require(&os.daemon.connection, actions, &details)
        .await?;
    let UpdateCall {
        mut request,
        install,
        replace,
    } = call;
    let mut kept = Vec::new();
    request.install_local = keep(install, &mut kept).await?;
    request.override_replace_local = keep(replace, &mut kept).await?;
    let order = Order {
        method,
        title,
        reboot: request.options.reboot,
        request: Request::Update(Box::new(request)),
        files: kept,
    };
    transaction::create(&os.daemon, caller, order).await
}

fn placeholders(count: usize) -> Vec<LocalPackage> {
    let package = LocalPackage {
        path: "/proc/self/fd".into(),
        sha256: None,
    };
    vec![package; count]
}

/// Copies the caller's files, so that what is checked is what is used. The worker refuses one that
/// is not what the caller expects.
async fn keep(given: Vec<PassedFile>, kept: &mut Vec<OwnedFd>) -> Result<Vec<LocalPackage>> {
    let mut packages = Vec::new();
    for PassedFile { file, sha256 } in given {
        let (copy, found) = files::copy(file.into()).await?;
        packages.push(LocalPackage {
            path: files::path_of(&copy),
            sha256: Some(sha256.unwrap_or(found)),
        });
        kept.push(copy);
    }
    Ok(packages)
}

/// Whether the tree will differ more from the base. Dropping layers and overrides leads back to it.
fn adds_to_base(request: &UpdateRequest) -> bool {
    !(request.install.is_empty()
        && request.install_local.is_empty()
        && request.override_remove.is_empty()
        && request.override_replace.is_empty()
        && request.override_replace_local.is_empty())
}

/// The `Download...` methods.
pub(super) async fn download(
    os: &Os,
    method: &'static str,
    modifiers: Dict,
    header: &Header<'_>,
) -> Result<String> {
    let (caller, _pass) = os.daemon.enter(header).await?;
    let target = os.daemon.status.target(&os.name);
    let mut request = update::parse(target, modifiers, Dict::new())?.request;
    match request.base {
        BaseChange::Upgrade => request.preview = true,
        _ => request.options.download_only = true,
    }
    let order = Order {
        method,
        title: format!("download for {}", title_of(&request)),
        reboot: false,
        request: Request::Update(Box::new(request)),
        files: Vec::new(),
    };
    order_for(os, caller, [Action::RepoRefresh].into(), order).await
}

/// What the timer calls: an update as the configuration wants it.
pub(super) async fn automatic(
    os: &Os,
    options: Dict,
    header: &Header<'_>,
) -> Result<(bool, String)> {
    let (caller, _pass) = os.daemon.enter(header).await?;
    let mut given = Options::new(options);
    let mode = given.text("mode")?.unwrap_or_else(|| "auto".into());
    let starts_itself = given.flag("output-to-self")?.unwrap_or(true);
    given.finish()?;
    let policy = match mode.as_str() {
        "auto" => os.daemon.config().update_policy,
        "none" => UpdatePolicy::None,
        "check" => UpdatePolicy::Check,
        _ => return Err(invalid("'mode' is not auto, none or check")),
    };
    let mut actions = BTreeSet::from([Action::Upgrade]);
    if policy == UpdatePolicy::None {
        let connection = &os.daemon.connection;
        caller.require(connection, actions, &HashMap::new()).await?;
        return Ok((false, String::new()));
    }
    let request = automatic_request(os, policy);
    actions.extend(action::of_update(&request));
    let order = Order {
        method: "AutomaticUpdateTrigger",
        title: format!("automatic update ({})", policy.word()),
        reboot: request.options.reboot,
        request: Request::Update(Box::new(request)),
        files: Vec::new(),
    };
    let path = order_for(os, caller, actions, order).await?;
    if starts_itself {
        let active = os.daemon.transactions.active().await;
        if let Some(own) = active.filter(|active| active.path == path) {
            own.start();
        }
    }
    Ok((true, path))
}

fn automatic_request(os: &Os, policy: UpdatePolicy) -> UpdateRequest {
    UpdateRequest {
        target: os.daemon.status.target(&os.name),
        options: TransactionOptions {
            command_line: "automatic update".into(),
            reboot: policy == UpdatePolicy::Apply,
            ..TransactionOptions::default()
        },
        base: BaseChange::Upgrade,
        check: policy == UpdatePolicy::Check,
        ..UpdateRequest::default()
    }
}
