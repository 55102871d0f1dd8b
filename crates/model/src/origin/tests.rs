use proptest::prelude::*;

use super::*;

const SUM: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn install(names: &[&str]) -> UpdateRequest {
    UpdateRequest {
        install: names.iter().map(|n| (*n).to_owned()).collect(),
        ..UpdateRequest::default()
    }
}

fn uninstall(names: &[&str]) -> UpdateRequest {
    UpdateRequest {
        uninstall: names.iter().map(|n| (*n).to_owned()).collect(),
        ..UpdateRequest::default()
    }
}

fn local(id: &str) -> LocalRequest {
    format!("{SUM}:{id}").parse().unwrap()
}

fn locals(ids: &[&str]) -> LocalRequests {
    LocalRequests {
        install: ids.iter().map(|id| local(id)).collect(),
        override_replace: Vec::new(),
    }
}

fn replacements(ids: &[&str]) -> LocalRequests {
    LocalRequests {
        install: Vec::new(),
        override_replace: ids.iter().map(|id| local(id)).collect(),
    }
}

fn apply(origin: &mut Origin, request: &UpdateRequest) -> Result<bool, String> {
    origin
        .apply(request, &LocalRequests::default())
        .map_err(|error| error.message)
}

#[test]
fn a_request_is_made_once_and_dropped_once() {
    let mut origin = Origin::default();
    assert!(!origin.needs_layering());
    assert_eq!(apply(&mut origin, &install(&["vim", "htop"])), Ok(true));
    assert!(origin.needs_layering());
    let again = apply(&mut origin, &install(&["nano", "vim"]));
    assert_eq!(again, Err("package 'vim' is already requested".to_owned()));
    assert!(!origin.packages.contains("nano"), "half applied");
    let idempotent = UpdateRequest {
        idempotent: true,
        ..install(&["vim"])
    };
    assert_eq!(apply(&mut origin, &idempotent), Ok(false));
    assert_eq!(apply(&mut origin, &uninstall(&["vim", "htop"])), Ok(true));
    let gone = apply(&mut origin, &uninstall(&["vim"]));
    assert_eq!(gone, Err("package 'vim' is not requested".to_owned()));
    let idempotent = UpdateRequest {
        idempotent: true,
        ..uninstall(&["vim"])
    };
    assert_eq!(apply(&mut origin, &idempotent), Ok(false));
    assert_eq!(origin, Origin::default());
}

#[test]
fn another_version_or_suite_takes_the_place_of_a_request() {
    let mut origin = Origin::default();
    apply(&mut origin, &install(&["vim=2:9.0-1", "vim:arm64"])).unwrap();
    apply(&mut origin, &install(&["vim/trixie-backports"])).unwrap();
    let packages: Vec<_> = origin.packages.iter().map(String::as_str).collect();
    assert_eq!(packages, ["vim/trixie-backports", "vim:arm64"]);
    apply(&mut origin, &uninstall(&["vim:arm64"])).unwrap();
    apply(&mut origin, &uninstall(&["vim"])).unwrap();
    assert_eq!(origin, Origin::default());
}

#[test]
fn files_of_the_initramfs_are_paths_below_etc() {
    let mut origin = Origin::default();
    let mut set = |track: &[&str], untrack: &[&str], untrack_all| {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let request = InitramfsEtcRequest {
            track: texts(track),
            untrack: texts(untrack),
            untrack_all,
            ..InitramfsEtcRequest::default()
        };
        let changed = origin.set_initramfs_etc(&request).map_err(|e| e.message);
        (changed, origin.initramfs.etc.len(), origin.needs_layering())
    };
    assert_eq!(
        set(&["/etc/a", "/etc/b/"], &[], false),
        (Ok(true), 2, false)
    );
    assert_eq!(
        set(&["/etc/b"], &["/etc/none"], false),
        (Ok(false), 2, false)
    );
    assert_eq!(set(&["/etc/c"], &[], true), (Ok(true), 1, false));
    assert_eq!(set(&[], &["/etc/c/"], false), (Ok(true), 0, false));
    for bad in [
        "/usr/a",
        "/etc",
        "/etc/",
        "/etc/../a",
        "/etc//a",
        "etc/a",
        "/etc/a\n",
    ] {
        let (error, left, _) = set(&["/etc/good", bad], &[], false);
        assert!(
            error.unwrap_err().contains("is not a path below /etc"),
            "{bad:?}"
        );
        assert_eq!(left, 0);
    }
    origin.initramfs.etc.insert("/etc/a".to_owned());
    assert!(origin.is_changed_here());
}

#[test]
fn what_goes_goes_before_what_comes() {
    let mut origin = Origin::default();
    apply(&mut origin, &install(&["vim", "htop"])).unwrap();
    let request = UpdateRequest {
        uninstall_all: true,
        ..install(&["vim"])
    };
    assert_eq!(apply(&mut origin, &request), Ok(true));
    assert_eq!(origin.packages.len(), 1);
    let swap = UpdateRequest {
        uninstall: vec!["vim".to_owned()],
        ..install(&["nano"])
    };
    apply(&mut origin, &swap).unwrap();
    assert!(origin.packages.contains("nano") && origin.packages.len() == 1);
}

#[test]
fn malformed_requests_are_refused() {
    for bad in [
        "", "Vim", "vim=", "vim/", "vim:", "vim\n", "vim=1;rm", "vim/a b", "-y",
    ] {
        let mut origin = Origin::default();
        assert!(apply(&mut origin, &install(&[bad])).is_err(), "{bad:?}");
    }
}

#[test]
fn local_packages_are_dropped_by_name_or_id() {
    let request = UpdateRequest::default();
    for text in ["foo", "foo_1:2-1_amd64"] {
        let mut origin = Origin::default();
        origin
            .apply(&request, &locals(&["foo_1:2-1_amd64", "bar_1_all"]))
            .unwrap();
        let again = origin.apply(&request, &locals(&["bar_1_all"])).unwrap_err();
        assert_eq!(again.message, "package 'bar_1_all' is already requested");
        apply(&mut origin, &uninstall(&[text])).unwrap();
        assert_eq!(origin.local_packages.len(), 1);
    }
}

#[test]
fn a_newer_local_package_takes_the_place_of_the_older() {
    let mut origin = Origin::default();
    let request = UpdateRequest::default();
    origin.apply(&request, &locals(&["foo_1_amd64"])).unwrap();
    let replacing = UpdateRequest {
        force_replace_files: true,
        ..UpdateRequest::default()
    };
    origin.apply(&replacing, &locals(&["foo_2_amd64"])).unwrap();
    assert!(origin.local_packages.is_empty());
    assert_eq!(origin.local_packages_replacing_files.len(), 1);
}

#[test]
fn overrides_exclude_each_other_until_they_are_reset() {
    let mut origin = Origin::default();
    let remove = UpdateRequest {
        override_remove: vec!["nano".to_owned()],
        ..UpdateRequest::default()
    };
    apply(&mut origin, &remove).unwrap();
    let error = origin
        .apply(&UpdateRequest::default(), &replacements(&["nano_9_amd64"]))
        .unwrap_err();
    assert_eq!(error.message, "override already exists for package 'nano'");
    let reset = UpdateRequest {
        override_reset: vec!["nano".to_owned()],
        ..UpdateRequest::default()
    };
    apply(&mut origin, &reset).unwrap();
    let again = apply(&mut origin, &reset);
    assert_eq!(again, Err("no overrides for package 'nano'".to_owned()));
    origin
        .apply(&UpdateRequest::default(), &replacements(&["nano_9_amd64"]))
        .unwrap();
    let error = apply(&mut origin, &remove).unwrap_err();
    assert_eq!(error, "override already exists for package 'nano'");
    let by_id = UpdateRequest {
        override_reset: vec!["nano_9_amd64".to_owned()],
        ..UpdateRequest::default()
    };
    apply(&mut origin, &by_id).unwrap();
    assert!(!origin.has_overrides());
}

#[test]
fn a_package_has_one_replacement() {
    let mut origin = Origin::default();
    let from = |source: &str| UpdateRequest {
        override_replace: vec![ReplaceFrom {
            from: source.to_owned(),
            packages: vec!["nano".to_owned()],
            freeze: false,
        }],
        ..UpdateRequest::default()
    };
    origin
        .apply(&UpdateRequest::default(), &replacements(&["nano_8_amd64"]))
        .unwrap();
    apply(&mut origin, &from("suite=sid")).unwrap();
    assert!(origin.override_replace_local.is_empty());
    apply(&mut origin, &from("origin=Debian")).unwrap();
    let sources: Vec<_> = origin.override_replace.keys().collect();
    assert_eq!(sources, ["origin=Debian"]);
    origin
        .apply(&UpdateRequest::default(), &replacements(&["nano_9_amd64"]))
        .unwrap();
    assert!(origin.override_replace.is_empty());
    assert!(apply(&mut origin, &from("repo=x")).is_err());
    let all = UpdateRequest {
        override_reset_all: true,
        ..UpdateRequest::default()
    };
    apply(&mut origin, &all).unwrap();
    assert_eq!(origin, Origin::default());
}

#[test]
fn rebasing_forgets_what_belonged_to_the_old_ref() {
    let mut origin = Origin {
        follows: Some("origin:debian/13".parse().unwrap()),
        override_commit: Some(SUM.to_owned()),
        unconfigured_state: Some("register first".to_owned()),
        ..Origin::default()
    };
    apply(&mut origin, &install(&["vim"])).unwrap();
    let error = origin.rebase("origin:debian/13".parse().unwrap());
    assert_eq!(
        error.unwrap_err().message,
        "old and new refs are equal: 'origin:debian/13'"
    );
    origin.rebase("origin:debian/14".parse().unwrap()).unwrap();
    assert_eq!(
        (origin.override_commit, origin.unconfigured_state),
        (None, None)
    );
    assert_eq!(origin.packages.len(), 1);
}

#[test]
fn the_initramfs_is_set_to_something_else_or_not_at_all() {
    let mut origin = Origin::default();
    let message = |result: Result<(), Kinded>| result.unwrap_err().message;
    assert_eq!(
        message(origin.set_initramfs(false, &[])),
        "initramfs regeneration is already disabled"
    );
    let args = ["-I".to_owned(), "/etc/x".to_owned()];
    origin.set_initramfs(true, &args).unwrap();
    assert!(origin.set_initramfs(true, &args).is_err());
    origin.set_initramfs(true, &[]).unwrap();
    assert!(origin.set_initramfs(false, &args).is_err());
    assert!(origin.set_initramfs(true, &["a\nb".to_owned()]).is_err());
    origin.set_initramfs(false, &[]).unwrap();
    assert_eq!(origin, Origin::default());
}

#[test]
fn what_is_no_local_request_is_refused() {
    for bad in [
        "",
        SUM,
        "x:foo_1_amd64",
        &format!("{SUM}:foo_1"),
        &format!("{SUM}:Foo_1_all"),
    ] {
        assert!(bad.parse::<LocalRequest>().is_err(), "{bad}");
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just("aa"), Just("bb"), Just("cc")].prop_map(str::to_owned)
}

fn request() -> impl Strategy<Value = UpdateRequest> {
    let names = || proptest::collection::vec(name(), 0..3);
    (
        names(),
        names(),
        names(),
        names(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(install, uninstall, override_remove, override_reset, all, idempotent)| {
                UpdateRequest {
                    install,
                    uninstall,
                    override_remove,
                    override_reset,
                    uninstall_all: all,
                    idempotent,
                    ..UpdateRequest::default()
                }
            },
        )
}

proptest! {
    #[test]
    fn local_requests_round_trip(
        name in "[a-z][a-z0-9+.-]{1,8}",
        version in "([1-9]:)?[0-9][0-9a-z.+~]{0,6}(-[0-9a-z.+~]{1,4})?",
    ) {
        let request = local(&format!("{name}_{version}_amd64"));
        prop_assert_eq!(request.to_string().parse::<LocalRequest>().unwrap(), request);
    }

    #[test]
    fn a_refused_request_changes_nothing_and_an_idempotent_one_is_never_refused(
        requests in proptest::collection::vec(request(), 1..6)
    ) {
        let mut origin = Origin::default();
        for request in requests {
            let before = origin.clone();
            match apply(&mut origin, &request) {
                Ok(changed) => prop_assert_eq!(changed, before != origin),
                Err(_) => {
                    prop_assert_eq!(&before, &origin);
                    prop_assert!(!request.idempotent);
                }
            }
            if request.idempotent {
                let done = origin.clone();
                let again = UpdateRequest { uninstall: vec![], override_reset: vec![], ..request };
                prop_assert_eq!(apply(&mut origin, &again), Ok(false));
                prop_assert_eq!(done, origin.clone());
            }
        }
    }
}
