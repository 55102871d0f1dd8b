//! The two processes between the caller and the program; see the crate documentation.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::{ExitCode, Stdio};

use apt_ostree_fsx::{Cmd, Stdin, escape};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, Mode};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};
use rustix::thread::UnshareFlags;

use crate::spec::{Job, Report};
use crate::{confine, mounts};

/// The name under which a program becomes the outer process.
pub(crate) const OUTER: &str = "apt-ostree-sandbox-outer";

/// The name under which a program becomes the inner process.
const INNER: &str = "apt-ostree-sandbox-inner";

/// Becomes a part of a sandbox when this process was started as one, and then returns the exit code
/// to leave `main` with.
///
/// Every program that uses [`crate::Sandbox::run`] calls this first thing in its `main`, before it
/// starts a thread or opens a file.
pub fn maybe_init() -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    let result = if name == OUTER {
        confine::close_inherited_files()
            .map_err(|e| Failure::new("closing inherited files", e))
            .and_then(|()| outer())
    } else if name == INNER {
        inner()
    } else {
        return None;
    };
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // When the caller is gone there is no one to tell.
            drop(report(&Report::Failed {
                message: failure.message,
                refused: failure.refused,
            }));
            ExitCode::FAILURE
        }
    })
}

/// Why setting up a sandbox failed.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    /// Whether the system refused it to us.
    refused: bool,
}

impl Failure {
    /// `doing` failed for the reason `error`.
    pub(crate) fn new(doing: impl std::fmt::Display, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        Self {
            message: format!("{doing}: {error}"),
            refused: error.kind() == io::ErrorKind::PermissionDenied,
        }
    }

    /// The target is not what it must be.
    pub(crate) fn target(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            refused: false,
        }
    }
}

/// Leaves the caller's namespaces, starts the inner process in them, and kills it when the caller
/// goes away or says so.
fn outer() -> Result<(), Failure> {
    die_with_parent()?;
    let (job, _) = read_job()?;
    if let Some(procs) = &job.cgroup {
        std::fs::write(procs, "0")
            .map_err(|e| Failure::new(format_args!("joining '{procs}'"), e))?;
    }
    // When memory runs out, what runs here goes first. Not worth failing for.
    drop(std::fs::write("/proc/self/oom_score_adj", "500"));
    let mut flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    if !job.sandbox.network {
        flags |= UnshareFlags::NEWNET;
    }
    confine::unshare(flags).map_err(|e| Failure::new("creating namespaces", e))?;
    let stdin = duplicate(io::stdin())?;
    let child = Cmd::new("/proc/self/exe")
        .arg0(INNER)
        .same_group()
        .clear_env()
        .stdin(Stdin::File(File::from(stdin)))
        .spawn(Stdio::inherit(), Stdio::inherit())
        .map_err(|e| Failure::new("starting the first process", io::Error::other(e)))?;
    let pid = Pid::from_child(&child);
    let watch = || -> Result<(), Errno> {
        let (pidfd, stdout) = (
            rustix::process::pidfd_open(pid, PidfdFlags::empty())?,
            io::stdout(),
        );
        let mut fds = [
            PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN),
            // The job is not read from here: only the other side closing wakes us.
            PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::RDHUP),
        ];
        while let Err(error) = rustix::event::poll(&mut fds, None) {
            if error != Errno::INTR {
                return Err(error);
            }
        }
        Ok(())
    };
    let watched = watch();
    // Does nothing to one that has ended. Waiting returns once all processes inside are dead.
    let _ = rustix::process::kill_process(pid, Signal::KILL);
    while let Err(Errno::INTR) = rustix::process::waitpid(Some(pid), WaitOptions::empty()) {}
    watched.map_err(|e| Failure::new("watching the first process", e))
}

/// The first process inside: sets up everything, starts the program, reaps until it ends.
fn inner() -> Result<(), Failure> {
    die_with_parent()?;
    // The program can't trace us then, nor reach our files through /proc.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|e| Failure::new("closing the first process to others", e))?;
    rustix::process::setsid().map_err(|e| Failure::new("starting a session", e))?;
    rustix::process::umask(Mode::empty());
    let (job, stdin) = read_job()?;
    let sandbox = &job.sandbox;
    rustix::system::sethostname(sandbox.hostname.as_bytes())
        .map_err(|e| Failure::new("setting the host name", e))?;
    if !sandbox.network {
        match confine::bring_loopback_up() {
            // A unit without CAP_NET_ADMIN: it stays down, and hardly a script misses it.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {}
            result => {
                result.map_err(|e| Failure::new("bringing the loopback interface up", e))?;
            }
        }
    }
    confine::set_limits().map_err(|e| Failure::new("setting resource limits", e))?;
    mounts::enter(sandbox)?;
    rustix::process::chdir(sandbox.cwd.as_str())
        .map_err(|e| Failure::new(format_args!("entering '{}'", sandbox.cwd), e))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    confine::drop_privileges(sandbox.network)?;
    let child = program(&job, stdin)?;
    let status = reap_until(child).map_err(|e| Failure::new("waiting for the program", e))?;
    let outcome = match (status.exit_status(), status.terminating_signal()) {
        (_, Some(signal)) => Report::Signalled(signal),
        (code, None) => Report::Exited(code.unwrap_or(-1)),
    };
    report(&outcome).map_err(|e| Failure::new("reporting the end", e))
}

/// Starts the program with its output where our standard error goes.
fn program(job: &Job, stdin: Option<File>) -> Result<Pid, Failure> {
    let name = job.argv.first().map(String::as_str).unwrap_or_default();
    let output = duplicate(io::stderr())?;
    let mut cmd = Cmd::new(name).clear_env().args(job.argv.iter().skip(1));
    for (name, value) in &job.sandbox.env {
        cmd = cmd.env(name, value);
    }
    let child = cmd
        .stdin(stdin.map_or(Stdin::Null, Stdin::File))
        .spawn(output.into(), Stdio::inherit())
        .map_err(|e| Failure {
            message: escape(&e.to_string()),
            refused: false,
        })?;
    Ok(Pid::from_child(&child))
}

/// Reaps all children, also those that lost their parents, until `child` ends.
fn reap_until(child: Pid) -> Result<WaitStatus, Errno> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => return Ok(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

fn die_with_parent() -> Result<(), Failure> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| Failure::new("tying the process to its parent", e))
}

fn duplicate(fd: impl AsFd) -> Result<OwnedFd, Failure> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3)
        .map_err(|e| Failure::new("duplicating a file descriptor", e))
}

fn report(report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut socket = File::from(rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?);
    socket.write_all(&line)
}

/// Reads the job and the program's input. Positions are given, because the file is shared.
fn read_job() -> Result<(Job, Option<File>), Failure> {
    let read = || -> io::Result<(Job, Option<File>)> {
        let file = File::from(rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?);
        let mut length = [0; 8];
        file.read_exact_at(&mut length, 0)?;
        let length = u64::from_le_bytes(length);
        let mut text = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read_exact_at(&mut text, 8)?;
        let job = serde_json::from_slice(&text)?;
        let rest = file.metadata()?.len() - 8 - length;
        if rest == 0 {
            return Ok((job, None));
        }
        let mut input = vec![0; usize::try_from(rest).map_err(io::Error::other)?];
        file.read_exact_at(&mut input, 8 + length)?;
        let mut stdin = File::from(rustix::fs::memfd_create("stdin", MemfdFlags::CLOEXEC)?);
        stdin.write_all(&input)?;
        stdin.rewind()?;
        Ok((job, Some(stdin)))
    };
    read().map_err(|e| Failure::new("reading the job", e))
}
