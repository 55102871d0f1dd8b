//! What a Release file says, and whether it is the release that was asked for.

use apt_ostree_model::ErrorKind;

use crate::deb822;
use crate::error::{fail, fail_hint};

/// The fields of a Release file that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Release {
    pub(crate) suite: String,
    pub(crate) codename: String,
    pub(crate) origin: String,
    pub(crate) date: i64,
    components: Vec<String>,
    architectures: Vec<String>,
    /// Paths of the `SHA256` section.
    files: Vec<String>,
}

/// The signed text of an InRelease file; a Release file is returned as it is.
fn signed_text(text: &str) -> &str {
    let Some((_, rest)) = text.split_once("-----BEGIN PGP SIGNED MESSAGE-----") else {
        return text;
    };
    let body = rest.split_once("\n\n").map_or("", |(_, body)| body);
    body.split_once("-----BEGIN PGP SIGNATURE-----")
        .map_or(body, |(body, _)| body)
}

impl Release {
    /// Reads the text of a Release or InRelease file that apt has verified.
    pub(crate) fn parse(text: &str) -> Self {
        let Some(stanza) = deb822::stanzas(signed_text(text)).next() else {
            return Self::default();
        };
        let mut release = Self::default();
        for (name, lines) in stanza.fields() {
            let value = || lines.join(" ").trim().to_owned();
            let words = || value().split_whitespace().map(str::to_owned).collect();
            match name.to_ascii_lowercase().as_str() {
                "suite" => release.suite = value(),
                "codename" => release.codename = value(),
                "origin" => release.origin = value(),
                "date" => release.date = parse_date(&value()),
                "components" => release.components = words(),
                "architectures" => release.architectures = words(),
                "sha256" => {
                    let path = |line: &&str| line.split_whitespace().nth(2).map(str::to_owned);
                    release.files = lines.iter().filter_map(path).collect();
                }
                _ => {}
            }
        }
        release
    }

    /// Fails when this is not the suite that the treefile names.
    pub(crate) fn check_suite(&self, repo: &str, wanted: &str) -> anyhow::Result<()> {
        let plain = wanted.trim_end_matches('/');
        let base = plain.split('/').next().unwrap_or(plain);
        let names = [self.suite.as_str(), self.codename.as_str()];
        let unnamed = names.iter().all(|name| name.is_empty());
        if wanted.ends_with('/') || unnamed || names.iter().any(|name| [plain, base].contains(name))
        {
            return Ok(());
        }
        Err(fail_hint(
            ErrorKind::Verification,
            format!(
                "repo '{repo}': asked for suite '{wanted}', but the server gave suite '{}' (codename '{}')",
                self.suite, self.codename
            ),
            format!(
                "write '{}' or '{}' if that is what you want",
                self.codename, self.suite
            ),
        ))
    }

    /// Fails when `component` has no package index for `arch`.
    pub(crate) fn check_index(
        &self,
        repo: &str,
        suite: &str,
        component: &str,
        arch: &str,
    ) -> anyhow::Result<()> {
        let last = |c: &String| c.rsplit('/').next() == component.rsplit('/').next();
        if !self.components.is_empty() && !self.components.iter().any(last) {
            return Err(fail_hint(
                ErrorKind::Verification,
                format!("repo '{repo}': suite '{suite}' has no component '{component}'"),
                format!("it has: {}", self.components.join(", ")),
            ));
        }
        if !self.has_arch(arch) {
            return Err(fail_hint(
                ErrorKind::Verification,
                format!("repo '{repo}': suite '{suite}' has no packages for architecture '{arch}'"),
                format!("it has: {}", self.architectures.join(", ")),
            ));
        }
        let index = format!("{component}/binary-{arch}/Packages");
        let plain = format!(
            "{}/binary-{arch}/Packages",
            component.rsplit('/').next().unwrap_or("")
        );
        let known = |path: &String| {
            [&index, &plain].iter().any(|i| {
                path.strip_prefix(i.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
        };
        if self.files.is_empty() || self.files.iter().any(known) {
            return Ok(());
        }
        Err(fail(
            ErrorKind::Verification,
            format!("repo '{repo}': the Release file of suite '{suite}' does not list '{index}'"),
        ))
    }

    /// True when packages for `arch` are there, or it is not said.
    pub(crate) fn has_arch(&self, arch: &str) -> bool {
        self.architectures.is_empty() || self.architectures.iter().any(|a| a == arch)
    }
}

/// Seconds since 1970 of a date such as `Sat, 15 Nov 2025 09:58:31 UTC`; 0 when it is none.
fn parse_date(text: &str) -> i64 {
    let text = text.replace("UTC", "+0000").replace("GMT", "+0000");
    jiff::fmt::rfc2822::parse(&text).map_or(0, |date| date.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

Origin: Debian
Suite: stable
Codename: trixie
Date: Sat, 15 Nov 2025 09:58:31 UTC
Architectures: all amd64 arm64
Components: main updates/contrib
MD5Sum:
 d41d8cd98f00b204e9800998ecf8427e 0 main/binary-riscv64/Packages
SHA256:
 00 1 main/binary-amd64/Packages.xz
 00 1 contrib/binary-amd64/Packages.gz
 00 1 main/binary-arm64/Packages-not
-----BEGIN PGP SIGNATURE-----

Suite: evil
-----END PGP SIGNATURE-----
";

    #[test]
    fn only_the_signed_text_counts() {
        let release = Release::parse(TEXT);
        assert_eq!(release.suite, "stable");
        assert_eq!(release.codename, "trixie");
        assert_eq!(release.origin, "Debian");
        assert_eq!(release.date, 1_763_200_711);
    }

    #[test]
    fn the_suite_must_be_the_one_asked_for() {
        let release = Release::parse(TEXT);
        for good in ["trixie", "stable", "stable/updates", "./"] {
            release.check_suite("r", good).unwrap();
        }
        let error = release.check_suite("r", "bookworm").unwrap_err();
        assert!(error.to_string().contains("bookworm"), "{error}");
    }

    #[test]
    fn component_and_architecture_must_be_there() {
        let release = Release::parse(TEXT);
        release.check_index("r", "s", "main", "amd64").unwrap();
        release.check_index("r", "s", "contrib", "amd64").unwrap();
        for (component, arch) in [("non-free", "amd64"), ("main", "s390x"), ("main", "arm64")] {
            let error = release.check_index("r", "s", component, arch).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(component) || text.contains(arch), "{text}");
        }
    }
}
