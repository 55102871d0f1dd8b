//! The verbs. Each is a short recipe of typed steps; nothing is visible before its last one.
//!
//! Libraries below report events and return typed errors; this crate joins them. It prints
//! nothing and starts no program but through `apt-ostree-fsx` and `apt-ostree-sandbox`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod compose;
pub mod content;
pub mod lint;
pub mod postprocess;
pub mod rootfs;

use anyhow::Result;
use apt_ostree_model::Reporter;
use apt_ostree_model::compose::{Outcome, Request};
use apt_ostree_store::DamagedObject;

/// How often a verb starts over because a cached object turned out to be damaged. Each time one
/// package or state is dropped from the cache; more than this means a failing disk.
const DAMAGE_RETRIES: usize = 32;

/// Runs one verb to its end.
///
/// # Errors
/// When the verb fails. Nothing is half written then: refs, images and named output files are as
/// before. A [`apt_ostree_model::Kinded`] in the chain tells the kind and what to do.
pub fn run(request: &Request, reporter: &dyn Reporter) -> Result<Outcome> {
    for _ in 0..DAMAGE_RETRIES {
        match run_once(request, reporter) {
            // The store has dropped what was damaged; the next attempt makes it again.
            Err(error) if error.downcast_ref::<DamagedObject>().is_some() => {
                reporter.warning(format!("{error:#}; starting over without it"));
            }
            result => return result,
        }
    }
    run_once(request, reporter)
}

fn run_once(request: &Request, reporter: &dyn Reporter) -> Result<Outcome> {
    match request {
        Request::Tree(request) => compose::tree(request, reporter),
        Request::Install(request) => compose::install(request, reporter),
        Request::Postprocess(request) => compose::postprocess(request, reporter),
        Request::Commit(request) => compose::commit(request, reporter),
        Request::Rootfs(request) => compose::rootfs(request, reporter),
        Request::Image(request) => compose::image(request, reporter),
    }
}
