//! What the reader of earlier images refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use apt_ostree_model::compose::ImageFormat;
use apt_ostree_model::{ErrorKind, Kinded, Meta};
use apt_ostree_oci::{BlobCache, PreviousImage, read_oci_image};
use common::{REFERENCE, Sample, hex};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Writes an image of two small files.
fn write(dir: &Path, format: ImageFormat, path: &Path) -> apt_ostree_oci::Image {
    let mut sample = Sample::empty();
    sample.file("etc/file", Meta::root(0o644), b"x");
    sample.package("program", "source", b"x");
    let cache = BlobCache::open(&dir.join("cache")).unwrap();
    let image = sample.image(&cache);
    image.write(format, path, REFERENCE, 2).unwrap();
    image
}

/// An OCI directory whose documents can be exchanged.
struct Layout {
    dir: TempDir,
    config: Value,
    manifest: Value,
    index: Value,
}

impl Layout {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("image");
        let image = write(dir.path(), ImageFormat::Oci, &path);
        let index = fs::read(path.join("index.json")).unwrap();
        Self {
            dir,
            config: serde_json::from_slice(&image.config).unwrap(),
            manifest: serde_json::from_slice(&image.manifest).unwrap(),
            index: serde_json::from_slice(&index).unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("image")
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

type Change = fn(&mut Layout);

#[test]
fn a_manifest_that_can_be_misread_is_refused() {
    let mut layout = Layout::new();
    assert!(layout.write().is_ok());
    let changes: [(&str, Change); 13] = [
        ("schema version", |l| l.manifest["schemaVersion"] = json!(1)),
        ("manifest is an index", |l| {
            l.manifest["manifests"] = json!([]);
        }),
        ("index is a manifest", |l| l.index["layers"] = json!([])),
        ("manifest media type", |l| {
            l.manifest["mediaType"] = l.index["mediaType"].clone();
        }),
        ("descriptor media type", |l| {
            l.index["manifests"][0]["mediaType"] = l.index["mediaType"].clone();
        }),
        ("layer media type", |l| {
            l.manifest["layers"][0]["mediaType"] = json!("text/plain");
        }),
        ("config media type", |l| {
            l.manifest["config"]["mediaType"] = json!("text/plain");
        }),
        ("too few diff ids", |l| {
            l.config["rootfs"]["diff_ids"] = json!([]);
        }),
        ("no diff ids", |l| l.config["rootfs"] = json!({})),
        ("negative size", |l| {
            l.manifest["layers"][0]["size"] = json!(-1);
        }),
        ("short digest", |l| {
            l.manifest["layers"][0]["digest"] = json!("sha256:00");
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
        let kind = error.downcast_ref::<Kinded>().unwrap().kind;
        assert_eq!(kind, ErrorKind::InvalidInput, "{what}: {error:#}");
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
        let elsewhere = layout.dir.path().join("elsewhere");
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
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("image");
    write(dir.path(), ImageFormat::OciArchive, &path);
    let good = read_oci_image(&path).unwrap().unwrap();
    let data = fs::read(&path).unwrap();
    let bad = dir.path().join("bad");
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
