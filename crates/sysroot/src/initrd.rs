//! Files of `/etc` in an archive that the boot loader loads after the initramfs, so that they are
//! in it or replace those of it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result};
use apt_ostree_model::{ErrorKind, Kinded};
use camino::Utf8Path;
use rustix::fs::{MemfdFlags, Mode, SeekFrom};

use crate::error::{self, invalid};
use crate::system::LockedSysroot;

/// An archive has at most this many bytes: boot loaders keep it in memory.
const MAX_BYTES: usize = 64 << 20;
/// Directories nest no deeper than this.
const MAX_DEPTH: usize = 64;

impl LockedSysroot {
    /// Gives libostree the archive of `tracked` files for the next deployment; returns the name by
    /// which that asks for it, or nothing when no file is tracked.
    pub(crate) fn stage_initrd(
        &self,
        etc: &Utf8Path,
        tracked: &BTreeSet<String>,
    ) -> Result<Option<String>> {
        if tracked.is_empty() {
            return Ok(None);
        }
        let archive = archive(etc, tracked).context("adding files to the initramfs")?;
        let file = rustix::fs::memfd_create("initrd", MemfdFlags::CLOEXEC)?;
        rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
        let mut file = std::fs::File::from(file);
        std::io::Write::write_all(&mut file, &archive)?;
        rustix::fs::seek(&file, SeekFrom::Start(0))?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        let name = self
            .inner
            .stage_overlay_initrd(fd, ostree::gio::Cancellable::NONE)
            .map_err(|e| error::ostree(&e))
            .context("staging files for the initramfs")?;
        Ok(Some(name.into()))
    }
}

impl LockedSysroot {
    /// Whether the boot loader is one that loads a single initramfs.
    pub(crate) fn ignores_initrds(&self) -> bool {
        let menus = ["boot/grub/grub.cfg", "boot/grub2/grub.cfg"];
        let mut texts = menus
            .iter()
            .filter_map(|menu| std::fs::read_to_string(self.path().join(menu)).ok());
        texts.any(|text| text.contains("/15_ostree ###") && !text.contains("blscfg"))
    }
}

/// What an entry of the archive holds.
#[derive(Debug)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    data: Vec<u8>,
}

/// An archive in the format `newc`, the same for the same files.
fn archive(etc: &Utf8Path, tracked: &BTreeSet<String>) -> Result<Vec<u8>> {
    let mut entries = BTreeMap::new();
    for path in tracked {
        let rest = path.strip_prefix("/etc/").unwrap_or(path);
        add_parents(etc, rest, &mut entries)?;
        add(etc, rest, 0, &mut entries).with_context(|| format!("reading '{path}'"))?;
    }
    let mut archive = Vec::new();
    for (number, (name, entry)) in entries.iter().enumerate() {
        push(&mut archive, number + 1, name, entry);
        if archive.len() > MAX_BYTES {
            let message = format!("tracked files have more than {MAX_BYTES} bytes");
            return Err(invalid(message)
                .with_hint("track fewer files: apt-ostree initramfs-etc --untrack FILE")
                .into());
        }
    }
    let end = Entry {
        mode: 0,
        owner: (0, 0),
        data: Vec::new(),
    };
    push(&mut archive, 0, "TRAILER!!!", &end);
    // As cpio itself does; what comes after in memory is aligned then.
    archive.resize(archive.len().next_multiple_of(512), 0);
    Ok(archive)
}

/// The directories from `/etc` down to a path.
fn add_parents(etc: &Utf8Path, rest: &str, entries: &mut BTreeMap<String, Entry>) -> Result<()> {
    let mut parents = vec![String::new()];
    parents.extend(rest.match_indices('/').map(|(at, _)| rest[..at].to_owned()));
    for parent in parents {
        let path = etc.join(&parent);
        let meta = path.symlink_metadata().map_err(|_| missing(rest))?;
        if !meta.is_dir() {
            return Err(invalid(format!("'/etc/{parent}' is not a directory")).into());
        }
        entries.insert(name(&parent), entry(&meta, Vec::new()));
    }
    Ok(())
}

/// A file, a link, or a directory with all that is in it.
fn add(
    etc: &Utf8Path,
    rest: &str,
    depth: usize,
    entries: &mut BTreeMap<String, Entry>,
) -> Result<()> {
    let path = etc.join(rest);
    let meta = match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(missing(rest).into());
        }
        meta => meta?,
    };
    let kind = meta.file_type();
    let data = if kind.is_symlink() {
        std::fs::read_link(&path)?.as_os_str().as_bytes().to_vec()
    } else if kind.is_file() {
        if meta.len() > MAX_BYTES as u64 {
            return Err(invalid(format!("it has more than {MAX_BYTES} bytes")).into());
        }
        std::fs::read(&path)?
    } else if kind.is_dir() && depth < MAX_DEPTH {
        for child in path.read_dir_utf8()? {
            let child = child?;
            add(
                etc,
                &format!("{rest}/{}", child.file_name()),
                depth + 1,
                entries,
            )?;
        }
        Vec::new()
    } else {
        return Err(invalid("it is neither a file, a directory nor a link").into());
    };
    entries.insert(name(rest), entry(&meta, data));
    Ok(())
}

fn missing(rest: &str) -> Kinded {
    let message = format!("'/etc/{rest}' is tracked for the initramfs, but is not there");
    Kinded::new(ErrorKind::InvalidInput, message).with_hint(format!(
        "make it, or stop tracking it: apt-ostree initramfs-etc --untrack /etc/{rest}"
    ))
}

fn name(rest: &str) -> String {
    if rest.is_empty() {
        "etc".to_owned()
    } else {
        format!("etc/{rest}")
    }
}

fn entry(meta: &std::fs::Metadata, data: Vec<u8>) -> Entry {
    Entry {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        data,
    }
}

fn push(archive: &mut Vec<u8>, number: usize, name: &str, entry: &Entry) {
    let links = if entry.mode & 0o170_000 == 0o040_000 {
        2
    } else {
        1
    };
    let (uid, gid) = entry.owner;
    // Number, mode, owner, links, time, size, four numbers of devices, length of the name, sum.
    let fields = [
        number,
        entry.mode as usize,
        uid as usize,
        gid as usize,
        links,
        0,
        entry.data.len(),
        0,
        0,
        0,
        0,
        name.len() + 1,
        0,
    ];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(&entry.data);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn tracked(paths: &[&str]) -> BTreeSet<String> {
        paths.iter().map(|p| (*p).to_owned()).collect()
    }

    #[test]
    fn cpio_reads_the_archive() {
        let dir = tempfile::tempdir().unwrap();
        let etc = Utf8Path::from_path(dir.path()).unwrap();
        std::fs::create_dir_all(etc.join("a/b")).unwrap();
        std::fs::write(etc.join("a/b/file"), "text").unwrap();
        std::fs::write(etc.join("crypttab"), "x\n").unwrap();
        std::os::unix::fs::symlink("crypttab", etc.join("link")).unwrap();
        let wanted = tracked(&["/etc/a/b", "/etc/crypttab", "/etc/link"]);
        let bytes = archive(etc, &wanted).unwrap();
        assert_eq!(bytes.len() % 512, 0);
        assert_eq!(archive(etc, &wanted).unwrap(), bytes);
        let mut cpio = Command::new("cpio")
            .args(["--list", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut cpio.stdin.take().unwrap(), &bytes).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "etc\netc/a\netc/a/b\netc/a/b/file\netc/crypttab\netc/link\n"
        );
    }

    #[test]
    fn what_is_missing_or_behind_a_link_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let etc = Utf8Path::from_path(dir.path()).unwrap();
        std::os::unix::fs::symlink("/", etc.join("link")).unwrap();
        let text = |path: &str| format!("{:#}", archive(etc, &tracked(&[path])).unwrap_err());
        assert!(text("/etc/gone").contains("'/etc/gone' is tracked"));
        assert!(text("/etc/link/passwd").contains("'/etc/link' is not a directory"));
    }
}
