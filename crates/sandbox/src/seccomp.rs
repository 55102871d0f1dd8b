//! The system call filter: closes doors that namespaces and capabilities leave open.
//!
//! It is a second line. What it names is refused with an error, so that programs can go on; all
//! else is allowed.

use std::io;

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog,
};

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
/// The low half of the first argument.
const FIRST_ARGUMENT: u32 = if cfg!(target_endian = "little") {
    16
} else {
    20
};

/// The user namespace flag of clone and unshare: it would give all capabilities over new objects.
const NEW_USER: u32 = libc::CLONE_NEWUSER.cast_unsigned();

/// System call numbers of one architecture.
struct Table {
    arch: u32,
    refused: &'static [u32],
    clone: u32,
    unshare: u32,
    /// Takes its flags by pointer, so it can't be judged; C libraries fall back to `clone`.
    clone3: u32,
    socket: u32,
}

/// A system call number as the filter sees it.
const fn number(call: libc::c_long) -> u32 {
    // Numbers are small and positive.
    call as u32
}

#[cfg(target_arch = "x86_64")]
const NATIVE_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE_ARCH: u32 = 0xc000_00b7;
#[cfg(target_arch = "riscv64")]
const NATIVE_ARCH: u32 = 0xc000_00f3;
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
compile_error!("the sandbox does not know this architecture's audit number");

const NATIVE: Table = Table {
    arch: NATIVE_ARCH,
    refused: &[
        number(libc::SYS_add_key),
        number(libc::SYS_bpf),
        number(libc::SYS_delete_module),
        number(libc::SYS_finit_module),
        number(libc::SYS_init_module),
        number(libc::SYS_io_uring_setup),
        number(libc::SYS_kexec_load),
        number(libc::SYS_keyctl),
        number(libc::SYS_open_by_handle_at),
        number(libc::SYS_perf_event_open),
        number(libc::SYS_request_key),
        number(libc::SYS_setns),
        number(libc::SYS_syslog),
        number(libc::SYS_userfaultfd),
    ],
    clone: number(libc::SYS_clone),
    unshare: number(libc::SYS_unshare),
    clone3: number(libc::SYS_clone3),
    socket: number(libc::SYS_socket),
};

/// 32-bit programs on a 64-bit PC.
#[cfg(target_arch = "x86_64")]
const COMPAT: Option<Table> = Some(Table {
    arch: 0x4000_0003,
    // The same calls in the same order.
    refused: &[
        286, 357, 129, 350, 128, 425, 283, 288, 342, 336, 287, 346, 103, 374,
    ],
    clone: 120,
    unshare: 310,
    clone3: 435,
    socket: 359,
});
#[cfg(not(target_arch = "x86_64"))]
const COMPAT: Option<Table> = None;

/// Installs the filter for this process and its children; needs "no new privileges".
pub(crate) fn install(network: bool) -> io::Result<()> {
    let mut filter = program(network);
    let program = sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_mut_ptr(),
    };
    #[expect(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: `program` points to `filter`, both live during the call; the kernel copies them.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn program(network: bool) -> Vec<sock_filter> {
    let mut filter = vec![load(ARCH)];
    for table in [Some(NATIVE), COMPAT].into_iter().flatten() {
        let checks = checks(&table, network);
        // Skips the table, which ends with "allow", when the call is of another architecture.
        filter.push(jump(BPF_JEQ, table.arch, 1, 0));
        filter.push(sock_filter {
            code: (BPF_JMP | libc::BPF_JA) as u16,
            jt: 0,
            jf: 0,
            k: checks.len() as u32,
        });
        filter.extend(checks);
    }
    filter.push(allow());
    filter
}

fn checks(table: &Table, network: bool) -> Vec<sock_filter> {
    let mut filter = vec![load(NUMBER)];
    if table.arch == 0xc000_003e {
        // The x32 variant of the calls.
        filter.extend([jump(BPF_JSET, 0x4000_0000, 0, 1), refuse(libc::ENOSYS)]);
    }
    for call in table.refused {
        filter.extend([jump(BPF_JEQ, *call, 0, 1), refuse(libc::EPERM)]);
    }
    filter.extend([jump(BPF_JEQ, table.clone3, 0, 1), refuse(libc::ENOSYS)]);
    for call in [table.clone, table.unshare] {
        let test = jump(BPF_JSET, NEW_USER, 0, 1);
        filter.extend(argument_check(call, test, libc::EPERM));
    }
    if !network {
        // Sockets to the hypervisor know no namespaces.
        let test = jump(BPF_JEQ, libc::AF_VSOCK.cast_unsigned(), 0, 1);
        filter.extend(argument_check(table.socket, test, libc::EAFNOSUPPORT));
    }
    filter.push(allow());
    filter
}

/// Refuses `call` when its first argument passes `test`.
fn argument_check(call: u32, test: sock_filter, error: i32) -> [sock_filter; 5] {
    [
        jump(BPF_JEQ, call, 0, 4),
        load(FIRST_ARGUMENT),
        test,
        refuse(error),
        load(NUMBER),
    ]
}

const fn load(offset: u32) -> sock_filter {
    sock_filter {
        code: (BPF_LD | BPF_W | BPF_ABS) as u16,
        jt: 0,
        jf: 0,
        k: offset,
    }
}

const fn jump(condition: u32, value: u32, if_true: u8, if_false: u8) -> sock_filter {
    sock_filter {
        code: (BPF_JMP | condition | BPF_K) as u16,
        jt: if_true,
        jf: if_false,
        k: value,
    }
}

const fn refuse(error: i32) -> sock_filter {
    sock_filter {
        code: (BPF_RET | BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ERRNO | error.cast_unsigned(),
    }
}

const fn allow() -> sock_filter {
    sock_filter {
        code: (BPF_RET | BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    }
}
