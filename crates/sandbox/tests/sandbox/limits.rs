//! What a script can't use up.

use std::time::Duration;

use apt_ostree_model::ErrorKind;

use crate::Test;
use crate::support::{Scene, probe, shell, snapshot, try_shell};

pub(crate) const TESTS: &[Test] = &[
    ("time_is_limited", time_is_limited),
    (
        "time_is_limited_for_a_silent_program",
        time_is_limited_for_a_silent_program,
    ),
    ("processes_are_limited", processes_are_limited),
    ("output_is_limited", output_is_limited),
    (
        "memory_file_systems_are_limited",
        memory_file_systems_are_limited,
    ),
    (
        "a_script_that_fills_the_disk_fails_and_harms_no_other",
        a_script_that_fills_the_disk_fails_and_harms_no_other,
    ),
    (
        "a_script_that_fills_the_memory_dies_before_its_caller",
        a_script_that_fills_the_memory_dies_before_its_caller,
    ),
    (
        "a_killed_caller_takes_everything_along",
        a_killed_caller_takes_everything_along,
    ),
    ("cancelling_stops_the_program", cancelling_stops_the_program),
];

fn time_is_limited() {
    let scene = Scene::new();
    let mut sandbox = scene.overlay();
    sandbox.timeout = Duration::from_secs(1);
    let script = "trap '' TERM; echo started; setsid sleep 1000 & while :; do :; done";
    let error = try_shell(&sandbox, script, &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Script);
    assert_eq!(
        error.message,
        "'sh' did not finish within 1 seconds and was killed:\nstarted"
    );
}

/// One that has closed its output must neither end the run early nor escape the limit.
fn time_is_limited_for_a_silent_program() {
    let scene = Scene::new();
    let (finished, _) = shell(&scene.overlay(), "exec > /dev/null 2>&1; sleep 0.3; exit 5");
    assert_eq!(finished.status, apt_ostree_sandbox::Status::Exited(5));
    let mut sandbox = scene.overlay();
    sandbox.timeout = Duration::from_secs(1);
    let error = try_shell(
        &sandbox,
        "exec > /dev/null 2>&1; sleep 1000",
        &mut Vec::new(),
    )
    .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Script);
}

fn processes_are_limited() {
    let scene = Scene::new();
    let highest = std::fs::read("/proc/sys/kernel/pid_max").unwrap();
    let mut sandbox = scene.overlay();
    sandbox.max_pids = 310;
    let lines = probe(&sandbox, &["processes"]);
    if lines == ["no limit"] {
        eprintln!("SKIPPED: processes_are_limited: no pids cgroup for us here");
        return;
    }
    assert_eq!(lines, ["limited"]);
    assert_eq!(std::fs::read("/proc/sys/kernel/pid_max").unwrap(), highest);
    sandbox.timeout = Duration::from_secs(2);
    let mut lines = Vec::new();
    let script = "bomb() { bomb | bomb & }; bomb; sleep 1000";
    // The shell may fail to fork or get to its sleep: either way all is over in two seconds.
    let ended = try_shell(&sandbox, script, &mut lines);
    assert!(ended.is_err() || ended.is_ok_and(|finished| !finished.success()));
}

fn output_is_limited() {
    let scene = Scene::new();
    let mut sandbox = scene.overlay();
    sandbox.output_limit = 1 << 20;
    let mut bytes = 0;
    let mut last = String::new();
    let argv = [
        "sh",
        "-c",
        "yes 0123456789 | head -c 1073741824; head -c 1000000 /dev/urandom",
    ];
    let finished = sandbox.run(&argv, b"", &mut |line| {
        bytes += line.len();
        line.clone_into(&mut last);
    });
    assert!(finished.unwrap().success());
    assert!(bytes < 2 << 20, "{bytes}");
    assert!(last.ends_with("more bytes of output dropped)"), "{last}");
}

fn memory_file_systems_are_limited() {
    let scene = Scene::new();
    let mut sandbox = scene.overlay();
    sandbox.tmpfs_size = 1 << 20;
    let script = "for d in /tmp /var/tmp /run /dev/shm /dev; do head -c 8000000 /dev/zero > $d/big 2>/dev/null && echo $d; done; echo end";
    let (_, lines) = shell(&sandbox, script);
    assert_eq!(lines, ["end"]);
}

/// A small file system that is gone with this value.
struct SmallDisk(camino::Utf8PathBuf);

impl SmallDisk {
    fn mount(path: camino::Utf8PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap();
        let mount = apt_ostree_fsx::Cmd::new("mount").args(["-t", "tmpfs", "-o", "size=8m"]);
        mount.args(["tmpfs", path.as_str()]).run().unwrap();
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let umount = apt_ostree_fsx::Cmd::new("umount").arg(self.0.as_str());
        drop(umount.run());
    }
}

fn a_script_that_fills_the_disk_fails_and_harms_no_other() {
    let scene = Scene::new();
    let disk = SmallDisk::mount(scene.path("disk"));
    let before = (scene.outside(), snapshot(&scene.path("lower/etc")));
    let (upper, work) = (disk.0.join("upper"), disk.0.join("work"));
    let mut sandbox = scene.overlay();
    for dir in [&upper, &work] {
        std::fs::create_dir(dir).unwrap();
    }
    sandbox.root = apt_ostree_sandbox::Root::Overlay {
        lowers: vec![scene.path("lower")],
        upper: upper.clone(),
        work,
    };
    let (finished, lines) = shell(&sandbox, "head -c 1000000000 /dev/zero > /etc/big");
    assert!(!finished.success());
    assert!(lines[0].contains("No space left on device"), "{lines:?}");
    assert_eq!(
        (scene.outside(), snapshot(&scene.path("lower/etc"))),
        before,
        "something outside of the upper directory changed"
    );
    std::fs::remove_file(upper.join("etc/big")).unwrap();
    let (finished, _) = shell(&sandbox, "echo x > /etc/small");
    assert!(finished.success());
}

/// The kernel has to choose a process that ends when memory runs out.
fn a_script_that_fills_the_memory_dies_before_its_caller() {
    let Some(group) = MemoryGroup::create(192 << 20) else {
        eprintln!("SKIPPED: a_script_that_fills_the_memory_dies_before_its_caller: no cgroup");
        return;
    };
    let scene = Scene::new();
    let exe = std::env::current_exe().unwrap();
    let caller = apt_ostree_fsx::Cmd::new(exe.as_os_str())
        .args(["probe", "memory", scene.base.as_str(), group.0.as_str()])
        .timeout(Duration::from_secs(60));
    let mut lines = Vec::new();
    caller
        .stream(&mut |line| lines.push(line.to_owned()))
        .unwrap();
    assert_eq!(lines, ["Signalled(9)", "next: Exited(0)"]);
}

/// A cgroup with little memory; dropping it removes it.
struct MemoryGroup(camino::Utf8PathBuf);

impl MemoryGroup {
    fn create(limit: u64) -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = |mark: &str| {
            let line = own.lines().find(|line| line.contains(mark))?;
            line.rsplit_once(mark).map(|(_, path)| path.to_owned())
        };
        let name = format!("sandbox-test-{}", std::process::id());
        let (dir, file) = match own(":memory:") {
            Some(path) => (format!("memory{path}/{name}"), "memory.limit_in_bytes"),
            None => (format!("{}/../{name}", own("0::")?), "memory.max"),
        };
        let dir = camino::Utf8PathBuf::from(format!("/sys/fs/cgroup/{dir}"));
        std::fs::create_dir(&dir).ok()?;
        let group = Self(dir);
        std::fs::write(group.0.join(file), limit.to_string()).ok()?;
        // Where there is swap, it must not take what is too much.
        drop(std::fs::write(group.0.join("memory.swap.max"), "0"));
        Some(group)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        drop(std::fs::remove_dir(&self.0));
    }
}

fn a_killed_caller_takes_everything_along() {
    let scene = Scene::new();
    let exe = std::env::current_exe().unwrap();
    let pid_file = scene.path("data/pid");
    std::fs::create_dir(scene.path("data")).unwrap();
    let child = apt_ostree_fsx::Cmd::new(exe.as_os_str())
        .args(["probe", "run-for-ever", scene.base.as_str()])
        .spawn(std::process::Stdio::null(), std::process::Stdio::null());
    let mut child = child.unwrap();
    while std::fs::read_to_string(&pid_file)
        .unwrap_or_default()
        .is_empty()
    {
        assert!(child.try_wait().unwrap().is_none(), "the caller ended");
        std::thread::sleep(Duration::from_millis(10));
    }
    let inside = find(scene.base.as_str());
    assert!(!inside.is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    for _ in 0..500 {
        if find(scene.base.as_str()).is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("still there: {:?}", find(scene.base.as_str()));
}

/// The processes that have `marker` in their environment.
fn find(marker: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let has = |path: std::path::PathBuf| {
        let environ = std::fs::read(path.join("environ")).unwrap_or_default();
        String::from_utf8_lossy(&environ).contains(marker)
    };
    entries
        .filter(|e| has(e.path()))
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

/// In a process of its own, because the flag is for the whole process.
fn cancelling_stops_the_program() {
    let scene = Scene::new();
    let exe = std::env::current_exe().unwrap();
    let cmd =
        apt_ostree_fsx::Cmd::new(exe.as_os_str()).args(["probe", "cancelled", scene.base.as_str()]);
    let mut lines = Vec::new();
    cmd.stream(&mut |line| lines.push(line.to_owned())).unwrap();
    assert_eq!(lines, ["started", "Cancelled"]);
}
