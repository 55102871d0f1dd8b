//! Whole-file helpers.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use apt_ostree_model::{ErrorKind, Kinded, Sha256Digest};
use camino::Utf8Path;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// Replaces the file at `path` in one step: readers see the old or the new content, never a part,
/// also after a power cut.
///
/// # Errors
/// When writing fails; the old file is then still there.
pub fn write_atomic(path: &Utf8Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let parent = if parent.as_str().is_empty() {
        Utf8Path::new(".")
    } else {
        parent
    };
    let dir = open_dir(parent)?;
    write_atomic_at(&dir, name, bytes, mode)
}

/// Like [`write_atomic`] for the file `name` (one component) inside the directory `dir`.
///
/// # Errors
/// When writing fails; the old file is then still there.
pub fn write_atomic_at(dir: impl AsFd, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let dir = dir.as_fd();
    let temporary = temporary_name();
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(
        dir,
        &temporary,
        flags,
        Mode::from_raw_mode(0o600),
    )?);
    let result = (|| {
        file.write_all(bytes)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        file.sync_all()?;
        rustix::fs::renameat(dir, &temporary, dir, name)?;
        // An O_PATH handle can't be synced; opening "." again gives one that can.
        rustix::fs::fsync(rustix::fs::openat(dir, ".", dir_flags(), Mode::empty())?)?;
        Ok(())
    })();
    if result.is_err() {
        // Best effort: the error of the write is the one to tell.
        let _ = rustix::fs::unlinkat(dir, &temporary, AtFlags::empty());
    }
    result
}

/// A name that no other thread or process uses, and that sorts as hidden.
pub(crate) fn temporary_name() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!(".apt-ostree-{}-{count}.tmp", std::process::id())
}

/// Whether a file of this name is one of [`write_atomic`]'s, left behind by a killed process when
/// it is old.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with(".apt-ostree-") && name.ends_with(".tmp")
}

pub(crate) fn dir_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// Opens a directory that the caller named; links on the way are the caller's business.
pub(crate) fn open_dir(path: &Utf8Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(
        CWD,
        path.as_str(),
        flags,
        Mode::empty(),
    )?)
}

/// How many bytes an ordinary process can still write to the file system that holds `path`.
///
/// # Errors
/// When `path` can't be looked at.
pub fn free_space(path: &Utf8Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path.as_str())?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Fails early when the file system that holds `path` has less than `needed` bytes left.
///
/// # Errors
/// [`ErrorKind::Storage`] when there is not enough space.
pub fn require_space(path: &Utf8Path, needed: u64) -> Result<(), Kinded> {
    let free = free_space(path).map_err(|e| {
        Kinded::new(
            ErrorKind::Storage,
            format!("looking at free space of '{path}': {e}"),
        )
    })?;
    if free >= needed {
        return Ok(());
    }
    let (free, need) = (free >> 20, needed.div_ceil(1 << 20));
    Err(Kinded::new(
        ErrorKind::Storage,
        format!("not enough space in '{path}': {need} MiB needed, {free} MiB free"),
    )
    .with_hint("free some space or use another directory"))
}

/// The SHA-256 digest and the size of the file at `path`.
///
/// # Errors
/// When reading fails.
pub fn sha256_file(path: &Utf8Path) -> io::Result<(Sha256Digest, u64)> {
    sha256_reader(File::open(path)?)
}

/// The SHA-256 digest and the length of all that `reader` gives.
///
/// # Errors
/// When reading fails.
pub fn sha256_reader(mut reader: impl Read) -> io::Result<(Sha256Digest, u64)> {
    let mut hasher = openssl::sha::Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    let mut size = 0;
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
    Ok((Sha256Digest::new(hasher.finish()), size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn scratch() -> (tempfile::TempDir, camino::Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = camino::Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        (dir, path)
    }

    #[test]
    fn atomic_write_replaces_content_and_mode_and_leaves_nothing_else() {
        let (_guard, dir) = scratch();
        let path = dir.join("file");
        write_atomic(&path, b"old", 0o600).unwrap();
        write_atomic(&path, b"new", 0o644).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o644
        );
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    }

    #[test]
    fn atomic_write_replaces_a_link_instead_of_following_it() {
        let (_guard, dir) = scratch();
        std::fs::write(dir.join("sentinel"), "keep").unwrap();
        std::os::unix::fs::symlink("sentinel", dir.join("file")).unwrap();
        write_atomic(&dir.join("file"), b"new", 0o644).unwrap();
        assert_eq!(
            std::fs::read_to_string(dir.join("sentinel")).unwrap(),
            "keep"
        );
        assert!(
            std::fs::symlink_metadata(dir.join("file"))
                .unwrap()
                .is_file()
        );
    }

    #[test]
    fn failed_atomic_write_cleans_up() {
        let (_guard, dir) = scratch();
        std::fs::create_dir(dir.join("file")).unwrap();
        assert!(write_atomic(&dir.join("file"), b"new", 0o644).is_err());
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        let handle = open_dir(&dir).unwrap();
        for bad in ["", ".", "..", "a/b"] {
            assert!(write_atomic_at(&handle, bad, b"", 0o644).is_err(), "{bad}");
        }
    }

    #[test]
    fn digest_of_a_file_is_that_of_its_bytes() {
        let (_guard, dir) = scratch();
        std::fs::write(dir.join("empty"), "").unwrap();
        let (digest, size) = sha256_file(&dir.join("empty")).unwrap();
        assert_eq!(size, 0);
        assert!(digest.to_string().starts_with("e3b0c44298fc1c14"));
    }

    #[test]
    fn missing_space_is_a_storage_error() {
        let (_guard, dir) = scratch();
        require_space(&dir, 1).unwrap();
        let error = require_space(&dir, u64::MAX).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Storage);
    }
}
