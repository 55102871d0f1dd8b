//! A request as a call of a method.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;

use apt_ostree_fsx::{escape, sha256_reader};
use apt_ostree_ipc::proxy::{OsExperimentalProxy, OsProxy, Sent};
use apt_ostree_ipc::update;
use apt_ostree_ipc::worker::into_failure;
use apt_ostree_model::client::{
    ApplyLiveRequest, CleanupRequest, FinalizeRequest, KargsRequest, LocalPackage,
    TransactionOptions,
};
use apt_ostree_model::compose::{Failure, Request};
use apt_ostree_model::{ErrorKind, Kinded};

/// Local packages, opened.
#[derive(Debug, Default)]
pub(super) struct Files {
    install: Vec<OwnedFd>,
    replace: Vec<OwnedFd>,
}

/// Opens the local packages of `request` with the rights of this process, so that the daemon reads
/// nothing that the user could not.
pub(super) fn open_files(request: &Request) -> Result<Files, Failure> {
    let Request::Update(request) = request else {
        return Ok(Files::default());
    };
    let open_all = |packages: &[LocalPackage]| -> Result<Vec<OwnedFd>, Failure> {
        packages.iter().map(open).collect()
    };
    Ok(Files {
        install: open_all(&request.install_local)?,
        replace: open_all(&request.override_replace_local)?,
    })
}

/// The errors are those of the worker, which knows the file by another name.
fn open(package: &LocalPackage) -> Result<OwnedFd, Failure> {
    let shown = escape(&package.path.to_string_lossy());
    let fail = |kind, why: String| {
        into_failure(Kinded::new(
            kind,
            format!("reading package '{shown}': {why}"),
        ))
    };
    let invalid = |error: std::io::Error| fail(ErrorKind::InvalidInput, error.to_string());
    let mut file = File::open(&package.path).map_err(invalid)?;
    if !file.metadata().map_err(invalid)?.is_file() {
        let why = "it is not a regular file".to_owned();
        return Err(fail(ErrorKind::InvalidInput, why));
    }
    if let Some(expected) = package.sha256 {
        let (found, _) = sha256_reader(&mut file)
            .map_err(|error| fail(ErrorKind::Storage, error.to_string()))?;
        if found != expected {
            let why = format!("its SHA-256 is {found}, not {expected}");
            return Err(fail(ErrorKind::Verification, why));
        }
    }
    Ok(file.into())
}

/// Calls the method for `request`; returns the path of the transaction.
pub(super) async fn call(
    os: &OsProxy<'_>,
    request: &Request,
    files: &Files,
) -> zbus::Result<String> {
    match request {
        Request::Update(request) => {
            let (mut modifiers, options) = update::to_dicts(request);
            update::add_files(&mut modifiers, request, &files.install, &files.replace);
            os.update_deployment(modifiers, options).await
        }
        Request::Rollback(request) => os.rollback(options(&request.options)).await,
        Request::Kargs(request) => kargs(os, request).await,
        Request::Initramfs(request) => {
            let args = words(&request.args);
            os.set_initramfs_state(request.regenerate, &args, options(&request.options))
                .await
        }
        Request::Cleanup(request) => os.cleanup(&elements(request)).await,
        Request::Finalize(request) => os.finalize_deployment(finalize(request)).await,
        Request::InitramfsEtc(request) => {
            let (track, untrack) = (words(&request.track), words(&request.untrack));
            let (all, sync) = (request.untrack_all, request.force_sync);
            os.initramfs_etc(&track, &untrack, all, sync, options(&request.options))
                .await
        }
        Request::ApplyLive(request) => {
            let experimental = OsExperimentalProxy::builder(os.inner().connection())
                .path(os.inner().path().to_owned())?
                .build()
                .await?;
            experimental.live_fs(live(request)).await
        }
        Request::RefreshMd(request) => {
            let mut dict = options(&request.options);
            if request.force {
                dict.insert("force", true.into());
            }
            os.refresh_md(dict).await
        }
        _ => Err(zbus::Error::Unsupported),
    }
}

pub(super) fn words(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

fn options(options: &TransactionOptions) -> Sent<'_> {
    let mut dict = Sent::new();
    for (key, set) in [
        ("reboot", options.reboot),
        ("lock-finalization", options.lock_finalization),
    ] {
        if set {
            dict.insert(key, true.into());
        }
    }
    if !options.command_line.is_empty() {
        let line = options.command_line.as_str();
        dict.insert("initiating-command-line", line.into());
    }
    dict
}

async fn kargs(os: &OsProxy<'_>, request: &KargsRequest) -> zbus::Result<String> {
    let mut dict = options(&request.options);
    for (key, list) in [
        ("append-if-missing", &request.append_if_missing),
        ("delete-if-present", &request.delete_if_present),
    ] {
        if !list.is_empty() {
            dict.insert(key, list.into());
        }
    }
    for (key, set) in [
        ("import-proc-cmdline", request.import_proc_cmdline),
        ("dry-run", request.options.dry_run),
    ] {
        if set {
            dict.insert(key, true.into());
        }
    }
    if let Some(all) = &request.replace_all {
        dict.insert("final-kernel-args", all.as_str().into());
    }
    if let Some(index) = request.deploy_index {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        dict.insert("deploy-index", index.into());
    }
    os.kernel_args(
        request.expected.as_deref().unwrap_or_default(),
        &words(&request.append),
        &words(&request.replace),
        &words(&request.delete),
        dict,
    )
    .await
}

fn live(request: &ApplyLiveRequest) -> Sent<'_> {
    let mut dict = options(&request.options);
    if let Some(commit) = &request.commit {
        dict.insert("target", commit.as_str().into());
    }
    for (key, set) in [
        ("reset", request.reset),
        ("replace", request.allow_replacement),
        ("dry-run", request.options.dry_run),
    ] {
        if set {
            dict.insert(key, true.into());
        }
    }
    dict
}

fn elements(request: &CleanupRequest) -> Vec<&'static str> {
    [
        (request.base, "base"),
        (request.pending, "pending-deploy"),
        (request.rollback, "rollback-deploy"),
        (request.repomd, "repomd"),
    ]
    .into_iter()
    .filter_map(|(set, element)| set.then_some(element))
    .collect()
}

fn finalize(request: &FinalizeRequest) -> Sent<'_> {
    let mut dict: Sent<'_> = HashMap::new();
    if !request.options.command_line.is_empty() {
        let line = request.options.command_line.as_str();
        dict.insert("initiating-command-line", line.into());
    }
    if let Some(checksum) = &request.checksum {
        dict.insert("checksum", checksum.as_str().into());
    }
    for (key, set) in [
        ("allow-missing-checksum", request.allow_missing_checksum),
        ("allow-unlocked", request.allow_unlocked),
    ] {
        if set {
            dict.insert(key, true.into());
        }
    }
    dict
}
