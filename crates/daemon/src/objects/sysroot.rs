//! `org.aptostree1.Sysroot`.

use std::collections::HashMap;
use std::sync::Arc;

use apt_ostree_ipc::names::os_path;
use apt_ostree_ipc::options::{Dict, Options};
use apt_ostree_ipc::{Action, Error, Result};
use zbus::message::Header;
use zbus::zvariant::{OwnedObjectPath, OwnedValue};

use super::os::properties;
use crate::daemon::Daemon;

/// The object of the sysroot.
#[derive(Debug)]
pub(crate) struct Sysroot(Arc<Daemon>);

impl Sysroot {
    pub(crate) const fn new(daemon: Arc<Daemon>) -> Self {
        Self(daemon)
    }
}

#[zbus::interface(name = "org.aptostree1.Sysroot")]
impl Sysroot {
    async fn register_client(
        &self,
        options: Dict,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<()> {
        let (caller, _pass) = self.0.enter(&header).await?;
        let mut options = Options::new(options);
        let id = options.text("id")?.unwrap_or_default();
        options.finish()?;
        caller
            .require_silently(&self.0.connection, Action::ClientManagement)
            .await?;
        self.0.register(&caller, &id)
    }

    async fn unregister_client(
        &self,
        options: Dict,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<()> {
        let (caller, _pass) = self.0.enter(&header).await?;
        let mut options = Options::new(options);
        options.text("id")?;
        options.finish()?;
        self.0.clients.unregister(&caller.name);
        Ok(())
    }

    async fn reload(&self, #[zbus(header)] header: Header<'_>) -> Result<()> {
        let (_, _pass) = self.0.enter(&header).await?;
        self.0.reload().await.status().map(|_| ())
    }

    async fn reload_config(&self, #[zbus(header)] header: Header<'_>) -> Result<()> {
        let _pass = self.0.enter_for(&header, Action::ReloadDaemon).await?;
        self.0.reload_config()?;
        self.0.reload().await.status().map(|_| ())
    }

    #[zbus(name = "GetOS", out_args("object_path"))]
    async fn get_os(
        &self,
        name: &str,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<OwnedObjectPath> {
        let (_, _pass) = self.0.enter(&header).await?;
        let snapshot = self.0.snapshot().await;
        snapshot.status()?;
        self.0.serve(&snapshot).await?;
        let found = if name.is_empty() {
            snapshot.booted().map(|d| d.osname.as_str())
        } else {
            snapshot.stateroots().into_iter().find(|n| *n == name)
        };
        match found {
            Some(found) => path_of(found),
            None if name.is_empty() => Err(Error::Failed(
                "no deployment is booted; name the stateroot".into(),
            )),
            None => Err(Error::Failed(format!(
                "stateroot '{}' has no deployments",
                apt_ostree_fsx::escape_cut(name, 64)
            ))),
        }
    }

    #[zbus(property)]
    async fn booted(&self) -> OwnedObjectPath {
        let snapshot = self.0.snapshot().await;
        let booted = snapshot.booted().map(|d| path_of(&d.osname));
        booted.and_then(Result::ok).unwrap_or_default()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn path(&self) -> String {
        self.0.status.sysroot().display().to_string()
    }

    #[zbus(property)]
    async fn active_transaction(&self) -> (String, String, String) {
        match self.0.transactions.active().await {
            Some(active) => (
                active.method.to_owned(),
                active.creator.name.to_string(),
                active.path.clone(),
            ),
            None => Default::default(),
        }
    }

    #[zbus(property)]
    async fn active_transaction_path(&self) -> String {
        let active = self.0.transactions.active().await;
        active.map(|t| t.path.clone()).unwrap_or_default()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn automatic_update_policy(&self) -> String {
        self.0.config().update_policy.word().to_owned()
    }

    #[zbus(property)]
    async fn deployments(&self) -> zbus::fdo::Result<Vec<HashMap<String, OwnedValue>>> {
        let snapshot = self.0.snapshot().await;
        snapshot
            .status()
            .map_err(|error| zbus::fdo::Error::Failed(error.to_string()))?;
        Ok(snapshot.deployments().iter().map(properties).collect())
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn configuration_error(&self) -> String {
        self.0.config_error()
    }
}

fn path_of(stateroot: &str) -> Result<OwnedObjectPath> {
    OwnedObjectPath::try_from(os_path(stateroot)).map_err(|error| Error::Failed(error.to_string()))
}
