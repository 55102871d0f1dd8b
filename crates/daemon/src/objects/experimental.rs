//! `org.aptostree1.OSExperimental`.

use std::sync::Arc;

use apt_ostree_ipc::Result;
use apt_ostree_ipc::options::Dict;
use zbus::message::Header;

use super::{Os, verbs};
use crate::daemon::Daemon;

/// What rpm-ostree keeps apart from the rest of a stateroot's object.
#[derive(Debug)]
pub(crate) struct OsExperimental(Os);

impl OsExperimental {
    pub(crate) const fn new(daemon: Arc<Daemon>, name: String) -> Self {
        Self(Os::new(daemon, name))
    }
}

#[zbus::interface(name = "org.aptostree1.OSExperimental")]
impl OsExperimental {
    #[zbus(out_args("transaction_address"))]
    async fn live_fs(&self, options: Dict, #[zbus(header)] header: Header<'_>) -> Result<String> {
        verbs::apply_live(&self.0, options, &header).await
    }
}
