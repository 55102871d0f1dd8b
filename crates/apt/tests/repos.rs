//! Trust: which repositories and packages are accepted.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use apt_ostree_apt::Session;
use apt_ostree_model::{ErrorKind, RecordingReporter};
use camino::Utf8Path;
use common::*;

#[test]
fn a_signed_repository_is_solved_and_fetched() {
    steps(
        "a_signed_repository_is_solved_and_fetched",
        &[&|dir| {
            let mut repo = repo(dir);
            repo.deb(
                "tool",
                "2:1.0-1",
                "Depends: lib (>= 1)\nSource: toolsrc (1.0-1)",
            )
            .deb("lib", "1.5", "");
            repo.publish();
            let config = config(dir, vec![repo.spec("test")], &["tool"]);
            let debs = config.debs_dir.clone();
            let (session, plan, _) = solve(config).unwrap();
            assert_eq!(names(&plan), ["base=1", "lib=1.5", "tool=2:1.0-1"]);
            let get = |name: &str| {
                plan.packages
                    .iter()
                    .find(|p| p.name.as_str() == name)
                    .unwrap()
            };
            assert!(get("base").essential && get("base").group == 0);
            assert!(get("lib").auto && !get("tool").auto && !get("base").auto);
            assert_eq!(
                (
                    get("tool").source.as_str(),
                    get("tool").source_version.as_str()
                ),
                ("toolsrc", "1.0-1")
            );
            assert_eq!(get("tool").fields["Depends"], "lib (>= 1)");
            assert_eq!(plan.sources[0].codename, "stable");
            let reporter = RecordingReporter::default();
            let paths = session.acquire(&plan, &reporter).unwrap();
            for (path, package) in paths.iter().zip(&plan.packages) {
                assert_eq!(*path, debs.join(format!("{}.deb", package.sha256)));
                let found = apt_ostree_fsx::sha256_file(path).unwrap();
                assert_eq!(found, (package.sha256, package.size));
            }
        }],
    );
}

/// The repository is refused, and the error says `words`.
fn refuse(dir: &Utf8Path, repo: &Repo, words: &[&str]) {
    let result = solve(config(dir, vec![repo.spec("test")], &["base"]));
    let (kind, text) = refused(result.map(|(_, plan, _)| plan));
    assert_eq!(kind, ErrorKind::Verification, "{text}");
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}

#[test]
fn an_unsigned_repository_is_refused_unless_trusted() {
    let unsigned = |dir: &Utf8Path| {
        let mut repo = repo(dir);
        repo.sign = false;
        repo.publish();
        repo
    };
    steps(
        "an_unsigned_repository_is_refused_unless_trusted",
        &[
            &|dir| refuse(dir, &unsigned(dir), &["is not signed", "trusted: true"]),
            &|dir| {
                let mut spec = unsigned(dir).spec("test");
                spec.trusted = true;
                let (_, plan, events) = solve(config(dir, vec![spec], &["base"])).unwrap();
                assert_eq!(names(&plan), ["base=1"]);
                assert!(
                    format!("{events:?}").contains("without verification"),
                    "{events:?}"
                );
            },
        ],
    );
}

#[test]
fn a_wrong_key_is_refused_unless_trusted() {
    steps(
        "a_wrong_key_is_refused_unless_trusted",
        &[
            &|dir| {
                let repo = repo(dir);
                repo.publish();
                let mut spec = repo.spec("test");
                spec.gpg_keys = Repo::new(dir, "other", "bad").spec("x").gpg_keys;
                let result = solve(config(dir, vec![spec], &["base"]));
                let (kind, text) = refused(result.map(|(_, plan, _)| plan));
                assert_eq!(kind, ErrorKind::Verification);
                assert!(
                    text.contains("NO_PUBKEY") || text.contains("Missing key"),
                    "{text}"
                );
            },
            &|dir| {
                let mut spec = Repo::new(dir, "repo", "good").spec("test");
                spec.gpg_keys = Repo::new(dir, "other", "bad").spec("x").gpg_keys;
                spec.trusted = true;
                let (_, plan, _) = solve(config(dir, vec![spec], &["base"])).unwrap();
                assert_eq!(names(&plan), ["base=1"]);
            },
        ],
    );
}

#[test]
fn old_indices_are_not_used_when_a_refresh_fails() {
    steps(
        "old_indices_are_not_used_when_a_refresh_fails",
        &[&|dir| {
            let repo = repo(dir);
            repo.publish();
            let mut config = config(dir, vec![repo.spec("test")], &["base"]);
            config.spec.packages.clear();
            let reporter = RecordingReporter::default();
            let mut session = Session::open(config, &reporter).unwrap();
            session.update(&reporter).unwrap();
            // The same process, a newer index, signed by a stranger.
            let mut other = Repo::new(dir, "repo", "bad");
            other.stanza("base", "2", BASE);
            other.date = "Fri, 02 Jan 2026 00:00:00 UTC".to_owned();
            other.publish();
            assert_eq!(
                refused(session.update(&reporter)).0,
                ErrorKind::Verification
            );
            std::fs::remove_dir_all(repo.dir.join("dists")).unwrap();
            assert!(session.update(&reporter).is_err());
            repo.publish();
            session.update(&reporter).unwrap();
            assert_eq!(names(&session.solve(&reporter).unwrap()), ["base=1"]);
        }],
    );
}

#[test]
fn an_expired_index_is_refused_unless_allowed() {
    let expired = |dir: &Utf8Path| {
        let mut repo = repo(dir);
        repo.valid_until = Some("Fri, 02 Jan 2026 00:00:00 UTC".to_owned());
        repo.publish();
        repo
    };
    steps(
        "an_expired_index_is_refused_unless_allowed",
        &[
            &|dir| refuse(dir, &expired(dir), &["expired", "check-valid-until: false"]),
            &|dir| {
                let mut spec = expired(dir).spec("test");
                spec.check_valid_until = false;
                solve(config(dir, vec![spec], &["base"])).unwrap();
            },
        ],
    );
}

#[test]
fn an_index_from_the_future_is_refused() {
    steps(
        "an_index_from_the_future_is_refused",
        &[&|dir| {
            let mut repo = repo(dir);
            repo.date = "Thu, 01 Jan 2099 00:00:00 UTC".to_owned();
            repo.publish();
            refuse(dir, &repo, &["not valid yet", "clock"]);
        }],
    );
}

#[test]
fn another_suite_than_the_one_asked_for_is_refused() {
    steps(
        "another_suite_than_the_one_asked_for_is_refused",
        &[&|dir| {
            let mut repo = repo(dir);
            repo.publish();
            let dists = repo.dir.join("dists");
            std::fs::rename(dists.join("stable"), dists.join("testing")).unwrap();
            repo.suite = "testing".to_owned();
            refuse(dir, &repo, &["testing", "stable", "test"]);
        }],
    );
}

#[test]
fn a_missing_component_or_architecture_is_refused() {
    steps(
        "a_missing_component_or_architecture_is_refused",
        &[
            &|dir| {
                let mut repo = repo(dir);
                repo.publish();
                repo.component = "contrib".to_owned();
                refuse(dir, &repo, &["no component 'contrib'", "main"]);
            },
            &|dir| {
                let mut spec = Repo::new(dir, "repo", "good").spec("test");
                spec.architectures = vec!["arm64".parse().unwrap()];
                let result = solve(config(dir, vec![spec], &["base"]));
                let (kind, text) = refused(result.map(|(_, plan, _)| plan));
                assert_eq!(kind, ErrorKind::Verification, "{text}");
                assert!(text.contains("'arm64'"), "{text}");
            },
        ],
    );
}

#[test]
fn a_changed_index_is_refused() {
    steps(
        "a_changed_index_is_refused",
        &[&|dir| {
            let repo = repo(dir);
            repo.publish();
            let path = repo.dir.join("dists/stable/main/binary-amd64/Packages");
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, text.replace("Version: 1", "Version: 9")).unwrap();
            refuse(dir, &repo, &["Hash Sum mismatch"]);
        }],
    );
}

#[test]
fn text_outside_the_signature_is_refused() {
    steps(
        "text_outside_the_signature_is_refused",
        &[&|dir| {
            let repo = repo(dir);
            repo.publish();
            let path = repo.dir.join("dists/stable/InRelease");
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, text.replace("Origin: Test", "Origin: Evil")).unwrap();
            refuse(dir, &repo, &[]);
        }],
    );
}

#[test]
fn a_login_page_instead_of_an_index_is_refused() {
    steps(
        "a_login_page_instead_of_an_index_is_refused",
        &[&|dir| {
            let repo = repo(dir);
            repo.publish();
            let path = repo.dir.join("dists/stable/InRelease");
            std::fs::write(&path, "<html><body>please log in</body></html>\n").unwrap();
            refuse(dir, &repo, &["login page"]);
        }],
    );
}

#[test]
fn a_changed_package_is_refused_and_removed() {
    steps(
        "a_changed_package_is_refused_and_removed",
        &[&|dir| {
            let repo = repo(dir);
            repo.publish();
            let mut spec = repo.spec("test");
            spec.url = Some(format!("{}/repo", serve(dir)));
            let config = config(dir, vec![spec], &["base"]);
            let debs = config.debs_dir.clone();
            let (session, plan, _) = solve(config).unwrap();
            let path = repo.dir.join("pool/base_1.deb");
            let good = std::fs::read(&path).unwrap();
            let mut bad = good.clone();
            bad[100] ^= 1;
            let reporter = RecordingReporter::default();
            std::fs::write(&path, bad).unwrap();
            let (kind, text) = refused(session.acquire(&plan, &reporter));
            assert_eq!(kind, ErrorKind::Verification, "{text}");
            assert!(text.contains("base_1_amd64"), "{text}");
            assert!(
                !debs
                    .join(format!("{}.deb", plan.packages[0].sha256))
                    .exists()
            );
            std::fs::remove_file(&path).unwrap();
            let (kind, text) = refused(session.acquire(&plan, &reporter));
            assert_eq!(kind, ErrorKind::Network, "{text}");
            assert!(text.contains("404"), "{text}");
            std::fs::write(&path, good).unwrap();
            let paths = session.acquire(&plan, &reporter).unwrap();
            assert_eq!(
                apt_ostree_fsx::sha256_file(&paths[0]).unwrap().0,
                plan.packages[0].sha256
            );
            assert!(format!("{:?}", reporter.take()).contains("StepProgress"));
        }],
    );
}

#[test]
fn a_damaged_cached_package_can_be_fetched_again() {
    steps(
        "a_damaged_cached_package_can_be_fetched_again",
        &[&|dir| {
            let repo = repo(dir);
            repo.publish();
            let config = config(dir, vec![repo.spec("test")], &["base"]);
            let (session, plan, reporter) = solve(config)
                .map(|(s, p, _)| (s, p, RecordingReporter::default()))
                .unwrap();
            let path = session.acquire(&plan, &reporter).unwrap().remove(0);
            std::fs::write(&path, "short").unwrap();
            session.acquire(&plan, &reporter).unwrap();
            assert_eq!(
                apt_ostree_fsx::sha256_file(&path).unwrap().1,
                plan.packages[0].size
            );
            std::fs::write(
                &path,
                vec![0; usize::try_from(plan.packages[0].size).unwrap()],
            )
            .unwrap();
            reporter.take();
            assert_eq!(session.discard_damaged(&plan, &reporter).unwrap(), 1);
            let events = format!("{:?}", reporter.take());
            assert!(events.contains("is damaged and was removed"), "{events}");
            assert!(!path.exists());
            assert_eq!(session.discard_damaged(&plan, &reporter).unwrap(), 0);
            session.acquire(&plan, &reporter).unwrap();
            assert_eq!(session.discard_damaged(&plan, &reporter).unwrap(), 0);
            assert_eq!(
                apt_ostree_fsx::sha256_file(&path).unwrap().0,
                plan.packages[0].sha256
            );
        }],
    );
}

/// A repository whose index has `stanzas` besides the essential package.
fn refuse_stanzas(test: &str, stanzas: &[String], kind: ErrorKind, words: &[&str]) {
    steps(
        test,
        &[&|dir| {
            let mut repo = repo(dir);
            for stanza in stanzas {
                repo.raw(stanza);
            }
            repo.publish();
            let result = solve(config(dir, vec![repo.spec("test")], &["tool"]));
            let (found, text) = refused(result.map(|(_, plan, _)| plan));
            assert_eq!(found, kind, "{text}");
            for word in words {
                assert!(text.contains(word), "'{word}' is not in: {text}");
            }
        }],
    );
}

fn sha(digit: &str) -> String {
    digit.repeat(64)
}

#[test]
fn one_version_with_two_contents_is_refused() {
    let tool =
        |digit: &str, fields: &str| stanza("tool", "1", fields, "pool/t.deb", 10, &sha(digit));
    refuse_stanzas(
        "one_version_with_two_contents_is_refused",
        &[tool("a", ""), tool("b", "Depends: base")],
        ErrorKind::Verification,
        &["tool", "twice", &sha("a"), &sha("b")],
    );
}

#[test]
fn a_file_name_outside_the_repository_is_refused() {
    let tool = stanza("tool", "1", "", "pool/../../../etc/passwd", 10, &sha("a"));
    refuse_stanzas(
        "a_file_name_outside_the_repository_is_refused",
        &[tool],
        ErrorKind::InvalidPackage,
        &["tool", "not below the repository"],
    );
}

#[test]
fn a_package_without_sha256_is_refused() {
    let tool = stanza("tool", "1", "", "pool/t.deb", 10, &sha("a")).replace("SHA256:", "MD5sum:");
    refuse_stanzas(
        "a_package_without_sha256_is_refused",
        &[tool],
        ErrorKind::Verification,
        &["tool", "no SHA256"],
    );
}

#[test]
fn apt_config_of_the_environment_is_refused() {
    steps(
        "apt_config_of_the_environment_is_refused",
        &[&|dir| {
            let repo = repo(dir);
            repo.publish();
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            child.args([
                "apt_config_child",
                "--exact",
                "--ignored",
                "--test-threads=1",
            ]);
            let output = child.env("APT_CONFIG", "/dev/null").output().unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stdout)
            );
        }],
    );
}

#[test]
#[ignore = "run by apt_config_of_the_environment_is_refused"]
fn apt_config_child() {
    let dir = std::env::var("APT_OSTREE_TEST_DIR").unwrap();
    let dir = Utf8Path::new(&dir);
    let spec = Repo::new(dir, "repo", "good").spec("test");
    let (kind, text) = refused(solve(config(dir, vec![spec], &["base"])).map(|(_, plan, _)| plan));
    assert_eq!(kind, ErrorKind::Usage);
    assert!(text.contains("unset it"), "{text}");
}
