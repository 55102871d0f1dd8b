//! Real packages, compared with what dpkg-deb and tar say about them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use apt_ostree_deb::{DebReader, EntryKind, Limits};

use crate::builder::Collect;

const NAMES: [&str; 5] = ["hello", "base-files", "perl-base", "sudo", "tzdata"];

/// Packages from apt's cache, or else downloaded into `dir`.
fn packages(dir: &Path) -> Vec<PathBuf> {
    let list = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|e| e.path()).collect();
        paths.retain(|p| p.extension().is_some_and(|e| e == "deb"));
        paths.sort();
        paths.truncate(12);
        paths
    };
    let cached = list(Path::new("/var/cache/apt/archives"));
    if !cached.is_empty() {
        return cached;
    }
    for name in NAMES {
        let mut apt = Command::new("apt-get");
        apt.args(["download", "-q", "-o", "APT::Sandbox::User=root", name])
            .current_dir(dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if !apt.status().is_ok_and(|s| s.success()) {
            eprintln!("apt-get can't download '{name}'");
        }
    }
    list(dir)
}

/// One line per entry as `tar -tv --numeric-owner --full-time --utc` writes it.
fn tar_listing(package: &Path) -> Vec<String> {
    let mut dpkg = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = Command::new("tar")
        .args([
            "-tv",
            "--numeric-owner",
            "--quoting-style=literal",
            "-f",
            "-",
        ])
        .env("TZ", "UTC")
        .env("LC_ALL", "C.UTF-8")
        .stdin(dpkg.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(
        dpkg.wait().unwrap().success() && output.status.success(),
        "{package:?}"
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(normalise).collect()
}

/// `mode owner size name [-> target]`, without the time.
fn normalise(line: &str) -> String {
    let mut rest = line;
    let mut words = Vec::new();
    for _ in 0..5 {
        let (word, tail) = rest.trim_start().split_once(' ').unwrap();
        words.push(word);
        rest = tail;
    }
    format!("{} {} {} {rest}", words[0], words[1], words[2])
}

fn mode_text(kind: &EntryKind, mode: u32) -> String {
    let mut text = String::from(match kind {
        EntryKind::Dir => "d",
        EntryKind::File { .. } => "-",
        EntryKind::Symlink { .. } => "l",
        EntryKind::Hardlink { .. } => "h",
    });
    let special = [(0o4000, 's'), (0o2000, 's'), (0o1000, 't')];
    for (index, (bit, letter)) in special.into_iter().enumerate() {
        let bits = mode >> (6 - 3 * index);
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (mode & bit != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn our_listing(package: &Path) -> Vec<String> {
    let mut sink = Collect::default();
    let reader = DebReader::open(File::open(package).unwrap(), Limits::default()).unwrap();
    reader.data(&mut sink).unwrap();
    let line = |(entry, content): &(apt_ostree_deb::Entry, Vec<u8>)| {
        let path = if entry.path.is_empty() {
            String::new()
        } else {
            format!("/{}", entry.path)
        };
        let name = match &entry.kind {
            EntryKind::Dir => format!(".{path}/"),
            EntryKind::File { .. } => format!(".{path}"),
            EntryKind::Symlink { target } => format!(".{path} -> {target}"),
            EntryKind::Hardlink { target } => format!(".{path} link to ./{target}"),
        };
        let mode = mode_text(&entry.kind, entry.mode);
        format!(
            "{mode} {}/{} {} {name}",
            entry.uid,
            entry.gid,
            content.len()
        )
    };
    sink.entries.iter().map(line).collect()
}

fn field(package: &Path, name: &str) -> String {
    let output = Command::new("dpkg-deb")
        .arg("-f")
        .arg(package)
        .arg(name)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn real_packages_are_read_as_dpkg_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let packages = packages(dir.path());
    if packages.is_empty() {
        eprintln!("SKIPPED: no real packages in apt's cache and none can be downloaded");
        return;
    }
    for package in packages {
        assert_eq!(our_listing(&package), tar_listing(&package), "{package:?}");
        let reader = DebReader::open(File::open(&package).unwrap(), Limits::default()).unwrap();
        let control = reader.control();
        assert_eq!(control.package().as_str(), field(&package, "Package"));
        assert_eq!(control.version().as_str(), field(&package, "Version"));
        assert_eq!(control.arch().as_str(), field(&package, "Architecture"));
        assert_eq!(
            control.field("Depends").unwrap_or(""),
            field(&package, "Depends")
        );
        assert_eq!(
            control.field("Description").unwrap_or(""),
            field(&package, "Description")
        );
    }
}
