//! What a hostile target or script can't reach.

use std::fs;
use std::os::unix::fs::symlink;

use crate::Test;
use crate::support::{Scene, probe, shell, try_shell};

pub(crate) const TESTS: &[Test] = &[
    (
        "links_at_mount_points_are_refused",
        links_at_mount_points_are_refused,
    ),
    (
        "files_at_mount_points_are_refused",
        files_at_mount_points_are_refused,
    ),
    (
        "links_below_the_last_component_are_refused",
        links_below_the_last_component_are_refused,
    ),
    ("dangerous_calls_are_refused", dangerous_calls_are_refused),
    (
        "processes_of_the_host_are_out_of_reach",
        processes_of_the_host_are_out_of_reach,
    ),
    ("proc_is_masked", proc_is_masked),
    ("devices_are_few", devices_are_few),
    (
        "device_files_in_the_target_do_not_work",
        device_files_in_the_target_do_not_work,
    ),
    ("network_is_loopback_only", network_is_loopback_only),
    ("chroot_does_not_lead_out", chroot_does_not_lead_out),
    ("no_file_is_inherited", no_file_is_inherited),
    (
        "background_processes_are_dead_afterwards",
        background_processes_are_dead_afterwards,
    ),
    (
        "hard_links_from_outside_do_not_appear",
        hard_links_from_outside_do_not_appear,
    ),
];

/// Seven places, four kinds of links, two kinds of roots.
fn links_at_mount_points_are_refused() {
    for place in ["var", "run", "srv", "tmp", "proc", "dev", "etc"] {
        for kind in ["absolute", "relative", "magic", "chain"] {
            for plain in [false, true] {
                refuse_link(place, kind, plain);
            }
        }
    }
}

fn refuse_link(place: &str, kind: &str, plain: bool) {
    let scene = Scene::new();
    let (outside, link) = (scene.path("outside"), scene.path("lower").join(place));
    fs::remove_dir_all(&link).unwrap();
    let up = "../".repeat(32);
    match kind {
        "absolute" => symlink(&outside, &link).unwrap(),
        "relative" => symlink(format!("{up}{}", &outside.as_str()[1..]), &link).unwrap(),
        "magic" => symlink(format!("/proc/self/root{outside}"), &link).unwrap(),
        _ => {
            symlink("hop", &link).unwrap();
            symlink(&outside, scene.path("lower/hop")).unwrap();
        }
    }
    let before = scene.outside();
    let mut sandbox = if plain {
        scene.plain()
    } else {
        scene.overlay()
    };
    sandbox.create_mountpoints = true;
    let sandbox = sandbox
        .bind_read_only("/usr/share", "/srv/a/b")
        .bind_writable(scene.path("work"), "/etc/a/b");
    let error = try_shell(&sandbox, "true", &mut Vec::new()).unwrap_err();
    let expected = format!("the target's '/{place}' is a symbolic link");
    assert!(error.message.contains(&expected), "{place} {kind}: {error}");
    assert_eq!(scene.outside(), before, "{place} {kind}");
}

fn files_at_mount_points_are_refused() {
    let scene = Scene::new();
    fs::remove_dir(scene.path("lower/proc")).unwrap();
    fs::write(scene.path("lower/proc"), "").unwrap();
    let error = try_shell(&scene.overlay(), "true", &mut Vec::new()).unwrap_err();
    assert!(
        error
            .message
            .contains("the target's '/proc' is not a directory"),
        "{error}"
    );
    let scene = Scene::new();
    fs::remove_dir_all(scene.path("lower/var")).unwrap();
    fs::write(scene.path("lower/var"), "").unwrap();
    let error = try_shell(&scene.overlay(), "true", &mut Vec::new()).unwrap_err();
    assert!(
        error
            .message
            .contains("the target's '/var' is not a directory"),
        "{error}"
    );
}

fn links_below_the_last_component_are_refused() {
    let scene = Scene::new();
    fs::remove_dir(scene.path("lower/var/tmp")).unwrap();
    symlink(scene.path("outside"), scene.path("lower/var/tmp")).unwrap();
    let before = scene.outside();
    let error = try_shell(&scene.overlay(), "true", &mut Vec::new()).unwrap_err();
    assert!(
        error
            .message
            .contains("the target's '/var/tmp' is a symbolic link"),
        "{error}"
    );
    assert_eq!(scene.outside(), before);
}

fn dangerous_calls_are_refused() {
    let scene = Scene::new();
    let hostname = fs::read("/proc/sys/kernel/hostname").unwrap();
    let lines = probe(&scene.overlay(), &["calls"]);
    let refused = |line: &&String| {
        line.ends_with(": Operation not permitted (os error 1)")
            || *line == "vsock: Address family not supported by protocol (os error 97)"
    };
    let others: Vec<_> = lines.iter().filter(|line| !refused(line)).collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(lines.len(), crate::probe::CALLS);
    assert_eq!(fs::read("/proc/sys/kernel/hostname").unwrap(), hostname);
}

fn processes_of_the_host_are_out_of_reach() {
    let scene = Scene::new();
    let pid = std::process::id();
    let script = format!(
        "kill -0 {pid} && echo reached; ls -d /proc/[0-9]* | wc -l; ls /proc/1/root /proc/1/fd && echo reached"
    );
    let (_, lines) = shell(&scene.overlay(), &script);
    assert!(!lines.iter().any(|line| line == "reached"), "{lines:?}");
    let count = lines
        .iter()
        .find_map(|line| line.parse::<u32>().ok())
        .unwrap();
    assert!(count <= 4, "{lines:?}");
}

fn proc_is_masked() {
    let scene = Scene::new();
    let script = "for f in sys/kernel/hostname sys/kernel/core_pattern sysrq-trigger irq/default_smp_affinity; do
        test -e /proc/$f || continue
        (echo x > /proc/$f) 2>/dev/null && echo \"wrote $f\"
        done
        for f in kcore kmsg kallsyms; do test -s /proc/$f && echo \"read $f\"; done
        umount /proc/sys 2>/dev/null && echo unmounted
        mount -o remount,rw /proc/sys 2>/dev/null && echo remounted
        echo end";
    let (_, lines) = shell(&scene.overlay(), script);
    assert_eq!(lines, ["end"]);
}

fn devices_are_few() {
    let (_, lines) = shell(
        &Scene::new().overlay(),
        "ls /dev; echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; (echo > /dev/tty) 2>/dev/null || echo no tty",
    );
    let expected = [
        "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero", "3", "3", "no tty",
    ];
    assert_eq!(lines, expected);
}

fn device_files_in_the_target_do_not_work() {
    let scene = Scene::new();
    let node = scene.path("lower/etc/null");
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    let device = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        node.as_str(),
        rustix::fs::FileType::CharacterDevice,
        mode,
        device,
    )
    .unwrap();
    for sandbox in [scene.overlay(), scene.plain()] {
        let (_, lines) = shell(&sandbox, "(echo x > /etc/null) 2>/dev/null || echo refused");
        assert_eq!(lines, ["refused"]);
    }
}

fn network_is_loopback_only() {
    let scene = Scene::new();
    let lines = probe(&scene.overlay(), &["network"]);
    assert_eq!(
        lines,
        [
            "loopback: reached",
            "outside: Network is unreachable (os error 101)",
            "interfaces: lo"
        ]
    );
    let mut sandbox = scene.overlay();
    sandbox.network = true;
    let lines = probe(&sandbox, &["interfaces"]);
    assert_eq!(lines, crate::probe::interfaces());
}

fn chroot_does_not_lead_out() {
    let scene = Scene::new();
    let lines = probe(&scene.overlay(), &["chroot", scene.base.as_str()]);
    assert_eq!(lines, ["contained"]);
    let lines = probe(&scene.plain(), &["chroot", scene.base.as_str()]);
    assert_eq!(lines, ["contained"]);
}

fn no_file_is_inherited() {
    let scene = Scene::new();
    let file = fs::File::open(scene.path("outside/sentinel")).unwrap();
    // Without the close-on-exec flag, as a careless library leaves it.
    let leaked = rustix::io::dup(&file).unwrap();
    let lines = probe(&scene.overlay(), &["files"]);
    drop(leaked);
    assert_eq!(lines, ["0 /dev/null", "1 pipe", "2 pipe"]);
}

fn background_processes_are_dead_afterwards() {
    let scene = Scene::new();
    fs::create_dir(scene.path("data")).unwrap();
    let sandbox = scene.overlay().bind_writable(scene.path("data"), "/srv");
    // The second closes all files, leaves the session and ignores signals.
    let script = "sleep 1000 & (setsid sh -c 'trap \"\" TERM HUP INT; echo $$ > /srv/pid; while :; do sleep 1; done' < /dev/null > /dev/null 2>&1 &)
        while ! test -s /srv/pid; do sleep 0.01; done; echo left";
    let (finished, lines) = shell(&sandbox, script);
    assert!(finished.success());
    assert_eq!(lines, ["left"]);
}

fn hard_links_from_outside_do_not_appear() {
    let scene = Scene::new();
    let before = scene.outside();
    let script = format!(
        "ln {0}/outside/sentinel /etc/x; ln /../../../{0}/outside/sentinel /etc/y; ls /etc; ls {0}",
        scene.base
    );
    shell(&scene.plain(), &script);
    assert_eq!(scene.outside(), before);
}
