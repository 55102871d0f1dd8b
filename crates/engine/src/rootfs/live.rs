//! A tree as real files that scripts can run in, without ever touching a cached object.
//!
//! The root is an overlay: hard-link checkouts of trees as read-only lower layers, and an upper
//! layer per run that is scanned and then becomes the topmost lower layer itself.

use anyhow::{Context as _, Result};
use apt_ostree_model::{ErrorKind, Event, Kinded, Reporter, Tree};
use apt_ostree_sandbox::{Bind, Root, Sandbox};
use apt_ostree_store::CacheRepo;
use camino::{Utf8Path, Utf8PathBuf};
use fn_error_context::context;

/// More lower layers than this are joined to one again: mount(2) takes one page of options.
const MAX_LAYERS: usize = 12;

/// A tree and the directories that show it.
#[derive(Debug)]
pub struct LiveRoot<'a> {
    store: &'a CacheRepo,
    dir: Utf8PathBuf,
    tree: Tree,
    /// Topmost first; empty until something runs.
    layers: Vec<Utf8PathBuf>,
    made: usize,
    epoch: i64,
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
        }
    }
}

impl<'a> LiveRoot<'a> {
    /// Starts from `tree`; `dir` is an empty directory on the file system of the store.
    pub const fn new(store: &'a CacheRepo, dir: Utf8PathBuf, tree: Tree, epoch: i64) -> Self {
        Self {
            store,
            dir,
            tree,
            layers: Vec::new(),
            made: 0,
            epoch,
        }
    }

    /// The tree as it is now.
    pub const fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Gives the tree back.
    pub fn into_tree(self) -> Tree {
        self.tree
    }

    /// Replaces the tree, for example after packages were added to it.
    ///
    /// # Errors
    /// When the difference can't be written to disk.
    #[context("preparing the root for scripts")]
    pub fn set(&mut self, tree: Tree) -> Result<()> {
        if !self.layers.is_empty() {
            let layer = self.new_dir("diff")?;
            self.store.checkout_diff(&self.tree, &tree, &layer)?;
            self.layers.insert(0, layer);
        }
        self.tree = tree;
        Ok(())
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
            .require_success(script.name)
            .map_err(|e| e.with_hint("run again with --keep-workdir to look at the tree"))?;
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

    /// Makes the lower layers when there are none, or one of many.
    fn materialise(&mut self) -> Result<()> {
        if !self.layers.is_empty() && self.layers.len() < MAX_LAYERS {
            return Ok(());
        }
        let dir = self.new_dir("root")?;
        self.store.checkout(&self.tree, &dir)?;
        self.layers = vec![dir];
        Ok(())
    }

    fn new_dir(&mut self, kind: &str) -> Result<Utf8PathBuf> {
        self.made += 1;
        let dir = self.dir.join(format!("{}-{kind}", self.made));
        std::fs::create_dir(&dir).with_context(|| format!("creating '{dir}'"))?;
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
