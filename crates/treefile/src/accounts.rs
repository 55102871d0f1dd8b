//! Fixed user and group ids of `check-passwd` and `check-groups`.

use std::collections::BTreeMap;

use apt_ostree_model::{Account, IdLock};
use camino::Utf8Path;

use crate::error::{TreefileError, escape};
use crate::loader::Loader;
use crate::node::Node;
use crate::spec::IdCheck;

/// The largest id; the one above means "no id".
const MAX_ID: u32 = u32::MAX - 1;

/// Which half of the ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    /// `check-passwd`.
    Users,
    /// `check-groups`.
    Groups,
}

/// The check that a field asks for, and the file that it reads.
pub(crate) fn id_check(
    node: &Node,
    half: Half,
    loader: &dyn Loader,
) -> Result<(IdCheck, Option<camino::Utf8PathBuf>), TreefileError> {
    let kind = node.get("type").map_or("previous", Node::text);
    let filename = node.get("filename");
    let entries = node.get("entries");
    for (given, wanted) in [(filename, "file"), (entries, "data")] {
        if let Some(given) = given.filter(|_| kind != wanted) {
            return Err(given.error(format!(
                "this goes with 'type: {wanted}', not with 'type: {kind}'"
            )));
        }
    }
    match kind {
        "none" => Ok((IdCheck::None, None)),
        "file" => {
            let Some(name) = filename else {
                return Err(node.error("'type: file' needs 'filename'"));
            };
            let file = loader
                .open(&name.mark.source.dir, Utf8Path::new(name.text()))
                .map_err(|e| name.error(e.to_string()))?;
            let lock = parse_file(&file.data, half).map_err(|(line, message)| TreefileError {
                location: Some(crate::error::Location {
                    file: name.text().to_owned(),
                    line,
                    column: 0,
                }),
                message,
            })?;
            Ok((IdCheck::Fixed(lock), Some(file.path)))
        }
        "data" => match entries {
            Some(entries) => Ok((IdCheck::Fixed(from_entries(entries, half)?), None)),
            None => Err(node.error("'type: data' needs 'entries'")),
        },
        _ => Ok((IdCheck::Previous, None)),
    }
}

fn from_entries(entries: &Node, half: Half) -> Result<IdLock, TreefileError> {
    let mut lock = IdLock::default();
    for (key, value) in entries.entries() {
        check_name(&key.text).map_err(|why| key.mark.error(why))?;
        let ids = value.one_or_many();
        let id = |node: &Node| parse_id(node.text()).map_err(|why| node.error(why));
        match (half, ids) {
            (Half::Users, [uid]) => {
                let uid = id(uid)?;
                lock.users
                    .insert(key.text.clone(), Account { uid, gid: uid });
            }
            (Half::Users, [uid, gid]) => {
                let account = Account {
                    uid: id(uid)?,
                    gid: id(gid)?,
                };
                lock.users.insert(key.text.clone(), account);
            }
            (Half::Groups, [gid]) => {
                lock.groups.insert(key.text.clone(), id(gid)?);
            }
            _ => return Err(value.error("an entry is one id, or a user id and a group id")),
        }
    }
    Ok(lock)
}

/// Reads passwd(5) or group(5); an error is a line and a message.
fn parse_file(data: &[u8], half: Half) -> Result<IdLock, (u32, String)> {
    let text = std::str::from_utf8(data).map_err(|_| (0, "the file is not UTF-8".to_owned()))?;
    let mut lock = IdLock::default();
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for (line, number) in text.lines().zip(1u32..) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields: Vec<&str> = line.split(':').collect();
        let name = fields.first().copied().unwrap_or_default();
        check_name(name).map_err(|why| (number, why))?;
        if let Some(first) = seen.insert(name, number) {
            return Err((
                number,
                format!("'{name}' is given twice; first at line {first}"),
            ));
        }
        let id = |text: &str| parse_id(text).map_err(|why| (number, why));
        match (half, fields.as_slice()) {
            (Half::Users, [_, _, uid, gid, ..]) => {
                let account = Account {
                    uid: id(uid)?,
                    gid: id(gid)?,
                };
                lock.users.insert(name.to_owned(), account);
            }
            (Half::Groups, [_, _, gid, ..]) => {
                lock.groups.insert(name.to_owned(), id(gid)?);
            }
            (Half::Users, _) => {
                return Err((number, "a line needs name:password:uid:gid".to_owned()));
            }
            (Half::Groups, _) => return Err((number, "a line needs name:password:gid".to_owned())),
        }
    }
    Ok(lock)
}

fn parse_id(text: &str) -> Result<u32, String> {
    let id = text
        .parse::<u32>()
        .ok()
        .filter(|id| *id <= MAX_ID && text.bytes().all(|b| b.is_ascii_digit()));
    id.ok_or_else(|| format!("'{}' is not an id from 0 to {MAX_ID}", escape(text)))
}

/// What useradd and systemd-sysusers accept.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let start = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let rest = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    if start && rest && name.len() <= 32 {
        return Ok(());
    }
    Err(format!("'{}' is not a user or group name", escape(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(text: &str) -> Result<IdLock, (u32, String)> {
        parse_file(text.as_bytes(), Half::Users)
    }

    #[test]
    fn passwd_and_group_lines_are_read() {
        let lock = users("# ids\nroot:x:0:0:root:/root:/bin/bash\n\nmail:x:8:12::/:/x\n").unwrap();
        assert_eq!(lock.users["mail"], Account { uid: 8, gid: 12 });
        let lock = parse_file(b"shadow:x:42:\n", Half::Groups).unwrap();
        assert_eq!(lock.groups["shadow"], 42);
        assert!(lock.users.is_empty());
    }

    #[test]
    fn bad_lines_are_errors_with_their_number() {
        for bad in [
            "a:x:1:1\na:x:2:2\n",
            "\na:x:-1:0",
            "\na:x:4294967295:0",
            "\na:x:4294967296:0",
            "\na:x:+1:0",
            "\na:x:1",
            "\n:x:1:1",
            "\nA b:x:1:1",
            "\na",
        ] {
            let (line, message) = users(bad).unwrap_err();
            assert_eq!(line, 2, "{bad:?}: {message}");
        }
        assert!(parse_file(b"\xff", Half::Users).is_err());
    }
}
