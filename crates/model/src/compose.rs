//! What a verb is asked to do and what it answers: the worker protocol, and the compose half of
//! its requests. The other half is in [`crate::client`].
//!
//! The command line starts the worker, writes one [`Request`] as JSON to its standard input and
//! reads [`Reply`] values from its standard output, one JSON value per line, until
//! [`Reply::Finished`] or [`Reply::Failed`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::client::{
    ApplyLiveRequest, CleanupRequest, ClientOutcome, DbRequest, FinalizeRequest,
    InitramfsEtcRequest, InitramfsRequest, KargsRequest, RollbackRequest, StatusRequest,
    UpdateRequest,
};
use crate::query::{LintRequest, QueryRequest, RefreshRequest, SourceRequest};
use crate::{ErrorKind, Event, Plan, Sha256Digest};

/// One verb with all its options. Relative paths are relative to the worker's working directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    /// `compose tree`: install, postprocess and commit.
    Tree(TreeRequest),
    /// `compose install`: leave the installed root in a directory.
    Install(InstallRequest),
    /// `compose postprocess`: finish an installed root in place.
    Postprocess(PostprocessRequest),
    /// `compose commit`: commit a finished root.
    Commit(CommitRequest),
    /// `compose rootfs`: a plain root directory for `FROM scratch` builds.
    Rootfs(RootfsRequest),
    /// `compose image`: from a treefile to an image in one step.
    Image(ImageRequest),
    /// `status`: what is deployed.
    Status(StatusRequest),
    /// `upgrade`, `deploy`, `rebase`, `install`, `uninstall`, `override` and `reset`: one change of
    /// the origin and the base.
    Update(Box<UpdateRequest>),
    /// `rollback`: boot the other deployment.
    Rollback(RollbackRequest),
    /// `kargs`: print or change kernel arguments.
    Kargs(KargsRequest),
    /// `initramfs`: whether it is made on this system.
    Initramfs(InitramfsRequest),
    /// `initramfs-etc`: which files of `/etc` are added to it.
    InitramfsEtc(InitramfsEtcRequest),
    /// `apply-live`: change the running system.
    ApplyLive(ApplyLiveRequest),
    /// `cleanup`: remove deployments and temporary data.
    Cleanup(CleanupRequest),
    /// `finalize-deployment`: unlock what is staged.
    Finalize(FinalizeRequest),
    /// `db`: packages of commits.
    Db(DbRequest),
    /// `search` and its kin: questions about packages, sources and boot loader entries.
    Query(QueryRequest),
    /// `refresh-md`: fetch package indices.
    RefreshMd(RefreshRequest),
    /// Enable or disable a package source.
    ModifySource(SourceRequest),
    /// `container lint`: check a root file system.
    Lint(LintRequest),
}

/// Where caches and temporary work live.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct WorkOptions {
    /// Package cache, indices and configured states; `None`: `/var/cache/apt-ostree`.
    pub cachedir: Option<PathBuf>,
    /// Temporary work; must be on the file system of the cache. `None`: inside the cache.
    pub workdir: Option<PathBuf>,
    /// Keep the work directory when the run fails.
    pub keep_workdir: bool,
    /// How many threads to use; `None`: one per processor.
    pub threads: Option<usize>,
}

/// How packages are chosen and fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct InstallOptions {
    /// Base URL for repos without `url`, instead of the host's own mirror.
    pub mirror: Option<String>,
    /// Proxy for fetching, such as `http://127.0.0.1:3128`.
    pub proxy: Option<String>,
    /// Look for `*.sources` files of named repos here instead of beside the treefile.
    pub source_root: Option<PathBuf>,
    /// Go on although nothing changed, and run every script again.
    pub force_nocache: bool,
    /// Use cached indices and packages only; never touch the network.
    pub offline: bool,
    /// Stop after packages are downloaded and imported.
    pub download_only: bool,
    /// Stop after `.deb` files are downloaded.
    pub download_only_debs: bool,
    /// Stop after choosing packages.
    pub dry_run: bool,
    /// Lockfiles to obey; later ones override earlier ones.
    pub lockfiles: Vec<PathBuf>,
    /// Only locked packages exist.
    pub lockfile_strict: bool,
    /// Where to write the lockfile.
    pub write_lockfile_to: Option<PathBuf>,
    /// Treefile variables from the command line, as `NAME=VALUE`.
    pub variables: BTreeMap<String, String>,
    /// Target architecture (Debian name); `None`: that of the host or treefile.
    pub arch: Option<String>,
}

/// What the commit says about itself and where it is noted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct CommitOptions {
    /// `KEY=VALUE` strings for the commit metadata.
    pub add_metadata_strings: BTreeMap<String, String>,
    /// JSON files whose objects join the commit metadata.
    pub add_metadata_from_json: Vec<PathBuf>,
    /// Write the commit checksum here and leave the ref alone.
    pub write_commitid_to: Option<PathBuf>,
    /// Write the compose result as JSON here.
    pub write_composejson_to: Option<PathBuf>,
    /// Commit without a parent.
    pub no_parent: bool,
    /// Use this parent instead of the ref's current commit.
    pub parent: Option<String>,
}

/// Compared with to decide that nothing changed; also the source of ids and of the next version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct PreviousOptions {
    /// Commit to compare with instead of the ref's.
    pub previous_commit: Option<String>,
    /// Input hash to compare with.
    pub previous_inputhash: Option<String>,
    /// Version that `automatic-version-prefix` counts on from.
    pub previous_version: Option<String>,
    /// Touch this file when something changed.
    pub touch_if_changed: Option<PathBuf>,
}

/// A container image file to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageFormat {
    /// A directory in OCI layout, `NAME.oci`.
    Oci,
    /// The same in one tar file, `NAME.oci.tar`.
    OciArchive,
    /// A tar file for `docker load` and `podman load`, `NAME.tar`.
    DockerArchive,
}

/// Compression of image layers.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// gzip: every tool reads it.
    #[default]
    Gzip,
    /// Zstandard: smaller and faster.
    Zstd,
    /// Plain tar.
    None,
}

/// Which images to write, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct ImageOptions {
    /// Formats to write; empty: no image.
    pub formats: Vec<ImageFormat>,
    /// Directory for images; `None`: `output`.
    pub output_dir: Option<PathBuf>,
    /// Layer compression.
    pub compression: Compression,
    /// Labels to add, by name.
    pub labels: BTreeMap<String, String>,
    /// JSON file merged over the image config's `config` object.
    pub image_config: Option<PathBuf>,
    /// At most this many layers; `None`: 64.
    pub max_layers: Option<usize>,
}

/// Which lints run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct LintOptions {
    /// Run none.
    pub no_lint: bool,
    /// Names of lints to skip.
    pub skip: Vec<String>,
}

/// `compose tree`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "option groups, documented at their types")]
pub struct TreeRequest {
    pub treefile: PathBuf,
    /// Target repository; `None`: `output/repo`, made when missing.
    pub repo: Option<PathBuf>,
    /// Repository of `ostree-layers`; `None`: the target repository.
    pub layer_repo: Option<PathBuf>,
    #[serde(default)]
    pub work: WorkOptions,
    #[serde(default)]
    pub install: InstallOptions,
    #[serde(default)]
    pub commit: CommitOptions,
    #[serde(default)]
    pub previous: PreviousOptions,
    #[serde(default)]
    pub image: ImageOptions,
    #[serde(default)]
    pub lint: LintOptions,
}

/// `compose install`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "option groups, documented at their types")]
pub struct InstallRequest {
    pub treefile: PathBuf,
    /// The root becomes `DEST/rootfs`.
    pub dest: PathBuf,
    /// Postprocess it as well.
    pub postprocess: bool,
    /// Repository of `ostree-layers` and of the previous commit.
    pub repo: Option<PathBuf>,
    pub layer_repo: Option<PathBuf>,
    #[serde(default)]
    pub work: WorkOptions,
    #[serde(default)]
    pub install: InstallOptions,
    #[serde(default)]
    pub previous: PreviousOptions,
    #[serde(default)]
    pub lint: LintOptions,
}

/// `compose postprocess`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "option groups, documented at their types")]
pub struct PostprocessRequest {
    pub rootfs: PathBuf,
    /// Without one, only the layout changes that need no treefile are made.
    pub treefile: Option<PathBuf>,
    #[serde(default)]
    pub work: WorkOptions,
    #[serde(default)]
    pub lint: LintOptions,
}

/// `compose commit`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "option groups, documented at their types")]
pub struct CommitRequest {
    pub treefile: PathBuf,
    pub rootfs: PathBuf,
    pub repo: Option<PathBuf>,
    #[serde(default)]
    pub work: WorkOptions,
    #[serde(default)]
    pub commit: CommitOptions,
    #[serde(default)]
    pub previous: PreviousOptions,
}

/// `compose rootfs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "option groups, documented at their types")]
pub struct RootfsRequest {
    pub treefile: PathBuf,
    /// Must not exist, or be an empty directory.
    pub dest: PathBuf,
    #[serde(default)]
    pub work: WorkOptions,
    #[serde(default)]
    pub install: InstallOptions,
    #[serde(default)]
    pub lint: LintOptions,
}

/// When `compose image` ignores what is at its output already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InitializeMode {
    /// Fail when there is no previous image, unless `--initialize`.
    #[default]
    Query,
    /// Take it that there is none.
    Always,
    /// Fail when there is none.
    Never,
    /// Use it when there is one.
    IfNotExists,
}

/// `compose image`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "option groups, documented at their types")]
pub struct ImageRequest {
    pub treefile: PathBuf,
    /// The image file or directory to write.
    pub output: PathBuf,
    pub format: ImageFormat,
    pub initialize: InitializeMode,
    pub layer_repo: Option<PathBuf>,
    #[serde(default)]
    pub work: WorkOptions,
    #[serde(default)]
    pub install: InstallOptions,
    #[serde(default)]
    pub previous: PreviousOptions,
    #[serde(default)]
    pub image: ImageOptions,
    #[serde(default)]
    pub lint: LintOptions,
}

/// One line of the worker's output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reply {
    /// The verb is done; the last line.
    Finished {
        /// What came of it.
        finished: Outcome,
    },
    /// The verb failed; the last line.
    Failed {
        /// Why.
        failed: Failure,
    },
    /// Progress.
    Event(Event),
}

/// Why a verb failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Failure {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// The whole chain of contexts, joined by `: `.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// What came of a verb.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// The inputs are those of the previous compose; nothing was done.
    Unchanged {
        /// The ref, when the treefile has one.
        r#ref: Option<String>,
        /// The commit that is still right.
        commit: Option<String>,
        /// The input hash.
        inputhash: String,
    },
    /// Only the plan was asked for.
    Planned {
        /// What would be installed.
        plan: Plan,
    },
    /// Packages were downloaded.
    Downloaded {
        /// How many.
        packages: usize,
        /// Their size in bytes.
        bytes: u64,
    },
    /// A root directory was written or changed.
    Root {
        /// Where it is.
        path: PathBuf,
    },
    /// A commit, and perhaps images, were written.
    Composed(ComposeReport),
    /// What came of a verb on a system.
    Client(ClientOutcome),
}

/// What `compose tree` and its kin made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ComposeReport {
    /// The ref that was moved.
    pub r#ref: Option<String>,
    /// The repository, when it is a lasting one.
    pub repo: Option<PathBuf>,
    /// Commit checksum.
    pub commit: String,
    /// Checksum of the tree alone.
    pub content_checksum: String,
    /// `version` of the commit.
    pub version: Option<String>,
    /// Commit time in seconds since 1970.
    pub timestamp: i64,
    /// The input hash.
    pub inputhash: String,
    /// How many packages are installed.
    pub packages: usize,
    /// Sum of the file sizes in bytes.
    pub size: u64,
    /// Images that were written.
    pub images: Vec<ImageReport>,
    /// Difference from the parent commit.
    pub pkgdiff: Vec<PackageDiff>,
    /// Numbers of the repository transaction.
    pub stats: CommitStats,
}

/// Numbers of the repository transaction, as rpm-ostree's compose JSON gives them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[expect(
    missing_docs,
    reason = "names as in the compose JSON, without the ostree- prefix"
)]
pub struct CommitStats {
    pub n_metadata_total: u32,
    pub n_metadata_written: u32,
    pub n_content_total: u32,
    pub n_content_written: u32,
    pub n_cache_hits: u32,
    pub content_bytes_written: u64,
}

/// An image file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageReport {
    /// Its format.
    pub format: ImageFormat,
    /// Where it is.
    pub path: PathBuf,
    /// Digest of its manifest.
    pub digest: Sha256Digest,
    /// Name and tag inside the archive or layout, such as `localhost/test/minimal:latest`.
    pub reference: String,
    /// Number of layers.
    pub layers: usize,
    /// Sum of the layer sizes in bytes, as the file holds them: compressed, but not in a
    /// docker-archive.
    pub size: u64,
}

/// One package that differs between two commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PackageDiff {
    /// Package name.
    pub name: String,
    /// Version and architecture before; `None`: added.
    pub previous: Option<(String, String)>,
    /// Version and architecture after; `None`: removed.
    pub new: Option<(String, String)>,
}
