//! A composed root is what dpkg and apt install from the same packages.
//!
//! mmdebstrap makes the other root, from a repository of exactly the packages of the compose. The
//! differences that are left are listed, with reasons, in `parity/*.txt`; an entry that is missing
//! there fails the test, and so does one that nothing needs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

use apt_ostree_sandbox::script_env;
use apt_ostree_testkit::flat::Flat;
use apt_ostree_testkit::installed::{SCRIPT_EPOCH, require_same};
use apt_ostree_testkit::{MINIMAL, Project, privileged, success};
use camino::Utf8PathBuf;

const COMMON: &str = include_str!("parity/common.txt");

const SERVER: &[&str] = &[
    "linux-image-amd64",
    "systemd-sysv",
    "openssh-server",
    "nginx",
    "postgresql",
    "podman",
    "sudo",
    "locales",
    "network-manager",
];

/// Diversions, alternatives, triggers, conffiles, debconf, users, statoverrides, capabilities,
/// ucf, foreign architectures.
const NASTY: &[&str] = &[
    "apache2",
    "apt",
    "at",
    "bind9",
    "bsd-mailx",
    "busybox",
    "ca-certificates",
    "chrony",
    "cron",
    "cups-daemon",
    "dash",
    "dbus",
    "dictionaries-common",
    "docbook-xml",
    "emacsen-common",
    "exim4-daemon-light",
    "fontconfig",
    "fuse3",
    "gcc-14-base:i386",
    "git",
    "glibc-doc",
    "iptables",
    "iputils-ping",
    "isc-dhcp-client",
    "keyboard-configuration",
    "libc6:i386",
    "libglib2.0-0t64",
    "libnss-systemd",
    "libpq-dev",
    "libzstd1:i386",
    "lilypond-data",
    "man-db",
    "mawk",
    "mtr-tiny",
    "nftables",
    "openjdk-21-jre-headless",
    "openssh-client",
    "php",
    "plocate",
    "polkitd",
    "postgresql-common",
    "python3",
    "rsyslog",
    "samba-common",
    "sgml-base",
    "shared-mime-info",
    "squid",
    "ssl-cert",
    "tcpdump",
    "tex-common",
    "texinfo",
    "tzdata",
    "ucf",
    "udisks2",
    "uuid-runtime",
    "vim",
    "vim-tiny",
    "wamerican",
    "wbritish",
    "wireshark-common",
    "xfonts-base",
    "xml-core",
];

fn treefile(name: &str, architectures: &str, packages: &[&str]) -> String {
    let list = packages.iter().fold(String::new(), |text, package| {
        text + &format!("    - \"{package}\"\n")
    });
    format!(
        "ref: test/{name}\nrepos:\n  - name: debian\n    architectures: [{architectures}]\npackages:\n  include:\n{list}"
    )
}

/// The packages of the project's lockfile in a flat repository.
fn flat_repo(project: &Project) -> Flat {
    let text = std::fs::read_to_string(project.path().join("lock.json")).unwrap();
    let lock: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut flat = Flat::new(project.path().join("flat"), lock["arch"].as_str().unwrap()).unwrap();
    for (key, package) in lock["packages"].as_object().unwrap() {
        let [version, arch, sha256] =
            ["version", "arch", "sha256"].map(|name| package[name].as_str().unwrap());
        let deb = project.cache().join(format!("debs/{sha256}.deb"));
        let name = key.split(':').next().unwrap();
        flat.add(name, version, arch, &deb).unwrap();
    }
    flat.write_index().unwrap();
    flat
}

/// Installs the packages of `flat` with dpkg and apt, under the conditions of a compose: same
/// environment, no network, same host name.
fn mmdebstrap(project: &Project, flat: &Flat) -> Utf8PathBuf {
    let root = project.path().join("mmdebstrap");
    let mut command = Command::new("unshare");
    command.args([
        "--net",
        "--uts",
        "sh",
        "-ec",
        "hostname localhost; exec \"$@\"",
        "sh",
    ]);
    command.args([
        "mmdebstrap",
        "--mode=root",
        "--variant=essential",
        "--format=directory",
    ]);
    command.arg("--aptopt=APT::Sandbox::User \"root\"");
    command.arg(format!("--architectures={}", flat.architectures.join(",")));
    command.arg(format!("--include={}", flat.names.join(",")));
    command
        .arg("trixie")
        .arg(&root)
        .arg(format!("deb [trusted=yes] copy:{} ./", flat.dir));
    command.env_clear().envs(script_env(SCRIPT_EPOCH));
    success(&mut command).unwrap();
    root
}

/// Composes `treefile`, installs the same packages with mmdebstrap, and compares.
fn same_as_dpkg(test: &str, treefile: &str, list: (&str, &str)) {
    if !privileged(test) {
        return;
    }
    let project = Project::new(treefile).unwrap();
    let args = [
        "tree.yaml",
        "out",
        "--write-lockfile-to",
        "lock.json",
        "--force-nocache",
    ];
    success(
        project
            .compose("install", &args)
            .unwrap()
            .env("SOURCE_DATE_EPOCH", SCRIPT_EPOCH.to_string()),
    )
    .unwrap();
    let flat = flat_repo(&project);
    let theirs = mmdebstrap(&project, &flat);
    let ours = project.path().join("out/rootfs");
    require_same(&ours, &theirs, &[("common.txt", COMMON), list]).unwrap();
}

#[test]
fn the_minimal_set_is_what_dpkg_installs() {
    same_as_dpkg(
        "the_minimal_set_is_what_dpkg_installs",
        MINIMAL,
        ("minimal.txt", include_str!("parity/minimal.txt")),
    );
}

#[test]
fn the_server_set_is_what_dpkg_installs() {
    let treefile = treefile("server", "amd64", SERVER);
    same_as_dpkg(
        "the_server_set_is_what_dpkg_installs",
        &treefile,
        ("server.txt", include_str!("parity/server.txt")),
    );
}

#[test]
#[ignore = "large: run by make test-full"]
fn the_desktop_set_is_what_dpkg_installs() {
    let treefile = treefile("desktop", "amd64", &["gnome-core"]);
    same_as_dpkg(
        "the_desktop_set_is_what_dpkg_installs",
        &treefile,
        ("desktop.txt", include_str!("parity/desktop.txt")),
    );
}

#[test]
#[ignore = "large: run by make test-full"]
fn the_nasty_set_is_what_dpkg_installs() {
    let treefile = treefile("nasty", "amd64, i386", NASTY);
    same_as_dpkg(
        "the_nasty_set_is_what_dpkg_installs",
        &treefile,
        ("nasty.txt", include_str!("parity/nasty.txt")),
    );
}
