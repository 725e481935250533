//! A message to its wire format.

use std::collections::BTreeMap;

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::{Content, Key, Message, Value};
use crate::schema::{Field, Kind};

impl Message {
    /// The wire format: declared fields by number, then the unknown ones.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_to(&mut out);
        out
    }

    fn encode_to(&self, out: &mut Vec<u8>) {
        for (field, content) in self.fields() {
            match content {
                Content::One(value) if field.has_presence() || !value.is_default() => encode_one(field, value, out),
                Content::One(_) => {}
                Content::List(values) if field.is_packed() => encode_packed(field, values, out),
                Content::List(values) => values.iter().for_each(|value| encode_one(field, value, out)),
                Content::Map(entries) => encode_map(field, entries, out),
            }
        }
        for unknown in &self.unknown {
            out.extend_from_slice(&unknown.bytes);
        }
    }
}

fn encode_one(field: Field, value: &Value, out: &mut Vec<u8>) {
    encode_key(field.number(), wire_type(field.kind()), out);
    encode_value(field.kind(), value, out);
}

fn encode_packed(field: Field, values: &[Value], out: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    let mut packed = Vec::new();
    for value in values {
        encode_value(field.kind(), value, &mut packed);
    }
    encode_key(field.number(), WireType::LengthDelimited, out);
    encode_bytes(&packed, out);
}

/// Both fields of an entry are always written, as protobuf's own encoders do.
fn encode_map(field: Field, entries: &BTreeMap<Key, Value>, out: &mut Vec<u8>) {
    let Some((key_field, value_field)) = field.map() else { return };
    for (key, value) in entries {
        let mut entry = Vec::new();
        encode_one(key_field, &key.to_value(key_field.kind()), &mut entry);
        encode_one(value_field, value, &mut entry);
        encode_key(field.number(), WireType::LengthDelimited, out);
        encode_bytes(&entry, out);
    }
}

fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + encoded_len_varint(bytes.len() as u64));
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

pub(super) fn wire_type(kind: Kind) -> WireType {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => WireType::SixtyFourBit,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => WireType::ThirtyTwoBit,
        Kind::String | Kind::Bytes | Kind::Message(_) => WireType::LengthDelimited,
        Kind::Int64
        | Kind::Uint64
        | Kind::Int32
        | Kind::Bool
        | Kind::Uint32
        | Kind::Sint32
        | Kind::Sint64
        | Kind::Enum(_) => WireType::Varint,
    }
}

fn encode_value(kind: Kind, value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Bool(value) => encode_varint(u64::from(*value), out),
        Value::I32(value) => encode_i64(kind, i64::from(*value), out),
        Value::Enum(value) => encode_varint(i64::from(*value).cast_unsigned(), out),
        Value::I64(value) => encode_i64(kind, *value, out),
        Value::U32(value) if kind == Kind::Fixed32 => out.extend_from_slice(&value.to_le_bytes()),
        Value::U32(value) => encode_varint(u64::from(*value), out),
        Value::U64(value) if kind == Kind::Fixed64 => out.extend_from_slice(&value.to_le_bytes()),
        Value::U64(value) => encode_varint(*value, out),
        Value::F32(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::F64(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::String(value) => encode_bytes(value.as_bytes(), out),
        Value::Bytes(value) => encode_bytes(value, out),
        Value::Message(value) => encode_bytes(&value.encode(), out),
    }
}

fn encode_i64(kind: Kind, value: i64, out: &mut Vec<u8>) {
    match kind {
        Kind::Sint32 | Kind::Sint64 => encode_varint(((value << 1) ^ (value >> 63)).cast_unsigned(), out),
        // The low half of a sign-extended value is the 32-bit value.
        Kind::Sfixed32 => out.extend(value.to_le_bytes().into_iter().take(4)),
        Kind::Sfixed64 => out.extend_from_slice(&value.to_le_bytes()),
        _ => encode_varint(value.cast_unsigned(), out),
    }
}
