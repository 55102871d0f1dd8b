//! Runs programs of a target tree with the target as their `/`.
//!
//! What runs here is not trusted: it may try to leave the target, to outlive its run, or to ship a
//! tree whose `/proc` or `/var` is a link to somewhere on the host. Hence
//!
//! - namespaces of its own for mounts, processes, network, System V IPC, host name and cgroups;
//! - every mount point is resolved inside the target without following any link;
//! - `/proc` with its dangerous parts masked; `/dev`, `/run`, `/tmp`, `/var/tmp` in memory;
//! - no network but its own loopback (down without `CAP_NET_ADMIN`), few capabilities, no new privileges, a system call filter,
//!   no file descriptor but the three standard ones, an environment given in full;
//! - all processes are dead when [`Sandbox::run`] returns.
//!
//! # How it works
//! No process forks on its own, because ours have threads. The caller starts itself again
//! (`/proc/self/exe`) twice; [`maybe_init`], the first thing in its `main`, takes over there:
//!
//! ```text
//! caller ── outer: leaves the namespaces, watches ── inner: PID 1, mounts, confines ── program
//! ```
//!
//! The outer and inner process read what to do from an unnamed file (their standard input) and
//! report over a socket (their standard output); their standard error is the program's output.
//! When the caller dies or closes its side of the socket, the outer process kills the inner one,
//! and with it the kernel kills everything in its process namespace.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod cgroup;
mod confine;
mod init;
mod mounts;
mod run;
mod seccomp;
mod spec;

pub use init::maybe_init;
pub use run::{Finished, Status};
pub use spec::{Bind, Root, Sandbox, script_env};
