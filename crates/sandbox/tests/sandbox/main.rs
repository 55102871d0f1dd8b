//! What a hostile target and a hostile script can't do.
//!
//! This file has a `main` of its own because the sandbox starts this very program again inside. The
//! same program is also what runs in the sandbox where a test needs a system call without a tool.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod containment;
mod limits;
mod probe;
mod running;
mod support;

use std::process::ExitCode;

/// A test: its name says the rule.
type Test = (&'static str, fn());

fn main() -> ExitCode {
    if let Some(code) = apt_ostree_sandbox::maybe_init() {
        return code;
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "probe") {
        return probe::run(&args[1..]);
    }
    let tests: Vec<Test> = [running::TESTS, containment::TESTS, limits::TESTS].concat();
    if args.iter().any(|arg| arg == "--list") {
        for (name, _) in tests {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    if let Some(reason) = support::unable() {
        eprintln!("SKIPPED: all sandbox tests: {reason}");
        return ExitCode::SUCCESS;
    }
    run_all(&tests, &args)
}

fn run_all(tests: &[Test], args: &[String]) -> ExitCode {
    let exact = args.iter().any(|arg| arg == "--exact");
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| {
        let hit = |filter: &&&String| {
            if exact {
                name == filter.as_str()
            } else {
                name.contains(filter.as_str())
            }
        };
        filters.is_empty() || filters.iter().any(|filter| hit(&filter))
    };
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in tests.iter().filter(|(name, _)| wanted(name)) {
        let ok = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        *if ok { &mut passed } else { &mut failed } += 1;
    }
    // As the usual harness ends; `scripts/test.sh` adds these lines up.
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
