//! Services that still run what was there before, and units that nobody has started yet.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use apt_ostree_sysroot::in_system;

use super::changes::Changes;

/// Which files of `/usr` each process has mapped, and which unit it belongs to.
const LOOK: &str = "grep -s -o ' /usr/.*' /proc/[0-9]*/maps | sort -u
grep -s . /proc/[0-9]*/cgroup || true";

/// What runs.
#[derive(Debug, Default)]
pub(super) struct Running {
    /// Files below `/usr` that the processes of a service have mapped.
    files: BTreeMap<String, BTreeSet<String>>,
}

impl Running {
    /// Looks at all processes.
    pub(super) fn look() -> Result<Self> {
        let text = in_system(&["sh", "-c", LOOK]).context("looking at processes")?;
        Ok(Self::parse(&String::from_utf8_lossy(&text)))
    }

    fn parse(text: &str) -> Self {
        let (mut files, mut units) = (Vec::new(), BTreeMap::new());
        for line in text.lines() {
            let Some((process, rest)) = line.strip_prefix("/proc/").and_then(|l| l.split_once('/'))
            else {
                continue;
            };
            if let Some(path) = rest.strip_prefix("maps: /usr/") {
                files.push((process, path.strip_suffix(" (deleted)").unwrap_or(path)));
            } else if let Some(group) = rest.strip_prefix("cgroup:")
                && let Some(unit) = service(group)
            {
                units.insert(process, unit);
            }
        }
        let mut running = Self::default();
        for unit in units.values() {
            running.files.entry((*unit).to_owned()).or_default();
        }
        for (process, path) in files {
            if let Some(unit) = units.get(process)
                && let Some(files) = running.files.get_mut(*unit)
            {
                files.insert(path.to_owned());
            }
        }
        running
    }

    /// Services that run a file which is another one now, or whose unit is.
    pub(super) fn outdated(&self, changes: &Changes) -> Vec<String> {
        let replaced = |path: &String| changes.0.get(path).is_some_and(|change| change.replaced);
        let unit_changed = |unit: &str| {
            ["lib/systemd/system", "etc/systemd/system"]
                .iter()
                .any(|dir| {
                    let file = changes.0.get(&format!("{dir}/{unit}"));
                    file.is_some_and(|change| change.replaced)
                        || changes.touch(&[&format!("{dir}/{unit}.d")])
                })
        };
        let outdated = self
            .files
            .iter()
            .filter(|(unit, files)| files.iter().any(replaced) || unit_changed(unit));
        outdated.map(|(unit, _)| unit.clone()).collect()
    }
}

/// The service of the system that a line of `/proc/PID/cgroup` is of.
fn service(group: &str) -> Option<&str> {
    let path = group.splitn(3, ':').nth(2)?;
    let (_, below) = path.split_once("/system.slice/")?;
    below.split('/').find(|part| part.ends_with(".service"))
}

/// Units that are enabled now, were not before and don't run.
pub(super) fn enabled(changes: &Changes, running: &Running) -> Vec<String> {
    let links = ["etc/systemd/system", "lib/systemd/system"]
        .into_iter()
        .flat_map(|dir| changes.below(dir));
    let unit = |(path, change): (&str, super::changes::Change)| {
        let (dir, name) = path.split_once('/')?;
        let wanted = dir.ends_with(".wants") || dir.ends_with(".requires");
        let new = change.new && !change.old && wanted && !name.contains('@');
        (new && !running.files.contains_key(name)).then(|| name.to_owned())
    };
    let units: BTreeSet<String> = links.filter_map(unit).collect();
    units.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::changes::Change;
    use super::*;

    fn changes(list: &[(&str, bool, bool)]) -> Changes {
        let change = |&(path, old, new): &(&str, bool, bool)| {
            let change = Change {
                old,
                replaced: old,
                new,
            };
            (path.to_owned(), change)
        };
        Changes(list.iter().map(change).collect())
    }

    fn running() -> Running {
        Running::parse(
            "/proc/7/maps: /usr/lib/libz.so.1\n/proc/7/maps: /usr/sbin/tinyproxy (deleted)\n\
             /proc/8/maps: /usr/bin/cron\n/proc/9/maps: /usr/sbin/tinyproxy\n\
             /proc/7/cgroup:0::/system.slice/tinyproxy.service\n\
             /proc/8/cgroup:1:name=systemd:/payload/system.slice/cron.service/sub\n\
             /proc/9/cgroup:0::/user.slice/user-0.slice/session-1.scope\nnoise\n",
        )
    }

    #[test]
    fn services_with_other_files_or_units_are_outdated() {
        let running = running();
        assert!(
            running
                .outdated(&changes(&[("sbin/tinyproxy", false, true)]))
                .is_empty()
        );
        for path in ["sbin/tinyproxy", "lib/libz.so.1"] {
            let changed = changes(&[(path, true, true)]);
            assert_eq!(running.outdated(&changed), ["tinyproxy.service"], "{path}");
        }
        for path in [
            "lib/systemd/system/cron.service",
            "lib/systemd/system/cron.service.d/limit.conf",
        ] {
            let changed = changes(&[(path, true, false)]);
            assert_eq!(running.outdated(&changed), ["cron.service"], "{path}");
        }
    }

    #[test]
    fn units_that_were_enabled_and_do_not_run_are_told() {
        let changed = changes(&[
            (
                "etc/systemd/system/multi-user.target.wants/cron.service",
                false,
                true,
            ),
            (
                "etc/systemd/system/multi-user.target.wants/new.service",
                false,
                true,
            ),
            (
                "etc/systemd/system/timers.target.wants/old.timer",
                true,
                true,
            ),
            (
                "lib/systemd/system/sockets.target.wants/new.socket",
                false,
                true,
            ),
            ("lib/systemd/system/plain.service", false, true),
        ]);
        assert_eq!(enabled(&changed, &running()), ["new.service", "new.socket"]);
    }
}
