//! The process-wide cancel flag: set by SIGINT and SIGTERM, polled by every long step.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use apt_ostree_model::{ErrorKind, Kinded};
use signal_hook::consts::{SIGINT, SIGTERM};

fn flag() -> &'static Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(|| Arc::new(AtomicBool::new(false)))
}

/// Makes SIGINT and SIGTERM set the flag; a second one ends the process at once.
///
/// # Errors
/// When the handlers can't be registered.
pub fn install() -> std::io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag still unset.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(flag()))?;
        signal_hook::flag::register(signal, Arc::clone(flag()))?;
    }
    Ok(())
}

/// Sets the flag.
pub fn cancel() {
    flag().store(true, Ordering::Relaxed);
}

/// Whether the work should stop.
pub fn cancelled() -> bool {
    flag().load(Ordering::Relaxed)
}

/// Fails when the work should stop; for use with `?` inside loops.
///
/// # Errors
/// [`ErrorKind::Cancelled`] once the flag is set.
pub fn check() -> Result<(), Kinded> {
    if cancelled() {
        return Err(error());
    }
    Ok(())
}

/// The error of cancelled work.
pub fn error() -> Kinded {
    Kinded::new(ErrorKind::Cancelled, "cancelled")
}
