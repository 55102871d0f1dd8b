//! Boots a sysroot in a virtual machine: the deployed kernel, its initramfs and its arguments.
//!
//! The processor is emulated unless `APTOSTREE_TEST_KVM=1`, because hosts exist whose KVM runs no
//! stock kernel.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use camino::Utf8Path;

use crate::nspawn::tail;
use crate::sysroot::Sysroot;
use crate::{stdout, success};

/// Label of the root file system.
pub const ROOT_LABEL: &str = "root";

/// Runs the sysroot as a disk until the machine powers off. A reboot starts the same kernel
/// again. Returns what was written to the second serial port (`/dev/ttyS1`).
///
/// # Errors
/// When the machine is still on after `limit`; the message has the console's last lines.
pub fn run(sysroot: &Sysroot, limit: Duration) -> Result<String> {
    let dir = tempfile::TempDir::with_prefix_in(
        "disk-",
        sysroot.path().parent().context("no parent directory")?,
    )?;
    let dir = Utf8Path::from_path(dir.path()).context("a path that is not UTF-8")?;
    let (disk, console, report) = (
        dir.join("disk.img"),
        dir.join("console.log"),
        dir.join("report.log"),
    );
    make_disk(sysroot.path(), &disk)?;
    let entry = sysroot.default_entry()?;
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "qemu-system-x86_64",
        "-nodefaults",
        "-display",
        "none",
        "-m",
        "1536",
    ]);
    command.args(processor()?);
    command.args([
        "-kernel",
        entry.linux.as_str(),
        "-initrd",
        entry.initrd.as_str(),
        "-append",
        &entry.options,
    ]);
    command.args([
        "-drive",
        &format!("file={disk},format=raw,if=virtio,cache=unsafe"),
    ]);
    command.args([
        "-nic",
        "user,model=virtio-net-pci,restrict=on",
        "-device",
        "virtio-rng-pci",
    ]);
    command.args([
        "-serial",
        &format!("file:{console}"),
        "-serial",
        &format!("file:{report}"),
    ]);
    let child = command
        .stdin(Stdio::null())
        .spawn()
        .context("starting QEMU")?;
    let mut machine = Machine(child);
    let start = Instant::now();
    loop {
        let report = || {
            String::from_utf8_lossy(&std::fs::read(&report).unwrap_or_default()).replace('\r', "")
        };
        match machine.0.try_wait()? {
            Some(status) if status.success() => return Ok(report()),
            Some(status) => bail!("QEMU ended with {status}\n{}", tail(&console)),
            None => {}
        }
        ensure!(
            start.elapsed() < limit,
            "the machine is on after {limit:?}\n{}\n--- console\n{}",
            report(),
            tail(&console)
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// A machine that is switched off when the test ends.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Makes a disk without partitions from a directory; nothing is mounted.
fn make_disk(root: &Utf8Path, disk: &Utf8Path) -> Result<()> {
    let size = 4 << 30;
    std::fs::File::create(disk)?.set_len(size)?;
    success(Command::new("mkfs.ext4").args([
        "-q",
        "-F",
        "-L",
        ROOT_LABEL,
        "-d",
        root.as_str(),
        disk.as_str(),
    ]))?;
    Ok(())
}

/// Options for processor and accelerator.
fn processor() -> Result<Vec<&'static str>> {
    if std::env::var("APTOSTREE_TEST_KVM").is_ok_and(|value| value == "1") {
        return Ok(vec!["-accel", "kvm", "-cpu", "host", "-smp", "2"]);
    }
    let version = stdout(&success(
        Command::new("qemu-system-x86_64").arg("--version"),
    )?);
    let major = version
        .split_whitespace()
        .find_map(|word| word.split_once('.')?.0.parse::<u32>().ok());
    // Emulation of this instruction leaves wrong flags in older versions; Linux then locks up.
    let model = if major.is_some_and(|major| major >= 10) {
        "max"
    } else {
        "max,-cx16"
    };
    Ok(vec![
        "-accel",
        "tcg,thread=multi,tb-size=512",
        "-cpu",
        model,
        "-smp",
        "2",
    ])
}
