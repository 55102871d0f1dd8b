//! The journal's own protocol.

use std::io;
use std::os::unix::net::UnixDatagram;

const SOCKET: &str = "/run/systemd/journal/socket";

/// Sends one entry to the journal.
///
/// # Errors
/// When no journal takes it.
pub fn send(fields: &[(&str, &str)]) -> io::Result<()> {
    let mut entry = Vec::new();
    for (key, value) in fields {
        push_field(&mut entry, key, value);
    }
    UnixDatagram::unbound()?.send_to(&entry, SOCKET)?;
    Ok(())
}

/// `KEY=VALUE`, or with its length when the value has several lines.
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
