//! Disks that are full, read-only or damaged, servers that lie, and two clients at once: each gets
//! a clear error, and nothing has changed.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use apt_ostree_model::ErrorKind;
use apt_ostree_model::client::{ClientOutcome, KargsRequest};
use apt_ostree_model::compose::{Failure, Request};
use apt_ostree_testkit::{privileged, success};
use camino::{Utf8Path, Utf8PathBuf};

use crate::cases::{World, download, upgrade};
use crate::kills::say;
use crate::session::{Place, Prepared, Session, fsck, outcome, start};

/// A system that runs from elsewhere, with an update that it can get.
struct Bench {
    world: World,
    prepared: Prepared,
}

impl Bench {
    fn new() -> Self {
        let mut world = World::new();
        let prepared = world.deployed(Place::Disk);
        world.publish();
        Self { world, prepared }
    }

    fn start(&self) -> Session {
        Session::start(&self.prepared, Place::Disk, &self.world.dir())
    }

    fn upgrade(&self, session: &Session) -> Result<ClientOutcome, Failure> {
        session.ask(&upgrade(session.target()))
    }

    /// The verb has failed as it should, and what boots is what did.
    fn refused(
        &self,
        session: &Session,
        result: Result<ClientOutcome, Failure>,
        place: &str,
    ) -> Failure {
        let failure = match result {
            Err(failure) => failure,
            Ok(outcome) => panic!("{place}: {outcome:?}"),
        };
        assert_ne!(failure.message, "", "{place}");
        assert!(
            !failure.message.contains("panicked"),
            "{place}: {failure:?}"
        );
        let entry = session.sysroot.default_entry().unwrap();
        let deployment = session.sysroot.deployment(&entry).unwrap();
        assert!(deployment.as_str().contains(&self.world.first), "{place}");
        assert_eq!(session.status().deployments.len(), 1, "{place}");
        failure
    }

    fn succeeds(&self, session: &Session, place: &str) {
        let result = self.upgrade(session);
        assert!(
            matches!(result, Ok(ClientOutcome::Deployed(_))),
            "{place}: {result:?}"
        );
        let boots_next = session.check(&self.world.trees, place);
        assert_eq!(boots_next, self.world.second, "{place}");
    }
}

/// Leaves so many KiB of a file system free; the file that takes the rest.
fn fill(disk: &Utf8Path, left: u64) -> Utf8PathBuf {
    let path = disk.join("filler");
    let stat = rustix::fs::statvfs(disk.as_str()).unwrap();
    let free = stat.f_bavail * stat.f_frsize;
    let mut size = free.saturating_sub(left << 10);
    // The file itself needs a little more than that.
    loop {
        let text = size.to_string();
        let fallocate = success(Command::new("fallocate").args(["-l", &text, path.as_str()]));
        if fallocate.is_ok() {
            return path;
        }
        size -= 8 << 10;
        drop(std::fs::remove_file(&path));
    }
}

#[test]
fn a_full_disk_is_told_at_each_step_and_changes_nothing() {
    if !privileged("a_full_disk_is_told_at_each_step_and_changes_nothing") {
        return;
    }
    let bench = Bench::new();
    let (mut full, mut messages) = (0, BTreeSet::new());
    for left in (0..160).step_by(5) {
        let session = bench.start();
        let place = format!("{left} KiB left");
        // libostree would not let it come so far.
        let config = session.sysroot.path().join("ostree/repo/config");
        let set = ["config", "set", "core.min-free-space-percent", "0"];
        let repo = format!("--repo={}", config.parent().unwrap());
        success(Command::new("ostree").arg(repo).args(set)).unwrap();
        let filler = fill(session.disk.path(), left);
        let result = bench.upgrade(&session);
        if matches!(result, Ok(ClientOutcome::Deployed(_))) {
            session.check(&bench.world.trees, &place);
            continue;
        }
        let failure = bench.refused(&session, result, &place);
        assert_eq!(failure.kind, ErrorKind::Storage, "{place}: {failure:?}");
        assert!(
            failure.message.contains("No space left"),
            "{place}: {failure:?}"
        );
        assert!(failure.hint.is_some(), "{place}: {failure:?}");
        messages.insert(failure.message);
        full += 1;
        std::fs::remove_file(filler).unwrap();
        bench.succeeds(&session, &place);
    }
    say(&format!(
        "{full} times full, at {} places: {messages:#?}",
        messages.len()
    ));
    assert!(full >= 10 && messages.len() >= 3, "{full}: {messages:#?}");
}

#[test]
fn a_disk_that_is_read_only_is_told() {
    if !privileged("a_disk_that_is_read_only_is_told") {
        return;
    }
    let bench = Bench::new();
    let session = bench.start();
    let remount = |how: &str| {
        let option = format!("remount,{how}");
        let args = ["-o", &option, session.disk.path().as_str()];
        success(Command::new("mount").args(args)).unwrap();
    };
    remount("ro");
    let failure = bench.refused(&session, bench.upgrade(&session), "read-only");
    let text = failure.message.to_lowercase();
    assert!(text.contains("read-only file system"), "{failure:?}");
    remount("rw");
    bench.succeeds(&session, "read-only");
}

/// All objects of a repository.
fn objects(repo: &Utf8Path) -> BTreeSet<Utf8PathBuf> {
    let args = [
        repo.join("objects").into_string(),
        "-type".into(),
        "f".into(),
    ];
    let find = success(Command::new("find").args(args)).unwrap();
    let text = String::from_utf8(find.stdout).unwrap();
    text.lines().map(Utf8PathBuf::from).collect()
}

#[test]
fn every_damaged_object_is_found_before_it_is_deployed() {
    if !privileged("every_damaged_object_is_found_before_it_is_deployed") {
        return;
    }
    let bench = Bench::new();
    let session = bench.start();
    let repo = session.sysroot.path().join("ostree/repo");
    let before = objects(&repo);
    session.ask(&download(session.target())).unwrap();
    let new: Vec<_> = objects(&repo).difference(&before).cloned().collect();
    assert!(new.len() >= 8, "{new:?}");
    let metadata = |path: &Utf8Path| path.extension() != Some("file");
    let mut crashes = 0;
    for path in &new {
        let good = std::fs::read(path).unwrap();
        for truncated in [false, true] {
            let mut bad = good.clone();
            let middle = bad.len() / 2;
            if truncated {
                bad.truncate(middle);
            } else {
                bad[middle] ^= 1;
            }
            let place = format!("{path}, truncated: {truncated}");
            std::fs::write(path, &bad).unwrap();
            let result = session.try_ask(&upgrade(session.target()));
            // What comes after looks at the system, which crashes some versions of libostree, too.
            std::fs::write(path, &good).unwrap();
            let Some(result) = result else {
                // libostree does not survive all damaged directories: that is one reason for having
                // a worker. Who started it tells that.
                assert!(metadata(path), "{place}");
                crashes += 1;
                session.check(&bench.world.trees, &place);
                continue;
            };
            let failure = bench.refused(&session, result, &place);
            // A damaged directory may name objects that don't exist; newer versions of libostree
            // look at commits themselves.
            let told = failure.kind == ErrorKind::Verification
                || ["object", "Validating commit"]
                    .iter()
                    .any(|word| failure.message.contains(word));
            assert!(told, "{place}: {failure:?}");
        }
    }
    let found = 2 * new.len() - crashes;
    say(&format!(
        "{found} damaged objects were found, {crashes} crashed libostree"
    ));
    bench.succeeds(&session, "mended");
}

/// An HTTP server of a directory.
struct Server {
    child: Child,
    port: String,
}

impl Server {
    fn start(dir: &Utf8Path) -> Self {
        let mut child = Command::new("python3")
            .args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "0"])
            .current_dir(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let port = line.split("port ").nth(1).unwrap();
        let port = port.split_whitespace().next().unwrap().to_owned();
        Self { child, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Makes a served repository tell lies.
fn lies(repo: &Utf8Path, second: &str) -> Vec<(&'static str, Utf8PathBuf, Vec<u8>)> {
    let commit = format!("objects/{}/{}.commit", &second[..2], &second[2..]);
    let commit = repo.join(commit);
    let branch = repo.join("refs/heads/debian/tiny");
    let content = objects(repo).into_iter().filter(|path| {
        let name = path.as_str();
        name.ends_with(".filez") || name.ends_with(".dirtree")
    });
    let mut lies = vec![
        ("a branch that is text", branch.clone(), b"<html>".to_vec()),
        ("a branch without end", branch.clone(), vec![b'a'; 32 << 20]),
        ("a branch to nowhere", branch, vec![b'0'; 64]),
        ("a commit that is text", commit.clone(), b"<html>".to_vec()),
        ("a commit without end", commit.clone(), vec![0; 192 << 20]),
        ("an empty commit", commit, Vec::new()),
    ];
    for path in content {
        let mut data = std::fs::read(&path).unwrap();
        let middle = data.len() / 2;
        data[middle] ^= 0x55;
        lies.push(("a damaged object", path, data));
    }
    lies
}

#[test]
fn a_server_that_lies_changes_nothing() {
    if !privileged("a_server_that_lies_changes_nothing") {
        return;
    }
    let bench = Bench::new();
    let repo = bench.world.remote.path();
    let server = Server::start(&bench.world.dir());
    let url = format!("http://127.0.0.1:{}/repo", server.port);
    let mut refusals = 0;
    for (what, path, lie) in lies(&repo, &bench.world.second) {
        let session = bench.start();
        session.sysroot.set_remote_url("origin", &url).unwrap();
        let truth = std::fs::read(&path).unwrap();
        std::fs::write(&path, lie).unwrap();
        let began = std::time::Instant::now();
        let result = bench.upgrade(&session);
        let took = began.elapsed().as_secs();
        std::fs::write(&path, truth).unwrap();
        assert!(took < 60, "{what}: {took} s");
        // What the system has already it does not fetch again.
        if matches!(result, Ok(ClientOutcome::Deployed(_))) && what == "a damaged object" {
            session.check(&bench.world.trees, what);
            continue;
        }
        let failure = bench.refused(&session, result, what);
        assert!(
            failure.message.len() < 2000 && failure.message.contains("origin"),
            "{what}: {failure:?}"
        );
        refusals += 1;
        fsck(&session.sysroot, what);
        bench.succeeds(&session, what);
    }
    say(&format!("{refusals} lies were refused"));
    assert!(refusals >= 9, "{refusals}");
}

#[test]
fn of_clients_at_the_same_time_one_wins_and_others_learn_who() {
    if !privileged("of_clients_at_the_same_time_one_wins_and_others_learn_who") {
        return;
    }
    let bench = Bench::new();
    let session = bench.start();
    let worker = session.worker();
    let (mut won, mut busy) = (0, 0);
    for round in 0..5 {
        let request = |number: usize| {
            Request::Kargs(KargsRequest {
                target: session.target(),
                append: vec![format!("k{round}={number}")],
                ..KargsRequest::default()
            })
        };
        let children: Vec<Child> = (0..4)
            .map(|number| start(&mut session.command(&[], &[&worker]), &request(number)))
            .collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            match outcome(&output).unwrap() {
                Ok(_) => won += 1,
                Err(failure) => {
                    assert_eq!(failure.kind, ErrorKind::Busy, "{failure:?}");
                    assert!(
                        failure.message.contains("is being changed by"),
                        "{failure:?}"
                    );
                    busy += 1;
                }
            }
        }
        session.check(&bench.world.trees, "several clients");
    }
    let options = session.sysroot.default_entry().unwrap().options;
    let applied = options.matches(" k").count();
    assert_eq!(applied, won, "{options}");
    say(&format!(
        "{won} changes were made, {busy} clients were told to wait"
    ));
    assert!(won >= 5 && busy >= 1, "{won} {busy}");
}
