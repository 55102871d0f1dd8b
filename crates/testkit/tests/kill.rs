//! A compose that dies at any instant leaves refs and images as they were, and the next one works.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;
use std::time::Duration;

use apt_ostree_testkit::{MINIMAL, Project, privileged, success};

/// A compose that needs nothing from outside.
const ARGS: [&str; 5] = [
    "--lockfile",
    "lock.json",
    "--lockfile-strict",
    "--format",
    "oci",
];

/// How many random instants.
const KILLS: u32 = 16;

#[test]
fn killed_composes_leave_nothing_half_done() {
    if !privileged("killed_composes_leave_nothing_half_done") {
        return;
    }
    let project = Project::isolated(MINIMAL).unwrap();
    let start = std::time::Instant::now();
    project.tree(&ARGS).unwrap();
    let whole = start.elapsed();
    let good = project.commit("test/minimal").unwrap();

    for round in 0..KILLS {
        // Every round changes the inputs, so that there is work to do; half of them start cold.
        project
            .write(
                "tree.yaml",
                &format!("{MINIMAL}add-commit-metadata:\n  com.example.round: {round}\n"),
            )
            .unwrap();
        if round % 2 == 0 {
            std::fs::remove_dir_all(project.cache().join("repo")).unwrap();
        }
        let mut command = project.compose("tree", &["tree.yaml"]).unwrap();
        command.args(ARGS);
        let mut child = command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole * round / KILLS + Duration::from_millis(20));
        kill_tree(child.id());
        child.wait().unwrap();
        check(&project, &good, round);
    }
    project.tree(&ARGS).unwrap();
    check_layout(&project);
    let left: Vec<_> = std::fs::read_dir(project.cache().join("work"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        left.iter()
            .all(|name| !name.to_string_lossy().starts_with("run-")),
        "work directories are left: {left:?}"
    );
}

/// Kills a process and all its descendants, the youngest last, as a power cut would not wait.
fn kill_tree(pid: u32) {
    let children =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    if let Some(pid) = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    {
        let gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_err();
        assert!(
            !gone || children.is_empty(),
            "process {pid:?} could not be killed"
        );
    }
    for child in children.split_whitespace() {
        kill_tree(child.parse().unwrap());
    }
}

/// The ref names a complete commit, old or new.
fn check(project: &Project, good: &str, round: u32) {
    let repo = format!("--repo={}", project.path().join("output/repo"));
    let now = project.commit("test/minimal").unwrap();
    assert_eq!(now.len(), good.len(), "round {round}");
    success(Command::new("ostree").args([&repo, "fsck", "--quiet"])).unwrap();
    check_layout(project);
}

fn check_layout(project: &Project) {
    let layout = format!("oci:{}", project.path().join("output/test_minimal.oci"));
    success(Command::new("skopeo").args(["inspect", &layout])).unwrap();
}
