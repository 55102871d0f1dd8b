//! Tests of the store on real repositories, file systems and packages. They need root.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod checkouts;
mod commits;
mod damage;
mod imports;
mod overlays;
mod pruning;
mod support;
