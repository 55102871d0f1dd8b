use std::os::unix::fs::MetadataExt as _;

use apt_ostree_model::{ContentReader as _, ContentWriter as _, Meta, Tree};
use apt_ostree_store::CacheRepo;
use proptest::prelude::*;

use crate::support::{Fixture, run, specs};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_scan_of_a_checkout_is_the_tree(specs in specs()) {
        let fixture = Fixture::new();
        let tree = fixture.build(&specs);
        fixture.cache.checkout(&tree, &fixture.path("out")).unwrap();
        prop_assert_eq!(fixture.cache.scan_dir(&fixture.path("out")).unwrap(), tree.clone());
        fixture.cache.checkout_copy(&tree, &fixture.path("copy")).unwrap();
        prop_assert_eq!(fixture.cache.scan_dir(&fixture.path("copy")).unwrap(), tree);
        let linked = run("find", &[fixture.path("copy").as_str(), "-type", "f", "-links", "+1"]);
        prop_assert_eq!(linked, "");
    }
}

#[test]
fn many_entries_are_linked_by_several_threads() {
    let fixture = Fixture::new();
    let mut tree = Tree::default();
    for number in 0..3000 {
        fixture.put(
            &mut tree,
            &format!("d{}/f{number}", number % 50),
            0o644,
            &format!("{}", number % 700),
        );
    }
    fixture.cache.checkout(&tree, &fixture.path("out")).unwrap();
    assert_eq!(fixture.cache.scan_dir(&fixture.path("out")).unwrap(), tree);
    let linked = std::fs::metadata(fixture.path("out/d0/f0")).unwrap();
    assert_eq!(
        linked.ino(),
        std::fs::metadata(fixture.object(&tree, "d0/f0"))
            .unwrap()
            .ino()
    );
}

#[test]
fn equal_files_of_etc_and_var_are_files_of_their_own() {
    let fixture = Fixture::new();
    let mut tree = Tree::default();
    let (own, linked) = (
        ["etc/a", "etc/d/b", "var/lib/x", "var/lib/y"],
        ["usr/a", "usr/b", "var/lib/dpkg/info/a.list"],
    );
    for path in own.iter().chain(&linked) {
        fixture.put(&mut tree, path, 0o644, "same");
    }
    fixture.cache.checkout(&tree, &fixture.path("out")).unwrap();
    fixture
        .cache
        .checkout_diff(&Tree::default(), &tree, &fixture.path("diff"))
        .unwrap();
    for layer in ["out", "diff"] {
        let stat = |path: &str| std::fs::metadata(fixture.path(layer).join(path)).unwrap();
        assert!(own.iter().all(|path| stat(path).nlink() == 1), "{layer}");
        assert!(
            linked
                .iter()
                .all(|path| stat(path).ino() == stat(linked[0]).ino()),
            "{layer}"
        );
    }
}

#[test]
fn empty_files_are_not_links_and_times_are_whole() {
    let fixture = Fixture::new();
    let mut tree = Tree::default();
    fixture.put(&mut tree, "a/empty", 0o640, "");
    fixture.put(&mut tree, "a/full", 0o640, "x");
    fixture.cache.checkout(&tree, &fixture.path("out")).unwrap();
    let stat = |path: &str| std::fs::metadata(fixture.path(path)).unwrap();
    assert_eq!(stat("out/a/empty").nlink(), 1);
    for path in ["out", "out/a", "out/a/empty", "out/a/full"] {
        assert_eq!(
            (stat(path).mtime(), stat(path).mtime_nsec()),
            (0, 0),
            "{path}"
        );
    }
    apt_ostree_store::set_directory_times(&fixture.path("out"), 1_700_000_000).unwrap();
    assert_eq!(
        (stat("out/a").mtime(), stat("out/a").mtime_nsec()),
        (1_700_000_000, 0)
    );
    assert_eq!(stat("out/a/full").mtime(), 0);
}

#[test]
fn more_names_than_an_inode_can_have_become_copies() {
    let fixture = Fixture::new();
    let mut tree = Tree::default();
    fixture.put(&mut tree, "d0/f", 0o644, "same");
    fixture.link(&mut tree, "d0/l", "f");
    let dir = tree.dir("d0").unwrap().clone();
    let (file, link) = (dir.entries["f"].clone(), dir.entries["l"].clone());
    for number in 0..33_000 {
        let dir = tree.dir_mut("d0").unwrap();
        for half in ["x", "y"] {
            dir.entries.insert(format!("f{half}{number}"), file.clone());
            dir.entries.insert(format!("l{half}{number}"), link.clone());
        }
    }
    fixture.cache.checkout(&tree, &fixture.path("out")).unwrap();
    assert_eq!(fixture.cache.scan_dir(&fixture.path("out")).unwrap(), tree);
}

#[test]
fn an_occupied_destination_is_refused() {
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.path("out/x")).unwrap();
    let error = fixture
        .cache
        .checkout(&Tree::default(), &fixture.path("out"))
        .unwrap_err();
    assert!(format!("{error:#}").contains("not empty"), "{error:#}");
}

#[test]
fn a_scan_follows_no_link_and_crosses_no_mount() {
    let fixture = Fixture::new();
    let dir = fixture.path("root");
    std::fs::create_dir_all(dir.join("mnt")).unwrap();
    std::os::unix::fs::symlink("/etc", dir.join("escape")).unwrap();
    run("mkfifo", &[dir.join("pipe").as_str()]);
    run("mount", &["-t", "tmpfs", "tmpfs", dir.join("mnt").as_str()]);
    std::fs::write(dir.join("mnt/secret"), "x").unwrap();
    let result = fixture.cache.scan_dir_reporting(&dir);
    run("umount", &[dir.join("mnt").as_str()]);
    let (tree, report) = result.unwrap();
    assert_eq!(
        tree.get("escape").unwrap().as_symlink().unwrap().target,
        "/etc"
    );
    assert!(tree.dir("mnt").unwrap().entries.is_empty());
    assert_eq!(
        (report.mounts, report.dropped),
        (vec!["mnt".to_owned()], vec!["pipe".to_owned()])
    );
    assert!(!tree.contains("pipe"));
}

#[test]
fn device_nodes_and_foreign_names_are_errors() {
    use std::os::unix::ffi::OsStrExt as _;
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.path("a")).unwrap();
    run("mknod", &[fixture.path("a/null").as_str(), "c", "1", "3"]);
    let error = fixture.cache.scan_dir(&fixture.path("a")).unwrap_err();
    assert!(
        format!("{error:#}").contains("device node '/null'"),
        "{error:#}"
    );
    std::fs::create_dir(fixture.path("b")).unwrap();
    std::fs::write(
        fixture
            .path("b")
            .as_std_path()
            .join(std::ffi::OsStr::from_bytes(b"x\xff")),
        "",
    )
    .unwrap();
    let error = fixture.cache.scan_dir(&fixture.path("b")).unwrap_err();
    assert!(
        format!("{error:#}").contains("the name 'x\\xff' in directory '/'"),
        "{error:#}"
    );
}

#[test]
fn large_contents_are_stored_whole() {
    let fixture = Fixture::new();
    let data: Vec<u8> = (0..20_000_000_u32)
        .map(|n| n.to_le_bytes()[n as usize % 3])
        .collect();
    let meta = Meta {
        mode: 0o4755,
        uid: 1,
        gid: 2,
        xattrs: Default::default(),
    };
    let file = fixture.cache.put_file(&meta, &data).unwrap();
    assert_eq!(fixture.cache.read(&file).unwrap(), data);
    let other = fixture
        .cache
        .change_meta(&file, &Meta::root(0o600))
        .unwrap();
    assert_eq!(fixture.cache.read(&other).unwrap(), data);
    assert_ne!(other.checksum, file.checksum);
    fixture.fsck();
}

#[test]
fn several_caches_and_threads_write_the_same_objects() {
    let fixture = Fixture::new();
    let dir = fixture.path("cache");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let cache = CacheRepo::open(&dir).unwrap();
                for number in 0..200 {
                    cache
                        .put_file(&Meta::root(0o644), format!("{number}").as_bytes())
                        .unwrap();
                    cache.put_symlink(&format!("{number}"), 0, 0).unwrap();
                }
            });
        }
    });
    fixture.fsck();
}

#[test]
fn leftovers_of_killed_runs_are_swept() {
    let fixture = Fixture::new();
    let dir = fixture.path("cache");
    drop(CacheRepo::open(&dir));
    let fixture_cache = fixture.path("other");
    drop(CacheRepo::open(&fixture_cache).unwrap());
    let left = fixture_cache.join("repo/tmp/staging-old-abc");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("x"), "").unwrap();
    drop(CacheRepo::open(&fixture_cache).unwrap());
    assert!(!left.exists());
}
