//! Deployments of a system: what is there, what boots next, and how that changes.
//!
//! [`Sysroot`] reads; [`LockedSysroot`] is the only writer of its system and changes it. Whether a
//! system runs from one of its deployments is libostree's decision alone: the command line of the
//! kernel is never read for it.
//!
//! # Invariants
//!
//! * What boots next changes in one step, the last one: libostree exchanges the boot loader
//!   configuration, or renames the file that a shutdown acts on. Before that, a killed run leaves
//!   objects and directories that the next clean-up removes.
//! * A commit is compared with its checksums before it is deployed.
//! * No file system stays frozen, whatever this process dies of.
//! * `/etc` is merged from what runs; requests and kernel arguments chain on what boots next.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod base;
mod cleanup;
mod commit;
mod deploy;
mod deployment;
mod error;
mod finalize;
mod holder;
mod initrd;
mod kargs;
mod live;
mod origin;
mod pull;
mod status;
mod system;
mod thaw;
mod verify;

pub use base::{BaseRequest, ResolvedBase};
pub use cleanup::{Cleaned, CleanupOptions, LAYERED_REF, TEMPORARY_REFS};
pub use commit::{CommitInfo, load_commit};
pub use deploy::NewDeployment;
pub use deployment::Deployment;
pub use finalize::FinalizeCheck;
pub use kargs::{KargsChange, KernelArguments};
pub use live::{LiveState, in_system};
pub use origin::{origin_from_text, origin_to_text};
pub use system::{LockedSysroot, Sysroot, fills_var};
