//! A compose that dies at any point leaves refs and images as they were, and the next one works.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use apt_ostree_testkit::{LOCKED, MINIMAL, Project, binary, privileged, success};

/// How many lines of progress apart the composes of an empty cache are killed.
const LINES: usize = 16;

/// How many points at most of each kind of call.
const POINTS: usize = 3;

/// The calls that change files or make changes last.
const CALLS: &str = "rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,\
    mkdir,mkdirat,ftruncate,fchmod,fchmodat,fchown,fsetxattr,utimensat,write,pwrite64,\
    copy_file_range,fsync,fdatasync,syncfs";

#[test]
fn killed_composes_leave_nothing_half_done() {
    if !privileged("killed_composes_leave_nothing_half_done") {
        return;
    }
    let project = Project::isolated(MINIMAL).unwrap();
    let composed = kill_while_everything_is_new(&project);
    compose(&project);
    let old = State::of(&project);
    keep(&project, "old");
    project
        .write(
            "tree.yaml",
            &format!("{MINIMAL}add-commit-metadata: {{com.example.new: 1}}\n"),
        )
        .unwrap();
    compose(&project);
    let new = State::of(&project);
    assert_ne!(old, new);
    let at_calls = kill_at_calls(&project, &old, &new);
    let left: Vec<_> = std::fs::read_dir(project.cache().join("work"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        left.iter()
            .all(|name| !name.to_string_lossy().starts_with("run-")),
        "work directories are left: {left:?}"
    );
    assert!(
        composed >= 4 && at_calls >= 25,
        "{composed} and {at_calls} kills"
    );
}

/// What a compose made.
#[derive(Debug, PartialEq, Eq)]
struct State {
    commit: String,
    /// The root directory with the checksum of all that is in it.
    root: String,
    /// Names the image by its digest.
    index: String,
}

impl State {
    fn of(project: &Project) -> Self {
        let index = project.path().join("output/test_minimal.oci/index.json");
        let repo = format!("--repo={}", project.path().join("output/repo"));
        let list = ["ls", "-C", "-d", "test/minimal", "/"];
        let root = success(Command::new("ostree").arg(repo).args(list)).unwrap();
        Self {
            commit: project.commit("test/minimal").unwrap(),
            root: apt_ostree_testkit::stdout(&root),
            index: std::fs::read_to_string(index).unwrap(),
        }
    }
}

fn arguments() -> Vec<&'static str> {
    [&LOCKED[..], &["--format", "oci"]].concat()
}

fn compose(project: &Project) {
    project.tree(&arguments()).unwrap();
}

fn command(project: &Project) -> Command {
    let mut command = project.compose("tree", &["tree.yaml"]).unwrap();
    command.args(arguments());
    command
}

/// Starts with downloaded packages alone and is killed at every so many lines of progress, going
/// on with what the killed ones left. Returns how often.
fn kill_while_everything_is_new(project: &Project) -> usize {
    for kills in 0.. {
        let mut child = command(project)
            .arg("--json")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // The second time the same lines come sooner, so this gets on.
        let read = lines.take(LINES * (kills + 1)).map(Result::unwrap);
        if read.last().unwrap().contains(r#"{"finished""#) {
            assert!(child.wait().unwrap().success());
            return kills;
        }
        kill_tree(child.id());
        child.wait().unwrap();
        let output = project.path().join("output");
        assert!(project.commit("test/minimal").is_err(), "kill {kills}");
        assert!(!output.join("test_minimal.oci").exists(), "kill {kills}");
        let repo = project.cache().join("repo");
        if repo.join("config").exists() {
            fsck(repo.as_str(), &format!("kill {kills}"));
        }
    }
    unreachable!("the loop has no end")
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

/// Kills the worker, or a helper of apt, right before chosen calls of a compose that replaces `old` by `new`. Returns
/// how often.
fn kill_at_calls(project: &Project, old: &State, new: &State) -> usize {
    let mut kills = 0;
    for (call, count) in count_calls(project) {
        let points = POINTS.min(count);
        for number in 0..points {
            let at = 1 + number * (count - 1) / points.saturating_sub(1).max(1);
            restore(project, "old");
            let inject = format!("-e inject={call}:signal=KILL:when={at}");
            let output = traced(project, &format!("-o /dev/null -e trace={call} {inject}"))
                .output()
                .unwrap();
            let place = format!("{call} {at} of {count}");
            if output.status.success() {
                // Another thread did more of them the first time.
                continue;
            }
            kills += 1;
            let text = apt_ostree_testkit::stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{place}: {text}");
            let said = text
                .lines()
                .filter(|line| line.starts_with("error: "))
                .count();
            assert_eq!(said, 1, "{place}: {text}");
            let left = check(project, old, new, &place);
            compose(project);
            let next = State::of(project);
            assert_eq!(
                (&next.root, &next.index),
                (&new.root, &new.index),
                "{place}"
            );
            // Killed after the ref had moved, it is the parent of one more commit of the same.
            assert!(
                next.commit == new.commit || left.commit == new.commit,
                "{place}"
            );
        }
    }
    kills
}

/// How many calls of each kind the thread makes that makes most of them.
fn count_calls(project: &Project) -> BTreeMap<String, usize> {
    restore(project, "old");
    let trace = project.path().join("trace");
    success(&mut traced(
        project,
        &format!("-o {trace} -e trace={CALLS}"),
    ))
    .unwrap();
    let mut counts = BTreeMap::new();
    for line in std::fs::read_to_string(trace).unwrap().lines() {
        let Some((process, rest)) = line.split_once(' ') else {
            continue;
        };
        if let Some((call, _)) = rest.trim_start().split_once('(')
            && CALLS.split(',').any(|known| known.trim() == call)
        {
            *counts
                .entry((process.to_owned(), call.to_owned()))
                .or_insert(0) += 1;
        }
    }
    let mut highest = BTreeMap::new();
    for ((_, call), count) in counts {
        let entry = highest.entry(call).or_insert(0);
        *entry = count.max(*entry);
    }
    highest
}

/// The compose, with the worker under strace.
fn traced(project: &Project, options: &str) -> Command {
    let worker = binary("apt-ostree-worker").unwrap();
    let script = format!("#!/bin/sh\nexec strace -f -qq {options} '{worker}'\n");
    let script = project.write("worker", &script).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = command(project);
    command.env("APTOSTREE_WORKER", script);
    command
}

/// Keeps a copy of the output directory. Its files are replaced, never changed, so links do.
fn keep(project: &Project, name: &str) {
    copy(project, "output", name);
}

fn restore(project: &Project, name: &str) {
    copy(project, name, "output");
}

fn copy(project: &Project, from: &str, to: &str) {
    let to = project.path().join(to);
    if to.exists() {
        std::fs::remove_dir_all(&to).unwrap();
    }
    let from = project.path().join(from);
    success(Command::new("cp").args(["-al", from.as_str(), to.as_str()])).unwrap();
}

/// Ref and image are whole, each the old or the new one. Returns what is there.
fn check(project: &Project, old: &State, new: &State, place: &str) -> State {
    let found = State::of(project);
    assert!(
        [&old.commit, &new.commit].contains(&&found.commit),
        "{place}: {found:?}"
    );
    assert!(
        [&old.index, &new.index].contains(&&found.index),
        "{place}: {found:?}"
    );
    fsck(project.path().join("output/repo").as_str(), place);
    let layout = format!("oci:{}", project.path().join("output/test_minimal.oci"));
    success(Command::new("skopeo").args(["inspect", &layout])).unwrap();
    found
}

fn fsck(repo: &str, place: &str) {
    let result =
        success(Command::new("ostree").args([&format!("--repo={repo}"), "fsck", "--quiet"]));
    assert!(result.is_ok(), "{place}: {result:?}");
}
