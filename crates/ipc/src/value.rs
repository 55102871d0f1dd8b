//! JSON to values of the bus and back: the keys and shapes of `status --json` are also those of the
//! properties.

use std::collections::HashMap;

use serde_json::Value as Json;
use zbus::zvariant::{OwnedValue, Value};

/// A dictionary for the bus from a JSON object; empty for any other JSON. Keys whose value is null
/// are left out, as the bus has no null.
pub fn dict(json: &Json) -> HashMap<String, OwnedValue> {
    let Some(object) = json.as_object() else {
        return HashMap::new();
    };
    object
        .iter()
        .filter_map(|(key, json)| {
            let value = value(json)?.try_into_owned().ok()?;
            Some((key.clone(), value))
        })
        .collect()
}

/// A value for the bus; `None` for null.
///
/// Lists of strings are `as`, other lists `av`, objects `a{sv}`; whole numbers are `t`, or `x` when
/// negative.
pub fn value(json: &Json) -> Option<Value<'static>> {
    match json {
        Json::Null => None,
        Json::Bool(flag) => Some((*flag).into()),
        Json::Number(number) => Some(match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => number.as_f64().unwrap_or_default().into(),
        }),
        Json::String(text) => Some(clean(text).into()),
        Json::Array(items) => Some(list(items)),
        Json::Object(_) => Some(dict(json).into()),
    }
}

fn list(items: &[Json]) -> Value<'static> {
    let strings: Option<Vec<String>> = items.iter().map(|i| i.as_str().map(clean)).collect();
    match strings {
        Some(strings) => strings.into(),
        None => items
            .iter()
            .filter_map(value)
            .collect::<Vec<Value<'static>>>()
            .into(),
    }
}

/// A JSON object from a dictionary of the bus, with its keys sorted: the inverse of [`dict`].
pub fn json_object(dict: &HashMap<String, OwnedValue>) -> Json {
    let mut entries: Vec<(String, Json)> = dict
        .iter()
        .map(|(key, value)| (key.clone(), json(value)))
        .collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Json::Object(entries.into_iter().collect())
}

/// JSON from a value of the bus; null for what [`value`] never makes.
pub fn json(value: &Value<'_>) -> Json {
    match value {
        Value::Bool(flag) => (*flag).into(),
        Value::U64(number) => (*number).into(),
        Value::I64(number) => (*number).into(),
        Value::F64(number) => (*number).into(),
        Value::Str(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(json).collect(),
        Value::Value(inner) => json(inner),
        Value::Dict(dict) => {
            let mut entries: Vec<(String, Json)> = dict
                .iter()
                .filter_map(|(key, value)| match key {
                    Value::Str(key) => Some((key.to_string(), json(value))),
                    _ => None,
                })
                .collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Json::Object(entries.into_iter().collect())
        }
        _ => Json::Null,
    }
}

/// The bus disconnects who sends a NUL inside a string.
fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_gets_the_types_of_the_bus() {
        let json = serde_json::json!({
            "text": "a\u{0}b", "flag": true, "none": null, "time": 7, "names": ["a"],
            "empty": [], "mixed": [1, "a"], "meta": {"x": [["a", "b"]]},
        });
        let dict = dict(&json);
        let signature = |key: &str| dict[key].value_signature().to_string();
        assert_eq!(signature("text"), "s");
        assert_eq!(signature("flag"), "b");
        assert_eq!(signature("time"), "t");
        assert_eq!(signature("names"), "as");
        assert_eq!(signature("empty"), "as");
        assert_eq!(signature("mixed"), "av");
        assert_eq!(signature("meta"), "a{sv}");
        assert!(!dict.contains_key("none"));
        assert_eq!(<&str>::try_from(&dict["text"]).unwrap(), "a\u{fffd}b");
    }

    #[test]
    fn json_comes_back_from_the_bus() {
        let json = serde_json::json!({
            "a": [], "b": [["x", "y"], [1, "z"]], "c": {"d": [true], "e": -1}, "f": 1.5, "g": "text",
        });
        assert_eq!(json_object(&dict(&json)), json);
        let status = apt_ostree_model::status::Deployment {
            version: Some("1".into()),
            custom_origin: Some(("url".into(), "text".into())),
            base_commit_meta: [("x".to_owned(), serde_json::json!([1, {"y": []}]))].into(),
            ..Default::default()
        };
        let sent = dict(&serde_json::to_value(&status).unwrap());
        let back = serde_json::from_value(json_object(&sent)).unwrap();
        assert_eq!(status, back);
    }
}
