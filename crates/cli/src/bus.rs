//! The daemon, as a client on the system bus sees it.

mod agent;
mod call;
mod error;
mod follow;
mod status;

use std::collections::HashMap;
use std::time::Duration;

use apt_ostree_ipc::names::{BUS_NAME, SYSROOT_PATH, bus_address};
use apt_ostree_ipc::proxy::{OsProxy, Sent, SysrootProxy, TransactionProxy};
use apt_ostree_ipc::worker::{failed, into_failure};
use apt_ostree_model::client::{ClientOutcome, Target};
use apt_ostree_model::compose::{Failure, Request};
use apt_ostree_model::query::{FoundPackage, Query, QueryRequest};
use apt_ostree_model::status::Status;
use apt_ostree_model::{ErrorKind, Kinded};
use futures_util::StreamExt as _;
use tokio::runtime::Runtime;
use tokio::time::sleep;
use zbus::Connection;
use zbus::fdo::{DBusProxy, PropertiesProxy};
use zbus::names::BusName;
use zbus::proxy::CacheProperties;

use crate::client::target_of;
use crate::render::{StatusNotes, View};
use agent::Agent;
use follow::Signals;

/// A method may take this long: polkit may ask somebody, and the daemon may have to start.
const METHOD_TIMEOUT: Duration = Duration::from_secs(300);

/// A system that is locked by another program than the daemon is tried again after this time.
const AGAIN: Duration = Duration::from_millis(500);

/// Signals of the bus may be lost with the daemon, so it is asked once in a while.
const LOOK: Duration = Duration::from_secs(2);

/// The name by which messages of the daemon call this program.
const CLIENT_ID: &str = "APTOSTREE_CLIENT_ID";

/// A connection on which the daemon can be reached.
pub(crate) struct Bus {
    runtime: Runtime,
    connection: Connection,
}

/// Why there is no daemon.
#[derive(Debug)]
pub(crate) enum Missing {
    /// The bus can't be reached.
    Bus(String),
    /// The bus neither has the daemon nor knows how to start it.
    Daemon,
}

impl Bus {
    /// Connects to the system bus, on which the daemon runs or can be started.
    pub(crate) fn connect() -> Result<Self, Missing> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Missing::Bus(error.to_string()))?;
        let connection = runtime.block_on(async {
            let connection = zbus::connection::Builder::address(bus_address().as_str())?
                .method_timeout(METHOD_TIMEOUT)
                .build()
                .await?;
            Ok::<_, zbus::Error>((is_known(&connection).await?, connection))
        });
        match connection {
            Ok((true, connection)) => Ok(Self {
                runtime,
                connection,
            }),
            Ok((false, _)) => Err(Missing::Daemon),
            Err(error) => Err(Missing::Bus(error.to_string())),
        }
    }

    /// Has `request` carried out, from the call to the end of its transaction.
    pub(crate) fn run(&self, request: &Request, view: &mut View) -> Result<ClientOutcome, Failure> {
        if let Request::Query(request) = request {
            return self.ask(request);
        }
        let files = call::open_files(request)?;
        let stateroot = target_of(request).and_then(|target| target.stateroot.as_deref());
        self.transact(stateroot, view, async |os: &OsProxy<'_>| {
            call::call(os, request, &files).await.map(Some)
        })
        .map(|outcome| outcome.unwrap_or_else(nothing_done))
    }

    /// Looks for packages, which needs no transaction.
    fn ask(&self, request: &QueryRequest) -> Result<ClientOutcome, Failure> {
        let ask = async {
            let os = self.os(request.target.stateroot.as_deref()).await?;
            let Query::Search(terms) = &request.query else {
                return Err(zbus::Error::Unsupported);
            };
            let found = os.search(&call::words(terms)).await?;
            let found: zbus::Result<Vec<FoundPackage>> = found.iter().map(status::typed).collect();
            Ok(ClientOutcome::Found { found: found? })
        };
        self.runtime.block_on(ask).map_err(|e| error::failure(&e))
    }

    /// Has the automatic update carried out that the configuration asks for, if any.
    pub(crate) fn run_automatic(
        &self,
        target: &Target,
        view: &mut View,
    ) -> Result<Option<ClientOutcome>, Failure> {
        self.transact(
            target.stateroot.as_deref(),
            view,
            async |os: &OsProxy<'_>| {
                let options = HashMap::from([("output-to-self", false.into())]);
                let (enabled, path) = os.automatic_update_trigger(options).await?;
                Ok(enabled.then_some(path))
            },
        )
    }

    /// Calls a method that makes a transaction, and follows that to its end. A signal meanwhile
    /// ends the call, so polkit's question can be left.
    fn transact(
        &self,
        stateroot: Option<&str>,
        view: &mut View,
        call: impl AsyncFnOnce(&OsProxy<'_>) -> zbus::Result<Option<String>>,
    ) -> Result<Option<ClientOutcome>, Failure> {
        self.runtime.block_on(async {
            let mut signals = Signals::new()?;
            let made = async {
                self.register().await;
                let os = self.os(stateroot).await?;
                call(&os).await
            };
            let _agent = Agent::start();
            let path = tokio::select! {
                path = made => path.map_err(|e| error::failure(&e))?,
                () = signals.next() => return Err(cancelled()),
            };
            match path {
                None => Ok(None),
                Some(path) => {
                    let transaction = self
                        .transaction(&path)
                        .await
                        .map_err(|e| error::failure(&e))?;
                    follow::follow(&transaction, &mut signals, view)
                        .await
                        .map(Some)
                }
            }
        })
    }

    /// Waits until no transaction is active, or a moment.
    pub(crate) fn wait(&self) -> Result<(), Failure> {
        self.runtime.block_on(async {
            let mut signals = Signals::new()?;
            tokio::select! {
                () = self.idle() => Ok(()),
                () = signals.next() => Err(cancelled()),
            }
        })
    }

    async fn idle(&self) {
        let changes = async {
            let properties = PropertiesProxy::builder(&self.connection)
                .destination(BUS_NAME)?
                .path(SYSROOT_PATH)?
                .cache_properties(CacheProperties::No)
                .build()
                .await?;
            properties.receive_properties_changed().await
        };
        let Ok(mut changes) = changes.await else {
            return sleep(AGAIN).await;
        };
        let mut waited = false;
        loop {
            let active = match self.sysroot().await {
                Ok(sysroot) => sysroot.active_transaction_path().await.unwrap_or_default(),
                Err(_) => String::new(),
            };
            if active.is_empty() {
                if !waited {
                    sleep(AGAIN).await;
                }
                return;
            }
            waited = true;
            tokio::select! {
                _ = changes.next() => {}
                () = sleep(LOOK) => {}
            }
        }
    }

    /// What is deployed.
    pub(crate) fn status(&self) -> Result<(Status, StatusNotes), Kinded> {
        let read = status::read(&self.connection);
        self.runtime.block_on(read).map_err(|e| error::kinded(&e))
    }

    /// Cancels the active transaction and waits for its end; false: there is none.
    pub(crate) fn cancel(&self) -> Result<bool, Kinded> {
        let cancel = async {
            let sysroot = self.sysroot().await?;
            let path = sysroot.active_transaction_path().await?;
            if path.is_empty() {
                return Ok(false);
            }
            let _agent = Agent::start();
            self.transaction(&path).await?.cancel().await?;
            while sysroot.active_transaction_path().await? == path {
                sleep(Duration::from_millis(100)).await;
            }
            Ok(true)
        };
        self.runtime.block_on(cancel).map_err(|e| error::kinded(&e))
    }

    /// Has the configuration and the system read again.
    pub(crate) fn reload(&self) -> Result<(), Kinded> {
        let reload = async {
            let _agent = Agent::start();
            self.sysroot().await?.reload_config().await
        };
        self.runtime.block_on(reload).map_err(|e| error::kinded(&e))
    }

    /// Tells the daemon the name of this program. Without a session a user may not, which is no
    /// reason to stop.
    async fn register(&self) {
        let id = std::env::var(CLIENT_ID).unwrap_or_else(|_| "cli".to_owned());
        let options: Sent<'_> = HashMap::from([("id", id.into())]);
        if let Ok(sysroot) = self.sysroot().await {
            drop(sysroot.register_client(options).await);
        }
    }

    async fn sysroot(&self) -> zbus::Result<SysrootProxy<'static>> {
        SysrootProxy::new(&self.connection).await
    }

    /// The object of a stateroot; `None`: the booted one.
    async fn os(&self, stateroot: Option<&str>) -> zbus::Result<OsProxy<'static>> {
        let name = stateroot.unwrap_or_default();
        let path = self.sysroot().await?.get_os(name).await?;
        OsProxy::builder(&self.connection).path(path)?.build().await
    }

    async fn transaction(&self, path: &str) -> zbus::Result<TransactionProxy<'static>> {
        TransactionProxy::builder(&self.connection)
            .path(path.to_owned())?
            .build()
            .await
    }
}

async fn is_known(connection: &Connection) -> zbus::Result<bool> {
    let bus = DBusProxy::builder(connection)
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    if bus.name_has_owner(BusName::try_from(BUS_NAME)?).await? {
        return Ok(true);
    }
    let names = bus.list_activatable_names().await?;
    Ok(names.iter().any(|name| name.as_str() == BUS_NAME))
}

fn cancelled() -> Failure {
    into_failure(Kinded::new(ErrorKind::Cancelled, "cancelled"))
}

fn nothing_done() -> ClientOutcome {
    ClientOutcome::Unchanged {
        message: "No changes.".to_owned(),
    }
}

/// The failure for a daemon that is gone.
fn lost() -> Failure {
    let mut failure = failed("apt-ostreed ended before the transaction did");
    failure.hint = Some(
        "see 'apt-ostree status' for what is deployed and 'journalctl -u apt-ostreed' for why"
            .into(),
    );
    failure
}
