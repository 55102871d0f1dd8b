//! From the treefile's repos to apt sources: URLs, keys and the deb822 text that libapt reads.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context, Result};
use apt_ostree_model::{Arch, ErrorKind, Sha256Digest};
use apt_ostree_treefile::spec::{PackageRequest, RepoSpec};
use camino::{Utf8Path, Utf8PathBuf};

use crate::error::{fail, fail_hint};
use crate::localrepo::{self, LocalDeb};
use crate::mirror::{self, SourceFile};
use crate::spec::{AptConfig, SolveSpec};
use crate::{files, keyring, uri};

/// Repo id of local packages.
pub(crate) const LOCAL: &str = "@local";
/// Repo id of the index made from a strict lockfile.
pub(crate) const LOCK: &str = "@lock";

/// One suite of one repo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Id of the treefile repo.
    pub(crate) repo: String,
    /// Base URL with a final slash.
    pub(crate) uri: String,
    pub(crate) suite: String,
    pub(crate) components: Vec<String>,
    /// Architectures that must be there.
    pub(crate) archs: Vec<String>,
    /// Foreign architectures that are used if they are there.
    pub(crate) extra_archs: Vec<String>,
    pub(crate) signed_by: Vec<Utf8PathBuf>,
    pub(crate) trusted: bool,
    pub(crate) check_valid_until: bool,
    /// The index was made by us.
    pub(crate) generated: bool,
}

/// One package index of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexFile {
    /// File name in apt's lists directory.
    pub(crate) list: String,
    pub(crate) component: String,
    pub(crate) arch: String,
}

impl Source {
    fn flat(&self) -> bool {
        self.suite.ends_with('/')
    }

    /// True when it needs no network.
    pub(crate) fn is_local(&self) -> bool {
        self.uri.starts_with("file:")
    }

    /// Where the Release file and the indices are.
    fn base(&self) -> String {
        match self.flat() {
            true => format!("{}{}", self.uri, self.suite),
            false => format!("{}dists/{}/", self.uri, self.suite),
        }
    }

    /// The deb822 stanza.
    pub(crate) fn stanza(&self) -> String {
        let mut text = format!("Types: deb\nURIs: {}\nSuites: {}\n", self.uri, self.suite);
        if !self.components.is_empty() {
            let _ = writeln!(text, "Components: {}", self.components.join(" "));
        }
        let archs: Vec<&str> = self
            .archs
            .iter()
            .chain(&self.extra_archs)
            .map(String::as_str)
            .collect();
        let _ = writeln!(text, "Architectures: {}", archs.join(" "));
        if !self.signed_by.is_empty() {
            let paths: Vec<&str> = self.signed_by.iter().map(|p| p.as_str()).collect();
            let _ = writeln!(text, "Signed-By: {}", paths.join(","));
        }
        if self.trusted {
            text.push_str("Trusted: yes\n");
        }
        if !self.check_valid_until {
            text.push_str("Check-Valid-Until: no\n");
        }
        text
    }

    /// Stands for everything that decides whether an index is accepted; keyrings are named by
    /// their content.
    pub(crate) fn digest(&self) -> Sha256Digest {
        files::hash(self.stanza().as_bytes())
    }

    /// How the names of all its files in apt's lists directory start.
    pub(crate) fn list_prefix(&self) -> String {
        uri::list_name(&self.base())
    }

    /// Names that the Release file may have in apt's lists directory.
    pub(crate) fn release_lists(&self) -> [String; 2] {
        let base = self.base();
        ["InRelease", "Release"].map(|name| uri::list_name(&format!("{base}{name}")))
    }

    /// The package indices.
    pub(crate) fn indices(&self) -> Vec<IndexFile> {
        let base = self.base();
        if self.flat() {
            return vec![IndexFile {
                list: uri::list_name(&format!("{base}Packages")),
                component: String::new(),
                arch: String::new(),
            }];
        }
        let archs = || self.archs.iter().chain(&self.extra_archs);
        self.components
            .iter()
            .flat_map(|component| archs().map(move |arch| (component, arch)))
            .map(|(component, arch)| IndexFile {
                list: uri::list_name(&format!("{base}{component}/binary-{arch}/Packages")),
                component: component.clone(),
                arch: arch.clone(),
            })
            .collect()
    }
}

/// Everything a session takes packages from.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) list: Vec<Source>,
    /// Local packages, which are requested as well.
    pub(crate) debs: Vec<LocalDeb>,
    /// Foreign architectures in use.
    pub(crate) foreign: Vec<Arch>,
    /// Repo, suite and base URL of what an image's own apt is to use.
    pub(crate) image: Vec<(String, String, String)>,
}

/// What an image's own apt is to use: repos on a server, as far as their URL is known. The same
/// whether packages come from the repos or from a lockfile.
fn image_sources(config: &AptConfig, host: &[SourceFile]) -> Vec<(String, String, String)> {
    let suites = |repo: &RepoSpec| repo.suites.clone();
    let all = config
        .spec
        .repos
        .iter()
        .flat_map(|repo| suites(repo).into_iter().map(move |s| (repo, s)));
    all.filter_map(|(repo, suite)| {
        let url = base_url(config, repo, &suite, host).ok()?;
        let local = uri::file_path(&url).is_some();
        (!local).then(|| {
            (
                repo.name.clone(),
                suite,
                format!("{}/", url.trim_end_matches('/')),
            )
        })
    })
    .collect()
}

/// Architectures that requests and repos name besides that of the tree.
fn foreign(spec: &SolveSpec, debs: &[LocalDeb]) -> Vec<Arch> {
    let requested = spec.packages.iter().filter_map(|request| match request {
        PackageRequest::Package { arch, .. } => arch.clone(),
        _ => None,
    });
    let repos = spec
        .repos
        .iter()
        .flat_map(|repo| repo.architectures.clone());
    let local = debs.iter().map(|deb| deb.arch.clone());
    let base = spec.base.iter().flat_map(|base| base.foreign.clone());
    let all: BTreeSet<Arch> = requested.chain(repos).chain(local).chain(base).collect();
    let other = |arch: &Arch| *arch != spec.arch && !["all", "any"].contains(&arch.as_str());
    all.into_iter().filter(other).collect()
}

/// Resolves the repos of `config` and writes keyrings and generated indices below its state
/// directory.
pub(crate) fn resolve(config: &AptConfig) -> Result<Sources> {
    let spec = &config.spec;
    let local_dir = config.state_dir.join("local");
    files::make_dir(&local_dir).with_context(|| format!("creating '{local_dir}'"))?;
    let debs = localrepo::read_debs(&spec.local_packages, &local_dir.join("packages.json"))?;
    let foreign = foreign(spec, &debs);
    let host = mirror::host_files(Utf8Path::new("/etc/apt"));
    let image = image_sources(config, &host);
    let mut list = Vec::new();
    if let Some(lock) = config.lock.as_ref().filter(|lock| lock.is_strict()) {
        let stanzas: Vec<String> = lock
            .to_plan()?
            .packages
            .iter()
            .map(localrepo::planned_stanza)
            .collect();
        list.push(generated(
            LOCK,
            &local_dir.join("lock"),
            &stanzas,
            spec,
            &foreign,
        )?);
        return Ok(Sources {
            list,
            debs,
            foreign,
            image,
        });
    }
    if !debs.is_empty() {
        let stanzas: Vec<String> = debs.iter().map(localrepo::stanza).collect();
        list.push(generated(
            LOCAL,
            &local_dir.join("local"),
            &stanzas,
            spec,
            &foreign,
        )?);
    }
    for repo in &spec.repos {
        list.extend(resolve_repo(config, repo, &foreign, &host)?);
    }
    check_unique(&list)?;
    if list.is_empty() && spec.base.is_none() {
        return Err(fail_hint(
            ErrorKind::InvalidInput,
            "there is no package repository",
            "add an entry to 'repos' of the treefile, or to /etc/apt/sources.list.d of the machine",
        ));
    }
    Ok(Sources {
        list,
        debs,
        foreign,
        image,
    })
}

fn generated(
    id: &str,
    dir: &Utf8Path,
    stanzas: &[String],
    spec: &SolveSpec,
    foreign: &[Arch],
) -> Result<Source> {
    let dir = localrepo::write_repo(dir, stanzas)?;
    let archs = std::iter::once(&spec.arch).chain(foreign);
    Ok(Source {
        repo: id.to_owned(),
        uri: format!("{}/", uri::from_path(&dir)),
        suite: "./".to_owned(),
        components: Vec::new(),
        archs: archs.map(ToString::to_string).collect(),
        extra_archs: Vec::new(),
        signed_by: Vec::new(),
        trusted: true,
        check_valid_until: false,
        generated: true,
    })
}

fn resolve_repo(
    config: &AptConfig,
    repo: &RepoSpec,
    foreign: &[Arch],
    host: &[SourceFile],
) -> Result<Vec<Source>> {
    check_words(repo)?;
    if let Some(source) = bare_repo(config, repo, foreign)? {
        return Ok(vec![source]);
    }
    let signed_by = keyring::install(&config.state_dir.join("keyrings"), repo)?;
    let native = &config.spec.arch;
    let (archs, extra_archs) = match repo.architectures.is_empty() {
        true => (
            vec![native.to_string()],
            foreign.iter().map(ToString::to_string).collect(),
        ),
        false => (
            repo.architectures.iter().map(ToString::to_string).collect(),
            Vec::new(),
        ),
    };
    repo.suites
        .iter()
        .map(|suite| {
            let url = base_url(config, repo, suite, host)?;
            uri::check_repo_url(&repo.name, &url)?;
            let flat = suite.ends_with('/');
            Ok(Source {
                repo: repo.name.clone(),
                uri: format!("{}/", url.trim_end_matches('/')),
                suite: suite.to_string(),
                components: if flat {
                    Vec::new()
                } else {
                    repo.components.clone()
                },
                archs: archs.clone(),
                extra_archs: extra_archs.clone(),
                signed_by: signed_by.clone(),
                trusted: repo.trusted,
                check_valid_until: repo.check_valid_until,
                generated: false,
            })
        })
        .collect()
}

/// A directory of `.deb` files without an index gets one in the state directory.
fn bare_repo(config: &AptConfig, repo: &RepoSpec, foreign: &[Arch]) -> Result<Option<Source>> {
    let Some(dir) = repo.url.as_deref().and_then(uri::file_path) else {
        return Ok(None);
    };
    let [suite] = repo.suites.as_slice() else {
        return Ok(None);
    };
    if !suite.ends_with('/') {
        return Ok(None);
    }
    let dir = dir.join(suite.trim_start_matches('/'));
    let Some(paths) = localrepo::bare_directory(&dir)? else {
        return Ok(None);
    };
    if !repo.trusted {
        return Err(fail_hint(
            ErrorKind::Verification,
            format!(
                "repo '{}': the directory '{dir}' has no signed index",
                repo.name
            ),
            "add 'trusted: true' to this repo to use its packages as they are",
        ));
    }
    let local = config.state_dir.join("local");
    let debs = localrepo::read_debs(&paths, &local.join(format!("repo-{}.json", repo.name)))?;
    let stanzas: Vec<String> = debs.iter().map(localrepo::stanza).collect();
    let at = local.join(format!("repo-{}", repo.name));
    generated(&repo.name, &at, &stanzas, &config.spec, foreign).map(Some)
}

fn base_url(
    config: &AptConfig,
    repo: &RepoSpec,
    suite: &str,
    host: &[SourceFile],
) -> Result<String> {
    if let Some(url) = &repo.url {
        return Ok(url.clone());
    }
    let security = mirror::is_security(suite);
    let arch = config.spec.arch.as_str();
    let found = match &config.mirror {
        Some(mirror) if !security || repo.distribution == "ubuntu" => Some(mirror.clone()),
        // Debian's security archive lies beside the main archive on mirrors that have both.
        Some(mirror) => mirror
            .trim_end_matches('/')
            .strip_suffix("/debian")
            .map(|parent| format!("{parent}/debian-security")),
        None => mirror::find(host, &repo.distribution, security, arch),
    };
    found.ok_or_else(|| {
        let what = if security { " security" } else { "" };
        fail_hint(
            ErrorKind::InvalidInput,
            format!(
                "repo '{}': it has no 'url', and no mirror of the {}{what} archive is known for suite '{suite}'",
                repo.name, repo.distribution
            ),
            "give 'url' in the treefile or --mirror on the command line",
        )
    })
}

/// These words go into apt's configuration, so they must be single words.
fn check_words(repo: &RepoSpec) -> Result<()> {
    let plain = |word: &str| {
        !word.is_empty()
            && word.len() <= 255
            && word
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_./+~:".contains(&b))
            && word.split('/').all(|part| part != "..")
    };
    let words = repo.suites.iter().chain(&repo.components);
    if let Some(bad) = words.clone().find(|word| !plain(word)) {
        return Err(fail(
            ErrorKind::InvalidInput,
            format!("repo '{}': '{bad}' is not a suite or component", repo.name),
        ));
    }
    let suites_need_components = repo.suites.iter().any(|suite| !suite.ends_with('/'));
    if repo.suites.is_empty() || (suites_need_components && repo.components.is_empty()) {
        return Err(fail(
            ErrorKind::InvalidInput,
            format!("repo '{}': it has no suite or no component", repo.name),
        ));
    }
    Ok(())
}

/// Two repos must not name the same index: libapt would not tell them apart.
fn check_unique(list: &[Source]) -> Result<()> {
    let mut seen = std::collections::BTreeMap::new();
    for source in list {
        for index in source.indices() {
            if let Some(other) = seen.insert(index.list, &source.repo) {
                return Err(fail(
                    ErrorKind::InvalidInput,
                    format!(
                        "repos '{other}' and '{}' name the same package index ({} {} {})",
                        source.repo, source.uri, source.suite, index.component
                    ),
                ));
            }
        }
    }
    Ok(())
}
