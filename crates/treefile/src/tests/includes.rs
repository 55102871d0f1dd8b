//! Includes, conditions, variables and merging.

use super::*;

fn two(outer: &str, inner: &str) -> Result<ComposeSpec, TreefileError> {
    let loader = MemoryLoader::new().with("tree.yaml", format!("include: in.yaml\n{outer}"));
    load_from(loader.with("in.yaml", inner))
}

#[test]
fn the_outer_scalar_wins() {
    let spec = two(
        "recommends: false\n",
        "recommends: true\ndocumentation: false\nref: in\n",
    )
    .unwrap();
    assert!(!spec.recommends && !spec.documentation);
    assert_eq!(spec.r#ref.as_deref(), Some("in"));
}

#[test]
fn of_several_includes_the_first_scalar_wins_and_its_items_come_last() {
    let loader = MemoryLoader::new()
        .with(
            "tree.yaml",
            "include: [a.yaml, b.yaml]\nunits: [own.service]\n",
        )
        .with("a.yaml", "ref: a\nunits: [a.service]\n")
        .with("b.yaml", "ref: b\nunits: [b.service]\n");
    let spec = load_from(loader).unwrap();
    assert_eq!(spec.r#ref.as_deref(), Some("a"));
    assert_eq!(spec.units, ["b.service", "a.service", "own.service"]);
}

#[test]
fn included_scripts_run_first() {
    let spec = two(
        "postprocess: ['#!/bin/own']\n",
        "postprocess: ['#!/bin/in']\n",
    )
    .unwrap();
    assert_eq!(spec.edits.postprocess, ["#!/bin/in", "#!/bin/own"]);
}

#[test]
fn sets_hold_each_item_once() {
    let spec = two(
        &format!("{REPO}packages: [bash, vim]\n"),
        "packages: [sed, bash]\n",
    )
    .unwrap();
    assert_eq!(names(&spec), ["sed", "bash", "vim"]);
}

#[test]
fn of_maps_the_outer_key_wins() {
    let spec = two("metadata: {a: 1, b: 2}\n", "metadata: {b: 3, c: 4}\n").unwrap();
    assert_eq!(
        serde_json::json!(spec.metadata),
        serde_json::json!({"a": 1, "b": 2, "c": 4})
    );
}

#[test]
fn an_overridden_key_is_gone_with_its_variables() {
    let spec = two("metadata: {a: 1}\n", "metadata: {a: '${nowhere}'}\n").unwrap();
    assert_eq!(spec.metadata["a"], 1);
}

#[test]
fn a_later_entry_takes_packages_from_an_earlier_one() {
    let repos = "repos: [{name: r1}, {name: r2}]\n";
    let spec = two(
        &format!("{repos}repo-packages: [{{repo: r2, packages: [aa, bb]}}]\n"),
        "repo-packages: [{repo: r1, packages: [aa, cc]}, {repo: r1, packages: [bb]}]\n",
    )
    .unwrap();
    let taken: Vec<(String, usize)> = spec
        .repo_packages
        .iter()
        .map(|(r, p)| (r.clone(), p.len()))
        .collect();
    assert_eq!(taken, [("r1".to_owned(), 1), ("r2".to_owned(), 2)]);
    assert_eq!(names(&spec), ["cc", "aa", "bb"]);
}

#[test]
fn an_outer_repository_replaces_an_included_one_of_its_name() {
    let spec = two(
        "repos: [{name: b1, suite: sid}, {name: c1}]\n",
        "repos: [{name: a1}, {name: b1, suite: bookworm}]\n",
    )
    .unwrap();
    let repos: Vec<(&str, &str)> = spec
        .repos
        .iter()
        .map(|r| (r.name.as_str(), r.suites[0].as_str()))
        .collect();
    assert_eq!(repos, [("a1", "trixie"), ("b1", "sid"), ("c1", "trixie")]);
}

#[test]
fn files_are_relative_to_the_file_that_names_them() {
    let loader = MemoryLoader::new()
        .with(
            "tree.yaml",
            "include: sub/in.yaml\nadd-files: [[x, /etc/outer]]\n",
        )
        .with(
            "sub/in.yaml",
            "include: ../base.yaml\nadd-files: [[x, /etc/inner]]\npostprocess-script: s\n",
        )
        .with("base.yaml", "documentation: false\n")
        .with("x", "outer")
        .with("sub/x", "inner")
        .with("sub/s", "#!/bin/sh\n");
    let spec = load_from(loader).unwrap();
    let sources: Vec<&str> = spec
        .edits
        .add_files
        .iter()
        .map(|(s, _)| s.as_str())
        .collect();
    assert_eq!(sources, ["/sub/x", "/x"]);
    assert_eq!(spec.files.len(), 3);
    assert!(!spec.documentation);
}

#[test]
fn errors_in_included_files_name_those() {
    let loader = MemoryLoader::new()
        .with("tree.yaml", "include: sub/in.yaml\n")
        .with("sub/in.yaml", "ref: a\npakages: []\n");
    let message = load_from(loader).unwrap_err().to_string();
    assert!(
        message.starts_with("sub/in.yaml:2:1: unknown field"),
        "{message}"
    );
}

#[test]
fn cycles_show_the_chain() {
    let loader = MemoryLoader::new()
        .with("tree.yaml", "include: a.yaml\n")
        .with("a.yaml", "include:\n  - b.yaml\n")
        .with("b.yaml", "include: a.yaml\n");
    assert_eq!(
        load_from(loader).unwrap_err().to_string(),
        "b.yaml:1:10: include cycle: tree.yaml -> a.yaml -> b.yaml -> a.yaml"
    );
    refused(
        "include: ./tree.yaml\n",
        "include cycle: tree.yaml -> tree.yaml",
    );
}

#[test]
fn a_file_that_is_included_twice_counts_once() {
    let loader = MemoryLoader::new()
        .with("tree.yaml", "include: [a.yaml, b.yaml]\n")
        .with("a.yaml", "include: d.yaml\n")
        .with("b.yaml", "include: [d.yaml, d.yaml]\n")
        .with("d.yaml", "postprocess: ['#!/bin/once']\n");
    assert_eq!(load_from(loader).unwrap().edits.postprocess.len(), 1);
}

fn chain(length: usize) -> MemoryLoader {
    (0..length).fold(
        MemoryLoader::new().with(&format!("{length}.yaml"), "ref: end\n"),
        |loader, i| loader.with(&format!("{i}.yaml"), format!("include: {}.yaml\n", i + 1)),
    )
}

#[test]
fn includes_nest_50_levels() {
    assert!(load(&chain(50), "0.yaml", &options()).is_ok());
    let message = load(&chain(51), "0.yaml", &options())
        .unwrap_err()
        .to_string();
    assert_eq!(
        message,
        "50.yaml:1:10: includes are nested deeper than 50 levels"
    );
}

#[test]
fn the_number_of_includes_is_limited() {
    let list: String = (0..10_000).map(|i| format!("  - {i}.yaml\n")).collect();
    let loader = MemoryLoader::new().with("tree.yaml", format!("include:\n{list}"));
    let loader = (0..10_000).fold(loader, |l, i| {
        l.with(&format!("{i}.yaml"), "recommends: true\n")
    });
    let message = load_from(loader).unwrap_err().to_string();
    assert!(
        message.ends_with("more than 1000 treefiles are included"),
        "{message}"
    );
}

#[test]
fn the_size_of_all_treefiles_is_limited() {
    let large = format!("documentation: true\n#{}\n", "x".repeat(1_000_000));
    let loader = MemoryLoader::new().with("tree.yaml", "include: [a.yaml, b.yaml, c.yaml]\n");
    let loader = ["a", "b", "c"]
        .into_iter()
        .fold(loader, |l, n| l.with(&format!("{n}.yaml"), large.as_str()));
    let message = load_from(loader).unwrap_err().to_string();
    assert_eq!(
        message,
        "tree.yaml:1:27: the treefiles are larger than 2 MiB together"
    );
}

#[test]
fn missing_includes_name_the_place_and_the_path() {
    assert_eq!(
        error("include: sub/none.yaml\n"),
        "tree.yaml:1:10: including 'sub/none.yaml': '/sub/none.yaml' does not exist"
    );
    refused("include: a.ks\n", "kickstart files are not supported");
    refused("include: /etc/passwd\n", "is absolute");
}

#[test]
fn json_files_may_be_included() {
    let loader = MemoryLoader::new()
        .with("tree.yaml", "include: in.json\n")
        .with(
            "in.json",
            "{\"ref\": \"from-json\", \"units\": [\"a.service\"]}",
        );
    assert_eq!(
        load_from(loader).unwrap().r#ref.as_deref(),
        Some("from-json")
    );
}

#[test]
fn arch_includes_are_for_one_architecture() {
    let text = "arch-include:\n  x86_64: pc.yaml\n  arm64: [arm.yaml]\n";
    let loader = MemoryLoader::new()
        .with("tree.yaml", text)
        .with("pc.yaml", "ref: pc\n")
        .with("arm.yaml", "ref: arm\n");
    assert_eq!(
        load_from(loader.clone()).unwrap().r#ref.as_deref(),
        Some("pc")
    );
    let mut arm = options();
    arm.arch = Some("arm64".parse().unwrap());
    assert_eq!(
        load(&loader, "tree.yaml", &arm).unwrap().r#ref.as_deref(),
        Some("arm")
    );
    refused("arch-include: {pc: a.yaml}\n", "unknown architecture 'pc'");
}

fn holds(head: &str, condition: &str) -> Result<bool, String> {
    let text = format!(
        "{head}conditional-include:\n  - if: {condition}\n    include: {{ref: yes-it-holds}}\n"
    );
    parse(&text)
        .map(|s| s.r#ref.is_some())
        .map_err(|e| e.to_string())
}

#[test]
fn all_operators_compare() {
    let head = "variables: {n: 13, s: trixie, b: true}\n";
    for (condition, expected) in [
        ("n == 13", true),
        ("n != 13", false),
        ("n < 14", true),
        ("n <= 13", true),
        ("n > 13", false),
        ("n >= 13", true),
        ("n>=14", false),
        ("s == \"trixie\"", true),
        ("s != 'trixie'", false),
        ("b == true", true),
        ("b != false", true),
        ("basearch == 'x86_64'", true),
        ("[n == 13, b == true]", true),
        ("[n == 13, b == false]", false),
    ] {
        assert_eq!(holds(head, condition), Ok(expected), "{condition}");
    }
}

#[test]
fn bad_conditions_are_errors_even_behind_a_false_one() {
    let head = "variables: {n: 13, s: trixie, b: true}\n";
    for (condition, part) in [
        ("m == 1", "undefined variable 'm'"),
        ("n == 'x'", "the variable is a number, the value is text"),
        ("s < 'x'", "text has no order"),
        ("b > false", "a boolean has no order"),
        ("n = 1", "must be VARIABLE OPERATOR VALUE"),
        ("n", "must be VARIABLE OPERATOR VALUE"),
        ("== 1", "must be VARIABLE OPERATOR VALUE"),
        ("n == 1.5", "in a condition must be"),
        ("s == trixie", "in quotes"),
        ("s == \"a\" || \"b\"", "in a condition must be"),
        ("[n == 1, m == 1]", "undefined variable 'm'"),
    ] {
        let message = holds(head, condition).unwrap_err();
        assert!(message.contains(part), "{condition}: {message}");
    }
}

#[test]
fn conditions_know_release_and_suite() {
    assert_eq!(holds("releasever: 13\n", "releasever >= 13"), Ok(true));
    assert_eq!(holds("releasever: trixie\n", "suite == 'trixie'"), Ok(true));
    assert_eq!(
        holds("repos: [{name: a, suite: sid}]\n", "suite == 'sid'"),
        Ok(true)
    );
    assert_eq!(holds("", "suite == 'trixie'"), Ok(true));
    assert!(
        holds("", "releasever == 13")
            .unwrap_err()
            .contains("undefined variable 'releasever'")
    );
}

#[test]
fn inline_treefiles_are_checked_even_when_unused_and_merge_before_files() {
    refused(
        "conditional-include: [{if: basearch == 'none', include: {pakages: []}}]\n",
        "unknown field 'pakages', did you mean 'packages'?",
    );
    let loader = MemoryLoader::new()
        .with("tree.yaml", "include: in.yaml\nconditional-include:\n  - if: basearch == 'x86_64'\n    include: {ref: inline, include: more.yaml}\n")
        .with("in.yaml", "ref: file\n")
        .with("more.yaml", "documentation: false\n");
    let spec = load_from(loader).unwrap();
    assert_eq!(spec.r#ref.as_deref(), Some("inline"));
    assert!(!spec.documentation);
}

#[test]
fn variables_of_outer_files_and_arguments_win() {
    let loader = MemoryLoader::new()
        .with("tree.yaml", "include: in.yaml\nvariables: {a: outer, n: '13'}\nref: ${a}-${b}-${n}\n")
        .with("in.yaml", "variables: {a: inner, b: inner}\nconditional-include: [{if: a == 'outer', include: {documentation: false}}]\n");
    let spec = load_from(loader.clone()).unwrap();
    assert_eq!(spec.r#ref.as_deref(), Some("outer-inner-13"));
    assert!(!spec.documentation);
    let mut given = options();
    given.variables.insert("a".into(), "arg".into());
    given.variables.insert("n".into(), "14".into());
    let spec = load(&loader, "tree.yaml", &given).unwrap();
    assert_eq!(spec.r#ref.as_deref(), Some("arg-inner-14"));
    assert!(spec.documentation);
}

#[test]
fn arguments_take_the_type_of_the_treefile() {
    let text =
        "variables: {n: '13'}\nconditional-include: [{if: n == '14', include: {ref: held}}]\n";
    let mut given = options();
    given.variables.insert("n".into(), "14".into());
    let spec = load(&MemoryLoader::new().with("t.yaml", text), "t.yaml", &given).unwrap();
    assert_eq!(spec.r#ref.as_deref(), Some("held"));
    given.variables.insert("basearch".into(), "x".into());
    assert!(load(&MemoryLoader::new().with("t.yaml", text), "t.yaml", &given).is_err());
}

#[test]
fn variables_are_replaced_where_the_reference_says() {
    let spec = parse(
        "variables: {v: 13}\nref: d/${v}/${basearch}/${suite}\nautomatic-version-prefix: ${v}.<date:%Y>\n\
         mutate-os-release: ${v}\nmetadata: {a: 'x${v}', b: 1}\nadd-commit-metadata: {c: '${v}'}\n\
         repos: [{name: a, url: 'http://mirror.example/${v}', suites: ['${s}', '${s}-updates']}]\nrepovars: {s: sid}\n\
         postprocess: ['#!/bin/sh ${v}']\n",
    )
    .unwrap();
    assert_eq!(spec.r#ref.as_deref(), Some("d/13/x86_64/trixie"));
    assert_eq!(
        spec.version.automatic_prefix.as_deref(),
        Some("13.<date:%Y>")
    );
    assert_eq!(spec.mutate_os_release.as_deref(), Some("13"));
    assert_eq!(spec.metadata["a"], "x13");
    assert_eq!(spec.metadata["b"], 1);
    assert_eq!(spec.add_commit_metadata["c"], "13");
    assert_eq!(
        spec.repos[0].url.as_deref(),
        Some("http://mirror.example/13")
    );
    assert_eq!(spec.repos[0].suites, ["sid", "sid-updates"]);
    assert_eq!(spec.edits.postprocess, ["#!/bin/sh ${v}"]);
}

#[test]
fn bad_variables_are_errors() {
    refused("ref: a/${nope}\n", "undefined variable 'nope'");
    refused("ref: a/${b\n", "no closing '}'");
    refused(
        "variables: {a: '${b}', b: 1}\n",
        "must not use another variable",
    );
    refused("variables: {basearch: a}\n", "always defined");
    refused("variables: {a-b: a}\n", "not a variable name");
    refused("repovars: {suite: a}\n", "always defined");
    refused("ref: ${s}\nrepovars: {s: a}\n", "undefined variable 's'");
}

#[test]
fn what_variables_make_is_bounded() {
    let value = "x".repeat(4000);
    let entries: String = (0..2000).map(|i| format!("  k{i}: '${{v}}'\n")).collect();
    refused(
        &format!("variables: {{v: {value}}}\nmetadata:\n{entries}"),
        "variables make more than 4 MiB of text",
    );
    refused(
        &format!("variables: {{v: {}}}\n", "x".repeat(5000)),
        "longer than 4096 bytes",
    );
}

#[test]
fn the_flattened_treefile_is_resolved_and_deterministic() {
    let outer = format!(
        "{REPO}ref: a/${{basearch}}\npackages: [bash]\nvariables: {{x: 1}}\nmetadata: {{z: 1, a: [true, 1.5, ~]}}\nselinux: false\nrecommends: true\n"
    );
    let spec = two(
        &outer,
        "packages-amd64: [sed grep]\npackages-arm64: [no1]\n",
    )
    .unwrap();
    assert_eq!(
        serde_json::to_string(&spec.flattened).unwrap(),
        "{\"ref\":\"a/x86_64\",\"metadata\":{\"a\":[true,1.5,null],\"z\":1},\"repos\":[{\"name\":\"debian\"}],\
         \"packages\":[\"sed\",\"grep\",\"bash\"],\"recommends\":true,\"selinux\":false}"
    );
    let again = two(
        &outer,
        "packages-amd64: [sed grep]\npackages-arm64: [no1]\n",
    )
    .unwrap();
    assert_eq!(spec, again);
}

#[test]
fn the_flattened_treefile_loads_to_the_same_tree() {
    let text = format!(
        "{REPO}ref: a\npackages: {{include: [bash, 'b1=2'], exclude: [x1]}}\nunits: [a.service]\npins: [{{packages: a, pin: version 1, priority: 7}}]\ncomposefs: true\nedition: '2024'\n"
    );
    let first = parse(&text).unwrap();
    let json = serde_json::to_string(&first.flattened).unwrap();
    let second = load(
        &MemoryLoader::new().with("t.json", json),
        "t.json",
        &options(),
    )
    .unwrap();
    assert_eq!(first, second);
}
