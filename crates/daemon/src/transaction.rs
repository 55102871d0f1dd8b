//! Transactions: one at a time, run by a worker after `Start`.

mod object;
mod progress;
mod run;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use apt_ostree_ipc::names::TRANSACTIONS_PATH;
use apt_ostree_ipc::{Error, Result};
use apt_ostree_model::compose::Request;
use tokio::sync::Notify;
use zbus::names::OwnedUniqueName;

use crate::caller::Caller;
use crate::daemon::Daemon;
pub(crate) use object::TransactionObject;

/// Clients that may follow one transaction.
const MAX_PARTICIPANTS: usize = 16;

/// What a method has authorised and checked. It never changes afterwards.
#[derive(Debug)]
pub(crate) struct Order {
    /// Name of the method.
    pub(crate) method: &'static str,
    /// What it does, for people.
    pub(crate) title: String,
    pub(crate) request: Request,
    /// Copies of local packages, open in the worker under their numbers.
    pub(crate) files: Vec<OwnedFd>,
    /// Reboot when there is a new deployment.
    pub(crate) reboot: bool,
}

/// One transaction.
#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) path: String,
    pub(crate) method: &'static str,
    pub(crate) title: String,
    pub(crate) creator: Caller,
    pub(crate) creator_text: String,
    pub(crate) since: jiff::Timestamp,
    pub(crate) reboot: bool,
    request: Request,
    has_files: bool,
    files: Mutex<Vec<OwnedFd>>,
    state: Mutex<State>,
    /// Wakes who waits for `Start`.
    started: Notify,
    /// Asks the worker to end.
    cancel: Notify,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    cancelled: bool,
    participants: Vec<OwnedUniqueName>,
}

/// How far a transaction is.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Phase {
    /// Nobody has called `Start`.
    #[default]
    Waiting,
    Running,
    Finished(End),
}

/// How a transaction ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct End {
    /// The last line of the protocol.
    pub(crate) reply: String,
    pub(crate) success: bool,
    pub(crate) message: String,
}

impl Transaction {
    fn new(number: u64, order: Order, creator: Caller, creator_text: String) -> Self {
        let participants = vec![creator.name.clone()];
        Self {
            path: format!("{TRANSACTIONS_PATH}/{number}"),
            method: order.method,
            title: order.title,
            creator,
            creator_text,
            since: jiff::Timestamp::now(),
            reboot: order.reboot,
            request: order.request,
            has_files: !order.files.is_empty(),
            files: Mutex::new(order.files),
            state: Mutex::new(State {
                participants,
                ..State::default()
            }),
            started: Notify::new(),
            cancel: Notify::new(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state().phase.clone()
    }

    /// Whether this connection has asked for the transaction and was authorised.
    pub(crate) fn has_participant(&self, name: &OwnedUniqueName) -> bool {
        self.state().participants.contains(name)
    }

    /// Moves from waiting to running; false when it is beyond.
    pub(crate) fn start(&self) -> bool {
        let mut state = self.state();
        let waiting = state.phase == Phase::Waiting && !state.cancelled;
        if waiting {
            state.phase = Phase::Running;
            self.started.notify_one();
        }
        waiting
    }

    /// Asks for its end, whether it runs or waits.
    pub(crate) fn cancel(&self) {
        self.state().cancelled = true;
        self.started.notify_one();
        self.cancel.notify_one();
    }

    /// Whether `order` is this very transaction once more. What two files hold is not compared.
    fn is_same(&self, order: &Order) -> bool {
        !self.has_files
            && order.files.is_empty()
            && self.method == order.method
            && self.request == order.request
    }

    fn join(&self, caller: &Caller) -> Result<()> {
        let mut state = self.state();
        if state.participants.contains(&caller.name) {
            return Ok(());
        }
        if state.participants.len() >= MAX_PARTICIPANTS {
            return Err(Error::LimitsExceeded(format!(
                "{MAX_PARTICIPANTS} clients follow this transaction already"
            )));
        }
        state.participants.push(caller.name.clone());
        Ok(())
    }

    /// Why another transaction can't be made.
    fn busy(&self) -> Error {
        Error::UpdateInProgress(format!(
            "transaction in progress: {} by {} since {:.0}; wait for its end or cancel it with \
             'apt-ostree cancel'",
            self.title, self.creator_text, self.since
        ))
    }
}

/// All transactions.
#[derive(Debug, Default)]
pub(crate) struct Transactions(tokio::sync::Mutex<Slot>);

#[derive(Debug, Default)]
struct Slot {
    next: u64,
    active: Option<Arc<Transaction>>,
    /// Why no transaction is taken any more.
    closed: Option<&'static str>,
}

impl Transactions {
    /// The one that waits or runs.
    pub(crate) async fn active(&self) -> Option<Arc<Transaction>> {
        self.0.lock().await.active.clone()
    }

    /// Takes no more transactions; `why` is what callers are told.
    pub(crate) async fn close(&self, why: &'static str) {
        self.0.lock().await.closed = Some(why);
    }

    /// Takes transactions again.
    pub(crate) async fn open(&self) {
        self.0.lock().await.closed = None;
    }

    /// Forgets the active one.
    async fn release(&self, ended: &Transaction) {
        let mut slot = self.0.lock().await;
        if slot.active.as_ref().is_some_and(|t| t.path == ended.path) {
            slot.active = None;
        }
    }
}

/// Makes a transaction of `order`, or joins the caller to the same one that is active. Returns its
/// object path.
///
/// # Errors
/// [`Error::UpdateInProgress`] while another one is active.
pub(crate) async fn create(daemon: &Arc<Daemon>, caller: Caller, order: Order) -> Result<String> {
    let mut slot = daemon.transactions.0.lock().await;
    if let Some(why) = slot.closed {
        return Err(Error::UpdateInProgress(why.to_owned()));
    }
    if let Some(active) = &slot.active {
        if !active.is_same(&order) {
            return Err(active.busy());
        }
        active.join(&caller)?;
        return Ok(active.path.clone());
    }
    slot.next += 1;
    let text = daemon.clients.describe(&caller);
    let transaction = Arc::new(Transaction::new(slot.next, order, caller, text));
    let object = TransactionObject::new(Arc::clone(daemon), Arc::clone(&transaction));
    daemon
        .connection
        .object_server()
        .at(transaction.path.as_str(), object)
        .await?;
    slot.active = Some(Arc::clone(&transaction));
    drop(slot);
    let path = transaction.path.clone();
    tokio::spawn(run::live(Arc::clone(daemon), transaction));
    Ok(path)
}
