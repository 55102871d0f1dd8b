//! Small file helpers of the state directory. Everything in it may be read by apt's unprivileged
//! download user, whatever the umask is.

use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use apt_ostree_model::Sha256Digest;
use camino::Utf8Path;

/// `O_NONBLOCK`: opening a fifo must not hang.
const O_NONBLOCK: i32 = 0o4000;

/// Creates a directory with its parents; the last one gets mode 0755.
pub(crate) fn make_dir(path: &Utf8Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

/// Replaces `path` atomically unless it holds `data` already. Returns true when it was written.
///
/// Files that did not change keep their time stamps, which keeps apt's binary caches valid.
pub(crate) fn write_if_changed(path: &Utf8Path, data: &[u8]) -> io::Result<bool> {
    if std::fs::read(path).is_ok_and(|old| old == data) {
        return Ok(false);
    }
    apt_ostree_fsx::write_atomic(path, data, 0o644)?;
    Ok(true)
}

/// Reads a regular file of at most `limit` bytes; anything else is an error.
pub(crate) fn read_limited(path: &Utf8Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut data = Vec::new();
    file.take(limit + 1).read_to_end(&mut data)?;
    if data.len() as u64 > limit {
        return Err(io::Error::other(format!("larger than {limit} bytes")));
    }
    Ok(data)
}

/// SHA-256 and size of a regular file.
pub(crate) fn hash_file(path: &Utf8Path) -> io::Result<(Sha256Digest, u64)> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    apt_ostree_fsx::sha256_file(path)
}

/// SHA-256 of bytes.
pub(crate) fn hash(data: &[u8]) -> Sha256Digest {
    Sha256Digest::new(openssl::sha::sha256(data))
}
