//! Numbers and foreign text as a person reads them.

/// A size with a decimal unit, such as `312.4 MB`.
pub fn bytes(size: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1_000_000_000_000, "TB"),
        (1_000_000_000, "GB"),
        (1_000_000, "MB"),
        (1_000, "kB"),
    ];
    for (unit, name) in UNITS {
        if size >= unit {
            let tenths = size / (unit / 10);
            return format!("{}.{} {name}", tenths / 10, tenths % 10);
        }
    }
    format!("{size} bytes")
}

/// A duration, such as `3.2s` or `2m05s`.
pub fn seconds(seconds: f64) -> String {
    if seconds < 59.95 {
        return format!("{seconds:.1}s");
    }
    let whole = seconds.round();
    format!("{:.0}m{:02.0}s", (whole / 60.0).floor(), whole % 60.0)
}

/// `word` as a shell reads it back.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_decimal_and_never_round_up_a_unit() {
        assert_eq!(bytes(0), "0 bytes");
        assert_eq!(bytes(999), "999 bytes");
        assert_eq!(bytes(1_000), "1.0 kB");
        assert_eq!(bytes(999_999), "999.9 kB");
        assert_eq!(bytes(312_449_000), "312.4 MB");
        assert_eq!(bytes(u64::MAX), "18446744.0 TB");
    }

    #[test]
    fn durations_switch_to_minutes_at_one_minute() {
        assert_eq!(seconds(0.0), "0.0s");
        assert_eq!(seconds(3.24), "3.2s");
        assert_eq!(seconds(59.96), "1m00s");
        assert_eq!(seconds(119.7), "2m00s");
        assert_eq!(seconds(3725.0), "62m05s");
    }

    #[test]
    fn shell_words_are_quoted_only_where_needed() {
        assert_eq!(shell_word("output/a_b.tar"), "output/a_b.tar");
        assert_eq!(shell_word("my dir/a'b"), r"'my dir/a'\''b'");
        assert_eq!(shell_word(""), "''");
    }
}
