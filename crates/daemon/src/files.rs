//! Local packages that a caller passes as file descriptors.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use apt_ostree_ipc::error::invalid;
use apt_ostree_ipc::{Error, Result};
use apt_ostree_model::Sha256Digest;
use rustix::fs::{FileType, Mode, OFlags};
use sha2::{Digest, Sha256};

/// A package has at most this many bytes.
const MAX_BYTES: u64 = 4 << 30;

/// A file whose reading takes longer, as on a file system of the caller's own, is refused.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Copies a file to one without a name that the caller can't change, and returns its digest.
///
/// # Errors
/// It is no regular file, not open for reading, too large, or can't be read in time.
pub(crate) async fn copy(file: OwnedFd) -> Result<(OwnedFd, Sha256Digest)> {
    check(&file)?;
    let work = tokio::task::spawn_blocking(move || copy_now(file));
    match tokio::time::timeout(TIMEOUT, work).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(Error::Failed("copying a local package failed".into())),
        Err(_) => Err(invalid("reading a local package takes too long")),
    }
}

fn check(file: &OwnedFd) -> Result<()> {
    let failed = |error: rustix::io::Errno| invalid(format!("a local package: {error}"));
    let stat = rustix::fs::fstat(file).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(invalid("a local package is not a regular file"));
    }
    let flags = rustix::fs::fcntl_getfl(file).map_err(failed)?;
    if flags.contains(OFlags::PATH) || flags.contains(OFlags::WRONLY) {
        return Err(invalid("a local package is not open for reading"));
    }
    if u64::try_from(stat.st_size).map_or(true, |size| size > MAX_BYTES) {
        return Err(invalid("a local package is too large"));
    }
    Ok(())
}

fn copy_now(file: OwnedFd) -> Result<(OwnedFd, Sha256Digest)> {
    let failed = |error: std::io::Error| Error::Failed(format!("copying a local package: {error}"));
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let copy = rustix::fs::open("/var/tmp", flags, Mode::RUSR | Mode::WUSR)
        .map_err(|error| failed(error.into()))?;
    let mut copy = File::from(copy);
    let mut input = File::from(file);
    rustix::fs::seek(&input, rustix::fs::SeekFrom::Start(0))
        .map_err(|error| failed(error.into()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    let mut total = 0u64;
    loop {
        let count = input.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            break;
        }
        total += count as u64;
        if total > MAX_BYTES {
            return Err(invalid("a local package is too large"));
        }
        hasher.update(&buffer[..count]);
        copy.write_all(&buffer[..count]).map_err(failed)?;
    }
    rustix::fs::seek(&copy, rustix::fs::SeekFrom::Start(0))
        .map_err(|error| failed(error.into()))?;
    Ok((copy.into(), Sha256Digest::new(hasher.finalize().into())))
}

/// The path by which a process that inherits `file` opens it.
pub(crate) fn path_of(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(file: impl Into<OwnedFd>) -> String {
        check(&file.into()).unwrap_err().to_string()
    }

    #[test]
    fn only_regular_files_that_can_be_read_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.deb");
        std::fs::write(&path, "content").unwrap();
        assert!(check(&File::open(&path).unwrap().into()).is_ok());
        assert!(refused(File::open("/dev/null").unwrap()).contains("not a regular file"));
        assert!(refused(File::open(dir.path()).unwrap()).contains("not a regular file"));
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        assert!(refused(reader).contains("not a regular file"));
        let writing = File::options().write(true).open(&path).unwrap();
        assert!(refused(writing).contains("not open for reading"));
        let bare = rustix::fs::open(&path, OFlags::PATH, Mode::empty()).unwrap();
        assert!(refused(bare).contains("not open for reading"));
    }

    #[test]
    fn the_copy_does_not_change_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.deb");
        std::fs::write(&path, "content").unwrap();
        let (copy, digest) = copy_now(File::open(&path).unwrap().into()).unwrap();
        std::fs::write(&path, "other").unwrap();
        let mut text = String::new();
        let mut again = File::open(path_of(&copy)).unwrap();
        again.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        let expected: [u8; 32] = Sha256::digest("content").into();
        assert_eq!(digest, Sha256Digest::new(expected));
    }
}
