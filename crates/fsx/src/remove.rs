//! Recursive removal that stays inside its tree.
//!
//! Every step works on a directory handle and one name. Links are unlinked, never followed; a
//! mounted file system below the tree is an error, not something to empty.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use camino::Utf8Path;
use rustix::fs::{AtFlags, Dir, FileType, IFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::file::{open_dir, temporary_name};

/// Deeper directories are moved to the top first, so that handles stay few.
const DEPTH_LIMIT: usize = 200;

/// Removes the file or directory tree at `path`; nothing there is fine.
///
/// # Errors
/// When something can't be removed, such as a mount point.
pub fn remove_tree(path: &Utf8Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let parent = if parent.as_str().is_empty() {
        Utf8Path::new(".")
    } else {
        parent
    };
    match open_dir(parent) {
        Ok(parent) => remove_tree_at(&parent, name),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Like [`remove_tree`] for `name` (one component) inside the directory `parent`.
///
/// # Errors
/// When something can't be removed, such as a mount point.
pub fn remove_tree_at(parent: impl AsFd, name: &str) -> io::Result<()> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let parent = parent.as_fd();
    match unlink(parent, name.as_bytes(), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says EISDIR for a directory, POSIX allows EPERM.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    let dir = open_child(parent, name.as_bytes())?;
    clear(&dir)?;
    Ok(unlink(parent, name.as_bytes(), AtFlags::REMOVEDIR)?)
}

/// Removes all that is in the directory at `path`, but not the directory.
///
/// # Errors
/// When something can't be removed, such as a mount point.
pub fn clear_dir(path: &Utf8Path) -> io::Result<()> {
    clear(&open_dir(path)?)
}

/// Empties `top`. What lies too deep is moved to the top and removed in a later round.
fn clear(top: &OwnedFd) -> io::Result<()> {
    loop {
        let moved = clear_below(top, top, 0)?;
        if !moved {
            return Ok(());
        }
    }
}

/// Empties `dir`; says whether something was moved to `top` instead.
fn clear_below(top: &OwnedFd, dir: &OwnedFd, depth: usize) -> io::Result<bool> {
    let mut moved = false;
    // A handle of its own: reading must start at the first entry in every round.
    let mut entries = Dir::read_from(dir)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            match unlink(dir.as_fd(), name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR) => {}
                Err(e) => return Err(named(e, name)),
            }
        }
        if depth >= DEPTH_LIMIT {
            make_mutable(dir.as_fd(), name);
            rustix::fs::renameat(dir, name, top, temporary_name()).map_err(|e| named(e, name))?;
            moved = true;
            continue;
        }
        let child = open_child(dir.as_fd(), name).map_err(|e| named(e, name))?;
        moved |= clear_below(top, &child, depth + 1)?;
        drop(child);
        unlink(dir.as_fd(), name, AtFlags::REMOVEDIR).map_err(|e| named(e, name))?;
    }
    Ok(moved)
}

/// Opens a directory to empty it; gives its owner the needed rights when they lack.
fn open_child(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let open = || rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve);
    match open() {
        Ok(child) => {
            if !rustix::process::geteuid().is_root() {
                // Best effort: a failure shows when the first entry is unlinked.
                let _ = rustix::fs::fchmod(&child, Mode::RWXU);
            }
            Ok(child)
        }
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
            open()
        }
        Err(Errno::XDEV) => Err(Errno::BUSY),
        other => other,
    }
}

/// Unlinks; when the file or its directory is immutable or append-only, clears that and retries.
fn unlink(dir: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, flags) {
        Err(Errno::PERM) => {
            clear_flags(dir);
            make_mutable(dir, name);
            rustix::fs::unlinkat(dir, name, flags)
        }
        other => other,
    }
}

/// Clears the immutable and append-only flags of `name`, if it is a file or directory.
fn make_mutable(dir: BorrowedFd<'_>, name: &[u8]) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
        return;
    };
    // Opening a device or a fifo can have effects, and they have no such flags.
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile && kind != FileType::Directory {
        return;
    }
    if let Ok(file) = rustix::fs::openat(dir, name, flags, Mode::empty()) {
        clear_flags(file.as_fd());
    }
}

fn clear_flags(file: BorrowedFd<'_>) {
    if let Ok(flags) = rustix::fs::ioctl_getflags(file) {
        let locked = IFlags::IMMUTABLE | IFlags::APPEND;
        if flags.intersects(locked) {
            // Best effort: a failure shows when the unlink is retried.
            let _ = rustix::fs::ioctl_setflags(file, flags & !locked);
        }
    }
}

fn named(error: Errno, name: &[u8]) -> io::Error {
    let name = crate::escape_bytes(name);
    let kind = io::Error::from(error).kind();
    if error == Errno::BUSY {
        return io::Error::new(
            kind,
            format!("removing '{name}': something is mounted on it"),
        );
    }
    io::Error::new(kind, format!("removing '{name}': {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use camino::Utf8PathBuf;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn scratch() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        (dir, path)
    }

    #[test]
    fn removes_odd_entries_and_leaves_link_targets_alone() {
        let (_guard, dir) = scratch();
        let (tree, outside) = (dir.join("tree"), dir.join("outside"));
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("sentinel"), "keep").unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        symlink("/nowhere", tree.join("dangling")).unwrap();
        std::fs::hard_link(outside.join("sentinel"), tree.join("a/hard")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            tree.join("a/fifo").as_str(),
            FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        std::fs::set_permissions(tree.join("a/b"), PermissionsExt::from_mode(0o0)).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(
            std::fs::read_to_string(outside.join("sentinel")).unwrap(),
            "keep"
        );
    }

    #[test]
    fn a_link_is_removed_itself() {
        let (_guard, dir) = scratch();
        std::fs::write(dir.join("sentinel"), "keep").unwrap();
        symlink(&dir, dir.join("link")).unwrap();
        remove_tree(&dir.join("link")).unwrap();
        assert!(dir.join("sentinel").exists());
        assert!(!dir.join("link").exists());
    }

    #[test]
    fn nothing_there_is_fine_and_strange_names_are_not() {
        let (_guard, dir) = scratch();
        remove_tree(&dir.join("missing")).unwrap();
        remove_tree(&dir.join("missing/below")).unwrap();
        for bad in ["/", "..", "."] {
            assert!(remove_tree(Utf8Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn depth_beyond_the_limit_is_removed_too() {
        let (_guard, dir) = scratch();
        let tree = dir.join("tree");
        std::fs::create_dir(&tree).unwrap();
        let mut handle = open_dir(&tree).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&handle, "directory-with-a-name", Mode::RWXU).unwrap();
            handle = rustix::fs::openat(
                &handle,
                "directory-with-a-name",
                OFlags::RDONLY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn immutable_files_and_directories_are_removed() {
        let (_guard, dir) = scratch();
        let tree = dir.join("tree");
        std::fs::create_dir_all(tree.join("sub")).unwrap();
        std::fs::write(tree.join("sub/file"), "x").unwrap();
        for path in [tree.join("sub/file"), tree.join("sub")] {
            let file = std::fs::File::open(&path).unwrap();
            if rustix::fs::ioctl_setflags(&file, IFlags::IMMUTABLE).is_err() {
                // Not root, or a file system without the flag: nothing to show here.
                return;
            }
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn clearing_keeps_the_directory() {
        let (_guard, dir) = scratch();
        std::fs::create_dir_all(dir.join("a/b")).unwrap();
        clear_dir(&dir).unwrap();
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    }
}
