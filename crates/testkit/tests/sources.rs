//! Where packages come from: suites, components, `.sources` files, pins, priorities, repositories
//! and files of the user's own, other releases, and commits as layers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

use apt_ostree_testkit::packages::{Deb, publish};
use apt_ostree_testkit::podman::Podman;
use apt_ostree_testkit::{MINIMAL, Project, failure, privileged, stderr, stdout, success};
use serde_json::Value;

/// What `tree.yaml` is solved to, as its lockfile says. Nothing is downloaded but indices.
fn solved(project: &Project, args: &[&str]) -> Value {
    project
        .tree(&[&["--dry-run", "--write-lockfile-to", "lock.json"], args].concat())
        .unwrap();
    lock_of(project)
}

fn lock_of(project: &Project) -> Value {
    let text = std::fs::read_to_string(project.path().join("lock.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Name, version and hash of each package.
fn packages(lock: &Value) -> Vec<[&str; 3]> {
    let all = lock["packages"].as_object().unwrap().iter();
    all.map(|(name, p)| {
        [
            name.as_str(),
            p["version"].as_str().unwrap(),
            p["sha256"].as_str().unwrap(),
        ]
    })
    .collect()
}

/// A package that is in one component only.
const COMPONENTS: &str = "ref: test/components
repos:
  - name: debian
    components: [main, non-free-firmware]
packages: [bash, firmware-realtek]
";

#[test]
fn components_come_from_the_treefile_or_a_sources_file_beside_it() {
    if !privileged("components_come_from_the_treefile_or_a_sources_file_beside_it") {
        return;
    }
    let project = Project::new(COMPONENTS).unwrap();
    let inline = solved(&project, &[]);
    let uri = inline["packages"]["firmware-realtek"]["uri"]
        .as_str()
        .unwrap();
    let (base, path) = uri.split_once("/pool/").unwrap();
    assert!(path.starts_with("non-free-firmware/"), "{uri}");

    let stanza = |component: &str| {
        format!(
            "Types: deb\nURIs: ${{base}}/\nSuites: trixie\nComponents: {component}\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        )
    };
    let sources = format!(
        "# Two stanzas, one with a name of its own.\n{}\nX-Repolib-ID: firmware\n{}",
        stanza("main"),
        stanza("non-free-firmware")
    );
    project.write("archive.sources", &sources).unwrap();
    let treefile = "ref: test/components\nrepos: [archive]\npackages: [bash, firmware-realtek]\n";
    project.write("tree.yaml", treefile).unwrap();
    let beside = solved(&project, &["--var", &format!("base={base}")]);
    assert_eq!(packages(&beside), packages(&inline));
    assert_eq!(beside["packages"]["bash"]["repo"], "archive");
    assert_eq!(beside["packages"]["firmware-realtek"]["repo"], "firmware");

    let treefile = COMPONENTS.replace(", non-free-firmware", "");
    project.write("tree.yaml", &treefile).unwrap();
    let mut command = project.compose("tree", &["tree.yaml"]).unwrap();
    let text = failure(command.arg("--dry-run"), 1).unwrap();
    assert!(text.contains("'firmware-realtek'"), "{text}");
}

/// Each `tool-*` shows one rule; the comments say which.
const RULES: &str = "ref: test/sources
repos:
  - name: debian
    suites: [trixie, trixie-updates, trixie-security]
  # A flat repository with a signed index.
  - name: vendor
    url: vendor
    suite: ./
    gpg-keys: [Vendor.gpg]
  # A directory of packages.
  - name: old
    url: old
    trusted: true
    priority: 600
repo-packages:
  - repo: vendor
    packages: [tool-repo]
pins:
  - {packages: hello, pin: release n=trixie, priority: 990}
  - {packages: tool-origin, pin: release o=Vendor, priority: 700}
  - {packages: 'tool-ver*', pin: version 3*, priority: -1}
packages:
  - bash coreutils grep gawk sed systemd apt
  - hello tool-new tool-priority tool-origin tool-version tool-exact=1
local-packages:
  - files/tool-local_1.deb
";

/// Package, versions in `vendor`, versions in `old`, the version to be chosen.
const VERSIONS: [(&str, &[&str], &[&str], &str); 7] = [
    ("tool-new", &["1", "2"], &[], "2"),
    ("tool-priority", &["2"], &["1"], "1"),
    ("tool-origin", &["2"], &["1"], "2"),
    ("tool-version", &["2", "3"], &[], "2"),
    ("tool-exact", &["1", "2"], &[], "1"),
    ("tool-repo", &["2"], &["1"], "2"),
    ("tool-needed", &["1"], &[], "1"),
];

/// Builds the packages of [`RULES`].
fn build_packages(project: &Project) {
    for (name, vendor, old, _) in VERSIONS {
        for (versions, dir) in [(vendor, "vendor"), (old, "old")] {
            for version in versions {
                Deb::new(name, version).build(project, dir).unwrap();
            }
        }
    }
    // Newer than that of the archive, which the pin wants.
    Deb::new("hello", "99").build(project, "vendor").unwrap();
    let local = Deb {
        fields: "Depends: tool-needed\n",
        ..Deb::new("tool-local", "1")
    };
    local.build(project, "files").unwrap();
    publish(project, "vendor", "Vendor").unwrap();
}

#[test]
fn pins_priorities_and_own_repositories_decide_what_is_in_the_image() {
    if !privileged("pins_priorities_and_own_repositories_decide_what_is_in_the_image") {
        return;
    }
    let project = Project::new(RULES).unwrap();
    build_packages(&project);
    let formats = ["--format", "oci", "--format", "oci-archive"];
    let lock = [
        "--format",
        "docker-archive",
        "--write-lockfile-to",
        "lock.json",
    ];
    project.tree(&[formats, lock].concat()).unwrap();

    let lock = lock_of(&project);
    let suites: Vec<&str> = lock["sources"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|s| s["repo"] == "debian")
        .map(|s| s["suite"].as_str().unwrap())
        .collect();
    assert_eq!(suites, ["trixie", "trixie-updates", "trixie-security"]);
    assert_eq!(lock["packages"]["hello"]["repo"], "debian");

    let out = project.path().join("output");
    let layout = format!("oci:{}", out.join("test_sources.oci"));
    let archive = format!("oci-archive:{}", out.join("test_sources.oci.tar"));
    let digest = |image: &str| {
        let args = ["inspect", "--format", "{{.Digest}}", image];
        stdout(&success(Command::new("skopeo").args(args)).unwrap())
    };
    assert_eq!(digest(&layout), digest(&archive));

    let podman = Podman::new().unwrap();
    let file = out.join("test_sources.tar");
    success(podman.command(&["load", "-i"]).arg(file)).unwrap();
    let script = "for t in $*; do echo \"$t $(cat /usr/share/$t/version)\"; done
        echo \"audit: $(dpkg --audit)\"
        echo \"verify: $(dpkg -V)\"
        apt-get -qq check
        hello";
    let names = VERSIONS.iter().map(|(name, ..)| *name);
    let args: Vec<&str> = ["sh", "-euc", script, "sh", "tool-local"]
        .into_iter()
        .chain(names)
        .collect();
    let said = podman.run("localhost/test/sources:latest", &args).unwrap();
    let mut expected = "tool-local 1\n".to_owned();
    for (name, .., chosen) in VERSIONS {
        expected += &format!("{name} {chosen}\n");
    }
    expected += "audit: \nverify: \nHello, world!\n";
    assert_eq!(said, expected);
    let sources = ["sh", "-c", "cat /etc/apt/sources.list.d/*.sources"];
    let sources = podman
        .run("localhost/test/sources:latest", &sources)
        .unwrap();
    for suites in [
        "Suites: trixie trixie-updates\n",
        "Suites: trixie-security\n",
    ] {
        assert!(sources.contains(suites), "{sources}");
    }
    assert!(!sources.contains("file:"), "{sources}");
}

/// A compose of `suite` passes the lints, and its image runs. The image is read from `format`.
fn release_composes(suite: &str, fields: &str, format: &str, compression: &str, layer: &str) {
    let treefile = format!(
        "ref: test/{suite}\nrepos:\n  - name: debian\n    suite: {suite}\n{fields}packages: [bash, coreutils, systemd]\n"
    );
    let project = Project::new(&treefile).unwrap();
    let args = ["--format", format, "--compression", compression];
    let output = project.tree(&args).unwrap();
    let text = stdout(&output) + &stderr(&output);
    assert!(text.contains(" passed, 0 warnings"), "{text}");

    let name = match format {
        "oci" => format!("test_{suite}.oci"),
        _ => format!("test_{suite}.oci.tar"),
    };
    let image = format!("{format}:{}", project.path().join("output").join(&name));
    let raw = success(Command::new("skopeo").args(["inspect", "--raw", &image])).unwrap();
    let manifest: Value = serde_json::from_slice(&raw.stdout).unwrap();
    for found in manifest["layers"].as_array().unwrap() {
        assert_eq!(found["mediaType"], layer);
    }
    let podman = Podman::new().unwrap();
    // podman makes a name of the path, and names have no capitals.
    let mut pull = podman.command(&["pull", "-q", &format!("{format}:{name}")]);
    let pulled = success(pull.current_dir(project.path().join("output"))).unwrap();
    let id = stdout(&pulled);
    assert_eq!(podman.run(id.trim(), &["true"]).unwrap(), "");
    assert_eq!(podman.run(id.trim(), &["dpkg", "--audit"]).unwrap(), "");
}

#[test]
fn debian_12_composes_to_a_zstd_layout_that_runs() {
    if privileged("debian_12_composes_to_a_zstd_layout_that_runs") {
        let layer = "application/vnd.oci.image.layer.v1.tar+zstd";
        release_composes("bookworm", "", "oci", "zstd", layer);
    }
}

/// The host's mirror serves sid as well; its Release file is valid for some days only.
#[test]
fn sid_composes_to_an_uncompressed_archive_that_runs() {
    if privileged("sid_composes_to_an_uncompressed_archive_that_runs") {
        let layer = "application/vnd.oci.image.layer.v1.tar";
        let fields = "    check-valid-until: false\n";
        release_composes("sid", fields, "oci-archive", "none", layer);
    }
}

/// Writes files as a commit on the ref `name` in `output/repo`.
fn commit_layer(project: &Project, name: &str, files: &[(&str, &str)]) {
    for (path, text) in files {
        project.write(&format!("{name}/{path}"), text).unwrap();
    }
    let repo = format!("--repo={}", project.path().join("output/repo"));
    success(Command::new("ostree").args([&repo, "init", "--mode=bare"])).unwrap();
    let tree = format!("--tree=dir={}", project.path().join(name));
    let mut command = Command::new("ostree");
    command.args([&repo, "commit", "--no-xattrs", "-b", name, &tree]);
    success(command.args(["--owner-uid=0", "--owner-gid=0"])).unwrap();
}

#[test]
fn layers_lie_below_and_above_the_packages() {
    if !privileged("layers_lie_below_and_above_the_packages") {
        return;
    }
    let treefile = |lists: &str| format!("{MINIMAL}{lists}");
    let project = Project::new(&treefile("ostree-override-layers: [below, above, top]\n")).unwrap();
    std::fs::create_dir(project.path().join("output")).unwrap();
    let files = |name: &'static str| {
        [
            ("usr/etc/issue", name),
            ("usr/etc/layer.conf", name),
            ("usr/share/layer/common", name),
        ]
    };
    let below = [
        ("usr/etc/issue.net", "below"),
        ("usr/share/layer/below", "below"),
    ];
    commit_layer(&project, "below", &[&files("below")[..], &below].concat());
    commit_layer(&project, "above", &files("above"));
    commit_layer(&project, "top", &[("usr/share/layer/common", "top")]);
    let repo = format!("--repo={}", project.path().join("output/repo"));
    let read = |path: &str| {
        let args = [&repo, "cat", "test/minimal", path];
        stdout(&success(Command::new("ostree").args(args)).unwrap())
    };
    project.tree(&[]).unwrap();
    assert_eq!(read("/usr/share/layer/common"), "top");
    assert_eq!(read("/usr/etc/issue"), "above");
    assert_eq!(read("/usr/etc/issue.net"), "below");

    // The same layers in other places, with the caches of the first run.
    let lists = "ostree-layers: [below, above]\nostree-override-layers: [top]\n";
    project.write("tree.yaml", &treefile(lists)).unwrap();
    project.tree(&[]).unwrap();
    assert_eq!(read("/usr/share/layer/below"), "below");
    assert_eq!(read("/usr/share/layer/common"), "top");
    assert_eq!(read("/usr/etc/layer.conf"), "above");
    for path in ["/usr/etc/issue", "/usr/etc/issue.net"] {
        assert!(read(path).contains("Debian"), "{path}");
    }
}
