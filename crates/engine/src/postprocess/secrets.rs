//! Secrets that maintainer scripts make at build time: removed, and made again at first boot.

use std::io::Read as _;

use anyhow::{Context as _, Result};
use apt_ostree_model::tree::{join, split};
use apt_ostree_model::{ContentReader, File, ImportedPackage, Node, Tree};
use fn_error_context::context;

use super::ownership::{merged_path, owners_of};
use super::var_rules::path_matches;
use super::work::Work;

/// Secrets that go; patterns relative to the root.
const SECRETS: [&str; 27] = [
    "etc/ssh/ssh_host_*_key",
    "etc/ssh/ssh_host_*_key.pub",
    "etc/ssl/private/ssl-cert-snakeoil.key",
    "etc/ssl/certs/ssl-cert-snakeoil.pem",
    "etc/bind/rndc.key",
    "etc/xrdp/rsakeys.ini",
    "etc/munge/munge.key",
    "etc/unbound/unbound_*.key",
    "etc/unbound/unbound_*.pem",
    "etc/apt/auth.conf",
    "etc/apt/auth.conf.d/*",
    "etc/erlang.cookie",
    "etc/credstore/*",
    "etc/credstore.encrypted/*",
    "root/.ssh/**",
    "root/.gnupg/**",
    "root/.erlang.cookie",
    "root/.bash_history",
    "root/.netrc",
    "root/.docker/**",
    "var/lib/*/.erlang.cookie",
    "var/lib/mysql/*.pem",
    "var/lib/mysql/auto.cnf",
    "var/lib/dkms/mok.*",
    "var/lib/shim-signed/**",
    "var/lib/NetworkManager/secret_key",
    "var/lib/systemd/credential.secret",
];

/// A service that makes a swept secret again, when the program that needs it is there.
struct FirstBoot {
    /// Ships the unit when this file is in the tree.
    needs: &'static str,
    /// Name of our unit.
    unit: &'static str,
    /// Units that want it.
    wanted_by: &'static [&'static str],
    /// Its text.
    text: &'static str,
}

const FIRST_BOOT: [FirstBoot; 6] = [
    FirstBoot {
        needs: "usr/sbin/sshd",
        unit: "apt-ostree-ssh-host-keys.service",
        wanted_by: &["ssh.service", "sshd.service", "sshd@.service", "ssh.socket"],
        text: "\
[Unit]
Description=Create missing SSH host keys
ConditionPathIsReadWrite=/etc/ssh
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key
After=sshd-keygen.service
Before=ssh.service sshd.service sshd@.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/ssh-keygen -A
",
    },
    FirstBoot {
        needs: "usr/sbin/make-ssl-cert",
        unit: "apt-ostree-snakeoil.service",
        wanted_by: &["sysinit.target"],
        text: "\
[Unit]
Description=Create the missing self-signed certificate of this machine
DefaultDependencies=no
ConditionPathIsReadWrite=/etc/ssl
ConditionPathExists=!/etc/ssl/private/ssl-cert-snakeoil.key
After=local-fs.target systemd-tmpfiles-setup.service
Before=sysinit.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
Environment=DEBIAN_FRONTEND=noninteractive
ExecStart=/usr/sbin/make-ssl-cert generate-default-snakeoil
",
    },
    FirstBoot {
        needs: "usr/sbin/rndc-confgen",
        unit: "apt-ostree-rndc-key.service",
        wanted_by: &["named.service"],
        text: "\
[Unit]
Description=Create the missing rndc key
ConditionPathIsReadWrite=/etc/bind
ConditionPathExists=!/etc/bind/rndc.key
Before=named.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/rndc-confgen -a -u bind
",
    },
    FirstBoot {
        needs: "usr/bin/xrdp-keygen",
        unit: "apt-ostree-xrdp-key.service",
        wanted_by: &["xrdp.service"],
        text: "\
[Unit]
Description=Create the missing xrdp key
ConditionPathIsReadWrite=/etc/xrdp
ConditionPathExists=!/etc/xrdp/rsakeys.ini
Before=xrdp.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/xrdp-keygen xrdp /etc/xrdp/rsakeys.ini
ExecStart=/bin/chown xrdp:root /etc/xrdp/rsakeys.ini
ExecStart=/bin/chmod 0600 /etc/xrdp/rsakeys.ini
",
    },
    FirstBoot {
        needs: "usr/sbin/mungekey",
        unit: "apt-ostree-munge-key.service",
        wanted_by: &["munge.service"],
        text: "\
[Unit]
Description=Create the missing munge key
ConditionPathIsReadWrite=/etc/munge
ConditionPathExists=!/etc/munge/munge.key
Before=munge.service

[Service]
Type=oneshot
RemainAfterExit=yes
User=munge
ExecStart=/usr/sbin/mungekey --create
",
    },
    FirstBoot {
        needs: "usr/sbin/unbound-control-setup",
        unit: "apt-ostree-unbound-keys.service",
        wanted_by: &["unbound.service"],
        text: "\
[Unit]
Description=Create missing unbound control keys
ConditionPathIsReadWrite=/etc/unbound
ConditionPathExists=!/etc/unbound/unbound_server.key
Before=unbound.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/unbound-control-setup -d /etc/unbound
",
    },
];

const UNITS: &str = "usr/lib/systemd/system";

/// Files with `NAME=value` lines whose password was made at build time: pattern and name.
const PASSWORD_LINES: [(&str, &str); 2] = [
    ("etc/dbconfig-common/*.conf", "dbc_dbpass"),
    ("etc/mysql/debian.cnf", "password"),
];

/// Removes known secrets, and ships the services that make them again.
#[context("removing secrets")]
pub(super) fn sweep(work: &mut Work<'_>) -> Result<()> {
    let found: Vec<String> = ["etc", "root", "var"]
        .iter()
        .flat_map(|dir| work.tree.walk_from(dir))
        .filter(|(path, node)| node.as_dir().is_none() && is_secret(path))
        .map(|(path, _)| path)
        .collect();
    for path in found {
        if !work.owned().contains(&path) {
            remove_secret(work, &path);
        }
    }
    sweep_hash_links(work);
    sweep_iscsi_name(work)?;
    let passwords = blank_passwords(work)?;
    blank_copies(work, &passwords)?;
    ship_first_boot_units(work)
}

fn is_secret(path: &str) -> bool {
    SECRETS.iter().any(|pattern| path_matches(pattern, path))
}

fn remove_secret(work: &mut Work<'_>, path: &str) {
    work.tree.remove(path);
    work.report.secrets.push(format!("/{path}"));
}

/// Links by certificate hash to the snakeoil certificate.
fn sweep_hash_links(work: &mut Work<'_>) {
    for name in work.names("etc/ssl/certs") {
        let path = join("etc/ssl/certs", &name);
        let link = work.tree.get(&path).and_then(Node::as_symlink);
        if link.is_some_and(|link| split(&link.target).1 == "ssl-cert-snakeoil.pem") {
            remove_secret(work, &path);
        }
    }
}

/// open-iscsi makes a new initiator name at start when its file asks for it.
fn sweep_iscsi_name(work: &mut Work<'_>) -> Result<()> {
    const PATH: &str = "etc/iscsi/initiatorname.iscsi";
    if work.tree.file(PATH).is_none() || work.owned().contains(PATH) {
        return Ok(());
    }
    work.report.secrets.push(format!("/{PATH}"));
    work.write(PATH, 0o600, b"GenerateName=yes\n")
}

/// Empties password values; returns them.
fn blank_passwords(work: &mut Work<'_>) -> Result<Vec<String>> {
    let mut passwords = Vec::new();
    for (pattern, key) in PASSWORD_LINES {
        let (dir, _) = split(pattern);
        let paths = work.names(dir).into_iter().map(|name| join(dir, &name));
        let paths: Vec<String> = paths.filter(|p| path_matches(pattern, p)).collect();
        for path in paths {
            let Some(text) = work.read_text_optional(&path)? else {
                continue;
            };
            let (new, mut found) = without_value(&text, key);
            if !found.is_empty() {
                work.rewrite(&path, new.as_bytes())?;
                work.report.secrets.push(format!("/{path}"));
                work.warn(format!(
                    "the password in '/{path}' was removed; set one on each machine"
                ));
            }
            passwords.append(&mut found);
        }
    }
    Ok(passwords)
}

/// The text with empty values of `key`, and the values it had.
fn without_value(text: &str, key: &str) -> (String, Vec<String>) {
    let mut found = Vec::new();
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        let assigned = line.split_once('=').filter(|(name, _)| name.trim() == key);
        let value = assigned.map_or("", |(_, value)| value.trim());
        let bare = value.trim_matches(['\'', '"']);
        if bare.is_empty() {
            out.push_str(line);
        } else {
            found.push(bare.to_owned());
            out.push_str(&line.replace(bare, ""));
        }
    }
    (out, found)
}

/// Removes the passwords from other configuration files that hold a copy.
fn blank_copies(work: &mut Work<'_>, passwords: &[String]) -> Result<()> {
    const LARGEST: u64 = 1 << 20;
    let passwords: Vec<&String> = passwords.iter().filter(|p| p.len() >= 6).collect();
    if passwords.is_empty() {
        return Ok(());
    }
    let files: Vec<String> = work
        .tree
        .walk_from("etc")
        .filter(|(_, node)| node.as_file().is_some_and(|f| f.size <= LARGEST))
        .map(|(path, _)| path)
        .collect();
    for path in files {
        let data = work.read_optional(&path)?.unwrap_or_default();
        let Ok(text) = String::from_utf8(data) else {
            continue;
        };
        let new = passwords
            .iter()
            .fold(text.clone(), |t, p| t.replace(p.as_str(), ""));
        if new != text {
            work.rewrite(&path, new.as_bytes())?;
            work.report.secrets.push(format!("/{path}"));
        }
    }
    Ok(())
}

fn ship_first_boot_units(work: &mut Work<'_>) -> Result<()> {
    for service in &FIRST_BOOT {
        if !work.tree.contains(service.needs) || work.tree.dir(UNITS).is_none() {
            continue;
        }
        work.write(&join(UNITS, service.unit), 0o644, service.text.as_bytes())?;
        for unit in service.wanted_by {
            let link = format!("{UNITS}/{unit}.wants/{}", service.unit);
            work.symlink(&link, &format!("../{}", service.unit))?;
        }
    }
    Ok(())
}

/// Files of configuration, state and factory trees that hold a private key and are not as a
/// package ships them.
pub(crate) fn find_private_keys(
    tree: &Tree,
    content: &dyn ContentReader,
    packages: &[ImportedPackage],
) -> Result<Vec<String>> {
    const PLACES: [&str; 9] = [
        "etc",
        "usr/etc",
        "var",
        "root",
        "home",
        "opt",
        "usr/local",
        "usr/share/factory",
        "usr/lib/sysimage",
    ];
    let mut found = Vec::new();
    for (path, node) in PLACES.iter().flat_map(|dir| tree.walk_from(dir)) {
        let Node::File(file) = node else {
            continue;
        };
        if file.size < 27 || path.starts_with("usr/lib/sysimage/dpkg/") {
            continue;
        }
        let holds = holds_private_key(content, file);
        let holds = holds.with_context(|| format!("searching '/{path}' for keys"))?;
        if holds && !is_shipped(packages, &path, file) {
            found.push(path);
        }
    }
    Ok(found)
}

/// True when a package ships exactly this file.
fn is_shipped(packages: &[ImportedPackage], path: &str, file: &File) -> bool {
    let original = path
        .strip_prefix("usr/share/factory/")
        .or_else(|| path.strip_prefix("usr/").filter(|p| p.starts_with("etc/")))
        .unwrap_or(path);
    let original = match original.strip_prefix("var/roothome/") {
        Some(rest) => format!("root/{rest}"),
        None => merged_path(original),
    };
    owners_of(packages, &original)
        .iter()
        .any(|(_, node)| node.as_file().is_some_and(|f| f.checksum == file.checksum))
}

/// Searches a file for the first line of a PEM or OpenSSH private key, in constant memory.
fn holds_private_key(content: &dyn ContentReader, file: &File) -> std::io::Result<bool> {
    const CHUNK: usize = 64 << 10;
    const OVERLAP: usize = 128;
    let mut reader = content.open(&file.checksum)?;
    let mut buffer = vec![0; CHUNK + OVERLAP];
    let mut kept = 0;
    loop {
        let read = reader.read(&mut buffer[kept..])?;
        if read == 0 {
            return Ok(false);
        }
        let filled = kept + read;
        if has_key_header(&buffer[..filled]) {
            return Ok(true);
        }
        kept = filled.min(OVERLAP);
        buffer.copy_within(filled - kept..filled, 0);
    }
}

fn has_key_header(data: &[u8]) -> bool {
    const BEGIN: &[u8] = b"-----BEGIN ";
    const END: &[u8] = b"PRIVATE KEY-----";
    const PUTTY: &[u8] = b"PuTTY-User-Key-File-";
    let mut rest = data;
    while let Some(start) = rest.windows(BEGIN.len()).position(|w| w == BEGIN) {
        rest = &rest[start + BEGIN.len()..];
        let line = &rest[..rest.len().min(48)];
        let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
        if line.windows(END.len()).any(|w| w == END) {
            return true;
        }
    }
    data.starts_with(PUTTY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_keys_are_recognised_by_their_first_line() {
        for kind in ["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "] {
            let text = format!("x\n-----BEGIN {kind}PRIVATE KEY-----\nabc");
            assert!(has_key_header(text.as_bytes()), "{kind}");
        }
        for text in [
            "-----BEGIN PUBLIC KEY-----",
            "-----BEGIN CERTIFICATE-----\nPRIVATE KEY-----",
            "PRIVATE KEY-----",
        ] {
            assert!(!has_key_header(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn values_are_blanked_and_returned() {
        let (text, found) =
            without_value("a='x'\ndbc_dbpass='s3cret!'\ndbc_dbpass=''\n", "dbc_dbpass");
        assert_eq!(text, "a='x'\ndbc_dbpass=''\ndbc_dbpass=''\n");
        assert_eq!(found, ["s3cret!"]);
    }
}
