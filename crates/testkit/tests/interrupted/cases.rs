//! The verbs, and the systems that they start from.

use std::collections::BTreeMap;
use std::process::Command;

use apt_ostree_model::client::{
    BaseChange, CleanupRequest, ClientOutcome, FinalizeRequest, KargsRequest, RollbackRequest,
    Target, TransactionOptions, UpdateRequest,
};
use apt_ostree_model::compose::{Failure, Request};
use apt_ostree_testkit::image::Image;
use apt_ostree_testkit::root::{self, Entry};
use apt_ostree_testkit::success;
use apt_ostree_testkit::sysroot::Sysroot;
use apt_ostree_testkit::tinytree::{TinyCommit, TinyRepo};
use camino::Utf8PathBuf;

use crate::session::{EDITED, Place, Prepared, Session};

pub(crate) const BRANCH: &str = "debian/tiny";

/// A request, and whether a reboot comes after it.
type Step = (fn(Target) -> Request, bool);

/// What is there to be deployed.
pub(crate) struct World {
    pub(crate) remote: TinyRepo,
    pub(crate) first: String,
    pub(crate) second: String,
    /// `/usr` of each commit.
    pub(crate) trees: BTreeMap<String, BTreeMap<String, Entry>>,
}

/// One verb.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    pub(crate) prepared: Prepared,
    /// What is killed: the worker, or the program of a shutdown.
    pub(crate) shutdown: bool,
    pub(crate) request: Box<dyn Fn(Target) -> Request>,
    /// What may boot at any time.
    pub(crate) allowed: Vec<String>,
    /// What boots when the verb has been run once more, after a reboot; `None`: any of them.
    pub(crate) after: Option<String>,
}

impl Case {
    /// The program that is killed.
    pub(crate) fn program(&self, session: &Session) -> Vec<String> {
        if self.shutdown {
            return ["ostree", "admin", "finalize-staged"]
                .map(str::to_owned)
                .to_vec();
        }
        vec![session.worker()]
    }

    /// Whether the verb is done, or was done before.
    pub(crate) fn is_done(&self, result: &Result<ClientOutcome, Failure>) -> bool {
        match result {
            Ok(_) => true,
            // It asks for something to be done to what is staged.
            Err(failed) if self.name == "finalize-deployment" => {
                failed.message == "the staged deployment is not locked"
                    || failed.message == "no deployment is staged"
            }
            Err(_) => false,
        }
    }
}

pub(crate) fn upgrade(target: Target) -> Request {
    Request::Update(Box::new(UpdateRequest {
        target,
        base: BaseChange::Upgrade,
        ..UpdateRequest::default()
    }))
}

pub(crate) fn download(target: Target) -> Request {
    Request::Update(Box::new(UpdateRequest {
        target,
        base: BaseChange::Upgrade,
        options: TransactionOptions {
            download_only: true,
            ..TransactionOptions::default()
        },
        ..UpdateRequest::default()
    }))
}

fn upgrade_locked(target: Target) -> Request {
    Request::Update(Box::new(UpdateRequest {
        target,
        base: BaseChange::Upgrade,
        options: TransactionOptions {
            lock_finalization: true,
            ..TransactionOptions::default()
        },
        ..UpdateRequest::default()
    }))
}

fn kargs(target: Target) -> Request {
    Request::Kargs(KargsRequest {
        target,
        append_if_missing: vec!["debug".to_owned()],
        ..KargsRequest::default()
    })
}

fn rollback(target: Target) -> Request {
    Request::Rollback(RollbackRequest {
        target,
        ..RollbackRequest::default()
    })
}

fn cleanup(target: Target) -> Request {
    Request::Cleanup(CleanupRequest {
        target,
        base: true,
        pending: true,
        rollback: true,
        repomd: true,
    })
}

impl World {
    pub(crate) fn new() -> Self {
        let remote = TinyRepo::new().unwrap();
        let first = commit(&remote, "1", 1000);
        Self {
            remote,
            first,
            second: String::new(),
            trees: BTreeMap::new(),
        }
    }

    /// Takes what boots next for whole.
    pub(crate) fn learn(&mut self, session: &Session) {
        let entry = session.sysroot.default_entry().unwrap();
        let deployment = session.sysroot.deployment(&entry).unwrap();
        let tree = root::scan(&deployment.join("usr")).unwrap();
        let name = deployment.file_name().unwrap();
        let commit = name.split('.').next().unwrap().to_owned();
        self.trees.insert(commit, tree);
    }

    /// The directory of the remote repository.
    pub(crate) fn dir(&self) -> Utf8PathBuf {
        self.remote.path().parent().unwrap().to_owned()
    }

    /// A disk with the first commit deployed.
    pub(crate) fn deployed(&self, place: Place) -> Prepared {
        let mut disk = Image::new(96).unwrap().mount().unwrap();
        let path = disk.path().join("root");
        std::fs::create_dir(&path).unwrap();
        let sysroot = Sysroot::create(&path).unwrap();
        let local = format!("file://{}", self.remote.path());
        sysroot.add_remote("origin", &local).unwrap();
        sysroot
            .deploy_remote("origin", BRANCH, &["root=LABEL=tiny", "quiet"])
            .unwrap();
        if place == Place::Booted {
            sysroot
                .set_remote_url("origin", "file:///run/host/remote/repo")
                .unwrap();
        }
        let entry = sysroot.default_entry().unwrap();
        let etc = sysroot.deployment(&entry).unwrap().join("etc/edited");
        std::fs::write(etc, EDITED).unwrap();
        let image = disk.unmount().unwrap();
        Prepared {
            image,
            staged: Vec::new(),
        }
    }

    /// Publishes the second commit, and learns what the trees are.
    pub(crate) fn publish(&mut self) {
        self.second = commit(&self.remote, "2", 2000);
        for commit in [&self.first, &self.second] {
            let dir = self.dir().join("checkout");
            let repo = format!("--repo={}", self.remote.path());
            let checkout = ["checkout", commit.as_str(), dir.as_str()];
            success(Command::new("ostree").arg(repo).args(checkout)).unwrap();
            let tree = root::scan(&dir.join("usr")).unwrap();
            self.trees.insert(commit.clone(), tree);
            std::fs::remove_dir_all(&dir).unwrap();
        }
    }

    /// What comes of requests, with a reboot after those that ask for it.
    fn after(&self, from: &Prepared, place: Place, steps: &[Step]) -> Prepared {
        let mut session = Session::start(from, place, &self.dir());
        for (request, reboot) in steps {
            let result = session.ask(&request(session.target()));
            assert!(result.is_ok(), "{result:?}");
            if *reboot {
                session.reboot();
            }
        }
        session.keep()
    }

    /// All verbs, each in all places that make a difference.
    pub(crate) fn cases(&mut self) -> Vec<Case> {
        let fresh = |world: &Self, place| world.deployed(place);
        let (booted, disk) = (fresh(self, Place::Booted), fresh(self, Place::Disk));
        let (booted_too, disk_too) = (fresh(self, Place::Booted), fresh(self, Place::Disk));
        self.publish();
        let (first, second) = (self.first.clone(), self.second.clone());
        let both = vec![first.clone(), second.clone()];
        let two = self.after(&booted, Place::Booted, &[(upgrade, true)]);
        let staged = self.after(&booted, Place::Booted, &[(upgrade, false)]);
        let locked = self.after(&booted, Place::Booted, &[(upgrade_locked, false)]);
        let three = self.after(&two, Place::Booted, &[(kargs, false)]);
        let disk_two = self.after(&disk, Place::Disk, &[(upgrade, false)]);
        let disk_two_too = self.after(&disk, Place::Disk, &[(upgrade, false)]);
        let case = |name, place, prepared, request: fn(Target) -> Request| Case {
            name,
            place,
            prepared,
            shutdown: false,
            request: Box::new(request),
            allowed: both.clone(),
            after: None,
        };
        let to_second = |case: Case| Case {
            after: Some(second.clone()),
            ..case
        };
        let finalize = second.clone();
        vec![
            to_second(case("upgrade", Place::Booted, booted, upgrade)),
            to_second(case("upgrade of a disk", Place::Disk, disk, upgrade)),
            Case {
                shutdown: true,
                ..to_second(case("shutdown", Place::Booted, staged, upgrade))
            },
            case("rollback", Place::Booted, two, rollback),
            case("rollback of a disk", Place::Disk, disk_two, rollback),
            Case {
                allowed: vec![first.clone()],
                ..case("kargs", Place::Booted, booted_too, kargs)
            },
            Case {
                allowed: vec![first],
                ..case("kargs of a disk", Place::Disk, disk_too, kargs)
            },
            Case {
                allowed: vec![second.clone()],
                ..to_second(case("cleanup", Place::Booted, three, cleanup))
            },
            Case {
                allowed: vec![second.clone()],
                ..to_second(case(
                    "cleanup of a disk",
                    Place::Disk,
                    disk_two_too,
                    cleanup,
                ))
            },
            Case {
                request: Box::new(move |target| {
                    Request::Finalize(FinalizeRequest {
                        target,
                        checksum: Some(finalize.clone()),
                        ..FinalizeRequest::default()
                    })
                }),
                ..case("finalize-deployment", Place::Booted, locked, upgrade)
            },
        ]
    }
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
