//! From `Start` to `Finished`.

use std::pin::Pin;

use apt_ostree_ipc::proxy::TransactionProxy;
use apt_ostree_ipc::worker::{failed, into_failure};
use apt_ostree_model::client::ClientOutcome;
use apt_ostree_model::compose::{Failure, Outcome, Reply};
use apt_ostree_model::{ErrorKind, Kinded};
use futures_util::StreamExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use zbus::Message;

use super::{error, lost};
use crate::client::unexpected;
use crate::render::View;

/// Signals that ask this program to end.
pub(super) struct Signals([Signal; 3]);

impl Signals {
    pub(super) fn new() -> Result<Self, Failure> {
        let take =
            |kind| signal(kind).map_err(|error| failed(format!("handling signals: {error}")));
        Ok(Self([
            take(SignalKind::interrupt())?,
            take(SignalKind::terminate())?,
            take(SignalKind::hangup())?,
        ]))
    }

    /// Returns when one comes.
    pub(super) async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

type Cancelling<'a> = Pin<Box<dyn Future<Output = zbus::Result<()>> + 'a>>;

/// Starts a transaction and draws what it tells until its end. The first signal asks for its
/// cancellation, the second one leaves it alone.
pub(super) async fn follow(
    transaction: &TransactionProxy<'_>,
    signals: &mut Signals,
    view: &mut View,
) -> Result<ClientOutcome, Failure> {
    let proxy = transaction.inner();
    let fail = |error: zbus::Error| error::failure(&error);
    // Before the start: nothing must be missed.
    let mut told = proxy.receive_all_signals().await.map_err(fail)?;
    let mut owners = proxy.receive_owner_changed().await.map_err(fail)?;
    transaction.start().await.map_err(fail)?;
    let mut end = None;
    let mut cancelling: Option<Cancelling<'_>> = None;
    let mut asked = false;
    loop {
        tokio::select! {
            biased;
            message = told.next() => {
                let message = message.ok_or_else(lost)?;
                if let Some(success) = take(&message, &mut end, view) {
                    return conclude(success, end);
                }
            }
            owner = owners.next() => {
                if owner.flatten().is_none() {
                    return Err(lost());
                }
            }
            () = signals.next() => {
                if asked {
                    view.warn("left; apt-ostreed ends the transaction by itself");
                    return Err(into_failure(Kinded::new(ErrorKind::Cancelled, "cancelled")));
                }
                asked = true;
                view.warn("cancelling and cleaning up; interrupt again to leave at once");
                cancelling = Some(Box::pin(transaction.cancel()));
            }
            result = poll(&mut cancelling), if cancelling.is_some() => {
                cancelling = None;
                if let Err(refused) = result {
                    let text = error::kinded(&refused).message;
                    view.warn(&format!("the transaction goes on: {text}"));
                }
            }
        }
    }
}

async fn poll(cancelling: &mut Option<Cancelling<'_>>) -> zbus::Result<()> {
    match cancelling {
        Some(cancelling) => cancelling.await,
        None => std::future::pending().await,
    }
}

/// Takes a signal of the transaction; the end with whether it was a good one.
fn take(
    message: &Message,
    end: &mut Option<Result<Outcome, Failure>>,
    view: &mut View,
) -> Option<(bool, String)> {
    let header = message.header();
    match header.member()?.as_str() {
        "Reply" => {
            let line: String = message.body().deserialize().ok()?;
            let reply: Reply = serde_json::from_str(&line).ok()?;
            view.reply(&line, &reply);
            match reply {
                Reply::Event(_) => {}
                Reply::Finished { finished } => *end = Some(Ok(finished)),
                Reply::Failed { failed } => *end = Some(Err(failed)),
            }
            None
        }
        "Finished" => message.body().deserialize().ok(),
        // The others say the same to clients that don't know the protocol.
        _ => None,
    }
}

fn conclude(
    (success, message): (bool, String),
    end: Option<Result<Outcome, Failure>>,
) -> Result<ClientOutcome, Failure> {
    match end {
        Some(Ok(Outcome::Client(outcome))) if success => Ok(outcome),
        Some(Err(failure)) => Err(failure),
        _ if success => Err(into_failure(unexpected())),
        _ => Err(failed(message)),
    }
}
