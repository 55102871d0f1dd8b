//! Packages on a real Debian system, with the commands that a user types: installed, kept over an
//! upgrade, started at boot, removed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use apt_ostree_testkit::nspawn::Container;
use apt_ostree_testkit::sysroot::{BOOTABLE, Sysroot, bootable_ref};
use apt_ostree_testkit::{Project, failure, privileged, stdout, success};
use camino::Utf8PathBuf;
use serde_json::Value;

/// A deployed system and the project that its tree comes from.
struct System {
    sysroot: Sysroot,
    project: Project,
}

impl System {
    fn new() -> Self {
        let (sysroot, project) = Sysroot::with_bootable(&["root=LABEL=root", "rw"]).unwrap();
        Self { sysroot, project }
    }

    /// Runs a verb that succeeds; returns what it prints.
    fn run(&self, args: &[&str]) -> String {
        let mut command = self.project.apt_ostree(args).unwrap();
        command.args(["--sysroot", self.sysroot.path().as_str()]);
        stdout(&success(&mut command).unwrap())
    }

    /// Runs a verb that must fail and change nothing; returns what it says.
    fn refused(&self, args: &[&str]) -> String {
        let before = self.deployments();
        let mut command = self.project.apt_ostree(args).unwrap();
        command.args(["--sysroot", self.sysroot.path().as_str()]);
        let text = failure(&mut command, 1).unwrap();
        assert_eq!(self.deployments(), before);
        text
    }

    fn deployments(&self) -> Vec<Value> {
        let status: Value = serde_json::from_str(&self.run(&["status", "--json"])).unwrap();
        status["deployments"].as_array().unwrap().clone()
    }

    /// The directory of the deployment that boots next.
    fn next(&self) -> Utf8PathBuf {
        let entry = self.sysroot.default_entry().unwrap();
        self.sysroot.deployment(&entry).unwrap()
    }

    /// Name, state and version of packages in dpkg's database there.
    fn dpkg(&self, names: &[&str]) -> Vec<String> {
        let database = self.next().join("usr/lib/sysimage/dpkg");
        let mut command = std::process::Command::new("dpkg-query");
        command.arg(format!("--admindir={database}"));
        command.args(["-W", "-f", "${Package} ${db:Status-Abbrev}\\n"]);
        let text = stdout(&success(command.args(names)).unwrap());
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    /// Moves the branch that the system follows to a tree with one more package.
    fn publish_with(&self, package: &str) -> String {
        let treefile = format!("{BOOTABLE}\nbootstrap-packages: [{package}]\n");
        self.project.write("tree.yaml", &treefile).unwrap();
        self.project.tree(&[]).unwrap();
        let repo = self.sysroot.path().join("ostree/repo");
        let from = self.project.path().join("output/repo");
        let mut pull = std::process::Command::new("ostree");
        pull.arg(format!("--repo={repo}"));
        success(pull.args(["pull-local", from.as_str(), &bootable_ref()])).unwrap();
        self.project.commit(&bootable_ref()).unwrap()
    }
}

fn strings(value: &Value) -> Vec<&str> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(Value::as_str).collect()
}

#[test]
fn layered_packages_run_survive_an_upgrade_and_go() {
    if !privileged("layered_packages_run_survive_an_upgrade_and_go") {
        return;
    }
    let system = System::new();
    let base = system.deployments()[0]["checksum"].clone();
    std::fs::write(system.next().join("etc/motd"), "mine\n").unwrap();

    let text = system.run(&["install", "tinyproxy"]);
    assert!(text.contains("\n  tinyproxy 1."), "{text}");
    let now = system.deployments();
    assert_eq!(now[0]["base-checksum"], base);
    assert_eq!(strings(&now[0]["packages"]), ["tinyproxy"]);
    assert_eq!(now[1]["checksum"], base);
    assert_eq!(system.dpkg(&["tinyproxy"]), ["tinyproxy ii"]);

    // A program with a unit and a user of its own is up after the next boot.
    let (booted, state) = Container::boot(&system.sysroot).unwrap();
    assert_eq!(state, "running");
    let active = booted.text(&["systemctl", "is-active", "tinyproxy"]);
    assert_eq!(active.unwrap(), "active");
    assert!(booted.text(&["id", "tinyproxy"]).is_ok());
    assert_eq!(booted.text(&["dpkg", "--audit"]).unwrap(), "");
    assert_eq!(booted.text(&["cat", "/etc/motd"]).unwrap(), "mine");
    assert_eq!(booted.shutdown("poweroff").unwrap(), 0);

    let newer = system.publish_with("ed");
    let text = system.run(&["upgrade"]);
    assert!(text.contains("ed "), "{text}");
    let now = system.deployments();
    assert_eq!(now[0]["base-checksum"], newer.as_str());
    assert_eq!(strings(&now[0]["packages"]), ["tinyproxy"]);
    assert_eq!(system.dpkg(&["ed", "tinyproxy"]), ["ed ii", "tinyproxy ii"]);
    let motd = std::fs::read_to_string(system.next().join("etc/motd")).unwrap();
    assert_eq!(motd, "mine\n");

    system.run(&["uninstall", "tinyproxy"]);
    let now = system.deployments();
    assert_eq!(now[0]["checksum"], newer.as_str());
    assert_eq!(strings(&now[0]["requested-packages"]), [""; 0]);
    system.run(&["rollback"]);
    assert_eq!(system.dpkg(&["tinyproxy"]), ["tinyproxy ii"]);
}

#[test]
fn what_cannot_be_installed_changes_nothing() {
    if !privileged("what_cannot_be_installed_changes_nothing") {
        return;
    }
    let system = System::new();
    let text = system.refused(&["install", "no-such-package", "neither-this"]);
    assert!(
        text.contains("no-such-package") && text.contains("neither-this"),
        "{text}"
    );
    // It conflicts with a package of the base.
    let text = system.refused(&["install", "chrony"]);
    assert!(
        text.contains("chrony") && text.contains("systemd-timesyncd"),
        "{text}"
    );
    let text = system.refused(&["uninstall", "hello"]);
    assert!(text.contains("hello"), "{text}");
    let text = system.run(&["install", "--dry-run", "hello"]);
    assert!(text.contains("Added:\n  hello"), "{text}");
    assert_eq!(system.deployments().len(), 1);

    // Indices and downloaded packages go when asked to; removing needs none of them.
    let cache = system
        .sysroot
        .path()
        .join("ostree/repo/extensions/aptostree");
    system.run(&["install", "hello"]);
    assert_eq!(system.dpkg(&["hello"]), ["hello ii"]);
    assert!(cache.join("apt").exists());
    system.run(&["cleanup", "--repomd"]);
    assert!(!cache.join("apt").exists());
    let debs = std::fs::read_dir(cache.join("debs")).unwrap();
    let mut names = debs.map(|e| e.unwrap().file_name().into_string().unwrap());
    assert!(!names.any(|name| name.ends_with(".deb")));
    system.run(&["uninstall", "hello"]);
    system.run(&["install", "hello"]);
}
