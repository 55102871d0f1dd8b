//! `org.aptostree1.OS`.

use std::collections::HashMap;
use std::sync::Arc;

use apt_ostree_ipc::options::Dict;
use apt_ostree_ipc::{Action, Result, value};
use apt_ostree_model::query::Query;
use apt_ostree_model::status::Deployment;
use serde::Serialize;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::{OwnedValue, Value};

use super::query::Change;
use super::{packages, query, update, verbs};
use crate::daemon::Daemon;

type Properties = HashMap<String, OwnedValue>;

/// The object of a stateroot.
#[derive(Debug)]
pub(crate) struct Os {
    pub(super) daemon: Arc<Daemon>,
    pub(super) name: String,
}

impl Os {
    pub(crate) const fn new(daemon: Arc<Daemon>, name: String) -> Self {
        Self { daemon, name }
    }

    /// Tells that the deployments may have changed.
    pub(crate) async fn announce(&self, emitter: &SignalEmitter<'_>) -> zbus::Result<()> {
        self.booted_deployment_changed(emitter).await?;
        self.default_deployment_changed(emitter).await?;
        self.rollback_deployment_changed(emitter).await?;
        self.cached_update_changed(emitter).await
    }

    /// The deployment that `choose` picks out of those of this stateroot.
    async fn deployment(
        &self,
        choose: impl FnOnce(&[Deployment]) -> Option<&Deployment>,
    ) -> Properties {
        let own = query::deployments(self).await.unwrap_or_default();
        choose(&own).map(properties).unwrap_or_default()
    }
}

#[zbus::interface(name = "org.aptostree1.OS")]
impl Os {
    #[zbus(out_args("enabled", "transaction_address"))]
    async fn automatic_update_trigger(
        &self,
        options: Dict,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(bool, String)> {
        update::automatic(self, options, &header).await
    }

    #[zbus(out_args("diff"))]
    async fn get_deployments_rpm_diff(
        &self,
        deployid0: &str,
        deployid1: &str,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Vec<Change>> {
        let _pass = self.daemon.enter_for(&header, Action::RepoRefresh).await?;
        query::deployments_diff(self, deployid0, deployid1).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn deploy(
        &self,
        revision: &str,
        options: Dict,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String> {
        let modifiers = update::modifiers([("set-revision", revision.into())]);
        update::run(self, "Deploy", modifiers, options, &header).await
    }

    #[zbus(out_args("diff", "details"))]
    async fn get_cached_deploy_rpm_diff(
        &self,
        revision: &str,
        packages: Vec<String>,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(Vec<Change>, Properties)> {
        let _pass = self.daemon.enter_for(&header, Action::RepoRefresh).await?;
        query::revision_diff(self, revision, &packages).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn download_deploy_rpm_diff(
        &self,
        revision: &str,
        packages: Vec<String>,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String> {
        query::no_packages(&packages)?;
        let modifiers = update::modifiers([("set-revision", revision.into())]);
        update::download(self, "DownloadDeployRpmDiff", modifiers, &header).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn upgrade(&self, options: Dict, #[zbus(header)] header: Header<'_>) -> Result<String> {
        update::run(self, "Upgrade", Dict::new(), options, &header).await
    }

    #[zbus(out_args("diff", "details"))]
    async fn get_cached_update_rpm_diff(
        &self,
        deployid: &str,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(Vec<Change>, Properties)> {
        let _pass = self.daemon.enter_for(&header, Action::RepoRefresh).await?;
        query::cached_update_diff(self, deployid).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn download_update_rpm_diff(&self, #[zbus(header)] header: Header<'_>) -> Result<String> {
        update::download(self, "DownloadUpdateRpmDiff", Dict::new(), &header).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn rollback(&self, options: Dict, #[zbus(header)] header: Header<'_>) -> Result<String> {
        verbs::rollback(self, options, &header).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn clear_rollback_target(
        &self,
        options: Dict,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String> {
        verbs::clear_rollback(self, options, &header).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn rebase(
        &self,
        options: Dict,
        refspec: &str,
        packages: Vec<String>,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String> {
        let mut options = options;
        let mut modifiers = update::modifiers([
            ("set-refspec", refspec.into()),
            ("install-packages", packages.into()),
        ]);
        if let Some(revision) = options.remove("revision") {
            modifiers.insert("set-revision".to_owned(), revision);
        }
        update::run(self, "Rebase", modifiers, options, &header).await
    }

    #[zbus(out_args("diff", "details"))]
    async fn get_cached_rebase_rpm_diff(
        &self,
        refspec: &str,
        packages: Vec<String>,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(Vec<Change>, Properties)> {
        let _pass = self.daemon.enter_for(&header, Action::RepoRefresh).await?;
        query::revision_diff(self, refspec, &packages).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn download_rebase_rpm_diff(
        &self,
        refspec: &str,
        packages: Vec<String>,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String> {
        query::no_packages(&packages)?;
        let modifiers = update::modifiers([("set-refspec", refspec.into())]);
        update::download(self, "DownloadRebaseRpmDiff", modifiers, &header).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn pkg_change(
        &self,
        options: Dict,
        packages_added: Vec<String>,
        packages_removed: Vec<String>,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String> {
        let mut options = options;
        options.extend(update::modifiers([("no-pull-base", Value::from(true))]));
        let modifiers = update::modifiers([
            ("install-packages", packages_added.into()),
            ("uninstall-packages", packages_removed.into()),
        ]);
        update::run(self, "PkgChange", modifiers, options, &header).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn set_initramfs_state(
        &self,
        regenerate: bool,
        args: Vec<String>,
        options: Dict,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String> {
        verbs::initramfs(self, regenerate, args, options, &header).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn initramfs_etc(
        &self,
        track: Vec<String>,
        untrack: Vec<String>,
        untrack_all: bool,
        force_sync: bool,
        options: Dict,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String> {
        let change = verbs::InitramfsEtc {
            track,
            untrack,
            untrack_all,
            force_sync,
        };
        verbs::initramfs_etc(self, change, options, &header).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn kernel_args(
        &self,
        existing_kernel_args: &str,
        kernel_args_added: Vec<String>,
        kernel_args_replaced: Vec<String>,
        kernel_args_removed: Vec<String>,
        options: Dict,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String> {
        let lists = [kernel_args_added, kernel_args_replaced, kernel_args_removed];
        verbs::kargs(self, existing_kernel_args, lists, options, &header).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn cleanup(
        &self,
        elements: Vec<String>,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String> {
        verbs::cleanup(self, &elements, &header).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn refresh_md(
        &self,
        options: Dict,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String> {
        packages::refresh(self, options, &header).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn modify_apt_source(
        &self,
        id: &str,
        settings: HashMap<String, String>,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String> {
        packages::modify_source(self, id, &settings, &header).await
    }

    #[zbus(out_args("repos"))]
    async fn list_repos(&self, #[zbus(header)] header: Header<'_>) -> Result<Vec<Properties>> {
        packages::sources(self, &header).await
    }

    #[zbus(out_args("packages"))]
    async fn what_provides(
        &self,
        provides: Vec<String>,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Vec<Properties>> {
        packages::find(self, Query::Provides(provides), &header).await
    }

    #[zbus(out_args("packages"))]
    async fn get_packages(
        &self,
        names: Vec<String>,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Vec<Properties>> {
        packages::find(self, Query::Packages(names), &header).await
    }

    #[zbus(out_args("packages"))]
    async fn search(
        &self,
        names: Vec<String>,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Vec<Properties>> {
        packages::find(self, Query::Search(names), &header).await
    }

    #[zbus(out_args("bootconfig"))]
    async fn get_deployment_boot_config(
        &self,
        deployid: &str,
        is_pending: bool,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Properties> {
        packages::boot_config(self, deployid, is_pending, &header).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn update_deployment(
        &self,
        modifiers: Dict,
        options: Dict,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String> {
        update::run(self, "UpdateDeployment", modifiers, options, &header).await
    }

    #[zbus(out_args("transaction_address"))]
    async fn finalize_deployment(
        &self,
        options: Dict,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String> {
        verbs::finalize(self, options, &header).await
    }

    #[zbus(property)]
    async fn booted_deployment(&self) -> Properties {
        self.deployment(|own| own.iter().find(|d| d.booted)).await
    }

    #[zbus(property)]
    async fn default_deployment(&self) -> Properties {
        self.deployment(<[Deployment]>::first).await
    }

    #[zbus(property)]
    async fn rollback_deployment(&self) -> Properties {
        self.deployment(|own| {
            let booted = own.iter().position(|d| d.booted)?;
            own.get(booted + 1)
        })
        .await
    }

    #[zbus(property)]
    async fn cached_update(&self) -> Properties {
        let snapshot = self.daemon.snapshot().await;
        let cached = snapshot
            .status()
            .ok()
            .and_then(|s| s.cached_update.as_ref());
        cached
            .filter(|update| update.osname == self.name)
            .map(properties)
            .unwrap_or_default()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    async fn has_cached_update_rpm_diff(&self) -> bool {
        !self.cached_update().await.is_empty()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> String {
        self.name.clone()
    }
}

/// The keys and shapes of the JSON form, for the bus.
pub(super) fn properties(value: &impl Serialize) -> Properties {
    serde_json::to_value(value).map_or_else(|_| Properties::new(), |json| value::dict(&json))
}
