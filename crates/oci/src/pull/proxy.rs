//! The wire of `skopeo experimental-image-proxy`: one JSON value per packet, file contents through
//! pipes that travel with the answers.
//!
//! Done here rather than by a crate: the published client runs on tokio and starts its own
//! processes, and it can't read containers-storage through the skopeo of Debian 12.

use std::fs::File;
use std::io::{self, IoSliceMut, Read, Seek as _, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use apt_ostree_fsx::{Cmd, Stdin, cancel, escape_cut};
use apt_ostree_model::{ErrorKind, Kinded};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags,
    SocketType,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::remote::MAX_DOCUMENT;

/// How long nothing may come.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often the cancel flag is looked at meanwhile.
const TICK: Duration = Duration::from_millis(100);
/// Bytes of one answer.
const MAX_PACKET: usize = 64 << 10;

/// A running skopeo.
#[derive(Debug)]
pub(crate) struct Proxy {
    socket: OwnedFd,
    child: Child,
    errors: File,
}

/// Content that comes through a pipe.
#[derive(Debug)]
pub(crate) struct Pipe<'p> {
    proxy: &'p Proxy,
    data: File,
}

#[derive(Serialize)]
struct Request<'a> {
    method: &'a str,
    args: &'a [Value],
}

#[derive(Deserialize)]
struct Reply {
    success: bool,
    #[serde(default)]
    value: Value,
    #[serde(default)]
    pipeid: u32,
    #[serde(default)]
    error: String,
}

/// What an answer holds.
struct Answer {
    value: Value,
    pipe: Option<(u32, OwnedFd)>,
}

/// What skopeo says when it can't do something.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) String);

impl Proxy {
    /// Starts skopeo.
    pub(crate) fn start(command: Cmd) -> Result<Self> {
        let (socket, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let errors = File::from(rustix::fs::memfd_create("errors", MemfdFlags::CLOEXEC)?);
        let child = command
            .stdin(Stdin::File(theirs.into()))
            .spawn(Stdio::null(), errors.try_clone()?.into())
            .map_err(Kinded::from)?;
        let mut proxy = Self {
            socket,
            child,
            errors,
        };
        proxy.value("Initialize", &[])?;
        Ok(proxy)
    }

    /// Calls a method that answers with a value only.
    pub(crate) fn value(&mut self, method: &str, args: &[Value]) -> Result<Value> {
        Ok(self.call(method, args)?.value)
    }

    /// Calls a method that answers with a small file, and gives its value and the file.
    pub(crate) fn document(&mut self, method: &str, args: &[Value]) -> Result<(Value, Vec<u8>)> {
        let (value, pipe) = self.pipe(method, args)?;
        let mut pipe = pipe;
        let mut data = Vec::new();
        (&mut pipe).take(MAX_DOCUMENT + 1).read_to_end(&mut data)?;
        if data.len() as u64 > MAX_DOCUMENT {
            let message = format!("a document of the image has more than {MAX_DOCUMENT} bytes");
            return Err(super::malformed(message).into());
        }
        pipe.finish()?;
        Ok((value, data))
    }

    /// Calls a method that answers with a file.
    pub(crate) fn pipe(&mut self, method: &str, args: &[Value]) -> Result<(Value, Pipe<'_>)> {
        let answer = self.call(method, args)?;
        let (id, data) = answer
            .pipe
            .ok_or_else(|| anyhow!("skopeo sent no content for '{method}'"))?;
        // It closes the pipe, which is how its end shows, only when asked to.
        self.send("FinishPipe", &[id.into()])?;
        let data = File::from(data);
        Ok((answer.value, Pipe { proxy: self, data }))
    }

    fn call(&mut self, method: &str, args: &[Value]) -> Result<Answer> {
        self.send(method, args)?;
        self.answer()
    }

    fn send(&self, method: &str, args: &[Value]) -> Result<()> {
        let packet = serde_json::to_vec(&Request { method, args })?;
        match rustix::net::send(&self.socket, &packet, SendFlags::NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.ended(&error.to_string())),
        }
    }

    fn answer(&self) -> Result<Answer> {
        wait(&self.socket)?;
        let mut packet = vec![0; MAX_PACKET];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut packet)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        let length = received
            .map_err(|error| self.ended(&error.to_string()))?
            .bytes;
        let mut files: Vec<OwnedFd> = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                files.extend(fds);
            }
        }
        if length == 0 {
            return Err(self.ended("it closed the connection"));
        }
        let reply: Reply =
            serde_json::from_slice(&packet[..length]).context("reading an answer of skopeo")?;
        if !reply.success {
            return Err(Refused(escape_cut(&reply.error, 1000)).into());
        }
        let pipe = (reply.pipeid != 0).then(|| files.pop()).flatten();
        Ok(Answer {
            value: reply.value,
            pipe: pipe.map(|fd| (reply.pipeid, fd)),
        })
    }

    /// An error for when skopeo is gone.
    fn ended(&self, reason: &str) -> anyhow::Error {
        let mut text = String::new();
        let mut errors = &self.errors;
        // What it printed is only an addition.
        drop(errors.seek(SeekFrom::Start(0)));
        drop(errors.take(16 << 10).read_to_string(&mut text));
        let last = text.lines().next_back().unwrap_or(reason);
        let last = escape_cut(last, 500);
        Kinded::new(ErrorKind::Failed, format!("'skopeo' ended: {last}")).into()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already, and there is no one to tell.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Pipe<'_> {
    /// Asks skopeo whether all it sent was right; reads nothing more.
    pub(crate) fn finish(self) -> Result<()> {
        let Self { proxy, data } = self;
        // Left open, it would wait for a reader.
        drop(data);
        proxy.answer().map(drop)
    }
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        wait(&self.data).map_err(|error| io::Error::other(Waited(error)))?;
        self.data.read(buffer)
    }
}

/// An error of waiting, carried through interfaces that know only I/O errors.
#[derive(Debug)]
pub(crate) struct Waited(pub(crate) Kinded);

impl std::fmt::Display for Waited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Waited {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Waits until something can be read.
fn wait(file: &impl AsFd) -> Result<(), Kinded> {
    let start = Instant::now();
    let tick = Timespec {
        tv_sec: 0,
        tv_nsec: TICK.as_nanos().try_into().unwrap_or(0),
    };
    while start.elapsed() < PATIENCE {
        cancel::check()?;
        let mut fds = [PollFd::new(file, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&tick)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => {
                let message = format!("waiting for skopeo: {error}");
                return Err(Kinded::new(ErrorKind::Failed, message));
            }
        }
    }
    let seconds = PATIENCE.as_secs();
    Err(Kinded::new(
        ErrorKind::Network,
        format!("nothing came for {seconds} seconds"),
    ))
}
