//! What a document may be, before its fields mean anything.

use super::*;

fn parse_bytes(name: &str, data: impl Into<Vec<u8>>) -> Result<ComposeSpec, String> {
    let loader = MemoryLoader::new().with(name, data);
    load(&loader, name, &options()).map_err(|e| e.to_string())
}

#[test]
fn unknown_fields_are_named_with_place_and_nearest_name() {
    assert_eq!(
        error("ref: a\npakages: [bash]\n"),
        "tree.yaml:2:1: unknown field 'pakages', did you mean 'packages'?"
    );
    assert_eq!(
        error("ref: a\nzzzzzz: 1\n"),
        "tree.yaml:2:1: unknown field 'zzzzzz'"
    );
    assert_eq!(
        error("repos:\n  - name: a\n    uri: x\n"),
        "tree.yaml:3:5: unknown field 'uri' in 'repos[0]', did you mean 'url'?"
    );
}

#[test]
fn json_is_as_strict_as_yaml() {
    assert!(parse_bytes("t.json", "{\"ref\": \"a\"}").is_ok());
    assert_eq!(
        parse_bytes("t.json", "{\n\t\"pakages\": []\n}").unwrap_err(),
        "t.json:2:2: unknown field 'pakages', did you mean 'packages'?"
    );
    let error = parse_bytes("t.json", "{\"ref\": a}").unwrap_err();
    assert!(error.starts_with("t.json:1:9: not valid JSON"), "{error}");
    assert!(parse_bytes("t.json", "ref: a\n").is_err());
    assert!(parse_bytes("t.json", "{\"ref\": \"a\", \"ref\": \"b\"}").is_err());
}

#[test]
fn json_escapes_are_understood() {
    let text = r#"{"metadata": {"a": "\ud83d\ude00 \u00fc \/ \\ud83d\\ude00 \n"}, "ref": "a"}"#;
    let spec = parse_bytes("t.json", text).unwrap();
    assert_eq!(spec.metadata["a"], "😀 ü / \\ud83d\\ude00 \n");
    assert!(parse_bytes("t.json", r#"{"metadata": {"a": "\ud83d"}}"#).is_err());
}

#[test]
fn wrong_types_name_the_field() {
    assert_eq!(
        error("packages: bash\n"),
        "tree.yaml:1:11: 'packages' must be a list of texts or a map, found the text 'bash'"
    );
    refused(
        "packages:\n  - a: b\n",
        "'packages[0]' must be text, found a map",
    );
    refused(
        "recommends: yes\n",
        "'recommends' must be true or false, found the text 'yes'; write true",
    );
    refused(
        "recommends: \"true\"\n",
        "'recommends' must be true or false",
    );
    refused("ref: [a]\n", "'ref' must be text, found a list");
    refused(
        "opt-usrlocal: tmp\n",
        "'opt-usrlocal' must be one of 'var', 'root', 'state-overlay'",
    );
    refused(
        "add-files: [[a]]\n",
        "'add-files[0]' must have two items, found 1",
    );
    refused(
        "pins: [{packages: a, pin: release n=sid}]\n",
        "'pins[0]' needs 'priority'",
    );
    refused(
        "pins: [{packages: a, pin: version 1, priority: 1.5}]\n",
        "'pins[0].priority' must be a whole number",
    );
    refused("variables: {a: 1.5}\n", "'variables.a' must be");
    refused("- a\n", "a treefile is a map of fields, found a list");
    refused("just text\n", "a treefile is a map of fields");
}

#[test]
fn duplicate_keys_are_refused() {
    assert_eq!(
        error("ref: a\nref: b\n"),
        "tree.yaml:2:1: 'ref' is given twice"
    );
    refused("metadata: {a: 1, a: 2}\n", "'a' is given twice");
    refused("? [a]\n: b\n", "a key must be text");
    refused("\"\": b\n", "a key is empty");
}

#[test]
fn two_spellings_of_one_field_are_refused() {
    refused(
        "gpg-key: a\ngpg_key: b\n",
        "'gpg_key' is another spelling of 'gpg-key'",
    );
    assert_eq!(
        parse("gpg_key: A1\n").unwrap().gpg_key.as_deref(),
        Some("A1")
    );
    assert_eq!(
        parse("default_target: a.target\n")
            .unwrap()
            .default_target
            .as_deref(),
        Some("a.target")
    );
    let spec = parse("automatic_version_prefix: '13'\nboot_location: modules\n").unwrap();
    assert_eq!(spec.version.automatic_prefix.as_deref(), Some("13"));
}

#[test]
fn several_documents_are_refused() {
    refused(
        "ref: a\n---\nref: b\n",
        "tree.yaml:2:1: a treefile is one document",
    );
    assert!(parse("---\nref: a\n...\n").is_ok());
}

#[test]
fn tags_are_refused() {
    refused("ref: !Foo a\n", "tags such as '!Foo' are not supported");
    refused(
        "ref: !!python/object:os.system a\n",
        "tags such as '!!python/object:os.system'",
    );
    refused("packages: !!set {a}\n", "tags such as");
    refused("!Foo\nref: a\n", "tags such as");
}

#[test]
fn nul_is_refused_in_every_form() {
    refused("ref: a\0b\n", "line 1 holds a NUL byte");
    refused("ref: \"a\\0b\"\n", "the text holds a NUL character");
    refused(
        "metadata: {\"a\\x00\": 1}\n",
        "the text holds a NUL character",
    );
    assert!(
        parse_bytes("t.json", r#"{"ref": "a\u0000b"}"#)
            .unwrap_err()
            .contains("NUL")
    );
}

#[test]
fn control_characters_are_refused_in_lines_and_escaped_in_messages() {
    refused(
        "ref: \"a\\e[31m\"\n",
        "'ref' must be one line without control characters",
    );
    let message = error("\"a\\e[31m\": 1\n");
    assert!(
        !message.contains('\u{1b}') && message.contains("\\u{1b}"),
        "{message}"
    );
}

#[test]
fn empty_files_say_so() {
    for text in ["", "# only\n# comments\n", "---\n", "\u{feff}", "~\n"] {
        assert_eq!(error(text), "tree.yaml: the file is empty", "{text:?}");
    }
}

#[test]
fn byte_order_mark_and_crlf_are_accepted() {
    let spec =
        parse("\u{feff}ref: a\r\nrepos:\r\n  - name: debian\r\npackages:\r\n  - bash\r\n").unwrap();
    assert_eq!(spec.r#ref.as_deref(), Some("a"));
    assert_eq!(names(&spec), ["bash"]);
}

#[test]
fn other_encodings_are_named() {
    let utf16: Vec<u8> = [0xfeff_u16]
        .into_iter()
        .chain("ref: a".encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    assert_eq!(
        parse_bytes("t.yaml", utf16).unwrap_err(),
        "t.yaml: the file is UTF-16; save it as UTF-8"
    );
    assert_eq!(
        parse_bytes("t.yaml", b"ref: a\n# \xff\n".to_vec()).unwrap_err(),
        "t.yaml: line 2 is not UTF-8"
    );
}

#[test]
fn large_files_are_refused() {
    let message = error(&format!("ref: a\n#{}\n", "x".repeat(2 << 20)));
    assert_eq!(message, "tree.yaml: the file is larger than 1 MiB");
}

#[test]
fn alias_bombs_are_counted() {
    let mut text = String::from("metadata:\n  a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        text.push_str(&format!("  a{level}: &a{level} [{aliases}]\n"));
    }
    refused(&text, "counting what aliases repeat");
    // Copies of nested anchors count as well.
    let mut text = String::from("metadata: ");
    for level in 0..50 {
        text.push_str(&format!("&n{level} ["));
    }
    text.push_str(&"x, ".repeat(20_000));
    text.push_str(&"]".repeat(50));
    refused(&text, "more than 200000 values");
}

#[test]
fn repeated_text_is_counted() {
    let text = format!(
        "metadata:\n  a: &a {}\n  b: [{}]\n",
        "x".repeat(100_000),
        "*a, ".repeat(100_000)
    );
    refused(
        &text,
        "more than 2 MiB of text, counting what aliases repeat",
    );
}

#[test]
fn depth_is_bounded_also_through_aliases() {
    refused(&"[".repeat(200_000), "");
    let deep: String = (0..200).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    refused(&deep, "nested deeper than 64 levels");
    let mut text = String::from("metadata:\n");
    text.push_str(&format!("  a: &a {}x{}\n", "[".repeat(40), "]".repeat(40)));
    text.push_str(&format!("  b: {}*a{}\n", "[".repeat(40), "]".repeat(40)));
    refused(&text, "nested deeper than 64 levels");
}

#[test]
fn aliases_work_within_the_limits() {
    let spec = parse("metadata: {x: &x [1, 2], y: *x}\n").unwrap();
    assert_eq!(spec.metadata["y"], serde_json::json!([1, 2]));
    refused("metadata: &a {x: *a}\n", "not complete");
    refused("metadata: *unknown\n", "not valid YAML");
}

#[test]
fn plain_words_stay_text() {
    for word in ["no", "010", "1e3", "0x10", "2026-11-21", "true", "13"] {
        assert_eq!(
            parse(&format!("ref: {word}\n")).unwrap().r#ref.as_deref(),
            Some(word)
        );
    }
}

#[test]
fn null_counts_as_absent() {
    let spec = parse("ref:\npackages: ~\nrecommends: null\nrepos: []\n").unwrap();
    assert_eq!(spec.r#ref, None);
    assert!(spec.packages.is_empty());
    refused(
        "repos: [{name: a, url: }]\npackages: [~]\n",
        "'packages[0]' must be text, found nothing",
    );
}

#[test]
fn syntax_errors_have_a_place() {
    let message = error("ref: a\npackages: [a, b\n");
    assert!(
        message.starts_with("tree.yaml:3:1: not valid YAML"),
        "{message}"
    );
    refused("a: b: c\n", "not valid YAML");
    refused("ref: a\n\tref: b\n", "not valid YAML");
}
