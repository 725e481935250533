//! The wire format to a message. Input is not trusted: lengths are checked before anything is taken, nesting is bounded, and
//! memory grows only with the bytes that are there.

use std::collections::BTreeMap;

use prost::encoding::{WireType, decode_key, decode_varint};

use super::encode::wire_type;
use super::{Content, Key, MAX_DEPTH, Message, Unknown, Value};
use crate::schema::{Field, Kind, MessageType};

/// Bytes that are not a message of the type they are said to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot be decoded as {ty}: {reason}")]
pub struct DecodeError {
    ty: &'static str,
    reason: String,
}

type Result<T> = std::result::Result<T, String>;

impl Message {
    /// Reads a message of this type.
    ///
    /// # Errors
    /// Bytes that are no message, or one nested more deeply than [`MAX_DEPTH`].
    pub fn decode(ty: MessageType, bytes: &[u8]) -> std::result::Result<Self, DecodeError> {
        let mut message = Self::new(ty);
        match message.merge(bytes, MAX_DEPTH) {
            Ok(()) => Ok(message),
            Err(reason) => Err(DecodeError { ty: ty.name(), reason }),
        }
    }

    /// Adds what `bytes` hold, as protobuf merges: messages merge, lists grow, the last scalar counts.
    fn merge(&mut self, mut bytes: &[u8], depth: usize) -> Result<()> {
        if depth == 0 {
            return Err("too deeply nested".to_owned());
        }
        while !bytes.is_empty() {
            let start = bytes;
            let (number, wire) = decode_key(&mut bytes).map_err(|e| e.to_string())?;
            let field = self.ty.field(number).filter(|field| accepts(*field, wire));
            match field {
                Some(field) => self.merge_field(field, wire, &mut bytes, depth)?,
                None => {
                    skip(wire, number, &mut bytes, depth)?;
                    let taken = start.len() - bytes.len();
                    self.unknown.push(Unknown { number, bytes: start.get(..taken).unwrap_or_default().to_vec() });
                }
            }
        }
        Ok(())
    }

    fn merge_field(&mut self, field: Field, wire: WireType, bytes: &mut &[u8], depth: usize) -> Result<()> {
        if let Some((key, value)) = field.map() {
            return self.merge_entry(field, key, value, take(bytes)?, depth);
        }
        let kind = field.kind();
        if field.is_repeated() {
            let Content::List(list) = self.entry(field, || Content::List(Vec::new())) else { return Ok(()) };
            if wire == WireType::LengthDelimited && wire_type(kind) != WireType::LengthDelimited {
                let mut packed = take(bytes)?;
                while !packed.is_empty() {
                    list.push(value(kind, &mut packed, depth)?);
                }
            } else {
                list.push(value(kind, bytes, depth)?);
            }
        } else if let Kind::Message(ty) = kind {
            let inner = take(bytes)?;
            let empty = || Content::One(Value::Message(Box::new(Message::new(ty))));
            if let Content::One(Value::Message(message)) = self.entry(field, empty) {
                message.merge(inner, depth - 1)?;
            }
        } else {
            let value = value(kind, bytes, depth)?;
            self.set(field, Content::One(value));
        }
        Ok(())
    }

    fn merge_entry(&mut self, field: Field, key: Field, value: Field, bytes: &[u8], depth: usize) -> Result<()> {
        let Kind::Message(entry_type) = field.kind() else { return Ok(()) };
        let mut entry = Message::new(entry_type);
        entry.merge(bytes, depth - 1)?;
        let mut take = |part: Field| match entry.fields.iter().position(|(field, _)| *field == part) {
            Some(at) => match entry.fields.remove(at).1 {
                Content::One(value) => value,
                Content::List(_) | Content::Map(_) => Value::default_of(part.kind()),
            },
            None => Value::default_of(part.kind()),
        };
        let (key, value) = (take(key), take(value));
        if let (Content::Map(entries), Some(key)) = (self.entry(field, || Content::Map(BTreeMap::new())), Key::of(key))
        {
            entries.insert(key, value);
        }
        Ok(())
    }
}

/// A packed list is length-delimited whatever its kind; anything else has the wire type of its kind.
fn accepts(field: Field, wire: WireType) -> bool {
    wire == wire_type(field.kind()) || (field.is_repeated() && wire == WireType::LengthDelimited)
}

fn take<'b>(bytes: &mut &'b [u8]) -> Result<&'b [u8]> {
    let length = decode_varint(bytes).map_err(|e| e.to_string())?;
    let length = usize::try_from(length).map_err(|_| "length is too large")?;
    let (taken, rest) = bytes.split_at_checked(length).ok_or("length runs past the end")?;
    *bytes = rest;
    Ok(taken)
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>().ok_or("a value is cut short")?;
    *bytes = rest;
    Ok(*taken)
}

fn skip(wire: WireType, number: u32, bytes: &mut &[u8], depth: usize) -> Result<()> {
    match wire {
        WireType::Varint => decode_varint(bytes).map(drop).map_err(|e| e.to_string()),
        WireType::SixtyFourBit => array::<8>(bytes).map(drop),
        WireType::ThirtyTwoBit => array::<4>(bytes).map(drop),
        WireType::LengthDelimited => take(bytes).map(drop),
        WireType::StartGroup => loop {
            if depth == 0 {
                return Err("too deeply nested".to_owned());
            }
            let (inner, wire) = decode_key(bytes).map_err(|e| e.to_string())?;
            match wire {
                WireType::EndGroup if inner == number => return Ok(()),
                WireType::EndGroup => return Err("a group ends that was not begun".to_owned()),
                _ => skip(wire, inner, bytes, depth - 1)?,
            }
        },
        WireType::EndGroup => Err("a group ends that was not begun".to_owned()),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "protobuf truncates a varint to the width of its field")]
fn value(kind: Kind, bytes: &mut &[u8], depth: usize) -> Result<Value> {
    let mut varint = || decode_varint(bytes).map_err(|e| e.to_string());
    Ok(match kind {
        Kind::Int64 => Value::I64(varint()?.cast_signed()),
        Kind::Uint64 => Value::U64(varint()?),
        Kind::Int32 => Value::I32((varint()? as u32).cast_signed()),
        Kind::Uint32 => Value::U32(varint()? as u32),
        Kind::Enum(_) => Value::Enum((varint()? as u32).cast_signed()),
        Kind::Bool => Value::Bool(varint()? != 0),
        Kind::Sint32 => Value::I32(zigzag(u64::from(varint()? as u32)) as i32),
        Kind::Sint64 => Value::I64(zigzag(varint()?)),
        Kind::Double => Value::F64(f64::from_le_bytes(array(bytes)?)),
        Kind::Float => Value::F32(f32::from_le_bytes(array(bytes)?)),
        Kind::Fixed64 => Value::U64(u64::from_le_bytes(array(bytes)?)),
        Kind::Fixed32 => Value::U32(u32::from_le_bytes(array(bytes)?)),
        Kind::Sfixed32 => Value::I32(i32::from_le_bytes(array(bytes)?)),
        Kind::Sfixed64 => Value::I64(i64::from_le_bytes(array(bytes)?)),
        Kind::Bytes => Value::Bytes(take(bytes)?.to_vec()),
        Kind::String => {
            let text = std::str::from_utf8(take(bytes)?).map_err(|_| "a string is not UTF-8")?;
            Value::String(text.to_owned())
        }
        Kind::Message(ty) => {
            let mut message = Message::new(ty);
            message.merge(take(bytes)?, depth - 1)?;
            Value::Message(Box::new(message))
        }
    })
}

fn zigzag(raw: u64) -> i64 {
    (raw >> 1).cast_signed() ^ -(raw & 1).cast_signed()
}
