//! Writing content objects.

use std::io::{Read, Write as _};

use anyhow::{Result, bail};
use apt_ostree_model::{ContentReader as _, File, Meta, Sha256Digest, Symlink};
use openssl::sha::Sha256;
use ostree::gio;

use crate::CacheRepo;
use crate::content::Looks;
use crate::error::storage;
use crate::object;

/// Contents up to this size are read into memory first: many are stored already.
const MAX_IN_MEMORY: u64 = 8 << 20;

impl CacheRepo {
    /// Stores a regular file of exactly `size` bytes.
    pub(crate) fn put_reader(
        &self,
        meta: &Meta,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<File> {
        let checksum = if size <= MAX_IN_MEMORY {
            self.put_small(meta, size, content)?
        } else {
            self.put_large(meta, size, content)?
        };
        Ok(File {
            meta: meta.clone(),
            size,
            checksum,
        })
    }

    /// Stores a symbolic link.
    pub(crate) fn put_link(&self, target: &str, uid: u32, gid: u32) -> Result<Symlink> {
        let object = object::symlink_object(target, uid, gid);
        let checksum = object::sha256(&object);
        let link = Symlink {
            target: target.to_owned(),
            uid,
            gid,
            checksum,
        };
        if self.is_stored(&checksum, self.content().look_at_symlink(&link)?)? {
            return Ok(link);
        }
        let length = object.len() as u64;
        self.repo()?
            .write_content_trusted(
                &checksum.to_string(),
                &object::memory_stream(object),
                length,
                gio::Cancellable::NONE,
            )
            .map_err(storage)?;
        Ok(link)
    }

    fn put_small(&self, meta: &Meta, size: u64, content: &mut dyn Read) -> Result<Sha256Digest> {
        let mut object = object::file_header(meta);
        let header = object.len();
        object.reserve_exact(usize::try_from(size)?);
        content.take(size).read_to_end(&mut object)?;
        require_size((object.len() - header) as u64, size)?;
        let checksum = object::sha256(&object);
        if !self.is_stored(
            &checksum,
            self.content().look_at_file(&checksum, meta, size)?,
        )? {
            let mut file = self.content().create()?;
            file.write_all(&object[header..])?;
            self.content().place(&file, meta, &checksum)?;
        }
        Ok(checksum)
    }

    fn put_large(&self, meta: &Meta, size: u64, content: &mut dyn Read) -> Result<Sha256Digest> {
        let mut file = self.content().create()?;
        let mut hasher = Sha256::new();
        hasher.update(&object::file_header(meta));
        let mut buffer = vec![0; 256 << 10];
        let mut content = content.take(size);
        let mut copied = 0;
        loop {
            let read = content.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            file.write_all(&buffer[..read])?;
            copied += read as u64;
        }
        require_size(copied, size)?;
        let checksum = object::finish(hasher);
        if !self.is_stored(
            &checksum,
            self.content().look_at_file(&checksum, meta, size)?,
        )? {
            self.content().place(&file, meta, &checksum)?;
        }
        Ok(checksum)
    }

    /// True when the object needs no writing. One that looks odd is deleted, to be written again;
    /// in a system's repository it stays, and whoever uses it will check it.
    fn is_stored(&self, checksum: &Sha256Digest, looks: Looks) -> Result<bool> {
        if looks == Looks::Odd && !self.system {
            self.content().delete(checksum)?;
        }
        Ok(looks == Looks::Good || (looks == Looks::Odd && self.system))
    }

    /// Stores a file's content again under other metadata.
    pub(crate) fn put_with_meta(&self, file: &File, meta: &Meta) -> Result<File> {
        if file.meta == *meta {
            return Ok(file.clone());
        }
        let mut content = self.content().open(&file.checksum)?;
        self.put_reader(meta, file.size, &mut content)
    }
}

fn require_size(found: u64, size: u64) -> Result<()> {
    if found != size {
        bail!("the content has {found} bytes, not {size}");
    }
    Ok(())
}
