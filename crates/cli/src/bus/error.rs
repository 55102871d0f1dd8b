//! Errors of the daemon and of the bus as this program tells them.

use apt_ostree_ipc::names::BUS_NAME;
use apt_ostree_ipc::worker::into_failure;
use apt_ostree_model::compose::Failure;
use apt_ostree_model::{ErrorKind, Kinded};

const OWN: &str = "org.aptostree1.Error.";
const BUS: &str = "org.freedesktop.DBus.Error.";
const SYSTEMD: &str = "org.freedesktop.systemd1.";

/// As [`kinded`], as the failure of a request.
pub(super) fn failure(error: &zbus::Error) -> Failure {
    into_failure(kinded(error))
}

/// What a call ended with, by the name of its error.
pub(super) fn kinded(error: &zbus::Error) -> Kinded {
    let (name, text) = match error {
        zbus::Error::MethodError(name, text, _) => {
            (name.to_string(), text.clone().unwrap_or_default())
        }
        zbus::Error::FDO(error) => {
            let name = zbus::DBusError::name(&**error).to_string();
            let text = zbus::DBusError::description(&**error);
            (name, text.unwrap_or_default().to_owned())
        }
        other => (String::new(), other.to_string()),
    };
    if let Some(own) = name.strip_prefix(OWN) {
        return of_daemon(own, &text);
    }
    of_bus(&name, &text)
}

fn of_daemon(name: &str, text: &str) -> Kinded {
    let error = |kind| Kinded::new(kind, text);
    match name {
        "UpdateInProgress" => error(ErrorKind::Busy)
            .with_hint("wait for its end with --wait, or end it with 'apt-ostree cancel'"),
        "NotAuthorized" => Kinded::new(ErrorKind::NotAuthorized, format!("not authorised: {text}"))
            .with_hint("run the command as root, or ask the administrator for a rule of polkit"),
        "InvalidSysroot" => error(ErrorKind::InvalidSysroot),
        "InvalidRefspec" | "InvalidArguments" => error(ErrorKind::InvalidInput),
        "Locked" => error(ErrorKind::NotAuthorized)
            .with_hint("change it in /etc/apt-ostreed.conf and run 'apt-ostree reload'"),
        _ => error(ErrorKind::Failed),
    }
}

fn of_bus(name: &str, text: &str) -> Kinded {
    let text = apt_ostree_fsx::escape(text);
    let short = name.strip_prefix(BUS).unwrap_or(name);
    if short == "NoReply" || short == "Timeout" {
        let message = format!("apt-ostreed did not answer: {text}");
        return Kinded::new(ErrorKind::Failed, message)
            .with_hint("see 'systemctl status apt-ostreed' and 'journalctl -u apt-ostreed'");
    }
    let starts = short.starts_with("Spawn") || name.starts_with(SYSTEMD);
    if starts || short == "ServiceUnknown" || short == "NameHasNoOwner" {
        let message = format!("apt-ostreed can't be started: {text}");
        return Kinded::new(ErrorKind::Failed, message)
            .with_hint("see 'systemctl status apt-ostreed' and 'journalctl -u apt-ostreed'");
    }
    if short == "AccessDenied" {
        let message = format!("the bus refuses the call to {BUS_NAME}: {text}");
        return Kinded::new(ErrorKind::NotAuthorized, message)
            .with_hint("install apt-ostree completely, with its policy for the bus");
    }
    Kinded::new(ErrorKind::Failed, format!("calling apt-ostreed: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_get_kind_and_advice_by_their_names() {
        for (name, kind, advice) in [
            (
                "org.aptostree1.Error.UpdateInProgress",
                ErrorKind::Busy,
                "--wait",
            ),
            (
                "org.aptostree1.Error.NotAuthorized",
                ErrorKind::NotAuthorized,
                "polkit",
            ),
            (
                "org.aptostree1.Error.InvalidSysroot",
                ErrorKind::InvalidSysroot,
                "",
            ),
            (
                "org.aptostree1.Error.InvalidArguments",
                ErrorKind::InvalidInput,
                "",
            ),
            (
                "org.aptostree1.Error.Locked",
                ErrorKind::NotAuthorized,
                "reload",
            ),
            (
                "org.freedesktop.DBus.Error.AccessDenied",
                ErrorKind::NotAuthorized,
                "policy",
            ),
            (
                "org.freedesktop.DBus.Error.Spawn.ExecFailed",
                ErrorKind::Failed,
                "journalctl",
            ),
            (
                "org.freedesktop.systemd1.NoSuchUnit",
                ErrorKind::Failed,
                "journalctl",
            ),
            (
                "org.freedesktop.DBus.Error.NoReply",
                ErrorKind::Failed,
                "journalctl",
            ),
            ("org.example.Other", ErrorKind::Failed, ""),
        ] {
            let call = zbus::Message::method_call("/", "Ping").unwrap();
            let call = call.build(&()).unwrap();
            let name = zbus::names::OwnedErrorName::try_from(name).unwrap();
            let error = zbus::Error::MethodError(name.clone(), Some("why".to_owned()), call);
            let found = kinded(&error);
            assert_eq!(found.kind, kind, "{name}");
            assert!(found.message.contains("why"), "{}", found.message);
            let hint = found.hint.unwrap_or_default();
            assert!(hint.contains(advice), "{name}: {hint}");
        }
    }
}
