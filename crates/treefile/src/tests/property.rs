//! Whatever the input, loading ends without a panic, and what loads is sound.

use proptest::prelude::*;

use super::*;

const GOOD: &str = "ref: debian/${v}/${basearch}\ninclude: in.yaml\nvariables: {v: 13}\n\
    repos:\n  - name: debian\n    suites: [trixie, trixie-updates]\n    gpg-keys: []\n  - src\n\
    packages:\n  include: &p [bash, 'vim=2:9.1', \"a1 b1\"]\n  exclude: [nano]\npackages-amd64: *p\n\
    conditional-include:\n  - if: v >= 13\n    include: {units: [a.service]}\n\
    check-groups: {type: data, entries: {mail: 8}}\npostprocess:\n  - |\n    #!/bin/sh\n    true\n\
    remove-from-packages: [[bash, '/usr/.*']]\nmetadata: {a: [1, 2.5, ~, {b: true}]}\n";
const SOURCES: &str =
    "Types: deb\nURIs: http://mirror.example/\nSuites: trixie\nComponents: main\n";

fn loader(text: impl Into<Vec<u8>>) -> MemoryLoader {
    MemoryLoader::new()
        .with("t.yaml", text)
        .with("in.yaml", "documentation: false\n")
        .with("src.sources", SOURCES)
}

/// What holds for every checked treefile.
fn sound(spec: &ComposeSpec) {
    for (_, path) in &spec.edits.add_files {
        assert!(!path.starts_with('/') && !path.split('/').any(|p| p == ".." || p.is_empty()));
    }
    if let Some(name) = &spec.r#ref {
        assert!(
            !name.starts_with(['/', '-', '.']) && !name.contains(".."),
            "{name}"
        );
    }
    for repo in &spec.repos {
        assert!(!repo.suites.is_empty());
        assert!(repo.url.iter().all(|u| u.is_ascii() && !u.contains(' ')));
    }
    assert!(spec.flattened.is_object());
    assert!(
        spec.exclude_packages
            .iter()
            .all(|n| !names(spec).contains(&n.to_string()))
    );
}

fn check(data: Vec<u8>) {
    match load(&loader(data), "t.yaml", &options()) {
        Ok(spec) => sound(&spec),
        Err(error) => {
            let message = error.to_string();
            assert!(
                !message.is_empty() && !message.contains(['\0', '\u{1b}', '\n']),
                "{message:?}"
            );
        }
    }
}

#[test]
fn the_unchanged_treefile_is_good() {
    sound(&load(&loader(GOOD), "t.yaml", &options()).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..400)) {
        parse_for_fuzzing(&data);
    }

    #[test]
    fn arbitrary_text_never_panics(text in "[-a-z0-9:{}\\[\\],&*!|>'\"%@`#? \n\t$\u{e9}]{0,200}") {
        parse_for_fuzzing(text.as_bytes());
    }

    #[test]
    fn overwritten_bytes_never_panic(at in 0..GOOD.len(), with in proptest::collection::vec(any::<u8>(), 1..8)) {
        let mut data = GOOD.as_bytes().to_vec();
        let end = (at + with.len()).min(data.len());
        data.splice(at..end, with);
        check(data);
    }

    #[test]
    fn removed_lines_never_panic(from in 0..30usize, count in 1..6usize) {
        let lines: Vec<&str> = GOOD.lines().collect();
        let kept = lines.iter().enumerate().filter(|(i, _)| !(from..from + count).contains(i));
        check(kept.map(|(_, l)| format!("{l}\n")).collect::<String>().into_bytes());
    }

    #[test]
    fn inserted_syntax_never_panics(at in 0..GOOD.len(), what in "[-:{}\\[\\],&*!|>'\"%#?~ \n]{1,6}") {
        let mut data = GOOD.as_bytes().to_vec();
        data.splice(at..at, what.into_bytes());
        check(data);
    }

    #[test]
    fn any_value_in_any_field_never_panics(
        field in proptest::sample::select(fields::FIELDS.iter().map(|f| f.name).collect::<Vec<_>>()),
        value in "(true|-?[0-9]{1,20}|[a-z:=/.~-]{0,9}|\\[[a-z0-9, ]{0,12}\\]|\\{(name|type|if|repo): [a-z]{1,4}\\}|\\[\\{name: [a-z./]{1,5}\\}\\]|\\[\\[[a-z/, ]{0,9}\\]\\])",
    ) {
        check(format!("{field}: {value}\n").into_bytes());
    }

    #[test]
    fn package_strings_are_refused_or_sound(text in "\\PC{0,20}") {
        if let Ok(spec::PackageRequest::Package { name, suite, version, .. }) = packages::parse(&text) {
            prop_assert!(text.starts_with(name.as_str()));
            let plain = |t: &String| t.bytes().all(|b| b.is_ascii_graphic()) && !t.starts_with('-');
            prop_assert!(suite.iter().all(plain) && version.iter().all(plain));
        }
    }

    #[test]
    fn mutated_sources_never_panic(at in 0..SOURCES.len(), with in proptest::collection::vec(any::<u8>(), 1..6)) {
        let mut data = SOURCES.as_bytes().to_vec();
        data.splice(at..at, with);
        let loader = MemoryLoader::new().with("t.yaml", "repos: [a]\n").with("a.sources", data);
        drop(load(&loader, "t.yaml", &options()));
    }
}
