//! Users and groups: reading the account files, scrubbing the shadow files, sysusers.d entries
//! with fixed ids.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use apt_ostree_model::{Account, ContentReader, ErrorKind, IdLock, Kinded, Tree};
use fn_error_context::context;

use super::sysusers;
use super::work::{Work, read_text_optional};

/// Sorts before the fragments of packages, because the first entry for a name wins.
pub(super) const SYSUSERS: &str = "usr/lib/sysusers.d/00-apt-ostree.conf";

/// One user of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) gecos: String,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// One group of `/etc/group`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) gid: u32,
    pub(crate) members: Vec<String>,
}

/// The account files of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Accounts {
    /// Users in file order.
    pub(crate) users: Vec<User>,
    /// Groups in file order.
    pub(crate) groups: Vec<Group>,
}

impl Accounts {
    /// Reads `passwd` and `group` of a tree, from `usr/etc` or `etc`; a missing file is empty.
    pub(crate) fn load(tree: &Tree, content: &(impl ContentReader + ?Sized)) -> Result<Self> {
        let dir = if tree.dir("usr/etc").is_some() {
            "usr/etc"
        } else {
            "etc"
        };
        let read = |name: &str| -> Result<(String, String)> {
            let path = format!("{dir}/{name}");
            let text = read_text_optional(tree, content, &path)?;
            Ok((format!("/{path}"), text.unwrap_or_default()))
        };
        let (passwd_path, passwd) = read("passwd")?;
        let (group_path, group) = read("group")?;
        Ok(Self {
            users: parse_passwd(&passwd, &passwd_path)?,
            groups: parse_group(&group, &group_path)?,
        })
    }

    /// Name of a user id; the number as text when no user has it.
    pub(crate) fn user_name(&self, uid: u32) -> String {
        let user = self.users.iter().find(|u| u.uid == uid);
        user.map_or_else(|| uid.to_string(), |u| u.name.clone())
    }

    /// Name of a group id; the number as text when no group has it.
    pub(crate) fn group_name(&self, gid: u32) -> String {
        let group = self.groups.iter().find(|g| g.gid == gid);
        group.map_or_else(|| gid.to_string(), |g| g.name.clone())
    }

    fn lock(&self) -> IdLock {
        let users = self.users.iter().map(|user| {
            let (uid, gid) = (user.uid, user.gid);
            (user.name.clone(), Account { uid, gid })
        });
        IdLock {
            users: users.collect(),
            groups: self
                .groups
                .iter()
                .map(|g| (g.name.clone(), g.gid))
                .collect(),
        }
    }
}

/// The ids of all users and groups of a tree, from its `etc` or `usr/etc`.
///
/// # Errors
/// When the account files can't be read or are malformed.
#[context("reading the ids of a tree")]
pub fn id_lock(tree: &Tree, content: &dyn ContentReader) -> Result<IdLock> {
    Ok(Accounts::load(tree, content)?.lock())
}

/// Lines of a colon-separated account file with their number; comments, empty lines and NIS
/// lines (`+`, `-`) are left out.
fn account_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with(['#', '+', '-']))
}

fn malformed(path: &str, line: usize, what: &str) -> anyhow::Error {
    Kinded::new(
        ErrorKind::InvalidInput,
        format!("'{path}' line {line}: {what}"),
    )
    .into()
}

fn check_name<'t>(name: &'t str, at: (&str, usize)) -> Result<&'t str> {
    let ok = !name.is_empty()
        && name.len() <= 256
        && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/');
    if ok {
        return Ok(name);
    }
    let what = format!("'{}' is no account name", name.escape_default());
    Err(malformed(at.0, at.1, &what))
}

fn check_id(text: &str, at: (&str, usize)) -> Result<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse::<u32>()
        .ok()
        .filter(|id| digits && *id != u32::MAX)
        .ok_or_else(|| malformed(at.0, at.1, &format!("'{}' is no id", text.escape_default())))
}

/// Reads the text of a passwd file; `path` names it in errors.
pub(crate) fn parse_passwd(text: &str, path: &str) -> Result<Vec<User>> {
    let mut seen = BTreeSet::new();
    let mut users = Vec::new();
    for (number, line) in account_lines(text) {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, gecos, home, shell] = fields.as_slice() else {
            return Err(malformed(path, number, "not seven fields"));
        };
        let at = (path, number);
        let name = check_name(name, at)?;
        if !seen.insert(name) {
            return Err(malformed(
                path,
                number,
                &format!("user '{name}' is there twice"),
            ));
        }
        users.push(User {
            name: name.to_owned(),
            uid: check_id(uid, at)?,
            gid: check_id(gid, at)?,
            gecos: (*gecos).to_owned(),
            home: (*home).to_owned(),
            shell: (*shell).to_owned(),
        });
    }
    Ok(users)
}

/// Reads the text of a group file; `path` names it in errors.
pub(crate) fn parse_group(text: &str, path: &str) -> Result<Vec<Group>> {
    let mut seen = BTreeSet::new();
    let mut groups = Vec::new();
    for (number, line) in account_lines(text) {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members] = fields.as_slice() else {
            return Err(malformed(path, number, "not four fields"));
        };
        let at = (path, number);
        let name = check_name(name, at)?;
        if !seen.insert(name) {
            return Err(malformed(
                path,
                number,
                &format!("group '{name}' is there twice"),
            ));
        }
        let members = members.split(',').map(str::trim).filter(|m| !m.is_empty());
        let members = members
            .map(|member| check_name(member, at).map(str::to_owned))
            .collect::<Result<_>>()?;
        groups.push(Group {
            name: name.to_owned(),
            gid: check_id(gid, at)?,
            members,
        });
    }
    Ok(groups)
}

/// Locks accounts without a password, and empties the day of the last change so that the build
/// day does not show.
pub(super) fn scrub(work: &mut Work<'_>) -> Result<()> {
    const PATH: &str = "etc/shadow";
    let Some(text) = work.read_text_optional(PATH)? else {
        return Ok(());
    };
    let mut out = String::new();
    for line in text.lines() {
        let mut fields: Vec<&str> = line.split(':').collect();
        if fields.len() < 3 {
            out.push_str(line);
            out.push('\n');
            continue;
        }
        if fields[1].is_empty() {
            fields[1] = "*";
        } else if !fields[1].starts_with(['*', '!']) {
            work.warn(format!(
                "user '{}' has a password in '/{PATH}'",
                fields[0].escape_default()
            ));
        }
        fields[2] = "";
        out.push_str(&fields.join(":"));
        out.push('\n');
    }
    if out != text {
        work.rewrite(PATH, out.as_bytes())?;
    }
    Ok(())
}

/// Writes a sysusers.d entry for every account whose id the packages' own entries don't fix, so
/// that machines which have an older `/etc/passwd` get new accounts with the image's ids.
pub(super) fn write_sysusers(work: &mut Work<'_>) -> Result<()> {
    let accounts = Accounts::load(&work.tree, work.content)?;
    let entries = sysusers::entries_of(&work.tree, work.content)?;
    let given = sysusers::Fixed::new(&entries);
    let mut lines = Vec::new();
    for group in &accounts.groups {
        if !given.has_group(&group.name, group.gid) {
            lines.push(format!("g {} {}", sysusers::quote(&group.name), group.gid));
            work.report.accounts.push(format!("group {}", group.name));
        }
    }
    for user in &accounts.users {
        if !given.has_user(&user.name, user.uid, user.gid) {
            lines.push(sysusers::user_line(user));
            work.report.accounts.push(format!("user {}", user.name));
        }
    }
    let known: BTreeMap<&str, u32> = accounts
        .users
        .iter()
        .map(|u| (u.name.as_str(), u.gid))
        .collect();
    for group in &accounts.groups {
        for member in &group.members {
            let primary = known.get(member.as_str()) == Some(&group.gid);
            if known.contains_key(member.as_str())
                && !primary
                && !given.has_member(member, &group.name)
            {
                lines.push(format!(
                    "m {} {}",
                    sysusers::quote(member),
                    sysusers::quote(&group.name)
                ));
            }
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    let text = format!(
        "# Accounts of this image with their fixed ids.\n{}\n",
        lines.join("\n")
    );
    work.write(SYSUSERS, 0o644, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn account_files_are_read() {
        let users = parse_passwd("root:x:0:0:root:/root:/bin/bash\n\n# c\n+::::::\n", "p").unwrap();
        assert_eq!(users.len(), 1);
        assert_eq!((users[0].uid, users[0].home.as_str()), (0, "/root"));
        let groups = parse_group("adm:x:4:a,b\nempty:x:5:\n", "g").unwrap();
        assert_eq!(groups[0].members, ["a", "b"]);
        assert!(groups[1].members.is_empty());
    }

    #[test]
    fn malformed_account_lines_name_file_and_line() {
        for (text, line) in [
            ("a:x:1:1::/\n", 1),
            ("ok:x:1:1:::\nb:x:-1:1:::\n", 2),
            ("a:x:4294967295:1:::\n", 1),
            ("a:x:99999999999:1:::\n", 1),
            (":x:1:1:::\n", 1),
            ("a b:x:1:1:::\n", 1),
            ("a:x:1:1:::\na:x:2:2:::\n", 2),
        ] {
            let error = parse_passwd(text, "/etc/passwd").unwrap_err().to_string();
            assert!(
                error.contains(&format!("'/etc/passwd' line {line}")),
                "{error}"
            );
        }
        assert!(parse_group("a:x:1\n", "g").is_err());
        assert!(parse_group("a:x:1:b c\n", "g").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[a-z:0-9,\\-+#\n ]{0,200}") {
            let _users = parse_passwd(&text, "p");
            let _groups = parse_group(&text, "g");
        }

        #[test]
        fn what_is_written_is_read_back(name in "[a-z_][a-z0-9_-]{0,20}", uid in 0..u32::MAX, gid in 0..u32::MAX, gecos in "[^:\n\r\u{85}\u{2028}\u{2029}\u{b}\u{c}]{0,20}") {
            let text = format!("{name}:x:{uid}:{gid}:{gecos}:/h:/s\n");
            let users = parse_passwd(&text, "p").unwrap();
            prop_assert_eq!(users, vec![User { name, uid, gid, gecos, home: "/h".into(), shell: "/s".into() }]);
        }
    }
}
