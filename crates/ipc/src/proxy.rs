//! Proxies for clients of the daemon, written against the interface XML; a test compares them with
//! it through the daemon's introspection.

// What the macro makes has no documentation of its own.
#![allow(
    missing_docs,
    reason = "members are documented in data/dbus/org.aptostree1.xml"
)]

use std::collections::HashMap;

use zbus::zvariant::{OwnedObjectPath, OwnedValue, Value};

/// A dictionary that is sent.
pub type Sent<'a> = HashMap<&'a str, Value<'a>>;

/// A dictionary that is received.
pub type Received = HashMap<String, OwnedValue>;

/// A change of one package: name, kind and packages.
pub type Change = (String, u32, Received);

#[zbus::proxy(
    interface = "org.aptostree1.Sysroot",
    default_service = "org.aptostree1",
    default_path = "/org/aptostree1/Sysroot"
)]
pub trait Sysroot {
    fn register_client(&self, options: Sent<'_>) -> zbus::Result<()>;
    fn unregister_client(&self, options: Sent<'_>) -> zbus::Result<()>;
    #[zbus(allow_interactive_auth)]
    fn reload_config(&self) -> zbus::Result<()>;
    fn reload(&self) -> zbus::Result<()>;
    #[zbus(name = "GetOS")]
    fn get_os(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn booted(&self) -> zbus::Result<OwnedObjectPath>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn path(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_transaction(&self) -> zbus::Result<(String, String, String)>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_transaction_path(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn automatic_update_policy(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn deployments(&self) -> zbus::Result<Vec<Received>>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn configuration_error(&self) -> zbus::Result<String>;
}

#[zbus::proxy(interface = "org.aptostree1.OS", default_service = "org.aptostree1")]
pub trait Os {
    #[zbus(allow_interactive_auth)]
    fn automatic_update_trigger(&self, options: Sent<'_>) -> zbus::Result<(bool, String)>;
    #[zbus(allow_interactive_auth)]
    fn get_deployments_rpm_diff(&self, id0: &str, id1: &str) -> zbus::Result<Vec<Change>>;
    #[zbus(allow_interactive_auth)]
    fn deploy(&self, revision: &str, options: Sent<'_>) -> zbus::Result<String>;
    #[zbus(allow_interactive_auth)]
    fn upgrade(&self, options: Sent<'_>) -> zbus::Result<String>;
    #[zbus(allow_interactive_auth)]
    fn rollback(&self, options: Sent<'_>) -> zbus::Result<String>;
    #[zbus(allow_interactive_auth)]
    fn clear_rollback_target(&self, options: Sent<'_>) -> zbus::Result<String>;
    #[zbus(allow_interactive_auth)]
    fn rebase(&self, options: Sent<'_>, refspec: &str, packages: &[&str]) -> zbus::Result<String>;
    #[zbus(allow_interactive_auth)]
    fn pkg_change(
        &self,
        options: Sent<'_>,
        added: &[&str],
        removed: &[&str],
    ) -> zbus::Result<String>;
    #[zbus(allow_interactive_auth)]
    fn set_initramfs_state(
        &self,
        regenerate: bool,
        args: &[&str],
        options: Sent<'_>,
    ) -> zbus::Result<String>;
    #[zbus(allow_interactive_auth)]
    fn initramfs_etc(
        &self,
        track: &[&str],
        untrack: &[&str],
        untrack_all: bool,
        force_sync: bool,
        options: Sent<'_>,
    ) -> zbus::Result<String>;
    #[zbus(allow_interactive_auth)]
    fn kernel_args(
        &self,
        existing: &str,
        added: &[&str],
        replaced: &[&str],
        removed: &[&str],
        options: Sent<'_>,
    ) -> zbus::Result<String>;
    #[zbus(allow_interactive_auth)]
    fn cleanup(&self, elements: &[&str]) -> zbus::Result<String>;
    #[zbus(allow_interactive_auth)]
    fn refresh_md(&self, options: Sent<'_>) -> zbus::Result<String>;
    #[zbus(allow_interactive_auth)]
    fn modify_apt_source(&self, id: &str, settings: HashMap<&str, &str>) -> zbus::Result<String>;
    fn list_repos(&self) -> zbus::Result<Vec<Received>>;
    fn what_provides(&self, provides: &[&str]) -> zbus::Result<Vec<Received>>;
    fn get_packages(&self, names: &[&str]) -> zbus::Result<Vec<Received>>;
    fn search(&self, names: &[&str]) -> zbus::Result<Vec<Received>>;
    fn get_deployment_boot_config(
        &self,
        deployid: &str,
        is_pending: bool,
    ) -> zbus::Result<Received>;
    #[zbus(allow_interactive_auth)]
    fn update_deployment(&self, modifiers: Sent<'_>, options: Sent<'_>) -> zbus::Result<String>;
    #[zbus(allow_interactive_auth)]
    fn finalize_deployment(&self, options: Sent<'_>) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn booted_deployment(&self) -> zbus::Result<Received>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn default_deployment(&self) -> zbus::Result<Received>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn rollback_deployment(&self) -> zbus::Result<Received>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn cached_update(&self) -> zbus::Result<Received>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn name(&self) -> zbus::Result<String>;
}

#[zbus::proxy(
    interface = "org.aptostree1.OSExperimental",
    default_service = "org.aptostree1"
)]
pub trait OsExperimental {
    #[zbus(allow_interactive_auth)]
    fn live_fs(&self, options: Sent<'_>) -> zbus::Result<String>;
}

#[zbus::proxy(
    interface = "org.aptostree1.Transaction",
    default_service = "org.aptostree1"
)]
pub trait Transaction {
    fn start(&self) -> zbus::Result<bool>;
    #[zbus(allow_interactive_auth)]
    fn cancel(&self) -> zbus::Result<()>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn title(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn initiating_client_description(&self) -> zbus::Result<String>;
    #[zbus(signal)]
    fn finished(&self, success: bool, error_message: &str) -> zbus::Result<()>;
    #[zbus(signal)]
    fn message(&self, text: &str) -> zbus::Result<()>;
    #[zbus(signal)]
    fn task_begin(&self, text: &str) -> zbus::Result<()>;
    #[zbus(signal)]
    fn task_end(&self, text: &str) -> zbus::Result<()>;
    #[zbus(signal)]
    fn percent_progress(&self, text: &str, percentage: u32) -> zbus::Result<()>;
    #[zbus(signal)]
    fn progress_end(&self) -> zbus::Result<()>;
    #[zbus(signal)]
    fn reply(&self, json: &str) -> zbus::Result<()>;
}
