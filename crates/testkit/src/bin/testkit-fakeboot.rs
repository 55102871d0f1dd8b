//! `testkit-fakeboot SYSROOT DEPLOYMENT STATEROOT RUN [NAME=DIR...] -- PROGRAM ARGS...`: makes the
//! mounts of a booted deployment, in namespaces that were made before, and runs the program.
//!
//! The `/usr` of the host stands in for that of the deployment, so a tree of a few files is
//! enough, and programs of the host work.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
    mount_change, mount_remount, unmount,
};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let error = match enter(&args) {
        Ok(mut command) => anyhow::Error::new(command.exec()),
        Err(error) => error,
    };
    let line = format!("testkit-fakeboot: {error:#}\n");
    drop(std::io::Write::write_all(
        &mut std::io::stderr(),
        line.as_bytes(),
    ));
    ExitCode::from(125)
}

fn enter(args: &[String]) -> Result<Command> {
    let split = args.iter().position(|a| a == "--").context("no '--'")?;
    let (places, program) = (&args[..split], &args[split + 1..]);
    let [sysroot, root, stateroot, run, shared @ ..] = places else {
        anyhow::bail!("too few arguments");
    };
    let (sysroot, root) = (Utf8Path::new(sysroot), Utf8PathBuf::from(root));
    let read_only = |path: &Utf8Path| {
        mount_remount(path.as_str(), MountFlags::BIND | MountFlags::RDONLY, "")
            .with_context(|| format!("making '{path}' read-only"))
    };
    bind(&root, &root)?;
    bind(sysroot, &root.join("sysroot"))?;
    bind(&sysroot.join("boot"), &root.join("boot"))?;
    bind(Utf8Path::new("/usr"), &root.join("usr"))?;
    bind(
        &Utf8Path::new(run).join("systemctl"),
        &root.join("usr/bin/systemctl"),
    )?;
    read_only(&root.join("usr"))?;
    bind(&root.join("etc"), &root.join("etc"))?;
    let var = sysroot.join("ostree/deploy").join(stateroot).join("var");
    bind(&var, &root.join("var"))?;
    read_only(&root.join("sysroot"))?;
    bind(Utf8Path::new(run), &root.join("run"))?;
    for entry in shared {
        let (name, dir) = entry.split_once('=').context("no '=' in a share")?;
        let to = root.join("run/host").join(name);
        std::fs::create_dir_all(&to)?;
        bind(Utf8Path::new(dir), &to)?;
    }
    filesystems(&root)?;
    pivot(&root)?;
    let (program, args) = program.split_first().context("no program")?;
    let mut command = Command::new(program);
    command.args(args);
    Ok(command)
}

fn filesystems(root: &Utf8Path) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    for (kind, name) in [("proc", "proc"), ("tmpfs", "tmp")] {
        let to = root.join(name);
        mount(kind, to.as_str(), kind, flags, None).with_context(|| format!("mounting '{to}'"))?;
    }
    for name in ["sys", "dev"] {
        let to = root.join(name);
        mount_bind_recursive(format!("/{name}").as_str(), to.as_str())
            .with_context(|| format!("mounting '{to}'"))?;
    }
    Ok(())
}

fn pivot(root: &Utf8Path) -> Result<()> {
    std::env::set_current_dir(root)?;
    rustix::process::pivot_root(".", ".").context("changing the root")?;
    unmount(".", UnmountFlags::DETACH).context("leaving the old root")?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    std::env::set_current_dir("/")?;
    Ok(())
}

fn bind(from: &Utf8Path, to: &Utf8Path) -> Result<()> {
    mount_bind(from.as_str(), to.as_str()).with_context(|| format!("mounting '{from}' on '{to}'"))
}
