//! Runs the verbs on a system with a worker that answers what it is told to.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use apt_ostree_model::client::{ClientOutcome, DeployReport};
use apt_ostree_model::compose::{Failure, Outcome, PackageDiff, Reply, Request};
use apt_ostree_model::status::{Deployment, Status};
use apt_ostree_model::{ErrorKind, Event};

/// A directory with a worker that answers its first call by `0`, its second by `1` and so on, and
/// keeps what it was asked.
struct Worker(tempfile::TempDir);

impl Worker {
    fn new(replies: &[Vec<Reply>]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (number, lines) in replies.iter().enumerate() {
            let lines: Vec<String> = lines
                .iter()
                .map(|reply| serde_json::to_string(reply).unwrap() + "\n")
                .collect();
            std::fs::write(dir.path().join(format!("reply-{number}")), lines.concat()).unwrap();
        }
        let script = "#!/bin/sh\ncd \"${0%/*}\" || exit\nn=0\nwhile [ -e request-$n ]; do n=$((n+1)); \
                      done\ncat > request-$n\ncat reply-$n\n";
        let path = dir.path().join("worker");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        Self(dir)
    }

    fn answering(outcome: ClientOutcome) -> Self {
        Self::new(&[vec![finished(outcome)]])
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_apt-ostree"));
        command
            .args(line.split_whitespace())
            .env("APTOSTREE_SUPPRESS_REQUIRES_ROOT_CHECK", "1")
            .env("APTOSTREE_WORKER", self.path().join("worker"))
            .env_remove("VISUAL")
            .env_remove("EDITOR");
        command
    }

    fn run(&self, line: &str) -> (i32, String, String) {
        ended(&self.command(line).output().unwrap())
    }

    fn request(&self, number: usize) -> Request {
        let text = std::fs::read(self.path().join(format!("request-{number}"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

fn ended(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let code = output.status.code().expect("no signal");
    (code, text(&output.stdout), text(&output.stderr))
}

fn finished(outcome: ClientOutcome) -> Reply {
    Reply::Finished {
        finished: Outcome::Client(outcome),
    }
}

fn unchanged() -> ClientOutcome {
    ClientOutcome::Unchanged {
        message: "No updates available.".to_owned(),
    }
}

fn kargs(text: &str) -> ClientOutcome {
    ClientOutcome::Kargs {
        kargs: text.to_owned(),
    }
}

fn deployed() -> ClientOutcome {
    ClientOutcome::Deployed(DeployReport {
        checksum: "c".repeat(64),
        staged: true,
        pkgdiff: vec![PackageDiff {
            name: "htop".to_owned(),
            previous: None,
            new: Some(("3.2.2-2".to_owned(), "amd64".to_owned())),
        }],
        ..DeployReport::default()
    })
}

fn status(booted: usize) -> ClientOutcome {
    let deployment = |digit: &str, index| Deployment {
        checksum: digit.repeat(64),
        osname: "debian".to_owned(),
        origin: Some("origin:debian/13".to_owned()),
        booted: index == booted,
        ..Deployment::default()
    };
    ClientOutcome::Status(Box::new(Status {
        deployments: vec![deployment("a", 0), deployment("b", 1)],
        ..Status::default()
    }))
}

#[test]
fn a_change_prints_packages_and_what_to_do_next() {
    let worker = Worker::answering(deployed());
    let (code, out, err) = worker.run("install htop");
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(
        out,
        "Added:\n  htop 3.2.2-2\nChanges queued for next boot. Run \"systemctl reboot\" to start a \
         reboot\n"
    );
    let Request::Update(request) = worker.request(0) else {
        panic!("not an update")
    };
    assert_eq!(request.options.command_line, "apt-ostree install htop");
}

#[test]
fn the_command_line_is_kept_as_a_shell_reads_it() {
    let worker = Worker::answering(deployed());
    let mut command = worker.command("override replace --from");
    command.args(["origin=Debian Backports", "htop"]);
    assert_eq!(ended(&command.output().unwrap()).0, 0);
    let Request::Update(request) = worker.request(0) else {
        panic!("not an update")
    };
    assert_eq!(
        request.options.command_line,
        "apt-ostree override replace --from 'origin=Debian Backports' htop"
    );
}

#[test]
fn nothing_to_do_is_0_or_77() {
    for (line, expected) in [
        ("upgrade", 0),
        ("upgrade --unchanged-exit-77", 77),
        ("upgrade --check", 77),
        ("upgrade --preview", 77),
        ("install htop --idempotent --unchanged-exit-77", 77),
        ("kargs --append-if-missing a --unchanged-exit-77", 77),
        ("upgrade --check --json", 77),
    ] {
        let (code, out, _) = Worker::answering(unchanged()).run(line);
        assert_eq!(code, expected, "{line}");
        assert!(out.contains("No updates available."), "{line}: {out}");
    }
    let (code, out, _) = Worker::answering(unchanged()).run("upgrade --check -q");
    assert_eq!((code, out.as_str()), (77, ""));
}

#[test]
fn json_is_the_protocol() {
    let event = Reply::Event(Event::Message {
        text: "Staging".to_owned(),
    });
    let worker = Worker::new(&[vec![event, finished(deployed())]]);
    let (code, out, _) = worker.run("upgrade --json");
    assert_eq!(code, 0);
    let lines: Vec<serde_json::Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["event"], "message");
    assert_eq!(lines[1]["finished"]["result"], "deployed");
}

#[test]
fn a_failure_is_told_with_its_hint() {
    let failed = Failure {
        kind: ErrorKind::Unsatisfiable,
        message: "'htop' is requested already".to_owned(),
        hint: Some("use --idempotent".to_owned()),
    };
    let (code, out, err) = Worker::new(&[vec![Reply::Failed { failed }]]).run("install htop");
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(
        err,
        "error: 'htop' is requested already\nhint: use --idempotent\n"
    );
}

#[test]
fn an_answer_to_something_else_is_an_error() {
    for line in ["status", "kargs", "db list x", "db diff x y", "initramfs"] {
        let (code, out, err) = Worker::answering(unchanged()).run(line);
        assert_eq!((code, out.as_str()), (1, ""), "{line}");
        assert!(
            err.starts_with("error: the worker answered another request"),
            "{err}"
        );
    }
}

#[test]
fn status_is_text_json_or_what_a_path_finds() {
    let run = |line: &str| Worker::answering(status(1)).run(line);
    let (code, out, err) = run("status");
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("\n● origin:debian/13\n"), "{out}");
    assert!(!out.contains('\u{1b}'), "no colours in a pipe: {out}");
    assert!(run("status -v").1.contains("(index: 1)"));
    let json: serde_json::Value = serde_json::from_str(&run("status --json -p").1).unwrap();
    assert_eq!(json["deployments"].as_array().unwrap().len(), 2);
    let json: serde_json::Value = serde_json::from_str(&run("status --json -b").1).unwrap();
    assert_eq!(json["deployments"].as_array().unwrap().len(), 1);
    let (_, out, _) = run("status -J $.deployments[?(@.booted)].checksum");
    assert_eq!(out, format!("[\n  \"{}\"\n]\n", "b".repeat(64)));
}

#[test]
fn status_exits_77_when_something_waits() {
    let code = |booted, line: &str| Worker::answering(status(booted)).run(line).0;
    assert_eq!(code(1, "status"), 0);
    assert_eq!(code(1, "status --pending-exit-77"), 77);
    // The deployment that waits counts, whatever is shown.
    assert_eq!(code(1, "status --pending-exit-77 --booted --json"), 77);
    assert_eq!(code(0, "status --pending-exit-77"), 0);
}

#[test]
fn what_is_reported_does_not_disturb_what_is_read() {
    let message = Reply::Event(Event::Message {
        text: "x".to_owned(),
    });
    let worker = Worker::new(&[vec![message, finished(kargs("root=UUID=1 quiet"))]]);
    let (code, out, _) = worker.run("kargs --deploy-index 1");
    assert_eq!((code, out.as_str()), (0, "root=UUID=1 quiet\n"));
    let Request::Kargs(request) = worker.request(0) else {
        panic!("not kargs")
    };
    assert_eq!(request.deploy_index, Some(1));
}

#[test]
fn the_editor_gets_the_arguments_and_its_result_is_checked_against_them() {
    let worker = Worker::new(&[
        vec![finished(kargs("root=UUID=1 quiet"))],
        vec![finished(deployed())],
    ]);
    let mut command = worker.command("kargs --editor --deploy-index 1");
    command.env("EDITOR", "sed -i s/quiet/splash/");
    let (code, _, err) = ended(&command.output().unwrap());
    assert_eq!((code, err.as_str()), (0, ""));
    let Request::Kargs(request) = worker.request(1) else {
        panic!("not kargs")
    };
    assert_eq!(request.replace_all.as_deref(), Some("root=UUID=1 splash"));
    assert_eq!(request.expected.as_deref(), Some("root=UUID=1 quiet"));
    assert_eq!(request.deploy_index, Some(1));
}

#[test]
fn arguments_that_are_not_edited_are_an_error_or_77() {
    for (line, editor, expected) in [
        ("kargs --editor", "true", 1),
        ("kargs --editor --unchanged-exit-77", "true", 77),
        ("kargs --editor", "false", 1),
        ("kargs --editor --unchanged-exit-77", "false", 1),
        ("kargs --editor", "printf 'a\\033b' >", 1),
    ] {
        let worker = Worker::answering(kargs("root=UUID=1"));
        let mut command = worker.command(line);
        command.env("VISUAL", editor);
        let (code, out, err) = ended(&command.output().unwrap());
        assert_eq!(code, expected, "{line} {editor}: {err}");
        assert_eq!(expected == 77, out == "No changes.\n", "{line} {editor}");
        assert!(!worker.path().join("request-1").exists(), "{line} {editor}");
        assert!(!err.contains('\u{1b}'), "{err:?}");
    }
}

#[test]
fn db_diff_asks_which_deployments_there_are_when_none_is_named() {
    let diff = ClientOutcome::Diff {
        from: "b".repeat(64),
        to: "a".repeat(64),
        packages: Vec::new(),
    };
    let worker = Worker::new(&[vec![finished(status(1))], vec![finished(diff)]]);
    let (code, out, err) = worker.run("db diff");
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("from: booted deployment (bbb"), "{out}");
    assert!(out.contains("to:   pending deployment (aaa"), "{out}");
    let Request::Db(request) = worker.request(1) else {
        panic!("not db")
    };
    assert_eq!(request.revisions, ["b".repeat(64), "a".repeat(64)]);
    assert!(request.diff);
}

#[test]
fn db_list_keeps_the_order_of_the_commits() {
    let row = |name: &str| (name.to_owned(), "5.2".to_owned(), "amd64".to_owned());
    let commits = [
        ("a/b".to_owned(), vec![row("bash")]),
        ("c/d".to_owned(), vec![row("base-files")]),
    ];
    let worker = Worker::answering(ClientOutcome::Packages {
        commits: commits.into(),
    });
    let (code, out, _) = worker.run("db list c/d a/b ba");
    assert_eq!(code, 0);
    assert_eq!(
        out,
        "ostree commit: c/d\n base-files 5.2 amd64\nostree commit: a/b\n bash 5.2 amd64\n"
    );
    let Request::Db(request) = worker.request(0) else {
        panic!("not db")
    };
    assert_eq!(request.revisions, ["c/d", "a/b"]);
    assert_eq!(request.prefixes, ["ba"]);
    assert!(!request.diff);
}

#[test]
fn wrong_usage_reaches_no_worker() {
    for line in [
        "override replace nano",
        "db diff --repo /srv/repo",
        "override",
        "db",
        "cleanup",
        "status -J nonsense",
        "ex",
    ] {
        let worker = Worker::answering(unchanged());
        let (code, out, err) = worker.run(line);
        assert_eq!((code, out.as_str()), (2, ""), "{line}: {err}");
        assert!(!worker.path().join("request-0").exists(), "{line}");
    }
}

/// Runs `line` on a terminal of 60 columns, where `input` is typed once `prompt` is there.
fn on_terminal(worker: &Worker, line: &str, prompt: &str, input: &str) -> (i32, String) {
    let program = env!("CARGO_BIN_EXE_apt-ostree");
    let mut child = Command::new("timeout")
        .args([
            "--foreground",
            "60",
            "script",
            "--quiet",
            "--return",
            "--command",
        ])
        .arg(format!("stty cols 60 -echo; exec '{program}' {line}"))
        .arg("/dev/null")
        .env("APTOSTREE_SUPPRESS_REQUIRES_ROOT_CHECK", "1")
        .env("APTOSTREE_WORKER", worker.path().join("worker"))
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut out = Vec::new();
    while !String::from_utf8_lossy(&out).contains(prompt) {
        let mut byte = [0];
        stdout.read_exact(&mut byte).expect("the prompt");
        out.push(byte[0]);
    }
    stdin.write_all(input.as_bytes()).unwrap();
    stdout.read_to_end(&mut out).unwrap();
    let code = child.wait().unwrap().code().expect("no signal");
    (code, String::from_utf8(out).unwrap())
}

fn planned() -> ClientOutcome {
    match deployed() {
        ClientOutcome::Deployed(report) => ClientOutcome::Planned(report),
        other => other,
    }
}

#[test]
fn a_change_of_the_running_system_is_shown_and_asked_about_on_a_terminal() {
    let dry_run = |worker: &Worker, number| match worker.request(number) {
        Request::Update(request) => request.options.dry_run,
        other => panic!("not an update: {other:?}"),
    };
    let worker = Worker::new(&[vec![finished(planned())], vec![finished(deployed())]]);
    let (code, out) = on_terminal(&worker, "install htop -A", "[y/N]", "y\n");
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("  htop 3.2.2-2\r\nContinue? [y/N] "), "{out}");
    assert!(dry_run(&worker, 0) && !dry_run(&worker, 1));

    for answer in ["n\n", "\n"] {
        let worker = Worker::new(&[vec![finished(planned())]]);
        let (code, out) = on_terminal(&worker, "install htop -A", "[y/N]", answer);
        assert_eq!(code, 1, "{out}");
        assert!(out.contains("cancelled"), "{out}");
        assert!(!worker.path().join("request-1").exists());
    }
    // Ctrl-C, although a worker ran before.
    let worker = Worker::new(&[vec![finished(planned())]]);
    let (code, out) = on_terminal(&worker, "install htop -A", "[y/N]", "\u{3}");
    assert_eq!(code, 128 + 2, "{out}");

    let worker = Worker::answering(deployed());
    assert_eq!(on_terminal(&worker, "install htop -A -y", "", "").0, 0);
    assert!(!dry_run(&worker, 0));
}

#[test]
fn a_terminal_gets_colours_and_lines_that_fit() {
    let packages: Vec<String> = (0..30).map(|number| format!("package-{number}")).collect();
    let deployment = Deployment {
        checksum: "a".repeat(8),
        booted: true,
        packages,
        ..Deployment::default()
    };
    let status = ClientOutcome::Status(Box::new(Status {
        deployments: vec![deployment],
        ..Status::default()
    }));
    let (code, out) = on_terminal(&Worker::answering(status), "status", "", "");
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("\u{1b}[1m●"), "{out:?}");
    assert!(out.contains("package-29"), "{out}");
    assert!(
        out.lines()
            .all(|line| line.trim_end().chars().count() <= 60),
        "{out}"
    );
}

#[test]
fn who_is_not_root_is_told_so() {
    let worker = Worker::answering(unchanged());
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(env!("CARGO_BIN_EXE_apt-ostree"))
        .arg("upgrade")
        .env("APTOSTREE_WORKER", worker.path().join("worker"))
        .env_remove("APTOSTREE_SUPPRESS_REQUIRES_ROOT_CHECK");
    let (code, out, err) = ended(&command.output().unwrap());
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(
        err,
        "error: only root can change a system without apt-ostreed\n"
    );
}
