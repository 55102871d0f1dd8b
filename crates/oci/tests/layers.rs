//! The layer split, the encoder and the blob cache.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use apt_ostree_fsx::prune::Limits;
use apt_ostree_model::compose::Compression;
use apt_ostree_model::{ErrorKind, Event, Kinded, Meta, Node, RecordingReporter};
use apt_ostree_oci::{BlobCache, Layer, LayerPlan, plan_layers};
use common::{Sample, TIMESTAMP, awkward, noise};
use tempfile::TempDir;

fn digests(layers: &[Layer]) -> Vec<String> {
    layers.iter().map(|l| l.digest.to_oci()).collect()
}

fn by_title(layers: &[Layer]) -> BTreeMap<&str, &Layer> {
    layers.iter().map(|l| (l.title.as_str(), l)).collect()
}

fn kind(error: &anyhow::Error) -> ErrorKind {
    error.downcast_ref::<Kinded>().unwrap().kind
}

fn cache() -> (TempDir, BlobCache) {
    let dir = TempDir::new().unwrap();
    let cache = BlobCache::open(dir.path()).unwrap();
    (dir, cache)
}

/// A hundred packages with a database and a cache that name them all.
fn distribution(extra: &[&str]) -> Sample {
    let mut sample = Sample::empty();
    let mut names: Vec<String> = (0..100).map(|n| format!("package-{n}")).collect();
    names.extend(extra.iter().map(|&name| name.to_owned()));
    for name in &names {
        sample.package(name, &format!("source-of-{name}"), name.as_bytes());
    }
    let list = names.join("\n");
    for path in ["usr/lib/sysimage/dpkg/status", "etc/ld.so.cache"] {
        sample.file(path, Meta::root(0o644), list.as_bytes());
    }
    sample.package("big", "big", &noise(10 << 20, 1));
    sample.file("usr/lib/modules/6.1/vmlinuz", Meta::root(0o644), b"kernel");
    sample.file(
        "usr/lib/modules/6.1/initramfs.img",
        Meta::root(0o644),
        b"initramfs",
    );
    sample
}

#[test]
fn every_path_is_in_exactly_one_layer() {
    let sample = awkward();
    for max_layers in [1, 7, 8, 9, 20, 64, 500] {
        let plans = sample.plans(max_layers);
        assert!(plans.len() <= max_layers, "{max_layers}");
        let mut seen = BTreeSet::new();
        for plan in &plans {
            for path in &plan.paths {
                assert!(seen.insert(path.clone()), "{path} is in two layers");
            }
        }
        let leaves = sample
            .tree
            .walk()
            .filter(|(_, node)| node.as_dir().is_none_or(|dir| dir.entries.is_empty()));
        let expected: BTreeSet<String> = leaves
            .map(|(path, _)| path)
            .chain([String::new()])
            .collect();
        assert_eq!(seen, expected);
    }
}

#[test]
fn special_places_and_big_sources_have_their_own_layer() {
    let plans = awkward().plans(64);
    let titles: Vec<&str> = plans.iter().map(|p| p.title.as_str()).collect();
    assert_eq!(titles.len(), 6, "{titles:?}");
    assert_eq!(titles[0], "big-source");
    assert!(titles[1].starts_with("bin "));
    assert_eq!(
        titles[2..],
        ["kernel", "initramfs", "unowned", "package database"]
    );
    assert_eq!(plans[0].components, ["big-other", "big-program"]);
    assert_eq!(plans[1].components, ["ping"]);
    let unowned = &plans[4].paths;
    for path in ["", "tmp", "var/lib/private", "usr/bin/su"] {
        assert!(unowned.iter().any(|p| p == path), "{path:?}");
    }
}

#[test]
fn one_more_leaf_package_changes_its_bin_the_database_and_unowned_files() {
    let (_dir, cache) = cache();
    let before = distribution(&[]).layers(&cache);
    let after = distribution(&["newcomer"]).layers(&cache);
    let before = by_title(&before);
    let changed: Vec<&Layer> = after
        .iter()
        .filter(|layer| before.get(layer.title.as_str()).map(|b| b.digest) != Some(layer.digest))
        .collect();
    let titles: Vec<&str> = changed.iter().map(|l| l.title.as_str()).collect();
    assert_eq!(titles.len(), 3, "{titles:?}");
    assert!(changed[0].components.iter().any(|name| name == "newcomer"));
    assert_eq!(titles[1..], ["unowned", "package database"]);
    let cached = after.iter().filter(|layer| layer.cached).count();
    assert_eq!(cached, after.len() - 3);
}

#[test]
fn a_whiteout_name_is_refused() {
    for path in ["usr/share/.wh.x", "usr/.wh..wh..opq", ".wh.dir/file"] {
        let mut sample = Sample::empty();
        sample.file(path, Meta::root(0o644), b"");
        let error = plan_layers(&sample.tree, &|_| None, &[], 64).unwrap_err();
        assert_eq!(kind(&error), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(".wh."), "{error}");
    }
}

#[test]
fn the_number_of_layers_is_limited() {
    for max_layers in [0, 501] {
        let error = plan_layers(&awkward().tree, &|_| None, &[], max_layers).unwrap_err();
        assert_eq!(kind(&error), ErrorKind::Usage);
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let sample = awkward();
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let mut all = BTreeSet::new();
        for threads in [1, 2, 3, 8, 1000] {
            let (_dir, cache) = cache();
            let mut encoder = sample.encoder(&cache);
            encoder.threads = threads;
            encoder.compression = compression;
            all.insert(digests(&encoder.encode(&sample.plans(64)).unwrap()));
        }
        assert_eq!(all.len(), 1, "{compression:?}");
    }
}

#[test]
fn digests_and_sizes_are_those_of_the_blobs() {
    let sample = awkward();
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let (dir, cache) = cache();
        let mut encoder = sample.encoder(&cache);
        encoder.compression = compression;
        for layer in encoder.encode(&sample.plans(64)).unwrap() {
            let blob = fs::read(dir.path().join(format!("blobs/sha256/{}", layer.digest))).unwrap();
            assert_eq!(blob.len() as u64, layer.size);
            assert_eq!(
                common::hex(&openssl::sha::sha256(&blob)),
                layer.digest.to_string()
            );
            let tar = match compression {
                Compression::Gzip => {
                    assert_eq!(blob[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
                    let mut tar = Vec::new();
                    // Stops after the first member: there must be one only.
                    let mut decoder = flate2::bufread::GzDecoder::new(&blob[..]);
                    std::io::Read::read_to_end(&mut decoder, &mut tar).unwrap();
                    assert!(decoder.into_inner().is_empty());
                    tar
                }
                Compression::Zstd => zstd::decode_all(&blob[..]).unwrap(),
                Compression::None => blob,
            };
            assert_eq!(tar.len() as u64, layer.uncompressed_size);
            assert_eq!(
                common::hex(&openssl::sha::sha256(&tar)),
                layer.diff_id.to_string()
            );
        }
    }
}

#[test]
fn a_cached_layer_is_the_same_and_opens_no_content() {
    let sample = awkward();
    let (dir, cache) = cache();
    let first = sample.layers(&cache);
    assert!(first.iter().all(|layer| !layer.cached));
    assert!(sample.objects.take_opened() > 0);
    let second = sample.layers(&BlobCache::open(dir.path()).unwrap());
    assert!(second.iter().all(|layer| layer.cached));
    assert_eq!(sample.objects.take_opened(), 0);
    assert_eq!(digests(&first), digests(&second));
}

#[test]
fn whatever_is_in_the_tar_stream_is_in_the_key() {
    let (_dir, cache) = cache();
    let mut seen = BTreeSet::new();
    let base = || {
        let mut sample = Sample::empty();
        sample.file("a/file", Meta::root(0o644), b"content");
        sample.symlink("a/link", "target");
        sample
    };
    let mut check = |sample: &Sample, what: &str| {
        let layers = sample.layers(&cache);
        assert!(!layers[0].cached, "{what} is not in the key");
        assert!(seen.insert(layers[0].digest), "{what} is not in the layer");
    };
    check(&base(), "nothing");
    let mut sample = base();
    sample.file("a/file", Meta::root(0o600), b"content");
    check(&sample, "mode");
    sample.file("a/file", Meta::root(0o644), b"CONTENT");
    check(&sample, "content");
    sample.file("a/file", common::meta(0o644, 1, 0), b"content");
    check(&sample, "owner");
    let mut meta = Meta::root(0o644);
    meta.xattrs
        .insert("security.capability".to_owned(), common::capability());
    sample.file("a/file", meta, b"content");
    check(&sample, "extended attribute");
    let mut sample = base();
    sample.symlink("a/link", "elsewhere");
    check(&sample, "link target");
    let mut sample = base();
    sample.tree.dir_mut("a").unwrap().meta.mode = 0o700;
    check(&sample, "directory mode");
    let mut sample = base();
    sample.tree.root.meta.mode = 0o700;
    check(&sample, "root mode");
    let sample = base();
    let mut encoder = sample.encoder(&cache);
    encoder.timestamp = TIMESTAMP + 1;
    let layers = encoder.encode(&sample.plans(64)).unwrap();
    assert!(!layers[0].cached && !seen.contains(&layers[0].digest));
    let mut encoder = sample.encoder(&cache);
    encoder.compression = Compression::Zstd;
    assert!(!encoder.encode(&sample.plans(64)).unwrap()[0].cached);
}

/// Spoils the file at a path.
type Damage = fn(&Path);

#[test]
fn a_damaged_blob_is_made_again() {
    let sample = awkward();
    let (dir, cache) = cache();
    let first = sample.layers(&cache);
    let damages: [(&str, Damage); 5] = [
        ("flipped", |path| {
            let mut data = fs::read(path).unwrap();
            let middle = data.len() / 2;
            data[middle] ^= 1;
            fs::write(path, data).unwrap();
        }),
        ("cut", |path| {
            let data = fs::read(path).unwrap();
            fs::write(path, &data[..data.len() - 1]).unwrap();
        }),
        ("emptied", |path| fs::write(path, "").unwrap()),
        ("longer", |path| {
            let mut data = fs::read(path).unwrap();
            data.push(0);
            fs::write(path, data).unwrap();
        }),
        ("removed", |path| fs::remove_file(path).unwrap()),
    ];
    for (what, damage) in damages {
        damage(&dir.path().join(format!("blobs/sha256/{}", first[0].digest)));
        let reporter = RecordingReporter::default();
        let mut encoder = sample.encoder(&cache);
        encoder.reporter = &reporter;
        let again = encoder.encode(&sample.plans(64)).unwrap();
        assert_eq!(digests(&again), digests(&first), "{what}");
        assert!(!again[0].cached, "{what}");
        assert!(again[1..].iter().all(|layer| layer.cached), "{what}");
        let warned = reporter
            .take()
            .iter()
            .any(|event| matches!(event, Event::Warning { text } if text.contains("big-source")));
        assert_eq!(warned, what != "removed", "{what}");
    }
    assert!(sample.layers(&cache).iter().all(|layer| layer.cached));
}

#[test]
fn a_damaged_key_file_is_no_hit() {
    let sample = awkward();
    let (dir, cache) = cache();
    let first = sample.layers(&cache);
    for text in ["", "{", "[]", "{\"digest\":\"x\"}"] {
        for entry in fs::read_dir(dir.path().join("blobs/keys")).unwrap() {
            fs::write(entry.unwrap().path(), text).unwrap();
        }
        let again = sample.layers(&cache);
        assert!(again.iter().all(|layer| !layer.cached), "{text}");
        assert_eq!(digests(&first), digests(&again));
    }
}

#[test]
fn content_of_another_size_is_an_error_that_names_the_path() {
    for data in [&b"longer than it was"[..], b""] {
        let mut sample = Sample::empty();
        sample.file("usr/bin/prog", Meta::root(0o755), b"program");
        let file = sample.tree.file("usr/bin/prog").unwrap();
        fs::write(sample.objects.path(&file.checksum), data).unwrap();
        let (dir, cache) = cache();
        let error = sample
            .encoder(&cache)
            .encode(&sample.plans(64))
            .unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("'usr/bin/prog'") && text.contains("not 7"),
            "{text}"
        );
        for name in ["sha256", "keys", "tmp"] {
            let left = fs::read_dir(dir.path().join("blobs").join(name))
                .unwrap()
                .count();
            assert_eq!(left, 0, "{name}");
        }
    }
}

#[test]
fn a_missing_object_is_an_error_and_the_next_run_works() {
    let mut sample = distribution(&[]);
    sample.file("usr/lib/last", Meta::root(0o644), b"last");
    let path = sample
        .objects
        .path(&sample.tree.file("usr/lib/last").unwrap().checksum);
    fs::remove_file(&path).unwrap();
    let (_dir, cache) = cache();
    for threads in [1, 4] {
        let mut encoder = sample.encoder(&cache);
        encoder.threads = threads;
        let error = encoder.encode(&sample.plans(64)).unwrap_err();
        assert!(format!("{error:#}").contains("'usr/lib/last'"), "{error:#}");
    }
    fs::write(&path, b"last").unwrap();
    assert!(!sample.layers(&cache).is_empty());
}

#[test]
fn a_name_that_no_tar_stream_can_carry_is_refused() {
    let mut sample = Sample::empty();
    let mut meta = Meta::root(0o644);
    meta.xattrs
        .insert("user.a=b".to_owned(), common::capability());
    sample.file("x", meta, b"");
    let (_dir, cache) = cache();
    let error = sample
        .encoder(&cache)
        .encode(&sample.plans(64))
        .unwrap_err();
    assert_eq!(kind(&error), ErrorKind::InvalidInput);
    let mut sample = Sample::empty();
    sample.symlink("x", "a\0b");
    assert!(sample.encoder(&cache).encode(&sample.plans(64)).is_err());
    let mut sample = Sample::empty();
    sample.file("a\0b", Meta::root(0o644), b"");
    assert!(plan_layers(&sample.tree, &|_| None, &[], 64).is_err());
    let plan = LayerPlan {
        title: "wrong".to_owned(),
        components: Vec::new(),
        paths: vec!["missing".to_owned()],
        by_package: true,
    };
    assert!(sample.encoder(&cache).encode(&[plan]).is_err());
}

#[test]
fn composes_at_once_share_a_cache() {
    let sample = distribution(&[]);
    let (dir, _cache) = cache();
    let all: BTreeSet<Vec<String>> = std::thread::scope(|scope| {
        let compose = || digests(&sample.layers(&BlobCache::open(dir.path()).unwrap()));
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(compose)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(all.len(), 1);
    assert_eq!(
        fs::read_dir(dir.path().join("blobs/tmp")).unwrap().count(),
        0
    );
}

#[test]
fn pruning_drops_the_blobs_that_were_not_used_for_the_longest_time() {
    let old = awkward();
    let new = distribution(&[]);
    let (dir, cache) = cache();
    let held = old.layers(&cache);
    std::thread::sleep(std::time::Duration::from_millis(20));
    let size: u64 = new.layers(&cache).iter().map(|layer| layer.size).sum();
    cache.prune(&Limits::new(size)).unwrap();
    assert!(new.layers(&cache).iter().all(|layer| layer.cached));
    let keys = fs::read_dir(dir.path().join("blobs/keys")).unwrap().count();
    assert_eq!(keys, new.plans(64).len());
    // A layer in hand outlives its place in the cache.
    let image = common::config().build(held).unwrap();
    let target = dir.path().join("x.oci");
    let format = apt_ostree_model::compose::ImageFormat::Oci;
    image.write(format, &target, common::REFERENCE, 1).unwrap();
    assert!(old.layers(&cache).iter().all(|layer| !layer.cached));
}

#[test]
fn progress_counts_bytes_and_names_layers() {
    let sample = awkward();
    let (_dir, cache) = cache();
    let reporter = RecordingReporter::default();
    let mut encoder = sample.encoder(&cache);
    encoder.reporter = &reporter;
    encoder.encode(&sample.plans(64)).unwrap();
    let events = reporter.take();
    assert!(!events.is_empty());
    for event in events {
        let Event::StepProgress {
            done, total, item, ..
        } = event
        else {
            panic!("{event:?}");
        };
        assert!(done <= total && total == sample.tree.total_size());
        assert!(item.is_some());
    }
}

#[test]
fn a_hundred_thousand_entries_are_encoded() {
    let mut sample = Sample::empty();
    let file = sample.objects.put(Meta::root(0o644), b"same content");
    let mut components = Vec::new();
    for package in 0..1000 {
        let name = format!("package-{package}");
        let dir = format!("usr/share/{name}");
        sample.dir(&dir, &Meta::root(0o755));
        let id = apt_ostree_oci::ComponentId(package);
        let entries = &mut sample.tree.dir_mut(&dir).unwrap().entries;
        for number in 0..99 {
            entries.insert(format!("file-{number}"), Node::File(file.clone()));
            sample.owners.insert(format!("{dir}/file-{number}"), id);
        }
        components.push(apt_ostree_oci::Component {
            source: name.clone(),
            name,
        });
    }
    sample.components = components;
    assert_eq!(sample.tree.len(), 100_002);
    let (_dir, cache) = cache();
    let layers = sample.layers(&cache);
    assert!(layers.len() > 20);
    assert_eq!(sample.objects.take_opened(), 99_000);
    assert_eq!(digests(&sample.layers(&cache)), digests(&layers));
    assert_eq!(sample.objects.take_opened(), 0);
}
