//! The daemon on a real bus, with a real polkit and real deployments.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod agent;
mod fixture;
mod interface;
mod life;
mod packages;
mod rights;
mod transactions;
