//! From the claim of the name to the exit.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use apt_ostree_ipc::names::{BASE_PATH, BUS_NAME, SYSROOT_PATH, bus_address};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};
use zbus::fdo::RequestNameFlags;

use crate::daemon::{Daemon, Setup};
use crate::journal::{self, Level};
use crate::objects::Sysroot;

/// How often an idle daemon looks whether it still is.
const LOOK: Duration = Duration::from_secs(1);

/// Calls that came before the name was gone are answered meanwhile.
const LAST_CALLS: Duration = Duration::from_millis(250);

/// Serves the bus until nobody needs the daemon any more or a signal ends it.
pub(crate) async fn live(setup: Setup) -> anyhow::Result<()> {
    let connection = zbus::connection::Builder::address(bus_address().as_str())?
        .build()
        .await
        .context("connecting to the system bus")?;
    let daemon = Daemon::new(connection.clone(), setup);
    let server = connection.object_server();
    server.at(BASE_PATH, zbus::fdo::ObjectManager).await?;
    server
        .at(SYSROOT_PATH, Sysroot::new(Arc::clone(&daemon)))
        .await?;
    claim(&daemon).await?;
    tokio::spawn(Arc::clone(&daemon).publish_changes());
    // Who calls before the sysroot is read waits for it.
    tokio::spawn({
        let daemon = Arc::clone(&daemon);
        async move { drop(daemon.snapshot().await) }
    });
    notify(&[NotifyState::Ready, NotifyState::Status("idle")]);
    let result = serve(&daemon).await;
    notify(&[NotifyState::Stopping]);
    result
}

/// Takes the name on the bus, which nobody may take away.
async fn claim(daemon: &Daemon) -> anyhow::Result<()> {
    daemon
        .connection
        .request_name_with_flags(BUS_NAME, RequestNameFlags::DoNotQueue.into())
        .await
        .with_context(|| format!("claiming the name {BUS_NAME}"))?;
    Ok(())
}

async fn serve(daemon: &Arc<Daemon>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return end(daemon).await,
            _ = interrupt.recv() => return end(daemon).await,
            _ = hangup.recv() => {
                // What is wrong is in the journal and in `status`.
                drop(daemon.reload_config());
            }
            () = daemon.connection.closed() => anyhow::bail!("the system bus is gone"),
            () = idle(daemon) => {
                if leave(daemon).await? {
                    return Ok(());
                }
            }
        }
    }
}

/// Returns when nobody has needed the daemon for the configured time.
async fn idle(daemon: &Daemon) {
    loop {
        let Some(limit) = daemon.config().idle_exit else {
            sleep(LOOK).await;
            continue;
        };
        let since = if daemon.clients.is_empty() && daemon.transactions.active().await.is_none() {
            daemon.gate.idle_since()
        } else {
            None
        };
        match since.map(|since| Instant::from_std(since) + limit) {
            Some(end) if end <= Instant::now() => return,
            // The configuration may change meanwhile.
            Some(end) => sleep_until(end.min(Instant::now() + LOOK)).await,
            None => sleep(LOOK).await,
        }
    }
}

/// Gives up the name so that the next call starts a new daemon. False: a call came just before, and
/// the daemon stays.
async fn leave(daemon: &Arc<Daemon>) -> anyhow::Result<bool> {
    let before = daemon.gate.idle_since();
    daemon.connection.release_name(BUS_NAME).await?;
    sleep(LAST_CALLS).await;
    if before.is_some() && daemon.gate.idle_since() == before {
        notify(&[NotifyState::Stopping]);
        journal::log(
            Level::Info,
            journal::LIFE_CYCLE,
            "ending: nobody needs the daemon",
            &[],
        );
        return Ok(true);
    }
    claim(daemon).await?;
    Ok(false)
}

/// Ends at once, but not before the worker has cleaned up.
async fn end(daemon: &Arc<Daemon>) -> anyhow::Result<()> {
    notify(&[NotifyState::Stopping]);
    daemon.transactions.close("the daemon is ending").await;
    // Clients take signals from the owner of the name alone, so it goes last.
    if let Some(active) = daemon.transactions.active().await {
        active.cancel();
        while daemon.transactions.active().await.is_some() {
            sleep(Duration::from_millis(50)).await;
        }
        // The last signals are on their way.
        sleep(LAST_CALLS).await;
    }
    daemon.connection.release_name(BUS_NAME).await?;
    Ok(())
}

/// Without systemd there is nobody to tell.
fn notify(states: &[NotifyState<'_>]) {
    drop(sd_notify::notify(states));
}
