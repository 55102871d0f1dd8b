//! What is deployed, as a short-lived worker read it: libostree can neither block nor end the
//! daemon.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use apt_ostree_ipc::{Error, Result};
use apt_ostree_model::client::{ClientOutcome, StatusRequest, Target};
use apt_ostree_model::compose::{Failure, Outcome, Request};
use apt_ostree_model::status::{Deployment, Status};

use crate::runner::Runner;

/// What could not be read is not tried again so soon.
const RETRY: Duration = Duration::from_secs(2);

/// The state of a sysroot at one time.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// What is deployed, or why that can't be told.
    status: std::result::Result<Status, Failure>,
    stamp: Stamp,
    at: Instant,
}

/// Changes whenever a program has changed the sysroot.
type Stamp = Vec<Option<(i64, i64, u64)>>;

impl Snapshot {
    /// What is deployed.
    ///
    /// # Errors
    /// [`Error::InvalidSysroot`].
    pub(crate) fn status(&self) -> Result<&Status> {
        self.status
            .as_ref()
            .map_err(|failure| Error::InvalidSysroot(failure.message.clone()))
    }

    /// The deployments, none when they can't be told.
    pub(crate) fn deployments(&self) -> &[Deployment] {
        self.status.as_ref().map_or(&[], |s| &s.deployments)
    }

    /// The stateroots that have deployments.
    pub(crate) fn stateroots(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .deployments()
            .iter()
            .map(|d| d.osname.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The booted deployment.
    pub(crate) fn booted(&self) -> Option<&Deployment> {
        self.deployments().iter().find(|d| d.booted)
    }
}

/// The newest snapshot.
#[derive(Debug)]
pub(crate) struct StatusCache {
    target: Target,
    current: RwLock<Option<Arc<Snapshot>>>,
    loading: tokio::sync::Mutex<()>,
}

impl StatusCache {
    pub(crate) fn new(sysroot: Option<PathBuf>) -> Self {
        Self {
            target: Target {
                sysroot,
                stateroot: None,
            },
            current: RwLock::new(None),
            loading: tokio::sync::Mutex::new(()),
        }
    }

    /// The physical root.
    pub(crate) fn sysroot(&self) -> &Path {
        self.target.sysroot.as_deref().unwrap_or(Path::new("/"))
    }

    /// What a request for `stateroot` names as its target.
    pub(crate) fn target(&self, stateroot: &str) -> Target {
        Target {
            sysroot: self.target.sysroot.clone(),
            stateroot: Some(stateroot.to_owned()),
        }
    }

    /// The snapshot, when it is not older than the last change of the sysroot.
    pub(crate) fn fresh(&self) -> Option<Arc<Snapshot>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let snapshot = current.clone()?;
        let failed_lately = snapshot.status.is_err() && snapshot.at.elapsed() < RETRY;
        let unchanged = snapshot.status.is_ok() && snapshot.stamp == stamp(self.sysroot());
        (failed_lately || unchanged).then_some(snapshot)
    }

    /// Reads the sysroot again, unless somebody else has just done so: whoever waits for a read
    /// that began after the call gets its result.
    pub(crate) async fn reload(&self, runner: &Runner) -> Arc<Snapshot> {
        let asked = Instant::now();
        let _guard = self.loading.lock().await;
        let known = self
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(known) = known.filter(|known| known.at > asked) {
            return known;
        }
        let at = Instant::now();
        let stamp = stamp(self.sysroot());
        let request = Request::Status(StatusRequest {
            target: self.target.clone(),
        });
        let status = match runner.query(&request).await {
            Ok(Outcome::Client(ClientOutcome::Status(status))) => Ok(*status),
            Ok(_) => Err(apt_ostree_ipc::worker::failed(
                "the worker gave another answer than a status",
            )),
            Err(failure) => Err(failure),
        };
        let snapshot = Arc::new(Snapshot { status, stamp, at });
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&snapshot));
        snapshot
    }
}

/// Times of what libostree touches with each change, and of what a check found.
fn stamp(sysroot: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt as _;
    let time = |path: PathBuf| {
        let meta = std::fs::symlink_metadata(path).ok()?;
        Some((meta.mtime(), meta.mtime_nsec(), meta.ino()))
    };
    vec![
        time(sysroot.join("ostree/deploy")),
        time(sysroot.join("boot/loader")),
        time(sysroot.join("ostree/repo/extensions/aptostree/cached-update.json")),
        time(PathBuf::from("/run/ostree/staged-deployment")),
        time(PathBuf::from("/run/ostree/staged-deployment-locked")),
    ]
}
