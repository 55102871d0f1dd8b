//! Errors and panics to the last line of the protocol.

use std::any::Any;
use std::panic::PanicHookInfo;
use std::sync::{Mutex, PoisonError};

use apt_ostree_model::compose::Failure;
use apt_ostree_model::{ErrorKind, Kinded};

/// Where the first panic happened and what it said.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// The failure that `error` is: its whole chain as message, kind and hint of the [`Kinded`] in it.
pub(crate) fn of_error(error: &anyhow::Error) -> Failure {
    // The first finds it as a context, the second as the source of another error type.
    let kinded = error
        .downcast_ref::<Kinded>()
        .or_else(|| error.chain().find_map(|cause| cause.downcast_ref()));
    Failure {
        kind: kinded.map_or(ErrorKind::Failed, |kinded| kinded.kind),
        message: chain_text(error),
        hint: kinded.and_then(|kinded| kinded.hint.clone()),
    }
}

/// Joins the chain by `: `. A cause that its wrapper has put into its own text already, as many
/// libraries do, is not repeated.
fn chain_text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let mut previous = String::new();
    for cause in error.chain() {
        let own = cause.to_string();
        if previous.ends_with(&own) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&own);
        previous = own;
    }
    text
}

/// Keeps panics for [`of_panic`] instead of printing them.
pub(crate) fn keep_panics() {
    std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        let mut kept = PANIC.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_none() {
            let place = info
                .location()
                .map(|l| format!(" at {}:{}", l.file(), l.line()));
            let text = payload_text(info.payload());
            *kept = Some(format!("{text}{}", place.unwrap_or_default()));
        }
    }));
}

/// The failure of a verb that panicked.
pub(crate) fn of_panic(payload: &(dyn Any + Send)) -> Failure {
    let kept = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
    let text = kept.unwrap_or_else(|| payload_text(payload).to_owned());
    internal(&text)
}

/// The failure of a bug.
pub(crate) fn internal(text: &str) -> Failure {
    Failure {
        kind: ErrorKind::Failed,
        message: format!("internal error: {text}"),
        hint: Some("please report this as a bug".to_owned()),
    }
}

fn payload_text(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "panic without a message"
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn kind_and_hint_come_from_the_kinded_error_anywhere_in_the_chain() {
        let root = Kinded::new(ErrorKind::Network, "fetching 'x'").with_hint("try again");
        let error = Err::<(), _>(root)
            .context("downloading packages")
            .context("composing 'a.yaml'")
            .unwrap_err();
        let failure = of_error(&error);
        assert_eq!(failure.kind, ErrorKind::Network);
        assert_eq!(failure.hint.as_deref(), Some("try again"));
        assert_eq!(
            failure.message,
            "composing 'a.yaml': downloading packages: fetching 'x'"
        );
    }

    #[test]
    fn kinded_used_as_a_context_counts_as_well() {
        let error = Err::<(), _>(std::io::Error::other("disk on fire"))
            .context(Kinded::new(ErrorKind::Storage, "writing 'x'"))
            .unwrap_err();
        let failure = of_error(&error);
        assert_eq!(failure.message, "writing 'x': disk on fire");
        assert_eq!(failure.kind, ErrorKind::Storage);
    }

    #[test]
    fn an_error_without_a_kind_is_failed() {
        let failure = of_error(&anyhow::anyhow!("no"));
        assert_eq!((failure.kind, failure.hint), (ErrorKind::Failed, None));
    }

    #[test]
    fn a_cause_that_its_wrapper_repeats_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("reading 'x': {0}")]
        struct Wrapper(#[source] std::io::Error);
        let error = anyhow::Error::new(Wrapper(std::io::Error::other("gone"))).context("loading");
        assert_eq!(of_error(&error).message, "loading: reading 'x': gone");
    }

    #[test]
    fn a_panic_becomes_an_internal_error() {
        let payload: Box<dyn Any + Send> = Box::new(String::from("index out of range"));
        let failure = of_panic(payload.as_ref());
        assert_eq!(failure.message, "internal error: index out of range");
    }
}
