//! Extended attributes: which ones a tree keeps, and how they are read and written.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use apt_ostree_model::tree::{HexBytes, Xattrs};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// Marks a directory of an overlay layer that hides the ones below.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// User attributes that belong to a tool or file system, not to the file.
const FOREIGN: [&str; 4] = [
    "user.overlay.",
    "user.fuseoverlayfs.",
    "user.containers.",
    "user.ostreemeta",
];

/// True for attributes that belong to a file's content: capabilities and what users set. Others
/// (labels, access lists of the build machine, file system internals) are the machine's.
pub(crate) fn is_kept(name: &str) -> bool {
    name == "security.capability"
        || (name.starts_with("user.") && !FOREIGN.iter().any(|f| name.starts_with(f)))
}

/// All attributes of an open file; those that `keep` refuses are left out.
pub(crate) fn read(fd: BorrowedFd<'_>, keep: impl Fn(&str) -> bool) -> io::Result<Xattrs> {
    let mut xattrs = Xattrs::new();
    for name in list(fd)? {
        if !keep(&name) {
            continue;
        }
        if let Some(value) = get(fd, &name)? {
            xattrs.insert(name, HexBytes(value));
        }
    }
    Ok(xattrs)
}

fn list(fd: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let size = match rustix::fs::flistxattr_query(fd) {
        Ok(size) => size,
        Err(Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    if size == 0 {
        return Ok(Vec::new());
    }
    let mut names = vec![0; size];
    let size = rustix::fs::flistxattr(fd, &mut names[..])?;
    let names = names[..size].split(|b| *b == 0).filter(|n| !n.is_empty());
    names
        .map(|n| {
            String::from_utf8(n.to_vec())
                .map_err(|_| io::Error::other("an extended attribute has a name that is not UTF-8"))
        })
        .collect()
}

/// The value of one attribute.
pub(crate) fn get(fd: BorrowedFd<'_>, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 256];
    loop {
        match rustix::fs::fgetxattr(fd, name, &mut value[..]) {
            Ok(size) => {
                value.truncate(size);
                return Ok(Some(value));
            }
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
            Err(Errno::RANGE) if value.len() < 1 << 17 => value.resize(1 << 17, 0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sets attributes of an open file.
pub(crate) fn write(fd: impl AsFd, xattrs: &Xattrs) -> io::Result<()> {
    for (name, value) in xattrs {
        if name.starts_with("trusted.overlay.") {
            return Err(io::Error::other(format!(
                "extended attribute '{}' is not allowed in a tree",
                name.escape_debug()
            )));
        }
        rustix::fs::fsetxattr(&fd, name.as_str(), &value.0, XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_capabilities_and_user_attributes_are_kept() {
        for kept in ["security.capability", "user.note", "user.xdg.origin.url"] {
            assert!(is_kept(kept), "{kept}");
        }
        for dropped in [
            "security.selinux",
            "trusted.overlay.opaque",
            "user.overlay.opaque",
            "system.posix_acl_access",
            "user.ostreemeta",
        ] {
            assert!(!is_kept(dropped), "{dropped}");
        }
    }
}
