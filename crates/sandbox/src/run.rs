//! The caller's side of a run.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::time::{Duration, Instant};

use apt_ostree_fsx::{Cmd, LineSplitter, Stdin, Tail, cancel, escape};
use apt_ostree_model::{ErrorKind, Kinded};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal};

use crate::cgroup::{self, Cgroup};
use crate::init::OUTER;
use crate::spec::{Job, Report, Root, Sandbox};

/// How often a waiting caller looks at the cancel flag.
const TICK: Duration = Duration::from_millis(100);

/// How long the processes inside have to go away once told so.
const GRACE: Duration = Duration::from_secs(20);

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
}

/// A program that ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// How it ended.
    pub status: Status,
    /// The last lines of its output, escaped.
    pub tail: Vec<String>,
}

impl Finished {
    /// Whether the exit code is 0.
    pub fn success(&self) -> bool {
        self.status == Status::Exited(0)
    }

    /// Fails unless the exit code is 0; `what` names the program for the user.
    ///
    /// # Errors
    /// [`ErrorKind::Script`] with the last lines of output.
    pub fn require_success(&self, what: &str) -> Result<(), Kinded> {
        if self.success() {
            return Ok(());
        }
        let how = match self.status {
            Status::Exited(code) => format!("failed with exit code {code}"),
            Status::Signalled(signal) => format!("was killed by signal {signal}"),
        };
        Err(Kinded::new(
            ErrorKind::Script,
            with_tail(format!("'{}' {how}", escape(what)), &self.tail),
        ))
    }
}

impl Sandbox {
    /// Runs the program `argv[0]`, looked up in the sandbox's `PATH`, and hands on each line it
    /// prints, standard output and error merged and escaped. Afterwards no process of it is left.
    ///
    /// The program's `main` must have called [`crate::maybe_init`], because that is what is
    /// started inside.
    ///
    /// # Errors
    /// [`ErrorKind::Script`] when the time is over, [`ErrorKind::Cancelled`], and
    /// [`ErrorKind::Failed`] when the sandbox can't be set up or the program can't be started.
    /// A program that ends with a failure is not an error here: see [`Finished`].
    pub fn run(
        &self,
        argv: &[&str],
        stdin: &[u8],
        on_line: &mut dyn FnMut(&str),
    ) -> Result<Finished, Kinded> {
        self.check(argv)?;
        self.clear_work()?;
        let program = escape(argv.first().copied().unwrap_or_default());
        let cgroup = if cgroup::namespaces_have_pid_max() {
            None
        } else {
            Cgroup::create(self.max_pids)
        };
        let job = Job {
            sandbox: self.clone(),
            argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
            cgroup: cgroup.as_ref().map(Cgroup::procs_file),
        };
        let mut running = Running::start(&job, stdin).map_err(|e| {
            Kinded::new(
                ErrorKind::Failed,
                format!("starting a sandbox for '{program}': {e}"),
            )
        })?;
        let mut tail = Tail::default();
        let mut splitter = LineSplitter::new(self.output_limit);
        let mut take_line = |line: &str| {
            tail.push(line);
            on_line(line);
        };
        let ended = running.follow(self.timeout, &mut |bytes| {
            splitter.push(bytes, &mut take_line);
        });
        splitter.finish(&mut take_line);
        drop(running);
        drop(cgroup);
        let ended = ended
            .map_err(|e| Kinded::new(ErrorKind::Failed, format!("watching '{program}': {e}")))?;
        self.conclude(&program, ended, tail.into_lines())
    }

    /// What the caller is told.
    fn conclude(&self, program: &str, ended: Ended, tail: Vec<String>) -> Result<Finished, Kinded> {
        let failed = |message: String| Kinded::new(ErrorKind::Script, with_tail(message, &tail));
        let status = match ended {
            Ended::Reported(Report::Exited(code)) => Status::Exited(code),
            Ended::Reported(Report::Signalled(signal)) => Status::Signalled(signal),
            Ended::Reported(Report::Failed { message, refused }) => {
                return Err(setup_error(program, &message, refused));
            }
            Ended::Cancelled => return Err(cancel::error()),
            Ended::TimedOut => {
                let seconds = self.timeout.as_secs();
                return Err(failed(format!(
                    "'{program}' did not finish within {seconds} seconds and was killed"
                )));
            }
            Ended::Silent => {
                let error = failed(format!(
                    "the sandbox of '{program}' was killed from outside"
                ));
                return Err(error.with_hint("look for an out of memory message in the kernel log"));
            }
        };
        Ok(Finished { status, tail })
    }

    /// Empties the overlay's work directory: a `volatile` mount refuses one that was used before.
    fn clear_work(&self) -> Result<(), Kinded> {
        let Root::Overlay { work, .. } = &self.root else {
            return Ok(());
        };
        apt_ostree_fsx::clear_dir(work)
            .map_err(|e| Kinded::new(ErrorKind::Storage, format!("emptying '{work}': {e}")))
    }
}

fn setup_error(program: &str, message: &str, refused: bool) -> Kinded {
    let error = Kinded::new(
        ErrorKind::Failed,
        format!("setting up the sandbox for '{program}': {message}"),
    );
    if refused {
        return error.with_hint(
            "run as root with the capability CAP_SYS_ADMIN; in a container, start it with '--privileged'",
        );
    }
    error
}

fn with_tail(message: String, tail: &[String]) -> String {
    if tail.is_empty() {
        return message;
    }
    format!("{message}:\n{}", tail.join("\n"))
}

/// How following a run came to its end.
enum Ended {
    Reported(Report),
    /// All processes are gone without a word.
    Silent,
    TimedOut,
    Cancelled,
}

/// The outer process and our ends of what connects us.
struct Running {
    child: Child,
    control: UnixStream,
    output: File,
    reports: Vec<u8>,
}

impl Running {
    fn start(job: &Job, stdin: &[u8]) -> io::Result<Self> {
        let (control, inside) = UnixStream::pair()?;
        control.set_nonblocking(true)?;
        let (output, output_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&output, OFlags::NONBLOCK)?;
        // Programs that gave up root may open /dev/stderr anew.
        rustix::fs::fchmod(&output_end, Mode::from_raw_mode(0o666))?;
        let child = Cmd::new("/proc/self/exe")
            .arg0(OUTER)
            .clear_env()
            .stdin(Stdin::File(job_file(job, stdin)?))
            .spawn(OwnedFd::from(inside).into(), output_end.into())
            .map_err(io::Error::other)?;
        Ok(Self {
            child,
            control,
            output: File::from(output),
            reports: Vec::new(),
        })
    }

    /// Follows the run until all its processes are gone.
    fn follow(&mut self, timeout: Duration, on_output: &mut dyn FnMut(&[u8])) -> io::Result<Ended> {
        let deadline = Instant::now() + timeout;
        let mut stopped: Option<(Ended, Instant)> = None;
        loop {
            self.wait_for_input(deadline)?;
            drain(&mut self.output, on_output)?;
            if self.read_reports()? {
                break;
            }
            if let Some((_, since)) = &stopped {
                if since.elapsed() > GRACE {
                    return Err(io::Error::other("its processes can't be killed"));
                }
                continue;
            }
            let reason = if cancel::cancelled() {
                Ended::Cancelled
            } else if Instant::now() >= deadline {
                Ended::TimedOut
            } else {
                continue;
            };
            // Closing our side makes the outer process kill all others.
            self.control.shutdown(Shutdown::Write)?;
            stopped = Some((reason, Instant::now()));
        }
        self.child.wait()?;
        drain(&mut self.output, on_output)?;
        if let Some((reason, _)) = stopped {
            return Ok(reason);
        }
        Ok(self.last_report().map_or(Ended::Silent, Ended::Reported))
    }

    fn wait_for_input(&self, deadline: Instant) -> io::Result<()> {
        let mut fds = [
            PollFd::from_borrowed_fd(self.control.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.output.as_fd(), PollFlags::IN),
        ];
        // The program may close its output and go on: a hung-up pipe would wake us for ever.
        let count = if has_writers(&self.output)? { 2 } else { 1 };
        let tick = match deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => TICK,
            left => left.min(TICK),
        };
        let tick = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(tick.subsec_nanos()),
        };
        match rustix::event::poll(&mut fds[..count], Some(&tick)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Takes what was reported; says whether no process that could report is left.
    fn read_reports(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        loop {
            match self.control.read(&mut buffer) {
                Ok(0) => return Ok(true),
                Ok(count) => self.reports.extend_from_slice(&buffer[..count]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(true),
                Err(e) => return Err(e),
            }
        }
    }

    fn last_report(&self) -> Option<Report> {
        let line = self
            .reports
            .split(|b| *b == b'\n')
            .rfind(|line| !line.is_empty())?;
        serde_json::from_slice(line).ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a normal end the child is reaped and this does nothing.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            drop(self.child.wait());
        }
    }
}

/// The job and the program's input as an unnamed file: the length of the job, the job, the input.
fn job_file(job: &Job, stdin: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("sandbox", MemfdFlags::CLOEXEC)?);
    let text = serde_json::to_vec(job)?;
    file.write_all(&(text.len() as u64).to_le_bytes())?;
    file.write_all(&text)?;
    file.write_all(stdin)?;
    file.rewind()?;
    Ok(file)
}

/// Whether anyone can still write to the pipe.
fn has_writers(pipe: &File) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match rustix::event::poll(&mut fds, Some(&now)) {
        Ok(_) => {
            Ok(fds[0].revents().contains(PollFlags::IN)
                || !fds[0].revents().contains(PollFlags::HUP))
        }
        Err(Errno::INTR) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

/// Reads what is there, at most a few buffers in a row: an endless writer can't keep us here.
fn drain(pipe: &mut File, on_output: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = [0; 64 << 10];
    for _ in 0..4 {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => on_output(&buffer[..count]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
