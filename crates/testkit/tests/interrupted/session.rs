//! A system on a disk, its verbs, and whether it is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use apt_ostree_model::client::{ClientOutcome, StatusRequest, Target};
use apt_ostree_model::compose::{Failure, Outcome, Reply, Request};
use apt_ostree_model::status::Status;
use apt_ostree_testkit::fakeboot::FakeBoot;
use apt_ostree_testkit::image::{Image, Mounted};
use apt_ostree_testkit::root::{self, Entry};
use apt_ostree_testkit::sysroot::{STATEROOT, Sysroot};
use apt_ostree_testkit::{binary, success};
use camino::{Utf8Path, Utf8PathBuf};

use crate::kills::say;

/// What `/etc/edited` has in each deployment.
pub(crate) const EDITED: &str = "mine";

/// What runs the verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The running system.
    Booted,
    /// Another system, that has the disk mounted.
    Disk,
}

/// The disk and `/run` of a system, to start from again and again.
pub(crate) struct Prepared {
    pub(crate) image: Image,
    /// Files of `/run/ostree`.
    pub(crate) staged: Vec<(String, Vec<u8>)>,
}

/// A system in use.
pub(crate) struct Session {
    pub(crate) disk: Mounted,
    pub(crate) sysroot: Sysroot,
    boot: Option<FakeBoot>,
    remote: Utf8PathBuf,
}

impl Session {
    /// Starts a system from what was prepared.
    pub(crate) fn start(prepared: &Prepared, place: Place, remote: &Utf8Path) -> Self {
        let session = Self::mount(prepared.image.duplicate().unwrap(), place, remote);
        if let Some(boot) = &session.boot {
            for (name, data) in &prepared.staged {
                std::fs::write(boot.run_dir().unwrap().join("ostree").join(name), data).unwrap();
            }
        }
        session
    }

    /// Boots what is on a disk.
    pub(crate) fn mount(image: Image, place: Place, remote: &Utf8Path) -> Self {
        let disk = image.mount().unwrap();
        let sysroot = Sysroot::at(&disk.path().join("root"));
        let boot = (place == Place::Booted).then(|| boot(&sysroot, remote));
        Self {
            disk,
            sysroot,
            boot,
            remote: remote.to_owned(),
        }
    }

    /// Keeps the system as it is now.
    pub(crate) fn keep(mut self) -> Prepared {
        let mut staged = Vec::new();
        if let Some(boot) = &self.boot {
            for entry in boot
                .run_dir()
                .unwrap()
                .join("ostree")
                .read_dir_utf8()
                .unwrap()
            {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() {
                    let data = std::fs::read(entry.path()).unwrap();
                    staged.push((entry.file_name().to_owned(), data));
                }
            }
        }
        let image = self.disk.unmount().unwrap();
        Prepared { image, staged }
    }

    fn place(&self) -> Place {
        match &self.boot {
            Some(_) => Place::Booted,
            None => Place::Disk,
        }
    }

    /// Boots without writing what is staged.
    pub(crate) fn boot_again(mut self) -> Self {
        let place = self.place();
        let image = self.disk.unmount().unwrap();
        Self::mount(image, place, &self.remote)
    }

    /// Cuts the power off and boots again.
    pub(crate) fn cut_power(self) -> Self {
        let place = self.place();
        let image = self.disk.cut_power().unwrap();
        Self::mount(image, place, &self.remote)
    }

    /// Writes what is staged and boots again.
    pub(crate) fn reboot(&mut self) {
        if let Some(boot) = self.boot.take() {
            boot.shutdown().unwrap();
            self.boot = Some(self::boot(&self.sysroot, &self.remote));
        }
    }

    /// `/run` of what runs.
    pub(crate) fn run_dir(&self) -> Option<&std::path::Path> {
        let boot = self.boot.as_ref()?;
        Some(boot.run_dir().unwrap().as_std_path())
    }

    /// The target of requests.
    pub(crate) fn target(&self) -> Target {
        Target {
            sysroot: match &self.boot {
                Some(_) => None,
                None => Some(self.sysroot.path().as_std_path().to_owned()),
            },
            stateroot: None,
        }
    }

    /// A program of the system, or another one, below `wrapper`.
    pub(crate) fn command(&self, wrapper: &[&str], program: &[&str]) -> Command {
        let words = [wrapper, program].concat();
        match &self.boot {
            Some(boot) => boot.command(words[0], &words[1..]).unwrap(),
            None => {
                let mut command = Command::new(words[0]);
                command.args(&words[1..]);
                command
            }
        }
    }

    /// The worker.
    pub(crate) fn worker(&self) -> String {
        match &self.boot {
            Some(_) => "/run/host/programs/apt-ostree-worker".to_owned(),
            None => binary("apt-ostree-worker").unwrap().into_string(),
        }
    }

    /// Runs a verb.
    pub(crate) fn ask(&self, request: &Request) -> Result<ClientOutcome, Failure> {
        self.try_ask(request).expect("the worker answers")
    }

    /// Runs a verb; `None` when the worker dies.
    pub(crate) fn try_ask(&self, request: &Request) -> Option<Result<ClientOutcome, Failure>> {
        let worker = self.worker();
        let output = answer(&mut self.command(&[], &[&worker]), request);
        let outcome = outcome(&output);
        if outcome.is_none() {
            say(&format!("no answer: {output:?}"));
        }
        outcome
    }

    /// What is deployed.
    pub(crate) fn status(&self) -> Status {
        let request = StatusRequest {
            target: self.target(),
        };
        match self.ask(&Request::Status(request)) {
            Ok(ClientOutcome::Status(status)) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// The commit that boots next; the panic tells what is not whole.
    pub(crate) fn check(
        &self,
        trees: &BTreeMap<String, BTreeMap<String, Entry>>,
        place: &str,
    ) -> String {
        assert!(!self.disk.thaw().unwrap(), "{place}: it was still frozen");
        let entries = self.sysroot.path().join("boot/loader/entries");
        assert!(entries.read_dir_utf8().unwrap().count() > 0, "{place}");
        let entry = self
            .sysroot
            .default_entry()
            .unwrap_or_else(|e| panic!("{place}: {e:#}"));
        let deployment = self
            .sysroot
            .deployment(&entry)
            .unwrap_or_else(|e| panic!("{place}: {e:#}"));
        let modules = deployment.join("usr/lib/modules/6.1.0");
        for (file, name) in [(&entry.linux, "vmlinuz"), (&entry.initrd, "initramfs.img")] {
            let expected = std::fs::read(modules.join(name)).unwrap();
            assert_eq!(std::fs::read(file).unwrap(), expected, "{place}: {file}");
        }
        let name = deployment.file_name().unwrap();
        let commit = name.split('.').next().unwrap().to_owned();
        if let Some(tree) = trees.get(&commit) {
            let found = root::scan(&deployment.join("usr")).unwrap();
            assert_eq!(found.len(), tree.len(), "{place}: {deployment}");
            for (path, entry) in tree {
                let difference = found.get(path).map(|found| entry.difference(found));
                assert_eq!(difference.as_deref(), Some(""), "{place}: {path}");
            }
        }
        let edited = std::fs::read_to_string(deployment.join("etc/edited"));
        assert_eq!(edited.ok().as_deref(), Some(EDITED), "{place}");
        fsck(&self.sysroot, place);
        commit
    }

    /// The files that there are besides objects and deployed trees.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        let objects = self.sysroot.path().join("ostree/repo/objects");
        let deploy = self
            .sysroot
            .path()
            .join("ostree/deploy")
            .join(STATEROOT)
            .join("deploy");
        let find = success(
            Command::new("find")
                .arg(self.sysroot.path())
                .args(["-path", objects.as_str(), "-prune", "-o"])
                .args(["-path", &format!("{deploy}/*/*"), "-prune", "-o", "-print"]),
        );
        let root = self.sysroot.path().as_str();
        String::from_utf8_lossy(&find.unwrap().stdout)
            .lines()
            .map(|line| line.trim_start_matches(root).to_owned())
            .collect()
    }
}

fn boot(sysroot: &Sysroot, remote: &Utf8Path) -> FakeBoot {
    let mut boot = FakeBoot::start(sysroot).unwrap();
    boot.share("remote", remote);
    boot
}

/// Runs a command with a request on its standard input.
pub(crate) fn answer(command: &mut Command, request: &Request) -> Output {
    let mut child = start(command, request);
    drop(child.stdin.take());
    child.wait_with_output().unwrap()
}

/// Starts a command with a request on its standard input.
pub(crate) fn start(command: &mut Command, request: &Request) -> std::process::Child {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = serde_json::to_vec(request).unwrap();
    // One that is killed at once reads nothing.
    drop(child.stdin.take().unwrap().write_all(&text));
    child
}

/// What the worker said; `None`: nothing.
pub(crate) fn outcome(output: &Output) -> Option<Result<ClientOutcome, Failure>> {
    let text = String::from_utf8_lossy(&output.stdout);
    match serde_json::from_str(text.lines().last()?).ok()? {
        Reply::Finished {
            finished: Outcome::Client(outcome),
        } => Some(Ok(outcome)),
        Reply::Failed { failed } => Some(Err(failed)),
        _ => None,
    }
}

pub(crate) fn fsck(sysroot: &Sysroot, place: &str) {
    let repo = format!("--repo={}", sysroot.path().join("ostree/repo"));
    let result = success(Command::new("ostree").args([&repo, "fsck", "--quiet"]));
    assert!(result.is_ok(), "{place}: {result:?}");
}
