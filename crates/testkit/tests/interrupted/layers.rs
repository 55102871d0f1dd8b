//! Packages on a small real base: installed, removed, replaced, and killed meanwhile; and what
//! stays behind of them.

use std::collections::BTreeSet;
use std::process::Command;

use apt_ostree_model::client::{
    BaseChange, CleanupRequest, LocalPackage, RollbackRequest, Target, UpdateRequest,
};
use apt_ostree_model::compose::Request;
use apt_ostree_testkit::image::Image;
use apt_ostree_testkit::packages::Deb;
use apt_ostree_testkit::sysroot::Sysroot;
use apt_ostree_testkit::{Project, privileged, success};
use camino::{Utf8Path, Utf8PathBuf};

use crate::cases::{Case, World};
use crate::kills::{End, end_at, find, points_per_case, say};
use crate::points;
use crate::session::{EDITED, Place, Prepared, Session};

/// The least that packages can be layered on, without sources: local packages need none.
const BASE: &str = "ref: test/interrupted
container: true
repos:
  - name: debian
packages:
  include:
    - bash
    - coreutils
    - dpkg
    - grep
    - sed
    - ed
";

/// A repository with a base that has a kernel, and packages.
struct Packages {
    project: Project,
    base: String,
}

impl Packages {
    fn new() -> Self {
        let project = Project::new(BASE).unwrap();
        project.tree(&[]).unwrap();
        let modules = "boot/usr/lib/modules/6.1.0";
        let kernel = project.write(&format!("{modules}/vmlinuz"), "kernel");
        let image = kernel.unwrap().with_file_name("initramfs.img");
        let script = format!("true | cpio --quiet -o -H newc | zstd -q -o {image}");
        success(Command::new("sh").args(["-c", &script])).unwrap();
        let repo = format!("--repo={}", project.path().join("output/repo"));
        let boot = format!("--tree=dir={}", project.path().join("boot"));
        success(Command::new("ostree").args([
            "commit",
            &repo,
            "--branch=test/base",
            "--owner-uid=0",
            "--owner-gid=0",
            "--timestamp=@1700000000",
            "--tree=ref=test/interrupted",
            &boot,
        ]))
        .unwrap();
        let base = project.commit("test/base").unwrap();
        Self { project, base }
    }

    fn deb(&self, name: &str, version: &str) -> Utf8PathBuf {
        let script = "#!/bin/sh\nset -e\ntouch /etc/made-by-$DPKG_MAINTSCRIPT_PACKAGE\n";
        let deb = Deb {
            scripts: &[("postinst", script)],
            ..Deb::new(name, version)
        };
        let path = deb.build(&self.project, "debs").unwrap();
        self.project.path().join(path)
    }

    /// A disk with the base deployed.
    fn deployed(&self) -> Prepared {
        let mut disk = Image::new(700).unwrap().mount().unwrap();
        let path = disk.path().join("root");
        std::fs::create_dir(&path).unwrap();
        let sysroot = Sysroot::create(&path).unwrap();
        let repo = self.project.path().join("output/repo");
        sysroot.deploy(&repo, "test/base", &["quiet"]).unwrap();
        let entry = sysroot.default_entry().unwrap();
        let etc = sysroot.deployment(&entry).unwrap().join("etc");
        std::fs::write(etc.join("edited"), EDITED).unwrap();
        // Packages are files here, so that nothing is asked of a mirror.
        for name in ["sources.list", "sources.list.d"] {
            let path = etc.join("apt").join(name);
            if path.exists() {
                success(Command::new("rm").args(["-r", path.as_str()])).unwrap();
            }
        }
        let image = disk.unmount().unwrap();
        Prepared {
            image,
            staged: Vec::new(),
        }
    }
}

fn update(target: Target, edit: impl FnOnce(&mut UpdateRequest)) -> Request {
    let mut request = UpdateRequest {
        target,
        idempotent: true,
        ..UpdateRequest::default()
    };
    edit(&mut request);
    Request::Update(Box::new(request))
}

fn local(path: &Utf8Path) -> Vec<LocalPackage> {
    vec![LocalPackage {
        path: path.into(),
        sha256: None,
    }]
}

fn install(target: Target, path: &Utf8Path) -> Request {
    update(target, |r| r.install_local = local(path))
}

fn uninstall(target: Target, name: &str) -> Request {
    update(target, |r| r.uninstall = vec![name.to_owned()])
}

fn done(session: &Session, request: &Request) -> String {
    let result = session.ask(request);
    assert!(result.is_ok(), "{result:?}");
    session.status().deployments[0].checksum.clone()
}

/// Refs of packages and trees, and files of the package cache.
fn kept(session: &Session) -> (BTreeSet<String>, BTreeSet<String>) {
    let repo = session.sysroot.path().join("ostree/repo");
    let files = |dir: &str| -> BTreeSet<String> {
        let find = success(Command::new("find").args([repo.join(dir).as_str(), "-type", "f"]));
        let text = String::from_utf8(find.unwrap().stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    };
    (files("refs/heads/aptostree"), files("extensions/aptostree"))
}

/// Makes all packages look as if they had been used a month ago.
fn age(session: &Session) {
    let (refs, files) = kept(session);
    for path in refs.iter().chain(&files) {
        let old = ["-d", "30 days ago", path.as_str()];
        success(Command::new("touch").args(old)).unwrap();
    }
}

#[test]
fn installing_again_and_again_keeps_no_more() {
    if !privileged("installing_again_and_again_keeps_no_more") {
        return;
    }
    let packages = Packages::new();
    let session = Session::start(&packages.deployed(), Place::Disk, packages.project.path());
    let mut sizes = Vec::new();
    for round in 0..4 {
        let name = format!("guest{round}");
        let deb = packages.deb(&name, "1");
        done(&session, &install(session.target(), &deb));
        let (refs, _) = kept(&session);
        assert!(refs.iter().any(|r| r.contains(&name)), "{refs:?}");
        age(&session);
        done(&session, &uninstall(session.target(), &name));
        // What is rolled back to needs its packages.
        let (refs, _) = kept(&session);
        assert!(refs.iter().any(|r| r.contains(&name)), "{refs:?}");
        age(&session);
        let (refs, files) = kept(&session);
        // Files that came from elsewhere stay for a week, and their age can't be changed.
        let debs = files.iter().filter(|f| f.contains("/debs/")).count();
        sizes.push((refs.len(), session.files().len() - debs));
    }
    assert_eq!(sizes[3], sizes[1], "{sizes:?}");
    let cleanup = CleanupRequest {
        target: session.target(),
        base: true,
        pending: true,
        rollback: true,
        repomd: true,
    };
    done(&session, &Request::Cleanup(cleanup));
    let (refs, files) = kept(&session);
    assert_eq!(refs, BTreeSet::new());
    assert!(!files.iter().any(|f| f.ends_with(".deb")), "{files:?}");
    crate::session::fsck(&session.sysroot, "after cleaning up");
}

#[test]
fn layers_that_are_rolled_back_to_have_their_base() {
    if !privileged("layers_that_are_rolled_back_to_have_their_base") {
        return;
    }
    let packages = Packages::new();
    let session = Session::start(&packages.deployed(), Place::Disk, packages.project.path());
    let deb = packages.deb("guest", "1");
    let layered = done(&session, &install(session.target(), &deb));
    // The branch moves on, and nothing but the layers leads to its old commit.
    let extra = packages.project.write("extra/usr/share/extra", "2");
    let extra = extra.unwrap().ancestors().nth(3).unwrap().to_owned();
    success(Command::new("ostree").args([
        "commit",
        &format!("--repo={}", session.sysroot.path().join("ostree/repo")),
        "--branch=test/base",
        "--owner-uid=0",
        "--owner-gid=0",
        "--timestamp=@1800000000",
        "--tree=ref=test/base",
        &format!("--tree=dir={extra}"),
    ]))
    .unwrap();
    let upgrade = update(session.target(), |r| r.base = BaseChange::Upgrade);
    assert_ne!(done(&session, &upgrade), layered);
    let rollback = RollbackRequest {
        target: session.target(),
        ..RollbackRequest::default()
    };
    assert_eq!(done(&session, &Request::Rollback(rollback)), layered);
    let plain = done(&session, &uninstall(session.target(), "guest"));
    assert_eq!(plain, packages.base);
    crate::session::fsck(&session.sysroot, "rolled back");
}

#[test]
fn killed_layering_loses_nothing() {
    if !privileged("killed_layering_loses_nothing") {
        return;
    }
    let kills = end_layering(End::Kill, points_per_case(2, 24));
    assert!(kills >= 5, "{kills}");
}

#[test]
fn power_cuts_while_layering_lose_nothing() {
    if !privileged("power_cuts_while_layering_lose_nothing") {
        return;
    }
    let cuts = end_layering(End::PowerCut, points_per_case(1, 16));
    assert!(cuts >= 3, "{cuts}");
}

fn end_layering(end: End, most: usize) -> usize {
    let packages = Packages::new();
    let mut world = World::new();
    let mut ends = 0;
    for case in cases(&packages, &mut world) {
        let session = Session::start(&case.prepared, case.place, &world.dir());
        let found = find(&case, &session);
        drop(session);
        let chosen = points::choose(&found, most);
        let reached = chosen
            .iter()
            .filter_map(|point| end_at(&world, &case, point, end));
        let here = reached.count();
        say(&format!(
            "{end:?} {}: {here} of {} points",
            case.name,
            found.len()
        ));
        ends += here;
    }
    say(&format!("{ends} times {end:?} while layering"));
    ends
}

fn cases(packages: &Packages, world: &mut World) -> Vec<Case> {
    let guest = packages.deb("guest", "1");
    let editor = packages.deb("ed", "99");
    let fresh = packages.deployed();
    let mut result = |request: &dyn Fn(Target) -> Request| {
        let session = Session::start(&fresh, Place::Disk, packages.project.path());
        world.learn(&session);
        let commit = done(&session, &request(session.target()));
        world.learn(&session);
        (commit, session.keep())
    };
    let plain = |target: Target, path: Utf8PathBuf| install(target, &path);
    let (installed, with_guest) = result(&|target| plain(target, guest.clone()));
    let replace = |path: Utf8PathBuf| {
        move |target| update(target, |r| r.override_replace_local = local(&path))
    };
    let (replaced, _) = result(&replace(editor.clone()));
    let removal = |target| update(target, |r| r.override_remove = vec!["ed".to_owned()]);
    let (removed, _) = result(&removal);
    let case = |name, prepared, request, after: &String| Case {
        name,
        place: Place::Disk,
        prepared,
        shutdown: false,
        request,
        allowed: vec![packages.base.clone(), after.clone(), installed.clone()],
        after: Some(after.clone()),
    };
    let copy = || Prepared {
        image: fresh.image.duplicate().unwrap(),
        staged: Vec::new(),
    };
    let path = guest.clone();
    vec![
        case(
            "install",
            copy(),
            Box::new(move |target| install(target, &path)),
            &installed,
        ),
        case(
            "uninstall",
            with_guest,
            Box::new(|target| uninstall(target, "guest")),
            &packages.base,
        ),
        case(
            "override replace",
            copy(),
            Box::new(replace(editor)),
            &replaced,
        ),
        case("override remove", copy(), Box::new(removal), &removed),
    ]
}
