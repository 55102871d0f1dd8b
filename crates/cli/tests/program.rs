//! Runs the program itself: exit codes, streams and help.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Output};

fn program(args: &[&OsStr]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_apt-ostree"))
        .args(args)
        .env("APTOSTREE_SUPPRESS_REQUIRES_ROOT_CHECK", "1")
        .env("APTOSTREE_WORKER", "/nonexistent/worker")
        .output()
        .unwrap()
}

fn run(line: &str) -> (i32, String, String) {
    let args: Vec<&OsStr> = line.split_whitespace().map(OsStr::new).collect();
    let output = program(&args);
    (
        output.status.code().expect("no signal"),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn a_call_without_a_verb_prints_usage_to_stderr_and_fails() {
    for line in ["", "compose", "-q"] {
        let (code, out, err) = run(line);
        assert_eq!((code, out.as_str()), (1, ""), "{line}");
        assert!(err.contains("Usage: apt-ostree"), "{line}: {err}");
    }
    assert!(run("compose").2.contains("postprocess"));
}

#[test]
fn help_goes_to_stdout_and_succeeds() {
    for line in ["-h", "--help", "compose --help", "compose tree -h"] {
        let (code, out, err) = run(line);
        assert_eq!((code, err.as_str()), (0, ""), "{line}");
        assert!(out.contains("Usage: apt-ostree"), "{line}: {out}");
    }
}

#[test]
fn wrong_usage_exits_2_and_prints_only_to_stderr() {
    for line in [
        "frobnicate",
        "--frobnicate",
        "compose frobnicate",
        "compose tree",
        "compose tree a.yaml --frobnicate",
        "compose tree a.yaml --mirror nowhere",
    ] {
        let (code, out, err) = run(line);
        assert_eq!((code, out.as_str()), (2, ""), "{line}");
        assert!(err.starts_with("error: "), "{line}: {err}");
    }
}

#[test]
fn an_argument_that_is_not_utf8_is_an_error() {
    let bad = OsString::from_vec(b"a\xff\x1b.yaml".to_vec());
    let output = program(&["compose".as_ref(), "tree".as_ref(), &bad]);
    assert_eq!(output.status.code(), Some(2));
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        err,
        "error: argument 3 is not valid UTF-8: 'a\u{fffd}\\u{1b}.yaml'\n"
    );
}

#[test]
fn version_is_yaml_with_the_keys_of_rpm_ostree() {
    let (code, out, _) = run("--version");
    assert_eq!(code, 0);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "apt-ostree:");
    assert_eq!(
        lines[1],
        format!(" Version: '{}'", env!("CARGO_PKG_VERSION"))
    );
    assert!(lines[2].starts_with(" Git: "));
    assert_eq!(&lines[3..], [" Features:", "  - compose", "  - container"]);
}

#[test]
fn print_only_prints_the_flattened_treefile_without_a_worker() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("base.yaml"), "packages: [bash]\n").unwrap();
    let text = "ref: test/${basearch}/${what}\ninclude: base.yaml\nrepos:\n  - name: debian\n\
                packages: [sed]\n";
    let treefile = dir.path().join("tree.yaml");
    std::fs::write(&treefile, text).unwrap();
    let treefile = treefile.to_str().unwrap();
    let options = "--print-only --arch arm64 --var what=x";
    for verb in ["tree", "install", "rootfs", "image"] {
        let dest = if verb == "tree" { "" } else { "dest" };
        let (code, out, err) = run(&format!("compose {verb} {treefile} {dest} {options}"));
        assert_eq!((code, err.as_str()), (0, ""), "{verb}");
        let json: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(json["ref"], "test/aarch64/x", "{out}");
        let packages = json["packages"].to_string();
        assert!(
            packages.contains("bash") && packages.contains("sed"),
            "{out}"
        );
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_wrong_treefile_is_told_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let treefile = dir.path().join("tree.yaml");
    std::fs::write(&treefile, "ref: a/b\npakages: [bash]\n").unwrap();
    let line = format!("compose tree {} --print-only", treefile.display());
    let (code, out, err) = run(&line);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        err.contains("tree.yaml:2:1: ") && err.contains("packages"),
        "{err}"
    );
    let (code, _, err) = run("compose tree / --print-only");
    assert_eq!(code, 2, "{err}");
}

#[test]
fn a_worker_that_cannot_be_started_is_an_error() {
    let (code, out, err) = run("compose tree a.yaml");
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        err.starts_with("error: starting '/nonexistent/worker': "),
        "{err}"
    );
}

#[test]
fn a_program_that_is_no_worker_is_an_error() {
    for (program, text) in [
        (
            "/bin/true",
            "error: the worker ended with status 0 and without an answer\n",
        ),
        (
            "/bin/false",
            "error: the worker ended with status 1 and without an answer\n",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_apt-ostree"))
            .args(["compose", "tree", "a.yaml"])
            .env("APTOSTREE_SUPPRESS_REQUIRES_ROOT_CHECK", "1")
            .env("APTOSTREE_WORKER", program)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{program}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), text);
    }
}

#[test]
fn settings_of_apt_dpkg_and_libostree_do_not_reach_the_worker() {
    const FOREIGN: [&str; 9] = [
        "APT_CONFIG",
        "DPKG_ROOT",
        "DPKG_ADMINDIR",
        "DPKG_FORCE",
        "OSTREE_REPO",
        "OSTREE_SYSROOT_DEBUG",
        "LANGUAGE",
        "GIO_EXTRA_MODULES",
        "G_DEBUG",
    ];
    const PASSED: [&str; 5] = [
        "APTOSTREE_LOG",
        "SOURCE_DATE_EPOCH",
        "GNUPGHOME",
        "https_proxy",
        "TMPDIR",
    ];
    let dir = tempfile::tempdir().unwrap();
    let worker = dir.path().join("worker");
    std::fs::write(&worker, "#!/bin/sh\nenv > \"${0%/*}/env\"\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&worker, mode).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_apt-ostree"));
    command
        .args(["compose", "tree", "a.yaml"])
        .env("APTOSTREE_SUPPRESS_REQUIRES_ROOT_CHECK", "1")
        .env("APTOSTREE_WORKER", &worker)
        .env("LC_ALL", "de_DE.UTF-8")
        .env("GIO_USE_VFS", "gvfs")
        .envs(FOREIGN.iter().chain(&PASSED).map(|name| (name, "/nowhere")));
    assert_eq!(command.output().unwrap().status.code(), Some(1));
    let text = std::fs::read_to_string(dir.path().join("env")).unwrap();
    let value = |name: &str| {
        let line = |line: &str| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned());
        text.lines().find_map(line)
    };
    for name in FOREIGN {
        assert_eq!(value(name), None, "{name}");
    }
    for name in PASSED {
        assert_eq!(value(name).as_deref(), Some("/nowhere"), "{name}");
    }
    assert_eq!(value("LC_ALL").as_deref(), Some("C.UTF-8"));
    assert_eq!(value("GIO_USE_VFS").as_deref(), Some("local"));
}

#[test]
fn a_closed_standard_output_is_no_panic() {
    let script = format!(
        "'{}' --version | true; '{0}' --help | true; '{0}' --version >&-",
        env!("CARGO_BIN_EXE_apt-ostree")
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(!err.contains("panicked"), "{err}");
}

#[test]
fn help_texts_are_as_recorded() {
    let mut command = apt_ostree::cli::command().term_width(100);
    command.build();
    insta::assert_snapshot!("main", command.render_long_help());
    let compose = command.find_subcommand_mut("compose").unwrap();
    insta::assert_snapshot!("compose", compose.render_long_help());
    for verb in [
        "tree",
        "install",
        "postprocess",
        "commit",
        "rootfs",
        "image",
    ] {
        let verb_command = compose.find_subcommand_mut(verb).unwrap();
        insta::assert_snapshot!(verb, verb_command.render_long_help());
    }
    for line in [
        "status",
        "upgrade",
        "rollback",
        "deploy",
        "rebase",
        "install",
        "uninstall",
        "override",
        "override replace",
        "override remove",
        "override reset",
        "reset",
        "kargs",
        "initramfs",
        "initramfs-etc",
        "apply-live",
        "usroverlay",
        "ex",
        "ex history",
        "cleanup",
        "finalize-deployment",
        "cancel",
        "reload",
        "db",
        "db diff",
        "db list",
        "db version",
        "search",
        "refresh-md",
        "container",
        "container lint",
    ] {
        let verb = line.split(' ').fold(&mut command, |at, name| {
            at.find_subcommand_mut(name).unwrap()
        });
        let name = format!("client-{}", line.replace(' ', "-"));
        insta::assert_snapshot!(name, verb.render_long_help());
    }
}
