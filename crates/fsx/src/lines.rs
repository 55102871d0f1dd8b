//! Cuts a byte stream from a program into bounded, escaped lines.

use std::collections::VecDeque;

use crate::escape::escape_bytes;

/// A longer line is cut.
const LINE_LIMIT: usize = 4096;

/// Turns bytes into lines: escaped, each at most 4 KiB long, and dropped once a total is reached.
///
/// Of a line that a program overwrites with carriage returns (a progress bar) only the last state
/// counts.
#[derive(Debug)]
pub struct LineSplitter {
    partial: Vec<u8>,
    cut: bool,
    /// A carriage return was the last byte: the next one starts the line over, unless it ends it.
    returned: bool,
    left: u64,
    dropped: u64,
}

impl LineSplitter {
    /// A splitter that hands on at most `limit` bytes in all.
    pub const fn new(limit: u64) -> Self {
        Self {
            partial: Vec::new(),
            cut: false,
            returned: false,
            left: limit,
            dropped: 0,
        }
    }

    /// Takes the next bytes and calls `on_line` for each line they complete.
    pub fn push(&mut self, mut bytes: &[u8], on_line: &mut dyn FnMut(&str)) {
        if self.left == 0 {
            self.dropped += bytes.len() as u64;
            return;
        }
        while let Some(end) = bytes.iter().position(|b| *b == b'\n' || *b == b'\r') {
            self.append(&bytes[..end]);
            if bytes[end] == b'\n' {
                self.flush(on_line);
            } else {
                self.returned = true;
            }
            bytes = &bytes[end + 1..];
            if self.left == 0 {
                self.dropped += bytes.len() as u64;
                return;
            }
        }
        self.append(bytes);
    }

    /// Hands on the last, unterminated line and a note about what was dropped.
    pub fn finish(mut self, on_line: &mut dyn FnMut(&str)) {
        if !self.partial.is_empty() {
            self.flush(on_line);
        }
        if self.dropped > 0 {
            on_line(&format!("({} more bytes of output dropped)", self.dropped));
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if std::mem::take(&mut self.returned) {
            self.partial.clear();
            self.cut = false;
        }
        let room = LINE_LIMIT - self.partial.len();
        self.cut |= bytes.len() > room;
        self.partial
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn flush(&mut self, on_line: &mut dyn FnMut(&str)) {
        self.left = self.left.saturating_sub(self.partial.len() as u64 + 1);
        let mut line = escape_bytes(&self.partial);
        if self.cut {
            line.push('…');
        }
        on_line(&line);
        self.partial.clear();
        self.cut = false;
        self.returned = false;
    }
}

/// The last few lines of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail(VecDeque<String>);

impl Tail {
    /// How many lines are kept.
    pub const LINES: usize = 20;

    /// Takes one line; forgets the oldest when there are too many.
    pub fn push(&mut self, line: &str) {
        if self.0.len() == Self::LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }

    /// The lines, oldest first.
    pub fn into_lines(self) -> Vec<String> {
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(limit: u64, chunks: &[&[u8]]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut splitter = LineSplitter::new(limit);
        for chunk in chunks {
            splitter.push(chunk, &mut |line| lines.push(line.to_owned()));
        }
        splitter.finish(&mut |line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn lines_may_span_chunks_and_lack_a_newline() {
        assert_eq!(
            split(100, &[b"on", b"e\ntw", b"o\n\nend"]),
            ["one", "two", "", "end"]
        );
    }

    #[test]
    fn carriage_return_overwrites_the_line() {
        assert_eq!(
            split(100, &[b"5%\r10%", b"\rdone\r\nnext\r\n"]),
            ["done", "next"]
        );
    }

    #[test]
    fn long_line_is_cut() {
        let lines = split(1 << 20, &[&[b'x'; LINE_LIMIT], b"yyy\nz"]);
        assert_eq!(lines[0].chars().count(), LINE_LIMIT + 1);
        assert!(lines[0].ends_with("x…"));
        assert_eq!(lines[1], "z");
    }

    #[test]
    fn output_over_the_limit_is_counted_not_kept() {
        let lines = split(4, &[b"abc\ndef\n", b"ghi\n"]);
        assert_eq!(lines, ["abc", "(8 more bytes of output dropped)"]);
    }

    #[test]
    fn tail_keeps_the_last_lines() {
        let mut tail = Tail::default();
        for n in 0..50 {
            tail.push(&n.to_string());
        }
        let lines = tail.into_lines();
        assert_eq!(lines.len(), Tail::LINES);
        assert_eq!(lines.last().unwrap(), "49");
    }

    proptest! {
        #[test]
        fn chunking_does_not_change_the_lines(bytes in proptest::collection::vec(
            prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'a'), any::<u8>()], 0..200), cut in 0usize..200) {
            let at = cut.min(bytes.len());
            prop_assert_eq!(split(1 << 20, &[&bytes]), split(1 << 20, &[&bytes[..at], &bytes[at..]]));
        }
    }
}
