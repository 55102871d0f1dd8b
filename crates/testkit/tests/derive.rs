//! Container builds: a step installs a package, and the image is as a compose would have left it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use apt_ostree_testkit::packages::Deb;
use apt_ostree_testkit::podman::Podman;
use apt_ostree_testkit::{Project, binary, privileged, stdout, success};

/// A base with what apt-ostree's programs link to; the release is that of the machine that they were
/// built on.
const BASE: &str = "ref: test/derive
container: true
repos:
  - name: debian
    suites: [bookworm]
packages:
  include:
    - bash
    - coreutils
    - grep
    - gawk
    - sed
    - systemd
    - apt
    - nano
    - adduser
    - libostree-1-1
    - libssl3
";

const POSTINST: &str = "#!/bin/sh
set -e
adduser --system --group --home /var/lib/demo --no-create-home demo
mkdir -p /var/lib/demo /var/log/demo
chown demo:demo /var/lib/demo
echo data >/var/lib/demo/seed
echo noise >/var/log/demo/log
";

const CONTAINERFILE: &str = "FROM localhost/test/derive:latest
COPY programs/apt-ostree /usr/bin/apt-ostree
COPY programs/apt-ostree-worker /usr/libexec/apt-ostree/apt-ostree-worker
COPY local_1.deb /tmp/local_1.deb
RUN rm -f /etc/apt/sources.list.d/* /etc/apt/sources.list && \\
    echo 'deb [trusted=yes] file:/packages ./' >/etc/apt/sources.list
RUN apt-ostree container lint
RUN apt-ostree install demo /tmp/local_1.deb
RUN apt-ostree override remove nano && rm /tmp/local_1.deb
RUN apt-ostree search DEMO >/usr/share/found && rm -f /etc/apt/sources.list
RUN apt-ostree container lint --fatal-warnings --skip baseimage-composefs
";

fn demo_packages(project: &Project) {
    project
        .write("stage/demo_1/usr/bin/demo", "#!/bin/sh\necho demo works\n")
        .unwrap();
    project.write("stage/demo_1/etc/demo.conf", "x\n").unwrap();
    project
        .write(
            "stage/demo_1/usr/lib/systemd/system/demo.service",
            "[Service]\nExecStart=/usr/bin/demo\n",
        )
        .unwrap();
    let program = project.path().join("stage/demo_1/usr/bin/demo");
    std::fs::set_permissions(
        &program,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    Deb {
        name: "demo",
        version: "1",
        fields: "Depends: adduser, demo-data\n",
        scripts: &[("postinst", POSTINST)],
    }
    .build(project, "packages")
    .unwrap();
    Deb::new("demo-data", "1")
        .build(project, "packages")
        .unwrap();
    Deb::new("local", "1").build(project, "context").unwrap();
    let mut scan = std::process::Command::new("apt-ftparchive");
    scan.args(["packages", "."])
        .current_dir(project.path().join("packages"));
    let index = stdout(&success(&mut scan).unwrap());
    project.write("packages/Packages", &index).unwrap();
}

#[test]
fn packages_are_installed_in_a_container_build() {
    if !privileged("packages_are_installed_in_a_container_build") {
        return;
    }
    let project = Project::new(BASE).unwrap();
    project.tree(&["--container"]).unwrap();
    let podman = Podman::new().unwrap();
    let archive = project.path().join("output/test_derive.tar");
    success(podman.command(&["load", "-i"]).arg(archive)).unwrap();

    demo_packages(&project);
    let context = project.path().join("context");
    std::fs::create_dir_all(context.join("programs")).unwrap();
    for name in ["apt-ostree", "apt-ostree-worker"] {
        std::fs::copy(binary(name).unwrap(), context.join("programs").join(name)).unwrap();
    }
    project
        .write("context/Containerfile", CONTAINERFILE)
        .unwrap();
    podman
        .build("derived", &context, &project.path().join("packages"))
        .unwrap();

    let run = |args: &[&str]| podman.run("localhost/derived", args).unwrap();
    assert_eq!(run(&["demo"]), "demo works\n");
    let states = run(&["dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev}\n"]);
    for package in ["demo", "demo-data", "local"] {
        assert!(states.contains(&format!("{package} ii")), "{states}");
    }
    assert!(!states.contains("nano ii"), "{states}");
    assert_eq!(run(&["dpkg", "--audit"]), "");
    assert!(run(&["cat", "/usr/share/found"]).contains("demo : test [installed]"));
    // Accounts, data and links are those of a compose.
    let conf = run(&["cat", "/usr/lib/sysusers.d/00-apt-ostree.conf"]);
    assert!(conf.contains("u demo "), "{conf}");
    let conf = run(&["cat", "/usr/lib/tmpfiles.d/apt-ostree-autovar.conf"]);
    assert!(conf.contains("/var/lib/demo"), "{conf}");
    assert_eq!(
        run(&["cat", "/usr/share/factory/var/lib/demo/seed"]),
        "data\n"
    );
    let left = run(&["find", "/var", "/boot", "-type", "f"]);
    assert_eq!(left, "");
    assert_eq!(
        run(&["readlink", "/var/lib/dpkg"]),
        "../../usr/lib/sysimage/dpkg\n"
    );
}
