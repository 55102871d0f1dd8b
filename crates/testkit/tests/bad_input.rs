//! What can be wrong outside of archives: treefiles, solving, caches, disks, two runs at once.
//! Each gives one clear error, exit code 1 and no half-written ref or image.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

use apt_ostree_testkit::{LOCKED, MINIMAL, Project, failure, privileged, success};

/// The error that a treefile gives. Nothing may be written.
fn error_of(treefile: &str) -> String {
    let project = Project::new(treefile).unwrap();
    let text = failure(&mut project.compose("tree", &["tree.yaml"]).unwrap(), 1).unwrap();
    assert!(project.commit("test/minimal").is_err(), "a ref was written");
    text
}

fn with(line: &str) -> String {
    format!("{MINIMAL}{line}\n")
}

#[test]
fn wrong_treefiles_are_refused_with_place_and_advice() {
    if !privileged("wrong_treefiles_are_refused_with_place_and_advice") {
        return;
    }
    let cases = [
        (with("pakages: [x]"), "packages"),
        (with("recommends: [1]"), "recommends"),
        (with("ref: other"), "ref"),
        (with("include: missing.yaml"), "missing.yaml"),
        (with("include: tree.yaml"), "tree.yaml"),
        (with("include: /etc/passwd"), "/etc/passwd"),
        (with("selinux: true"), "selinux"),
        (MINIMAL.replace("test/minimal", "../bad"), "ref"),
        (MINIMAL.replace("- bash", "- --option"), "--option"),
        (MINIMAL.replace("- bash", "- !!python/x bash"), "tag"),
    ];
    for (treefile, expected) in cases {
        let text = error_of(&treefile);
        assert!(text.contains("tree.yaml"), "no file name: {text}");
        assert!(text.contains(expected), "'{expected}' is not in: {text}");
    }
}

#[test]
fn unknown_and_impossible_packages_are_explained() {
    if !privileged("unknown_and_impossible_packages_are_explained") {
        return;
    }
    let text = error_of(&with("    - coreutilz"));
    assert!(
        text.contains("coreutilz") && text.contains("coreutils"),
        "{text}"
    );
    let text = error_of(&MINIMAL.replace("  include:", "  exclude:\n    - libc6\n  include:"));
    assert!(text.contains("libc6"), "{text}");
}

#[test]
fn a_missing_mirror_says_what_to_give() {
    if !privileged("a_missing_mirror_says_what_to_give") {
        return;
    }
    let text = error_of(&MINIMAL.replace(
        "- name: debian",
        "- name: debian\n    distribution: ubuntu\n    suite: noble",
    ));
    assert!(
        text.contains("--mirror")
            || text.contains("ubuntu-keyring")
            || text.contains("ubuntu-archive-keyring"),
        "{text}"
    );
}

#[test]
fn an_unsigned_repository_needs_trusted() {
    if !privileged("an_unsigned_repository_needs_trusted") {
        return;
    }
    let project = Project::new(MINIMAL).unwrap();
    let control = "Package: unsigned-test\nVersion: 1\nArchitecture: all\nMaintainer: Test <test@example.org>\nDescription: test\n";
    project.write("pkg/DEBIAN/control", control).unwrap();
    project.write("pkg/usr/share/unsigned-test", "x\n").unwrap();
    std::fs::create_dir(project.path().join("flat")).unwrap();
    success(Command::new("dpkg-deb").current_dir(project.path()).args([
        "--root-owner-group",
        "-b",
        "pkg",
        "flat/u.deb",
    ]))
    .unwrap();
    let index = success(
        Command::new("apt-ftparchive")
            .current_dir(project.path().join("flat"))
            .args(["packages", "."]),
    )
    .unwrap();
    std::fs::write(project.path().join("flat/Packages"), index.stdout).unwrap();
    let release = success(
        Command::new("apt-ftparchive")
            .current_dir(project.path().join("flat"))
            .args(["release", "."]),
    )
    .unwrap();
    std::fs::write(project.path().join("flat/Release"), release.stdout).unwrap();
    let treefile = |trusted: &str| {
        format!("{MINIMAL}    - unsigned-test\n",).replace(
            "packages:\n",
            &format!(
                "  - name: flat\n    url: file://{}/flat\n    suite: ./\n{trusted}packages:\n",
                project.path()
            ),
        )
    };
    project.write("tree.yaml", &treefile("")).unwrap();
    let text = failure(&mut project.compose("tree", &["tree.yaml"]).unwrap(), 1).unwrap();
    assert!(
        text.contains("trusted: true") || text.contains("not signed") || text.contains("unsigned"),
        "{text}"
    );
    project
        .write("tree.yaml", &treefile("    trusted: true\n"))
        .unwrap();
    project.tree(&[]).unwrap();
}

#[test]
fn a_damaged_cache_is_noticed_and_mended() {
    if !privileged("a_damaged_cache_is_noticed_and_mended") {
        return;
    }
    let project = Project::isolated(MINIMAL).unwrap();
    let args = [LOCKED.as_slice(), &["--format", "oci"]].concat();
    project.tree(&args).unwrap();
    let good = project.commit("test/minimal").unwrap();
    let text = success(
        Command::new("find")
            .arg(project.cache().join("repo/objects"))
            .args(["-name", "*.file", "-size", "+20k"]),
    )
    .unwrap();
    let text = apt_ostree_testkit::stdout(&text);
    for path in text.lines().take(5) {
        let mut data = std::fs::read(path).unwrap();
        data[1000] ^= 1;
        std::fs::write(path, data).unwrap();
    }
    for entry in std::fs::read_dir(project.cache().join("blobs")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::write(&path, b"damaged").unwrap();
        }
    }
    std::fs::remove_dir_all(project.path().join("output")).unwrap();
    let mended = project.tree(&args).unwrap();
    assert!(
        apt_ostree_testkit::stderr(&mended).contains("damaged"),
        "damage went unnoticed"
    );
    assert_eq!(project.commit("test/minimal").unwrap(), good);
    let repo = format!("--repo={}", project.path().join("output/repo"));
    success(Command::new("ostree").args([&repo, "fsck", "--quiet"])).unwrap();
}

#[test]
fn a_full_disk_gives_an_error_and_loses_nothing() {
    if !privileged("a_full_disk_gives_an_error_and_loses_nothing") {
        return;
    }
    let project = Project::isolated(MINIMAL).unwrap();
    let script = format!(
        "set -e; mkdir -p small; mount -t tmpfs -o size=60m tmpfs small; mkdir small/cache; \
         ln -s {0}/debs small/cache/debs; \
         set +e; {1} compose tree tree.yaml --lockfile lock.json --lockfile-strict --format oci --cachedir small/cache --repo small/repo --output-dir small/out; \
         code=$?; test ! -e small/repo/refs/heads/test/minimal || exit 99; test ! -e small/out/test_minimal.oci || exit 98; exit $code",
        project.cache(),
        apt_ostree_testkit::binary("apt-ostree").unwrap()
    );
    let mut command = Command::new("unshare");
    command
        .current_dir(project.path())
        .args(["--mount", "sh", "-c", &script]);
    let text = failure(&mut command, 1).unwrap();
    assert!(
        text.contains("No space left") || text.contains("no space left") || text.contains("space"),
        "{text}"
    );
}

#[test]
fn two_composes_at_once_both_succeed() {
    if !privileged("two_composes_at_once_both_succeed") {
        return;
    }
    let projects = [
        Project::new(MINIMAL).unwrap(),
        Project::new(&with("add-commit-metadata: {com.example.b: 1}")).unwrap(),
    ];
    let shared = projects[0].cache().to_owned();
    assert_eq!(projects[1].cache(), shared);
    let children: Vec<_> = projects
        .iter()
        .map(|p| {
            p.compose("tree", &["tree.yaml", "--format", "oci"])
                .unwrap()
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    for project in &projects {
        assert_eq!(project.commit("test/minimal").unwrap().len(), 64);
    }
}
