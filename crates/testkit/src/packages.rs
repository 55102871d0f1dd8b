//! Small packages and repositories that tests make themselves.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::{Project, binary, stdout, success, target_dir};

/// A package with one file, `/usr/share/NAME/version`.
#[derive(Debug, Clone, Copy)]
pub struct Deb<'a> {
    /// Package name.
    pub name: &'a str,
    /// Version, which is also the file's content.
    pub version: &'a str,
    /// More fields of the control file, each with its newline.
    pub fields: &'a str,
    /// Maintainer scripts: name and text.
    pub scripts: &'a [(&'a str, &'a str)],
}

impl<'a> Deb<'a> {
    /// A package without dependencies and scripts.
    pub const fn new(name: &'a str, version: &'a str) -> Self {
        Self {
            name,
            version,
            fields: "",
            scripts: &[],
        }
    }

    /// Builds `DIR/NAME_VERSION.deb` in the project and returns that name.
    ///
    /// # Errors
    /// When a file can't be written or `dpkg-deb` fails.
    pub fn build(&self, project: &Project, dir: &str) -> Result<String> {
        let Self { name, version, .. } = self;
        let stage = format!("stage/{name}_{version}");
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Test <test@example.org>\nDescription: test\n{}",
            self.fields
        );
        project.write(&format!("{stage}/DEBIAN/control"), &control)?;
        let file = format!("usr/share/{name}/version");
        project.write(&format!("{stage}/{file}"), &format!("{version}\n"))?;
        let root = project.path().join(&stage);
        let sums = success(Command::new("md5sum").arg(&file).current_dir(&root))?;
        project.write(&format!("{stage}/DEBIAN/md5sums"), &stdout(&sums))?;
        for (script, text) in self.scripts {
            let path = project.write(&format!("{stage}/DEBIAN/{script}"), text)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
        }
        let target = format!("{dir}/{name}_{version}.deb");
        std::fs::create_dir_all(project.path().join(dir))?;
        let mut command = Command::new("dpkg-deb");
        command
            .current_dir(project.path())
            // The same bytes each time, so that later runs find it imported.
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .args(["--root-owner-group", "-b"])
            .args([&stage, &target]);
        success(&mut command)?;
        Ok(target)
    }
}

/// Makes the packages in `dir` of the project a flat repository signed by a new key, and writes
/// that key as `ORIGIN.gpg` beside the treefile.
///
/// # Errors
/// When `apt-ftparchive` or `gpg` fails.
pub fn publish(project: &Project, dir: &str, origin: &str) -> Result<()> {
    let at = project.path().join(dir);
    let archive = |args: &[&str]| {
        let mut command = Command::new("apt-ftparchive");
        success(command.current_dir(&at).args(args))
    };
    let packages = archive(&["packages", "."])?;
    std::fs::write(at.join("Packages"), packages.stdout).context("writing the index")?;
    let option = format!("APT::FTPArchive::Release::Origin={origin}");
    let release = archive(&["-o", &option, "release", "."])?;
    std::fs::write(at.join("Release"), release.stdout).context("writing the Release file")?;

    // gpg's sockets need a short path.
    let home = tempfile::TempDir::with_prefix("gpg-")?;
    let gpg = |args: &[&str]| {
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(home.path());
        command
            .args(["--batch", "--quiet", "--passphrase", ""])
            .args(args);
        success(&mut command)
    };
    gpg(&["--quick-generate-key", origin, "rsa2048", "sign", "never"])?;
    let key = project.path().join(format!("{origin}.gpg"));
    gpg(&["--output", key.as_str(), "--export"])?;
    let (signed, plain) = (at.join("InRelease"), at.join("Release"));
    let result = gpg(&["--output", signed.as_str(), "--clearsign", plain.as_str()]);
    let mut stop = Command::new("gpgconf");
    stop.arg("--homedir").arg(home.path());
    success(stop.args(["--kill", "all"]))?;
    result.map(drop)
}

/// The top of the source tree.
pub fn source_dir() -> &'static Utf8Path {
    Utf8Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Packs the workspace's programs as `make deb` does, but those that this test run has built: for
/// the release of this machine. Returns the `.deb` in `dir`.
///
/// # Errors
/// When the package can't be built.
pub fn apt_ostree(dir: &Utf8Path) -> Result<Utf8PathBuf> {
    let xtask = binary("xtask")?;
    let programs = xtask.parent().context("a program has no directory")?;
    let mut command = Command::new(source_dir().join("scripts/make-deb.sh"));
    command
        .args(["--output", dir.as_str(), "--programs", programs.as_str()])
        .env("CARGO_TARGET_DIR", target_dir()?);
    let output = stdout(&success(&mut command)?);
    let path = output.trim().strip_prefix("The package is ");
    path.map(Utf8PathBuf::from)
        .with_context(|| format!("make-deb.sh does not name a package: {output}"))
}
