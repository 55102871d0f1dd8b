//! Properties of reading packages that were changed at random.

use std::collections::{BTreeMap, BTreeSet};

use apt_ostree_deb::{EntryKind, Limits};
use proptest::prelude::*;

use crate::builder::*;

/// What holds for every package that is accepted.
pub(crate) fn assert_sound(sink: &Collect) {
    let mut kinds: BTreeMap<&str, &EntryKind> = BTreeMap::new();
    for (entry, content) in &sink.entries {
        let path = entry.path.as_str();
        let clean = |p: &str| p.split('/').all(|c| !matches!(c, "" | "." | ".."));
        assert!(path.is_empty() || clean(path), "{path:?}");
        assert!(!path.contains(char::is_control), "{path:?}");
        assert!(entry.mode <= 0o7777 && entry.uid < u32::MAX && entry.gid < u32::MAX);
        for (index, _) in path.match_indices('/') {
            let parent = kinds.get(&path[..index]);
            assert!(parent.is_none_or(|k| **k == EntryKind::Dir), "{path:?}");
        }
        match &entry.kind {
            EntryKind::File { size } => assert_eq!(*size, content.len() as u64),
            EntryKind::Hardlink { target } => {
                let known = kinds.get(target.as_str());
                let file = |k: &EntryKind| {
                    matches!(k, EntryKind::File { .. } | EntryKind::Hardlink { .. })
                };
                assert!(known.is_some_and(|k| file(k)), "{target:?}");
            }
            EntryKind::Dir | EntryKind::Symlink { .. } => assert!(content.is_empty()),
        }
        assert!(kinds.insert(path, &entry.kind).is_none(), "{path:?} twice");
    }
    let files: BTreeSet<_> = kinds
        .iter()
        .filter(|(_, k)| ***k != EntryKind::Dir)
        .map(|(p, _)| *p)
        .collect();
    for path in kinds.keys() {
        for (index, _) in path.match_indices('/') {
            assert!(!files.contains(&path[..index]), "{path:?}");
        }
    }
}

/// Limits that keep a case short.
pub(crate) fn small() -> Limits {
    Limits {
        max_total_size: 4 << 20,
        max_decoder_memory: 16 << 20,
        ..Limits::default()
    }
}

/// One change of a file: flip a bit, overwrite, cut out, or copy a piece elsewhere.
#[derive(Debug, Clone)]
enum Change {
    Flip(usize, u8),
    Set(usize, Vec<u8>),
    Cut(usize, usize),
    Copy(usize, usize, usize),
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    let len = bytes.len();
    match change {
        Change::Flip(at, bit) => bytes[at % len] ^= 1 << (bit % 8),
        Change::Set(at, with) => {
            for (offset, byte) in with.iter().enumerate() {
                bytes[(at + offset) % len] = *byte;
            }
        }
        Change::Cut(at, count) => {
            let at = at % len;
            bytes.drain(at..(at + count).min(len));
        }
        Change::Copy(from, to, count) => {
            let from = from % len;
            let piece = bytes[from..(from + count).min(len)].to_vec();
            let to = to % len;
            bytes.splice(to..to, piece);
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<u16>().prop_map(usize::from);
    prop_oneof![
        (at.clone(), any::<u8>()).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (at.clone(), prop::collection::vec(any::<u8>(), 1..16))
            .prop_map(|(at, with)| Change::Set(at, with)),
        (at.clone(), 1..2000usize).prop_map(|(at, count)| Change::Cut(at, count)),
        (at.clone(), at, 1..2000usize).prop_map(|(from, to, count)| Change::Copy(from, to, count)),
    ]
}

/// Names that touch each other, so that collisions and nesting happen.
fn entry() -> impl Strategy<Value = TarEntry> {
    let name = "(\\./)?[ab.]{1,2}(/[ab.]{1,2}){0,2}/?";
    (name, 0..5u8, name, 0..0o10000u32).prop_map(|(name, kind, target, mode)| match kind {
        0 | 1 => dir(name).mode(mode),
        2 => file(name, target).mode(mode),
        3 => symlink(name, target),
        _ => hardlink(name, target),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn changed_packages_never_break_the_rules(
        ending in prop::sample::select(vec!["", "", ".gz", ".xz", ".zst"]),
        changes in prop::collection::vec(change(), 1..5),
    ) {
        let mut bytes = good(ending);
        for change in &changes {
            apply(&mut bytes, change);
        }
        if let Ok((sink, _)) = read_with(&bytes, small()) {
            assert_sound(&sink);
        }
    }

    #[test]
    fn random_entries_never_break_the_rules(entries in prop::collection::vec(entry(), 0..12)) {
        if let Ok((sink, summary)) = read(&with_data(&entries)) {
            assert_sound(&sink);
            prop_assert_eq!(summary.entries, sink.entries.len() as u64);
        }
    }

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(read(&bytes).is_err());
    }

    #[test]
    fn random_control_files_never_panic(text in "([A-Za-z-]{1,8}:? ?[ -~\n\t\u{e9}]{0,20}\n){0,8}") {
        let text = format!("{CONTROL}{text}");
        if let Ok(reader) = open(&with_control(&text)) {
            prop_assert_eq!(reader.control().package().as_str(), "demo");
        }
    }

    #[test]
    fn random_relations_never_panic(value in "[a-c1:.,|()<>= \n\u{e9}]{0,30}") {
        let verdict = apt_ostree_deb::check_relations("Depends", &value);
        let provides = apt_ostree_deb::check_relations("Provides", &value);
        prop_assert!(verdict.is_ok() || provides.is_err(), "{}", value);
    }
}
