//! Keys that may sign a repository, copied into the state directory.

use anyhow::{Context, Result};
use apt_ostree_model::ErrorKind;
use apt_ostree_treefile::spec::{GpgKey, RepoSpec};
use camino::{Utf8Path, Utf8PathBuf};

use crate::error::{fail, fail_hint};
use crate::files;

/// No archive has a keyring near this size.
const KEYRING_LIMIT: u64 = 4 * 1024 * 1024;
const ARMOR: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";

/// Copies the keys of `repo` into `dir`; names are digests, so a path stands for its content.
///
/// Without keys it is the distribution's archive keyring of the host.
pub(crate) fn install(dir: &Utf8Path, repo: &RepoSpec) -> Result<Vec<Utf8PathBuf>> {
    if repo.gpg_keys.is_empty() {
        if repo.trusted {
            return Ok(Vec::new());
        }
        let path = host_keyring(repo)?;
        return Ok(vec![copy(dir, repo, &path)?]);
    }
    repo.gpg_keys
        .iter()
        .map(|key| match key {
            GpgKey::File(path) => copy(dir, repo, path),
            GpgKey::Armored(text) => store(
                dir,
                &format!("repo '{}': gpg key", repo.name),
                text.as_bytes(),
            ),
        })
        .collect()
}

fn host_keyring(repo: &RepoSpec) -> Result<Utf8PathBuf> {
    let (name, package) = match repo.distribution.as_str() {
        "debian" => ("debian-archive-keyring", "debian-archive-keyring"),
        "ubuntu" => ("ubuntu-archive-keyring", "ubuntu-keyring"),
        other => {
            return Err(fail_hint(
                ErrorKind::InvalidInput,
                format!(
                    "repo '{}': no keyring is known for distribution '{other}'",
                    repo.name
                ),
                "give 'gpg-keys'",
            ));
        }
    };
    let candidates = ["gpg", "pgp"]
        .map(|extension| Utf8PathBuf::from(format!("/usr/share/keyrings/{name}.{extension}")));
    match candidates.iter().find(|path| path.exists()) {
        Some(path) => Ok(path.clone()),
        None => Err(fail_hint(
            ErrorKind::Verification,
            format!(
                "repo '{}': the keyring '{}' of the {} archive is not on this machine",
                repo.name, candidates[0], repo.distribution
            ),
            format!("install the Debian package '{package}', or give 'gpg-keys'"),
        )),
    }
}

fn copy(dir: &Utf8Path, repo: &RepoSpec, path: &Utf8Path) -> Result<Utf8PathBuf> {
    let what = format!("repo '{}': keyring '{path}'", repo.name);
    let data = files::read_limited(path, KEYRING_LIMIT)
        .map_err(|error| fail(ErrorKind::InvalidInput, format!("{what}: {error}")))?;
    store(dir, &what, &data)
}

fn store(dir: &Utf8Path, what: &str, data: &[u8]) -> Result<Utf8PathBuf> {
    let invalid = |why: &str| fail(ErrorKind::InvalidInput, format!("{what} {why}"));
    let armored = std::str::from_utf8(data).is_ok_and(|text| text.contains(ARMOR));
    // OpenPGP packets have the top bit set; a keybox has its magic after eight bytes.
    if data.get(8..12) == Some(b"KBXf") {
        return Err(fail_hint(
            ErrorKind::InvalidInput,
            format!("{what} is a GnuPG keybox"),
            "export the key with 'gpg --export'",
        ));
    }
    if !armored && data.first().is_none_or(|byte| byte & 0x80 == 0) {
        return Err(invalid("is not an OpenPGP public key"));
    }
    let extension = if armored { "asc" } else { "gpg" };
    let path = dir.join(format!("{}.{extension}", files::hash(data)));
    files::write_if_changed(&path, data).with_context(|| format!("writing '{path}'"))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo(gpg_keys: Vec<GpgKey>, distribution: &str) -> RepoSpec {
        RepoSpec {
            name: "r".to_owned(),
            url: None,
            distribution: distribution.to_owned(),
            suites: Vec::new(),
            components: Vec::new(),
            architectures: Vec::new(),
            gpg_keys,
            trusted: false,
            check_valid_until: true,
            priority: None,
        }
    }

    #[test]
    fn keys_are_named_by_kind_and_content() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let armored = GpgKey::Armored(format!("{ARMOR}\n\nxx\n"));
        let binary = dir.join("k");
        std::fs::write(&binary, [0x99, 1]).unwrap();
        let paths = install(dir, &repo(vec![armored, GpgKey::File(binary)], "x")).unwrap();
        assert_eq!(paths[0].extension(), Some("asc"));
        assert_eq!(paths[1].extension(), Some("gpg"));
    }

    #[test]
    fn what_is_no_keyring_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let keybox = dir.join("kbx");
        std::fs::write(&keybox, b"\0\0\0\x20\x01\x01\0\x02KBXf").unwrap();
        let empty = dir.join("empty");
        std::fs::write(&empty, b"").unwrap();
        let huge = dir.join("huge");
        std::fs::File::create(&huge)
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        let fifo = dir.join("fifo");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        for path in [
            keybox,
            empty,
            huge,
            fifo,
            dir.to_owned(),
            dir.join("absent"),
        ] {
            let error = install(dir, &repo(vec![GpgKey::File(path.clone())], "x")).unwrap_err();
            assert!(error.to_string().contains(path.as_str()), "{error}");
        }
    }

    #[test]
    fn an_unknown_distribution_needs_keys() {
        let error = install(Utf8Path::new("/"), &repo(Vec::new(), "other")).unwrap_err();
        assert!(error.to_string().contains("other"), "{error}");
    }
}
