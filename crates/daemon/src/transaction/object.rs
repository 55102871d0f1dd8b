//! The object of a transaction.

use std::collections::HashMap;
use std::sync::Arc;

use apt_ostree_ipc::{Action, Error, Result};
use zbus::message::Header;
use zbus::object_server::SignalEmitter;

use super::{Phase, Transaction, run};
use crate::daemon::Daemon;

/// `org.aptostree1.Transaction`.
#[derive(Debug)]
pub(crate) struct TransactionObject {
    daemon: Arc<Daemon>,
    transaction: Arc<Transaction>,
}

impl TransactionObject {
    pub(super) const fn new(daemon: Arc<Daemon>, transaction: Arc<Transaction>) -> Self {
        Self {
            daemon,
            transaction,
        }
    }
}

#[zbus::interface(name = "org.aptostree1.Transaction")]
impl TransactionObject {
    #[zbus(out_args("started"))]
    async fn start(&self, #[zbus(header)] header: Header<'_>) -> Result<bool> {
        let (caller, _pass) = self.daemon.enter(&header).await?;
        if !self.transaction.has_participant(&caller.name) {
            return Err(Error::NotAuthorized(
                "only who asked for a transaction may start it".into(),
            ));
        }
        if let Phase::Finished(end) = self.transaction.phase() {
            run::tell_end(&self.daemon, &self.transaction, &end, Some(&caller.name)).await?;
            return Ok(false);
        }
        Ok(self.transaction.start())
    }

    async fn cancel(&self, #[zbus(header)] header: Header<'_>) -> Result<()> {
        let (caller, _pass) = self.daemon.enter(&header).await?;
        if caller.uid != self.transaction.creator.uid {
            let title = self.transaction.title.as_str();
            let details = HashMap::from([("transaction", title)]);
            caller
                .require(&self.daemon.connection, [Action::Cancel], &details)
                .await?;
        }
        self.transaction.cancel();
        Ok(())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn title(&self) -> String {
        self.transaction.title.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn initiating_client_description(&self) -> String {
        self.transaction.creator_text.clone()
    }

    #[zbus(signal)]
    pub(super) async fn finished(
        emitter: &SignalEmitter<'_>,
        success: bool,
        error_message: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn message(emitter: &SignalEmitter<'_>, text: &str) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn task_begin(emitter: &SignalEmitter<'_>, text: &str) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn task_end(emitter: &SignalEmitter<'_>, text: &str) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn percent_progress(
        emitter: &SignalEmitter<'_>,
        text: &str,
        percentage: u32,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn progress_end(emitter: &SignalEmitter<'_>) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn reply(emitter: &SignalEmitter<'_>, json: &str) -> zbus::Result<()>;
}
