//! Runs a request in a worker process.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use apt_ostree_ipc::worker::{self, Answer, Mounts};
use apt_ostree_model::compose::{Failure, Outcome, Reply, Request};
use rustix::io::FdFlags;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// A worker that only reads has this long.
const QUERY_TIMEOUT: Duration = Duration::from_secs(120);

/// What a worker has written is read for this long after its end.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// How the daemon starts workers.
#[derive(Debug, Clone)]
pub(crate) struct Runner {
    /// The worker.
    pub(crate) program: PathBuf,
    /// How long a worker that shall end may clean up before it is killed.
    pub(crate) grace: Duration,
}

impl Runner {
    /// Runs a request that only reads.
    pub(crate) async fn query(&self, request: &Request) -> Result<Outcome, Failure> {
        let (replies, mut dropped) = mpsc::channel(1);
        let drain = async { while dropped.recv().await.is_some() {} };
        let cancel = Notify::new();
        let run = async {
            let run = self.run(request, Vec::new(), replies, &cancel);
            tokio::pin!(run);
            tokio::select! {
                result = &mut run => result,
                () = tokio::time::sleep(QUERY_TIMEOUT) => {
                    cancel.notify_one();
                    run.await
                }
            }
        };
        let (result, ()) = tokio::join!(run, drain);
        result
    }

    /// Runs `request` and passes on every reply but the last one, which is the result. The files
    /// stay open in the worker under their numbers. After `cancel` the worker is asked to end and
    /// killed when it doesn't in time.
    pub(crate) async fn run(
        &self,
        request: &Request,
        files: Vec<OwnedFd>,
        replies: mpsc::Sender<String>,
        cancel: &Notify,
    ) -> Result<Outcome, Failure> {
        let text = serde_json::to_vec(request)
            .map_err(|error| worker::failed(format!("writing the request: {error}")))?;
        let mut child = self.spawn(&files)?;
        drop(files);
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(worker::failed("starting the worker: no pipes"));
        };
        let (lines, mut inputs) = mpsc::channel(64);
        tokio::spawn(send_lines(stdout, lines.clone(), Line::Reply));
        tokio::spawn(send_lines(stderr, lines, Line::Log));
        tokio::spawn(async move {
            // A worker that died early doesn't read it; its end tells more.
            drop(stdin.write_all(&text).await);
        });
        let mut answer = Answer::default();
        let cancelled = self
            .follow(&mut child, &mut inputs, &mut answer, &replies, cancel)
            .await
            .map_err(|error| worker::failed(format!("following the worker: {error}")))?;
        let status = child
            .wait()
            .await
            .map_err(|error| worker::failed(format!("waiting for the worker: {error}")))?;
        answer.conclude(status, cancelled)
    }

    /// Starts the worker with `files` open. They lose their close-on-exec flag only while this
    /// function runs, and nothing else starts a process meanwhile.
    fn spawn(&self, files: &[OwnedFd]) -> Result<Child, Failure> {
        let failed = |error: std::io::Error| {
            worker::failed(format!("starting '{}': {error}", self.program.display()))
        };
        for file in files {
            rustix::io::fcntl_setfd(file, FdFlags::empty()).map_err(|e| failed(e.into()))?;
        }
        let mut command = Command::from(worker::command(&self.program, Mounts::Own));
        command.kill_on_drop(true);
        command.spawn().map_err(failed)
    }

    /// Takes lines until the worker has ended and its pipes are empty; says whether it was asked to
    /// end.
    async fn follow(
        &self,
        child: &mut Child,
        inputs: &mut mpsc::Receiver<Line>,
        answer: &mut Answer,
        replies: &mpsc::Sender<String>,
        cancel: &Notify,
    ) -> std::io::Result<bool> {
        let pid = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
            .ok_or_else(|| std::io::Error::other("it has no id"))?;
        let (mut cancelled, mut ended, mut open) = (false, false, true);
        let alarm = tokio::time::sleep(Duration::from_secs(u64::from(u32::MAX)));
        tokio::pin!(alarm);
        loop {
            tokio::select! {
                line = inputs.recv(), if open || ended => match line {
                    Some(Line::Reply(line)) => take_reply(&line, answer, replies).await,
                    Some(Line::Log(line)) => drop(answer.log(&line)),
                    None if ended => return Ok(cancelled),
                    // It has closed its pipes, which is not its end.
                    None => open = false,
                },
                () = cancel.notified(), if !cancelled && !ended => {
                    cancelled = true;
                    let _ = kill_process(pid, Signal::TERM);
                    alarm.as_mut().reset(Instant::now() + self.grace);
                }
                status = child.wait(), if !ended => {
                    status?;
                    ended = true;
                    // What it left behind must not keep the pipes open or live on. The id of the
                    // group stays taken while there is such.
                    let _ = kill_process_group(pid, Signal::KILL);
                    alarm.as_mut().reset(Instant::now() + DRAIN_TIME);
                }
                () = &mut alarm => {
                    if ended {
                        return Ok(cancelled);
                    }
                    let _ = kill_process_group(pid, Signal::KILL);
                    alarm.as_mut().reset(Instant::now() + self.grace);
                }
            }
        }
    }
}

/// Passes a reply on, unless it is the last one.
async fn take_reply(line: &str, answer: &mut Answer, replies: &mpsc::Sender<String>) {
    if let Some(Reply::Event(_)) = answer.reply(line) {
        // Nobody listening is no reason to stop.
        drop(replies.send(line.to_owned()).await);
    }
}

enum Line {
    Reply(String),
    Log(String),
}

async fn send_lines(
    pipe: impl AsyncRead + Unpin,
    lines: mpsc::Sender<Line>,
    wrap: fn(String) -> Line,
) {
    let mut split = BufReader::new(pipe).split(b'\n');
    while let Ok(Some(line)) = split.next_segment().await {
        let text = String::from_utf8_lossy(&line).into_owned();
        if lines.send(wrap(text)).await.is_err() {
            return;
        }
    }
}
