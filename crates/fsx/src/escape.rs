//! Makes text from outside fit for a message or a terminal.

use std::fmt::Write;

/// Escapes control characters, bidirectional overrides and other invisible formatting characters.
///
/// Tabs stay; everything else that could move a cursor or reorder text becomes `\xNN` or
/// `\u{NNNN}`. A backslash stays as it is: the result is for reading, not for parsing back.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        push_escaped(&mut out, c);
    }
    out
}

/// Like [`escape`], and bytes that are not UTF-8 become `\xNN`.
pub fn escape_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            push_escaped(&mut out, c);
        }
        for byte in chunk.invalid() {
            push_hex(&mut out, *byte);
        }
    }
    out
}

/// Like [`escape`], and cuts what is longer than `limit` characters, marking the cut with `…`.
pub fn escape_cut(text: &str, limit: usize) -> String {
    let mut chars = text.chars();
    let head: String = chars.by_ref().take(limit).collect();
    let mut out = escape(&head);
    if chars.next().is_some() {
        out.push('…');
    }
    out
}

fn push_escaped(out: &mut String, c: char) {
    match c {
        '\t' => out.push(c),
        '\0'..='\x1f' | '\x7f' => push_hex(out, c as u8),
        _ if is_unsafe(c) => {
            // Writing to a String can't fail.
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        }
        _ => out.push(c),
    }
}

fn push_hex(out: &mut String, byte: u8) {
    // Writing to a String can't fail.
    let _ = write!(out, "\\x{byte:02x}");
}

/// C1 controls, line separators, and characters that reorder or hide text.
const fn is_unsafe(c: char) -> bool {
    matches!(c,
        '\u{80}'..='\u{9f}'
        | '\u{61c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn control_bytes_and_overrides_become_visible() {
        assert_eq!(escape("a\x1b[31mb\n"), "a\\x1b[31mb\\x0a");
        assert_eq!(escape("ä\u{202e}x\u{85}"), "ä\\u{202e}x\\u{85}");
        assert_eq!(escape("tab\tstays"), "tab\tstays");
        assert_eq!(escape_bytes(b"ok\xff\xfe\xc3\xa4"), "ok\\xff\\xfeä");
    }

    #[test]
    fn long_text_is_cut_and_marked() {
        assert_eq!(escape_cut("äöü", 3), "äöü");
        assert_eq!(escape_cut("äöüx", 3), "äöü…");
    }

    proptest! {
        #[test]
        fn escaped_bytes_hold_no_control_character(bytes: Vec<u8>) {
            let text = escape_bytes(&bytes);
            prop_assert!(text.chars().all(|c| c == '\t' || !(c.is_control() || is_unsafe(c))));
        }

        #[test]
        fn plain_text_is_unchanged(text in "[ -~äöüß]{0,80}") {
            prop_assert_eq!(escape(&text), text);
        }
    }
}
