//! The life of a transaction.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use apt_ostree_ipc::worker;
use apt_ostree_model::client::ClientOutcome;
use apt_ostree_model::compose::{Failure, Outcome, Reply};
use apt_ostree_model::{ErrorKind, Kinded};
use tokio::sync::mpsc;
use zbus::names::{BusName, OwnedUniqueName};
use zbus::object_server::SignalEmitter;

use super::progress::{Progress, Signal};
use super::{End, Phase, Transaction, TransactionObject};
use crate::caller::vanished;
use crate::daemon::Daemon;
use crate::journal::{self, Level};

/// A client has this long to call `Start`: nobody else can do anything meanwhile.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The object stays this long after the end, for clients that are late.
const LINGER: Duration = Duration::from_secs(30);

/// Replies of a worker that wait for the bus.
const QUEUE: usize = 64;

/// From creation to removal.
pub(super) async fn live(daemon: Arc<Daemon>, transaction: Arc<Transaction>) {
    drop(daemon.announce_transaction().await);
    let result = match wait_for_start(&daemon, &transaction).await {
        Ok(()) => run(&daemon, &transaction).await,
        Err(failure) => Err(failure),
    };
    let end = end_of(&result);
    transaction.state().phase = Phase::Finished(end.clone());
    let reboots = transaction.reboot && is_deployed(&result);
    if reboots {
        daemon.transactions.close("a reboot is on its way").await;
    }
    daemon.transactions.release(&transaction).await;
    daemon.gate.touch();
    drop(daemon.announce_transaction().await);
    drop(tell_end(&daemon, &transaction, &end, None).await);
    if reboots {
        reboot(&daemon).await;
    }
    tokio::time::sleep(LINGER).await;
    let server = daemon.connection.object_server();
    drop(
        server
            .remove::<TransactionObject, _>(transaction.path.as_str())
            .await,
    );
}

/// Waits for `Start`.
///
/// # Errors
/// It was cancelled, its client left, or it took too long.
async fn wait_for_start(daemon: &Daemon, transaction: &Transaction) -> Result<(), Failure> {
    let gone = vanished(&daemon.connection, &transaction.creator.name);
    let why = tokio::select! {
        () = transaction.started.notified() => "cancelled",
        _ = gone => "the client disconnected before it called Start",
        () = tokio::time::sleep(START_TIMEOUT) => "nobody called Start in time",
    };
    let mut state = transaction.state();
    if state.phase == Phase::Running {
        return Ok(());
    }
    // From here on Start is refused.
    state.cancelled = true;
    drop(state);
    log(transaction, Level::Info, journal::TRANSACTION_DROPPED, why);
    Err(worker::into_failure(Kinded::new(ErrorKind::Cancelled, why)))
}

async fn run(daemon: &Arc<Daemon>, transaction: &Arc<Transaction>) -> Result<Outcome, Failure> {
    log(
        transaction,
        Level::Info,
        journal::TRANSACTION_STARTED,
        "started",
    );
    let files = std::mem::take(
        &mut *transaction
            .files
            .lock()
            .unwrap_or_else(PoisonError::into_inner),
    );
    let (replies, lines) = mpsc::channel(QUEUE);
    let forward = forward(daemon, transaction, lines);
    let work = daemon
        .runner
        .run(&transaction.request, files, replies, &transaction.cancel);
    let (result, ()) = tokio::join!(work, forward);
    match &result {
        Ok(_) => log(transaction, Level::Info, journal::TRANSACTION_DONE, "done"),
        Err(failure) => log(
            transaction,
            Level::Error,
            journal::TRANSACTION_FAILED,
            &failure.message,
        ),
    }
    // Who hears of the end finds the properties up to date.
    daemon.reload().await;
    result
}

/// Sends what the worker tells to everyone who asked for the transaction.
async fn forward(daemon: &Daemon, transaction: &Transaction, mut lines: mpsc::Receiver<String>) {
    let mut progress = Progress::default();
    while let Some(line) = lines.recv().await {
        let signals = progress.signals(&line);
        for emitter in emitters(daemon, transaction, None) {
            drop(TransactionObject::reply(&emitter, &line).await);
            for signal in &signals {
                drop(emit(&emitter, signal).await);
            }
        }
    }
}

async fn emit(emitter: &SignalEmitter<'_>, signal: &Signal) -> zbus::Result<()> {
    match signal {
        Signal::Message(text) => TransactionObject::message(emitter, text).await,
        Signal::TaskBegin(text) => TransactionObject::task_begin(emitter, text).await,
        Signal::TaskEnd(text) => TransactionObject::task_end(emitter, text).await,
        Signal::Percent(text, percent) => {
            TransactionObject::percent_progress(emitter, text, *percent).await
        }
        Signal::ProgressEnd => TransactionObject::progress_end(emitter).await,
    }
}

/// One emitter for each participant, or for `only` one.
fn emitters(
    daemon: &Daemon,
    transaction: &Transaction,
    only: Option<&OwnedUniqueName>,
) -> Vec<SignalEmitter<'static>> {
    let names = match only {
        Some(name) => vec![name.clone()],
        None => transaction.state().participants.clone(),
    };
    let emitter = |name: OwnedUniqueName| {
        let emitter = SignalEmitter::new(&daemon.connection, transaction.path.clone()).ok()?;
        Some(emitter.set_destination(BusName::Unique(name.into_inner())))
    };
    names.into_iter().filter_map(emitter).collect()
}

/// Tells the end to everyone, or to `only` one.
pub(super) async fn tell_end(
    daemon: &Daemon,
    transaction: &Transaction,
    end: &End,
    only: Option<&OwnedUniqueName>,
) -> zbus::Result<()> {
    for emitter in emitters(daemon, transaction, only) {
        TransactionObject::reply(&emitter, &end.reply).await?;
        TransactionObject::finished(&emitter, end.success, &end.message).await?;
    }
    Ok(())
}

fn end_of(result: &Result<Outcome, Failure>) -> End {
    let (reply, success, message) = match result.clone() {
        Ok(finished) => (Reply::Finished { finished }, true, String::new()),
        Err(failed) => {
            let message = failed.message.clone();
            (Reply::Failed { failed }, false, message)
        }
    };
    End {
        // Plain data always has a JSON form.
        reply: serde_json::to_string(&reply).unwrap_or_default(),
        success,
        message: message.replace('\0', "\u{fffd}"),
    }
}

const fn is_deployed(result: &Result<Outcome, Failure>) -> bool {
    matches!(result, Ok(Outcome::Client(ClientOutcome::Deployed(_))))
}

/// Asks systemd for the reboot, which respects inhibitors.
async fn reboot(daemon: &Daemon) {
    let asked = tokio::task::spawn_blocking(apt_ostree_ipc::reboot::reboot).await;
    let text = match asked {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.message,
        Err(error) => format!("the reboot was refused: {error}"),
    };
    daemon.transactions.open().await;
    journal::log(Level::Error, journal::TRANSACTION_FAILED, &text, &[]);
}

fn log(transaction: &Transaction, level: Level, id: &str, what: &str) {
    let text = format!(
        "transaction '{}' by {}: {what}",
        transaction.title, transaction.creator_text
    );
    let uid = transaction.creator.uid.to_string();
    journal::log(
        level,
        id,
        &text,
        &[
            ("TRANSACTION_METHOD", transaction.method),
            ("TRANSACTION_TITLE", &transaction.title),
            ("AGENT", &transaction.creator_text),
            ("AGENT_UID", &uid),
        ],
    );
}
