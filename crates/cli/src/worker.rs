//! Starts the worker, hands it the request and follows it to its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use apt_ostree_ipc::worker::{self as ipc, Answer, Mounts, failed};
use apt_ostree_model::compose::{Failure, Outcome, Request};
use apt_ostree_model::{ErrorKind, Event, Kinded};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_default;
use signal_hook::iterator::Signals;
use signal_hook::low_level::unregister;

use crate::render::View;

/// Signals that ask this program to end.
const HANDLED: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Set to anything to start the worker without being root.
const NO_ROOT_CHECK: &str = "APTOSTREE_SUPPRESS_REQUIRES_ROOT_CHECK";

/// What the main loop waits for.
enum Input {
    /// A line of the worker's standard output.
    Reply(String),
    /// A line of the worker's standard error.
    Log(String),
    /// Standard output was closed: the worker is gone.
    Closed,
    /// Somebody wants this process to end.
    Signal,
}

/// How the worker answered, so far.
#[derive(Default)]
struct Progress {
    answer: Answer,
    cancels: u32,
}

/// Runs `request` in a worker and draws on `view` what it reports.
///
/// The worker has its own process group, so Ctrl-C reaches only this process: the first one asks
/// the worker to clean up and end, the second one kills it.
pub(crate) fn run(request: &Request, view: &mut View) -> Result<Outcome, Failure> {
    let program = ipc::find(std::env::var_os("APTOSTREE_WORKER"))?;
    let text = serde_json::to_vec(request)
        .map_err(|error| failed(format!("writing the request: {error}")))?;
    let (sender, inputs) = channel();
    // Before the start: a signal must never end this process and leave the worker alone.
    let signals = watch_signals(sender.clone())?;
    let mut child = ipc::command(&program, Mounts::Shared)
        .spawn()
        .map_err(|error| failed(format!("starting '{}': {error}", program.display())))?;
    follow_pipes(&mut child, sender);
    send_request(&mut child, &text);
    let progress = follow(&child, &inputs, view);
    let status = child
        .wait()
        .map_err(|error| failed(format!("waiting for the worker: {error}")))?;
    signals.close();
    progress.conclude(status, view)
}

/// Writes the request and closes the pipe. A worker that died early doesn't read it; its end tells
/// more than the broken pipe would.
fn send_request(child: &mut Child, text: &[u8]) {
    if let Some(mut stdin) = child.stdin.take() {
        drop(stdin.write_all(text));
    }
}

fn watch_signals(sender: Sender<Input>) -> Result<signal_hook::iterator::Handle, Failure> {
    let mut signals =
        Signals::new(HANDLED).map_err(|error| failed(format!("handling signals: {error}")))?;
    let handle = signals.handle();
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if sender.send(Input::Signal).is_err() {
                return;
            }
        }
    });
    Ok(handle)
}

fn follow_pipes(child: &mut Child, sender: Sender<Input>) {
    if let Some(stderr) = child.stderr.take() {
        let sender = sender.clone();
        std::thread::spawn(move || send_lines(stderr, &sender, Input::Log));
    }
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            send_lines(stdout, &sender, Input::Reply);
            drop(sender.send(Input::Closed));
        });
    }
}

fn send_lines(pipe: impl Read, sender: &Sender<Input>, wrap: fn(String) -> Input) {
    for line in BufReader::new(pipe).split(b'\n') {
        let Ok(line) = line else { return };
        let text = String::from_utf8_lossy(&line).into_owned();
        if sender.send(wrap(text)).is_err() {
            return;
        }
    }
}

fn follow(child: &Child, inputs: &Receiver<Input>, view: &mut View) -> Progress {
    let mut progress = Progress::default();
    for input in inputs {
        match input {
            Input::Reply(line) => progress.reply(&line, view),
            Input::Log(line) => view.event(&progress.answer.log(&line)),
            Input::Signal => progress.cancel(child, view),
            Input::Closed => break,
        }
    }
    progress
}

impl Progress {
    fn reply(&mut self, line: &str, view: &mut View) {
        match self.answer.reply(line) {
            Some(reply) => view.reply(line, &reply),
            None => view.event(&Event::Detail {
                text: line.to_owned(),
            }),
        }
    }

    fn cancel(&mut self, child: &Child, view: &mut View) {
        self.cancels += 1;
        let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
            return;
        };
        // It may be gone already; then its end is on the way through the channel.
        if self.cancels == 1 {
            view.warn("cancelling and cleaning up; interrupt again to end at once");
            let _ = kill_process(pid, Signal::TERM);
        } else {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    fn conclude(self, status: ExitStatus, view: &mut View) -> Result<Outcome, Failure> {
        let answered = self.answer.is_complete();
        let outcome = self.answer.conclude(status, self.cancels > 0)?;
        if let Some(signal) = status.signal().filter(|_| answered) {
            view.warn(&format!(
                "the worker died of signal {signal} after its work"
            ));
        }
        Ok(outcome)
    }
}

/// Does `work` while signals end this process as if nobody handled them.
///
/// Once a worker ran, they would do nothing: what handled them is gone, but not the handler itself.
pub(crate) fn with_default_signals<T>(work: impl FnOnce() -> T) -> Result<T, Kinded> {
    let active = Arc::new(AtomicBool::new(true));
    let failed = |error| Kinded::new(ErrorKind::Failed, format!("handling signals: {error}"));
    let mut registered = Vec::new();
    for signal in HANDLED {
        let flag = Arc::clone(&active);
        registered.push(register_conditional_default(signal, flag).map_err(failed)?);
    }
    let result = work();
    active.store(false, Ordering::SeqCst);
    for id in registered {
        unregister(id);
    }
    Ok(result)
}

/// Lets only root go on, unless the user says otherwise; `message` tells everybody else.
pub(crate) fn require_root(message: &str) -> Result<(), Kinded> {
    if is_root() {
        return Ok(());
    }
    Err(Kinded::new(ErrorKind::Failed, message))
}

/// Whether this is root, or the user says that it need not be.
pub(crate) fn is_root() -> bool {
    rustix::process::getuid().is_root() || std::env::var_os(NO_ROOT_CHECK).is_some()
}

/// The failure of a verb as this program tells it.
pub(crate) fn kinded(failure: Failure) -> Kinded {
    // Where the work was interrupted is of no use to who interrupted it.
    let message = match failure.kind {
        ErrorKind::Cancelled => "cancelled".to_owned(),
        _ => failure.message,
    };
    Kinded {
        kind: failure.kind,
        message,
        hint: failure.hint,
    }
}
