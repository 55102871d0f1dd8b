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
    .with_hint("wait for it to finish, or stop it")
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
    let name = std::fs::read_to_string(process.join("comm")).ok()?;
    let name = escape_cut(name.trim(), 60);
    Some(format!("process {} ({name})", process.file_name()?))
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
    fn the_lock_of_a_file_is_found_by_its_inode() {
        let line = "lock:\t1: OFDLCK  ADVISORY  WRITE -1 fe:00:4711 0 EOF";
        assert!(locks(line, 4711));
        assert!(!locks(line, 4712) && !locks(line, 1));
        assert!(!locks("pos:\t4711", 4711));
    }
}
