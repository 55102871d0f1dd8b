//! Content objects: their serialised form, checksum and place.
//!
//! A content object's checksum covers a header (owner, mode, link target, extended attributes)
//! and the content. It is computed here rather than by libostree: OpenSSL is several times
//! faster, and an object that exists already needs no writing.

use std::ffi::CString;

use apt_ostree_model::tree::Xattrs;
use apt_ostree_model::{Meta, Sha256Digest};
use openssl::sha::Sha256;
use ostree::glib::{self, FixedSizeVariantArray, Variant};
use ostree::prelude::*;

/// File type bits of a regular file.
pub(crate) const S_IFREG: u32 = 0o100_000;
/// Mode of every symbolic link.
pub(crate) const SYMLINK_MODE: u32 = 0o120_777;
/// File type bits of a directory.
pub(crate) const S_IFDIR: u32 = 0o040_000;

/// Bytes as a variant of type `ay`.
pub(crate) fn bytes(data: &[u8]) -> Variant {
    FixedSizeVariantArray::<_, u8>::from(data).to_variant()
}

/// Extended attributes as `a(ayay)`, names with a trailing NUL.
pub(crate) fn xattrs_variant(xattrs: &Xattrs) -> Variant {
    let pairs = xattrs.iter().map(|(name, value)| {
        // A name from a tree has no NUL; cut at one rather than fail.
        let name = name.split('\0').next().unwrap_or_default();
        let name = CString::new(name).unwrap_or_default();
        Variant::tuple_from_iter([bytes(name.as_bytes_with_nul()), bytes(&value.0)])
    });
    let pairs: Vec<Variant> = pairs.collect();
    Variant::array_from_iter::<(Vec<u8>, Vec<u8>)>(pairs)
}

/// The start of a regular file's serialised form; its content follows.
pub(crate) fn file_header(meta: &Meta) -> Vec<u8> {
    header([meta.uid, meta.gid, S_IFREG | meta.mode], "", &meta.xattrs)
}

/// The whole serialised form of a symbolic link.
pub(crate) fn symlink_object(target: &str, uid: u32, gid: u32) -> Vec<u8> {
    header([uid, gid, SYMLINK_MODE], target, &Xattrs::new())
}

fn header(numbers: [u32; 3], target: &str, xattrs: &Xattrs) -> Vec<u8> {
    let [uid, gid, mode] = numbers.map(|n| n.to_be().to_variant());
    let parts = [
        uid,
        gid,
        mode,
        0_u32.to_variant(),
        target.to_variant(),
        xattrs_variant(xattrs),
    ];
    let variant = Variant::tuple_from_iter(parts);
    let data = variant.data();
    let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(8 + data.len());
    out.extend(size.to_be_bytes());
    // The data is aligned to eight bytes.
    out.extend([0; 4]);
    out.extend(data);
    out
}

/// Serialised metadata of a directory.
pub(crate) fn dirmeta(meta: &Meta) -> Variant {
    let [uid, gid, mode] =
        [meta.uid, meta.gid, S_IFDIR | meta.mode].map(|n| n.to_be().to_variant());
    Variant::tuple_from_iter([uid, gid, mode, xattrs_variant(&meta.xattrs)])
}

/// SHA-256 of `data`.
pub(crate) fn sha256(data: &[u8]) -> Sha256Digest {
    Sha256Digest::new(openssl::sha::sha256(data))
}

/// Ends a running SHA-256.
pub(crate) fn finish(hasher: Sha256) -> Sha256Digest {
    Sha256Digest::new(hasher.finish())
}

/// The place of a content object below `objects` in a bare repository.
pub(crate) fn content_path(checksum: &Sha256Digest) -> String {
    let hex = checksum.to_string();
    format!("{}/{}.file", &hex[..2], &hex[2..])
}

/// A libostree input stream that reads `data`.
pub(crate) fn memory_stream(data: Vec<u8>) -> ostree::gio::MemoryInputStream {
    ostree::gio::MemoryInputStream::from_bytes(&glib::Bytes::from_owned(data))
}
