//! Composed trees boot: deployed by OSTree, started by systemd, and by a real kernel.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::Duration;

use apt_ostree_testkit::nspawn::{Container, REBOOT};
use apt_ostree_testkit::sysroot::{Sysroot, bootable_ref};
use apt_ostree_testkit::{privileged, qemu, stdout};
use camino::Utf8Path;

/// Composes the example and deploys it. Returns the number of packages as well.
fn deploy(kargs: &[&str]) -> (Sysroot, String, usize) {
    let (sysroot, project) = Sysroot::with_bootable(kargs).unwrap();
    let lock = std::fs::read_to_string(project.path().join("lock.json")).unwrap();
    let lock: serde_json::Value = serde_json::from_str(&lock).unwrap();
    let commit = project.commit(&bootable_ref()).unwrap();
    (sysroot, commit, lock["packages"].as_object().unwrap().len())
}

#[test]
fn a_deployed_tree_boots_and_keeps_its_state() {
    if !privileged("a_deployed_tree_boots_and_keeps_its_state") {
        return;
    }
    let (sysroot, commit, packages) = deploy(&["root=LABEL=root", "rw"]);
    let deployment = sysroot
        .deployment(&sysroot.default_entry().unwrap())
        .unwrap();

    let system = boot(&sysroot);
    let status = system.text(&["ostree", "admin", "status"]).unwrap();
    assert!(
        status.starts_with(&format!("* debian {commit}.0")),
        "{status}"
    );
    assert_only_state_is_writable(&system);
    assert_ids_are_fixed(&deployment, &system);
    assert_packages_are_right(&system, packages);
    assert_services_answer(&system);
    let machine = system.text(&["cat", "/etc/machine-id"]).unwrap();
    assert!(
        machine.len() == 32 && machine.bytes().all(|b| b.is_ascii_hexdigit()),
        "{machine}"
    );
    let key = system
        .text(&["cat", "/etc/ssh/ssh_host_ed25519_key.pub"])
        .unwrap();
    system
        .text(&["sh", "-c", "echo local | tee /etc/kept >/var/lib/kept"])
        .unwrap();
    assert_eq!(system.shutdown("reboot").unwrap(), REBOOT);

    let system = boot(&sysroot);
    assert_eq!(
        system.text(&["cat", "/etc/kept", "/var/lib/kept"]).unwrap(),
        "local\nlocal"
    );
    assert_eq!(system.text(&["cat", "/etc/machine-id"]).unwrap(), machine);
    assert_eq!(
        system
            .text(&["cat", "/etc/ssh/ssh_host_ed25519_key.pub"])
            .unwrap(),
        key
    );
    let boots = system
        .text(&["journalctl", "--list-boots", "--quiet", "--no-pager"])
        .unwrap();
    assert_eq!(
        boots
            .lines()
            .filter(|line| !line.starts_with("IDX"))
            .count(),
        2,
        "{boots}"
    );
    assert_eq!(system.shutdown("poweroff").unwrap(), 0);
}

/// Boots the deployment in a container; everything must be up, without errors in the journal.
fn boot(sysroot: &Sysroot) -> Container {
    let (system, state) = Container::boot(sysroot).unwrap();
    assert_eq!(
        state,
        "running",
        "{}",
        system.text(&["systemctl", "--failed"]).unwrap()
    );
    assert_no_errors(&system);
    system
}

fn assert_no_errors(system: &Container) {
    assert_eq!(
        system
            .text(&[
                "systemctl",
                "list-units",
                "--failed",
                "--plain",
                "--no-legend"
            ])
            .unwrap(),
        ""
    );
    assert_eq!(
        system
            .text(&["journalctl", "--boot", "--priority=err", "--quiet"])
            .unwrap(),
        ""
    );
}

fn assert_only_state_is_writable(system: &Container) {
    for dir in ["/usr", "/usr/lib/systemd"] {
        let output = system.run(&["touch", &format!("{dir}/written")]).unwrap();
        assert!(!output.status.success(), "{dir} is writable");
    }
    for dir in [
        "/etc",
        "/var",
        "/home",
        "/root",
        "/opt",
        "/srv",
        "/usr/local/bin",
        "/tmp",
    ] {
        system.text(&["touch", &format!("{dir}/written")]).unwrap();
        system.text(&["rm", &format!("{dir}/written")]).unwrap();
    }
}

/// Every account has the ids that the tree fixes in `sysusers.d`, and the boot added none.
fn assert_ids_are_fixed(deployment: &Utf8Path, system: &Container) {
    let fixed = fixed_ids(&deployment.join("usr/lib/sysusers.d"));
    for (file, kind) in [("passwd", 'u'), ("group", 'g')] {
        let now = system.text(&["cat", &format!("/etc/{file}")]).unwrap();
        let composed = std::fs::read_to_string(deployment.join("usr/etc").join(file)).unwrap();
        assert_eq!(now, composed.trim_end());
        for line in now.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            // A user without a group line brings the group of its name and number.
            let (user, group) = (
                fixed.get(&('u', fields[0].to_owned())),
                fixed.get(&('g', fields[0].to_owned())),
            );
            let expected = if kind == 'u' { user } else { group.or(user) };
            let expected = expected.unwrap_or_else(|| panic!("{line} is in no sysusers.d file"));
            assert_eq!(expected.split(':').next().unwrap(), fields[2], "{line}");
            if let Some((_, gid)) = expected.split_once(':').filter(|_| kind == 'u') {
                assert_eq!(gid, fields[3], "{line}");
            }
        }
    }
    for account in ["_apt", "systemd-network", "sshd", "messagebus", "polkitd"] {
        system.text(&["id", account]).unwrap();
    }
}

/// Ids by kind and name, as systemd-sysusers would give them: the first line wins.
fn fixed_ids(dir: &Utf8Path) -> BTreeMap<(char, String), String> {
    let mut files: Vec<_> = dir
        .read_dir_utf8()
        .unwrap()
        .map(|entry| entry.unwrap().into_path())
        .collect();
    files.sort();
    let mut ids = BTreeMap::new();
    for file in files {
        for line in std::fs::read_to_string(&file).unwrap().lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [kind @ ("u" | "u!" | "g"), name, id, ..] = words.as_slice() {
                ids.entry((kind.chars().next().unwrap(), (*name).to_owned()))
                    .or_insert_with(|| (*id).to_owned());
            }
        }
    }
    ids
}

fn assert_packages_are_right(system: &Container, expected: usize) {
    let listed = system.text(&["dpkg", "-l"]).unwrap();
    assert_eq!(
        listed
            .lines()
            .filter(|line| line.starts_with("ii "))
            .count(),
        expected,
        "{listed}"
    );
    assert_eq!(system.text(&["dpkg", "--audit"]).unwrap(), "");
    // The kernel is beside its modules; adduser and useradd know where homes are.
    let verified = stdout(&system.run(&["dpkg", "-V"]).unwrap());
    let expected = |line: &&str| {
        let path = line.split_whitespace().last().unwrap_or_default();
        !(path.starts_with("/boot/")
            || ["/etc/adduser.conf", "/etc/default/useradd"].contains(&path))
    };
    assert_eq!(
        verified.lines().filter(expected).collect::<Vec<_>>(),
        Vec::<&str>::new()
    );
}

/// The bus, polkit by its setuid helper, networking, and a login over ssh.
fn assert_services_answer(system: &Container) {
    for unit in [
        "dbus",
        "systemd-logind",
        "systemd-resolved",
        "NetworkManager",
        "ssh",
    ] {
        assert_eq!(
            system.text(&["systemctl", "is-active", unit]).unwrap(),
            "active",
            "{unit}"
        );
    }
    let id = system
        .text(&[
            "busctl",
            "call",
            "org.freedesktop.DBus",
            "/",
            "org.freedesktop.DBus",
            "GetId",
        ])
        .unwrap();
    assert!(id.starts_with("s \""), "{id}");
    system
        .text(&[
            "sh",
            "-c",
            "pkcheck --process $$ --action-id org.freedesktop.login1.reboot",
        ])
        .unwrap();
    assert_eq!(
        system.text(&["systemctl", "is-active", "polkit"]).unwrap(),
        "active"
    );
    let login = "umask 077 && ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id && cp /root/.ssh/id.pub /root/.ssh/authorized_keys &&
        ssh -i /root/.ssh/id -o StrictHostKeyChecking=accept-new -o BatchMode=yes 127.0.0.1 'loginctl show-session $XDG_SESSION_ID -p Service --value'";
    assert_eq!(system.text(&["sh", "-c", login]).unwrap(), "sshd");
}

/// What the machine does at each boot; the second serial port takes the report. The first boot
/// ends in a reboot, the second one in poweroff.
const CHECK: &str = r#"#!/bin/sh
exec >/dev/ttyS1 2>&1
count=$(cat /var/lib/boots 2>/dev/null || echo 0)
count=$((count + 1))
say() { name=$1; shift; echo "=== $count $name"; "$@"; }
say state systemctl is-system-running --wait
say failed systemctl list-units --failed --plain --no-legend
say cmdline cat /proc/cmdline
say kernel uname -r
say modules ls /usr/lib/modules
say usr findmnt --noheadings --output OPTIONS /usr
say sysroot findmnt --noheadings --output OPTIONS /sysroot
say etc findmnt --noheadings --output OPTIONS /etc
say prepare-root journalctl --boot --quiet --output cat --unit ostree-prepare-root.service
say remount systemctl is-active ostree-remount.service
say status ostree admin status
say errors journalctl --boot --priority=err --quiet --output short-monotonic
say packages sh -c 'dpkg -l | grep -c "^ii "'
say audit dpkg --audit
say network sh -c 'nm-online -q -t 120; nmcli --colors no --get-values STATE general'
say dns systemctl is-active systemd-resolved
say ssh bash -c 'exec 3<>/dev/tcp/127.0.0.1/22 && head -c 8 <&3'
say machine cat /etc/machine-id
say key cat /etc/ssh/ssh_host_ed25519_key.pub
say kept cat /etc/kept
say end true
echo "$count" >/var/lib/boots
echo local >/etc/kept
if [ "$count" = 1 ]; then systemctl --no-block reboot; else systemctl --no-block poweroff; fi
"#;

const CHECK_UNIT: &str = "\
[Unit]
Description=Test report

[Service]
Type=exec
ExecStart=/var/lib/check
";

/// Reports by boot and name.
type Reports = BTreeMap<(u32, String), String>;

#[test]
fn a_deployed_tree_boots_in_a_virtual_machine() {
    if !privileged("a_deployed_tree_boots_in_a_virtual_machine") {
        return;
    }
    let (sysroot, commit, packages) = deploy(&[
        &format!("root=LABEL={}", qemu::ROOT_LABEL),
        "rw",
        "console=ttyS0",
        // On a busy host the emulated timer is too late for the kernel's test of it.
        "no_timer_check",
    ]);
    let entry = sysroot.default_entry().unwrap();
    add_check(&sysroot, &sysroot.deployment(&entry).unwrap());
    let text = qemu::run(&sysroot, Duration::from_secs(1200)).unwrap();
    let reports = parse(&text);
    for boot in [1, 2] {
        let get = |name: &str| {
            reports
                .get(&(boot, name.to_owned()))
                .unwrap_or_else(|| panic!("no {boot} {name} in\n{text}"))
                .as_str()
        };
        assert_eq!((get("state"), get("failed")), ("running", ""), "{text}");
        assert_eq!(get("cmdline"), entry.options, "{text}");
        assert_eq!(get("kernel"), get("modules"), "{text}");
        for (mount, option) in [("usr", "ro"), ("sysroot", "ro"), ("etc", "rw")] {
            assert!(
                get(mount).split(',').any(|word| word == option),
                "{mount}: {text}"
            );
        }
        assert!(get("prepare-root").contains("Finished"), "{text}");
        assert_eq!((get("remount"), get("dns")), ("active", "active"), "{text}");
        assert!(
            get("status").starts_with(&format!("* debian {commit}.0")),
            "{text}"
        );
        // The generator of sockets for virtual machines fails where there is no such socket.
        let ours = get("errors")
            .lines()
            .filter(|line| !line.contains("systemd-ssh-generator"));
        assert_eq!(ours.collect::<Vec<_>>(), Vec::<&str>::new(), "{text}");
        assert_eq!(
            (get("packages"), get("audit")),
            (packages.to_string().as_str(), ""),
            "{text}"
        );
        // A host that shuts the machine in leaves "connected (site only)".
        assert!(get("network").starts_with("connected"), "{text}");
        assert_eq!(get("ssh"), "SSH-2.0-", "{text}");
    }
    let kept = |name: &str| {
        (
            &reports[&(1, name.to_owned())],
            &reports[&(2, name.to_owned())],
        )
    };
    for name in ["machine", "key"] {
        assert!(
            kept(name).0.len() >= 32 && kept(name).0 == kept(name).1,
            "{name}: {text}"
        );
    }
    assert_eq!(kept("kept").1, "local", "{text}");
}

/// Puts the check into the deployment's `/etc` and the stateroot's `/var`.
fn add_check(sysroot: &Sysroot, deployment: &Utf8Path) {
    let lib = sysroot.var().join("lib");
    std::fs::create_dir_all(&lib).unwrap();
    std::fs::write(lib.join("check"), CHECK).unwrap();
    std::fs::set_permissions(lib.join("check"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let units = deployment.join("etc/systemd/system");
    std::fs::write(units.join("check.service"), CHECK_UNIT).unwrap();
    symlink(
        "../check.service",
        units.join("multi-user.target.wants/check.service"),
    )
    .unwrap();
}

fn parse(text: &str) -> Reports {
    let mut reports = Reports::new();
    for part in text.split("=== ").skip(1) {
        let (head, body) = part.split_once('\n').unwrap();
        let (boot, name) = head.split_once(' ').unwrap();
        reports.insert(
            (boot.parse().unwrap(), name.to_owned()),
            body.trim().to_owned(),
        );
    }
    reports
}
