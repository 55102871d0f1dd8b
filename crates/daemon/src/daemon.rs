//! What all objects share.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use apt_ostree_ipc::names::{SYSROOT_PATH, os_path};
use apt_ostree_ipc::{Action, Error, Result};
use zbus::Connection;
use zbus::message::Header;
use zbus::object_server::InterfaceRef;

use crate::caller::{Caller, vanished};
use crate::clients::Clients;
use crate::config::{self, Config};
use crate::gate::{Gate, Pass};
use crate::journal::{self, Level};
use crate::objects::{Os, OsExperimental, Sysroot};
use crate::runner::Runner;
use crate::status::{Snapshot, StatusCache};
use crate::transaction::Transactions;

/// What the command line says.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) sysroot: Option<PathBuf>,
    pub(crate) config: PathBuf,
    pub(crate) runner: Runner,
}

/// The state of the daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) connection: Connection,
    pub(crate) runner: Runner,
    pub(crate) status: StatusCache,
    pub(crate) clients: Clients,
    pub(crate) gate: Arc<Gate>,
    pub(crate) transactions: Transactions,
    config_path: PathBuf,
    config: Mutex<Loaded>,
    /// Stateroots that have objects.
    served: tokio::sync::Mutex<Vec<String>>,
    /// Something new was read that is not announced yet.
    changed: tokio::sync::Notify,
}

#[derive(Debug)]
struct Loaded {
    config: Config,
    error: String,
}

impl Daemon {
    /// Reads the configuration; a broken one is told and leaves the defaults.
    pub(crate) fn new(connection: Connection, setup: Setup) -> Arc<Self> {
        let loaded = match config::load(&setup.config) {
            Ok(config) => Loaded {
                config,
                error: String::new(),
            },
            Err(error) => {
                let text = format!("{error}; defaults apply");
                journal::log(Level::Warning, journal::CONFIG_BROKEN, &text, &[]);
                Loaded {
                    config: Config::default(),
                    error: text,
                }
            }
        };
        Arc::new(Self {
            connection,
            runner: setup.runner,
            status: StatusCache::new(setup.sysroot),
            clients: Clients::default(),
            gate: Arc::default(),
            transactions: Transactions::default(),
            config_path: setup.config,
            config: Mutex::new(loaded),
            served: tokio::sync::Mutex::default(),
            changed: tokio::sync::Notify::new(),
        })
    }

    /// The configuration that applies.
    pub(crate) fn config(&self) -> Config {
        self.lock_config().config.clone()
    }

    /// What is wrong with the configuration file; empty when nothing.
    pub(crate) fn config_error(&self) -> String {
        self.lock_config().error.clone()
    }

    fn lock_config(&self) -> std::sync::MutexGuard<'_, Loaded> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the configuration again. A broken file leaves the old configuration.
    pub(crate) fn reload_config(&self) -> Result<()> {
        let mut loaded = self.lock_config();
        match config::load(&self.config_path) {
            Ok(config) => {
                *loaded = Loaded {
                    config,
                    error: String::new(),
                };
                Ok(())
            }
            Err(error) => {
                loaded.error = format!("{error}; the configuration from before applies");
                journal::log(Level::Warning, journal::CONFIG_BROKEN, &loaded.error, &[]);
                Err(Error::Failed(loaded.error.clone()))
            }
        }
    }

    /// Lets a call in and says who calls.
    pub(crate) async fn enter(&self, header: &Header<'_>) -> Result<(Caller, Pass)> {
        let caller = Caller::of(&self.connection, header).await?;
        let pass = self.gate.enter(caller.uid)?;
        Ok((caller, pass))
    }

    /// Lets a call in that needs one action.
    pub(crate) async fn enter_for(&self, header: &Header<'_>, action: Action) -> Result<Pass> {
        let (caller, pass) = self.enter(header).await?;
        caller
            .require(&self.connection, [action], &HashMap::new())
            .await?;
        Ok(pass)
    }

    /// What is deployed now.
    pub(crate) async fn snapshot(&self) -> Arc<Snapshot> {
        match self.status.fresh() {
            Some(snapshot) => snapshot,
            None => {
                let snapshot = self.status.reload(&self.runner).await;
                self.changed.notify_one();
                snapshot
            }
        }
    }

    /// Reads the sysroot again, and serves and announces what is new.
    pub(crate) async fn reload(self: &Arc<Self>) -> Arc<Snapshot> {
        let snapshot = self.status.reload(&self.runner).await;
        self.publish(&snapshot).await;
        snapshot
    }

    /// Serves and announces whatever [`Daemon::snapshot`] finds to be new; never returns.
    pub(crate) async fn publish_changes(self: Arc<Self>) {
        loop {
            self.changed.notified().await;
            let snapshot = self.snapshot().await;
            self.publish(&snapshot).await;
        }
    }

    async fn publish(self: &Arc<Self>, snapshot: &Snapshot) {
        // The bus may be closing; then nobody is left to tell.
        drop(self.serve(snapshot).await);
        drop(self.announce(snapshot).await);
    }

    /// Makes the objects of new stateroots and removes those of gone ones.
    pub(crate) async fn serve(self: &Arc<Self>, snapshot: &Snapshot) -> zbus::Result<()> {
        let mut served = self.served.lock().await;
        let server = self.connection.object_server();
        let names = snapshot.stateroots();
        for gone in served.iter().filter(|old| !names.contains(&old.as_str())) {
            server.remove::<OsExperimental, _>(os_path(gone)).await?;
            server.remove::<Os, _>(os_path(gone)).await?;
        }
        for name in &names {
            if !served.iter().any(|old| old == name) {
                let object = Os::new(Arc::clone(self), (*name).to_owned());
                server.at(os_path(name), object).await?;
                let object = OsExperimental::new(Arc::clone(self), (*name).to_owned());
                server.at(os_path(name), object).await?;
            }
        }
        *served = names.into_iter().map(str::to_owned).collect();
        Ok(())
    }

    async fn announce(&self, snapshot: &Snapshot) -> zbus::Result<()> {
        let server = self.connection.object_server();
        let sysroot: InterfaceRef<Sysroot> = server.interface(SYSROOT_PATH).await?;
        let emitter = sysroot.signal_emitter();
        sysroot.get().await.deployments_changed(emitter).await?;
        sysroot.get().await.booted_changed(emitter).await?;
        for name in snapshot.stateroots() {
            let os: InterfaceRef<Os> = server.interface(os_path(name)).await?;
            os.get().await.announce(os.signal_emitter()).await?;
        }
        Ok(())
    }

    /// Tells that another transaction is active, or none.
    pub(crate) async fn announce_transaction(&self) -> zbus::Result<()> {
        let server = self.connection.object_server();
        let sysroot: InterfaceRef<Sysroot> = server.interface(SYSROOT_PATH).await?;
        let emitter = sysroot.signal_emitter();
        let object = sysroot.get().await;
        object.active_transaction_changed(emitter).await?;
        object.active_transaction_path_changed(emitter).await
    }

    /// Registers a client until it leaves the bus.
    pub(crate) fn register(self: &Arc<Self>, caller: &Caller, id: &str) -> Result<()> {
        if !self.clients.register(caller, id)? {
            return Ok(());
        }
        let daemon = Arc::clone(self);
        let name = caller.name.clone();
        tokio::spawn(async move {
            // When the bus can't be asked, it is gone, and with it the client.
            drop(vanished(&daemon.connection, &name).await);
            daemon.clients.unregister(&name);
            daemon.gate.touch();
        });
        Ok(())
    }
}
