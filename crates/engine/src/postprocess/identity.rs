//! Machine identity: what must come from the machine that boots, not from the one that builds.

use anyhow::Result;
use apt_ostree_model::Node;

use super::work::Work;

/// Files that name the build machine or its network.
const BUILD_IDENTITY: [&str; 3] = ["etc/hostname", "etc/resolv.conf", "etc/machine-info"];

const HOSTS: &str = "\
127.0.0.1\tlocalhost
::1\t\tlocalhost ip6-localhost ip6-loopback
ff02::1\t\tip6-allnodes
ff02::2\t\tip6-allrouters
";

/// Unit that asks for locale, time zone and root's password at the console of a first boot.
const FIRST_BOOT_UNIT: &str = "usr/lib/systemd/system/systemd-firstboot.service";

/// Takes the questions away: they would hold up the boot of every machine that nobody sits at.
/// What credentials set (`firstboot.*`, `passwd.*`) is still applied.
const FIRST_BOOT_DROP_IN: &str = "\
# The first boot of an image asks nobody. A file of the same name below /etc overrides this.
[Service]
ExecStart=
ExecStart=systemd-firstboot
StandardInput=null
StandardOutput=journal
StandardError=journal
";

/// Unit that moves the journal from memory to disk when the directory for it is there.
const FLUSH_UNIT: &str = "usr/lib/systemd/system/systemd-journal-flush.service";

/// Makes that directory first: tmpfiles.d comes too late on a machine whose `/var` is empty.
const FLUSH_DROP_IN: &str = "\
# Without this the journal of the first boot is lost at the reboot.
[Service]
ExecStartPre=-systemd-tmpfiles --create --prefix=/var/log/journal
";

/// Drops regular files that name the build machine and that no package ships. Files that the
/// treefile adds come later and stay; links (to the resolver's stub) stay as well.
pub(super) fn drop_build_identity(work: &mut Work<'_>) -> Result<()> {
    for path in BUILD_IDENTITY {
        if work.tree.file(path).is_some() && !work.owned().contains(path) {
            work.drop_path(path);
        }
    }
    Ok(())
}

/// Writes `machine-id` and `hosts`, and drops what a sandbox mounts over.
pub(super) fn write_identity(work: &mut Work<'_>) -> Result<()> {
    for path in ["etc/hostname", "etc/resolv.conf", "etc/hosts"] {
        if work.tree.file(path).is_some_and(|file| file.size == 0) {
            work.drop_path(path);
        }
    }
    if !work.tree.contains("etc/hosts") {
        work.write("etc/hosts", 0o644, HOSTS.as_bytes())?;
    }
    work.tree.remove("etc/machine-id");
    if work.options().machineid_compat {
        work.write("etc/machine-id", 0o444, b"uninitialized\n")?;
    }
    let dbus_id = "var/lib/dbus/machine-id";
    if matches!(work.tree.get(dbus_id), Some(Node::File(_))) {
        work.tree.remove(dbus_id);
        work.symlink(dbus_id, "/etc/machine-id")?;
    }
    Ok(())
}

/// Lets the first boot, which an unset machine id asks for, go on without a user, and keeps its
/// journal where journals are kept.
pub(super) fn prepare_first_boot(work: &mut Work<'_>) -> Result<()> {
    if work.tree.contains(FIRST_BOOT_UNIT) {
        write_drop_in(work, FIRST_BOOT_UNIT, FIRST_BOOT_DROP_IN)?;
    }
    if work.tree.contains(FLUSH_UNIT) && work.tree.dir("var/log/journal").is_some() {
        write_drop_in(work, FLUSH_UNIT, FLUSH_DROP_IN)?;
    }
    Ok(())
}

fn write_drop_in(work: &mut Work<'_>, unit: &str, text: &str) -> Result<()> {
    work.write(
        &format!("{unit}.d/50-apt-ostree.conf"),
        0o644,
        text.as_bytes(),
    )
}
