//! libapt's configuration: isolated from the host's, except for proxies and credentials.
//!
//! Taken from the host are `Acquire::http::Proxy` and its relatives, the usual proxy variables of
//! the environment, and `/etc/apt/auth.conf`: none of them decides which packages are chosen or
//! whom they are trusted from.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use apt_ostree_model::ErrorKind;
use camino::{Utf8Path, Utf8PathBuf};
use rust_apt::raw::config as apt;

use crate::error::{fail, fail_hint};
use crate::files;
use crate::sources::Sources;
use crate::spec::{AptConfig, BaseSpec};

/// Environment variables that libapt's downloaders look at.
pub(crate) const PROXY_ENV: [&str; 7] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// Where things are in the state directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: Utf8PathBuf,
}

impl Layout {
    /// All sources.
    pub(crate) fn sources(&self) -> Utf8PathBuf {
        self.root.join("etc/compose.sources")
    }

    /// Only those that need no network.
    pub(crate) fn local_sources(&self) -> Utf8PathBuf {
        self.root.join("etc/local.sources")
    }

    pub(crate) fn preferences(&self) -> Utf8PathBuf {
        self.root.join("etc/preferences")
    }

    pub(crate) fn conf(&self) -> Utf8PathBuf {
        self.root.join("etc/apt.conf")
    }

    pub(crate) fn lists(&self) -> Utf8PathBuf {
        self.root.join("lists")
    }

    pub(crate) fn plans(&self) -> Utf8PathBuf {
        self.root.join("plans")
    }

    pub(crate) fn verified(&self) -> Utf8PathBuf {
        self.root.join("verified.json")
    }

    /// Checks the path and creates the directories.
    pub(crate) fn create(state_dir: &Utf8Path, base: Option<&BaseSpec>) -> Result<Self> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || "\"',;{}\\".contains(c);
        if !state_dir.is_absolute() || state_dir.as_str().contains(bad) {
            return Err(fail_hint(
                ErrorKind::InvalidInput,
                format!("apt can't work in the cache directory '{state_dir}'"),
                "use an absolute path without spaces, commas and quotes",
            ));
        }
        for name in [
            "", "etc", "lists", "cache", "archives", "keyrings", "plans", "local",
        ] {
            let dir = state_dir.join(name);
            files::make_dir(&dir).with_context(|| format!("creating '{dir}'"))?;
        }
        let root = state_dir.to_owned();
        // Without a base the tree starts without any package.
        let status = base.map_or("", |base| &base.status);
        let states = base.map_or("", |base| &base.extended_states);
        for (name, text) in [("status", status), ("extended_states", states)] {
            let path = root.join(name);
            files::write_if_changed(&path, text.as_bytes())
                .with_context(|| format!("writing '{path}'"))?;
        }
        Ok(Self { root })
    }
}

/// Sets up libapt for this process and writes the same settings as a file for its helpers.
pub(crate) fn configure(config: &AptConfig, layout: &Layout, sources: &Sources) -> Result<()> {
    static USED: AtomicBool = AtomicBool::new(false);
    if USED.swap(true, Ordering::SeqCst) {
        return Err(fail(
            ErrorKind::Failed,
            "libapt can serve only one session per process",
        ));
    }
    if std::env::var_os("APT_CONFIG").is_some() {
        return Err(fail_hint(
            ErrorKind::Usage,
            "the environment variable 'APT_CONFIG' would change how packages are chosen",
            "unset it",
        ));
    }
    let mut settings = host_proxies();
    if let Some(proxy) = &config.proxy {
        if proxy
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || "\"\\".contains(c))
        {
            return Err(fail(
                ErrorKind::Usage,
                format!("'{proxy}' is not a proxy URL"),
            ));
        }
        settings = vec![
            ("Acquire::http::Proxy".to_owned(), proxy.clone()),
            ("Acquire::https::Proxy".to_owned(), proxy.clone()),
        ];
    }
    settings.extend(own_settings(config, layout));
    isolate();
    for (key, value) in &settings {
        apt::set(key.clone(), value.clone());
    }
    apt::clear("APT::Architectures".to_owned());
    let archs = std::iter::once(&config.spec.arch).chain(&sources.foreign);
    for arch in archs {
        apt::set("APT::Architectures::".to_owned(), arch.to_string());
    }
    apt::init_system();
    let (errors, _) = crate::error::drain();
    if !errors.is_empty() {
        return Err(fail(ErrorKind::Failed, errors.join("; ")).context("configuring libapt"));
    }
    write_conf(layout, &settings)
}

/// Resets libapt to its built-in defaults without reading any of the host's files.
fn isolate() {
    apt::clear_all();
    for key in ["Dir::Etc::main", "Dir::Etc::parts"] {
        apt::set(key.to_owned(), "/dev/null".to_owned());
    }
    apt::init_config();
}

/// The proxy settings of the host's own apt configuration.
fn host_proxies() -> Vec<(String, String)> {
    apt::clear_all();
    apt::init_config();
    let _broken_host_configuration_is_not_ours = crate::error::drain();
    let keys = ["http", "https"].into_iter().flat_map(|scheme| {
        ["Proxy", "Proxy-Auto-Detect"].map(|option| format!("Acquire::{scheme}::{option}"))
    });
    keys.map(|key| {
        let value = apt::find(key.clone(), String::new());
        (key, value)
    })
    .filter(|(_, value)| !value.is_empty() && !value.contains(['"', '\n', '\\']))
    .collect()
}

fn own_settings(config: &AptConfig, layout: &Layout) -> Vec<(String, String)> {
    let root = &layout.root;
    let dir = |path: &str| root.join(path).into_string();
    let recommends = config.spec.recommends.to_string();
    let settings: Vec<(&str, String)> = vec![
        ("Dir", "/".into()),
        ("Dir::State", format!("{root}/")),
        ("Dir::State::lists", dir("lists/")),
        ("Dir::State::status", dir("status")),
        ("Dir::State::extended_states", dir("extended_states")),
        ("Dir::Cache", dir("cache/")),
        ("Dir::Cache::archives", dir("archives/")),
        ("Dir::Etc", dir("etc/")),
        ("Dir::Etc::main", "/dev/null".into()),
        ("Dir::Etc::parts", "/dev/null".into()),
        ("Dir::Etc::sourcelist", layout.sources().into_string()),
        ("Dir::Etc::sourceparts", "/dev/null".into()),
        ("Dir::Etc::preferences", layout.preferences().into_string()),
        ("Dir::Etc::preferencesparts", "/dev/null".into()),
        ("Dir::Etc::trusted", "/dev/null".into()),
        ("Dir::Etc::trustedparts", "/dev/null".into()),
        ("Dir::Etc::netrc", "/etc/apt/auth.conf".into()),
        ("Dir::Etc::netrcparts", "/etc/apt/auth.conf.d".into()),
        ("APT::Architecture", config.spec.arch.to_string()),
        ("APT::Install-Recommends", recommends),
        ("APT::Install-Suggests", "false".into()),
        ("APT::Solver", "internal".into()),
        ("APT::Get::Always-Include-Phased-Updates", "true".into()),
        ("APT::Update::Error-Mode", "any".into()),
        ("APT::Get::List-Cleanup", "false".into()),
        ("APT::Cache-Start", "67108864".into()),
        ("APT::Color", "false".into()),
        ("Acquire::Languages", "none".into()),
        ("Acquire::PDiffs", "false".into()),
        ("Acquire::Retries", "3".into()),
        ("Acquire::http::Timeout", "30".into()),
        ("Acquire::https::Timeout", "30".into()),
        ("Acquire::AllowInsecureRepositories", "false".into()),
        ("Acquire::AllowWeakRepositories", "false".into()),
        (
            "Acquire::AllowDowngradeToInsecureRepositories",
            "false".into(),
        ),
        ("Acquire::AllowReleaseInfoChange::Suite", "true".into()),
        ("Acquire::Check-Valid-Until", "true".into()),
        ("Acquire::Check-Date", "true".into()),
    ];
    let own = |(key, value): (&str, String)| (key.to_owned(), value);
    settings.into_iter().map(own).collect()
}

fn write_conf(layout: &Layout, settings: &[(String, String)]) -> Result<()> {
    let mut text = String::new();
    for (key, value) in settings {
        let _ = writeln!(text, "{key} \"{value}\";");
    }
    let path = layout.conf();
    files::write_if_changed(&path, text.as_bytes()).with_context(|| format!("writing '{path}'"))?;
    Ok(())
}
