//! Configuration files that the image gets from us.

use anyhow::{Context as _, Result};
use apt_ostree_model::{ErrorKind, Kinded, Plan, Version};

use super::work::Work;

const PREPARE_ROOT: &str = "usr/lib/ostree/prepare-root.conf";

/// The flattened treefile in the image.
pub(super) const TREEFILE: &str = "usr/share/apt-ostree/treefile.json";

/// First Debian version of libostree with composefs support.
const COMPOSEFS_SINCE: &str = "2025.7-3";

/// Path and content of `prepare-root.conf`. dracut copies it into the initramfs, so it must be in
/// the tree before dracut runs.
///
/// `composefs` is the treefile's wish. Without one it is `yes` when the tree's libostree has
/// composefs support, else `maybe`, which older ones ignore.
pub fn prepare_root_conf(composefs: Option<&str>, plan: &Plan) -> (String, Vec<u8>) {
    let enabled = composefs.unwrap_or_else(|| if has_composefs(plan) { "yes" } else { "maybe" });
    let text = format!("[composefs]\nenabled = {enabled}\n\n[sysroot]\nreadonly = true\n");
    (PREPARE_ROOT.to_owned(), text.into_bytes())
}

fn has_composefs(plan: &Plan) -> bool {
    let Ok(since) = COMPOSEFS_SINCE.parse::<Version>() else {
        return false;
    };
    plan.packages
        .iter()
        .any(|p| p.name.as_str() == "libostree-1-1" && p.version.dpkg_cmp(&since).is_ge())
}

pub(super) fn write_prepare_root(work: &mut Work<'_>) -> Result<()> {
    let Some((path, data)) = &work.options().prepare_root else {
        return Ok(());
    };
    if work.options().prepare_root_forced || !work.tree.contains(path) {
        work.write(path, 0o644, data)?;
    }
    Ok(())
}

/// Keeps the flattened treefile in the image.
pub(super) fn write_treefile(work: &mut Work<'_>) -> Result<()> {
    let Some(value) = &work.options().treefile else {
        return Ok(());
    };
    let mut text = serde_json::to_string_pretty(value).context("writing the treefile as JSON")?;
    text.push('\n');
    work.write(TREEFILE, 0o644, text.as_bytes())
}

/// Puts the version into os-release in place of the text that the treefile names.
pub(super) fn mutate_os_release(work: &mut Work<'_>) -> Result<()> {
    const PATH: &str = "usr/lib/os-release";
    let options = work.options();
    let (Some(old), Some(version)) = (&options.mutate_os_release, &options.version) else {
        return Ok(());
    };
    let Some(text) = work.read_text_optional(PATH)? else {
        let message = format!("'mutate-os-release' is set but the tree has no '/{PATH}'");
        return Err(Kinded::new(ErrorKind::InvalidInput, message).into());
    };
    work.rewrite(PATH, mutated_os_release(&text, old, version).as_bytes())
}

fn mutated_os_release(text: &str, old: &str, version: &str) -> String {
    let mut out = String::new();
    for line in text.lines().filter(|l| !l.starts_with("OSTREE_VERSION=")) {
        let (key, _) = line.split_once('=').unwrap_or((line, ""));
        if matches!(key, "VERSION" | "PRETTY_NAME") {
            out.push_str(&line.replace(old, version));
        } else {
            out.push_str(line);
        }
        out.push('\n');
    }
    let quoted: String = version
        .chars()
        .filter(|c| !c.is_control() && *c != '\'')
        .collect();
    out.push_str(&format!("OSTREE_VERSION='{quoted}'\n"));
    out
}

/// Makes useradd and adduser put homes where they really are, so that no path in `/etc/passwd`
/// depends on the link `/home`.
pub(super) fn write_home_defaults(work: &mut Work<'_>) -> Result<()> {
    for (path, key) in [
        ("etc/default/useradd", "HOME"),
        ("etc/adduser.conf", "DHOME"),
    ] {
        if let Some(text) = work.read_text_optional(path)? {
            let new = set_shell_variable(&text, key, "/var/home");
            work.rewrite(path, new.as_bytes())?;
        }
    }
    Ok(())
}

/// Sets `KEY=value`: replaces an assignment, else follows a commented one, else goes last.
fn set_shell_variable(text: &str, key: &str, value: &str) -> String {
    let assignment = format!("{key}={value}");
    let is = |line: &str, start: &str| {
        line.strip_prefix(start)
            .and_then(|rest| rest.trim_start().strip_prefix(key))
            .is_some_and(|rest| rest.starts_with('='))
    };
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if let Some(line) = lines.iter_mut().find(|line| is(line, "")) {
        *line = assignment;
    } else if let Some(index) = lines.iter().position(|line| is(line, "#")) {
        lines.insert(index + 1, assignment);
    } else {
        lines.push(assignment);
    }
    lines.join("\n") + "\n"
}

/// What `bootc install` needs to know: the file system of the root.
pub(super) fn write_install_config(work: &mut Work<'_>) -> Result<()> {
    const PATH: &str = "usr/lib/bootc/install/00-apt-ostree.toml";
    if work.options().container || !work.names("usr/lib/bootc/install").is_empty() {
        return Ok(());
    }
    work.write(PATH, 0o644, b"[install]\nroot-fs-type = \"ext4\"\n")
}

#[cfg(test)]
mod tests {
    use super::{mutated_os_release, set_shell_variable};

    #[test]
    fn os_release_gets_the_version_where_the_text_was() {
        let text = "NAME=\"Debian 13\"\nVERSION=\"13 (trixie)\"\nPRETTY_NAME=\"Debian 13\"\nVERSION_ID=13\n";
        assert_eq!(
            mutated_os_release(text, "13", "13.20261121.0"),
            "NAME=\"Debian 13\"\nVERSION=\"13.20261121.0 (trixie)\"\nPRETTY_NAME=\"Debian 13.20261121.0\"\nVERSION_ID=13\nOSTREE_VERSION='13.20261121.0'\n"
        );
    }

    #[test]
    fn shell_variables_are_set_once() {
        assert_eq!(
            set_shell_variable("# HOME=/home\nX=1\n", "HOME", "/var/home"),
            "# HOME=/home\nHOME=/var/home\nX=1\n"
        );
        assert_eq!(
            set_shell_variable("HOME=/home\n", "HOME", "/var/home"),
            "HOME=/var/home\n"
        );
        assert_eq!(
            set_shell_variable("DHOME=/x\nHOMES=1\n", "HOME", "/h"),
            "DHOME=/x\nHOMES=1\nHOME=/h\n"
        );
    }
}
