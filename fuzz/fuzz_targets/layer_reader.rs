//! Any bytes as a layer of an image: read or refused, with limits, and merged with itself.
#![no_main]

use std::io::Read;

use anyhow::Result;
use apt_ostree_model::{File, Meta, Sha256Digest, Symlink, Tree};
use apt_ostree_oci::pull::{
    CommitObjects, Content, ContentKind, LayerStore, Layout, MergeLayer, ObjectKind, ObjectStore,
    merge, read_chunk, read_commit, read_layer,
};
use libfuzzer_sys::fuzz_target;

struct Store;

const NONE: Sha256Digest = Sha256Digest::new([0; 32]);

impl LayerStore for Store {
    fn put_file(&self, meta: &Meta, size: u64, content: &mut dyn Read) -> Result<File> {
        std::io::copy(content, &mut std::io::sink())?;
        let (meta, checksum) = (meta.clone(), NONE);
        Ok(File { meta, size, checksum })
    }

    fn put_symlink(&self, target: &str, uid: u32, gid: u32) -> Result<Symlink> {
        let (target, checksum) = (target.to_owned(), NONE);
        Ok(Symlink { target, uid, gid, checksum })
    }

    fn keeps_xattr(&self, _: &str) -> bool {
        true
    }
}

impl ObjectStore for Store {
    fn check_commit(&mut self, _: &CommitObjects) -> Result<()> {
        Ok(())
    }

    fn put_metadata(&mut self, _: ObjectKind, _: &Sha256Digest, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn put_content(&mut self, content: Content<'_>) -> Result<()> {
        if let ContentKind::File { content, .. } = content.kind {
            std::io::copy(content, &mut std::io::sink())?;
        }
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    drop(read_chunk(&mut &*data, &mut Store));
    drop(read_commit(&mut &*data, &mut Store));
    let Ok(layer) = read_layer(&mut &*data, &Store, Layout::default()) else {
        return;
    };
    let upper = MergeLayer { tree: &layer.tree, implied: &layer.implied };
    for (path, _) in merge(Tree::default(), [upper]).walk() {
        assert!(!path.split('/').any(|part| matches!(part, "" | "." | "..")));
    }
});
