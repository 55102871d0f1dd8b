//! JSON to values of the bus: the keys and shapes of `status --json` are also those of the
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
}
