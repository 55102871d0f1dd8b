//! Targets to run in, and ways to see that nothing outside changed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use apt_ostree_model::Kinded;
use apt_ostree_sandbox::{Finished, Root, Sandbox};
use camino::{Utf8Path, Utf8PathBuf};

/// Why the tests can't run here.
pub(crate) fn unable() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("they need root");
    }
    let caps = rustix::thread::capabilities(None).ok()?;
    let enough = caps
        .effective
        .contains(rustix::thread::CapabilitySet::SYS_ADMIN);
    (!enough).then_some("they need CAP_SYS_ADMIN")
}

/// A scratch directory with a target in it that uses the host's programs, and a sentinel beside it.
pub(crate) struct Scene {
    _dir: tempfile::TempDir,
    pub(crate) base: Utf8PathBuf,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        for name in ["lower", "upper", "work", "outside/sub"] {
            fs::create_dir_all(base.join(name)).unwrap();
        }
        fs::write(base.join("outside/sentinel"), "keep").unwrap();
        fs::write(base.join("outside/sub/file"), "keep").unwrap();
        skeleton(&base.join("lower"));
        Self { _dir: dir, base }
    }

    pub(crate) fn path(&self, name: &str) -> Utf8PathBuf {
        self.base.join(name)
    }

    /// A sandbox on an overlay of the target.
    pub(crate) fn overlay(&self) -> Sandbox {
        let root = Root::Overlay {
            lowers: vec![self.path("lower")],
            upper: self.path("upper"),
            work: self.path("work"),
        };
        with_host_usr(Sandbox::new(root, 1_700_000_000))
    }

    /// A sandbox right on the target.
    pub(crate) fn plain(&self) -> Sandbox {
        with_host_usr(Sandbox::new(Root::Dir(self.path("lower")), 1_700_000_000))
    }

    /// Everything about the directories that nothing may change.
    pub(crate) fn outside(&self) -> BTreeMap<Utf8PathBuf, String> {
        snapshot(&self.path("outside"))
    }
}

fn with_host_usr(mut sandbox: Sandbox) -> Sandbox {
    sandbox.env.insert("SANDBOX_TEST".to_owned(), marker());
    let probe = std::env::current_exe().unwrap();
    sandbox
        .bind_read_only("/usr", "/usr")
        .bind_read_only(Utf8PathBuf::from_path_buf(probe).unwrap(), "/probe")
}

/// What shows in the environment of our processes and nowhere else.
fn marker() -> String {
    format!("run-by-{}", std::process::id())
}

/// An empty merged-usr tree, its mount points, and a password file.
pub(crate) fn skeleton(root: &Utf8Path) {
    for name in [
        "dev", "etc", "proc", "root", "run", "srv", "sys", "tmp", "usr", "var/tmp",
    ] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    for name in ["bin", "lib", "lib64", "sbin"] {
        symlink(format!("usr/{name}"), root.join(name)).unwrap();
    }
    fs::write(root.join("probe"), "").unwrap();
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
    )
    .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").unwrap();
}

/// Names, contents, modes, owners, times and link counts below `dir`.
pub(crate) fn snapshot(dir: &Utf8Path) -> BTreeMap<Utf8PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_dir() {
            todo.extend(
                path.read_dir_utf8()
                    .unwrap()
                    .map(|entry| entry.unwrap().into_path()),
            );
            String::new()
        } else {
            format!("{:?}", fs::read(&path).unwrap())
        };
        let facts = (
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            meta.ino(),
            meta.mtime_nsec(),
            meta.ctime_nsec(),
        );
        seen.insert(path, format!("{facts:?} {content}"));
    }
    seen
}

/// Runs a shell script; returns what it printed.
pub(crate) fn shell(sandbox: &Sandbox, script: &str) -> (Finished, Vec<String>) {
    let mut lines = Vec::new();
    let finished = try_shell(sandbox, script, &mut lines).unwrap();
    (finished, lines)
}

pub(crate) fn try_shell(
    sandbox: &Sandbox,
    script: &str,
    lines: &mut Vec<String>,
) -> Result<Finished, Kinded> {
    let mounts = fs::read("/proc/self/mounts").unwrap();
    let result = sandbox.run(&["sh", "-c", script], b"", &mut |line| {
        lines.push(line.to_owned());
    });
    assert_eq!(
        mounts,
        fs::read("/proc/self/mounts").unwrap(),
        "a mount leaked"
    );
    assert_eq!(survivors(), Vec::<String>::new(), "a process survived");
    result
}

/// Runs one of the probes; returns what it printed.
pub(crate) fn probe(sandbox: &Sandbox, args: &[&str]) -> Vec<String> {
    let mut lines = Vec::new();
    let argv: Vec<&str> = ["/probe", "probe"].iter().chain(args).copied().collect();
    let finished = sandbox
        .run(&argv, b"", &mut |line| lines.push(line.to_owned()))
        .unwrap();
    assert!(finished.success(), "{args:?}: {finished:?}");
    assert_eq!(survivors(), Vec::<String>::new(), "a process survived");
    lines
}

/// The processes of ours that live on the host.
fn survivors() -> Vec<String> {
    let needle = format!("SANDBOX_TEST={}", marker());
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| {
            let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
            environ
                .split(|b| *b == 0)
                .any(|var| var == needle.as_bytes())
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
