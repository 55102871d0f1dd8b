use proptest::prelude::*;
use serde_json::json;

use super::*;

fn status() -> Value {
    json!({
        "deployments": [
            {"checksum": "aa", "booted": false, "serial": 0, "staged": true, "packages": ["htop", "vim"]},
            {"checksum": "bb", "booted": true, "serial": 1, "base-checksum": "cc", "packages": []},
            {"checksum": "dd", "booted": false, "serial": 2, "packages": ["x'y"]},
        ],
        "transaction": null,
    })
}

fn find(expr: &str) -> Value {
    let path: JsonPath = expr
        .parse()
        .unwrap_or_else(|error| panic!("{expr}: {error}"));
    let status = status();
    Value::Array(path.find(&status).into_iter().cloned().collect())
}

#[test]
fn paths_find_values_in_their_order() {
    for (expr, expected) in [
        ("$.deployments[0].checksum", json!(["aa"])),
        ("$.deployments[-1].checksum", json!(["dd"])),
        ("$['deployments'][1]['base-checksum']", json!(["cc"])),
        ("$.deployments[*].base-checksum", json!(["cc"])),
        ("$.deployments[0:2].checksum", json!(["aa", "bb"])),
        ("$.deployments[:-1].serial", json!([0, 1])),
        ("$.deployments[1:].serial", json!([1, 2])),
        ("$.deployments[2:1].serial", json!([])),
        ("$.deployments[0,2].checksum", json!(["aa", "dd"])),
        ("$..checksum", json!(["aa", "bb", "dd"])),
        ("$..packages[*]", json!(["htop", "vim", "x'y"])),
        ("$.deployments[1].*", json!(["bb", true, 1, "cc", []])),
        ("$.transaction", json!([null])),
        ("$.deployments[9]", json!([])),
        ("$.deployments[-9]", json!([])),
        ("$.deployments[9223372036854775807]", json!([])),
        (
            "$.deployments[-9223372036854775808:]",
            find("$.deployments[*]"),
        ),
        ("$.nothing.at.all", json!([])),
        (" $ ", json!([status()])),
    ] {
        assert_eq!(find(expr), expected, "{expr}");
    }
}

#[test]
fn filters_choose_by_value() {
    for (filter, expected) in [
        ("(@.booted)", json!(["bb"])),
        ("@.booted", json!(["bb"])),
        ("(!@.booted)", json!(["aa", "dd"])),
        ("(@.booted == true)", json!(["bb"])),
        ("(@.booted==false && @.staged)", json!(["aa"])),
        (
            "(@.checksum == 'aa' || @.checksum==\"dd\")",
            json!(["aa", "dd"]),
        ),
        ("(@.serial > 0)", json!(["bb", "dd"])),
        ("(@.serial <= 1.0)", json!(["aa", "bb"])),
        ("(@.serial >= 1 && !(@.serial != 1))", json!(["bb"])),
        ("(@.checksum < 'bb')", json!(["aa"])),
        ("(@.staged != true)", json!(["bb", "dd"])),
        ("(@.base-checksum == null)", json!([])),
        ("(@.packages[0] == 'x\\'y')", json!(["dd"])),
        ("(@.packages[?(@ == 'vim')])", json!(["aa"])),
        ("(@.serial == $.deployments[2].serial)", json!(["dd"])),
        ("(@.checksum < 1)", json!([])),
    ] {
        let expr = format!("$.deployments[?{filter}].checksum");
        assert_eq!(find(&expr), expected, "{expr}");
    }
}

#[test]
fn other_texts_are_refused_with_the_position() {
    for (expr, expected) in [
        ("", "expected '$' at character 1"),
        ("deployments", "expected '$' at character 1"),
        ("$x", "expected '.' or '[' at character 2"),
        ("$.", "expected a name or '*' at character 3"),
        ("$..", "expected a name or '*' at character 4"),
        (
            "$[",
            "expected an index, a quoted name, '*' or '?' at character 3",
        ),
        ("$[0", "expected ']' at character 4"),
        (
            "$[1-]",
            "expected a whole number before this at character 5",
        ),
        ("$['a", "expected a closing quote at character 5"),
        ("$[?(@.a]", "expected ')' at character 8"),
        ("$[?(1)]", "expected a comparison at character 6"),
        (
            "$[?(@.a == x)]",
            "expected '@', '$', a string, a number, true, false or null at character 12",
        ),
    ] {
        let error = expr.parse::<JsonPath>().unwrap_err().to_string();
        assert_eq!(error, expected, "{expr}");
    }
    for nested in [
        "$[?(".repeat(1000),
        "$[?".to_owned() + &"!".repeat(1000),
        "$[?@".repeat(1000),
    ] {
        assert!(nested.parse::<JsonPath>().is_err());
    }
}

/// A value and, for each value in it, a path that leads there.
fn paths(value: &Value, path: &str, all: &mut Vec<(String, Value)>) {
    all.push((path.to_owned(), value.clone()));
    match value {
        Value::Array(array) => {
            for (index, child) in array.iter().enumerate() {
                paths(child, &format!("{path}[{index}]"), all);
            }
        }
        Value::Object(map) => {
            for (name, child) in map {
                let quoted = name.replace('\\', "\\\\").replace('\'', "\\'");
                paths(child, &format!("{path}['{quoted}']"), all);
            }
        }
        _ => {}
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn every_value_is_found_at_its_path(root in values()) {
        let mut all = Vec::new();
        paths(&root, "$", &mut all);
        for (path, value) in &all {
            let path: JsonPath = path.parse().unwrap();
            prop_assert_eq!(path.find(&root), vec![value]);
        }
        // Descending finds all of them but the root.
        let below: JsonPath = "$..*".parse().unwrap();
        prop_assert_eq!(below.find(&root).len(), all.len() - 1);
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\$?[\\[\\].*?@$!&|<>=()'\" a0:,-]{0,40}") {
        if let Ok(path) = text.parse::<JsonPath>() {
            path.find(&status());
        }
    }

    #[test]
    fn a_slice_is_what_python_gives(from in -5i64..6, to in -5i64..6) {
        let root = json!([0, 1, 2]);
        let path: JsonPath = format!("$[{from}:{to}]").parse().unwrap();
        let clamp = |i: i64| if i < 0 { (i + 3).max(0) } else { i.min(3) };
        let expected: Vec<i64> = (clamp(from)..clamp(to)).collect();
        let found: Vec<i64> = path.find(&root).iter().filter_map(|v| v.as_i64()).collect();
        prop_assert_eq!(found, expected);
    }
}
