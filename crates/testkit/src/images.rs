//! Container images of a few files, and a registry that serves them.

use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};

use crate::{stdout, success, target_dir};

/// A directory in OCI layout, whose images can be deployed.
#[derive(Debug)]
pub struct ImageDir {
    dir: tempfile::TempDir,
}

/// An image to write.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// Tar streams of its layers, lowest first.
    pub layers: Vec<Vec<u8>>,
    /// Labels.
    pub labels: Value,
    /// When it was made, as a date.
    pub created: String,
}

impl NewImage {
    /// An image that can be booted, of two layers: one that all versions share, and one with
    /// `/usr/share/version`, `/etc/default-version` and the database of the package `demo`.
    ///
    /// # Errors
    /// When a layer can't be made.
    pub fn tiny(version: &str) -> Result<Self> {
        let status = format!(
            "Package: demo\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}-1\n"
        );
        let upper = [
            ("usr/share/version", format!("{version}\n")),
            ("etc/default-version", format!("{version}\n")),
            ("usr/lib/sysimage/dpkg/status", status),
        ];
        let upper: Vec<(&str, &str)> = upper.iter().map(|(n, t)| (*n, t.as_str())).collect();
        Ok(Self {
            layers: vec![system_layer()?, files_layer(&upper)?],
            labels: json!({
                "containers.bootc": "1",
                "org.opencontainers.image.version": version,
            }),
            created: format!("2026-01-01T00:00:{version:0>2}Z"),
        })
    }
}

impl ImageDir {
    /// Makes an empty one.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn new() -> Result<Self> {
        let parent = target_dir()?.join("test-work");
        std::fs::create_dir_all(&parent)?;
        let images = Self {
            dir: tempfile::TempDir::with_prefix_in("images-", &parent)?,
        };
        std::fs::create_dir_all(images.path().join("blobs/sha256"))?;
        std::fs::write(
            images.path().join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        Ok(images)
    }

    /// Where it is.
    pub fn path(&self) -> Utf8PathBuf {
        let dir = Utf8Path::from_path(self.dir.path());
        dir.unwrap_or(Utf8Path::new("/nonexistent")).to_owned()
    }

    /// The image with a tag as skopeo spells it.
    pub fn image(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.path())
    }

    /// The file of a blob.
    pub fn blob(&self, digest: &str) -> Utf8PathBuf {
        let name = digest.trim_start_matches("sha256:");
        self.path().join("blobs/sha256").join(name)
    }

    /// Writes an image and points a tag to it; returns its digest. Layers are packed with gzip.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, tag: &str, image: &NewImage) -> Result<String> {
        let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
        for layer in &image.layers {
            diff_ids.push(digest(layer)?);
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut packer, layer)?;
            layers.push(self.add(
                "application/vnd.oci.image.layer.v1.tar+gzip",
                &packer.finish()?,
            )?);
        }
        let config = json!({
            "created": image.created, "architecture": architecture(), "os": "linux",
            "config": {"Labels": image.labels},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = serde_json::to_vec(&config)?;
        let config = self.add("application/vnd.oci.image.config.v1+json", &config)?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        }))?;
        let mut entry = self.add(MANIFEST, &manifest)?;
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        let digest = entry["digest"].as_str().unwrap_or_default().to_owned();
        self.set_tag(tag, entry)?;
        Ok(digest)
    }

    fn set_tag(&self, tag: &str, entry: Value) -> Result<()> {
        let path = self.path().join("index.json");
        let text = std::fs::read(&path).unwrap_or_else(|_| b"{\"manifests\":[]}".to_vec());
        let index: Value = serde_json::from_slice(&text)?;
        let old = index["manifests"].as_array().into_iter().flatten();
        let other = |m: &&Value| m["annotations"]["org.opencontainers.image.ref.name"] != tag;
        let mut manifests: Vec<Value> = old.filter(other).cloned().collect();
        manifests.push(entry);
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        std::fs::write(&path, serde_json::to_vec(&index)?)?;
        Ok(())
    }

    fn add(&self, kind: &str, data: &[u8]) -> Result<Value> {
        let digest = digest(data)?;
        std::fs::write(self.blob(&digest), data)?;
        Ok(json!({"mediaType": kind, "digest": digest, "size": data.len()}))
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn digest(data: &[u8]) -> Result<String> {
    let (digest, _) = apt_ostree_fsx::sha256_reader(data)?;
    Ok(digest.to_oci())
}

/// A layer with what a system needs to be deployed and, with the `/usr` of the host, be booted.
///
/// # Errors
/// When it can't be made.
pub fn system_layer() -> Result<Vec<u8>> {
    let dir = tempfile::TempDir::new()?;
    let tree = Utf8Path::from_path(dir.path()).context("the path is not UTF-8")?;
    let dirs = "boot dev etc proc run sys sysroot tmp var usr/bin usr/sbin usr/lib usr/lib64 \
                usr/share usr/lib/modules/6.1.0";
    for name in dirs.split_whitespace() {
        std::fs::create_dir_all(tree.join(name))?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), tree.join(name))?;
    }
    symlink("sysroot/ostree", tree.join("ostree"))?;
    for (name, text) in [
        ("usr/lib/os-release", "ID=debian\nPRETTY_NAME=\"Tiny\"\n"),
        ("usr/lib/modules/6.1.0/vmlinuz", "kernel"),
        ("usr/lib/modules/6.1.0/initramfs.img", "initramfs"),
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
    ] {
        std::fs::write(tree.join(name), text)?;
    }
    tar_directory(tree)
}

/// A layer of regular files.
///
/// # Errors
/// When it can't be made.
pub fn files_layer(files: &[(&str, &str)]) -> Result<Vec<u8>> {
    let dir = tempfile::TempDir::new()?;
    let tree = Utf8Path::from_path(dir.path()).context("the path is not UTF-8")?;
    for (name, text) in files {
        let path = tree.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(tree))?;
        std::fs::write(path, text)?;
    }
    tar_directory(tree)
}

fn tar_directory(tree: &Utf8Path) -> Result<Vec<u8>> {
    success(Command::new("chmod").args(["-R", "u=rwX,go=rX", tree.as_str()]))?;
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "--owner=0", "--group=0", "--sort=name"]);
    tar.args(["--mtime=@0", "-C", tree.as_str(), "-cf", "-", "."]);
    Ok(success(&mut tar)?.stdout)
}

/// A registry on the loopback interface, without TLS.
#[derive(Debug)]
pub struct Registry {
    dir: tempfile::TempDir,
    child: Option<Child>,
    port: u16,
}

impl Registry {
    /// Starts an empty one.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn start() -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut registry = Self {
            dir: tempfile::TempDir::new()?,
            child: None,
            port,
        };
        registry.serve()?;
        Ok(registry)
    }

    /// Starts it again with what it has.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn serve(&mut self) -> Result<()> {
        let config = self.dir.path().join("config.yml");
        std::fs::write(&config, "version: 0.1\n")?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .env("REGISTRY_HTTP_ADDR", format!("127.0.0.1:{}", self.port))
            .env("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", self.dir.path())
            .env("REGISTRY_LOG_LEVEL", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting docker-registry")?;
        self.child = Some(child);
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            ensure!(
                start.elapsed() < Duration::from_secs(60),
                "the registry is not up"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Stops it.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// `HOST:PORT`.
    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// Copies an image to `NAME:TAG` of the registry.
    ///
    /// # Errors
    /// When skopeo says so.
    pub fn push(&self, image: &str, name: &str) -> Result<()> {
        let target = format!("docker://{}/{name}", self.host());
        success(Command::new("skopeo").args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
            image,
            &target,
        ]))?;
        Ok(())
    }

    /// How many layers were ever uploaded to it.
    ///
    /// # Errors
    /// When its storage can't be read.
    pub fn blobs(&self) -> Result<usize> {
        let mut find = Command::new("find");
        find.arg(self.dir.path())
            .args(["-path", "*/blobs/*", "-name", "data"]);
        Ok(stdout(&success(&mut find)?).lines().count())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A directory that takes the place of `/etc/containers` for one command.
#[derive(Debug)]
pub struct ContainersConfig {
    dir: tempfile::TempDir,
}

impl ContainersConfig {
    /// One with a policy, and a registry that needs no TLS.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn new(policy: &Value, insecure: Option<&str>) -> Result<Self> {
        let dir = tempfile::TempDir::new()?;
        std::fs::write(dir.path().join("policy.json"), policy.to_string())?;
        let registries =
            insecure.map(|host| format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n"));
        std::fs::write(
            dir.path().join("registries.conf"),
            registries.unwrap_or_default(),
        )?;
        Ok(Self { dir })
    }

    /// A run of `program` that sees it.
    pub fn command(&self, program: &Utf8Path) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .arg("mount --bind \"$0\" /etc/containers && exec \"$@\"")
            .arg(self.dir.path())
            .arg(program);
        command
    }
}
