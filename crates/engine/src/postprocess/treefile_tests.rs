//! One test per wish of the treefile, on small made-up trees.

use apt_ostree_model::{ErrorKind, Meta};

use super::testing::{Sample, kinded, target};
use super::*;

#[test]
fn the_identity_of_the_build_machine_goes_but_that_of_the_treefile_stays() {
    let mut sample = Sample::debian();
    sample.file("etc/hostname", "builder\n");
    sample.file("etc/resolv.conf", "nameserver 192.0.2.1\n");
    sample.file("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    sample.file(
        "var/lib/dbus/machine-id",
        "0123456789abcdef0123456789abcdef\n",
    );
    sample.options.add_files.push(AddedFile {
        path: "etc/hostname".into(),
        kind: AddedKind::File {
            data: b"appliance\n".to_vec(),
            executable: false,
        },
    });
    sample.tree = sample.apply().unwrap().tree;
    let tree = sample.finish().unwrap().tree;
    assert_eq!(sample.text(&tree, "usr/etc/hostname"), "appliance\n");
    assert!(!tree.contains("usr/etc/resolv.conf"));
    assert_eq!(sample.text(&tree, "usr/etc/machine-id"), "uninitialized\n");
    assert!(sample.text(&tree, "usr/etc/hosts").contains("localhost"));
    assert_eq!(target(&tree, "usr/etc/mtab"), "../proc/self/mounts");
    let line = "L /var/lib/dbus/machine-id - - - - /etc/machine-id".to_owned();
    assert!(sample.tmpfiles(&tree).contains(&line));
    sample.options.machineid_compat = false;
    assert!(!sample.finish().unwrap().tree.contains("usr/etc/machine-id"));
}

#[test]
fn units_are_enabled_by_their_install_section() {
    let mut sample = Sample::debian();
    let dir = "usr/lib/systemd/system";
    sample.file(
        &format!("{dir}/a.service"),
        "[Unit]\nX=1\n[Install]\nWantedBy=multi-user.target \\\n  b.target\nRequiredBy=c.target\nAlias=alias.service\nAlso=a.socket\n",
    );
    sample.file(
        &format!("{dir}/a.socket"),
        "[Install]\nWantedBy=sockets.target\n",
    );
    sample.file(
        &format!("{dir}/t@.service"),
        "[Install]\nWantedBy=%p-%i.target\nDefaultInstance=one\n",
    );
    sample.options.units = vec![
        "a.service".into(),
        "t@two.service".into(),
        "t@.service".into(),
    ];
    let tree = sample.apply().unwrap().tree;
    for (link, unit) in [
        (
            "etc/systemd/system/multi-user.target.wants/a.service",
            "a.service",
        ),
        ("etc/systemd/system/b.target.wants/a.service", "a.service"),
        (
            "usr/lib/systemd/system/c.target.requires/a.service",
            "a.service",
        ),
        ("etc/systemd/system/alias.service", "a.service"),
        (
            "etc/systemd/system/sockets.target.wants/a.socket",
            "a.socket",
        ),
        (
            "etc/systemd/system/t-two.target.wants/t@two.service",
            "t@.service",
        ),
        (
            "etc/systemd/system/t-one.target.wants/t@one.service",
            "t@.service",
        ),
    ] {
        assert_eq!(
            target(&tree, link),
            format!("/usr/lib/systemd/system/{unit}")
        );
    }
}

#[test]
fn units_that_cannot_be_enabled_are_errors() {
    let mut sample = Sample::debian();
    let dir = "usr/lib/systemd/system";
    sample.file(&format!("{dir}/static.service"), "[Unit]\n");
    sample.file(
        &format!("{dir}/t@.service"),
        "[Install]\nWantedBy=x.target\n",
    );
    sample.file(
        &format!("{dir}/evil.service"),
        "[Install]\nWantedBy=../../../x.target\n",
    );
    sample.file(
        &format!("{dir}/host.service"),
        "[Install]\nWantedBy=%m.target\n",
    );
    sample.link("etc/systemd/system/masked.service", "/dev/null");
    for unit in [
        "static.service",
        "t@.service",
        "evil.service",
        "host.service",
        "masked.service",
        "missing.service",
        "noname",
        "../x.service",
    ] {
        sample.options.units = vec![unit.into()];
        let error = sample.apply().unwrap_err();
        assert!(kinded(&error).message.contains(unit), "{unit}: {error:#}");
    }
}

#[test]
fn the_default_target_is_linked_and_must_exist() {
    let mut sample = Sample::debian();
    sample.options.default_target = Some("graphical.target".into());
    assert!(sample.apply().is_err());
    sample.file("usr/lib/systemd/system/graphical.target", "[Unit]\n");
    let tree = sample.apply().unwrap().tree;
    assert_eq!(
        target(&tree, "etc/systemd/system/default.target"),
        "/usr/lib/systemd/system/graphical.target"
    );
}

#[test]
fn documentation_goes_but_copyright_files_stay() {
    let mut sample = Sample::debian();
    sample.options.documentation = false;
    sample.file("usr/share/doc/a/copyright", "c");
    sample.file("usr/share/doc/a/README", "r");
    sample.file("usr/share/doc/a/examples/x", "r");
    sample.link("usr/share/doc/b", "a");
    sample.file("usr/share/man/man1/a.1.gz", "m");
    sample.dir("etc/dpkg/dpkg.cfg.d", 0o755);
    let tree = sample.apply().unwrap().tree;
    let left: Vec<String> = tree.walk_from("usr/share").map(|(path, _)| path).collect();
    assert_eq!(
        left,
        [
            "usr/share/doc",
            "usr/share/doc/a",
            "usr/share/doc/a/copyright",
            "usr/share/doc/b",
            "usr/share/man"
        ]
    );
    assert!(tree.contains("etc/dpkg/dpkg.cfg.d/apt-ostree-documentation"));
}

#[test]
fn locales_that_are_not_listed_go() {
    let mut sample = Sample::debian();
    sample.options.install_langs = Some(vec!["de".into()]);
    for path in [
        "locale/de/x",
        "locale/fr/x",
        "locale/locale.alias",
        "man/fr/man1/x",
        "man/de/man1/x",
        "man/man1/x",
    ] {
        sample.file(&format!("usr/share/{path}"), "x");
    }
    let tree = sample.apply().unwrap().tree;
    for (path, there) in [
        ("locale/de/x", true),
        ("locale/fr", false),
        ("locale/locale.alias", true),
        ("man/fr", false),
        ("man/de/man1/x", true),
        ("man/man1/x", true),
    ] {
        assert_eq!(tree.contains(&format!("usr/share/{path}")), there, "{path}");
    }
}

#[test]
fn files_are_removed_and_added_through_merged_directories() {
    let mut sample = Sample::debian();
    sample.file("usr/bin/old", "x");
    sample.options.remove_files = vec!["bin/old".into(), "usr/none".into()];
    sample.options.add_files = vec![AddedFile {
        path: "lib/tool/run".into(),
        kind: AddedKind::File {
            data: b"x".to_vec(),
            executable: true,
        },
    }];
    let output = sample.apply().unwrap();
    assert!(!output.tree.contains("usr/bin/old"));
    assert_eq!(
        output.tree.file("usr/lib/tool/run").unwrap().meta,
        Meta::root(0o755)
    );
    assert!(
        output
            .report
            .warnings
            .iter()
            .any(|w| w.contains("usr/none"))
    );
}

#[test]
fn files_of_a_package_are_removed_by_expression() {
    let mut sample = Sample::debian();
    sample.file("usr/share/pkg/a.txt", "x");
    sample.file("usr/share/pkg/b.bin", "x");
    sample.file("usr/share/other/a.txt", "x");
    sample.package("pkg", &["usr/share/pkg/a.txt", "usr/share/pkg/b.bin"]);
    sample.options.remove_from_packages = vec![("pkg".parse().unwrap(), vec!["\\.txt$".into()])];
    let tree = sample.apply().unwrap().tree;
    assert!(!tree.contains("usr/share/pkg/a.txt") && tree.contains("usr/share/pkg/b.bin"));
    assert!(tree.contains("usr/share/other/a.txt"));
    for (name, pattern) in [("missing", "x"), ("pkg", "(")] {
        sample.options.remove_from_packages = vec![(name.parse().unwrap(), vec![pattern.into()])];
        assert_eq!(
            kinded(&sample.apply().unwrap_err()).kind,
            ErrorKind::InvalidInput
        );
    }
}

#[test]
fn executables_lose_their_write_bits_on_request() {
    let mut sample = Sample::debian();
    sample.file_as("usr/bin/x", &Meta::root(0o4755), b"x");
    sample.file("usr/bin/data", "x");
    sample.options.readonly_executables = true;
    let tree = sample.finish().unwrap().tree;
    assert_eq!(tree.file("usr/bin/x").unwrap().meta.mode, 0o4555);
    assert_eq!(tree.file("usr/bin/data").unwrap().meta.mode, 0o644);
}

#[test]
fn the_treefile_the_version_and_prepare_root_are_kept_in_the_image() {
    let mut sample = Sample::debian();
    sample.file("usr/lib/os-release", "VERSION=\"13\"\n");
    sample.options.treefile = Some(serde_json::json!({"ref": "x"}));
    sample.options.mutate_os_release = Some("13".into());
    sample.options.version = Some("13.1".into());
    sample.options.prepare_root =
        Some(("usr/lib/ostree/prepare-root.conf".into(), b"new".to_vec()));
    let tree = sample.apply().unwrap().tree;
    assert!(
        sample
            .text(&tree, "usr/share/apt-ostree/treefile.json")
            .contains("\"ref\"")
    );
    assert!(
        sample
            .text(&tree, "usr/lib/os-release")
            .contains("VERSION=\"13.1\"")
    );
    assert_eq!(
        sample.text(&tree, "usr/lib/ostree/prepare-root.conf"),
        "new"
    );
    sample.file("usr/lib/ostree/prepare-root.conf", "author's");
    assert_eq!(
        sample.text(
            &sample.apply().unwrap().tree,
            "usr/lib/ostree/prepare-root.conf"
        ),
        "author's"
    );
    sample.options.prepare_root_forced = true;
    assert_eq!(
        sample.text(
            &sample.apply().unwrap().tree,
            "usr/lib/ostree/prepare-root.conf"
        ),
        "new"
    );
}

#[test]
fn sources_of_the_build_machine_are_replaced() {
    let mut sample = Sample::debian();
    sample.file("etc/apt/sources.list", "deb x");
    sample.file("etc/apt/sources.list.d/builder.list", "deb x");
    sample.file("etc/apt/sources.list.d/shipped.sources", "x");
    sample.file("usr/share/keyrings/debian-archive-keyring.gpg", "k");
    sample.package("shipper", &["etc/apt/sources.list.d/shipped.sources"]);
    let source = |name: &str, keys: Vec<Vec<u8>>| AptSource {
        name: name.into(),
        url: "http://example.com/debian".into(),
        distribution: "debian".into(),
        suites: vec!["trixie".into()],
        components: vec!["main".into()],
        architectures: vec![],
        keys,
        trusted: false,
        check_valid_until: true,
    };
    sample.options.sources = vec![source("a", vec![]), source("b", vec![b"\x99key".to_vec()])];
    let tree = sample.apply().unwrap().tree;
    assert!(!tree.contains("etc/apt/sources.list"));
    let names: Vec<&String> = tree
        .dir("etc/apt/sources.list.d")
        .unwrap()
        .entries
        .keys()
        .collect();
    assert_eq!(names, ["a.sources", "b.sources", "shipped.sources"]);
    let a = sample.text(&tree, "etc/apt/sources.list.d/a.sources");
    assert!(
        a.contains("Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg"),
        "{a}"
    );
    let b = sample.text(&tree, "etc/apt/sources.list.d/b.sources");
    assert!(
        b.contains("Signed-By: /etc/apt/keyrings/b.gpg") && tree.contains("etc/apt/keyrings/b.gpg")
    );
}

#[test]
fn all_addresses_of_a_repository_are_in_its_file() {
    let mut sample = Sample::debian();
    let source = |url: &str, suite: &str| AptSource {
        name: "debian".into(),
        url: url.into(),
        distribution: "debian".into(),
        suites: vec![suite.into()],
        components: vec!["main".into()],
        architectures: vec![],
        keys: vec![],
        trusted: false,
        check_valid_until: true,
    };
    sample.options.sources = vec![
        source("http://example.com/debian", "trixie"),
        source("http://example.com/debian-security", "trixie-security"),
    ];
    let tree = sample.apply().unwrap().tree;
    assert_eq!(
        sample.text(&tree, "etc/apt/sources.list.d/debian.sources"),
        "Types: deb\nURIs: http://example.com/debian\nSuites: trixie\nComponents: main\n\n\
         Types: deb\nURIs: http://example.com/debian-security\nSuites: trixie-security\nComponents: main\n"
    );
}

#[test]
fn build_helpers_are_removed_unless_a_package_ships_them() {
    let mut sample = Sample::debian();
    sample.file("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n");
    assert!(
        !sample
            .finish()
            .unwrap()
            .tree
            .contains("usr/sbin/policy-rc.d")
    );
    sample.package("policy", &["usr/sbin/policy-rc.d"]);
    assert!(
        sample
            .finish()
            .unwrap()
            .tree
            .contains("usr/sbin/policy-rc.d")
    );
}

#[test]
fn ownership_comes_from_dpkg_when_packages_are_not_at_hand() {
    let mut sample = Sample::debian();
    sample.file("etc/hostname", "shipped\n");
    sample.file("var/lib/packaged/x", "x");
    sample.file(
        "var/lib/dpkg/info/aa.list",
        "/.\n/etc/hostname\n/var/lib/packaged/x\n",
    );
    assert!(sample.apply().unwrap().tree.contains("etc/hostname"));
    let warnings = sample.finish().unwrap().report.warnings;
    assert!(
        !warnings.iter().any(|w| w.contains("packaged")),
        "{warnings:?}"
    );
}
