//! Changes of a running system without a reboot, and files in its initramfs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::{Command, Output};

use apt_ostree_testkit::nspawn::Container;
use apt_ostree_testkit::sysroot::{STATEROOT, Sysroot};
use apt_ostree_testkit::tinytree::{TinyCommit, TinyRepo};
use apt_ostree_testkit::{Project, binary, failure, privileged, stdout, success};
use serde_json::Value;

const UNIT: &str = "tinyproxy.service";

/// A container in which the command line runs.
struct Running(Container);

impl Running {
    fn boot(sysroot: &Sysroot) -> Self {
        let (container, state) = Container::boot(sysroot).unwrap();
        assert_eq!(state, "running");
        Self(container)
    }

    fn apt_ostree(&self, args: &[&str]) -> String {
        stdout(&success(&mut self.0.program("apt-ostree", args)).unwrap())
    }

    fn refused(&self, args: &[&str]) -> String {
        failure(&mut self.0.program("apt-ostree", args), 1).unwrap()
    }

    /// Runs a verb that is killed at a fail point.
    fn killed(&self, place: &str, args: &[&str]) -> Output {
        let mut command = self.0.program("apt-ostree", args);
        let output = command.env("APTOSTREE_FAILPOINTS", place).output().unwrap();
        assert!(!output.status.success(), "{place} was not reached");
        output
    }

    /// The deployment that runs.
    fn booted(&self) -> Value {
        let status = self.apt_ostree(&["status", "--json"]);
        let status: Value = serde_json::from_str(&status).unwrap();
        let deployments = status["deployments"].as_array().unwrap();
        deployments
            .iter()
            .find(|deployment| deployment["booted"] == true)
            .unwrap()
            .clone()
    }

    fn next(&self) -> String {
        let text = self.apt_ostree(&["status", "-J", "$.deployments[0].checksum"]);
        let found: Vec<String> = serde_json::from_str(&text).unwrap();
        found[0].clone()
    }

    fn has(&self, path: &str) -> bool {
        self.0.run(&["test", "-e", path]).unwrap().status.success()
    }

    fn write(&self, path: &str, text: &str) {
        let line = format!("printf '%s' '{text}' >{path}");
        self.0.text(&["sh", "-c", &line]).unwrap();
    }

    fn require_tinyproxy(&self, there: bool) {
        for path in [
            "/usr/bin/tinyproxy",
            "/usr/lib/systemd/system/tinyproxy.service",
            "/etc/tinyproxy/tinyproxy.conf",
            "/etc/systemd/system/multi-user.target.wants/tinyproxy.service",
        ] {
            assert_eq!(self.has(path), there, "{path}");
        }
        let listed = self.0.run(&["dpkg", "-s", "tinyproxy"]).unwrap();
        assert_eq!(listed.status.success(), there);
    }
}

/// A system that has tinyproxy imported, and for its sources a directory with an index of just
/// that: its container has no network.
fn system() -> (Sysroot, Project) {
    let (sysroot, project) = Sysroot::with_bootable(&["root=LABEL=root", "rw"]).unwrap();
    let mut download = project
        .apt_ostree(&["install", "--download-only", "tinyproxy"])
        .unwrap();
    download.args(["--sysroot", sysroot.path().as_str()]);
    success(&mut download).unwrap();

    let cache = sysroot.path().join("ostree/repo/extensions/aptostree");
    let mut index = String::new();
    for list in cache.join("apt/lists").read_dir_utf8().unwrap() {
        let list = list.unwrap();
        if list.file_name().ends_with("_Packages") {
            let text = std::fs::read_to_string(list.path()).unwrap();
            let wanted = |stanza: &&str| {
                let name = stanza.lines().next().unwrap_or_default();
                let name = name.strip_prefix("Package: ").unwrap_or_default();
                cache_has(&sysroot, name)
            };
            for stanza in text.split("\n\n").filter(wanted) {
                index.push_str(stanza.trim());
                index.push_str("\n\n");
            }
        }
    }
    let archive = sysroot.path().join("archive");
    std::fs::create_dir(&archive).unwrap();
    std::fs::write(archive.join("Packages"), index).unwrap();
    let mut release = Command::new("apt-ftparchive");
    let release = release.args(["release", "."]).current_dir(&archive);
    let release = success(release).unwrap();
    std::fs::write(archive.join("Release"), release.stdout).unwrap();
    let entry = sysroot.default_entry().unwrap();
    let sources = sysroot
        .deployment(&entry)
        .unwrap()
        .join("etc/apt/sources.list.d");
    for file in sources.read_dir().unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    let source = "Types: deb\nURIs: file:/sysroot/archive\nSuites: ./\nTrusted: yes\n";
    std::fs::write(sources.join("test.sources"), source).unwrap();
    (sysroot, project)
}

/// Whether a package was imported.
fn cache_has(sysroot: &Sysroot, name: &str) -> bool {
    let refs = sysroot.path().join("ostree/repo/refs/heads/aptostree/pkg");
    !name.is_empty() && refs.join(name).exists()
}

#[test]
fn packages_run_without_a_reboot_and_after_it() {
    if !privileged("packages_run_without_a_reboot_and_after_it") {
        return;
    }
    let (sysroot, _project) = system();
    let running = Running::boot(&sysroot);
    let before = running.booted();
    assert_eq!(before["unlocked"], "none");
    running.write("/etc/motd", "mine");
    let text = running.refused(&["apply-live"]);
    assert!(text.contains("no deployment waits"), "{text}");

    let text = running.apt_ostree(&["install", "-A", "-y", "tinyproxy"]);
    assert!(text.contains("Enabled units that don't run yet"), "{text}");
    assert!(text.contains(UNIT), "{text}");
    running.require_tinyproxy(true);
    running.0.text(&["systemctl", "start", UNIT]).unwrap();
    running.0.text(&["id", "tinyproxy"]).unwrap();
    assert_eq!(running.0.text(&["dpkg", "--audit"]).unwrap(), "");
    let booted = running.booted();
    let next = running.next();
    assert_eq!(booted["live-replaced"], next.as_str());
    assert_eq!(booted["checksum"], before["checksum"]);
    assert_eq!(booted["unlocked"], "transient");
    let text = running.apt_ostree(&["status"]);
    for line in [
        &format!("LiveCommit: {next}"),
        "LiveDiff: 4 added",
        "Unlocked: transient",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let text = running.apt_ostree(&["apply-live"]);
    assert!(text.contains("as asked for"), "{text}");
    let text = running.refused(&["usroverlay"]);
    assert!(text.contains("transient"), "{text}");

    // What removes packages is refused unless it is asked for, and a reset is.
    let booted_commit = before["checksum"].as_str().unwrap();
    let text = running.refused(&["apply-live", "--target", booted_commit]);
    assert!(text.contains("4 packages would be removed"), "{text}");
    running.write("/etc/tinyproxy/tinyproxy.conf", "changed");
    let text = running.apt_ostree(&["apply-live", "--reset"]);
    assert!(
        text.contains("Services that still run") && text.contains(UNIT),
        "{text}"
    );
    assert!(text.contains("stay as they are"), "{text}");
    assert!(!running.has("/usr/bin/tinyproxy"));
    assert!(running.has("/etc/tinyproxy/tinyproxy.conf"));
    assert_eq!(running.booted()["live-replaced"], Value::Null);
    assert_eq!(running.booted()["unlocked"], "none");
    running.0.text(&["rm", "-r", "/etc/tinyproxy"]).unwrap();
    running.apt_ostree(&["apply-live"]);
    running.require_tinyproxy(true);

    let text = running.apt_ostree(&["ex", "history", "--json"]);
    let made: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(made["deployment"]["checksum"], next.as_str());
    let line = made["deployment-create-command-line"].as_str().unwrap();
    assert!(line.contains("install -A -y tinyproxy"), "{line}");
    running.reboot_keeps_it(&sysroot, &next);
}

impl Running {
    fn reboot_keeps_it(self, sysroot: &Sysroot, next: &str) {
        self.0.shutdown("poweroff").unwrap();
        let running = Self::boot(sysroot);
        let booted = running.booted();
        assert_eq!(booted["checksum"], next);
        assert_eq!(booted["live-replaced"], Value::Null);
        running.require_tinyproxy(true);
        assert_eq!(running.0.text(&["cat", "/etc/motd"]).unwrap(), "mine");
        let active = running.0.text(&["systemctl", "is-active", UNIT]);
        assert_eq!(active.unwrap(), "active");

        let text = running.apt_ostree(&["uninstall", "-A", "-y", "tinyproxy"]);
        assert!(
            text.contains("Services that still run") && text.contains(UNIT),
            "{text}"
        );
        running.require_tinyproxy(false);
        assert_eq!(running.0.shutdown("poweroff").unwrap(), 0);
        // A boot has forgotten it, and the next change removes what it left.
        let running = Self::boot(sysroot);
        running.apt_ostree(&["cleanup", "--rollback"]);
        let layers = sysroot.path().join("ostree/repo/extensions/aptostree/live");
        assert_eq!(layers.read_dir().unwrap().count(), 0);
        let refs = sysroot.path().join("ostree/repo/refs/heads/aptostree");
        assert!(!refs.join("live-apply").exists());
    }
}

#[test]
fn killed_at_any_step_it_goes_on_from_there() {
    if !privileged("killed_at_any_step_it_goes_on_from_there") {
        return;
    }
    let (sysroot, _project) = system();
    let running = Running::boot(&sysroot);
    running.apt_ostree(&["install", "tinyproxy"]);
    let next = running.next();
    let places = [
        "live::recorded",
        "live::layer",
        "live::mounted",
        "live::etc",
        "live::merged",
        "live::followed-up",
    ];
    for place in places {
        running.killed(place, &["apply-live"]);
        let booted = running.booted();
        assert_eq!(booted["live-inprogress"], next.as_str(), "{place}");
        let text = running.apt_ostree(&["status"]);
        assert!(text.contains("InterruptedLiveCommit"), "{place}: {text}");
        // Whether it goes on or back, all is as asked for then.
        running.apt_ostree(&["apply-live"]);
        running.require_tinyproxy(true);
        running.apt_ostree(&["apply-live", "--reset"]);
        running.require_tinyproxy(false);
        running.killed(place, &["apply-live"]);
        running.apt_ostree(&["apply-live", "--reset"]);
        running.require_tinyproxy(false);
        assert_eq!(running.booted()["live-inprogress"], Value::Null, "{place}");
    }
    for place in [
        "live::recorded",
        "live::etc",
        "live::merged",
        "live::unmounted",
        "live::followed-up",
    ] {
        running.apt_ostree(&["apply-live"]);
        running.killed(place, &["apply-live", "--reset"]);
        running.apt_ostree(&["apply-live"]);
        running.require_tinyproxy(true);
        running.killed(place, &["apply-live", "--reset"]);
        running.apt_ostree(&["apply-live", "--reset"]);
        running.require_tinyproxy(false);
    }
    let left = running
        .0
        .text(&["sh", "-c", "ls -A /etc | grep aptostree || true"]);
    assert_eq!(left.unwrap(), "");
    let mounts = running.0.text(&["cat", "/proc/self/mountinfo"]).unwrap();
    assert!(!mounts.contains("aptostree"), "{mounts}");

    // A /usr that somebody else writes to is left alone.
    running.apt_ostree(&["usroverlay"]);
    running.write("/usr/share/mine", "x");
    assert_eq!(running.booted()["unlocked"], "development");
    let text = running.refused(&["apply-live"]);
    assert!(text.contains("unlocked by hand"), "{text}");
    // The last interruption does not matter for a boot.
    running.0.shutdown("reboot").unwrap();
    let running = Running::boot(&sysroot);
    assert_eq!(running.booted()["checksum"], next.as_str());
    assert_eq!(running.booted()["unlocked"], "none");
    assert!(!running.has("/usr/share/mine"));
    running.require_tinyproxy(true);
}

/// A system of a few files.
struct Tiny {
    repo: TinyRepo,
    sysroot: Sysroot,
}

impl Tiny {
    fn new() -> Self {
        let repo = TinyRepo::new().unwrap();
        let tiny = Self {
            sysroot: Sysroot::new().unwrap(),
            repo,
        };
        tiny.commit("1", 1000);
        let url = format!("file://{}", tiny.repo.path());
        tiny.sysroot.add_remote("origin", &url).unwrap();
        tiny.sysroot.deploy_remote("origin", "tiny", &[]).unwrap();
        tiny
    }

    fn commit(&self, version: &str, timestamp: u64) {
        let commit = TinyCommit {
            branch: "tiny",
            version,
            timestamp,
            package: version,
        };
        self.repo.commit(&commit).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary("apt-ostree").unwrap());
        command.args(args);
        command.args(["--sysroot", self.sysroot.path().as_str()]);
        command
    }

    fn run(&self, args: &[&str]) -> String {
        stdout(&success(&mut self.command(args)).unwrap())
    }

    fn etc(&self, name: &str) -> camino::Utf8PathBuf {
        let entry = self.sysroot.default_entry().unwrap();
        let deployment = self.sysroot.deployment(&entry).unwrap();
        deployment.join("etc").join(name)
    }

    /// What is added to the initramfs that boots next: names and contents.
    fn added(&self) -> Vec<(String, String)> {
        let entry = self.sysroot.default_entry().unwrap();
        let mut found = Vec::new();
        for archive in entry.added {
            let dir = tempfile::tempdir().unwrap();
            let mut cpio = Command::new("cpio");
            cpio.args(["--extract", "--make-directories", "--quiet"]);
            cpio.current_dir(dir.path());
            cpio.stdin(std::fs::File::open(&archive).unwrap());
            success(&mut cpio).unwrap();
            for file in ["etc/crypttab", "etc/lvm/lvm.conf"] {
                if let Ok(text) = std::fs::read_to_string(dir.path().join(file)) {
                    found.push((file.to_owned(), text));
                }
            }
        }
        found
    }
}

fn pair(name: &str, text: &str) -> (String, String) {
    (name.to_owned(), text.to_owned())
}

#[test]
fn tracked_files_are_in_the_initramfs_of_each_deployment() {
    if !privileged("tracked_files_are_in_the_initramfs_of_each_deployment") {
        return;
    }
    let tiny = Tiny::new();
    let text = tiny.run(&["initramfs-etc"]);
    assert_eq!(text, "No files are tracked.\n");
    let text = failure(
        &mut tiny.command(&["initramfs-etc", "--track", "/etc/crypttab"]),
        1,
    )
    .unwrap();
    assert!(text.contains("'/etc/crypttab' is tracked"), "{text}");
    std::fs::write(tiny.etc("crypttab"), "root\n").unwrap();
    std::fs::create_dir(tiny.etc("lvm")).unwrap();
    std::fs::write(tiny.etc("lvm/lvm.conf"), "lvm\n").unwrap();
    let track = ["--track", "/etc/crypttab", "--track", "/etc/lvm/"];
    tiny.run(&[&["initramfs-etc"][..], &track].concat());
    let both = [
        pair("etc/crypttab", "root\n"),
        pair("etc/lvm/lvm.conf", "lvm\n"),
    ];
    assert_eq!(tiny.added(), both);
    let text = tiny.run(&["initramfs-etc"]);
    assert_eq!(text, "Tracked files:\n  /etc/crypttab\n  /etc/lvm\n");
    let text = tiny.run(&["status"]);
    assert!(
        text.contains("InitramfsEtc: /etc/crypttab /etc/lvm"),
        "{text}"
    );
    assert!(tiny.etc("crypttab").exists(), "{STATEROOT}");

    // The same again changes nothing; files that changed are taken when they are asked for, and
    // with whatever else makes a deployment.
    let again = [
        "initramfs-etc",
        "--track",
        "/etc/lvm",
        "--unchanged-exit-77",
    ];
    let output = tiny.command(&again).output().unwrap();
    assert_eq!(output.status.code(), Some(77));
    std::fs::write(tiny.etc("crypttab"), "other\n").unwrap();
    tiny.run(&["initramfs-etc", "--force-sync"]);
    assert_eq!(tiny.added()[0], pair("etc/crypttab", "other\n"));
    tiny.commit("2", 2000);
    tiny.run(&["upgrade"]);
    assert_eq!(tiny.added()[0], pair("etc/crypttab", "other\n"));
    tiny.run(&["kargs", "--append", "quiet"]);
    assert_eq!(tiny.added().len(), 2);

    tiny.run(&["initramfs-etc", "--untrack", "/etc/lvm"]);
    assert_eq!(tiny.added(), [pair("etc/crypttab", "other\n")]);
    tiny.run(&["initramfs-etc", "--untrack-all"]);
    assert_eq!(tiny.added(), []);
    let text = failure(&mut tiny.command(&["apply-live"]), 1).unwrap();
    assert!(text.contains("does not run"), "{text}");
}
