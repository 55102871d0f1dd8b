//! `UpdateDeployment` and its older kin, as one typed request.

use apt_ostree_model::Sha256Digest;
use apt_ostree_model::client::{
    BaseChange, LocalPackage, ReplaceFrom, Target, TransactionOptions, UpdateRequest,
};
use zbus::zvariant::{Fd, OwnedFd, Value};

use crate::error::{Result, invalid};
use crate::options::{Dict, MAX_FDS, MAX_ITEM_BYTES, Options, check_list, check_text};

/// A request whose local packages are still descriptors of the caller.
#[derive(Debug)]
pub struct UpdateCall {
    /// Everything but the local packages.
    pub request: UpdateRequest,
    /// For `install_local`.
    pub install: Vec<PassedFile>,
    /// For `override_replace_local`.
    pub replace: Vec<PassedFile>,
}

/// A local package that was passed as a descriptor.
#[derive(Debug)]
pub struct PassedFile {
    /// The caller's descriptor.
    pub file: OwnedFd,
    /// What the digest must be; `None`: anything.
    pub sha256: Option<Sha256Digest>,
}

const INSTALL_FILES: &str = "install-local-packages";
const FORCED_FILES: &str = "install-fileoverride-local-packages";
const REPLACE_FILES: &str = "override-replace-local-packages";
const INSTALL_DIGESTS: &str = "install-local-packages-sha256";
const REPLACE_DIGESTS: &str = "override-replace-local-packages-sha256";

/// Reads the two dictionaries of `UpdateDeployment`.
///
/// # Errors
/// An option is unknown, of another type or too large, or excludes another one.
pub fn parse(target: Target, modifiers: Dict, options: Dict) -> Result<UpdateCall> {
    let mut call = UpdateCall {
        request: UpdateRequest {
            target,
            ..UpdateRequest::default()
        },
        install: Vec::new(),
        replace: Vec::new(),
    };
    let (refspec, revision) = take_modifiers(modifiers, &mut call)?;
    let mut options = Options::new(options);
    take_base(&mut options, refspec, revision, &mut call.request)?;
    take_options(&mut options, &mut call.request)?;
    options.finish()?;
    check(&call)?;
    Ok(call)
}

/// Takes the modifiers; returns refspec and revision.
fn take_modifiers(
    modifiers: Dict,
    call: &mut UpdateCall,
) -> Result<(Option<String>, Option<String>)> {
    let mut given = Options::new(modifiers);
    let request = &mut call.request;
    let refspec = given.text("set-refspec")?;
    let revision = given.text("set-revision")?;
    request.install = given.list("install-packages")?;
    request.uninstall = given.list("uninstall-packages")?;
    request.override_remove = given.list("override-remove-packages")?;
    request.override_reset = given.list("override-reset-packages")?;
    request.override_replace = take_replacements(&mut given)?;
    request.custom_origin = given.pair("custom-origin")?;
    let mut install = given.fds(INSTALL_FILES)?;
    let replace = given.fds(REPLACE_FILES)?;
    // The key has one name in rpm-ostree's documentation and another one in its code.
    let mut forced = given.fds(FORCED_FILES)?;
    forced.extend(given.fds("install-local-fileoverride-packages")?);
    if !forced.is_empty() {
        if !install.is_empty() {
            return Err(invalid(
                "'install-local-packages' excludes 'install-fileoverride-local-packages'",
            ));
        }
        request.force_replace_files = true;
        install = forced;
    }
    call.install = with_digests(&mut given, install, INSTALL_DIGESTS)?;
    call.replace = with_digests(&mut given, replace, REPLACE_DIGESTS)?;
    given.finish()?;
    Ok((refspec, revision))
}

/// Takes the digests of `files`; an empty one says nothing.
fn with_digests(given: &mut Options, files: Vec<OwnedFd>, key: &str) -> Result<Vec<PassedFile>> {
    let list = given.take(key, "as", |value| Vec::<String>::try_from(value).ok())?;
    let list = list.unwrap_or_else(|| vec![String::new(); files.len()]);
    if list.len() != files.len() {
        return Err(invalid(format!(
            "'{key}' has {} items for {} files",
            list.len(),
            files.len()
        )));
    }
    let pair = |(file, text): (OwnedFd, String)| {
        let sha256 = match text.as_str() {
            "" => None,
            text => Some(
                text.parse()
                    .map_err(|_| invalid(format!("an item of '{key}' is not a SHA-256 digest")))?,
            ),
        };
        Ok(PassedFile { file, sha256 })
    };
    files.into_iter().zip(list).map(pair).collect()
}

fn take_replacements(given: &mut Options) -> Result<Vec<ReplaceFrom>> {
    const KEY: &str = "override-replace-from";
    let taken = given.take(KEY, "a(sasb)", |value| match value {
        Value::Array(array) => Vec::<(String, Vec<String>, bool)>::try_from(array).ok(),
        _ => None,
    })?;
    let mut replacements = Vec::new();
    for (from, packages, freeze) in taken.unwrap_or_default() {
        check_text(KEY, &from, MAX_ITEM_BYTES)?;
        check_list(KEY, &packages)?;
        replacements.push(ReplaceFrom {
            from,
            packages,
            freeze,
        });
    }
    Ok(replacements)
}

fn take_base(
    options: &mut Options,
    refspec: Option<String>,
    revision: Option<String>,
    request: &mut UpdateRequest,
) -> Result<()> {
    let keep = options.is_set("no-pull-base")?;
    let moves = refspec.is_some() || revision.is_some();
    if keep && moves {
        return Err(invalid(
            "'no-pull-base' excludes 'set-refspec' and 'set-revision'",
        ));
    }
    request.skip_purge = options.is_set("skip-purge")?;
    if request.skip_purge && refspec.is_none() {
        return Err(invalid("'skip-purge' needs 'set-refspec'"));
    }
    request.allow_downgrade = options.flag("allow-downgrade")?.unwrap_or(moves);
    request.base = match (refspec, revision) {
        (Some(refspec), revision) => BaseChange::Rebase { refspec, revision },
        (None, Some(revision)) => BaseChange::Deploy { revision },
        (None, None) if keep => BaseChange::Keep,
        (None, None) => BaseChange::Upgrade,
    };
    Ok(())
}

fn take_options(options: &mut Options, request: &mut UpdateRequest) -> Result<()> {
    request.options = transaction_options(options)?;
    request.options.dry_run = options.is_set("dry-run")?;
    request.options.download_only = options.is_set("download-only")?;
    request.options.cache_only = options.is_set("cache-only")?;
    request.check = options.is_set("check")?;
    request.preview = options.is_set("preview")?;
    request.skip_branch_check = options.is_set("skip-branch-check")?;
    request.uninstall_all = options.is_set("no-layering")?;
    request.override_reset_all = options.is_set("no-overrides")?;
    request.reset_initramfs = options.is_set("no-initramfs")?;
    request.idempotent = options.is_set("idempotent-layering")?;
    request.allow_inactive =
        options.is_set("allow-inactive")? | options.is_set("allow-inactive-requests")?;
    request.apply_live = options.is_set("apply-live")?;
    Ok(())
}

/// Takes the options that most transactions have: `reboot`, `lock-finalization` and
/// `initiating-command-line`.
///
/// # Errors
/// One is of another type or too long.
pub fn transaction_options(options: &mut Options) -> Result<TransactionOptions> {
    Ok(TransactionOptions {
        command_line: options.text("initiating-command-line")?.unwrap_or_default(),
        reboot: options.is_set("reboot")?,
        lock_finalization: options.is_set("lock-finalization")?,
        ..TransactionOptions::default()
    })
}

fn check(call: &UpdateCall) -> Result<()> {
    let request = &call.request;
    let excluding = [
        (
            request.options.reboot && request.apply_live,
            "'reboot' excludes 'apply-live'",
        ),
        (
            request.options.dry_run && request.options.download_only,
            "'dry-run' excludes 'download-only'",
        ),
        (
            request.options.download_only && request.options.cache_only,
            "'download-only' excludes 'cache-only'",
        ),
        (
            request.override_reset_all && has_overrides(call),
            "'no-overrides' excludes other overrides",
        ),
        (
            call.install.len() + call.replace.len() > MAX_FDS,
            "there are too many local packages",
        ),
    ];
    match excluding.iter().find(|(wrong, _)| *wrong) {
        Some((_, text)) => Err(invalid(*text)),
        None => Ok(()),
    }
}

fn has_overrides(call: &UpdateCall) -> bool {
    let request = &call.request;
    !(call.replace.is_empty()
        && request.override_remove.is_empty()
        && request.override_replace.is_empty()
        && request.override_reset.is_empty())
}

/// A dictionary that a client sends.
type Sent<'a> = std::collections::HashMap<&'static str, Value<'a>>;

/// The two dictionaries for `request`. Local packages are not in them: see [`add_files`].
pub fn to_dicts(request: &UpdateRequest) -> (Sent<'_>, Sent<'_>) {
    (modifiers_of(request), options_of(request))
}

/// Adds the local packages of `request` to its modifiers; `install` and `replace` are open files,
/// in the order of the lists of the request.
pub fn add_files<'a>(
    modifiers: &mut Sent<'a>,
    request: &UpdateRequest,
    install: &'a [std::os::fd::OwnedFd],
    replace: &'a [std::os::fd::OwnedFd],
) {
    let install_key = if request.force_replace_files {
        FORCED_FILES
    } else {
        INSTALL_FILES
    };
    let lists = [
        (
            install_key,
            INSTALL_DIGESTS,
            install,
            &request.install_local,
        ),
        (
            REPLACE_FILES,
            REPLACE_DIGESTS,
            replace,
            &request.override_replace_local,
        ),
    ];
    for (key, digests_key, files, packages) in lists {
        if files.is_empty() {
            continue;
        }
        let files: Vec<Fd<'a>> = files.iter().map(Fd::from).collect();
        modifiers.insert(key, files.into());
        let digest = |package: &LocalPackage| {
            let digest = package.sha256.as_ref();
            digest.map(ToString::to_string).unwrap_or_default()
        };
        let digests: Vec<String> = packages.iter().map(digest).collect();
        modifiers.insert(digests_key, digests.into());
    }
}

fn modifiers_of(request: &UpdateRequest) -> Sent<'_> {
    let mut modifiers = std::collections::HashMap::new();
    match &request.base {
        BaseChange::Keep | BaseChange::Upgrade => {}
        BaseChange::Deploy { revision } => {
            modifiers.insert("set-revision", revision.as_str().into());
        }
        BaseChange::Rebase { refspec, revision } => {
            modifiers.insert("set-refspec", refspec.as_str().into());
            if let Some(revision) = revision {
                modifiers.insert("set-revision", revision.as_str().into());
            }
        }
    }
    for (key, list) in [
        ("install-packages", &request.install),
        ("uninstall-packages", &request.uninstall),
        ("override-remove-packages", &request.override_remove),
        ("override-reset-packages", &request.override_reset),
    ] {
        if !list.is_empty() {
            modifiers.insert(key, list.into());
        }
    }
    if !request.override_replace.is_empty() {
        let list: Vec<(&str, &Vec<String>, bool)> = request
            .override_replace
            .iter()
            .map(|r| (r.from.as_str(), &r.packages, r.freeze))
            .collect();
        modifiers.insert("override-replace-from", list.into());
    }
    if let Some((url, text)) = &request.custom_origin {
        modifiers.insert("custom-origin", (url.as_str(), text.as_str()).into());
    }
    modifiers
}

fn options_of(request: &UpdateRequest) -> Sent<'_> {
    let options = &request.options;
    let mut dict = std::collections::HashMap::new();
    for (key, set) in [
        ("no-pull-base", request.base == BaseChange::Keep),
        ("reboot", options.reboot),
        ("lock-finalization", options.lock_finalization),
        ("dry-run", options.dry_run),
        ("download-only", options.download_only),
        ("cache-only", options.cache_only),
        ("check", request.check),
        ("preview", request.preview),
        ("skip-purge", request.skip_purge),
        ("skip-branch-check", request.skip_branch_check),
        ("no-layering", request.uninstall_all),
        ("no-overrides", request.override_reset_all),
        ("no-initramfs", request.reset_initramfs),
        ("idempotent-layering", request.idempotent),
        ("allow-inactive", request.allow_inactive),
        ("apply-live", request.apply_live),
    ] {
        if set {
            dict.insert(key, true.into());
        }
    }
    dict.insert("allow-downgrade", request.allow_downgrade.into());
    if !options.command_line.is_empty() {
        let line = options.command_line.as_str();
        dict.insert("initiating-command-line", line.into());
    }
    dict
}

#[cfg(test)]
mod tests;
