//! How a request about a system reaches what carries it out. Nothing else knows.

use apt_ostree_model::client::ClientOutcome;
use apt_ostree_model::compose::{Outcome, Request};
use apt_ostree_model::{ErrorKind, Kinded};

use crate::render::View;
use crate::worker;

/// Has `request` carried out, draws on `view` what is reported meanwhile, and returns what came of
/// it.
pub(crate) fn run(request: &Request, view: &mut View) -> Result<ClientOutcome, Kinded> {
    worker::require_root("only root can look at deployments and change them")?;
    match worker::run(request, view) {
        Ok(Outcome::Client(outcome)) => Ok(outcome),
        Ok(_) => Err(unexpected()),
        Err(failure) => {
            view.clear();
            Err(worker::kinded(failure))
        }
    }
}

/// The error for an answer to something that was not asked.
pub(crate) fn unexpected() -> Kinded {
    Kinded::new(ErrorKind::Failed, "the worker answered another request")
        .with_hint("install all programs of apt-ostree in the same version")
}
