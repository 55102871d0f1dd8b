//! A tree as real files that scripts can run in, without ever touching a cached object.
//!
//! The root is an overlay: a hard-link checkout of the first tree, layers with what later trees
//! added to it, and an upper layer per run that is scanned and then becomes the topmost lower layer
//! itself. Nothing is deleted while the root lives: ext4 looks at each inode that was freed in the
//! last minutes before it takes another one.

use std::fs::File;
use std::io::Read as _;

use anyhow::{Context as _, Result};
use apt_ostree_model::{ErrorKind, Event, Kinded, Reporter, Tree};
use apt_ostree_sandbox::{Bind, Root, Sandbox};
use apt_ostree_store::CacheRepo;
use camino::{Utf8Path, Utf8PathBuf};
use fn_error_context::context;
use rustix::fs::{Mode, OFlags};

/// More lower layers than this are joined to one again: each is looked into for every new name.
const MAX_LAYERS: usize = 64;

/// A tree and the directories that show it.
#[derive(Debug)]
pub struct LiveRoot<'a> {
    store: &'a CacheRepo,
    dir: Utf8PathBuf,
    tree: Tree,
    /// Topmost first; empty until something runs.
    layers: Vec<Utf8PathBuf>,
    /// What the lowest `settled` layers show; the layers above it are of runs since then.
    base: Tree,
    settled: usize,
    /// Whether the tree was replaced since the layers were made.
    stale: bool,
    made: usize,
    epoch: i64,
    /// What to do when a program fails.
    hint: &'static str,
}

/// A program to run in the root.
#[derive(Debug, Clone)]
pub struct Script<'s> {
    /// Program and arguments.
    pub argv: Vec<&'s str>,
    /// Who it is in messages, such as `openssh-server.postinst`.
    pub name: &'s str,
    /// Environment besides the one that all scripts get.
    pub env: Vec<(&'s str, String)>,
    /// Directories of the host that it sees.
    pub binds: Vec<Bind>,
    /// Standard input.
    pub stdin: &'s [u8],
    /// A file of the host in which a program that runs others leaves the name of the current one.
    pub running: Option<Utf8PathBuf>,
}

impl<'s> Script<'s> {
    /// A program without extra environment, binds or input.
    pub fn new(name: &'s str, argv: &[&'s str]) -> Self {
        Self {
            argv: argv.to_vec(),
            name,
            env: Vec::new(),
            binds: Vec::new(),
            stdin: b"",
            running: None,
        }
    }
}

impl Script<'_> {
    /// Who runs, as far as the program tells.
    fn running(&self) -> String {
        let name = self
            .running
            .as_deref()
            .and_then(|path| read_name(path).ok());
        name.filter(|name| !name.is_empty())
            .unwrap_or_else(|| self.name.to_owned())
    }
}

/// Reads a name from a file that hostile programs can write and replace.
fn read_name(path: &Utf8Path) -> std::io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path.as_str(), flags, Mode::empty())?);
    let mut name = String::new();
    if file.metadata()?.is_file() {
        file.take(256).read_to_string(&mut name)?;
    }
    Ok(name.trim().to_owned())
}

impl<'a> LiveRoot<'a> {
    /// Starts from `tree`; `dir` is an empty directory on the file system of the store, which the
    /// owner of this value removes.
    pub fn new(store: &'a CacheRepo, dir: Utf8PathBuf, tree: Tree) -> Self {
        Self {
            store,
            dir,
            tree,
            layers: Vec::new(),
            base: Tree::default(),
            settled: 0,
            stale: false,
            made: 0,
            epoch: 0,
            hint: "run again with --keep-workdir to look at the tree",
        }
    }

    /// Gives another advice for the case that a program fails.
    #[must_use]
    pub const fn with_hint(mut self, hint: &'static str) -> Self {
        self.hint = hint;
        self
    }

    /// The tree as it is now.
    pub const fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Where the contents of the tree are.
    pub const fn store(&self) -> &'a CacheRepo {
        self.store
    }

    /// Ends the root; its directory can be removed.
    pub fn into_dir(self) -> Utf8PathBuf {
        self.dir
    }

    /// Replaces the tree, for example after packages were added to it. The disk follows when
    /// something runs.
    pub fn set(&mut self, tree: Tree) {
        self.tree = tree;
        self.stale = true;
    }

    /// Starts new work: what runs next sees the tree as if it had just been checked out, without
    /// the times of what scripts wrote, and `epoch` as `SOURCE_DATE_EPOCH` (seconds since 1970);
    /// directories that it changes get that time.
    pub fn begin(&mut self, epoch: i64) {
        self.epoch = epoch;
        self.stale |= self.layers.len() > self.settled;
    }

    /// Runs a program in the root, reports its output, and takes what it changed into the tree.
    ///
    /// # Errors
    /// When the program can't be run or fails; the message has its last lines of output.
    pub fn run(&mut self, script: &Script<'_>, reporter: &dyn Reporter) -> Result<()> {
        self.materialise()?;
        let upper = self.new_dir("upper")?;
        let work = self.new_dir("work")?;
        self.copy_root_meta(&upper)?;
        let root = Root::Overlay {
            lowers: self.layers.clone(),
            upper: upper.clone(),
            work,
        };
        let sandbox = self.sandbox(root, script);
        let mut on_line = |line: &str| {
            reporter.report(Event::Output {
                source: script.name.to_owned(),
                line: line.to_owned(),
            });
        };
        let finished = sandbox
            .run(&script.argv, script.stdin, &mut on_line)
            .with_context(|| format!("running '{}'", script.name))?;
        finished
            .require_success(&script.running())
            .map_err(|e| e.with_hint(self.hint))?;
        self.absorb(&upper)
    }

    fn sandbox(&self, root: Root, script: &Script<'_>) -> Sandbox {
        let mut sandbox = Sandbox::new(root, self.epoch);
        sandbox.env.extend(
            script
                .env
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone())),
        );
        sandbox.binds.clone_from(&script.binds);
        sandbox
    }

    #[context("reading what scripts changed")]
    fn absorb(&mut self, upper: &Utf8Path) -> Result<()> {
        let (tree, report) = self.store.scan_upper(upper, &self.tree)?;
        if let Some(path) = report.devices.first() {
            let message = format!("a maintainer script made the device node '/{path}'");
            return Err(Kinded::new(ErrorKind::Script, message).into());
        }
        apt_ostree_store::set_directory_times(upper, self.epoch)?;
        self.layers.insert(0, upper.to_owned());
        self.tree = tree;
        Ok(())
    }

    /// Makes the lower layers show the tree; few of them, and of many runs one.
    #[context("preparing the root for scripts")]
    fn materialise(&mut self) -> Result<()> {
        let runs = self.layers.len() - self.settled;
        let full = runs > 0 && self.layers.len() >= MAX_LAYERS;
        if self.settled > 0 && !self.stale && !full {
            return Ok(());
        }
        if self.settled == 0 || self.settled >= MAX_LAYERS {
            let dir = self.new_dir("root")?;
            self.store.checkout(&self.tree, &dir)?;
            self.layers = vec![dir];
        } else {
            let layer = self.new_dir("diff")?;
            self.store.checkout_diff(&self.base, &self.tree, &layer)?;
            self.layers.drain(..runs);
            self.layers.insert(0, layer);
        }
        self.settled = self.layers.len();
        self.base = self.tree.clone();
        self.stale = false;
        Ok(())
    }

    fn new_dir(&mut self, kind: &str) -> Result<Utf8PathBuf> {
        self.made += 1;
        let dir = self.dir.join(format!("{}-{kind}", self.made));
        std::fs::create_dir_all(&dir).with_context(|| format!("creating '{dir}'"))?;
        Ok(dir)
    }

    /// Gives the upper layer the root directory's owner and mode, which it hides.
    fn copy_root_meta(&self, upper: &Utf8Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let meta = &self.tree.root.meta;
        std::os::unix::fs::chown(upper, Some(meta.uid), Some(meta.gid))?;
        std::fs::set_permissions(upper, std::fs::Permissions::from_mode(meta.mode))?;
        Ok(())
    }
}
