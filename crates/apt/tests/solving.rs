//! Choice: which packages a plan holds.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use apt_ostree_apt::{AptConfig, Session};
use apt_ostree_model::{ErrorKind, Event, Plan, RecordingReporter};
use apt_ostree_treefile::spec::{PackageRequest, Pin};
use camino::Utf8Path;
use common::*;

const BASE: &str = "Essential: yes";

/// A published repository of `name version fields` stanzas with one essential package.
fn publish(dir: &Utf8Path, name: &str, suite: &str, stanzas: &[(&str, &str, &str)]) -> Repo {
    let mut repo = Repo::new(dir, name, "good");
    suite.clone_into(&mut repo.suite);
    repo.stanza("base", "1", BASE);
    for (name, version, fields) in stanzas {
        repo.stanza(name, version, fields);
    }
    repo.publish();
    repo
}

fn plan(config: AptConfig) -> Vec<String> {
    names(&solve(config).unwrap().1)
}

fn unsatisfiable(config: AptConfig) -> String {
    let (kind, text) = refused(solve(config).map(|(_, plan, _)| plan));
    assert_eq!(kind, ErrorKind::Unsatisfiable, "{text}");
    text
}

#[test]
fn unknown_packages_are_all_named_with_suggestions() {
    steps(
        "unknown_packages_are_all_named_with_suggestions",
        &[&|dir| {
            let repo = publish(dir, "repo", "stable", &[("openssh-server", "1", "")]);
            let text = unsatisfiable(config(
                dir,
                vec![repo.spec("test")],
                &["opensh-server", "zzzz"],
            ));
            for word in ["'opensh-server'", "'openssh-server'", "'zzzz'"] {
                assert!(text.contains(word), "{text}");
            }
        }],
    );
}

#[test]
fn a_missing_dependency_is_told_with_the_newest_version() {
    steps(
        "a_missing_dependency_is_told_with_the_newest_version",
        &[&|dir| {
            let stanzas = [
                ("web", "1", "Depends: tls"),
                ("tls", "1", "Depends: libfoo (>= 2)"),
                ("libfoo", "1.0", ""),
            ];
            let repo = publish(dir, "repo", "stable", &stanzas);
            let text = unsatisfiable(config(dir, vec![repo.spec("test")], &["web"]));
            let expected = "web needs tls; tls needs libfoo (>= 2), but 1.0 is the newest";
            assert!(text.starts_with(expected), "{text}");
        }],
    );
}

#[test]
fn a_conflict_is_told_with_its_chain() {
    steps(
        "a_conflict_is_told_with_its_chain",
        &[&|dir| {
            let stanzas = [
                ("one", "1", "Depends: lib-a"),
                ("lib-a", "1", "Conflicts: lib-b"),
                ("two", "1", "Depends: lib-b"),
                ("lib-b", "1", ""),
            ];
            let repo = publish(dir, "repo", "stable", &stanzas);
            let text = unsatisfiable(config(dir, vec![repo.spec("test")], &["one", "two"]));
            let expected = "one needs lib-a; two needs lib-b; lib-a conflicts with lib-b";
            assert!(text.starts_with(expected), "{text}");
        }],
    );
}

#[test]
fn an_excluded_package_that_is_needed_is_an_error() {
    steps(
        "an_excluded_package_that_is_needed_is_an_error",
        &[
            &|dir| {
                let repo = publish(
                    dir,
                    "repo",
                    "stable",
                    &[
                        ("web", "1", "Depends: tls | ssl"),
                        ("tls", "1", ""),
                        ("ssl", "1", ""),
                    ],
                );
                let mut config = config(dir, vec![repo.spec("test")], &["web"]);
                config.spec.exclude_packages = ["tls", "ssl"].map(|n| n.parse().unwrap()).into();
                let text = unsatisfiable(config);
                assert!(
                    text.starts_with("web needs tls or ssl, but 'exclude-packages' forbids it"),
                    "{text}"
                );
            },
            &|dir| {
                let spec = Repo::new(dir, "repo", "good").spec("test");
                let mut config = config(dir, vec![spec], &["web"]);
                config.spec.exclude_packages = ["tls"].map(|n| n.parse().unwrap()).into();
                assert_eq!(plan(config), ["base=1", "ssl=1", "web=1"]);
            },
            &|dir| {
                let spec = Repo::new(dir, "repo", "good").spec("test");
                let mut config = config(dir, vec![spec], &["tls"]);
                config.spec.exclude_packages = ["tls"].map(|n| n.parse().unwrap()).into();
                assert!(unsatisfiable(config).contains("'exclude-packages' forbids it"));
            },
        ],
    );
}

#[test]
fn a_virtual_package_is_provided_and_reported() {
    steps(
        "a_virtual_package_is_provided_and_reported",
        &[&|dir| {
            let stanzas = [
                ("mta-b", "1", "Provides: mail-agent\nPriority: optional"),
                ("mta-c", "1", "Provides: mail-agent\nPriority: standard"),
                ("mta-a", "1", "Provides: mail-agent\nPriority: optional"),
            ];
            let repo = publish(dir, "repo", "stable", &stanzas);
            let (_, plan, events) =
                solve(config(dir, vec![repo.spec("test")], &["mail-agent"])).unwrap();
            assert_eq!(names(&plan), ["base=1", "mta-c=1"]);
            let told = |e: &Event| matches!(e, Event::Message { text } if text.contains("mta-a, mta-b") && text.contains("'mta-c'"));
            assert!(events.iter().any(told), "{events:?}");
        }],
    );
}

#[test]
fn recommends_tasks_and_priorities_are_followed() {
    steps(
        "recommends_tasks_and_priorities_are_followed",
        &[
            &|dir| {
                let stanzas = [
                    ("a", "1", "Recommends: b\nTask: web-server, x"),
                    ("b", "1", ""),
                    ("c", "1", "Priority: important"),
                ];
                let stanzas = stanzas.map(|(n, v, f)| {
                    (
                        if n == "a" {
                            "aa"
                        } else if n == "b" {
                            "bb"
                        } else {
                            "cc"
                        },
                        v,
                        f.to_owned(),
                    )
                });
                let mut repo = Repo::new(dir, "repo", "good");
                repo.stanza("base", "1", BASE);
                for (name, version, fields) in &stanzas {
                    repo.stanza(
                        name,
                        version,
                        &fields.replace("Recommends: b", "Recommends: bb"),
                    );
                }
                repo.publish();
                let mut config = config(dir, vec![repo.spec("test")], &["task:web-server"]);
                config.spec.recommends = true;
                assert_eq!(plan(config), ["aa=1", "base=1", "bb=1"]);
            },
            &|dir| {
                let spec = Repo::new(dir, "repo", "good").spec("test");
                assert_eq!(
                    plan(config(dir, vec![spec], &["priority:important", "aa"])),
                    ["aa=1", "base=1", "cc=1"]
                );
            },
            &|dir| {
                let spec = Repo::new(dir, "repo", "good").spec("test");
                assert!(unsatisfiable(config(dir, vec![spec], &["task:none"])).contains("'none'"));
            },
        ],
    );
}

fn two_suites(dir: &Utf8Path) -> Vec<apt_ostree_treefile::spec::RepoSpec> {
    let old = publish(
        dir,
        "old",
        "stable",
        &[
            ("app", "1", "Depends: lib (= 1)"),
            ("lib", "1", ""),
            ("other", "1", ""),
        ],
    );
    let new = publish(
        dir,
        "new",
        "testing",
        &[
            ("app", "2", "Depends: lib (= 2)"),
            ("lib", "2", ""),
            ("other", "2", ""),
        ],
    );
    // The same essential package in both.
    vec![old.spec("old"), new.spec("new")]
}

#[test]
fn versions_suites_and_pins_choose() {
    steps(
        "versions_suites_and_pins_choose",
        &[
            &|dir| {
                assert_eq!(
                    plan(config(dir, two_suites(dir), &["app", "other"])),
                    ["app=2", "base=1", "lib=2", "other=2"]
                );
            },
            &|dir| {
                assert_eq!(
                    plan(config(dir, two_suites(dir), &["other=1"])),
                    ["base=1", "other=1"]
                );
            },
            &|dir| {
                assert_eq!(
                    plan(config(dir, two_suites(dir), &["app/stable", "other"])),
                    ["app=1", "base=1", "lib=1", "other=2"]
                );
            },
            &|dir| {
                let text = unsatisfiable(config(dir, two_suites(dir), &["other=7"]));
                assert!(
                    text.contains("no version '7'") && text.contains("2, 1"),
                    "{text}"
                );
            },
            &|dir| {
                let mut config = config(dir, two_suites(dir), &["app"]);
                let pin = "release n=testing".to_owned();
                config.spec.pins = vec![Pin {
                    packages: vec!["*".to_owned()],
                    pin,
                    priority: 100,
                }];
                assert_eq!(plan(config), ["app=1", "base=1", "lib=1"]);
            },
            &|dir| {
                let mut config = config(dir, two_suites(dir), &["app"]);
                config.spec.pins = vec![Pin {
                    packages: vec!["x".to_owned()],
                    pin: "release a=x\nPackage: y".to_owned(),
                    priority: 1,
                }];
                assert_eq!(
                    refused(solve(config).map(|(_, p, _)| p)).0,
                    ErrorKind::InvalidInput
                );
            },
        ],
    );
}

#[test]
fn repo_priorities_and_repo_packages_choose() {
    steps(
        "repo_priorities_and_repo_packages_choose",
        &[
            &|dir| {
                let mut repos = two_suites(dir);
                repos[1].priority = Some(100);
                assert_eq!(
                    plan(config(dir, repos, &["app"])),
                    ["app=1", "base=1", "lib=1"]
                );
            },
            &|dir| {
                let mut config = config(dir, two_suites(dir), &["app", "other"]);
                let names = ["app", "lib"].map(|n| n.parse().unwrap()).to_vec();
                config.spec.repo_packages = vec![("old".to_owned(), names)];
                assert_eq!(plan(config), ["app=1", "base=1", "lib=1", "other=2"]);
            },
            &|dir| {
                let mut config = config(dir, two_suites(dir), &["app"]);
                config.spec.repo_packages =
                    vec![("old".to_owned(), vec!["absent".parse().unwrap()])];
                assert!(unsatisfiable(config).contains("'absent'"));
            },
        ],
    );
}

#[test]
fn the_order_of_requests_does_not_change_the_choice() {
    let stanzas = [
        ("one", "1", "Depends: lib-a | lib-b"),
        ("two", "1", "Depends: lib-b | lib-a"),
        ("lib-a", "1", ""),
        ("lib-b", "1", ""),
    ];
    steps(
        "the_order_of_requests_does_not_change_the_choice",
        &[
            &|dir| {
                let repo = publish(dir, "repo", "stable", &stanzas);
                let names = plan(config(dir, vec![repo.spec("test")], &["one", "two"]));
                std::fs::write(dir.join("names"), names.join(" ")).unwrap();
            },
            &|dir| {
                let spec = Repo::new(dir, "repo", "good").spec("test");
                let names = plan(config(dir, vec![spec], &["two", "one"]));
                assert_eq!(
                    names.join(" "),
                    std::fs::read_to_string(dir.join("names")).unwrap()
                );
            },
        ],
    );
}

#[test]
fn local_packages_win_and_are_installed() {
    steps(
        "local_packages_win_and_are_installed",
        &[&|dir| {
            let repo = publish(dir, "repo", "stable", &[("app", "9", ""), ("dep", "1", "")]);
            let deb = dir.join("my app_1 %.deb");
            build_deb(&deb, "app", "1", "Depends: dep");
            let mut config = config(dir, vec![repo.spec("test")], &[]);
            config.spec.local_packages = vec![deb.clone()];
            let (session, mut plan, _) = solve(config).unwrap();
            assert_eq!(names(&plan), ["app=1", "base=1", "dep=1"]);
            let app = plan
                .packages
                .iter()
                .find(|p| p.name.as_str() == "app")
                .unwrap();
            assert_eq!(app.repo, "@local");
            assert!(!app.auto);
            let sha256 = app.sha256;
            assert_eq!(sha256, apt_ostree_fsx::sha256_file(&deb).unwrap().0);
            plan.packages.retain(|p| p.repo == "@local");
            let paths = session
                .acquire(&plan, &RecordingReporter::default())
                .unwrap();
            assert_eq!(apt_ostree_fsx::sha256_file(&paths[0]).unwrap().0, sha256);
        }],
    );
}

#[test]
fn a_bare_directory_is_a_repository_when_trusted() {
    let spec = |dir: &Utf8Path, trusted: bool| {
        let debs = dir.join("debs dir");
        std::fs::create_dir_all(&debs).unwrap();
        build_deb(&debs.join("b.deb"), "extra", "1", "");
        let mut spec = Repo::new(dir, "repo", "good").spec("flat");
        spec.url = Some(format!("file://{dir}/debs%20dir"));
        spec.suites = vec!["./".to_owned()];
        spec.components.clear();
        spec.gpg_keys.clear();
        spec.trusted = trusted;
        spec
    };
    steps(
        "a_bare_directory_is_a_repository_when_trusted",
        &[
            &|dir| {
                let repo = publish(dir, "repo", "stable", &[]);
                let repos = vec![repo.spec("test"), spec(dir, true)];
                assert_eq!(plan(config(dir, repos, &["extra"])), ["base=1", "extra=1"]);
            },
            &|dir| {
                let (kind, text) = refused(
                    solve(config(dir, vec![spec(dir, false)], &["extra"])).map(|(_, p, _)| p),
                );
                assert_eq!(kind, ErrorKind::Verification);
                assert!(text.contains("trusted: true"), "{text}");
            },
        ],
    );
}

#[test]
fn an_unchanged_input_is_not_solved_again() {
    steps(
        "an_unchanged_input_is_not_solved_again",
        &[
            &|dir| {
                let repo = publish(dir, "repo", "stable", &[("app", "1", "")]);
                let (_, plan, _) = solve(config(dir, vec![repo.spec("test")], &["app"])).unwrap();
                write_lock(&dir.join("plan"), &plan);
            },
            &|dir| {
                let spec = Repo::new(dir, "repo", "good").spec("test");
                let (_, plan, events) = solve(config(dir, vec![spec], &["app"])).unwrap();
                assert!(
                    format!("{events:?}").contains("the plan is unchanged"),
                    "{events:?}"
                );
                assert_eq!(load_lock(&dir.join("plan"), false).to_plan().unwrap(), plan);
            },
            &|dir| {
                let mut repo = Repo::new(dir, "repo", "good");
                repo.stanza("base", "1", BASE)
                    .stanza("app", "2", "")
                    .publish();
                assert_eq!(
                    plan(config(dir, vec![repo.spec("test")], &["app"])),
                    ["app=2", "base=1"]
                );
            },
        ],
    );
}

/// A lock of `app` 1, while the repository has 1 and 2 by now.
fn locked(dir: &Utf8Path) -> Plan {
    let mut repo = Repo::new(dir, "repo", "good");
    repo.deb("base", "1", BASE)
        .deb("app", "1", "Depends: lib")
        .deb("lib", "1", "")
        .publish();
    let (_, plan, _) = solve(config(dir, vec![repo.spec("test")], &["app"])).unwrap();
    write_lock(&dir.join("lock"), &plan);
    repo.deb("app", "2", "Depends: lib")
        .deb("extra", "1", "")
        .publish();
    plan
}

#[test]
fn a_lockfile_keeps_versions() {
    let locked_config = |dir: &Utf8Path, packages: &[&str]| {
        let mut config = config(
            dir,
            vec![Repo::new(dir, "repo", "good").spec("test")],
            packages,
        );
        config.lock = Some(load_lock(&dir.join("lock"), false));
        config
    };
    steps(
        "a_lockfile_keeps_versions",
        &[
            &|dir| drop(locked(dir)),
            &|dir| {
                let names = plan(locked_config(dir, &["app", "extra"]));
                assert_eq!(names, ["app=1", "base=1", "extra=1", "lib=1"]);
            },
            &|dir| {
                let text = std::fs::read_to_string(dir.join("lock")).unwrap();
                let lock = load_lock(&dir.join("lock"), false).to_plan().unwrap();
                let sha256 = lock
                    .packages
                    .iter()
                    .find(|p| p.name.as_str() == "lib")
                    .unwrap()
                    .sha256
                    .to_string();
                std::fs::write(dir.join("lock"), text.replace(&sha256, &"0".repeat(64))).unwrap();
                let (kind, text) = refused(solve(locked_config(dir, &["app"])).map(|(_, p, _)| p));
                assert_eq!(kind, ErrorKind::Verification);
                assert!(
                    text.contains("another SHA256") && text.contains("lib"),
                    "{text}"
                );
            },
            &|dir| {
                let text = std::fs::read_to_string(dir.join("lock")).unwrap();
                std::fs::write(
                    dir.join("lock"),
                    text.replace("\"version\": \"1\"", "\"version\": \"0\""),
                )
                .unwrap();
                let (_, plan, events) = solve(locked_config(dir, &["app"])).unwrap();
                assert_eq!(names(&plan), ["app=2", "base=1", "lib=1"]);
                let warned =
                    |e: &Event| matches!(e, Event::Warning { text } if text.contains("'app' 0"));
                assert!(events.iter().any(warned), "{events:?}");
            },
        ],
    );
}

#[test]
fn a_strict_lockfile_is_all_there_is() {
    let strict = |dir: &Utf8Path, packages: &[&str]| {
        // The repository can't be reached any more.
        let mut spec = Repo::new(dir, "repo", "good").spec("test");
        spec.url = Some("http://127.0.0.1:1/debian".to_owned());
        let mut config = config(dir, vec![spec], packages);
        config.lock = Some(load_lock(&dir.join("lock"), true));
        config.offline = true;
        config
    };
    steps(
        "a_strict_lockfile_is_all_there_is",
        &[
            &|dir| drop(locked(dir)),
            &|dir| {
                let (session, plan, _) = solve(strict(dir, &["app"])).unwrap();
                assert_eq!(load_lock(&dir.join("lock"), true).to_plan().unwrap(), plan);
                let paths = session
                    .acquire(&plan, &RecordingReporter::default())
                    .unwrap();
                assert_eq!(paths.len(), 3);
            },
            &|dir| {
                assert!(unsatisfiable(strict(dir, &["extra"])).contains("unknown package 'extra'"));
            },
            &|dir| {
                let mut plan = load_lock(&dir.join("lock"), true).to_plan().unwrap();
                plan.packages.retain(|p| p.name.as_str() != "lib");
                write_lock(&dir.join("lock"), &plan);
                let text = unsatisfiable(strict(dir, &["app"]));
                assert!(
                    text.starts_with("app needs lib, but it is not in the lockfile"),
                    "{text}"
                );
            },
        ],
    );
}

#[test]
fn lockfile_repos_serve_only_locked_packages() {
    steps(
        "lockfile_repos_serve_only_locked_packages",
        &[
            &|dir| drop(locked(dir)),
            &|dir| {
                let other = publish(dir, "other", "testing", &[("app", "0.5", "")]);
                let repos = vec![
                    Repo::new(dir, "repo", "good").spec("test"),
                    other.spec("other"),
                ];
                let mut config = config(dir, repos, &["app"]);
                config.spec.lockfile_repos = vec!["test".to_owned()];
                assert_eq!(plan(config), ["app=0.5", "base=1"]);
            },
            &|dir| {
                let repos = vec![Repo::new(dir, "repo", "good").spec("test")];
                let mut config = config(dir, repos, &["app", "extra"]);
                config.spec.lockfile_repos = vec!["test".to_owned()];
                config.lock = Some(load_lock(&dir.join("lock"), false));
                assert!(unsatisfiable(config).contains("'extra'"));
            },
            &|dir| {
                let repos = vec![Repo::new(dir, "repo", "good").spec("test")];
                let mut config = config(dir, repos, &["app"]);
                config.spec.lockfile_repos = vec!["test".to_owned()];
                config.lock = Some(load_lock(&dir.join("lock"), false));
                assert_eq!(plan(config), ["app=1", "base=1", "lib=1"]);
            },
        ],
    );
}

#[test]
fn offline_works_from_what_was_verified() {
    let offline = |dir: &Utf8Path| {
        let mut repo = Repo::new(dir, "repo", "good");
        repo.suite = "stable".to_owned();
        let mut spec = repo.spec("test");
        spec.url = Some(std::fs::read_to_string(dir.join("url")).unwrap());
        let mut config = config(dir, vec![spec], &["app"]);
        config.offline = true;
        config
    };
    steps(
        "offline_works_from_what_was_verified",
        &[
            &|dir| {
                let mut repo = Repo::new(dir, "repo", "good");
                repo.deb("base", "1", BASE).deb("app", "1", "").publish();
                std::fs::write(dir.join("url"), format!("{}/repo", serve(dir))).unwrap();
                let (kind, text) = refused(solve(offline(dir)).map(|(_, p, _)| p));
                assert_eq!(kind, ErrorKind::Network);
                assert!(
                    text.contains("--offline") && text.contains("'stable'"),
                    "{text}"
                );
            },
            &|dir| {
                std::fs::write(dir.join("url"), format!("{}/repo", serve(dir))).unwrap();
                let mut config = offline(dir);
                config.offline = false;
                solve(config).unwrap();
            },
            &|dir| {
                let (session, plan, _) = solve(offline(dir)).unwrap();
                assert_eq!(names(&plan), ["app=1", "base=1"]);
                let (kind, text) = refused(session.acquire(&plan, &RecordingReporter::default()));
                assert_eq!(kind, ErrorKind::Network);
                assert!(
                    text.contains("--offline") && text.contains("_1_amd64"),
                    "{text}"
                );
            },
            &|dir| {
                // The same index was never verified against this key.
                let mut config = offline(dir);
                config.spec.repos[0].gpg_keys = Repo::new(dir, "x", "bad").spec("x").gpg_keys;
                let (kind, text) = refused(solve(config).map(|(_, p, _)| p));
                assert_eq!(kind, ErrorKind::Network, "{text}");
            },
        ],
    );
}

#[test]
fn foreign_architectures_are_requested_by_name() {
    steps(
        "foreign_architectures_are_requested_by_name",
        &[&|dir| {
            let mut repo = Repo::new(dir, "repo", "good");
            repo.stanza("base", "1", BASE).publish();
            let foreign = PackageRequest::Package {
                name: "base".parse().unwrap(),
                arch: Some("i386".parse().unwrap()),
                version: None,
                suite: None,
            };
            let mut config = config(dir, vec![repo.spec("test")], &[]);
            config.spec.packages = vec![foreign];
            let text = unsatisfiable(config);
            assert!(text.contains("'base:i386'"), "{text}");
        }],
    );
}

#[test]
fn only_one_session_per_process() {
    steps(
        "only_one_session_per_process",
        &[&|dir| {
            let repo = publish(dir, "repo", "stable", &[]);
            let reporter = RecordingReporter::default();
            let first =
                Session::open(config(dir, vec![repo.spec("test")], &[]), &reporter).unwrap();
            drop(first);
            let (_, text) = refused(Session::open(
                config(dir, vec![repo.spec("test")], &[]),
                &reporter,
            ));
            assert!(text.contains("one session per process"), "{text}");
        }],
    );
}
