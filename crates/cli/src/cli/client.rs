//! The verbs on a system that runs a tree, or that has one on a disk.

mod db;
mod groups;
mod live;
mod query;
mod values;

use clap::{Args, Subcommand};

pub use db::{DbArgs, DbDiffArgs, DbListArgs, DbRepoArgs, DbVerb, DbVersionArgs, DiffFormat};
pub use groups::{CacheArgs, ChangeArgs, PackageArgs, RunArgs, TargetArgs};
pub use live::{ApplyLiveArgs, ExArgs, ExVerb, HistoryArgs, InitramfsEtcArgs, UsroverlayArgs};
pub use query::{ContainerArgs, ContainerVerb, LintVerbArgs, RefreshMdArgs, SearchArgs};
pub use values::{PackageArg, Source};

use values::{
    parse_checksum, parse_deb, parse_installed, parse_jsonpath, parse_karg, parse_karg_value,
    parse_line, parse_package, parse_request,
};

use crate::jsonpath::JsonPath;

/// The verbs on a system.
#[derive(Debug, Subcommand)]
pub enum ClientVerb {
    /// Show what is deployed
    ///
    /// Deployments are listed in the order in which they are offered for booting: the first one boots
    /// next. A dot marks the one that runs.
    Status(StatusArgs),
    /// Move to the newest version of the followed branch or image
    ///
    /// Layered packages and overrides are kept and resolved anew. Nothing changes on the running
    /// system: the new deployment boots next.
    #[command(alias = "update")]
    Upgrade(UpgradeArgs),
    /// Boot the other deployment
    ///
    /// Makes the deployment after the default one the default. Running it twice undoes it.
    Rollback(RollbackArgs),
    /// Move to a given version of the followed branch or image
    ///
    /// REVISION is a commit checksum, a version, revision=CHECKSUM, version=VERSION, or, when an image
    /// is followed, a digest (sha256:...).
    Deploy(DeployArgs),
    /// Follow another branch or image
    ///
    /// REFSPEC is REMOTE:BRANCH, REMOTE: (the same branch of another remote), :BRANCH or BRANCH (a local
    /// one), a commit checksum, /PATH/TO/REPO:BRANCH, or an image: ostree-image-signed:TRANSPORT:IMAGE,
    /// ostree-unverified-image:TRANSPORT:IMAGE, ostree-unverified-registry:IMAGE,
    /// ostree-remote-image:REMOTE:TRANSPORT:IMAGE or ostree-remote-registry:REMOTE:IMAGE.
    Rebase(RebaseArgs),
    /// Layer packages over the base
    ///
    /// PACKAGE is NAME, NAME=VERSION, NAME:ARCH, NAME/SUITE or a .deb file. To a file,
    /// #sha256=DIGEST can be appended to say what it must be.
    #[command(alias = "pkg-add")]
    Install(InstallArgs),
    /// Remove layered packages
    #[command(aliases = ["remove", "pkg-remove"])]
    Uninstall(UninstallArgs),
    /// Replace or remove packages of the base
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Override(OverrideArgs),
    /// Drop layered packages, overrides and the local initramfs
    ///
    /// Without --overlays, --overrides or --initramfs, all three are dropped.
    Reset(ResetArgs),
    /// Print or change kernel arguments
    ///
    /// Without options, the arguments of the deployment that boots next are printed. Changes make a new
    /// deployment.
    Kargs(KargsArgs),
    /// Choose whether the initramfs is made on this system
    ///
    /// Without options, prints what holds for each deployment.
    Initramfs(InitramfsArgs),
    /// Choose files of /etc that are added to the initramfs
    ///
    /// The files are added as they are on this system, without making the initramfs anew, to each
    /// deployment that is made from then on. Without options, prints which files those are.
    InitramfsEtc(InitramfsEtcArgs),
    /// Apply what boots next to the running system
    ///
    /// Puts the files of the new deployment over /usr until the next boot, adds new defaults to /etc
    /// where nothing was changed by hand, makes users and directories, and lets systemd read its units
    /// again. Services are not started or restarted; those that should be are listed. Unless
    /// --allow-replacement is given, packages may only be added.
    ApplyLive(ApplyLiveArgs),
    /// Make /usr writable until the next boot
    ///
    /// For trying something out: changes are gone with the next boot, and no change of deployments can
    /// be applied live before it.
    #[command(alias = "unlock")]
    Usroverlay(UsroverlayArgs),
    /// Commands whose output may still change
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        alias = "experimental"
    )]
    Ex(ExArgs),
    /// Remove deployments and temporary data
    Cleanup(CleanupArgs),
    /// Let a locked deployment boot, and reboot into it
    FinalizeDeployment(FinalizeArgs),
    /// End the transaction that apt-ostreed runs
    ///
    /// Returns when it has ended. What boots next is as before.
    Cancel,
    /// Have apt-ostreed read its configuration and the system again
    Reload,
    /// Run apt-ostreed in the foreground
    ///
    /// Nobody needs to: who calls it on the bus starts it.
    #[command(hide = true)]
    StartDaemon(StartDaemonArgs),
    /// Look into the package databases of commits
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        alias = "rpm"
    )]
    Db(DbArgs),
    /// Look for packages
    ///
    /// Finds packages in whose names or summaries every TERM is, with '*' and '?' as wildcards; upper
    /// and lower case are the same. What is installed is marked. The package indices of the system are
    /// used, and fetched when there are none yet; 'refresh-md' fetches newer ones.
    Search(SearchArgs),
    /// Fetch the package indices of the system
    #[command(alias = "makecache")]
    RefreshMd(RefreshMdArgs),
    /// Work on container images
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Container(ContainerArgs),
}

/// `status`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct StatusArgs {
    /// Print JSON with the keys of rpm-ostree
    #[arg(long)]
    pub json: bool,
    /// Print what a JSONPath expression finds in that JSON, such as '$.deployments[0].checksum' or
    /// '$.deployments[?(@.booted)]', as an array
    #[arg(short = 'J', long, value_name = "EXPR", conflicts_with = "json", value_parser = parse_jsonpath)]
    pub jsonpath: Option<JsonPath>,
    /// Show only the deployment that runs
    #[arg(short, long)]
    pub booted: bool,
    /// Exit with status 77 when a deployment waits for a reboot
    #[arg(long = "pending-exit-77")]
    pub pending_exit_77: bool,
    /// Accepted and without effect: status is always for people unless --json
    #[arg(short, long, hide = true)]
    pub pretty: bool,
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `upgrade`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct UpgradeArgs {
    /// Take an older version as well
    #[arg(long)]
    pub allow_downgrade: bool,
    /// Only look for an update; exit with status 77 when there is none
    #[arg(long, conflicts_with_all = ["reboot", "preview", "download_only", "install", "uninstall"])]
    pub check: bool,
    /// As --check, and show how packages differ
    #[arg(
        long,
        alias = "check-diff",
        conflicts_with_all = ["reboot", "download_only", "install", "uninstall"]
    )]
    pub preview: bool,
    /// Do what AutomaticUpdatePolicy in /etc/apt-ostreed.conf says; for the timer
    #[arg(
        long,
        hide = true,
        conflicts_with_all = [
            "check", "preview", "reboot", "allow_downgrade", "unchanged_exit_77", "install",
            "uninstall", "lock_finalization", "cache_only", "download_only",
        ]
    )]
    pub trigger_automatic_update_policy: bool,
    /// Exit with status 77 when nothing changed
    #[arg(long = "unchanged-exit-77", alias = "upgrade-unchanged-exit-77")]
    pub unchanged_exit_77: bool,
    #[command(flatten)]
    pub packages: PackageArgs,
    #[command(flatten)]
    pub change: ChangeArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `rollback`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct RollbackArgs {
    /// Reboot when it is done
    #[arg(short, long)]
    pub reboot: bool,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `deploy`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct DeployArgs {
    /// What to deploy
    #[arg(value_parser = parse_line)]
    pub revision: String,
    /// Only show how packages would differ
    #[arg(long, conflicts_with_all = ["reboot", "download_only", "install", "uninstall"])]
    pub preview: bool,
    /// Deploy a commit that is not in the history of the branch
    #[arg(long)]
    pub skip_branch_check: bool,
    /// Refuse an older version
    #[arg(long)]
    pub disallow_downgrade: bool,
    /// Exit with status 77 when nothing changed
    #[arg(long = "unchanged-exit-77")]
    pub unchanged_exit_77: bool,
    #[command(flatten)]
    pub packages: PackageArgs,
    #[command(flatten)]
    pub change: ChangeArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `rebase`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct RebaseArgs {
    /// What to follow; with --branch or --remote, the revision instead
    #[arg(value_parser = parse_line, required_unless_present_any = ["branch", "remote"])]
    pub refspec: Option<String>,
    /// A checksum or version of it [default: the newest one]
    #[arg(value_parser = parse_line, conflicts_with_all = ["branch", "remote"])]
    pub revision: Option<String>,
    /// Branch to follow, instead of REFSPEC
    #[arg(short, long, value_parser = parse_line)]
    pub branch: Option<String>,
    /// Remote to follow, instead of REFSPEC
    #[arg(short = 'm', long, value_name = "REMOTE", value_parser = parse_line)]
    pub remote: Option<String>,
    /// Keep the ref that is followed now
    #[arg(long)]
    pub skip_purge: bool,
    /// Refuse an older version
    #[arg(long)]
    pub disallow_downgrade: bool,
    /// What status shows instead of a commit checksum that is followed
    #[arg(long, value_name = "TEXT", value_parser = parse_line)]
    pub custom_origin_description: Option<String>,
    /// Where the custom origin is from
    #[arg(
        long,
        value_name = "URL",
        requires = "custom_origin_description",
        value_parser = parse_line
    )]
    pub custom_origin_url: Option<String>,
    /// Accepted and without effect: images need no such option
    #[arg(long, hide = true)]
    pub experimental: bool,
    #[command(flatten)]
    pub packages: PackageArgs,
    #[command(flatten)]
    pub change: ChangeArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `install`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct InstallArgs {
    /// What to layer
    #[arg(required = true, value_name = "PACKAGE", value_parser = parse_package)]
    pub packages: Vec<PackageArg>,
    /// Drop this request in the same change; may be given several times
    #[arg(long, value_name = "PACKAGE", value_parser = parse_installed)]
    pub uninstall: Vec<String>,
    /// Say what would happen and change nothing
    #[arg(short = 'n', long, conflicts_with = "download_only")]
    pub dry_run: bool,
    /// Don't ask
    #[arg(short = 'y', long)]
    pub assumeyes: bool,
    /// Request what the base has already, so that it stays when the base drops it
    #[arg(long)]
    pub allow_inactive: bool,
    /// Do nothing, without an error, for what is requested already
    #[arg(long)]
    pub idempotent: bool,
    /// Let .deb files replace files of other packages
    #[arg(long, alias = "force-replace-files")]
    pub force_replacefiles: bool,
    /// Change the running system as well
    #[arg(short = 'A', long, conflicts_with_all = ["reboot", "download_only"])]
    pub apply_live: bool,
    /// Exit with status 77 when nothing changed
    #[arg(long = "unchanged-exit-77")]
    pub unchanged_exit_77: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `uninstall`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct UninstallArgs {
    /// Requests to drop: as they were given, by name, or NAME_VERSION_ARCH for .deb files
    #[arg(required_unless_present = "all", value_name = "PACKAGE", value_parser = parse_installed)]
    pub packages: Vec<String>,
    /// Drop all requests
    #[arg(long, conflicts_with = "packages")]
    pub all: bool,
    /// Layer this package in the same change; may be given several times
    #[arg(long, value_name = "PACKAGE", value_parser = parse_package)]
    pub install: Vec<PackageArg>,
    /// Say what would happen and change nothing
    #[arg(short = 'n', long, conflicts_with = "download_only")]
    pub dry_run: bool,
    /// Don't ask
    #[arg(short = 'y', long)]
    pub assumeyes: bool,
    /// Do nothing, without an error, for what is not requested
    #[arg(long)]
    pub idempotent: bool,
    /// Change the running system as well
    #[arg(short = 'A', long, conflicts_with_all = ["reboot", "download_only"])]
    pub apply_live: bool,
    /// Exit with status 77 when nothing changed
    #[arg(long = "unchanged-exit-77")]
    pub unchanged_exit_77: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `override` and its verb.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "documented at its type")]
pub struct OverrideArgs {
    #[command(subcommand)]
    pub verb: OverrideVerb,
}

/// The verbs of `override`.
#[derive(Debug, Subcommand)]
pub enum OverrideVerb {
    /// Replace packages of the base
    ///
    /// PACKAGE is a .deb file, or, with --from, the name of a package of a repository.
    Replace(OverrideReplaceArgs),
    /// Remove packages of the base
    Remove(OverrideRemoveArgs),
    /// Take the packages of the base again
    Reset(OverrideResetArgs),
}

/// `override replace`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct OverrideReplaceArgs {
    /// What to put in place
    #[arg(required = true, value_name = "PACKAGE", value_parser = parse_package)]
    pub replacements: Vec<PackageArg>,
    /// Take named packages from here: suite=NAME or origin=NAME
    #[arg(long, value_name = "KIND=NAME")]
    pub from: Option<Source>,
    /// Keep the version that is found now, instead of following the source
    #[arg(long, requires = "from")]
    pub freeze: bool,
    /// Remove this base package in the same change; may be given several times
    #[arg(long, value_name = "PACKAGE", value_parser = parse_request)]
    pub remove: Vec<String>,
    /// Accepted and without effect: --from needs no such option
    #[arg(long, hide = true)]
    pub experimental: bool,
    #[command(flatten)]
    pub common: OverrideCommonArgs,
}

/// `override remove`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct OverrideRemoveArgs {
    /// Base packages to remove
    #[arg(required = true, value_name = "PACKAGE", value_parser = parse_request)]
    pub removals: Vec<String>,
    /// Replace base packages by this .deb file in the same change; may be given several times
    #[arg(long, value_name = "FILE", value_parser = parse_deb)]
    pub replace: Vec<PackageArg>,
    #[command(flatten)]
    pub common: OverrideCommonArgs,
}

/// `override reset`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct OverrideResetArgs {
    /// Packages whose overrides go: by name or NAME_VERSION_ARCH
    #[arg(required_unless_present = "all", value_name = "PACKAGE", value_parser = parse_installed)]
    pub overrides: Vec<String>,
    /// Drop all overrides
    #[arg(short, long, conflicts_with = "overrides")]
    pub all: bool,
    #[command(flatten)]
    pub common: OverrideCommonArgs,
}

/// What the verbs of `override` share.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct OverrideCommonArgs {
    /// Say what would happen and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Use what is downloaded already, never the network
    #[arg(short = 'C', long)]
    pub cache_only: bool,
    #[command(flatten)]
    pub packages: PackageArgs,
    #[command(flatten)]
    pub change: ChangeArgs,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `reset`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct ResetArgs {
    /// Drop layered packages
    #[arg(short = 'l', long)]
    pub overlays: bool,
    /// Drop overrides
    #[arg(short, long)]
    pub overrides: bool,
    /// Take the initramfs of the base again
    #[arg(short, long)]
    pub initramfs: bool,
    #[command(flatten)]
    pub packages: PackageArgs,
    #[command(flatten)]
    pub change: ChangeArgs,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `kargs`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct KargsArgs {
    /// Deployment to print or to start from, as status -v counts them
    #[arg(long, value_name = "INDEX")]
    pub deploy_index: Option<usize>,
    /// Append an argument; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_karg)]
    pub append: Vec<String>,
    /// As --append, unless the same is there
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_karg)]
    pub append_if_missing: Vec<String>,
    /// Replace the value of a key; the old value is needed where there are several
    #[arg(long, value_name = "KEY=VALUE[=NEWVALUE]", value_parser = parse_karg_value)]
    pub replace: Vec<String>,
    /// Delete an argument; the value is needed where there are several
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = parse_karg, conflicts_with = "replace")]
    pub delete: Vec<String>,
    /// As --delete, if it is there
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = parse_karg)]
    pub delete_if_present: Vec<String>,
    /// Start from the arguments of the running kernel
    #[arg(long, conflicts_with_all = ["deploy_index", "stateroot"])]
    pub import_proc_cmdline: bool,
    /// Change all arguments in $VISUAL or $EDITOR
    #[arg(
        long,
        conflicts_with_all = [
            "append", "append_if_missing", "replace", "delete", "delete_if_present",
            "import_proc_cmdline",
        ]
    )]
    pub editor: bool,
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

/// `initramfs`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct InitramfsArgs {
    /// Make it here, at each change
    #[arg(long)]
    pub enable: bool,
    /// Pass this argument to dracut; may be given several times
    #[arg(
        long = "arg",
        value_name = "ARG",
        requires = "enable",
        allow_hyphen_values = true,
        value_parser = parse_line
    )]
    pub args: Vec<String>,
    /// Take the one of the base
    #[arg(long, conflicts_with = "enable")]
    pub disable: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `cleanup`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true)))]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct CleanupArgs {
    /// Remove temporary files and objects that nothing uses
    #[arg(short, long, group = "what")]
    pub base: bool,
    /// Remove the deployment that waits for a reboot
    #[arg(short, long, group = "what")]
    pub pending: bool,
    /// Remove the deployment that rollback would boot
    #[arg(short, long, group = "what")]
    pub rollback: bool,
    /// Remove package indices and downloaded packages
    #[arg(short = 'm', long, group = "what")]
    pub repomd: bool,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `finalize-deployment`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "flattened groups, documented at their types")]
pub struct FinalizeArgs {
    /// Commit that must be staged
    #[arg(
        required_unless_present = "allow_missing_checksum",
        conflicts_with = "allow_missing_checksum",
        value_parser = parse_checksum
    )]
    pub checksum: Option<String>,
    /// Take whatever is staged
    #[arg(long)]
    pub allow_missing_checksum: bool,
    /// Take it also when it is not locked
    #[arg(long)]
    pub allow_unlocked: bool,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `start-daemon`.
#[derive(Debug, Args)]
pub struct StartDaemonArgs {
    /// Work on this physical root instead of /
    #[arg(long, value_name = "DIR")]
    pub sysroot: Option<std::path::PathBuf>,
    /// Accepted and without effect: messages go to standard error where no journal runs
    #[arg(short, long, hide = true)]
    pub debug: bool,
}
