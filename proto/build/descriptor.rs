//! The parts of `descriptor.proto` we read. Options stay raw bytes: `prost_types` would drop the extensions in them, and
//! those (validation rules, sensitive fields) are what we are after.

use std::collections::BTreeMap;

use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::Result;

#[derive(Clone, PartialEq, Message)]
struct FileSet {
    #[prost(message, repeated, tag = "1")]
    file: Vec<File>,
}

#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(string, tag = "2")]
    package: String,
    #[prost(message, repeated, tag = "4")]
    message_type: Vec<RawMessage>,
    #[prost(message, repeated, tag = "5")]
    enum_type: Vec<RawEnum>,
    #[prost(string, tag = "12")]
    syntax: String,
}

#[derive(Clone, PartialEq, Message)]
struct RawMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    field: Vec<RawField>,
    #[prost(message, repeated, tag = "3")]
    nested_type: Vec<RawMessage>,
    #[prost(message, repeated, tag = "4")]
    enum_type: Vec<RawEnum>,
    #[prost(bytes = "vec", tag = "7")]
    options: Vec<u8>,
    #[prost(message, repeated, tag = "8")]
    oneof_decl: Vec<RawOneof>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RawField {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint32, tag = "3")]
    pub(crate) number: u32,
    /// 3 is `repeated`.
    #[prost(int32, tag = "4")]
    pub(crate) label: i32,
    /// `FieldDescriptorProto.Type`.
    #[prost(uint32, tag = "5")]
    pub(crate) kind: u32,
    #[prost(string, tag = "6")]
    pub(crate) type_name: String,
    #[prost(bytes = "vec", tag = "8")]
    pub(crate) options: Vec<u8>,
    #[prost(int32, optional, tag = "9")]
    pub(crate) oneof_index: Option<i32>,
    #[prost(string, tag = "10")]
    pub(crate) json_name: String,
    #[prost(bool, tag = "17")]
    pub(crate) proto3_optional: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RawOneof {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) options: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RawEnum {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    value: Vec<RawEnumValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RawEnumValue {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(int32, tag = "2")]
    pub(crate) number: i32,
}

/// One message of the whole set, by its full name.
pub(crate) struct MessageInfo {
    pub(crate) fields: Vec<RawField>,
    pub(crate) oneofs: Vec<RawOneof>,
    pub(crate) options: Vec<u8>,
    pub(crate) proto3: bool,
    pub(crate) top_level: bool,
}

/// Every message and enum of the descriptor set.
#[derive(Default)]
pub(crate) struct Universe {
    pub(crate) messages: BTreeMap<String, MessageInfo>,
    pub(crate) enums: BTreeMap<String, Vec<RawEnumValue>>,
}

impl Universe {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut universe = Self::default();
        universe.add(bytes).map_err(|e| format!("types.bin: {e}"))?;
        Ok(universe)
    }

    /// Adds the messages and enums of another descriptor set.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Result<()> {
        let set = FileSet::decode(bytes).map_err(|e| e.to_string())?;
        for file in set.file {
            let proto3 = file.syntax == "proto3";
            for message in file.message_type {
                self.add_message(&file.package, message, proto3, true);
            }
            for item in file.enum_type {
                self.enums.insert(format!("{}.{}", file.package, item.name), item.value);
            }
        }
        Ok(())
    }

    fn add_message(&mut self, scope: &str, message: RawMessage, proto3: bool, top_level: bool) {
        let name = format!("{scope}.{}", message.name);
        for nested in message.nested_type {
            self.add_message(&name, nested, proto3, false);
        }
        for item in message.enum_type {
            self.enums.insert(format!("{name}.{}", item.name), item.value);
        }
        let info = MessageInfo {
            fields: message.field,
            oneofs: message.oneof_decl,
            options: message.options,
            proto3,
            top_level,
        };
        self.messages.insert(name, info);
    }
}

/// The value of a varint option, if it is set.
pub(crate) fn varint_option(options: &[u8], number: u32) -> Result<Option<u64>> {
    let mut found = None;
    each_option(options, |tag, wire, buf| {
        if tag == number && wire == WireType::Varint {
            found = Some(decode_varint(buf).map_err(|e| e.to_string())?);
            return Ok(true);
        }
        Ok(false)
    })?;
    Ok(found)
}

/// The bytes of a length-delimited option (several occurrences merge by being joined), empty if it is not set.
pub(crate) fn bytes_option(options: &[u8], number: u32) -> Result<Vec<u8>> {
    let mut found = Vec::new();
    each_option(options, |tag, wire, buf| {
        if tag == number && wire == WireType::LengthDelimited {
            let len = decode_varint(buf).map_err(|e| e.to_string())?;
            let len = usize::try_from(len).ok().filter(|len| *len <= buf.len()).ok_or("option is cut short")?;
            found.extend_from_slice(&buf[..len]);
            buf.advance(len);
            return Ok(true);
        }
        Ok(false)
    })?;
    Ok(found)
}

fn each_option(mut options: &[u8], mut visit: impl FnMut(u32, WireType, &mut &[u8]) -> Result<bool>) -> Result<()> {
    while options.has_remaining() {
        let (tag, wire) = decode_key(&mut options).map_err(|e| e.to_string())?;
        if !visit(tag, wire, &mut options)? {
            skip_field(wire, tag, &mut options, DecodeContext::default()).map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}
