//! Aligned `Label: value` lines.

use apt_ostree_fsx::escape;

/// Values that are broken to shorter lines than this would only get harder to read.
const MIN_WIDTH: usize = 20;

/// A block of fields. Labels are put to the right, and values begin in one column.
#[derive(Debug, Default)]
pub(super) struct Fields {
    rows: Vec<(&'static str, Vec<String>)>,
}

impl Fields {
    /// Adds a value that stays on one line.
    pub(super) fn push(&mut self, label: &'static str, value: &str) {
        self.rows.push((label, vec![escape(value)]));
    }

    /// Adds a value when there is one.
    pub(super) fn push_some(&mut self, label: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.push(label, value);
        }
    }

    /// Adds words that may be spread over lines; without words, nothing.
    pub(super) fn push_words<T: AsRef<str>>(
        &mut self,
        label: &'static str,
        words: impl IntoIterator<Item = T>,
    ) {
        let words: Vec<String> = words
            .into_iter()
            .map(|word| escape(word.as_ref()))
            .collect();
        if !words.is_empty() {
            self.rows.push((label, words));
        }
    }

    /// The length of the longest label.
    pub(super) fn label_width(&self) -> usize {
        self.rows
            .iter()
            .map(|(label, _)| label.len())
            .max()
            .unwrap_or(0)
    }

    /// Writes the block with labels of `label_width`, in `width` columns where that is known.
    pub(super) fn write(&self, text: &mut String, label_width: usize, width: Option<usize>) {
        let indent = label_width + 4;
        for (label, words) in &self.rows {
            let lines = wrap(words, width.map(|width| width.saturating_sub(indent)));
            for (number, line) in lines.iter().enumerate() {
                let head = if number == 0 {
                    format!("  {label:>label_width$}: ")
                } else {
                    " ".repeat(indent)
                };
                text.push_str(&head);
                text.push_str(line);
                text.push('\n');
            }
        }
    }
}

/// Joins words by blanks to lines of at most `width` characters, or to one line.
fn wrap(words: &[String], width: Option<usize>) -> Vec<String> {
    let Some(width) = width.map(|width| width.max(MIN_WIDTH)) else {
        return vec![words.join(" ")];
    };
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut length = 0;
    for word in words {
        let chars = word.chars().count();
        if length > 0 && length + 1 + chars > width {
            lines.push(std::mem::take(&mut line));
            length = 0;
        }
        if length > 0 {
            line.push(' ');
            length += 1;
        }
        line.push_str(word);
        length += chars;
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_begin_in_one_column_and_go_on_there() {
        let mut fields = Fields::default();
        fields.push("Version", "1\n2");
        fields.push_words("LayeredPackages", ["htop", "openssh-server", "vim", "zstd"]);
        fields.push_words("LocalPackages", Vec::<String>::new());
        let mut text = String::new();
        fields.write(&mut text, fields.label_width(), Some(42));
        let expected = "          Version: 1\\x0a2\n  LayeredPackages: htop openssh-server vim\n\
                        \u{20}                  zstd\n";
        assert_eq!(text, expected);
    }

    proptest! {
        #[test]
        fn wrapping_keeps_the_words_and_the_width(
            words in prop::collection::vec("[a-zä]{1,30}", 1..20),
            width in 0usize..80,
        ) {
            let lines = wrap(&words, Some(width));
            for line in &lines {
                let fits = line.chars().count() <= width.max(MIN_WIDTH);
                prop_assert!(fits || !line.contains(' '), "{line:?}");
            }
            prop_assert_eq!(lines.join(" "), words.join(" "));
            prop_assert_eq!(wrap(&words, None), vec![words.join(" ")]);
        }
    }
}
