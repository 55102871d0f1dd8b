//! Takes rights away from the calling process.

use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use crate::init::Failure;
use crate::seccomp;

/// What maintainer scripts need: owners, modes, ids, signals, chroot, file capabilities.
///
/// Deliberately not here: `DAC_READ_SEARCH` (opens any file of a file system by its handle, which
/// leads out of the target), `MKNOD` (device files), `SYS_ADMIN`, `NET_ADMIN`, `SYS_PTRACE`.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SETFCAP);

/// Closes all but the three standard file descriptors.
pub(crate) fn close_inherited_files() -> io::Result<()> {
    #[expect(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: called first thing in `main` of a process with one thread, which owns no descriptor
    // above 2 yet: those that are open came from the process before us and nobody refers to them.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Leaves the namespaces in `flags`.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    #[expect(unsafe_code, reason = "unsafe for the flag FILES only")]
    // SAFETY: FILES is never among the flags, so the descriptor table stays as it is.
    unsafe { rustix::thread::unshare_unsafe(flags & !UnshareFlags::FILES) }?;
    Ok(())
}

/// Brings up the loopback interface of a fresh network namespace by one netlink message.
pub(crate) fn bring_loopback_up() -> io::Result<()> {
    const NEWLINK: u16 = 16;
    const REQUEST_ACK: u16 = 1 | 4;
    const IFF_UP: u32 = 1;
    const LOOPBACK_INDEX: i32 = 1;
    let mut message = Vec::with_capacity(32);
    // struct nlmsghdr: length, type, flags, sequence, port.
    message.extend(32_u32.to_ne_bytes());
    message.extend(NEWLINK.to_ne_bytes());
    message.extend(REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]);
    // struct ifinfomsg: family, padding, type, index, flags, mask of flags to change.
    message.extend([0; 4]);
    message.extend(LOOPBACK_INDEX.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0; 128];
    let (_, count) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // struct nlmsgerr after the header: 0 or a negative error number.
    let code = answer[..count]
        .get(16..20)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

/// Sets the limits of Debian's defaults, whatever those of the caller are.
pub(crate) fn set_limits() -> io::Result<()> {
    let limit = |soft, hard| Rlimit {
        current: soft,
        maximum: hard,
    };
    let hard_files = rustix::process::getrlimit(Resource::Nofile).maximum;
    let files = hard_files.map_or(1 << 20, |hard| hard.min(1 << 20));
    for (resource, value) in [
        (Resource::Core, limit(Some(0), Some(0))),
        (Resource::Stack, limit(Some(8 << 20), None)),
        (Resource::Cpu, limit(None, None)),
        (Resource::Data, limit(None, None)),
        (Resource::As, limit(None, None)),
        (Resource::Fsize, limit(None, None)),
        (Resource::Nproc, limit(None, None)),
        (Resource::Nofile, limit(Some(files.min(1024)), Some(files))),
    ] {
        match rustix::process::setrlimit(resource, value) {
            // Without CAP_SYS_RESOURCE a hard limit of the caller can't be raised: it stays.
            Ok(()) | Err(rustix::io::Errno::PERM) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Gives up what the program must not have; there is no way back.
pub(crate) fn drop_privileges(network: bool) -> Result<(), Failure> {
    let failed = |e: rustix::io::Errno| Failure::new("dropping capabilities", e);
    rustix::thread::clear_ambient_capability_set().map_err(failed)?;
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if KEPT.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // One that this kernel does not know.
            Err(rustix::io::Errno::INVAL) => break,
            Err(e) => return Err(failed(e)),
        }
    }
    let held = rustix::thread::capabilities(None)
        .map_err(failed)?
        .permitted;
    let sets = CapabilitySets {
        effective: held & KEPT,
        permitted: held & KEPT,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets).map_err(failed)?;
    rustix::thread::set_no_new_privs(true)
        .map_err(|e| Failure::new("forbidding new privileges", e))?;
    seccomp::install(network).map_err(|e| Failure::new("installing the system call filter", e))
}
