//! Which paths an archive has named so far.

use std::collections::HashMap;

use crate::error::quote;
use crate::limits::Limits;

/// Owner and mode of a directory entry.
pub(crate) type DirMeta = (u32, u32, u32);

/// What an archive entry puts at its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Dir(DirMeta),
    /// A regular file or a hard link to one.
    File,
    Symlink,
}

#[derive(Debug, Clone, Copy)]
enum Slot {
    Dir(usize),
    File,
    Symlink,
}

/// A directory; `meta` is `None` as long as only paths below it were named.
#[derive(Debug, Default)]
struct Dir {
    meta: Option<DirMeta>,
    children: HashMap<Box<str>, Slot>,
}

/// The paths of an archive, each with its kind.
#[derive(Debug)]
pub(crate) struct Seen {
    dirs: Vec<Dir>,
    count: u64,
    names_size: u64,
    max_count: u64,
    max_names_size: u64,
}

impl Seen {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            dirs: vec![Dir::default()],
            count: 0,
            names_size: 0,
            max_count: limits.max_entries,
            max_names_size: limits.max_names_size,
        }
    }

    /// Adds a clean path. Gives false for a directory that was there already with the same
    /// owner and mode.
    pub(crate) fn add(&mut self, path: &str, kind: Kind) -> Result<bool, String> {
        if path.is_empty() {
            let Kind::Dir(meta) = kind else {
                return Err("the root entry is not a directory".into());
            };
            return self.add_dir(0, meta);
        }
        let (parent, name) = match path.rsplit_once('/') {
            Some((parent, name)) => (self.ensure_dir(parent)?, name),
            None => (0, path),
        };
        match (self.dirs[parent].children.get(name), kind) {
            (Some(Slot::Dir(dir)), Kind::Dir(meta)) => self.add_dir(*dir, meta),
            (Some(_), _) => Err("the path appears twice".into()),
            (None, Kind::Dir(meta)) => {
                let dir = self.new_dir(parent, name)?;
                self.dirs[dir].meta = Some(meta);
                Ok(true)
            }
            (None, Kind::File) => self.insert(parent, name, Slot::File).map(|()| true),
            (None, Kind::Symlink) => self.insert(parent, name, Slot::Symlink).map(|()| true),
        }
    }

    /// True if the path names a regular file.
    pub(crate) fn is_file(&self, path: &str) -> bool {
        matches!(self.slot(path), Some(Slot::File))
    }

    /// True if an entry has the path.
    pub(crate) fn contains(&self, path: &str) -> bool {
        match self.slot(path) {
            Some(Slot::Dir(dir)) => self.dirs[dir].meta.is_some(),
            slot => slot.is_some(),
        }
    }

    fn slot(&self, path: &str) -> Option<Slot> {
        let mut slot = Slot::Dir(0);
        for name in path.split('/') {
            let Slot::Dir(dir) = slot else {
                return None;
            };
            slot = *self.dirs[dir].children.get(name)?;
        }
        Some(slot)
    }

    fn add_dir(&mut self, dir: usize, meta: DirMeta) -> Result<bool, String> {
        let known = &mut self.dirs[dir].meta;
        match known {
            None => {
                *known = Some(meta);
                Ok(true)
            }
            Some(known) if *known == meta => Ok(false),
            Some(_) => Err("the directory appears twice with different owner or mode".into()),
        }
    }

    /// The directory at `path`, implied if it is new.
    fn ensure_dir(&mut self, path: &str) -> Result<usize, String> {
        let mut dir = 0;
        let mut end = 0;
        for name in path.split('/') {
            end += name.len() + 1;
            dir = match self.dirs[dir].children.get(name) {
                Some(Slot::Dir(child)) => *child,
                Some(Slot::File) => {
                    return Err(format!("{} is a file", quote(&path.as_bytes()[..end - 1])));
                }
                Some(Slot::Symlink) => {
                    let link = quote(&path.as_bytes()[..end - 1]);
                    return Err(format!("{link} is a symbolic link"));
                }
                None => self.new_dir(dir, name)?,
            };
        }
        Ok(dir)
    }

    fn new_dir(&mut self, parent: usize, name: &str) -> Result<usize, String> {
        let dir = self.dirs.len();
        self.insert(parent, name, Slot::Dir(dir))?;
        self.dirs.push(Dir::default());
        Ok(dir)
    }

    fn insert(&mut self, parent: usize, name: &str, slot: Slot) -> Result<(), String> {
        self.count += 1;
        if self.count > self.max_count {
            return Err(format!(
                "the archive has more than {} entries",
                self.max_count
            ));
        }
        self.names_size += name.len() as u64;
        if self.names_size > self.max_names_size {
            return Err(format!(
                "the names in the archive need more than {} bytes",
                self.max_names_size
            ));
        }
        self.dirs[parent].children.insert(name.into(), slot);
        Ok(())
    }
}
