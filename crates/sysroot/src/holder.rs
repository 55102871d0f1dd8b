//! Who holds a lock.

use std::os::unix::fs::MetadataExt as _;

use apt_ostree_fsx::escape_cut;
use apt_ostree_model::{ErrorKind, Kinded};
use camino::{Utf8Path, Utf8PathBuf};

/// The error for a sysroot that someone else has locked; names the process when the kernel tells.
pub(crate) fn busy(sysroot: &Utf8Path) -> Kinded {
    let by = holder(&sysroot.join("ostree/lock")).unwrap_or_else(|| "another process".to_owned());
    Kinded::new(
        ErrorKind::Busy,
        format!("system '{sysroot}' is being changed by {by}"),
    )
    .with_hint("wait for it to finish with --wait, or stop it")
}

/// The list of all locks has no owners for those that libostree takes; those of a process's files
/// have.
fn holder(lock: &Utf8Path) -> Option<String> {
    let inode = std::fs::metadata(lock).ok()?.ino();
    let processes = Utf8Path::new("/proc").read_dir_utf8().ok()?;
    let holds = |process: &Utf8PathBuf| {
        let Ok(files) = process.join("fdinfo").read_dir_utf8() else {
            return false;
        };
        files.filter_map(Result::ok).any(|file| {
            let text = std::fs::read_to_string(file.path()).unwrap_or_default();
            text.lines().any(|line| locks(line, inode))
        })
    };
    let process = processes
        .filter_map(|entry| Some(entry.ok()?.into_path()))
        .filter(|path| path.file_name().is_some_and(|n| n.parse::<u32>().is_ok()))
        .find(holds)?;
    Some(describe(&process))
}

/// Such as `process 4711 (apt-ostree-worker for 'apt-ostree upgrade') since 2026-11-30T10:00:00Z`.
fn describe(process: &Utf8Path) -> String {
    let id = process.file_name().unwrap_or_default();
    let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
    let mut text = format!("process {id} ({}", escape_cut(name.trim(), 60));
    let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    // A worker is told what to do by the program that started it.
    if name.starts_with("apt-ostree-work")
        && let Some(parent) = stat_field(&stat, PARENT)
        && let Some(command) = command_line(&process.with_file_name(parent))
    {
        text.push_str(&format!(" for '{command}'"));
    }
    text.push(')');
    if let Some(since) = stat_field(&stat, START).and_then(start_time) {
        text.push_str(&format!(" since {since}"));
    }
    text
}

/// Fields of `/proc/PID/stat`, counted from the one after the name.
const PARENT: usize = 1;
const START: usize = 19;

/// Ticks in a second, as the kernel shows them on all of Debian's architectures.
const TICKS: u64 = 100;

fn stat_field(stat: &str, index: usize) -> Option<&str> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(index)
}

fn command_line(process: &Utf8Path) -> Option<String> {
    let text = std::fs::read(process.join("cmdline")).ok()?;
    let text = String::from_utf8_lossy(&text).replace('\0', " ");
    let text = escape_cut(text.trim(), 120);
    (!text.is_empty()).then_some(text)
}

/// The time of a number of ticks after the boot.
fn start_time(ticks: &str) -> Option<jiff::Timestamp> {
    let seconds = ticks.parse::<u64>().ok()? / TICKS;
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    jiff::Timestamp::from_second(i64::try_from(boot + seconds).ok()?).ok()
}

/// Whether a line such as `lock: 1: OFDLCK ADVISORY WRITE -1 fe:00:4711 0 EOF` is about an inode.
fn locks(line: &str, inode: u64) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("lock:")
        && words.any(|word| {
            let mut parts = word.rsplit(':');
            parts.next().and_then(|n| n.parse().ok()) == Some(inode) && parts.count() == 2
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_with_its_start() {
        let text = describe(&Utf8Path::new("/proc").join(std::process::id().to_string()));
        let (_, since) = text.rsplit_once(" since ").unwrap();
        let since: jiff::Timestamp = since.parse().unwrap();
        let age = jiff::Timestamp::now().as_second() - since.as_second();
        assert!((-2..600).contains(&age), "{text}");
        let stat = "7 (a) b) S 4 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0";
        assert_eq!(stat_field(stat, PARENT), Some("4"));
        assert_eq!(stat_field(stat, START), Some("4711"));
    }

    #[test]
    fn the_lock_of_a_file_is_found_by_its_inode() {
        let line = "lock:\t1: OFDLCK  ADVISORY  WRITE -1 fe:00:4711 0 EOF";
        assert!(locks(line, 4711));
        assert!(!locks(line, 4712) && !locks(line, 1));
        assert!(!locks("pos:\t4711", 4711));
    }
}
