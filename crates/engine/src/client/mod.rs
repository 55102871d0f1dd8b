//! The verbs on a system. Each is a short recipe: open and lock the system, work out the new
//! origin and commit, and, as the last step, make the deployment.
//!
//! `--check`, `--preview` and `--dry-run` are the same recipe, stopped before it changes what is
//! deployed.
//!
//! In a container, where there is no deployment, some of them change its root instead.

mod base;
mod cached;
mod db;
mod deployments;
mod image;
mod journal;
mod kargs;
pub mod layering;
mod live;
pub(crate) mod locals;
pub(crate) mod query;
mod system;
mod update;

use anyhow::Result;
use apt_ostree_fsx::is_container;
use apt_ostree_model::client::ClientOutcome;
use apt_ostree_model::compose::Request;
use apt_ostree_model::{ErrorKind, Kinded, Reporter};

use crate::inplace;

/// Runs one verb on a system to its end.
///
/// # Errors
/// When the verb fails; what boots next is as before then.
pub fn run(request: &Request, reporter: &dyn Reporter) -> Result<ClientOutcome> {
    if is_container() {
        match request {
            Request::Update(request) if request.target.sysroot.is_none() => {
                return inplace::update(request, reporter);
            }
            Request::Query(request) if request.target.sysroot.is_none() => {
                return inplace::query(request, reporter);
            }
            Request::RefreshMd(request) if request.target.sysroot.is_none() => {
                return inplace::refresh(reporter);
            }
            Request::Cleanup(request) if request.target.sysroot.is_none() => {
                return inplace::clean_indices(request);
            }
            _ => {}
        }
    }
    match request {
        Request::Status(request) => deployments::status(request),
        Request::Update(request) => update::update(request, reporter),
        Request::Rollback(request) => deployments::rollback(request, reporter),
        Request::Kargs(request) => kargs::kargs(request, reporter),
        Request::Initramfs(request) => update::initramfs(request, reporter),
        Request::InitramfsEtc(request) => update::initramfs_etc(request, reporter),
        Request::ApplyLive(request) => live::apply_live(request, reporter),
        Request::Cleanup(request) => deployments::cleanup(request, reporter),
        Request::Finalize(request) => deployments::finalize(request),
        Request::Db(request) => db::db(request),
        Request::Query(request) => query::query(request, reporter),
        Request::RefreshMd(request) => query::refresh(request, reporter),
        Request::ModifySource(request) => query::modify_source(request, reporter),
        _ => Err(Kinded::new(ErrorKind::Usage, "the verb is not one of a system").into()),
    }
}
