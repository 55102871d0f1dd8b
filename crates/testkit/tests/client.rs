//! Verbs on systems, by the worker: a directory that looks like a disk, and a fake boot of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write as _;
use std::process::{Command, Stdio};

use apt_ostree_model::ErrorKind;
use apt_ostree_model::client::{
    BaseChange, CleanupRequest, ClientOutcome, DbRequest, DeployReport, FinalizeRequest,
    KargsRequest, RollbackRequest, StatusRequest, Target, TransactionOptions, UpdateRequest,
};
use apt_ostree_model::compose::{Failure, Outcome, Reply, Request};
use apt_ostree_model::status::Status;
use apt_ostree_testkit::fakeboot::FakeBoot;
use apt_ostree_testkit::sysroot::{STATEROOT, Sysroot};
use apt_ostree_testkit::tinytree::{TinyCommit, TinyRepo};
use apt_ostree_testkit::{binary, privileged, success};

const BRANCH: &str = "debian/tiny";

fn run(command: &mut Command, request: &Request) -> Result<ClientOutcome, Failure> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = serde_json::to_vec(request).unwrap();
    child.stdin.take().unwrap().write_all(&text).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let last = text.lines().last().unwrap_or_else(|| {
        panic!("no answer: {}", String::from_utf8_lossy(&output.stderr));
    });
    match serde_json::from_str(last).unwrap() {
        Reply::Finished {
            finished: Outcome::Client(outcome),
        } => Ok(outcome),
        Reply::Failed { failed } => Err(failed),
        other => panic!("{other:?}"),
    }
}

/// A system that does not run, and the repository that it follows.
struct Disk {
    repo: TinyRepo,
    sysroot: Sysroot,
    first: String,
}

fn commit(repo: &TinyRepo, version: &str, timestamp: u64) -> String {
    repo.commit(&TinyCommit {
        branch: BRANCH,
        version,
        timestamp,
        package: version,
    })
    .unwrap()
}

impl Disk {
    fn new(url: Option<&str>) -> Self {
        let repo = TinyRepo::new().unwrap();
        let first = commit(&repo, "1", 1000);
        let sysroot = Sysroot::new().unwrap();
        let local = format!("file://{}", repo.path());
        sysroot.add_remote("origin", &local).unwrap();
        sysroot
            .deploy_remote("origin", BRANCH, &["root=LABEL=tiny", "quiet"])
            .unwrap();
        if let Some(url) = url {
            sysroot.set_remote_url("origin", url).unwrap();
        }
        Self {
            repo,
            sysroot,
            first,
        }
    }

    fn target(&self) -> Target {
        Target {
            sysroot: Some(self.sysroot.path().as_std_path().to_owned()),
            stateroot: None,
        }
    }

    fn run(&self, request: &Request) -> Result<ClientOutcome, Failure> {
        let worker = binary("apt-ostree-worker").unwrap();
        run(&mut Command::new(worker), request)
    }

    fn update(&self, edit: impl FnOnce(&mut UpdateRequest)) -> Result<ClientOutcome, Failure> {
        self.run(&update(self.target(), edit))
    }

    fn kargs(&self, edit: impl FnOnce(&mut KargsRequest)) -> Result<ClientOutcome, Failure> {
        let mut request = KargsRequest {
            target: self.target(),
            ..KargsRequest::default()
        };
        edit(&mut request);
        self.run(&Request::Kargs(request))
    }

    fn status(&self) -> Status {
        let request = StatusRequest {
            target: self.target(),
        };
        status(self.run(&Request::Status(request)))
    }

    fn versions(&self) -> Vec<String> {
        versions(&self.status())
    }
}

fn update(target: Target, edit: impl FnOnce(&mut UpdateRequest)) -> Request {
    let mut request = UpdateRequest {
        target,
        ..UpdateRequest::default()
    };
    edit(&mut request);
    Request::Update(Box::new(request))
}

fn status(result: Result<ClientOutcome, Failure>) -> Status {
    match result {
        Ok(ClientOutcome::Status(status)) => *status,
        other => panic!("{other:?}"),
    }
}

fn versions(status: &Status) -> Vec<String> {
    let version = |d: &apt_ostree_model::status::Deployment| d.version.clone().unwrap_or_default();
    status.deployments.iter().map(version).collect()
}

fn deployed(result: Result<ClientOutcome, Failure>) -> DeployReport {
    match result {
        Ok(ClientOutcome::Deployed(report)) => report,
        other => panic!("{other:?}"),
    }
}

fn unchanged(result: &Result<ClientOutcome, Failure>) -> bool {
    matches!(result, Ok(ClientOutcome::Unchanged { .. }))
}

fn upgrade(request: &mut UpdateRequest) {
    request.base = BaseChange::Upgrade;
}

fn deploy(revision: &str) -> BaseChange {
    BaseChange::Deploy {
        revision: revision.to_owned(),
    }
}

fn rebase(refspec: &str) -> BaseChange {
    BaseChange::Rebase {
        refspec: refspec.to_owned(),
        revision: None,
    }
}

#[test]
fn upgrades_are_looked_for_made_and_rolled_back() {
    if !privileged("upgrades_are_looked_for_made_and_rolled_back") {
        return;
    }
    let disk = Disk::new(None);
    assert!(unchanged(&disk.update(upgrade)));
    assert!(unchanged(&disk.update(|r| {
        upgrade(r);
        r.check = true;
    })));
    let second = commit(&disk.repo, "2", 2000);
    let Ok(ClientOutcome::Available(found)) = disk.update(|r| {
        upgrade(r);
        r.preview = true;
    }) else {
        panic!("no update found");
    };
    assert_eq!(
        (&found.checksum, found.version.as_deref()),
        (&second, Some("2"))
    );
    assert_eq!(
        found.pkgdiff[0].new,
        Some(("2-1".to_owned(), "amd64".to_owned()))
    );
    let status = disk.status();
    assert_eq!(versions(&status), ["1"]);
    assert_eq!(
        status.deployments[0].pending_base_checksum,
        Some(second.clone())
    );

    let report = deployed(disk.update(upgrade));
    assert_eq!((&report.checksum, report.staged), (&second, false));
    assert_eq!(report.pkgdiff, found.pkgdiff);
    let status = disk.status();
    assert_eq!(versions(&status), ["2", "1"]);
    let newest = &status.deployments[0];
    assert_eq!(newest.origin.as_deref(), Some("origin:debian/tiny"));
    assert!(!newest.booted && newest.pending_base_checksum.is_none());
    let options = disk.sysroot.default_entry().unwrap().options;
    assert!(options.contains("root=LABEL=tiny quiet"), "{options}");
    assert!(unchanged(&disk.update(upgrade)));

    let rollback = || {
        let request = RollbackRequest {
            target: disk.target(),
            ..RollbackRequest::default()
        };
        deployed(disk.run(&Request::Rollback(request)))
    };
    assert_eq!(rollback().checksum, disk.first);
    assert_eq!(disk.versions(), ["1", "2"]);
    rollback();
    assert_eq!(disk.versions(), ["2", "1"]);
    // A third one takes the place of the first.
    commit(&disk.repo, "3", 3000);
    deployed(disk.update(upgrade));
    assert_eq!(disk.versions(), ["3", "2"]);
}

#[test]
fn older_commits_are_deployed_only_when_allowed() {
    if !privileged("older_commits_are_deployed_only_when_allowed") {
        return;
    }
    let disk = Disk::new(None);
    let second = commit(&disk.repo, "2", 2000);
    commit(&disk.repo, "3", 3000);
    deployed(disk.update(upgrade));
    let error = disk.update(|r| r.base = deploy("2")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Verification);
    assert!(error.message.contains("is older than"), "{}", error.message);
    assert_eq!(disk.versions(), ["3", "1"]);
    let report = deployed(disk.update(|r| {
        r.base = deploy("version=2");
        r.allow_downgrade = true;
    }));
    assert_eq!(report.checksum, second);
    let by_checksum = deployed(disk.update(|r| {
        r.base = deploy(&disk.first);
        r.allow_downgrade = true;
    }));
    assert_eq!(by_checksum.checksum, disk.first);
    let missing = disk.update(|r| r.base = deploy("9")).unwrap_err();
    assert_eq!(
        missing.message,
        "version '9' is not among the 3 commits of 'origin:debian/tiny'"
    );
    let foreign = disk
        .update(|r| r.base = deploy(&"a".repeat(64)))
        .unwrap_err();
    assert!(
        foreign.message.contains("is not among"),
        "{}",
        foreign.message
    );
    // The next upgrade follows the branch again.
    assert_eq!(deployed(disk.update(upgrade)).version.as_deref(), Some("3"));
}

#[test]
fn rebases_change_what_is_followed() {
    if !privileged("rebases_change_what_is_followed") {
        return;
    }
    let disk = Disk::new(None);
    let other = TinyCommit {
        branch: "debian/other",
        version: "other",
        timestamp: 5000,
        package: "5",
    };
    let checksum = disk.repo.commit(&other).unwrap();
    let same = disk
        .update(|r| r.base = rebase("origin:debian/tiny"))
        .unwrap_err();
    assert!(same.message.contains("refs are equal"), "{}", same.message);
    let report = deployed(disk.update(|r| r.base = rebase("debian/other")));
    assert_eq!(report.checksum, checksum);
    let status = disk.status();
    assert_eq!(
        status.deployments[0].origin.as_deref(),
        Some("origin:debian/other")
    );

    // A repository on this machine, which pins.
    let local = format!("{}:{}", disk.repo.path(), disk.first);
    deployed(disk.update(|r| {
        r.base = rebase(&local);
        r.allow_downgrade = true;
        r.custom_origin = Some(("by hand".to_owned(), "https://example.org".to_owned()));
    }));
    let status = disk.status();
    assert_eq!(status.deployments[0].origin.as_ref(), Some(&disk.first));
    let custom = ("https://example.org".to_owned(), "by hand".to_owned());
    assert_eq!(status.deployments[0].custom_origin, Some(custom));
    assert!(unchanged(&disk.update(upgrade)));

    let image = "ostree-unverified-image:oci:/nonexistent/layout:latest";
    let error = disk.update(|r| r.base = rebase(image)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidInput, "{error:?}");
    let gone = disk.update(|r| r.base = rebase("origin:gone")).unwrap_err();
    assert_eq!(gone.kind, ErrorKind::Network, "{}", gone.message);
    assert_eq!(disk.status().deployments.len(), 2);
}

#[test]
fn kernel_arguments_are_printed_and_changed() {
    if !privileged("kernel_arguments_are_printed_and_changed") {
        return;
    }
    let disk = Disk::new(None);
    let print = || match disk.kargs(|_| ()) {
        Ok(ClientOutcome::Kargs { kargs }) => kargs,
        other => panic!("{other:?}"),
    };
    assert_eq!(print(), "root=LABEL=tiny quiet");
    deployed(disk.kargs(|r| {
        r.append = vec!["a=1".to_owned(), "a=2".to_owned()];
        r.expected = Some("root=LABEL=tiny quiet".to_owned());
    }));
    assert_eq!(print(), "root=LABEL=tiny quiet a=1 a=2");
    assert_eq!(disk.versions(), ["1", "1"]);
    let stale = disk
        .kargs(|r| {
            r.append = vec!["b".to_owned()];
            r.expected = Some("root=LABEL=tiny quiet".to_owned());
        })
        .unwrap_err();
    assert!(
        stale.message.contains("changed by someone else"),
        "{}",
        stale.message
    );
    let several = disk.kargs(|r| r.delete = vec!["a".to_owned()]).unwrap_err();
    assert_eq!(several.message, "multiple values for kernel argument 'a'");
    assert!(unchanged(
        &disk.kargs(|r| r.append_if_missing = vec!["quiet".to_owned()])
    ));
    let evil = "x\nlinux /evil".to_owned();
    assert!(disk.kargs(|r| r.append = vec![evil]).is_err());
    // An upgrade keeps them.
    commit(&disk.repo, "2", 2000);
    deployed(disk.update(upgrade));
    assert_eq!(print(), "root=LABEL=tiny quiet a=1 a=2");
    let old = disk.kargs(|r| r.deploy_index = Some(7)).unwrap_err();
    assert_eq!(old.message, "there is no deployment 7, only 2");
}

#[test]
fn a_damaged_commit_is_not_deployed() {
    if !privileged("a_damaged_commit_is_not_deployed") {
        return;
    }
    let disk = Disk::new(None);
    commit(&disk.repo, "2", 2000);
    let Ok(ClientOutcome::Downloaded { bytes: _ }) = disk.update(|r| {
        upgrade(r);
        r.options.download_only = true;
    }) else {
        panic!("nothing was downloaded");
    };
    assert_eq!(disk.versions(), ["1"]);
    let damaged = disk.sysroot.damage_object("2\n").unwrap();
    let error = disk
        .update(|r| {
            upgrade(r);
            r.options.cache_only = true;
        })
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Verification, "{}", error.message);
    assert!(error.message.contains(&damaged), "{}", error.message);
    assert_eq!(disk.versions(), ["1"]);
}

#[test]
fn requests_for_layers_are_checked() {
    if !privileged("requests_for_layers_are_checked") {
        return;
    }
    let disk = Disk::new(None);
    let error = disk
        .update(|r| r.uninstall = vec!["vim".to_owned()])
        .unwrap_err();
    assert_eq!(error.message, "package 'vim' is not requested");
    assert_eq!(disk.versions(), ["1"]);
    let request = |r: &mut UpdateRequest| r.install = vec!["vim".to_owned()];
    let error = disk.update(request).unwrap_err();
    assert!(
        error.message.ends_with("unknown package 'vim'"),
        "{}",
        error.message
    );
    assert_eq!(disk.versions(), ["1"]);
}

#[test]
fn clean_up_frees_what_nobody_needs() {
    if !privileged("clean_up_frees_what_nobody_needs") {
        return;
    }
    let disk = Disk::new(None);
    commit(&disk.repo, "2", 2000);
    deployed(disk.update(upgrade));
    let cleanup = |edit: fn(&mut CleanupRequest)| {
        let mut request = CleanupRequest {
            target: disk.target(),
            ..CleanupRequest::default()
        };
        edit(&mut request);
        disk.run(&Request::Cleanup(request))
    };
    assert_eq!(cleanup(|_| ()).unwrap_err().kind, ErrorKind::Usage);
    let Ok(ClientOutcome::Cleaned { bytes, deployments }) = cleanup(|r| r.rollback = true) else {
        panic!("not cleaned");
    };
    assert_eq!(deployments, 1);
    assert!(bytes > 0);
    assert_eq!(disk.versions(), ["2"]);
    let Ok(ClientOutcome::Cleaned { deployments, .. }) = cleanup(|r| {
        r.pending = true;
        r.rollback = true;
        r.base = true;
        r.repomd = true;
    }) else {
        panic!("not cleaned");
    };
    assert_eq!(deployments, 0);
    assert_eq!(disk.versions(), ["2"]);
    let repo = format!("--repo={}", disk.sysroot.path().join("ostree/repo"));
    success(Command::new("ostree").args(["fsck", &repo])).unwrap();
}

#[test]
fn packages_of_commits_are_listed_and_compared() {
    if !privileged("packages_of_commits_are_listed_and_compared") {
        return;
    }
    let disk = Disk::new(None);
    let second = commit(&disk.repo, "2", 2000);
    deployed(disk.update(upgrade));
    let db = |edit: &dyn Fn(&mut DbRequest)| {
        let mut request = DbRequest {
            target: disk.target(),
            ..DbRequest::default()
        };
        edit(&mut request);
        disk.run(&Request::Db(request))
    };
    let Ok(ClientOutcome::Diff { from, to, packages }) = db(&|r| r.diff = true) else {
        panic!("no difference");
    };
    assert_eq!((&from, &to), (&disk.first, &second));
    assert_eq!(packages.len(), 1);
    let repo = disk.repo.path();
    let listed = db(&|r| {
        r.repo = Some(repo.clone().into());
        r.revisions = vec![BRANCH.to_owned()];
        r.prefixes = vec!["de".to_owned()];
    });
    let Ok(ClientOutcome::Packages { commits }) = listed else {
        panic!("no list");
    };
    assert_eq!(commits[BRANCH].len(), 1);
}

#[test]
fn a_running_system_stages_finalizes_reboots_and_rolls_back() {
    if !privileged("a_running_system_stages_finalizes_reboots_and_rolls_back") {
        return;
    }
    let disk = Disk::new(Some("file:///run/host/remote/repo"));
    let remote = disk.repo.path().parent().unwrap().to_owned();
    let start = || {
        let mut boot = FakeBoot::start(&disk.sysroot).unwrap();
        boot.share("remote", &remote);
        boot
    };
    let ask = |boot: &FakeBoot, request: Request| {
        let worker = "/run/host/programs/apt-ostree-worker";
        run(&mut boot.command(worker, &[]).unwrap(), &request)
    };
    let look = |boot: &FakeBoot| status(ask(boot, Request::Status(StatusRequest::default())));

    let boot = start();
    let first = look(&boot);
    assert!(first.deployments[0].booted, "{first:?}");
    std::fs::write(boot.deployment().join("etc/edited"), "mine").unwrap();
    let second = commit(&disk.repo, "2", 2000);
    let locked = update(Target::default(), |r| {
        upgrade(r);
        r.options = TransactionOptions {
            lock_finalization: true,
            reboot: true,
            ..TransactionOptions::default()
        };
    });
    let report = deployed(ask(&boot, locked));
    assert!(report.staged && report.reboot);
    let status = look(&boot);
    assert_eq!(versions(&status), ["2", "1"]);
    let staged = &status.deployments[0];
    assert!(staged.staged && staged.finalization_locked && status.deployments[1].booted);
    let refused = ask(&boot, Request::Rollback(RollbackRequest::default())).unwrap_err();
    assert_eq!(
        refused.hint.as_deref(),
        Some("drop it first: apt-ostree cleanup -p")
    );
    // Arguments chain on what is staged, and the new deployment takes its place.
    let kargs = KargsRequest {
        append: vec!["debug".to_owned()],
        options: TransactionOptions {
            lock_finalization: true,
            ..TransactionOptions::default()
        },
        ..KargsRequest::default()
    };
    assert_eq!(deployed(ask(&boot, Request::Kargs(kargs))).checksum, second);
    let finalize = |checksum: &str| {
        Request::Finalize(FinalizeRequest {
            checksum: Some(checksum.to_owned()),
            ..FinalizeRequest::default()
        })
    };
    let wrong = ask(&boot, finalize(&disk.first)).unwrap_err();
    assert!(
        wrong.message.contains("is staged, not"),
        "{}",
        wrong.message
    );
    assert!(deployed(ask(&boot, finalize(&second))).reboot);
    let again = ask(&boot, finalize(&second)).unwrap_err();
    assert_eq!(again.message, "the staged deployment is not locked");
    boot.shutdown().unwrap();

    let boot = start();
    let status = look(&boot);
    assert_eq!(versions(&status), ["2", "1"]);
    assert!(status.deployments[0].booted && !status.deployments[0].staged);
    let edited = std::fs::read_to_string(boot.deployment().join("etc/edited")).unwrap();
    assert_eq!(edited, "mine");
    let options = disk.sysroot.default_entry().unwrap().options;
    assert!(options.contains("root=LABEL=tiny quiet debug"), "{options}");
    let rolled = deployed(ask(&boot, Request::Rollback(RollbackRequest::default())));
    assert_eq!(rolled.checksum, disk.first);
    boot.shutdown().unwrap();

    let boot = start();
    let status = look(&boot);
    assert_eq!(versions(&status), ["1", "2"]);
    assert!(status.deployments[0].booted);
    assert_eq!(status.deployments[0].osname, STATEROOT);
}

#[test]
fn a_staged_deployment_is_dropped_by_clean_up() {
    if !privileged("a_staged_deployment_is_dropped_by_clean_up") {
        return;
    }
    let disk = Disk::new(Some("file:///run/host/remote/repo"));
    let mut boot = FakeBoot::start(&disk.sysroot).unwrap();
    boot.share("remote", disk.repo.path().parent().unwrap());
    let worker = "/run/host/programs/apt-ostree-worker";
    let ask = |request: Request| run(&mut boot.command(worker, &[]).unwrap(), &request);
    commit(&disk.repo, "2", 2000);
    deployed(ask(update(Target::default(), upgrade)));
    let cleaned = ask(Request::Cleanup(CleanupRequest {
        pending: true,
        ..CleanupRequest::default()
    }));
    let Ok(ClientOutcome::Cleaned { deployments: 1, .. }) = cleaned else {
        panic!("{cleaned:?}");
    };
    let status = status(ask(Request::Status(StatusRequest::default())));
    assert_eq!(versions(&status), ["1"]);
    boot.shutdown().unwrap();
    assert_eq!(disk.versions(), ["1"]);
}
