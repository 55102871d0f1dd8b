//! Limits how many processes a run may have.
//!
//! Since Linux 6.14 each process namespace has a highest process number of its own, which costs
//! nothing. Before, a cgroup does it, where the system lets us make one; moving a process there
//! takes some ten milliseconds.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use camino::{Utf8Path, Utf8PathBuf};

const PREFIX: &str = "apt-ostree-sandbox-";

/// Whether `kernel.pid_max` belongs to the process namespace and not to the whole machine.
pub(crate) fn namespaces_have_pid_max() -> bool {
    let uname = rustix::system::uname();
    uname.release().to_str().is_ok_and(has_own_pid_max)
}

fn has_own_pid_max(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(14))
}

/// A cgroup for one run; dropping it removes it.
#[derive(Debug)]
pub(crate) struct Cgroup(Utf8PathBuf);

impl Cgroup {
    /// Makes a cgroup for at most `max_pids` processes; none when the system has no such
    /// controller for us. The time limit of a run then still bounds the damage.
    pub(crate) fn create(max_pids: u32) -> Option<Self> {
        let parent = pids_parent()?;
        sweep(&parent);
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{PREFIX}{}-{count}", std::process::id()));
        let made = fs::create_dir(&path).map(|()| Self(path));
        let limited = made.and_then(|group| {
            fs::write(group.0.join("pids.max"), max_pids.to_string())?;
            Ok(group)
        });
        limited
            .inspect_err(|error| tracing::debug!("running without a process limit: {error}"))
            .ok()
    }

    /// The file that a process writes itself into.
    pub(crate) fn procs_file(&self) -> Utf8PathBuf {
        self.0.join("cgroup.procs")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            tracing::debug!("leaving '{}' behind: {error}", self.0);
        }
    }
}

/// The directory in which a new cgroup gets the pids controller.
fn pids_parent() -> Option<Utf8PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let parent = find_parent(&groups, &mounts)?;
    // The second version offers a controller only where the parent hands it on.
    let control = parent.join("cgroup.subtree_control");
    match fs::read_to_string(control) {
        Ok(text) => text
            .split_whitespace()
            .any(|c| c == "pids")
            .then_some(parent),
        Err(_) => parent.is_dir().then_some(parent),
    }
}

/// Below our own cgroup in the first version; beside it in the second, where a cgroup can't have
/// both processes and limited children.
fn find_parent(groups: &str, mounts: &str) -> Option<Utf8PathBuf> {
    let own = |wanted: &dyn Fn(&str) -> bool| {
        groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            wanted(controllers).then_some(path)
        })
    };
    let first = own(&|controllers| controllers.split(',').any(|c| c == "pids"));
    if let Some(path) = first {
        return below_mount(mounts, "cgroup", Some("pids"), Utf8Path::new(path));
    }
    let path = Utf8Path::new(own(&str::is_empty)?);
    below_mount(mounts, "cgroup2", None, path.parent().unwrap_or(path))
}

/// Where `path` of the hierarchy is mounted.
fn below_mount(
    mounts: &str,
    kind: &str,
    option: Option<&str>,
    path: &Utf8Path,
) -> Option<Utf8PathBuf> {
    mounts.lines().find_map(|line| {
        let (place, source) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, mountpoint) = (place.next()?, place.next()?);
        let mut source = source.split(' ');
        let options = source.clone().nth(2)?;
        if source.next() != Some(kind)
            || option.is_some_and(|o| !options.split(',').any(|x| x == o))
        {
            return None;
        }
        Some(Utf8Path::new(mountpoint).join(path.strip_prefix(root).ok()?))
    })
}

/// Removes the empty cgroups of processes that are gone.
fn sweep(parent: &Utf8Path) {
    let Ok(entries) = parent.read_dir_utf8() else {
        return;
    };
    for entry in entries.flatten() {
        let pid = entry
            .file_name()
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Utf8Path::new("/proc").join(pid).exists()) {
            // One that is not empty belongs to processes on their way out: the next sweep gets it.
            drop(fs::remove_dir(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw
26 25 0:23 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
27 25 0:24 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw
";

    #[test]
    fn kernel_versions_are_compared_by_number() {
        for (release, has) in [
            ("6.14", true),
            ("6.18.44-x", true),
            ("7.0-rc1", true),
            ("6.12.57+deb13-amd64", false),
            ("6.1.0-9-amd64", false),
            ("5.100", false),
            ("odd", false),
        ] {
            assert_eq!(has_own_pid_max(release), has, "{release}");
        }
    }

    #[test]
    fn cgroup_limits_processes_and_goes_away() {
        let Some(group) = Cgroup::create(5) else {
            #[expect(clippy::print_stderr, reason = "a skipped test must show")]
            {
                eprintln!("SKIPPED: no pids cgroup for us here");
            }
            return;
        };
        let path = group.0.clone();
        let script = format!(
            "echo 0 > {}; for n in 1 2 3 4 5 6 7 8 9; do sleep 100 & done; wait",
            group.procs_file()
        );
        let ended = apt_ostree_fsx::Cmd::new("sh").args(["-c", &script]);
        let ended = ended.timeout(std::time::Duration::from_secs(10)).run();
        let message = ended.unwrap_err().to_string();
        assert!(message.to_lowercase().contains("fork"), "{message}");
        drop(group);
        for _ in 0..100 {
            // What was killed may take a moment to go; the next run would sweep then.
            if fs::remove_dir(&path).is_ok() || !path.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("'{path}' is still there");
    }

    #[test]
    fn first_version_goes_below_our_own_cgroup() {
        let groups = "5:pids:/a/b\n1:name=systemd:/\n0::/\n";
        assert_eq!(
            find_parent(groups, MOUNTS).unwrap(),
            "/sys/fs/cgroup/pids/a/b"
        );
    }

    #[test]
    fn second_version_goes_beside_our_own_cgroup() {
        let groups = "0::/system.slice/x.service\n";
        assert_eq!(
            find_parent(groups, MOUNTS).unwrap(),
            "/sys/fs/cgroup/unified/system.slice"
        );
        assert_eq!(
            find_parent("0::/\n", MOUNTS).unwrap(),
            "/sys/fs/cgroup/unified/"
        );
    }

    #[test]
    fn a_mount_of_a_part_of_the_hierarchy_is_understood() {
        let mounts = "26 25 0:23 /docker/x /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
        assert_eq!(
            find_parent("5:pids:/docker/x/y\n", mounts).unwrap(),
            "/sys/fs/cgroup/pids/y"
        );
        assert_eq!(find_parent("5:pids:/other\n", mounts), None);
    }
}
