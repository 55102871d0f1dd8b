//! YAML and JSON text to [`Node`]: the only place that knows the YAML library.
//!
//! The library gives a flat stream of events, so nothing is expanded or nested without passing
//! the limits here. Tags, several documents, duplicate keys and NUL are errors.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::error::{TreefileError, escape};
use crate::node::{Key, Mark, Node, Scalar, Source, Value};

/// Deepest nesting of lists and maps.
const MAX_DEPTH: usize = 64;
/// Most values in one file, aliases expanded.
const MAX_NODES: usize = 200_000;
/// Most bytes of text in one file, aliases expanded.
const MAX_TEXT: usize = 2 * MAX_BYTES;
/// Longest treefile in bytes: the library keeps all tokens of a `{...}` in memory, some 170 bytes
/// for each byte of text.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;

/// Parses one YAML document; with `json`, the text must also be JSON.
pub(crate) fn parse(data: &[u8], source: &Arc<Source>, json: bool) -> Result<Node, TreefileError> {
    let text = decode(data, source)?;
    let text = if json {
        check_json(text, source)?;
        Cow::Owned(join_surrogates(text))
    } else {
        Cow::Borrowed(text)
    };
    let mut builder = Builder::new(source);
    for item in Parser::new_from_str(&text) {
        let (event, span) = item.map_err(|e| {
            let at = mark_at(source, e.marker().line(), e.marker().col());
            at.error(format!("not valid YAML: {}", escape(e.info())))
        })?;
        builder.event(event, span)?;
    }
    builder.finish()
}

/// Bytes to text without a byte order mark.
fn decode<'a>(data: &'a [u8], source: &Source) -> Result<&'a str, TreefileError> {
    let fail = |message: String| Err(TreefileError::in_file(&source.display, message));
    if data.len() > MAX_BYTES {
        return fail(format!("the file is larger than {} MiB", MAX_BYTES >> 20));
    }
    if data.starts_with(&[0xff, 0xfe]) || data.starts_with(&[0xfe, 0xff]) {
        return fail("the file is UTF-16; save it as UTF-8".to_owned());
    }
    let data = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data);
    let line_of = |offset: usize| 1 + data.iter().take(offset).filter(|b| **b == b'\n').count();
    if let Some(offset) = data.iter().position(|b| *b == 0) {
        return fail(format!("line {} holds a NUL byte", line_of(offset)));
    }
    match std::str::from_utf8(data) {
        Ok(text) => Ok(text),
        Err(e) => fail(format!("line {} is not UTF-8", line_of(e.valid_up_to()))),
    }
}

fn check_json(text: &str, source: &Arc<Source>) -> Result<(), TreefileError> {
    let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) else {
        return Ok(());
    };
    let full = error.to_string();
    let message = full.split(" at line ").next().unwrap_or(&full);
    let at = mark_at(source, error.line(), error.column().saturating_sub(1));
    Err(at.error(format!("not valid JSON: {}", escape(message))))
}

/// Rewrites JSON's `\ud83d\ude00` as YAML's `\U0001f600`.
fn join_surrogates(text: &str) -> String {
    let unit = |at: usize| {
        let hex = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(hex, 16).ok()
    };
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(found) = text.get(at..).and_then(|rest| rest.find('\\')) {
        let escape = at + found;
        out.push_str(text.get(at..escape).unwrap_or_default());
        let pair = unit(escape).zip(unit(escape + 6)).map(|(a, b)| [a, b]);
        let joined = pair.filter(|p| (0xd800..0xdc00).contains(&p[0]));
        let joined = joined.and_then(|p| char::decode_utf16(p).next()?.ok());
        let (written, length) = match joined {
            Some(c) => (format!("\\U{:08x}", u32::from(c)), 12),
            None => {
                let next = text.get(escape + 1..).and_then(|r| r.chars().next());
                let length = 1 + next.map_or(0, char::len_utf8);
                (
                    text.get(escape..escape + length)
                        .unwrap_or_default()
                        .to_owned(),
                    length,
                )
            }
        };
        out.push_str(&written);
        at = escape + length;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}

/// The library counts lines from 1 and columns from 0.
fn mark_at(source: &Arc<Source>, line: usize, column: usize) -> Mark {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Mark {
        source: Arc::clone(source),
        line: count(line),
        column: count(column.saturating_add(1)),
    }
}

/// A list or map that is not complete yet.
#[derive(Debug)]
enum Open {
    List(Vec<Node>),
    Map {
        entries: Vec<(Key, Node)>,
        keys: HashSet<String>,
        pending: Option<Key>,
    },
}

/// An open collection, where it began, its anchor and its size so far.
#[derive(Debug)]
struct Frame {
    open: Open,
    mark: Mark,
    anchor: usize,
    extent: Extent,
}

/// How many nodes a value has, how many bytes of text, and how many levels of lists and maps.
#[derive(Debug, Clone, Copy)]
struct Extent {
    nodes: usize,
    text: usize,
    height: usize,
}

impl Extent {
    /// An empty list or map.
    const EMPTY: Self = Self {
        nodes: 1,
        text: 0,
        height: 1,
    };

    fn of_scalar(text: &str) -> Self {
        Self {
            nodes: 1,
            text: text.len(),
            height: 0,
        }
    }

    fn grow(&mut self, child: Self) {
        self.nodes = self.nodes.saturating_add(child.nodes);
        self.text = self.text.saturating_add(child.text);
        self.height = self.height.max(child.height.saturating_add(1));
    }
}

/// Builds a [`Node`] from events.
#[derive(Debug)]
struct Builder<'a> {
    source: &'a Arc<Source>,
    stack: Vec<Frame>,
    root: Option<Node>,
    documents: usize,
    nodes: usize,
    text: usize,
    /// Complete anchored nodes.
    anchors: HashMap<usize, (Node, Extent)>,
}

impl<'a> Builder<'a> {
    fn new(source: &'a Arc<Source>) -> Self {
        Self {
            source,
            stack: Vec::new(),
            root: None,
            documents: 0,
            nodes: 0,
            text: 0,
            anchors: HashMap::new(),
        }
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), TreefileError> {
        let mark = mark_at(self.source, span.start.line(), span.start.col());
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(mark.error("a treefile is one document; remove this '---'"));
                }
                Ok(())
            }
            Event::Alias(id) => self.alias(id, &mark),
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.as_deref(), &mark)?;
                self.scalar(text.into_owned(), style == ScalarStyle::Plain, anchor, mark)
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(tag.as_deref(), &mark)?;
                self.push(Open::List(Vec::new()), anchor, mark)
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(tag.as_deref(), &mark)?;
                let open = Open::Map {
                    entries: Vec::new(),
                    keys: HashSet::new(),
                    pending: None,
                };
                self.push(open, anchor, mark)
            }
            Event::SequenceEnd | Event::MappingEnd => self.pop(),
        }
    }

    fn push(&mut self, open: Open, anchor: usize, mark: Mark) -> Result<(), TreefileError> {
        self.check_depth(1, &mark)?;
        self.count(Extent::EMPTY, &mark)?;
        self.stack.push(Frame {
            open,
            mark,
            anchor,
            extent: Extent::EMPTY,
        });
        Ok(())
    }

    fn pop(&mut self) -> Result<(), TreefileError> {
        let Some(frame) = self.stack.pop() else {
            return Ok(());
        };
        let value = match frame.open {
            Open::List(items) => Value::List(items),
            Open::Map { entries, .. } => Value::Map(entries),
        };
        let node = Node {
            value,
            mark: frame.mark,
        };
        self.remember(frame.anchor, &node, frame.extent)?;
        self.add(node, frame.extent)
    }

    fn scalar(
        &mut self,
        text: String,
        plain: bool,
        anchor: usize,
        mark: Mark,
    ) -> Result<(), TreefileError> {
        if text.contains('\0') {
            return Err(mark.error("the text holds a NUL character"));
        }
        let extent = Extent::of_scalar(&text);
        self.count(extent, &mark)?;
        let node = Node {
            value: Value::Scalar(Scalar { text, plain }),
            mark,
        };
        self.remember(anchor, &node, extent)?;
        self.add(node, extent)
    }

    fn alias(&mut self, id: usize, mark: &Mark) -> Result<(), TreefileError> {
        let Some(extent) = self.anchors.get(&id).map(|(_, extent)| *extent) else {
            return Err(mark.error("an alias names a value that is not complete yet"));
        };
        self.check_depth(extent.height, mark)?;
        self.count(extent, mark)?;
        match self.anchors.get(&id).map(|(node, _)| node.clone()) {
            Some(node) => self.add(node, extent),
            None => Ok(()),
        }
    }

    fn check_depth(&self, more: usize, mark: &Mark) -> Result<(), TreefileError> {
        if self.stack.len().saturating_add(more) > MAX_DEPTH {
            return Err(mark.error(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(())
    }

    fn count(&mut self, more: Extent, mark: &Mark) -> Result<(), TreefileError> {
        self.nodes = self.nodes.saturating_add(more.nodes);
        self.text = self.text.saturating_add(more.text);
        if self.text > MAX_TEXT {
            let limit = MAX_TEXT >> 20;
            return Err(mark.error(format!(
                "more than {limit} MiB of text, counting what aliases repeat"
            )));
        }
        if self.nodes > MAX_NODES {
            let message = format!("more than {MAX_NODES} values, counting what aliases repeat");
            return Err(mark.error(message));
        }
        Ok(())
    }

    /// Keeps a copy of an anchored node; the copy counts as well.
    fn remember(
        &mut self,
        anchor: usize,
        node: &Node,
        extent: Extent,
    ) -> Result<(), TreefileError> {
        if anchor > 0 {
            self.count(extent, &node.mark)?;
            self.anchors.insert(anchor, (node.clone(), extent));
        }
        Ok(())
    }

    /// Puts a complete node where it belongs.
    fn add(&mut self, node: Node, extent: Extent) -> Result<(), TreefileError> {
        let Some(frame) = self.stack.last_mut() else {
            self.root.get_or_insert(node);
            return Ok(());
        };
        frame.extent.grow(extent);
        match &mut frame.open {
            Open::List(items) => items.push(node),
            Open::Map {
                entries,
                keys,
                pending,
            } => match pending.take() {
                Some(key) => entries.push((key, node)),
                None => *pending = Some(key_of(node, keys)?),
            },
        }
        Ok(())
    }

    fn finish(self) -> Result<Node, TreefileError> {
        match self.root {
            Some(node) if !node.is_null() => Ok(node),
            _ => Err(TreefileError::in_file(
                &self.source.display,
                "the file is empty",
            )),
        }
    }
}

fn refuse_tag(tag: Option<&saphyr_parser::Tag>, mark: &Mark) -> Result<(), TreefileError> {
    match tag {
        None => Ok(()),
        Some(tag) => {
            let tag = if tag.is_yaml_core_schema() {
                format!("!!{}", tag.suffix)
            } else {
                tag.to_string()
            };
            Err(mark.error(format!("tags such as '{}' are not supported", escape(&tag))))
        }
    }
}

fn key_of(node: Node, keys: &mut HashSet<String>) -> Result<Key, TreefileError> {
    let Value::Scalar(Scalar { text, .. }) = &node.value else {
        return Err(node.error(format!("a key must be text, found {}", node.describe())));
    };
    if text.is_empty() {
        return Err(node.error("a key is empty"));
    }
    if !keys.insert(text.clone()) {
        return Err(node.error(format!("'{}' is given twice", escape(text))));
    }
    let text = text.clone();
    Ok(Key {
        text,
        mark: node.mark,
    })
}
