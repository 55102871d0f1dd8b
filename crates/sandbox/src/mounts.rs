//! Builds the mounts of the target and makes it the root directory.
//!
//! The target is hostile: each mount point is opened inside it component by component, a link
//! anywhere on the way is an error, and the mount goes onto the handle that was opened.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::cgroup;
use crate::init::Failure;
use crate::spec::{Root, Sandbox, relative};

/// Parts of /proc that must not be written.
const PROC_READ_ONLY: [&str; 6] = ["acpi", "bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Files of /proc that tell or do something to the whole machine.
const PROC_HIDDEN: [&str; 8] = [
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "sched_debug",
    "timer_list",
    "vmallocinfo",
];

/// The device files in /dev: name, major and minor number.
const DEVICES: [(&str, u32, u32); 6] = [
    ("full", 1, 7),
    ("null", 1, 3),
    ("random", 1, 8),
    ("tty", 5, 0),
    ("urandom", 1, 9),
    ("zero", 1, 5),
];

/// The links in /dev.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("ptmx", "pts/ptmx"),
    ("stderr", "/proc/self/fd/2"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
];

/// Mounts everything and makes the target the root directory of this process and its namespace.
pub(crate) fn enter(sandbox: &Sandbox) -> Result<(), Failure> {
    make_private()?;
    let root = match &sandbox.root {
        Root::Overlay {
            lowers,
            upper,
            work,
        } => mount_overlay(lowers, upper, work)?,
        Root::Dir(dir) => mount_dir(dir)?,
    };
    let mut target = Target {
        root,
        create: sandbox.create_mountpoints,
    };
    target.mount_dev(sandbox.tmpfs_size)?;
    target.mount_proc(sandbox.max_pids)?;
    target.mount_sys()?;
    target.mount_tmpfs("run", "0755", sandbox.tmpfs_size)?;
    rustix::fs::mkdirat(target.open_dir("run")?, "lock", Mode::from_raw_mode(0o1777))
        .map_err(|e| Failure::new("creating '/run/lock'", e))?;
    target.mount_tmpfs("tmp", "1777", sandbox.tmpfs_size)?;
    target.mount_tmpfs("var/tmp", "1777", sandbox.tmpfs_size)?;
    for bind in &sandbox.binds {
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        let flags = if bind.writable {
            flags
        } else {
            flags | MountFlags::RDONLY
        };
        let inside = relative(&bind.target).unwrap_or(&bind.target);
        // What is below /run is not the target's but in the file system just mounted there.
        target.create = sandbox.create_mountpoints || inside.starts_with("run");
        target.bind(&bind.source, inside.as_str(), flags)?;
    }
    pivot(&target.root)
}

/// Keeps the mounts made here from showing up anywhere else.
fn make_private() -> Result<(), Failure> {
    let failed = |e: Errno| Failure::new("making mounts private", e);
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    match rustix::mount::mount_change("/", flags) {
        Err(Errno::INVAL) => {
            // Our own root is no mount point: we are in a chroot. The paths of the caller only
            // hold in it, so we come back.
            let chroot = open_dir("/").map_err(failed)?;
            leave_chroot(&open_dir("/proc").map_err(failed)?)?;
            rustix::mount::mount_change("/", flags).map_err(failed)?;
            rustix::process::fchdir(&chroot).map_err(failed)?;
            rustix::process::chroot(".").map_err(failed)
        }
        other => other.map_err(failed),
    }
}

/// Mounts the layers. The place is the work directory: it exists, and in this namespace nobody
/// needs to see it.
fn mount_overlay(
    lowers: &[Utf8PathBuf],
    upper: &Utf8Path,
    work: &Utf8Path,
) -> Result<OwnedFd, Failure> {
    let open = |path: &Utf8Path| {
        open_dir(path.as_str()).map_err(|e| Failure::new(format_args!("opening '{path}'"), e))
    };
    let failed = |e: Errno| {
        Failure::new(
            format_args!("mounting an overlay on {} layers", lowers.len()),
            e,
        )
    };
    let layers: Vec<OwnedFd> = lowers
        .iter()
        .map(|path| open(path))
        .collect::<Result<_, _>>()?;
    let (upper, work_dir) = (open(upper)?, open(work)?);
    // Relative names in this directory: the option string is limited to a page, colons and commas
    // in paths would need quoting, and here each layer takes a few digits.
    rustix::process::chdir("/proc/self/fd").map_err(failed)?;
    let lower: Vec<String> = layers.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},index=off,metacopy=off,redirect_dir=off,volatile",
        lower.join(":"),
        upper.as_raw_fd(),
        work_dir.as_raw_fd(),
    );
    let options = CString::new(options).map_err(|_| failed(Errno::INVAL))?;
    rustix::mount::mount(
        "overlay",
        work.as_str(),
        "overlay",
        MountFlags::NODEV,
        options.as_c_str(),
    )
    .map_err(failed)?;
    rustix::process::chdir("/").map_err(failed)?;
    // By its name, not by the handle: this one is inside the mount.
    open(work)
}

/// Mounts a plain directory on itself.
fn mount_dir(dir: &Utf8Path) -> Result<OwnedFd, Failure> {
    let failed = |e: Errno| Failure::new(format_args!("mounting '{dir}'"), e);
    let open = || open_dir(dir.as_str());
    let handle = open().map_err(failed)?;
    rustix::mount::mount_bind(by_handle(&handle), by_handle(&handle)).map_err(failed)?;
    let root = open().map_err(failed)?;
    rustix::mount::mount_remount(by_handle(&root), MountFlags::BIND | MountFlags::NODEV, "")
        .map_err(failed)?;
    Ok(root)
}

/// Opens a directory that is not a link.
fn open_dir(path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// The path that stands for an open file and nothing else.
fn by_handle(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The root of the target, to work inside of.
struct Target {
    root: OwnedFd,
    create: bool,
}

impl Target {
    fn open_dir(&self, path: &str) -> Result<OwnedFd, Failure> {
        self.open(path, FileType::Directory)
    }

    /// Opens a mount point, which must be of the kind `kind`.
    fn open(&self, path: &str, kind: FileType) -> Result<OwnedFd, Failure> {
        let opened = match open_beneath(&self.root, path) {
            Err(Errno::NOENT) if self.create => self
                .create(path, kind)
                .and_then(|()| open_beneath(&self.root, path)),
            other => other,
        };
        let fd = opened.map_err(|error| self.explain(path, error))?;
        let stat = rustix::fs::fstat(&fd)
            .map_err(|e| Failure::new(format_args!("looking at the target's '/{path}'"), e))?;
        let found = FileType::from_raw_mode(stat.st_mode);
        if found == FileType::Symlink {
            return Err(self.explain(path, Errno::LOOP));
        }
        if (found == FileType::Directory) != (kind == FileType::Directory) {
            let wanted = if kind == FileType::Directory {
                "directory"
            } else {
                "file"
            };
            return Err(Failure::target(format!(
                "the target's '/{path}' is not a {wanted}"
            )));
        }
        Ok(fd)
    }

    /// Creates a missing mount point and the directories above it.
    fn create(&self, path: &str, kind: FileType) -> Result<(), Errno> {
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        let parent = match open_beneath(&self.root, parent) {
            Err(Errno::NOENT) => {
                self.create(parent, FileType::Directory)?;
                open_beneath(&self.root, parent)?
            }
            other => other?,
        };
        if kind == FileType::Directory {
            return rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755));
        }
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
    }

    /// Says which part of a mount point is at fault.
    fn explain(&self, path: &str, error: Errno) -> Failure {
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let part = &path[..end];
            let Ok(stat) = rustix::fs::statat(&self.root, part, AtFlags::SYMLINK_NOFOLLOW) else {
                return Failure::target(format!("the target has no '/{part}'"));
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => {
                    return Failure::target(format!("the target's '/{part}' is a symbolic link"));
                }
                FileType::Directory => {}
                _ if end < path.len() => {
                    return Failure::target(format!("the target's '/{part}' is not a directory"));
                }
                _ => {}
            }
        }
        Failure::new(format_args!("opening the target's '/{path}'"), error)
    }

    fn mount_tmpfs(&self, path: &str, mode: &str, size: u64) -> Result<(), Failure> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        self.mount("tmpfs", path, flags, &format!("mode={mode},size={size}"))
    }

    fn mount(
        &self,
        kind: &str,
        path: &str,
        flags: MountFlags,
        options: &str,
    ) -> Result<(), Failure> {
        let place = self.open_dir(path)?;
        let failed = |e: Errno| Failure::new(format_args!("mounting '/{path}'"), e);
        let options = CString::new(options).map_err(|_| failed(Errno::INVAL))?;
        rustix::mount::mount(kind, by_handle(&place), kind, flags, options.as_c_str())
            .map_err(failed)
    }

    /// Makes `source` visible at `path` with the mount flags `flags`.
    fn bind(&self, source: &Utf8Path, path: &str, flags: MountFlags) -> Result<(), Failure> {
        let failed = |e: Errno| {
            Failure::new(
                format_args!("mounting '{source}' on the target's '/{path}'"),
                e,
            )
        };
        let handle = rustix::fs::openat(
            CWD,
            source.as_str(),
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(failed)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&handle).map_err(failed)?.st_mode);
        let place = self.open(path, kind)?;
        self.bind_handle(&handle, &place, path, kind, flags)
    }

    fn bind_handle(
        &self,
        source: &OwnedFd,
        place: &OwnedFd,
        path: &str,
        kind: FileType,
        flags: MountFlags,
    ) -> Result<(), Failure> {
        let failed = |e: Errno| Failure::new(format_args!("mounting the target's '/{path}'"), e);
        rustix::mount::mount_bind(by_handle(source), by_handle(place)).map_err(failed)?;
        // Flags can't be given to the bind itself; opening again gives a handle inside it.
        let mounted = self.open(path, kind)?;
        rustix::mount::mount_remount(by_handle(&mounted), MountFlags::BIND | flags, "")
            .map_err(failed)
    }

    /// A /dev in memory with the few devices that every program may use.
    fn mount_dev(&self, shm_size: u64) -> Result<(), Failure> {
        let failed = |e: Errno| Failure::new("filling '/dev'", e);
        self.mount(
            "tmpfs",
            "dev",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            "mode=0755,size=4m",
        )?;
        let dev = self.open_dir("dev")?;
        for (name, major, minor) in DEVICES {
            let number = rustix::fs::makedev(major, minor);
            rustix::fs::mknodat(
                &dev,
                name,
                FileType::CharacterDevice,
                Mode::from_raw_mode(0o666),
                number,
            )
            .map_err(failed)?;
        }
        for (name, to) in DEVICE_LINKS {
            rustix::fs::symlinkat(to, &dev, name).map_err(failed)?;
        }
        for name in ["pts", "shm"] {
            rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755)).map_err(failed)?;
        }
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        self.mount(
            "devpts",
            "dev/pts",
            flags,
            "newinstance,ptmxmode=0666,mode=620,gid=5",
        )?;
        self.mount_tmpfs("dev/shm", "1777", shm_size)
    }

    fn mount_proc(&self, max_pids: u32) -> Result<(), Failure> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        self.mount("proc", "proc", flags, "")?;
        if cgroup::namespaces_have_pid_max() {
            let place = self.open("proc/sys/kernel/pid_max", FileType::RegularFile)?;
            // The kernel wants room for the 300 numbers that it reserves.
            std::fs::write(by_handle(&place), max_pids.max(301).to_string())
                .map_err(|e| Failure::new("limiting processes", e))?;
        }
        for name in PROC_READ_ONLY {
            let path = format!("proc/{name}");
            if let Ok(place) = open_beneath(&self.root, &path) {
                let kind = FileType::from_raw_mode(
                    rustix::fs::fstat(&place)
                        .map_err(|e| Failure::new("reading '/proc'", e))?
                        .st_mode,
                );
                self.bind_handle(&place, &place, &path, kind, flags | MountFlags::RDONLY)?;
            }
        }
        let null = self.open("dev/null", FileType::CharacterDevice)?;
        for name in PROC_HIDDEN {
            let path = format!("proc/{name}");
            if let Ok(place) = open_beneath(&self.root, &path) {
                let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::RDONLY;
                self.bind_handle(&null, &place, &path, FileType::CharacterDevice, flags)?;
            }
        }
        Ok(())
    }

    /// An empty /sys: what the build machine has is no business of the target.
    fn mount_sys(&self) -> Result<(), Failure> {
        let flags =
            MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
        self.mount("tmpfs", "sys", flags, "mode=0555,size=4k")
    }
}

/// Opens `path` inside `root` without following any link.
fn open_beneath(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(
        root,
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
}

/// Makes the mount at `root` the root of the namespace and lets go of the old one.
fn pivot(root: &OwnedFd) -> Result<(), Failure> {
    let failed = |e: Errno| Failure::new("entering the target", e);
    rustix::process::fchdir(root).map_err(failed)?;
    match rustix::process::pivot_root(".", ".") {
        Err(Errno::INVAL) => {
            // Our own root is no mount point: we are in a chroot.
            leave_chroot(root)?;
            rustix::process::fchdir(root).map_err(failed)?;
            rustix::process::pivot_root(".", ".").map_err(failed)?;
        }
        other => other.map_err(failed)?,
    }
    // Both are at "." now, the old root on top.
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failed)?;
    rustix::process::chdir("/").map_err(failed)
}

/// Makes the root of the mount namespace our root directory again.
fn leave_chroot(inside: &OwnedFd) -> Result<(), Failure> {
    let failed = |e: Errno| Failure::new("leaving the chroot", e);
    let old_root = open_dir("/").map_err(failed)?;
    // With the root moved below it, ".." of the old root leads on upwards, up to the real one.
    rustix::process::fchdir(inside).map_err(failed)?;
    rustix::process::chroot(".").map_err(failed)?;
    rustix::process::fchdir(&old_root).map_err(failed)?;
    for _ in 0..256 {
        rustix::process::chdir("..").map_err(failed)?;
    }
    rustix::process::chroot(".").map_err(failed)
}
