//! A system bus and a polkit of their own, a sysroot with one small deployment, and the daemon.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, Result};
use apt_ostree_ipc::proxy::{OsProxy, SysrootProxy};
pub(crate) use apt_ostree_testkit::systembus::wait_for;
use apt_ostree_testkit::systembus::{DATA, SystemBus, quiet};
use apt_ostree_testkit::{binary, success};
use tempfile::TempDir;
use zbus::Connection;

/// A user without rights or a session.
pub(crate) const NOBODY: u32 = 65534;

/// Another one; the bus takes only those that have a name.
pub(crate) const OTHER: u32 = 1;

/// Everything ends with it.
pub(crate) struct Fixture {
    dir: TempDir,
    bus: SystemBus,
    daemon: Option<Child>,
}

/// What differs between fixtures.
#[derive(Default)]
pub(crate) struct Options {
    /// No polkit runs.
    pub(crate) without_polkit: bool,
    /// JavaScript rules of polkit.
    pub(crate) rules: &'static str,
    /// Content of the configuration.
    pub(crate) config: &'static str,
}

impl Fixture {
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("apt-ostreed.").tempdir()?;
        // Other users connect to the bus in it.
        success(Command::new("chmod").arg("755").arg(dir.path()))?;
        let mut bus = SystemBus::start(&dir.path().join("bus"))?;
        if !options.without_polkit {
            bus.start_polkit(options.rules)?;
        }
        let mut fixture = Self {
            dir,
            bus,
            daemon: None,
        };
        fixture.make_sysroot()?;
        std::fs::write(fixture.path("apt-ostreed.conf"), options.config)?;
        fixture.write_worker()?;
        fixture.start_daemon()?;
        Ok(fixture)
    }

    pub(crate) fn address(&self) -> String {
        self.bus.address()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A commit with what libostree wants of a tree, deployed once.
    fn make_sysroot(&self) -> Result<()> {
        let tree = self.path("tree");
        let modules = tree.join("usr/lib/modules/6.1.0");
        std::fs::create_dir_all(&modules)?;
        std::fs::create_dir_all(tree.join("usr/etc"))?;
        std::fs::write(tree.join("usr/lib/os-release"), "ID=test\nNAME=Test\n")?;
        self.write_packages(&tree)?;
        std::fs::write(modules.join("vmlinuz"), "kernel")?;
        std::fs::write(modules.join("initramfs.img"), "initramfs")?;
        let sysroot = self.path("sysroot");
        std::fs::create_dir(&sysroot)?;
        let option = format!("--sysroot={}", sysroot.display());
        let repo = format!("--repo={}", sysroot.join("ostree/repo").display());
        let admin = |args: &[&str]| success(Command::new("ostree").arg("admin").args(args));
        success(
            Command::new("ostree")
                .args(["admin", "init-fs", "--modern"])
                .arg(&sysroot),
        )?;
        admin(&["os-init", &option, "test-os"])?;
        success(
            Command::new("ostree")
                .args([
                    &repo,
                    "commit",
                    "--branch=test",
                    "--owner-uid=0",
                    "--owner-gid=0",
                ])
                .arg("--add-metadata-string=version=1.0")
                .arg(format!("--tree=dir={}", tree.display())),
        )?;
        admin(&["deploy", &option, "--os=test-os", "--karg=quiet", "test"])?;
        Ok(())
    }

    /// A package database, and a package source with one more package.
    fn write_packages(&self, tree: &Path) -> Result<()> {
        let stanza = |name: &str, version: &str, summary: &str| {
            format!(
                "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: T <t@example.org>\n\
                 Description: {summary}\n"
            )
        };
        let database = tree.join("usr/lib/sysimage/dpkg");
        std::fs::create_dir_all(&database)?;
        let old = stanza("demo", "1:1-1", "a tool to show");
        let installed = old.replace("Version", "Status: install ok installed\nVersion");
        std::fs::write(database.join("status"), installed + "\n")?;
        let repo = self.path("packages");
        std::fs::create_dir(&repo)?;
        let mut index = String::new();
        for (name, version, summary, more) in [
            ("demo", "1:1-2", "a tool to show", ""),
            ("demo-doc", "2", "how to use it", "Provides: manual\n"),
            ("other", "3", "needed for demo", ""),
        ] {
            let text = stanza(name, version, summary);
            let file = format!(
                "Filename: ./{name}.deb\nSize: 1\nSHA256: {:064}\n{more}\n",
                0
            );
            index.push_str(&(text + &file));
        }
        std::fs::write(repo.join("Packages"), index)?;
        let sources = tree.join("usr/etc/apt/sources.list.d");
        std::fs::create_dir_all(&sources)?;
        let line = format!("deb [trusted=yes] file:{} ./\n", repo.display());
        std::fs::write(sources.join("local.list"), line)?;
        Ok(())
    }

    /// The real worker, which waits while there is a file `hold` when it changes something.
    fn write_worker(&self) -> Result<()> {
        let script = format!(
            "#!/bin/sh\nrequest=$(cat)\ncase $request in\n*'\"verb\":\"status\"'*) ;;\n\
             *) echo $$ >'{0}/worker.pid'; while [ -e '{0}/hold' ]; do sleep 0.05; done ;;\nesac\n\
             printf '%s' \"$request\" | '{1}'\n",
            self.dir.path().display(),
            binary("apt-ostree-worker")?
        );
        let path = self.path("worker");
        std::fs::write(&path, script)?;
        success(Command::new("chmod").arg("755").arg(&path))?;
        Ok(())
    }

    pub(crate) fn start_daemon(&mut self) -> Result<()> {
        let mut command = Command::new(binary("apt-ostreed")?);
        command
            .arg("--sysroot")
            .arg(self.path("sysroot"))
            .arg("--config")
            .arg(self.path("apt-ostreed.conf"))
            .args(["--cancel-grace", "2"])
            .env("DBUS_SYSTEM_BUS_ADDRESS", self.bus.address())
            .env("APTOSTREE_WORKER", self.path("worker"));
        self.daemon = Some(quiet(&mut command)?);
        wait_for("the daemon", || self.bus.has_name("org.aptostree1"))
    }

    pub(crate) fn daemon(&mut self) -> &mut Child {
        self.daemon.as_mut().unwrap()
    }

    /// Makes changes wait.
    pub(crate) fn hold(&self) {
        std::fs::write(self.path("hold"), "").unwrap();
    }

    /// Lets changes go on.
    pub(crate) fn go_on(&self) {
        std::fs::remove_file(self.path("hold")).unwrap();
    }

    /// The id of a worker that holds.
    pub(crate) fn held_worker(&self) -> Result<i32> {
        let path = self.path("worker.pid");
        let read = || std::fs::read_to_string(&path).ok()?.trim().parse().ok();
        wait_for("the worker", || read().is_some())?;
        read().context("no worker")
    }

    /// Runs `work` with a connection of the user `uid`, on a thread that is that user.
    pub(crate) fn as_user<T: Send>(
        &self,
        uid: u32,
        work: impl AsyncFnOnce(Connection) -> Result<T> + Send,
    ) -> Result<T> {
        let address = self.bus.address();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                if uid != 0 {
                    let id = rustix::process::Uid::from_raw(uid);
                    rustix::thread::set_thread_res_uid(id, id, id)?;
                }
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?
                    .block_on(async {
                        let connection = zbus::connection::Builder::address(address.as_str())?
                            .method_timeout(Duration::from_secs(60))
                            .build()
                            .await?;
                        work(connection).await
                    })
            });
            thread.join().unwrap()
        })
    }

    /// The kernel arguments of the deployment that boots next.
    pub(crate) fn boots_with(&self, argument: &str) -> bool {
        let entries = self.path("sysroot/boot/loader/entries");
        std::fs::read_dir(entries)
            .unwrap()
            .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok())
            .any(|text| text.split_whitespace().any(|word| word == argument))
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            drop(daemon.kill());
            drop(daemon.wait());
        }
    }
}

pub(crate) async fn sysroot(connection: &Connection) -> Result<SysrootProxy<'static>> {
    Ok(SysrootProxy::new(connection).await?)
}

/// The only stateroot.
pub(crate) async fn os(connection: &Connection) -> Result<OsProxy<'static>> {
    let path = sysroot(connection).await?.get_os("test-os").await?;
    Ok(OsProxy::builder(connection).path(path)?.build().await?)
}

/// The data directory.
pub(crate) fn data() -> &'static Path {
    Path::new(DATA)
}
