//! The packaged daemon on a booted machine: real systemd, bus, polkit and journal, and the unit with
//! all that it closes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use apt_ostree_ipc::proxy::{OsProxy, SysrootProxy, TransactionProxy};
use apt_ostree_testkit::nspawn::{Container, REBOOT};
use apt_ostree_testkit::packages::{Deb, apt_ostree, publish};
use apt_ostree_testkit::sysroot::{BOOTABLE, STATEROOT, Sysroot};
use apt_ostree_testkit::{Project, privileged, stderr, stdout, success};
use futures_util::StreamExt as _;
use serde_json::Value;

const CLIENT: &str = include_str!("../../../examples/bootable-client.yaml");

const UNIT: &str = "apt-ostreed.service";

/// A user without a session.
const NOBODY: [&str; 4] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
];

/// The source of packages on the machine: a directory in its `/var`.
const REPO: &str = "/var/lib/test-repo";

/// Composes the example with this workspace's package, for the release of this machine, whose
/// libraries the programs are linked with. A package to install is in [`REPO`].
fn deploy() -> (Sysroot, Project) {
    let release = std::fs::read_to_string("/etc/os-release").unwrap();
    let value = |key: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap().trim_matches(['=', '"']).to_owned()
    };
    let (codename, version) = (value("VERSION_CODENAME"), value("VERSION_ID"));
    let adapt = |text: &str| {
        text.replace("trixie", &codename)
            .replace("debian/13/", &format!("debian/{version}/"))
    };
    let project = Project::new(&adapt(CLIENT)).unwrap();
    project.write("bootable.yaml", &adapt(BOOTABLE)).unwrap();
    let deb = apt_ostree(project.path()).unwrap();
    std::fs::rename(deb, project.path().join("apt-ostree.deb")).unwrap();
    project.tree(&[]).unwrap();

    let sysroot = Sysroot::new().unwrap();
    let repo = project.path().join("output/repo");
    let arch = std::env::consts::ARCH;
    let name = format!("debian/{version}/{arch}/client");
    sysroot
        .deploy(&repo, &name, &["root=LABEL=root", "rw"])
        .unwrap();
    offer_package(&sysroot, &project);
    (sysroot, project)
}

/// Makes a signed repository with one package the only source of the machine.
fn offer_package(sysroot: &Sysroot, project: &Project) {
    Deb {
        scripts: &[(
            "postinst",
            "#!/bin/sh\nset -e\nadduser --system --quiet --no-create-home greeter\n\
             chown greeter /usr/share/greeter/version\n",
        )],
        fields: "Depends: adduser\n",
        ..Deb::new("greeter", "1.0")
    }
    .build(project, "repo")
    .unwrap();
    publish(project, "repo", "test").unwrap();
    let var = sysroot.var().join(REPO.trim_start_matches("/var/"));
    let copy = |from: &str, to: &str| {
        let mut command = std::process::Command::new("cp");
        success(command.args(["-r", project.path().join(from).as_str(), to])).unwrap();
    };
    std::fs::create_dir_all(var.parent().unwrap()).unwrap();
    copy("repo", var.as_str());
    let entry = sysroot.default_entry().unwrap();
    let apt = sysroot.deployment(&entry).unwrap().join("etc/apt");
    copy("test.gpg", apt.join("test.gpg").as_str());
    let sources = apt.join("sources.list.d");
    std::fs::remove_dir_all(&sources).unwrap();
    std::fs::create_dir(&sources).unwrap();
    let line = format!("deb [signed-by=/etc/apt/test.gpg] file:{REPO} ./\n");
    std::fs::write(sources.join("test.list"), line).unwrap();
}

fn boot(sysroot: &Sysroot) -> Container {
    let (system, state) = Container::boot(sysroot).unwrap();
    let failed = system.text(&["systemctl", "--failed"]).unwrap();
    assert_eq!(state, "running", "{failed}");
    system
}

/// Runs `busctl` as root or somebody else.
fn busctl(system: &Container, user: &[&str], args: &[&str]) -> Output {
    system.run(&[user, &["busctl"], args].concat()).unwrap()
}

/// The stateroot that is booted, as the daemon tells it.
fn ask_booted(system: &Container, user: &[&str]) -> String {
    let object = "/org/aptostree1/Sysroot";
    let interface = "org.aptostree1.Sysroot";
    let args = [
        "get-property",
        "org.aptostree1",
        object,
        interface,
        "Booted",
    ];
    let output = busctl(system, user, &args);
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output).trim().to_owned()
}

/// Asks for a package with a call that is never followed by `Start`.
fn ask_for_package(system: &Container, user: &[&str]) -> Output {
    let object = format!("/org/aptostree1/{STATEROOT}");
    let method = ["org.aptostree1.OS", "PkgChange", "a{sv}asas"];
    let args = [
        &["call", "org.aptostree1", &object],
        &method[..],
        &["0", "1", "greeter", "0"],
    ];
    busctl(system, user, &args.concat())
}

fn show(system: &Container, property: &str) -> String {
    let property = format!("--property={property}");
    let show = ["systemctl", "show", "--value", &property, UNIT];
    system.text(&show).unwrap()
}

/// Waits at most half a minute.
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..300 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{what} did not come");
}

/// How many messages the journal has under an id.
fn messages(system: &Container, id: &str) -> Vec<Value> {
    let id = format!("MESSAGE_ID={id}");
    let journal = ["journalctl", "--boot", "--quiet", "--output=json", &id];
    let text = system.text(&journal).unwrap();
    let parse = |line| serde_json::from_str(line).unwrap();
    text.lines().map(parse).collect()
}

#[test]
fn a_packaged_daemon_serves_a_booted_machine() {
    if !privileged("a_packaged_daemon_serves_a_booted_machine") {
        return;
    }
    let (sysroot, _project) = deploy();
    let system = boot(&sysroot);
    the_boot_was_told(&system);
    a_call_starts_it(&system);
    the_unit_is_closed(&system);
    polkit_decides(&system);
    a_killed_one_comes_back(&system);
    an_idle_one_ends(&system);
    install(&system, "greeter").unwrap();
    the_change_waits(&system);
    assert_eq!(system.shutdown("reboot").unwrap(), REBOOT);

    let system = boot(&sysroot);
    let greeter = [
        "dpkg-query",
        "--show",
        "--showformat=${db:Status-Abbrev}",
        "greeter",
    ];
    assert_eq!(system.text(&greeter).unwrap(), "ii");
    let owner = ["stat", "--format=%U", "/usr/share/greeter/version"];
    assert_eq!(system.text(&owner).unwrap(), "greeter");
    assert_eq!(ask_booted(&system, &[]), "o \"/org/aptostree1/debian\"");
    assert_eq!(system.shutdown("poweroff").unwrap(), 0);
}

fn the_boot_was_told(system: &Container) {
    let active = ["systemctl", "is-active", "apt-ostree-bootstatus.service"];
    assert_eq!(system.text(&active).unwrap(), "active");
    let journal = [
        "journalctl",
        "--boot",
        "--quiet",
        "--output=cat",
        "--unit=apt-ostree-bootstatus.service",
    ];
    let text = system.text(&journal).unwrap();
    assert!(text.contains("Deployments:"), "{text}");
}

fn a_call_starts_it(system: &Container) {
    // What tells the boot has asked it already.
    system.text(&["systemctl", "stop", UNIT]).unwrap();
    assert_eq!(show(system, "ActiveState"), "inactive");
    assert_eq!(ask_booted(system, &[]), "o \"/org/aptostree1/debian\"");
    assert_eq!(show(system, "ActiveState"), "active");
    assert_eq!(ask_booted(system, &NOBODY), "o \"/org/aptostree1/debian\"");
    let status = system.text(&["apt-ostree", "status", "--booted"]).unwrap();
    assert!(status.contains("client"), "{status}");
}

/// What it may do, and what it takes while nothing is to be done.
fn the_unit_is_closed(system: &Container) {
    let security = [
        "systemd-analyze",
        "--no-pager",
        "security",
        "--threshold=40",
        UNIT,
    ];
    system.text(&security).unwrap();
    let path = format!("/proc/{}/status", show(system, "MainPID"));
    let status = system.text(&["cat", &path]).unwrap();
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.unwrap().parse().unwrap()
    };
    let resident = field("VmRSS:");
    assert!(resident < 20 << 10, "{resident} KiB\n{status}");
}

fn polkit_decides(system: &Container) {
    let refused = ask_for_package(system, &NOBODY);
    let text = stderr(&refused);
    assert!(
        !refused.status.success() && text.contains("authentication is needed"),
        "{text}"
    );
    let rule = "polkit.addRule(function(action, subject) { \
                if (action.id == 'org.aptostree1.install-uninstall-packages') \
                return polkit.Result.YES; });";
    let script = format!("echo \"{rule}\" >/etc/polkit-1/rules.d/10-test.rules");
    system.text(&["sh", "-c", &script]).unwrap();
    wait_for("the rule", || {
        ask_for_package(system, &NOBODY).status.success()
    });
    let dropped = || messages(system, "c0e4e60646384f72a6a18aa926e7348d");
    wait_for("the end of the transaction", || !dropped().is_empty());
    assert_eq!(dropped()[0]["AGENT_UID"], "65534");
}

fn a_killed_one_comes_back(system: &Container) {
    let killed = show(system, "MainPID");
    system.text(&["kill", "-s", "KILL", &killed]).unwrap();
    assert_eq!(ask_booted(system, &[]), "o \"/org/aptostree1/debian\"");
    assert_ne!(show(system, "MainPID"), killed);
}

fn an_idle_one_ends(system: &Container) {
    let script = "printf '[Daemon]\\nIdleExitTimeout=1\\n' >/etc/apt-ostreed.conf";
    system.text(&["sh", "-c", script]).unwrap();
    system.text(&["systemctl", "reload", UNIT]).unwrap();
    wait_for("the exit", || show(system, "ActiveState") == "inactive");
    assert_eq!(show(system, "Result"), "success");
    let log = messages(system, "e02787498e8d43e29ad2d958dae197cf");
    assert_eq!(log[0]["_SYSTEMD_UNIT"], UNIT, "{log:?}");
}

/// Installs a package with a connection of root to the container's bus.
fn install(system: &Container, package: &str) -> Result<()> {
    let socket = system.path("/run/dbus/system_bus_socket");
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let connection = zbus::connection::Builder::address(&*format!("unix:path={socket}"))?
                .method_timeout(Duration::from_secs(60))
                .build()
                .await?;
            let sysroot = SysrootProxy::new(&connection).await?;
            let path = sysroot.get_os("").await?;
            let os = OsProxy::builder(&connection).path(path)?.build().await?;
            let path = os.pkg_change(HashMap::new(), &[package], &[]).await?;
            let builder = TransactionProxy::builder(&connection).path(path)?;
            let transaction = builder.build().await?;
            let mut ends = transaction.receive_finished().await?;
            ensure!(transaction.start().await?, "it runs already");
            let end = tokio::time::timeout(Duration::from_secs(300), ends.next()).await?;
            let end = end.context("the daemon is gone")?;
            let end = end.args()?;
            ensure!(end.success, "{}", end.error_message);
            Ok(())
        })
}

fn the_change_waits(system: &Container) {
    let json = system.text(&["apt-ostree", "status", "--json"]).unwrap();
    let status: Value = serde_json::from_str(&json).unwrap();
    let first = &status["deployments"][0];
    assert_eq!(first["staged"], true, "{json}");
    assert_eq!(first["packages"][0], "greeter", "{json}");
    for (id, what) in [
        ("b5fb0ff703b1429ba456840c18e01bcf", "started"),
        ("acb0f7c4e92b42ac802c88ac49a8c346", "done"),
    ] {
        let log = messages(system, id);
        let text = log[0]["MESSAGE"].as_str().unwrap();
        assert!(text.ends_with(what), "{log:?}");
        assert_eq!(log[0]["TRANSACTION_METHOD"], "PkgChange");
    }
    assert_eq!(
        messages(system, "5ed02d18eaca44efa62104ddb13c44e7"),
        [] as [Value; 0]
    );
}
