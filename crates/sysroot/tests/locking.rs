//! Opening and locking real systems.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use apt_ostree_model::{ErrorKind, Kinded};
use apt_ostree_sysroot::{LockedSysroot, Sysroot};
use apt_ostree_testkit::privileged;
use apt_ostree_testkit::sysroot::{STATEROOT, Sysroot as Disk};
use apt_ostree_testkit::tinytree::{TinyCommit, TinyRepo};
use camino::Utf8Path;

fn disk() -> Disk {
    let repo = TinyRepo::new().unwrap();
    let commit = TinyCommit {
        branch: "tiny",
        version: "1",
        timestamp: 1000,
        package: "1",
    };
    repo.commit(&commit).unwrap();
    let disk = Disk::new().unwrap();
    disk.deploy(&repo.path(), "tiny", &["quiet"]).unwrap();
    disk
}

fn kinded(error: &anyhow::Error) -> &Kinded {
    error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Kinded>())
        .unwrap()
}

#[test]
fn one_writer_at_a_time_and_any_number_of_readers() {
    if !privileged("one_writer_at_a_time_and_any_number_of_readers") {
        return;
    }
    let disk = disk();
    let held = LockedSysroot::open(Some(disk.path())).unwrap();
    let error = LockedSysroot::open(Some(disk.path())).unwrap_err();
    assert_eq!(kinded(&error).kind, ErrorKind::Busy);
    let owner = format!("by process {} (", std::process::id());
    assert!(kinded(&error).message.contains(&owner), "{error:#}");
    assert_eq!(
        Sysroot::open(Some(disk.path()))
            .unwrap()
            .deployments()
            .len(),
        1
    );
    drop(held);
    LockedSysroot::open(Some(disk.path())).unwrap();
}

#[test]
fn what_is_no_system_says_so() {
    if !privileged("what_is_no_system_says_so") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(dir.path()).unwrap();
    let read = Sysroot::open(Some(path)).unwrap_err();
    assert_eq!(kinded(&read).kind, ErrorKind::InvalidSysroot);
    let write = LockedSysroot::open(Some(path)).unwrap_err();
    assert_eq!(kinded(&write).kind, ErrorKind::InvalidSysroot);
    assert_eq!(
        path.read_dir_utf8().unwrap().count(),
        0,
        "something was made"
    );
    let running = Sysroot::open(None).unwrap_err();
    assert_eq!(kinded(&running).kind, ErrorKind::InvalidSysroot);
}

#[test]
fn a_stateroot_is_found_or_named() {
    if !privileged("a_stateroot_is_found_or_named") {
        return;
    }
    let disk = disk();
    let sysroot = Sysroot::open(Some(disk.path())).unwrap();
    assert_eq!(sysroot.stateroot(None).unwrap(), STATEROOT);
    assert_eq!(sysroot.stateroot(Some(STATEROOT)).unwrap(), STATEROOT);
    for bad in ["", "other", "../deploy", "."] {
        assert!(sysroot.stateroot(Some(bad)).is_err(), "{bad}");
    }
}

#[test]
fn pins_are_set_once_and_keep_a_deployment() {
    if !privileged("pins_are_set_once_and_keep_a_deployment") {
        return;
    }
    let disk = disk();
    let sysroot = LockedSysroot::open(Some(disk.path())).unwrap();
    let deployment = sysroot.deployment_at(0).unwrap();
    sysroot.set_pinned(&deployment, true).unwrap();
    sysroot.reload().unwrap();
    let deployment = sysroot.deployment_at(0).unwrap();
    assert!(deployment.is_pinned());
    let again = sysroot.set_pinned(&deployment, true).unwrap_err();
    assert!(again.to_string().contains("is already pinned"), "{again:#}");
    // What a new deployment copies from it is not pinned.
    let origin = deployment.origin().unwrap();
    assert!(!apt_ostree_sysroot::origin_to_text(&origin).contains("pinned"));
    sysroot.set_pinned(&deployment, false).unwrap();
}
