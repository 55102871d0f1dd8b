//! Errors with a kind.

use apt_ostree_fsx::{cancel, escape};
use apt_ostree_model::{ErrorKind, Kinded};
use ostree::{gio, glib};

/// An error of libostree about this system.
pub(crate) fn ostree(error: &glib::Error) -> anyhow::Error {
    kinded(error, ErrorKind::Storage).into()
}

/// An error of libostree while it fetched from elsewhere.
pub(crate) fn fetch(error: &glib::Error) -> anyhow::Error {
    let kind = if error.domain() == glib::Quark::from_str("OstreeGpgError") || is_signature(error) {
        ErrorKind::Verification
    } else {
        ErrorKind::Network
    };
    kinded(error, kind).into()
}

/// An error about what the caller asked for.
pub(crate) fn invalid(message: impl Into<String>) -> Kinded {
    Kinded::new(ErrorKind::InvalidInput, message)
}

fn kinded(error: &glib::Error, otherwise: ErrorKind) -> Kinded {
    let message = escape(error.message());
    match error.kind::<gio::IOErrorEnum>() {
        Some(gio::IOErrorEnum::Cancelled) => cancel::error(),
        Some(gio::IOErrorEnum::NoSpace) => Kinded::new(ErrorKind::Storage, message).with_hint(
            "make room; 'apt-ostree cleanup --rollback --repomd' removes what can be had again",
        ),
        Some(gio::IOErrorEnum::ReadOnly) => Kinded::new(ErrorKind::Storage, message),
        _ => Kinded::new(otherwise, message),
    }
}

/// Some checks have no error code of their own.
fn is_signature(error: &glib::Error) -> bool {
    let message = error.message();
    message.contains("GPG") || message.contains("signature") || message.contains("orrupted")
}
