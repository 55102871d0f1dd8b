//! The command line and its worker: interrupting, dying, and the JSON protocol, on a real compose.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Output, Stdio};

use apt_ostree_testkit::{MINIMAL, Project, privileged, stderr, stdout, success};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// A compose that runs maintainer scripts, and the reader of its events.
struct Running {
    child: Child,
    events: BufReader<ChildStdout>,
}

/// Starts a compose and waits until it has begun to run scripts.
fn start(project: &Project) -> Running {
    let mut command = project
        .compose("tree", &["tree.yaml", "--json", "--force-nocache"])
        .unwrap();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut events = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains(r#"{"event":"step-started","step":"configure"}"#) {
        line.clear();
        let read = events.read_line(&mut line).unwrap();
        assert_ne!(read, 0, "the compose ended before it ran scripts");
    }
    Running { child, events }
}

impl Running {
    /// Waits for the end; standard output is what came after the start of the scripts.
    fn finish(mut self) -> Output {
        let mut rest = Vec::new();
        self.events.read_to_end(&mut rest).unwrap();
        let mut output = self.child.wait_with_output().unwrap();
        output.stdout = rest;
        output
    }

    fn worker(&self) -> u32 {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().next().unwrap().parse().unwrap()
    }
}

fn send(pid: u32, signal: Signal) {
    kill_process(raw_pid(pid), signal).unwrap();
}

fn raw_pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

fn work_dirs(project: &Project) -> usize {
    let entries = std::fs::read_dir(project.cache().join("work")).unwrap();
    entries
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("run-")
        })
        .count()
}

fn project() -> Project {
    Project::new(MINIMAL).unwrap().with_own_cache().unwrap()
}

#[test]
fn interrupting_and_dying_leave_no_ref_and_the_next_run_works() {
    if !privileged("interrupting_and_dying_leave_no_ref_and_the_next_run_works") {
        return;
    }
    let project = project();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let running = start(&project);
        send(running.child.id(), signal);
        let output = running.finish();
        assert_eq!(output.status.code(), Some(1), "{signal:?}");
        let err = stderr(&output);
        assert!(err.contains("error: cancelled\n"), "{signal:?}: {err}");
        let out = stdout(&output);
        let last = out.lines().last().unwrap();
        assert!(last.contains(r#"{"failed":{"kind":"cancelled""#), "{last}");
        assert_eq!(work_dirs(&project), 0, "{signal:?}");
        assert!(project.commit("test/minimal").is_err(), "{signal:?}");
    }

    let running = start(&project);
    send(running.worker(), Signal::KILL);
    let output = running.finish();
    assert_eq!(output.status.code(), Some(1));
    let err = stderr(&output);
    assert!(err.contains("error: the worker died of signal 9"), "{err}");
    assert!(project.commit("test/minimal").is_err());

    // The command line dies: the worker has to notice, end and clean up by itself.
    let running = start(&project);
    let worker = pidfd_open(raw_pid(running.worker()), PidfdFlags::empty()).unwrap();
    send(running.child.id(), Signal::KILL);
    let output = running.finish();
    assert_eq!(output.status.code(), None);
    let ended = rustix::event::poll(&mut [PollFd::new(&worker, PollFlags::IN)], None);
    assert_eq!(ended, Ok(1));
    assert_eq!(work_dirs(&project), 0);

    let output = success(&mut project.compose("tree", &["tree.yaml", "--json"]).unwrap()).unwrap();
    check_protocol(&stdout(&output));
    project.commit("test/minimal").unwrap();
    assert_eq!(work_dirs(&project), 0);
}

/// Every line is an event, but the last one, which is the result; steps that start also end.
fn check_protocol(text: &str) {
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let (last, events) = lines.split_last().unwrap();
    assert_eq!(last["finished"]["outcome"], "composed");
    assert_eq!(last["finished"]["ref"], "test/minimal");
    let count = |name: &str| events.iter().filter(|e| e["event"] == name).count();
    assert!(events.iter().all(|event| event["event"].is_string()));
    assert!(count("step-started") > 5);
    assert_eq!(count("step-started"), count("step-finished"));
}
