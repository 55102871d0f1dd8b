//! One test per rule, on small made-up trees.

use apt_ostree_model::{ErrorKind, Meta, Node};
use apt_ostree_treefile::spec::OptUsrLocal;

use super::testing::{Sample, kinded, target};
use super::*;

fn owned_by(uid: u32, gid: u32, mode: u32) -> Meta {
    Meta {
        mode,
        uid,
        gid,
        ..Meta::root(mode)
    }
}

#[test]
fn toplevel_directories_become_links_and_etc_moves() {
    let mut sample = Sample::debian();
    sample.file("run/lock/x", "x");
    sample.file("tmp/y", "y");
    let tree = sample.finish().unwrap().tree;
    for (path, to) in [
        ("home", "var/home"),
        ("root", "var/roothome"),
        ("srv", "var/srv"),
        ("mnt", "var/mnt"),
        ("opt", "var/opt"),
        ("media", "run/media"),
        ("usr/local", "../var/usrlocal"),
        ("ostree", "sysroot/ostree"),
    ] {
        assert_eq!(target(&tree, path), to);
    }
    assert!(!tree.contains("etc") && tree.file("usr/etc/passwd").is_some());
    for dir in ["boot", "dev", "proc", "run", "sys", "sysroot", "tmp", "var"] {
        assert!(tree.dir(dir).unwrap().entries.is_empty(), "{dir}");
    }
    assert_eq!(tree.dir("tmp").unwrap().meta.mode, 0o1777);
    let lines = sample.tmpfiles(&tree);
    for line in [
        "L /home - - - - var/home",
        "d /var/home 0755 root root - -",
        "d /var/roothome 0700 root root - -",
        "d /run/media 0755 root root - -",
        "d /var/usrlocal 0755 root root - -",
    ] {
        assert!(lines.iter().any(|l| l == line), "{line} not in {lines:#?}");
    }
}

#[test]
fn a_tree_without_merged_usr_is_refused() {
    let mut sample = Sample::debian();
    sample.tree.remove("lib");
    sample.dir("lib", 0o755);
    let error = sample.finish().unwrap_err();
    assert_eq!(kinded(&error).kind, ErrorKind::InvalidInput);
    assert!(kinded(&error).message.contains("'/lib'"), "{error:#}");
}

#[test]
fn packaged_opt_content_stays_in_the_image_behind_a_link() {
    let mut sample = Sample::debian();
    sample.file("opt/vendor/app/bin", "x");
    let tree = sample.finish().unwrap().tree;
    assert!(tree.file("usr/lib/opt/vendor/app/bin").is_some());
    let lines = sample.tmpfiles(&tree);
    let line = "L /var/opt/vendor - - - - ../../usr/lib/opt/vendor";
    assert!(lines.iter().any(|l| l == line), "{lines:#?}");
    let image = image_tree(&tree, &sample.content).unwrap();
    assert_eq!(
        image.resolve("opt/vendor/app/bin").as_deref(),
        Some("usr/lib/opt/vendor/app/bin")
    );
}

#[test]
fn opt_stays_a_directory_when_the_treefile_says_root() {
    let mut sample = Sample::debian();
    sample.file("opt/vendor/bin", "x");
    sample.options.opt_usrlocal = OptUsrLocal::Root;
    let tree = sample.finish().unwrap().tree;
    assert!(tree.file("opt/vendor/bin").is_some());
    assert!(tree.dir("usr/local").is_some());
}

#[test]
fn state_overlays_need_their_unit_and_are_enabled() {
    let mut sample = Sample::debian();
    sample.options.opt_usrlocal = OptUsrLocal::StateOverlay;
    assert_eq!(
        kinded(&sample.finish().unwrap_err()).kind,
        ErrorKind::InvalidInput
    );
    sample.file(
        "usr/lib/systemd/system/ostree-state-overlay@.service",
        "[Unit]\n",
    );
    let tree = sample.finish().unwrap().tree;
    let link = "usr/lib/systemd/system/local-fs.target.requires/ostree-state-overlay@opt.service";
    assert_eq!(target(&tree, link), "../ostree-state-overlay@.service");
}

#[test]
fn the_kernel_moves_and_boot_is_emptied() {
    let mut sample = Sample::bootable();
    sample.file("boot/config-6.12-amd64", "c");
    sample.file("boot/initrd.img-6.12-amd64", "i");
    sample.link("vmlinuz", "boot/vmlinuz-6.12-amd64");
    let initramfs = apt_ostree_model::ContentWriter::put_file(
        &sample.content,
        &Meta::root(0o600),
        b"initramfs",
    )
    .unwrap();
    let tree = finish(sample.tree.clone(), sample.input(), Some(initramfs))
        .unwrap()
        .tree;
    let dir = tree.dir("usr/lib/modules/6.12-amd64").unwrap();
    let names: Vec<&str> = dir.entries.keys().map(String::as_str).collect();
    assert_eq!(names, ["config", "initramfs.img", "modules.dep", "vmlinuz"]);
    assert!(tree.dir("boot").unwrap().entries.is_empty() && !tree.contains("vmlinuz"));
}

#[test]
fn a_kernel_already_beside_its_modules_stays() {
    let mut sample = Sample::bootable();
    sample.tree.remove("boot/vmlinuz-6.12-amd64");
    sample.file("usr/lib/modules/6.12-amd64/vmlinuz", "kernel");
    let kernel = find_kernel(&sample.tree).unwrap().unwrap();
    assert_eq!(kernel.path, "usr/lib/modules/6.12-amd64/vmlinuz");
    assert!(sample.finish().unwrap().tree.file(&kernel.path).is_some());
}

#[test]
fn a_tree_without_a_kernel_is_for_containers_and_says_so() {
    let mut sample = Sample::bootable();
    sample.tree.remove("boot/vmlinuz-6.12-amd64");
    let warnings = sample.finish().unwrap().report.warnings;
    assert!(
        warnings.iter().any(|text| text.contains("no kernel")),
        "{warnings:?}"
    );
}

#[test]
fn two_kernels_a_kernel_in_a_container_and_one_without_modules_are_refused() {
    let mut two = Sample::bootable();
    two.file("boot/vmlinuz-6.13-amd64", "k");
    let mut container = Sample::bootable();
    container.options.container = true;
    let mut no_modules = Sample::bootable();
    no_modules.tree.remove("usr/lib/modules");
    for sample in [two, container, no_modules] {
        assert_eq!(
            kinded(&sample.finish().unwrap_err()).kind,
            ErrorKind::InvalidInput
        );
    }
}

#[test]
fn the_package_database_moves_without_locks_and_backups() {
    let mut sample = Sample::debian();
    for name in [
        "status-old",
        "lock",
        "lock-frontend",
        "diversions-old",
        "triggers/Lock",
        "available",
    ] {
        sample.file(&format!("var/lib/dpkg/{name}"), "x");
    }
    sample.file(
        "var/lib/dpkg/status",
        "Package: b\nStatus: x\n\nPackage: a\n\n",
    );
    sample.file("var/lib/dpkg/alternatives/awk", "x");
    sample.file("var/lib/apt/extended_states", "x");
    sample.file("var/cache/debconf/passwords.dat", "secret");
    sample.file("var/cache/debconf/config.dat", "x");
    sample.file("var/lib/ucf/hashfile", "x");
    sample.file("var/lib/ucf/hashfile.0", "x");
    sample.dir("etc/apt", 0o755);
    let tree = sample.finish().unwrap().tree;
    let names =
        |dir: &str| -> Vec<String> { tree.dir(dir).unwrap().entries.keys().cloned().collect() };
    assert_eq!(
        names("usr/lib/sysimage/dpkg"),
        ["alternatives", "status", "triggers"]
    );
    assert_eq!(names("usr/lib/sysimage/debconf"), ["config.dat"]);
    assert_eq!(names("usr/lib/sysimage/ucf"), ["hashfile"]);
    assert!(
        sample
            .text(&tree, "usr/lib/sysimage/dpkg/status")
            .starts_with("Package: a\n")
    );
    let lines = sample.tmpfiles(&tree);
    for line in [
        "L+ /var/lib/dpkg - - - - ../../usr/lib/sysimage/dpkg",
        "L+ /var/lib/apt/extended_states - - - - ../../../usr/lib/sysimage/apt/extended_states",
        "L+ /var/cache/debconf - - - - ../../usr/lib/sysimage/debconf",
    ] {
        assert!(lines.iter().any(|l| l == line), "{line} not in {lines:#?}");
    }
    let image = image_tree(&tree, &sample.content).unwrap();
    assert_eq!(
        image.resolve("var/lib/dpkg/status").as_deref(),
        Some("usr/lib/sysimage/dpkg/status")
    );
    assert!(image.resolve("var/lib/apt/extended_states").is_some());
}

#[test]
fn var_directories_links_and_empty_files_become_lines_with_owner_names() {
    let mut sample = Sample::debian();
    sample.dir("var/cache/man", 0o2755);
    sample.tree.dir_mut("var/cache/man").unwrap().meta = owned_by(6, 12, 0o2755);
    sample.file("var/cache/man/de/index.db", "db");
    sample.file_as("var/log/btmp", &owned_by(0, 4, 0o660), b"");
    sample.file("var/log/dpkg.log", "log");
    sample.link("var/spool/mail", "../mail");
    sample.dir("var/lib/with space%", 0o700);
    let output = sample.finish().unwrap();
    let lines = sample.tmpfiles(&output.tree);
    for line in [
        "d /var/cache/man 2755 man man - -",
        "f /var/log/btmp 0660 root adm - -",
        "L /var/spool/mail - - - - ../mail",
        "d /var/lib/with\\x20space%% 0700 root root - -",
    ] {
        assert!(lines.iter().any(|l| l == line), "{line} not in {lines:#?}");
    }
    assert!(
        !lines
            .iter()
            .any(|l| l.contains("/man/de") || l.contains("dpkg.log"))
    );
    assert!(
        output
            .report
            .dropped
            .contains(&"/var/log/dpkg.log".to_owned())
    );
    let image = image_tree(&output.tree, &sample.content).unwrap();
    let man = image.dir("var/cache/man").unwrap();
    assert_eq!((man.meta.uid, man.meta.gid, man.meta.mode), (6, 12, 0o2755));
    assert!(
        image
            .walk_from("var")
            .all(|(_, node)| node.as_file().is_none())
    );
}

#[test]
fn lines_that_packages_ship_are_not_repeated() {
    let mut sample = Sample::debian();
    sample.file(
        "usr/lib/tmpfiles.d/pkg.conf",
        "d /var/lib/foo 0700 root root -\n",
    );
    sample.dir("var/lib/foo", 0o755);
    sample.dir("var/lib/bar", 0o755);
    let tree = sample.finish().unwrap().tree;
    let lines = sample.tmpfiles(&tree);
    assert!(
        !lines.iter().any(|l| l.contains("/var/lib/foo")),
        "{lines:#?}"
    );
    assert!(lines.iter().any(|l| l.contains("/var/lib/bar")));
    let image = image_tree(&tree, &sample.content).unwrap();
    assert_eq!(image.dir("var/lib/foo").unwrap().meta.mode, 0o700);
}

#[test]
fn var_content_becomes_a_factory_copy_as_a_whole() {
    let mut sample = Sample::debian();
    sample.file("var/lib/foo/a/data", "x");
    sample.file("var/lib/foo/empty", "");
    sample.file("var/lib/packaged/x", "x");
    sample.file("root/.bashrc", "x");
    sample.package("packaged", &["var/lib/packaged/x"]);
    let output = sample.finish().unwrap();
    let tree = &output.tree;
    assert!(tree.file("usr/share/factory/var/lib/foo/a/data").is_some());
    assert!(tree.file("usr/share/factory/var/lib/foo/empty").is_some());
    assert_eq!(
        tree.dir("usr/share/factory/var/roothome")
            .unwrap()
            .meta
            .mode,
        0o700
    );
    let lines = sample.tmpfiles(tree);
    assert!(lines.contains(&"C /var/lib/foo - - - - /usr/share/factory/var/lib/foo".to_owned()));
    assert!(lines.contains(&"C /var/roothome - - - - /usr/share/factory/var/roothome".to_owned()));
    let warned = |text: &str| output.report.warnings.iter().any(|w| w.contains(text));
    assert!(warned("/var/lib/foo"), "unknown content is reported");
    assert!(!warned("/var/lib/packaged") && !warned("roothome"));
    assert!(tree.dir("var").unwrap().entries.is_empty());
}

#[test]
fn data_made_by_a_service_is_reported() {
    let mut sample = Sample::debian();
    sample.file("var/lib/postgresql/17/main/PG_VERSION", "17");
    let output = sample.finish().unwrap();
    assert!(
        output
            .report
            .warnings
            .iter()
            .any(|w| w.contains("service made"))
    );
    assert_eq!(output.report.factory, ["/var/lib/postgresql"]);
}

#[test]
fn every_account_gets_its_fixed_id_unless_a_package_fixes_it() {
    let mut sample = Sample::debian();
    sample.file(
        "usr/lib/sysusers.d/basic.conf",
        "g root 0\nu root 0 - /root /bin/bash\nu man 6:12 - /x\ng man 12\nu _apt - -\n",
    );
    let tree = sample.finish().unwrap().tree;
    let text = sample.text(&tree, "usr/lib/sysusers.d/00-apt-ostree.conf");
    assert_eq!(
        text.lines().skip(1).collect::<Vec<_>>(),
        [
            "g adm 4",
            "g shadow 42",
            "g nogroup 65534",
            "u _apt 42:65534 - /nonexistent /usr/sbin/nologin",
            "m _apt adm",
        ]
    );
}

#[test]
fn shadow_is_locked_and_forgets_the_build_day() {
    let mut sample = Sample::debian();
    let shadow = owned_by(0, 42, 0o640);
    sample.file_as(
        "etc/shadow",
        &shadow,
        b"root::20778:0:99999:7:::\nman:*:20778:0:99999:7:::\nx:$y$hash:1:0:::::\n",
    );
    sample.file("etc/shadow-", "x");
    sample.file("etc/.pwd.lock", "");
    let output = sample.finish().unwrap();
    let text = sample.text(&output.tree, "usr/etc/shadow");
    assert_eq!(
        text,
        "root:*::0:99999:7:::\nman:*::0:99999:7:::\nx:$y$hash::0:::::\n"
    );
    assert_eq!(output.tree.file("usr/etc/shadow").unwrap().meta, shadow);
    assert!(!output.tree.contains("usr/etc/shadow-") && !output.tree.contains("usr/etc/.pwd.lock"));
    assert!(
        output
            .report
            .warnings
            .iter()
            .any(|w| w.contains("user 'x' has a password"))
    );
}

#[test]
fn ids_are_read_from_etc_and_from_usr_etc() {
    let sample = Sample::debian();
    let before = id_lock(&sample.tree, &sample.content).unwrap();
    let after = id_lock(&sample.finish().unwrap().tree, &sample.content).unwrap();
    assert_eq!(before, after);
    assert_eq!(after.users["man"].gid, 12);
    assert_eq!(after.groups["adm"], 4);
}

#[test]
fn secrets_go_and_first_boot_makes_new_ones() {
    let mut sample = Sample::debian();
    for path in [
        "etc/ssh/ssh_host_rsa_key",
        "etc/ssh/ssh_host_rsa_key.pub",
        "etc/ssl/private/ssl-cert-snakeoil.key",
        "etc/ssl/certs/ssl-cert-snakeoil.pem",
        "etc/bind/rndc.key",
        "root/.ssh/id_rsa",
        "var/lib/rabbitmq/.erlang.cookie",
        "usr/sbin/sshd",
        "usr/sbin/make-ssl-cert",
    ] {
        sample.file(path, "x");
    }
    sample.link("etc/ssl/certs/1234abcd.0", "ssl-cert-snakeoil.pem");
    sample.link("etc/ssl/certs/other.0", "other.pem");
    sample.file("etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.x\n");
    sample.dir("usr/lib/systemd/system", 0o755);
    let output = sample.finish().unwrap();
    let tree = &output.tree;
    assert_eq!(
        output.report.secrets.len(),
        9,
        "{:?}",
        output.report.secrets
    );
    assert!(tree.dir("usr/etc/ssh").unwrap().entries.is_empty());
    let certs: Vec<&String> = tree
        .dir("usr/etc/ssl/certs")
        .unwrap()
        .entries
        .keys()
        .collect();
    assert_eq!(certs, ["other.0"]);
    assert_eq!(
        sample.text(tree, "usr/etc/iscsi/initiatorname.iscsi"),
        "GenerateName=yes\n"
    );
    for unit in [
        "ssh.service.wants/apt-ostree-ssh-host-keys",
        "sysinit.target.wants/apt-ostree-snakeoil",
    ] {
        let link = format!("usr/lib/systemd/system/{unit}.service");
        assert!(tree.resolve(&link).is_some(), "{link}");
    }
}

#[test]
fn database_passwords_are_blanked_in_all_copies() {
    let mut sample = Sample::debian();
    sample.file(
        "etc/dbconfig-common/app.conf",
        "dbc_dbuser='app'\ndbc_dbpass='s3cr3tpw'\n",
    );
    sample.file("etc/app/db.php", "$dbpass='s3cr3tpw';\n");
    let tree = sample.finish().unwrap().tree;
    assert!(
        !sample
            .text(&tree, "usr/etc/dbconfig-common/app.conf")
            .contains("s3cr3t")
    );
    assert_eq!(sample.text(&tree, "usr/etc/app/db.php"), "$dbpass='';\n");
}

#[test]
fn the_first_boot_enables_nothing_that_the_compose_left_disabled() {
    let mut sample = Sample::debian();
    let dir = "usr/lib/systemd/system";
    for unit in ["on.service", "off.service", "t@.service"] {
        sample.file(
            &format!("{dir}/{unit}"),
            "[Install]\nWantedBy=multi-user.target\n",
        );
    }
    sample.file(&format!("{dir}/static.service"), "[Unit]\n");
    sample.link(&format!("{dir}/alias.service"), "static.service");
    sample.link(&format!("{dir}/masked.service"), "/dev/null");
    sample.file("usr/lib/dracut/linked.service", "[Unit]\n");
    sample.link(
        &format!("{dir}/linked.service"),
        "../../dracut/linked.service",
    );
    sample.link(
        "etc/systemd/system/multi-user.target.wants/on.service",
        "/usr/lib/systemd/system/on.service",
    );
    sample.link(
        "etc/systemd/system/multi-user.target.wants/t@x.service",
        "/usr/lib/systemd/system/t@.service",
    );
    let tree = sample.finish().unwrap().tree;
    let text = sample.text(&tree, "usr/lib/systemd/system-preset/80-apt-ostree.preset");
    assert_eq!(
        text.lines().skip(1).collect::<Vec<_>>(),
        ["disable linked.service", "disable off.service"]
    );
}

#[test]
fn the_first_boot_waits_for_no_answers() {
    let mut sample = Sample::debian();
    let drop_in = "usr/lib/systemd/system/systemd-firstboot.service.d/50-apt-ostree.conf";
    assert!(!sample.finish().unwrap().tree.contains(drop_in));
    sample.file(
        "usr/lib/systemd/system/systemd-firstboot.service",
        "[Service]\nExecStart=systemd-firstboot --prompt-locale\nStandardInput=tty\n",
    );
    let tree = sample.finish().unwrap().tree;
    let text = sample.text(&tree, drop_in);
    assert!(
        text.contains("ExecStart=\nExecStart=systemd-firstboot\n")
            && text.contains("StandardInput=null")
    );
}

#[test]
fn the_journal_of_the_first_boot_is_kept_where_journals_are_kept() {
    let mut sample = Sample::debian();
    let drop_in = "usr/lib/systemd/system/systemd-journal-flush.service.d/50-apt-ostree.conf";
    sample.file(
        "usr/lib/systemd/system/systemd-journal-flush.service",
        "[Service]\n",
    );
    assert!(!sample.finish().unwrap().tree.contains(drop_in));
    sample.dir("var/log/journal", 0o2755);
    let tree = sample.finish().unwrap().tree;
    assert!(
        sample
            .text(&tree, drop_in)
            .contains("--prefix=/var/log/journal\n")
    );
}

#[test]
fn finishing_gives_the_same_tree_every_time() {
    let mut sample = Sample::bootable();
    sample.file("var/lib/foo/x", "x");
    sample.file("root/.profile", "x");
    assert_eq!(sample.finish().unwrap().tree, sample.finish().unwrap().tree);
}

#[test]
fn homes_are_made_where_they_really_are() {
    let mut sample = Sample::debian();
    sample.file("etc/default/useradd", "SHELL=/bin/sh\n# HOME=/home\n");
    sample.file("etc/adduser.conf", "#DHOME=/home\n");
    let tree = sample.finish().unwrap().tree;
    assert!(
        sample
            .text(&tree, "usr/etc/default/useradd")
            .contains("\nHOME=/var/home\n")
    );
    assert!(
        sample
            .text(&tree, "usr/etc/adduser.conf")
            .contains("\nDHOME=/var/home\n")
    );
}

#[test]
fn tmp_is_a_link_when_the_treefile_says_so() {
    let mut sample = Sample::debian();
    sample.options.tmp_is_dir = false;
    let tree = sample.finish().unwrap().tree;
    assert!(matches!(tree.get("tmp"), Some(Node::Symlink(l)) if l.target == "sysroot/tmp"));
}
