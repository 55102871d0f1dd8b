//! The files in the repository that come from the table of treefile fields.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// Path below the top of the source tree, and content.
fn files() -> Result<[(&'static str, String); 2]> {
    let schema = serde_json::to_string_pretty(&apt_ostree_treefile::json_schema())?;
    Ok([
        ("docs/src/treefile.md", apt_ostree_treefile::reference()),
        ("data/treefile.schema.json", schema + "\n"),
    ])
}

/// Writes the files.
///
/// # Errors
/// When one can't be written.
pub(crate) fn write(top: &Path) -> Result<()> {
    for (name, content) in files()? {
        let path = top.join(name);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("creating '{}'", dir.display()))?;
        }
        fs::write(&path, content).with_context(|| format!("writing '{name}'"))?;
    }
    Ok(())
}

/// Fails when a file is not what [`write`] would make it.
///
/// # Errors
/// When one differs or can't be read.
pub(crate) fn check(top: &Path) -> Result<()> {
    for (name, content) in files()? {
        let found =
            fs::read_to_string(top.join(name)).with_context(|| format!("reading '{name}'"))?;
        if found != content {
            bail!("'{name}' is not up to date; run 'make generate'");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_passes_the_check_and_a_change_does_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check(dir.path()).is_err());
        write(dir.path()).unwrap();
        check(dir.path()).unwrap();
        let schema = dir.path().join("data/treefile.schema.json");
        fs::write(&schema, "{}").unwrap();
        assert!(
            check(dir.path())
                .unwrap_err()
                .to_string()
                .contains("treefile.schema.json")
        );
    }
}
