//! File systems in files: kept as they were, copied, mounted, and cut off from their power.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};

use crate::{stdout, success, target_dir};

/// Shuts an ext4 or xfs down without writing its journal, as `FS_IOC_SHUTDOWN` with
/// `FS_SHUTDOWN_FLAGS_NOLOGFLUSH`.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(fd, 0x8004587d, struct.pack('I', 2))";

/// An ext4 in a file that is not mounted. The file is in memory: what the file system writes there
/// is what a disk would have.
#[derive(Debug)]
pub struct Image {
    dir: tempfile::TempDir,
}

/// A mounted [`Image`].
#[derive(Debug)]
pub struct Mounted {
    image: Option<Image>,
    path: Utf8PathBuf,
}

impl Image {
    /// Makes a file system of so many MiB, of which root has no reserve.
    ///
    /// # Errors
    /// When `mkfs` says so.
    pub fn new(mebibytes: u64) -> Result<Self> {
        let image = Self {
            dir: tempfile::TempDir::with_prefix_in("apt-ostree-image-", "/dev/shm")?,
        };
        let file = std::fs::File::create(image.file()?)?;
        file.set_len(mebibytes << 20)?;
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-m", "0", "-E", "lazy_itable_init=0,nodiscard"]);
        success(mkfs.arg(image.file()?))?;
        Ok(image)
    }

    fn file(&self) -> Result<Utf8PathBuf> {
        let dir = Utf8Path::from_path(self.dir.path()).context("a path is not UTF-8")?;
        Ok(dir.join("disk"))
    }

    /// A copy that can be changed.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn duplicate(&self) -> Result<Self> {
        let copy = Self {
            dir: tempfile::TempDir::with_prefix_in("apt-ostree-image-", "/dev/shm")?,
        };
        let (from, to) = (self.file()?, copy.file()?);
        success(Command::new("cp").args(["--sparse=always", from.as_str(), to.as_str()]))?;
        Ok(copy)
    }

    /// Mounts it.
    ///
    /// # Errors
    /// When that fails.
    pub fn mount(self) -> Result<Mounted> {
        let parent = target_dir()?.join("test-work");
        std::fs::create_dir_all(&parent)?;
        let dir = tempfile::TempDir::with_prefix_in("disk-", &parent)?;
        let path = Utf8PathBuf::try_from(dir.keep())?;
        let file = self.file()?;
        success(Command::new("mount").args(["-o", "loop", file.as_str(), path.as_str()]))?;
        Ok(Mounted {
            image: Some(self),
            path,
        })
    }
}

impl Mounted {
    /// Where.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Thaws the file system; whether it was frozen.
    ///
    /// # Errors
    /// When the program can't be started.
    pub fn thaw(&self) -> Result<bool> {
        let mut command = Command::new("fsfreeze");
        let output = command.args(["--unfreeze", self.path.as_str()]).output()?;
        Ok(output.status.success())
    }

    /// Takes the power from the disk: what was not written is lost.
    ///
    /// # Errors
    /// When that fails.
    pub fn cut_power(mut self) -> Result<Image> {
        success(Command::new("python3").args(["-c", SHUTDOWN, self.path.as_str()]))?;
        // A mount namespace of someone else may still have this one mounted, and the same file
        // mounted again would be the same file system, shut down.
        self.unmount()?.duplicate()
    }

    /// Unmounts it.
    ///
    /// # Errors
    /// When someone uses it still.
    pub fn unmount(&mut self) -> Result<Image> {
        let image = self.image.take().context("it is not mounted")?;
        // Processes that were killed need a moment to be gone.
        let mut left = 200;
        loop {
            match success(Command::new("umount").arg(&self.path)) {
                Err(_) if left > 0 => left -= 1,
                result => break drop(result?),
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let mounts = success(Command::new("findmnt").args(["-n", "-o", "TARGET", "-l"]))?;
        let gone = !stdout(&mounts)
            .lines()
            .any(|target| target == self.path.as_str());
        ensure!(gone, "'{}' is still mounted", self.path);
        std::fs::remove_dir(&self.path)?;
        Ok(image)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.image.is_none() {
            return;
        }
        // A frozen file system can be neither read nor unmounted.
        drop(self.thaw());
        if self.unmount().is_err() {
            drop(success(
                Command::new("umount").args(["--lazy", self.path.as_str()]),
            ));
        }
    }
}
