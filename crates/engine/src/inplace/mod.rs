//! A root file system that is changed where it is: that of a container during an image build.
//!
//! apt and dpkg of the image do the work. Then the root gets the form that a compose leaves, by the
//! same steps as a layered tree: it is read as a tree of names and metadata, reopened, finished, and
//! what differs is written. Contents are read only where a step looks into them.

mod apply;
mod apt;
mod change;
mod lint;
mod made;
mod root;

pub use lint::lint;

pub(crate) use change::{clean_indices, query, refresh, update};
