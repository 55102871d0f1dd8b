//! sysusers.d: reading the fragments of a tree and writing entries.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use apt_ostree_model::{ContentReader, Node, Tree};

use super::accounts::User;

/// One line of a sysusers.d fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `u`, `g`, `m` or `r`, without modifiers.
    pub(crate) kind: char,
    /// User or group; for `r` a dash.
    pub(crate) name: String,
    /// Id field; empty when absent.
    pub(crate) id: String,
}

/// Reads the words of a line: blanks separate, quotes join, a backslash takes the next character.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', _) => word.get_or_insert_default().extend(chars.next()),
            (c, Some(q)) if c == q => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_ascii_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Reads a line; `None` for comments, empty and malformed lines.
pub(crate) fn parse_line(text: &str) -> Option<Entry> {
    let text = text.trim();
    if text.starts_with('#') {
        return None;
    }
    let words = words(text);
    let [kind, name, rest @ ..] = words.as_slice() else {
        return None;
    };
    let kind = match kind.as_str() {
        "u" | "u!" => 'u',
        "g" => 'g',
        "m" => 'm',
        "r" => 'r',
        _ => return None,
    };
    let id = rest.first().map_or("", String::as_str);
    Some(Entry {
        kind,
        name: name.clone(),
        id: if id == "-" {
            String::new()
        } else {
            id.to_owned()
        },
    })
}

/// All entries of `usr/lib/sysusers.d`, in the order in which systemd reads them.
pub(crate) fn entries_of(
    tree: &Tree,
    content: &(impl ContentReader + ?Sized),
) -> Result<Vec<Entry>> {
    const DIR: &str = "usr/lib/sysusers.d";
    let mut entries = Vec::new();
    for (name, node) in tree.dir(DIR).into_iter().flat_map(|d| &d.entries) {
        if !name.ends_with(".conf") || !matches!(node, Node::File(_)) {
            continue;
        }
        let data = super::work::read_optional(tree, content, &format!("{DIR}/{name}"))?;
        let text = String::from_utf8_lossy(&data.unwrap_or_default()).into_owned();
        entries.extend(text.lines().filter_map(parse_line));
    }
    Ok(entries)
}

/// The ids that entries fix by number.
#[derive(Debug, Default)]
pub(crate) struct Fixed {
    users: BTreeMap<String, (u32, Option<u32>)>,
    groups: BTreeMap<String, u32>,
    members: BTreeSet<(String, String)>,
}

impl Fixed {
    pub(crate) fn new(entries: &[Entry]) -> Self {
        let mut fixed = Self::default();
        for entry in entries {
            let (id, group) = match entry.id.split_once(':') {
                Some((id, group)) => (id.parse::<u32>().ok(), group.parse::<u32>().ok()),
                None => (entry.id.parse().ok(), entry.id.parse().ok()),
            };
            match (entry.kind, id) {
                ('u', Some(id)) => {
                    fixed.users.entry(entry.name.clone()).or_insert((id, group));
                    if !entry.id.contains(':') {
                        fixed.groups.entry(entry.name.clone()).or_insert(id);
                    }
                }
                ('g', Some(id)) => {
                    fixed.groups.entry(entry.name.clone()).or_insert(id);
                }
                ('m', _) => {
                    fixed.members.insert((entry.name.clone(), entry.id.clone()));
                }
                _ => {}
            }
        }
        fixed
    }

    pub(crate) fn has_user(&self, name: &str, uid: u32, gid: u32) -> bool {
        self.users.get(name) == Some(&(uid, Some(gid)))
    }

    pub(crate) fn has_group(&self, name: &str, gid: u32) -> bool {
        self.groups.get(name) == Some(&gid)
    }

    pub(crate) fn has_member(&self, user: &str, group: &str) -> bool {
        self.members.contains(&(user.to_owned(), group.to_owned()))
    }
}

/// A word for a sysusers.d line; quoted when needed, specifiers doubled.
pub(crate) fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@,".contains(c);
    let text = text.replace('%', "%%");
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

/// The entry of a user with fixed ids.
pub(crate) fn user_line(user: &User) -> String {
    let field = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            quote(text)
        }
    };
    format!(
        "u {} {}:{} {} {} {}",
        quote(&user.name),
        user.uid,
        user.gid,
        field(&user.gecos),
        field(&user.home),
        field(&user.shell)
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(kind: char, name: &str, id: &str) -> Entry {
        Entry {
            kind,
            name: name.to_owned(),
            id: id.to_owned(),
        }
    }

    #[test]
    fn lines_are_read() {
        assert_eq!(parse_line("u! a - \"x y\""), Some(entry('u', "a", "")));
        assert_eq!(parse_line("g b 5 -"), Some(entry('g', "b", "5")));
        assert_eq!(parse_line("m u g"), Some(entry('m', "u", "g")));
        assert_eq!(parse_line("# u a"), None);
        assert_eq!(parse_line("x a"), None);
    }

    #[test]
    fn only_ids_given_by_number_are_fixed() {
        let fixed = Fixed::new(&[
            entry('u', "man", "6:12"),
            entry('u', "daemon", "1"),
            entry('u', "sshd", ""),
            entry('u', "x", "7:nogroup"),
        ]);
        assert!(fixed.has_user("man", 6, 12) && !fixed.has_group("man", 6));
        assert!(fixed.has_user("daemon", 1, 1) && fixed.has_group("daemon", 1));
        assert!(!fixed.has_user("sshd", 996, 65534));
        assert!(!fixed.has_user("x", 7, 65534));
        assert!(!fixed.has_user("man", 7, 12));
    }

    proptest! {
        #[test]
        fn a_quoted_word_is_read_back(text in "[^\n%]{1,20}") {
            prop_assert_eq!(words(&quote(&text)), vec![text]);
        }
    }
}
