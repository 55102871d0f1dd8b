//! Harness of the end-to-end tests: runs the built binaries on real packages.
//!
//! Tests share one download and package cache (`APTOSTREE_TEST_CACHE`, default
//! `target/test-cache`); everything else is in a directory of their own. They need root, the
//! programs that `scripts/install-deps.sh test` installs, and a package mirror in the host's apt
//! sources.

pub mod fakeboot;
pub mod flat;
pub mod image;
pub mod images;
pub mod installed;
pub mod nspawn;
pub mod packages;
pub mod podman;
pub mod qemu;
pub mod root;
pub mod sysroot;
pub mod systembus;
pub mod tinytree;
pub mod worker;

use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};

/// A treefile with few packages that still boots systemd in a container.
pub const MINIMAL: &str = "ref: test/minimal
repos:
  - name: debian
packages:
  include:
    - bash
    - coreutils
    - grep
    - gawk
    - sed
    - systemd
";

/// Arguments of a compose from `lock.json` alone.
pub const LOCKED: [&str; 3] = ["--lockfile", "lock.json", "--lockfile-strict"];

/// A directory with a treefile, in which composes run.
#[derive(Debug)]
pub struct Project {
    dir: tempfile::TempDir,
    cache: Utf8PathBuf,
}

impl Project {
    /// Makes a project with `treefile` as `tree.yaml` and the shared cache.
    ///
    /// # Errors
    /// When the directories can't be made.
    pub fn new(treefile: &str) -> Result<Self> {
        let parent = target_dir()?.join("test-work");
        std::fs::create_dir_all(&parent)?;
        let dir = tempfile::TempDir::with_prefix_in("t-", &parent)?;
        let project = Self {
            dir,
            cache: shared_cache()?,
        };
        project.write("tree.yaml", treefile)?;
        Ok(project)
    }

    /// Uses a cache of its own instead of the shared one.
    ///
    /// # Errors
    /// When the directory can't be made.
    pub fn with_own_cache(mut self) -> Result<Self> {
        self.cache = self.path().join("cache");
        std::fs::create_dir_all(&self.cache)?;
        Ok(self)
    }

    /// Makes a project whose cache is its own and holds the downloaded packages only, with their
    /// versions locked in `lock.json`: composes with [`LOCKED`] need no network.
    ///
    /// # Errors
    /// When the packages can't be downloaded.
    pub fn isolated(treefile: &str) -> Result<Self> {
        let project = Self::new(treefile)?;
        project.tree(&["--download-only-debs", "--write-lockfile-to", "lock.json"])?;
        let debs = project.cache().join("debs");
        let project = project.with_own_cache()?;
        success(Command::new("cp").arg("-al").arg(debs).arg(project.cache()))?;
        Ok(project)
    }

    /// The project's directory.
    pub fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.dir.path()).unwrap_or_else(|| Utf8Path::new("/nonexistent"))
    }

    /// The cache directory in use.
    pub fn cache(&self) -> &Utf8Path {
        &self.cache
    }

    /// Writes a file of the project.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, name: &str, text: &str) -> Result<Utf8PathBuf> {
        let path = self.path().join(name);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(&path, text).with_context(|| format!("writing '{path}'"))?;
        Ok(path)
    }

    /// `apt-ostree ARGS` in the project's directory.
    ///
    /// # Errors
    /// When the build directory can't be found.
    pub fn apt_ostree(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary("apt-ostree")?);
        command
            .args(args)
            .current_dir(self.path())
            .stdin(std::process::Stdio::null());
        Ok(command)
    }

    /// `apt-ostree compose VERB ARGS --cachedir ...`.
    ///
    /// # Errors
    /// When the build directory can't be found.
    pub fn compose(&self, verb: &str, args: &[&str]) -> Result<Command> {
        let mut command = self.apt_ostree(&["compose", verb])?;
        command.args(args).arg("--cachedir").arg(&self.cache);
        Ok(command)
    }

    /// `compose tree tree.yaml ARGS`, which must succeed.
    ///
    /// # Errors
    /// When it does not.
    pub fn tree(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.compose("tree", &["tree.yaml"])?;
        command.args(args);
        success(&mut command)
    }

    /// The checksum that a ref of `output/repo` points to.
    ///
    /// # Errors
    /// When there is no such ref.
    pub fn commit(&self, name: &str) -> Result<String> {
        let repo = format!("--repo={}", self.path().join("output/repo"));
        let output = success(Command::new("ostree").args([&repo, "rev-parse", name]))?;
        Ok(stdout(&output).trim().to_owned())
    }
}

/// Runs a command that must succeed.
///
/// # Errors
/// When it can't be started or exits with another status; the message has its output.
pub fn success(command: &mut Command) -> Result<Output> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        stdout(&output),
        stderr(&output)
    );
    Ok(output)
}

/// Runs a command that must fail as apt-ostree fails: the given exit code, `error: ` first, no
/// panic, no raw control bytes. Returns standard error.
///
/// # Errors
/// When it succeeds or fails otherwise.
pub fn failure(command: &mut Command, code: i32) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    let text = stderr(&output);
    ensure!(
        output.status.code() == Some(code),
        "{command:?} ended with {}, not {code}\n{}\n{text}",
        output.status,
        stdout(&output)
    );
    ensure!(
        text.lines().any(|line| line.starts_with("error: ")),
        "no line starts with 'error: ':\n{text}"
    );
    ensure!(
        !text.contains("panicked") && !text.contains("RUST_BACKTRACE"),
        "a panic reached the user:\n{text}"
    );
    ensure!(
        !text
            .chars()
            .any(|c| c.is_control() && c != '\n' && c != '\t'),
        "control bytes reached the user: {text:?}"
    );
    Ok(text)
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The cache that tests share.
///
/// # Errors
/// When it can't be made.
pub fn shared_cache() -> Result<Utf8PathBuf> {
    let dir = match std::env::var("APTOSTREE_TEST_CACHE") {
        Ok(dir) => Utf8PathBuf::from(dir),
        Err(_) => target_dir()?.join("test-cache"),
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("creating '{dir}'"))?;
    Ok(dir)
}

/// Cargo's target directory, above the running test binary (`target/debug/deps/x`).
///
/// # Errors
/// When the test binary is elsewhere.
pub fn target_dir() -> Result<Utf8PathBuf> {
    let profile = profile_dir()?;
    profile
        .parent()
        .map(Utf8Path::to_owned)
        .context("the test binary is not below a target directory")
}

/// A program of the workspace, built in the profile of the running test.
///
/// # Errors
/// When it has not been built.
pub fn binary(name: &str) -> Result<Utf8PathBuf> {
    let path = profile_dir()?.join(name);
    ensure!(
        path.exists(),
        "'{path}' is missing: run 'cargo build --workspace' first, or 'make test'"
    );
    Ok(path)
}

fn profile_dir() -> Result<Utf8PathBuf> {
    let exe = Utf8PathBuf::try_from(std::env::current_exe()?)?;
    let dir = exe
        .parent()
        .and_then(Utf8Path::parent)
        .context("the test binary is not below a target directory")?;
    Ok(dir.to_owned())
}

/// True when tests can make namespaces and own files. Otherwise says so; the caller returns.
pub fn privileged(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        let line = format!("SKIPPED {test}: needs root\n");
        drop(std::io::Write::write_all(
            &mut std::io::stderr(),
            line.as_bytes(),
        ));
    }
    root
}
