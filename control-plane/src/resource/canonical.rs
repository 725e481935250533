//! One encoding for equal messages.
//!
//! The generated types keep maps in hash order, which differs from one encoding to the next. Here the entries of each map are sorted,
//! also inside an `Any`. Nothing else of an encoding varies, so it is done in place. Must not know: any particular message.

use std::ops::Range;

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use weft_proto::schema::{Kind, MessageType, WellKnown, type_url_name};

/// Sorts the maps of an encoded message. What cannot be read stays as it is: it came from an encoder, so only a type that the
/// schema does not have can be the reason.
pub(super) fn canonical(full_name: &str, mut encoded: Vec<u8>) -> Vec<u8> {
    if let Some(ty) = MessageType::find(full_name) {
        sort_maps(ty, &mut encoded);
    }
    encoded
}

/// A length-delimited field: its number, where it begins, and where its content is.
struct Delimited {
    number: u32,
    start: usize,
    content: Range<usize>,
}

fn sort_maps(ty: MessageType, message: &mut [u8]) {
    let fields = delimited(message);
    if ty.well_known() == Some(WellKnown::Any) {
        return sort_any(&fields, message);
    }
    // Entries of one map stand side by side.
    let mut entries: Vec<Range<usize>> = Vec::new();
    let mut map = None;
    for field in fields {
        let declared = ty.field(field.number);
        if map.is_some_and(|number| number != field.number) {
            sort(&mut entries, message);
            map = None;
        }
        let Some(declared) = declared else { continue };
        let content = &mut message[field.content.clone()];
        if let Some((_, value)) = declared.map() {
            if let Kind::Message(value) = value.kind() {
                sort_entry(value, content);
            }
            entries.push(field.start..field.content.end);
            map = Some(field.number);
        } else if let Kind::Message(inner) = declared.kind() {
            sort_maps(inner, content);
        }
    }
    sort(&mut entries, message);
}

/// The value of a map's entry is its field 2.
fn sort_entry(value: MessageType, entry: &mut [u8]) {
    for field in delimited(entry).into_iter().filter(|field| field.number == 2) {
        sort_maps(value, &mut entry[field.content]);
    }
}

fn sort_any(fields: &[Delimited], any: &mut [u8]) {
    let of = |number| fields.iter().find(|field| field.number == number).map(|field| field.content.clone());
    let (Some(url), Some(value)) = (of(1), of(2)) else { return };
    let ty = std::str::from_utf8(&any[url]).ok().and_then(|url| MessageType::find(type_url_name(url)));
    if let Some(ty) = ty {
        sort_maps(ty, &mut any[value]);
    }
}

/// Sorts neighbouring ranges of bytes by what is in them.
fn sort(entries: &mut Vec<Range<usize>>, message: &mut [u8]) {
    if let ([first, .., last], true) = (entries.as_slice(), entries.len() > 1) {
        let whole = first.start..last.end;
        let mut parts: Vec<Vec<u8>> = entries.iter().map(|entry| message[entry.clone()].to_vec()).collect();
        parts.sort_unstable();
        let sorted = parts.concat();
        // Were there something between them, they would not be neighbours, and stay as they are.
        if sorted.len() == whole.len() {
            message[whole].copy_from_slice(&sorted);
        }
    }
    entries.clear();
}

/// The length-delimited fields of a message, up to where it cannot be read.
fn delimited(message: &[u8]) -> Vec<Delimited> {
    let mut fields = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        let start = message.len() - rest.len();
        let Ok((number, wire)) = decode_key(&mut rest) else { break };
        if wire != WireType::LengthDelimited {
            if skip_field(wire, number, &mut rest, DecodeContext::default()).is_err() {
                break;
            }
            continue;
        }
        let Some(length) = decode_varint(&mut rest).ok().and_then(|length| usize::try_from(length).ok()) else { break };
        let at = message.len() - rest.len();
        let Some(after) = rest.get(length..) else { break };
        fields.push(Delimited { number, start, content: at..at + length });
        rest = after;
    }
    fields
}
