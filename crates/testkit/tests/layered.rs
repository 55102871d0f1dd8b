//! Packages layered on a commit are what apt installs on the same base.
//!
//! apt gets the root that the commit was made from and the `.deb` files that were layered. What it
//! leaves is postprocessed and committed by the compose verbs, then both commits are compared.
//! Differences are listed with reasons in `parity/layered.txt`, as those of composes are.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

use apt_ostree_sandbox::script_env;
use apt_ostree_testkit::flat::Flat;
use apt_ostree_testkit::installed::{SCRIPT_EPOCH, require_same};
use apt_ostree_testkit::{Project, privileged, success};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};

/// A small server whose owner then wants more.
const BASE: &str = "ref: test/base
container: true
repos:
  - name: debian
packages:
  include:
    - apt
    - bash
    - coreutils
    - dbus
    - gawk
    - grep
    - nano
    - openssh-server
    - python3-minimal
    - sed
    - systemd
";

/// Units and users, alternatives that the base has already, diversions, debconf, ucf, triggers, a
/// mail server, an interpreter with modules, capabilities.
const LAYERED: &[&str] = &[
    "at",
    "chrony",
    "cron",
    "dash",
    "dnsmasq",
    "exim4-daemon-light",
    "fontconfig",
    "git",
    "iptables",
    "iputils-ping",
    "logrotate",
    "man-db",
    "nftables",
    "nginx-light",
    "php-cli",
    "rsyslog",
    "shared-mime-info",
    "sudo",
    "tinyproxy",
    "vim",
];

/// Installs `$2...` in the root `$1` with its own apt, from the repository at `/run/flat`.
const APT: &str = r#"
root=$1; flat=$2; shift 2
hostname localhost
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs tmpfs "$root/dev"
for node in null zero full random urandom tty; do
    : >"$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir -p "$root/run/flat"
mount --bind "$flat" "$root/run/flat"
echo 'deb [trusted=yes] copy:/run/flat ./' >"$root/run/flat.list"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
options='-o Dir::Etc::SourceList=/run/flat.list -o Dir::Etc::SourceParts=/dev/null -o APT::Sandbox::User=root'
chroot "$root" apt-get -q $options update
chroot "$root" apt-get -q -y $options install "$@"
chroot "$root" apt-get clean
rm "$root/usr/sbin/policy-rc.d"
rm -rf "$root"/var/lib/apt/lists/*
"#;

/// Layers packages on `base` and returns the commit and the packages.
fn layer(project: &Project, base: &str) -> (String, Value) {
    let job = json!({
        "repo": project.path().join("output/repo"),
        "base": base,
        "packages": LAYERED,
    });
    let path = project.write("job.json", &job.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_layer-job"));
    success(
        command
            .arg(&path)
            .env("SOURCE_DATE_EPOCH", SCRIPT_EPOCH.to_string()),
    )
    .unwrap();
    let text = std::fs::read_to_string(format!("{path}.out")).unwrap();
    let result: Value = serde_json::from_str(&text).unwrap();
    let commit = result["commit"].as_str();
    (
        commit.unwrap_or_else(|| panic!("{result:#}")).to_owned(),
        result["packages"].clone(),
    )
}

/// The `.deb` files that were layered. The system keeps none, so they are downloaded once more.
fn flat_repo(project: &Project, packages: &Value) -> Flat {
    let list = LAYERED.iter().map(|name| format!("    - {name}\n"));
    let all = format!("{BASE}{}", list.collect::<String>());
    project.write("all.yaml", &all).unwrap();
    let args = ["all.yaml", "--download-only-debs"];
    success(&mut project.compose("tree", &args).unwrap()).unwrap();
    let mut flat = Flat::new(project.path().join("flat"), "amd64").unwrap();
    for package in packages.as_array().unwrap() {
        let [name, version, arch, sha256] =
            ["name", "version", "arch", "sha256"].map(|key| package[key].as_str().unwrap());
        let deb = project.cache().join(format!("debs/{sha256}.deb"));
        flat.add(name, version, arch, &deb).unwrap();
    }
    flat.write_index().unwrap();
    flat
}

/// The commit of the base's root after apt installed the same packages.
fn apt_install(project: &Project, flat: &Flat) -> String {
    let run = |verb: &str, args: &[&str]| {
        let mut command = project.compose(verb, args).unwrap();
        success(command.env("SOURCE_DATE_EPOCH", SCRIPT_EPOCH.to_string())).unwrap();
    };
    run("install", &["tree.yaml", "installed"]);
    let mut apt = Command::new("unshare");
    apt.args(["--mount", "--net", "--uts", "--ipc", "--pid", "--fork"])
        .args(["sh", "-ec", APT, "sh"])
        .arg(project.path().join("installed/rootfs"))
        .arg(&flat.dir)
        .args(LAYERED)
        .env_clear()
        .envs(script_env(SCRIPT_EPOCH));
    success(&mut apt).unwrap();
    run("postprocess", &["installed/rootfs", "tree.yaml"]);
    run(
        "commit",
        &["tree.yaml", "installed/rootfs", "--repo", "theirs"],
    );
    let mut rev_parse = Command::new("ostree");
    rev_parse.args(["rev-parse", "--repo=theirs", "test/base"]);
    let output = success(rev_parse.current_dir(project.path())).unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Checks a commit out and puts things where dpkg and the C library look for them.
fn check_out(project: &Project, repo: &str, commit: &str, name: &str) -> Utf8PathBuf {
    let root = project.path().join(name);
    let mut checkout = Command::new("ostree");
    checkout
        .arg(format!("--repo={repo}"))
        .args(["checkout", commit]);
    success(checkout.arg(&root).current_dir(project.path())).unwrap();
    let rename = |from: &str, to: &str| {
        std::fs::create_dir_all(root.join(to).parent().unwrap()).unwrap();
        std::fs::rename(root.join(from), root.join(to)).unwrap();
    };
    rename("usr/etc", "etc");
    rename("usr/lib/sysimage/dpkg", "var/lib/dpkg");
    root
}

fn compare(ours: &Utf8Path, theirs: &Utf8Path) {
    let list = ("layered.txt", include_str!("parity/layered.txt"));
    require_same(ours, theirs, &[list]).unwrap();
}

#[test]
fn layered_packages_are_what_apt_installs_on_the_base() {
    if !privileged("layered_packages_are_what_apt_installs_on_the_base") {
        return;
    }
    let project = Project::new(BASE).unwrap();
    project.tree(&[]).unwrap();
    let base = project.commit("test/base").unwrap();
    let (ours, packages) = layer(&project, &base);
    let flat = flat_repo(&project, &packages);
    let theirs = apt_install(&project, &flat);
    compare(
        &check_out(&project, "output/repo", &ours, "ours"),
        &check_out(&project, "theirs", &theirs, "apt"),
    );
}
