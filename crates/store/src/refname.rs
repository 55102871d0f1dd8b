//! Names of refs from arbitrary text.

use std::fmt::Write as _;

/// Turns any text into one component of a ref.
///
/// Letters, digits, `-` and, except at the start, `.` stay; `_` becomes `__` and any other byte
/// `_` and two hexadecimal digits. `-` at the start is escaped too.
pub fn escape_ref(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'_' => out.push_str("__"),
            b'-' | b'.' if at > 0 => out.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            // Writing to a string can't fail.
            _ => drop(write!(out, "_{byte:02X}")),
        }
    }
    if out.is_empty() { "_".to_owned() } else { out }
}

/// Undoes [`escape_ref`]; `None` for text that it can't have made.
pub fn unescape_ref(name: &str) -> Option<String> {
    if name == "_" {
        return Some(String::new());
    }
    let mut out = Vec::with_capacity(name.len());
    let mut bytes = name.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'_' {
            out.push(byte);
            continue;
        }
        match bytes.next()? {
            b'_' => out.push(b'_'),
            high => {
                let digit = |b: u8| {
                    char::from(b)
                        .to_digit(16)
                        .filter(|_| !b.is_ascii_lowercase())
                };
                let value = digit(high)? * 16 + digit(bytes.next()?)?;
                out.push(u8::try_from(value).ok()?);
            }
        }
    }
    let text = String::from_utf8(out).ok()?;
    (escape_ref(&text) == name).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn specials_are_escaped() {
        assert_eq!(escape_ref("libstdc++6"), "libstdc_2B_2B6");
        assert_eq!(escape_ref("1:2.0~rc_1-3.amd64"), "1_3A2.0_7Erc__1-3.amd64");
        assert_eq!(escape_ref("../x"), "_2E._2Fx");
        assert_eq!(escape_ref("-a"), "_2Da");
    }

    #[test]
    fn foreign_text_is_not_unescaped() {
        for bad in ["_", "a_", "a_4", "a_zz", "_41", "a_2b", ".a", "", "a/b"] {
            let round = unescape_ref(bad).map(|t| escape_ref(&t));
            assert!(round.is_none_or(|r| r == bad), "{bad}");
        }
        assert_eq!(unescape_ref("a_2b"), None);
    }

    proptest! {
        #[test]
        fn escaped_text_is_a_valid_ref_and_round_trips(text in any::<String>()) {
            let name = escape_ref(&text);
            let full = format!("aptostree/tree/{name}");
            prop_assert!(ostree::validate_rev(&full).is_ok(), "{}", full);
            prop_assert_eq!(unescape_ref(&name), Some(text));
        }
    }
}
