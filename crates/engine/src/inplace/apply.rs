//! Writing what differs between the tree of a root and the tree that it shall have.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};

use anyhow::{Context as _, Result};
use apt_ostree_model::{ContentReader as _, File, Meta, Node, Tree};
use camino::{Utf8Path, Utf8PathBuf};

use super::root::{API_DIRS, RootContent, Source};

/// Where new files are made; on the file system of what they replace.
const STAGE: &str = "usr/.apt-ostree-new";

/// Makes the root, whose tree is `before`, what `after` says. Mount points and what is in `/run`,
/// `/tmp` and the directories of the kernel are left alone.
pub(super) fn apply(content: &RootContent, before: &Tree, after: &Tree) -> Result<()> {
    let stage = content.on_disk(STAGE);
    if stage.exists() {
        apt_ostree_fsx::remove_tree(&stage)?;
    }
    std::fs::create_dir(&stage).with_context(|| format!("creating '{stage}'"))?;
    let writer = Writer {
        content,
        before,
        after,
        stage,
    };
    let result = writer.run();
    apt_ostree_fsx::remove_tree(&writer.stage)?;
    result
}

struct Writer<'a> {
    content: &'a RootContent,
    before: &'a Tree,
    after: &'a Tree,
    stage: Utf8PathBuf,
}

impl Writer<'_> {
    fn run(&self) -> Result<()> {
        let staged = self.stage_files()?;
        self.remove()?;
        self.place(staged)
    }

    /// Paths that are not ours to change.
    fn is_left_alone(&self, path: &str) -> bool {
        let top = path.split('/').next().unwrap_or_default();
        API_DIRS.contains(&top) || self.content.is_mount(path)
    }

    /// Makes all new files beside the tree, because their content may be where another file goes.
    fn stage_files(&self) -> Result<BTreeMap<String, Utf8PathBuf>> {
        let mut staged = BTreeMap::new();
        for (path, node) in self.after.walk() {
            let Node::File(file) = node else { continue };
            if self.is_left_alone(&path) || self.is_there(&path, file)? {
                continue;
            }
            let place = self.stage.join(staged.len().to_string());
            self.write(file, &place)
                .with_context(|| format!("writing '/{path}'"))?;
            staged.insert(path, place);
        }
        Ok(staged)
    }

    /// Whether a file is as it shall be, perhaps but for owner and mode, which are set then.
    fn is_there(&self, path: &str, file: &File) -> Result<bool> {
        let Some(old) = self.before.file(path) else {
            return Ok(false);
        };
        if old == file {
            return Ok(true);
        }
        let same = match self.content.source(file) {
            Some(Source::Disk(place)) => place == path,
            Some(Source::Data(data)) => {
                old.size == data.len() as u64 && self.content.read(old)? == *data
            }
            None => false,
        };
        if same && old.meta != file.meta {
            set_meta(&self.content.on_disk(path), &file.meta)
                .with_context(|| format!("changing '/{path}'"))?;
        }
        Ok(same)
    }

    fn write(&self, file: &File, place: &Utf8Path) -> Result<()> {
        let mut from = self.content.open(&file.checksum)?;
        let mut to = std::fs::File::create_new(place)?;
        io::copy(&mut from, &mut to)?;
        set_meta(place, &file.meta)
    }

    fn remove(&self) -> Result<()> {
        let paths: Vec<(String, &Node)> = self.before.walk().collect();
        for (path, node) in paths.into_iter().rev() {
            let stays = match (node, self.after.get(&path)) {
                (Node::Dir(_), Some(Node::Dir(_))) | (Node::File(_), Some(Node::File(_))) => true,
                (Node::Symlink(old), Some(Node::Symlink(new))) => old == new,
                _ => false,
            };
            if stays || self.is_left_alone(&path) {
                continue;
            }
            let place = self.content.on_disk(&path);
            let removed = match node {
                Node::Dir(_) => std::fs::remove_dir(&place),
                _ => std::fs::remove_file(&place),
            };
            match removed {
                Ok(()) => {}
                // Something is mounted in it, or it holds what is in no tree.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
                    ) => {}
                Err(error) => return Err(error).with_context(|| format!("removing '{place}'")),
            }
        }
        Ok(())
    }

    fn place(&self, mut staged: BTreeMap<String, Utf8PathBuf>) -> Result<()> {
        for (path, node) in self.after.walk() {
            if self.is_left_alone(&path) && !API_DIRS.contains(&path.as_str()) {
                continue;
            }
            let place = self.content.on_disk(&path);
            let context = || format!("writing '/{path}'");
            match node {
                Node::Dir(dir) => {
                    let old = self.before.dir(&path);
                    if old.is_none() && !place.is_dir() {
                        std::fs::create_dir(&place).with_context(context)?;
                    }
                    let is_api = API_DIRS.contains(&path.as_str());
                    if old.is_none_or(|old| old.meta != dir.meta && !is_api) {
                        set_meta(&place, &dir.meta).with_context(context)?;
                    }
                }
                Node::Symlink(link) if self.before.get(&path) != Some(node) => {
                    symlink(&link.target, &place).with_context(context)?;
                    lchown(&place, Some(link.uid), Some(link.gid)).with_context(context)?;
                }
                Node::Symlink(_) => {}
                Node::File(_) => {
                    if let Some(from) = staged.remove(&path) {
                        std::fs::rename(from, &place).with_context(context)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Owner first: a change of it takes set-id bits and capabilities away.
fn set_meta(place: &Utf8Path, meta: &Meta) -> Result<()> {
    chown(place, Some(meta.uid), Some(meta.gid))?;
    std::fs::set_permissions(place, std::fs::Permissions::from_mode(meta.mode))?;
    for (name, value) in &meta.xattrs {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(place.as_str(), name.as_str(), &value.0, flags)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use apt_ostree_model::ContentWriter as _;

    use super::*;

    #[test]
    fn the_root_becomes_what_the_tree_says() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        for name in ["usr", "etc", "home", "tmp"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        for name in ["etc/a", "etc/b", "etc/c", "home/x", "tmp/keep"] {
            std::fs::write(root.join(name), name).unwrap();
        }
        let content = RootContent::new(root).unwrap();
        let before = content.scan().unwrap();
        let mut after = before.clone();
        // Two change places, one gets another mode, one is new, a directory becomes a link.
        after.rename("etc/a", "etc/moved").unwrap();
        after.rename("etc/b", "etc/a").unwrap();
        let file = after.file("etc/c").unwrap().clone();
        let secret = content.change_meta(&file, &Meta::root(0o600)).unwrap();
        after.insert("etc/c", Node::File(secret)).unwrap();
        let new = content.put_file(&Meta::root(0o755), b"new").unwrap();
        after.insert("usr/new", Node::File(new)).unwrap();
        after.remove("home");
        let link = content.put_symlink("var/home", 0, 0).unwrap();
        after.insert("home", Node::Symlink(link)).unwrap();
        after.remove("tmp/keep");
        apply(&content, &before, &after).unwrap();

        let text = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
        assert_eq!(
            (text("etc/moved"), text("etc/a")),
            ("etc/a".into(), "etc/b".into())
        );
        assert_eq!(
            (text("usr/new"), text("tmp/keep")),
            ("new".into(), "tmp/keep".into())
        );
        assert!(!root.join("etc/b").exists() && !root.join(STAGE).exists());
        let mode = std::fs::metadata(root.join("etc/c"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(root.join("home").read_link_utf8().unwrap(), "var/home");
    }
}
