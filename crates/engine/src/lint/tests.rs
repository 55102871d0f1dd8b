//! Each lint is shown a tree that it accepts and one that it refuses.

use apt_ostree_model::{Meta, Node, Tree};

use super::*;
use crate::postprocess::image_tree;
use crate::postprocess::testing::Sample;

/// A finished bootable tree that no lint complains about.
fn good() -> Sample {
    let mut sample = Sample::bootable();
    sample.file("boot/vmlinuz-6.12-amd64", "kernel");
    sample.file("usr/lib/modules/6.12-amd64/initramfs.img", "initramfs");
    sample.file(
        "usr/lib/ostree/prepare-root.conf",
        "[composefs]\nenabled = maybe\n",
    );
    sample.file("usr/lib/systemd/system/default.target", "[Unit]\n");
    sample.file(
        "var/lib/dpkg/status",
        "Package: base\nStatus: install ok installed\n",
    );
    sample.file("var/lib/dpkg/info/base.list", "/.\n/usr\n/usr/bin\n");
    let shadow = Meta {
        gid: 42,
        ..Meta::root(0o640)
    };
    sample.file_as("etc/shadow", &shadow, b"root:*:::::::\n");
    let sudo = Meta::root(0o4755);
    sample.file_as("usr/bin/sudo", &sudo, b"sudo");
    sample.package("sudo", &["usr/bin/sudo"]);
    sample.tree = sample.finish().unwrap().tree;
    sample
}

fn facts<'a>(sample: &'a Sample, paths: Option<&'a [String]>) -> Facts<'a> {
    Facts {
        container: sample.options.container,
        packages: &sample.packages,
        initramfs_paths: paths,
    }
}

fn initramfs() -> Vec<String> {
    ["ostree-prepare-root", "prepare-root.conf"]
        .map(|n| format!("usr/lib/ostree/{n}"))
        .into()
}

fn report(sample: &Sample) -> LintReport {
    report_with(sample, &initramfs())
}

fn report_with(sample: &Sample, paths: &[String]) -> LintReport {
    let facts = facts(sample, Some(paths));
    check(
        &sample.tree,
        &sample.content,
        &facts,
        &LintOptions::default(),
    )
    .unwrap()
}

fn report_of(sample: &Sample, image: &Tree) -> LintReport {
    let input = LintInput {
        tree: &sample.tree,
        image,
        content: &sample.content,
        facts: &facts(sample, None),
    };
    run_lints(&input, &LintOptions::default()).unwrap()
}

fn names(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|f| f.name).collect()
}

/// Checks that `change` makes exactly the lint `name` complain.
#[track_caller]
fn refuses(name: &str, change: impl FnOnce(&mut Sample)) {
    let mut sample = good();
    change(&mut sample);
    let report = report(&sample);
    let class = all().find(|l| l.info.name == name).unwrap().info.class;
    let (here, there) = match class {
        LintClass::Fatal => (&report.failures, &report.warnings),
        LintClass::Warning => (&report.warnings, &report.failures),
    };
    assert_eq!(names(here), [name], "{report:#?}");
    assert!(there.is_empty(), "{there:#?}");
}

#[test]
fn a_good_tree_passes_all_lints() {
    let report = report(&good());
    assert!(
        report.failures.is_empty() && report.warnings.is_empty(),
        "{report:#?}"
    );
    assert_eq!(report.passed.len(), lint_list().len());
}

#[test]
fn base_directories_and_links_are_required() {
    refuses("api-base-directories", |s| {
        s.tree.remove("proc");
    });
    refuses("baseimage-root", |s| s.link("ostree", "/sysroot/ostree"));
    refuses("baseimage-root", |s| {
        s.tree.remove("sysroot");
    });
    refuses("layout", |s| s.link("home", "var/homes"));
    refuses("mount-links", |s| s.file("usr/etc/mtab", "x"));
    refuses("default-target", |s| {
        s.tree.remove("usr/lib/systemd/system/default.target");
    });
}

#[test]
fn etc_and_usr_etc_exclude_each_other() {
    refuses("etc-usretc", |s| s.file("etc/x", "x"));
}

#[test]
fn kernel_argument_files_must_be_valid() {
    let path = "usr/lib/bootc/kargs.d/x.toml";
    for text in ["kargs = 1\n", "[", "kargs = []\nother = 1\n"] {
        refuses("bootc-kargs", |s| s.file(path, text));
    }
    let mut sample = good();
    sample.file(
        path,
        "kargs = ['quiet']\nmatch-architectures = ['x86_64']\n",
    );
    assert!(report(&sample).failures.is_empty());
}

#[test]
fn one_kernel_with_modules_and_initramfs_is_required() {
    refuses("kernel", |s| {
        s.file("usr/lib/modules/9/vmlinuz", "k");
        s.file("usr/lib/modules/9/initramfs.img", "i");
    });
    for path in ["vmlinuz", "modules.dep", "initramfs.img"] {
        refuses("bootable", |s| {
            s.tree.remove(&format!("usr/lib/modules/6.12-amd64/{path}"));
        });
    }
    refuses("bootable", |s| s.options.container = true);
    refuses("nonempty-boot", |s| s.file("boot/x", "x"));
}

#[test]
fn the_initramfs_must_have_ostree() {
    let report = report_with(&good(), &["usr/bin/sh".to_owned()]);
    assert_eq!(names(&report.failures), ["ostree-in-initramfs"]);
    // Debian 12: there is nothing to configure.
    let module = "usr/lib/dracut/modules.d/98ostree/module-setup.sh";
    let without = ["usr/lib/ostree/ostree-prepare-root".to_owned()];
    for (text, refused) in [("inst prepare-root.conf", true), ("inst x", false)] {
        let mut sample = good();
        sample.file(module, text);
        let report = report_with(&sample, &without);
        assert_eq!(!report.failures.is_empty(), refused, "{text}");
    }
}

#[test]
fn names_are_printable() {
    refuses("utf8", |s| s.file("usr/share/a\u{1b}b", "x"));
}

#[test]
fn var_is_empty_and_its_image_form_is_covered() {
    refuses("var-empty", |s| s.dir("var/log", 0o755));
    let mut sample = good();
    let base = image_tree(&sample.tree, &sample.content).unwrap();
    for (path, lints) in [
        ("var/lib/unknown", vec!["var-tmpfiles"]),
        ("var/log/x.log", vec!["var-log", "var-tmpfiles"]),
    ] {
        sample.file("tmp/file", "x");
        let node = sample.tree.remove("tmp/file").unwrap();
        let mut image = base.clone();
        image.insert(path, node).unwrap();
        assert_eq!(names(&report_of(&sample, &image).warnings), lints);
    }
    let mut image = base;
    image.remove("var/run");
    let dir = Node::Dir(apt_ostree_model::Dir::new(Meta::root(0o755)));
    image.insert("var/run", dir).unwrap();
    assert_eq!(names(&report_of(&sample, &image).failures), ["var-run"]);
}

#[test]
fn composefs_must_be_on() {
    refuses("baseimage-composefs", |s| {
        s.file(
            "usr/lib/ostree/prepare-root.conf",
            "[composefs]\nenabled = no\n",
        );
    });
    refuses("baseimage-composefs", |s| {
        s.tree.remove("usr/lib/ostree/prepare-root.conf");
    });
}

#[test]
fn what_tools_leave_is_reported() {
    refuses("buildah-injected", |s| s.file("usr/etc/hostname", ""));
    refuses("nonempty-run-tmp", |s| s.file("run/x", "x"));
    refuses("dpkg-leftovers", |s| s.file("usr/bin/x.dpkg-new", "x"));
    refuses("dpkg-leftovers", |s| {
        s.file("usr/lib/sysimage/dpkg/updates/0001", "x");
    });
    refuses("tmpfiles-syntax", |s| {
        s.file("usr/lib/tmpfiles.d/x.conf", "d \"/var\n");
    });
}

#[test]
fn accounts_need_entries_and_owners_need_accounts() {
    refuses("sysusers", |s| {
        let text = format!("{}new:x:77:\n", crate::postprocess::testing::GROUP);
        s.file("usr/etc/group", &text);
    });
    refuses("known-owners", |s| {
        let meta = Meta {
            gid: 4711,
            ..Meta::root(0o644)
        };
        s.file_as("usr/bin/x", &meta, b"x");
    });
}

#[test]
fn private_keys_fail_the_compose_unless_a_package_ships_them() {
    const KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n";
    for path in [
        "usr/etc/app/server.key",
        "usr/share/factory/var/lib/app/key.pem",
    ] {
        refuses("secrets", |s| s.file(path, KEY));
    }
    refuses("secrets", |s| {
        s.file("usr/etc/ssh/ssh_host_dsa_key.pub", "x");
    });
    refuses("secrets", |s| {
        s.file("usr/etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    });
    let mut sample = good();
    sample.file("etc/app/server.key", KEY);
    sample.package("app", &["etc/app/server.key"]);
    sample.tree.remove("etc");
    sample.file("usr/etc/app/server.key", KEY);
    assert!(report(&sample).failures.is_empty());
    sample.file("usr/etc/app/server.key", &format!("x\n{KEY}"));
    assert_eq!(names(&report(&sample).failures), ["secrets"]);
}

#[test]
fn a_key_is_found_at_any_offset_of_a_large_file() {
    for offset in [65_500, 65_536, 65_600, 200_000] {
        let text = format!("{}\n-----BEGIN RSA PRIVATE KEY-----\n", "x".repeat(offset));
        refuses("secrets", |s| s.file("usr/etc/large", &text));
    }
}

#[test]
fn privileges_must_be_declared() {
    refuses("privileged-files", |s| {
        s.file_as("usr/bin/evil", &Meta::root(0o4755), b"x");
    });
    refuses("privileged-files", |s| {
        s.file_as("usr/bin/sudo", &Meta::root(0o6755), b"sudo");
    });
    refuses("privileged-files", |s| {
        let mut meta = Meta::root(0o755);
        let value = apt_ostree_model::tree::HexBytes(vec![1]);
        meta.xattrs.insert("security.capability".into(), value);
        s.file_as("usr/bin/ping", &meta, b"x");
    });
    let mut sample = good();
    sample.file("usr/bin/agent", "x");
    let script = apt_ostree_model::ControlMember {
        mode: 0o755,
        data: b"chmod 2755 /usr/bin/agent\n".to_vec(),
    };
    let package = sample.package("agent", &["usr/bin/agent"]);
    package.members.insert("postinst".into(), script);
    sample.file_as("usr/bin/agent", &Meta::root(0o2755), b"x");
    sample.file(
        "usr/lib/sysimage/dpkg/statoverride",
        "root root 4754 /lib/helper\n",
    );
    sample.file_as("usr/lib/helper", &Meta::root(0o4754), b"x");
    assert!(report(&sample).failures.is_empty());
}

#[test]
fn sensitive_files_have_golden_modes() {
    refuses("sensitive-modes", |s| {
        s.file("usr/etc/shadow", "root:*:::::::\n");
    });
    refuses("sensitive-modes", |s| s.file("usr/etc/gshadow", "x"));
    refuses("sensitive-modes", |s| s.file("usr/etc/sudoers", "x"));
    refuses("sensitive-modes", |s| {
        s.file_as("usr/etc/sudoers.d/x", &Meta::root(0o664), b"x");
    });
    refuses("sensitive-modes", |s| {
        let meta = Meta {
            gid: 4,
            ..Meta::root(0o640)
        };
        s.file_as("usr/etc/shadow", &meta, b"x");
    });
}

#[test]
fn the_package_database_is_complete() {
    let status = "usr/lib/sysimage/dpkg/status";
    refuses("dpkg-status", |s| {
        s.file(status, "Package: x\nStatus: install ok unpacked\n");
    });
    refuses("dpkg-status", |s| {
        s.file(
            status,
            "Package: x\nStatus: install ok installed\nTriggers-Pending: y\n",
        );
    });
    refuses("dpkg-status", |s| {
        s.tree.remove(status);
    });
}

#[test]
fn two_packages_do_not_own_a_file_unless_it_is_diverted() {
    let add = |s: &mut Sample| {
        s.file("usr/lib/x", "x");
        s.file("usr/lib/sysimage/dpkg/info/aa.list", "/.\n/usr\n/lib/x\n");
        s.file(
            "usr/lib/sysimage/dpkg/info/bb:amd64.list",
            "/.\n/usr\n/usr/lib/x\n",
        );
    };
    refuses("file-owners", add);
    let mut sample = good();
    add(&mut sample);
    sample.file(
        "usr/lib/sysimage/dpkg/diversions",
        "/usr/lib/x\n/usr/lib/x.old\naa\n",
    );
    assert!(report(&sample).failures.is_empty());
}

#[test]
fn dangling_links_and_open_modes_warn() {
    refuses("dangling-links", |s| {
        s.link("usr/lib/x", "/usr/lib/missing");
    });
    refuses("dangling-links", |s| {
        s.link("usr/lib/x", "/var/lib/dpkg/missing");
    });
    refuses("world-writable", |s| {
        s.file_as("usr/lib/x", &Meta::root(0o666), b"x");
    });
    let mut sample = good();
    sample.link("usr/lib/x", "/run/somewhere");
    sample.link("usr/lib/y", "../../var/lib/dpkg/status");
    assert!(report(&sample).warnings.is_empty());
}

#[test]
fn lints_are_skipped_by_name_and_unknown_names_are_refused() {
    let mut sample = good();
    sample.file("usr/bin/x.dpkg-new", "x");
    let facts = facts(&sample, None);
    let run = |no_lint: bool, skip: &[&str]| {
        let skip = skip.iter().map(|s| (*s).to_owned()).collect();
        check(
            &sample.tree,
            &sample.content,
            &facts,
            &LintOptions { no_lint, skip },
        )
    };
    assert!(
        run(false, &["dpkg-leftovers"])
            .unwrap()
            .into_result()
            .is_ok()
    );
    assert!(run(true, &[]).unwrap().into_result().is_ok());
    let error = run(false, &[]).unwrap().into_result().unwrap_err();
    let kinded = error
        .chain()
        .find_map(|e| e.downcast_ref::<Kinded>())
        .unwrap();
    assert_eq!(kinded.kind, ErrorKind::Lint);
    assert!(kinded.message.contains("'/usr/bin/x.dpkg-new'"), "{kinded}");
    let error = run(false, &["dpkg-leftover"]).unwrap_err();
    let kinded = error
        .chain()
        .find_map(|e| e.downcast_ref::<Kinded>())
        .unwrap();
    assert_eq!(
        kinded.hint.as_deref(),
        Some("did you mean 'dpkg-leftovers'?")
    );
}

#[test]
fn lint_names_are_unique_and_all_of_bootc_are_there() {
    let list = lint_list();
    let unique: std::collections::BTreeSet<_> = list.iter().map(|l| l.name).collect();
    assert_eq!(unique.len(), list.len());
    assert_eq!(list.iter().filter(|l| l.bootc).count(), 14);
}
