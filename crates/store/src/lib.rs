//! Packages, trees and commits on libostree.
//!
//! [`CacheRepo`] is a `bare` repository below the cache directory. It holds the contents of all
//! imported packages and of all trees made from them, each content once. A
//! [`Tree`](apt_ostree_model::Tree) names contents by their OSTree checksum, so everything that
//! works on trees works on metadata only. [`TargetRepo`] is the repository that commits are
//! written to.
//!
//! On a machine the cache is the system's own repository ([`CacheRepo::open_system`]), so that
//! nothing is on disk twice.
//!
//! # Layout of the cache
//!
//! | ref | holds |
//! |---|---|
//! | `aptostree/pkg/NAME/VERSION.ARCH-DIGEST` | one imported package |
//! | `aptostree/tree/KEY` | one tree that a compose saved |
//!
//! Both are commits of `manifest.json.zst` and of `data`, the tree itself, which keeps its objects
//! from being pruned. A hit is one read of the manifest.
//!
//! # Invariants
//!
//! * Objects become visible whole, and a ref is written after everything it needs, so a killed
//!   run leaves nothing half made. As nothing is synced, a power cut can: objects are therefore
//!   compared with what the tree says whenever they are used, and a manifest has a checksum.
//! * Nothing writes to a checkout: contents are hard links into the cache. Scripts run on an
//!   overlay above it, and [`CacheRepo::scan_upper`] reads what they changed.
//! * A cache has any number of users at a time; [`CacheRepo::prune`] needs it alone.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod cache;
mod checkout;
mod commit;
mod content;
mod damage;
mod error;
mod handle;
pub mod images;
mod import;
mod load;
mod lock;
mod manifest;
mod metavalue;
mod object;
mod plan;
mod prune;
mod refname;
mod scan;
mod sink;
mod target;
mod treewriter;
mod write;
mod xattr;

pub use cache::{CacheRepo, system_dir};
pub use checkout::set_directory_times;
pub use commit::{CommitRequest, CommitResult};
pub use content::ContentDir;
pub use damage::DamagedObject;
pub use import::{Import, ImportRequest, Imported};
pub use load::CommitTree;
pub use metavalue::MetaValue;
pub use prune::{CachedPackage, drop_unused};
pub use refname::{escape_ref, unescape_ref};
pub use scan::ScanReport;
pub use target::TargetRepo;
