//! What is deployed, from the properties of the daemon.

use apt_ostree_ipc::proxy::{OsProxy, Received, SysrootProxy, TransactionProxy};
use apt_ostree_ipc::value::json_object;
use apt_ostree_model::status::Status;
use serde::de::DeserializeOwned;
use zbus::Connection;

use crate::render::{AutomaticUpdates, StatusNotes};

/// The timer that starts automatic updates.
const TIMER: &str = "apt-ostreed-automatic.timer";

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Systemd {
    fn load_unit(&self, name: &str) -> zbus::Result<zbus::zvariant::OwnedObjectPath>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Unit",
    default_service = "org.freedesktop.systemd1"
)]
trait Unit {
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Timer",
    default_service = "org.freedesktop.systemd1"
)]
trait Timer {
    #[zbus(name = "LastTriggerUSec", property(emits_changed_signal = "false"))]
    fn last_trigger(&self) -> zbus::Result<u64>;
}

/// Reads the properties that make up the status.
pub(super) async fn read(connection: &Connection) -> zbus::Result<(Status, StatusNotes)> {
    let sysroot = SysrootProxy::new(connection).await?;
    let mut status = Status::default();
    for deployment in sysroot.deployments().await? {
        status.deployments.push(typed(&deployment)?);
    }
    let booted = sysroot.booted().await?;
    if booted.as_str() != "/" {
        let os = OsProxy::builder(connection).path(booted)?.build().await?;
        let cached = os.cached_update().await?;
        if !cached.is_empty() {
            status.cached_update = Some(typed(&cached)?);
        }
    }
    let mut notes = StatusNotes {
        configuration_error: sysroot.configuration_error().await?,
        automatic: Some(AutomaticUpdates {
            policy: sysroot.automatic_update_policy().await?,
            timer: timer(connection).await.ok(),
        }),
        ..StatusNotes::default()
    };
    let (method, sender, path) = sysroot.active_transaction().await?;
    if !path.is_empty() {
        // It may be gone already.
        notes.transaction = transaction(connection, &path).await.ok();
        status.transaction = Some((method, sender, path));
    }
    Ok((status, notes))
}

async fn transaction(connection: &Connection, path: &str) -> zbus::Result<(String, String)> {
    let transaction = TransactionProxy::builder(connection)
        .path(path)?
        .build()
        .await?;
    Ok((
        transaction.title().await?,
        transaction.initiating_client_description().await?,
    ))
}

pub(super) fn typed<T: DeserializeOwned>(dict: &Received) -> zbus::Result<T> {
    serde_json::from_value(json_object(dict)).map_err(|error| {
        zbus::Error::Failure(format!("reading the answer of apt-ostreed: {error}"))
    })
}

/// When the timer last started an update.
async fn timer(connection: &Connection) -> zbus::Result<String> {
    let path = SystemdProxy::new(connection)
        .await?
        .load_unit(TIMER)
        .await?;
    let unit = UnitProxy::builder(connection)
        .path(path.clone())?
        .build()
        .await?;
    if unit.active_state().await? != "active" {
        return Ok(format!("{TIMER}: inactive"));
    }
    let timer = TimerProxy::builder(connection).path(path)?.build().await?;
    let last = i64::try_from(timer.last_trigger().await? / 1_000_000).unwrap_or(0);
    Ok(match last {
        0 => format!("{TIMER}: no runs since boot"),
        last => {
            let seconds = jiff::Timestamp::now().as_second().saturating_sub(last);
            format!("{TIMER}: last run {} ago", span(seconds.max(0)))
        }
    })
}

/// A time span in its largest unit, such as `3 h`.
fn span(seconds: i64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_one_unit() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (7300, "2 h"),
            (172_800, "2 days"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}
