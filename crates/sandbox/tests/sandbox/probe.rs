//! What this program does when it runs inside a sandbox, or as the caller of one.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, ExitCode};
use std::time::Duration;

use apt_ostree_sandbox::{Root, Sandbox};
use camino::Utf8Path;

use crate::support::skeleton;

/// Runs the probe that is named first.
pub(crate) fn run(args: &[String]) -> ExitCode {
    let second = args.get(1).map(String::as_str).unwrap_or_default();
    match args.first().map(String::as_str).unwrap_or_default() {
        "calls" => calls(),
        "chroot" => chroot(second),
        "environment" => environment(),
        "files" => files(),
        "interfaces" => interfaces().iter().for_each(|line| println!("{line}")),
        "network" => network(),
        "processes" => processes(),
        "nested" => nested(),
        "without-rights" => without_rights(second),
        "run-for-ever" => run_for_ever(second),
        "cancelled" => cancelled(second),
        other => panic!("no probe '{other}'"),
    }
    ExitCode::SUCCESS
}

/// How many calls the probe of that name makes.
pub(crate) const CALLS: usize = 25;

fn calls() {
    let null = std::ptr::null::<u8>();
    // The time it is: a sandbox that lets this through must not harm the machine.
    let seconds = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let now = libc::timeval {
        tv_sec: i64::try_from(seconds).unwrap(),
        tv_usec: 0,
    };
    let name = c"evil";
    let attach = libc::PTRACE_ATTACH;
    #[expect(
        unsafe_code,
        reason = "these calls have no wrapper that tries what is forbidden"
    )]
    // SAFETY: each call either fails before it uses its pointers, or gets valid or null ones.
    let results = unsafe {
        [
            (
                "mount",
                libc::syscall(
                    libc::SYS_mount,
                    c"none".as_ptr(),
                    c"/tmp".as_ptr(),
                    c"tmpfs".as_ptr(),
                    0,
                    null,
                ),
            ),
            (
                "umount2",
                libc::syscall(libc::SYS_umount2, c"/proc".as_ptr(), libc::MNT_DETACH),
            ),
            (
                "pivot_root",
                libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()),
            ),
            (
                "mknod",
                libc::syscall(
                    libc::SYS_mknodat,
                    libc::AT_FDCWD,
                    c"/tmp/mem".as_ptr(),
                    libc::S_IFCHR | 0o666,
                    0x101,
                ),
            ),
            (
                "sethostname",
                libc::syscall(libc::SYS_sethostname, name.as_ptr(), 4),
            ),
            (
                "reboot",
                libc::syscall(libc::SYS_reboot, 0xfee1_dead_u32, 672_274_793, 0, null),
            ),
            (
                "settimeofday",
                libc::syscall(libc::SYS_settimeofday, &raw const now, null),
            ),
            ("bpf", libc::syscall(libc::SYS_bpf, 0, null, 0)),
            ("keyctl", libc::syscall(libc::SYS_keyctl, 0, -3, 0)),
            (
                "add_key",
                libc::syscall(
                    libc::SYS_add_key,
                    c"user".as_ptr(),
                    name.as_ptr(),
                    name.as_ptr(),
                    4,
                    -3,
                ),
            ),
            (
                "init_module",
                libc::syscall(libc::SYS_init_module, null, 0, name.as_ptr()),
            ),
            (
                "finit_module",
                libc::syscall(libc::SYS_finit_module, 0, name.as_ptr(), 0),
            ),
            (
                "kexec_load",
                libc::syscall(libc::SYS_kexec_load, 0, 0, null, 0),
            ),
            (
                "swapon",
                libc::syscall(libc::SYS_swapon, c"/probe".as_ptr(), 0),
            ),
            ("syslog", libc::syscall(libc::SYS_syslog, 3, null, 0)),
            (
                "perf_event_open",
                libc::syscall(libc::SYS_perf_event_open, null, 0, -1, -1, 0),
            ),
            (
                "io_uring_setup",
                libc::syscall(libc::SYS_io_uring_setup, 1, null),
            ),
            ("userfaultfd", libc::syscall(libc::SYS_userfaultfd, 0)),
            (
                "open_by_handle_at",
                libc::syscall(libc::SYS_open_by_handle_at, libc::AT_FDCWD, null, 0),
            ),
            ("ptrace", libc::syscall(libc::SYS_ptrace, attach, 1, 0, 0)),
            (
                "unshare user",
                libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER),
            ),
            (
                "unshare mount",
                libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNS),
            ),
            ("setns", libc::syscall(libc::SYS_setns, 0, 0)),
            (
                "raw socket",
                libc::syscall(
                    libc::SYS_socket,
                    libc::AF_INET,
                    libc::SOCK_RAW,
                    libc::IPPROTO_ICMP,
                ),
            ),
            (
                "vsock",
                libc::syscall(libc::SYS_socket, libc::AF_VSOCK, libc::SOCK_STREAM, 0),
            ),
        ]
        .map(|(name, result)| (name, result >= 0))
    };
    for (name, allowed) in results {
        println!("{name}: {}", if allowed { "allowed" } else { "refused" });
    }
}

/// The classic way out: a root below the working directory, then upwards.
fn chroot(outside: &str) {
    fs::create_dir("/tmp/jail").unwrap();
    rustix::process::chroot("/tmp/jail").unwrap();
    for _ in 0..64 {
        rustix::process::chdir("..").unwrap();
    }
    rustix::process::chroot(".").unwrap();
    let out = fs::exists(outside).unwrap() || !fs::exists("/tmp/jail").unwrap();
    println!("{}", if out { "out" } else { "contained" });
}

fn environment() {
    for (name, value) in std::env::vars() {
        println!("{name}={value}");
    }
}

fn files() {
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let entry = entry.unwrap();
        let to = fs::read_link(entry.path())
            .unwrap()
            .to_string_lossy()
            .into_owned();
        // The directory that is being read.
        if !to.starts_with("/proc/") {
            println!(
                "{} {}",
                entry.file_name().display(),
                to.split(':').next().unwrap_or_default()
            );
        }
    }
}

/// The names of the network interfaces that this process sees.
pub(crate) fn interfaces() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/net/dev").unwrap();
    let mut names: Vec<String> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim().to_owned())
        .collect();
    names.sort();
    names
}

fn network() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.write_all(b"x").unwrap();
    let mut byte = [0];
    listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
    println!("loopback: reached");
    match TcpStream::connect("192.0.2.1:80") {
        Ok(_) => println!("outside: reached"),
        Err(error) => println!("outside: {error}"),
    }
    println!("interfaces: {}", interfaces().join(" "));
}

fn processes() {
    let mut children = Vec::new();
    while children.len() < 60 {
        match Command::new("sleep").arg("1000").spawn() {
            Ok(child) => children.push(child),
            Err(_) => break,
        }
    }
    println!(
        "{}",
        if children.len() < 30 {
            "limit below 30"
        } else {
            "no limit"
        }
    );
}

/// A caller whose own root is a chroot: the sandbox must hold there too.
fn nested() {
    let base = Utf8Path::new("/tmp/scene");
    fs::create_dir(base).unwrap();
    skeleton(base);
    fs::write("/root/sentinel", "").unwrap();
    let sandbox = Sandbox::new(Root::Dir(base.to_owned()), 0)
        .bind_read_only("/usr", "/usr")
        .bind_read_only("/probe", "/probe");
    for argv in [
        ["sh", "-c", "test ! -e /root/sentinel && echo inside"],
        ["/probe", "probe", "chroot"],
    ] {
        let finished = sandbox
            .run(&argv, b"", &mut |line| println!("{line}"))
            .unwrap();
        assert!(finished.success());
    }
}

fn without_rights(base: &str) {
    let sandbox = crate::running::sandbox_without_rights(base);
    let error = sandbox.run(&["true"], b"", &mut |_| {}).unwrap_err();
    println!("{error} {:?}", error.hint);
}

fn marked(base: &str) -> Sandbox {
    let base = Utf8Path::new(base);
    let mut sandbox = Sandbox::new(Root::Dir(base.join("lower")), 0).bind_read_only("/usr", "/usr");
    sandbox
        .env
        .insert("MARKER".to_owned(), base.as_str().to_owned());
    sandbox
}

fn run_for_ever(base: &str) {
    let sandbox = marked(base).bind_writable(Utf8Path::new(base).join("data"), "/srv");
    let script = "setsid sleep 1000 & echo $! > /srv/pid; while :; do sleep 1; done";
    drop(sandbox.run(&["sh", "-c", script], b"", &mut |_| {}));
}

fn cancelled(base: &str) {
    apt_ostree_fsx::cancel::install().unwrap();
    let error = marked(base).run(
        &["sh", "-c", "echo started; sleep 1000"],
        b"",
        &mut |line| {
            println!("{line}");
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
                .unwrap();
            std::thread::sleep(Duration::from_millis(20));
        },
    );
    println!("{:?}", error.unwrap_err().kind);
}
