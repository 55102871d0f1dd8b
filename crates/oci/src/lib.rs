//! Container images from a file tree: layers, configuration, manifest and the files that carry
//! them.
//!
//! The way of an image: [`plan_layers`] splits a [`Tree`](apt_ostree_model::Tree) by package,
//! [`LayerEncoder`] makes compressed layer blobs (or takes them from the [`BlobCache`]),
//! [`ImageConfig::build`] makes the configuration and the manifest, and [`Image`] writes them as
//! an OCI layout directory, an OCI archive or a docker archive. [`read_oci_image`] reads back
//! what the next build needs to know of the previous one.
//!
//! The other way, from an image of anyone to trees and objects, is [`pull`].
//!
//! Every byte of an image follows from its inputs: no clock, no random name, no thread count and
//! no directory order gets into it.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod cache;
mod compress;
mod config;
mod deflate;
mod descriptor;
mod encode;
mod output;
mod pipeline;
mod plan;
mod previous;
pub mod pull;
mod stage;
mod tar;

pub use cache::{BlobCache, Layer};
pub use config::{Image, ImageConfig};
pub use encode::LayerEncoder;
pub use plan::{Component, ComponentId, LayerPlan, plan_layers};
pub use previous::{PreviousImage, PreviousLayer, read_oci_image};

/// `text` with control characters escaped, for messages.
fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
