//! Loads a treefile.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| apt_ostree_treefile::parse_for_fuzzing(input));
