//! What to run where.

use std::collections::BTreeMap;
use std::time::Duration;

use apt_ostree_model::{ErrorKind, Kinded};
use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

/// The directory that becomes `/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Root {
    /// Layers that stay as they are, and a directory that takes all changes.
    Overlay {
        /// The layers, topmost first.
        lowers: Vec<Utf8PathBuf>,
        /// Where changes go. May hold changes of earlier runs.
        upper: Utf8PathBuf,
        /// A scratch directory on the file system of `upper`; its content is removed.
        work: Utf8PathBuf,
    },
    /// A plain directory; changes go right into it.
    Dir(Utf8PathBuf),
}

/// A file or directory of the host that is visible inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Its path on the host. Mounts below it are not visible.
    pub source: Utf8PathBuf,
    /// Its absolute path inside.
    pub target: Utf8PathBuf,
    /// Whether it can be changed from inside.
    pub writable: bool,
}

/// A place to run programs in; see the crate documentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The directory that becomes `/`.
    pub root: Root,
    /// What of the host is visible, in mount order.
    pub binds: Vec<Bind>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// The working directory inside.
    pub cwd: Utf8PathBuf,
    /// Whether the network of the host is reachable.
    pub network: bool,
    /// The host name inside.
    pub hostname: String,
    /// How long a program may run.
    pub timeout: Duration,
    /// How many bytes each of `/dev/shm`, `/run`, `/tmp` and `/var/tmp` may take; it is memory.
    pub tmpfs_size: u64,
    /// How many processes there may be, at least about 300; older kernels need a pids cgroup for it.
    pub max_pids: u32,
    /// How many bytes of output are handed on.
    pub output_limit: u64,
    /// Creates mount points that the target lacks. They then show up in the target; those of binds
    /// below `/run`, which is a file system of the sandbox, are always created.
    pub create_mountpoints: bool,
}

impl Sandbox {
    /// A sandbox on `root` with the environment of [`script_env`] and the usual limits.
    pub fn new(root: Root, source_date_epoch: i64) -> Self {
        Self {
            root,
            binds: Vec::new(),
            env: script_env(source_date_epoch),
            cwd: "/".into(),
            network: false,
            hostname: "localhost".to_owned(),
            timeout: Duration::from_secs(30 * 60),
            tmpfs_size: 1 << 30,
            max_pids: 4096,
            output_limit: 16 << 20,
            create_mountpoints: false,
        }
    }

    /// Makes `source` visible as `target` without letting it be changed.
    #[must_use]
    pub fn bind_read_only(
        mut self,
        source: impl Into<Utf8PathBuf>,
        target: impl Into<Utf8PathBuf>,
    ) -> Self {
        self.binds.push(Bind {
            source: source.into(),
            target: target.into(),
            writable: false,
        });
        self
    }

    /// Makes `source` visible as `target`, open for changes.
    #[must_use]
    pub fn bind_writable(
        mut self,
        source: impl Into<Utf8PathBuf>,
        target: impl Into<Utf8PathBuf>,
    ) -> Self {
        self.binds.push(Bind {
            source: source.into(),
            target: target.into(),
            writable: true,
        });
        self
    }

    /// Refuses what the kernel would take in another sense than meant.
    pub(crate) fn check(&self, argv: &[&str]) -> Result<(), Kinded> {
        let wrong = |message: String| Err(Kinded::new(ErrorKind::Failed, message));
        if argv.first().is_none_or(|program| program.is_empty()) {
            return wrong("no program to run in the sandbox".to_owned());
        }
        if let Root::Overlay { lowers, .. } = &self.root
            && lowers.is_empty()
        {
            return wrong("no layer to run the sandbox on".to_owned());
        }
        let targets = self
            .binds
            .iter()
            .map(|bind| &bind.target)
            .chain([&self.cwd]);
        for target in targets {
            if relative(target).is_none() {
                return wrong(format!("'{target}' is not a plain absolute path"));
            }
        }
        Ok(())
    }
}

/// The path below the root of an absolute path without `.` and `..`.
pub(crate) fn relative(path: &Utf8Path) -> Option<&Utf8Path> {
    let below = path.strip_prefix("/").ok()?;
    below
        .components()
        .all(|c| matches!(c, Utf8Component::Normal(_)))
        .then_some(below)
}

/// The environment of maintainer scripts: nothing asks, nothing depends on the caller.
pub fn script_env(source_date_epoch: i64) -> BTreeMap<String, String> {
    [
        ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
        ("DEBCONF_NOWARNINGS", "yes"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("HOME", "/root"),
        ("INITRD", "No"),
        ("LANG", "C.UTF-8"),
        ("LC_ALL", "C.UTF-8"),
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ),
        ("SOURCE_DATE_EPOCH", &source_date_epoch.to_string()),
        ("SYSTEMD_OFFLINE", "1"),
        ("TZ", "UTC"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// What the processes inside are told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) sandbox: Sandbox,
    pub(crate) argv: Vec<String>,
    /// The `cgroup.procs` files to join.
    pub(crate) cgroup: Option<Utf8PathBuf>,
}

/// What the processes inside tell, one JSON line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Report {
    /// Setting up failed; the program has not run.
    Failed {
        /// What and why.
        message: String,
        /// Whether the system refused it to us.
        refused: bool,
    },
    /// The program exited.
    Exited(i32),
    /// A signal killed the program.
    Signalled(i32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bind_targets_must_be_plain_absolute_paths() {
        for (path, good) in [
            ("/a/b", true),
            ("/", true),
            ("a", false),
            ("/a/../b", false),
            ("", false),
        ] {
            assert_eq!(relative(Utf8Path::new(path)).is_some(), good, "{path}");
            let sandbox = Sandbox::new(Root::Dir("/t".into()), 0).bind_read_only("/x", path);
            assert_eq!(sandbox.check(&["true"]).is_ok(), good, "{path}");
        }
    }

    #[test]
    fn empty_jobs_are_refused() {
        let sandbox = Sandbox::new(Root::Dir("/t".into()), 0);
        assert!(sandbox.check(&[]).is_err());
        let root = Root::Overlay {
            lowers: vec![],
            upper: "/u".into(),
            work: "/w".into(),
        };
        assert!(Sandbox::new(root, 0).check(&["true"]).is_err());
    }
}
