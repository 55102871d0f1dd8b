//! What a verb on a system is asked to do and what it answers: the client half of the worker
//! protocol. Names, keys and meaning follow rpm-ostree's `UpdateDeployment`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Sha256Digest;
use crate::compose::PackageDiff;
use crate::query::{FoundPackage, LintResult, PackageSource};
use crate::status::Status;

/// Which system a verb works on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Target {
    /// The physical root of the disk; `None`: `/`.
    pub sysroot: Option<PathBuf>,
    /// The stateroot; `None`: the booted one, or the only one.
    pub stateroot: Option<String>,
}

/// Options of every verb that ends in a new deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct TransactionOptions {
    /// The command line that asked for it, for the journal and `status`.
    pub command_line: String,
    /// Reboot once the deployment is there.
    pub reboot: bool,
    /// Stage it, but don't let a shutdown finalize it before `finalize-deployment`.
    pub lock_finalization: bool,
    /// Say what would happen, change nothing.
    pub dry_run: bool,
    /// Only download.
    pub download_only: bool,
    /// Use what is downloaded already.
    pub cache_only: bool,
}

/// A `.deb` on the worker's file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LocalPackage {
    /// The file. The daemon passes descriptors on as `/proc/self/fd/N`.
    pub path: PathBuf,
    /// What its SHA-256 must be; `None`: anything.
    pub sha256: Option<Sha256Digest>,
}

/// Packages that replace those of the base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReplaceFrom {
    /// Where from: `suite=NAME` or `origin=NAME`.
    pub from: String,
    /// Package names.
    pub packages: Vec<String>,
    /// Keep exactly the version found now instead of following the source.
    pub freeze: bool,
}

/// How the base moves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BaseChange {
    /// Not at all.
    #[default]
    Keep,
    /// To the newest commit of what the origin follows.
    Upgrade,
    /// To a revision of the same branch or image: checksum, version or digest.
    Deploy {
        /// `CHECKSUM`, `VERSION`, `revision=...`, `version=...` or `sha256:...`.
        revision: String,
    },
    /// To another branch or image.
    Rebase {
        /// Any form of ref or image reference that `rebase` takes.
        refspec: String,
        /// A revision of it.
        revision: Option<String>,
    },
}

/// One change of the origin and the base, which makes one deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct UpdateRequest {
    /// Which system.
    pub target: Target,
    /// How it is carried out.
    pub options: TransactionOptions,
    /// How the base moves.
    pub base: BaseChange,
    /// Only look whether there is an update: metadata is fetched, nothing deployed.
    pub check: bool,
    /// As `check`, with the difference in packages.
    pub preview: bool,
    /// Let the base move to an older commit.
    pub allow_downgrade: bool,
    /// Keep the ref that a rebase leaves.
    pub skip_purge: bool,
    /// Deploy a revision that is not in the history of the branch.
    pub skip_branch_check: bool,
    /// Description and URL of a custom origin.
    pub custom_origin: Option<(String, String)>,
    /// Packages to request: `NAME`, `NAME=VERSION`, `NAME:ARCH`, `NAME/SUITE`.
    pub install: Vec<String>,
    /// `.deb` files to request.
    pub install_local: Vec<LocalPackage>,
    /// Requests to drop.
    pub uninstall: Vec<String>,
    /// Drop all requests first.
    pub uninstall_all: bool,
    /// Base packages to remove.
    pub override_remove: Vec<String>,
    /// `.deb` files that replace base packages.
    pub override_replace_local: Vec<LocalPackage>,
    /// Packages of a repository that replace base packages.
    pub override_replace: Vec<ReplaceFrom>,
    /// Overrides to drop.
    pub override_reset: Vec<String>,
    /// Drop all overrides first.
    pub override_reset_all: bool,
    /// Drop the state of the initramfs first.
    pub reset_initramfs: bool,
    /// Take a request for what is requested already as done.
    pub idempotent: bool,
    /// Take a request for what the base has already.
    pub allow_inactive: bool,
    /// Let local packages replace files of others.
    pub force_replace_files: bool,
    /// Apply it to the running system as well.
    pub apply_live: bool,
}

/// `kargs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct KargsRequest {
    /// Which system.
    pub target: Target,
    /// How it is carried out.
    pub options: TransactionOptions,
    /// Index of the deployment whose arguments are changed or printed; `None`: the default one.
    pub deploy_index: Option<usize>,
    /// What the arguments were when the change was thought out; anything else now is an error.
    pub expected: Option<String>,
    /// `KEY` or `KEY=VALUE` to append.
    pub append: Vec<String>,
    /// As `append`, unless it is there.
    pub append_if_missing: Vec<String>,
    /// `KEY=VALUE` or `KEY=OLD=NEW` to replace.
    pub replace: Vec<String>,
    /// `KEY` or `KEY=VALUE` to delete.
    pub delete: Vec<String>,
    /// As `delete`, if it is there.
    pub delete_if_present: Vec<String>,
    /// Start from those of the running kernel.
    pub import_proc_cmdline: bool,
    /// All arguments, as an editor left them.
    pub replace_all: Option<String>,
}

/// `initramfs`: whether and how it is made on this system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct InitramfsRequest {
    /// Which system.
    pub target: Target,
    /// How it is carried out.
    pub options: TransactionOptions,
    /// Whether it is made here.
    pub regenerate: bool,
    /// More arguments for dracut.
    pub args: Vec<String>,
}

/// `initramfs-etc`: which files of `/etc` are added to the initramfs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct InitramfsEtcRequest {
    /// Which system.
    pub target: Target,
    /// How it is carried out.
    pub options: TransactionOptions,
    /// Files or directories to add, such as `/etc/crypttab`.
    pub track: Vec<String>,
    /// Files or directories to leave out from now on.
    pub untrack: Vec<String>,
    /// Leave out all.
    pub untrack_all: bool,
    /// Make a deployment with the files as they are now, although the list stays.
    pub force_sync: bool,
}

/// `apply-live`: what boots next, applied to the running system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct ApplyLiveRequest {
    /// Which system.
    pub target: Target,
    /// How it is carried out.
    pub options: TransactionOptions,
    /// The commit to apply; `None`: that of the deployment that boots next.
    pub commit: Option<String>,
    /// Go back to the commit that was booted.
    pub reset: bool,
    /// Remove and replace packages as well.
    pub allow_replacement: bool,
}

/// `cleanup`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct CleanupRequest {
    /// Which system.
    pub target: Target,
    /// Temporary files and unused objects.
    pub base: bool,
    /// The pending deployment.
    pub pending: bool,
    /// The rollback deployment.
    pub rollback: bool,
    /// Package indices and downloaded packages.
    pub repomd: bool,
}

/// `rollback`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct RollbackRequest {
    /// Which system.
    pub target: Target,
    /// How it is carried out.
    pub options: TransactionOptions,
}

/// `finalize-deployment`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct FinalizeRequest {
    /// Which system.
    pub target: Target,
    /// How it is carried out.
    pub options: TransactionOptions,
    /// The commit that the staged deployment must have.
    pub checksum: Option<String>,
    /// Finalize whatever is staged.
    pub allow_missing_checksum: bool,
    /// Finalize what is not locked as well.
    pub allow_unlocked: bool,
}

/// `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct StatusRequest {
    /// Which system.
    pub target: Target,
}

/// `db list`, `db diff` and `db version`: packages of commits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct DbRequest {
    /// Which system.
    pub target: Target,
    /// A repository instead of the system's.
    pub repo: Option<PathBuf>,
    /// Commits, refs or, with a system, deployment ids.
    pub revisions: Vec<String>,
    /// The difference between two commits instead of their packages. Without `revisions`: what
    /// boots next against what runs, else what runs against the rollback; with one: what runs
    /// against that.
    pub diff: bool,
    /// Only packages whose names start with one of these.
    pub prefixes: Vec<String>,
    /// With changelogs.
    pub changelogs: bool,
}

/// What came of a client verb.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum ClientOutcome {
    /// Nothing was to be done.
    Unchanged {
        /// One sentence for the user.
        message: String,
    },
    /// There is a deployment that boots next.
    Deployed(DeployReport),
    /// What would be done.
    Planned(DeployReport),
    /// What an update would bring.
    Available(DeployReport),
    /// Packages or commits were downloaded.
    Downloaded {
        /// Bytes that were fetched.
        bytes: u64,
    },
    /// The running system was changed.
    Live(LiveReport),
    /// Space was freed.
    Cleaned {
        /// Bytes that were freed.
        bytes: u64,
        /// Deployments that went.
        deployments: usize,
    },
    /// The kernel arguments of a deployment.
    Kargs {
        /// All of them.
        kargs: String,
    },
    /// What is deployed.
    Status(Box<Status>),
    /// Packages of commits.
    Packages {
        /// Name, version and architecture of all packages, by revision.
        commits: BTreeMap<String, Vec<(String, String, String)>>,
    },
    /// The difference between two commits.
    Diff {
        /// The first commit.
        from: String,
        /// The second commit.
        to: String,
        /// The difference.
        packages: Vec<PackageDiff>,
    },
    /// Packages that were asked for.
    Found {
        /// The packages; those of a search by group and name.
        found: Vec<FoundPackage>,
    },
    /// The package sources.
    Sources {
        /// All of them, in apt's order.
        sources: Vec<PackageSource>,
    },
    /// The boot loader entry of a deployment.
    BootConfig {
        /// Its keys, and `staged`.
        entry: BTreeMap<String, serde_json::Value>,
    },
    /// Package indices are up to date.
    Refreshed {
        /// What they are of.
        sources: Vec<String>,
    },
    /// A root file system was changed in place.
    Changed {
        /// How its packages differ.
        pkgdiff: Vec<PackageDiff>,
    },
    /// What the lints found.
    Linted {
        /// All lints in the order in which they ran.
        lints: Vec<LintResult>,
    },
}

/// A deployment and how it differs from the one before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct DeployReport {
    /// Its commit; empty when there is none yet.
    pub checksum: String,
    /// Its version.
    pub version: Option<String>,
    /// Whether it waits for a shutdown to be written.
    pub staged: bool,
    /// How its packages differ from those of the booted or default deployment.
    pub pkgdiff: Vec<PackageDiff>,
    /// Whether the reboot was asked for.
    pub reboot: bool,
    /// What was done to the running system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveReport>,
}

/// How the running system was changed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct LiveReport {
    /// The commit that the running system shows now.
    pub checksum: String,
    /// Whether that is the one that was booted.
    pub reset: bool,
    /// How packages differ from before.
    pub pkgdiff: Vec<PackageDiff>,
    /// Services that still run programs or libraries, or were started by units, that are others
    /// now.
    pub restart: Vec<String>,
    /// Units that are enabled now and were not before; nobody has started them.
    pub start: Vec<String>,
    /// Files of `/etc` whose defaults changed and that are left as the administrator has them.
    pub kept: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::{Outcome, Request};

    fn round_trip<T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(
        value: &T,
    ) -> serde_json::Value {
        let json = serde_json::to_value(value).unwrap();
        assert_eq!(&serde_json::from_value::<T>(json.clone()).unwrap(), value);
        json
    }

    #[test]
    fn requests_are_told_apart_by_their_verb() {
        let update = UpdateRequest {
            base: BaseChange::Rebase {
                refspec: "origin:debian/14".to_owned(),
                revision: None,
            },
            install: vec!["vim".to_owned()],
            custom_origin: Some(("text".to_owned(), "url".to_owned())),
            ..UpdateRequest::default()
        };
        let json = round_trip(&Request::Update(Box::new(update)));
        assert_eq!(json["verb"], "update");
        assert_eq!(json["base"]["rebase"]["refspec"], "origin:debian/14");
        round_trip(&Request::Status(StatusRequest::default()));
        round_trip(&Request::Kargs(KargsRequest::default()));
        round_trip(&Request::Initramfs(InitramfsRequest::default()));
        round_trip(&Request::InitramfsEtc(InitramfsEtcRequest::default()));
        round_trip(&Request::ApplyLive(ApplyLiveRequest::default()));
        round_trip(&Request::Cleanup(CleanupRequest::default()));
        round_trip(&Request::Rollback(RollbackRequest::default()));
        round_trip(&Request::Finalize(FinalizeRequest::default()));
        round_trip(&Request::Db(DbRequest::default()));
    }

    #[test]
    fn a_request_has_defaults_for_what_it_leaves_out() {
        let request: Request =
            serde_json::from_str(r#"{"verb":"update","base":"upgrade"}"#).unwrap();
        let expected = UpdateRequest {
            base: BaseChange::Upgrade,
            ..UpdateRequest::default()
        };
        assert_eq!(request, Request::Update(Box::new(expected)));
    }

    #[test]
    fn outcomes_of_client_verbs_keep_their_shape() {
        let report = DeployReport {
            checksum: "abc".to_owned(),
            pkgdiff: vec![PackageDiff {
                name: "vim".to_owned(),
                previous: None,
                new: Some(("2:9.1-1".to_owned(), "amd64".to_owned())),
            }],
            ..DeployReport::default()
        };
        let json = round_trip(&Outcome::Client(ClientOutcome::Deployed(report)));
        assert_eq!(json["outcome"], "client");
        assert_eq!(json["result"], "deployed");
        let status = Status {
            deployments: vec![crate::status::Deployment::default()],
            ..Status::default()
        };
        round_trip(&Outcome::Client(ClientOutcome::Status(Box::new(status))));
        let commits = BTreeMap::from([(
            "x".to_owned(),
            vec![("a".to_owned(), "1".to_owned(), "all".to_owned())],
        )]);
        round_trip(&Outcome::Client(ClientOutcome::Packages { commits }));
    }
}
