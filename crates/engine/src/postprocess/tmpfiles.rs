//! tmpfiles.d: writing lines, and reading those that packages ship.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use apt_ostree_model::{ContentReader, Node, Tree};

/// One line of a tmpfiles.d file, as far as it is read here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Type character without modifiers.
    pub(crate) kind: char,
    /// Path, unescaped; specifiers that don't depend on the machine are expanded.
    pub(crate) path: String,
    /// Mode field without prefix characters; `None` for `-`.
    pub(crate) mode: Option<u32>,
    /// User field; `None` for `-`.
    pub(crate) user: Option<String>,
    /// Group field; `None` for `-`.
    pub(crate) group: Option<String>,
    /// Argument field, unescaped; empty when absent.
    pub(crate) argument: String,
}

/// Directories of tmpfiles.d fragments, those that win first.
const DIRS: [&str; 4] = [
    "etc/tmpfiles.d",
    "usr/etc/tmpfiles.d",
    "usr/local/lib/tmpfiles.d",
    "usr/lib/tmpfiles.d",
];

impl Line {
    /// True when the line makes sure that something exists at its path.
    pub(crate) fn creates(&self) -> bool {
        matches!(
            self.kind,
            'f' | 'F' | 'd' | 'D' | 'v' | 'q' | 'Q' | 'p' | 'L' | 'c' | 'b' | 'C'
        )
    }

    /// True when it makes a directory.
    pub(crate) fn is_dir(&self) -> bool {
        matches!(self.kind, 'd' | 'D' | 'v' | 'q' | 'Q')
    }
}

/// Reads one line. `Ok(None)` for comments, empty lines and lines whose path depends on the
/// machine. Quotes and escapes follow tmpfiles.d(5).
pub(crate) fn parse_line(text: &str) -> Result<Option<Line>> {
    let text = text.trim();
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let mut rest = text;
    let mut words = Vec::new();
    for _ in 0..6 {
        match next_word(rest)? {
            Some((word, tail)) => {
                words.push(word);
                rest = tail;
            }
            None => break,
        }
    }
    let [kind, path, ..] = words.as_slice() else {
        anyhow::bail!("a line without a path");
    };
    let kind = kind.chars().next().context("an empty type")?;
    let Some(path) = expand(path) else {
        return Ok(None);
    };
    let field = |index: usize| {
        let word = words.get(index)?;
        let word = word.trim_start_matches([':', '~']);
        (word != "-" && !word.is_empty()).then(|| word.to_owned())
    };
    let argument = rest.trim();
    let argument = if argument == "-" { "" } else { argument };
    Ok(Some(Line {
        kind,
        mode: field(2).and_then(|m| u32::from_str_radix(&m, 8).ok()),
        user: field(3),
        group: field(4),
        path: clean(&path),
        argument: argument_of(argument),
    }))
}

fn argument_of(text: &str) -> String {
    let plain = unescape(text).unwrap_or_else(|_| text.to_owned());
    expand(&plain).unwrap_or(plain)
}

/// Path without doubled and trailing slashes.
fn clean(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    format!("/{}", parts.join("/"))
}

/// Takes the first word off `text`, with quotes and backslash escapes resolved.
fn next_word(text: &str) -> Result<Option<(String, &str)>> {
    let text = text.trim_start();
    if text.is_empty() {
        return Ok(None);
    }
    let mut raw = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((index, c)) = chars.next() {
        match (c, quote) {
            ('\\', _) => {
                raw.push(c);
                let (_, next) = chars.next().context("a backslash at the end")?;
                raw.push(next);
            }
            (c, Some(q)) if c == q => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            (c, None) if c.is_ascii_whitespace() => {
                return Ok(Some((unescape(&raw)?, &text[index..])));
            }
            (c, _) => raw.push(c),
        }
    }
    anyhow::ensure!(quote.is_none(), "an unfinished quote");
    Ok(Some((unescape(&raw)?, "")))
}

/// Resolves C escapes.
pub(crate) fn unescape(text: &str) -> Result<String> {
    if !text.contains('\\') {
        return Ok(text.to_owned());
    }
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next().context("a backslash at the end")? {
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'r' => out.push(b'\r'),
            b's' => out.push(b' '),
            b'a' => out.push(7),
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'v' => out.push(11),
            c @ (b'\\' | b'"' | b'\'') => out.push(c),
            b'x' => out.push(number(&mut bytes, 2, 16, None)?),
            c @ b'0'..=b'7' => out.push(number(&mut bytes, 2, 8, Some(c))?),
            other => anyhow::bail!(
                "an unknown escape '\\{}'",
                char::from(other).escape_default()
            ),
        }
    }
    String::from_utf8(out).context("an escape that is not UTF-8")
}

fn number(
    bytes: &mut impl Iterator<Item = u8>,
    digits: usize,
    radix: u32,
    first: Option<u8>,
) -> Result<u8> {
    let text: String = first
        .into_iter()
        .chain(bytes.take(digits))
        .map(char::from)
        .collect();
    let value = u8::from_str_radix(&text, radix).ok().filter(|v| *v != 0);
    value.with_context(|| format!("a bad escape '{}'", text.escape_default()))
}

/// Expands the specifiers that are the same on every machine; `None` when there is another one.
fn expand(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        out.push_str(match chars.next()? {
            '%' => "%",
            'S' => "/var/lib",
            'C' => "/var/cache",
            'L' => "/var/log",
            't' => "/run",
            'T' => "/tmp",
            'V' => "/var/tmp",
            'h' => "/root",
            _ => return None,
        });
    }
    Some(out)
}

/// All lines of the tree's tmpfiles.d, in the order in which systemd reads them: by file name;
/// a file in `/etc` hides one of the same name in `/usr/lib`. Lines that can't be read are left
/// out, as systemd does.
pub(crate) fn lines_of(tree: &Tree, content: &(impl ContentReader + ?Sized)) -> Result<Vec<Line>> {
    let mut files: BTreeMap<&str, String> = BTreeMap::new();
    for dir in DIRS {
        let entries = tree.dir(dir).into_iter().flat_map(|d| &d.entries);
        for (name, _) in entries.filter(|(name, _)| name.ends_with(".conf")) {
            files.entry(name).or_insert_with(|| format!("{dir}/{name}"));
        }
    }
    let mut lines = Vec::new();
    for path in files.values() {
        let Some(real) = real_file(tree, path) else {
            continue;
        };
        let Some(data) = super::work::read_optional(tree, content, &real)? else {
            continue;
        };
        let text = String::from_utf8_lossy(&data);
        lines.extend(text.lines().filter_map(|l| parse_line(l).ok().flatten()));
    }
    Ok(lines)
}

fn real_file(tree: &Tree, path: &str) -> Option<String> {
    match tree.get(path)? {
        Node::File(_) => Some(path.to_owned()),
        Node::Symlink(_) => tree.resolve(path),
        Node::Dir(_) => None,
    }
}

/// Escapes a path or argument so that systemd reads back exactly `text`.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'%' => out.push_str("%%"),
            b if b.is_ascii_alphanumeric() || b"/._-+:@,=~^()[]{}!#$&;<>?*|`".contains(&b) => {
                out.push(char::from(b));
            }
            b => out.push_str(&format!("\\x{b:02x}")),
        }
    }
    out
}

/// A line that makes a directory.
pub(crate) fn dir_line(path: &str, mode: u32, user: &str, group: &str) -> String {
    format!("d {} {mode:04o} {user} {group} - -", escape(path))
}

/// A line that makes an empty file.
pub(crate) fn file_line(path: &str, mode: u32, user: &str, group: &str) -> String {
    format!("f {} {mode:04o} {user} {group} - -", escape(path))
}

/// A line that makes a link; `replace` removes what is there first.
pub(crate) fn link_line(path: &str, target: &str, replace: bool) -> String {
    let kind = if replace { "L+" } else { "L" };
    format!("{kind} {} - - - - {}", escape(path), escape(target))
}

/// A line that copies `source` when `path` is missing or an empty directory.
pub(crate) fn copy_line(path: &str, source: &str) -> String {
    format!("C {} - - - - {}", escape(path), escape(source))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Line {
        parse_line(text).unwrap().unwrap()
    }

    #[test]
    fn lines_are_read_as_systemd_reads_them() {
        let line = parse("d$ \"/var/lib/a b\" :0750 root ~adm 10d");
        assert_eq!((line.kind, line.path.as_str()), ('d', "/var/lib/a b"));
        assert_eq!(
            (line.mode, line.user.as_deref()),
            (Some(0o750), Some("root"))
        );
        let line = parse("L+ /var/lib/dpkg//x/ - - - - ../../usr/a\\x20b");
        assert_eq!(
            (line.path.as_str(), line.argument.as_str()),
            ("/var/lib/dpkg/x", "../../usr/a b")
        );
        assert_eq!(parse("d %S/foo").path, "/var/lib/foo");
        assert_eq!(parse("d /var/100%%").path, "/var/100%");
        assert!(parse_line("z /var/log/journal/%m 2755").unwrap().is_none());
        assert!(parse_line("# d /x").unwrap().is_none());
        assert!(parse_line("d").is_err());
        assert!(parse_line("d \"/x").is_err());
        assert!(parse_line("d /x\\q").is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(name in "[^/\0]{1,20}", target in "[^\0]{1,20}") {
            prop_assume!(target != "-");
            let path = format!("/var/{name}");
            let line = parse(&link_line(&path, &target, false));
            prop_assert_eq!(&line.path, &path);
            prop_assert_eq!(line.argument, target);
            let line = parse(&dir_line(&path, 0o2755, "root", "adm"));
            prop_assert_eq!((line.path, line.mode), (path, Some(0o2755)));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,60}") {
            let _unused = parse_line(&text);
        }
    }
}
