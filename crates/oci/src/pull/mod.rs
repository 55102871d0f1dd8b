//! Images of others: found with skopeo, checked, and turned into trees.
//!
//! [`Skopeo`] reads a manifest, its configuration and layers from wherever an image is.
//! [`Policy`] lets the containers policy of the machine decide about it. [`read_layer`] turns a
//! layer into a tree, [`merge`] puts layers upon each other, and [`read_chunk`] and
//! [`read_commit`] take apart the layers of images that hold an OSTree commit.
//!
//! What a layer says is not trusted before its digests are compared, so the readers have limits
//! and follow no link; see [`Limits`].

mod blob;
mod encapsulated;
mod layer;
mod merge;
mod policy;
mod proxy;
mod remote;
mod skopeo;
mod tarread;

pub use blob::{LayerStream, Progress};
pub use encapsulated::{CommitObjects, Content, ContentKind, ObjectKind, ObjectStore};
pub use encapsulated::{read_chunk, read_commit};
pub use layer::{LayerStore, LayerTree, Layout, read_layer};
pub use merge::{MergeLayer, merge};
pub use policy::Policy;
pub use remote::{LayerKind, RemoteImage, RemoteLayer};
pub use skopeo::Skopeo;
pub use tarread::Limits;

use apt_ostree_model::{ErrorKind, Kinded};

/// An image, or a part of it, that is not as it must be.
fn malformed(message: impl Into<String>) -> Kinded {
    Kinded::new(ErrorKind::InvalidPackage, message)
}

/// Something whose digest or signature is wrong.
fn rejected(message: impl Into<String>) -> Kinded {
    Kinded::new(ErrorKind::Verification, message)
}
