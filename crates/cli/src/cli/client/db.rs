//! The verbs of `db`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::groups::TargetArgs;
use super::values::parse_line;

/// `db` and its verb.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "documented at its type")]
pub struct DbArgs {
    #[command(subcommand)]
    pub verb: DbVerb,
}

/// The verbs of `db`.
#[derive(Debug, Subcommand)]
pub enum DbVerb {
    /// Show how the packages of two commits differ
    ///
    /// Without commits, the deployment that waits for a reboot is compared with the one that runs, or,
    /// when none waits, the one that runs with the one that rollback would boot. With one commit, it is
    /// compared with the deployment that runs.
    Diff(DbDiffArgs),
    /// List the packages of commits
    List(DbListArgs),
    /// Print how many packages commits have, and a checksum of their names and versions
    Version(DbVersionArgs),
}

/// `db diff`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct DbDiffArgs {
    /// The first commit: a checksum, a ref or a deployment id
    #[arg(value_parser = parse_line)]
    pub from: Option<String>,
    /// The second commit
    #[arg(value_parser = parse_line)]
    pub to: Option<String>,
    /// Form of the output
    #[arg(short = 'F', long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: DiffFormat,
    /// Of deployments, compare the bases below the layers
    #[arg(long)]
    pub base: bool,
    #[command(flatten)]
    pub repo: DbRepoArgs,
}

/// `db diff --format`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum DiffFormat {
    /// A block each for upgraded, downgraded, removed and added packages
    #[default]
    Block,
    /// A line a package, as diff does
    Diff,
    /// JSON with the keys of rpm-ostree
    Json,
}

/// `db list`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct DbListArgs {
    /// Commit whose packages are listed: a checksum, a ref or a deployment id
    #[arg(value_parser = parse_line)]
    pub revision: String,
    /// More commits, then starts of package names; what holds '/' or ':', or a checksum, is a commit
    #[arg(value_name = "REVISION|PREFIX", value_parser = parse_line)]
    pub rest: Vec<String>,
    #[command(flatten)]
    pub repo: DbRepoArgs,
}

/// `db version`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct DbVersionArgs {
    /// Commits: checksums, refs or deployment ids
    #[arg(required = true, value_name = "REVISION", value_parser = parse_line)]
    pub revisions: Vec<String>,
    #[command(flatten)]
    pub repo: DbRepoArgs,
}

/// Where commits are looked for.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct DbRepoArgs {
    /// Repository to look into, instead of that of the system
    #[arg(short, long, value_name = "REPO", conflicts_with_all = ["sysroot", "stateroot"])]
    pub repo: Option<PathBuf>,
    #[command(flatten)]
    pub target: TargetArgs,
}
