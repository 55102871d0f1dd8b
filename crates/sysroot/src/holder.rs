//! Who holds a lock.

use std::os::unix::fs::MetadataExt as _;

use apt_ostree_fsx::escape_cut;
use apt_ostree_model::{ErrorKind, Kinded};
use camino::Utf8Path;

/// The error for a sysroot that someone else has locked; names the process when the kernel tells.
pub(crate) fn busy(sysroot: &Utf8Path) -> Kinded {
    let by = holder(&sysroot.join("ostree/lock")).unwrap_or_else(|| "another process".to_owned());
    Kinded::new(
        ErrorKind::Busy,
        format!("system '{sysroot}' is being changed by {by}"),
    )
    .with_hint("wait for it to finish, or stop it")
}

fn holder(lock: &Utf8Path) -> Option<String> {
    let inode = std::fs::metadata(lock).ok()?.ino();
    let table = std::fs::read_to_string("/proc/locks").ok()?;
    let pid = table.lines().find_map(|line| owner(line, inode))?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("process {pid} ({})", escape_cut(name.trim(), 60)))
}

/// The process of a line such as `1: FLOCK ADVISORY WRITE 123 fe:00:4711 0 EOF`.
fn owner(line: &str, inode: u64) -> Option<u32> {
    let mut words = line.split_whitespace().skip(1);
    if words.next()? != "FLOCK" {
        return None;
    }
    let pid = words.nth(2)?;
    let number = words.next()?.rsplit(':').next()?;
    if number.parse::<u64>().ok()? != inode {
        return None;
    }
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_lock_is_found_by_its_inode() {
        let line = "12: FLOCK  ADVISORY  WRITE 4242 fe:00:4711 0 EOF";
        assert_eq!(owner(line, 4711), Some(4242));
        assert_eq!(owner(line, 4712), None);
        assert_eq!(
            owner("13: POSIX  ADVISORY  READ 1 fe:00:4711 0 EOF", 4711),
            None
        );
        assert_eq!(owner("14: -> FLOCK", 4711), None);
    }
}
