//! The end of a change of a system in words.

use apt_ostree_fsx::escape;
use apt_ostree_model::client::{ClientOutcome, DeployReport, LiveReport};
use apt_ostree_model::compose::Request;

use super::fields::Fields;
use super::packages::{pkgdiff_counts, pkgdiff_text};
use crate::format::bytes;

/// What the words depend on beside the outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ending {
    /// Another system than the running one was changed.
    pub offline: bool,
    /// The deployment waits for `finalize-deployment`.
    pub locked: bool,
    /// The difference in packages was asked for.
    pub preview: bool,
}

impl Ending {
    /// What follows from what was asked.
    pub fn of(request: &Request) -> Self {
        let of = |target: &apt_ostree_model::client::Target, locked| Self {
            offline: target
                .sysroot
                .as_ref()
                .is_some_and(|path| path.as_os_str() != "/"),
            locked,
            ..Self::default()
        };
        match request {
            Request::Update(request) => Self {
                preview: request.preview,
                ..of(&request.target, request.options.lock_finalization)
            },
            Request::Rollback(request) => of(&request.target, false),
            Request::Kargs(request) => of(&request.target, request.options.lock_finalization),
            Request::Initramfs(request) => of(&request.target, request.options.lock_finalization),
            Request::InitramfsEtc(request) => {
                of(&request.target, request.options.lock_finalization)
            }
            Request::Finalize(request) => of(&request.target, false),
            Request::Cleanup(request) => of(&request.target, false),
            Request::RefreshMd(request) => of(&request.target, false),
            _ => Self::default(),
        }
    }
}

/// What came of a change, in lines.
pub fn client_text(outcome: &ClientOutcome, ending: Ending) -> String {
    match outcome {
        ClientOutcome::Unchanged { message } => escape(message) + "\n",
        ClientOutcome::Deployed(report) => {
            let live = report.live.as_ref().map_or_else(String::new, live_notes);
            pkgdiff_text(&report.pkgdiff) + &live + &deployed_line(report, ending)
        }
        ClientOutcome::Live(report) => {
            let line = if report.reset {
                "The running system is as it was booted.\n"
            } else {
                "Changes are applied to the running system.\n"
            };
            pkgdiff_text(&report.pkgdiff) + &live_notes(report) + line
        }
        ClientOutcome::Planned(report) => {
            let diff = pkgdiff_text(&report.pkgdiff);
            if diff.is_empty() {
                "No packages change.\n".to_owned()
            } else {
                diff
            }
        }
        ClientOutcome::Available(report) => available_text(report, ending.preview),
        ClientOutcome::Downloaded { bytes: size } => format!("Downloaded {}.\n", bytes(*size)),
        ClientOutcome::Cleaned {
            bytes: size,
            deployments,
        } => cleaned_text(*size, *deployments),
        ClientOutcome::Kargs { kargs } => kargs_text(kargs),
        ClientOutcome::Refreshed { sources } => match sources.len() {
            1 => "The package index of 1 source is up to date.\n".to_owned(),
            count => format!("The package indices of {count} sources are up to date.\n"),
        },
        ClientOutcome::Changed { pkgdiff } => {
            let text = pkgdiff_text(pkgdiff);
            if text.is_empty() {
                "No packages changed.\n".to_owned()
            } else {
                text
            }
        }
        // Their verbs print them.
        ClientOutcome::Status(_)
        | ClientOutcome::Packages { .. }
        | ClientOutcome::Diff { .. }
        | ClientOutcome::Found { .. }
        | ClientOutcome::Sources { .. }
        | ClientOutcome::BootConfig { .. }
        | ClientOutcome::Linted { .. } => String::new(),
    }
}

fn deployed_line(report: &DeployReport, ending: Ending) -> String {
    let checksum = escape(&report.checksum);
    if report.reboot {
        "Rebooting.\n".to_owned()
    } else if ending.locked {
        format!(
            "Changes are locked. Run \"apt-ostree finalize-deployment {checksum}\" to reboot into \
             them\n"
        )
    } else if report.live.is_some() {
        "Changes are applied to the running system and boot next\n".to_owned()
    } else if ending.offline {
        format!("Deployed {checksum}\n")
    } else {
        "Changes queued for next boot. Run \"systemctl reboot\" to start a reboot\n".to_owned()
    }
}

/// What is left to do after the running system was changed.
fn live_notes(report: &LiveReport) -> String {
    let mut text = String::new();
    let mut list = |title: &str, items: &[String]| {
        if !items.is_empty() {
            text.push_str(title);
            for item in items {
                text.push_str(&format!("  {}\n", escape(item)));
            }
        }
    };
    list(
        "Files of /etc that were changed by hand and stay as they are:\n",
        &report.kept,
    );
    list(
        "Services that still run what was there before; restart or stop them:\n",
        &report.restart,
    );
    list(
        "Enabled units that don't run yet; start them with \"systemctl start\":\n",
        &report.start,
    );
    text
}

fn available_text(report: &DeployReport, preview: bool) -> String {
    let mut fields = Fields::default();
    fields.push_some("Version", report.version.as_deref());
    if !report.checksum.is_empty() {
        fields.push("Commit", &report.checksum);
    }
    fields.push_some("Diff", pkgdiff_counts(&report.pkgdiff).as_deref());
    let mut text = String::from("AvailableUpdate:\n");
    fields.write(&mut text, fields.label_width(), None);
    if preview {
        text.push_str(&pkgdiff_text(&report.pkgdiff));
    }
    text
}

fn cleaned_text(size: u64, deployments: usize) -> String {
    let mut text = match deployments {
        0 => "Deployments unchanged.\n".to_owned(),
        1 => "Removed 1 deployment.\n".to_owned(),
        count => format!("Removed {count} deployments.\n"),
    };
    if size > 0 {
        text.push_str(&format!("Freed: {}\n", bytes(size)));
    }
    text
}

/// Kernel arguments as one line.
pub(crate) fn kargs_text(kargs: &str) -> String {
    escape(kargs.trim()) + "\n"
}
