use clap::Parser;

use super::*;
use crate::cli::{Cli, Verb};

const CHECKSUM: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn verb(line: &str) -> Result<ClientVerb, clap::Error> {
    let args = std::iter::once("apt-ostree").chain(line.split(' '));
    match Cli::try_parse_from(args)?.verb {
        Some(Verb::Client(verb)) => Ok(verb),
        _ => panic!("no verb on a system in '{line}'"),
    }
}

fn request(line: &str) -> Request {
    verb(line)
        .unwrap_or_else(|error| panic!("{line}: {error}"))
        .try_into()
        .unwrap()
}

fn updated(line: &str) -> UpdateRequest {
    match request(line) {
        Request::Update(request) => *request,
        other => panic!("{line}: not an update: {other:?}"),
    }
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn local(path: &str) -> LocalPackage {
    LocalPackage {
        path: path.into(),
        sha256: None,
    }
}

#[test]
fn status_names_a_system() {
    let Request::Status(request) = request("status --sysroot /mnt --os debian -v") else {
        panic!("not a status")
    };
    assert_eq!(request.target.sysroot, Some("/mnt".into()));
    assert_eq!(request.target.stateroot.as_deref(), Some("debian"));
}

#[test]
fn upgrade_moves_the_base_and_keeps_the_rest() {
    let plain = UpdateRequest {
        base: BaseChange::Upgrade,
        ..UpdateRequest::default()
    };
    assert_eq!(updated("upgrade"), plain);
    assert_eq!(updated("update"), plain);
    assert!(updated("upgrade --check").check);
    assert!(updated("upgrade --preview").preview);
    assert!(updated("upgrade --check-diff").preview);
    assert!(updated("upgrade --upgrade-unchanged-exit-77 --allow-downgrade").allow_downgrade);
    let request = updated(
        "upgrade -r -C --lock-finalization --install htop --install ./x.deb --uninstall vim \
         --stateroot debian",
    );
    assert_eq!(request.install, ["htop"]);
    assert_eq!(request.install_local, [local("./x.deb")]);
    assert_eq!(request.uninstall, ["vim"]);
    let options = request.options;
    assert!(options.reboot && options.cache_only && options.lock_finalization);
    assert!(updated("upgrade --download-only").options.download_only);
}

#[test]
fn deploy_allows_older_revisions_unless_told_otherwise() {
    let request = updated("deploy version=13.2 --skip-branch-check");
    let revision = String::from("version=13.2");
    assert_eq!(request.base, BaseChange::Deploy { revision });
    assert!(request.allow_downgrade && request.skip_branch_check);
    let request = updated("deploy x --disallow-downgrade --preview");
    assert!(!request.allow_downgrade && request.preview);
}

#[test]
fn rebase_takes_a_refspec_or_its_parts() {
    let base = |line: &str| match updated(line).base {
        BaseChange::Rebase { refspec, revision } => (refspec, revision),
        other => panic!("{line}: {other:?}"),
    };
    let both =
        |refspec: &str, revision: Option<&str>| (refspec.to_owned(), revision.map(str::to_owned));
    assert_eq!(
        base("rebase origin:debian/14"),
        both("origin:debian/14", None)
    );
    assert_eq!(
        base("rebase :debian/14 1.2"),
        both(":debian/14", Some("1.2"))
    );
    assert_eq!(base("rebase -b debian/14"), both("debian/14", None));
    assert_eq!(base("rebase -m other"), both("other:", None));
    assert_eq!(
        base("rebase -m other -b x 1.2"),
        both("other:x", Some("1.2"))
    );
    let image = "ostree-unverified-image:oci:/srv/image";
    assert_eq!(
        base(&format!("rebase --experimental {image}")),
        both(image, None)
    );
    let request =
        updated("rebase x --skip-purge --custom-origin-description d --custom-origin-url u");
    assert!(request.skip_purge && request.allow_downgrade);
    assert_eq!(
        request.custom_origin,
        Some(("d".to_owned(), "u".to_owned()))
    );
}

#[test]
fn install_takes_names_and_files() {
    let request = updated(
        "install htop vim=2:9.0-1 x.deb --uninstall nano -n --idempotent --allow-inactive \
         --force-replacefiles",
    );
    let expected = UpdateRequest {
        options: TransactionOptions {
            dry_run: true,
            ..TransactionOptions::default()
        },
        install: strings(&["htop", "vim=2:9.0-1"]),
        install_local: vec![local("x.deb")],
        uninstall: strings(&["nano"]),
        idempotent: true,
        allow_inactive: true,
        force_replace_files: true,
        ..UpdateRequest::default()
    };
    assert_eq!(request, expected);
    assert_eq!(updated("pkg-add htop"), updated("install htop"));
    assert!(updated("install htop -A -y").apply_live);
}

#[test]
fn uninstall_needs_no_network_unless_something_is_installed() {
    let request = updated("uninstall htop xx_1_amd64");
    assert_eq!(request.uninstall, ["htop", "xx_1_amd64"]);
    assert!(request.options.cache_only);
    assert_eq!(updated("remove htop xx_1_amd64"), request);
    assert_eq!(updated("pkg-remove htop xx_1_amd64"), request);
    let request = updated("uninstall --all --install vim --idempotent");
    assert!(request.uninstall_all && request.idempotent && !request.options.cache_only);
    assert_eq!(request.install, ["vim"]);
}

#[test]
fn overrides_are_files_or_named_packages_of_a_source() {
    let request = updated("override replace a.deb --remove bb --install htop -C");
    assert_eq!(request.override_replace_local, [local("a.deb")]);
    assert_eq!(request.override_remove, ["bb"]);
    assert_eq!(request.install, ["htop"]);
    assert!(request.options.cache_only);
    let request = updated(
        "override replace --experimental --from suite=sid linux-image-amd64 a.deb --freeze",
    );
    let expected = ReplaceFrom {
        from: "suite=sid".to_owned(),
        packages: strings(&["linux-image-amd64"]),
        freeze: true,
    };
    assert_eq!(request.override_replace, [expected]);
    assert_eq!(request.override_replace_local, [local("a.deb")]);

    let request = updated("override remove nano vim-tiny --replace a.deb -r");
    assert_eq!(request.override_remove, ["nano", "vim-tiny"]);
    assert_eq!(request.override_replace_local, [local("a.deb")]);
    assert!(request.options.reboot);

    assert_eq!(updated("override reset nano").override_reset, ["nano"]);
    assert!(updated("override reset -a").override_reset_all);
}

#[test]
fn a_named_override_without_a_source_is_wrong_usage() {
    let refused = |line: &str| Request::try_from(verb(line).unwrap()).unwrap_err();
    let error = refused("override replace nano");
    assert_eq!(error.kind, ErrorKind::Usage);
    assert_eq!(
        error.message,
        "'nano' is not a .deb file, and there is no --from"
    );
    assert!(error.hint.unwrap().contains("--from suite=NAME"));
    let error = refused("override replace a.deb --from suite=sid");
    assert_eq!(error.kind, ErrorKind::Usage);
}

#[test]
fn reset_drops_what_is_named_or_everything() {
    let dropped = |line: &str| {
        let request = updated(line);
        (
            request.uninstall_all,
            request.override_reset_all,
            request.reset_initramfs,
        )
    };
    assert_eq!(dropped("reset"), (true, true, true));
    assert_eq!(dropped("reset -l"), (true, false, false));
    assert_eq!(dropped("reset --overrides -i"), (false, true, true));
    assert_eq!(updated("reset --install htop").install, ["htop"]);
}

#[test]
fn kargs_keeps_every_list_apart() {
    let Request::Kargs(request) = request(
        "kargs --deploy-index 1 --append a=1 --append b --append-if-missing c --replace d=1=2 \
         --delete-if-present f --lock-finalization",
    ) else {
        panic!("not kargs")
    };
    let expected = KargsRequest {
        options: TransactionOptions {
            lock_finalization: true,
            ..TransactionOptions::default()
        },
        deploy_index: Some(1),
        append: strings(&["a=1", "b"]),
        append_if_missing: strings(&["c"]),
        replace: strings(&["d=1=2"]),
        delete_if_present: strings(&["f"]),
        ..KargsRequest::default()
    };
    assert_eq!(request, expected);
}

#[test]
fn the_other_verbs_reach_their_requests() {
    let expected = InitramfsRequest {
        regenerate: true,
        args: strings(&["-I", "/etc/x"]),
        ..InitramfsRequest::default()
    };
    let line = "initramfs --enable --arg -I --arg /etc/x";
    assert_eq!(request(line), Request::Initramfs(expected));
    assert_eq!(
        request("initramfs --disable"),
        Request::Initramfs(InitramfsRequest::default())
    );
    let expected = InitramfsEtcRequest {
        track: strings(&["/etc/crypttab", "/etc/lvm"]),
        untrack_all: true,
        force_sync: true,
        ..InitramfsEtcRequest::default()
    };
    let line = "initramfs-etc --untrack-all --track /etc/crypttab --track /etc/lvm --force-sync";
    assert_eq!(request(line), Request::InitramfsEtc(expected.clone()));
    let line = format!("ex {line}");
    assert_eq!(request(&line), Request::InitramfsEtc(expected));
    let expected = ApplyLiveRequest {
        commit: Some("abc".to_owned()),
        allow_replacement: true,
        ..ApplyLiveRequest::default()
    };
    let line = "apply-live --target abc --allow-replacement";
    assert_eq!(request(line), Request::ApplyLive(expected));
    let Request::ApplyLive(live) = request("ex livefs --reset -n") else {
        panic!("not a live change")
    };
    assert!(live.reset && live.options.dry_run);
    let Request::Rollback(rollback) = request("rollback -r") else {
        panic!("not a rollback")
    };
    assert!(rollback.options.reboot);
    let expected = CleanupRequest {
        base: true,
        pending: true,
        rollback: true,
        repomd: true,
        ..CleanupRequest::default()
    };
    assert_eq!(request("cleanup -bprm"), Request::Cleanup(expected));
    let Request::Finalize(finalize) = request(&format!("finalize-deployment {CHECKSUM}")) else {
        panic!("not a finalize")
    };
    assert_eq!(finalize.checksum.as_deref(), Some(CHECKSUM));
    assert!(finalize.options.reboot && !finalize.allow_unlocked);
}

#[test]
fn db_list_tells_commits_from_starts_of_names() {
    let db = |line: &str| match request(line) {
        Request::Db(request) => request,
        other => panic!("not a db request: {other:?}"),
    };
    let line = format!("db list stable debian/13 debian-{CHECKSUM}.0 lib python3 --repo r");
    let list = db(&line);
    let deployment = format!("debian-{CHECKSUM}.0");
    assert_eq!(list.revisions, ["stable", "debian/13", &deployment]);
    assert_eq!(list.prefixes, ["lib", "python3"]);
    assert_eq!(list.repo, Some("r".into()));
    assert!(!list.diff && db("db diff").diff);
    assert_eq!(db("rpm version a b").revisions, ["a", "b"]);
    assert_eq!(db("db diff a b --format json --base").revisions, ["a", "b"]);
}

#[test]
fn what_contradicts_itself_is_refused() {
    let twice = "cannot be used with";
    let missing = "required arguments were not provided";
    let both = format!("finalize-deployment {CHECKSUM} --allow-missing-checksum");
    for (line, reason) in [
        ("status --json -J $.x", twice),
        ("status -J x", "expected '$' at character 1"),
        ("status --stateroot ../x", "name of a directory"),
        ("upgrade --check --preview", twice),
        ("upgrade --check -r", twice),
        ("upgrade --preview -r", twice),
        ("upgrade --preview --install xx", twice),
        ("upgrade --download-only -C", twice),
        ("upgrade --download-only -r", twice),
        ("deploy", missing),
        ("deploy ", "must not be empty"),
        ("rebase", missing),
        ("rebase -b x 1 2", twice),
        ("rebase x --custom-origin-url u", missing),
        ("install", missing),
        ("install Xx", "lowercase"),
        ("install xx -A -r", twice),
        ("install xx -n --download-only", twice),
        ("uninstall", missing),
        ("uninstall xx --all", twice),
        ("override replace xx --freeze", missing),
        (
            "override replace xx --from repo=y",
            "suite=NAME or origin=NAME",
        ),
        ("override remove", missing),
        ("override reset", missing),
        ("override reset xx --all", twice),
        ("kargs --delete a --replace b=c", twice),
        ("kargs --editor --append a", twice),
        ("kargs --import-proc-cmdline --deploy-index 0", twice),
        ("kargs --import-proc-cmdline --stateroot x", twice),
        ("kargs --append =x", "has no key"),
        ("kargs --replace x", "KEY=VALUE"),
        ("initramfs --enable --disable", twice),
        ("initramfs --arg x", missing),
        ("cleanup", missing),
        ("finalize-deployment", missing),
        ("finalize-deployment abc", "whole commit checksum"),
        (&both, twice),
        ("db diff a b --repo r --sysroot s", twice),
        ("db diff a b c", "unexpected argument"),
        ("db list", missing),
        ("apply-live --reset --target x", twice),
        ("initramfs-etc --track /usr/x", "below /etc"),
        ("initramfs-etc --untrack /etc/x --untrack-all", twice),
        ("usroverlay --hotfix --transient", twice),
        ("ex history --all --limit 2", twice),
    ] {
        let text = verb(line).expect_err(line).to_string();
        assert!(text.contains(reason), "{line}: {text}");
    }
}

#[test]
fn the_command_line_goes_where_there_are_options() {
    for line in [
        "upgrade",
        "rollback",
        "kargs --append a",
        "initramfs --enable",
    ] {
        let mut request = request(line);
        options_mut(&mut request).unwrap().command_line = line.to_owned();
        let text = serde_json::to_string(&request).unwrap();
        assert!(
            text.contains(&format!("\"command-line\":\"{line}\"")),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
    }
    assert!(options_mut(&mut request("status")).is_none());
}
