//! What can be typed: the clap types of every verb.

pub mod client;
mod groups;
mod values;

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

use client::ClientVerb;

pub use groups::{
    CommitArgs, CompatArgs, ImageArgs, InstallArgs, LintArgs, PreviousArgs, RepoArgs, RunArgs,
    WorkArgs,
};
pub use values::{CompressionArg, FormatArg, InitializeArg, KeyValue};

/// The whole command line, for man pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Hybrid image and package system for Debian
///
/// Composes bootable OSTree commits and bootc-compatible container images from Debian packages, and
/// updates, layers and rolls back the systems that run them.
#[derive(Debug, Parser)]
#[command(
    name = "apt-ostree",
    disable_version_flag = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "Exit status: 0 done, 1 failure, 2 wrong usage, 77 nothing changed (where asked for)."
)]
pub struct Cli {
    /// Print version and features as YAML
    #[arg(long)]
    pub version: bool,

    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened group, documented at its type")]
    pub verbosity: Verbosity,

    #[command(subcommand)]
    #[expect(missing_docs, reason = "documented at its type")]
    pub verb: Option<Verb>,
}

/// How much is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args)]
pub struct Verbosity {
    /// Print only warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Print details and what scripts of the target print
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Compose OSTree commits and images from packages
    Compose(Compose),
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type")]
    Client(ClientVerb),
}

/// `compose` and its verb.
#[derive(Debug, Args)]
pub struct Compose {
    #[command(subcommand)]
    #[expect(missing_docs, reason = "documented at its type")]
    pub verb: Option<ComposeVerb>,
}

/// The compose verbs.
#[derive(Debug, Subcommand)]
pub enum ComposeVerb {
    /// Install, postprocess and commit a tree; optionally write images of it
    Tree(Box<TreeArgs>),
    /// Install a tree into a directory
    Install(Box<InstallVerbArgs>),
    /// Turn an installed root into the layout of a commit, in place
    Postprocess(PostprocessArgs),
    /// Commit a finished root
    Commit(Box<CommitVerbArgs>),
    /// Make a plain root directory, for container builds from scratch
    Rootfs(Box<RootfsArgs>),
    /// Make a container image straight from a treefile
    Image(Box<ImageVerbArgs>),
}

/// `compose tree`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct TreeArgs {
    /// The treefile
    pub treefile: PathBuf,
    #[command(flatten)]
    pub repo: RepoArgs,
    #[command(flatten)]
    pub image: TreeImageArgs,
    #[command(flatten)]
    pub install: InstallArgs,
    #[command(flatten)]
    pub commit: CommitArgs,
    #[command(flatten)]
    pub previous: PreviousArgs,
    #[command(flatten)]
    pub lint: LintArgs,
    #[command(flatten)]
    pub work: WorkArgs,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub compat: CompatArgs,
}

/// Which images `compose tree` writes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Images")]
pub struct TreeImageArgs {
    /// Write container images as well: an OCI layout and a docker-archive unless --format says else
    #[arg(long)]
    pub container: bool,

    /// Image format to write; may be given several times, implies --container
    #[arg(long = "format", value_name = "FORMAT", value_enum)]
    pub formats: Vec<FormatArg>,

    /// Directory for images, and for the repository unless --repo names one [default: output]
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,

    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened group, documented at its type")]
    pub options: ImageArgs,
}

/// `compose install`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct InstallVerbArgs {
    /// The treefile
    pub treefile: PathBuf,
    /// Directory in which `rootfs` is made
    pub destdir: PathBuf,
    /// Postprocess the root as well
    #[arg(long)]
    pub postprocess: bool,
    #[command(flatten)]
    pub repo: RepoArgs,
    #[command(flatten)]
    pub install: InstallArgs,
    #[command(flatten)]
    pub previous: PreviousArgs,
    #[command(flatten)]
    pub lint: LintArgs,
    #[command(flatten)]
    pub work: WorkArgs,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub compat: CompatArgs,
}

/// `compose postprocess`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct PostprocessArgs {
    /// The installed root
    pub rootfs: PathBuf,
    /// The treefile; without one, only the layout is changed
    pub treefile: Option<PathBuf>,
    #[command(flatten)]
    pub lint: LintArgs,
    #[command(flatten)]
    pub work: WorkArgs,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub compat: CompatArgs,
}

/// `compose commit`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct CommitVerbArgs {
    /// The treefile
    pub treefile: PathBuf,
    /// The finished root
    pub rootfs: PathBuf,
    #[command(flatten)]
    pub repo: RepoArgs,
    #[command(flatten)]
    pub commit: CommitArgs,
    #[command(flatten)]
    pub previous: PreviousArgs,
    #[command(flatten)]
    pub work: WorkArgs,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub compat: CompatArgs,
}

/// `compose rootfs`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct RootfsArgs {
    /// The treefile
    #[arg(value_name = "MANIFEST")]
    pub treefile: PathBuf,
    /// The directory to make; must not exist or be empty
    pub dest: PathBuf,
    #[command(flatten)]
    pub install: InstallArgs,
    #[command(flatten)]
    pub lint: LintArgs,
    #[command(flatten)]
    pub work: WorkArgs,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub compat: CompatArgs,
}

/// `compose image`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct ImageVerbArgs {
    /// The treefile
    #[arg(value_name = "MANIFEST")]
    pub treefile: PathBuf,
    /// The image file or directory to write
    pub output: PathBuf,
    /// Image format
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = FormatArg::OciArchive)]
    pub format: FormatArg,
    /// Take it that there is no image at OUTPUT to build upon
    #[arg(short, long, conflicts_with = "initialize_mode")]
    pub initialize: bool,
    /// What to make of an image that is at OUTPUT already
    #[arg(long, value_name = "MODE", value_enum, default_value_t = InitializeArg::Query)]
    pub initialize_mode: InitializeArg,
    /// Repository of ostree-layers
    #[arg(long, value_name = "REPO")]
    pub layer_repo: Option<PathBuf>,
    #[command(flatten)]
    pub image: ImageArgs,
    #[command(flatten)]
    pub install: InstallArgs,
    #[command(flatten)]
    pub previous: PreviousArgs,
    #[command(flatten)]
    pub lint: LintArgs,
    #[command(flatten)]
    pub work: WorkArgs,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub compat: CompatArgs,
}
