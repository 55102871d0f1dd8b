//! The `apt-ostree` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    apt_ostree::run(std::env::args_os())
}
