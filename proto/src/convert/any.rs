//! `google.protobuf.Any`, written as the fields of its content with `@type` beside them.

use super::well_known::value_entry;
use super::{Converter, convert_node};
use crate::document::{Data, Entry, Node};
use crate::message::{Content, Message, Value};
use crate::problem::Severity;
use crate::schema::{MessageType, is_other_message, messages, nearest, other_messages, type_url_name};
use crate::spans::{Segment, Span};

const TYPE_KEY: &str = "@type";

/// Messages whose content is any JSON with the type named beside it. They are converted to that type, as Envoy does when it
/// makes a filter of them.
pub(crate) const TYPED_STRUCTS: [&str; 2] = ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"];

impl Converter {
    pub(super) fn any(&mut self, ty: MessageType, node: &Node, span: &mut Span) -> Option<Message> {
        let Data::Map(entries) = &node.data else {
            return self.wrong_type(node, "a map with \"@type\"");
        };
        if entries.is_empty() {
            return Some(Message::new(ty));
        }
        let Some(entry) = entries.iter().rev().find(|entry| &*entry.key == TYPE_KEY) else {
            return self.refuse(node.at, "\"@type\" is missing: it names the type of what is here");
        };
        let Data::String(url) = &entry.value.data else {
            return self.wrong_type(&entry.value, "a type URL as \"@type\"");
        };
        span.whole = true;
        span.child(Segment::Field(TYPE_KEY), entry.at);
        let depth = std::mem::take(&mut self.depth);
        let packed = self.content(url, entry, entries, node, span);
        self.depth = depth;
        let (url, content) = packed?;
        any_of(ty, url, content.map(|message| message.encode()).unwrap_or_default())
    }

    /// The type URL and the content; no content where the type is one that weft does not have.
    fn content(
        &mut self,
        url: &str,
        type_entry: &Entry,
        entries: &[Entry],
        node: &Node,
        span: &mut Span,
    ) -> Option<(String, Option<Message>)> {
        let name = type_url_name(url);
        if !url.contains('/') || url.starts_with('/') {
            return self.refuse(
                type_entry.at,
                format!("{url:?} is no type URL: it must contain a `/` after a host, as in type.googleapis.com/{name}"),
            );
        }
        if TYPED_STRUCTS.contains(&name) {
            return self.typed_struct(type_entry, entries, span);
        }
        let Some(ty) = self.known_type(name, type_entry) else { return Some((url.to_owned(), None)) };
        let mut message = Message::new(ty);
        if ty.well_known().is_none() {
            self.fields(&mut message, entries, Some(TYPE_KEY), span);
            return Some((url.to_owned(), Some(message)));
        }
        let extra = entries.iter().find(|entry| !matches!(&*entry.key, TYPE_KEY | "value"));
        if let Some(entry) = extra {
            self.problem(Severity::Invalid, entry.at, format!("only \"@type\" and \"value\" may stand in a {name}"));
        }
        if let Some(entry) = value_entry(entries) {
            let up = self.path.len();
            self.path.push_field("value");
            let child = span.child(Segment::Field("value"), entry.at);
            message = self.message(ty, &entry.value, child).unwrap_or(message);
            self.path.truncate(up);
        } else if extra.is_none() {
            self.problem(Severity::Invalid, node.at, format!("\"value\" is missing: it holds the {name}"));
        }
        Some((url.to_owned(), Some(message)))
    }

    /// `{"@type": …TypedStruct, type_url: …, value: {…}}`: the value is read as the type named beside it.
    fn typed_struct(
        &mut self,
        type_entry: &Entry,
        entries: &[Entry],
        span: &mut Span,
    ) -> Option<(String, Option<Message>)> {
        let mut inner: Option<&Entry> = None;
        let mut value: Option<&Entry> = None;
        for entry in entries {
            match &*entry.key {
                TYPE_KEY => {}
                "type_url" | "typeUrl" => inner = Some(entry),
                "value" => value = Some(entry),
                _ => {
                    let up = self.path.len();
                    self.path.push_field(&entry.key);
                    self.problem(Severity::Unknown, entry.at, "unknown field of a TypedStruct");
                    self.path.truncate(up);
                }
            }
        }
        let Some(inner) = inner else {
            return self.refuse(type_entry.at, "`type_url` is missing: it names the type of the value");
        };
        let Data::String(url) = &inner.value.data else {
            return self.wrong_type(&inner.value, "a type URL as `type_url`");
        };
        let name = type_url_name(url);
        let url = format!("type.googleapis.com/{name}");
        let Some(ty) = self.known_type(name, inner) else { return Some((url, None)) };
        let message = match value.filter(|entry| entry.value.data != Data::Null) {
            Some(entry) => {
                span.at = entry.at;
                self.message(ty, &entry.value, span)
            }
            None => Some(Message::new(ty)),
        };
        message.map(|message| (url, Some(message)))
    }

    fn known_type(&mut self, name: &str, entry: &Entry) -> Option<MessageType> {
        let found = MessageType::find(name);
        if found.is_none() {
            let (severity, reason) = unknown_type(name);
            self.problem(severity, entry.at, reason);
        }
        found
    }
}

/// What to say of a type the schema does not hold.
pub(crate) fn unknown_type(name: &str) -> (Severity, String) {
    if is_other_message(name) {
        return (Severity::Unsupported, format!("{name} is not supported by weft"));
    }
    let known = messages().map(MessageType::name).chain(other_messages());
    let hint = nearest(name, known).map(|other| format!(", did you mean {other}?")).unwrap_or_default();
    (Severity::Invalid, format!("there is no type {name}{hint}"))
}

pub(crate) fn any_of(any: MessageType, url: String, content: Vec<u8>) -> Option<Message> {
    let mut message = Message::new(any);
    message.set(any.field(1)?, Content::One(Value::String(url)));
    message.set(any.field(2)?, Content::One(Value::Bytes(content)));
    Some(message)
}

/// The content of an `Any` that holds an encoded TypedStruct: its real type URL and message.
pub(crate) fn resolve_typed_struct(value: &Node, inner_url: &str) -> Result<(String, Message), String> {
    let name = type_url_name(inner_url);
    let ty = MessageType::find(name).ok_or_else(|| unknown_type(name).1)?;
    let (message, problems) = convert_node(value, ty);
    match problems.into_iter().find(|problem| problem.severity > Severity::Warning) {
        Some(problem) => Err(problem.to_string()),
        None => Ok((format!("type.googleapis.com/{name}"), message)),
    }
}
