//! `ex history`: deployments that were made and when they ran, as the journal tells.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use apt_ostree_fsx::{Cmd, escape};
use apt_ostree_model::journal::{DEPLOYMENT_MADE, OSTREE_BOOTED};
use apt_ostree_model::{ErrorKind, Kinded};
use serde_json::{Value, json};

use crate::cli::client::HistoryArgs;
use crate::render;

/// Where journals are.
const JOURNALS: [&str; 2] = ["/var/log/journal", "/run/log/journal"];

/// A deployment that was made.
#[derive(Debug, Clone, Default, PartialEq)]
struct Made {
    /// Its directory's name and inode.
    key: (String, String),
    osname: String,
    checksum: String,
    version: Option<String>,
    origin: Option<String>,
    command_line: String,
    /// Seconds since 1970.
    created: i64,
    /// When it was booted, in order.
    boots: Vec<i64>,
}

pub(super) fn run(args: &HistoryArgs) -> Result<ExitCode, Kinded> {
    if !JOURNALS.iter().any(|dir| Path::new(dir).is_dir()) {
        let message = "there is no journal, which is where the history is kept";
        return Err(Kinded::new(ErrorKind::Failed, message).with_hint(
            "start systemd-journald; with /var/log/journal it remembers earlier boots",
        ));
    }
    let journal = Cmd::new("journalctl")
        .args(["--no-pager", "--quiet", "--output=json"])
        .args([DEPLOYMENT_MADE, OSTREE_BOOTED].map(|id| format!("MESSAGE_ID={id}")))
        .run_unchecked()?;
    let mut history = history(&String::from_utf8_lossy(&journal.stdout));
    if history.is_empty() && !rustix::process::geteuid().is_root() && journal.stdout.is_empty() {
        let message = "the journal holds no deployments that you may see";
        return Err(Kinded::new(ErrorKind::Failed, message)
            .with_hint("run it as root, or as a member of the group 'systemd-journal' or 'adm'"));
    }
    if !args.all {
        history.truncate(args.limit);
    }
    let text = if args.json {
        history
            .iter()
            .map(|made| made.json().to_string() + "\n")
            .collect()
    } else if history.is_empty() {
        "The journal holds no deployments.\n".to_owned()
    } else {
        let blocks: Vec<String> = history.iter().map(Made::text).collect();
        blocks.join("\n")
    };
    render::print_stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The deployments of which `journal`, one JSON object a line, tells; newest first.
fn history(journal: &str) -> Vec<Made> {
    let mut history: Vec<Made> = Vec::new();
    let entries = journal
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    for entry in entries {
        let entry: Value = entry;
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let some = |key: &str| Some(text(key)).filter(|text| !text.is_empty());
        let micros = text("__REALTIME_TIMESTAMP").parse().unwrap_or(0_i64);
        let time = micros / 1_000_000;
        let path = text("DEPLOYMENT_PATH");
        let name = path
            .trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or_default();
        let key = (name.to_owned(), text("DEPLOYMENT_INODE"));
        match text("MESSAGE_ID").as_str() {
            DEPLOYMENT_MADE => history.push(Made {
                key,
                osname: text("DEPLOYMENT_OSNAME"),
                checksum: text("DEPLOYMENT_CHECKSUM"),
                version: some("DEPLOYMENT_VERSION"),
                origin: some("DEPLOYMENT_REFSPEC"),
                command_line: text("COMMAND_LINE"),
                created: time,
                boots: Vec::new(),
            }),
            OSTREE_BOOTED => {
                // Inodes are used again: the last one before the boot is meant.
                if let Some(made) = history.iter_mut().rev().find(|made| made.key == key) {
                    made.boots.push(time);
                }
            }
            _ => {}
        }
    }
    history.reverse();
    history
}

impl Made {
    fn json(&self) -> Value {
        json!({
            "deployment": {
                "id": format!("{}-{}", self.osname, self.key.0),
                "osname": self.osname,
                "checksum": self.checksum,
                "version": self.version,
                "origin": self.origin,
            },
            "deployment-create-timestamp": self.created,
            "deployment-create-command-line": self.command_line,
            "boot-count": self.boots.len(),
            "first-boot-timestamp": self.boots.first(),
            "last-boot-timestamp": self.boots.last(),
        })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut field = |name: &str, value: &str| {
            let _ = writeln!(text, "{name:>15}: {}", escape(value));
        };
        field("Created", &utc(self.created));
        field("CommandLine", &self.command_line);
        if let Some(origin) = &self.origin {
            field("Origin", origin);
        }
        if let Some(version) = &self.version {
            field("Version", version);
        }
        field("Commit", &self.checksum);
        match (self.boots.first(), self.boots.last()) {
            (Some(first), Some(last)) => {
                field("BootCount", &self.boots.len().to_string());
                field("FirstBoot", &utc(*first));
                field("LastBoot", &utc(*last));
            }
            _ => field("BootCount", "0"),
        }
        text
    }
}

fn utc(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| format!("@{seconds}"), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boots_belong_to_the_last_deployment_with_that_directory() {
        let made = |time: u64, path: &str, line: &str| {
            json!({
                "MESSAGE_ID": DEPLOYMENT_MADE, "__REALTIME_TIMESTAMP": format!("{time}000000"),
                "DEPLOYMENT_PATH": format!("/ostree/deploy/debian/deploy/{path}"),
                "DEPLOYMENT_INODE": "7", "DEPLOYMENT_CHECKSUM": "abc",
                "DEPLOYMENT_OSNAME": "debian", "COMMAND_LINE": line,
            })
        };
        let boot = |time: u64, path: &str| {
            json!({
                "MESSAGE_ID": OSTREE_BOOTED, "__REALTIME_TIMESTAMP": format!("{time}000000"),
                "DEPLOYMENT_PATH": format!("/sysroot/ostree/deploy/debian/deploy/{path}"),
                "DEPLOYMENT_INODE": "7",
            })
        };
        let lines = [
            boot(1, "x.0"),
            made(2, "x.0", "upgrade"),
            boot(3, "x.0"),
            made(4, "y.0", "install vim"),
            boot(5, "x.0"),
        ];
        let journal: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let history = history(&(journal + "no json\n"));
        assert_eq!(history.len(), 2);
        assert_eq!(history[0].command_line, "install vim");
        assert!(history[0].boots.is_empty());
        assert_eq!(history[1].boots, [3, 5]);
        let object = history[1].json();
        assert_eq!(object["boot-count"], 2);
        assert_eq!(object["first-boot-timestamp"], 3);
        assert_eq!(object["deployment"]["id"], "debian-x.0");
        assert!(history[1].text().contains("LastBoot: 1970-01-01T00:00:05Z"));
        assert!(history[0].text().contains("BootCount: 0"));
    }
}
