//! Option groups that several verbs on a system share.

use std::path::PathBuf;

use clap::Args;

use super::values::{PackageArg, parse_installed, parse_package, parse_stateroot};

/// Which system.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "System")]
pub struct TargetArgs {
    /// Work on the system whose disk is mounted here, without booting it [default: /]
    #[arg(long, value_name = "DIR")]
    pub sysroot: Option<PathBuf>,

    /// The system's name among those of the disk [default: the one that runs, or the only one]
    #[arg(long, alias = "os", value_name = "NAME", value_parser = parse_stateroot)]
    pub stateroot: Option<String>,
}

/// How a change runs.
#[derive(Debug, Default, Args)]
pub struct RunArgs {
    /// Print progress and result as JSON, one object per line
    #[arg(long, conflicts_with_all = ["quiet", "verbose"])]
    pub json: bool,

    /// Wait while somebody else changes the system, instead of failing
    #[arg(long)]
    pub wait: bool,
}

/// What happens to the new deployment.
#[derive(Debug, Default, Args)]
pub struct ChangeArgs {
    /// Reboot when it is done
    #[arg(short, long)]
    pub reboot: bool,

    /// Keep the new deployment from booting until finalize-deployment
    #[arg(long)]
    pub lock_finalization: bool,
}

/// What is downloaded.
#[derive(Debug, Default, Args)]
pub struct CacheArgs {
    /// Use what is downloaded already, never the network
    #[arg(short = 'C', long)]
    pub cache_only: bool,

    /// Stop after downloading
    #[arg(long, conflicts_with_all = ["cache_only", "reboot"])]
    pub download_only: bool,
}

/// Packages that change together with something else.
#[derive(Debug, Default, Args)]
pub struct PackageArgs {
    /// Layer this package in the same change; may be given several times
    #[arg(long, value_name = "PACKAGE", value_parser = parse_package)]
    pub install: Vec<PackageArg>,

    /// Drop this request in the same change; may be given several times
    #[arg(long, value_name = "PACKAGE", value_parser = parse_installed)]
    pub uninstall: Vec<String>,
}
