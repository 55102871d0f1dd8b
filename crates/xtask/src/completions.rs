//! Completions for the usual shells.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;

/// Each shell with the file name under which it looks for completions of `apt-ostree`.
const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash/apt-ostree"),
    (Shell::Zsh, "zsh/_apt-ostree"),
    (Shell::Fish, "fish/apt-ostree.fish"),
];

/// Writes a file per shell into `dir`.
pub(crate) fn write(command: &Command, dir: &Path) -> Result<()> {
    for (shell, name) in SHELLS {
        let path = dir.join(name);
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command.clone(), "apt-ostree", &mut text);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("making '{}'", parent.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("writing '{}'", path.display()))?;
    }
    Ok(())
}
