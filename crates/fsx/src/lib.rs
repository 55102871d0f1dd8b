//! The one door to files and child processes: atomic writes, locks, scratch directories, safe
//! removal, limits of caches, a child process runner, and the process-wide cancel flag.
//!
//! Nothing here prints, and nothing follows a link that someone else may have planted: removal and
//! temporary files work on directory handles, one path component at a time.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod cancel;
mod cmd;
mod container;
mod escape;
mod failpoint;
mod file;
mod heir;
pub mod journal;
mod lines;
mod lock;
pub mod prune;
mod remove;
mod workdir;

pub use cmd::{Captured, Cmd, CmdError, Stdin};
pub use container::is_container;
pub use escape::{escape, escape_bytes, escape_cut};
pub use failpoint::fail_point;
pub use file::{
    free_space, is_temporary, require_space, sha256_file, sha256_reader, write_atomic,
    write_atomic_at,
};
pub use heir::Heir;
pub use lines::{LineSplitter, Tail};
pub use lock::{Lock, LockMode, Wait};
pub use remove::{clear_dir, remove_tree, remove_tree_at};
pub use workdir::{WorkDir, sweep};
