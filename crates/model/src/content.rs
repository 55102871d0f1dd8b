//! Access to file contents by checksum, implemented by the store.

use std::io;

use crate::{File, Meta, Sha256Digest, Symlink};

/// Reads content objects; usable from several threads.
pub trait ContentReader: Send + Sync {
    /// Opens the content of a regular file.
    ///
    /// # Errors
    /// When the object is missing or can't be read.
    fn open(&self, checksum: &Sha256Digest) -> io::Result<std::fs::File>;

    /// Reads the content of a small regular file.
    ///
    /// # Errors
    /// When the object is missing, can't be read, or is larger than 64 MiB.
    fn read(&self, file: &File) -> io::Result<Vec<u8>> {
        use io::Read as _;
        const LIMIT: u64 = 64 << 20;
        if file.size > LIMIT {
            return Err(io::Error::other(format!(
                "object {} has {} bytes, more than {LIMIT}",
                file.checksum, file.size
            )));
        }
        let mut data = Vec::new();
        self.open(&file.checksum)?
            .take(LIMIT + 1)
            .read_to_end(&mut data)?;
        if data.len() as u64 != file.size {
            return Err(io::Error::other(format!(
                "object {} has {} bytes, not {}",
                file.checksum,
                data.len(),
                file.size
            )));
        }
        Ok(data)
    }
}

/// Writes content objects.
pub trait ContentWriter {
    /// Stores a regular file and returns its node.
    ///
    /// # Errors
    /// When the object can't be written.
    fn put_file(&self, meta: &Meta, data: &[u8]) -> io::Result<File>;

    /// Stores a symbolic link and returns its node.
    ///
    /// # Errors
    /// When the object can't be written.
    fn put_symlink(&self, target: &str, uid: u32, gid: u32) -> io::Result<Symlink>;

    /// Stores the content of `file` again under other metadata.
    ///
    /// # Errors
    /// When the object can't be read or written.
    fn change_meta(&self, file: &File, meta: &Meta) -> io::Result<File>;
}
