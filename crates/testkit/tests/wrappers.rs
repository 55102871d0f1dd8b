//! apt, apt-get and dpkg on a booted deployment.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt as _;

use apt_ostree_testkit::fakeboot::FakeBoot;
use apt_ostree_testkit::sysroot::Sysroot;
use apt_ostree_testkit::tinytree::{TinyCommit, TinyRepo};
use apt_ostree_testkit::{failure, privileged, stdout, success};
use camino::Utf8Path;

/// The wrapper as it is installed, but for where apt-ostree is.
fn write_wrappers(dir: &Utf8Path) {
    let text = include_str!("../../../data/wrappers/wrapper.in");
    let text = text.replace("@bindir@", "/run/host/programs");
    for name in ["apt", "apt-get", "dpkg"] {
        let path = dir.join(name);
        std::fs::write(&path, &text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn a_booted_deployment_explains_what_to_run_instead() {
    if !privileged("a_booted_deployment_explains_what_to_run_instead") {
        return;
    }
    let repo = TinyRepo::new().unwrap();
    repo.commit(&TinyCommit {
        branch: "debian/tiny",
        version: "1",
        timestamp: 1000,
        package: "1",
    })
    .unwrap();
    let sysroot = Sysroot::new().unwrap();
    let url = format!("file://{}", repo.path());
    sysroot.add_remote("origin", &url).unwrap();
    sysroot.deploy_remote("origin", "debian/tiny", &[]).unwrap();
    let wrappers = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(wrappers.path()).unwrap();
    write_wrappers(dir);

    let mut system = FakeBoot::start(&sysroot).unwrap();
    system.share("wrappers", dir);
    let command = |name: &str, args: &[&str]| {
        let program = format!("/run/host/wrappers/{name}");
        system.command(&program, args).unwrap()
    };
    for (name, args, instead) in [
        ("apt", &["install", "nginx"][..], "apt-ostree install nginx"),
        ("apt-get", &["-y", "dist-upgrade"], "apt-ostree upgrade"),
        ("apt", &["purge", "vim"], "apt-ostree override remove vim"),
        ("dpkg", &["-i", "./x.deb"], "apt-ostree install ./x.deb"),
    ] {
        let text = failure(&mut command(name, args), 1).unwrap();
        assert!(
            text.contains(&format!("'{instead}'")),
            "{name} {args:?}: {text}"
        );
        assert!(text.contains("runs from a deployment"), "{text}");
    }
    let arch = stdout(&success(&mut command("dpkg", &["--print-architecture"])).unwrap());
    assert!(!arch.trim().is_empty());
    let version = stdout(&success(&mut command("apt-get", &["--version"])).unwrap());
    assert!(version.starts_with("apt "), "{version}");
    // Elsewhere the program itself runs.
    let mut outside = std::process::Command::new(dir.join("dpkg"));
    let same = stdout(&success(outside.arg("--print-architecture")).unwrap());
    assert_eq!(same, arch);
}
