//! Image files: what is in them, how they appear, and what the reader refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use apt_ostree_model::compose::{Compression, ImageFormat};
use apt_ostree_model::{ErrorKind, Kinded, Meta};
use apt_ostree_oci::{BlobCache, Image, PreviousImage, read_oci_image};
use common::{REFERENCE, Sample, awkward, config, hex};
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

/// An OCI directory whose documents can be exchanged.
struct Layout {
    place: Place,
    config: Value,
    manifest: Value,
    index: Value,
}

impl Layout {
    fn new() -> Self {
        let place = Place::new();
        let image = small("x").image(&place.cache);
        let path = place.path("image");
        write(&image, ImageFormat::Oci, &path);
        let index = fs::read(path.join("index.json")).unwrap();
        Self {
            place,
            config: serde_json::from_slice(&image.config).unwrap(),
            manifest: serde_json::from_slice(&image.manifest).unwrap(),
            index: serde_json::from_slice(&index).unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.place.path("image")
    }

    fn blob(&self, text: &str) -> (String, usize) {
        let digest = hex(&openssl::sha::sha256(text.as_bytes()));
        fs::write(self.path().join("blobs/sha256").join(&digest), text).unwrap();
        (format!("sha256:{digest}"), text.len())
    }

    /// Writes the documents again with right digests.
    fn write(&mut self) -> anyhow::Result<Option<PreviousImage>> {
        let (digest, size) = self.blob(&self.config.to_string());
        self.manifest["config"]["digest"] = json!(digest);
        self.manifest["config"]["size"] = json!(size);
        self.write_manifest(&self.manifest.to_string())
    }

    fn write_manifest(&self, text: &str) -> anyhow::Result<Option<PreviousImage>> {
        let (digest, size) = self.blob(text);
        let mut index = self.index.clone();
        index["manifests"][0]["digest"] = json!(digest);
        index["manifests"][0]["size"] = json!(size);
        self.write_index(&index.to_string())
    }

    fn write_index(&self, text: &str) -> anyhow::Result<Option<PreviousImage>> {
        fs::write(self.path().join("index.json"), text).unwrap();
        read_oci_image(&self.path())
    }
}

#[test]
fn a_manifest_that_can_be_misread_is_refused() {
    let mut layout = Layout::new();
    assert!(layout.write().is_ok());
    let changes: [(&str, fn(&mut Layout)); 13] = [
        ("schema version", |l| l.manifest["schemaVersion"] = json!(1)),
        ("manifest is an index", |l| {
            l.manifest["manifests"] = json!([])
        }),
        ("index is a manifest", |l| l.index["layers"] = json!([])),
        ("manifest media type", |l| {
            l.manifest["mediaType"] = l.index["mediaType"].clone()
        }),
        ("descriptor media type", |l| {
            l.index["manifests"][0]["mediaType"] = l.index["mediaType"].clone();
        }),
        ("layer media type", |l| {
            l.manifest["layers"][0]["mediaType"] = json!("text/plain")
        }),
        ("config media type", |l| {
            l.manifest["config"]["mediaType"] = json!("text/plain")
        }),
        ("too few diff ids", |l| {
            l.config["rootfs"]["diff_ids"] = json!([])
        }),
        ("no diff ids", |l| l.config["rootfs"] = json!({})),
        ("negative size", |l| {
            l.manifest["layers"][0]["size"] = json!(-1)
        }),
        ("short digest", |l| {
            l.manifest["layers"][0]["digest"] = json!("sha256:00")
        }),
        ("digest with a path", |l| {
            l.manifest["layers"][0]["digest"] = json!("sha256:../../../../etc/passwd");
        }),
        ("501 layers", |l| {
            let layer = l.manifest["layers"][0].clone();
            let id = l.config["rootfs"]["diff_ids"][0].clone();
            l.manifest["layers"] = json!(vec![layer; 501]);
            l.config["rootfs"]["diff_ids"] = json!(vec![id; 501]);
        }),
    ];
    for (what, change) in changes {
        let mut layout = Layout::new();
        change(&mut layout);
        let error = layout.write().expect_err(what);
        assert_eq!(kind(&error), ErrorKind::InvalidInput, "{what}: {error:#}");
    }
}

#[test]
fn an_ambiguous_or_oversized_document_is_refused() {
    let layout = Layout::new();
    let manifest = layout.manifest.to_string();
    assert!(layout.write_manifest(&manifest).is_ok());
    let twice = manifest.replacen('{', r#"{"layers":[],"#, 1);
    assert!(layout.write_manifest(&twice).is_err());
    let big = format!("{}{manifest}", " ".repeat(4 << 20));
    assert!(layout.write_manifest(&big).is_err());
    let deep = manifest.replacen('{', &format!(r#"{{"x":{},"#, "[".repeat(100_000)), 1);
    assert!(layout.write_manifest(&deep).is_err());
    for index in ["", "{}", "[]", "null", &layout.index.to_string()[1..]] {
        assert!(layout.write_index(index).is_err(), "{index}");
    }
    let mut two = layout.index.clone();
    two["manifests"] = json!(vec![two["manifests"][0].clone(); 2]);
    assert!(layout.write_index(&two.to_string()).is_err());
}

#[test]
fn damaged_and_missing_blobs_are_refused() {
    for name in ["manifest", "config"] {
        let mut layout = Layout::new();
        layout.write().unwrap();
        let digest = match name {
            "config" => layout.manifest["config"]["digest"].clone(),
            _ => json!(format!(
                "sha256:{}",
                hex(&openssl::sha::sha256(
                    layout.manifest.to_string().as_bytes()
                ))
            )),
        };
        let digest = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        let path = layout.path().join("blobs/sha256").join(digest);
        let good = fs::read(&path).unwrap();
        let same_size = good.iter().map(|_| b' ').collect::<Vec<u8>>();
        for bad in [&same_size[..], b""] {
            fs::write(&path, bad).unwrap();
            assert!(read_oci_image(&layout.path()).is_err(), "{name}");
        }
        fs::remove_file(&path).unwrap();
        assert!(read_oci_image(&layout.path()).is_err(), "{name}");
        let elsewhere = layout.place.path("elsewhere");
        fs::write(&elsewhere, &good).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert!(read_oci_image(&layout.path()).is_err(), "{name} is a link");
    }
}

#[test]
fn a_layout_of_another_kind_is_refused() {
    let layout = Layout::new();
    let path = layout.path();
    for text in ["", "{}", r#"{"imageLayoutVersion":"9.9"}"#] {
        fs::write(path.join("oci-layout"), text).unwrap();
        assert!(read_oci_image(&path).is_err(), "{text}");
    }
    fs::remove_file(path.join("oci-layout")).unwrap();
    assert!(read_oci_image(&path).is_err());
    assert!(read_oci_image(Path::new("/dev/null")).is_err());
}

#[test]
fn a_cut_or_changed_archive_never_reads_as_another_image() {
    let place = Place::new();
    let image = small("x").image(&place.cache);
    let path = place.path("image");
    write(&image, ImageFormat::OciArchive, &path);
    let good = read_oci_image(&path).unwrap().unwrap();
    let data = fs::read(&path).unwrap();
    let bad = place.path("bad");
    for length in (0..data.len()).step_by(97) {
        fs::write(&bad, &data[..length]).unwrap();
        if let Ok(found) = read_oci_image(&bad) {
            assert_eq!(found.as_ref(), Some(&good), "cut at {length}");
        }
    }
    for position in (0..data.len()).step_by(89) {
        let mut changed = data.clone();
        changed[position] ^= 0x55;
        fs::write(&bad, &changed).unwrap();
        if let Ok(found) = read_oci_image(&bad) {
            assert_eq!(found.as_ref(), Some(&good), "changed at {position}");
        }
    }
}

mod hostile {
    use proptest::prelude::*;

    use super::*;

    fn archive_of(members: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, data) in members {
            let mut header = tar::Header::new_ustar();
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, &data[..]).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let key = prop_oneof![
            Just("schemaVersion"),
            Just("manifests"),
            Just("mediaType"),
            Just("digest"),
            Just("size"),
            Just("layers"),
            Just("config"),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            Just(json!(2)),
            "sha256:[0-9a-f]{64}".prop_map(Value::from),
            "\\PC{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_file_is_refused(data in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let dir = TempDir::new().unwrap();
            let path = dir.path().join("x");
            fs::write(&path, data).unwrap();
            prop_assert!(read_oci_image(&path).is_err());
        }

        #[test]
        fn any_index_in_an_archive_is_refused(index in json_value()) {
            let layout = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
            let members = [
                ("oci-layout".to_owned(), layout),
                ("index.json".to_owned(), index.to_string().into_bytes()),
            ];
            let dir = TempDir::new().unwrap();
            let path = dir.path().join("x");
            fs::write(&path, archive_of(&members)).unwrap();
            prop_assert!(read_oci_image(&path).is_err());
        }
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
