//! Values of options: parsed once, so that nothing behind the command line sees a bad one.

use std::str::FromStr;

use apt_ostree_model::Arch;
use apt_ostree_model::compose::{Compression, ImageFormat, InitializeMode};
use clap::ValueEnum;

/// `KEY=VALUE`; the key is not empty, the value may be and may hold `=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// What is before the first `=`.
    pub key: String,
    /// What is after it.
    pub value: String,
}

impl FromStr for KeyValue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err("must have the form KEY=VALUE".to_owned()),
        }
    }
}

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// A directory in OCI layout
    Oci,
    /// An OCI layout in one tar file
    #[value(alias = "ociarchive")]
    OciArchive,
    /// A tar file for podman load and docker load
    DockerArchive,
}

impl From<FormatArg> for ImageFormat {
    fn from(value: FormatArg) -> Self {
        match value {
            FormatArg::Oci => Self::Oci,
            FormatArg::OciArchive => Self::OciArchive,
            FormatArg::DockerArchive => Self::DockerArchive,
        }
    }
}

/// `--compression`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum CompressionArg {
    /// Read by every tool
    #[default]
    Gzip,
    /// Smaller and faster
    Zstd,
    /// Plain tar
    None,
}

impl From<CompressionArg> for Compression {
    fn from(value: CompressionArg) -> Self {
        match value {
            CompressionArg::Gzip => Self::Gzip,
            CompressionArg::Zstd => Self::Zstd,
            CompressionArg::None => Self::None,
        }
    }
}

/// `--initialize-mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum InitializeArg {
    /// Fail when there is no image, unless --initialize
    #[default]
    Query,
    /// Take it that there is none
    Always,
    /// Fail when there is none
    Never,
    /// Use it when there is one
    IfNotExists,
}

impl From<InitializeArg> for InitializeMode {
    fn from(value: InitializeArg) -> Self {
        match value {
            InitializeArg::Query => Self::Query,
            InitializeArg::Always => Self::Always,
            InitializeArg::Never => Self::Never,
            InitializeArg::IfNotExists => Self::IfNotExists,
        }
    }
}

/// Accepts a Debian architecture name.
pub(super) fn parse_arch(text: &str) -> Result<String, String> {
    match text.parse::<Arch>() {
        Ok(arch) => Ok(arch.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Accepts the base URL of a mirror; a trailing slash is dropped.
pub(super) fn parse_mirror(text: &str) -> Result<String, String> {
    parse_url(text, &["http://", "https://", "file:/"])
        .ok_or_else(|| "must be a http, https or file URL".to_owned())
}

/// Accepts the URL of a proxy that apt can use.
pub(super) fn parse_proxy(text: &str) -> Result<String, String> {
    parse_url(text, &["http://", "https://", "socks5h://"])
        .ok_or_else(|| "must be a http, https or socks5h URL".to_owned())
}

fn parse_url(text: &str, schemes: &[&str]) -> Option<String> {
    let plain = text.chars().all(|c| c.is_ascii_graphic());
    let known = schemes
        .iter()
        .any(|scheme| text.len() > scheme.len() && text.starts_with(scheme));
    (plain && known).then(|| text.trim_end_matches('/').to_owned())
}
