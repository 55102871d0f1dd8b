//! The few things to know about URIs: checking them, local paths, and apt's list file names.

use std::fmt::Write as _;

use apt_ostree_model::ErrorKind;
use camino::Utf8PathBuf;

use crate::error::{fail, fail_hint};

/// Refuses a URL of the treefile that apt would misread or that would leak a password into images.
pub(crate) fn check_repo_url(repo: &str, url: &str) -> anyhow::Result<()> {
    let invalid = |why: &str| {
        fail(
            ErrorKind::InvalidInput,
            format!("repo '{repo}': url '{url}' {why}"),
        )
    };
    let rest = match url.split_once(':') {
        Some(("http" | "https", rest)) if rest.starts_with("//") && rest.len() > 2 => rest,
        Some(("file", rest)) if rest.starts_with('/') => rest,
        _ => return Err(invalid("is not an http, https or absolute file URL")),
    };
    let bad = |c: char| c.is_whitespace() || c.is_control() || "[]<>\"'{}|\\^`,".contains(c);
    // A numeric IPv6 host is the only place for brackets.
    if url.chars().any(|c| bad(c) && !"[]".contains(c)) {
        return Err(invalid("holds a character that must be percent-encoded"));
    }
    let host = rest.trim_start_matches('/').split('/').next().unwrap_or("");
    if !url.starts_with("file:") && host.contains('@') {
        return Err(fail_hint(
            ErrorKind::InvalidInput,
            format!("repo '{repo}': the url holds a user name or password"),
            "put it into a file in /etc/apt/auth.conf.d",
        ));
    }
    Ok(())
}

/// The path of a `file:` URL, percent-encoding undone; `None` for other URLs and relative paths.
pub(crate) fn file_path(uri: &str) -> Option<Utf8PathBuf> {
    let rest = uri.strip_prefix("file:")?;
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    if !rest.starts_with('/') {
        return None;
    }
    let mut bytes = Vec::with_capacity(rest.len());
    let mut left = rest.as_bytes();
    while let Some((&byte, after)) = left.split_first() {
        let decoded = (byte == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match decoded {
            Some(decoded) => {
                bytes.push(decoded);
                left = &after[2..];
            }
            None => {
                bytes.push(byte);
                left = after;
            }
        }
    }
    String::from_utf8(bytes).ok().map(Utf8PathBuf::from)
}

/// The `file:` URL of an absolute path.
pub(crate) fn from_path(path: &camino::Utf8Path) -> String {
    let mut uri = "file://".to_owned();
    for &byte in path.as_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~+:".contains(&byte) {
            uri.push(byte.into());
        } else {
            let _ = write!(uri, "%{byte:02x}");
        }
    }
    uri
}

/// The name under which apt keeps the index at `uri` in its lists directory.
pub(crate) fn list_name(uri: &str) -> String {
    let rest = uri.split_once(':').map_or(uri, |(_, rest)| rest);
    let (host, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", rest),
    };
    let mut name = String::new();
    for &byte in [host.as_bytes(), path.as_bytes()].concat().iter() {
        if byte == b'/' {
            name.push('_');
        } else if b"\\|{}[]<>\"^~_=!@#$%^&*".contains(&byte) || !(0x21..0x7f).contains(&byte) {
            let _ = write!(name, "%{byte:02x}");
        } else {
            name.push(byte.into());
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked() {
        for good in [
            "http://example.org/debian",
            "https://[::1]:8080/x",
            "file:/srv/repo",
            "file:///srv/repo",
        ] {
            check_repo_url("r", good).unwrap();
        }
        for bad in [
            "ftp://example.org/",
            "file:repo",
            "http://",
            "http://a b/",
            "http://x/\nTrusted: yes",
            "https://user:secret@example.org/debian",
            "debian",
        ] {
            let error = check_repo_url("r", bad).unwrap_err().to_string();
            assert!(
                !error.contains('\n') && !error.contains("secret"),
                "{error}"
            );
        }
    }

    #[test]
    fn file_urls_and_paths_round_trip() {
        let path = Utf8PathBuf::from("/srv/a b/100%_ü~+.deb");
        assert_eq!(file_path(&from_path(&path)).unwrap(), path);
        assert_eq!(file_path("file:/x%2").unwrap(), "/x%2");
        assert_eq!(file_path("http://x/"), None);
        assert_eq!(file_path("file:x"), None);
    }

    #[test]
    fn list_names_are_those_of_apt() {
        let cases = [
            (
                "http://example.org:80/debian/dists/sid/InRelease",
                "example.org:80_debian_dists_sid_InRelease",
            ),
            ("file:/srv/a_b/./Packages", "_srv_a%5fb_._Packages"),
            ("file:///srv/x/Packages", "_srv_x_Packages"),
        ];
        for (uri, name) in cases {
            assert_eq!(list_name(uri), name);
        }
    }
}
