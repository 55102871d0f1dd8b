//! Systems that follow container images: from layouts, archives, podman's storage and a registry.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

use apt_ostree_model::ErrorKind;
use apt_ostree_model::client::{
    BaseChange, CleanupRequest, ClientOutcome, DeployReport, RollbackRequest, StatusRequest,
    Target, UpdateRequest,
};
use apt_ostree_model::compose::{Failure, Request};
use apt_ostree_model::status::Deployment;
use apt_ostree_testkit::images::{ContainersConfig, ImageDir, NewImage, Registry, files_layer};
use apt_ostree_testkit::sysroot::{BOOTABLE, Sysroot, bootable_ref};
use apt_ostree_testkit::tinytree::{TinyCommit, TinyRepo};
use apt_ostree_testkit::worker::ask;
use apt_ostree_testkit::{Project, binary, privileged, stdout, success};
use camino::Utf8Path;
use serde_json::{Value, json};

const BRANCH: &str = "debian/tiny";
/// Before all images were made.
const LONG_AGO: u64 = 1000;

/// A system that follows a branch, and images for it.
struct Machine {
    _repo: TinyRepo,
    sysroot: Sysroot,
    images: ImageDir,
    config: ContainersConfig,
}

fn anything() -> Value {
    json!({"default": [{"type": "insecureAcceptAnything"}]})
}

impl Machine {
    fn new() -> Self {
        let repo = TinyRepo::new().unwrap();
        let first = TinyCommit {
            branch: BRANCH,
            version: "0",
            timestamp: LONG_AGO,
            package: "0",
        };
        repo.commit(&first).unwrap();
        let sysroot = Sysroot::new().unwrap();
        let url = format!("file://{}", repo.path());
        sysroot.add_remote("origin", &url).unwrap();
        sysroot.deploy_remote("origin", BRANCH, &["quiet"]).unwrap();
        Self {
            _repo: repo,
            sysroot,
            images: ImageDir::new().unwrap(),
            config: ContainersConfig::new(&anything(), None).unwrap(),
        }
    }

    fn target(&self) -> Target {
        Target {
            sysroot: Some(self.sysroot.path().as_std_path().to_owned()),
            stateroot: None,
        }
    }

    fn ask(&self, request: &Request) -> Result<ClientOutcome, Failure> {
        let worker = binary("apt-ostree-worker").unwrap();
        ask(&mut self.config.command(&worker), request).unwrap()
    }

    fn update(&self, edit: impl FnOnce(&mut UpdateRequest)) -> Result<ClientOutcome, Failure> {
        let mut request = UpdateRequest {
            target: self.target(),
            ..UpdateRequest::default()
        };
        edit(&mut request);
        self.ask(&Request::Update(Box::new(request)))
    }

    fn rebase(&self, refspec: &str) -> Result<ClientOutcome, Failure> {
        self.update(|r| {
            r.base = BaseChange::Rebase {
                refspec: refspec.to_owned(),
                revision: None,
            };
            r.allow_downgrade = true;
        })
    }

    fn deploy(&self, revision: &str) -> Result<ClientOutcome, Failure> {
        self.update(|r| {
            r.base = BaseChange::Deploy {
                revision: revision.to_owned(),
            };
            r.allow_downgrade = true;
        })
    }

    fn upgrade(&self) -> Result<ClientOutcome, Failure> {
        self.update(|r| r.base = BaseChange::Upgrade)
    }

    fn check(&self) -> Result<ClientOutcome, Failure> {
        self.update(|r| {
            r.base = BaseChange::Upgrade;
            r.check = true;
        })
    }

    fn deployments(&self) -> Vec<Deployment> {
        let request = Request::Status(StatusRequest {
            target: self.target(),
        });
        match self.ask(&request) {
            Ok(ClientOutcome::Status(status)) => status.deployments,
            other => panic!("{other:?}"),
        }
    }

    fn versions(&self) -> Vec<String> {
        let deployments = self.deployments().into_iter();
        deployments.map(|d| d.version.unwrap_or_default()).collect()
    }

    fn ostree(&self, args: &[&str]) -> String {
        let mut command = Command::new("ostree");
        command.arg(format!("--repo={}/ostree/repo", self.sysroot.path()));
        stdout(&success(command.args(args)).unwrap())
    }

    fn refs(&self, prefix: &str) -> Vec<String> {
        let text = self.ostree(&["refs", "--list", prefix]);
        let mut refs: Vec<String> = text.lines().map(str::to_owned).collect();
        refs.sort();
        refs
    }

    /// The content of a file of what boots next.
    fn read(&self, path: &str) -> String {
        let entry = self.sysroot.default_entry().unwrap();
        let deployment = self.sysroot.deployment(&entry).unwrap();
        std::fs::read_to_string(deployment.join(path)).unwrap()
    }

    fn write(&self, tag: &str, version: &str) -> String {
        let image = NewImage::tiny(version).unwrap();
        self.images.write(tag, &image).unwrap()
    }

    fn reference(&self, tag: &str) -> String {
        format!("ostree-unverified-image:{}", self.images.image(tag))
    }
}

fn deployed(result: Result<ClientOutcome, Failure>) -> DeployReport {
    match result {
        Ok(ClientOutcome::Deployed(report)) => report,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn require_unchanged(result: &Result<ClientOutcome, Failure>) {
    assert!(
        matches!(result, Ok(ClientOutcome::Unchanged { .. })),
        "{result:?}"
    );
}

#[track_caller]
fn refused(result: Result<ClientOutcome, Failure>, kind: ErrorKind, text: &str) -> Failure {
    let failure = result.expect_err("it should be refused");
    assert_eq!(failure.kind, kind, "{failure:?}");
    let all = format!("{failure:?}");
    assert!(all.contains(text), "{all}");
    failure
}

#[test]
fn an_image_is_followed_upgraded_and_left() {
    if !privileged("an_image_is_followed_upgraded_and_left") {
        return;
    }
    let machine = Machine::new();
    let first = machine.write("latest", "1");
    let reference = machine.reference("latest");
    let report = deployed(machine.rebase(&reference));
    assert_eq!(report.version.as_deref(), Some("1"));
    assert_eq!(report.pkgdiff[0].name, "demo");
    let now = &machine.deployments()[0];
    assert_eq!(now.container_image_reference.as_deref(), Some(&*reference));
    assert_eq!(
        now.container_image_reference_digest.as_deref(),
        Some(&*first)
    );
    assert_eq!(now.version.as_deref(), Some("1"));
    assert_eq!(now.timestamp, 1_767_225_601);
    assert_eq!(now.origin, None);
    assert_eq!(machine.read("etc/default-version"), "1\n");
    assert_eq!(machine.refs("ostree/container/blob").len(), 2);
    assert_eq!(machine.refs("ostree/container/image").len(), 1);
    require_unchanged(&machine.upgrade());
    require_unchanged(&machine.check());
    refused(machine.rebase(&reference), ErrorKind::InvalidInput, "equal");

    let second = machine.write("latest", "2");
    let Ok(ClientOutcome::Available(found)) = machine.check() else {
        panic!("no update found");
    };
    assert_eq!(found.version.as_deref(), Some("2"));
    assert_eq!(machine.refs("ostree/container/blob").len(), 2);
    let report = deployed(machine.upgrade());
    assert_eq!(report.version.as_deref(), Some("2"));
    let now = &machine.deployments()[0];
    assert_eq!(
        now.container_image_reference_digest.as_deref(),
        Some(&*second)
    );
    assert_eq!(machine.versions(), ["2", "1"]);
    // The layer that both have is one; those of the rollback stay.
    assert_eq!(machine.refs("ostree/container/blob").len(), 3);
    require_unchanged(&machine.upgrade());

    let request = Request::Rollback(RollbackRequest {
        target: machine.target(),
        ..RollbackRequest::default()
    });
    deployed(machine.ask(&request));
    assert_eq!(machine.versions(), ["1", "2"]);
    assert_eq!(machine.read("usr/share/version"), "1\n");
    // What is in the system already is deployed without the image.
    std::fs::remove_dir_all(machine.images.path().join("blobs")).unwrap();
    let report = deployed(machine.deploy(&second));
    assert_eq!(report.version.as_deref(), Some("2"));

    deployed(machine.rebase("origin:debian/tiny"));
    let request = Request::Cleanup(CleanupRequest {
        target: machine.target(),
        rollback: true,
        ..CleanupRequest::default()
    });
    machine.ask(&request).unwrap();
    assert_eq!(machine.versions(), ["0"]);
    assert_eq!(machine.refs("ostree/container"), [""; 0]);
    machine.ostree(&["fsck", "--quiet"]);
}

#[test]
fn layers_hide_replace_and_join() {
    if !privileged("layers_hide_replace_and_join") {
        return;
    }
    let machine = Machine::new();
    let mut image = NewImage::tiny("1").unwrap();
    image.layers.push(
        files_layer(&[
            ("usr/share/.wh.version", ""),
            ("usr/share/new/file", "new\n"),
            ("opt/tool/run", "tool\n"),
            ("var/lib/state", "state\n"),
            ("etc/hostname", ""),
            ("run/leftover", "x"),
        ])
        .unwrap(),
    );
    machine.images.write("latest", &image).unwrap();
    let report = deployed(machine.rebase(&machine.reference("latest")));
    let files = machine.ostree(&["ls", "-R", "--nul-filenames-only", &report.checksum]);
    let has = |path: &str| files.split('\0').any(|file| file == path);
    for path in ["/usr/share/new/file", "/opt/tool/run", "/usr/etc/passwd"] {
        assert!(has(path), "{path}");
    }
    for path in [
        "/usr/share/version",
        "/usr/share/.wh.version",
        "/run/leftover",
        "/etc",
    ] {
        assert!(!has(path), "{path}");
    }
    assert!(!has("/usr/etc/hostname"));
    let state = ["/usr/share/factory/var/lib/state", "/var/lib/state"];
    assert!(state.iter().any(|path| has(path)));
    machine.ostree(&["fsck", "--quiet"]);
}

#[test]
fn archives_and_storage_have_images_too() {
    if !privileged("archives_and_storage_have_images_too") {
        return;
    }
    let machine = Machine::new();
    machine.write("latest", "1");
    let source = machine.images.image("latest");
    let dir = tempfile::TempDir::new().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    let storage = format!("containers-storage:[vfs@{dir}/store+{dir}/run]localhost/x:1");
    let targets = [
        format!("oci-archive:{dir}/x.tar"),
        format!("dir:{dir}/x"),
        storage,
    ];
    for target in &targets {
        std::fs::create_dir_all(dir.join("x")).unwrap();
        success(Command::new("skopeo").args(["copy", "--quiet", &source, target])).unwrap();
        let report = deployed(machine.rebase(&format!("ostree-unverified-image:{target}")));
        assert_eq!(report.version.as_deref(), Some("1"), "{target}");
        assert_eq!(machine.read("usr/share/version"), "1\n");
        require_unchanged(&machine.upgrade());
    }
    machine.ostree(&["fsck", "--quiet"]);
}

#[test]
fn a_registry_is_followed_by_tag_digest_and_version() {
    if !privileged("a_registry_is_followed_by_tag_digest_and_version") {
        return;
    }
    let mut registry = Registry::start().unwrap();
    let mut machine = Machine::new();
    let host = registry.host();
    machine.config = ContainersConfig::new(&anything(), Some(&host)).unwrap();
    let first = machine.write("one", "1");
    registry
        .push(&machine.images.image("one"), "os:latest")
        .unwrap();
    registry.push(&machine.images.image("one"), "os:1").unwrap();
    let reference = format!("ostree-unverified-registry:{host}/os:latest");
    deployed(machine.rebase(&reference));
    assert_eq!(machine.versions(), ["1", "0"]);
    require_unchanged(&machine.upgrade());

    let second = machine.write("two", "2");
    registry
        .push(&machine.images.image("two"), "os:latest")
        .unwrap();
    deployed(machine.upgrade());
    assert_eq!(machine.versions(), ["2", "1"]);
    // An older image only when asked for; the tag is followed on.
    let third = machine.write("three", "3");
    registry
        .push(&machine.images.image("three"), "os:latest")
        .unwrap();
    registry
        .push(&machine.images.image("three"), "os:3")
        .unwrap();
    deployed(machine.deploy("3"));
    assert_eq!(machine.versions()[0], "3");
    require_unchanged(&machine.upgrade());
    deployed(machine.deploy(&first));
    let now = &machine.deployments()[0];
    assert_eq!(now.container_image_reference.as_deref(), Some(&*reference));
    assert_eq!(
        now.container_image_reference_digest.as_deref(),
        Some(&*first)
    );
    deployed(machine.upgrade());
    let now = &machine.deployments()[0];
    assert_eq!(
        now.container_image_reference_digest.as_deref(),
        Some(&*third)
    );
    registry
        .push(&machine.images.image("two"), "os:latest")
        .unwrap();
    refused(machine.upgrade(), ErrorKind::Verification, "is older");

    let before = machine.versions();
    let pinned = format!("ostree-unverified-registry:{host}/os@{second}");
    refused(
        machine.deploy("9"),
        ErrorKind::InvalidInput,
        "manifest unknown",
    );
    let missing = format!("ostree-unverified-registry:{host}/os:missing");
    refused(
        machine.rebase(&missing),
        ErrorKind::InvalidInput,
        "manifest unknown",
    );
    registry.stop();
    refused(machine.upgrade(), ErrorKind::Network, "connection refused");
    refused(
        machine.rebase(&pinned),
        ErrorKind::Network,
        "connection refused",
    );
    assert_eq!(machine.versions(), before);
    registry.serve().unwrap();
    deployed(machine.rebase(&pinned));
    require_unchanged(&machine.upgrade());
    machine.ostree(&["fsck", "--quiet"]);
}

#[test]
fn the_containers_policy_decides() {
    if !privileged("the_containers_policy_decides") {
        return;
    }
    let mut machine = Machine::new();
    machine.write("latest", "1");
    let signed = format!("ostree-image-signed:{}", machine.images.image("latest"));
    refused(
        machine.rebase(&signed),
        ErrorKind::Verification,
        "without a signature",
    );
    let reject = json!({"default": [{"type": "reject"}]});
    machine.config = ContainersConfig::new(&reject, None).unwrap();
    for reference in [&signed, &machine.reference("latest")] {
        refused(
            machine.rebase(reference),
            ErrorKind::Verification,
            "rejected by policy",
        );
    }
    let malformed = json!({"default": "x"});
    machine.config = ContainersConfig::new(&malformed, None).unwrap();
    refused(
        machine.rebase(&signed),
        ErrorKind::Verification,
        "policy.json",
    );
    assert_eq!(machine.versions(), ["0"]);
    assert_eq!(machine.refs("ostree/container"), [""; 0]);
}

#[test]
fn a_damaged_image_changes_nothing_and_what_was_good_is_used_again() {
    if !privileged("a_damaged_image_changes_nothing_and_what_was_good_is_used_again") {
        return;
    }
    let machine = Machine::new();
    machine.write("latest", "1");
    let manifest = |at: usize| {
        let index = std::fs::read(machine.images.path().join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let digest = index["manifests"][0]["digest"].as_str().unwrap();
        let manifest = std::fs::read(machine.images.blob(digest)).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let layer = manifest["layers"][at]["digest"].as_str().unwrap();
        machine.images.blob(layer)
    };
    let layer = manifest(1);
    let good = std::fs::read(&layer).unwrap();
    let mut damaged = good.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x55;
    for content in [
        &damaged[..],
        &good[..middle],
        &[&good[..], b"more"].concat(),
        b"",
    ] {
        std::fs::write(&layer, content).unwrap();
        let result = machine.rebase(&machine.reference("latest"));
        let failure = refused(result, ErrorKind::Verification, "is damaged");
        assert!(failure.hint.is_some());
        assert_eq!(machine.versions(), ["0"]);
        assert_eq!(machine.refs("ostree/container/image"), [""; 0]);
    }
    assert_eq!(machine.refs("ostree/container/blob").len(), 1);
    std::fs::write(&layer, good).unwrap();
    // It is there already, so it is not fetched again.
    std::fs::write(manifest(0), b"").unwrap();
    deployed(machine.rebase(&machine.reference("latest")));
    machine.ostree(&["fsck", "--quiet"]);
}

#[test]
fn what_is_no_system_is_refused() {
    if !privileged("what_is_no_system_is_refused") {
        return;
    }
    let machine = Machine::new();
    let mut image = NewImage::tiny("1").unwrap();
    image.labels = json!({});
    machine.images.write("plain", &image).unwrap();
    let reference = machine.reference("plain");
    refused(
        machine.rebase(&reference),
        ErrorKind::InvalidInput,
        "can't be booted",
    );
    image = NewImage::tiny("1").unwrap();
    image.layers.remove(0);
    machine.images.write("empty", &image).unwrap();
    let reference = machine.reference("empty");
    refused(
        machine.rebase(&reference),
        ErrorKind::InvalidInput,
        "has no kernel",
    );
    refused(
        machine.rebase(&machine.reference("absent")),
        ErrorKind::InvalidInput,
        "absent",
    );
    assert_eq!(machine.versions(), ["0"]);
}

/// What ostree-ext made of a commit, in one layer of directories and three of contents.
const ENCAPSULATED: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/data/encapsulated.oci.tar"
);
const ENCAPSULATED_COMMIT: &str =
    "879d97634399c34cafb289131922bcf1c815a4d912728d0d2df37d0ab917e5f6";

#[test]
fn an_encapsulated_commit_comes_out_as_it_was() {
    if !privileged("an_encapsulated_commit_comes_out_as_it_was") {
        return;
    }
    if std::env::consts::ARCH != "x86_64" {
        return;
    }
    let machine = Machine::new();
    let image = format!("oci-archive:{ENCAPSULATED}");
    let remote = format!("ostree-remote-image:origin:{image}");
    // Nobody signed it.
    refused(machine.rebase(&remote), ErrorKind::Verification, "");
    assert_eq!(machine.versions(), ["0"]);
    let report = deployed(machine.rebase(&format!("ostree-unverified-image:{image}")));
    assert_eq!(report.version.as_deref(), Some("5"));
    assert_eq!(machine.read("etc/default-version"), "5\n");
    let show = machine.ostree(&["show", &report.checksum]);
    assert!(
        show.contains(&format!("Parent:  {ENCAPSULATED_COMMIT}")),
        "{show}"
    );
    let diff = machine.ostree(&["diff", ENCAPSULATED_COMMIT, &report.checksum]);
    assert_eq!(diff, "");
    assert!(machine.refs("ostree/container/blob").len() >= 4);
    machine.ostree(&["fsck", "--quiet"]);
    // The layers are here now, and still nobody signed them.
    refused(machine.rebase(&remote), ErrorKind::Verification, "");
}

/// A real system, with the commands that a user types.
#[test]
fn layers_are_kept_between_a_branch_and_an_image() {
    if !privileged("layers_are_kept_between_a_branch_and_an_image") {
        return;
    }
    let project = Project::new(BOOTABLE).unwrap();
    project.tree(&["--format", "oci"]).unwrap();
    let repo = project.path().join("output/repo");
    let sysroot = Sysroot::new().unwrap();
    sysroot
        .deploy(&repo, &bootable_ref(), &["root=LABEL=root"])
        .unwrap();
    let image = format!(
        "oci:{}/output/{}.oci",
        project.path(),
        bootable_ref().replace('/', "_")
    );
    let image = format!("ostree-unverified-image:{image}");
    let run = |args: &[&str]| {
        let mut command = project.apt_ostree(args).unwrap();
        command.args(["--sysroot", sysroot.path().as_str()]);
        stdout(&success(&mut command).unwrap())
    };
    let now = || -> Value {
        let status: Value = serde_json::from_str(&run(&["status", "--json"])).unwrap();
        status["deployments"][0].clone()
    };
    let content = |commit: &Value| {
        let mut show = Command::new("ostree");
        show.arg(format!("--repo={}/ostree/repo", sysroot.path()));
        let show = stdout(&success(show.args(["show", commit.as_str().unwrap()])).unwrap());
        let line = show
            .lines()
            .find(|line| line.starts_with("ContentChecksum"));
        line.unwrap().to_owned()
    };
    let branch = now()["checksum"].clone();

    // The image is the commit: packages are the same, and so is every file, owner and mode.
    run(&["rebase", &image]);
    let followed = now();
    assert_eq!(followed["container-image-reference"], image.as_str());
    assert_eq!(content(&followed["checksum"]), content(&branch));
    let diff = run(&[
        "db",
        "diff",
        branch.as_str().unwrap(),
        followed["checksum"].as_str().unwrap(),
    ]);
    assert!(
        !diff.contains("Added") && !diff.contains("Removed"),
        "{diff}"
    );

    run(&["install", "hello"]);
    let layered = now();
    assert_eq!(layered["packages"], json!(["hello"]));
    assert_eq!(layered["base-checksum"], followed["checksum"]);
    assert_eq!(
        layered["container-image-reference-digest"],
        followed["container-image-reference-digest"]
    );
    assert!(run(&["status"]).contains(&image));
    assert!(run(&["upgrade"]).contains("No upgrade"));
    let refspec = format!(":{}", bootable_ref());
    run(&["rebase", &refspec]);
    assert_eq!(now()["packages"], json!(["hello"]));
    assert_eq!(now()["base-checksum"], branch);
    run(&["rebase", &image]);
    assert_eq!(now()["packages"], json!(["hello"]));
    assert_eq!(now()["base-checksum"], followed["checksum"]);
    run(&["reset"]);
    assert_eq!(now()["checksum"], followed["checksum"]);
}
