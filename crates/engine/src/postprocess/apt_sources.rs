//! The treefile's package repositories as the image's own apt sources.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use apt_ostree_model::tree::join;
use apt_ostree_treefile::spec::{GpgKey, RepoSpec};

use super::work::Work;

const DIR: &str = "etc/apt/sources.list.d";

/// Keyrings of the archive, by distribution, as packages of different ages name them.
const KEYRINGS: [(&str, &[&str]); 2] = [
    (
        "debian",
        &[
            "usr/share/keyrings/debian-archive-keyring.pgp",
            "usr/share/keyrings/debian-archive-keyring.gpg",
        ],
    ),
    ("ubuntu", &["usr/share/keyrings/ubuntu-archive-keyring.gpg"]),
];

/// One repository that the image keeps as an apt source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AptSource {
    /// File name without `.sources`.
    pub name: String,
    /// Base URL without credentials.
    pub url: String,
    /// `debian` or `ubuntu`.
    pub distribution: String,
    /// Suites.
    pub suites: Vec<String>,
    /// Components; empty for a flat repository.
    pub components: Vec<String>,
    /// Architectures; empty for all.
    pub architectures: Vec<String>,
    /// Keyrings with their content; empty for the distribution's keyring.
    pub keys: Vec<Vec<u8>>,
    /// Accept it unsigned.
    pub trusted: bool,
    /// Refuse expired Release files.
    pub check_valid_until: bool,
}

impl AptSource {
    /// The source for a treefile repository whose URL the solver has found. `None` for one that
    /// a booted machine can't reach: a directory of the build machine.
    ///
    /// # Errors
    /// When a key file can't be read.
    pub fn load(repo: &RepoSpec, url: &str) -> Result<Option<Self>> {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Ok(None);
        }
        let keys = repo.gpg_keys.iter().map(|key| match key {
            GpgKey::Armored(text) => Ok(text.clone().into_bytes()),
            GpgKey::File(path) => {
                std::fs::read(path).with_context(|| format!("reading key '{path}'"))
            }
        });
        Ok(Some(Self {
            name: repo.name.clone(),
            url: without_credentials(url),
            distribution: repo.distribution.clone(),
            suites: repo.suites.clone(),
            components: repo.components.clone(),
            architectures: repo.architectures.iter().map(ToString::to_string).collect(),
            keys: keys.collect::<Result<_>>()?,
            trusted: repo.trusted,
            check_valid_until: repo.check_valid_until,
        }))
    }
}

fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}/{path}")
}

/// Replaces the build machine's apt sources by those of the treefile; files that packages ship
/// stay.
pub(super) fn write_sources(work: &mut Work<'_>) -> Result<()> {
    let sources = &work.options().sources;
    if sources.is_empty() {
        return Ok(());
    }
    let listed = work.names(DIR).into_iter().map(|name| join(DIR, &name));
    let old: Vec<String> = listed.chain(["etc/apt/sources.list".to_owned()]).collect();
    for path in old {
        if !work.owned().contains(&path) {
            work.drop_path(&path);
        }
    }
    // A repository with several addresses, such as that of security updates, is one file.
    let mut files: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for source in sources {
        let signed_by = write_keys(work, source)?;
        let text = stanza(source, signed_by.as_deref());
        files.entry(&source.name).or_default().push(text);
    }
    for (name, stanzas) in files {
        let text = stanzas.join("\n");
        work.write(&format!("{DIR}/{name}.sources"), 0o644, text.as_bytes())?;
    }
    Ok(())
}

/// Writes the keyrings of a source; returns the `Signed-By` value.
fn write_keys(work: &mut Work<'_>, source: &AptSource) -> Result<Option<String>> {
    if source.keys.is_empty() {
        let known = KEYRINGS
            .iter()
            .find(|(name, _)| *name == source.distribution);
        let paths = known.map_or(&[][..], |(_, paths)| paths);
        let path = paths.iter().find(|path| work.tree.contains(path));
        return Ok(path.map(|path| format!("/{path}")));
    }
    let mut paths = Vec::new();
    for (index, data) in source.keys.iter().enumerate() {
        let armored = data.starts_with(b"-----BEGIN");
        let extension = if armored { "asc" } else { "gpg" };
        let number = if index == 0 {
            String::new()
        } else {
            format!("-{index}")
        };
        let path = format!("etc/apt/keyrings/{}{number}.{extension}", source.name);
        work.write(&path, 0o644, data)?;
        paths.push(format!("/{path}"));
    }
    Ok(Some(paths.join(", ")))
}

fn stanza(source: &AptSource, signed_by: Option<&str>) -> String {
    let mut text = String::from("Types: deb\n");
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            // A string takes any text; writing to it can't fail.
            let _infallible = writeln!(text, "{name}: {value}");
        }
    };
    field("URIs", &source.url);
    field("Suites", &source.suites.join(" "));
    field("Components", &source.components.join(" "));
    field("Architectures", &source.architectures.join(" "));
    field("Signed-By", signed_by.unwrap_or_default());
    field("Trusted", if source.trusted { "yes" } else { "" });
    field(
        "Check-Valid-Until",
        if source.check_valid_until { "" } else { "no" },
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_never_reach_the_image() {
        assert_eq!(
            without_credentials("https://user:secret@example.com/debian"),
            "https://example.com/debian"
        );
        assert_eq!(
            without_credentials("http://example.com/a@b"),
            "http://example.com/a@b"
        );
    }

    #[test]
    fn a_stanza_has_only_fields_with_values() {
        let source = AptSource {
            name: "x".into(),
            url: "http://example.com/debian".into(),
            distribution: "debian".into(),
            suites: vec!["trixie".into(), "trixie-updates".into()],
            components: vec!["main".into()],
            architectures: vec![],
            keys: vec![],
            trusted: false,
            check_valid_until: false,
        };
        assert_eq!(
            stanza(&source, Some("/usr/share/keyrings/k.gpg")),
            "Types: deb\nURIs: http://example.com/debian\nSuites: trixie trixie-updates\nComponents: main\nSigned-By: /usr/share/keyrings/k.gpg\nCheck-Valid-Until: no\n"
        );
    }
}
