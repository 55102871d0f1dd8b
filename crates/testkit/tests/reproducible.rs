//! The same treefile and lockfile give the same commit and the same image, whatever surrounds the
//! run.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

use apt_ostree_testkit::{MINIMAL, Project, privileged, stdout, success};

/// Commit checksum and image digest of one run.
#[derive(Debug, PartialEq, Eq)]
struct Made {
    commit: String,
    digest: String,
}

/// Composes with `lock` in a project of its own, below `wrapper`.
fn made(treefile: &str, lock: &str, own_cache: bool, wrapper: &[&str], args: &[&str]) -> Made {
    let mut project = Project::new(treefile).unwrap();
    if own_cache {
        let shared = project.cache().to_owned();
        project = project.with_own_cache().unwrap();
        // The downloads are shared; everything made from them is not.
        success(
            Command::new("cp")
                .arg("-al")
                .arg(shared.join("debs"))
                .arg(project.cache()),
        )
        .unwrap();
    }
    project.write("lock.json", lock).unwrap();
    let mut compose = project
        .compose(
            "tree",
            &[
                "tree.yaml",
                "--lockfile",
                "lock.json",
                "--lockfile-strict",
                "--format",
                "oci",
            ],
        )
        .unwrap();
    compose.args(args);
    let mut command = match wrapper {
        [] => compose,
        [program, rest @ ..] => {
            let mut command = Command::new(program);
            command
                .args(rest)
                .arg(compose.get_program())
                .args(compose.get_args())
                .current_dir(project.path());
            command
        }
    };
    success(&mut command).unwrap();
    let name = treefile
        .lines()
        .find_map(|l| l.strip_prefix("ref: "))
        .unwrap();
    let layout = format!(
        "oci:{}",
        project
            .path()
            .join("output")
            .join(format!("{}.oci", name.replace('/', "_")))
    );
    let digest =
        success(Command::new("skopeo").args(["inspect", "--format", "{{.Digest}}", &layout]))
            .unwrap();
    Made {
        commit: project.commit(name).unwrap(),
        digest: stdout(&digest).trim().to_owned(),
    }
}

fn lock_of(treefile: &str) -> String {
    let project = Project::new(treefile).unwrap();
    project.tree(&["--write-lockfile-to", "lock.json"]).unwrap();
    std::fs::read_to_string(project.path().join("lock.json")).unwrap()
}

/// How a run differs from the first: name, own cache, program before it, arguments.
type Variant = (
    &'static str,
    bool,
    &'static [&'static str],
    &'static [&'static str],
);

const WARM: Variant = ("warm cache", false, &[], &[]);
const ONE_THREAD: Variant = ("one thread", true, &[], &["--threads", "1"]);
const UMASK: Variant = (
    "umask",
    true,
    &["sh", "-c", "umask 077; exec \"$@\"", "sh"],
    &[],
);
const LOCALE: Variant = (
    "time zone and locale",
    true,
    &[
        "env",
        "TZ=Asia/Kathmandu",
        "LC_ALL=tr_TR.UTF-8",
        "LANG=de_DE",
    ],
    &[],
);
const CLOCK: Variant = ("another clock", true, &["faketime", "-f", "+400d"], &[]);
const ALL_AT_ONCE: Variant = (
    "umask, time zone, locale and clock",
    true,
    &[
        "sh",
        "-c",
        "umask 077; TZ=Asia/Kathmandu LC_ALL=tr_TR.UTF-8 exec faketime -f +400d \"$@\"",
        "sh",
    ],
    &[],
);

/// Every run is in a directory of its own; all but the warm one start with an empty cache.
fn all_give_the_same(treefile: &str, variants: &[Variant]) {
    let lock = lock_of(treefile);
    let first = made(treefile, &lock, true, &[], &[]);
    for (name, own_cache, wrapper, args) in variants {
        assert_eq!(
            made(treefile, &lock, *own_cache, wrapper, args),
            first,
            "{name}"
        );
    }
}

#[test]
fn the_minimal_set_is_reproducible() {
    if privileged("the_minimal_set_is_reproducible") {
        all_give_the_same(MINIMAL, &[WARM, ONE_THREAD, UMASK, LOCALE, CLOCK]);
    }
}

#[test]
fn the_bootable_set_is_reproducible() {
    if !privileged("the_bootable_set_is_reproducible") {
        return;
    }
    let treefile = include_str!("../../../examples/bootable.yaml")
        .replace("debian/13/${basearch}/bootable", "test/bootable");
    all_give_the_same(&treefile, &[WARM, ONE_THREAD, ALL_AT_ONCE]);
}
