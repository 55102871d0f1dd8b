//! Messages with stable ids for the journal.

use std::fmt::Write as _;
use std::io::Write as _;

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
    let number = (level as u8).to_string();
    let mut all = vec![
        ("MESSAGE", message),
        ("MESSAGE_ID", id),
        ("PRIORITY", &number),
        ("SYSLOG_IDENTIFIER", "apt-ostreed"),
    ];
    all.extend_from_slice(fields);
    let sent = apt_ostree_fsx::journal::send(&all);
    if sent.is_err() {
        let mut line = String::new();
        let _ = write!(line, "<{number}>{}", apt_ostree_fsx::escape(message));
        // There is no one else to tell.
        drop(writeln!(std::io::stderr(), "{line}"));
    }
}
