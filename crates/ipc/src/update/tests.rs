use std::collections::HashMap;

use super::*;
use crate::error::Error;

type Entries = Vec<(&'static str, Value<'static>)>;

fn dict(entries: Vec<(&str, Value<'_>)>) -> Dict {
    entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.try_into_owned().unwrap()))
        .collect()
}

fn parsed(
    modifiers: Vec<(&str, Value<'_>)>,
    options: Vec<(&str, Value<'_>)>,
) -> Result<UpdateCall> {
    parse(Target::default(), dict(modifiers), dict(options))
}

#[test]
fn nothing_is_an_upgrade() {
    let request = parsed(vec![], vec![]).unwrap().request;
    assert_eq!(request.base, BaseChange::Upgrade);
    assert!(!request.allow_downgrade);
}

#[test]
fn a_revision_may_be_older_unless_told_otherwise() {
    let modifiers = || vec![("set-revision", "1.2".into())];
    assert!(parsed(modifiers(), vec![]).unwrap().request.allow_downgrade);
    let options = vec![("allow-downgrade", false.into())];
    let request = parsed(modifiers(), options).unwrap().request;
    assert!(!request.allow_downgrade);
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    let cases: Vec<(Entries, Entries)> = vec![
        (
            vec![],
            vec![("reboot", true.into()), ("apply-live", true.into())],
        ),
        (
            vec![],
            vec![("dry-run", true.into()), ("download-only", true.into())],
        ),
        (
            vec![],
            vec![("cache-only", true.into()), ("download-only", true.into())],
        ),
        (
            vec![("set-refspec", "a".into())],
            vec![("no-pull-base", true.into())],
        ),
        (vec![], vec![("skip-purge", true.into())]),
        (
            vec![("override-remove-packages", vec!["a"].into())],
            vec![("no-overrides", true.into())],
        ),
        (vec![("install-modules", vec!["a"].into())], vec![]),
        (vec![("reboot", true.into())], vec![]),
        (vec![], vec![("install-packages", vec!["a"].into())]),
    ];
    for (modifiers, options) in cases {
        let text = format!("{modifiers:?} {options:?}");
        let error = parsed(modifiers, options).unwrap_err();
        assert!(
            matches!(error, Error::InvalidArguments(_)),
            "{text}: {error}"
        );
    }
}

#[test]
fn both_spellings_of_keys_are_taken() {
    for key in ["allow-inactive", "allow-inactive-requests"] {
        let request = parsed(vec![], vec![(key, true.into())]).unwrap().request;
        assert!(request.allow_inactive, "{key}");
    }
    for key in [
        "install-fileoverride-local-packages",
        "install-local-fileoverride-packages",
    ] {
        let file = std::fs::File::open("/dev/null").unwrap();
        let fds = vec![zbus::zvariant::Fd::from(&file)];
        let call = parsed(vec![(key, fds.into())], vec![]).unwrap();
        assert_eq!(call.install.len(), 1, "{key}");
        assert!(call.request.force_replace_files, "{key}");
    }
}

#[test]
fn a_request_survives_its_way_over_the_bus() {
    let full = UpdateRequest {
        options: TransactionOptions {
            command_line: "apt-ostree rebase x".into(),
            reboot: true,
            lock_finalization: true,
            cache_only: true,
            ..TransactionOptions::default()
        },
        base: BaseChange::Rebase {
            refspec: "ostree-image-signed:registry:example".into(),
            revision: Some("sha256:00".into()),
        },
        allow_downgrade: true,
        skip_purge: true,
        skip_branch_check: true,
        custom_origin: Some(("url".into(), "text".into())),
        install: vec!["a".into(), "b=1".into()],
        uninstall: vec!["c".into()],
        uninstall_all: true,
        override_remove: vec!["d".into()],
        override_replace: vec![ReplaceFrom {
            from: "suite=sid".into(),
            packages: vec!["e".into()],
            freeze: true,
        }],
        override_reset: vec!["f".into()],
        reset_initramfs: true,
        idempotent: true,
        allow_inactive: true,
        check: true,
        preview: true,
        ..UpdateRequest::default()
    };
    let keep = UpdateRequest {
        install: vec!["a".into()],
        ..UpdateRequest::default()
    };
    let upgrade = UpdateRequest {
        base: BaseChange::Upgrade,
        apply_live: true,
        override_reset_all: true,
        ..UpdateRequest::default()
    };
    for request in [full, keep, upgrade, UpdateRequest::default()] {
        let (modifiers, options) = to_dicts(&request);
        let owned = |dict: HashMap<&'static str, Value<'_>>| -> Dict {
            dict.into_iter()
                .map(|(key, value)| (key.to_owned(), value.try_into_owned().unwrap()))
                .collect()
        };
        let call = parse(Target::default(), owned(modifiers), owned(options)).unwrap();
        assert_eq!(call.request, request);
    }
}

#[test]
fn digests_belong_to_their_files() {
    let file = || std::os::fd::OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let digest: Sha256Digest = "ab".repeat(32).parse().unwrap();
    let package = |sha256| LocalPackage {
        path: "/x.deb".into(),
        sha256,
    };
    let request = UpdateRequest {
        install_local: vec![package(None), package(Some(digest))],
        override_replace_local: vec![package(None)],
        ..UpdateRequest::default()
    };
    let (install, replace) = ([file(), file()], [file()]);
    let (mut modifiers, options) = to_dicts(&request);
    add_files(&mut modifiers, &request, &install, &replace);
    let call = parsed(
        modifiers.into_iter().collect(),
        options.into_iter().collect(),
    );
    let call = call.unwrap();
    let digests = |files: &[PassedFile]| files.iter().map(|f| f.sha256).collect::<Vec<_>>();
    assert_eq!(digests(&call.install), [None, Some(digest)]);
    assert_eq!(digests(&call.replace), [None]);

    for (list, word) in [
        (vec!["", ""], "2 items for 0 files"),
        (vec!["00"], "1 items for 0 files"),
    ] {
        let error = parsed(vec![(INSTALL_DIGESTS, list.into())], vec![]).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    let one = file();
    let fds = vec![Fd::from(&one)];
    let modifiers = vec![
        (INSTALL_FILES, fds.into()),
        (INSTALL_DIGESTS, vec!["00"].into()),
    ];
    let error = parsed(modifiers, vec![]).unwrap_err();
    assert!(error.to_string().contains("not a SHA-256"), "{error}");
}
