//! The nouns that every other crate shares.
//!
//! Nothing here touches the disk, the clock, the environment or the network. Types that leave the
//! process (lockfile, worker protocol, reports) are plain serde data; their JSON shape is a
//! contract.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod client;
pub mod compose;
pub mod content;
pub mod digest;
pub mod error;
pub mod event;
pub mod journal;
pub mod names;
pub mod origin;
pub mod package;
pub mod plan;
pub mod query;
pub mod reference;
pub mod status;
pub mod tree;

pub use content::{ContentReader, ContentWriter};
pub use digest::Sha256Digest;
pub use error::{ErrorKind, Kinded};
pub use event::{Event, NullReporter, RecordingReporter, Reporter, Step};
pub use names::{Arch, InvalidName, PackageName, Version};
pub use package::{Conffile, ControlMember, ImportedPackage, control_field};
pub use plan::{Account, IdLock, Plan, PlannedPackage, SourceInfo};
pub use tree::{Dir, File, Meta, Node, Symlink, Tree, TreeError};
