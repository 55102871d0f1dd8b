//! What the journal is told: `ex history` reads it.

use std::os::unix::fs::MetadataExt as _;

use apt_ostree_fsx::journal;
use apt_ostree_model::journal::DEPLOYMENT_MADE;
use apt_ostree_model::origin::Origin;
use apt_ostree_sysroot::{CommitInfo, Deployment, LockedSysroot};

/// Tells of a new deployment. Where no journal runs, nobody is told.
pub(super) fn deployed(
    sysroot: &LockedSysroot,
    deployment: &Deployment,
    (commit, origin): (&CommitInfo, &Origin),
    command_line: &str,
) {
    if sysroot.booted().is_none() {
        // Not the system whose journal this is.
        return;
    }
    let path = sysroot.deployment_path(deployment);
    let meta = path.metadata().ok();
    let number = |get: fn(&std::fs::Metadata) -> u64| meta.as_ref().map(get).unwrap_or_default();
    let message = format!("Made deployment {}", deployment.id());
    let followed = origin.follows.as_ref().map(ToString::to_string);
    let sent = journal::send(&[
        ("MESSAGE", &message),
        ("MESSAGE_ID", DEPLOYMENT_MADE),
        ("PRIORITY", "6"),
        ("SYSLOG_IDENTIFIER", "apt-ostree"),
        ("DEPLOYMENT_PATH", path.as_str()),
        ("DEPLOYMENT_DEVICE", &number(|m| m.dev()).to_string()),
        ("DEPLOYMENT_INODE", &number(|m| m.ino()).to_string()),
        ("DEPLOYMENT_OSNAME", &deployment.stateroot()),
        ("DEPLOYMENT_CHECKSUM", &commit.checksum),
        ("DEPLOYMENT_TIMESTAMP", &commit.timestamp.to_string()),
        (
            "DEPLOYMENT_VERSION",
            commit.version.as_deref().unwrap_or_default(),
        ),
        (
            "DEPLOYMENT_REFSPEC",
            followed.as_deref().unwrap_or_default(),
        ),
        ("COMMAND_LINE", command_line),
    ]);
    if let Err(error) = sent {
        tracing::debug!("no journal takes the new deployment: {error}");
    }
}
