//! Grammars of names that other programs own: OSTree refs, systemd units, paths in the tree.

use crate::error::escape;

/// Checks a name that is to become an OSTree ref.
pub(crate) fn check_ref(text: &str) -> Result<(), String> {
    let fail = |why: &str| Err(format!("'{}' is not a valid ref: {why}", escape(text)));
    if text.contains(':') {
        return fail("a ref to write has no remote");
    }
    if is_checksum(text) {
        return fail("it looks like a commit checksum");
    }
    if text.len() > 1024 || text.split('/').any(|part| part.len() > 255) {
        return fail("it is too long");
    }
    let starts_well = |part: &str| part.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    if !text.split('/').all(starts_well) {
        return fail("each part between '/' starts with a letter, a digit or '_'");
    }
    if text.contains(|c: char| !(c.is_alphanumeric() || "-._/".contains(c))) {
        return fail("only letters, digits and '-._/' are allowed");
    }
    Ok(())
}

/// Checks a ref to read: a ref, `remote:ref` or a commit.
pub(crate) fn check_layer(text: &str) -> Result<(), String> {
    if is_checksum(text) {
        return Ok(());
    }
    match text.split_once(':') {
        Some((remote, name)) => {
            if remote.contains('/') {
                return Err(format!("'{}' is not a valid ref", escape(text)));
            }
            check_ref(remote)?;
            check_ref(name)
        }
        None => check_ref(text),
    }
}

fn is_checksum(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Checks a systemd unit name.
pub(crate) fn check_unit(text: &str) -> Result<(), String> {
    const KINDS: [&str; 11] = [
        "service",
        "socket",
        "device",
        "mount",
        "automount",
        "swap",
        "target",
        "path",
        "timer",
        "slice",
        "scope",
    ];
    let kind = text
        .rsplit_once('.')
        .filter(|(stem, _)| !stem.is_empty())
        .map(|(_, kind)| kind);
    let characters = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
    if text.len() <= 255 && text.bytes().all(characters) && kind.is_some_and(|k| KINDS.contains(&k))
    {
        return Ok(());
    }
    Err(format!(
        "'{}' is not a unit name, such as 'ssh.service'",
        escape(text)
    ))
}

/// A path in the tree without its leading `/`: no empty, `.` or `..` part.
pub(crate) fn tree_path(text: &str) -> Result<String, String> {
    let path = text.trim_start_matches('/').trim_end_matches('/');
    let bad = |part: &str| part.is_empty() || part == "." || part == ".." || part.len() > 255;
    if path.len() > 4096 || path.split('/').any(bad) {
        return Err(format!(
            "'{}' is not a path below the root of the tree",
            escape(text)
        ));
    }
    Ok(path.to_owned())
}

/// Where `add-files` may put a file.
pub(crate) fn check_added_path(path: &str) -> Result<(), String> {
    const ALLOWED: [&str; 6] = ["usr/", "etc/", "bin/", "sbin/", "lib/", "lib64/"];
    let local = path == "usr/local" || path.starts_with("usr/local/");
    if ALLOWED.iter().any(|a| path.starts_with(a)) && !local {
        return Ok(());
    }
    Err(format!(
        "'/{}' can't be added: only paths below /usr (not /usr/local), /etc, /bin, /sbin, /lib and /lib64",
        escape(path)
    ))
}

/// Checks a script: it says what runs it.
pub(crate) fn check_script(text: &str) -> Result<(), String> {
    let first = text.split('\n').next().unwrap_or_default();
    if !first.starts_with("#!") {
        return Err(
            "a script must begin with '#!' and its interpreter, such as '#!/bin/sh'".to_owned(),
        );
    }
    if first.ends_with('\r') {
        return Err("the script has CRLF line ends; save it with LF".to_owned());
    }
    if !first.trim_start_matches("#!").trim_start().starts_with('/') {
        return Err("the interpreter after '#!' must be an absolute path".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refs_follow_ostree() {
        for good in [
            "test/minimal",
            "debian/13/x86_64/minimal",
            "a",
            "a-b_c.d",
            "_x",
            "ü",
        ] {
            assert!(check_ref(good).is_ok(), "{good}");
        }
        let long = "a".repeat(300);
        for bad in [
            "",
            "../e",
            "a/../../b",
            "/abs",
            "a b",
            "a\nb",
            "a//b",
            ".hidden",
            "-rf",
            "a/",
            ";rm",
            "remote:a",
            "a/.b",
            "a~b",
            &long,
            &"a/".repeat(600),
            &"0".repeat(64),
        ] {
            assert!(check_ref(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn layers_may_be_remote_or_commits() {
        assert!(check_layer("origin:debian/13").is_ok());
        assert!(check_layer(&"0a".repeat(32)).is_ok());
        assert!(check_layer("a/b:c").is_err());
    }

    #[test]
    fn units_have_a_kind() {
        assert!(check_unit("ssh.service").is_ok());
        assert!(check_unit("getty@tty1.service").is_ok());
        for bad in [
            "ssh",
            ".service",
            "ssh.servic",
            "a/b.service",
            "a b.service",
            "../x.service",
            "",
        ] {
            assert!(check_unit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tree_paths_stay_in_the_tree() {
        assert_eq!(tree_path("/usr/share/doc/").unwrap(), "usr/share/doc");
        for bad in ["", "/", "..", "usr/../etc", "./x", "usr//x", "/../x"] {
            assert!(tree_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_are_added_only_where_images_have_them() {
        for good in ["usr/bin/x", "etc/x", "lib/x", "lib64/x", "usr/localx/y"] {
            assert!(check_added_path(good).is_ok(), "{good}");
        }
        for bad in [
            "usr/local/x",
            "usr/local",
            "var/x",
            "home/x",
            "usr",
            "usrx/y",
            "opt/x",
        ] {
            assert!(check_added_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn scripts_name_their_interpreter() {
        assert!(check_script("#!/bin/sh\ntrue\n").is_ok());
        assert!(check_script("#! /usr/bin/env python3").is_ok());
        for bad in ["true", "", "#!/bin/sh\r\ntrue", "#!sh", " #!/bin/sh"] {
            assert!(check_script(bad).is_err(), "{bad:?}");
        }
    }
}
