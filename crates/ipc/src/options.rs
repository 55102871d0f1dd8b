//! Dictionaries of options to typed requests, and back.
//!
//! Everything is taken out of the dictionary by name and type; what is left over is an error, so a
//! caller never gets less, or more, than it asked for.

use std::collections::HashMap;

use zbus::zvariant::{Array, OwnedFd, OwnedValue, Structure, Value};

use crate::error::{Result, invalid};

/// Lists hold at most this many strings.
pub const MAX_ITEMS: usize = 1000;

/// Strings of lists have at most this many bytes.
pub const MAX_ITEM_BYTES: usize = 4096;

/// One call passes at most this many file descriptors.
pub const MAX_FDS: usize = 64;

/// A text, such as all kernel arguments or a command line, has at most this many bytes.
pub const MAX_TEXT_BYTES: usize = 64 << 10;

/// A dictionary as it comes from the bus.
pub type Dict = HashMap<String, OwnedValue>;

/// A dictionary of options that is taken apart.
#[derive(Debug)]
pub struct Options(Dict);

impl Options {
    /// All options are still to be taken.
    pub const fn new(dict: Dict) -> Self {
        Self(dict)
    }

    /// Takes a flag; `None`: not there.
    ///
    /// # Errors
    /// It is no boolean.
    pub fn flag(&mut self, key: &str) -> Result<Option<bool>> {
        self.take(key, "b", |value| match value {
            Value::Bool(flag) => Some(flag),
            _ => None,
        })
    }

    /// Takes a flag that is false when it is not there.
    ///
    /// # Errors
    /// It is no boolean.
    pub fn is_set(&mut self, key: &str) -> Result<bool> {
        Ok(self.flag(key)?.unwrap_or(false))
    }

    /// Takes a number; `None`: not there.
    ///
    /// # Errors
    /// It is no unsigned 32-bit number.
    pub fn number(&mut self, key: &str) -> Result<Option<u32>> {
        self.take(key, "u", |value| match value {
            Value::U32(number) => Some(number),
            _ => None,
        })
    }

    /// Takes a text; `None`: not there.
    ///
    /// # Errors
    /// It is no string, or too long, or holds control characters.
    pub fn text(&mut self, key: &str) -> Result<Option<String>> {
        let text = self.take(key, "s", |value| match value {
            Value::Str(text) => Some(text.to_string()),
            _ => None,
        })?;
        if let Some(text) = &text {
            check_text(key, text, MAX_TEXT_BYTES)?;
        }
        Ok(text)
    }

    /// Takes a list of strings; empty when it is not there.
    ///
    /// # Errors
    /// It is no list of strings, or [`check_list`] refuses it.
    pub fn list(&mut self, key: &str) -> Result<Vec<String>> {
        let list = self.take(key, "as", |value| Vec::<String>::try_from(value).ok())?;
        let list = list.unwrap_or_default();
        check_list(key, &list)?;
        Ok(list)
    }

    /// Takes a pair of strings; `None`: not there.
    ///
    /// # Errors
    /// It is no pair, or a string is too long or holds control characters.
    pub fn pair(&mut self, key: &str) -> Result<Option<(String, String)>> {
        let pair = self.take(key, "(ss)", |value| {
            <(String, String)>::try_from(Structure::try_from(value).ok()?).ok()
        })?;
        if let Some((first, second)) = &pair {
            check_text(key, first, MAX_ITEM_BYTES)?;
            check_text(key, second, MAX_ITEM_BYTES)?;
        }
        Ok(pair)
    }

    /// Takes file descriptors; empty when it is not there.
    ///
    /// # Errors
    /// It is no list of descriptors, or there are too many.
    pub fn fds(&mut self, key: &str) -> Result<Vec<OwnedFd>> {
        let fds = self.take(key, "ah", |value| match value {
            Value::Array(array) => own_fds(&array),
            _ => None,
        })?;
        let fds = fds.unwrap_or_default();
        if fds.len() > MAX_FDS {
            return Err(invalid(format!(
                "option '{key}' has {} files, more than {MAX_FDS}",
                fds.len()
            )));
        }
        Ok(fds)
    }

    /// Takes what has a type of its own; `None`: not there.
    ///
    /// # Errors
    /// `convert` refuses it; `signature` is what the message says it should be.
    pub fn take<T>(
        &mut self,
        key: &str,
        signature: &str,
        convert: impl FnOnce(Value<'static>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.0.remove(key) else {
            return Ok(None);
        };
        match convert(Value::from(value)) {
            Some(taken) => Ok(Some(taken)),
            None => Err(invalid(format!(
                "option '{key}' is not of type '{signature}'"
            ))),
        }
    }

    /// Ends it: nothing may be left over.
    ///
    /// # Errors
    /// An option is left that nobody took.
    pub fn finish(self) -> Result<()> {
        match self.0.keys().min() {
            None => Ok(()),
            Some(key) => {
                let name: String = key.chars().take(64).flat_map(char::escape_debug).collect();
                Err(invalid(format!("option '{name}' is unknown")))
            }
        }
    }
}

fn own_fds(array: &Array<'_>) -> Option<Vec<OwnedFd>> {
    array
        .iter()
        .map(|item| match item {
            Value::Fd(fd) => fd.try_to_owned().ok().map(OwnedFd::from),
            _ => None,
        })
        .collect()
}

/// Checks a list of names or arguments.
///
/// # Errors
/// It has too many items, or one that is empty, too long or holds control characters.
pub fn check_list(what: &str, list: &[String]) -> Result<()> {
    if list.len() > MAX_ITEMS {
        return Err(invalid(format!(
            "'{what}' has {} items, more than {MAX_ITEMS}",
            list.len()
        )));
    }
    for item in list {
        if item.is_empty() {
            return Err(invalid(format!("an item of '{what}' is empty")));
        }
        check_text(what, item, MAX_ITEM_BYTES)?;
    }
    Ok(())
}

/// Checks a text.
///
/// # Errors
/// It has more than `limit` bytes or holds control characters.
pub fn check_text(what: &str, text: &str, limit: usize) -> Result<()> {
    if text.len() > limit {
        return Err(invalid(format!(
            "'{what}' has {} bytes, more than {limit}",
            text.len()
        )));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(format!("'{what}' holds a control character")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn options(entries: Vec<(&str, Value<'static>)>) -> Options {
        let dict = entries
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.try_into_owned().unwrap()))
            .collect();
        Options::new(dict)
    }

    fn text_of<T: std::fmt::Debug>(result: Result<T>) -> String {
        match result.unwrap_err() {
            Error::InvalidArguments(text) => text,
            other => panic!("another error: {other}"),
        }
    }

    #[test]
    fn what_nobody_took_is_an_error() {
        let mut given = options(vec![("reboot", true.into()), ("rebot\n", true.into())]);
        assert!(given.is_set("reboot").unwrap());
        assert_eq!(text_of(given.finish()), "option 'rebot\\n' is unknown");
    }

    #[test]
    fn another_type_is_an_error() {
        let mut given = options(vec![
            ("reboot", "yes".into()),
            ("packages", vec![1u32].into()),
            ("fds", vec!["x"].into()),
        ]);
        assert_eq!(
            text_of(given.flag("reboot")),
            "option 'reboot' is not of type 'b'"
        );
        assert_eq!(
            text_of(given.list("packages")),
            "option 'packages' is not of type 'as'"
        );
        assert_eq!(
            text_of(given.fds("fds")),
            "option 'fds' is not of type 'ah'"
        );
    }

    #[test]
    fn lists_and_texts_are_limited() {
        let mut given = options(vec![
            ("many", vec!["x"; MAX_ITEMS + 1].into()),
            ("long", vec!["x".repeat(MAX_ITEM_BYTES + 1)].into()),
            ("empty", vec![""].into()),
            ("control", "a\nb".into()),
        ]);
        assert!(text_of(given.list("many")).contains("1001 items"));
        assert!(text_of(given.list("long")).contains("4097 bytes"));
        assert!(text_of(given.list("empty")).contains("is empty"));
        assert!(text_of(given.text("control")).contains("control character"));
    }

    #[test]
    fn pairs_and_numbers_are_taken() {
        let mut given = options(vec![
            ("custom-origin", ("url", "text").into()),
            ("deploy-index", 3u32.into()),
        ]);
        assert_eq!(
            given.pair("custom-origin").unwrap(),
            Some(("url".to_owned(), "text".to_owned()))
        );
        assert_eq!(given.number("deploy-index").unwrap(), Some(3));
        given.finish().unwrap();
    }
}
