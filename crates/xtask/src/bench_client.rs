//! `xtask bench-client`: layering on a desktop beside apt in a root of the same packages and
//! beside a compose of the whole, in one run.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::bench::{Figures, check, steps, timed, title};

/// The package that is installed: small, with a unit, a user, and nothing it depends on.
const PACKAGE: &str = "tinyproxy-bin";
const REF: &str = "debian/13/x86_64/desktop";
const STATEROOT: &str = "debian";
/// Lockfile of the last compose.
const LOCK: &str = "lock.json";

/// Makes the system, measures, and writes `docs/benchmarks-client.md`.
///
/// # Errors
/// When a command fails.
pub(crate) fn run() -> Result<String> {
    let bench = Bench::prepare()?;
    let install = bench.ours("install", &["install", "--cache-only", PACKAGE])?;
    let grown = bench.grown()?;
    let uninstall = bench.ours("uninstall", &["uninstall", "--cache-only", PACKAGE])?;
    // The first look fetches the indices of the day.
    bench.check_for_upgrade()?;
    let look = bench.check_for_upgrade()?;
    let compose = bench.compose("more.yaml", "more-repo")?;
    let apt = bench.apt()?;
    let idle = bench.idle_daemon_kib()?;
    let rows = [
        ("a `apt-get install` in a root of the same packages", &apt),
        (
            "b compose of the whole with one more package, warm",
            &compose,
        ),
        ("c `apt-ostree install`", &install),
        ("d `apt-ostree uninstall`", &uninstall),
        ("e `apt-ostree upgrade --check`, nothing new", &look),
    ];
    let mut text = title("Benchmarks on a system", "make bench-client")?;
    writeln!(
        text,
        "The system has the desktop set as its base; `{PACKAGE}` is installed, with its `.deb` there before.\n\n\
         | run | wall s | CPU s | peak MiB |\n|---|---|---|---|"
    )?;
    for (name, figures) in rows {
        let Figures {
            wall,
            cpu,
            peak_mib,
            ..
        } = figures;
        writeln!(text, "| {name} | {wall:.2} | {cpu:.2} | {peak_mib:.0} |")?;
    }
    text.push_str("\nSeconds per step:\n\n");
    for (name, figures) in rows {
        let steps = figures.steps.iter();
        let steps: Vec<String> = steps.map(|(step, s)| format!("{step} {s:.2}")).collect();
        if !steps.is_empty() {
            writeln!(text, "- {name}: {}", steps.join(", "))?;
        }
    }
    writeln!(
        text,
        "\nThe disk holds {:.1} MiB more after c. The idle daemon takes {:.1} MiB.",
        grown as f64 / 1_048_576.0,
        idle as f64 / 1024.0
    )?;
    std::fs::write("docs/benchmarks-client.md", &text)
        .context("writing docs/benchmarks-client.md")?;
    bench.clean_up()?;
    Ok(text)
}

/// A system in a directory, and what it was made from.
struct Bench {
    dir: PathBuf,
    programs: PathBuf,
    used_before: u64,
}

impl Bench {
    /// Composes the desktop and deploys it.
    fn prepare() -> Result<Self> {
        let root = std::env::current_dir()?;
        let dir = root.join("target/bench/client");
        let mut bench = Self {
            programs: root.join("target/release"),
            dir,
            used_before: 0,
        };
        bench.clean_up()?;
        std::fs::create_dir_all(&bench.dir)?;
        for entry in std::fs::read_dir("examples").context("listing examples")? {
            let entry = entry?;
            std::fs::copy(entry.path(), bench.dir.join(entry.file_name()))?;
        }
        let more = format!("include: desktop.yaml\npackages:\n  - {PACKAGE}\n");
        std::fs::write(bench.dir.join("more.yaml"), more)?;
        bench.compose("desktop.yaml", "repo")?;
        bench.deploy()?;
        bench.ours("download", &["install", "--download-only", PACKAGE])?;
        bench.used_before = used(&bench.dir.join("system"))?;
        Ok(bench)
    }

    fn clean_up(&self) -> Result<()> {
        if !self.dir.exists() {
            return Ok(());
        }
        // Deployments are immutable.
        let deployments = self.dir.join("system/ostree/deploy");
        if deployments.exists() {
            drop(
                Command::new("chattr")
                    .args(["-R", "-f", "-i"])
                    .arg(deployments)
                    .status(),
            );
        }
        std::fs::remove_dir_all(&self.dir).context("removing what an earlier run left")
    }

    fn deploy(&self) -> Result<()> {
        let (system, repo) = (self.dir.join("system"), self.dir.join("repo"));
        std::fs::create_dir_all(&system)?;
        let ostree = |args: &[&str]| check(Command::new("ostree").args(args));
        let sysroot = format!("--sysroot={}", system.display());
        let target = format!("--repo={}", system.join("ostree/repo").display());
        ostree(&[
            "admin",
            "init-fs",
            "--modern",
            &system.display().to_string(),
        ])?;
        for setting in ["sysroot.bootloader=none", "sysroot.readonly=true"] {
            let (key, value) = setting.split_once('=').unwrap_or_default();
            ostree(&[&target, "config", "set", key, value])?;
        }
        ostree(&["admin", "os-init", &sysroot, STATEROOT])?;
        let url = format!("file://{}", repo.display());
        ostree(&[&target, "remote", "add", "--no-gpg-verify", "origin", &url])?;
        ostree(&[
            &target,
            "pull-local",
            "--remote=origin",
            &repo.display().to_string(),
            REF,
        ])?;
        let (os, origin) = (format!("--os={STATEROOT}"), format!("origin:{REF}"));
        ostree(&[
            "admin",
            "deploy",
            &sysroot,
            &os,
            "--karg=root=LABEL=root",
            &origin,
        ])
    }

    /// A verb of ours on the system.
    fn ours(&self, name: &str, args: &[&str]) -> Result<Figures> {
        let mut command = Command::new(self.programs.join("apt-ostree"));
        let (verb, rest) = args.split_first().context("no verb")?;
        command
            .args([*verb, "--json", "--sysroot"])
            .arg(self.dir.join("system"));
        self.timed_with_steps(name, command.args(rest))
    }

    fn check_for_upgrade(&self) -> Result<Figures> {
        // 77 says that there is nothing new.
        let program = self.programs.join("apt-ostree");
        let mut command = Command::new("sh");
        command.args(["-c", "\"$@\" >/dev/null || [ $? -eq 77 ]", "sh"]);
        command
            .arg(program)
            .args(["upgrade", "--check", "--sysroot"]);
        timed(command.arg(self.dir.join("system")), Stdio::null())
    }

    fn timed_with_steps(&self, name: &str, command: &Command) -> Result<Figures> {
        let events = self.dir.join(format!("{name}.jsonl"));
        let mut figures = timed(command, std::fs::File::create(&events)?.into())?;
        figures.steps = steps(&std::fs::read_to_string(&events)?);
        Ok(figures)
    }

    fn compose(&self, treefile: &str, repo: &str) -> Result<Figures> {
        let mut command = Command::new(self.programs.join("apt-ostree"));
        command.args(["compose", "tree", "--json", "--cachedir"]);
        command
            .arg(self.dir.join("cache"))
            .arg("--repo")
            .arg(self.dir.join(repo));
        command.arg("--write-lockfile-to").arg(self.dir.join(LOCK));
        self.timed_with_steps("compose", command.arg(self.dir.join(treefile)))
    }

    /// The same package with apt, in a root that dpkg has configured.
    fn apt(&self) -> Result<Figures> {
        let (cache, dir) = (self.dir.join("cache"), self.dir.join("apt"));
        let mut command = Command::new(self.programs.join("apt-ostree"));
        command.args(["compose", "install", "--cachedir"]);
        command.arg(&cache).arg(self.dir.join("desktop.yaml"));
        check(command.arg(&dir).stdout(Stdio::null()))?;
        let lock: Value = serde_json::from_str(&std::fs::read_to_string(self.dir.join(LOCK))?)?;
        let sha256 = lock["packages"][PACKAGE]["sha256"].as_str();
        let sha256 = sha256.context("the package is not in the lockfile")?;
        let root = dir.join("rootfs");
        let deb = cache.join(format!("debs/{sha256}.deb"));
        std::fs::copy(deb, root.join("tmp/package.deb"))?;
        let script = "mount --bind /dev \"$1/dev\"; mount -t proc proc \"$1/proc\"; \
             exec chroot \"$1\" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install /tmp/package.deb";
        let mut apt = Command::new("unshare");
        apt.args([
            "--mount", "--net", "--pid", "--fork", "sh", "-ec", script, "sh",
        ]);
        timed(apt.arg(&root), Stdio::null())
    }

    /// Bytes that the system takes more than before the installation.
    fn grown(&self) -> Result<u64> {
        Ok(used(&self.dir.join("system"))?.saturating_sub(self.used_before))
    }

    /// Resident KiB of the daemon after it has answered.
    fn idle_daemon_kib(&self) -> Result<u64> {
        let config = self.dir.join("bus.conf");
        std::fs::write(
            &config,
            format!(
                "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\"\n\
                 \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n\
                 <busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\n\
                 <policy context=\"default\"><allow own=\"*\"/><allow send_destination=\"*\"/>\
                 <allow receive_sender=\"*\"/></policy></busconfig>",
                self.dir.join("bus").display()
            ),
        )?;
        let mut bus = Command::new("dbus-daemon");
        bus.arg(format!("--config-file={}", config.display()));
        let mut bus = Process(
            bus.args(["--nofork", "--print-address"])
                .stdout(Stdio::piped())
                .spawn()?,
        );
        let output = bus.0.stdout.take().context("the bus has no output")?;
        let mut address = String::new();
        BufReader::new(output).read_line(&mut address)?;
        let mut daemon = Command::new(self.programs.join("apt-ostreed"));
        let daemon = Process(
            daemon
                .env("DBUS_SYSTEM_BUS_ADDRESS", address.trim())
                .spawn()?,
        );
        std::thread::sleep(Duration::from_secs(3));
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.context("the daemon is gone")
    }
}

/// A child that is killed when it is no longer needed.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Bytes on disk below `dir`, each inode once.
fn used(dir: &Path) -> Result<u64> {
    let (mut sum, mut seen, mut dirs) = (0, BTreeSet::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in
            std::fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?
        {
            let entry = entry?;
            let meta = entry.metadata()?;
            if seen.insert(meta.ino()) {
                sum += meta.blocks() * 512;
            }
            if meta.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    ensure!(sum > 0, "{} is empty", dir.display());
    Ok(sum)
}
