//! Changes of the system that runs: an overlay layer on `/usr`, which a reboot forgets.
//!
//! A layer is complete before it is mounted, and mounting it is one call, so `/usr` is either as
//! before or as after. Layers are mounted over one another, each above the `/usr` that was
//! booted; who has opened files in a layer below keeps them.

use std::io::ErrorKind as IoKind;
use std::time::Duration;

use anyhow::{Context as _, Result};
use apt_ostree_fsx::Cmd;
use apt_ostree_model::{ErrorKind, Kinded};
use camino::{Utf8Path, Utf8PathBuf};
use ostree::gio;
use serde_json::{Value, json};

use crate::deployment::Deployment;
use crate::error::{self, invalid};
use crate::system::{LockedSysroot, Sysroot};

/// Where libostree keeps what is so until the next boot, by deployment.
const RUN_STATE: &str = "/run/ostree/deployment-state";
const STATE_FILE: &str = "aptostree-live.json";
/// libostree's own mark; with it, it does not put an overlay of its own over ours.
const UNLOCKED: &str = "unlocked-transient";
/// Where the root without what is mounted on it is shown for a moment.
const BOOTED_ROOT: &str = "/run/aptostree-booted-root";
/// What the table of mounts calls our overlays.
const SOURCE: &str = "aptostree-live";
/// Refs that keep commits which the running system shows.
const LIVE_REF: &str = "aptostree/live-apply";
const IN_PROGRESS_REF: &str = "aptostree/live-apply-inprogress";
/// How long a program of the system may take.
const LIMIT: Duration = Duration::from_secs(300);

/// The booted tree is looked up anew each time: below a live `/usr` it can't be seen. All that
/// leads to it is private, so that nobody else sees it, and its end is not the end of the overlay,
/// which else would be on both as they are one mount.
const MOUNT: &str = "mkdir -p \"$2\"
umount --lazy \"$2\" 2>/dev/null || true
mount -t tmpfs -o mode=0700 tmpfs \"$2\"
trap 'umount --lazy \"$2\"; rmdir \"$2\"' EXIT
mount --make-private \"$2\"
mkdir \"$2/root\"
mount --bind / \"$2/root\"
mount --make-private \"$2/root\"
mount -t overlay -o \"ro,lowerdir=$1:$2/root/usr\" aptostree-live /usr";

/// What the running system shows instead of the commit that was booted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiveState {
    /// The commit that is applied; `None`: the booted one.
    pub live: Option<String>,
    /// The commit that somebody began to apply; the booted one as well.
    pub in_progress: Option<String>,
}

impl Sysroot {
    /// What the running system shows; nothing special when this one does not run.
    ///
    /// # Errors
    /// When the record can't be read.
    pub fn live_state(&self) -> Result<LiveState> {
        let Some(booted) = self.booted() else {
            return Ok(LiveState::default());
        };
        let path = run_state(&booted).join(STATE_FILE);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == IoKind::NotFound => return Ok(LiveState::default()),
            text => text.with_context(|| format!("reading '{path}'"))?,
        };
        let value: Value =
            serde_json::from_str(&text).with_context(|| format!("reading '{path}'"))?;
        let commit = |key: &str| value[key].as_str().map(str::to_owned);
        Ok(LiveState {
            live: commit("live"),
            in_progress: commit("in-progress"),
        })
    }

    /// The deployment that runs.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSysroot`] when this system does not run.
    pub fn require_booted(&self) -> Result<Deployment> {
        self.booted().ok_or_else(|| {
            let message = format!("the system at '{}' does not run", self.path());
            Kinded::new(ErrorKind::InvalidSysroot, message)
                .with_hint("only the running system can be changed live: leave out --sysroot")
                .into()
        })
    }

    /// Refuses to change a running system whose `/usr` somebody else has unlocked.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] then.
    pub fn require_not_unlocked(&self, booted: &Deployment) -> Result<()> {
        let state = booted.unlocked();
        if state == "none" || self.live_state()? != LiveState::default() {
            return Ok(());
        }
        let message = format!("/usr was unlocked by hand ({state})");
        Err(invalid(message)
            .with_hint("reboot first: changes that were made there go then")
            .into())
    }
}

fn run_state(booted: &Deployment) -> Utf8PathBuf {
    Utf8Path::new(RUN_STATE).join(format!("{}.{}", booted.commit(), booted.serial()))
}

impl LockedSysroot {
    /// Writes down what the running system shows, or is about to. The commits are kept from here
    /// on.
    ///
    /// # Errors
    /// When that can't be written; the old state is told then.
    pub fn set_live_state(&self, state: &LiveState) -> Result<()> {
        let dir = run_state(&self.require_booted()?);
        let (path, mark) = (dir.join(STATE_FILE), dir.join(UNLOCKED));
        if *state == LiveState::default() {
            remove(&mark)?;
            remove(&path)?;
        } else {
            self.set_live_refs(state)?;
            std::fs::create_dir_all(&dir)
                .and_then(|()| std::fs::write(&mark, ""))
                .with_context(|| format!("writing '{mark}'"))?;
            let value = json!({"live": state.live, "in-progress": state.in_progress});
            apt_ostree_fsx::write_atomic(&path, value.to_string().as_bytes(), 0o644)
                .with_context(|| format!("writing '{path}'"))?;
        }
        self.set_live_refs(state)?;
        self.touch()
    }

    fn set_live_refs(&self, state: &LiveState) -> Result<()> {
        for (name, commit) in [
            (LIVE_REF, &state.live),
            (IN_PROGRESS_REF, &state.in_progress),
        ] {
            if self.resolve_ref(name)? == *commit {
                continue;
            }
            self.repo()
                .set_ref_immediate(None, name, commit.as_deref(), gio::Cancellable::NONE)
                .map_err(|e| error::ostree(&e))
                .with_context(|| format!("setting ref '{name}'"))?;
        }
        Ok(())
    }

    /// Tells everyone who watches for changes of deployments.
    fn touch(&self) -> Result<()> {
        let path = self.path().join("ostree/deploy");
        let now = rustix::fs::Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_NOW,
        };
        let times = rustix::fs::Timestamps {
            last_access: now,
            last_modification: now,
        };
        rustix::fs::utimensat(
            rustix::fs::CWD,
            path.as_str(),
            &times,
            rustix::fs::AtFlags::empty(),
        )
        .with_context(|| format!("touching '{path}'"))
    }

    /// An empty directory in which a layer can be made; it stays while it is mounted, and goes
    /// with the next call after that.
    ///
    /// # Errors
    /// When it can't be made, or old ones can't be removed.
    pub fn live_layer(&self) -> Result<Utf8PathBuf> {
        self.remove_old_layers()?;
        let parent = self.layers();
        std::fs::create_dir_all(&parent).with_context(|| format!("creating '{parent}'"))?;
        let mut number = 0;
        loop {
            let path = parent.join(number.to_string());
            match std::fs::create_dir(&path) {
                Err(error) if error.kind() == IoKind::AlreadyExists => number += 1,
                made => {
                    made.with_context(|| format!("creating '{path}'"))?;
                    return Ok(path);
                }
            }
        }
    }

    fn layers(&self) -> Utf8PathBuf {
        self.repo_path().join("extensions/aptostree/live")
    }

    /// Removes layers that are not mounted, and, when nothing is applied, the refs of what was.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn remove_old_layers(&self) -> Result<()> {
        if self.booted().is_none() {
            // Whoever runs this system uses them.
            return Ok(());
        }
        let state = self.live_state()?;
        if state == LiveState::default() {
            self.set_live_refs(&state)?;
        }
        let parent = self.layers();
        let layers: Vec<_> = match parent.read_dir_utf8() {
            Err(error) if error.kind() == IoKind::NotFound => return Ok(()),
            layers => layers.and_then(Iterator::collect::<std::io::Result<_>>),
        }
        .with_context(|| format!("reading '{parent}'"))?;
        if layers.is_empty() {
            return Ok(());
        }
        let table = mount_table()?;
        let mounted: Vec<&str> = on_usr(&table).iter().filter_map(|m| m.layer).collect();
        for layer in layers {
            let path = layer.path();
            if !mounted.contains(&path.as_str()) {
                apt_ostree_fsx::remove_tree(path).with_context(|| format!("removing '{path}'"))?;
            }
        }
        Ok(())
    }

    /// Shows `layer` above the booted `/usr` to the whole system, in one step.
    ///
    /// # Errors
    /// When it can't be mounted; `/usr` is as before then.
    pub fn mount_live(&self, layer: &Utf8Path) -> Result<()> {
        let script = ["sh", "-ec", MOUNT, "sh", layer.as_str(), BOOTED_ROOT];
        in_system(&script).context("mounting an overlay on '/usr'")?;
        Ok(())
    }

    /// Shows the booted `/usr` again.
    ///
    /// # Errors
    /// When a layer can't be unmounted; one that was applied before may be seen then.
    pub fn unmount_live(&self) -> Result<()> {
        while is_live(&mount_table()?) {
            in_system(&["umount", "--lazy", "/usr"]).context("unmounting the overlay on '/usr'")?;
        }
        Ok(())
    }
}

fn remove(path: &Utf8Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != IoKind::NotFound => {
            Err(error).with_context(|| format!("removing '{path}'"))
        }
        _ => Ok(()),
    }
}

/// Runs a program outside of this process's mounts and limits, as a service of the system. Returns
/// its output.
///
/// # Errors
/// When it fails, or systemd does not run.
pub fn in_system(args: &[&str]) -> Result<Vec<u8>> {
    let run = Cmd::new("systemd-run")
        .args(["--quiet", "--collect", "--wait", "--pipe", "--"])
        .args(args)
        .timeout(LIMIT)
        .run()
        .map_err(Kinded::from)?;
    Ok(run.stdout)
}

/// The mounts of the system, not those of this process.
fn mount_table() -> Result<String> {
    let table = in_system(&["cat", "/proc/self/mountinfo"]).context("reading the mounts")?;
    Ok(String::from_utf8_lossy(&table).into_owned())
}

/// One line of the table of mounts.
#[derive(Debug)]
struct Mount<'t> {
    id: &'t str,
    parent: &'t str,
    /// The layer that it shows, when it is an overlay of ours.
    layer: Option<&'t str>,
}

/// What is mounted on `/usr`. The kernel shows an overlay of ours twice where `/` and `/usr` are
/// parts of one mount.
fn on_usr(table: &str) -> Vec<Mount<'_>> {
    let mount = |line| -> Option<Mount<'_>> {
        let (place, kind) = str::split_once(line, " - ")?;
        let place: Vec<&str> = place.split(' ').collect();
        let mut kind = kind.split(' ');
        let ours = (kind.next(), kind.next()) == (Some("overlay"), Some(SOURCE));
        let lower = kind
            .next()?
            .split(',')
            .find_map(|option| option.strip_prefix("lowerdir="));
        let layer = lower.and_then(|lower| lower.split(':').next());
        (*place.get(4)? == "/usr").then_some(Mount {
            id: place[0],
            parent: place[1],
            layer: layer.filter(|_| ours),
        })
    };
    table.lines().filter_map(mount).collect()
}

/// Whether what is seen at `/usr` is ours.
fn is_live(table: &str) -> bool {
    let mounts = on_usr(table);
    let covered = |mount: &Mount<'_>| mounts.iter().any(|other| other.parent == mount.id);
    let mut top = mounts.iter().filter(|mount| !covered(mount));
    top.any(|mount| mount.layer.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_layers_are_found_among_all_mounts() {
        let table = "22 1 8:1 /usr /usr ro - ext4 /dev/sda1 rw\n\
            40 22 0:50 / /usr ro,relatime shared:1 - overlay aptostree-live ro,lowerdir=/ostree/repo/x/0:/run/r/usr\n\
            41 40 0:51 / /usr ro,relatime - overlay aptostree-live ro,lowerdir=/ostree/repo/x/1:/run/r/usr\n\
            42 41 0:52 / /usr rw - overlay overlay rw,lowerdir=usr,upperdir=u\n\
            43 41 0:53 / /mnt ro - overlay aptostree-live ro,lowerdir=/y:/z\n";
        let layers: Vec<&str> = on_usr(table).iter().filter_map(|m| m.layer).collect();
        assert_eq!(layers, ["/ostree/repo/x/0", "/ostree/repo/x/1"]);
        assert!(!is_live(table));
        let without = |id: &str| -> String {
            let lines = table.lines().filter(|line| !line.starts_with(id));
            lines.map(|line| format!("{line}\n")).collect()
        };
        assert!(is_live(&without("42 ")));
        assert!(!is_live("22 1 8:1 /usr /usr ro - ext4 /dev/sda1 rw\n"));
    }
}
