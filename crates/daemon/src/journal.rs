//! Messages with stable ids for the journal.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;

const SOCKET: &str = "/run/systemd/journal/socket";

/// A transaction started.
pub(crate) const TRANSACTION_STARTED: &str = "b5fb0ff703b1429ba456840c18e01bcf";
/// A transaction ended well.
pub(crate) const TRANSACTION_DONE: &str = "acb0f7c4e92b42ac802c88ac49a8c346";
/// A transaction failed.
pub(crate) const TRANSACTION_FAILED: &str = "5ed02d18eaca44efa62104ddb13c44e7";
/// A transaction that never started was dropped.
pub(crate) const TRANSACTION_DROPPED: &str = "c0e4e60646384f72a6a18aa926e7348d";
/// Something is wrong with the configuration.
pub(crate) const CONFIG_BROKEN: &str = "fea7b855de14479aa31b9656090d2d77";
/// The daemon was started or ends.
pub(crate) const LIFE_CYCLE: &str = "e02787498e8d43e29ad2d958dae197cf";

/// The level of a message, as syslog counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Level {
    Error = 3,
    Warning = 4,
    Info = 6,
}

/// Writes a message with its id and further fields. Standard error takes it where no journal
/// runs.
pub(crate) fn log(level: Level, id: &str, message: &str, fields: &[(&str, &str)]) {
    let mut entry = Vec::new();
    let number = (level as u8).to_string();
    let own = [
        ("MESSAGE", message),
        ("MESSAGE_ID", id),
        ("PRIORITY", &number),
        ("SYSLOG_IDENTIFIER", "apt-ostreed"),
    ];
    for (key, value) in own.iter().chain(fields) {
        push_field(&mut entry, key, value);
    }
    let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to(&entry, SOCKET));
    if sent.is_err() {
        let mut line = String::new();
        let _ = write!(line, "<{number}>{}", apt_ostree_fsx::escape(message));
        // There is no one else to tell.
        drop(writeln!(std::io::stderr(), "{line}"));
    }
}

/// The journal's own format: `KEY=VALUE`, or with its length when the value has several lines.
fn push_field(entry: &mut Vec<u8>, key: &str, value: &str) {
    entry.extend_from_slice(key.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_with_lines_can_not_add_fields() {
        let mut entry = Vec::new();
        push_field(&mut entry, "MESSAGE", "plain");
        push_field(&mut entry, "ERROR", "a\nPRIORITY=0");
        assert_eq!(
            entry,
            b"MESSAGE=plain\nERROR\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\n"
        );
    }
}
