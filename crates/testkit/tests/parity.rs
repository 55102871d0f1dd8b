//! A composed root is what dpkg and apt install from the same packages.
//!
//! mmdebstrap makes the other root, from a repository of exactly the packages of the compose. The
//! differences that are left are listed, with reasons, in `parity/*.txt`; an entry that is missing
//! there fails the test, and so does one that nothing needs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Write as _;
use std::process::Command;

use apt_ostree_testkit::installed::{compare, complaints};
use apt_ostree_testkit::{MINIMAL, Project, privileged, success};
use camino::{Utf8Path, Utf8PathBuf};

/// Both installations get this `SOURCE_DATE_EPOCH`.
const EPOCH: &str = "1700000000";

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

/// The packages of a lockfile in a flat repository.
struct Flat {
    dir: Utf8PathBuf,
    /// `NAME`, or `NAME:ARCH` for a foreign architecture.
    names: Vec<String>,
    architectures: Vec<String>,
}

fn flat_repo(project: &Project) -> Flat {
    let text = std::fs::read_to_string(project.path().join("lock.json")).unwrap();
    let lock: serde_json::Value = serde_json::from_str(&text).unwrap();
    let native = lock["arch"].as_str().unwrap();
    let dir = project.path().join("flat");
    std::fs::create_dir(&dir).unwrap();
    let mut flat = Flat {
        dir,
        names: Vec::new(),
        architectures: vec![native.to_owned()],
    };
    for (key, package) in lock["packages"].as_object().unwrap() {
        let [version, arch, sha256] =
            ["version", "arch", "sha256"].map(|name| package[name].as_str().unwrap());
        let name = key.split(':').next().unwrap();
        let file = flat
            .dir
            .join(format!("{name}_{}_{arch}.deb", version.replace(':', "%3a")));
        let cached = project.cache().join(format!("debs/{sha256}.deb"));
        std::fs::hard_link(&cached, &file)
            .or_else(|_| std::fs::copy(&cached, &file).map(drop))
            .unwrap();
        if arch == native || arch == "all" {
            flat.names.push(name.to_owned());
        } else {
            flat.names.push(format!("{name}:{arch}"));
            if !flat.architectures.iter().any(|a| a == arch) {
                flat.architectures.push(arch.to_owned());
            }
        }
    }
    write_index(&flat);
    flat
}

fn write_index(flat: &Flat) {
    let architectures = flat.architectures.join(" ");
    let release = format!(
        "apt-ftparchive packages . >Packages && apt-ftparchive -o APT::FTPArchive::Release::Suite=trixie \
         -o APT::FTPArchive::Release::Codename=trixie -o 'APT::FTPArchive::Release::Architectures={architectures}' \
         release . >Release.new && mv Release.new Release"
    );
    success(
        Command::new("sh")
            .args(["-ec", &release])
            .current_dir(&flat.dir),
    )
    .unwrap();
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
    command.env_clear().envs([
        ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
        ("DEBCONF_NOWARNINGS", "yes"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("HOME", "/root"),
        ("INITRD", "No"),
        ("LANG", "C.UTF-8"),
        ("LC_ALL", "C.UTF-8"),
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ),
        ("SOURCE_DATE_EPOCH", EPOCH),
        ("SYSTEMD_OFFLINE", "1"),
        ("TZ", "UTC"),
    ]);
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
            .env("SOURCE_DATE_EPOCH", EPOCH),
    )
    .unwrap();
    let flat = flat_repo(&project);
    let theirs = mmdebstrap(&project, &flat);
    report(&project.path().join("out/rootfs"), &theirs, list);
}

fn report(ours: &Utf8Path, theirs: &Utf8Path, list: (&str, &str)) {
    let found = compare(ours, theirs).unwrap();
    let complaints = complaints(&found, &[("common.txt", COMMON), list]).unwrap();
    let counts = format!(
        "{} entries, {} packages, {} listed differences",
        found.entries,
        found.packages,
        found.differences.len()
    );
    drop(std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("{counts}\n").as_bytes(),
    ));
    let text = complaints.iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{line}");
        text
    });
    assert!(
        complaints.is_empty(),
        "{counts}, {} complaints:\n{text}",
        complaints.len()
    );
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
