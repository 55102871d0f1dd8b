//! A polkit agent on the terminal.

use std::io::IsTerminal as _;
use std::os::fd::AsRawFd as _;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::FdFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};

/// It is ready after this long, or never.
const READY: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// Set where a desktop may have an agent. Polkit only takes an agent that stands back for others when
/// the user has a session, which is so there, but not after `su`.
const DESKTOP: [&str; 2] = ["DISPLAY", "WAYLAND_DISPLAY"];

/// Asks for passwords on the terminal of this program until it is dropped.
pub(super) struct Agent(Child);

impl Agent {
    /// Starts polkit's own agent where somebody can answer, unless root asks, who is never asked.
    /// An agent of the desktop goes first. Without any, polkit refuses what it would ask about.
    pub(super) fn start() -> Option<Self> {
        if rustix::process::geteuid().is_root() || !std::io::stdin().is_terminal() {
            return None;
        }
        let (ready, notify) = pipe_with(PipeFlags::CLOEXEC).ok()?;
        rustix::io::fcntl_setfd(&notify, FdFlags::empty()).ok()?;
        let mut command = Command::new("pkttyagent");
        command
            .arg("--notify-fd")
            .arg(notify.as_raw_fd().to_string());
        if DESKTOP.iter().any(|name| std::env::var_os(name).is_some()) {
            command.arg("--fallback");
        }
        let child = command.stdout(Stdio::null()).spawn().ok()?;
        drop(notify);
        // It closes the pipe when it is registered, or ends.
        let _ = poll(&mut [PollFd::new(&ready, PollFlags::IN)], Some(&READY));
        Some(Self(child))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
            // One that was stopped at the terminal ends as well.
            let _ = kill_process(pid, Signal::CONT);
        }
        drop(self.0.wait());
    }
}
