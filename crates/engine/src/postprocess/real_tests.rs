//! Real Debian roots, made by mmdebstrap: postprocessed, written out, and used by the real dpkg,
//! apt and systemd-tmpfiles.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use apt_ostree_model::compose::LintOptions;
use apt_ostree_model::{ContentReader as _, ContentWriter as _, Dir, Meta, Node, Tree};

use super::testing::{MemoryContent, Sample, package};
use super::*;
use crate::lint::{Facts, LintReport, check};

/// A Debian root: a directory of `APT_OSTREE_TEST_ROOTS`, else made now.
fn debian_root(name: &str, suite: &str, packages: &str, scratch: &Path) -> PathBuf {
    if let Some(roots) = std::env::var_os("APT_OSTREE_TEST_ROOTS") {
        let root = Path::new(&roots).join(name);
        if root.is_dir() {
            return root;
        }
    }
    let root = scratch.join(name);
    let status = Command::new("mmdebstrap")
        .args([
            "--quiet",
            "--variant=essential",
            &format!("--include={packages}"),
            suite,
        ])
        .arg(&root)
        .env("INITRD", "No")
        .status()
        .unwrap();
    assert!(status.success(), "mmdebstrap: {status}");
    root
}

fn scan(path: &Path, content: &MemoryContent) -> Dir {
    let meta = std::fs::symlink_metadata(path).unwrap();
    let mut dir = Dir::new(meta_of(&meta));
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let meta = entry.metadata().unwrap();
        let path = entry.path();
        let node = if meta.is_dir() {
            Node::Dir(scan(&path, content))
        } else if meta.is_symlink() {
            let target = std::fs::read_link(&path).unwrap();
            let target = target.to_str().unwrap();
            Node::Symlink(content.put_symlink(target, meta.uid(), meta.gid()).unwrap())
        } else if meta.is_file() {
            let data = std::fs::read(&path).unwrap();
            Node::File(content.put_file(&meta_of(&meta), &data).unwrap())
        } else {
            continue;
        };
        dir.entries.insert(name, node);
    }
    dir
}

fn meta_of(meta: &std::fs::Metadata) -> Meta {
    Meta {
        uid: meta.uid(),
        gid: meta.gid(),
        ..Meta::root(meta.mode() & 0o7777)
    }
}

fn write_out(dir: &Dir, path: &Path, content: &MemoryContent) {
    std::fs::create_dir(path).unwrap();
    for (name, node) in &dir.entries {
        let path = path.join(name);
        match node {
            Node::Dir(dir) => write_out(dir, &path, content),
            Node::Symlink(link) => std::os::unix::fs::symlink(&link.target, &path).unwrap(),
            Node::File(file) => {
                let mut from = content.open(&file.checksum).unwrap();
                std::io::copy(&mut from, &mut std::fs::File::create(&path).unwrap()).unwrap();
                set_meta(&path, &file.meta);
            }
        }
    }
    set_meta(path, &dir.meta);
}

fn set_meta(path: &Path, meta: &Meta) {
    std::os::unix::fs::chown(path, Some(meta.uid), Some(meta.gid)).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(meta.mode)).unwrap();
}

/// One package per dpkg list, with the files as they are in the tree.
fn add_packages(sample: &mut Sample) {
    let info = "var/lib/dpkg/info";
    let names: Vec<String> = sample
        .tree
        .dir(info)
        .unwrap()
        .entries
        .keys()
        .cloned()
        .collect();
    for list in names.iter().filter_map(|name| name.strip_suffix(".list")) {
        let text = sample.text(&sample.tree, &format!("{info}/{list}.list"));
        let mut tree = Tree::default();
        for line in text.lines().filter(|l| l.len() > 1) {
            let path = ownership::merged_path(line);
            let node = match sample.tree.get(&path) {
                Some(Node::Dir(dir)) => Node::Dir(Dir::new(dir.meta.clone())),
                Some(node) => node.clone(),
                None => continue,
            };
            tree.ensure_dir(work::parent(&path), &Meta::root(0o755))
                .unwrap();
            if tree.dir(&path).is_none() {
                tree.insert(&path, node).unwrap();
            }
        }
        let name = list.split(':').next().unwrap();
        let mut package = package(name, tree);
        let script = format!("{info}/{list}.postinst");
        if sample.tree.file(&script).is_some() {
            let member = apt_ostree_model::ControlMember {
                mode: 0o755,
                data: sample.text(&sample.tree, &script).into_bytes(),
            };
            package.members.insert("postinst".to_owned(), member);
        }
        sample.packages.push(package);
    }
}

fn load(root: &Path, container: bool) -> Sample {
    let mut sample = Sample::debian();
    sample.tree.root = scan(root, &sample.content);
    sample.tree.remove("dev");
    sample.options.container = container;
    sample.options.prepare_root = Some((
        "usr/lib/ostree/prepare-root.conf".to_owned(),
        b"[composefs]\nenabled = maybe\n".to_vec(),
    ));
    add_packages(&mut sample);
    sample
}

/// Runs a program of the root in it, with /proc.
fn run(root: &Path, command: &[&str]) -> String {
    let output = inside(root, command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{errors}");
    text + &errors
}

fn inside(root: &Path, command: &[&str]) -> std::process::Output {
    Command::new("unshare")
        .args(["--mount", "--pid", "--net", "--fork"])
        .arg(format!("--mount-proc={}", root.join("proc").display()))
        .arg("chroot")
        .arg(root)
        .args(command)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap()
}

/// Postprocesses and lints; the finished tree replaces that of the sample.
fn process(sample: &mut Sample) -> (Tree, PostprocessReport, LintReport) {
    let applied = sample.apply().unwrap();
    sample.tree = applied.tree;
    let initramfs = sample
        .content
        .put_file(&Meta::root(0o644), b"initramfs")
        .unwrap();
    let container = sample.options.container;
    let initramfs = (!container).then_some(initramfs);
    let finished = finish(sample.tree.clone(), sample.input(), initramfs).unwrap();
    sample.tree = finished.tree;
    let image = image_tree(&sample.tree, &sample.content).unwrap();
    let paths = ["ostree-prepare-root", "prepare-root.conf"].map(str::to_owned);
    let facts = Facts {
        container,
        packages: &sample.packages,
        initramfs_paths: Some(&paths),
    };
    let lints = check(
        &sample.tree,
        &sample.content,
        &facts,
        &LintOptions::default(),
    )
    .unwrap();
    (image, finished.report, lints)
}

fn check_root(root: &Path, container: bool) {
    let scratch = tempfile::tempdir().unwrap();
    let mut sample = load(root, container);
    let (image, report, lints) = process(&mut sample);
    assert!(lints.failures.is_empty(), "{:#?}", lints.failures);
    assert!(lints.warnings.is_empty(), "{:#?}", lints.warnings);
    assert!(
        report
            .secrets
            .iter()
            .any(|s| s.contains("ssh_host_ed25519_key"))
    );

    let image_root = scratch.path().join("image");
    write_out(&image.root, &image_root, &sample.content);
    let before = Command::new("dpkg-query")
        .arg("--admindir")
        .arg(root.join("var/lib/dpkg"))
        .args(["-W"])
        .output()
        .unwrap();
    assert_eq!(
        run(&image_root, &["dpkg-query", "-W"]).as_bytes(),
        before.stdout
    );
    assert_eq!(run(&image_root, &["dpkg", "--audit"]), "");
    run(&image_root, &["apt-get", "check"]);
    run(&image_root, &["apt-mark", "showauto"]);
    let verify = inside(&image_root, &["dpkg", "-V"]);
    let verify = String::from_utf8_lossy(&verify.stdout).into_owned();
    let expected = [
        "/etc/default/useradd",
        "/etc/adduser.conf",
        "/boot/",
        "/var/",
    ];
    let surprises = verify
        .lines()
        .filter(|line| !expected.iter().any(|e| line.contains(e)));
    assert_eq!(surprises.collect::<Vec<_>>(), Vec::<&str>::new());

    boots_with_var(&sample, scratch.path());
}

/// What systemd-sysusers and systemd-tmpfiles do at boot, in the deployed form of the tree.
fn boots_with_var(sample: &Sample, scratch: &Path) {
    let mut deployed = sample.tree.clone();
    deployed.rename("usr/etc", "etc").unwrap();
    let root = scratch.join("deployed");
    write_out(&deployed.root, &root, &sample.content);
    std::fs::remove_file(root.join("etc/machine-id")).unwrap();
    std::fs::write(
        root.join("etc/machine-id"),
        "0123456789abcdef0123456789abcdef\n",
    )
    .unwrap();
    run(&root, &["systemd-sysusers", "--dry-run"]);
    first_boot_enables_nothing(&root);
    let output = run(&root, &["systemd-tmpfiles", "--create", "--prefix=/var"]);
    let bad = output
        .lines()
        .filter(|line| line.contains("Failed") || line.contains("apt-ostree"));
    assert_eq!(bad.collect::<Vec<_>>(), Vec::<&str>::new());
    run(&root, &["dpkg-query", "-W", "dpkg"]);
    assert_eq!(
        std::fs::read_link(root.join("var/lib/dpkg")).unwrap(),
        Path::new("../../usr/lib/sysimage/dpkg")
    );
    for (path, node) in sample.tree.walk_from("usr/share/factory/var") {
        let place = root.join(path.strip_prefix("usr/share/factory/").unwrap());
        let meta = std::fs::symlink_metadata(&place)
            .unwrap_or_else(|e| panic!("{}: {e}", place.display()));
        let is_container = path.matches('/').count() <= 4 && node.as_dir().is_some();
        if !meta.is_symlink() && !is_container {
            assert_eq!((meta.uid(), meta.gid()), node.owner(), "{path}");
        }
    }
}

/// Does what PID 1 does on a first boot, and compares the links that enable units.
fn first_boot_enables_nothing(root: &Path) {
    let list = ["find", "/etc/systemd", "-type", "l"];
    let links = || {
        let mut links: Vec<String> = run(root, &list).lines().map(str::to_owned).collect();
        links.sort();
        links
    };
    let before = links();
    run(
        root,
        &[
            "systemctl",
            "--root=/",
            "preset-all",
            "--preset-mode=enable-only",
        ],
    );
    assert_eq!(links(), before);
}

const BASE: &str = "systemd,dbus,openssh-server,sudo,apt,adduser,man-db";

#[test]
#[ignore = "makes a Debian root with mmdebstrap; run as root with --ignored"]
fn a_debian_13_container_works() {
    let scratch = tempfile::tempdir().unwrap();
    let packages = format!("{BASE},ssl-cert,locales");
    check_root(
        &debian_root("pp-root", "trixie", &packages, scratch.path()),
        true,
    );
}

#[test]
#[ignore = "makes a Debian root with mmdebstrap; run as root with --ignored"]
fn a_debian_12_container_works() {
    let scratch = tempfile::tempdir().unwrap();
    check_root(
        &debian_root("pp-bookworm", "bookworm", BASE, scratch.path()),
        true,
    );
}

#[test]
#[ignore = "makes a Debian root with mmdebstrap; run as root with --ignored"]
fn a_debian_13_server_works() {
    let scratch = tempfile::tempdir().unwrap();
    let packages = format!(
        "{BASE},systemd-sysv,ssl-cert,linux-image-cloud-amd64,dracut,ostree-boot,nginx,postgresql,ghostscript,fontconfig,bind9,munge,open-iscsi,network-manager,rsyslog,cron"
    );
    check_root(
        &debian_root("pp-server", "trixie", &packages, scratch.path()),
        false,
    );
}
