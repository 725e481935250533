//! Writes the table as fixed-size little-endian records that refer to each other by index and to one string section by
//! offset. `src/schema/table.rs` is the reader: the two files change together.

use std::collections::HashMap;

use crate::table::{Enum, Field, Message, Support, Table};

/// Records per section, in the order of the header: messages, fields, oneofs, enums, enum values, other names.
#[derive(Default)]
struct Writer {
    sections: [Vec<u32>; 6],
    strings: Vec<u8>,
    interned: HashMap<Vec<u8>, u32>,
}

pub(crate) fn write(table: &Table) -> Vec<u8> {
    let mut writer = Writer::default();
    for message in &table.messages {
        writer.message(message);
    }
    for item in &table.enums {
        writer.enumeration(item);
    }
    for name in &table.other_messages {
        let name = writer.bytes(name.as_bytes());
        writer.sections[5].extend(name);
    }
    writer.finish()
}

impl Writer {
    /// Offset and length of `bytes` in the string section; equal values are stored once.
    fn bytes(&mut self, bytes: &[u8]) -> [u32; 2] {
        let next = len(&self.strings);
        let offset = *self.interned.entry(bytes.to_vec()).or_insert(next);
        if offset == next {
            self.strings.extend_from_slice(bytes);
        }
        [offset, u32::try_from(bytes.len()).unwrap_or(0)]
    }

    /// 7 words: name, first field, fields, first oneof, oneofs, flags.
    fn message(&mut self, message: &Message) {
        let [offset, length] = self.bytes(message.name.as_bytes());
        let first_field = len(&self.sections[1]) / 11;
        let first_oneof = len(&self.sections[2]) / 3;
        let flags = bits(&[message.map_entry, message.validated, message.supported]);
        let counts = [len(&message.fields), len(&message.oneofs)];
        self.sections[0].extend([offset, length, first_field, counts[0], first_oneof, counts[1], flags]);
        for field in &message.fields {
            self.field(field);
        }
        for (name, required) in &message.oneofs {
            let [offset, length] = self.bytes(name.as_bytes());
            self.sections[2].extend([offset, length, u32::from(*required)]);
        }
    }

    /// 11 words: name, JSON name, number, kind and flags and oneof, type, rules, reason for ignoring it.
    fn field(&mut self, field: &Field) {
        let name = self.bytes(field.name.as_bytes());
        let json_name = self.bytes(field.json_name.as_bytes());
        let rules = self.bytes(&field.rules);
        let (support, reason) = match &field.support {
            Support::No => (0, String::new()),
            Support::Yes => (1, String::new()),
            Support::Ignored(reason) => (2, reason.clone()),
        };
        let reason = self.bytes(reason.as_bytes());
        let f = &field.flags;
        let flags =
            bits(&[f.repeated, f.map, f.packed, f.presence, f.sensitive, f.deprecated, f.disallowed]) | support << 8;
        let oneof = field.oneof.map_or(0, |index| index + 1);
        let packed = field.kind | flags << 8 | oneof << 24;
        self.sections[1].extend(name);
        self.sections[1].extend(json_name);
        self.sections[1].extend([field.number, packed, field.type_index]);
        self.sections[1].extend(rules);
        self.sections[1].extend(reason);
    }

    /// Enum, 4 words: name, first value, values. Value, 4 words: name, number, supported.
    fn enumeration(&mut self, item: &Enum) {
        let [offset, length] = self.bytes(item.name.as_bytes());
        let first = len(&self.sections[4]) / 4;
        self.sections[3].extend([offset, length, first, len(&item.values)]);
        for (name, number, supported) in &item.values {
            let [offset, length] = self.bytes(name.as_bytes());
            self.sections[4].extend([offset, length, number.cast_unsigned(), u32::from(*supported)]);
        }
    }

    /// Header: byte offset and record count of each section, then the offset of the strings.
    fn finish(self) -> Vec<u8> {
        const WORDS: [u32; 6] = [7, 11, 3, 4, 4, 2];
        let mut offset = 4 * 13;
        let mut header = Vec::new();
        for (section, words) in self.sections.iter().zip(WORDS) {
            header.extend([offset, len(section) / words]);
            offset += 4 * len(section);
        }
        header.push(offset);
        let words = header.iter().chain(self.sections.iter().flatten());
        let mut out: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        out.extend_from_slice(&self.strings);
        out
    }
}

fn len<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).unwrap_or(u32::MAX)
}

fn bits(flags: &[bool]) -> u32 {
    flags.iter().rev().fold(0, |all, flag| all << 1 | u32::from(*flag))
}
