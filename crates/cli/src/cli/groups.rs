//! Option groups that several verbs share.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::values::{CompressionArg, KeyValue, parse_arch, parse_mirror, parse_proxy};

/// Repositories.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Repository")]
pub struct RepoArgs {
    /// OSTree repository to commit to; made when it does not exist [default: output/repo]
    #[arg(short, long, value_name = "REPO")]
    pub repo: Option<PathBuf>,

    /// Repository of ostree-layers [default: the one of --repo]
    #[arg(long, value_name = "REPO")]
    pub layer_repo: Option<PathBuf>,
}

/// Where packages come from and how far the run goes.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Packages")]
pub struct InstallArgs {
    /// Base URL for repos without a url, instead of the mirror of the host's own apt sources
    #[arg(long, value_name = "URL", value_parser = parse_mirror)]
    pub mirror: Option<String>,

    /// Proxy for downloads
    #[arg(long, value_name = "URL", value_parser = parse_proxy)]
    pub proxy: Option<String>,

    /// Look for *.sources files of repos in this directory instead of beside the treefile
    #[arg(long, alias = "source-root-rw", value_name = "DIR")]
    pub source_root: Option<PathBuf>,

    /// Target architecture, by its Debian name
    #[arg(long, value_name = "ARCH", value_parser = parse_arch)]
    pub arch: Option<String>,

    /// Set a treefile variable; may be given several times
    #[arg(long = "var", visible_alias = "define", value_name = "NAME=VALUE")]
    pub variables: Vec<KeyValue>,

    /// Use cached indices and packages only, never the network
    #[arg(long, visible_alias = "cache-only")]
    pub offline: bool,

    /// Compose although nothing changed, and run every script again
    #[arg(long)]
    pub force_nocache: bool,

    /// Stop after packages are downloaded and imported
    #[arg(long)]
    pub download_only: bool,

    /// Stop after .deb files are downloaded
    #[arg(long, alias = "download-only-rpms", conflicts_with = "download_only")]
    pub download_only_debs: bool,

    /// Choose packages, print them and stop
    #[arg(long, conflicts_with_all = ["download_only", "download_only_debs"])]
    pub dry_run: bool,

    /// Print the treefile as JSON with includes, conditions and variables resolved, and stop
    #[arg(long, conflicts_with_all = ["dry_run", "download_only", "download_only_debs"])]
    pub print_only: bool,

    /// Take package versions from this lockfile; later ones override earlier ones
    #[arg(long = "lockfile", alias = "ex-lockfile", value_name = "FILE")]
    pub lockfiles: Vec<PathBuf>,

    /// Use no package that is not in a lockfile
    #[arg(long, alias = "ex-lockfile-strict", requires = "lockfiles")]
    pub lockfile_strict: bool,

    /// Write the chosen package versions to this lockfile
    #[arg(long, alias = "ex-write-lockfile-to", value_name = "FILE")]
    pub write_lockfile_to: Option<PathBuf>,
}

/// What the commit says.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Commit")]
pub struct CommitArgs {
    /// Add a string to the commit metadata; may be given several times
    #[arg(long = "add-metadata-string", value_name = "KEY=VALUE")]
    pub add_metadata_strings: Vec<KeyValue>,

    /// Add the values of a JSON file to the commit metadata
    #[arg(long, value_name = "FILE")]
    pub add_metadata_from_json: Vec<PathBuf>,

    /// Write the commit checksum to this file and leave the ref alone
    #[arg(long, value_name = "FILE")]
    pub write_commitid_to: Option<PathBuf>,

    /// Write the result as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub write_composejson_to: Option<PathBuf>,

    /// Commit without a parent
    #[arg(long, conflicts_with = "parent")]
    pub no_parent: bool,

    /// Parent commit [default: what the ref points to]
    #[arg(long, value_name = "REV")]
    pub parent: Option<String>,
}

/// What the result is compared with.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Change detection")]
pub struct PreviousArgs {
    /// Compare with this commit [default: what the ref points to]
    #[arg(long, value_name = "COMMIT")]
    pub previous_commit: Option<String>,

    /// Compare with this input hash
    #[arg(long, value_name = "DIGEST")]
    pub previous_inputhash: Option<String>,

    /// Version from which automatic-version-prefix counts on
    #[arg(long, value_name = "VERSION")]
    pub previous_version: Option<String>,

    /// Touch this file when something changed
    #[arg(long, value_name = "FILE")]
    pub touch_if_changed: Option<PathBuf>,

    /// Exit with status 77 when nothing changed
    #[arg(long = "unchanged-exit-77")]
    pub unchanged_exit_77: bool,
}

/// How images are written.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Images")]
pub struct ImageArgs {
    /// Compression of layers
    #[arg(long, value_name = "METHOD", value_enum, default_value_t)]
    pub compression: CompressionArg,

    /// At most this many layers [default: 64]
    #[arg(long, value_name = "N")]
    pub max_layers: Option<NonZeroUsize>,

    /// Add a label; may be given several times
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<KeyValue>,

    /// JSON file that is merged over the image configuration
    #[arg(long, value_name = "FILE")]
    pub image_config: Option<PathBuf>,
}

/// Lints.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Lints")]
pub struct LintArgs {
    /// Don't check the finished tree
    #[arg(long)]
    pub no_lint: bool,

    /// Skip one lint by name; may be given several times
    #[arg(long = "skip-lint", value_name = "NAME")]
    pub skip_lints: Vec<String>,
}

/// Caches, temporary work and processors.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Work")]
pub struct WorkArgs {
    /// Cache of packages, indices and results [default: /var/cache/apt-ostree]
    #[arg(long, value_name = "DIR")]
    pub cachedir: Option<PathBuf>,

    /// Directory for temporary work, on the file system of the cache [default: inside the cache]
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<PathBuf>,

    /// Keep temporary work when the run fails
    #[arg(long, env = "APTOSTREE_PRESERVE_TMPDIR", hide_env_values = true)]
    pub keep_workdir: bool,

    /// Threads to use [default: one per processor]
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
}

/// How the run is shown.
#[derive(Debug, Default, Args)]
pub struct RunArgs {
    /// Print progress and result as JSON, one object per line
    #[arg(long, conflicts_with_all = ["quiet", "verbose"])]
    pub json: bool,
}

/// Options of rpm-ostree that change nothing here.
#[derive(Debug, Default, Args)]
pub struct CompatArgs {
    /// Accepted and without effect: there is only one way to compose
    #[arg(long, hide = true, alias = "ex-unified-core")]
    pub unified_core: bool,

    /// Accepted and without effect: trees carry no SELinux labels
    #[arg(long, hide = true)]
    pub disable_selinux: bool,

    /// Accepted and without effect: temporary work never needs a tmpfs
    #[arg(long, hide = true)]
    pub workdir_tmpfs: bool,
}
