//! Packages, package sources and boot loader entries.

use std::collections::{BTreeSet, HashMap};

use apt_ostree_ipc::error::invalid;
use apt_ostree_ipc::options::{Dict, MAX_ITEM_BYTES, Options, check_list, check_text};
use apt_ostree_ipc::{Action, Error, Result};
use apt_ostree_model::client::{ClientOutcome, TransactionOptions};
use apt_ostree_model::compose::{Outcome, Request};
use apt_ostree_model::query::{Query, QueryRequest, RefreshRequest, SourceRequest};
use zbus::message::Header;
use zbus::zvariant::OwnedValue;

use super::Os;
use super::os::properties;
use super::verbs::order_for;
use crate::transaction::Order;

type Properties = HashMap<String, OwnedValue>;

/// Fetches package indices.
pub(super) async fn refresh(os: &Os, options: Dict, header: &Header<'_>) -> Result<String> {
    let (caller, _pass) = os.daemon.enter(header).await?;
    let mut given = Options::new(options);
    let request = RefreshRequest {
        target: os.daemon.status.target(&os.name),
        options: TransactionOptions {
            command_line: given.text("initiating-command-line")?.unwrap_or_default(),
            ..TransactionOptions::default()
        },
        force: given.is_set("force")?,
    };
    given.finish()?;
    let order = Order {
        method: "RefreshMd",
        title: "refresh-md".to_owned(),
        reboot: false,
        request: Request::RefreshMd(request),
        files: Vec::new(),
    };
    order_for(os, caller, [Action::RepoRefresh].into(), order).await
}

/// Enables or disables a package source.
pub(super) async fn modify_source(
    os: &Os,
    id: &str,
    settings: &HashMap<String, String>,
    header: &Header<'_>,
) -> Result<String> {
    let (caller, _pass) = os.daemon.enter(header).await?;
    check_text("id", id, MAX_ITEM_BYTES)?;
    let enabled = match settings.iter().next() {
        Some((key, value)) if key == "enabled" && settings.len() == 1 => match value.as_str() {
            "1" => true,
            "0" => false,
            _ => return Err(invalid("'enabled' is not 0 or 1")),
        },
        _ => return Err(invalid("the settings are not exactly 'enabled'")),
    };
    let verb = if enabled { "enable" } else { "disable" };
    let order = Order {
        method: "ModifyAptSource",
        title: format!("{verb} source {}", apt_ostree_fsx::escape_cut(id, 128)),
        reboot: false,
        request: Request::ModifySource(SourceRequest {
            target: os.daemon.status.target(&os.name),
            options: TransactionOptions::default(),
            id: id.to_owned(),
            enabled,
        }),
        files: Vec::new(),
    };
    order_for(os, caller, BTreeSet::from([Action::RepoModify]), order).await
}

/// The package sources.
pub(super) async fn sources(os: &Os, header: &Header<'_>) -> Result<Vec<Properties>> {
    let (_caller, _pass) = os.daemon.enter(header).await?;
    match ask(os, Query::Sources, false).await? {
        ClientOutcome::Sources { sources } => Ok(sources.iter().map(properties).collect()),
        _ => Err(other_answer()),
    }
}

/// Packages. Who may refresh the indices gets them fetched when there are none.
pub(super) async fn find(os: &Os, query: Query, header: &Header<'_>) -> Result<Vec<Properties>> {
    let (caller, _pass) = os.daemon.enter(header).await?;
    if let Query::Search(list) | Query::Provides(list) | Query::Packages(list) = &query {
        check_list("names", list)?;
    }
    let connection = &os.daemon.connection;
    let may_fetch = caller.require_silently(connection, Action::RepoRefresh);
    let fetch = may_fetch.await.is_ok();
    match ask(os, query, fetch).await? {
        ClientOutcome::Found { found } => Ok(found.iter().map(properties).collect()),
        _ => Err(other_answer()),
    }
}

/// The boot loader entry of a deployment.
pub(super) async fn boot_config(
    os: &Os,
    deployment: &str,
    pending: bool,
    header: &Header<'_>,
) -> Result<Properties> {
    let (_caller, _pass) = os.daemon.enter(header).await?;
    check_text("deployid", deployment, MAX_ITEM_BYTES)?;
    let query = Query::BootConfig {
        deployment: deployment.to_owned(),
        pending,
    };
    match ask(os, query, false).await? {
        ClientOutcome::BootConfig { entry } => Ok(properties(&entry)),
        _ => Err(other_answer()),
    }
}

async fn ask(os: &Os, query: Query, fetch: bool) -> Result<ClientOutcome> {
    let request = Request::Query(QueryRequest {
        target: os.daemon.status.target(&os.name),
        query,
        fetch,
    });
    match os.daemon.runner.query(&request).await {
        Ok(Outcome::Client(outcome)) => Ok(outcome),
        Ok(_) => Err(other_answer()),
        Err(failure) => Err(Error::Failed(match failure.hint {
            Some(hint) => format!("{} ({hint})", failure.message),
            None => failure.message,
        })),
    }
}

fn other_answer() -> Error {
    Error::Failed("the worker answered another question".into())
}
