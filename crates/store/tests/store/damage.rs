use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use apt_ostree_model::{ContentReader as _, ContentWriter as _, ErrorKind, Kinded, Meta, Tree};
use apt_ostree_store::{CommitRequest, DamagedObject, TargetRepo};
use camino::Utf8Path;

use crate::support::{Fixture, run};

type Damage = fn(&Utf8Path);

fn flip(path: &Utf8Path) {
    use std::os::unix::fs::FileExt as _;
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .write_at(b"X", 0)
        .unwrap();
}

fn truncate(path: &Utf8Path) {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(1)
        .unwrap();
}

fn delete(path: &Utf8Path) {
    fs::remove_file(path).unwrap();
}

fn chmod(path: &Utf8Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}

const KINDS: [(&str, Damage); 4] = [
    ("flip", flip),
    ("truncate", truncate),
    ("delete", delete),
    ("chmod", chmod),
];

fn damaged(kind: Damage) -> (Fixture, Tree) {
    let fixture = Fixture::new();
    let mut tree = Tree::default();
    fixture.put(&mut tree, "a", 0o644, "content");
    fixture.put(&mut tree, "b", 0o644, "other");
    fixture.cache.save_tree("with a", &tree).unwrap();
    let mut without = tree.clone();
    without.remove("a");
    fixture.cache.save_tree("without a", &without).unwrap();
    kind(&fixture.object(&tree, "a"));
    (fixture, tree)
}

#[test]
fn damaged_objects_are_never_checked_out() {
    for (name, kind) in KINDS {
        let (fixture, tree) = damaged(kind);
        let error = fixture
            .cache
            .checkout(&tree, &fixture.path("out"))
            .unwrap_err();
        let damage = error
            .downcast_ref::<DamagedObject>()
            .unwrap_or_else(|| panic!("{name}: {error:#}"));
        assert_eq!(damage.checksum, tree.file("a").unwrap().checksum, "{name}");
        assert_eq!(damage.dropped, ["aptostree/tree/with_20a"], "{name}");
        let kinded = error.downcast_ref::<Kinded>().unwrap();
        assert_eq!(
            (kinded.kind, kinded.hint.is_some()),
            (ErrorKind::Storage, true),
            "{name}"
        );
        assert!(!fixture.object(&tree, "a").exists(), "{name}");
        assert_eq!(fixture.cache.load_tree("with a").unwrap(), None, "{name}");
        assert!(
            fixture.cache.load_tree("without a").unwrap().is_some(),
            "{name}"
        );
    }
}

#[test]
fn damaged_objects_are_never_committed() {
    for (name, kind) in KINDS {
        let (fixture, tree) = damaged(kind);
        let target = TargetRepo::open_or_create(&fixture.path("target")).unwrap();
        let meta = CommitRequest::default();
        let error = fixture.cache.commit(&tree, &meta, &target).unwrap_err();
        assert!(
            error.downcast_ref::<DamagedObject>().is_some(),
            "{name}: {error:#}"
        );
        let objects = run(
            "find",
            &[target.path().join("objects").as_str(), "-type", "f"],
        );
        assert!(!objects.contains(".commit"), "{name}: {objects}");
    }
}

#[test]
fn storing_a_damaged_object_again_repairs_it() {
    for (name, kind) in KINDS {
        let (fixture, tree) = damaged(kind);
        let file = fixture
            .cache
            .put_file(&Meta::root(0o644), b"content")
            .unwrap();
        assert_eq!(fixture.cache.read(&file).unwrap(), b"content", "{name}");
        fixture.cache.checkout(&tree, &fixture.path("out")).unwrap();
        fixture.fsck();
    }
}

#[test]
fn an_object_that_was_only_touched_is_good() {
    let (fixture, tree) = damaged(|path| {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_modified(std::time::SystemTime::now()).unwrap();
    });
    fixture.cache.checkout(&tree, &fixture.path("out")).unwrap();
    assert_eq!(fs::metadata(fixture.object(&tree, "a")).unwrap().mtime(), 0);
}

#[test]
fn a_manifest_or_ref_that_is_garbage_counts_as_missing() {
    let fixture = Fixture::new();
    let mut tree = Tree::default();
    fixture.put(&mut tree, "a", 0o644, "content");
    let name = fixture.cache.path().join("refs/heads/aptostree/tree/k");
    for garbage in ["", "garbage", &"0".repeat(64)] {
        fixture.cache.save_tree("k", &tree).unwrap();
        fs::write(&name, garbage).unwrap();
        assert_eq!(fixture.cache.load_tree("k").unwrap(), None, "{garbage}");
        assert!(!name.exists(), "{garbage}");
    }
    fixture.cache.save_tree("k", &tree).unwrap();
    let objects = fixture.cache.path().join("objects");
    for dir in objects.read_dir_utf8().unwrap() {
        for object in dir.unwrap().path().read_dir_utf8().unwrap() {
            let object = object.unwrap().into_path();
            let data = fs::read(&object).unwrap();
            if data.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
                truncate(&object);
            }
        }
    }
    assert_eq!(fixture.cache.load_tree("k").unwrap(), None);
    fixture.cache.save_tree("k", &tree).unwrap();
    assert_eq!(fixture.cache.load_tree("k").unwrap(), Some(tree));
}
