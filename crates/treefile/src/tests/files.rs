//! Files on disk: what the directory loader reads and refuses.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = dir.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn loader(&self) -> DirLoader {
        let root = Utf8PathBuf::from_path_buf(self.path("tree")).unwrap();
        DirLoader::new(root)
    }

    fn error(&self) -> String {
        load(&self.loader(), "t.yaml", &options())
            .unwrap_err()
            .to_string()
    }
}

#[test]
fn absolute_and_escaping_paths_are_refused() {
    let dir = Dir::new(&[
        ("tree/t.yaml", "include: ../out.yaml\n"),
        ("out.yaml", "ref: out\n"),
    ]);
    assert_eq!(
        dir.error(),
        "t.yaml:1:10: including '../out.yaml': '../out.yaml' is outside the treefile's directory"
    );
    let outside = dir.path("out.yaml");
    fs::write(
        dir.path("tree/t.yaml"),
        format!("include: {}\n", outside.display()),
    )
    .unwrap();
    assert!(dir.error().contains("is absolute"));
    let spec = load(&dir.loader().allow_outside(true), "t.yaml", &options()).unwrap();
    assert_eq!(spec.r#ref.as_deref(), Some("out"));
}

#[test]
fn every_kind_of_external_file_stays_inside() {
    let dir = Dir::new(&[
        ("out", "#!/bin/sh\n"),
        ("out.deb", ""),
        ("debs/Packages", ""),
    ]);
    fs::create_dir(dir.path("tree")).unwrap();
    for text in [
        "add-files: [[../out, /etc/x]]",
        "postprocess-script: ../out",
        "check-passwd: {type: file, filename: ../out}",
        "local-packages: [../out.deb]",
        "repos: [{name: a1, url: ../debs}]",
        "repos: [{name: a1, gpg-keys: [../out]}]",
        "arch-include: {amd64: ../out}",
        "conditional-include: [{if: basearch == 'x86_64', include: ../out}]",
    ] {
        fs::write(dir.path("tree/t.yaml"), format!("{text}\n")).unwrap();
        let message = dir.error();
        assert!(
            message.contains("outside the treefile's directory"),
            "{text}: {message}"
        );
        if !text.contains("nclude") {
            let allowed = load(&dir.loader().allow_outside(true), "t.yaml", &options());
            assert!(allowed.is_ok() || text.contains("check-passwd"), "{text}");
        }
    }
}

#[test]
fn links_may_stay_inside_but_not_leave() {
    let dir = Dir::new(&[
        ("tree/t.yaml", "include: link.yaml\n"),
        ("tree/real.yaml", "ref: real\n"),
        ("out.yaml", "ref: out\n"),
    ]);
    symlink("real.yaml", dir.path("tree/link.yaml")).unwrap();
    assert_eq!(
        load(&dir.loader(), "t.yaml", &options())
            .unwrap()
            .r#ref
            .as_deref(),
        Some("real")
    );
    fs::remove_file(dir.path("tree/link.yaml")).unwrap();
    symlink("../out.yaml", dir.path("tree/link.yaml")).unwrap();
    assert!(dir.error().contains("outside the treefile's directory"));
    fs::remove_file(dir.path("tree/link.yaml")).unwrap();
    symlink(dir.0.path(), dir.path("tree/up")).unwrap();
    fs::write(dir.path("tree/t.yaml"), "include: up/out.yaml\n").unwrap();
    assert!(dir.error().contains("outside the treefile's directory"));
}

#[test]
fn the_same_file_under_two_names_counts_once() {
    let dir = Dir::new(&[
        ("tree/t.yaml", "include: [a.yaml, b.yaml, c.yaml]\n"),
        ("tree/a.yaml", "postprocess: ['#!/bin/sh']\n"),
    ]);
    symlink("a.yaml", dir.path("tree/b.yaml")).unwrap();
    fs::hard_link(dir.path("tree/a.yaml"), dir.path("tree/c.yaml")).unwrap();
    assert_eq!(
        load(&dir.loader(), "t.yaml", &options())
            .unwrap()
            .edits
            .postprocess
            .len(),
        1
    );
    symlink("t.yaml", dir.path("tree/self.yaml")).unwrap();
    fs::write(dir.path("tree/t.yaml"), "include: self.yaml\n").unwrap();
    assert!(dir.error().contains("include cycle: t.yaml -> self.yaml"));
}

#[test]
fn only_regular_files_are_read() {
    let dir = Dir::new(&[("tree/t.yaml", "include: x.yaml\n")]);
    let target = dir.path("tree/x.yaml");
    fs::create_dir(&target).unwrap();
    assert!(dir.error().contains("is a directory, not a file"));
    fs::remove_dir(&target).unwrap();
    let status = std::process::Command::new("mkfifo")
        .arg(&target)
        .status()
        .unwrap();
    assert!(status.success());
    assert!(dir.error().contains("is a pipe, not a file"));
    fs::remove_file(&target).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(&target).unwrap();
    assert!(dir.error().contains("is a socket, not a file"));
    drop(socket);
    let devices = DirLoader::new("/dev");
    assert!(
        load(&devices, "zero", &options())
            .unwrap_err()
            .to_string()
            .contains("is a device, not a file")
    );
}

#[test]
fn repositories_in_place_of_files_are_refused() {
    let dir = Dir::new(&[
        ("tree/t.yaml", "repos: [{name: a1, url: x}]\n"),
        ("tree/x", ""),
    ]);
    assert!(dir.error().contains("is a file, not a directory"));
    fs::write(dir.path("tree/t.yaml"), "add-files: [[sub, /etc/x]]\n").unwrap();
    fs::create_dir(dir.path("tree/sub")).unwrap();
    assert!(dir.error().contains("is a directory, not a file"));
}

#[test]
fn huge_files_are_not_read() {
    let dir = Dir::new(&[("tree/t.yaml", "postprocess-script: s\n")]);
    let file = fs::File::create(dir.path("tree/s")).unwrap();
    file.set_len(100 << 20).unwrap();
    assert!(dir.error().contains("is larger than 16 MiB"));
    // A file to add is not read here, so it may be large.
    fs::write(dir.path("tree/t.yaml"), "add-files: [[s, /usr/lib/s]]\n").unwrap();
    assert!(load(&dir.loader(), "t.yaml", &options()).is_ok());
}

#[test]
fn missing_treefiles_are_errors() {
    let dir = Dir::new(&[("tree/t.yaml", "ref: a\n")]);
    let message = load(&dir.loader(), "none.yaml", &options())
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with("reading the treefile: '")
            && message.ends_with("none.yaml' does not exist"),
        "{message}"
    );
    let missing = DirLoader::new(Utf8PathBuf::from_path_buf(dir.path("none")).unwrap());
    assert!(load(&missing, "t.yaml", &options()).is_err());
    assert!(load(&dir.loader(), "", &options()).is_err());
}

#[test]
fn files_that_anyone_may_write_give_a_warning() {
    let dir = Dir::new(&[("tree/t.yaml", "ref: a\n")]);
    fs::set_permissions(dir.path("tree/t.yaml"), fs::Permissions::from_mode(0o666)).unwrap();
    let spec = load(&dir.loader(), "t.yaml", &options()).unwrap();
    assert_eq!(spec.warnings, ["t.yaml: anyone may write to this file"]);
}

#[test]
fn sources_are_found_beside_the_treefile_and_in_the_source_root() {
    let sources = "Types: deb\nURIs: http://mirror.example/\nSuites: s\nComponents: main\nX-Repolib-ID: by-id\n";
    let dir = Dir::new(&[
        ("tree/t.yaml", "repos: [a1]\n"),
        ("tree/a1.sources", sources),
        ("other/b1.sources", sources),
    ]);
    let spec = load(&dir.loader(), "t.yaml", &options()).unwrap();
    assert_eq!(spec.repos[0].name, "by-id");
    fs::write(dir.path("tree/t.yaml"), "repos: [by-id]\n").unwrap();
    assert_eq!(
        load(&dir.loader(), "t.yaml", &options())
            .unwrap()
            .repos
            .len(),
        1
    );
    let mut elsewhere = options();
    elsewhere.source_root = Some(Utf8PathBuf::from_path_buf(dir.path("other")).unwrap());
    let spec = load(&dir.loader(), "t.yaml", &elsewhere).unwrap();
    assert!(spec.files[0].path.ends_with("other/b1.sources"));
}

#[test]
fn paths_in_the_result_are_absolute() {
    let dir = Dir::new(&[
        ("tree/t.yaml", "add-files: [[sub/x, /etc/x]]\n"),
        ("tree/sub/x", ""),
    ]);
    let spec = load(&dir.loader(), "t.yaml", &options()).unwrap();
    assert!(spec.directory.is_absolute() && spec.directory.ends_with("tree"));
    assert!(spec.files[0].path.is_absolute() && spec.edits.add_files[0].0.exists());
}

#[test]
fn unreadable_directories_are_errors_not_panics() {
    let loader = DirLoader::new("");
    assert!(loader.root().unwrap().is_absolute());
    assert!(
        loader
            .list(Utf8Path::new("/nonexistent"), ".sources")
            .is_err()
    );
    assert!(
        loader
            .locate(Utf8Path::new("/"), Utf8Path::new("a\0b"), FileKind::File)
            .is_err()
    );
}
