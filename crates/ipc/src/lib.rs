//! What the processes of apt-ostree say to each other: the D-Bus interface of the daemon, and how a
//! worker is started.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod action;
pub mod error;
pub mod names;
pub mod options;
pub mod proxy;
pub mod reboot;
pub mod update;
pub mod value;
pub mod worker;

pub use action::Action;
pub use error::{Error, Result};
