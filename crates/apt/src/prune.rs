//! What stays of the state directory and of the downloaded packages.
//!
//! A session prunes its state directory while it holds the lock, after it has noted all that it
//! uses itself; one that waits for the lock uses nothing yet. Downloaded packages are used for
//! longer than a lock should be held: they are noted as used before, and what was used today is
//! safe.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use apt_ostree_fsx::prune::{Cached, Limits, Pruned, cached_files, excess, prune_files, touch};
use apt_ostree_fsx::{Lock, LockMode, Wait};
use apt_ostree_model::ErrorKind;
use camino::{Utf8Path, Utf8PathBuf};

use crate::aptconf::Layout;
use crate::refresh;
use crate::sources::Sources;

/// Of the state directory.
#[derive(Debug, Clone, Copy)]
struct StateLimits {
    lists: Limits,
    plans: Limits,
    keyrings: Limits,
    local: Limits,
}

const STATE: StateLimits = StateLimits {
    lists: Limits::new(4 << 30),
    plans: Limits::new(256 << 20),
    keyrings: Limits::new(64 << 20),
    local: Limits::new(256 << 20),
};

/// Downloads that nobody went on with.
const UNFINISHED: Limits = Limits::unused_for(Duration::from_secs(7 * 24 * 60 * 60));

/// Removes what no session has used for long from the state directory. The caller holds its lock.
pub(crate) fn state(layout: &Layout, sources: &Sources) -> Result<Pruned> {
    state_within(layout, sources, &STATE)
}

fn state_within(layout: &Layout, sources: &Sources, limits: &StateLimits) -> Result<Pruned> {
    let root = &layout.root;
    let files = |dir: Utf8PathBuf, limits: &Limits| {
        prune_files(&dir, limits, |name| name != "lock").with_context(|| format!("pruning '{dir}'"))
    };
    for keyring in sources.list.iter().flat_map(|source| &source.signed_by) {
        touch(keyring).with_context(|| format!("noting the use of '{keyring}'"))?;
    }
    let mut pruned = lists(layout, sources, &limits.lists)?;
    for dir in ["lists/partial", "lists/auxfiles"] {
        pruned += files(root.join(dir), &UNFINISHED)?;
    }
    for dir in ["", "etc", "local"] {
        let dir = root.join(dir);
        pruned += prune_files(&dir, &UNFINISHED, apt_ostree_fsx::is_temporary)
            .with_context(|| format!("pruning '{dir}'"))?;
    }
    pruned += files(layout.plans(), &limits.plans)?;
    pruned += files(root.join("keyrings"), &limits.keyrings)?;
    pruned += generated(&root.join("local"), sources, &limits.local)?;
    Ok(pruned)
}

/// Prunes apt's lists; those of one source go together. Only the lists of this session's sources
/// are sure to be used.
fn lists(layout: &Layout, sources: &Sources, limits: &Limits) -> Result<Pruned> {
    let dir = layout.lists();
    let failed = || format!("pruning '{dir}'");
    let files = cached_files(&dir, |name| name != "lock").with_context(failed)?;
    let mut prefixes: BTreeSet<String> = sources.list.iter().map(|s| s.list_prefix()).collect();
    let current = prefixes.clone();
    for file in &files {
        let name = file.item.file_name().unwrap_or_default();
        let prefix = ["InRelease", "Release"]
            .iter()
            .find_map(|end| name.strip_suffix(end));
        prefixes.extend(prefix.map(str::to_owned));
    }
    let mut groups: BTreeMap<String, Cached<(String, Vec<Utf8PathBuf>)>> = BTreeMap::new();
    for file in files {
        let name = file.item.file_name().unwrap_or_default();
        let starts = |prefix: &&String| name.starts_with(prefix.as_str());
        let longest = prefixes.iter().filter(starts).max_by_key(|p| p.len());
        let group = longest.map_or(name, String::as_str).to_owned();
        let mut used = file.used;
        if current.contains(&group) {
            touch(&file.item).with_context(failed)?;
            used = SystemTime::now();
        }
        let group = groups.entry(group.clone()).or_insert_with(|| Cached {
            item: (group, Vec::new()),
            used,
            bytes: 0,
        });
        group.used = group.used.max(used);
        group.bytes += file.bytes;
        group.item.1.push(file.item);
    }
    let mut left: BTreeSet<String> = groups.keys().cloned().collect();
    let mut pruned = Pruned::default();
    for group in excess(groups.into_values().collect(), limits) {
        let (prefix, mut files) = group.item;
        // The Release file first: lists without one are not taken for verified.
        files.sort_by_key(|file| !file.as_str().ends_with("Release"));
        for file in files {
            std::fs::remove_file(&file).with_context(failed)?;
        }
        left.remove(&prefix);
        pruned.add(group.bytes);
    }
    refresh::forget_all_but(layout, &left)?;
    Ok(pruned)
}

/// Prunes what was made of directories of packages.
fn generated(local: &Utf8Path, sources: &Sources, limits: &Limits) -> Result<Pruned> {
    let failed = || format!("pruning '{local}'");
    let current: BTreeSet<String> = sources
        .list
        .iter()
        .filter(|source| source.generated)
        .map(|source| format!("repo-{}", source.repo))
        .collect();
    let mut memories = cached_files(local, |name| {
        name.starts_with("repo-") && name.ends_with(".json")
    })
    .with_context(failed)?;
    for memory in &mut memories {
        if memory
            .item
            .file_stem()
            .is_some_and(|name| current.contains(name))
        {
            touch(&memory.item).with_context(failed)?;
            memory.used = SystemTime::now();
        }
    }
    let mut pruned = Pruned::default();
    for memory in excess(memories, limits) {
        let dir = memory.item.with_extension("");
        // The directory first: without a memory nothing would find it again.
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing '{dir}'"));
            }
            _ => {}
        }
        std::fs::remove_file(&memory.item).with_context(failed)?;
        pruned.add(memory.bytes);
    }
    Ok(pruned)
}

/// The lock of those who look which packages are there, and of who removes some.
pub(crate) fn lock_debs(debs_dir: &Utf8Path, mode: LockMode, wait: Wait) -> Result<Lock> {
    Ok(Lock::acquire(&debs_dir.join(".use"), mode, wait)?)
}

/// Removes the downloaded packages in `debs_dir` that the limits don't leave room for, and
/// downloads that nobody went on with for a week. Does nothing while another process is at the
/// same work.
///
/// # Errors
/// When a file can't be removed.
pub fn prune_debs(debs_dir: &Utf8Path, limits: &Limits) -> Result<Pruned> {
    debs_within(debs_dir, limits, &UNFINISHED)
}

fn debs_within(debs_dir: &Utf8Path, limits: &Limits, unfinished: &Limits) -> Result<Pruned> {
    let failed = || format!("pruning '{debs_dir}'");
    let mut pruned = Pruned::default();
    if !debs_dir.is_dir() {
        return Ok(pruned);
    }
    if let Some(_lock) = free(lock_debs(debs_dir, LockMode::Exclusive, Wait::No))? {
        pruned +=
            prune_files(debs_dir, limits, |name| !name.starts_with('.')).with_context(failed)?;
    }
    let downloading = Lock::acquire(&debs_dir.join(".lock"), LockMode::Exclusive, Wait::No);
    if let Some(_lock) = free(downloading.map_err(Into::into))? {
        pruned +=
            prune_files(&debs_dir.join(".partial"), unfinished, |_| true).with_context(failed)?;
    }
    Ok(pruned)
}

/// The lock unless someone else has it.
fn free(lock: Result<Lock>) -> Result<Option<Lock>> {
    match lock {
        Ok(lock) => Ok(Some(lock)),
        Err(error) => match error.downcast_ref::<apt_ostree_model::Kinded>() {
            Some(kinded) if kinded.kind == ErrorKind::Busy => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sources::Source;

    /// What fits, and not a byte more; nothing is safe.
    const fn exactly(bytes: u64) -> Limits {
        Limits {
            age: Duration::MAX,
            bytes,
            fresh: Duration::ZERO,
        }
    }

    fn all(limits: Limits) -> StateLimits {
        StateLimits {
            lists: limits,
            plans: limits,
            keyrings: limits,
            local: limits,
        }
    }

    fn scratch() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap().join("state");
        (dir, Layout::create(&root, None).unwrap())
    }

    /// Files of one block each, made one after the other.
    fn write(dir: &Utf8Path, names: &[&str]) {
        for name in names {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }

    const BLOCK: u64 = 4096;

    fn source(suite: &str) -> Source {
        Source {
            repo: suite.to_owned(),
            uri: "http://x/".to_owned(),
            suite: suite.to_owned(),
            components: vec!["main".to_owned()],
            archs: vec!["amd64".to_owned()],
            extra_archs: Vec::new(),
            signed_by: Vec::new(),
            trusted: false,
            check_valid_until: true,
            generated: false,
        }
    }

    fn sources(list: Vec<Source>) -> Sources {
        Sources {
            list,
            debs: Vec::new(),
            foreign: Vec::new(),
            image: Vec::new(),
        }
    }

    fn names(dir: &Utf8Path) -> Vec<String> {
        let entries = dir.read_dir_utf8().unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_owned())
            .collect();
        names.sort();
        names
    }

    /// The lists of a suite.
    fn lists_of(suite: &str) -> [String; 2] {
        let source = source(suite);
        let [release, _] = source.release_lists();
        [release, source.indices()[0].list.clone()]
    }

    fn fetch(layout: &Layout, suite: &str) {
        write(
            &layout.lists(),
            &lists_of(suite).each_ref().map(String::as_str),
        );
    }

    /// The suites that still have lists, which are whole then.
    fn fetched(layout: &Layout, suites: &[&'static str]) -> Vec<&'static str> {
        let whole = |suite: &&&'static str| {
            let there = lists_of(suite).map(|name| layout.lists().join(name).exists());
            assert_eq!(there[0], there[1], "{suite}");
            there[0]
        };
        suites.iter().filter(whole).copied().collect()
    }

    #[test]
    fn lists_of_one_source_go_together_and_those_in_use_stay() {
        let (_guard, layout) = scratch();
        let suites = ["one", "two", "two/updates", "three"];
        for suite in suites {
            fetch(&layout, suite);
        }
        write(
            &layout.lists(),
            &["lock", "partial/x", "http_without_release"],
        );
        let current = sources(vec![source("one")]);
        let prune = |bytes| state_within(&layout, &current, &all(exactly(bytes))).unwrap();
        assert_eq!(prune(9 * BLOCK), Pruned::default());
        assert_eq!(prune(8 * BLOCK).count, 1);
        assert_eq!(fetched(&layout, &suites), ["one", "two/updates", "three"]);
        assert_eq!(prune(4 * BLOCK).count, 2);
        assert_eq!(fetched(&layout, &suites), ["one"]);
        let mut left = names(&layout.lists());
        left.retain(|name| !name.starts_with("x_"));
        assert_eq!(left, ["http_without_release", "lock", "partial"]);
        assert!(layout.lists().join("partial/x").exists());
        // With ordinary limits, what this session uses stays even when it is too much.
        let limits = all(Limits::new(0));
        state_within(&layout, &current, &limits).unwrap();
        assert_eq!(fetched(&layout, &suites), ["one"]);
    }

    #[test]
    fn releases_without_lists_are_no_longer_verified() {
        let (_guard, layout) = scratch();
        fetch(&layout, "one");
        fetch(&layout, "two");
        let entry = |suite: &str| {
            format!(
                r#""{suite}": {{"sha256": "{}", "lists": "{}"}}"#,
                "0".repeat(64),
                source(suite).list_prefix()
            )
        };
        let text = format!("{{{}, {}}}", entry("one"), entry("two"));
        fs::write(layout.verified(), &text).unwrap();
        let current = sources(vec![source("two")]);
        let prune = |bytes| state_within(&layout, &current, &all(exactly(bytes))).unwrap();
        let verified = || fs::read_to_string(layout.verified()).unwrap();
        prune(4 * BLOCK);
        assert!(verified().contains("\"one\"") && verified().contains("\"two\""));
        prune(2 * BLOCK);
        assert!(!verified().contains("\"one\"") && verified().contains("\"two\""));
    }

    #[test]
    fn plans_and_keyrings_that_were_used_last_stay() {
        let (_guard, layout) = scratch();
        let keyrings = layout.root.join("keyrings");
        for name in ["a", "b", "c"] {
            write(&layout.plans(), &[name]);
            write(&keyrings, &[name]);
        }
        touch(&layout.plans().join("a")).unwrap();
        let mut current = source("one");
        current.signed_by.push(keyrings.join("a"));
        let current = sources(vec![current]);
        state_within(&layout, &current, &all(exactly(2 * BLOCK))).unwrap();
        assert_eq!(names(&layout.plans()), ["a", "c"]);
        assert_eq!(names(&keyrings), ["a", "c"]);
    }

    #[test]
    fn what_was_made_of_a_directory_goes_with_its_memory() {
        let (_guard, layout) = scratch();
        let local = layout.root.join("local");
        for name in ["a", "b.c", "d"] {
            let memory = format!("repo-{name}.json");
            write(&local, &[&memory, &format!("repo-{name}/digest/Packages")]);
        }
        write(&local, &["packages.json", "lock/digest/Packages"]);
        let mut current = source("a");
        current.generated = true;
        let current = sources(vec![current]);
        state_within(&layout, &current, &all(exactly(2 * BLOCK))).unwrap();
        let left = [
            "lock",
            "packages.json",
            "repo-a",
            "repo-a.json",
            "repo-d",
            "repo-d.json",
        ];
        assert_eq!(names(&local), left);
    }

    #[test]
    fn packages_that_were_used_last_stay() {
        let (_guard, layout) = scratch();
        let debs = layout.root.join("debs");
        for name in ["a.deb", "b.deb", "c.deb", ".partial/x", ".lock"] {
            write(&debs, &[name]);
        }
        touch(&debs.join("a.deb")).unwrap();
        assert_eq!(prune_debs(&debs, &Limits::new(0)).unwrap().count, 0);
        assert_eq!(prune_debs(&debs, &exactly(2 * BLOCK)).unwrap().count, 1);
        assert_eq!(
            names(&debs),
            [".lock", ".partial", ".use", "a.deb", "c.deb"]
        );
        assert_eq!(names(&debs.join(".partial")), ["x"]);
        let none = exactly(u64::MAX);
        assert_eq!(debs_within(&debs, &none, &exactly(0)).unwrap().count, 1);
        assert_eq!(names(&debs.join(".partial")), [""; 0]);
    }

    #[test]
    fn packages_stay_while_someone_looks_and_downloads_while_someone_fetches() {
        let (_guard, layout) = scratch();
        let debs = layout.root.join("debs");
        write(&debs, &["a.deb", ".partial/x"]);
        let prune = || debs_within(&debs, &exactly(0), &exactly(0)).unwrap().count;
        let looking = lock_debs(&debs, LockMode::Shared, Wait::No).unwrap();
        let path = debs.join(".lock");
        let fetching = Lock::acquire(&path, LockMode::Exclusive, Wait::No).unwrap();
        assert_eq!(prune(), 0);
        drop(looking);
        assert_eq!(prune(), 1);
        assert_eq!(names(&debs), [".lock", ".partial", ".use"]);
        drop(fetching);
        assert_eq!(prune(), 1);
        assert_eq!(prune_debs(&debs.join("x"), &exactly(0)).unwrap().count, 0);
    }
}
