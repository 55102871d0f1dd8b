//! The objects of the sysroot and of stateroots.

mod experimental;
mod os;
mod packages;
mod query;
mod sysroot;
mod update;
mod verbs;

pub(crate) use experimental::OsExperimental;
pub(crate) use os::Os;
pub(crate) use sysroot::Sysroot;
