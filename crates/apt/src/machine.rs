//! The package sources of a machine: its own `sources.list`, `*.sources`, keyrings and pins, as
//! repos of a session.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use apt_ostree_model::{Arch, ErrorKind, Reporter};
use apt_ostree_treefile::spec::{GpgKey, RepoSpec};
use camino::{Utf8Path, Utf8PathBuf};

use crate::error::{clean, fail, fail_hint};
use crate::{deb822, files};

const SOURCES: &str = "etc/apt/sources.list";
const TRUSTED: &str = "etc/apt/trusted.gpg";
const PREFERENCES: &str = "etc/apt/preferences";
const ARMOR: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
/// Keyrings of the archive, for sources that name none on machines without trusted keys.
const ARCHIVE_KEYRINGS: [&str; 3] = [
    "usr/share/keyrings/debian-archive-keyring.gpg",
    "usr/share/keyrings/debian-archive-keyring.pgp",
    "usr/share/keyrings/ubuntu-archive-keyring.gpg",
];

/// Files of a machine, by their path relative to its root.
pub trait MachineFiles {
    /// The content of a regular file; `None` when there is none.
    ///
    /// # Errors
    /// When it can't be read.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>>;

    /// The names in a directory, in byte order; none when there is no such directory.
    ///
    /// # Errors
    /// When it can't be read.
    fn names(&self, dir: &str) -> Result<Vec<String>>;
}

/// Where a machine takes packages from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MachineSources {
    /// One repo per address and suite.
    pub repos: Vec<RepoSpec>,
    /// The machine's pins, as in `preferences(5)`.
    pub preferences: String,
}

/// One enabled `deb` entry.
#[derive(Debug, Default, Clone, PartialEq)]
struct Entry {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    architectures: Vec<String>,
    signed_by: SignedBy,
    trusted: bool,
    check_valid_until: bool,
}

#[derive(Debug, Default, Clone, PartialEq)]
enum SignedBy {
    /// Any key that the machine trusts.
    #[default]
    Trusted,
    Files(Vec<String>),
    Armored(String),
}

impl MachineSources {
    /// Reads the sources of a machine; its keys are copied to `keys`, a directory.
    ///
    /// Sources on media and in forms that need a program on the machine are left out with a
    /// warning.
    ///
    /// # Errors
    /// When a file can't be read, a keyring is missing, or an entry names keys by fingerprint.
    pub fn load(
        machine: &dyn MachineFiles,
        keys: &Utf8Path,
        reporter: &dyn Reporter,
    ) -> Result<Self> {
        let mut loader = Loader {
            machine,
            keys,
            reporter,
            trusted: None,
            seen: BTreeSet::new(),
            repos: Vec::new(),
        };
        for file in source_files(machine)? {
            let Some(text) = read_text(machine, &file)? else {
                continue;
            };
            loader
                .add_file(&file, &text)
                .with_context(|| format!("reading '/{file}'"))?;
        }
        Ok(Self {
            repos: loader.repos,
            preferences: preferences(machine)?,
        })
    }
}

pub(crate) fn read_text(machine: &dyn MachineFiles, path: &str) -> Result<Option<String>> {
    let data = machine.read(path)?;
    Ok(data.map(|data| String::from_utf8_lossy(&data).into_owned()))
}

/// The files in apt's order.
pub(crate) fn source_files(machine: &dyn MachineFiles) -> Result<Vec<String>> {
    let mut files = vec![SOURCES.to_owned()];
    let dir = format!("{SOURCES}.d");
    let wanted = |name: &String| name.ends_with(".list") || name.ends_with(".sources");
    let names = machine.names(&dir)?.into_iter().filter(wanted);
    files.extend(names.map(|name| format!("{dir}/{name}")));
    Ok(files)
}

/// The id of the sources in a file: its name without what no id may have.
pub(crate) fn id_of_file(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    let stem = name.trim_end_matches(".sources").trim_end_matches(".list");
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    stem.chars()
        .map(|c| if fits(c) { c } else { '-' })
        .collect()
}

/// The machine's pins, one text.
fn preferences(machine: &dyn MachineFiles) -> Result<String> {
    let dir = format!("{PREFERENCES}.d");
    let plain =
        |name: &String| !name.starts_with('.') && (!name.contains('.') || name.ends_with(".pref"));
    let names = machine.names(&dir)?.into_iter().filter(plain);
    let mut texts = Vec::new();
    for path in names
        .map(|name| format!("{dir}/{name}"))
        .chain([PREFERENCES.to_owned()])
    {
        texts.extend(read_text(machine, &path)?);
    }
    Ok(texts.join("\n\n"))
}

struct Loader<'a> {
    machine: &'a dyn MachineFiles,
    keys: &'a Utf8Path,
    reporter: &'a dyn Reporter,
    /// The machine's trusted keys, once a source needed them.
    trusted: Option<Vec<GpgKey>>,
    /// Address, suite and component of what is there: libapt takes no index twice.
    seen: BTreeSet<(String, String, String)>,
    repos: Vec<RepoSpec>,
}

impl Loader<'_> {
    fn add_file(&mut self, file: &str, text: &str) -> Result<()> {
        let name = file.rsplit('/').next().unwrap_or(file);
        let entries: Vec<Entry> = if file.ends_with(".sources") {
            let entries = deb822::stanzas(text).map(deb822_entry);
            entries
                .collect::<Result<Vec<_>>>()?
                .into_iter()
                .flatten()
                .collect()
        } else {
            let entries = text.lines().map(one_line_entry);
            entries
                .collect::<Result<Vec<_>>>()?
                .into_iter()
                .flatten()
                .collect()
        };
        let id = id_of_file(name);
        for entry in entries {
            for uri in &entry.uris {
                self.add(&id, &entry, uri)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, id: &str, entry: &Entry, uri: &str) -> Result<()> {
        let Some(uri) = self.address(uri)? else {
            return Ok(());
        };
        let keys = self.keys_of(entry)?;
        for suite in &entry.suites {
            let flat = suite.ends_with('/');
            let mut components = entry.components.clone();
            if flat {
                components = vec![String::new()];
            }
            components.retain(|component| {
                let key = (uri.clone(), suite.clone(), component.clone());
                self.seen.insert(key)
            });
            if components.is_empty() {
                continue;
            }
            let known = self.repos.iter().filter(|r| r.name.starts_with(id)).count();
            self.repos.push(RepoSpec {
                name: format!("{id}-{}", known + 1),
                url: Some(uri.clone()),
                distribution: "debian".to_owned(),
                suites: vec![suite.clone()],
                components: if flat { Vec::new() } else { components },
                architectures: architectures(&entry.architectures),
                gpg_keys: keys.clone(),
                trusted: entry.trusted,
                check_valid_until: entry.check_valid_until,
                priority: None,
            });
        }
        Ok(())
    }

    /// The address that packages come from; that of a list of mirrors is its first one.
    fn address(&self, uri: &str) -> Result<Option<String>> {
        let listed = ["mirror+file:", "mirror+copy:"];
        if let Some(path) = listed.iter().find_map(|start| uri.strip_prefix(start)) {
            let path = path.trim_start_matches('/');
            let text = read_text(self.machine, path)?.unwrap_or_default();
            let mut lines = text.lines().map(str::trim);
            let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
            let first = first.and_then(|line| line.split_whitespace().next());
            return Ok(first.map(|uri| uri.trim_end_matches('/').to_owned()));
        }
        let uri = match uri.strip_prefix("copy:") {
            Some(rest) => format!("file:{rest}"),
            None => uri.to_owned(),
        };
        if ["http://", "https://", "file:/"]
            .iter()
            .any(|start| uri.starts_with(start))
        {
            return Ok(Some(uri.trim_end_matches('/').to_owned()));
        }
        self.reporter.warning(format!(
            "package source '{}' is left out: only http, https and file are supported",
            clean(&uri)
        ));
        Ok(None)
    }

    fn keys_of(&mut self, entry: &Entry) -> Result<Vec<GpgKey>> {
        match &entry.signed_by {
            SignedBy::Armored(text) => Ok(vec![GpgKey::Armored(text.clone())]),
            SignedBy::Files(paths) => {
                let keys = paths.iter().map(|path| {
                    let key = self.key(path.trim_start_matches('/'))?;
                    key.ok_or_else(|| {
                        fail(
                            ErrorKind::Verification,
                            format!("the keyring '{path}' of a package source is missing"),
                        )
                    })
                });
                keys.collect()
            }
            SignedBy::Trusted if entry.trusted => Ok(Vec::new()),
            SignedBy::Trusted => {
                if self.trusted.is_none() {
                    self.trusted = Some(self.trusted_keys()?);
                }
                Ok(self.trusted.clone().unwrap_or_default())
            }
        }
    }

    /// All keys of `trusted.gpg.d`, else those of the archive.
    fn trusted_keys(&self) -> Result<Vec<GpgKey>> {
        let dir = format!("{TRUSTED}.d");
        let mut paths = vec![TRUSTED.to_owned()];
        let is_key = |name: &String| name.ends_with(".gpg") || name.ends_with(".asc");
        let names = self.machine.names(&dir)?.into_iter().filter(is_key);
        paths.extend(names.map(|name| format!("{dir}/{name}")));
        let mut keys = Vec::new();
        for path in &paths {
            keys.extend(self.key(path)?);
        }
        for path in ARCHIVE_KEYRINGS.iter().filter(|_| keys.is_empty()) {
            if let Some(key) = self.key(path)? {
                return Ok(vec![key]);
            }
        }
        Ok(keys)
    }

    /// A copy of a keyring of the machine.
    fn key(&self, path: &str) -> Result<Option<GpgKey>> {
        let Some(data) = self.machine.read(path)? else {
            return Ok(None);
        };
        files::make_dir(self.keys)?;
        let copy: Utf8PathBuf = self.keys.join(format!("{}.key", files::hash(&data)));
        files::write_if_changed(&copy, &data).with_context(|| format!("writing '{copy}'"))?;
        Ok(Some(GpgKey::File(copy)))
    }
}

fn architectures(names: &[String]) -> Vec<Arch> {
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

fn is_yes(text: &str) -> bool {
    let yes = ["yes", "true", "with", "on", "enable", "1"];
    yes.contains(&text.trim().to_ascii_lowercase().as_str())
}

pub(crate) fn is_no(text: &str) -> bool {
    let no = ["no", "false", "without", "off", "disable", "0"];
    no.contains(&text.trim().to_ascii_lowercase().as_str())
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn signed_by(words: Vec<String>) -> Result<SignedBy> {
    if words.is_empty() {
        return Ok(SignedBy::Trusted);
    }
    if let Some(other) = words.iter().find(|word| !word.starts_with('/')) {
        return Err(fail_hint(
            ErrorKind::InvalidInput,
            format!("Signed-By '{other}' is no path of a keyring"),
            "export that key to a file in /etc/apt/keyrings and name the file",
        ));
    }
    Ok(SignedBy::Files(words))
}

fn deb822_entry(stanza: deb822::Stanza<'_>) -> Result<Option<Entry>> {
    let field = |name: &str| stanza.joined(name).unwrap_or_default();
    let binary = words(&field("Types")).iter().any(|t| t == "deb");
    if is_no(&field("Enabled")) || !binary {
        return Ok(None);
    }
    let all: BTreeMap<String, Vec<&str>> = stanza
        .fields()
        .into_iter()
        .map(|(name, lines)| (name.to_ascii_lowercase(), lines))
        .collect();
    let lines = all.get("signed-by").cloned().unwrap_or_default();
    let signed_by = if lines.iter().any(|line| line.contains(ARMOR)) {
        let text: Vec<&str> = lines
            .iter()
            .map(|line| if *line == "." { "" } else { *line })
            .skip_while(|line| line.is_empty())
            .collect();
        SignedBy::Armored(text.join("\n") + "\n")
    } else {
        signed_by(words(&lines.join(" ").replace(',', " ")))?
    };
    Ok(Some(Entry {
        uris: words(&field("URIs")),
        suites: words(&field("Suites")),
        components: words(&field("Components")),
        architectures: words(&field("Architectures")),
        signed_by,
        trusted: is_yes(&field("Trusted")),
        check_valid_until: !is_no(&field("Check-Valid-Until")),
    }))
}

fn one_line_entry(line: &str) -> Result<Option<Entry>> {
    let line = line.split('#').next().unwrap_or("").trim();
    let Some(rest) = line.strip_prefix("deb") else {
        return Ok(None);
    };
    if !rest.starts_with(|c: char| c == '[' || c.is_whitespace()) {
        return Ok(None);
    }
    let mut rest = rest.trim_start();
    let mut entry = Entry {
        check_valid_until: true,
        ..Entry::default()
    };
    if let Some(inner) = rest.strip_prefix('[') {
        let Some((options, after)) = inner.split_once(']') else {
            return Ok(None);
        };
        for (key, value) in options.split_whitespace().filter_map(|o| o.split_once('=')) {
            let values = || value.split(',').map(str::to_owned).collect();
            match key
                .trim_end_matches(['+', '-'])
                .to_ascii_lowercase()
                .as_str()
            {
                "arch" => entry.architectures = values(),
                "signed-by" => entry.signed_by = signed_by(values())?,
                "trusted" => entry.trusted = is_yes(value),
                "check-valid-until" => entry.check_valid_until = !is_no(value),
                _ => {}
            }
        }
        rest = after;
    }
    let mut parts = words(rest).into_iter();
    let (Some(uri), Some(suite)) = (parts.next(), parts.next()) else {
        return Ok(None);
    };
    entry.uris = vec![uri];
    entry.suites = vec![suite];
    entry.components = parts.collect();
    Ok(Some(entry))
}

#[cfg(test)]
mod tests {
    use apt_ostree_model::NullReporter;

    use super::*;

    struct Files(BTreeMap<&'static str, &'static str>);

    impl MachineFiles for Files {
        fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
            Ok(self.0.get(path).map(|text| text.as_bytes().to_vec()))
        }

        fn names(&self, dir: &str) -> Result<Vec<String>> {
            let below = |path: &&&str| path.rsplit_once('/').is_some_and(|(d, _)| d == dir);
            let names = self.0.keys().filter(below);
            Ok(names
                .map(|p| p.rsplit('/').next().unwrap().to_owned())
                .collect())
        }
    }

    fn load(files: &[(&'static str, &'static str)]) -> Result<MachineSources> {
        let keys = tempfile::tempdir().unwrap();
        let keys = Utf8Path::from_path(keys.path()).unwrap();
        let files = Files(files.iter().copied().collect());
        MachineSources::load(&files, keys, &NullReporter)
    }

    #[test]
    fn both_forms_of_sources_are_read_once_per_index() {
        let sources = load(&[
            ("etc/apt/sources.list", "deb [signed-by=/k.gpg arch=amd64] http://a.example/debian stable main\n# deb http://b.example x main\ndeb-src http://a.example/debian stable main\n"),
            ("etc/apt/sources.list.d/x.sources", "Types: deb\nURIs: http://a.example/debian/\nSuites: stable updates\nComponents: main contrib\nSigned-By: /k.gpg\n\nTypes: deb\nEnabled: no\nURIs: http://c.example\nSuites: ./\n"),
            ("etc/apt/preferences.d/a", "Package: x\nPin: version 1\nPin-Priority: 1001\n"),
            ("k.gpg", "key"),
        ])
        .unwrap();
        let found: Vec<_> = sources
            .repos
            .iter()
            .map(|r| {
                (
                    r.name.as_str(),
                    r.suites[0].as_str(),
                    r.components.join(" "),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("sources-1", "stable", "main".to_owned()),
                ("x-1", "stable", "contrib".to_owned()),
                ("x-2", "updates", "main contrib".to_owned()),
            ]
        );
        assert!(
            sources
                .repos
                .iter()
                .all(|r| r.gpg_keys.len() == 1 && r.check_valid_until)
        );
        assert!(sources.preferences.contains("Pin: version 1"));
    }

    #[test]
    fn keys_come_from_the_entry_or_the_trusted_ones() {
        let armored = "Types: deb\nURIs: http://a.example\nSuites: s\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----\n";
        let sources = load(&[("etc/apt/sources.list.d/x.sources", armored)]).unwrap();
        let expected =
            "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n-----END PGP PUBLIC KEY BLOCK-----\n";
        assert_eq!(
            sources.repos[0].gpg_keys,
            [GpgKey::Armored(expected.to_owned())]
        );

        let plain = ("etc/apt/sources.list", "deb http://a.example s main");
        let trusted = [
            plain,
            ("etc/apt/trusted.gpg.d/a.asc", "a"),
            ("etc/apt/trusted.gpg.d/b.gpg", "b"),
        ];
        assert_eq!(load(&trusted).unwrap().repos[0].gpg_keys.len(), 2);

        let missing = (
            "etc/apt/sources.list",
            "deb [signed-by=/none.gpg] http://a.example s main",
        );
        assert!(format!("{:#}", load(&[missing]).unwrap_err()).contains("'/none.gpg'"));
        let finger = (
            "etc/apt/sources.list",
            "deb [signed-by=ABCDEF0123] http://a.example s main",
        );
        assert!(load(&[finger]).is_err());
    }
}
