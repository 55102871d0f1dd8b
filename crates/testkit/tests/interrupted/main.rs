//! Verbs on a system that is killed, loses its power or runs out of room: nothing is lost, and the
//! next run works.
//!
//! The system is on a file system of its own, so freezing, cutting off and filling it harms nobody.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cases;
mod faults;
mod kills;
mod layers;
mod points;
mod session;
