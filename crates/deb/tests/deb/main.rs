//! Tests of the package reader against packages made here, good and hostile, and real ones.
//!
//! Hostile inputs are tables of (id, what, package, words of the message). The ids name the kind
//! of input: A is the outer archive, B the control archive, C the data archive.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod builder;
mod container;
mod control;
mod data;
mod differential;
mod fuzz_smoke;
mod good;
mod headers;
mod mutations;
mod real;
mod truncation;
