//! Runs other programs of the host.
//!
//! A child gets a cleared environment, a process group of its own and no terminal input. It and its
//! group are killed when its time is over, when the work is cancelled, and when it leaves
//! background processes behind.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use apt_ostree_model::{ErrorKind, Kinded};
use camino::Utf8PathBuf;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::{LineSplitter, Tail, cancel, escape};

/// How often a waiting parent looks at the cancel flag.
const TICK: Duration = Duration::from_millis(100);

/// What the child reads from its standard input.
#[derive(Debug, Default)]
pub enum Stdin {
    /// Nothing.
    #[default]
    Null,
    /// These bytes.
    Bytes(Vec<u8>),
    /// An open file from its current position on.
    File(File),
}

/// A program to run, its arguments and its surroundings.
#[derive(Debug)]
pub struct Cmd {
    program: OsString,
    arg0: Option<OsString>,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    cwd: Option<Utf8PathBuf>,
    stdin: Stdin,
    timeout: Option<Duration>,
    output_limit: u64,
    own_group: bool,
}

/// What a program that ended left.
#[derive(Debug)]
pub struct Captured {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// The last lines of its standard error, escaped.
    pub stderr: Vec<String>,
}

/// Why running a program failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CmdError {
    /// It could not be started.
    #[error("starting '{program}': {source}")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// Talking to it failed.
    #[error("running '{program}': {source}")]
    Io {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ended with a failure.
    #[error("'{program}' {}{}", describe(*status), with_tail(tail))]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// Its last lines, escaped.
        tail: Vec<String>,
    },
    /// It took too long and was killed.
    #[error("'{program}' did not finish within {} seconds and was killed{}", limit.as_secs(), with_tail(tail))]
    TimedOut {
        /// The program.
        program: String,
        /// The limit.
        limit: Duration,
        /// Its last lines, escaped.
        tail: Vec<String>,
    },
    /// It printed more than was allowed and was killed.
    #[error("'{program}' printed more than {limit} bytes")]
    TooMuchOutput {
        /// The program.
        program: String,
        /// The limit.
        limit: u64,
    },
    /// The work was cancelled and the program killed.
    #[error("cancelled while running '{program}'")]
    Cancelled {
        /// The program.
        program: String,
    },
}

impl CmdError {
    /// The kind for callers that act on it.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Cancelled { .. } => ErrorKind::Cancelled,
            _ => ErrorKind::Failed,
        }
    }
}

impl From<CmdError> for Kinded {
    fn from(error: CmdError) -> Self {
        let kinded = Self::new(error.kind(), error.to_string());
        match error {
            CmdError::Start { program, source } if source.kind() == io::ErrorKind::NotFound => {
                kinded.with_hint(format!("install the package that provides '{program}'"))
            }
            _ => kinded,
        }
    }
}

impl Cmd {
    /// A run of `program`, looked up in the standard system directories unless it holds a slash.
    ///
    /// The environment holds `PATH` and `LC_ALL=C.UTF-8` only; output is limited to 16 MiB.
    pub fn new(program: impl Into<OsString>) -> Self {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        Self {
            program: program.into(),
            arg0: None,
            args: Vec::new(),
            env: [("PATH", path), ("LC_ALL", "C.UTF-8")]
                .map(|(k, v)| (k.into(), v.into()))
                .into(),
            cwd: None,
            stdin: Stdin::Null,
            timeout: None,
            output_limit: 16 << 20,
            own_group: true,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Makes the program see another name of itself.
    #[must_use]
    pub fn arg0(mut self, arg0: impl Into<OsString>) -> Self {
        self.arg0 = Some(arg0.into());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Passes on one of our own environment variables, when it is set.
    #[must_use]
    pub fn inherit_env(mut self, name: &str) -> Self {
        if let Some(value) = std::env::var_os(name) {
            self.env.insert(name.into(), value);
        }
        self
    }

    /// Empties the environment, including what [`Cmd::new`] puts there.
    #[must_use]
    pub fn clear_env(mut self) -> Self {
        self.env.clear();
        self
    }

    /// Starts the program in `dir`.
    #[must_use]
    pub fn cwd(mut self, dir: impl Into<Utf8PathBuf>) -> Self {
        self.cwd = Some(dir.into());
        self
    }

    /// Sets what the program reads; nothing by default.
    #[must_use]
    pub fn stdin(mut self, stdin: Stdin) -> Self {
        self.stdin = stdin;
        self
    }

    /// Kills the program after this long; never by default.
    #[must_use]
    pub const fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Sets how many bytes of output are taken.
    #[must_use]
    pub const fn output_limit(mut self, bytes: u64) -> Self {
        self.output_limit = bytes;
        self
    }

    /// Leaves the program in our own process group; for [`Cmd::spawn`] of one that makes a session.
    #[must_use]
    pub const fn same_group(mut self) -> Self {
        self.own_group = false;
        self
    }

    /// Runs the program and takes its output; it must succeed.
    ///
    /// # Errors
    /// [`CmdError`], also for a non-zero exit.
    pub fn run(self) -> Result<Captured, CmdError> {
        let program = self.name();
        let captured = self.run_unchecked()?;
        require_success(&program, captured.status, &captured.stderr)?;
        Ok(captured)
    }

    /// Like [`Cmd::run`], but how the program ends is the caller's business.
    ///
    /// # Errors
    /// [`CmdError`], except for a non-zero exit.
    pub fn run_unchecked(self) -> Result<Captured, CmdError> {
        let program = self.name();
        let limit = self.output_limit;
        let mut stdout = Vec::new();
        let mut splitter = LineSplitter::new(limit);
        let mut tail = Tail::default();
        let mut on_stdout = |bytes: &[u8]| {
            stdout.extend_from_slice(bytes);
            if stdout.len() as u64 > limit {
                return Err(CmdError::TooMuchOutput {
                    program: program.clone(),
                    limit,
                });
            }
            Ok(())
        };
        let mut on_stderr = |bytes: &[u8]| {
            splitter.push(bytes, &mut |line| tail.push(line));
            Ok(())
        };
        let ended = self.supervise(&mut on_stdout, Some(&mut on_stderr));
        splitter.finish(&mut |line| tail.push(line));
        let stderr = tail.into_lines();
        let status = ended.map_err(|e| e.with_tail(&stderr))?;
        Ok(Captured {
            status,
            stdout,
            stderr,
        })
    }

    /// Runs the program and hands on each line of its output, standard output and error merged and
    /// escaped; it must succeed. Output over the limit is dropped with a note.
    ///
    /// # Errors
    /// [`CmdError`], also for a non-zero exit.
    pub fn stream(self, on_line: &mut dyn FnMut(&str)) -> Result<(), CmdError> {
        let program = self.name();
        let mut splitter = LineSplitter::new(self.output_limit);
        let mut tail = Tail::default();
        let mut take_line = |line: &str| {
            tail.push(line);
            on_line(line);
        };
        let ended = self.supervise(
            &mut |bytes| {
                splitter.push(bytes, &mut take_line);
                Ok(())
            },
            None,
        );
        splitter.finish(&mut take_line);
        let tail = tail.into_lines();
        let status = ended.map_err(|e| e.with_tail(&tail))?;
        require_success(&program, status, &tail)
    }

    /// Starts the program, by default in a process group of its own; the caller sees to the rest.
    ///
    /// # Errors
    /// [`CmdError::Start`].
    pub fn spawn(self, stdout: Stdio, stderr: Stdio) -> Result<Child, CmdError> {
        let program = self.name();
        let start = || -> io::Result<Child> {
            let stdin = match self.stdin {
                Stdin::Null => Stdio::null(),
                Stdin::Bytes(bytes) => memory_file(&bytes)?.into(),
                Stdin::File(file) => file.into(),
            };
            let mut command = Command::new(&self.program);
            command.args(&self.args).env_clear().envs(&self.env);
            command.stdin(stdin).stdout(stdout).stderr(stderr);
            if self.own_group {
                command.process_group(0);
            }
            if let Some(arg0) = &self.arg0 {
                command.arg0(arg0);
            }
            if let Some(cwd) = &self.cwd {
                command.current_dir(cwd);
            }
            command.spawn()
        };
        start().map_err(|source| CmdError::Start { program, source })
    }

    fn name(&self) -> String {
        escape(&self.program.to_string_lossy())
    }

    /// Runs the program to its end. Without `on_stderr` both streams go to `on_stdout`.
    fn supervise<'a>(
        self,
        on_stdout: Sink<'a>,
        on_stderr: Option<Sink<'a>>,
    ) -> Result<ExitStatus, CmdError> {
        let program = self.name();
        let deadline = self.timeout.map(|limit| (Instant::now() + limit, limit));
        let io_error = |source: io::Error| CmdError::Io {
            program: program.clone(),
            source,
        };
        let (out, out_end) = pipe().map_err(io_error)?;
        let mut streams = vec![Some((File::from(out), on_stdout))];
        let err_end = match on_stderr {
            Some(sink) => {
                let (err, err_end) = pipe().map_err(io_error)?;
                streams.push(Some((File::from(err), sink)));
                err_end
            }
            None => out_end.try_clone().map_err(io_error)?,
        };
        let child = self.spawn(out_end.into(), err_end.into())?;
        let mut group = Group::new(child).map_err(io_error)?;
        loop {
            if cancel::cancelled() {
                return Err(CmdError::Cancelled { program });
            }
            if let Some((_, limit)) = deadline.filter(|(at, _)| *at <= Instant::now()) {
                return Err(CmdError::TimedOut {
                    program,
                    limit,
                    tail: Vec::new(),
                });
            }
            let tick = deadline.map_or(TICK, |(at, _)| {
                TICK.min(at.saturating_duration_since(Instant::now()))
            });
            let ended = wait_for_input(&group.pidfd, &streams, tick).map_err(io_error)?;
            if ended {
                // What it left in the background must not keep the pipes open or live on.
                group.kill();
            }
            for stream in &mut streams {
                if let Some((file, sink)) = stream
                    && drain(file, *sink, &program)?
                {
                    *stream = None;
                }
            }
            if ended {
                return group.reap().map_err(io_error);
            }
        }
    }
}

type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), CmdError>;

impl CmdError {
    fn with_tail(mut self, lines: &[String]) -> Self {
        if let Self::TimedOut { tail, .. } = &mut self {
            *tail = lines.to_vec();
        }
        self
    }
}

/// A child and its process group, killed on drop unless reaped.
struct Group {
    child: Child,
    pid: Pid,
    pidfd: OwnedFd,
    reaped: bool,
}

impl Group {
    fn new(mut child: Child) -> io::Result<Self> {
        let pid = Pid::from_child(&child);
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self {
                child,
                pid,
                pidfd,
                reaped: false,
            }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error.into())
            }
        }
    }

    /// Kills the whole group. The child is not reaped yet, so its id can't be someone else's.
    fn kill(&self) {
        // Nothing left to kill is fine.
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
    }

    fn reap(&mut self) -> io::Result<ExitStatus> {
        self.reaped = true;
        self.child.wait()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            // Best effort: there is no one to tell.
            drop(self.reap());
        }
    }
}

/// A pipe whose reading end does not block.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK)?;
    Ok((read, write))
}

/// An unnamed file in memory, to be read from its start.
fn memory_file(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("stdin", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// Waits for output or the end of the process; says whether it has ended.
fn wait_for_input(
    pidfd: &OwnedFd,
    streams: &[Option<(File, Sink<'_>)>],
    tick: Duration,
) -> io::Result<bool> {
    let files = streams.iter().flatten().map(|(file, _)| file.as_fd());
    let mut fds: Vec<PollFd<'_>> = std::iter::once(pidfd.as_fd())
        .chain(files)
        .map(|fd: BorrowedFd<'_>| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    let tick = Timespec {
        tv_sec: 0,
        tv_nsec: tick.as_nanos().try_into().unwrap_or(0),
    };
    match rustix::event::poll(&mut fds, Some(&tick)) {
        Ok(_) => Ok(!fds[0].revents().is_empty()),
        Err(Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Reads what is there, at most a few buffers in a row; says whether the stream has ended.
fn drain(
    file: &mut File,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), CmdError>,
    program: &str,
) -> Result<bool, CmdError> {
    let mut buffer = [0; 16 << 10];
    // A pipe holds 64 KiB by default: this empties it, and an endless writer can't keep us here.
    for _ in 0..8 {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(count) => sink(&buffer[..count])?,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(CmdError::Io {
                    program: program.to_owned(),
                    source,
                });
            }
        }
    }
    Ok(false)
}

fn require_success(program: &str, status: ExitStatus, tail: &[String]) -> Result<(), CmdError> {
    if status.success() {
        return Ok(());
    }
    Err(CmdError::Failed {
        program: program.to_owned(),
        status,
        tail: tail.to_vec(),
    })
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

fn with_tail(tail: &[String]) -> String {
    if tail.is_empty() {
        return String::new();
    }
    format!(":\n{}", tail.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Cmd {
        Cmd::new("sh").args(["-c", script])
    }

    #[test]
    fn output_and_input_are_passed() {
        let captured = shell("cat; echo err >&2")
            .stdin(Stdin::Bytes(b"in".to_vec()))
            .run()
            .unwrap();
        assert_eq!(captured.stdout, b"in");
        assert_eq!(captured.stderr, ["err"]);
    }

    #[test]
    fn environment_is_clean_but_for_what_is_set() {
        let captured = Cmd::new("env").env("A", "b").run().unwrap();
        let text = String::from_utf8(captured.stdout).unwrap();
        let mut names: Vec<_> = text.lines().filter_map(|l| l.split('=').next()).collect();
        names.sort_unstable();
        assert_eq!(names, ["A", "LC_ALL", "PATH"]);
    }

    #[test]
    fn failure_names_program_status_and_last_lines() {
        let error = shell("echo 'no \x1b such' >&2; exit 3").run().unwrap_err();
        assert_eq!(
            error.to_string(),
            "'sh' failed with exit code 3:\nno \\x1b such"
        );
        let error = shell("kill -9 $$").run().unwrap_err();
        assert_eq!(error.to_string(), "'sh' was killed by signal 9");
        assert_eq!(
            shell("exit 3").run_unchecked().unwrap().status.code(),
            Some(3)
        );
    }

    #[test]
    fn missing_program_has_a_hint() {
        let error = Cmd::new("no-such-program-here").run().unwrap_err();
        let kinded = Kinded::from(error);
        assert!(
            kinded
                .message
                .starts_with("starting 'no-such-program-here'")
        );
        assert!(kinded.hint.is_some());
    }

    #[test]
    fn timeout_kills_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script = format!(
            "sleep 1000 & echo $! > {}; echo started; wait",
            pid_file.display()
        );
        let error = shell(&script)
            .timeout(Duration::from_millis(500))
            .run()
            .unwrap_err();
        assert!(matches!(error, CmdError::TimedOut { .. }), "{error}");
        require_dead(std::fs::read_to_string(pid_file).unwrap().trim());
    }

    #[test]
    fn background_processes_end_with_the_program() {
        let captured = shell("sleep 1000 & echo $!").run().unwrap();
        require_dead(String::from_utf8(captured.stdout).unwrap().trim());
    }

    /// The process is gone, or is a zombie that its new parent has yet to reap.
    fn require_dead(pid: &str) {
        assert!(!pid.is_empty());
        for _ in 0..200 {
            match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
                Err(_) => return,
                Ok(stat) if stat.contains(") Z ") => return,
                Ok(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        panic!("process {pid} is still alive");
    }

    #[test]
    fn too_much_captured_output_is_an_error_and_streamed_output_is_dropped() {
        let error = Cmd::new("yes").output_limit(1000).run().unwrap_err();
        assert!(matches!(error, CmdError::TooMuchOutput { limit: 1000, .. }));
        let mut lines = Vec::new();
        shell("seq 100000")
            .output_limit(1000)
            .stream(&mut |l| lines.push(l.to_owned()))
            .unwrap();
        assert!(lines.len() < 1000);
        assert!(
            lines
                .last()
                .unwrap()
                .ends_with("more bytes of output dropped)")
        );
    }

    #[test]
    fn streamed_lines_keep_their_order_across_both_streams() {
        let mut lines = Vec::new();
        shell("echo a; echo b >&2; echo c; printf d")
            .stream(&mut |l| lines.push(l.to_owned()))
            .unwrap();
        assert_eq!(lines, ["a", "b", "c", "d"]);
    }
}
