use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use apt_ostree_model::{ContentReader as _, ErrorKind, Kinded, NullReporter, Sha256Digest};
use apt_ostree_store::{CacheRepo, Import, ImportRequest};
use camino::{Utf8Path, Utf8PathBuf};

use crate::support::{Fixture, run};

const REAL: [&str; 6] = [
    "bash",
    "coreutils",
    "base-files",
    "libc6",
    "passwd",
    "tzdata",
];

/// Makes a package with a conffile, a hard link, odd owners and no parent directories.
fn make_deb(dir: &Utf8Path, name: &str, version: &str) -> Utf8PathBuf {
    let script = format!(
        r#"set -e; mkdir -p pkg/DEBIAN pkg/etc pkg/opt/{name}; cd pkg
        printf 'Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: x\n' > DEBIAN/control
        printf '/etc/{name}.conf\n' > DEBIAN/conffiles
        echo conf > etc/{name}.conf; echo data > opt/{name}/file; ln opt/{name}/file opt/{name}/hard; ln -s file opt/{name}/link
        printf '#!/bin/sh\n' > DEBIAN/postinst; chmod 755 DEBIAN/postinst
        chown 0:33 opt/{name}/file; chmod 4755 opt/{name}/file; cd ..; SOURCE_DATE_EPOCH=1700000000 dpkg-deb -b pkg {name}.deb; rm -r pkg"#
    );
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    dir.join(format!("{name}.deb"))
}

fn request(path: &Utf8Path) -> ImportRequest {
    let text = run(
        "dpkg-deb",
        &[
            "--show",
            "--showformat=${Package} ${Version} ${Architecture}",
            path.as_str(),
        ],
    );
    let fields: Vec<&str> = text.split(' ').collect();
    let sha256 = Sha256Digest::new(openssl::sha::sha256(&fs::read(path).unwrap()));
    ImportRequest {
        path: path.to_owned(),
        sha256,
        name: fields[0].parse().unwrap(),
        version: fields[1].parse().unwrap(),
        arch: fields[2].parse().unwrap(),
        stage: 0,
    }
}

fn import(
    cache: &CacheRepo,
    requests: &[ImportRequest],
) -> anyhow::Result<apt_ostree_store::Imported> {
    cache.import(requests, 2, &NullReporter)
}

fn kind(error: &anyhow::Error) -> ErrorKind {
    let kinded = error.chain().find_map(|e| e.downcast_ref::<Kinded>());
    kinded.unwrap_or_else(|| panic!("{error:#}")).kind
}

/// The paths of a package as dpkg's file lists have them.
fn listed(deb: &Utf8Path) -> Vec<String> {
    let tar = format!("dpkg-deb --fsys-tarfile '{deb}' | tar -t");
    let lines = run("sh", &["-c", &tar]);
    let path = |line: &str| match line.trim_start_matches('.').trim_end_matches('/') {
        "" => "/.".to_owned(),
        path => path.to_owned(),
    };
    lines.lines().map(path).collect()
}

#[test]
fn a_package_is_imported_once_and_whole() {
    let fixture = Fixture::new();
    let debs = [("foo", "1:2.0~rc1-3"), ("bar", "1")]
        .map(|(name, version)| make_deb(&fixture.path(""), name, version));
    let requests = debs.clone().map(|p| request(&p));
    let lists = debs.map(|p| listed(&p));
    let first = import(&fixture.cache, &requests).unwrap();
    assert_eq!(first.fresh, 2);
    let foo = &first.packages[0];
    assert_eq!(
        (foo.name.as_str(), foo.version.as_str(), foo.date),
        ("foo", "1:2.0~rc1-3", 1_700_000_000)
    );
    assert_eq!(lists, [foo.list.clone(), first.packages[1].list.clone()]);
    let md5 = run("sh", &["-c", "echo conf | md5sum | cut -c1-32"]);
    assert_eq!(foo.conffiles.len(), 1);
    assert_eq!(
        (
            foo.conffiles[0].path.as_str(),
            foo.conffiles[0].md5.as_deref()
        ),
        ("/etc/foo.conf", Some(md5.trim()))
    );
    let file = foo.tree.file("opt/foo/file").unwrap();
    assert_eq!(Some(file), foo.tree.file("opt/foo/hard"));
    assert_eq!(
        (file.meta.mode, file.meta.uid, file.meta.gid),
        (0o4755, 0, 33)
    );
    assert_eq!(fixture.cache.read(file).unwrap(), b"data\n");
    assert!(foo.members.contains_key("postinst"));
    assert!(foo.control.starts_with("Package: foo\n") && foo.control.ends_with("x\n"));
    for request in &requests {
        fs::remove_file(&request.path).unwrap();
    }
    let again = import(&fixture.cache, &requests).unwrap();
    assert_eq!((again.fresh, &again.packages), (0, &first.packages));
    fixture.fsck();
}

#[test]
fn a_package_that_is_not_what_was_asked_for_is_refused() {
    let fixture = Fixture::new();
    let good = request(&make_deb(&fixture.path(""), "foo", "1.0"));
    let mut cases = BTreeMap::new();
    cases.insert(
        "name",
        (
            ImportRequest {
                name: "other".parse().unwrap(),
                ..good.clone()
            },
            vec!["'foo'", "'other'"],
        ),
    );
    cases.insert(
        "version",
        (
            ImportRequest {
                version: "1.1".parse().unwrap(),
                ..good.clone()
            },
            vec!["'1.0'", "'1.1'"],
        ),
    );
    cases.insert(
        "arch",
        (
            ImportRequest {
                arch: "amd64".parse().unwrap(),
                ..good.clone()
            },
            vec!["'all'", "'amd64'"],
        ),
    );
    let zero = "0".repeat(64);
    let found = good.sha256.to_string();
    let wrong = ImportRequest {
        sha256: zero.parse().unwrap(),
        ..good.clone()
    };
    cases.insert("digest", (wrong, vec![zero.as_str(), found.as_str()]));
    for (name, (request, words)) in cases {
        let error = import(&fixture.cache, &[request]).unwrap_err();
        assert_eq!(kind(&error), ErrorKind::Verification, "{name}: {error:#}");
        let text = format!("{error:#}");
        assert!(
            words.iter().all(|w| text.contains(w)) && text.contains("foo.deb"),
            "{name}: {text}"
        );
    }
    let refs = fixture.cache.path().join("refs/heads/aptostree");
    assert!(!refs.exists(), "nothing became visible");
    assert_eq!(import(&fixture.cache, &[good]).unwrap().fresh, 1);
}

#[test]
fn a_changed_file_fails_its_digest_rather_than_its_format() {
    let fixture = Fixture::new();
    let request = request(&make_deb(&fixture.path(""), "foo", "1.0"));
    let mut data = fs::read(&request.path).unwrap();
    data[0] ^= 1;
    fs::write(&request.path, data).unwrap();
    assert_eq!(
        kind(&import(&fixture.cache, &[request]).unwrap_err()),
        ErrorKind::Verification
    );
}

#[test]
fn a_malformed_package_is_named() {
    let fixture = Fixture::new();
    let path = fixture.path("bad.deb");
    let mut data = fs::read(make_deb(&fixture.path(""), "foo", "1.0")).unwrap();
    data.truncate(data.len() - 40);
    fs::write(&path, &data).unwrap();
    let request = ImportRequest {
        path,
        sha256: Sha256Digest::new(openssl::sha::sha256(&data)),
        name: "foo".parse().unwrap(),
        version: "1.0".parse().unwrap(),
        arch: "all".parse().unwrap(),
        stage: 0,
    };
    let error = import(&fixture.cache, &[request]).unwrap_err();
    assert_eq!(kind(&error), ErrorKind::InvalidPackage, "{error:#}");
    assert!(format!("{error:#}").contains("bad.deb"), "{error:#}");
}

#[test]
fn a_damaged_package_is_imported_again() {
    let fixture = Fixture::new();
    let request = request(&make_deb(&fixture.path(""), "foo", "1.0"));
    let package = import(&fixture.cache, std::slice::from_ref(&request))
        .unwrap()
        .packages
        .remove(0);
    fs::write(fixture.object(&package.tree, "opt/foo/file"), "evil\n").unwrap();
    let error = fixture
        .cache
        .checkout(&package.tree, &fixture.path("out"))
        .unwrap_err();
    assert!(
        format!("{error:#}").contains("the cached package 'foo' was damaged and has been dropped"),
        "{error:#}"
    );
    assert_eq!(import(&fixture.cache, &[request]).unwrap().fresh, 1);
    fixture
        .cache
        .checkout(&package.tree, &fixture.path("again"))
        .unwrap();
    assert_eq!(
        fs::read(fixture.path("again/opt/foo/file")).unwrap(),
        b"data\n"
    );
}

/// Downloads real packages; `None`, loudly, when that is impossible.
#[allow(clippy::print_stderr, reason = "a skipped test must be seen")]
fn download(dir: &Utf8Path) -> Option<Vec<ImportRequest>> {
    fs::create_dir(dir).unwrap();
    let status = Command::new("apt-get")
        .args(["-qq", "download"])
        .args(REAL)
        .current_dir(dir)
        .output()
        .unwrap();
    if !status.status.success() {
        eprintln!(
            "SKIPPED: apt-get can't download packages: {}",
            String::from_utf8_lossy(&status.stderr)
        );
        return None;
    }
    let debs = dir.read_dir_utf8().unwrap().map(|e| e.unwrap().into_path());
    Some(
        debs.filter(|p| p.extension() == Some("deb"))
            .map(|p| request(&p))
            .collect(),
    )
}

/// Type, mode, owner, size and content or target of everything below a directory.
fn snapshot(root: &Utf8Path) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in dir.read_dir_utf8().unwrap() {
            let path = entry.unwrap().into_path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_dir() {
                todo.push(path.clone());
                String::new()
            } else if meta.is_symlink() {
                path.read_link_utf8().unwrap().into_string()
            } else {
                Sha256Digest::new(openssl::sha::sha256(&fs::read(&path).unwrap())).to_string()
            };
            let name = path.strip_prefix(root).unwrap().to_string();
            out.insert(
                name,
                format!("{:o} {} {} {content}", meta.mode(), meta.uid(), meta.gid()),
            );
        }
    }
    out
}

#[test]
fn real_packages_come_out_as_dpkg_unpacks_them() {
    let fixture = Fixture::new();
    let Some(requests) = download(&fixture.path("debs")) else {
        return;
    };
    assert_eq!(requests.len(), REAL.len());
    let imported = import(&fixture.cache, &requests).unwrap();
    for (request, package) in requests.iter().zip(&imported.packages) {
        let (ours, theirs) = (
            fixture.path(&format!("ours-{}", package.name)),
            fixture.path(&format!("theirs-{}", package.name)),
        );
        fixture.cache.checkout(&package.tree, &ours).unwrap();
        run("dpkg-deb", &["-x", request.path.as_str(), theirs.as_str()]);
        assert_eq!(snapshot(&ours), snapshot(&theirs), "{}", package.name);
        assert_eq!(package.list, listed(&request.path), "{}", package.name);
    }
    fixture.fsck();
}

/// Imports what the environment names; run as a process of its own by the test below.
#[test]
fn import_in_a_child_process() {
    let (Ok(cache), Ok(debs)) = (
        std::env::var("STORE_TEST_CACHE"),
        std::env::var("STORE_TEST_DEBS"),
    ) else {
        return;
    };
    let cache = CacheRepo::open(Utf8Path::new(&cache)).unwrap();
    let requests: Vec<ImportRequest> = debs.split(' ').map(|d| request(Utf8Path::new(d))).collect();
    import(&cache, &requests).unwrap();
}

#[test]
fn a_killed_import_leaves_nothing_half_made() {
    let fixture = Fixture::new();
    let debs: Vec<Utf8PathBuf> = (0..30)
        .map(|n| make_deb(&fixture.path(""), &format!("foo{n}"), "1.0"))
        .collect();
    let requests: Vec<ImportRequest> = debs.iter().map(|p| request(p)).collect();
    let names: Vec<&str> = debs.iter().map(|p| p.as_str()).collect();
    let dir = fixture.path("killed");
    let heads = dir.join("repo/refs/heads/aptostree/pkg");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "imports::import_in_a_child_process"])
        .env("STORE_TEST_CACHE", dir.as_str())
        .env("STORE_TEST_DEBS", names.join(" "))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let done = || heads.read_dir_utf8().map_or(0, Iterator::count);
    while done() < 3 && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let cached = done();
    let cache = CacheRepo::open(&dir).unwrap();
    crate::support::fsck(cache.path());
    let imported = import(&cache, &requests).unwrap();
    assert!(
        imported.fresh + cached >= 30 && imported.fresh < 30,
        "{} {cached}",
        imported.fresh
    );
    assert_eq!(
        imported.packages,
        import(&fixture.cache, &requests).unwrap().packages
    );
}

#[test]
fn packages_of_a_lower_stage_can_be_had_before_the_others() {
    let fixture = Fixture::new();
    let mut requests: Vec<ImportRequest> = ["aa", "bb", "cc"]
        .iter()
        .map(|name| request(&make_deb(&fixture.path(""), name, "1.0")))
        .collect();
    requests[2].stage = 1;
    // Never arrives.
    requests[2].path = fixture.path("missing.deb");
    let import = Import::new(&fixture.cache, &requests, &NullReporter);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| import.wait(0..2).map(|p| p.len()));
        let all = scope.spawn(|| import.wait(0..3).map(|p| p.len()));
        assert!(import.run(1).is_err());
        assert_eq!(first.join().unwrap().unwrap(), 2);
        assert!(all.join().unwrap().is_err());
    });
    let error = format!("{:#}", import.take_error().unwrap());
    assert!(error.contains("missing.deb"), "{error}");
}

#[test]
fn a_stopped_import_wakes_who_waits_for_it() {
    let fixture = Fixture::new();
    let requests = [request(&make_deb(&fixture.path(""), "foo", "1.0"))];
    let import = Import::new(&fixture.cache, &requests, &NullReporter);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| import.wait(0..1).is_err());
        import.stop();
        assert!(waiting.join().unwrap());
    });
    assert!(import.finish().is_err());
}
