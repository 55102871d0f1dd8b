//! What the fields accept and become.

use super::*;
use crate::spec::{IdCheck, MetadataPlacement, OptUsrLocal};

#[test]
fn defaults_are_those_of_the_reference() {
    let spec = parse("ref: test/minimal\n").unwrap();
    assert!(!spec.recommends && spec.documentation && spec.tmp_is_dir && spec.machineid_compat);
    assert!(!spec.container && !spec.readonly_executables && !spec.sysusers_forced);
    assert_eq!(spec.opt_usrlocal, OptUsrLocal::Var);
    assert_eq!(spec.install_langs, None);
    assert_eq!(spec.ids.check_passwd, IdCheck::Previous);
    assert_eq!(spec.ids.check_groups, IdCheck::Previous);
    assert!(spec.ids.preserve && spec.initramfs.enabled);
    assert_eq!(spec.repo_metadata, MetadataPlacement::Inline);
    assert_eq!(
        (spec.composefs, spec.container_cmd, spec.gpg_key),
        (None, None, None)
    );
    assert_eq!(spec.arch.as_str(), "amd64");
}

#[test]
fn container_changes_defaults_but_not_wishes() {
    let spec = parse("container: true\n").unwrap();
    assert!(!spec.initramfs.enabled && !spec.ids.preserve && spec.tmp_is_dir);
    assert_eq!(spec.ids.check_passwd, IdCheck::None);
    let spec =
        parse("container: true\npreserve-passwd: true\ncheck-groups: {type: previous}\n").unwrap();
    assert!(spec.ids.preserve);
    assert_eq!(spec.ids.check_groups, IdCheck::Previous);
    refused("container: true\ntmp-is-dir: false\n", "exclude each other");
}

#[test]
fn fields_without_a_debian_meaning_say_what_to_use() {
    for (text, part) in [
        ("selinux: true", "AppArmor"),
        ("selinux-label-version: 1", "SELinux"),
        ("rojig: {name: a}", "--format"),
        ("platform-module: a", "'packages'"),
        ("modules: {enable: []}", "'pins'"),
        ("rpmdb: sqlite", "'target'"),
        ("rpmdb-normalize: false", "reproducibly"),
        ("ima: true", "IMA"),
        ("boot-location: new", "usr/lib/modules"),
        ("boot_location: kernel-install", "usr/lib/modules"),
        ("ignore-devices: false", "remove the field"),
        ("cliwrap: true", "'add-files'"),
        ("cliwrap-binaries: [a]", "'add-files'"),
        ("advisories-metadata: inline", "advisories"),
    ] {
        refused(&format!("{text}\n"), "is not supported");
        refused(&format!("{text}\n"), part);
    }
}

#[test]
fn fields_of_rpm_ostree_that_ask_for_what_is_anyway_are_accepted() {
    let text = "selinux: false\nrpmdb: target\nrpmdb-normalize: true\nignore-devices: true\nima: false\n\
                boot-location: modules\nedition: 2024\nedition: \"2014\"\nadvisories-metadata: disabled\n\
                cliwrap: false\netc-group-members: [wheel]\n"
        .replace("edition: \"2014\"\n", "");
    parse(&text).unwrap();
    parse("edition: \"2014\"\n").unwrap();
    refused(
        "edition: \"2099\"\n",
        "'edition' must be one of '2014', '2024'",
    );
}

#[test]
fn fields_of_an_installed_system_are_refused() {
    for name in [
        "base-refspec",
        "container-image-reference",
        "packages-local",
        "packages-local-fileoverride",
        "override-remove",
        "override-replace-local",
        "ex-override-replace",
        "initramfs",
        "custom",
        "override-commit",
        "unconfigured-state",
    ] {
        refused(&format!("{name}: a\n"), "describes an installed system");
    }
}

#[test]
fn deprecated_fields_work_with_a_warning() {
    let spec = parse(&format!(
        "{REPO}bootstrap-packages: [bash]\npackages: [dash]\n"
    ))
    .unwrap();
    assert_eq!(names(&spec), ["bash", "dash"]);
    assert_eq!(
        spec.warnings,
        ["tree.yaml:2:1: 'bootstrap-packages' is deprecated; use 'packages'"]
    );
}

#[test]
fn packages_are_a_list_or_a_map() {
    let spec = parse(&format!(
        "{REPO}packages:\n  include: [bash, 'a1 b1']\n  exclude: [vim]\nexclude-packages: [nano]\n"
    ))
    .unwrap();
    assert_eq!(names(&spec), ["bash", "a1", "b1"]);
    let excluded: Vec<&str> = spec.exclude_packages.iter().map(|n| n.as_str()).collect();
    assert_eq!(excluded, ["nano", "vim"]);
    refused(
        "packages: {include: [a], add: [b]}\n",
        "unknown field 'add' in 'packages'; known are 'include', 'exclude'",
    );
}

#[test]
fn packages_of_an_architecture_join_only_there() {
    let text = format!(
        "{REPO}packages-arm64: [for-arm]\npackages-x86_64: [for-pc]\npackages: [all]\npackages-amd64: {{include: [pc2], exclude: [x1]}}\n"
    );
    assert_eq!(names(&parse(&text).unwrap()), ["all", "for-pc", "pc2"]);
    let mut arm = options();
    arm.arch = Some("arm64".parse().unwrap());
    let spec = load(&MemoryLoader::new().with("t.yaml", text), "t.yaml", &arm).unwrap();
    assert_eq!(names(&spec), ["all", "for-arm"]);
    assert!(spec.exclude_packages.is_empty());
    refused(
        "packages-amd65: [a]\n",
        "unknown architecture 'amd65', did you mean 'amd64'?",
    );
    refused("packages-arm64: a\n", "'packages-arm64' must be");
    refused("packages-arm64: [\"'x\"]\n", "no closing quote");
}

#[test]
fn bad_package_strings_are_refused_in_place() {
    assert_eq!(
        error(&format!("{REPO}packages:\n  - bash\n  - foo-\n")),
        "tree.yaml:4:5: 'foo-' is not a package: to leave a package out use 'exclude-packages'"
    );
    refused("packages: [./x.deb]\n", "'local-packages'");
    refused(
        "packages: [\"'foo >= 1'\"]\n",
        "version ranges are not supported",
    );
    refused("packages: [\"\"]\n", "must be text");
    refused("packages: [' ']\n", "empty");
    refused("exclude-packages: ['a*']\n", "invalid package name");
}

#[test]
fn a_package_is_not_asked_for_and_excluded() {
    assert_eq!(
        error(&format!(
            "{REPO}packages: [vim]\nexclude-packages:\n  - vim\n"
        )),
        "tree.yaml:2:12: package 'vim' is both asked for and excluded (at tree.yaml:4)"
    );
    refused(
        &format!("{REPO}packages: {{include: ['vim=1'], exclude: [vim]}}\n"),
        "both asked for and excluded",
    );
    refused(
        &format!(
            "{REPO}exclude-packages: [vim]\nrepo-packages: [{{repo: debian, packages: [vim]}}]\n"
        ),
        "both asked for",
    );
}

#[test]
fn packages_need_a_repository() {
    refused("packages: [bash]\n", "no 'repos'");
}

#[test]
fn refs_are_checked_when_parsed() {
    for bad in [
        "../e", "/abs", "'a b'", "a//b", ".hidden", "-rf", "a/", "origin:a",
    ] {
        refused(&format!("ref: {bad}\n"), "is not a valid ref");
    }
    refused("ref: ${x}\nvariables: {x: '..'}\n", "is not a valid ref");
}

#[test]
fn architectures_are_known_and_agree() {
    assert_eq!(
        parse("architecture: arm64\n").unwrap().arch.as_str(),
        "arm64"
    );
    assert_eq!(parse("basearch: aarch64\n").unwrap().arch.as_str(), "arm64");
    refused(
        "architecture: am64\n",
        "unknown architecture 'am64', did you mean",
    );
    let mut other = options();
    other.arch = Some("arm64".parse().unwrap());
    let loader = MemoryLoader::new().with("t.yaml", "architecture: amd64\n");
    let message = load(&loader, "t.yaml", &other).unwrap_err().to_string();
    assert_eq!(
        message,
        "t.yaml:1:15: this treefile is for 'amd64', but the tree is for 'arm64'"
    );
}

#[test]
fn scripts_need_an_interpreter() {
    let spec = parse("postprocess:\n  - |\n    #!/bin/sh\n    true\n").unwrap();
    assert_eq!(spec.edits.postprocess, ["#!/bin/sh\ntrue\n"]);
    refused("postprocess: ['true']\n", "must begin with '#!'");
    refused("postprocess: [\"#!/bin/sh\\r\\ntrue\"]\n", "CRLF");
}

#[test]
fn the_script_file_comes_after_the_inline_scripts() {
    let loader = MemoryLoader::new()
        .with(
            "tree.yaml",
            "postprocess: ['#!/bin/a']\npostprocess-script: post.sh\n",
        )
        .with("post.sh", "#!/bin/b\n");
    let spec = load_from(loader).unwrap();
    assert_eq!(spec.edits.postprocess, ["#!/bin/a", "#!/bin/b\n"]);
    assert_eq!(spec.files[0].role, "postprocess-script");
}

#[test]
fn exclusive_fields_are_refused() {
    refused(
        "machineid-compat: false\nunits: [a.service]\n",
        "exclude each other",
    );
    refused(
        "repos: [{name: a, suite: b, suites: [c]}]\n",
        "give one of them",
    );
    refused(
        "check-passwd: {type: none, filename: passwd}\n",
        "goes with 'type: file'",
    );
    refused("check-groups: {type: data}\n", "needs 'entries'");
    refused("check-groups: {type: file}\n", "needs 'filename'");
}

#[test]
fn reserved_metadata_keys_are_refused() {
    for key in [
        "ostree.bootable",
        "rpmostree.inputhash",
        "aptostree.x",
        "containers.bootc",
        "version",
    ] {
        refused(
            &format!("add-commit-metadata: {{{key}: a}}\n"),
            "is reserved",
        );
    }
    refused("add-commit-metadata: {a: ~}\n", "can't be null");
    let spec = parse(
        "add-commit-metadata: {ostree.endoflife: soon, versions: 1, a: [x], b: true, c: 1.5}\n",
    )
    .unwrap();
    assert_eq!(spec.add_commit_metadata["versions"], 1);
    assert_eq!(spec.add_commit_metadata["a"], serde_json::json!(["x"]));
    assert_eq!(spec.add_commit_metadata["c"], 1.5);
}

#[test]
fn ids_come_from_files_or_the_treefile() {
    let loader = MemoryLoader::new()
        .with("tree.yaml", "check-passwd: {type: file, filename: passwd}\ncheck-groups: {type: data, entries: {mail: 8}}\n")
        .with("passwd", "root:x:0:0:root:/root:/bin/sh\n");
    let spec = load_from(loader).unwrap();
    let IdCheck::Fixed(users) = &spec.ids.check_passwd else {
        panic!()
    };
    assert_eq!(users.users["root"].uid, 0);
    let IdCheck::Fixed(groups) = &spec.ids.check_groups else {
        panic!()
    };
    assert_eq!(groups.groups["mail"], 8);
    assert_eq!(spec.files[0].path, "/passwd");
    let spec = parse("check-passwd: {type: data, entries: {a: 1, b: [2, 3]}}\n").unwrap();
    let IdCheck::Fixed(users) = &spec.ids.check_passwd else {
        panic!()
    };
    assert_eq!((users.users["a"].gid, users.users["b"].gid), (1, 3));
}

#[test]
fn bad_ids_are_refused() {
    for entries in [
        "{a: -1}",
        "{a: 4294967295}",
        "{a: x}",
        "{'A b': 1}",
        "{a: [1, 2, 3]}",
        "{a: []}",
    ] {
        assert!(
            parse(&format!(
                "check-passwd: {{type: data, entries: {entries}}}\n"
            ))
            .is_err(),
            "{entries}"
        );
    }
    let loader = MemoryLoader::new()
        .with("tree.yaml", "check-groups: {type: file, filename: group}\n")
        .with("group", "a:x:1:\na:x:2:\n");
    assert_eq!(
        load_from(loader).unwrap_err().to_string(),
        "group:2: 'a' is given twice; first at line 1"
    );
    assert_eq!(
        parse("ignore-removed-users: ['*']\n")
            .unwrap()
            .ids
            .ignore_removed_users
            .len(),
        1
    );
    refused(
        "ignore-removed-groups: ['a b']\n",
        "not a user or group name",
    );
}

#[test]
fn edits_are_checked() {
    let loader = MemoryLoader::new()
        .with("tree.yaml", "add-files: [[motd, /etc/motd]]\nremove-files: [/usr/share/doc, etc/x]\nremove-from-packages: [[bash, '/usr/share/man/.*', x+]]\n")
        .with("motd", "hi");
    let spec = load_from(loader).unwrap();
    assert_eq!(
        spec.edits.add_files,
        [("/motd".into(), "etc/motd".to_owned())]
    );
    assert_eq!(spec.edits.remove_files, ["usr/share/doc", "etc/x"]);
    assert_eq!(spec.edits.remove_from_packages[0].1.len(), 2);
    refused("add-files: [[motd, /var/x]]\n", "can't be added");
    refused(
        "add-files: [[motd, /usr/../var/x]]\n",
        "not a path below the root",
    );
    refused("add-files: [[motd, /etc/x]]\n", "does not exist");
    refused("remove-files: [/]\n", "not a path below the root");
    refused(
        "remove-from-packages: [[bash]]\n",
        "at least one regular expression",
    );
    refused(
        "remove-from-packages: [[bash, '(']]\n",
        "not a regular expression",
    );
    refused(
        "remove-from-packages: [[bash, '(x{1000}){1000}']]\n",
        "not a regular expression",
    );
}

#[test]
fn debconf_answers_are_lines() {
    let spec = parse("debconf:\n  - |\n    # comment\n    a a/b string x y\n\n    a a/c boolean true\n  - b b/x note\n").unwrap();
    assert_eq!(
        spec.debconf,
        ["a a/b string x y", "a a/c boolean true", "b b/x note"]
    );
    refused("debconf: [a b]\n", "package question type value");
    refused("debconf: [a b c d]\n", "package question type value");
}

#[test]
fn pins_are_checked() {
    let spec = parse("pins: [{packages: 'linux-*', pin: release n=sid, priority: -1}, {packages: [a, b], pin: origin x, priority: 900}]\n").unwrap();
    assert_eq!(spec.pins[0].packages, ["linux-*"]);
    assert_eq!(
        (spec.pins[0].priority, spec.pins[1].packages.len()),
        (-1, 2)
    );
    refused(
        "pins: [{packages: a, pin: sid, priority: 1}]\n",
        "a pin begins with",
    );
    refused(
        "pins: [{packages: a, pin: version 1, priority: 0}]\n",
        "not 0",
    );
    refused(
        "pins: [{packages: a, pin: version 1, priority: 99999}]\n",
        "from -32768 to 32767",
    );
    refused(
        "pins: [{packages: 'a b', pin: version 1, priority: 1}]\n",
        "not a package name or glob",
    );
    refused(
        "pins: [{packages: a, pin: \"version 1\\nPin: x\", priority: 1}]\n",
        "one line",
    );
}

#[test]
fn small_grammars_are_checked() {
    refused("units: [ssh]\n", "not a unit name");
    refused("default-target: ssh.service\n", "must end in '.target'");
    refused("automatic-version-suffix: ab\n", "one ASCII character");
    refused("install-langs: [../x]\n", "not the name of a locale");
    refused("gpg-key: --batch\n", "must be the id of a key");
    refused("ostree-layers: ['a b']\n", "not a valid ref");
    refused("local-packages: [a.rpm]\n", "does not end in '.deb'");
    let spec = parse("automatic-version-suffix: '-'\ncomposefs: yes\ncontainer-cmd: [/bin/sh, -c, 1]\nsysusers: compose-forced\n").unwrap();
    assert_eq!(spec.version.automatic_suffix, Some('-'));
    assert_eq!(spec.composefs.as_deref(), Some("yes"));
    assert_eq!(spec.container_cmd.unwrap(), ["/bin/sh", "-c", "1"]);
    assert!(spec.sysusers_forced);
    assert_eq!(
        parse("composefs: false\n").unwrap().composefs.as_deref(),
        Some("no")
    );
}
