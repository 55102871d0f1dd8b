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
        "memory" => memory(second, args.get(2).map(String::as_str).unwrap_or_default()),
        "cancelled" => cancelled(second),
        other => panic!("no probe '{other}'"),
    }
    ExitCode::SUCCESS
}

/// How many calls the probe of that name makes.
pub(crate) const CALLS: usize = 25;

fn calls() {
    for (name, outcome) in mount_calls()
        .into_iter()
        .chain(machine_calls())
        .chain(kernel_calls())
    {
        println!("{name}: {outcome}");
    }
}

type Outcome = (&'static str, String);

/// What the call that was made right before this one returned.
fn outcome(result: libc::c_long) -> String {
    if result >= 0 {
        return "allowed".to_owned();
    }
    std::io::Error::last_os_error().to_string()
}

#[rustfmt::skip]
fn mount_calls() -> [Outcome; 8] {
    use libc::{SYS_mknodat, SYS_mount, SYS_open_by_handle_at, SYS_pivot_root, SYS_setns, SYS_umount2, SYS_unshare, syscall};
    let null = std::ptr::null::<u8>();
    #[expect(unsafe_code, reason = "no wrapper tries what is forbidden")]
    // SAFETY: each call gets valid or null pointers, and either fails or only reads from them.
    unsafe {
        [
            ("mount", outcome(syscall(SYS_mount, c"none".as_ptr(), c"/tmp".as_ptr(), c"tmpfs".as_ptr(), 0, null))),
            ("umount2", outcome(syscall(SYS_umount2, c"/proc".as_ptr(), libc::MNT_DETACH))),
            ("pivot_root", outcome(syscall(SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))),
            ("mknod", outcome(syscall(SYS_mknodat, libc::AT_FDCWD, c"/tmp/mem".as_ptr(), libc::S_IFCHR | 0o666, 0x101))),
            ("unshare user", outcome(syscall(SYS_unshare, libc::CLONE_NEWUSER))),
            ("unshare mount", outcome(syscall(SYS_unshare, libc::CLONE_NEWNS))),
            ("setns", outcome(syscall(SYS_setns, 0, 0))),
            ("open_by_handle_at", outcome(syscall(SYS_open_by_handle_at, libc::AT_FDCWD, null, 0))),
        ]
    }
}

#[rustfmt::skip]
fn machine_calls() -> [Outcome; 8] {
    use libc::{SYS_finit_module, SYS_init_module, SYS_kexec_load, SYS_reboot, SYS_sethostname, SYS_settimeofday, SYS_swapon, SYS_syslog, syscall};
    let null = std::ptr::null::<u8>();
    let name = c"evil".as_ptr();
    // The time it is: a sandbox that lets this through must not harm the machine.
    let seconds = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let now = libc::timeval { tv_sec: i64::try_from(seconds).unwrap(), tv_usec: 0 };
    #[expect(unsafe_code, reason = "no wrapper tries what is forbidden")]
    // SAFETY: each call gets valid or null pointers, and either fails or only reads from them.
    unsafe {
        [
            ("sethostname", outcome(syscall(SYS_sethostname, name, 4))),
            ("reboot", outcome(syscall(SYS_reboot, 0xfee1_dead_u32, 672_274_793, 0, null))),
            ("settimeofday", outcome(syscall(SYS_settimeofday, &raw const now, null))),
            ("init_module", outcome(syscall(SYS_init_module, null, 0, name))),
            ("finit_module", outcome(syscall(SYS_finit_module, 0, name, 0))),
            ("kexec_load", outcome(syscall(SYS_kexec_load, 0, 0, null, 0))),
            ("swapon", outcome(syscall(SYS_swapon, c"/probe".as_ptr(), 0))),
            ("syslog", outcome(syscall(SYS_syslog, 3, null, 0))),
        ]
    }
}

#[rustfmt::skip]
fn kernel_calls() -> [Outcome; 9] {
    use libc::{SYS_add_key, SYS_bpf, SYS_io_uring_setup, SYS_keyctl, SYS_perf_event_open, SYS_ptrace, SYS_socket, SYS_userfaultfd, syscall};
    let null = std::ptr::null::<u8>();
    let name = c"evil".as_ptr();
    #[expect(unsafe_code, reason = "no wrapper tries what is forbidden")]
    // SAFETY: each call gets valid or null pointers, and either fails or only reads from them.
    unsafe {
        [
            ("bpf", outcome(syscall(SYS_bpf, 0, null, 0))),
            ("keyctl", outcome(syscall(SYS_keyctl, 0, -3, 0))),
            ("add_key", outcome(syscall(SYS_add_key, c"user".as_ptr(), name, name, 4, -3))),
            ("perf_event_open", outcome(syscall(SYS_perf_event_open, null, 0, -1, -1, 0))),
            ("io_uring_setup", outcome(syscall(SYS_io_uring_setup, 1, null))),
            ("userfaultfd", outcome(syscall(SYS_userfaultfd, 0))),
            ("ptrace", outcome(syscall(SYS_ptrace, libc::PTRACE_ATTACH, 1, 0, 0))),
            ("raw socket", outcome(syscall(SYS_socket, libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP))),
            ("vsock", outcome(syscall(SYS_socket, libc::AF_VSOCK, libc::SOCK_STREAM, 0))),
        ]
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
    while children.len() < 400 {
        match Command::new("sleep").arg("1000").spawn() {
            Ok(child) => children.push(child),
            Err(_) => break,
        }
    }
    println!(
        "{}",
        if children.len() < 310 {
            "limited"
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

/// A caller with little memory runs what wants all of it.
fn memory(base: &str, group: &str) {
    fs::write(Utf8Path::new(group).join("cgroup.procs"), "0").unwrap();
    let sandbox = marked(base);
    // The last line of endless zeros is kept in memory.
    let finished = sandbox.run(&["tail", "/dev/zero"], b"", &mut |_| {});
    println!("{:?}", finished.unwrap().status);
    let finished = sandbox.run(&["true"], b"", &mut |_| {});
    println!("next: {:?}", finished.unwrap().status);
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
