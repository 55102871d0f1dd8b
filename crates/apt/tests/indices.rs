//! Hostile and odd package indices and the servers that hand them out.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use apt_ostree_model::ErrorKind;
use apt_ostree_treefile::spec::RepoSpec;
use camino::Utf8Path;
use common::*;

/// The repository is refused with an error of `kind` that has one of `words`.
fn refuse(dir: &Utf8Path, spec: RepoSpec, kind: ErrorKind, words: &[&str]) {
    let result = solve(config(dir, vec![spec], &["base"]));
    let (found, text) = refused(result.map(|(_, plan, _)| plan));
    assert_eq!(found, kind, "{text}");
    assert!(
        words.iter().any(|word| text.contains(word)),
        "none of {words:?} is in: {text}"
    );
}

/// The repository over HTTP, with odd answers.
fn over_http(dir: &Utf8Path, repo: &Repo, odd: Answer) -> RepoSpec {
    let mut spec = repo.spec("test");
    spec.url = Some(format!("{}/repo", serve_with(dir, odd)));
    spec
}

/// A repository whose key lived in January 2020 only.
fn short_lived(dir: &Utf8Path) -> Repo {
    let home = dir.join("gpg-short");
    if !home.exists() {
        std::fs::create_dir(&home).unwrap();
        std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o700)).unwrap();
        let mut maker = Repo::new(dir, "repo", "short");
        maker.signing_time = Some("20200101T000000!".to_owned());
        let key = ["short <short@example.org>", "rsa2048", "sign", "30d"];
        maker.gpg(&[&["--passphrase", "", "--quick-generate-key"], &key[..]].concat());
        export_key(&home);
    }
    let mut repo = Repo::new(dir, "repo", "short");
    repo.deb("base", "1", BASE);
    repo.date = "Fri, 10 Jan 2020 00:00:00 UTC".to_owned();
    repo
}

#[test]
fn a_signature_from_after_the_end_of_the_key_is_refused() {
    steps(
        "a_signature_from_after_the_end_of_the_key_is_refused",
        &[&|dir| {
            let mut repo = short_lived(dir);
            // Its owner prolonged the key; nobody told us.
            let home = dir.join("gpg-short");
            let list = ["--homedir", home.as_str(), "--list-keys", "--with-colons"];
            let list = Command::new("gpg").args(list).output().unwrap();
            let list = String::from_utf8(list.stdout).unwrap();
            let line = list.lines().find(|line| line.starts_with("fpr:")).unwrap();
            let fingerprint = line.split(':').nth(9).unwrap();
            repo.signing_time = Some("20200110T000000!".to_owned());
            repo.gpg(&["--passphrase", "", "--quick-set-expire", fingerprint, "0"]);
            repo.signing_time = None;
            repo.publish();
            let words = ["EXPKEYSIG", "expired", "not alive", "not live"];
            refuse(dir, repo.spec("test"), ErrorKind::Verification, &words);
        }],
    );
}

#[test]
fn an_index_that_ran_out_is_refused_even_when_signed_in_the_life_of_its_key() {
    steps(
        "an_index_that_ran_out_is_refused_even_when_signed_in_the_life_of_its_key",
        &[&|dir| {
            let mut repo = short_lived(dir);
            repo.signing_time = Some("20200110T000000!".to_owned());
            repo.valid_until = Some("Fri, 17 Jan 2020 00:00:00 UTC".to_owned());
            repo.publish();
            let words = ["EXPKEYSIG", "expired"];
            refuse(dir, repo.spec("test"), ErrorKind::Verification, &words);
        }],
    );
}

#[test]
fn an_older_index_does_not_replace_a_newer_one() {
    let versions = |dir: &Utf8Path| {
        let spec = Repo::new(dir, "repo", "good").spec("test");
        let (_, plan, _) = solve(config(dir, vec![spec], &["base"])).unwrap();
        names(&plan)
    };
    steps(
        "an_older_index_does_not_replace_a_newer_one",
        &[
            &|dir| {
                let mut newer = Repo::new(dir, "repo", "good");
                newer.deb("base", "2", BASE);
                newer.date = "Fri, 02 Jan 2026 00:00:00 UTC".to_owned();
                newer.publish();
                assert_eq!(versions(dir), ["base=2"]);
            },
            &|dir| {
                repo(dir).publish();
                assert_eq!(versions(dir), ["base=2"]);
            },
            &|dir| {
                let mut newest = repo(dir);
                newest.date = "Sat, 03 Jan 2026 00:00:00 UTC".to_owned();
                newest.publish();
                assert_eq!(versions(dir), ["base=1"]);
            },
        ],
    );
}

#[test]
fn a_repository_that_changes_its_identity_is_refused() {
    steps(
        "a_repository_that_changes_its_identity_is_refused",
        &[
            &|dir| {
                let repo = repo(dir);
                repo.publish();
                solve(config(dir, vec![repo.spec("test")], &["base"])).unwrap();
            },
            &|dir| {
                let mut repo = repo(dir);
                repo.date = "Fri, 02 Jan 2026 00:00:00 UTC".to_owned();
                repo.origin = "Evil".to_owned();
                repo.publish();
                let words = ["changed its 'Origin' value"];
                refuse(dir, repo.spec("test"), ErrorKind::Verification, &words);
            },
        ],
    );
}

/// The most memory that this process has ever used, in MiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
    kilobytes.parse::<u64>().unwrap() / 1024
}

/// What is too long for libapt depends on its version; that it was too long must be said.
fn read_or_refused(result: anyhow::Result<Vec<String>>) {
    match result {
        Ok(names) => assert_eq!(names, ["base=1"]),
        Err(error) => {
            let (kind, text) = refused::<()>(Err(error));
            assert_eq!(kind, ErrorKind::Failed, "{text}");
            assert!(text.starts_with("reading package indices: "), "{text}");
        }
    }
}

#[test]
fn oversized_indices_are_read_within_bounds() {
    let index = |dir: &Utf8Path, raw: &[String]| {
        let mut repo = repo(dir);
        for stanza in raw {
            repo.raw(stanza);
        }
        repo.publish();
        let result = solve(config(dir, vec![repo.spec("test")], &["base"]));
        let peak = peak_memory();
        assert!(peak < 512, "{peak} MiB were used");
        result.map(|(_, plan, _)| names(&plan))
    };
    let field = |length: usize| {
        let fields = format!("Description: {}", "x".repeat(length));
        stanza("tool", "1", &fields, "pool/t.deb", 10, &"a".repeat(64))
    };
    steps(
        "oversized_indices_are_read_within_bounds",
        &[
            &|dir| read_or_refused(index(dir, &[field(1 << 20)])),
            &|dir| read_or_refused(index(dir, &[field(64 << 20)])),
            &|dir| read_or_refused(index(dir, &["\n".repeat(1_000_000)])),
            &|dir| {
                let sha = "a".repeat(64);
                let many = |n| stanza(&format!("p{n}"), "1", "", "pool/p.deb", 10, &sha);
                let stanzas: Vec<String> = (0..100_000).map(many).collect();
                assert_eq!(index(dir, &stanzas).unwrap(), ["base=1"]);
            },
        ],
    );
}

/// More than any Release file may have, and no end.
fn endless(path: &str, stream: &mut TcpStream) -> bool {
    if !path.ends_with("/InRelease") && !path.ends_with("/Packages") {
        return false;
    }
    drop(stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n"));
    while stream.write_all(&[b'a'; 65536]).is_ok() {}
    true
}

fn endless_packages(path: &str, stream: &mut TcpStream) -> bool {
    !path.ends_with("/InRelease") && endless(path, stream)
}

fn redirect(stream: &mut TcpStream, to: &str) -> bool {
    let answer = format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(answer.as_bytes()).is_ok()
}

fn redirect_in_circles(path: &str, stream: &mut TcpStream) -> bool {
    match path.strip_suffix('x') {
        Some(first) => redirect(stream, first),
        None => redirect(stream, &format!("{path}x")),
    }
}

fn redirect_to_a_file(_: &str, stream: &mut TcpStream) -> bool {
    redirect(stream, "file:///etc/hostname")
}

fn cut_off(path: &str, stream: &mut TcpStream) -> bool {
    if path.ends_with("/InRelease") {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nOrigin: T"));
        drop(stream.shutdown(std::net::Shutdown::Both));
        return true;
    }
    false
}

#[test]
fn servers_that_do_not_stop_are_left() {
    const NO_RELEASE: &[&str] = &["does not have a Release file"];
    let cases: [(Answer, ErrorKind, &[&str]); 5] = [
        (endless, ErrorKind::Verification, &["Clearsigned file"]),
        (
            endless_packages,
            ErrorKind::Verification,
            &["Hash Sum mismatch"],
        ),
        (redirect_in_circles, ErrorKind::Verification, NO_RELEASE),
        (redirect_to_a_file, ErrorKind::Verification, NO_RELEASE),
        (
            cut_off,
            ErrorKind::Network,
            &["closed connection", "Connection failed"],
        ),
    ];
    let run = |dir: &Utf8Path, number: usize| {
        let repo = repo(dir);
        repo.publish();
        let (odd, kind, words) = cases[number];
        refuse(dir, over_http(dir, &repo, odd), kind, words);
        assert!(peak_memory() < 512);
        let size = Command::new("du").args(["-sm", dir.as_str()]).output();
        let size = String::from_utf8(size.unwrap().stdout).unwrap();
        let size: u64 = size.split('\t').next().unwrap().parse().unwrap();
        assert!(size < 64, "{size} MiB were written");
    };
    steps(
        "servers_that_do_not_stop_are_left",
        &[
            &|dir| run(dir, 0),
            &|dir| run(dir, 1),
            &|dir| run(dir, 2),
            &|dir| run(dir, 3),
            &|dir| run(dir, 4),
            // The same directory, a server that behaves.
            &|dir| {
                let spec = over_http(dir, &Repo::new(dir, "repo", "good"), |_, _| false);
                solve(config(dir, vec![spec], &["base"])).unwrap();
            },
        ],
    );
}

#[test]
fn a_server_with_an_unknown_certificate_is_refused() {
    steps(
        "a_server_with_an_unknown_certificate_is_refused",
        &[&|dir| {
            let repo = repo(dir);
            repo.publish();
            let (key, certificate) = (dir.join("key.pem"), dir.join("certificate.pem"));
            let subject = ["-subj", "/CN=localhost", "-days", "30", "-nodes"];
            let files = ["-keyout", key.as_str(), "-out", certificate.as_str()];
            let make = ["req", "-x509", "-newkey", "rsa:2048"];
            run("openssl", &[&make[..], &subject, &files].concat());
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port().to_string();
            drop(listener);
            let mut server = Command::new("openssl")
                .args(["s_server", "-quiet", "-WWW", "-accept", &port])
                .args(["-key", key.as_str(), "-cert", certificate.as_str()])
                .current_dir(dir)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let address = format!("127.0.0.1:{port}");
            while TcpStream::connect(&address).is_err() {
                assert!(server.try_wait().unwrap().is_none(), "no server");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            let mut spec = repo.spec("test");
            spec.url = Some(format!("https://localhost:{port}/repo"));
            let result = std::panic::catch_unwind(|| {
                let words = ["certificate"];
                refuse(dir, spec, ErrorKind::Network, &words);
            });
            server.kill().unwrap();
            server.wait().unwrap();
            result.unwrap();
        }],
    );
}

const INDEX: &str = "dists/stable/main/binary-amd64";

#[test]
fn a_compressed_index_that_says_something_else_is_refused() {
    steps(
        "a_compressed_index_that_says_something_else_is_refused",
        &[&|dir| {
            let mut repo = repo(dir);
            repo.publish();
            let path = repo.dir.join(INDEX).join("Packages");
            let good = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, good.replace("Version: 1", "Version: 9")).unwrap();
            run("gzip", &["--keep", path.as_str()]);
            repo.listed.push("main/binary-amd64/Packages.gz".to_owned());
            repo.publish();
            let spec = over_http(dir, &repo, |_, _| false);
            refuse(dir, spec, ErrorKind::Verification, &["Hash Sum mismatch"]);
        }],
    );
}

#[test]
fn a_wrong_index_under_its_digest_is_refused() {
    steps(
        "a_wrong_index_under_its_digest_is_refused",
        &[&|dir| {
            let mut repo = repo(dir);
            repo.release_fields = "Acquire-By-Hash: yes\n".to_owned();
            repo.publish();
            let path = repo.dir.join(INDEX).join("Packages");
            let (sha256, _) = apt_ostree_fsx::sha256_file(&path).unwrap();
            let good = std::fs::read_to_string(&path).unwrap();
            let by_hash = repo.dir.join(INDEX).join("by-hash/SHA256");
            std::fs::create_dir_all(&by_hash).unwrap();
            let evil = good.replace("Version: 1", "Version: 9");
            std::fs::write(by_hash.join(sha256.to_string()), evil).unwrap();
            let spec = over_http(dir, &repo, |_, _| false);
            refuse(dir, spec, ErrorKind::Verification, &["Hash Sum mismatch"]);
        }],
    );
}

#[test]
fn an_index_that_is_only_there_under_its_digest_is_used() {
    steps(
        "an_index_that_is_only_there_under_its_digest_is_used",
        &[&|dir| {
            let mut repo = repo(dir);
            repo.release_fields = "Acquire-By-Hash: yes\n".to_owned();
            repo.publish();
            let path = repo.dir.join(INDEX).join("Packages");
            let (sha256, _) = apt_ostree_fsx::sha256_file(&path).unwrap();
            let by_hash = repo.dir.join(INDEX).join("by-hash/SHA256");
            std::fs::create_dir_all(&by_hash).unwrap();
            std::fs::rename(&path, by_hash.join(sha256.to_string())).unwrap();
            let spec = over_http(dir, &repo, |_, _| false);
            let (_, plan, _) = solve(config(dir, vec![spec], &["base"])).unwrap();
            assert_eq!(names(&plan), ["base=1"]);
        }],
    );
}
