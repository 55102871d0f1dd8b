//! Fixed user and group ids.
//!
//! Scripts allocate ids in the order in which they run, so the same package can get another id in
//! the next compose, while files below `/usr` carry the number. A lock (previous commit, file or
//! lockfile) says which ids to keep. A run whose own ids agree with the lock is taken as it is;
//! only one that disagrees is repeated with the locked accounts made beforehand. So the result is
//! a function of packages and lock alone, and states cached without a lock can be used with one.

use std::fmt::Write as _;

use anyhow::Result;
use apt_ostree_model::{IdLock, Tree};

use crate::content::{self, Content};

/// What of `tree` disagrees with `lock`: an account with another id than locked, or an unlocked
/// account on a locked id. Empty: all is well.
///
/// # Errors
/// When an object can't be read.
pub fn disagreements(tree: &Tree, content: &dyn Content, lock: &IdLock) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for [name, _, uid, gid] in entries(&content::read_text(tree, content, "etc/passwd")?) {
        match lock.users.get(&name) {
            Some(account) if account.uid.to_string() != uid || account.gid.to_string() != gid => {
                found.push(format!(
                    "user '{name}' has {uid}:{gid}, locked {}:{}",
                    account.uid, account.gid
                ));
            }
            None if lock.users.values().any(|a| a.uid.to_string() == uid) => {
                found.push(format!("user '{name}' has the locked id {uid}"));
            }
            _ => {}
        }
    }
    for [name, _, gid] in entries(&content::read_text(tree, content, "etc/group")?) {
        match lock.groups.get(&name) {
            Some(locked) if locked.to_string() != gid => {
                found.push(format!("group '{name}' has {gid}, locked {locked}"));
            }
            None if lock.groups.values().any(|id| id.to_string() == gid) => {
                found.push(format!("group '{name}' has the locked id {gid}"));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The first fields of each line, as many as the caller names.
fn entries<const N: usize>(text: &str) -> Vec<[String; N]> {
    let lines = text
        .lines()
        .map(|line| line.split(':').map(str::to_owned).collect::<Vec<_>>());
    lines
        .filter_map(|fields| {
            fields
                .into_iter()
                .take(N)
                .collect::<Vec<_>>()
                .try_into()
                .ok()
        })
        .collect()
}

/// Adds the accounts of `lock` that `tree` lacks, locked and without a home, so that scripts find
/// them and keep their ids.
///
/// # Errors
/// When an object can't be read or written.
pub fn precreate(tree: &mut Tree, content: &dyn Content, lock: &IdLock) -> Result<()> {
    let mut group = content::read_text(tree, content, "etc/group")?;
    let mut gshadow = content::read_text(tree, content, "etc/gshadow")?;
    let has_gshadow = tree.contains("etc/gshadow");
    for (name, gid) in &lock.groups {
        if !has_entry(&group, name) {
            let _ = writeln!(group, "{name}:x:{gid}:");
            let _ = writeln!(gshadow, "{name}:!::");
        }
    }
    let mut passwd = content::read_text(tree, content, "etc/passwd")?;
    let mut shadow = content::read_text(tree, content, "etc/shadow")?;
    let has_shadow = tree.contains("etc/shadow");
    for (name, account) in &lock.users {
        if !has_entry(&passwd, name) {
            let _ = writeln!(
                passwd,
                "{name}:x:{}:{}::/nonexistent:/usr/sbin/nologin",
                account.uid, account.gid
            );
            let _ = writeln!(shadow, "{name}:!*:::::::");
        }
    }
    rewrite(tree, content, "etc/group", &group)?;
    rewrite(tree, content, "etc/passwd", &passwd)?;
    if has_gshadow {
        rewrite(tree, content, "etc/gshadow", &gshadow)?;
    }
    if has_shadow {
        rewrite(tree, content, "etc/shadow", &shadow)?;
    }
    Ok(())
}

/// Removes the accounts from `tree` that `known`, another state of it, lacks.
///
/// # Errors
/// When an object can't be read or written.
pub fn keep_known(tree: &mut Tree, content: &dyn Content, known: &Tree) -> Result<()> {
    for (files, master) in [
        (["etc/passwd", "etc/shadow"], "etc/passwd"),
        (["etc/group", "etc/gshadow"], "etc/group"),
    ] {
        let names = content::read_text(known, content, master)?;
        for path in files {
            if !tree.contains(path) {
                continue;
            }
            let text = content::read_text(tree, content, path)?;
            let kept: String = text
                .split_inclusive('\n')
                .filter(|line| has_entry(&names, line.split(':').next().unwrap_or_default()))
                .collect();
            if kept != text {
                rewrite(tree, content, path, &kept)?;
            }
        }
    }
    Ok(())
}

fn has_entry(text: &str, name: &str) -> bool {
    text.lines()
        .any(|line| line.split(':').next() == Some(name))
}

/// Writes a file again under the owner and mode it has.
fn rewrite(tree: &mut Tree, content: &dyn Content, path: &str, text: &str) -> Result<()> {
    let Some(meta) = tree.file(path).map(|f| f.meta.clone()) else {
        return content::write(tree, content, path, 0o644, text.as_bytes());
    };
    let file = content.put_file(&meta, text.as_bytes())?;
    tree.insert(path, apt_ostree_model::Node::File(file))?;
    Ok(())
}
