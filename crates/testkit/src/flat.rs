//! A flat repository of given `.deb` files, for tools that work from one.

use std::process::Command;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::success;

/// A directory of packages with its index.
#[derive(Debug)]
pub struct Flat {
    /// The directory.
    pub dir: Utf8PathBuf,
    /// The packages as apt wants them named: `NAME`, or `NAME:ARCH` for a foreign architecture.
    pub names: Vec<String>,
    /// The native architecture, then the foreign ones.
    pub architectures: Vec<String>,
}

impl Flat {
    /// An empty repository in a new directory.
    ///
    /// # Errors
    /// When the directory can't be made.
    pub fn new(dir: Utf8PathBuf, native: &str) -> Result<Self> {
        std::fs::create_dir(&dir).with_context(|| format!("creating '{dir}'"))?;
        Ok(Self {
            dir,
            names: Vec::new(),
            architectures: vec![native.to_owned()],
        })
    }

    /// Adds the package in `deb`.
    ///
    /// # Errors
    /// When it can't be copied.
    pub fn add(&mut self, name: &str, version: &str, arch: &str, deb: &Utf8Path) -> Result<()> {
        let file = format!("{name}_{}_{arch}.deb", version.replace(':', "%3a"));
        let file = self.dir.join(file);
        std::fs::hard_link(deb, &file)
            .or_else(|_| std::fs::copy(deb, &file).map(drop))
            .with_context(|| format!("copying '{deb}'"))?;
        if arch == self.architectures[0] || arch == "all" {
            self.names.push(name.to_owned());
            return Ok(());
        }
        self.names.push(format!("{name}:{arch}"));
        if !self.architectures.iter().any(|a| a == arch) {
            self.architectures.push(arch.to_owned());
        }
        Ok(())
    }

    /// Writes the index of all packages, as suite `trixie`.
    ///
    /// # Errors
    /// When apt-ftparchive fails.
    pub fn write_index(&self) -> Result<()> {
        let architectures = self.architectures.join(" ");
        let release = format!(
            "apt-ftparchive packages . >Packages && apt-ftparchive -o APT::FTPArchive::Release::Suite=trixie \
             -o APT::FTPArchive::Release::Codename=trixie -o 'APT::FTPArchive::Release::Architectures={architectures}' \
             release . >Release.new && mv Release.new Release"
        );
        success(
            Command::new("sh")
                .args(["-ec", &release])
                .current_dir(&self.dir),
        )
        .map(drop)
    }
}
