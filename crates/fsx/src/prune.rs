//! Which files of a cache stay.
//!
//! A file was last used when its inode last changed (ctime). Unlike the access time, nothing that
//! only reads the cache changes that, such as a backup; and [`touch`] sets it without changing the
//! modification time, which means something to others.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How much of a cache stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What was not used for this long goes.
    pub age: Duration,
    /// What was used last stays, as long as all of it has at most this many bytes.
    pub bytes: u64,
    /// What was used within this time stays in any case: someone may be using it now.
    pub fresh: Duration,
}

impl Limits {
    /// At most this many bytes, unused for at most 90 days; nothing that was used today goes.
    pub const fn new(bytes: u64) -> Self {
        Self {
            age: DAY.saturating_mul(90),
            bytes,
            fresh: DAY,
        }
    }

    /// No limit but this age.
    pub const fn unused_for(age: Duration) -> Self {
        Self {
            age,
            bytes: u64::MAX,
            fresh: DAY,
        }
    }
}

/// Something in a cache that stays or goes as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached<T> {
    /// What it is.
    pub item: T,
    /// When it was used last.
    pub used: SystemTime,
    /// Its size.
    pub bytes: u64,
}

/// What was removed from a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many things.
    pub count: usize,
    /// Their size.
    pub bytes: u64,
}

impl Pruned {
    /// Counts one more.
    pub const fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

impl std::ops::AddAssign for Pruned {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// What has to go, that which was not used for the longest time first.
pub fn excess<T>(mut cached: Vec<Cached<T>>, limits: &Limits) -> Vec<Cached<T>> {
    let now = SystemTime::now();
    // A time in the future is no age.
    let age = |used: SystemTime| now.duration_since(used).unwrap_or_default();
    cached.sort_by_key(|one| one.used);
    let mut total = cached
        .iter()
        .fold(0_u64, |sum, one| sum.saturating_add(one.bytes));
    cached.retain(|one| {
        let age = age(one.used);
        let goes = age >= limits.fresh && (age > limits.age || total > limits.bytes);
        if goes {
            total = total.saturating_sub(one.bytes);
        }
        goes
    });
    cached
}

/// Notes that a file or directory is used; its modification time stays.
///
/// # Errors
/// When it is not there, or can't be changed.
pub fn touch(path: &Utf8Path) -> io::Result<()> {
    let time = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    let times = Timestamps {
        last_access: time(UTIME_NOW),
        last_modification: time(UTIME_OMIT),
    };
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::utimensat(CWD, path.as_str(), &times, flags)?)
}

/// When something was used last.
pub fn last_use(meta: &Metadata) -> SystemTime {
    let seconds = Duration::from_secs(meta.ctime().try_into().unwrap_or_default());
    let nanoseconds = Duration::from_nanos(meta.ctime_nsec().try_into().unwrap_or_default());
    UNIX_EPOCH + seconds + nanoseconds
}

/// The regular files in a directory whose names are `wanted`, with the room they take on disk.
///
/// # Errors
/// When the directory can't be read; a missing one is empty.
pub fn cached_files(
    dir: &Utf8Path,
    wanted: impl Fn(&str) -> bool,
) -> io::Result<Vec<Cached<Utf8PathBuf>>> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        // Another process may have removed it meanwhile.
        let Ok(meta) = entry.metadata() else {
            continue;
        };
        if meta.is_file() && wanted(&name) {
            found.push(Cached {
                item: dir.join(name),
                used: last_use(&meta),
                bytes: meta.blocks().saturating_mul(512),
            });
        }
    }
    Ok(found)
}

/// Removes from a directory what has to go of the files whose names are `wanted`.
///
/// # Errors
/// When the directory can't be read or changed.
pub fn prune_files(
    dir: &Utf8Path,
    limits: &Limits,
    wanted: impl Fn(&str) -> bool,
) -> io::Result<Pruned> {
    let mut pruned = Pruned::default();
    for file in excess(cached_files(dir, wanted)?, limits) {
        match std::fs::remove_file(&file.item) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => {
                result?;
                pruned.add(file.bytes);
            }
        }
    }
    Ok(pruned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Limits = Limits {
        age: Duration::MAX,
        bytes: u64::MAX,
        fresh: Duration::ZERO,
    };

    fn names(mut cached: Vec<Cached<&'static str>>, limits: &Limits) -> Vec<&'static str> {
        cached.reverse();
        let excess = excess(cached, limits);
        excess.into_iter().map(|one| one.item).collect()
    }

    /// Things by their age in hours and their size.
    fn cached(all: &[(&'static str, u64, u64)]) -> Vec<Cached<&'static str>> {
        let hour = |hours: u64| Duration::from_secs(hours * 60 * 60);
        let one = |(item, age, bytes): &(&'static str, u64, u64)| Cached {
            item: *item,
            used: SystemTime::now() - hour(*age),
            bytes: *bytes,
        };
        all.iter().map(one).collect()
    }

    #[test]
    fn what_was_not_used_for_long_goes_first() {
        let all = || cached(&[("a", 1, 10), ("b", 30, 10), ("c", 50, 10), ("d", 3000, 10)]);
        assert_eq!(names(all(), &NONE), [""; 0]);
        assert_eq!(names(all(), &Limits::new(100)), ["d"]);
        assert_eq!(names(all(), &Limits::new(25)), ["d", "c"]);
        let bytes = Limits { bytes: 10, ..NONE };
        assert_eq!(names(all(), &bytes), ["d", "c", "b"]);
        // What was used today stays although it is too much.
        assert_eq!(names(all(), &Limits::new(0)), ["d", "c", "b"]);
        let age = Limits::unused_for(DAY);
        assert_eq!(names(all(), &age), ["d", "c", "b"]);
    }

    #[test]
    fn a_time_in_the_future_is_no_age() {
        let mut all = cached(&[("a", 0, 10)]);
        all[0].used = SystemTime::now() + DAY;
        assert_eq!(excess(all, &Limits::new(0)).len(), 0);
    }

    #[test]
    fn touching_a_file_keeps_its_time_and_makes_it_the_last_one_to_go() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let wait = || std::thread::sleep(Duration::from_millis(20));
        let time = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for name in ["a", "b", "c", "other"] {
            std::fs::write(dir.join(name), [1; 4096]).unwrap();
            let file = std::fs::File::options().write(true).open(dir.join(name));
            file.unwrap().set_modified(time).unwrap();
            wait();
        }
        touch(&dir.join("a")).unwrap();
        // Neither reading a file nor a directory or link makes a difference.
        std::fs::read(dir.join("b")).unwrap();
        std::fs::create_dir(dir.join("dir")).unwrap();
        std::os::unix::fs::symlink("a", dir.join("link")).unwrap();
        let meta = std::fs::metadata(dir.join("a")).unwrap();
        assert_eq!(meta.modified().unwrap(), time);
        let bytes = meta.blocks() * 512;
        let limits = Limits { bytes, ..NONE };
        let pruned = prune_files(dir, &limits, |name| name != "other").unwrap();
        let (count, bytes) = (2, 2 * bytes);
        assert_eq!(pruned, Pruned { count, bytes });
        for (name, stays) in [("a", true), ("b", false), ("c", false), ("other", true)] {
            assert_eq!(dir.join(name).exists(), stays, "{name}");
        }
        assert!(dir.join("dir").exists() && dir.join("link").is_symlink());
    }

    #[test]
    fn what_is_not_there_needs_no_pruning_and_can_not_be_touched() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let pruned = prune_files(&dir.join("x"), &NONE, |_| true).unwrap();
        assert_eq!(pruned, Pruned::default());
        let error = touch(&dir.join("x")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
