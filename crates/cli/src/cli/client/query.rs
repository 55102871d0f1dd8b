//! `search`, `refresh-md` and `container lint`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::groups::{RunArgs, TargetArgs};
use super::values::parse_line;

/// `search`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct SearchArgs {
    /// What to look for in names and summaries; all of it must be found
    #[arg(required = true, value_name = "TERM", value_parser = parse_line)]
    pub terms: Vec<String>,
    /// Print JSON with the keys of rpm-ostree
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `refresh-md`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct RefreshMdArgs {
    /// Fetch all indices anew, also those that have not changed
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `container` and its verb.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "documented at its type")]
pub struct ContainerArgs {
    #[command(subcommand)]
    pub verb: ContainerVerb,
}

/// The verbs of `container`.
#[derive(Debug, Subcommand)]
pub enum ContainerVerb {
    /// Check the root file system of a container image
    ///
    /// Made for the end of a Containerfile: RUN apt-ostree container lint. The lints are those of
    /// 'bootc container lint' and those that a compose runs.
    Lint(LintVerbArgs),
}

/// `container lint`.
#[derive(Debug, Args)]
pub struct LintVerbArgs {
    /// The root to check
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub rootfs: PathBuf,
    /// Fail also when a lint only warns
    #[arg(long)]
    pub fatal_warnings: bool,
    /// List the lints and check nothing
    #[arg(long)]
    pub list: bool,
    /// Leave this lint out; may be given several times
    #[arg(long, value_name = "LINT", value_parser = parse_line)]
    pub skip: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
