//! The Debian package: what is in it, what it needs, and what it does on a machine.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::process::Command;

use apt_ostree_testkit::packages::{apt_ostree, source_dir};
use apt_ostree_testkit::{Project, binary, privileged, stdout, success};
use camino::{Utf8Path, Utf8PathBuf};

/// What Debian's tools add to the files of `make install-files`.
const DOCUMENTS: [&str; 2] = [
    "usr/share/doc/apt-ostree/changelog.gz",
    "usr/share/doc/apt-ostree/copyright",
];

/// All files below `root`, man pages by the names that they have without compression.
fn files(root: &Utf8Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in dir.read_dir_utf8().unwrap() {
            let path = entry.unwrap().into_path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let name = path.strip_prefix(root).unwrap();
            found.insert(match name.as_str().contains("/man/") {
                true => name.as_str().trim_end_matches(".gz").to_owned(),
                false => name.to_string(),
            });
        }
    }
    found
}

fn field(deb: &Utf8Path, name: &str) -> String {
    let mut command = Command::new("dpkg-deb");
    stdout(&success(command.args(["--field", deb.as_str(), name])).unwrap())
}

/// The package taken apart: `root/` and `control/`.
fn take_apart(project: &Project) -> (Utf8PathBuf, Utf8PathBuf, Utf8PathBuf) {
    let deb = apt_ostree(project.path()).unwrap();
    let (root, control) = (project.path().join("root"), project.path().join("control"));
    for (option, dir) in [("--extract", &root), ("--control", &control)] {
        let mut command = Command::new("dpkg-deb");
        success(command.args([option, deb.as_str(), dir.as_str()])).unwrap();
    }
    (deb, root, control)
}

/// What `make install-files` installs from the same programs.
fn installed(project: &Project) -> BTreeSet<String> {
    let xtask = binary("xtask").unwrap();
    let dist = project.path().join("dist");
    success(Command::new(&xtask).args(["dist", dist.as_str()])).unwrap();
    let root = project.path().join("installed");
    let mut make = Command::new("make");
    make.current_dir(source_dir()).arg("install-files").args([
        format!("DESTDIR={root}"),
        format!("RELEASE={}", xtask.parent().unwrap()),
        format!("DIST={dist}"),
        "PREFIX=/usr".to_owned(),
    ]);
    success(&mut make).unwrap();
    files(&root)
}

#[test]
fn the_package_holds_what_is_installed_and_asks_for_what_that_needs() {
    if !privileged("the_package_holds_what_is_installed_and_asks_for_what_that_needs") {
        return;
    }
    let project = Project::new("").unwrap();
    let (deb, root, control) = take_apart(&project);
    let mut expected = installed(&project);
    expected.extend(DOCUMENTS.map(str::to_owned));
    assert_eq!(files(&root), expected);
    nothing_is_forgotten(&expected);

    let depends = field(&deb, "Depends");
    for name in ["libapt-pkg", "libostree-1-1", "libc6", "ostree", "apt"] {
        assert!(depends.contains(name), "{name}: {depends}");
    }
    let read = |name: &str| std::fs::read_to_string(control.join(name)).unwrap();
    assert_eq!(read("conffiles").trim(), "/etc/apt-ostreed.conf");
    // Calls start the daemon, and nothing is started when the package is installed.
    let (postinst, prerm) = (read("postinst"), read("prerm"));
    let enabled = postinst.matches("deb-systemd-helper enable").count();
    assert_eq!(enabled, 1, "{postinst}");
    assert!(postinst.contains("enable apt-ostree-bootstatus.service"));
    assert!(!postinst.contains("deb-systemd-invoke"), "{postinst}");
    assert!(prerm.contains("deb-systemd-invoke stop apt-ostreed.service"));
}

/// Each file of `data` is installed, and each path in units and activation files is there.
fn nothing_is_forgotten(installed: &BTreeSet<String>) {
    let here = |name: &str| installed.iter().any(|path| path.ends_with(name));
    for path in files(&source_dir().join("data")) {
        let name = path.rsplit('/').next().unwrap().trim_end_matches(".in");
        let names = match name {
            "wrapper" => &["sbin/apt", "sbin/apt-get", "sbin/dpkg"][..],
            name => &[name],
        };
        for name in names {
            assert!(here(&format!("/{name}")), "data/{path} is not installed");
        }
        let text = std::fs::read_to_string(source_dir().join("data").join(&path)).unwrap();
        for word in text.split(['=', ' ', '\n']) {
            let program = word
                .replace("@bindir@", "usr/bin")
                .replace("@libexecdir@", "usr/libexec/apt-ostree");
            assert!(
                program == word || installed.contains(&program),
                "data/{path} names '{word}', which is not installed"
            );
        }
    }
}
