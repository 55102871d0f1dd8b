//! Places where tests end the process.

use rustix::process::{Signal, getpid, kill_process};

/// Names of places, separated by commas.
const VARIABLE: &str = "APTOSTREE_FAILPOINTS";

/// Kills this process, as a power cut would, when `APTOSTREE_FAILPOINTS` lists `name`.
pub fn fail_point(name: &str) {
    let listed = |names: String| names.split(',').any(|listed| listed == name);
    if std::env::var(VARIABLE).is_ok_and(listed) {
        let _ = kill_process(getpid(), Signal::KILL);
    }
}
