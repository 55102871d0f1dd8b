//! Verbs about the running system and what is known of earlier ones.

use clap::{Args, Subcommand};

use super::groups::{ChangeArgs, RunArgs, TargetArgs};
use super::values::{parse_line, parse_path};

/// `apply-live`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct ApplyLiveArgs {
    /// Apply this commit [default: that of the deployment that boots next]
    #[arg(long = "target", value_name = "COMMIT", value_parser = parse_line)]
    pub commit: Option<String>,
    /// Go back to what was booted
    #[arg(long, conflicts_with = "commit")]
    pub reset: bool,
    /// Remove and replace packages as well
    #[arg(long)]
    pub allow_replacement: bool,
    /// Say what would happen and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub system: TargetArgs,
}

/// `initramfs-etc`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct InitramfsEtcArgs {
    /// Add this file or directory, such as /etc/crypttab; may be given several times
    #[arg(long, value_name = "FILE", value_parser = parse_path)]
    pub track: Vec<String>,
    /// Leave this file or directory out from now on; may be given several times
    #[arg(long, value_name = "FILE", value_parser = parse_path)]
    pub untrack: Vec<String>,
    /// Leave out all files
    #[arg(long, conflicts_with = "untrack")]
    pub untrack_all: bool,
    /// Make a deployment with the files as they are now, although the list stays
    #[arg(long)]
    pub force_sync: bool,
    /// Exit with status 77 when nothing changed
    #[arg(long = "unchanged-exit-77")]
    pub unchanged_exit_77: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub target: TargetArgs,
}

impl InitramfsEtcArgs {
    /// Nothing is asked for but to see the list.
    pub(crate) fn only_prints(&self) -> bool {
        let changes = !self.track.is_empty() || !self.untrack.is_empty();
        !(changes || self.untrack_all || self.force_sync)
    }
}

/// `usroverlay`.
#[derive(Debug, Args)]
pub struct UsroverlayArgs {
    /// Keep changes over boots, in a deployment of their own; the one without them stays as rollback
    #[arg(long)]
    pub hotfix: bool,
    /// Keep /usr read-only for all programs that don't remount it for themselves
    #[arg(long, conflicts_with = "hotfix")]
    pub transient: bool,
}

/// `ex`.
#[derive(Debug, Args)]
pub struct ExArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: ExVerb,
}

/// The verbs of `ex`.
#[derive(Debug, Subcommand)]
pub enum ExVerb {
    /// Show which deployments were made, and when they ran
    ///
    /// Read from the journal, newest first; what the journal has dropped is not known any more.
    History(HistoryArgs),
    /// Apply what boots next to the running system
    #[command(hide = true, alias = "livefs")]
    ApplyLive(ApplyLiveArgs),
    /// Choose files of /etc that are added to the initramfs
    #[command(hide = true)]
    InitramfsEtc(InitramfsEtcArgs),
}

/// `ex history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Print one JSON object for each deployment
    #[arg(long)]
    pub json: bool,
    /// Show so many deployments
    #[arg(short = 'n', long, value_name = "N", default_value_t = 3)]
    pub limit: usize,
    /// Show all deployments
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
}
