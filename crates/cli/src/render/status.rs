//! What is deployed, as text and JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal;

use apt_ostree_fsx::escape;
use apt_ostree_model::status::{
    CachedUpdate, Deployment, PackageId, Status, UpdateDiff, UpdateDriver,
};
use apt_ostree_model::{ErrorKind, Kinded};
use owo_colors::OwoColorize;

use super::fields::Fields;
use crate::format::shell_word;
use crate::jsonpath::JsonPath;

/// How status is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StatusView {
    /// With indices, commits of layered deployments and what is not so.
    pub verbose: bool,
    /// Columns; `None`: lines are not broken.
    pub width: Option<usize>,
}

impl StatusView {
    /// As wide as standard output when that is a terminal.
    pub(crate) fn of_stdout(verbose: bool) -> Self {
        let stdout = std::io::stdout();
        let size = stdout
            .is_terminal()
            .then(|| rustix::termios::tcgetwinsize(&stdout).ok())
            .flatten();
        Self {
            verbose,
            width: size
                .map(|size| usize::from(size.ws_col))
                .filter(|&columns| columns > 0),
        }
    }
}

/// What the daemon knows beside the status; nothing without a daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusNotes {
    /// Title of the transaction and who asked for it.
    pub transaction: Option<(String, String)>,
    /// What the timer does.
    pub automatic: Option<AutomaticUpdates>,
    /// What is wrong with the configuration; empty when nothing.
    pub configuration_error: String,
}

/// Automatic updates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AutomaticUpdates {
    /// `none`, `check`, `stage` or `apply`.
    pub policy: String,
    /// The timer and its last run, where systemd tells.
    pub timer: Option<String>,
}

/// `status --json`, or what `path` finds in it.
pub(crate) fn status_json(status: &Status, path: Option<&JsonPath>) -> Result<String, Kinded> {
    let failed = |error| Kinded::new(ErrorKind::Failed, format!("printing the status: {error}"));
    let value = serde_json::to_value(status).map_err(failed)?;
    let text = match path {
        None => serde_json::to_string_pretty(&value),
        Some(path) => serde_json::to_string_pretty(&path.find(&value)),
    };
    Ok(text.map_err(failed)? + "\n")
}

/// `status` for people. Holds terminal escapes, which the printer removes where they have no place.
pub fn status_text(status: &Status, notes: &StatusNotes, view: StatusView) -> String {
    let mut text = head(status, notes, view);
    if status.deployments.is_empty() {
        text.push_str("No deployments.\n");
    } else {
        text.push_str("Deployments:\n");
    }
    let blocks: Vec<Fields> = status.deployments.iter().map(|d| fields(d, view)).collect();
    let label_width = blocks.iter().map(Fields::label_width).max().unwrap_or(0);
    for (index, (deployment, block)) in status.deployments.iter().zip(&blocks).enumerate() {
        if index > 0 {
            text.push('\n');
        }
        push_title(&mut text, deployment, index, view);
        block.write(&mut text, label_width, view.width);
    }
    if let Some(update) = &status.cached_update {
        let fields = update_fields(update);
        text.push_str("\nAvailableUpdate:\n");
        fields.write(&mut text, fields.label_width(), view.width);
    }
    text
}

fn head(status: &Status, notes: &StatusNotes, view: StatusView) -> String {
    let state = match &status.transaction {
        None => "State: idle\n",
        Some(_) => "State: busy\n",
    };
    let mut text = driver_head(state, status.update_driver.as_ref());
    if let Some(updates) = &notes.automatic {
        push_automatic(&mut text, updates, view.verbose);
    }
    if let Some((method, sender, _)) = &status.transaction {
        let (title, initiator) = match &notes.transaction {
            Some((title, initiator)) => (title, initiator),
            None => (method, sender),
        };
        let _ = writeln!(text, "Transaction: {}", escape(title));
        if !initiator.is_empty() {
            let _ = writeln!(text, "  Initiator: {}", escape(initiator));
        }
    }
    text
}

fn push_automatic(text: &mut String, updates: &AutomaticUpdates, verbose: bool) {
    let policy = escape(&updates.policy);
    match &updates.timer {
        _ if policy == "none" => {
            if verbose {
                text.push_str("AutomaticUpdates: disabled\n");
            }
        }
        None => {
            let _ = writeln!(text, "AutomaticUpdates: {policy}");
        }
        Some(timer) => {
            let _ = writeln!(text, "AutomaticUpdates: {policy}; {timer}");
        }
    }
}

fn driver_head(state: &str, driver: Option<&UpdateDriver>) -> String {
    let mut text = state.to_owned();
    if let Some(driver) = driver {
        let (name, unit) = (escape(&driver.driver_name), escape(&driver.driver_sd_unit));
        let _ = writeln!(text, "AutomaticUpdatesDriver: {name} ({unit})");
    }
    text
}

fn push_title(text: &mut String, deployment: &Deployment, index: usize, view: StatusView) {
    let followed = deployment
        .container_image_reference
        .as_ref()
        .or(deployment.origin.as_ref());
    let name = followed.map_or_else(|| deployment.checksum.clone(), |name| escape(name));
    if deployment.booted {
        let _ = write!(text, "{} {}", "●".bold(), name.bold());
    } else {
        let _ = write!(text, "  {name}");
    }
    if view.verbose {
        let _ = write!(text, " (index: {index})");
    }
    text.push('\n');
}

/// The fields of one deployment, in the order of rpm-ostree.
fn fields(deployment: &Deployment, view: StatusView) -> Fields {
    let mut fields = Fields::default();
    fields.push_some(
        "Digest",
        deployment.container_image_reference_digest.as_deref(),
    );
    if let Some((url, description)) = &deployment.custom_origin {
        fields.push_words(
            "CustomOrigin",
            [description, url].iter().filter(|text| !text.is_empty()),
        );
    }
    fields.push_some("OstreeRemoteStatus", deployment.remote_error.as_deref());
    push_version(&mut fields, deployment);
    push_commits(&mut fields, deployment, view.verbose);
    push_state(&mut fields, deployment, view.verbose);
    push_overrides(&mut fields, deployment);
    push_packages(&mut fields, deployment);
    push_initramfs(&mut fields, deployment);
    if deployment.pinned || view.verbose {
        fields.push("Pinned", yes_no(deployment.pinned));
    }
    if !matches!(deployment.unlocked.as_str(), "" | "none") {
        fields.push("Unlocked", &deployment.unlocked);
    }
    fields.push_some("EndOfLife", deployment.endoflife.as_deref());
    fields
}

fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// The base's version: that of a layered commit is the same, and its time is that of the layering.
fn push_version(fields: &mut Fields, deployment: &Deployment) {
    let (version, timestamp) = if deployment.base_checksum.is_some() {
        (&deployment.base_version, deployment.base_timestamp)
    } else {
        (&None, None)
    };
    let version = version.as_ref().or(deployment.version.as_ref());
    let timestamp = timestamp.unwrap_or(deployment.timestamp);
    let time = utc(timestamp);
    match version {
        Some(version) => fields.push("Version", &format!("{version} ({time})")),
        None => fields.push("Timestamp", &time),
    }
}

/// A time in seconds since 1970, such as `2026-11-30T10:00:00Z`.
fn utc(timestamp: u64) -> String {
    i64::try_from(timestamp)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(|| format!("@{timestamp}"), |time| time.to_string())
}

fn push_commits(fields: &mut Fields, deployment: &Deployment, verbose: bool) {
    let live = deployment.live_inprogress.is_some() || deployment.live_replaced.is_some();
    let (base_label, label) = if live && deployment.booted {
        ("BootedBaseCommit", "BootedCommit")
    } else {
        ("BaseCommit", "Commit")
    };
    fields.push_some(base_label, deployment.base_checksum.as_deref());
    if deployment.base_checksum.is_none() || verbose || live {
        fields.push(label, &deployment.checksum);
    }
    fields.push_some(
        "InterruptedLiveCommit",
        deployment.live_inprogress.as_deref(),
    );
    fields.push_some("LiveCommit", deployment.live_replaced.as_deref());
    fields.push_some("LiveDiff", deployment.live_diff.as_deref());
}

fn push_state(fields: &mut Fields, deployment: &Deployment, verbose: bool) {
    if deployment.finalization_locked {
        fields.push("Staged", "yes (finalization locked)");
    } else if deployment.staged || verbose {
        fields.push("Staged", yes_no(deployment.staged));
    }
    if verbose {
        fields.push("StateRoot", &deployment.osname);
    }
    if deployment.gpg_enabled == Some(true) {
        let count = deployment.signatures.as_ref().map_or(0, Vec::len);
        let text = match count {
            0 => "(unsigned)".to_owned(),
            1 => "1 signature".to_owned(),
            count => format!("{count} signatures"),
        };
        fields.push("GPGSignature", &text);
    }
}

fn push_overrides(fields: &mut Fields, deployment: &Deployment) {
    let gone: Vec<&str> = deployment
        .base_removals
        .iter()
        .map(|id| id.1.as_str())
        .collect();
    let removals = deployment
        .base_removals
        .iter()
        .map(|id| (id.1.as_str(), version(id)));
    fields.push_words("RemovedBasePackages", grouped(removals));
    let inactive = |name: &&String| !gone.contains(&name.as_str());
    let requested = &deployment.requested_base_removals;
    fields.push_words("InactiveBaseRemovals", requested.iter().filter(inactive));

    let local = &deployment.base_local_replacements;
    fields.push_words("LocalOverrides", grouped(local.iter().map(replacement)));
    let active: Vec<&str> = local.iter().map(|(new, _)| new.0.as_str()).collect();
    let inactive = |name: &&String| !active.contains(&name.as_str());
    let requested = &deployment.requested_base_local_replacements;
    fields.push_words("InactiveLocalOverrides", requested.iter().filter(inactive));

    let remote = &deployment.base_remote_replacements;
    fields.push_words(
        "RemoteOverrides",
        remote.iter().flat_map(|(source, pairs)| {
            let mut groups = grouped(pairs.iter().map(replacement));
            if let Some(first) = groups.first_mut() {
                first.insert_str(0, &format!("{source}: "));
            }
            groups
        }),
    );
    let replaced = |name: &str| remote.values().flatten().any(|(new, _)| new.1 == name);
    let requested = deployment.requested_base_remote_replacements.iter();
    let names = requested.flat_map(|(_, names)| names);
    fields.push_words(
        "InactiveRemoteOverrides",
        names.filter(|name| !replaced(name)),
    );
}

/// The whole version of a package, put together again.
fn version(id: &PackageId) -> String {
    let mut text = String::new();
    if id.2 > 0 {
        let _ = write!(text, "{}:", id.2);
    }
    text.push_str(&id.3);
    if !id.4.is_empty() {
        let _ = write!(text, "-{}", id.4);
    }
    text
}

fn replacement((new, old): &(PackageId, PackageId)) -> (&str, String) {
    (&new.1, format!("{} -> {}", version(old), version(new)))
}

/// Names with what happens to them, those with the same behind one another: `a b 1 -> 2`.
fn grouped<'a>(changes: impl Iterator<Item = (&'a str, String)>) -> Vec<String> {
    let mut groups: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, change) in changes {
        groups.entry(change).or_default().push(name);
    }
    let mut lines: Vec<String> = groups
        .into_iter()
        .map(|(change, mut names)| {
            names.sort_unstable();
            format!("{} {change}", names.join(" "))
        })
        .collect();
    lines.sort_unstable();
    let last = lines.len().saturating_sub(1);
    for line in &mut lines[..last] {
        line.push(',');
    }
    lines
}

fn push_packages(fields: &mut Fields, deployment: &Deployment) {
    let layered = &deployment.packages;
    let inactive = deployment
        .requested_packages
        .iter()
        .filter(|name| !layered.contains(name));
    fields.push_words("InactiveRequests", sorted(inactive));
    fields.push_words("LayeredPackages", sorted(layered));
    fields.push_words(
        "LocalPackages",
        sorted(&deployment.requested_local_packages),
    );
    let forced = &deployment.requested_local_fileoverride_packages;
    fields.push_words("LocalForcedPackages", sorted(forced));
}

fn sorted<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<&'a String> {
    let mut names: Vec<&String> = names.into_iter().collect();
    names.sort_unstable();
    names
}

fn push_initramfs(fields: &mut Fields, deployment: &Deployment) {
    if deployment.regenerate_initramfs {
        let args: Vec<String> = deployment
            .initramfs_args
            .iter()
            .map(|arg| shell_word(arg))
            .collect();
        if args.is_empty() {
            fields.push("Initramfs", "regenerate");
        } else {
            fields.push_words("Initramfs", args);
        }
    }
    fields.push_words("InitramfsEtc", &deployment.initramfs_etc);
}

fn update_fields(update: &CachedUpdate) -> Fields {
    let mut fields = Fields::default();
    if update.ref_has_new_commit {
        let time = utc(update.timestamp);
        match &update.version {
            Some(version) => fields.push("Version", &format!("{version} ({time})")),
            None => fields.push("Timestamp", &time),
        }
        fields.push("Commit", &update.checksum);
    }
    fields.push_some("Diff", diff_counts(&update.rpm_diff).as_deref());
    fields
}

fn diff_counts(diff: &UpdateDiff) -> Option<String> {
    counts(&[
        (diff.upgraded.len(), "upgraded"),
        (diff.downgraded.len(), "downgraded"),
        (diff.removed.len(), "removed"),
        (diff.added.len(), "added"),
    ])
}

/// Numbers with what they count, without those that are 0; `None` when all are.
pub(super) fn counts(all: &[(usize, &str)]) -> Option<String> {
    let parts: Vec<String> = all
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// `initramfs` without options.
pub(crate) fn initramfs_text(status: &Status) -> String {
    let mut text = String::new();
    for (index, deployment) in status.deployments.iter().enumerate() {
        push_title(&mut text, deployment, index, StatusView::default());
        let mut fields = Fields::default();
        if deployment.regenerate_initramfs {
            push_initramfs(&mut fields, deployment);
        } else {
            fields.push("Initramfs", "of the base");
        }
        fields.write(&mut text, fields.label_width(), None);
    }
    text
}

/// `initramfs-etc` without options: what holds for the deployment that boots next.
pub(crate) fn initramfs_etc_text(status: &Status) -> String {
    let next = status.deployments.first();
    let files = next.map_or(&[][..], |deployment| &deployment.initramfs_etc);
    if files.is_empty() {
        return "No files are tracked.\n".to_owned();
    }
    let mut text = "Tracked files:\n".to_owned();
    for file in files {
        let _ = writeln!(text, "  {}", escape(file));
    }
    text
}

#[cfg(test)]
mod tests;
