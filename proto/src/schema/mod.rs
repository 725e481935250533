//! The messages and enums this crate knows: names, numbers, types, validation rules, and what weft supports of them.
//!
//! Owns the reading of `schema.bin`, which `build.rs` writes from the descriptors that `envoy-types` ships. It is read in
//! place from the program's read-only data: looking something up allocates nothing, and nothing is decoded at start.
//! Must not know: what a value looks like, or where it came from.

mod nearest;
mod table;

use std::fmt;

pub use nearest::nearest;
use table::{ENUMS, FIELDS, MESSAGES, ONEOFS, OTHERS, VALUES, bytes};

/// A message type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MessageType(u32);

/// A field of a message type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field(u32);

/// A oneof of a message type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Oneof(u32);

/// An enum type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EnumType(u32);

/// A value of an enum type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EnumValue(u32);

/// What one value of a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are protobuf's")]
pub enum Kind {
    Double,
    Float,
    Int64,
    Uint64,
    Int32,
    Fixed64,
    Fixed32,
    Bool,
    String,
    Bytes,
    Uint32,
    Sfixed32,
    Sfixed64,
    Sint32,
    Sint64,
    Message(MessageType),
    Enum(EnumType),
}

/// Whether weft acts on a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Nothing reads it: setting it is a problem.
    No,
    /// It has its effect.
    Yes,
    /// It may be set and has no effect, for this reason.
    Ignored(&'static str),
}

/// Every message type, sorted by name.
pub fn messages() -> impl Iterator<Item = MessageType> {
    (0..MESSAGES.count()).map(MessageType)
}

/// Top-level messages that Envoy has and the schema does not hold, sorted: weft cannot read or write them.
pub fn other_messages() -> impl Iterator<Item = &'static str> {
    (0..OTHERS.count()).map(|index| OTHERS.text(index, 0))
}

/// Whether Envoy has a message of this name that the schema does not hold.
pub fn is_other_message(name: &str) -> bool {
    OTHERS.find(name).is_some()
}

impl MessageType {
    /// The type with this full name, such as `envoy.config.cluster.v3.Cluster`.
    pub fn find(full_name: &str) -> Option<Self> {
        MESSAGES.find(full_name).map(Self)
    }

    /// The full name.
    pub fn name(self) -> &'static str {
        MESSAGES.text(self.0, 0)
    }

    /// The fields, sorted by number.
    pub fn fields(self) -> impl ExactSizeIterator<Item = Field> {
        let first = MESSAGES.get(self.0, 2);
        (first..first + MESSAGES.get(self.0, 3)).map(Field)
    }

    /// The field with this number.
    pub fn field(self, number: u32) -> Option<Field> {
        self.fields().find(|field| field.number() == number)
    }

    /// The field with this name, either as declared (`connect_timeout`) or its JSON name (`connectTimeout`).
    pub fn field_named(self, name: &str) -> Option<Field> {
        self.fields().find(|field| field.name() == name || field.json_name() == name)
    }

    /// The oneofs, in the order of [`Field::oneof`]'s index.
    pub fn oneofs(self) -> impl ExactSizeIterator<Item = Oneof> {
        let first = MESSAGES.get(self.0, 4);
        (first..first + MESSAGES.get(self.0, 5)).map(Oneof)
    }

    /// Whether it is the entry type of a map field.
    pub fn is_map_entry(self) -> bool {
        MESSAGES.get(self.0, 6) & 1 != 0
    }

    /// Whether its validation rules apply.
    pub fn is_validated(self) -> bool {
        MESSAGES.get(self.0, 6) & 2 != 0
    }

    /// Whether weft's table of supported fields lists it.
    pub fn is_supported(self) -> bool {
        MESSAGES.get(self.0, 6) & 4 != 0
    }

    /// What the protobuf JSON mapping treats specially, if it is one of those.
    pub fn well_known(self) -> Option<WellKnown> {
        self.name().strip_prefix("google.protobuf.").and_then(WellKnown::of)
    }
}

/// The messages that have a JSON form of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are protobuf's")]
pub enum WellKnown {
    Any,
    Duration,
    FieldMask,
    ListValue,
    Struct,
    Timestamp,
    Value,
    /// `BoolValue` and the like: one field, `value`.
    Wrapper,
}

impl WellKnown {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "Any" => Self::Any,
            "Duration" => Self::Duration,
            "FieldMask" => Self::FieldMask,
            "ListValue" => Self::ListValue,
            "Struct" => Self::Struct,
            "Timestamp" => Self::Timestamp,
            "Value" => Self::Value,
            "BoolValue" | "BytesValue" | "DoubleValue" | "FloatValue" | "Int32Value" | "Int64Value" | "StringValue"
            | "UInt32Value" | "UInt64Value" => Self::Wrapper,
            _ => return None,
        })
    }
}

impl Field {
    /// The name as declared.
    pub fn name(self) -> &'static str {
        FIELDS.text(self.0, 0)
    }

    /// The name in camel case.
    pub fn json_name(self) -> &'static str {
        FIELDS.text(self.0, 2)
    }

    /// The number.
    pub fn number(self) -> u32 {
        FIELDS.get(self.0, 4)
    }

    /// What one value of it is; for a map, its entry message.
    pub fn kind(self) -> Kind {
        let target = FIELDS.get(self.0, 6);
        // The numbers of `FieldDescriptorProto.Type`. The writer refuses groups (10).
        match FIELDS.get(self.0, 5) & 0xff {
            1 => Kind::Double,
            2 => Kind::Float,
            3 => Kind::Int64,
            4 => Kind::Uint64,
            5 => Kind::Int32,
            6 => Kind::Fixed64,
            7 => Kind::Fixed32,
            8 => Kind::Bool,
            9 => Kind::String,
            11 => Kind::Message(MessageType(target)),
            13 => Kind::Uint32,
            14 => Kind::Enum(EnumType(target)),
            15 => Kind::Sfixed32,
            16 => Kind::Sfixed64,
            17 => Kind::Sint32,
            18 => Kind::Sint64,
            _ => Kind::Bytes,
        }
    }

    fn flag(self, bit: u32) -> bool {
        FIELDS.get(self.0, 5) >> 8 & 1 << bit != 0
    }

    /// Whether it is repeated; a map is.
    pub fn is_repeated(self) -> bool {
        self.flag(0)
    }

    /// The key and value fields, if it is a map.
    pub fn map(self) -> Option<(Field, Field)> {
        match self.kind() {
            Kind::Message(entry) if self.flag(1) => entry.field(1).zip(entry.field(2)),
            _ => None,
        }
    }

    /// Whether its values are written together in one length-delimited record.
    pub fn is_packed(self) -> bool {
        self.flag(2)
    }

    /// Whether "set to the default value" differs from "not set".
    pub fn has_presence(self) -> bool {
        self.flag(3)
    }

    /// Whether its content must not be shown (`udpa.annotations.sensitive`).
    pub fn is_sensitive(self) -> bool {
        self.flag(4)
    }

    /// Whether it is deprecated.
    pub fn is_deprecated(self) -> bool {
        self.flag(5)
    }

    /// Whether Envoy refuses it unless a runtime key allows it (`envoy.annotations.disallowed_by_default`).
    pub fn is_disallowed_by_default(self) -> bool {
        self.flag(6)
    }

    /// Whether weft acts on it.
    pub fn support(self) -> Support {
        match FIELDS.get(self.0, 5) >> 16 & 0xff {
            0 => Support::No,
            1 => Support::Yes,
            _ => Support::Ignored(FIELDS.text(self.0, 9)),
        }
    }

    /// Its oneof, as an index into [`MessageType::oneofs`].
    pub fn oneof(self) -> Option<usize> {
        (FIELDS.get(self.0, 5) >> 24).checked_sub(1).map(|index| index as usize)
    }

    /// Its validation rules, an encoded `validate.FieldRules`; empty if there are none.
    pub fn rules(self) -> &'static [u8] {
        bytes(FIELDS.get(self.0, 7), FIELDS.get(self.0, 8))
    }
}

impl Oneof {
    /// The name.
    pub fn name(self) -> &'static str {
        ONEOFS.text(self.0, 0)
    }

    /// Whether one of its fields must be set.
    pub fn is_required(self) -> bool {
        ONEOFS.get(self.0, 2) != 0
    }
}

impl EnumType {
    /// The full name.
    pub fn name(self) -> &'static str {
        ENUMS.text(self.0, 0)
    }

    /// The values as declared.
    pub fn values(self) -> impl ExactSizeIterator<Item = EnumValue> {
        let first = ENUMS.get(self.0, 2);
        (first..first + ENUMS.get(self.0, 3)).map(EnumValue)
    }

    /// The first value with this number.
    pub fn value(self, number: i32) -> Option<EnumValue> {
        self.values().find(|value| value.number() == number)
    }

    /// The value with this name.
    pub fn value_named(self, name: &str) -> Option<EnumValue> {
        self.values().find(|value| value.name() == name)
    }
}

impl EnumValue {
    /// The name.
    pub fn name(self) -> &'static str {
        VALUES.text(self.0, 0)
    }

    /// The number.
    pub fn number(self) -> i32 {
        VALUES.get(self.0, 2).cast_signed()
    }

    /// Whether weft acts on it.
    pub fn is_supported(self) -> bool {
        VALUES.get(self.0, 3) != 0
    }
}

/// The full name of the message a type URL names: what follows its last `/`.
pub fn type_url_name(url: &str) -> &str {
    url.rsplit_once('/').map_or(url, |(_, name)| name)
}

impl fmt::Debug for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for EnumType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for EnumValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Oneof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_as_declared() {
        let cluster = MessageType::find("envoy.config.cluster.v3.Cluster").unwrap();
        assert_eq!(cluster.name(), "envoy.config.cluster.v3.Cluster");
        let timeout = cluster.field_named("connectTimeout").unwrap();
        assert_eq!((timeout.name(), timeout.number()), ("connect_timeout", 4));
        assert_eq!(cluster.field(4), Some(timeout));
        let Kind::Message(duration) = timeout.kind() else { panic!("a message") };
        assert_eq!(duration.well_known(), Some(WellKnown::Duration));
        assert!(!timeout.rules().is_empty());
        let kind = cluster.field_named("type").unwrap();
        assert_eq!(cluster.oneofs().nth(kind.oneof().unwrap()).unwrap().name(), "cluster_discovery_type");
        let Kind::Enum(discovery) = kind.kind() else { panic!("an enum") };
        assert_eq!(discovery.value_named("EDS").unwrap().number(), 3);
        let (key, value) = cluster.field_named("typed_extension_protocol_options").unwrap().map().unwrap();
        assert_eq!(key.kind(), Kind::String);
        assert!(matches!(value.kind(), Kind::Message(any) if any.well_known() == Some(WellKnown::Any)));
    }

    #[test]
    fn names_are_sorted_so_that_lookups_find_them() {
        for message in messages() {
            assert_eq!(MessageType::find(message.name()), Some(message));
            let numbers: Vec<_> = message.fields().map(Field::number).collect();
            assert!(numbers.is_sorted());
        }
        assert!(other_messages().all(is_other_message));
    }

    #[test]
    fn secrets_are_marked() {
        let name = "envoy.extensions.transport_sockets.tls.v3.TlsCertificate";
        let certificate = MessageType::find(name).unwrap();
        assert!(certificate.field_named("private_key").unwrap().is_sensitive());
        assert!(!certificate.field_named("certificate_chain").unwrap().is_sensitive());
    }
}
