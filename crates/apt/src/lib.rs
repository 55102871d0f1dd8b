//! Package indices, dependency resolution and downloads, through libapt.
//!
//! ```text
//! Session::open -> update -> solve -> acquire
//! ```
//!
//! libapt keeps its state in globals and is not safe to use from two threads, so this crate runs
//! inside the worker process only, with one [`Session`] per process.
//!
//! The session is isolated from the host: it has its own sources, keyrings, pins and an empty
//! package database, because a tree is composed from nothing; or that of a base which packages are
//! added to. It is strict: an index that can't be
//! refreshed and verified, or that is not the one asked for, is an error.
//!
//! Steps report progress, messages and details; starting and finishing a step is the caller's
//! business.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod acquire;
mod aptconf;
mod candidates;
mod deb822;
mod error;
mod explain;
mod files;
pub mod groups;
mod keyring;
mod localrepo;
pub mod lock;
mod machine;
pub mod mirror;
mod onbase;
mod plancache;
mod planner;
mod prune;
mod query;
mod refresh;
mod release;
mod request;
mod session;
mod solve;
mod sourcelist;
mod sources;
mod spec;
mod uri;

pub use lock::Lock;
pub use machine::{MachineFiles, MachineSources};
pub use onbase::{Additions, BaseChange};
pub use prune::prune_debs;
pub use query::{Find, Found};
pub use refresh::SourceState;
pub use session::{ImageSource, Session};
pub use sourcelist::{list_sources, switch_source};
pub use spec::{AptConfig, BaseSpec, SolveSpec};
