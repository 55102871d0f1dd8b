//! Plans that were solved before. A hit skips libapt's resolver.
//!
//! A cached plan is only ever a shortcut: anything odd about the file means solving again.

use anyhow::{Context, Result};
use apt_ostree_model::{Plan, Sha256Digest};
use camino::Utf8Path;

use crate::files;
use crate::refresh::SourceState;
use crate::sources::Sources;
use crate::spec::AptConfig;

/// Raise it when the same input gives another plan.
const RULES: u32 = 2;
const SIZE_LIMIT: u64 = 64 * 1024 * 1024;

/// Stands for everything that decides a plan.
pub(crate) fn key(
    config: &AptConfig,
    sources: &Sources,
    state: &SourceState,
) -> Result<Sha256Digest> {
    let debs: Vec<_> = sources
        .debs
        .iter()
        .map(|deb| (&deb.path, deb.sha256))
        .collect();
    let strict = config.lock.as_ref().is_some_and(crate::Lock::is_strict);
    let all = serde_json::to_vec(&(
        RULES,
        state.digest,
        &config.spec,
        debs,
        &config.lock,
        strict,
    ))?;
    Ok(files::hash(&all))
}

/// The cached plan, if it is there and whole.
pub(crate) fn load(dir: &Utf8Path, key: &Sha256Digest) -> Option<Plan> {
    let path = dir.join(format!("{key}.json"));
    let data = files::read_limited(&path, SIZE_LIMIT).ok()?;
    let text = std::str::from_utf8(&data).ok()?;
    let (digest, json) = text.split_once('\n')?;
    if digest.parse::<Sha256Digest>().ok()? != files::hash(json.as_bytes()) {
        return None;
    }
    apt_ostree_fsx::prune::touch(&path).ok()?;
    serde_json::from_str(json).ok()
}

/// Keeps a plan.
pub(crate) fn store(dir: &Utf8Path, key: &Sha256Digest, plan: &Plan) -> Result<()> {
    let json = serde_json::to_string(plan)?;
    let text = format!("{}\n{json}", files::hash(json.as_bytes()));
    let path = dir.join(format!("{key}.json"));
    files::write_if_changed(&path, text.as_bytes()).with_context(|| format!("writing '{path}'"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_plan_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let key = files::hash(b"key");
        let plan = Plan {
            arch: "amd64".parse().unwrap(),
            packages: Vec::new(),
            sources: Vec::new(),
        };
        assert_eq!(load(dir, &key), None);
        store(dir, &key, &plan).unwrap();
        assert_eq!(load(dir, &key), Some(plan));
        let path = dir.join(format!("{key}.json"));
        let text = std::fs::read_to_string(&path).unwrap();
        for damaged in [
            text.replace("amd64", "arm64"),
            text[..70].to_owned(),
            String::new(),
        ] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(load(dir, &key), None);
        }
    }
}
