//! The JSON schema of treefiles (draft 2020-12), made from the table of fields.

use serde_json::{Map, Value, json};

use crate::fields::{ARCHITECTURES, FIELDS, Field, Shape, Status};

/// The schema, for editors; stricter rules than it can say are checked when a treefile is loaded.
pub fn json_schema() -> Value {
    let mut properties = Map::new();
    for field in FIELDS.iter().filter(|f| f.is_usable()) {
        let schema = described(field);
        for alias in field.aliases {
            let mut aliased = schema.clone();
            add(&mut aliased, "deprecated", json!(true));
            properties.insert((*alias).to_owned(), aliased);
        }
        properties.insert(field.name.to_owned(), schema);
    }
    let packages = FIELDS.iter().find(|f| f.name == "packages");
    let packages = packages.map_or_else(|| json!({}), |f| shape_schema(&f.shape, false));
    let arches: Vec<&str> = ARCHITECTURES
        .iter()
        .flat_map(|(deb, base)| [*deb, *base])
        .collect();
    let pattern = format!("^packages-({})$", arches.join("|"));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "apt-ostree treefile",
        "type": "object",
        "properties": properties,
        "patternProperties": { pattern: packages },
        "additionalProperties": false,
    })
}

fn described(field: &Field) -> Value {
    let mut schema = shape_schema(&field.shape, true);
    let mut description = field.doc.to_owned();
    if !matches!(field.default, "" | "none") {
        description.push_str(&format!(" Default: {}.", field.default));
    }
    add(&mut schema, "description", Value::from(description));
    if matches!(field.status, Status::Deprecated(_)) {
        add(&mut schema, "deprecated", json!(true));
    }
    schema
}

fn add(schema: &mut Value, key: &str, value: Value) {
    if let Some(object) = schema.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

/// A shape; with `nullable`, also null, which counts as absent.
fn shape_schema(shape: &Shape, nullable: bool) -> Value {
    let with_null = |name: &str| {
        if nullable {
            json!([name, "null"])
        } else {
            json!(name)
        }
    };
    match shape {
        // Text is taken as written, so numbers and booleans will do.
        Shape::Text | Shape::Lines if nullable => {
            json!({ "type": ["string", "number", "boolean", "null"] })
        }
        Shape::Text | Shape::Lines => json!({ "type": ["string", "number", "boolean"] }),
        Shape::Bool => json!({ "type": with_null("boolean") }),
        Shape::Integer(min, max) => {
            json!({ "type": with_null("integer"), "minimum": min, "maximum": max })
        }
        Shape::Choice(words) => json!({ "enum": choices(words, nullable) }),
        Shape::Scalar => json!({ "type": ["boolean", "integer", "string"] }),
        Shape::Any => json!({}),
        Shape::List(inner) => {
            json!({ "type": with_null("array"), "items": shape_schema(inner, false) })
        }
        Shape::Pair(inner) => {
            json!({ "type": with_null("array"), "items": shape_schema(inner, false), "minItems": 2, "maxItems": 2 })
        }
        Shape::Map(inner) => {
            json!({ "type": with_null("object"), "additionalProperties": shape_schema(inner, false) })
        }
        Shape::Record(fields) => record(fields, nullable),
        Shape::Either(either) => {
            let shapes = [either.scalar, either.list, either.map]
                .into_iter()
                .flatten();
            let mut any: Vec<Value> = shapes.map(|s| shape_schema(&s, false)).collect();
            if nullable {
                any.push(json!({ "type": "null" }));
            }
            json!({ "anyOf": any })
        }
        Shape::Treefile => json!({ "$ref": "#" }),
    }
}

/// The words of a choice; those that YAML reads as boolean or number in that form too.
fn choices(words: &[&str], nullable: bool) -> Vec<Value> {
    let mut values = Vec::new();
    for word in words {
        values.push(Value::from(*word));
        if let Ok(value @ (Value::Bool(_) | Value::Number(_))) = serde_json::from_str(word) {
            values.push(value);
        }
    }
    if nullable {
        values.push(Value::Null);
    }
    values
}

fn record(fields: &[Field], nullable: bool) -> Value {
    let properties: Map<String, Value> = fields
        .iter()
        .map(|f| (f.name.to_owned(), described(f)))
        .collect();
    let required: Vec<&str> = fields
        .iter()
        .filter(|f| f.required)
        .map(|f| f.name)
        .collect();
    let mut schema = json!({
        "type": if nullable { json!(["object", "null"]) } else { json!("object") },
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        add(&mut schema, "required", json!(required));
    }
    schema
}
