//! Hostile packages in a real compose. What is wrong with archives alone is tested where they are
//! read; this is about files that packages may not ship and about what their scripts do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use apt_ostree_testkit::{LOCKED, MINIMAL, Project, failure, privileged, success};
use camino::Utf8Path;

/// A package under construction: a directory that dpkg-deb packs.
struct Deb<'a> {
    project: &'a Project,
    name: &'a str,
}

impl<'a> Deb<'a> {
    fn new(project: &'a Project, name: &'a str) -> Self {
        let deb = Self { project, name };
        let control = format!(
            "Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: Test <test@example.org>\nDescription: test\n"
        );
        deb.file("DEBIAN/control", &control);
        deb
    }

    fn file(&self, path: &str, text: &str) -> &Self {
        let path = format!("{}/{path}", self.name);
        self.project.write(&path, text).unwrap();
        self
    }

    fn script(&self, kind: &str, text: &str) -> &Self {
        self.file(&format!("DEBIAN/{kind}"), text);
        let path = self.path().join("DEBIAN").join(kind);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn path(&self) -> camino::Utf8PathBuf {
        self.project.path().join(self.name)
    }

    /// Packs it and adds it to the treefile.
    fn request(&self) {
        let file = format!("{}.deb", self.name);
        let pack = ["--root-owner-group", "-b", self.name, &file];
        success(
            Command::new("dpkg-deb")
                .current_dir(self.project.path())
                .args(pack),
        )
        .unwrap();
        let lines = format!("    - {0}\nlocal-packages:\n  - {0}.deb\n", self.name);
        self.project
            .write("tree.yaml", &format!("{MINIMAL}{lines}"))
            .unwrap();
    }
}

/// What a hostile package has besides its control file.
enum Content {
    /// A file at this path.
    File(&'static str),
    /// A symbolic link: its path and its target.
    Link(&'static str, &'static str),
    /// A maintainer script: its kind and its text.
    Script(&'static str, &'static str),
}

/// Name and content of a package, and what the error says.
type Case = (&'static str, Content, &'static [&'static str]);

fn refuse(cases: &[Case]) {
    let project = Project::new(MINIMAL).unwrap();
    for (name, content, words) in cases {
        let deb = Deb::new(&project, name);
        match content {
            Content::File(path) => drop(deb.file(path, "x")),
            Content::Link(path, target) => symlink(target, deb.path().join(path)).unwrap(),
            Content::Script(kind, text) => drop(deb.script(kind, text)),
        }
        deb.request();
        let text = failure(&mut project.compose("tree", &["tree.yaml"]).unwrap(), 1).unwrap();
        let errors = text.lines().filter(|line| line.starts_with("error: "));
        assert_eq!(errors.count(), 1, "{name}: {text}");
        for word in *words {
            assert!(text.contains(word), "{name}: '{word}' is not in: {text}");
        }
        assert!(project.commit("test/minimal").is_err(), "{name}: a ref");
    }
    project.write("tree.yaml", MINIMAL).unwrap();
    project.tree(&[]).unwrap();
}

#[test]
fn files_that_no_package_may_ship_are_refused() {
    if !privileged("files_that_no_package_may_ship_are_refused") {
        return;
    }
    use Content::{File, Link};
    const RESERVED: &[&str] = &["package 'x-", "which no package may ship"];
    const BASH: &[&str] = &["'bash'", "usr/bin/bash"];
    refuse(&[
        ("x-status", File("var/lib/dpkg/status"), RESERVED),
        ("x-proc", File("proc/x"), RESERVED),
        ("x-dev", File("dev/null"), RESERVED),
        ("x-run", File("run/x"), RESERVED),
        ("x-sysroot", File("sysroot/x"), RESERVED),
        ("x-ostree", File("ostree/x"), RESERVED),
        ("x-bash", File("usr/bin/bash"), BASH),
        ("x-merged", File("bin/bash"), BASH),
        (
            "x-lib",
            Link("lib", "/elsewhere"),
            &["'/lib' is no link into /usr"],
        ),
        ("x-var", Link("var", "/elsewhere"), &["var"]),
        ("x-etc", File("etc"), &["etc"]),
    ]);
}

#[test]
fn scripts_that_fail_or_break_rules_end_the_compose() {
    if !privileged("scripts_that_fail_or_break_rules_end_the_compose") {
        return;
    }
    use Content::Script;
    refuse(&[
        (
            "x-preinst",
            Script("preinst", "#!/bin/sh\nprintf 'a \\033[31m b\\n'\nexit 7\n"),
            &["x-preinst", "exit code 7", "\\x1b[31m"],
        ),
        (
            "x-interpreter",
            Script("postinst", "#!/no/such/interpreter\n"),
            &["x-interpreter"],
        ),
        (
            "x-recursion",
            Script("postinst", "#!/bin/sh\ndpkg --configure -a\n"),
            &["lock"],
        ),
    ]);
}

#[test]
fn an_open_password_file_is_refused() {
    if !privileged("an_open_password_file_is_refused") {
        return;
    }
    let project = Project::new(MINIMAL).unwrap();
    Deb::new(&project, "x-shadow")
        .script("postinst", "#!/bin/sh\nchmod 0644 /etc/shadow\n")
        .request();
    let text = failure(&mut project.compose("tree", &["tree.yaml"]).unwrap(), 1).unwrap();
    assert!(text.contains("shadow"), "{text}");
    assert!(project.commit("test/minimal").is_err(), "a ref was written");
}

/// What a script tries that must not work; it fails when something did. Then it does harm to files
/// that are links to those of the cache, and leaves a process.
fn vandal(outside: &Utf8Path) -> String {
    format!(
        "#!/bin/bash
env | grep -q CANARY && exit 10
test -e '{outside}' && exit 11
grep -qE '^ *[a-z]+[0-9]:' /proc/net/dev && exit 12
(exec 3<>/dev/tcp/192.0.2.1/80) 2>/dev/null && exit 13
echo x > /proc/sys/kernel/hostname && exit 14
cat /proc/1/environ > /dev/null && exit 15
mknod /tmp/disk b 259 0 && exit 16
echo evil >> /usr/bin/bash
chmod 0777 /usr/bin/sed
chown daemon /usr/bin/gawk
: > /etc/os-release
ln /usr/bin/grep /usr/share/grep-again
mv /usr/share/grep-again /usr/bin/grep
(setsid sleep 98765 < /dev/null > /dev/null 2>&1 &)
exit 0
"
    )
}

#[test]
fn a_script_can_change_neither_host_nor_cache() {
    if !privileged("a_script_can_change_neither_host_nor_cache") {
        return;
    }
    let project = Project::isolated(MINIMAL).unwrap();
    project.tree(&LOCKED).unwrap();
    let good = project.commit("test/minimal").unwrap();
    let canary = project.write("canary", "secret").unwrap();
    Deb::new(&project, "x-vandal")
        .script("postinst", &vandal(&canary))
        .request();
    let mut command = project.compose("tree", &["tree.yaml"]).unwrap();
    success(command.env("CANARY", "secret")).unwrap();
    assert_ne!(project.commit("test/minimal").unwrap(), good);
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), "secret");
    let running = Command::new("pgrep").args(["-f", "sleep 98765"]).status();
    assert_eq!(running.unwrap().code(), Some(1), "a process is left");
    let cache = format!("--repo={}", project.cache().join("repo"));
    success(Command::new("ostree").args([&cache, "fsck", "--quiet"])).unwrap();
    project.write("tree.yaml", MINIMAL).unwrap();
    std::fs::remove_dir_all(project.path().join("output")).unwrap();
    project.tree(&LOCKED).unwrap();
    assert_eq!(project.commit("test/minimal").unwrap(), good);
}
