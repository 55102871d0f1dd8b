//! Deployments of a stateroot, and differences in packages between commits.

use std::collections::HashMap;

use apt_ostree_ipc::error::invalid;
use apt_ostree_ipc::options::{MAX_ITEM_BYTES, check_text};
use apt_ostree_ipc::{Error, Result};
use apt_ostree_model::client::{ClientOutcome, DbRequest};
use apt_ostree_model::compose::{Outcome, PackageDiff, Request};
use apt_ostree_model::status::Deployment;
use zbus::zvariant::{OwnedValue, Value};

use super::Os;
use super::os::properties;

/// Name, kind (0 added, 1 removed, 2 upgraded or changed, 3 downgraded) and packages.
pub(super) type Change = (String, u32, HashMap<String, OwnedValue>);

/// The deployments of this stateroot in boot order.
pub(super) async fn deployments(os: &Os) -> Result<Vec<Deployment>> {
    let snapshot = os.daemon.snapshot().await;
    let all = &snapshot.status()?.deployments;
    Ok(all
        .iter()
        .filter(|d| d.osname == os.name)
        .cloned()
        .collect())
}

/// Between two deployments; empty names mean the booted and the pending one.
pub(super) async fn deployments_diff(os: &Os, from: &str, to: &str) -> Result<Vec<Change>> {
    let own = deployments(os).await?;
    let find = |id: &str| {
        own.iter()
            .find(|d| d.id == id)
            .ok_or_else(|| unknown_deployment(id))
    };
    let from = match from {
        "" => own.iter().find(|d| d.booted).ok_or_else(none_booted)?,
        id => find(id)?,
    };
    let to = match to {
        "" => own.first().filter(|d| !d.booted).ok_or_else(|| {
            Error::Failed("no deployment is pending; name two deployments".into())
        })?,
        id => find(id)?,
    };
    diff(os, &from.checksum, &to.checksum).await
}

/// Between the booted (or default) deployment and a revision that is here already.
pub(super) async fn revision_diff(
    os: &Os,
    revision: &str,
    packages: &[String],
) -> Result<(Vec<Change>, HashMap<String, OwnedValue>)> {
    no_packages(packages)?;
    check_text("revision", revision, MAX_ITEM_BYTES)?;
    if revision.is_empty() {
        return Err(Error::InvalidRefspec("the revision is empty".into()));
    }
    let changes = diff(os, &current(os).await?, revision).await?;
    let details = HashMap::from([
        ("osname".to_owned(), owned(os.name.as_str().into())?),
        ("checksum".to_owned(), owned(revision.into())?),
    ]);
    Ok((changes, details))
}

/// What the last check found; `deployid` is what it was compared with, or empty.
pub(super) async fn cached_update_diff(
    os: &Os,
    deployid: &str,
) -> Result<(Vec<Change>, HashMap<String, OwnedValue>)> {
    let snapshot = os.daemon.snapshot().await;
    let update = snapshot
        .status()?
        .cached_update
        .as_ref()
        .filter(|update| update.osname == os.name)
        .ok_or_else(|| Error::Failed("no update is known; check for one first".into()))?;
    if !deployid.is_empty() && deployid != update.deployment {
        return Err(unknown_deployment(deployid));
    }
    let changes = diff(os, &current(os).await?, &update.checksum).await?;
    Ok((changes, properties(update)))
}

/// # Errors
/// There are packages: their difference would have to be computed by a solver.
pub(super) fn no_packages(packages: &[String]) -> Result<()> {
    match packages {
        [] => Ok(()),
        _ => Err(invalid(
            "'packages' must be empty; use UpdateDeployment with 'dry-run' for changes in layers",
        )),
    }
}

fn unknown_deployment(id: &str) -> Error {
    let id = apt_ostree_fsx::escape_cut(id, 128);
    Error::Failed(format!("there is no deployment '{id}'"))
}

fn none_booted() -> Error {
    Error::Failed("no deployment is booted; name two deployments".into())
}

/// The commit of the booted deployment, or of the default one.
async fn current(os: &Os) -> Result<String> {
    let own = deployments(os).await?;
    let found = own.iter().find(|d| d.booted).or_else(|| own.first());
    let missing = || Error::Failed(format!("stateroot '{}' has no deployments", os.name));
    found.map(|d| d.checksum.clone()).ok_or_else(missing)
}

async fn diff(os: &Os, from: &str, to: &str) -> Result<Vec<Change>> {
    let request = Request::Db(DbRequest {
        target: os.daemon.status.target(&os.name),
        revisions: vec![from.to_owned(), to.to_owned()],
        ..DbRequest::default()
    });
    match os.daemon.runner.query(&request).await {
        Ok(Outcome::Client(ClientOutcome::Diff { packages, .. })) => {
            packages.iter().map(change).collect()
        }
        Ok(_) => Err(Error::Failed("the worker gave no difference".into())),
        Err(failure) => Err(Error::Failed(failure.message)),
    }
}

fn change(diff: &PackageDiff) -> Result<Change> {
    let kind = match (&diff.previous, &diff.new) {
        (None, _) => 0,
        (_, None) => 1,
        (Some((old, _)), Some((new, _))) if is_older(new, old) => 3,
        _ => 2,
    };
    let mut packages = HashMap::new();
    for (key, side) in [
        ("PreviousPackage", &diff.previous),
        ("NewPackage", &diff.new),
    ] {
        if let Some((version, arch)) = side {
            let package = (diff.name.as_str(), version.as_str(), arch.as_str());
            packages.insert(key.to_owned(), owned(package.into())?);
        }
    }
    Ok((diff.name.clone(), kind, packages))
}

fn is_older(new: &str, old: &str) -> bool {
    match (
        new.parse::<debversion::Version>(),
        old.parse::<debversion::Version>(),
    ) {
        (Ok(new), Ok(old)) => new < old,
        _ => false,
    }
}

fn owned(value: Value<'_>) -> Result<OwnedValue> {
    value
        .try_into_owned()
        .map_err(|error| Error::Failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_get_the_numbers_of_rpm_ostree() {
        let kind = |previous: Option<&str>, new: Option<&str>| {
            let side = |version: Option<&str>| version.map(|v| (v.to_owned(), "all".to_owned()));
            let diff = PackageDiff {
                name: "x".into(),
                previous: side(previous),
                new: side(new),
            };
            let (_, kind, packages) = change(&diff).unwrap();
            (kind, packages.len())
        };
        assert_eq!(kind(None, Some("1")), (0, 1));
        assert_eq!(kind(Some("1"), None), (1, 1));
        assert_eq!(kind(Some("1~rc"), Some("1")), (2, 2));
        assert_eq!(kind(Some("1:1"), Some("2")), (3, 2));
    }
}
