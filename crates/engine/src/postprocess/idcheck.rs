//! Comparison of ids with those of an earlier tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use anyhow::Result;
use apt_ostree_model::{ErrorKind, IdLock, Kinded};
use apt_ostree_treefile::spec::{IdCheck, IdSpec};
use serde::Serialize;

/// Accounts that came or went without being an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct IdChanges {
    /// Users that the earlier tree lacks.
    pub new_users: Vec<String>,
    /// Groups that the earlier tree lacks.
    pub new_groups: Vec<String>,
    /// Users that vanished and may.
    pub removed_users: Vec<String>,
    /// Groups that vanished and may.
    pub removed_groups: Vec<String>,
}

/// Compares the ids of a tree with those that the treefile demands: the previous commit's or
/// fixed ones. Without a previous commit there is nothing to compare with.
///
/// # Errors
/// Names every user and group whose id changed, or that vanished although the treefile does not
/// allow it.
pub fn check_ids(spec: &IdSpec, previous: Option<&IdLock>, new: &IdLock) -> Result<IdChanges> {
    let mut faults = Vec::new();
    let mut changes = IdChanges::default();
    if let Some(old) = reference(&spec.check_passwd, previous) {
        let show = |a: &apt_ostree_model::Account| format!("{}:{}", a.uid, a.gid);
        let old = old
            .users
            .iter()
            .map(|(n, a)| (n.as_str(), show(a)))
            .collect();
        let new = new
            .users
            .iter()
            .map(|(n, a)| (n.as_str(), show(a)))
            .collect();
        let compared = compare("user", &old, &new, &spec.ignore_removed_users);
        faults.extend(compared.faults);
        (changes.new_users, changes.removed_users) = (compared.added, compared.removed);
    }
    if let Some(old) = reference(&spec.check_groups, previous) {
        let old = old.groups.iter().map(|(n, g)| (n.as_str(), *g)).collect();
        let new = new.groups.iter().map(|(n, g)| (n.as_str(), *g)).collect();
        let compared = compare("group", &old, &new, &spec.ignore_removed_groups);
        faults.extend(compared.faults);
        (changes.new_groups, changes.removed_groups) = (compared.added, compared.removed);
    }
    if faults.is_empty() {
        return Ok(changes);
    }
    Err(Kinded::new(ErrorKind::InvalidInput, faults.join("; "))
        .with_hint(
            "keep the ids ('preserve-passwd'), or list accounts that may vanish in 'ignore-removed-users' and 'ignore-removed-groups'",
        )
        .into())
}

fn reference<'a>(check: &'a IdCheck, previous: Option<&'a IdLock>) -> Option<&'a IdLock> {
    match check {
        IdCheck::None => None,
        IdCheck::Previous => previous,
        IdCheck::Fixed(lock) => Some(lock),
    }
}

#[derive(Default)]
struct Compared {
    faults: Vec<String>,
    added: Vec<String>,
    removed: Vec<String>,
}

fn compare<T: PartialEq + Display>(
    what: &str,
    old: &BTreeMap<&str, T>,
    new: &BTreeMap<&str, T>,
    may_vanish: &BTreeSet<String>,
) -> Compared {
    let mut result = Compared::default();
    for (name, id) in old {
        match new.get(name) {
            Some(now) if now == id => {}
            Some(now) => result
                .faults
                .push(format!("{what} '{name}' changed its id from {id} to {now}")),
            None if may_vanish.contains("*") || may_vanish.contains(*name) => {
                result.removed.push((*name).to_owned());
            }
            None => result.faults.push(format!(
                "{what} '{name}' ({id}) is missing from the new tree"
            )),
        }
    }
    let added = new.keys().filter(|name| !old.contains_key(*name));
    result.added = added.map(|name| (*name).to_owned()).collect();
    result
}

#[cfg(test)]
mod tests {
    use apt_ostree_model::Account;

    use super::*;

    fn lock(users: &[(&str, u32)], groups: &[(&str, u32)]) -> IdLock {
        let account = |id| Account { uid: id, gid: id };
        IdLock {
            users: users
                .iter()
                .map(|(n, i)| ((*n).to_owned(), account(*i)))
                .collect(),
            groups: groups.iter().map(|(n, i)| ((*n).to_owned(), *i)).collect(),
        }
    }

    fn spec(check: &IdCheck, ignore: &[&str]) -> IdSpec {
        let ignore: BTreeSet<String> = ignore.iter().map(|s| (*s).to_owned()).collect();
        IdSpec {
            preserve: true,
            check_passwd: check.clone(),
            check_groups: check.clone(),
            ignore_removed_users: ignore.clone(),
            ignore_removed_groups: ignore,
        }
    }

    #[test]
    fn changed_and_vanished_ids_are_named_all_at_once() {
        let old = lock(&[("a", 1), ("b", 2)], &[("g", 5)]);
        let new = lock(&[("a", 9), ("c", 3)], &[("g", 6)]);
        let error = check_ids(&spec(&IdCheck::Previous, &[]), Some(&old), &new)
            .unwrap_err()
            .to_string();
        for part in [
            "user 'a' changed its id from 1:1 to 9:9",
            "user 'b' (2:2) is missing",
            "group 'g' changed its id from 5 to 6",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn accounts_may_vanish_when_the_treefile_says_so() {
        let old = lock(&[("a", 1), ("b", 2)], &[]);
        let new = lock(&[("a", 1), ("n", 7)], &[]);
        for ignore in ["b", "*"] {
            let changes =
                check_ids(&spec(&IdCheck::Previous, &[ignore]), Some(&old), &new).unwrap();
            assert_eq!(changes.removed_users, ["b"]);
            assert_eq!(changes.new_users, ["n"]);
        }
    }

    #[test]
    fn fixed_ids_count_instead_of_the_previous_ones() {
        let fixed = IdCheck::Fixed(lock(&[("a", 4)], &[]));
        let new = lock(&[("a", 1)], &[]);
        assert!(check_ids(&spec(&fixed, &[]), None, &new).is_err());
        assert!(
            check_ids(
                &spec(&IdCheck::None, &[]),
                Some(&lock(&[("a", 4)], &[])),
                &new
            )
            .is_ok()
        );
        assert!(check_ids(&spec(&IdCheck::Previous, &[]), None, &new).is_ok());
    }
}
