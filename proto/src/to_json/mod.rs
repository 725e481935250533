//! A message to JSON, as Envoy's admin interface prints it.
//!
//! Owns the protobuf JSON mapping on the way out: declared names, `Any` opened, sensitive fields redacted.
//! Must not know: which message it prints.

pub mod mask;
#[cfg(test)]
mod tests;
mod time;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Name;
use serde_json::{Map, Value as Json};

use crate::any::{TypedStruct, typed_struct_content};
use crate::message::{Content, DecodeError, Message, Value};
use crate::schema::{EnumType, Field, Kind, MessageType, WellKnown, type_url_name};

/// What stands for text that must not be shown.
const REDACTED: &str = "[redacted]";

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Print fields without presence also where they have their default, and empty lists and maps. Envoy does for
    /// `/server_info`, `/clusters`, `/memory` and `/certs`, and does not for `/config_dump`.
    pub defaults: bool,
    /// Show sensitive fields (`udpa.annotations.sensitive`) in full. Never for output that leaves the process.
    pub secrets: bool,
}

/// Why a message cannot be printed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToJsonError {
    /// The schema has no such type.
    #[error("{0} is not in the schema")]
    UnknownType(String),
    /// The bytes are not a message of the type.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Prints an encoded message; `type_name` is its full name or a type URL.
///
/// # Errors
/// A type that the schema does not have, or bytes that are not of that type.
pub fn encoded(type_name: &str, bytes: &[u8], options: Options) -> Result<Json, ToJsonError> {
    let name = type_url_name(type_name);
    let ty = MessageType::find(name).ok_or_else(|| ToJsonError::UnknownType(name.to_owned()))?;
    Ok(message(&Message::decode(ty, bytes)?, options))
}

/// Prints a message of a generated type.
///
/// # Errors
/// A type that the schema does not have.
pub fn generated<M: prost::Message + Name>(message: &M, options: Options) -> Result<Json, ToJsonError> {
    encoded(&M::full_name(), &message.encode_to_vec(), options)
}

/// Prints a message. Fields it has that its type does not declare are left out, as they have no name.
pub fn message(message: &Message, options: Options) -> Json {
    Printer { options }.message(message, false)
}

struct Printer {
    options: Options,
}

impl Printer {
    /// `hide`: the message is (in) a sensitive field.
    fn message(&self, message: &Message, hide: bool) -> Json {
        match message.ty().well_known() {
            None => Json::Object(self.fields(message, hide)),
            Some(WellKnown::Any) => self.any(message, hide),
            Some(WellKnown::Wrapper) => self.wrapper(message, hide),
            Some(WellKnown::Struct | WellKnown::ListValue) => self.only_field(message, hide),
            Some(WellKnown::Value) => self.any_value(message, hide),
            Some(WellKnown::Duration) if hide => Json::from("0s"),
            Some(WellKnown::Duration) => Json::from(time::duration(message)),
            Some(WellKnown::Timestamp) if hide => Json::from("1970-01-01T00:00:00Z"),
            Some(WellKnown::Timestamp) => Json::from(time::timestamp(message)),
            Some(WellKnown::FieldMask) => Json::from(time::field_mask(message)),
        }
    }

    fn fields(&self, message: &Message, hide: bool) -> Map<String, Json> {
        let mut out = Map::new();
        if self.options.defaults {
            for field in message.ty().fields().filter(|field| !field.has_presence()) {
                out.insert(field.name().to_owned(), self.default_of(field));
            }
        }
        for (field, content) in message.fields() {
            let hide = hide || (field.is_sensitive() && !self.options.secrets);
            if let Some(json) = self.content(field, content, hide) {
                out.insert(field.name().to_owned(), json);
            }
        }
        out
    }

    fn default_of(&self, field: Field) -> Json {
        match (field.map(), field.is_repeated()) {
            (Some(_), _) => Json::Object(Map::new()),
            (None, true) => Json::Array(Vec::new()),
            (None, false) => self.value(field.kind(), &Value::default_of(field.kind()), false).unwrap_or_default(),
        }
    }

    /// `None`: there is nothing to show.
    fn content(&self, field: Field, content: &Content, hide: bool) -> Option<Json> {
        match content {
            Content::One(value) => self.value(field.kind(), value, hide),
            Content::List(values) => {
                let items: Vec<_> = values.iter().filter_map(|value| self.value(field.kind(), value, hide)).collect();
                // Numbers that are hidden leave no list behind.
                (!items.is_empty() || values.is_empty()).then_some(Json::Array(items))
            }
            Content::Map(entries) => {
                let kind = field.map().map_or(Kind::Bytes, |(_, value)| value.kind());
                let shown = |value| self.value(kind, value, hide);
                let entries = entries.iter().filter_map(|(key, value)| Some((key.to_string(), shown(value)?)));
                Some(Json::Object(entries.collect()))
            }
        }
    }

    /// Hidden text is replaced, other hidden values go.
    fn value(&self, kind: Kind, value: &Value, hide: bool) -> Option<Json> {
        Some(match value {
            Value::Message(message) => self.message(message, hide),
            Value::String(_) if hide => Json::from(REDACTED),
            Value::Bytes(_) if hide => Json::from(STANDARD.encode(REDACTED)),
            _ if hide => return None,
            Value::String(text) => Json::from(text.as_str()),
            Value::Bytes(bytes) => Json::from(STANDARD.encode(bytes)),
            Value::Bool(value) => Json::from(*value),
            Value::I32(value) => Json::from(*value),
            Value::U32(value) => Json::from(*value),
            // JavaScript cannot count that far.
            Value::I64(value) => Json::from(value.to_string()),
            Value::U64(value) => Json::from(value.to_string()),
            Value::F64(value) => float(*value),
            Value::F32(value) => float(shortest(*value)),
            Value::Enum(number) => enumeration(kind, *number),
        })
    }

    fn wrapper(&self, message: &Message, hide: bool) -> Json {
        let Some(field) = message.ty().field(1) else { return Json::Null };
        let default = || self.value(field.kind(), &Value::default_of(field.kind()), false);
        let shown = message.get(1).and_then(|content| self.content(field, content, hide));
        shown.or_else(default).unwrap_or_default()
    }

    /// A Struct is its fields, a ListValue its values.
    fn only_field(&self, message: &Message, hide: bool) -> Json {
        let Some(field) = message.ty().field(1) else { return Json::Null };
        match message.get(1) {
            Some(content) => self.content(field, content, hide).unwrap_or_else(|| self.default_of(field)),
            None => self.default_of(field),
        }
    }

    fn any_value(&self, message: &Message, hide: bool) -> Json {
        match message.fields().next() {
            None | Some((_, Content::One(Value::Enum(_)))) => Json::Null,
            Some((field, content)) => self.content(field, content, hide).unwrap_or_default(),
        }
    }

    fn any(&self, any: &Message, hide: bool) -> Json {
        let url = any.string(1);
        if url.is_empty() {
            return Json::Object(Map::new());
        }
        if let Some(content) = typed_struct_content(any) {
            return self.typed_struct(any, content.ok(), hide);
        }
        let content = MessageType::find(type_url_name(url)).map(|ty| Message::decode(ty, any.bytes(2)));
        let mut out = match content {
            Some(Ok(content)) if content.ty().well_known().is_none() => self.fields(&content, hide),
            Some(Ok(content)) => [("value".to_owned(), self.message(&content, hide))].into_iter().collect(),
            // Whether there are secrets in what cannot be read is not known.
            _ => [("value".to_owned(), Json::from(STANDARD.encode(REDACTED)))].into_iter().collect(),
        };
        out.insert("@type".to_owned(), Json::from(url));
        Json::Object(out)
    }

    /// As it was sent, but redacted as the message that it stands for.
    fn typed_struct(&self, any: &Message, content: Option<Message>, hide: bool) -> Json {
        let inner = TypedStruct::of(any.bytes(2)).map(|inner| inner.type_url).unwrap_or_default();
        let value = content.map_or_else(|| Json::from(REDACTED), |content| self.message(&content, hide));
        let entries = [("@type", Json::from(any.string(1))), ("type_url", Json::from(inner)), ("value", value)];
        Json::Object(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }
}

fn enumeration(kind: Kind, number: i32) -> Json {
    let Kind::Enum(ty) = kind else { return Json::from(number) };
    if ty.name() == "google.protobuf.NullValue" {
        return Json::Null;
    }
    EnumType::value(ty, number).map_or_else(|| Json::from(number), |value| Json::from(value.name()))
}

/// Whole numbers are printed without a point, what JSON cannot say as text.
fn float(value: f64) -> Json {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.is_nan() {
        Json::from("NaN")
    } else if value.is_infinite() {
        Json::from(if value > 0.0 { "Infinity" } else { "-Infinity" })
    } else if value.fract() == 0.0 && value.abs() < EXACT && !(value == 0.0 && value.is_sign_negative()) {
        #[expect(clippy::cast_possible_truncation, reason = "a whole number of at most 53 bits")]
        Json::from(value as i64)
    } else {
        Json::from(value)
    }
}

/// The double that prints as the single does: `0.1`, not `0.10000000149011612`.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| f64::from(value))
}
