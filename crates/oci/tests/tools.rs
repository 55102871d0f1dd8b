//! Real tools read what is written, and find the tree in it again.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::path::Path;
use std::process::Command;

use apt_ostree_model::compose::{Compression, ImageFormat};
use apt_ostree_oci::{BlobCache, Image, read_oci_image};
use common::{REFERENCE, Sample, assert_same, awkward, config};
use serde_json::Value;
use tempfile::TempDir;

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("starting {command:?}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn skopeo(args: &[&str]) -> String {
    run(Command::new("skopeo").arg("--insecure-policy").args(args))
}

struct Written {
    dir: TempDir,
    image: Image,
}

impl Written {
    fn new(sample: &Sample, compression: Compression) -> Self {
        let dir = TempDir::new().unwrap();
        let cache = BlobCache::open(&dir.path().join("cache")).unwrap();
        let mut encoder = sample.encoder(&cache);
        encoder.compression = compression;
        let layers = encoder.encode(&sample.plans(64)).unwrap();
        let image = config().build(layers).unwrap();
        Self { dir, image }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, format: ImageFormat, name: &str) -> String {
        let path = self.path(name);
        let report = self
            .image
            .write(format, Path::new(&path), REFERENCE, 2)
            .unwrap();
        assert_eq!(report.digest, self.image.manifest_digest);
        assert_eq!(report.layers, self.image.layers.len());
        path
    }
}

fn inspect(reference: &str) -> Value {
    serde_json::from_str(&skopeo(&["inspect", reference])).unwrap()
}

#[test]
fn skopeo_reads_every_format() {
    let written = Written::new(&awkward(), Compression::Gzip);
    let oci = written.write(ImageFormat::Oci, "x.oci");
    let archive = written.write(ImageFormat::OciArchive, "x.oci.tar");
    let docker = written.write(ImageFormat::DockerArchive, "x.tar");
    let digests: Vec<String> = written
        .image
        .layers
        .iter()
        .map(|l| l.digest.to_oci())
        .collect();
    let diff_ids: Vec<String> = written
        .image
        .layers
        .iter()
        .map(|l| l.diff_id.to_oci())
        .collect();
    for (reference, layers) in [
        (format!("oci:{oci}"), &digests),
        (format!("oci:{oci}:{REFERENCE}"), &digests),
        (format!("oci-archive:{archive}"), &digests),
        (format!("docker-archive:{docker}"), &diff_ids),
        (format!("docker-archive:{docker}:{REFERENCE}"), &diff_ids),
    ] {
        let found = inspect(&reference);
        assert_eq!(found["Layers"], serde_json::json!(layers), "{reference}");
        assert_eq!(found["Labels"]["containers.bootc"], "1");
        assert_eq!(found["Labels"]["ostree.bootable"], "true");
        assert_eq!(found["Architecture"], "amd64");
        assert_eq!(found["Os"], "linux");
        assert_eq!(found["Created"], "2023-11-14T22:13:20Z");
        if !reference.starts_with("docker") {
            assert_eq!(found["Digest"], written.image.manifest_digest.to_oci());
        }
        let raw = skopeo(&["inspect", "--config", "--raw", &reference]);
        assert_eq!(raw.as_bytes(), written.image.config, "{reference}");
    }
}

#[test]
fn a_copy_by_skopeo_keeps_the_digest_and_is_read_back() {
    let written = Written::new(&awkward(), Compression::Gzip);
    let oci = written.write(ImageFormat::Oci, "x.oci");
    let archive = written.write(ImageFormat::OciArchive, "x.oci.tar");
    for source in [format!("oci:{oci}"), format!("oci-archive:{archive}")] {
        for kind in ["oci", "oci-archive"] {
            let copy = written.path(&format!("copy.{kind}"));
            let target = format!("{kind}:{copy}:{REFERENCE}");
            skopeo(&["copy", "--preserve-digests", &source, &target]);
            let back = read_oci_image(Path::new(&copy)).unwrap().unwrap();
            assert_eq!(back.manifest_digest, written.image.manifest_digest);
            assert_eq!(back.layers.len(), written.image.layers.len());
            std::fs::remove_file(&copy)
                .or_else(|_| std::fs::remove_dir_all(&copy))
                .unwrap();
        }
    }
}

#[test]
fn umoci_unpacks_the_same_tree_with_any_compression() {
    let sample = awkward();
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let written = Written::new(&sample, compression);
        let mut oci = written.write(ImageFormat::Oci, "x.oci");
        if compression == Compression::Zstd {
            // Older umoci doesn't know zstd; another reader's opinion is as good.
            let plain = written.path("plain.oci");
            let target = format!("oci:{plain}:{REFERENCE}");
            let source = format!("oci:{oci}");
            let format = ["--dest-compress-format", "gzip", "--dest-compress"];
            run(Command::new("skopeo")
                .args(["--insecure-policy", "copy"])
                .args(format)
                .args([&source, &target]));
            oci = plain;
        }
        let bundle = written.path("bundle");
        let image = format!("{oci}:{REFERENCE}");
        run(Command::new("umoci").args(["unpack", "--image", &image, &bundle]));
        assert_same(&sample, &Path::new(&bundle).join("rootfs"));
    }
}

#[test]
fn podman_loads_the_same_tree_from_every_format() {
    let sample = awkward();
    let written = Written::new(&sample, Compression::Gzip);
    for (format, name, load) in [
        (ImageFormat::DockerArchive, "x.tar", true),
        (ImageFormat::OciArchive, "x.oci.tar", true),
        (ImageFormat::Oci, "x.oci", false),
    ] {
        let path = written.write(format, name);
        let state = TempDir::new_in(written.dir.path()).unwrap();
        let podman = |args: &[&str]| {
            let place = |name| state.path().join(name);
            run(Command::new("podman")
                .current_dir(written.dir.path())
                .env("TMPDIR", state.path())
                .args(["--storage-driver", "vfs"])
                .arg("--root")
                .arg(place("root"))
                .arg("--runroot")
                .arg(place("run"))
                .arg("--tmpdir")
                .arg(place("tmp"))
                .args(args))
        };
        if load {
            podman(&["load", "-q", "-i", &path]);
            let id = podman(&["image", "inspect", "--format", "{{.Id}}", REFERENCE]);
            assert_eq!(id.trim(), written.image.config_digest.to_string());
        } else {
            // The name comes from the path of a directory, which so must be in lower case.
            podman(&["load", "-q", "-i", name]);
        }
        let id = written.image.config_digest.to_string();
        let root = podman(&["image", "mount", &id]);
        assert_same(&sample, Path::new(root.trim()));
        podman(&["image", "unmount", &id]);
    }
}

#[test]
fn gnu_tar_lists_a_layer_without_complaint() {
    let sample = awkward();
    let written = Written::new(&sample, Compression::Gzip);
    let oci = written.write(ImageFormat::Oci, "x.oci");
    let mut paths = std::collections::BTreeSet::new();
    for layer in &written.image.layers {
        let blob = format!("{oci}/blobs/sha256/{}", layer.digest);
        let output = Command::new("tar")
            .args(["--quoting-style=literal", "--show-transformed-names"])
            .args(["-tzf", &blob])
            .env("LC_ALL", "C.UTF-8")
            .output()
            .unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let list = String::from_utf8(output.stdout).unwrap();
        paths.extend(
            list.lines()
                .map(|line| line.trim_end_matches('/').to_owned()),
        );
    }
    for (path, _) in sample.tree.walk() {
        if !path.contains('\n') {
            assert!(paths.contains(&path), "{path}");
        }
    }
    assert!(paths.contains("."));
}
