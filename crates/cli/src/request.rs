//! From what was typed to what the worker is asked.

mod client;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use apt_ostree_model::compose::{
    CommitOptions, CommitRequest, ImageFormat, ImageOptions, ImageRequest, InitializeMode,
    InstallOptions, InstallRequest, LintOptions, PostprocessRequest, PreviousOptions, Request,
    RootfsRequest, TreeRequest, WorkOptions,
};

use crate::cli::{
    CommitArgs, CommitVerbArgs, ComposeVerb, ImageArgs, ImageVerbArgs, InstallArgs,
    InstallVerbArgs, KeyValue, LintArgs, PostprocessArgs, PreviousArgs, RootfsArgs, TreeArgs,
    WorkArgs,
};

pub(crate) use client::options_mut;

/// The formats of a plain `--container`.
const CONTAINER_FORMATS: [ImageFormat; 2] = [ImageFormat::Oci, ImageFormat::DockerArchive];

impl From<ComposeVerb> for Request {
    fn from(verb: ComposeVerb) -> Self {
        match verb {
            ComposeVerb::Tree(args) => Self::Tree((*args).into()),
            ComposeVerb::Install(args) => Self::Install((*args).into()),
            ComposeVerb::Postprocess(args) => Self::Postprocess(args.into()),
            ComposeVerb::Commit(args) => Self::Commit((*args).into()),
            ComposeVerb::Rootfs(args) => Self::Rootfs((*args).into()),
            ComposeVerb::Image(args) => Self::Image((*args).into()),
        }
    }
}

impl From<TreeArgs> for TreeRequest {
    fn from(args: TreeArgs) -> Self {
        let output_dir = args.image.output_dir;
        let repo = args
            .repo
            .repo
            .or_else(|| output_dir.as_ref().map(|dir| dir.join("repo")));
        let mut formats: Vec<_> = args.image.formats.into_iter().map(Into::into).collect();
        if formats.is_empty() && args.image.container {
            formats.extend(CONTAINER_FORMATS);
        }
        formats.sort_unstable();
        formats.dedup();
        Self {
            treefile: args.treefile,
            repo,
            layer_repo: args.repo.layer_repo,
            work: args.work.into(),
            install: args.install.into(),
            commit: args.commit.into(),
            previous: args.previous.into(),
            image: ImageOptions {
                formats,
                output_dir,
                ..args.image.options.into()
            },
            lint: args.lint.into(),
        }
    }
}

impl From<InstallVerbArgs> for InstallRequest {
    fn from(args: InstallVerbArgs) -> Self {
        Self {
            treefile: args.treefile,
            dest: args.destdir,
            postprocess: args.postprocess,
            repo: args.repo.repo,
            layer_repo: args.repo.layer_repo,
            work: args.work.into(),
            install: args.install.into(),
            previous: args.previous.into(),
            lint: args.lint.into(),
        }
    }
}

impl From<PostprocessArgs> for PostprocessRequest {
    fn from(args: PostprocessArgs) -> Self {
        Self {
            rootfs: args.rootfs,
            treefile: args.treefile,
            work: args.work.into(),
            lint: args.lint.into(),
        }
    }
}

impl From<CommitVerbArgs> for CommitRequest {
    fn from(args: CommitVerbArgs) -> Self {
        Self {
            treefile: args.treefile,
            rootfs: args.rootfs,
            repo: args.repo.repo,
            work: args.work.into(),
            commit: args.commit.into(),
            previous: args.previous.into(),
        }
    }
}

impl From<RootfsArgs> for RootfsRequest {
    fn from(args: RootfsArgs) -> Self {
        Self {
            treefile: args.treefile,
            dest: args.dest,
            work: args.work.into(),
            install: args.install.into(),
            lint: args.lint.into(),
        }
    }
}

impl From<ImageVerbArgs> for ImageRequest {
    fn from(args: ImageVerbArgs) -> Self {
        let initialize = if args.initialize {
            InitializeMode::Always
        } else {
            args.initialize_mode.into()
        };
        Self {
            treefile: args.treefile,
            output: args.output,
            format: args.format.into(),
            initialize,
            layer_repo: args.layer_repo,
            work: args.work.into(),
            install: args.install.into(),
            previous: args.previous.into(),
            image: args.image.into(),
            lint: args.lint.into(),
        }
    }
}

impl From<WorkArgs> for WorkOptions {
    fn from(args: WorkArgs) -> Self {
        Self {
            cachedir: args.cachedir,
            workdir: args.workdir,
            keep_workdir: args.keep_workdir,
            threads: args.threads.map(NonZeroUsize::get),
        }
    }
}

impl From<InstallArgs> for InstallOptions {
    fn from(args: InstallArgs) -> Self {
        Self {
            mirror: args.mirror,
            proxy: args.proxy,
            source_root: args.source_root,
            force_nocache: args.force_nocache,
            offline: args.offline,
            download_only: args.download_only,
            download_only_debs: args.download_only_debs,
            dry_run: args.dry_run,
            lockfiles: args.lockfiles,
            lockfile_strict: args.lockfile_strict,
            write_lockfile_to: args.write_lockfile_to,
            variables: to_map(args.variables),
            arch: args.arch,
        }
    }
}

impl From<CommitArgs> for CommitOptions {
    fn from(args: CommitArgs) -> Self {
        Self {
            add_metadata_strings: to_map(args.add_metadata_strings),
            add_metadata_from_json: args.add_metadata_from_json,
            write_commitid_to: args.write_commitid_to,
            write_composejson_to: args.write_composejson_to,
            no_parent: args.no_parent,
            parent: args.parent,
        }
    }
}

impl From<PreviousArgs> for PreviousOptions {
    fn from(args: PreviousArgs) -> Self {
        Self {
            previous_commit: args.previous_commit,
            previous_inputhash: args.previous_inputhash,
            previous_version: args.previous_version,
            touch_if_changed: args.touch_if_changed,
        }
    }
}

impl From<ImageArgs> for ImageOptions {
    fn from(args: ImageArgs) -> Self {
        Self {
            formats: Vec::new(),
            output_dir: None,
            compression: args.compression.into(),
            labels: to_map(args.labels),
            image_config: args.image_config,
            max_layers: args.max_layers.map(NonZeroUsize::get),
        }
    }
}

impl From<LintArgs> for LintOptions {
    fn from(args: LintArgs) -> Self {
        Self {
            no_lint: args.no_lint,
            skip: args.skip_lints,
        }
    }
}

/// Of several values for one key the last one counts.
fn to_map(pairs: Vec<KeyValue>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|kv| (kv.key, kv.value)).collect()
}

#[cfg(test)]
mod tests;
