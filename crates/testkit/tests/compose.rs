//! The main job, as a user types it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;
use std::time::{Duration, SystemTime};

use apt_ostree_testkit::packages::Deb;
use apt_ostree_testkit::podman::Podman;
use apt_ostree_testkit::{LOCKED, MINIMAL, Project, failure, privileged, stdout, success};
use camino::Utf8Path;

#[test]
fn minimal_treefile_makes_a_commit_and_images_that_run() {
    if !privileged("minimal_treefile_makes_a_commit_and_images_that_run") {
        return;
    }
    let project = Project::new(MINIMAL).unwrap();
    project.tree(&["--container", "--verbose"]).unwrap();
    let out = project.path().join("output");

    let repo = format!("--repo={}", out.join("repo"));
    success(Command::new("ostree").args([&repo, "fsck"])).unwrap();
    assert_eq!(project.commit("test/minimal").unwrap().len(), 64);

    let oci = format!("oci:{}", out.join("test_minimal.oci"));
    let inspected = stdout(&success(Command::new("skopeo").args(["inspect", &oci])).unwrap());
    assert!(
        inspected.contains("\"containers.bootc\": \"1\""),
        "{inspected}"
    );

    let podman = Podman::new().unwrap();
    success(
        podman
            .command(&["load", "-i"])
            .arg(out.join("test_minimal.tar")),
    )
    .unwrap();
    let image = "localhost/test/minimal:latest";
    assert_eq!(
        podman.run(image, &["echo", "Hello from bootc!"]).unwrap(),
        "Hello from bootc!\n"
    );
    assert_eq!(podman.run(image, &["dpkg", "--audit"]).unwrap(), "");
    let listed = podman
        .run(
            image,
            &["dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package}\n"],
        )
        .unwrap();
    assert!(
        listed.lines().count() > 50 && listed.lines().all(|l| l.starts_with("ii ")),
        "{listed}"
    );
    let wrong = podman.run(image, &["dpkg", "-V"]).unwrap();
    assert_eq!(
        wrong
            .lines()
            .filter(|l| !l.contains("/usr/share/doc/"))
            .collect::<Vec<_>>(),
        Vec::<&str>::new()
    );
}

#[test]
fn unchanged_inputs_do_no_work() {
    if !privileged("unchanged_inputs_do_no_work") {
        return;
    }
    let project = Project::new(MINIMAL).unwrap();
    project.tree(&["--touch-if-changed", "touched"]).unwrap();
    assert!(project.path().join("touched").exists());
    std::fs::remove_file(project.path().join("touched")).unwrap();
    let commit = project.commit("test/minimal").unwrap();
    let output = project.tree(&["--touch-if-changed", "touched"]).unwrap();
    let text = stdout(&output) + &apt_ostree_testkit::stderr(&output);
    assert!(
        text.contains("unchanged") || text.contains("No apparent changes"),
        "{text}"
    );
    assert!(!project.path().join("touched").exists());
    assert_eq!(project.commit("test/minimal").unwrap(), commit);
    let mut same = project
        .compose("tree", &["tree.yaml", "--unchanged-exit-77"])
        .unwrap();
    assert_eq!(same.output().unwrap().status.code(), Some(77));
    // An image in another format is of the same commit.
    project.tree(&["--format", "oci"]).unwrap();
    assert_eq!(project.commit("test/minimal").unwrap(), commit);
    let mut anew = project
        .compose("tree", &["tree.yaml", "--force-nocache"])
        .unwrap();
    success(&mut anew).unwrap();
    assert_ne!(project.commit("test/minimal").unwrap(), commit);
}

#[test]
fn compose_json_and_commitid_are_written_without_moving_the_ref() {
    if !privileged("compose_json_and_commitid_are_written_without_moving_the_ref") {
        return;
    }
    let project = Project::new(MINIMAL).unwrap();
    let metadata = project
        .write(
            "meta.json",
            "{\"com.example.number\": 7, \"com.example.list\": [\"a\"]}",
        )
        .unwrap();
    project
        .tree(&[
            "--write-composejson-to",
            "compose.json",
            "--write-commitid-to",
            "id",
            "--add-metadata-string",
            "com.example.word=hello",
            "--add-metadata-from-json",
            metadata.as_str(),
        ])
        .unwrap();
    let id = std::fs::read_to_string(project.path().join("id")).unwrap();
    let json: serde_json::Value = serde_json::from_str(
        &std::fs::read_to_string(project.path().join("compose.json")).unwrap(),
    )
    .unwrap();
    assert_eq!(json["ostree-commit"], id.trim());
    assert!(
        json["rpm-ostree-inputhash"]
            .as_str()
            .is_some_and(|h| h.len() == 64)
    );
    assert!(
        project.commit("test/minimal").is_err(),
        "the ref must not move with --write-commitid-to"
    );
    let repo = format!("--repo={}", project.path().join("output/repo"));
    let word = success(Command::new("ostree").args([
        &repo,
        "show",
        "--print-metadata-key=com.example.word",
        id.trim(),
    ]))
    .unwrap();
    assert_eq!(stdout(&word).trim(), "'hello'");
}

#[test]
fn dry_run_and_print_only_write_nothing() {
    if !privileged("dry_run_and_print_only_write_nothing") {
        return;
    }
    let project = Project::new(MINIMAL).unwrap();
    let plan = project.tree(&["--dry-run"]).unwrap();
    assert!(stdout(&plan).contains("systemd"), "{}", stdout(&plan));
    let printed = stdout(&project.tree(&["--print-only"]).unwrap());
    let json: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(json["ref"], "test/minimal");
    assert!(project.commit("test/minimal").is_err());
}

#[test]
fn a_lockfile_needs_no_network_and_gives_the_same_commit() {
    if !privileged("a_lockfile_needs_no_network_and_gives_the_same_commit") {
        return;
    }
    let first = Project::new(MINIMAL).unwrap();
    first.tree(&["--write-lockfile-to", "lock.json"]).unwrap();
    let lock = std::fs::read_to_string(first.path().join("lock.json")).unwrap();
    let second = Project::new(MINIMAL).unwrap();
    second.write("lock.json", &lock).unwrap();
    let compose = second
        .compose(
            "tree",
            &["tree.yaml", "--lockfile", "lock.json", "--lockfile-strict"],
        )
        .unwrap();
    let mut command = Command::new("unshare");
    command
        .arg("--net")
        .arg(compose.get_program())
        .args(compose.get_args())
        .current_dir(second.path());
    success(&mut command).unwrap();
    assert_eq!(
        first.commit("test/minimal").unwrap(),
        second.commit("test/minimal").unwrap()
    );
}

#[test]
fn a_failing_script_names_package_and_shows_its_output() {
    if !privileged("a_failing_script_names_package_and_shows_its_output") {
        return;
    }
    // The second one hides who it is: what it leaves there is not read.
    let hide = "#!/bin/sh\necho about to break\nln -sf /etc/shadow /run/apt-ostree-ci-state/running\nexit 7\n";
    for (script, text, name) in [
        (
            "postinst",
            "#!/bin/sh\necho about to break\nexit 7\n",
            "broken",
        ),
        (
            "preinst",
            "#!/bin/sh\necho about to break\nexit 7\n",
            "'broken.preinst'",
        ),
        ("preinst", hide, "'preinst'"),
    ] {
        let project = Project::new(MINIMAL).unwrap();
        let package = Deb {
            scripts: &[(script, text)],
            ..Deb::new("broken", "1")
        };
        package.build(&project, "debs").unwrap();
        let treefile =
            MINIMAL.to_owned() + "    - broken\nlocal-packages:\n  - debs/broken_1.deb\n";
        project.write("tree.yaml", &treefile).unwrap();
        let text = failure(&mut project.compose("tree", &["tree.yaml"]).unwrap(), 1).unwrap();
        assert!(
            text.contains(name) && text.contains("about to break") && !text.contains("root:"),
            "{text}"
        );
        assert!(project.commit("test/minimal").is_err());
    }
}

#[test]
fn install_postprocess_and_commit_do_the_parts_of_tree() {
    if !privileged("install_postprocess_and_commit_do_the_parts_of_tree") {
        return;
    }
    let project = Project::new(MINIMAL).unwrap();
    let run =
        |verb: &str, args: &[&str]| success(&mut project.compose(verb, args).unwrap()).unwrap();
    run("install", &["tree.yaml", "installed"]);
    let root = project.path().join("installed/rootfs");
    assert!(root.join("etc/passwd").exists() && root.join("var/lib/dpkg/status").exists());
    run("postprocess", &["installed/rootfs", "tree.yaml"]);
    assert!(root.join("usr/etc/passwd").exists() && !root.join("etc").exists());
    run(
        "commit",
        &["tree.yaml", "installed/rootfs", "--repo", "output/repo"],
    );
    assert_eq!(project.commit("test/minimal").unwrap().len(), 64);
    let repo = format!("--repo={}", project.path().join("output/repo"));
    success(Command::new("ostree").args([&repo, "fsck", "--quiet"])).unwrap();
}

#[test]
fn rootfs_and_image_need_no_repository() {
    if !privileged("rootfs_and_image_need_no_repository") {
        return;
    }
    let project = Project::new(MINIMAL).unwrap();
    let run =
        |verb: &str, args: &[&str]| success(&mut project.compose(verb, args).unwrap()).unwrap();
    run("rootfs", &["tree.yaml", "root"]);
    let root = project.path().join("root");
    assert!(root.join("etc/passwd").exists() && !root.join("usr/etc").exists());
    let again = failure(
        &mut project.compose("rootfs", &["tree.yaml", "root"]).unwrap(),
        1,
    )
    .unwrap();
    assert!(again.contains("not an empty directory"), "{again}");

    let image = ["tree.yaml", "image.oci", "--format", "oci", "--initialize"];
    run("image", &image);
    let layout = format!("oci:{}", project.path().join("image.oci"));
    success(Command::new("skopeo").args(["inspect", &layout])).unwrap();
    let second = run("image", &image[..4]);
    assert!(
        stdout(&second).contains("No apparent changes"),
        "{}",
        stdout(&second)
    );
    assert!(!project.path().join("output").exists());
}

/// Gives a file, or all files below a directory, a time that many days ago.
fn age(path: &Utf8Path, days: u64) {
    if path.is_dir() {
        for entry in path.read_dir_utf8().unwrap() {
            age(entry.unwrap().path(), days);
        }
        return;
    }
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let time = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
    file.set_modified(time).unwrap();
}

#[test]
fn an_old_cache_is_cleaned_when_nobody_uses_it() {
    if !privileged("an_old_cache_is_cleaned_when_nobody_uses_it") {
        return;
    }
    let project = Project::isolated(MINIMAL).unwrap();
    let cached = || {
        let repo = format!("--repo={}", project.cache().join("repo"));
        let refs = success(Command::new("ostree").args(["refs", &repo])).unwrap();
        success(Command::new("ostree").args(["fsck", "--quiet", &repo])).unwrap();
        stdout(&refs).lines().count()
    };
    project.tree(&LOCKED).unwrap();
    let commit = project.commit("test/minimal").unwrap();
    let all = cached();
    assert!(all > 50, "{all}");
    age(&project.cache().join("repo/refs/heads"), 100);

    // Not yet; and not while someone else uses it. With the same inputs, nothing of it is used.
    project.tree(&LOCKED).unwrap();
    assert_eq!(cached(), all);
    age(&project.cache().join("cleaned"), 2);
    let lock = std::fs::File::open(project.cache().join("repo.lock")).unwrap();
    lock.lock_shared().unwrap();
    project.tree(&LOCKED).unwrap();
    assert_eq!(cached(), all);
    drop(lock);
    project.tree(&LOCKED).unwrap();
    assert_eq!(cached(), 0);

    // The next compose makes all of it again, and what it has used stays.
    std::fs::remove_dir_all(project.path().join("output")).unwrap();
    age(&project.cache().join("cleaned"), 2);
    project.tree(&LOCKED).unwrap();
    assert_eq!(project.commit("test/minimal").unwrap(), commit);
    assert_eq!(cached(), all);
}
