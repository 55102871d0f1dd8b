//! The command line through the daemon: a booted system with a real bus and a real polkit.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use apt_ostree_testkit::fakeboot::FakeBoot;
use apt_ostree_testkit::packages::Deb;
use apt_ostree_testkit::sysroot::Sysroot;
use apt_ostree_testkit::systembus::{SystemBus, quiet, wait_for};
use apt_ostree_testkit::tinytree::{TinyCommit, TinyRepo};
use apt_ostree_testkit::{failure, privileged, stderr, stdout, success};
use camino::Utf8Path;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const BRANCH: &str = "debian/tiny";
const PROGRAM: &str = "/run/host/programs/apt-ostree";

/// Lets `nobody` change kernel arguments and bring packages, and nothing else.
const RULES: &str = r#"polkit.addRule(function(action, subject) {
    var allowed = ["org.aptostree1.bootconfig", "org.aptostree1.install-local-packages"];
    if (allowed.indexOf(action.id) >= 0 && subject.user == "nobody")
        return polkit.Result.YES;
});"#;

/// The worker; changes wait while there is a file `/run/hold`.
const WORKER: &str = r#"#!/bin/sh
request=$(cat)
case $request in
*'"verb":"status"'*) ;;
*) : >/run/held; while [ -e /run/hold ]; do sleep 0.05; done ;;
esac
printf '%s' "$request" | /run/host/programs/apt-ostree-worker
"#;

/// A running system with a bus and the daemon.
struct Booted {
    daemon: Option<Child>,
    boot: FakeBoot,
    bus: SystemBus,
    repo: TinyRepo,
    _sysroot: Sysroot,
}

/// What differs between systems.
#[derive(Default)]
struct Setup {
    config: &'static str,
    without_daemon: bool,
}

impl Booted {
    /// A system of a few files.
    fn new(setup: &Setup) -> Self {
        let repo = TinyRepo::new().unwrap();
        commit(&repo, "1", 1000);
        let sysroot = Sysroot::new().unwrap();
        let local = format!("file://{}", repo.path());
        sysroot.add_remote("origin", &local).unwrap();
        sysroot
            .deploy_remote("origin", BRANCH, &["root=LABEL=tiny", "quiet"])
            .unwrap();
        // The remote names the repository by its path on the host.
        sysroot
            .set_remote_url("origin", "file:///run/host/repo/repo")
            .unwrap();
        let dir = repo.path().with_file_name("");
        Self::on(sysroot, repo, &[("repo", &dir)], setup)
    }

    fn on(sysroot: Sysroot, repo: TinyRepo, shared: &[(&str, &Utf8Path)], setup: &Setup) -> Self {
        let mut boot = FakeBoot::start(&sysroot).unwrap();
        for (name, dir) in shared {
            boot.share(name, dir);
        }
        let run = boot.run_dir().unwrap().to_owned();
        std::fs::create_dir(run.join("dbus")).unwrap();
        let socket = run.join("dbus/system_bus_socket");
        let mut bus = SystemBus::start(socket.as_std_path()).unwrap();
        bus.start_polkit(RULES).unwrap();
        write_program(&run.join("worker"), WORKER);
        let config = boot.deployment().join("etc/apt-ostreed.conf");
        std::fs::write(config, setup.config).unwrap();
        let mut booted = Self {
            daemon: None,
            boot,
            bus,
            repo,
            _sysroot: sysroot,
        };
        if !setup.without_daemon {
            booted.start_daemon();
        }
        booted
    }

    fn start_daemon(&mut self) {
        let daemon = "/run/host/programs/apt-ostreed";
        let mut command = self.boot.command(daemon, &["--cancel-grace", "2"]).unwrap();
        command.env("APTOSTREE_WORKER", "/run/worker");
        command.env_remove("DBUS_SYSTEM_BUS_ADDRESS");
        self.daemon = Some(quiet(&mut command).unwrap());
        wait_for("the daemon", || self.bus.has_name("org.aptostree1")).unwrap();
    }

    fn run_dir(&self) -> &Utf8Path {
        self.boot.run_dir().unwrap()
    }

    /// The program, as root.
    fn root(&self, line: &str) -> Command {
        let args: Vec<&str> = line.split_whitespace().collect();
        let mut command = self.boot.command(PROGRAM, &args).unwrap();
        command.env_remove("DBUS_SYSTEM_BUS_ADDRESS");
        command.stdin(Stdio::null());
        command
    }

    /// The program without the bus, as root.
    fn direct(&self, line: &str) -> Command {
        let mut command = self.root(line);
        command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent");
        command
    }

    /// The program as a user without rights and without a session.
    fn nobody(&self, line: &str) -> Command {
        let mut args = vec!["--reuid=65534", "--regid=65534", "--clear-groups", PROGRAM];
        args.extend(line.split_whitespace());
        let mut command = self.boot.command("setpriv", &args).unwrap();
        command.env_remove("DBUS_SYSTEM_BUS_ADDRESS");
        command.stdin(Stdio::null());
        command
    }

    fn status(&self) -> Value {
        let output = success(&mut self.nobody("status --json")).unwrap();
        serde_json::from_str(&stdout(&output)).unwrap()
    }

    /// The kernel arguments that boot next.
    fn kargs(&self) -> String {
        stdout(&success(&mut self.root("kargs")).unwrap())
    }

    fn hold(&self) {
        std::fs::write(self.run_dir().join("hold"), "").unwrap();
    }

    fn go_on(&self) {
        std::fs::remove_file(self.run_dir().join("hold")).unwrap();
    }

    /// Starts a change that holds in its worker.
    fn start_held(&self, command: Command) -> Client {
        self.hold();
        let client = Client::start(command);
        let held = self.run_dir().join("held");
        wait_for("the worker", || held.exists()).unwrap();
        std::fs::remove_file(held).unwrap();
        client
    }

    /// Processes of the host below the daemon whose command line holds `word`.
    fn below_daemon(&self, word: &str) -> Vec<Pid> {
        below(self.daemon.as_ref().unwrap().id(), word)
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            drop(daemon.kill());
            drop(daemon.wait());
        }
    }
}

/// A client that runs, and what it has printed.
struct Client(Child);

impl Client {
    fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// Sends a signal to the program itself.
    fn signal(&self, signal: Signal) {
        let found = || below(self.0.id(), PROGRAM);
        wait_for("the program", || !found().is_empty()).unwrap();
        kill_process(*found().last().unwrap(), signal).unwrap();
    }

    fn end(self) -> (i32, String, String) {
        let output = self.0.wait_with_output().unwrap();
        ended(&output)
    }
}

fn ended(output: &Output) -> (i32, String, String) {
    (
        output.status.code().unwrap_or(-1),
        stdout(output),
        stderr(output),
    )
}

fn write_program(path: &Utf8Path, text: &str) {
    std::fs::write(path, text).unwrap();
    success(Command::new("chmod").args(["755", path.as_str()])).unwrap();
}

fn commit(repo: &TinyRepo, version: &str, timestamp: u64) -> String {
    repo.commit(&TinyCommit {
        branch: BRANCH,
        version,
        timestamp,
        package: version,
    })
    .unwrap()
}

/// Processes below `ancestor` whose command line holds `word`.
fn below(ancestor: u32, word: &str) -> Vec<Pid> {
    let mut found = Vec::new();
    let mut left = vec![ancestor];
    while let Some(id) = left.pop() {
        let process = PathBuf::from(format!("/proc/{id}"));
        let read = |name: &str| std::fs::read_to_string(process.join(name)).unwrap_or_default();
        if id != ancestor && read("cmdline").contains(word) {
            found.extend(Pid::from_raw(i32::try_from(id).unwrap()));
        }
        let children = read(&format!("task/{id}/children"));
        left.extend(
            children
                .split_whitespace()
                .filter_map(|id| id.parse::<u32>().ok()),
        );
    }
    found
}

/// JSON lines without what differs from run to run.
fn lines(text: &str) -> Vec<Value> {
    let line = |line: &str| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        if let Some(object) = value.as_object_mut() {
            object.remove("seconds");
        }
        value
    };
    text.lines().map(line).collect()
}

fn deployments(status: &Value) -> &Vec<Value> {
    status["deployments"].as_array().unwrap()
}

#[test]
fn everybody_reads_the_status_and_it_is_the_same_as_without_a_daemon() {
    if !privileged("everybody_reads_the_status_and_it_is_the_same_as_without_a_daemon") {
        return;
    }
    let booted = Booted::new(&Setup::default());
    let through = stdout(&success(&mut booted.nobody("status --json")).unwrap());
    let direct = stdout(&success(&mut booted.direct("status --json")).unwrap());
    assert_eq!(through, direct);
    let text = stdout(&success(&mut booted.nobody("status")).unwrap());
    assert!(text.starts_with("State: idle\nDeployments:\n"), "{text}");
    let verbose = stdout(&success(&mut booted.nobody("status -v")).unwrap());
    assert!(
        verbose.contains("AutomaticUpdates: disabled\n"),
        "{verbose}"
    );
    // What only reads needs no rights and no daemon.
    let text = stdout(&success(&mut booted.nobody("kargs")).unwrap());
    assert!(text.contains("quiet"), "{text}");
    let checksum = booted.status()["deployments"][0]["checksum"].clone();
    let list = format!("db list {}", checksum.as_str().unwrap());
    let text = stdout(&success(&mut booted.nobody(&list)).unwrap());
    assert!(text.contains("demo"), "{text}");
}

#[test]
fn a_user_is_refused_without_a_rule_and_obeyed_with_one() {
    if !privileged("a_user_is_refused_without_a_rule_and_obeyed_with_one") {
        return;
    }
    let booted = Booted::new(&Setup::default());
    for line in ["upgrade", "rollback", "cleanup -b", "install xx", "reload"] {
        let text = failure(&mut booted.nobody(line), 1).unwrap();
        assert!(
            text.contains("not authorised: org.aptostree1."),
            "{line}: {text}"
        );
        assert!(
            text.contains("hint: run the command as root"),
            "{line}: {text}"
        );
    }
    let output = booted.nobody("upgrade --json").output().unwrap();
    let last = lines(&stdout(&output)).pop().unwrap();
    assert_eq!(last["failed"]["kind"], "not-authorized");
    let text = stdout(&success(&mut booted.nobody("kargs --append=added=1")).unwrap());
    assert!(text.contains("Changes queued for next boot"), "{text}");
    assert!(booted.kargs().contains("added=1"));
    // Who may change kernel arguments may not reboot for all that.
    let text = failure(&mut booted.nobody("kargs --append=more=1 --reboot"), 1).unwrap();
    assert!(text.contains("org.freedesktop.login1.reboot"), "{text}");
    assert_eq!(deployments(&booted.status()).len(), 2);
}

#[test]
fn a_change_looks_the_same_with_and_without_a_daemon() {
    if !privileged("a_change_looks_the_same_with_and_without_a_daemon") {
        return;
    }
    let booted = Booted::new(&Setup::default());
    commit(&booted.repo, "2", 2000);
    for line in [
        "upgrade --check",
        "upgrade --preview",
        "kargs --append=a=1 --json",
        "kargs --delete-if-present=nothing --unchanged-exit-77",
        "kargs --replace=nothing=1",
        "upgrade --json",
        "deploy 3 --json",
        "rollback",
        "install /no/such/file.deb",
        "install /etc/passwd",
        "finalize-deployment --allow-missing-checksum",
        "rebase no-such-remote:branch",
    ] {
        let clean = || drop(success(&mut booted.direct("cleanup -p")).unwrap());
        clean();
        let through = ended(&booted.root(line).output().unwrap());
        clean();
        let direct = ended(&booted.direct(line).output().unwrap());
        if line.ends_with("--json") {
            assert_eq!(lines(&through.1), lines(&direct.1), "{line}");
            assert_eq!((through.0, through.2), (direct.0, direct.2), "{line}");
        } else {
            let plain = |(code, out, error): (i32, String, String)| {
                // Times of steps and names of files that were passed.
                let words = out.split_whitespace().filter(|w| !w.starts_with('('));
                let error = error.split_whitespace().filter(|w| !w.starts_with('\''));
                (
                    code,
                    words.map(str::to_owned).collect::<Vec<_>>(),
                    error.map(str::to_owned).collect::<Vec<_>>(),
                )
            };
            assert_eq!(plain(through), plain(direct), "{line}");
        }
    }
}

#[test]
fn two_clients_one_waits_for_the_other() {
    if !privileged("two_clients_one_waits_for_the_other") {
        return;
    }
    let booted = Booted::new(&Setup::default());
    let first = booted.start_held(booted.root("kargs --append=first=1"));
    // Who is second is told who is first.
    let text = failure(&mut booted.nobody("kargs --append=second=1"), 1).unwrap();
    for word in [
        "transaction in progress: kargs by client(id:cli",
        "uid:0",
        "since 20",
        "--wait",
        "apt-ostree cancel",
    ] {
        assert!(text.contains(word), "{text}");
    }
    let output = booted.root("cleanup -b --json").output().unwrap();
    let last = lines(&stdout(&output)).pop().unwrap();
    assert_eq!(last["failed"]["kind"], "busy");
    // The status tells it as well.
    let text = stdout(&success(&mut booted.nobody("status")).unwrap());
    assert!(
        text.starts_with("State: busy\nTransaction: kargs\n  Initiator: client(id:cli"),
        "{text}"
    );
    assert_eq!(booted.status()["transaction"][0], "KernelArgs");
    let second = Client::start(booted.nobody("kargs --append=second=1 --wait --json"));
    let mut third = booted.direct("kargs --append=third=1 --wait");
    std::thread::sleep(Duration::from_millis(700));
    booted.go_on();
    let (code, _, error) = first.end();
    assert_eq!((code, error.as_str()), (0, ""));
    let (code, out, error) = second.end();
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    assert!(
        out.contains("\"text\":\"Waiting: transaction in progress: kargs by"),
        "{out}"
    );
    assert!(!out.contains("\"failed\""), "{out}");
    success(&mut third).unwrap();
    let kargs = booted.kargs();
    for word in ["first=1", "second=1", "third=1"] {
        assert!(kargs.contains(word), "{kargs}");
    }
}

#[test]
fn without_a_daemon_the_lock_is_waited_for() {
    if !privileged("without_a_daemon_the_lock_is_waited_for") {
        return;
    }
    let booted = Booted::new(&Setup {
        without_daemon: true,
        ..Setup::default()
    });
    let lock = booted.boot.deployment().join("../../../../lock");
    let mut holder = Command::new("python3")
        .args(["-c", HOLD_LOCK, lock.as_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let text = failure(&mut booted.direct("kargs --append=a=1"), 1).unwrap();
    assert!(text.contains("is being changed by"), "{text}");
    assert!(text.contains("--wait"), "{text}");
    let waiting = Client::start(booted.direct("kargs --append=a=1 --wait"));
    std::thread::sleep(Duration::from_millis(1500));
    drop(holder.stdin.take());
    holder.wait().unwrap();
    let (code, out, error) = waiting.end();
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(out.contains("Waiting: "), "{out}");
    assert!(booted.kargs().contains("a=1"));
}

/// Holds libostree's lock, an open file description lock, until standard input is closed.
const HOLD_LOCK: &str = "
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o660)
fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack('hhqqi', fcntl.F_WRLCK, 0, 0, 0, 0))
os.write(1, b'x')
sys.stdin.read()
";

#[test]
fn a_transaction_is_cancelled_by_others_and_by_its_own_client() {
    if !privileged("a_transaction_is_cancelled_by_others_and_by_its_own_client") {
        return;
    }
    let booted = Booted::new(&Setup::default());
    let text = stdout(&success(&mut booted.nobody("cancel")).unwrap());
    assert_eq!(text, "No active transaction.\n");
    let first = booted.start_held(booted.root("kargs --append=never=1"));
    let text = failure(&mut booted.nobody("cancel"), 1).unwrap();
    assert!(text.contains("org.aptostree1.cancel"), "{text}");
    success(&mut booted.root("cancel")).unwrap();
    assert_eq!(
        first.end(),
        (1, String::new(), "error: cancelled\n".to_owned())
    );
    booted.go_on();
    // A user's own one, and from another process of the same user.
    let first = booted.start_held(booted.nobody("kargs --append=never=1"));
    success(&mut booted.nobody("cancel")).unwrap();
    assert_eq!(first.end().0, 1);
    booted.go_on();

    let first = booted.start_held(booted.root("kargs --append=never=1 --json"));
    first.signal(Signal::INT);
    let (code, out, error) = first.end();
    assert_eq!(code, 1);
    assert!(
        error.starts_with("warning: cancelling and cleaning up"),
        "{error}"
    );
    assert!(error.ends_with("error: cancelled\n"), "{error}");
    assert_eq!(lines(&out).pop().unwrap()["failed"]["kind"], "cancelled");
    booted.go_on();
    success(&mut booted.root("kargs --append=next=1")).unwrap();
    assert!(!booted.kargs().contains("never=1"));
}

#[test]
fn a_killed_worker_and_a_killed_daemon_are_told() {
    if !privileged("a_killed_worker_and_a_killed_daemon_are_told") {
        return;
    }
    let mut booted = Booted::new(&Setup::default());
    let client = booted.start_held(booted.root("kargs --append=never=1"));
    for worker in booted.below_daemon("/run/worker") {
        kill_process(worker, Signal::KILL).unwrap();
    }
    let (code, _, error) = client.end();
    assert_eq!(code, 1);
    assert!(
        error.contains("error: the worker died of signal 9"),
        "{error}"
    );
    let client = booted.start_held(booted.root("kargs --append=never=1"));
    let mut daemon = booted.daemon.take().unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let (code, _, error) = client.end();
    assert_eq!(code, 1);
    assert!(error.contains("error: apt-ostreed ended before"), "{error}");
    assert!(error.contains("journalctl -u apt-ostreed"), "{error}");
    booted.go_on();
    booted.start_daemon();
    success(&mut booted.root("kargs --append=next=1")).unwrap();
    assert!(!booted.kargs().contains("never=1"));
}

#[test]
fn without_bus_or_daemon_root_works_and_others_are_told_what_to_do() {
    if !privileged("without_bus_or_daemon_root_works_and_others_are_told_what_to_do") {
        return;
    }
    let booted = Booted::new(&Setup {
        without_daemon: true,
        ..Setup::default()
    });
    success(&mut booted.root("kargs --append=a=1")).unwrap();
    let text = failure(&mut booted.nobody("kargs --append=b=1"), 1).unwrap();
    assert!(text.contains("apt-ostreed is not installed"), "{text}");
    assert!(
        text.contains("hint: install apt-ostree completely"),
        "{text}"
    );
    let mut command = booted.nobody("kargs --append=b=1");
    command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent");
    let text = failure(&mut command, 1).unwrap();
    assert!(text.contains("the system bus can't be reached"), "{text}");
    for verb in [
        "cancel",
        "reload",
        "upgrade --trigger-automatic-update-policy",
    ] {
        let text = failure(&mut booted.root(verb), 1).unwrap();
        assert!(
            text.contains("apt-ostreed is not installed"),
            "{verb}: {text}"
        );
    }
    // Reading works for everybody.
    assert!(booted.kargs().contains("a=1"));
    assert_eq!(deployments(&booted.status()).len(), 2);
}

#[test]
fn automatic_updates_do_what_the_configuration_says() {
    if !privileged("automatic_updates_do_what_the_configuration_says") {
        return;
    }
    let booted = Booted::new(&Setup::default());
    let newest = commit(&booted.repo, "2", 2000);
    let trigger = || {
        let mut command = booted.root("upgrade --trigger-automatic-update-policy");
        stdout(&success(&mut command).unwrap())
    };
    let policy = |word: &str| {
        let config = booted.boot.deployment().join("etc/apt-ostreed.conf");
        let text = format!("[Daemon]\nAutomaticUpdatePolicy={word}\n");
        std::fs::write(config, text).unwrap();
        success(&mut booted.root("reload")).unwrap();
    };
    assert_eq!(trigger(), "Automatic updates are not enabled.\n");

    policy("check");
    assert!(trigger().contains("AvailableUpdate:"));
    let status = booted.status();
    assert_eq!(deployments(&status).len(), 1);
    assert_eq!(status["cached-update"]["checksum"], newest.as_str());
    assert_eq!(status["cached-update"]["version"], "2");
    assert_eq!(
        status["cached-update"]["rpm-diff"]["upgraded"][0][1],
        "demo"
    );
    let text = stdout(&success(&mut booted.nobody("status")).unwrap());
    assert!(text.contains("AutomaticUpdates: check\n"), "{text}");
    assert!(text.contains("\nAvailableUpdate:\n"), "{text}");

    policy("stage");
    trigger();
    let status = booted.status();
    assert_eq!(deployments(&status).len(), 2);
    assert_eq!(status["deployments"][0]["checksum"], newest.as_str());
    assert_eq!(status["deployments"][0]["staged"], true);
    // It is no news any more.
    assert_eq!(status["cached-update"], Value::Null);
    assert_eq!(booted.boot.systemctl_calls(), [""; 0]);

    policy("apply");
    commit(&booted.repo, "3", 3000);
    assert!(trigger().ends_with("Rebooting.\n"));
    wait_for("the reboot", || booted.boot.systemctl_calls() == ["reboot"]).unwrap();
    // Nothing may come between.
    let text = failure(&mut booted.root("kargs --append=a=1"), 1).unwrap();
    assert!(text.contains("a reboot is on its way"), "{text}");
}

/// A real system, as layers need a package database.
#[test]
fn a_user_layers_a_file_and_root_sees_the_same_with_and_without_a_daemon() {
    if !privileged("a_user_layers_a_file_and_root_sees_the_same_with_and_without_a_daemon") {
        return;
    }
    let (sysroot, project) = Sysroot::with_bootable(&["root=LABEL=root", "rw"]).unwrap();
    let file = Deb::new("mine", "1").build(&project, "debs").unwrap();
    let debs = project.path().join("debs");
    let entry = sysroot.default_entry().unwrap();
    let etc = sysroot.deployment(&entry).unwrap().join("etc");
    drop(std::fs::remove_file(etc.join("resolv.conf")));
    std::fs::copy("/etc/resolv.conf", etc.join("resolv.conf")).unwrap();
    let tiny = TinyRepo::new().unwrap();
    let booted = Booted::on(sysroot, tiny, &[("debs", &debs)], &Setup::default());
    let name = file.rsplit('/').next().unwrap();
    let path = format!("/run/host/debs/{name}");

    let text = failure(&mut booted.nobody("install hello"), 1).unwrap();
    assert!(text.contains("install-uninstall-packages"), "{text}");
    let wrong = format!("install {path}#sha256={}", "0".repeat(64));
    let text = failure(&mut booted.nobody(&wrong), 1).unwrap();
    assert!(text.contains("its SHA-256 is "), "{text}");
    let install = format!("install {path}");
    let text = stdout(&success(&mut booted.nobody(&install)).unwrap());
    assert!(text.contains("Added:\n  mine 1\n"), "{text}");
    let layered = booted.status()["deployments"][0].clone();
    let id = "mine_1_all";
    assert_eq!(layered["requested-local-packages"][0], id);

    let clean = || drop(success(&mut booted.direct("cleanup -p")).unwrap());
    let json = format!("{install} --json");
    clean();
    let through = ended(&booted.root(&json).output().unwrap());
    let status = booted.status();
    clean();
    let direct = ended(&booted.direct(&json).output().unwrap());
    // In which order indices come is the network's business.
    let steps = |text: &str| {
        let mut all = lines(text);
        all.retain(|line| line["event"] != "detail" && line["event"] != "step-progress");
        all
    };
    assert_eq!(steps(&through.1), steps(&direct.1));
    assert_eq!((through.0, through.2), (direct.0, direct.2));
    assert_eq!(status["deployments"], booted.status()["deployments"]);
    assert_eq!(layered["checksum"], status["deployments"][0]["checksum"]);
}
