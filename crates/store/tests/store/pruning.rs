use std::time::{Duration, SystemTime};

use apt_ostree_fsx::prune::Limits;
use apt_ostree_model::{ContentReader as _, ErrorKind, Kinded, Tree};
use apt_ostree_store::CacheRepo;

use crate::support::{Fixture, run};

const ALL: Limits = Limits {
    age: Duration::ZERO,
    bytes: 0,
    fresh: Duration::ZERO,
};

/// Caches a tree with a file of its own and one that all trees have, last used `days` ago.
fn save(fixture: &Fixture, key: &str, days: u64) -> Tree {
    let mut tree = Tree::default();
    fixture.put(&mut tree, "own", 0o644, &key.repeat(1 << 20));
    fixture.put(&mut tree, "shared", 0o644, &"x".repeat(1 << 20));
    fixture.cache.save_tree(key, &tree).unwrap();
    let path = fixture
        .cache
        .path()
        .join("refs/heads/aptostree/tree")
        .join(key);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let used = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
    file.set_modified(used).unwrap();
    tree
}

/// Which of the keys still have a tree, with all its contents.
fn kept<'a>(fixture: &Fixture, keys: &[&'a str]) -> Vec<&'a str> {
    fixture.fsck();
    let whole = |key: &&&str| {
        let Some(tree) = fixture.cache.load_tree(key).unwrap() else {
            return false;
        };
        for path in ["own", "shared"] {
            fixture.cache.read(tree.file(path).unwrap()).unwrap();
        }
        true
    };
    keys.iter().filter(whole).copied().collect()
}

#[test]
fn trees_are_gone_after_pruning_with_their_objects() {
    let fixture = Fixture::new();
    let long = "k/".repeat(400);
    let mut tree = Tree::default();
    fixture.put(&mut tree, "x", 0o644, "x");
    for key in ["a key/with: specials", long.as_str()] {
        assert_eq!(fixture.cache.load_tree(key).unwrap(), None);
        fixture.cache.save_tree(key, &tree).unwrap();
        assert_eq!(fixture.cache.load_tree(key).unwrap().as_ref(), Some(&tree));
    }
    let kept = fixture.cache.prune(&Limits::new(u64::MAX)).unwrap();
    assert_eq!((kept.count, kept.bytes), (0, 0));
    let found = fixture.cache.load_tree(&long).unwrap();
    assert_eq!(found.as_ref(), Some(&tree));
    std::thread::sleep(Duration::from_millis(20));
    let pruned = fixture.cache.prune(&ALL).unwrap();
    assert_eq!(pruned.count, 2);
    assert!(pruned.bytes > 0);
    assert_eq!(fixture.cache.load_tree(&long).unwrap(), None);
    assert!(!fixture.object(&tree, "x").exists());
    fixture.fsck();
}

#[test]
fn trees_that_were_not_used_for_long_go() {
    let fixture = Fixture::new();
    for (key, days) in [("a", 100), ("b", 80), ("c", 0)] {
        save(&fixture, key, days);
    }
    let pruned = fixture.cache.prune(&Limits::new(u64::MAX)).unwrap();
    assert_eq!(pruned.count, 1);
    assert_eq!(kept(&fixture, &["a", "b", "c"]), ["b", "c"]);
}

#[test]
fn the_trees_that_were_used_last_stay_within_the_size() {
    let fixture = Fixture::new();
    for (key, days) in [("a", 4), ("b", 3), ("c", 2)] {
        save(&fixture, key, days);
    }
    // Loading it is a use.
    fixture.cache.load_tree("a").unwrap().unwrap();
    // Two trees of their own and the file of all, with some room for the small objects.
    let limits = Limits::new((3 << 20) + (1 << 19));
    assert_eq!(fixture.cache.prune(&limits).unwrap().count, 1);
    assert_eq!(kept(&fixture, &["a", "b", "c"]), ["a", "c"]);
}

#[test]
fn what_was_used_today_stays_although_it_is_too_much() {
    let fixture = Fixture::new();
    save(&fixture, "a", 0);
    let mut unneeded = Tree::default();
    fixture.put(&mut unneeded, "own", 0o644, "garbage");
    let pruned = fixture.cache.prune(&Limits::new(0)).unwrap();
    assert_eq!(pruned.count, 0);
    assert!(!fixture.object(&unneeded, "own").exists());
    assert_eq!(kept(&fixture, &["a"]), ["a"]);
}

#[test]
fn nothing_goes_while_someone_else_uses_the_cache() {
    let fixture = Fixture::new();
    save(&fixture, "a", 100);
    let other = CacheRepo::open(&fixture.path("cache")).unwrap();
    let error = fixture.cache.prune(&ALL).unwrap_err();
    let kind = error.downcast_ref::<Kinded>().unwrap().kind;
    assert_eq!(kind, ErrorKind::Busy);
    let found = other.load_tree("a").unwrap().unwrap();
    other.read(found.file("own").unwrap()).unwrap();
    drop(other);
    assert_eq!(fixture.cache.prune(&ALL).unwrap().count, 1);
}

#[test]
fn a_damaged_tree_does_not_keep_others_from_being_pruned() {
    let fixture = Fixture::new();
    for (key, days) in [("a", 100), ("b", 1), ("c", 1)] {
        save(&fixture, key, days);
    }
    let repo = format!("--repo={}", fixture.cache.path());
    let shown = run("ostree", &[&repo, "ls", "-Cd", "aptostree/tree/b", "/data"]);
    let (first, rest) = shown.split_whitespace().nth(4).unwrap().split_at(2);
    let objects = fixture.cache.path().join("objects");
    std::fs::remove_file(objects.join(first).join(format!("{rest}.dirtree"))).unwrap();
    fixture.cache.prune(&Limits::new(u64::MAX)).unwrap();
    assert_eq!(kept(&fixture, &["a", "b", "c"]), ["c"]);
}
