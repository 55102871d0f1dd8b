//! Which mirror the host itself uses: read from the texts of its apt sources.

use std::collections::BTreeMap;

use camino::Utf8Path;

use crate::{deb822, files, uri};

/// Larger mirror lists are not read.
const LIST_LIMIT: u64 = 1 << 20;

/// One file of the host's apt sources: its name and its text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceFile {
    /// File name; `.sources` files are deb822, all others one-line.
    pub name: String,
    /// Content.
    pub text: String,
    /// Texts of the mirror lists on this host that the file names, by their URI, such as
    /// `mirror+file:/etc/apt/mirrors/debian.list`. The images of cloud providers use them.
    pub lists: BTreeMap<String, String>,
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
    let mut all: Vec<Entry> = match file.name.ends_with(".sources") {
        true => deb822::stanzas(&file.text)
            .filter_map(deb822_entry)
            .collect(),
        false => file.text.lines().filter_map(one_line_entry).collect(),
    };
    for entry in &mut all {
        let uris = std::mem::take(&mut entry.uris).into_iter();
        entry.uris = uris
            .flat_map(|uri| match file.lists.get(&uri) {
                Some(list) => listed_mirrors(list),
                None => vec![uri],
            })
            .collect();
    }
    all
}

/// The mirrors of a list, by priority. Those that carry only a part of the archive are left out.
fn listed_mirrors(list: &str) -> Vec<String> {
    let mut mirrors: Vec<(u64, &str)> = Vec::new();
    for line in list.lines().map(str::trim).filter(|l| !l.starts_with('#')) {
        let mut words = line.split_whitespace();
        let Some(uri) = words.next() else { continue };
        let mut priority = u64::MAX;
        let whole = words.all(|word| {
            let value = word.strip_prefix("priority:");
            priority = value.and_then(|v| v.parse().ok()).unwrap_or(priority);
            value.is_some()
        });
        if whole {
            mirrors.push((priority, uri));
        }
    }
    mirrors.sort_by_key(|(priority, _)| *priority);
    mirrors.into_iter().map(|(_, uri)| uri.to_owned()).collect()
}

/// The mirror lists on this host that a source file names. Unreadable ones are skipped.
fn read_lists(text: &str) -> BTreeMap<String, String> {
    let read = |word: &str| {
        let file = word
            .strip_prefix("mirror+file:")
            .or_else(|| word.strip_prefix("mirror+copy:"))?;
        let path = uri::file_path(&format!("file:{file}"))?;
        let data = files::read_limited(&path, LIST_LIMIT).ok()?;
        Some((word.to_owned(), String::from_utf8(data).ok()?))
    };
    text.split_whitespace().filter_map(read).collect()
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
pub fn host_files(etc_apt: &Utf8Path) -> Vec<SourceFile> {
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
            let lists = read_lists(&text);
            Some(SourceFile { name, text, lists })
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
            lists: BTreeMap::new(),
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

    #[test]
    fn mirror_lists_of_the_host_are_read() {
        let dir = tempfile::TempDir::new().unwrap();
        let etc = Utf8Path::from_path(dir.path()).unwrap();
        std::fs::create_dir(etc.join("sources.list.d")).unwrap();
        let sources = format!(
            "Types: deb deb-src\nURIs: mirror+file://{etc}/debian.list\n\
             Suites: trixie trixie-updates\nComponents: main\n\n\
             Types: deb\nURIs: mirror+file:{etc}/security.list\n\
             Suites: trixie-security\nComponents: main\n\n\
             Types: deb\nURIs: mirror+file:{etc}/missing.list\n\
             Suites: trixie\nComponents: main\n"
        );
        std::fs::write(etc.join("sources.list.d/debian.sources"), sources).unwrap();
        std::fs::write(etc.join("debian.list"), "https://m.example.org/debian\n").unwrap();
        let security = "https://m.example.org/debian-security\n";
        std::fs::write(etc.join("security.list"), security).unwrap();
        let files = host_files(etc);
        let main = find(&files, "debian", false, "amd64");
        assert_eq!(main.as_deref(), Some("https://m.example.org/debian"));
        let security = find(&files, "debian", true, "amd64");
        assert_eq!(
            security.as_deref(),
            Some("https://m.example.org/debian-security")
        );
    }

    #[test]
    fn listed_mirrors_come_by_priority_and_without_partial_ones() {
        let list = "# comment\n\nhttp://last.example.org/debian\n\
            http://part.example.org/debian\tarch:amd64 priority:1\n\
            http://second.example.org/debian\tpriority:2\r\n\
            http://first.example.org/debian\tpriority:1\n\
            http://odd.example.org/debian\tpriority:x\n";
        let hosts = ["first", "second", "last", "odd"];
        let expected = hosts.map(|host| format!("http://{host}.example.org/debian"));
        assert_eq!(listed_mirrors(list), expected);
        assert!(listed_mirrors("").is_empty());
    }
}
