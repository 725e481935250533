//! YAML: parser events to nodes.

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};

use super::{Data, Entry, MAX_DEPTH, MAX_EXPANDED, Node, Parsed, Refusal, scalar};
use crate::problem::Position;

/// A key with this tag is dropped with its value: a place to keep anchors (an Envoy convention).
const IGNORE: &str = "ignore";

pub(super) fn parse(text: &str) -> Parsed {
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes: 0,
        expanded: 0,
        ignored: false,
        warnings: Vec::new(),
    };
    let root = builder.document()?;
    Ok((root, builder.warnings))
}

/// An anchored value, and how many nodes it is.
struct Anchor {
    node: Node,
    nodes: usize,
}

struct Builder<'t> {
    parser: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Anchor>,
    /// Values made so far.
    nodes: usize,
    /// How many of them are copies of anchored ones, kept for their aliases or made by one.
    expanded: usize,
    /// Whether the scalar just read was tagged `!ignore`.
    ignored: bool,
    warnings: Vec<Refusal>,
}

fn position(marker: Marker) -> Position {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Position { line: number(marker.line()), column: number(marker.col()).saturating_add(1) }
}

impl<'t> Builder<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), Refusal> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(e)) => Err(Refusal::new(position(*e.marker()), format!("not YAML: {}", e.info()))),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn document(&mut self) -> Result<Node, Refusal> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::StreamEnd => break,
                Event::DocumentStart(_) if root.is_some() => {
                    let reason = "only the first YAML document is read, and here a second one starts";
                    self.warnings.push(Refusal::new(position(span.start), reason));
                    break;
                }
                Event::DocumentStart(_) => {
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, span, 0)?);
                }
                _ => return Err(Refusal::new(position(span.start), "not YAML: content outside a document")),
            }
        }
        let nothing = || Refusal::new(Position { line: 1, column: 1 }, "the document is empty");
        root.ok_or_else(nothing)
    }

    /// Counts copies before they are made.
    fn copy(&mut self, nodes: usize, at: Position) -> Result<(), Refusal> {
        self.expanded = self.expanded.saturating_add(nodes);
        if self.expanded > MAX_EXPANDED {
            return Err(Refusal::new(at, format!("aliases expand to more than {MAX_EXPANDED} values")));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, Refusal> {
        let at = position(span.start);
        if depth > MAX_DEPTH {
            return Err(Refusal::new(at, format!("nested more than {MAX_DEPTH} levels deep")));
        }
        let before = self.nodes;
        self.nodes += 1;
        let (data, anchor) = match event {
            Event::Alias(id) => return self.alias(id, at),
            Event::Scalar(text, style, anchor, tag) => (self.scalar(&text, style, tag.as_deref()), anchor),
            Event::SequenceStart(anchor, _) => (Data::List(self.list(depth)?), anchor),
            Event::MappingStart(anchor, _) => (Data::Map(self.map(depth)?), anchor),
            _ => return Err(Refusal::new(at, "not YAML: a value is missing")),
        };
        let node = Node { at, data };
        if anchor != 0 {
            let nodes = self.nodes - before;
            self.copy(nodes, at)?;
            self.anchors.insert(anchor, Anchor { node: node.clone(), nodes });
        }
        Ok(node)
    }

    fn alias(&mut self, id: usize, at: Position) -> Result<Node, Refusal> {
        // The value of an anchor is known once it ends, so a value cannot contain itself.
        let unknown = || Refusal::new(at, "an alias to an anchor that is not complete here");
        let nodes = self.anchors.get(&id).ok_or_else(unknown)?.nodes;
        self.copy(nodes, at)?;
        self.nodes += nodes;
        self.anchors.get(&id).map(|anchor| anchor.node.clone()).ok_or_else(unknown)
    }

    /// Quoted and block scalars are text. A tag other than `!` changes nothing, as in Envoy.
    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Data {
        let (handle, suffix) = tag.map_or(("", ""), |tag| (&tag.handle, &tag.suffix));
        self.ignored = handle == "!" && suffix == IGNORE;
        let non_specific = handle.is_empty() && suffix == "!";
        if style == ScalarStyle::Plain && !non_specific { scalar::plain(text) } else { Data::String(text.into()) }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Refusal> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, Refusal> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                self.warn_of_duplicates(&entries);
                return Ok(entries);
            }
            let at = position(span.start);
            let text = match &event {
                Event::Scalar(text, ..) => Some(text.clone()),
                _ => None,
            };
            self.ignored = false;
            let key = self.node(event, span, depth + 1)?;
            let ignored = self.ignored;
            let key = key_text(text, key).ok_or_else(|| Refusal::new(at, "a map key must be text"))?;
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            if !ignored {
                entries.push(Entry { at, key, value });
            }
        }
    }

    fn warn_of_duplicates(&mut self, entries: &[Entry]) {
        let mut seen = HashMap::with_capacity(entries.len());
        for entry in entries {
            if let Some(first) = seen.insert(&entry.key, entry.at.line) {
                let reason = format!("`{}` is given again (first in line {first}): the last one counts", entry.key);
                self.warnings.push(Refusal::new(entry.at, reason));
            }
        }
    }
}

/// A key is its text as written, whatever type the scalar would have as a value; through an alias, its value.
fn key_text(text: Option<Cow<'_, str>>, key: Node) -> Option<Box<str>> {
    match (text, key.data) {
        (Some(text), _) => Some(text.into()),
        (None, Data::String(text) | Data::Number(text)) => Some(text),
        (None, Data::Bool(value)) => Some(value.to_string().into()),
        (None, Data::Null | Data::List(_) | Data::Map(_)) => None,
    }
}
