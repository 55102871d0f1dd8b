//! Repositories, inline and from `*.sources` files.

use super::*;
use crate::spec::{GpgKey, RepoSpec};

fn repo(text: &str) -> RepoSpec {
    parse(&format!("repos: [{{name: a1, {text}}}]\n"))
        .unwrap()
        .repos
        .remove(0)
}

fn bad_repo(text: &str, part: &str) {
    refused(&format!("repos: [{{name: a1, {text}}}]\n"), part);
}

#[test]
fn a_name_is_enough() {
    let spec = parse("repos:\n  - name: debian\n    gpg-keys: []\n").unwrap();
    let repo = &spec.repos[0];
    assert_eq!(
        (repo.url.as_deref(), repo.distribution.as_str()),
        (None, "debian")
    );
    assert_eq!(
        (repo.suites.as_slice(), repo.components.as_slice()),
        (&["trixie".to_owned()][..], &["main".to_owned()][..])
    );
    assert!(
        repo.gpg_keys.is_empty()
            && !repo.trusted
            && repo.check_valid_until
            && repo.priority.is_none()
    );
}

#[test]
fn all_parts_are_taken_over() {
    let repo = repo(
        "url: 'https://mirror.example/debian/', suites: [bookworm, bookworm-updates], components: [main, non-free-firmware], architectures: [amd64, aarch64], trusted: true, check-valid-until: false, priority: 990",
    );
    assert_eq!(repo.url.as_deref(), Some("https://mirror.example/debian/"));
    assert_eq!(repo.suites, ["bookworm", "bookworm-updates"]);
    assert_eq!(repo.components, ["main", "non-free-firmware"]);
    assert_eq!(repo.architectures[1].as_str(), "arm64");
    assert!(repo.trusted && !repo.check_valid_until);
    assert_eq!(repo.priority, Some(990));
}

#[test]
fn the_suite_comes_from_releasever_and_ubuntu_has_none() {
    assert_eq!(
        parse("releasever: bookworm\nrepos: [{name: a1}]\n")
            .unwrap()
            .repos[0]
            .suites,
        ["bookworm"]
    );
    bad_repo("distribution: ubuntu", "repository 'a1' needs 'suite'");
    assert_eq!(
        repo("distribution: ubuntu, suite: noble").components,
        ["main", "universe"]
    );
}

#[test]
fn the_mirror_option_fills_in_the_url() {
    let mut given = options();
    given.mirror = Some("http://mirror.example/debian".into());
    let loader = MemoryLoader::new().with(
        "t.yaml",
        "repos: [{name: a1}, {name: b1, url: 'http://other.example/'}]\n",
    );
    let spec = load(&loader, "t.yaml", &given).unwrap();
    assert_eq!(spec.repos[0].url, given.mirror);
    assert_eq!(spec.repos[1].url.as_deref(), Some("http://other.example/"));
}

#[test]
fn bad_parts_are_refused() {
    for (text, part) in [
        ("url: 'ftp://mirror.example/'", "must begin with"),
        ("url: 'http:///x'", "has no host"),
        ("url: 'http://mirror.example/a b'", "percent-encoded"),
        ("url: 'http://u:p@mirror.example/'", "holds a password"),
        ("url: 'http://mirror.example/?a'", "query"),
        ("url: 'file:relative'", "absolute path"),
        ("url: 'file:///a/../b'", "without '..'"),
        ("url: 'javascript:x'", "must begin with"),
        ("url: /srv/repo", "is absolute"),
        ("url: none", "does not exist"),
        ("suite: '../x'", "not the name of a suite"),
        ("suite: 'a b'", "not the name of a suite"),
        ("suite: '-x'", "not the name of a suite"),
        ("suite: '../x/'", "not the path of a flat repository"),
        ("suites: [a, a]", "given twice"),
        ("suites: [./, b]", "has only that suite"),
        ("suite: ./, components: [main]", "has no components"),
        ("components: []", "has no components"),
        ("components: ['../x']", "not the name of a component"),
        ("architectures: [pc]", "unknown architecture"),
        ("priority: 0", "not 0"),
        ("distribution: fedora", "one of 'debian', 'ubuntu'"),
        ("gpg-keys: [none.gpg]", "does not exist"),
        ("gpg-keys: [/root/key.gpg]", "is absolute"),
        ("gpg-keys: [/usr/share/keyrings/../x.gpg]", "is absolute"),
        (
            "gpg-keys: ['-----BEGIN PGP PRIVATE KEY BLOCK-----']",
            "public key block",
        ),
    ] {
        bad_repo(text, part);
    }
    refused("repos: [{name: 'a b'}]\n", "not a repository name");
    refused("repos: [{name: ../a}]\n", "not a repository name");
    refused("repos: [{url: x}]\n", "'repos[0]' needs 'name'");
    refused(
        "repos: [{name: a}, {name: a}]\n",
        "repository 'a' is given twice; first at tree.yaml:1",
    );
}

#[test]
fn keys_are_files_or_armored_text() {
    let armored =
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n-----END PGP PUBLIC KEY BLOCK-----\n";
    let loader = MemoryLoader::new()
        .with("tree.yaml", format!("repos:\n  - name: a1\n    gpg-keys:\n      - keys/a.gpg\n      - /usr/share/keyrings/b.gpg\n      - {}\n", serde_json::json!(armored)))
        .with("keys/a.gpg", "x");
    let keys = load_from(loader).unwrap().repos.remove(0).gpg_keys;
    assert_eq!(
        keys,
        [
            GpgKey::File("/keys/a.gpg".into()),
            GpgKey::File("/usr/share/keyrings/b.gpg".into()),
            GpgKey::Armored(armored.into())
        ]
    );
}

#[test]
fn a_directory_is_a_flat_repository() {
    let loader = MemoryLoader::new()
        .with("tree.yaml", "repos: [{name: local, url: my debs, trusted: true}, {name: l2, url: ./my debs, suite: sub/}]\n")
        .with("my debs/Packages", "");
    let spec = load_from(loader).unwrap();
    assert_eq!(spec.repos[0].url.as_deref(), Some("file:///my%20debs"));
    assert_eq!(
        (
            spec.repos[0].suites.as_slice(),
            spec.repos[0].components.len()
        ),
        (&["./".to_owned()][..], 0)
    );
    assert_eq!(spec.repos[1].suites, ["sub/"]);
}

#[test]
fn lockfile_repos_join_the_repos() {
    let spec = parse("repos: [{name: a1}]\nlockfile-repos: [{name: b1}, a1]\n").unwrap();
    assert_eq!(spec.repos.len(), 2);
    assert_eq!(spec.lockfile_repos, ["b1", "a1"]);
}

#[test]
fn repo_packages_need_a_known_repository() {
    refused(
        "repos: [{name: debian}]\nrepo-packages: [{repo: debain, packages: [a1]}]\n",
        "unknown repository 'debain', did you mean 'debian'?",
    );
    let spec =
        parse("repos: [{name: debian}]\nrepo-packages: [{repo: debian, packages: [a1 b1]}]\n")
            .unwrap();
    assert_eq!(spec.repo_packages[0].1.len(), 2);
    assert_eq!(names(&spec), ["a1", "b1"]);
}

const SOURCES: &str = "# first\nTypes: deb deb-src\nURIs: http://mirror.example/debian\nSuites: trixie\n trixie-updates\n\
                       Components: main contrib\nSigned-By: /usr/share/keyrings/a.gpg\nPDiffs: no\n\n\n\
                       Types: deb\nURIs: http://mirror.example/security/\nSuites: trixie-security\nComponents: main\n\
                       Trusted: yes\nCheck-Valid-Until: no\nX-Repolib-ID: security\nPriority: 600\n\n\
                       Enabled: no\nTypes: deb\nURIs: http://mirror.example/off\nSuites: off\nX-Repolib-ID: off\n\n\
                       Types: deb\nURIs: http://mirror.example/flat\nSuites: ./\n";

fn with_sources(repos: &str) -> Result<ComposeSpec, TreefileError> {
    load_from(
        MemoryLoader::new()
            .with("tree.yaml", format!("repos: {repos}\n"))
            .with("debian.sources", SOURCES),
    )
}

#[test]
fn a_sources_file_gives_all_its_stanzas() {
    let spec = with_sources("[debian]").unwrap();
    let names: Vec<&str> = spec.repos.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["debian", "security", "debian-2"]);
    assert_eq!(spec.repos[0].suites, ["trixie", "trixie-updates"]);
    assert_eq!(spec.repos[0].components, ["main", "contrib"]);
    assert_eq!(
        spec.repos[0].gpg_keys,
        [GpgKey::File("/usr/share/keyrings/a.gpg".into())]
    );
    assert!(spec.repos[1].trusted && !spec.repos[1].check_valid_until);
    assert_eq!(spec.repos[1].priority, Some(600));
    assert_eq!(
        (spec.files[0].path.as_str(), spec.files[0].role.as_str()),
        ("/debian.sources", "repos")
    );
}

#[test]
fn a_stanza_is_found_by_its_id() {
    let spec = with_sources("[security]").unwrap();
    assert_eq!(spec.repos.len(), 1);
    assert_eq!(
        spec.repos[0].url.as_deref(),
        Some("http://mirror.example/security/")
    );
    assert!(
        with_sources("[off]")
            .unwrap_err()
            .to_string()
            .contains("not enabled")
    );
    let message = with_sources("[none]").unwrap_err().to_string();
    assert!(
        message.contains("no file 'none.sources'") && message.contains("'- name: none'"),
        "{message}"
    );
}

#[test]
fn sources_files_may_live_elsewhere() {
    let mut given = options();
    given.source_root = Some("/other".into());
    let loader = MemoryLoader::new()
        .with("t.yaml", "repos: [debian]\n")
        .with("other/debian.sources", SOURCES);
    assert_eq!(load(&loader, "t.yaml", &given).unwrap().repos.len(), 3);
}

#[test]
fn sources_files_know_variables() {
    let loader = MemoryLoader::new()
        .with("tree.yaml", "repos: [a1]\nrepovars: {when: 2026}\nreleasever: sid\n")
        .with("a1.sources", "Types: deb\nURIs: http://mirror.example/${when}\nSuites: ${releasever}\nComponents: main\n");
    let repo = load_from(loader).unwrap().repos.remove(0);
    assert_eq!(
        (repo.url.as_deref(), repo.suites[0].as_str()),
        (Some("http://mirror.example/2026"), "sid")
    );
}

#[test]
fn an_armored_key_in_a_sources_file_is_restored() {
    let key = "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----\n";
    let loader = MemoryLoader::new().with("tree.yaml", "repos: [a1]\n").with(
        "a1.sources",
        format!("Types: deb\nURIs: http://mirror.example/\nSuites: s\nComponents: main\n{key}"),
    );
    assert_eq!(
        load_from(loader).unwrap().repos.remove(0).gpg_keys,
        [GpgKey::Armored(
            "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n-----END PGP PUBLIC KEY BLOCK-----\n"
                .into()
        )]
    );
}

#[test]
fn bad_sources_files_are_refused_in_place() {
    let good = "Types: deb\nURIs: http://mirror.example/\nSuites: s\nComponents: main\n";
    for (text, part) in [
        (
            format!("{good}Sutes: x\n"),
            "a1.sources:5:1: field 'Sutes' is not supported here, did you mean 'Suites'?",
        ),
        (
            format!("{good}Allow-Insecure: yes\n"),
            "field 'Allow-Insecure' is not supported",
        ),
        (format!("{good}Suites: x\n"), "'Suites' is given twice"),
        (format!("{good}no colon\n"), "expected 'Field: value'"),
        (format!("{good}Trusted: maybe\n"), "must be yes or no"),
        (format!("{good}Priority: x\n"), "'Priority' must be"),
        (" continued\n".to_owned(), "no field before it"),
        (
            good.replace("Types: deb", "Types: rpm"),
            "unknown type 'rpm'",
        ),
        (
            good.replace("Types: deb", "Types: deb-src"),
            "no enabled stanza",
        ),
        (good.replace("Suites: s\n", ""), "needs 'Suites'"),
        (
            good.replace(".example/", ".example/ http://b.example/"),
            "needs one address",
        ),
        (
            good.replace("http://mirror.example/", "ftp://mirror.example/"),
            "must begin with",
        ),
        (
            format!("{good}X-Repolib-ID: ../x\n"),
            "not a repository name",
        ),
        ("\u{1b}[31m: x\n".to_owned(), "control character"),
        (String::new(), "no enabled stanza"),
    ] {
        let loader = MemoryLoader::new()
            .with("tree.yaml", "repos: [a1]\n")
            .with("a1.sources", text.as_str());
        let message = load_from(loader).unwrap_err().to_string();
        assert!(message.contains(part), "'{message}' does not hold '{part}'");
    }
}

#[test]
fn the_number_and_size_of_repositories_are_limited() {
    let many: String = (0..300).map(|i| format!("  - name: r{i}\n")).collect();
    refused(&format!("repos:\n{many}"), "more than 200 repositories");
    let large = format!("#{}\n", "x".repeat(1_000_000));
    let loader = MemoryLoader::new().with("tree.yaml", "repos: [none]\n");
    let loader = (0..6).fold(loader, |l, i| {
        l.with(&format!("{i}.sources"), large.as_str())
    });
    let message = load_from(loader).unwrap_err().to_string();
    assert!(message.ends_with("larger than 4 MiB together"), "{message}");
    let loader = MemoryLoader::new()
        .with("tree.yaml", "repos: [a1]\n")
        .with("a1.sources", format!("{large}{large}"));
    assert_eq!(
        load_from(loader).unwrap_err().to_string(),
        "a1.sources: the file is larger than 1 MiB"
    );
}
