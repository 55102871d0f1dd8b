//! A program that runs when this process dies.

use std::fs::File;
use std::io::Write as _;
use std::process::{Child, Stdio};

use crate::cmd::{Cmd, CmdError, Stdin};

/// Waits for a line. Without one, which means that the other end is closed, it becomes the program.
/// Signals that ask the work to end are not for it.
const WAIT: &str = "trap '' HUP INT QUIT TERM; read -r line || exec \"$@\"";

/// Sees to it that a program runs should this process die, even of SIGKILL, or drop this value
/// without [`Heir::dismiss`].
///
/// It waits in a process group of its own, so that who kills this process's group misses it.
#[derive(Debug)]
pub struct Heir {
    child: Child,
    /// The kernel closes it when this process dies.
    line: Option<File>,
}

impl Heir {
    /// Starts to wait.
    ///
    /// # Errors
    /// [`CmdError`] when no process can be started.
    pub fn wait_for_death(program: &str, args: &[&str]) -> Result<Self, CmdError> {
        let (read, write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| {
                CmdError::Start {
                    program: program.to_owned(),
                    source: error.into(),
                }
            })?;
        let child = Cmd::new("sh")
            .args(["-c", WAIT, "apt-ostree-heir", program])
            .args(args.iter().copied())
            .stdin(Stdin::File(read.into()))
            .spawn(Stdio::null(), Stdio::null())?;
        Ok(Self {
            child,
            line: Some(write.into()),
        })
    }

    /// Ends it without running the program: what it was for is done.
    pub fn dismiss(mut self) {
        if let Some(mut line) = self.line.take() {
            // When it is dead already there is nobody to dismiss.
            drop(line.write_all(b"\n"));
        }
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        drop(self.line.take());
        // Its program is done, or it has ended.
        drop(self.child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heir(file: &std::path::Path) -> Heir {
        Heir::wait_for_death("touch", &[file.to_str().unwrap()]).unwrap()
    }

    #[test]
    fn the_program_runs_unless_it_was_dismissed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("died");
        heir(&file).dismiss();
        assert!(!file.exists());
        drop(heir(&file));
        assert!(file.exists());
    }

    #[test]
    fn signals_that_ask_to_end_do_not_keep_it_from_its_work() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("died");
        let heir = heir(&file);
        // Not before the shell has read its script.
        std::thread::sleep(std::time::Duration::from_millis(200));
        let pid = rustix::process::Pid::from_child(&heir.child);
        for signal in [
            rustix::process::Signal::TERM,
            rustix::process::Signal::INT,
            rustix::process::Signal::HUP,
        ] {
            rustix::process::kill_process(pid, signal).unwrap();
        }
        drop(heir);
        assert!(file.exists());
    }
}
