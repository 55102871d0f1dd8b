//! Which mirror the host itself uses: read from the texts of its apt sources.

use crate::deb822;

/// One file of the host's apt sources: its name and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// File name; `.sources` files are deb822, all others one-line.
    pub name: String,
    /// Content.
    pub text: String,
}

/// An enabled `deb` entry.
#[derive(Debug, Default)]
struct Entry {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    architectures: Vec<String>,
    signed_by: String,
}

/// The base URL (without a final slash) that `files` name for the main archive of `distribution`
/// (`debian` or `ubuntu`), or for its security archive.
///
/// Entries are looked at in the order given. Third parties often use the same path and suite names,
/// so an entry counts only when it has the component `main` and is signed by the archive's own
/// keyring, or names no key and its path ends in the distribution's name.
pub fn find(
    files: &[SourceFile],
    distribution: &str,
    security: bool,
    arch: &str,
) -> Option<String> {
    let entries: Vec<Entry> = files.iter().flat_map(entries).collect();
    let own = |entry: &&Entry| {
        entry.components.iter().any(|c| c == "main")
            && (entry.architectures.is_empty() || entry.architectures.iter().any(|a| a == arch))
    };
    let pick = |wanted: bool| {
        entries
            .iter()
            .filter(own)
            .filter(|entry| entry.suites.iter().any(|s| is_security(s) == wanted))
            .flat_map(|entry| entry.uris.iter().map(move |uri| (entry, uri)))
            .find(|(entry, uri)| is_archive(entry, uri, distribution))
            .map(|(_, uri)| uri.trim_end_matches('/').to_owned())
    };
    match (security, distribution) {
        // Ubuntu's mirrors carry the security suites too.
        (true, "ubuntu") => pick(true).or_else(|| pick(false)),
        (true, _) => pick(true),
        (false, _) => pick(false),
    }
}

/// True for suites such as `trixie-security` and `buster/updates`.
pub(crate) fn is_security(suite: &str) -> bool {
    suite.ends_with("-security") || suite.ends_with("/updates")
}

fn is_archive(entry: &Entry, uri: &str, distribution: &str) -> bool {
    let scheme_ok = ["http://", "https://", "file:"]
        .iter()
        .any(|s| uri.starts_with(s));
    let directory = uri.trim_end_matches('/').rsplit('/').next().unwrap_or("");
    let (keyring, directories): (&str, &[&str]) = match distribution {
        "ubuntu" => ("ubuntu-archive-", &["ubuntu", "ubuntu-ports"]),
        _ => ("debian-archive-", &["debian", "debian-security"]),
    };
    let key = entry.signed_by.rsplit('/').next().unwrap_or("");
    scheme_ok
        && match entry.signed_by.is_empty() {
            true => directories.contains(&directory),
            false => key.starts_with(keyring),
        }
}

fn entries(file: &SourceFile) -> Vec<Entry> {
    match file.name.ends_with(".sources") {
        true => deb822::stanzas(&file.text)
            .filter_map(deb822_entry)
            .collect(),
        false => file.text.lines().filter_map(one_line_entry).collect(),
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn deb822_entry(stanza: deb822::Stanza<'_>) -> Option<Entry> {
    let field = |name: &str| stanza.joined(name).unwrap_or_default();
    let off = ["no", "false", "without", "off", "disable", "0"];
    let enabled = !off.contains(&field("Enabled").to_ascii_lowercase().trim());
    let binary = words(&field("Types")).iter().any(|t| t == "deb");
    (enabled && binary).then(|| Entry {
        uris: words(&field("URIs")),
        suites: words(&field("Suites")),
        components: words(&field("Components")),
        architectures: words(&field("Architectures")),
        signed_by: field("Signed-By").trim().to_owned(),
    })
}

fn one_line_entry(line: &str) -> Option<Entry> {
    let line = line.split('#').next().unwrap_or("").trim();
    let mut rest = line.strip_prefix("deb")?;
    rest = rest
        .strip_prefix(|c: char| c == '[' || c.is_whitespace())
        .map(|_| rest.trim_start())?;
    let mut entry = Entry::default();
    if let Some(inner) = rest.strip_prefix('[') {
        let (options, after) = inner.split_once(']')?;
        for (key, value) in options.split_whitespace().filter_map(|o| o.split_once('=')) {
            match key
                .trim_end_matches(['+', '-'])
                .to_ascii_lowercase()
                .as_str()
            {
                "arch" => entry.architectures = value.split(',').map(str::to_owned).collect(),
                "signed-by" => value.clone_into(&mut entry.signed_by),
                _ => {}
            }
        }
        rest = after;
    }
    let mut parts = rest.split_whitespace().map(str::to_owned);
    entry.uris = vec![parts.next()?];
    entry.suites = vec![parts.next()?];
    entry.components = parts.collect();
    Some(entry)
}

/// Reads the host's apt sources under `etc_apt` in apt's order. Unreadable files are skipped.
pub fn host_files(etc_apt: &camino::Utf8Path) -> Vec<SourceFile> {
    let mut names = vec![etc_apt.join("sources.list")];
    let mut parts: Vec<_> = etc_apt
        .join("sources.list.d")
        .read_dir_utf8()
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.into_path())
        .filter(|path| matches!(path.extension(), Some("list" | "sources")))
        .collect();
    parts.sort();
    names.append(&mut parts);
    names
        .into_iter()
        .filter_map(|path| {
            let text = std::fs::read_to_string(&path).ok()?;
            let name = path.file_name()?.to_owned();
            Some(SourceFile { name, text })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> SourceFile {
        SourceFile {
            name: name.to_owned(),
            text: text.to_owned(),
        }
    }

    const DEB822: &str = "\
Types: deb deb-src
# a comment
URIs: http://mirror.example.org/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example.org/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";

    #[test]
    fn deb822_sources_name_the_main_and_the_security_mirror() {
        let files = [file("debian.sources", DEB822)];
        let main = find(&files, "debian", false, "amd64");
        assert_eq!(main.as_deref(), Some("http://mirror.example.org/debian"));
        let security = find(&files, "debian", true, "amd64");
        assert_eq!(
            security.as_deref(),
            Some("http://mirror.example.org/debian-security")
        );
        assert_eq!(find(&files, "ubuntu", false, "amd64"), None);
    }

    #[test]
    fn one_line_sources_are_read() {
        let text = "# deb http://off.example.org/debian trixie main\n\
            deb-src http://src.example.org/debian trixie main\n\
            deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.pgp] https://m.example.org/pub/x trixie main\n\
            deb http://m.example.org/debian-security trixie-security main\n";
        let files = [file("sources.list", text)];
        let main = find(&files, "debian", false, "amd64");
        assert_eq!(main.as_deref(), Some("https://m.example.org/pub/x"));
        assert_eq!(find(&files, "debian", false, "arm64"), None);
        let security = find(&files, "debian", true, "arm64");
        assert_eq!(
            security.as_deref(),
            Some("http://m.example.org/debian-security")
        );
    }

    #[test]
    fn third_party_and_disabled_sources_are_not_the_archive() {
        let text = "\
Types: deb
URIs: https://vendor.example.org/linux/debian
Suites: bookworm
Components: main
Signed-By: /etc/apt/keyrings/vendor.asc

Types: deb
URIs: https://plain.example.org/linux/debian
Suites: bookworm
Components: stable

Enabled: no
Types: deb
URIs: http://off.example.org/debian
Suites: bookworm
Components: main

Types: deb
URIs: cdrom:[disc]/debian mirror+file:/etc/apt/mirrors.txt
Suites: bookworm
Components: main
";
        assert_eq!(
            find(&[file("a.sources", text)], "debian", false, "amd64"),
            None
        );
    }

    #[test]
    fn ubuntu_mirrors_carry_security_suites() {
        let text = "deb http://m.example.org/ubuntu noble main universe\n";
        let files = [file("sources.list", text)];
        for security in [false, true] {
            let found = find(&files, "ubuntu", security, "amd64");
            assert_eq!(found.as_deref(), Some("http://m.example.org/ubuntu"));
        }
    }
}
