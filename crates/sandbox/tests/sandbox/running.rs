//! What a well-behaved script can rely on.

use std::fs;

use apt_ostree_model::ErrorKind;
use apt_ostree_sandbox::{Root, Sandbox, Status};

use crate::Test;
use crate::support::{Scene, probe, shell, skeleton, snapshot, try_shell};

pub(crate) const TESTS: &[Test] = &[
    (
        "output_is_streamed_in_order_and_escaped",
        output_is_streamed_in_order_and_escaped,
    ),
    ("input_is_passed", input_is_passed),
    (
        "exit_codes_and_signals_are_told",
        exit_codes_and_signals_are_told,
    ),
    (
        "a_missing_program_is_an_error",
        a_missing_program_is_an_error,
    ),
    (
        "overlay_takes_changes_and_leaves_layers_alone",
        overlay_takes_changes_and_leaves_layers_alone,
    ),
    ("overlay_can_be_used_again", overlay_can_be_used_again),
    (
        "many_layers_stack_topmost_first",
        many_layers_stack_topmost_first,
    ),
    (
        "plain_directory_takes_changes",
        plain_directory_takes_changes,
    ),
    (
        "temporary_directories_leave_nothing_in_the_target",
        temporary_directories_leave_nothing_in_the_target,
    ),
    ("surroundings_are_fixed", surroundings_are_fixed),
    ("scripts_can_do_their_work", scripts_can_do_their_work),
    (
        "missing_mount_points_are_created_only_when_asked",
        missing_mount_points_are_created_only_when_asked,
    ),
    (
        "writable_binds_take_changes_and_read_only_ones_do_not",
        writable_binds_take_changes_and_read_only_ones_do_not,
    ),
    ("works_from_inside_a_chroot", works_from_inside_a_chroot),
    (
        "lack_of_rights_is_told_with_a_hint",
        lack_of_rights_is_told_with_a_hint,
    ),
];

fn output_is_streamed_in_order_and_escaped() {
    let (finished, lines) = shell(
        &Scene::new().overlay(),
        "echo a; echo b >&2; printf 'c\\033[1m'",
    );
    assert_eq!(lines, ["a", "b", "c\\x1b[1m"]);
    assert_eq!(finished.tail, lines);
    assert!(finished.success());
}

fn input_is_passed() {
    let input = vec![b'x'; 300_000];
    let mut lines = Vec::new();
    let sandbox = Scene::new();
    let finished = sandbox
        .overlay()
        .run(&["wc", "-c"], &input, &mut |l| lines.push(l.to_owned()))
        .unwrap();
    assert!(finished.success());
    assert_eq!(lines, ["300000"]);
    let (_, lines) = shell(&sandbox.overlay(), "wc -c");
    assert_eq!(lines, ["0"]);
}

fn exit_codes_and_signals_are_told() {
    let sandbox = Scene::new().overlay();
    let scene = Scene::new();
    drop(sandbox);
    let (finished, _) = shell(&scene.overlay(), "echo sorry; exit 7");
    assert_eq!(finished.status, Status::Exited(7));
    let error = finished.require_success("foo.postinst").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Script);
    assert_eq!(
        error.message,
        "'foo.postinst' failed with exit code 7:\nsorry"
    );
    let (finished, _) = shell(&scene.overlay(), "kill -9 $$");
    assert_eq!(finished.status, Status::Signalled(9));
}

fn a_missing_program_is_an_error() {
    let scene = Scene::new();
    let error = scene
        .overlay()
        .run(&["no-such-program"], b"", &mut |_| {})
        .unwrap_err();
    assert!(
        error.message.contains("starting 'no-such-program'"),
        "{error}"
    );
}

fn overlay_takes_changes_and_leaves_layers_alone() {
    let scene = Scene::new();
    fs::write(scene.path("lower/etc/old"), "old").unwrap();
    fs::hard_link(scene.path("lower/etc/old"), scene.path("outside/object")).unwrap();
    let (lower, outside) = (snapshot(&scene.path("lower/etc")), scene.outside());
    let (finished, _) = shell(
        &scene.overlay(),
        "cd /etc && echo new > new && chmod 600 old && chown 1:1 old && echo x >> old && rm passwd",
    );
    assert!(finished.success());
    assert_eq!(snapshot(&scene.path("lower/etc")), lower);
    assert_eq!(scene.outside(), outside);
    assert_eq!(
        fs::read_to_string(scene.path("upper/etc/new")).unwrap(),
        "new\n"
    );
    assert_eq!(
        fs::read_to_string(scene.path("upper/etc/old")).unwrap(),
        "oldx\n"
    );
    assert!(
        fs::symlink_metadata(scene.path("upper/etc/passwd")).is_ok(),
        "no whiteout"
    );
}

fn overlay_can_be_used_again() {
    let scene = Scene::new();
    shell(&scene.overlay(), "echo one > /etc/file");
    let (_, lines) = shell(&scene.overlay(), "cat /etc/file; rm /etc/file");
    assert_eq!(lines, ["one"]);
    let (_, lines) = shell(&scene.overlay(), "ls /etc");
    assert_eq!(lines, ["group", "passwd"]);
}

fn many_layers_stack_topmost_first() {
    let scene = Scene::new();
    let mut lowers = Vec::new();
    for n in 0..200 {
        let layer = scene.path(&format!("layer, with:odd=name\\{n}"));
        fs::create_dir_all(layer.join("etc")).unwrap();
        fs::write(layer.join("etc/layer"), n.to_string()).unwrap();
        fs::write(layer.join(format!("etc/layer-{n}")), "").unwrap();
        lowers.push(layer);
    }
    lowers.push(scene.path("lower"));
    let mut sandbox = scene.overlay();
    sandbox.root = Root::Overlay {
        lowers,
        upper: scene.path("upper"),
        work: scene.path("work"),
    };
    let (_, lines) = shell(&sandbox, "cat /etc/layer; echo; ls /etc/layer-* | wc -l");
    assert_eq!(lines, ["0", "200"]);
}

fn plain_directory_takes_changes() {
    let scene = Scene::new();
    let (finished, _) = shell(&scene.plain(), "echo new > /etc/new");
    assert!(finished.success());
    assert_eq!(
        fs::read_to_string(scene.path("lower/etc/new")).unwrap(),
        "new\n"
    );
}

fn temporary_directories_leave_nothing_in_the_target() {
    let scene = Scene::new();
    let script = "for d in /tmp /var/tmp /run /run/lock /dev /dev/shm; do echo x > $d/file || exit 1; done; stat -c %a /tmp /var/tmp /run /run/lock /dev/shm";
    let (finished, lines) = shell(&scene.overlay(), script);
    assert!(finished.success(), "{finished:?}");
    assert_eq!(lines, ["1777", "1777", "755", "1777", "1777"]);
    let left: Vec<_> = fs::read_dir(scene.path("upper"))
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn surroundings_are_fixed() {
    let scene = Scene::new();
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let sandbox = scene.overlay();
    let (_, lines) = shell(
        &sandbox,
        "umask; hostname; pwd; ulimit -Sn; ulimit -Sc; cat /proc/self/oom_score_adj; tty; ls /sys",
    );
    rustix::process::umask(before);
    assert_eq!(
        lines,
        ["0022", "localhost", "/", "1024", "0", "500", "not a tty"]
    );
    let lines = probe(&sandbox, &["environment"]);
    let expected: Vec<String> = sandbox
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(lines, expected);
}

fn scripts_can_do_their_work() {
    let scene = Scene::new();
    let script = "set -e
        install -d -m 2755 -o 42 -g 43 /var/lib/x; stat -c '%a %u %g' /var/lib/x
        touch /etc/caps; chmod 4755 /etc/caps; stat -c %a /etc/caps
        mkfifo /etc/fifo
        chroot / true
        setpriv --reuid 65534 --regid 65534 --clear-groups sh -c 'id -u; echo err > /dev/stderr; echo x > /tmp/mine'
        echo <<EOF
        here documents work
EOF
        (sleep 100 & kill $!; wait $!) 2>/dev/null || true
        grep -c ^processor /proc/cpuinfo > /dev/null
        echo x > /proc/self/comm
        bash -c 'cat <(echo fd)'
        python3 -c 'import multiprocessing; multiprocessing.Lock()' 2>/dev/null || true
        perl -MSocket -e 'socket(S, PF_INET, SOCK_STREAM, 0); bind(S, sockaddr_in(0, INADDR_LOOPBACK)) && print \"lo\\n\"'
        echo done";
    let (finished, lines) = shell(&scene.overlay(), script);
    assert!(finished.success(), "{finished:?}");
    assert_eq!(
        lines,
        ["2755 42 43", "4755", "65534", "err", "", "fd", "lo", "done"]
    );
}

fn missing_mount_points_are_created_only_when_asked() {
    let scene = Scene::new();
    fs::remove_dir(scene.path("lower/proc")).unwrap();
    fs::remove_dir_all(scene.path("lower/var")).unwrap();
    let mut sandbox = scene
        .overlay()
        .bind_read_only(scene.path("outside/sentinel"), "/etc/a/b");
    let error = try_shell(&sandbox, "true", &mut Vec::new()).unwrap_err();
    assert!(
        error.message.contains("the target has no '/proc'"),
        "{error}"
    );
    sandbox.create_mountpoints = true;
    let (_, lines) = shell(
        &sandbox,
        "cat /etc/a/b; echo; test -e /proc/self && test -d /var/tmp && echo there",
    );
    assert_eq!(lines, ["keep", "there"]);
    assert!(!scene.path("lower/proc").exists());
}

fn writable_binds_take_changes_and_read_only_ones_do_not() {
    let scene = Scene::new();
    fs::create_dir(scene.path("data")).unwrap();
    let sandbox = scene.overlay().bind_writable(scene.path("data"), "/srv");
    let (_, lines) = shell(
        &sandbox,
        "echo x > /srv/file; echo y > /usr/file || echo refused; mknod /srv/node c 1 3 2>/dev/null || echo refused",
    );
    assert_eq!(fs::read_to_string(scene.path("data/file")).unwrap(), "x\n");
    assert_eq!(
        lines.iter().filter(|l| *l == "refused").count(),
        2,
        "{lines:?}"
    );
    assert!(!std::path::Path::new("/usr/file").exists());
}

/// A build in a chroot, whose root is no mount point, can't use pivot_root right away.
fn works_from_inside_a_chroot() {
    let scene = Scene::new();
    let jail = scene.path("jail");
    skeleton(&jail);
    fs::copy("/proc/self/exe", jail.join("probe")).unwrap();
    let script = format!(
        "set -e; cd {jail}; for d in usr dev proc; do mount --rbind /$d $d; done; mount -t tmpfs tmpfs tmp; exec chroot . /probe probe nested"
    );
    let cmd = apt_ostree_fsx::Cmd::new("unshare").args(["--mount", "sh", "-c", &script]);
    let mut lines = Vec::new();
    cmd.stream(&mut |line| lines.push(line.to_owned())).unwrap();
    assert_eq!(lines, ["inside", "contained"]);
}

fn lack_of_rights_is_told_with_a_hint() {
    let scene = Scene::new();
    let exe = std::env::current_exe().unwrap();
    let exe = exe.to_str().unwrap();
    let cmd = apt_ostree_fsx::Cmd::new("setpriv").args([
        "--bounding-set",
        "-sys_admin",
        exe,
        "probe",
        "without-rights",
        scene.base.as_str(),
    ]);
    let output = String::from_utf8(cmd.run().unwrap().stdout).unwrap();
    assert!(output.contains("creating namespaces"), "{output}");
    assert!(output.contains("CAP_SYS_ADMIN"), "{output}");
}

/// For the probe of the same name: a sandbox on the scene at `base`.
pub(crate) fn sandbox_without_rights(base: &str) -> Sandbox {
    Sandbox::new(Root::Dir(camino::Utf8Path::new(base).join("lower")), 0)
}
