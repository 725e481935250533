//! A message whose type is known only at run time.
//!
//! Owns the value model that the JSON mapping, the checks and the admin dumps share, and its wire format. It keeps fields it
//! does not know, so that what is decoded and encoded again loses nothing.
//! Must not know: text formats, or what any field means.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub use decode::DecodeError;

use std::collections::BTreeMap;
use std::fmt;

use crate::schema::{Field, Kind, MessageType};

/// How deeply messages may be nested, in text and on the wire. Protobuf's own limit.
pub const MAX_DEPTH: usize = 100;

/// A message: its type and the fields that are set.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    ty: MessageType,
    /// Sorted by number.
    fields: Vec<(Field, Content)>,
    unknown: Vec<Unknown>,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A singular field.
    One(Value),
    /// A repeated field, never empty when it was decoded.
    List(Vec<Value>),
    /// A map.
    Map(BTreeMap<Key, Value>),
}

/// One value. Integers of all wire forms of one width share a variant.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are protobuf's")]
pub enum Value {
    Bool(bool),
    I32(i32),
    I64(i64),
    U32(u32),
    U64(u64),
    F32(f32),
    F64(f64),
    Enum(i32),
    String(String),
    Bytes(Vec<u8>),
    Message(Box<Message>),
}

/// A key of a map. Integers of all widths and wire forms share two variants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are protobuf's")]
pub enum Key {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    String(String),
}

/// A field the type does not declare (or of another wire type than declared), as it was on the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct Unknown {
    /// The field number.
    pub number: u32,
    /// Its key and value, encoded.
    pub bytes: Vec<u8>,
}

impl Message {
    /// A message with nothing set.
    pub fn new(ty: MessageType) -> Self {
        Self { ty, fields: Vec::new(), unknown: Vec::new() }
    }

    /// Its type.
    pub fn ty(&self) -> MessageType {
        self.ty
    }

    /// The fields that are set, sorted by number.
    pub fn fields(&self) -> impl Iterator<Item = (Field, &Content)> {
        self.fields.iter().map(|(field, content)| (*field, content))
    }

    /// Fields that the type does not declare.
    pub fn unknown(&self) -> &[Unknown] {
        &self.unknown
    }

    /// Whether nothing at all is set.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.unknown.is_empty()
    }

    fn position(&self, number: u32) -> Result<usize, usize> {
        self.fields.binary_search_by_key(&number, |(field, _)| field.number())
    }

    /// What the field with this number holds.
    pub fn get(&self, number: u32) -> Option<&Content> {
        self.position(number).ok().and_then(|at| self.fields.get(at)).map(|(_, content)| content)
    }

    /// What the field with this number holds.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut Content> {
        self.position(number).ok().and_then(|at| self.fields.get_mut(at)).map(|(_, content)| content)
    }

    /// The content of a field by its declared name.
    pub fn get_named(&self, name: &str) -> Option<&Content> {
        self.fields.iter().find(|(field, _)| field.name() == name).map(|(_, content)| content)
    }

    /// Sets a field of this type. A field of the same oneof that was set is cleared.
    pub fn set(&mut self, field: Field, content: Content) {
        if let Some(oneof) = field.oneof() {
            self.fields.retain(|(other, _)| other.oneof() != Some(oneof) || *other == field);
        }
        match self.position(field.number()) {
            Ok(at) => {
                if let Some(slot) = self.fields.get_mut(at) {
                    *slot = (field, content);
                }
            }
            Err(at) => self.fields.insert(at, (field, content)),
        }
    }

    /// The content of a field, which is first set to `empty` if it is not set.
    fn entry(&mut self, field: Field, empty: impl FnOnce() -> Content) -> &mut Content {
        let at = match self.position(field.number()) {
            Ok(at) => at,
            Err(_) => {
                self.set(field, empty());
                self.position(field.number()).unwrap_or(0)
            }
        };
        // `set` has just put it there.
        &mut self.fields[at].1
    }

    /// Removes the fields for which `keep` is false, and all unknown ones.
    pub fn retain(&mut self, mut keep: impl FnMut(Field, &mut Content) -> bool) {
        self.fields.retain_mut(|(field, content)| keep(*field, content));
        self.unknown.clear();
    }

    /// The text of a singular string field, empty if it is not set.
    pub fn string(&self, number: u32) -> &str {
        match self.get(number) {
            Some(Content::One(Value::String(text))) => text,
            _ => "",
        }
    }

    /// The content of a singular bytes field, empty if it is not set.
    pub fn bytes(&self, number: u32) -> &[u8] {
        match self.get(number) {
            Some(Content::One(Value::Bytes(bytes))) => bytes,
            _ => &[],
        }
    }

    /// A singular integer field of any width, 0 if it is not set.
    pub fn integer(&self, number: u32) -> i64 {
        match self.get(number) {
            Some(Content::One(Value::I64(n))) => *n,
            Some(Content::One(Value::I32(n) | Value::Enum(n))) => i64::from(*n),
            Some(Content::One(Value::U32(n))) => i64::from(*n),
            _ => 0,
        }
    }
}

impl Value {
    /// Whether it is what an unset field without presence reads as.
    pub fn is_default(&self) -> bool {
        match self {
            Self::Bool(value) => !value,
            Self::I32(value) | Self::Enum(value) => *value == 0,
            Self::I64(value) => *value == 0,
            Self::U32(value) => *value == 0,
            Self::U64(value) => *value == 0,
            Self::F32(value) => value.to_bits() == 0,
            Self::F64(value) => value.to_bits() == 0,
            Self::String(value) => value.is_empty(),
            Self::Bytes(value) => value.is_empty(),
            Self::Message(_) => false,
        }
    }

    /// The default of a field or map value of this kind.
    pub fn default_of(kind: Kind) -> Self {
        match kind {
            Kind::Double => Self::F64(0.0),
            Kind::Float => Self::F32(0.0),
            Kind::Int64 | Kind::Sfixed64 | Kind::Sint64 => Self::I64(0),
            Kind::Uint64 | Kind::Fixed64 => Self::U64(0),
            Kind::Int32 | Kind::Sfixed32 | Kind::Sint32 => Self::I32(0),
            Kind::Uint32 | Kind::Fixed32 => Self::U32(0),
            Kind::Bool => Self::Bool(false),
            Kind::String => Self::String(String::new()),
            Kind::Bytes => Self::Bytes(Vec::new()),
            Kind::Message(ty) => Self::Message(Box::new(Message::new(ty))),
            Kind::Enum(_) => Self::Enum(0),
        }
    }
}

impl Key {
    /// The key that a value is, if its kind may be a key.
    pub fn of(value: Value) -> Option<Self> {
        Some(match value {
            Value::Bool(value) => Self::Bool(value),
            Value::I32(value) => Self::Signed(value.into()),
            Value::I64(value) => Self::Signed(value),
            Value::U32(value) => Self::Unsigned(value.into()),
            Value::U64(value) => Self::Unsigned(value),
            Value::String(value) => Self::String(value),
            Value::F32(_) | Value::F64(_) | Value::Enum(_) | Value::Bytes(_) | Value::Message(_) => return None,
        })
    }

    /// It as a value of this kind, which is the kind of the map's keys.
    pub fn to_value(&self, kind: Kind) -> Value {
        match (self, Value::default_of(kind)) {
            (Self::Bool(value), _) => Value::Bool(*value),
            (Self::String(value), _) => Value::String(value.clone()),
            (Self::Signed(value), Value::I32(_)) => Value::I32(i32::try_from(*value).unwrap_or_default()),
            (Self::Signed(value), _) => Value::I64(*value),
            (Self::Unsigned(value), Value::U32(_)) => Value::U32(u32::try_from(*value).unwrap_or_default()),
            (Self::Unsigned(value), _) => Value::U64(*value),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Signed(value) => value.fmt(f),
            Self::Unsigned(value) => value.fmt(f),
            Self::String(value) => f.write_str(value),
        }
    }
}
