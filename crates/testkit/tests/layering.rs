//! Packages on top of a commit: what comes out, what is refused, and that nothing else changes.
//!
//! libapt can serve one session per process, so each run is a process of its own, `layer-job`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use apt_ostree_engine::postprocess::{self, Input, Options};
use apt_ostree_model::Tree;
use apt_ostree_store::{CacheRepo, CommitTree, TargetRepo};
use apt_ostree_testkit::packages::{Deb, publish};
use apt_ostree_testkit::{Project, privileged, root, stdout, success};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};

/// What a layering machine needs: apt's keyrings, and something to remove.
const BASE: &str = "ref: test/layering
container: true
repos:
  - name: debian
packages:
  include:
    - bash
    - coreutils
    - grep
    - gawk
    - sed
    - systemd
    - apt
    - nano
";

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.map(|v| v.as_str().unwrap().to_owned()).collect()
}

/// A project with a composed base, whose repository plays that of a system.
struct Machine {
    project: Project,
    base: String,
    name: String,
}

impl Machine {
    fn new(treefile: &str) -> Self {
        let project = Project::new(treefile).unwrap();
        project.tree(&[]).unwrap();
        let name = treefile.lines().next().unwrap().replace("ref: ", "");
        let base = project.commit(&name).unwrap();
        Self {
            project,
            base,
            name,
        }
    }

    fn repo(&self) -> Utf8PathBuf {
        self.project.path().join("output/repo")
    }

    /// Runs a job in a process of its own.
    fn run(&self, job: Value) -> Value {
        let mut job = job;
        job["repo"] = self.repo().as_str().into();
        job["base"] = self.base.as_str().into();
        let path = self.project.write("job.json", &job.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_layer-job"));
        command.arg(&path);
        let output = success(&mut command).unwrap();
        drop(std::io::Write::write_all(
            &mut std::io::stderr(),
            &output.stderr,
        ));
        let text = std::fs::read_to_string(format!("{path}.out")).unwrap();
        std::fs::remove_file(format!("{path}.out")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Runs a job that must make a commit.
    fn layered(&self, job: Value) -> (String, Value) {
        let result = self.run(job);
        let commit = result["commit"].as_str();
        (
            commit.unwrap_or_else(|| panic!("{result:#}")).to_owned(),
            result,
        )
    }

    /// Runs a job that must fail; returns kind, and message with hint.
    fn refused(&self, job: Value) -> (String, String) {
        let before = self.refs();
        let result = self.run(job);
        let error = result["error"].as_str();
        let error = error.unwrap_or_else(|| panic!("{result:#}"));
        assert_eq!(self.refs(), before);
        (
            result["kind"].as_str().unwrap_or_default().to_owned(),
            format!("{error} [{}]", result["hint"].as_str().unwrap_or_default()),
        )
    }

    fn load(&self, commit: &str) -> (CommitTree, CacheRepo) {
        let target = TargetRepo::open(&self.repo()).unwrap();
        (
            target.load_commit(commit).unwrap(),
            CacheRepo::open_system(&self.repo()).unwrap(),
        )
    }

    fn ostree(&self, args: &[&str]) -> String {
        let mut command = Command::new("ostree");
        command.arg(format!("--repo={}", self.repo())).args(args);
        stdout(&success(&mut command).unwrap())
    }

    /// All refs but those of imported packages.
    fn refs(&self) -> BTreeSet<String> {
        let refs = root::scan(&self.repo().join("refs")).unwrap().into_iter();
        refs.filter(|(path, entry)| entry.kind != 'd' && !path.contains("aptostree/pkg"))
            .map(|(path, entry)| format!("{path} {}", entry.content))
            .collect()
    }
}

fn read(tree: &Tree, store: &CacheRepo, path: &str) -> String {
    apt_ostree_engine::content::read_text(tree, store, path).unwrap()
}

/// Builds a package from files (path and text), fields and scripts.
fn build_deb(
    project: &Project,
    name: &str,
    fields: &str,
    files: &[(&str, &str)],
    scripts: &[(&str, &str)],
) -> String {
    for (path, text) in files {
        project
            .write(&format!("stage/{name}_1/{path}"), text)
            .unwrap();
    }
    let deb = Deb {
        name,
        version: "1",
        fields,
        scripts,
    };
    let file = deb.build(project, "debs").unwrap();
    project.path().join(file).into_string()
}

/// Owner, mode, size and link target or content of every object, but not how many names it has.
fn sentinels(repo: &Utf8Path) -> BTreeMap<String, root::Entry> {
    root::scan(&repo.join("objects")).unwrap()
}

fn reopened_is_the_same(treefile: &str) {
    let machine = Machine::new(treefile);
    let (commit, store) = machine.load(&machine.base);
    let kept = postprocess::kept_treefile(&commit.tree, &store).unwrap();
    let options = Options::of_tree(&commit.tree, &kept);
    let reopened = postprocess::reopen(commit.tree.clone(), &store).unwrap();
    let input = Input {
        content: &store,
        packages: &[],
        options: &options,
    };
    let finished = postprocess::finish(reopened.tree, input, reopened.initramfs).unwrap();
    let only = |a: &Tree, b: &Tree| -> Vec<String> {
        let differs = |(path, node): &(String, &apt_ostree_model::Node)| match (node, b.get(path)) {
            (apt_ostree_model::Node::Dir(a), Some(apt_ostree_model::Node::Dir(b))) => {
                a.meta != b.meta
            }
            (a, b) => Some(*a) != b,
        };
        a.walk().filter(differs).map(|(path, _)| path).collect()
    };
    assert_eq!(only(&commit.tree, &finished.tree), Vec::<String>::new());
    assert_eq!(only(&finished.tree, &commit.tree), Vec::<String>::new());
    assert_eq!(
        store.content_checksum(&finished.tree).unwrap(),
        commit.content_checksum
    );
}

/// The example that boots, from its `ref` on.
fn bootable() -> String {
    let text = include_str!("../../../examples/bootable.yaml");
    let text = text.replace("debian/13/${basearch}/bootable", "test/bootable");
    let start = text.find("ref: ").unwrap();
    text[start..].to_owned()
}

#[test]
fn a_reopened_minimal_tree_is_finished_to_the_same_tree() {
    if privileged("a_reopened_minimal_tree_is_finished_to_the_same_tree") {
        reopened_is_the_same(BASE);
    }
}

#[test]
fn a_reopened_bootable_tree_is_finished_to_the_same_tree() {
    if privileged("a_reopened_bootable_tree_is_finished_to_the_same_tree") {
        reopened_is_the_same(&bootable());
    }
}

#[test]
fn the_initramfs_of_the_base_stays_unless_its_inputs_change() {
    if !privileged("the_initramfs_of_the_base_stays_unless_its_inputs_change") {
        return;
    }
    let machine = Machine::new(&bootable());
    let image = |commit: &str| {
        let (commit, _) = machine.load(commit);
        let kernel = commit.string("ostree.linux").unwrap();
        let path = format!("usr/lib/modules/{kernel}/initramfs.img");
        commit.tree.file(&path).unwrap().checksum
    };
    let base = image(&machine.base);
    let (plain, _) = machine.layered(json!({"packages": ["hello"]}));
    assert_eq!(image(&plain), base);
    let (commit, _) = machine.load(&plain);
    assert!(commit.tree.contains("usr/bin/hello"));

    let module = "usr/lib/dracut/modules.d/99mine/module-setup.sh";
    let script =
        "#!/bin/bash\ncheck() { return 0; }\ninstall() { inst_simple /usr/share/mine/version; }\n";
    let deb = build_deb(&machine.project, "mine", "", &[(module, script)], &[]);
    let (changed, _) = machine.layered(json!({"local": [deb]}));
    assert_ne!(image(&changed), base);

    let (kind, text) = machine.refused(json!({"packages": ["linux-image-rt-amd64"]}));
    assert_eq!(kind, "unsatisfiable");
    assert!(text.contains("several kernels"), "{text}");
}

#[test]
fn a_daemon_and_local_packages_are_layered() {
    if !privileged("a_daemon_and_local_packages_are_layered") {
        return;
    }
    let machine = Machine::new(BASE);
    let opt = build_deb(
        &machine.project,
        "vendor",
        "",
        &[
            ("opt/vendor/bin/tool", "tool\n"),
            ("etc/vendor.conf", "x\n"),
        ],
        &[],
    );
    let divert = build_deb(
        &machine.project,
        "diverter",
        "",
        &[("usr/bin/tac", "#!/bin/sh\necho mine\n")],
        &[(
            "preinst",
            "#!/bin/sh\nset -e\ndpkg-divert --package diverter --add --rename --divert /usr/bin/tac.real /usr/bin/tac\n",
        )],
    );
    let before = sentinels(&machine.repo());
    let job = json!({"packages": ["dnsmasq", "bash"], "local": [opt, divert]});

    let planned = machine.run(json!({"packages": ["dnsmasq"], "dry-run": true}));
    assert!(planned["commit"].is_null() && texts(&planned["plan"]).contains(&"dnsmasq".to_owned()));
    let after: BTreeSet<String> = sentinels(&machine.repo()).into_keys().collect();
    let new: Vec<&String> = after
        .iter()
        .filter(|path| !before.contains_key(*path))
        .collect();
    assert_eq!(new, Vec::<&String>::new(), "a dry run writes no object");

    let (commit, result) = machine.layered(job.clone());
    assert_eq!(texts(&result["inactive"]), ["bash"]);
    let (layered, store) = machine.load(&commit);
    let (base, _) = machine.load(&machine.base);
    let tree = &layered.tree;
    assert!(tree.file("usr/sbin/dnsmasq").is_some());
    assert!(tree.contains("usr/etc/systemd/system/multi-user.target.wants/dnsmasq.service"));
    assert!(read(tree, &store, "usr/etc/passwd").contains("dnsmasq:"));
    assert!(read(tree, &store, "usr/lib/sysusers.d/00-apt-ostree.conf").contains("u dnsmasq "));
    assert_eq!(read(tree, &store, "usr/lib/opt/vendor/bin/tool"), "tool\n");
    assert_eq!(read(tree, &store, "usr/etc/vendor.conf"), "x\n");
    assert_eq!(read(tree, &store, "usr/bin/tac"), "#!/bin/sh\necho mine\n");
    assert_eq!(tree.file("usr/bin/tac.real"), base.tree.file("usr/bin/tac"));
    let status = read(tree, &store, "usr/lib/sysimage/dpkg/status");
    assert!(status.contains("Package: diverter\nStatus: install ok installed\n"));
    assert!(!tree.contains("usr/sbin/policy-rc.d") && tree.dir("var").unwrap().entries.is_empty());

    assert_eq!(layered.parent.as_deref(), Some(machine.base.as_str()));
    assert_eq!(layered.strings("aptostree.packages").unwrap(), ["dnsmasq"]);
    assert_eq!(
        layered.string("aptostree.state-sha512").as_deref(),
        result["state"].as_str()
    );
    let unchanged = same_files(&base.tree, tree);
    assert!(
        unchanged > 95,
        "{unchanged} % of the base's files are shared"
    );

    let after = sentinels(&machine.repo());
    for (path, entry) in &before {
        let kept = after
            .get(path)
            .unwrap_or_else(|| panic!("'{path}' is gone"));
        assert_eq!(entry.difference(kept), "", "{path}");
    }
    machine.ostree(&["fsck", "-q"]);

    let (again, _) = machine.layered(job.clone());
    assert_eq!(again, commit, "the same inputs give the same commit");
    let mut known = job;
    known["current"] = result["state"].clone();
    let nothing = machine.run(known);
    assert!(nothing["unchanged"] == true && nothing["commit"].is_null());
    assert_eq!(machine.project.commit(&machine.name).unwrap(), machine.base);
}

/// Percentage of the files of `base` that are the same in `tree`.
fn same_files(base: &Tree, tree: &Tree) -> usize {
    let files: Vec<_> = base.walk().filter(|(_, n)| n.as_file().is_some()).collect();
    let same = files
        .iter()
        .filter(|(path, node)| tree.get(path) == Some(*node));
    same.count() * 100 / files.len()
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    if !privileged("what_cannot_be_is_refused_and_changes_nothing") {
        return;
    }
    let machine = Machine::new(BASE);
    let project = &machine.project;

    let (kind, text) = machine.refused(json!({"packages": ["no-such-thing", "nor-this", "less"]}));
    assert_eq!(kind, "unsatisfiable");
    assert!(
        text.contains("'no-such-thing'") && text.contains("'nor-this'"),
        "{text}"
    );

    let hostile = build_deb(project, "hostile", "Conflicts: nano\n", &[], &[]);
    let (kind, text) = machine.refused(json!({"local": [hostile]}));
    assert_eq!(kind, "unsatisfiable");
    assert!(
        text.contains("would remove the base package 'nano'"),
        "{text}"
    );

    let thief = build_deb(project, "thief", "", &[("usr/bin/nano", "mine\n")], &[]);
    let (kind, text) = machine.refused(json!({"local": [thief]}));
    assert_eq!(kind, "invalid-package");
    assert!(
        text.contains("'/usr/bin/nano'") && text.contains("'thief'") && text.contains("'nano'"),
        "{text}"
    );

    let scripts = [("postinst", "#!/bin/sh\necho going to fail\nexit 3\n")];
    let broken = build_deb(project, "broken", "", &[], &scripts);
    let (kind, text) = machine.refused(json!({"local": [broken]}));
    assert_eq!(kind, "script");
    assert!(
        text.contains("broken") && text.contains("going to fail") && text.contains("exit status 3"),
        "{text}"
    );
    machine.ostree(&["fsck", "-q"]);
}

#[test]
fn base_packages_are_removed_and_replaced_as_dpkg_does() {
    if !privileged("base_packages_are_removed_and_replaced_as_dpkg_does") {
        return;
    }
    let machine = Machine::new(BASE);
    let (commit, result) = machine.layered(json!({"remove": ["nano"]}));
    assert_eq!(texts(&result["removed"]), ["nano"]);
    let (removed, store) = machine.load(&commit);
    assert!(!removed.tree.contains("usr/bin/nano"));
    assert!(!removed.tree.contains("usr/etc/alternatives/editor"));
    assert!(
        removed.tree.file("usr/etc/nanorc").is_some(),
        "conffiles stay"
    );
    let status = read(&removed.tree, &store, "usr/lib/sysimage/dpkg/status");
    assert!(status.contains("Package: nano\nStatus: deinstall ok config-files\n"));
    assert_eq!(
        removed
            .strings("aptostree.removed-base-packages")
            .unwrap()
            .len(),
        1
    );

    let files = [("usr/bin/nano", "#!/bin/sh\necho other\n")];
    let deb = Deb {
        name: "nano",
        version: "99",
        fields: "",
        scripts: &[],
    };
    machine
        .project
        .write(&format!("stage/nano_99/{}", files[0].0), files[0].1)
        .unwrap();
    let path = machine
        .project
        .path()
        .join(deb.build(&machine.project, "debs").unwrap());
    let (kind, text) = machine.refused(json!({"local": [path]}));
    assert_eq!(kind, "unsatisfiable");
    assert!(
        text.contains("would replace the base package 'nano'"),
        "{text}"
    );

    let (commit, result) = machine.layered(json!({"replace-local": [path]}));
    assert_eq!(texts(&result["replaced"]), ["nano"]);
    let (replaced, store) = machine.load(&commit);
    assert_eq!(read(&replaced.tree, &store, "usr/bin/nano"), files[0].1);
    assert!(
        !replaced.tree.contains("usr/share/nano/asm.nanorc"),
        "old files go"
    );
    machine.ostree(&["fsck", "-q"]);
}

#[test]
fn files_are_replaced_and_packages_come_from_named_sources_when_asked() {
    if !privileged("files_are_replaced_and_packages_come_from_named_sources_when_asked") {
        return;
    }
    let machine = Machine::new(BASE);
    let project = &machine.project;
    let thief = build_deb(project, "thief", "", &[("usr/bin/nano", "mine\n")], &[]);
    let (commit, result) = machine.layered(json!({"local-replacing": [thief]}));
    assert_eq!(texts(&result["plan"]), ["thief"]);
    let (layered, store) = machine.load(&commit);
    assert_eq!(read(&layered.tree, &store, "usr/bin/nano"), "mine\n");
    let list = "usr/lib/sysimage/dpkg/info/thief.list";
    let files = read(&layered.tree, &store, list);
    assert!(files.lines().any(|line| line == "/usr/bin/nano"));

    let (commit, _) = machine.layered(json!({"packages": ["hello/trixie"]}));
    let (layered, _) = machine.load(&commit);
    assert_eq!(
        layered.strings("aptostree.packages").unwrap(),
        ["hello/trixie"]
    );
    let (kind, text) = machine.refused(json!({"packages": ["hello/nowhere"]}));
    assert_eq!(kind, "unsatisfiable");
    assert!(text.contains("is not in suite 'nowhere'"), "{text}");

    // A machine with a source of its own.
    let deb = Deb::new("nano", "99").build(project, "mine").unwrap();
    publish(project, "mine", "Mine").unwrap();
    let key = std::fs::read(project.path().join("Mine.gpg")).unwrap();
    let repo = project.path().join("mine");
    let line = format!("deb [signed-by=/etc/apt/keyrings/mine.gpg] file:{repo} ./\n");
    project.write("etc/apt/sources.list", &line).unwrap();
    let keyring = project.write("etc/apt/keyrings/mine.gpg", "").unwrap();
    std::fs::write(keyring, key).unwrap();
    let etc = project.path().join("etc");
    let job = |more: Value| {
        let mut job = json!({"etc": etc.as_str()});
        for (key, value) in more.as_object().unwrap() {
            job[key] = value.clone();
        }
        job
    };
    let from = json!({"replace": ["nano/origin=Mine"]});
    let (commit, followed) = machine.layered(job(from.clone()));
    assert_eq!(texts(&followed["replaced"]), ["nano"]);
    let (layered, store) = machine.load(&commit);
    assert_eq!(
        read(&layered.tree, &store, "usr/share/nano/version"),
        "99\n"
    );
    let (_, text) = machine.refused(job(json!({"replace": ["nano/origin=Nobody"]})));
    assert!(text.contains("origin 'Nobody'"), "{text}");

    // Frozen, it is as if that file had been named.
    let mut frozen = from;
    frozen["freeze"] = json!(["nano"]);
    let frozen = machine.run(job(frozen));
    let named = json!({"replace-local": [project.path().join(deb)]});
    let named = machine.run(job(named));
    assert_eq!(frozen["state"], named["state"]);
    assert_ne!(frozen["state"], followed["state"]);
}
