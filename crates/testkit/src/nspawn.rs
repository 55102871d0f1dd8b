//! Boots a deployment with systemd-nspawn: everything but kernel, initramfs and boot loader.
//!
//! The container has namespaces of its own for processes and mounts and its own control group.
//! When the test ends, however it ends, the kernel kills the first process of the namespace, and
//! with it all others.

use std::fs::File;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};

use crate::sysroot::Sysroot;
use crate::{binary, stdout, success};

/// Exit status of nspawn when the container asks for a reboot and nobody manages units.
pub const REBOOT: i32 = 133;

/// Where the programs of the workspace are in the container.
const PROGRAMS: &str = "/run/programs";
/// How long a boot or shutdown may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running container.
#[derive(Debug)]
pub struct Container {
    /// `unshare`, whose child is nspawn.
    child: Child,
    /// The container's first process.
    leader: u32,
    console: Utf8PathBuf,
    _groups: ControlGroups,
}

impl Container {
    /// Starts the default deployment of a sysroot and waits until its boot is complete. Returns
    /// the container and what `systemctl is-system-running` says.
    ///
    /// # Errors
    /// When it does not come up; the message has the console's last lines.
    pub fn boot(sysroot: &Sysroot) -> Result<(Self, String)> {
        let groups = ControlGroups::new()?;
        let console = sysroot.path().join("console.log");
        let mut child = command(sysroot, &groups)?
            .stdin(Stdio::null())
            .stdout(File::create(&console)?)
            .stderr(File::options().append(true).open(&console)?)
            .spawn()
            .context("starting systemd-nspawn")?;
        let start = Instant::now();
        let leader = loop {
            if let Some(leader) = find_leader(child.id()) {
                break leader;
            }
            if let Some(status) = child.try_wait()? {
                bail!("systemd-nspawn ended with {status}\n{}", tail(&console));
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "no container after {PATIENCE:?}\n{}",
                tail(&console)
            );
            std::thread::sleep(Duration::from_millis(50));
        };
        let container = Self {
            child,
            leader,
            console,
            _groups: groups,
        };
        let state = container.wait_for_boot()?;
        Ok((container, state))
    }

    fn wait_for_boot(&self) -> Result<String> {
        let start = Instant::now();
        loop {
            let state = stdout(&self.run(&["systemctl", "is-system-running"])?)
                .trim()
                .to_owned();
            if !matches!(
                state.as_str(),
                "" | "offline" | "initializing" | "starting" | "unknown"
            ) {
                return Ok(state);
            }
            if start.elapsed() > PATIENCE {
                let jobs = stdout(&self.run(&["systemctl", "list-jobs"])?);
                bail!(
                    "still '{state}' after {PATIENCE:?}\n{jobs}\n{}",
                    tail(&self.console)
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Runs a program in the container.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        self.command(args)
            .output()
            .with_context(|| format!("running {args:?} in the container"))
    }

    /// Standard output, trimmed, of a program that must succeed in the container.
    ///
    /// # Errors
    /// When it fails.
    pub fn text(&self, args: &[&str]) -> Result<String> {
        Ok(stdout(&success(&mut self.command(args))?).trim().to_owned())
    }

    /// A command that runs a program of the workspace in the container.
    pub fn program(&self, name: &str, args: &[&str]) -> Command {
        let program = format!("{PROGRAMS}/{name}");
        self.command(&[&[program.as_str()], args].concat())
    }

    /// Path, on the host, of a file of the container: of a socket to connect to, for instance.
    pub fn path(&self, path: &str) -> Utf8PathBuf {
        Utf8PathBuf::from(format!("/proc/{}/root{path}", self.leader))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--all", "--target", &self.leader.to_string()])
            .args(args)
            .stdin(Stdio::null());
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("LC_ALL", "C");
        command
    }

    /// Asks for `reboot` or `poweroff`, waits for the end and returns nspawn's exit status.
    ///
    /// # Errors
    /// When the container does not end.
    pub fn shutdown(mut self, verb: &str) -> Result<i32> {
        self.run(&["systemctl", "--no-block", verb])?;
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return status
                    .code()
                    .with_context(|| format!("systemd-nspawn ended with {status}"));
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "no {verb} after {PATIENCE:?}\n{}",
                tail(&self.console)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        let start = Instant::now();
        while Utf8Path::new("/proc")
            .join(self.leader.to_string())
            .exists()
            && start.elapsed() < Duration::from_secs(10)
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The whole command line, from the outermost program to the arguments of systemd.
fn command(sysroot: &Sysroot, groups: &ControlGroups) -> Result<Command> {
    let entry = sysroot.default_entry()?;
    let root = sysroot.deployment(&entry)?;
    let flag = sysroot.path().join("booted");
    File::create(&flag)?;
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "sh",
        "-ec",
        "for group in $GROUPS_TO_ENTER; do echo $$ >$group/cgroup.procs; done; exec \"$@\"",
        "sh",
    ]);
    command.env(
        "GROUPS_TO_ENTER",
        groups
            .0
            .iter()
            .map(|group| group.as_str())
            .collect::<Vec<_>>()
            .join(" "),
    );
    command.args([
        "unshare",
        "--pid",
        "--mount",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    command.args(["sh", "-ec", "mount -t tmpfs tmpfs /run; exec \"$@\"", "sh"]);
    command.args([
        "systemd-nspawn",
        "--register=no",
        "--keep-unit",
        "--private-network",
        "--console=read-only",
    ]);
    command.args([
        "--link-journal=no",
        "--resolv-conf=off",
        "--timezone=off",
        "--machine=apt-ostree-test",
    ]);
    command.arg(format!("--directory={root}"));
    command.arg(format!("--bind={}:/sysroot:norbind", sysroot.path()));
    command.arg(format!(
        "--bind={}:/boot:norbind",
        sysroot.path().join("boot")
    ));
    command.arg(format!("--bind={}:/var:norbind", sysroot.var()));
    command.arg(format!("--bind-ro={}:/usr:norbind", root.join("usr")));
    command.arg(format!("--bind={}:/etc:norbind", root.join("etc")));
    command.arg(format!("--bind-ro={flag}:/run/ostree-booted"));
    let worker = binary("apt-ostree-worker")?;
    let programs = worker.parent().context("a program has no directory")?;
    command.arg(format!("--bind-ro={programs}:{PROGRAMS}:norbind"));
    copy_library(&root, &worker)?;
    command.arg("--boot").args(entry.ostree_argument());
    Ok(command)
}

/// Copies the one library whose name differs from release to release into a deployment: the
/// programs were built for this one.
fn copy_library(root: &Utf8Path, program: &Utf8Path) -> Result<()> {
    let text = stdout(&success(Command::new("ldd").arg(program))?);
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    for path in paths.filter(|path| path.contains("/libapt-pkg.so")) {
        let real = Utf8Path::new(path).canonicalize_utf8()?;
        let name = Utf8Path::new(path).file_name().unwrap_or_default();
        let dir = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        let to = root.join(dir).join(name);
        if !to.exists() {
            std::fs::copy(&real, &to).with_context(|| format!("copying '{path}' to '{to}'"))?;
        }
    }
    Ok(())
}

/// Control groups of one container, so that several can run and none stays.
#[derive(Debug)]
struct ControlGroups(Vec<Utf8PathBuf>);

impl ControlGroups {
    fn new() -> Result<Self> {
        let root = Utf8Path::new("/sys/fs/cgroup");
        let trees = if root.join("cgroup.controllers").exists() {
            vec![root.to_owned()]
        } else {
            vec![root.join("unified"), root.join("systemd")]
        };
        let name = format!(
            "apt-ostree-test-{}-{}",
            std::process::id(),
            rustix::thread::gettid().as_raw_nonzero()
        );
        let mut groups = Self(Vec::new());
        for tree in trees
            .iter()
            .filter(|tree| tree.join("cgroup.procs").exists())
        {
            let group = tree.join(&name);
            std::fs::create_dir(&group).with_context(|| format!("creating '{group}'"))?;
            groups.0.push(group);
        }
        Ok(groups)
    }
}

impl Drop for ControlGroups {
    fn drop(&mut self) {
        for group in &self.0 {
            let start = Instant::now();
            while !remove_groups(group) && start.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// Removes a control group with those below it; false when a process is still in one.
fn remove_groups(group: &Utf8Path) -> bool {
    for entry in group.read_dir_utf8().into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !remove_groups(entry.path()) {
            return false;
        }
    }
    std::fs::remove_dir(group).is_ok()
}

/// The first process of the container: a descendant of `unshare` that is number 1 of a process
/// namespace two levels down.
fn find_leader(unshare: u32) -> Option<u32> {
    let parents = [unshare].into_iter().flat_map(children).flat_map(children);
    parents.into_iter().find(|process| {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let numbers = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .unwrap_or_default();
        let numbers: Vec<&str> = numbers.split_whitespace().collect();
        numbers.len() > 2 && numbers.last() == Some(&"1")
    })
}

fn children(process: u32) -> Vec<u32> {
    let parent = |process: u32| -> Option<u32> {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:"))?
            .trim()
            .parse()
            .ok()
    };
    let entries = Utf8Path::new("/proc")
        .read_dir_utf8()
        .into_iter()
        .flatten()
        .flatten();
    let processes = entries.filter_map(|entry| entry.file_name().parse::<u32>().ok());
    processes
        .filter(|candidate| parent(*candidate) == Some(process))
        .collect()
}

/// The last lines of a console.
pub(crate) fn tail(console: &Utf8Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(console).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
