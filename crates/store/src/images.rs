//! Container images in a repository: refs of layers and of images, and the objects of images that
//! hold an OSTree commit. Names are those of ostree-ext, so that it reads what is written here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;

use anyhow::{Context as _, Result, bail};
use apt_ostree_model::tree::{HexBytes, Xattrs};
use apt_ostree_model::{ErrorKind, File, Kinded, Meta, Node, Sha256Digest, Symlink};
use fn_error_context::context;
use ostree::glib::{Bytes, Variant, VariantTy};
use ostree::{ObjectType, Repo, RepoListRefsExtFlags, RepoVerifyFlags, gio};

use crate::commit::in_transaction;
use crate::error::{escape, invalid_input, storage};
use crate::{CacheRepo, TargetRepo, xattr};

/// Refs of layers, by digest.
pub const LAYER_REFS: &str = "ostree/container/blob";
/// Refs of images, by reference.
pub const IMAGE_REFS: &str = "ostree/container/image";
/// Refs of images that a commit on this machine has as its base.
pub const BASE_IMAGE_REFS: &str = "ostree/container/baseimage/aptostree";

/// What a tool of ours and others' need to know of an image, in the metadata of its commit.
pub const MANIFEST_DIGEST: &str = "ostree.manifest-digest";
/// The manifest as JSON.
pub const MANIFEST: &str = "ostree.manifest";
/// The configuration as JSON.
pub const IMAGE_CONFIG: &str = "ostree.container.image-config";

/// The ref of a layer.
pub fn layer_ref(digest: &Sha256Digest) -> String {
    format!("{LAYER_REFS}/{}", escape_image(&digest.to_oci()))
}

/// The ref of an image (`docker://registry.example/a:1`).
pub fn image_ref(image: &str) -> String {
    format!("{IMAGE_REFS}/{}", escape_image(image))
}

/// Turns any text into a part of a ref that may have slashes: letters, digits and `-` stay, `/`
/// does after a letter or digit, `_` becomes `__`, and another character its code in hexadecimal
/// between two `_`.
pub fn escape_image(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut after_word = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '_' => out.push_str("__"),
            '-' => out.push(c),
            '/' if after_word && chars.peek().is_some() => out.push(c),
            _ if c.is_ascii_alphanumeric() => out.push(c),
            // Writing to a string can't fail.
            _ => drop(write!(out, "_{:02X}_", u32::from(c))),
        }
        after_word = c.is_ascii_alphanumeric();
    }
    out
}

impl TargetRepo {
    /// All refs below a prefix, by their whole name.
    ///
    /// # Errors
    /// When they can't be read.
    #[context("listing refs below '{prefix}'")]
    pub fn refs(&self, prefix: &str) -> Result<BTreeMap<String, String>> {
        let flags = RepoListRefsExtFlags::NONE;
        let refs = self
            .repo()?
            .list_refs_ext(Some(prefix), flags, gio::Cancellable::NONE)
            .map_err(storage)?;
        Ok(refs.into_iter().collect())
    }

    /// Removes a ref; it may be missing.
    ///
    /// # Errors
    /// When it can't be removed.
    #[context("removing ref '{}'", escape(name))]
    pub fn remove_ref(&self, name: &str) -> Result<()> {
        self.repo()?
            .set_ref_immediate(None, name, None, gio::Cancellable::NONE)
            .map_err(storage)
    }

    /// Refuses a commit that no key of `remote` has signed.
    ///
    /// # Errors
    /// [`ErrorKind::Verification`] when the signature is missing or wrong.
    pub fn verify_signature(&self, remote: &str, commit: &[u8], detached: &[u8]) -> Result<()> {
        let verified = self.repo()?.signature_verify_commit_data(
            remote,
            &Bytes::from(commit),
            &Bytes::from(detached),
            RepoVerifyFlags::NONE,
        );
        verified.map(drop).map_err(|error| {
            let message = escape(error.message());
            Kinded::new(ErrorKind::Verification, message).into()
        })
    }

    /// Refuses a commit of this repository that no key of `remote` has signed.
    ///
    /// # Errors
    /// [`ErrorKind::Verification`] when the signature is missing or wrong.
    #[context("checking the signature of commit {checksum}")]
    pub fn verify_commit(&self, remote: &str, checksum: &str) -> Result<()> {
        let none = gio::Cancellable::NONE;
        let repo = self.repo()?;
        let (commit, _) = repo.load_commit(checksum).map_err(storage)?;
        let detached = repo.read_commit_detached_metadata(checksum, none);
        let detached = detached.map_err(storage)?;
        let detached = detached.as_ref().map_or(&[][..], Variant::data);
        self.verify_signature(remote, commit.data(), detached)
    }

    /// Writes a commit object, whose directories and contents are there, and its detached
    /// metadata.
    ///
    /// # Errors
    /// When it is not what `checksum` says, or can't be written.
    #[context("writing commit {checksum}")]
    pub fn write_commit(
        &self,
        checksum: &Sha256Digest,
        commit: &[u8],
        detached: Option<&[u8]>,
    ) -> Result<()> {
        let name = checksum.to_string();
        let none = gio::Cancellable::NONE;
        let repo = self.handle.open()?;
        let object = variant(commit, "(a{sv}aya(say)sstayay)")?;
        in_transaction(&repo, || {
            repo.write_metadata(ObjectType::Commit, Some(&name), &object, none)
                .map_err(damaged)?;
            if let Some(detached) = detached {
                let detached = variant(detached, "a{sv}")?;
                repo.write_commit_detached_metadata(&name, Some(&detached), none)
                    .map_err(storage)?;
            }
            Ok(())
        })
    }
}

impl CacheRepo {
    /// Stores a regular file of exactly `size` bytes.
    ///
    /// # Errors
    /// When it can't be read or written.
    pub fn put_content(&self, meta: &Meta, size: u64, content: &mut dyn Read) -> Result<File> {
        self.put_reader(meta, size, content)
    }

    /// Whether an extended attribute belongs to a file's content.
    pub fn keeps_xattr(name: &str) -> bool {
        xattr::is_kept(name)
    }
}

/// Writes objects that have a checksum already.
#[derive(Debug)]
pub struct ObjectWriter<'c> {
    cache: &'c CacheRepo,
    /// A repository object of its own, for the transaction of the directories.
    repo: Repo,
}

impl<'c> ObjectWriter<'c> {
    /// A writer to a system's repository. What it writes is on disk when [`Self::finish`] was
    /// called, and nothing names it yet.
    ///
    /// # Errors
    /// When the repository can't be written.
    pub fn start(cache: &'c CacheRepo) -> Result<Self> {
        let repo = cache.handle.open()?;
        repo.prepare_transaction(gio::Cancellable::NONE)
            .map_err(storage)?;
        Ok(Self { cache, repo })
    }

    /// Puts directories in their places.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn finish(self) -> Result<()> {
        self.repo
            .commit_transaction(gio::Cancellable::NONE)
            .map(drop)
            .map_err(storage)
    }

    /// Stores an object of a directory: what is in it, or its owner and mode.
    ///
    /// # Errors
    /// When it is not what its checksum says, or can't be written.
    pub fn put_directory(&self, tree: bool, checksum: &Sha256Digest, data: &[u8]) -> Result<()> {
        let (kind, form) = match tree {
            true => (ObjectType::DirTree, "(a(say)a(sayay))"),
            false => (ObjectType::DirMeta, "(uuua(ayay))"),
        };
        let object = variant(data, form)?;
        let name = checksum.to_string();
        self.repo
            .write_metadata(kind, Some(&name), &object, gio::Cancellable::NONE)
            .map(drop)
            .map_err(damaged)
    }

    /// Stores a regular file; `xattrs` is `a(ayay)`.
    ///
    /// # Errors
    /// When it is not what its checksum says, or can't be written.
    pub fn put_file(
        &self,
        checksum: &Sha256Digest,
        meta: &Meta,
        xattrs: &[u8],
        (size, content): (u64, &mut dyn Read),
    ) -> Result<Node> {
        let meta = Meta {
            xattrs: read_xattrs(xattrs)?,
            ..meta.clone()
        };
        let file = self.cache.put_reader(&meta, size, content)?;
        if file.checksum != *checksum {
            let found = file.checksum;
            bail!(Kinded::new(
                ErrorKind::Verification,
                format!("its checksum is {found}")
            ));
        }
        Ok(Node::File(file))
    }

    /// Stores a symbolic link; `xattrs` is `a(ayay)`.
    ///
    /// # Errors
    /// When it is not what its checksum says, or can't be written.
    pub fn put_symlink(
        &self,
        checksum: &Sha256Digest,
        (uid, gid): (u32, u32),
        xattrs: &[u8],
        target: &str,
    ) -> Result<Node> {
        let xattrs = variant(xattrs, "a(ayay)")?;
        let name = checksum.to_string();
        self.repo
            .write_symlink(
                Some(&name),
                uid,
                gid,
                Some(&xattrs),
                target,
                gio::Cancellable::NONE,
            )
            .map_err(damaged)?;
        Ok(Node::Symlink(Symlink {
            target: target.to_owned(),
            uid,
            gid,
            checksum: *checksum,
        }))
    }
}

impl Drop for ObjectWriter<'_> {
    fn drop(&mut self) {
        // Nothing is left to give up after `finish`; otherwise the next sweep removes it.
        drop(self.repo.abort_transaction(gio::Cancellable::NONE));
    }
}

/// Bytes as a variant of a type, in normal form.
fn variant(data: &[u8], form: &str) -> Result<Variant> {
    let form = VariantTy::new(form)?;
    let variant = Variant::from_bytes_with_type(&Bytes::from(data), form);
    if !variant.is_normal_form() {
        return Err(invalid_input("the object is malformed"));
    }
    Ok(variant)
}

fn read_xattrs(data: &[u8]) -> Result<Xattrs> {
    let mut xattrs = Xattrs::new();
    for pair in variant(data, "a(ayay)")?.iter() {
        let (name, value) = (pair.child_value(0), pair.child_value(1));
        let name = name.fixed_array::<u8>()?;
        let name = std::str::from_utf8(name.strip_suffix(&[0]).unwrap_or(name))
            .context("an extended attribute has a name that is not UTF-8")?;
        let value = HexBytes(value.fixed_array::<u8>()?.to_vec());
        xattrs.insert(name.to_owned(), value);
    }
    Ok(xattrs)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn damaged(error: ostree::glib::Error) -> anyhow::Error {
    Kinded::new(ErrorKind::Verification, escape(error.message())).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refs_are_those_of_ostree_ext() {
        for (image, name) in [
            (
                "docker://registry.example/a_b/c:1.2",
                "docker_3A__2F__2F_registry_2E_example/a__b/c_3A_1_2E_2",
            ),
            ("oci:/srv/x:latest", "oci_3A__2F_srv/x_3A_latest"),
            ("sha256:00ff", "sha256_3A_00ff"),
            ("a//b/", "a/_2F_b_2F_"),
            ("ä-", "_E4_-"),
        ] {
            assert_eq!(escape_image(image), name);
        }
    }

    proptest! {
        #[test]
        fn every_image_has_a_valid_ref(text in "[^\\x00]{1,60}") {
            prop_assert!(ostree::validate_rev(&image_ref(&text)).is_ok());
        }

        #[test]
        fn no_two_images_share_a_ref(a in "[a-c/_:.-]{1,8}", b in "[a-c/_:.-]{1,8}") {
            prop_assert_eq!(a == b, escape_image(&a) == escape_image(&b));
        }
    }
}
