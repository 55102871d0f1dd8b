//! The verbs. Each is a short recipe of typed steps; nothing is visible before its last one.
//!
//! Libraries below report events and return typed errors; this crate joins them. It prints
//! nothing and starts no program but through `apt-ostree-fsx` and `apt-ostree-sandbox`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod client;
pub mod compose;
pub mod content;
pub mod inplace;
pub mod layering;
pub mod lint;
pub mod postprocess;
pub mod rootfs;

use anyhow::Result;
use apt_ostree_model::Reporter;
use apt_ostree_model::compose::{Outcome, Request};

/// Runs one verb to its end.
///
/// # Errors
/// When the verb fails. Nothing is half written then: refs, images and named output files are as
/// before. A [`apt_ostree_model::Kinded`] in the chain tells the kind and what to do.
pub fn run(request: &Request, reporter: &dyn Reporter) -> Result<Outcome> {
    match request {
        Request::Tree(request) => compose::tree(request, reporter),
        Request::Install(request) => compose::install(request, reporter),
        Request::Postprocess(request) => compose::postprocess(request, reporter),
        Request::Commit(request) => compose::commit(request, reporter),
        Request::Rootfs(request) => compose::rootfs(request, reporter),
        Request::Image(request) => compose::image(request, reporter),
        Request::Lint(request) => inplace::lint(request).map(Outcome::Client),
        _ => client::run(request, reporter).map(Outcome::Client),
    }
}
