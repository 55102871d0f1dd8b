use std::path::{Path, PathBuf};

use apt_ostree_model::compose::Compression;
use clap::Parser;

use super::*;
use crate::cli::{Cli, Verb};

fn parse(line: &str) -> Result<Request, clap::Error> {
    let args = std::iter::once("apt-ostree").chain(line.split(' '));
    match Cli::try_parse_from(args)?.verb {
        Some(Verb::Compose(compose)) => Ok(compose.verb.expect("a verb was given").into()),
        _ => panic!("no compose verb in '{line}'"),
    }
}

fn tree(options: &str) -> TreeRequest {
    match parse(format!("compose tree a.yaml {options}").trim_end()).unwrap() {
        Request::Tree(request) => request,
        other => panic!("not a tree: {other:?}"),
    }
}

fn refused(line: &str) -> String {
    parse(line).expect_err(line).to_string()
}

#[test]
fn a_plain_tree_has_defaults_everywhere() {
    let expected = TreeRequest {
        treefile: "a.yaml".into(),
        repo: None,
        layer_repo: None,
        work: WorkOptions::default(),
        install: InstallOptions::default(),
        commit: CommitOptions::default(),
        previous: PreviousOptions::default(),
        image: ImageOptions::default(),
        lint: LintOptions::default(),
    };
    assert_eq!(tree(""), expected);
}

#[test]
fn container_writes_an_oci_layout_and_a_docker_archive() {
    let request = tree("--container --verbose");
    assert_eq!(
        request.image.formats,
        [ImageFormat::Oci, ImageFormat::DockerArchive]
    );
}

#[test]
fn formats_replace_those_of_container_and_are_written_once() {
    let request = tree("--container --format ociarchive --format oci-archive");
    assert_eq!(request.image.formats, [ImageFormat::OciArchive]);
    let request = tree("--format docker-archive --format oci");
    assert_eq!(
        request.image.formats,
        [ImageFormat::Oci, ImageFormat::DockerArchive]
    );
}

#[test]
fn the_repository_is_in_the_output_directory_unless_named() {
    let repo = |options: &str| tree(options).repo;
    assert_eq!(repo("--output-dir out"), Some(PathBuf::from("out/repo")));
    assert_eq!(repo("--output-dir out -r /srv/r"), Some("/srv/r".into()));
    assert_eq!(
        tree("--output-dir out").image.output_dir.as_deref(),
        Some(Path::new("out"))
    );
}

#[test]
fn install_options_reach_the_request() {
    let install = tree(
        "--mirror http://mirror.example/ --proxy http://127.0.0.1:3128 --source-root s \
         --arch arm64 --var a=1 --define b=x=y --var a=2 --cache-only --force-nocache \
         --ex-lockfile l1 --lockfile l2 --ex-lockfile-strict --ex-write-lockfile-to w --dry-run",
    )
    .install;
    let variables = [("a", "2"), ("b", "x=y")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let expected = InstallOptions {
        mirror: Some("http://mirror.example".to_owned()),
        proxy: Some("http://127.0.0.1:3128".to_owned()),
        source_root: Some("s".into()),
        force_nocache: true,
        offline: true,
        download_only: false,
        download_only_debs: false,
        dry_run: true,
        lockfiles: vec!["l1".into(), "l2".into()],
        lockfile_strict: true,
        write_lockfile_to: Some("w".into()),
        variables: BTreeMap::from(variables),
        arch: Some("arm64".to_owned()),
    };
    assert_eq!(install, expected);
    assert!(tree("--offline").install.offline);
    assert!(tree("--download-only").install.download_only);
    assert!(tree("--download-only-rpms").install.download_only_debs);
}

#[test]
fn commit_options_reach_the_request() {
    let request = tree(
        "--add-metadata-string a=b --add-metadata-from-json m.json --write-commitid-to c \
         --write-composejson-to j --parent p --previous-commit pc --previous-inputhash pi \
         --previous-version pv --touch-if-changed t",
    );
    let expected = CommitOptions {
        add_metadata_strings: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        add_metadata_from_json: vec!["m.json".into()],
        write_commitid_to: Some("c".into()),
        write_composejson_to: Some("j".into()),
        no_parent: false,
        parent: Some("p".to_owned()),
    };
    assert_eq!(request.commit, expected);
    let expected = PreviousOptions {
        previous_commit: Some("pc".to_owned()),
        previous_inputhash: Some("pi".to_owned()),
        previous_version: Some("pv".to_owned()),
        touch_if_changed: Some("t".into()),
    };
    assert_eq!(request.previous, expected);
    assert!(tree("--no-parent").commit.no_parent);
}

#[test]
fn image_lint_and_work_options_reach_the_request() {
    let request = tree(
        "--compression zstd --max-layers 8 -l a=b --label c= --image-config i.json \
         --no-lint --skip-lint x --skip-lint y --cachedir /c --workdir /w --keep-workdir \
         --threads 2 --layer-repo lr",
    );
    let labels = [("a", "b"), ("c", "")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let expected = ImageOptions {
        formats: Vec::new(),
        output_dir: None,
        compression: Compression::Zstd,
        labels: BTreeMap::from(labels),
        image_config: Some("i.json".into()),
        max_layers: Some(8),
    };
    assert_eq!(request.image, expected);
    assert!(request.lint.no_lint);
    assert_eq!(request.lint.skip, ["x", "y"]);
    let expected = WorkOptions {
        cachedir: Some("/c".into()),
        workdir: Some("/w".into()),
        keep_workdir: true,
        threads: Some(2),
    };
    assert_eq!(request.work, expected);
    assert_eq!(request.layer_repo, Some("lr".into()));
}

#[test]
fn the_other_verbs_take_their_arguments_in_order() {
    let Request::Install(request) =
        parse("compose install a.yaml d --postprocess --repo r").unwrap()
    else {
        panic!("not an install")
    };
    assert_eq!(
        (request.treefile, request.dest),
        ("a.yaml".into(), "d".into())
    );
    assert_eq!(
        (request.postprocess, request.repo),
        (true, Some("r".into()))
    );

    let Request::Postprocess(request) = parse("compose postprocess root").unwrap() else {
        panic!("not a postprocess")
    };
    assert_eq!((request.rootfs, request.treefile), ("root".into(), None));

    let Request::Commit(request) = parse("compose commit a.yaml root -r r").unwrap() else {
        panic!("not a commit")
    };
    assert_eq!(
        (request.treefile, request.rootfs),
        ("a.yaml".into(), "root".into())
    );

    let Request::Rootfs(request) = parse("compose rootfs a.yaml d --lockfile l").unwrap() else {
        panic!("not a rootfs")
    };
    assert_eq!(
        (request.treefile, request.dest),
        ("a.yaml".into(), "d".into())
    );
    assert_eq!(request.install.lockfiles, [PathBuf::from("l")]);
}

#[test]
fn an_image_is_an_oci_archive_unless_told_otherwise() {
    let image = |options: &str| match parse(&format!("compose image a.yaml o.tar{options}")) {
        Ok(Request::Image(request)) => request,
        other => panic!("not an image: {other:?}"),
    };
    let request = image("");
    assert_eq!(request.format, ImageFormat::OciArchive);
    assert_eq!(request.initialize, InitializeMode::Query);
    assert_eq!(image(" -i").initialize, InitializeMode::Always);
    let mode = image(" --initialize-mode if-not-exists").initialize;
    assert_eq!(mode, InitializeMode::IfNotExists);
    let request = image(" --format docker-archive -l a=b --offline");
    assert_eq!(request.format, ImageFormat::DockerArchive);
    assert_eq!(request.image.labels["a"], "b");
    assert!(request.install.offline);
}

#[test]
fn options_of_rpm_ostree_without_meaning_are_accepted() {
    let plain = tree("");
    assert_eq!(
        tree("--unified-core --disable-selinux --workdir-tmpfs"),
        plain
    );
    assert_eq!(tree("--ex-unified-core"), plain);
}

#[test]
fn bad_values_are_refused_with_a_reason() {
    let tree = "compose tree a.yaml";
    for (options, reason) in [
        (
            "--mirror mirror.example",
            "must be a http, https or file URL",
        ),
        ("--mirror http://", "must be a http, https or file URL"),
        (
            "--mirror ftp://mirror.example",
            "must be a http, https or file URL",
        ),
        (
            "--proxy localhost:3128",
            "must be a http, https or socks5h URL",
        ),
        ("--arch AMD64", "architecture"),
        ("--var novalue", "must have the form KEY=VALUE"),
        ("--label =x", "must have the form KEY=VALUE"),
        ("--threads 0", "zero"),
        ("--max-layers 0", "zero"),
        ("--format registry", "possible values"),
        ("--compression xz", "possible values"),
        ("--lockfile-strict", "--lockfile"),
        ("--parent x --no-parent", "cannot be used with"),
        ("--dry-run --print-only", "cannot be used with"),
        (
            "--download-only --download-only-debs",
            "cannot be used with",
        ),
        ("--json -v", "cannot be used with"),
        ("-q -v", "cannot be used with"),
        ("--unknown", "unexpected argument"),
        ("b.yaml", "unexpected argument"),
    ] {
        let text = refused(&format!("{tree} {options}"));
        assert!(text.contains(reason), "{options}: {text}");
    }
    let text = refused("compose image a.yaml o --initialize --initialize-mode never");
    assert!(text.contains("cannot be used with"), "{text}");
    assert!(refused("compose container-encapsulate a b").contains("unrecognized subcommand"));
}

#[test]
fn the_request_survives_the_pipe() {
    let request = Request::Tree(tree("--container --var a=1 --label b=c --threads 3"));
    let text = serde_json::to_string(&request).unwrap();
    assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
}
