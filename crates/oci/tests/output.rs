//! Image files: what is in them, how they appear, and what they replace.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use apt_ostree_model::compose::{Compression, ImageFormat};
use apt_ostree_model::{ErrorKind, Kinded, Meta};
use apt_ostree_oci::{BlobCache, Image, read_oci_image};
use common::{REFERENCE, Sample, awkward, config};
use serde_json::{Value, json};
use tempfile::TempDir;

const FORMATS: [ImageFormat; 3] = [
    ImageFormat::Oci,
    ImageFormat::OciArchive,
    ImageFormat::DockerArchive,
];

struct Place {
    dir: TempDir,
    cache: BlobCache,
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let cache = BlobCache::open(&dir.path().join("cache")).unwrap();
        Self { dir, cache }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

fn small(content: &str) -> Sample {
    let mut sample = Sample::empty();
    sample.file("etc/file", Meta::root(0o644), content.as_bytes());
    sample.package("program", "source", content.as_bytes());
    sample
}

fn write(image: &Image, format: ImageFormat, path: &Path) {
    image.write(format, path, REFERENCE, 2).unwrap();
}

/// Every file below a directory, or the file itself, by relative name.
fn contents(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut todo = vec![path.to_owned()];
    while let Some(here) = todo.pop() {
        if here.is_dir() {
            todo.extend(fs::read_dir(&here).unwrap().map(|e| e.unwrap().path()));
        } else {
            let name = here.strip_prefix(path).unwrap().to_owned();
            all.insert(name, fs::read(&here).unwrap());
        }
    }
    all
}

fn kind(error: &anyhow::Error) -> ErrorKind {
    error.downcast_ref::<Kinded>().unwrap().kind
}

#[test]
fn every_format_is_the_same_byte_for_byte() {
    let sample = awkward();
    for format in FORMATS {
        let mut all = Vec::new();
        for threads in [1, 2, 7] {
            let place = Place::new();
            let image = sample.image(&place.cache);
            let path = place.path("image");
            image.write(format, &path, REFERENCE, threads).unwrap();
            all.push(contents(&path));
            assert_eq!(place.names(), ["cache", "image"]);
        }
        assert!(all[0] == all[1] && all[1] == all[2], "{format:?}");
    }
}

#[test]
fn the_reported_size_is_what_the_layers_take_in_the_file() {
    let sample = small(&"compresses well\n".repeat(1 << 16));
    for format in FORMATS {
        let place = Place::new();
        let path = place.path("image");
        let image = sample.image(&place.cache);
        let report = image.write(format, &path, REFERENCE, 2).unwrap();
        let taken: usize = contents(&path).values().map(Vec::len).sum();
        // Documents and headers come on top.
        let rest = taken as u64 - report.size;
        assert!(rest < 1 << 16, "{format:?}: {} of {taken}", report.size);
    }
}

#[test]
fn the_config_and_manifest_have_the_documented_shape() {
    let place = Place::new();
    let image = small("x").image(&place.cache);
    let layers = &image.layers;
    let config: Value = serde_json::from_slice(&image.config).unwrap();
    let titles: Vec<Value> = layers
        .iter()
        .map(|l| json!({"created": "2023-11-14T22:13:20Z", "created_by": l.title}))
        .collect();
    let diff_ids: Vec<String> = layers.iter().map(|l| l.diff_id.to_oci()).collect();
    assert_eq!(
        config,
        json!({
            "created": "2023-11-14T22:13:20Z",
            "author": "somebody",
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/sbin:/usr/bin"],
                "Cmd": ["/sbin/init"],
                "Labels": {"containers.bootc": "1", "ostree.bootable": "true"},
            },
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": titles,
        })
    );
    let manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    assert_eq!(
        manifest["mediaType"],
        "application/vnd.oci.image.manifest.v1+json"
    );
    assert_eq!(manifest["annotations"], json!({"org.example.kind": "test"}));
    assert_eq!(manifest["config"]["digest"], image.config_digest.to_oci());
    assert_eq!(
        manifest["layers"][0],
        json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": layers[0].digest.to_oci(),
            "size": layers[0].size,
            "annotations": {"ostree.components": "program"},
        })
    );
}

#[test]
fn an_arm_image_names_its_variant() {
    let mut config = config();
    config.arch = "armhf".parse().unwrap();
    let image = config.build(Vec::new()).unwrap();
    let text = String::from_utf8(image.config).unwrap();
    assert!(
        text.contains(r#""architecture":"arm","variant":"v7""#),
        "{text}"
    );
}

#[test]
fn the_users_config_is_merged() {
    let mut config = config();
    config.user_config = Some(json!({
        "Cmd": null,
        "Entrypoint": ["/bin/sh"],
        "Env": ["A=b"],
        "ExposedPorts": {"22/tcp": {}},
        "Labels": {"mine": "yes"},
        "Healthcheck": {"Test": ["NONE"]},
    }));
    let image = config.build(Vec::new()).unwrap();
    let found: Value = serde_json::from_slice(&image.config).unwrap();
    assert_eq!(
        found["config"],
        json!({
            "Env": ["A=b"],
            "Entrypoint": ["/bin/sh"],
            "ExposedPorts": {"22/tcp": {}},
            "Labels": {"containers.bootc": "1", "mine": "yes", "ostree.bootable": "true"},
            "Healthcheck": {"Test": ["NONE"]},
        })
    );
}

#[test]
fn a_wrong_users_config_is_refused() {
    for bad in [
        json!([]),
        json!({"Env": "A=b"}),
        json!({"Cmd": [1]}),
        json!({"Labels": {"a": 1}}),
        json!({"Labels": {"ostree.final-diffid": "x"}}),
        json!({"Labels": {"containers.bootc": "0"}}),
        json!({"Labels": ["a"]}),
    ] {
        let mut config = config();
        config.user_config = Some(bad.clone());
        let error = config.build(Vec::new()).unwrap_err();
        assert_eq!(kind(&error), ErrorKind::InvalidInput, "{bad}");
    }
}

#[test]
fn a_bad_reference_is_refused() {
    let place = Place::new();
    let image = small("x").image(&place.cache);
    for bad in [
        "",
        "name",
        ":latest",
        "Name:latest",
        "a b:c",
        "a:b\n",
        "a/b:",
        "../x:y",
    ] {
        for format in FORMATS {
            let error = image.write(format, &place.path("x"), bad, 1).unwrap_err();
            assert_eq!(kind(&error), ErrorKind::InvalidInput, "{bad}");
        }
    }
    assert_eq!(place.names(), ["cache"]);
}

#[test]
fn an_image_replaces_the_one_before() {
    for format in FORMATS {
        let place = Place::new();
        let path = place.path("image");
        let first = small("one").image(&place.cache);
        write(&first, format, &path);
        let one = contents(&path);
        let second = small("two").image(&place.cache);
        write(&second, format, &path);
        let two = contents(&path);
        assert_ne!(one, two);
        write(&first, format, &path);
        assert!(contents(&path) == one, "{format:?}");
        assert_eq!(place.names(), ["cache", "image"]);
    }
}

#[test]
fn a_failed_write_leaves_the_old_image_and_nothing_else() {
    for format in [ImageFormat::OciArchive, ImageFormat::DockerArchive] {
        let place = Place::new();
        let path = place.path("image");
        write(&small("one").image(&place.cache), format, &path);
        let one = contents(&path);
        let second = small("two").image(&place.cache);
        let blob = place.path(&format!("cache/blobs/sha256/{}", second.layers[0].digest));
        fs::write(blob, "short").unwrap();
        assert!(second.write(format, &path, REFERENCE, 2).is_err());
        assert!(contents(&path) == one, "{format:?}");
        assert_eq!(place.names(), ["cache", "image"]);
    }
}

#[test]
fn what_a_killed_run_left_is_removed() {
    for format in FORMATS {
        let place = Place::new();
        let image = small("one").image(&place.cache);
        let path = place.path("image");
        write(&image, format, &path);
        let good = contents(&path);
        let leftover = place.path(".image.part");
        fs::create_dir_all(leftover.join("blobs/sha256")).unwrap();
        fs::write(leftover.join("blobs/sha256/x"), "half").unwrap();
        write(&image, format, &path);
        assert!(contents(&path) == good);
        fs::write(&leftover, "x".repeat(1 << 20)).unwrap();
        write(&image, format, &path);
        assert!(contents(&path) == good);
        assert_eq!(place.names(), ["cache", "image"]);
    }
}

#[test]
fn two_writers_of_one_target_take_turns() {
    for format in FORMATS {
        let place = Place::new();
        let images = [small("one"), small("two")].map(|s| s.image(&place.cache));
        let path = place.path("image");
        let expected = images.each_ref().map(|image| {
            let alone = place.path("alone");
            write(image, format, &alone);
            let found = contents(&alone);
            fs::remove_file(&alone)
                .or_else(|_| fs::remove_dir_all(&alone))
                .unwrap();
            found
        });
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (image, path) = (&images[number % 2], &path);
                scope.spawn(move || {
                    for _ in 0..10 {
                        write(image, format, path);
                    }
                });
            }
        });
        assert!(expected.contains(&contents(&path)), "{format:?}");
        assert_eq!(place.names(), ["cache", "image"]);
    }
}

#[test]
fn a_directory_that_is_no_image_is_not_replaced() {
    let place = Place::new();
    let image = small("one").image(&place.cache);
    let path = place.path("precious");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("thesis"), "text").unwrap();
    let error = image
        .write(ImageFormat::Oci, &path, REFERENCE, 1)
        .unwrap_err();
    assert_eq!(kind(&error), ErrorKind::InvalidInput);
    assert!(path.join("thesis").exists());
    for format in [ImageFormat::OciArchive, ImageFormat::DockerArchive] {
        assert!(image.write(format, &path, REFERENCE, 1).is_err());
    }
    let link = place.path("link");
    symlink(&path, &link).unwrap();
    assert!(image.write(ImageFormat::Oci, &link, REFERENCE, 1).is_err());
    fs::remove_file(path.join("thesis")).unwrap();
    write(&image, ImageFormat::Oci, &path);
    assert!(path.join("oci-layout").exists());
    assert_eq!(place.names(), ["cache", "link", "precious"]);
}

#[test]
fn the_image_is_read_back() {
    let place = Place::new();
    let image = awkward().image(&place.cache);
    for format in [ImageFormat::Oci, ImageFormat::OciArchive] {
        let path = place.path("image");
        assert_eq!(read_oci_image(&path).unwrap(), None);
        write(&image, format, &path);
        let back = read_oci_image(&path).unwrap().unwrap();
        assert_eq!(back.manifest_digest, image.manifest_digest);
        assert_eq!(back.labels, config().labels);
        assert_eq!(back.annotations, config().annotations);
        assert_eq!(back.layers.len(), image.layers.len());
        for (found, layer) in back.layers.iter().zip(&image.layers) {
            assert_eq!(found.title, layer.title);
            assert_eq!(found.components, layer.components);
            assert_eq!(found.digest, layer.digest);
            assert_eq!(found.diff_id, layer.diff_id);
            assert_eq!(found.size, layer.size);
            assert_eq!(found.media_type, layer.media_type());
        }
        fs::remove_file(&path)
            .or_else(|_| fs::remove_dir_all(&path))
            .unwrap();
    }
}

#[test]
fn layers_of_any_compression_give_the_same_docker_archive_layers() {
    let sample = awkward();
    let mut layers = Vec::new();
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let place = Place::new();
        let mut encoder = sample.encoder(&place.cache);
        encoder.compression = compression;
        let image = config()
            .build(encoder.encode(&sample.plans(64)).unwrap())
            .unwrap();
        let path = place.path("x.tar");
        write(&image, ImageFormat::DockerArchive, &path);
        layers.push((contents(&path), image.config_digest));
    }
    assert!(layers[0] == layers[1] && layers[1] == layers[2]);
}
