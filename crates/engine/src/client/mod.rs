//! The verbs on a system.

use anyhow::Result;
use apt_ostree_model::client::ClientOutcome;
use apt_ostree_model::compose::Request;
use apt_ostree_model::{ErrorKind, Kinded, Reporter};

/// Runs one verb on a system to its end.
///
/// # Errors
/// When the verb fails; what is deployed is as before then.
pub fn run(_request: &Request, _reporter: &dyn Reporter) -> Result<ClientOutcome> {
    Err(Kinded::new(ErrorKind::Usage, "the verb is not one of a system").into())
}
