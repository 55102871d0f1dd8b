//! Values of commit metadata.

use std::collections::BTreeMap;

use anyhow::Result;
use ostree::glib::{Variant, VariantDict, VariantTy};
use ostree::prelude::*;

use crate::error::{invalid_input, quote};
use crate::object;

/// One value of commit metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum MetaValue {
    /// A string (`s`).
    String(String),
    /// Strings (`as`).
    Strings(Vec<String>),
    /// A signed number (`x`).
    I64(i64),
    /// An unsigned number (`t`).
    U64(u64),
    /// A truth value (`b`).
    Bool(bool),
    /// Bytes (`ay`).
    Bytes(Vec<u8>),
    /// Packages as name, epoch, upstream version, revision and architecture (`a(sssss)`).
    PackageList(Vec<[String; 5]>),
    /// Dictionaries (`aa{sv}`).
    DictList(Vec<BTreeMap<String, Self>>),
    /// A JSON value: text is `s`, whole numbers are `x`, others `d`, truth values `b`, arrays
    /// `av`, objects `a{sv}`, and null is the nothing of `mv`.
    Json(serde_json::Value),
}

impl MetaValue {
    /// The value as a variant.
    ///
    /// # Errors
    /// When a string holds a NUL.
    pub(crate) fn to_variant(&self) -> Result<Variant> {
        Ok(match self {
            Self::String(text) => string(text)?,
            Self::Strings(texts) => strings(texts)?,
            Self::I64(number) => number.to_variant(),
            Self::U64(number) => number.to_variant(),
            Self::Bool(truth) => truth.to_variant(),
            Self::Bytes(data) => object::bytes(data),
            Self::PackageList(list) => {
                let tuple = |p: &[String; 5]| {
                    let parts: Result<Vec<Variant>> = p.iter().map(|t| string(t)).collect();
                    Ok(Variant::tuple_from_iter(parts?))
                };
                let list: Result<Vec<Variant>> = list.iter().map(tuple).collect();
                Variant::array_from_iter::<(String, String, String, String, String)>(list?)
            }
            Self::DictList(list) => {
                let list: Result<Vec<Variant>> = list.iter().map(dict).collect();
                Variant::array_from_iter_with_type(VariantTy::VARDICT, list?)
            }
            Self::Json(value) => json(value)?,
        })
    }
}

/// A dictionary `a{sv}` with its keys in order.
pub(crate) fn dict(entries: &BTreeMap<String, MetaValue>) -> Result<Variant> {
    let entries: Result<Vec<(&str, Variant)>> = entries
        .iter()
        .map(|(k, v)| Ok((k.as_str(), v.to_variant()?)))
        .collect();
    dict_of(entries?)
}

fn dict_of(entries: Vec<(&str, Variant)>) -> Result<Variant> {
    if entries.is_empty() {
        return Ok(VariantDict::new(None).end());
    }
    let entry = |(key, value): (&str, Variant)| {
        Ok(Variant::from_dict_entry(
            &string(key)?,
            &Variant::from_variant(&value),
        ))
    };
    let entries: Result<Vec<Variant>> = entries.into_iter().map(entry).collect();
    let entries = entries?;
    let kind = entries.first().map(|e| e.type_().to_owned());
    let kind = kind.as_deref().unwrap_or(VariantTy::DICT_ENTRY);
    Ok(Variant::array_from_iter_with_type(kind, &entries))
}

fn string(text: &str) -> Result<Variant> {
    require_no_nul(text)?;
    Ok(text.to_variant())
}

/// Refuses text that can't be in a variant.
pub(crate) fn require_no_nul(text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(invalid_input(format!(
            "text {} holds a NUL byte",
            quote(text)
        )));
    }
    Ok(())
}

fn strings(texts: &[String]) -> Result<Variant> {
    let texts: Result<Vec<Variant>> = texts.iter().map(|t| string(t)).collect();
    Ok(Variant::array_from_iter_with_type(
        VariantTy::STRING,
        texts?,
    ))
}

fn json(value: &serde_json::Value) -> Result<Variant> {
    use serde_json::Value;
    Ok(match value {
        Value::Null => Variant::from_none(VariantTy::VARIANT),
        Value::Bool(truth) => truth.to_variant(),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => number.to_variant(),
            (None, Some(number)) => number.to_variant(),
            (None, None) => number.as_f64().unwrap_or_default().to_variant(),
        },
        Value::String(text) => string(text)?,
        Value::Array(list) => {
            let list: Result<Vec<Variant>> = list
                .iter()
                .map(|v| Ok(Variant::from_variant(&json(v)?)))
                .collect();
            Variant::array_from_iter_with_type(VariantTy::VARIANT, list?)
        }
        Value::Object(map) => {
            let mut entries = map
                .iter()
                .map(|(k, v)| Ok((k.as_str(), json(v)?)))
                .collect::<Result<Vec<_>>>()?;
            entries.sort_by_key(|(key, _)| *key);
            dict_of(entries)?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(value: &MetaValue) -> String {
        value.to_variant().unwrap().print(true).to_string()
    }

    #[test]
    fn values_have_the_documented_types() {
        let type_of = |value: MetaValue| value.to_variant().unwrap().type_().as_str().to_owned();
        assert_eq!(type_of(MetaValue::Strings(Vec::new())), "as");
        assert_eq!(type_of(MetaValue::PackageList(Vec::new())), "a(sssss)");
        assert_eq!(type_of(MetaValue::DictList(Vec::new())), "aa{sv}");
        assert_eq!(
            type_of(MetaValue::DictList(vec![BTreeMap::new()])),
            "aa{sv}"
        );
        assert_eq!(type_of(MetaValue::Bytes(vec![0])), "ay");
        assert_eq!(type_of(MetaValue::Json(serde_json::json!([1, "a"]))), "av");
        assert_eq!(type_of(MetaValue::Json(serde_json::json!({}))), "a{sv}");
        assert_eq!(type_of(MetaValue::Json(serde_json::json!(null))), "mv");
    }

    #[test]
    fn json_keys_are_sorted() {
        let value = MetaValue::Json(serde_json::json!({"b": 1.5, "a": [true, null]}));
        assert_eq!(
            printed(&value),
            "{'a': <[<true>, <@mv nothing>]>, 'b': <1.5>}"
        );
    }

    #[test]
    fn nul_is_refused() {
        for value in [
            MetaValue::String("a\0b".into()),
            MetaValue::Json(serde_json::json!({"\0": 1})),
        ] {
            assert!(value.to_variant().is_err(), "{value:?}");
        }
    }
}
