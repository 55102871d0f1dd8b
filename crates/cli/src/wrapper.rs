//! apt, apt-get and dpkg on a system that runs from a deployment: what only reads runs as ever, for
//! what would change packages there is an explanation.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use apt_ostree_model::{ErrorKind, Kinded};

use crate::format::shell_word;

/// Options of apt and apt-get whose value is the next word.
const APT_VALUES: [&str; 10] = [
    "-a",
    "-c",
    "-o",
    "-P",
    "-t",
    "--build-profiles",
    "--config-file",
    "--default-release",
    "--host-architecture",
    "--option",
];

/// Options with which apt and apt-get change no packages.
const APT_HARMLESS: [&str; 13] = [
    "-d",
    "-h",
    "-s",
    "-v",
    "--download-only",
    "--dry-run",
    "--help",
    "--just-print",
    "--no-act",
    "--print-uris",
    "--recon",
    "--simulate",
    "--version",
];

/// Options of dpkg that change the package database.
const DPKG_CHANGES: [&str; 16] = [
    "--add-architecture",
    "--clear-avail",
    "--clear-selections",
    "--configure",
    "--forget-old-unavail",
    "--install",
    "--merge-avail",
    "--purge",
    "--record-avail",
    "--remove",
    "--remove-architecture",
    "--set-selections",
    "--triggers-only",
    "--unpack",
    "--update-avail",
    "--predep-package",
];

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// The program itself runs.
    Pass,
    /// It runs after the package indices of apt-ostree were fetched.
    Refresh,
    /// It does not run; what to do instead.
    Explain(String),
}

/// Runs the program `args[0]` with the other arguments, or explains why not.
pub(crate) fn run(args: Vec<OsString>) -> Result<ExitCode, Kinded> {
    let mut args = args.into_iter();
    let name = args.next().unwrap_or_default();
    let name = name
        .to_str()
        .filter(|n| ["apt", "apt-get", "dpkg"].contains(n));
    let Some(name) = name else {
        let message = "only apt, apt-get and dpkg are wrapped";
        return Err(Kinded::new(ErrorKind::Usage, message));
    };
    let args: Vec<OsString> = args.collect();
    let texts: Vec<String> = args
        .iter()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    if Path::new("/run/ostree-booted").exists() {
        match decide(name, &texts) {
            Verdict::Pass => {}
            Verdict::Refresh => refresh()?,
            Verdict::Explain(hint) => {
                let message = format!(
                    "'{name}' can't change the packages of a system that runs from a deployment"
                );
                return Err(Kinded::new(ErrorKind::Failed, message).with_hint(hint));
            }
        }
    }
    let program = format!("/usr/bin/{name}");
    let error = Command::new(&program).args(args).exec();
    let message = format!("starting '{program}': {error}");
    Err(Kinded::new(ErrorKind::Failed, message))
}

/// Fetches the indices that apt-ostree uses; those of apt are the program's own business.
fn refresh() -> Result<(), Kinded> {
    let failed =
        |text: String| Kinded::new(ErrorKind::Failed, format!("apt-ostree refresh-md: {text}"));
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let status = Command::new(program)
        .arg("refresh-md")
        .status()
        .map_err(|error| failed(error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    Err(failed(status.to_string()))
}

fn decide(name: &str, args: &[String]) -> Verdict {
    match name {
        "dpkg" => decide_dpkg(args),
        _ => decide_apt(args),
    }
}

fn decide_apt(args: &[String]) -> Verdict {
    if args.iter().any(|arg| APT_HARMLESS.contains(&arg.as_str())) {
        return Verdict::Pass;
    }
    let mut words: Vec<&str> = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if APT_VALUES.contains(&arg.as_str()) {
            rest.next();
        } else if !arg.starts_with('-') || arg == "-" {
            words.push(arg);
        }
    }
    let Some((verb, packages)) = words.split_first() else {
        return Verdict::Pass;
    };
    let run = |command: String| Verdict::Explain(format!("run '{command}' instead"));
    match *verb {
        "update" => Verdict::Refresh,
        "install" | "reinstall" => {
            let (gone, new): (Vec<&str>, Vec<&str>) =
                packages.iter().partition(|p| p.ends_with('-'));
            let gone: Vec<&str> = gone.iter().map(|p| p.trim_end_matches('-')).collect();
            let mut command = with("apt-ostree install", &new);
            for package in gone {
                command.push_str(&format!(" --uninstall {}", shell_word(package)));
            }
            Verdict::Explain(format!(
                "run '{command}' instead; the packages are there after a reboot, or at once with --apply-live"
            ))
        }
        "remove" | "purge" | "autopurge" => Verdict::Explain(format!(
            "run '{}' for what was layered, or '{}' for packages of the base",
            with("apt-ostree uninstall", packages),
            with("apt-ostree override remove", packages)
        )),
        "upgrade" | "full-upgrade" | "dist-upgrade" | "dselect-upgrade" => {
            run("apt-ostree upgrade".to_owned())
        }
        "autoremove" | "auto-remove" => Verdict::Explain(
            "there is nothing to do: with each deployment, only what is asked for is layered"
                .to_owned(),
        ),
        "build-dep" | "satisfy" => Verdict::Explain(
            "build in a container, or layer packages with 'apt-ostree install'".to_owned(),
        ),
        _ => Verdict::Pass,
    }
}

fn decide_dpkg(args: &[String]) -> Verdict {
    let elsewhere = ["--root", "--instdir", "--admindir"];
    let harmless = ["--no-act", "--dry-run", "--simulate"];
    let is_long = |arg: &String, names: &[&str]| {
        let name = arg.split('=').next().unwrap_or_default();
        names.contains(&name)
    };
    if args
        .iter()
        .any(|arg| is_long(arg, &elsewhere) || is_long(arg, &harmless))
    {
        return Verdict::Pass;
    }
    // What follows "--" are names and files.
    let options = args.iter().take_while(|arg| *arg != "--");
    let action = options.filter_map(|arg| dpkg_action(arg)).next();
    let words: Vec<&str> = args
        .iter()
        .filter(|arg| !arg.starts_with('-'))
        .map(String::as_str)
        .collect();
    match action {
        None => Verdict::Pass,
        Some("--install" | "--unpack") => Verdict::Explain(format!(
            "run '{}' instead; the packages are there after a reboot, or at once with --apply-live",
            with("apt-ostree install", &words)
        )),
        Some("--remove" | "--purge") => Verdict::Explain(format!(
            "run '{}' for what was layered, or '{}' for packages of the base",
            with("apt-ostree uninstall", &words),
            with("apt-ostree override remove", &words)
        )),
        Some("--add-architecture" | "--remove-architecture") => Verdict::Explain(
            "name the architecture with the package: 'apt-ostree install NAME:ARCH'".to_owned(),
        ),
        Some(_) => Verdict::Explain(
            "the package database is a part of the deployment, which nothing changes".to_owned(),
        ),
    }
}

/// The changing action that an option asks for, by its long name.
fn dpkg_action(arg: &str) -> Option<&'static str> {
    if arg.starts_with("--") {
        let name = arg.split('=').next().unwrap_or_default();
        return DPKG_CHANGES.iter().find(|change| **change == name).copied();
    }
    let letters = arg.strip_prefix('-')?;
    // Actions that read come first in their word and take the rest of it.
    match letters
        .chars()
        .find(|letter| "irPAlsLSpVCIcfexXbWD".contains(*letter))?
    {
        'i' => Some("--install"),
        'r' => Some("--remove"),
        'P' => Some("--purge"),
        'A' => Some("--record-avail"),
        _ => None,
    }
}

fn with(command: &str, words: &[&str]) -> String {
    let mut text = command.to_owned();
    for word in words {
        text.push(' ');
        text.push_str(&shell_word(word));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(line: &str) -> Verdict {
        let mut words = line.split_whitespace().map(str::to_owned);
        let name = words.next().unwrap();
        decide(&name, &words.collect::<Vec<_>>())
    }

    #[test]
    fn what_only_reads_passes() {
        for line in [
            "apt",
            "apt --version",
            "apt list --installed",
            "apt search nginx",
            "apt show install",
            "apt policy",
            "apt depends bash",
            "apt changelog bash",
            "apt -o Dir::State=install list",
            "apt install -s nginx",
            "apt-get --print-uris install nginx",
            "apt-get download hello",
            "apt-get install -d nginx",
            "apt-get source hello",
            "apt-get -q indextargets",
            "apt-get clean",
            "dpkg",
            "dpkg -l",
            "dpkg -S /bin/sh",
            "dpkg -L bash",
            "dpkg -s bash",
            "dpkg -V",
            "dpkg -c i.deb",
            "dpkg -I install.deb",
            "dpkg -x remove.deb /tmp/x",
            "dpkg --print-architecture",
            "dpkg --compare-versions 1 lt 2",
            "dpkg --get-selections",
            "dpkg --audit",
            "dpkg --version",
            "dpkg --root=/mnt -i x.deb",
            "dpkg --dry-run -i x.deb",
            "dpkg -W -f ${Package}",
        ] {
            assert_eq!(verdict(line), Verdict::Pass, "{line}");
        }
        assert_eq!(verdict("apt update"), Verdict::Refresh);
        assert_eq!(verdict("apt-get -qq update"), Verdict::Refresh);
    }

    #[test]
    fn what_changes_is_explained() {
        for (line, instead) in [
            ("apt install nginx", "'apt-ostree install nginx'"),
            (
                "apt-get -y -t sid install nginx",
                "'apt-ostree install nginx'",
            ),
            ("apt -o a=b install ./x.deb", "'apt-ostree install ./x.deb'"),
            ("apt install a b-", "'apt-ostree install a --uninstall b'"),
            ("apt remove vim", "'apt-ostree uninstall vim'"),
            ("apt purge vim", "'apt-ostree override remove vim'"),
            ("apt upgrade", "'apt-ostree upgrade'"),
            ("apt-get dist-upgrade -y", "'apt-ostree upgrade'"),
            ("apt full-upgrade", "'apt-ostree upgrade'"),
            ("apt autoremove", "nothing to do"),
            ("apt build-dep hello", "container"),
            ("dpkg -i x.deb", "'apt-ostree install x.deb'"),
            ("dpkg --force-all -iR dir", "'apt-ostree install dir'"),
            ("dpkg --install x.deb", "'apt-ostree install x.deb'"),
            ("dpkg --unpack x.deb", "'apt-ostree install x.deb'"),
            ("dpkg -r vim", "'apt-ostree uninstall vim'"),
            ("dpkg --purge vim", "'apt-ostree override remove vim'"),
            ("dpkg --configure -a", "package database"),
            ("dpkg --set-selections", "package database"),
            ("dpkg --add-architecture i386", "NAME:ARCH"),
        ] {
            match verdict(line) {
                Verdict::Explain(text) => assert!(text.contains(instead), "{line}: {text}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }
}
