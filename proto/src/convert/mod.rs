//! A document to a message: the protobuf JSON mapping, with all problems collected.
//!
//! Owns the mapping as Envoy's reader has it, which is more liberal than the specification: `null` stands for a default element
//! of a list, a single value for a list of one, nested lists are joined, enums are read in any case, wrappers and durations
//! may be written as messages. Measured against Envoy 1.40.
//! Must not know: what weft supports (`coverage`), which values are allowed (`rules`).

mod any;
mod scalar;
#[cfg(test)]
mod tests;
mod well_known;

pub(crate) use any::{TYPED_STRUCTS, any_of, resolve_typed_struct};
#[cfg(test)]
pub(crate) use well_known::days_from_civil;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::document::{Data, Document, Entry, Node};
use crate::message::{Content, Key, MAX_DEPTH, Message, Value};
use crate::problem::{Path, Position, Problem, Severity};
use crate::schema::{Field, Kind, MessageType, nearest};
use crate::spans::{Segment, Span, SpanTree};

/// A message read from a document.
#[derive(Debug)]
pub struct Converted {
    /// What could be read.
    pub message: Message,
    /// Where each field was written.
    pub spans: SpanTree,
    /// What could not be read, or is odd, in the order of the document.
    pub problems: Vec<Problem>,
}

/// Reads a document as a message of this type.
pub fn convert(document: &Document, ty: MessageType) -> Converted {
    let mut converter = Converter::new(Some(Arc::clone(&document.source)));
    let mut root = Span::new(document.root.at);
    let message = converter.message(ty, &document.root, &mut root).unwrap_or_else(|| Message::new(ty));
    let mut problems = document.warnings.clone();
    problems.append(&mut converter.problems);
    Converted { message, spans: SpanTree::new(Arc::clone(&document.source), root), problems }
}

/// Reads a part of a document that has no text of its own, such as the content of a `TypedStruct`.
pub(crate) fn convert_node(node: &Node, ty: MessageType) -> (Message, Vec<Problem>) {
    let mut converter = Converter::new(None);
    let message = converter.message(ty, node, &mut Span::default()).unwrap_or_else(|| Message::new(ty));
    (message, converter.problems)
}

struct Converter {
    source: Option<Arc<str>>,
    path: Path,
    /// Messages around the current one, up to the nearest `Any`.
    depth: usize,
    problems: Vec<Problem>,
}

impl Converter {
    fn new(source: Option<Arc<str>>) -> Self {
        Self { source, path: Path::default(), depth: 0, problems: Vec::new() }
    }

    /// Records a problem at the current path.
    fn problem(&mut self, severity: Severity, at: Position, reason: impl Into<String>) {
        let problem = Problem { source: self.source.clone(), at, ..Problem::new(severity, self.path.text(), reason) };
        self.problems.push(problem);
    }

    fn refuse<T>(&mut self, at: Position, reason: impl Into<String>) -> Option<T> {
        self.problem(Severity::Invalid, at, reason);
        None
    }

    fn wrong_type<T>(&mut self, node: &Node, expected: &str) -> Option<T> {
        self.refuse(node.at, format!("expected {expected}, found {}", node.data.describe()))
    }

    /// Reads a message, whatever its JSON form. `None`: nothing could be read, and why is recorded.
    fn message(&mut self, ty: MessageType, node: &Node, span: &mut Span) -> Option<Message> {
        if self.depth >= MAX_DEPTH {
            return self.refuse(node.at, format!("nested more than {MAX_DEPTH} messages deep"));
        }
        self.depth += 1;
        let message = match ty.well_known() {
            Some(well_known) => self.well_known(well_known, ty, node, span),
            None => self.plain_message(ty, node, span),
        };
        self.depth -= 1;
        message
    }

    fn plain_message(&mut self, ty: MessageType, node: &Node, span: &mut Span) -> Option<Message> {
        let Data::Map(entries) = &node.data else {
            return self.wrong_type(node, &format!("a map for {}", ty.name()));
        };
        let mut message = Message::new(ty);
        self.fields(&mut message, entries, None, span);
        Some(message)
    }

    /// Reads the entries of a map as fields, but for the one named `skip`.
    fn fields(&mut self, message: &mut Message, entries: &[Entry], skip: Option<&str>, span: &mut Span) {
        for entry in entries.iter().filter(|entry| Some(&*entry.key) != skip) {
            match message.ty().field_named(&entry.key) {
                Some(field) => self.field(message, field, entry, span),
                None => self.unknown_field(message.ty(), entry),
            }
        }
    }

    fn unknown_field(&mut self, ty: MessageType, entry: &Entry) {
        let suggestion = nearest(&entry.key, ty.fields().map(Field::name));
        let hint = suggestion.map(|name| format!(", did you mean `{name}`?")).unwrap_or_default();
        let reason = format!("unknown field of {}{hint}", ty.name());
        let up = self.path.len();
        self.path.push_field(&entry.key);
        self.problem(Severity::Unknown, entry.at, reason);
        self.path.truncate(up);
    }

    fn field(&mut self, message: &mut Message, field: Field, entry: &Entry, span: &mut Span) {
        // Null is "not set", but where null is a value.
        if entry.value.data == Data::Null && !takes_null(field) {
            return;
        }
        let up = self.path.len();
        self.path.push_field(field.name());
        let child = span.child(Segment::Field(field.name()), entry.at);
        if let Some(other) = oneof_rival(message, field) {
            let reason = format!("`{}` and `{}` are both set, and only one may be", other.name(), field.name());
            self.problem(Severity::Invalid, entry.at, reason);
        }
        let content = match field.map() {
            Some((key, value)) => self.map(key, value, &entry.value, child).map(Content::Map),
            None if field.is_repeated() => {
                let mut values = Vec::new();
                self.list(field.kind(), &entry.value, &mut values, child);
                Some(Content::List(values))
            }
            None => self.value(field.kind(), &entry.value, child).map(Content::One),
        };
        if let Some(content) = content {
            message.set(field, content);
        }
        self.path.truncate(up);
    }

    /// One value that is no list is a list of one, and lists in a list are joined.
    fn list(&mut self, kind: Kind, node: &Node, values: &mut Vec<Value>, span: &mut Span) {
        let list_is_value = matches!(kind, Kind::Message(ty) if takes_list(ty));
        match &node.data {
            Data::List(items) => {
                for item in items {
                    if matches!(item.data, Data::List(_)) && !list_is_value {
                        self.list(kind, item, values, span);
                    } else {
                        self.element(kind, item, values, span);
                    }
                }
            }
            _ => self.element(kind, node, values, span),
        }
    }

    fn element(&mut self, kind: Kind, item: &Node, values: &mut Vec<Value>, span: &mut Span) {
        let up = self.path.len();
        self.path.push_index(values.len());
        let child = span.child(Segment::Index(values.len()), item.at);
        let value = match &item.data {
            Data::Null if !is_value(kind) => None,
            _ => self.value(kind, item, child),
        };
        // What could not be read keeps its place, so that the indices of the rest are those of the document.
        values.push(value.unwrap_or_else(|| Value::default_of(kind)));
        self.path.truncate(up);
    }

    fn map(&mut self, key: Field, value: Field, node: &Node, span: &mut Span) -> Option<BTreeMap<Key, Value>> {
        let Data::Map(entries) = &node.data else { return self.wrong_type(node, "a map") };
        let mut out = BTreeMap::new();
        for entry in entries {
            let up = self.path.len();
            self.path.push_key(&entry.key);
            let child = span.child(Segment::Key(entry.key.clone()), entry.at);
            let item = match &entry.value.data {
                Data::Null if !is_value(value.kind()) => Some(Value::default_of(value.kind())),
                _ => self.value(value.kind(), &entry.value, child),
            };
            let name = self.map_key(key.kind(), entry);
            if let (Some(name), Some(item)) = (name, item) {
                out.insert(name, item);
            }
            self.path.truncate(up);
        }
        Some(out)
    }

    fn map_key(&mut self, kind: Kind, entry: &Entry) -> Option<Key> {
        if kind == Kind::String {
            return Some(Key::String(entry.key.to_string()));
        }
        let node = Node { at: entry.at, data: Data::String(entry.key.clone()) };
        self.value(kind, &node, &mut Span::default()).and_then(Key::of)
    }
}

/// A field of the same oneof that is set already.
fn oneof_rival(message: &Message, field: Field) -> Option<Field> {
    let oneof = field.oneof()?;
    message.fields().map(|(other, _)| other).find(|other| other.oneof() == Some(oneof) && *other != field)
}

/// `google.protobuf.Value`, for which null is a value.
fn is_value(kind: Kind) -> bool {
    matches!(kind, Kind::Message(ty) if ty.name() == "google.protobuf.Value")
}

fn takes_null(field: Field) -> bool {
    !field.is_repeated() && is_value(field.kind())
}

fn takes_list(ty: MessageType) -> bool {
    matches!(ty.name(), "google.protobuf.Value" | "google.protobuf.ListValue")
}
