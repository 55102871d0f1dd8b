use proptest::prelude::*;

use super::*;

const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn file(path: &str, sha256: Option<&str>) -> Result<PackageArg, String> {
    Ok(PackageArg::File(LocalPackage {
        path: path.into(),
        sha256: sha256.map(|text| text.parse().unwrap()),
    }))
}

#[test]
fn files_are_told_from_requests() {
    for text in [
        "htop",
        "htop=3.2.2-2",
        "a.b+c=1:2~rc1-3",
        "libc6:i386",
        "libc6:i386=2.36-9",
        "htop/bookworm-backports",
        "htop/stable/updates",
    ] {
        assert_eq!(
            parse_package(text),
            Ok(PackageArg::Request(text.to_owned())),
            "{text}"
        );
    }
    assert_eq!(
        parse_package("htop_1_amd64.deb"),
        file("htop_1_amd64.deb", None)
    );
    assert_eq!(parse_package("./x y.deb"), file("./x y.deb", None));
    assert_eq!(parse_package("file:///srv/x.deb"), file("/srv/x.deb", None));
    let hashed = format!("x.deb#sha256={DIGEST}");
    assert_eq!(parse_package(&hashed), file("x.deb", Some(DIGEST)));
}

#[test]
fn what_is_neither_is_refused_with_a_reason() {
    for (text, reason) in [
        ("", "2 to 255 characters"),
        ("Htop", "lowercase letter"),
        ("htop=", "version has 1 to 255"),
        ("htop=x", "does not start with a digit"),
        ("htop:AMD64", "architecture"),
        ("htop/", "suite"),
        ("htop/-x", "suite"),
        ("htop vim", "only lowercase letters"),
        ("/usr/bin/htop", "must end in .deb"),
        ("./htop", "must end in .deb"),
        ("file:///x", "must end in .deb"),
        ("x.deb#sha256=12", "SHA-256"),
        ("a\n.deb", "control characters"),
        ("https://mirror.example/x.deb", "URLs are not fetched"),
        ("-o", "starts with a lowercase letter"),
    ] {
        let error = parse_package(text).unwrap_err();
        assert!(error.contains(reason), "{text:?}: {error}");
    }
}

#[test]
fn requests_are_dropped_as_given_or_by_the_whole_name_of_a_file() {
    for text in ["htop", "htop=1", "htop:i386", "htop_1:3.2-2_amd64"] {
        assert_eq!(parse_installed(text).as_deref(), Ok(text));
    }
    for text in [
        "htop_1",
        "htop__amd64",
        "htop_1_amd64_x",
        "_1_amd64",
        "x.deb#",
    ] {
        assert!(parse_installed(text).is_err(), "{text}");
    }
}

#[test]
fn sources_name_a_suite_or_an_origin() {
    for text in ["suite=bookworm-backports", "origin=Debian Backports"] {
        assert_eq!(text.parse::<Source>().unwrap().as_str(), text);
    }
    for text in [
        "bookworm",
        "suite=",
        "suite=a b",
        "origin= ",
        "origin=a\tb",
        "repo=x",
    ] {
        assert!(text.parse::<Source>().is_err(), "{text}");
    }
}

#[test]
fn kernel_arguments_are_those_that_the_kernel_can_take() {
    for text in ["quiet", "root=UUID=1", "a=", "x=\"a b\"", "a.b-c_d=1,2"] {
        assert_eq!(parse_karg(text).as_deref(), Ok(text));
    }
    let long = "x".repeat(2001);
    for text in ["", "=v", "a b", "a\n", "a\u{1b}", "a=\"b", &long] {
        assert!(parse_karg(text).is_err(), "{text:?}");
    }
    assert!(parse_karg_value("quiet").is_err());
    assert_eq!(parse_karg_value("a=b=c").as_deref(), Ok("a=b=c"));
}

#[test]
fn stateroots_are_single_names() {
    assert_eq!(parse_stateroot("debian").as_deref(), Ok("debian"));
    for text in ["", ".", "..", "a/b", "a\0"] {
        assert!(parse_stateroot(text).is_err(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn what_is_accepted_is_harmless_in_one_line(text in "\\PC*|[ -~\t\n]{0,40}") {
        let parsed = [
            parse_package(&text).ok().map(|package| match package {
                PackageArg::Request(request) => request,
                PackageArg::File(file) => file.path.to_string_lossy().into_owned(),
            }),
            parse_installed(&text).ok(),
            parse_karg(&text).ok(),
            text.parse::<Source>().ok().map(|source| source.0),
        ];
        for accepted in parsed.into_iter().flatten() {
            prop_assert!(!accepted.is_empty());
            prop_assert!(!accepted.chars().any(char::is_control), "{accepted:?}");
        }
    }

    #[test]
    fn every_form_of_a_request_is_accepted(
        name in "[a-z0-9][a-z0-9+.-]{1,20}",
        arch in "(:[a-z][a-z0-9-]{0,9})?",
        rest in "(=([0-9]{1,3}:)?[0-9][a-z0-9.+~]{0,9}(-[a-z0-9.+~]{1,5})?|/[a-z0-9][a-z0-9._/-]{0,15})?",
    ) {
        let text = format!("{name}{arch}{rest}");
        // Only a file can end like that.
        prop_assume!(!text.ends_with(".deb"));
        prop_assert_eq!(parse_package(&text), Ok(PackageArg::Request(text.clone())));
    }
}
