//! apt of the image, run in place.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, anyhow};
use apt_ostree_fsx::Cmd;
use apt_ostree_model::client::UpdateRequest;
use apt_ostree_model::compose::PackageDiff;
use apt_ostree_model::{ErrorKind, Event, Kinded, Reporter};
use camino::Utf8PathBuf;

/// Of the image, not what may explain it on a booted machine.
const APT_GET: &str = "/usr/bin/apt-get";
const PREFERENCES: &str = "/etc/apt/preferences.d/zz-apt-ostree.pref";
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str = "#!/bin/sh\n# No service starts while an image is built.\nexit 101\n";

/// A file that is there as long as this value.
struct Temporary(&'static str);

impl Temporary {
    /// `None` when somebody else's is there.
    fn write(path: &'static str, text: &str, mode: u32) -> Result<Option<Self>> {
        if std::fs::symlink_metadata(path).is_ok() {
            return Ok(None);
        }
        apt_ostree_fsx::write_atomic(path.into(), text.as_bytes(), mode)
            .with_context(|| format!("writing '{path}'"))?;
        Ok(Some(Self(path)))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Postprocessing removes it as well.
        drop(std::fs::remove_file(self.0));
    }
}

/// One change of packages.
pub(super) struct Change {
    /// What `apt-get install` is given: requests, paths of files, and names with `-` to remove.
    targets: Vec<String>,
    /// Names of packages that may go.
    removed: BTreeSet<String>,
    options: Vec<String>,
    pins: String,
}

impl Change {
    /// What a request comes to.
    pub(super) fn new(request: &UpdateRequest, recommends: Option<bool>) -> Result<Self> {
        let removals = request.uninstall.iter().chain(&request.override_remove);
        let removed: BTreeSet<String> = removals.cloned().collect();
        let mut targets = request.install.clone();
        let files = request.install_local.iter();
        for file in files.chain(&request.override_replace_local) {
            let path = std::path::absolute(&file.path)?;
            let path = Utf8PathBuf::try_from(path).context("the path of a package")?;
            targets.push(path.into_string());
        }
        let mut pins = String::new();
        for source in &request.override_replace {
            let pin = match source.from.split_once('=') {
                Some(("suite", suite)) => {
                    [format!("release n={suite}"), format!("release a={suite}")]
                }
                Some(("origin", origin)) => [format!("release o={origin}"), String::new()],
                _ => return Err(anyhow!("'{}' is no source", source.from.escape_debug())),
            };
            for package in &source.packages {
                for pin in pin.iter().filter(|pin| !pin.is_empty()) {
                    pins.push_str(&format!(
                        "Package: {package}\nPin: {pin}\nPin-Priority: 1001\n\n"
                    ));
                }
                targets.push(package.clone());
            }
        }
        targets.extend(removed.iter().map(|name| format!("{name}-")));
        let mut options: Vec<String> = [
            "-y",
            "-q",
            "--allow-downgrades",
            "-oDpkg::Options::=--force-confdef",
            "-oDpkg::Options::=--force-confold",
            "-oDpkg::Use-Pty=0",
        ]
        .map(str::to_owned)
        .into();
        if request.force_replace_files {
            options.push("-oDpkg::Options::=--force-overwrite".to_owned());
        }
        if request.options.cache_only {
            options.push("--no-download".to_owned());
        }
        if let Some(recommends) = recommends {
            options.push(format!("-oAPT::Install-Recommends={recommends}"));
        }
        Ok(Self {
            targets,
            removed,
            options,
            pins,
        })
    }

    /// What would happen.
    ///
    /// # Errors
    /// When packages would be removed that nobody named, and when apt can't do it.
    pub(super) fn simulate(&self) -> Result<Vec<PackageDiff>> {
        let _pins = self.write_pins()?;
        let command = self.command(&["-s"]);
        let output = command.run().map_err(Kinded::from)?;
        let plan = parse_plan(&String::from_utf8_lossy(&output.stdout));
        let lost: Vec<&str> = plan
            .iter()
            .filter(|diff| diff.new.is_none() && !self.removed.contains(&diff.name))
            .map(|diff| diff.name.as_str())
            .collect();
        if lost.is_empty() {
            return Ok(plan);
        }
        let message = format!("that would also remove {}", lost.join(", "));
        Err(Kinded::new(ErrorKind::Unsatisfiable, message)
            .with_hint(format!(
                "to remove them on purpose, name them: apt-ostree override remove {}",
                lost.join(" ")
            ))
            .into())
    }

    /// Does it.
    pub(super) fn run(&self, reporter: &dyn Reporter) -> Result<()> {
        let _pins = self.write_pins()?;
        let _policy = Temporary::write(POLICY, POLICY_TEXT, 0o755)?;
        stream(self.command(&[]), reporter)
    }

    fn write_pins(&self) -> Result<Option<Temporary>> {
        if self.pins.is_empty() {
            return Ok(None);
        }
        Temporary::write(PREFERENCES, &self.pins, 0o644)
    }

    fn command(&self, more: &[&str]) -> Cmd {
        apt_get()
            .args(self.options.clone())
            .args(more.iter().copied())
            .args(["install", "--"])
            .args(self.targets.clone())
    }
}

/// Fetches package indices.
pub(super) fn refresh(reporter: &dyn Reporter) -> Result<()> {
    let strict = "-oAPT::Update::Error-Mode=any";
    stream(apt_get().args(["-q", strict, "update"]), reporter)
}

fn apt_get() -> Cmd {
    let command = Cmd::new(APT_GET)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // The initramfs is made once, at the end.
        .env("INITRD", "No");
    let passed = ["http_proxy", "https_proxy", "no_proxy", "SOURCE_DATE_EPOCH"];
    passed.iter().fold(command, |c, name| c.inherit_env(name))
}

/// Runs a program with its output shown.
pub(super) fn stream(command: Cmd, reporter: &dyn Reporter) -> Result<()> {
    let mut show = |line: &str| {
        reporter.report(Event::Output {
            source: "apt".to_owned(),
            line: line.to_owned(),
        });
    };
    command.stream(&mut show).map_err(Kinded::from)?;
    Ok(())
}

/// The lines `Inst NAME [OLD] (NEW ...)` and `Remv NAME [OLD]` of a simulation.
fn parse_plan(text: &str) -> Vec<PackageDiff> {
    let mut plan = Vec::new();
    for line in text.lines() {
        let (verb, rest) = line.split_once(' ').unwrap_or_default();
        let Some((name, rest)) = rest.split_once(' ') else {
            continue;
        };
        let old = rest
            .strip_prefix('[')
            .and_then(|rest| rest.split(']').next());
        let new = rest.split_once('(').map(|(_, new)| {
            let version = new.split_whitespace().next().unwrap_or_default();
            let arch = new.rsplit_once('[').map(|(_, arch)| arch);
            let arch = arch.and_then(|arch| arch.split(']').next());
            (version.to_owned(), arch.unwrap_or_default().to_owned())
        });
        let arch = new
            .as_ref()
            .map(|(_, arch)| arch.clone())
            .unwrap_or_default();
        let previous = old.map(|version| (version.to_owned(), arch));
        match verb {
            "Inst" => plan.push(PackageDiff {
                name: name.to_owned(),
                previous,
                new,
            }),
            "Remv" => plan.push(PackageDiff {
                name: name.to_owned(),
                previous,
                new: None,
            }),
            _ => {}
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_is_read() {
        let text = "NOTE: This is only a simulation!\n\
            Inst hello (2.10-3 Debian:13.1/stable [amd64])\n\
            Inst nano [7.2-1] (8.4-1 Debian:13.1/stable [amd64]) []\n\
            Remv vim [2:9.1-1]\n\
            Conf hello (2.10-3 Debian:13.1/stable [amd64])\n";
        let plan = parse_plan(text);
        let shown: Vec<_> = plan
            .iter()
            .map(|diff| {
                let version = |side: &Option<(String, String)>| {
                    side.as_ref()
                        .map(|(version, _)| version.clone())
                        .unwrap_or_default()
                };
                format!(
                    "{} {} {}",
                    diff.name,
                    version(&diff.previous),
                    version(&diff.new)
                )
            })
            .collect();
        assert_eq!(shown, ["hello  2.10-3", "nano 7.2-1 8.4-1", "vim 2:9.1-1 "]);
        assert_eq!(plan[0].new.as_ref().unwrap().1, "amd64");
    }
}
