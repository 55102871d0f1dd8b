use std::collections::BTreeMap;

use apt_ostree_model::{ContentReader as _, Tree};
use apt_ostree_store::{CommitRequest, MetaValue, TargetRepo};
use proptest::prelude::*;

use crate::support::{Fixture, fsck, run, specs};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_committed_tree_loads_again(specs in specs(), mode in prop_oneof![Just("archive"), Just("bare"), Just("bare-user")]) {
        let fixture = Fixture::new();
        let tree = fixture.build(&specs);
        let path = fixture.path("target");
        run("ostree", &["init", &format!("--mode={mode}"), &format!("--repo={path}")]);
        let target = TargetRepo::open_or_create(&path).unwrap();
        let result = fixture.cache.commit(&tree, &CommitRequest::default(), &target).unwrap();
        let loaded = target.load_commit(&result.checksum).unwrap();
        prop_assert_eq!(&loaded.tree, &tree);
        for (path, node) in tree.walk() {
            if let Some(file) = node.as_file() {
                prop_assert_eq!(target.read(file).unwrap(), fixture.cache.read(file).unwrap(), "{}", path);
            }
        }
        fsck(&path);
    }
}

fn meta() -> CommitRequest {
    CommitRequest {
        subject: "test".to_owned(),
        timestamp: 1_700_000_000,
        metadata: BTreeMap::from([
            ("version".to_owned(), MetaValue::String("1".to_owned())),
            (
                "list".to_owned(),
                MetaValue::PackageList(vec![["a", "0", "1", "2", "all"].map(str::to_owned)]),
            ),
            ("zz".to_owned(), MetaValue::Strings(vec!["x".to_owned()])),
        ]),
        detached: BTreeMap::from([("note".to_owned(), MetaValue::Bool(true))]),
        ref_binding: Some("debian/test".to_owned()),
        ..CommitRequest::default()
    }
}

fn sample(fixture: &Fixture) -> Tree {
    let mut tree = Tree::default();
    fixture.put(&mut tree, "usr/bin/a", 0o755, "program");
    fixture.put(&mut tree, "etc/b", 0o644, "");
    fixture.link(&mut tree, "bin", "usr/bin");
    tree
}

#[test]
fn commits_are_reproducible_and_name_their_facts() {
    let fixture = Fixture::new();
    let tree = sample(&fixture);
    let target = TargetRepo::open_or_create(&fixture.path("target")).unwrap();
    let first = fixture.cache.commit(&tree, &meta(), &target).unwrap();
    let other = Fixture::new();
    let again = other
        .cache
        .commit(
            &sample(&other),
            &meta(),
            &TargetRepo::open_or_create(&other.path("t")).unwrap(),
        )
        .unwrap();
    assert_eq!(
        (&first.checksum, &first.content_checksum),
        (&again.checksum, &again.content_checksum)
    );
    assert_eq!(
        fixture.cache.content_checksum(&tree).unwrap(),
        first.content_checksum
    );
    assert_eq!(first.stats.n_content_written, 3);
    let cached = std::fs::metadata(fixture.object(&tree, "usr/bin/a")).unwrap();
    assert_eq!(
        std::os::unix::fs::MetadataExt::nlink(&cached),
        2,
        "the target links to the cache"
    );
    assert_eq!(target.resolve_ref("debian/test").unwrap(), None);
    target.set_ref("debian/test", &first.checksum).unwrap();
    assert_eq!(
        target.resolve_ref("debian/test").unwrap().as_ref(),
        Some(&first.checksum)
    );
    assert_eq!(
        target.resolve_ref(&first.checksum).unwrap().as_ref(),
        Some(&first.checksum)
    );
    assert_eq!(target.resolve_ref("debian/none").unwrap(), None);
    assert_eq!(target.resolve_ref(&"0".repeat(64)).unwrap(), None);
    let commit = target.load_commit(&first.checksum).unwrap();
    assert_eq!(
        (
            commit.timestamp,
            commit.subject.as_str(),
            commit.parent.as_deref()
        ),
        (1_700_000_000, "test", None)
    );
    assert_eq!(commit.content_checksum, first.content_checksum);
    assert_eq!(
        commit.strings("ostree.ref-binding").unwrap(),
        ["debian/test"]
    );
    assert_eq!(commit.string("version").as_deref(), Some("1"));
    assert_eq!(commit.package_list("list").unwrap()[0][4], "all");
    assert_eq!(commit.strings("zz").unwrap(), ["x"]);
    assert_eq!(commit.string("list"), None);
    let detached = run(
        "ostree",
        &[
            "show",
            "--print-detached-metadata-key=note",
            "debian/test",
            &format!("--repo={}", target.path()),
        ],
    );
    assert_eq!(detached.trim(), "true");
}

#[test]
fn a_second_commit_writes_only_what_is_new() {
    let fixture = Fixture::new();
    let mut tree = sample(&fixture);
    let target = TargetRepo::open_or_create(&fixture.path("target")).unwrap();
    let first = fixture.cache.commit(&tree, &meta(), &target).unwrap();
    fixture.put(&mut tree, "usr/bin/new", 0o755, "more");
    let second = CommitRequest {
        parent: Some(first.checksum.clone()),
        ..meta()
    };
    let second = fixture.cache.commit(&tree, &second, &target).unwrap();
    assert_eq!(
        (
            second.stats.n_content_total,
            second.stats.n_content_written,
            second.stats.content_bytes_written
        ),
        (4, 1, 4)
    );
    let commit = target.load_commit(&second.checksum).unwrap();
    assert_eq!(commit.parent, Some(first.checksum));
}

#[test]
fn ostree_checks_out_what_was_committed() {
    let fixture = Fixture::new();
    let tree = sample(&fixture);
    let target = TargetRepo::open_or_create(&fixture.path("target")).unwrap();
    let result = fixture.cache.commit(&tree, &meta(), &target).unwrap();
    let repo = format!("--repo={}", target.path());
    run(
        "ostree",
        &[
            "checkout",
            &repo,
            &result.checksum,
            fixture.path("out").as_str(),
        ],
    );
    assert_eq!(fixture.cache.scan_dir(&fixture.path("out")).unwrap(), tree);
}

#[test]
fn a_ref_moves_only_to_a_whole_commit() {
    let fixture = Fixture::new();
    let mut tree = sample(&fixture);
    let target = TargetRepo::open_or_create(&fixture.path("target")).unwrap();
    let first = fixture.cache.commit(&tree, &meta(), &target).unwrap();
    target.set_ref("debian/test", &first.checksum).unwrap();
    fixture.put(&mut tree, "usr/bin/new", 0o755, "more");
    let unsigned = CommitRequest {
        gpg_key: Some("no such key".to_owned()),
        ..meta()
    };
    assert!(fixture.cache.commit(&tree, &unsigned, &target).is_err());
    for bad in ["0", "garbage"] {
        assert!(
            target.set_ref("debian/test", &bad.repeat(64)).is_err(),
            "{bad}"
        );
    }
    assert!(target.set_ref("../x", &first.checksum).is_err());
    assert_eq!(
        target.resolve_ref("debian/test").unwrap(),
        Some(first.checksum)
    );
    fsck(target.path());
}

/// Signs a commit; run as a process of its own, with a key ring, by the test below.
#[test]
fn sign_in_a_child_process() {
    let Ok(repo) = std::env::var("STORE_TEST_SIGN") else {
        return;
    };
    let fixture = Fixture::new();
    let target = TargetRepo::open_or_create(camino::Utf8Path::new(&repo)).unwrap();
    let request = CommitRequest {
        gpg_key: Some("test@example.org".to_owned()),
        ..meta()
    };
    let result = fixture
        .cache
        .commit(&sample(&fixture), &request, &target)
        .unwrap();
    target.set_ref("debian/test", &result.checksum).unwrap();
}

#[test]
fn commits_are_signed() {
    let fixture = Fixture::new();
    let home = fixture.path("gnupg");
    std::fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(0), Some(0)).unwrap();
    std::fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let gpg = [
        "--homedir",
        home.as_str(),
        "--batch",
        "--passphrase",
        "",
        "--quick-gen-key",
        "test@example.org",
        "rsa2048",
    ];
    run("gpg", &gpg);
    // libostree reads key rings by their suffix.
    let keys = fixture.path("keys");
    std::fs::create_dir(&keys).unwrap();
    run(
        "gpg",
        &[
            "--homedir",
            home.as_str(),
            "--output",
            keys.join("test.gpg").as_str(),
            "--export",
        ],
    );
    let repo = fixture.path("target");
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "commits::sign_in_a_child_process"])
        .env("GNUPGHOME", home.as_str())
        .env("STORE_TEST_SIGN", repo.as_str())
        .stdout(std::process::Stdio::null())
        .status();
    let shown = run(
        "ostree",
        &[
            "show",
            &format!("--repo={repo}"),
            &format!("--gpg-homedir={keys}"),
            "debian/test",
        ],
    );
    run("gpgconf", &["--homedir", home.as_str(), "--kill", "all"]);
    assert!(status.unwrap().success());
    assert!(
        shown.contains("Found 1 signature") && shown.contains("Good signature"),
        "{shown}"
    );
}

#[test]
fn layers_of_another_repository_can_be_checked_out() {
    let fixture = Fixture::new();
    let target = TargetRepo::open_or_create(&fixture.path("target")).unwrap();
    let result = fixture
        .cache
        .commit(&sample(&fixture), &meta(), &target)
        .unwrap();
    let other = Fixture::new();
    let commit = target.load_commit(&result.checksum).unwrap();
    other.cache.import_commit(&commit, &target).unwrap();
    other
        .cache
        .checkout(&commit.tree, &other.path("out"))
        .unwrap();
    assert_eq!(
        other.cache.scan_dir(&other.path("out")).unwrap(),
        commit.tree
    );
}

#[test]
fn a_directory_that_is_no_repository_is_refused() {
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.path("d/x")).unwrap();
    assert!(TargetRepo::open_or_create(&fixture.path("d")).is_err());
    assert!(TargetRepo::open(&fixture.path("missing")).is_err());
    assert!(!fixture.path("missing").exists());
}
