//! Chooses what goes into the schema: everything the roots and the supported types reach, resolved and checked.

use std::collections::{BTreeMap, BTreeSet};

use crate::Result;
use crate::descriptor::{MessageInfo, RawField, Universe, bytes_option, varint_option};
use crate::supported::{Entry, Supported};

/// `udpa.annotations.sensitive` in FieldOptions.
const SENSITIVE: u32 = 76_569_463;
/// `envoy.annotations.disallowed_by_default` in FieldOptions.
const DISALLOWED: u32 = 189_503_207;
/// `validate.rules`, `validate.required` and `validate.disabled` share this number in their three options messages.
const VALIDATE: u32 = 1071;
/// `validate.ignored` in MessageOptions.
const VALIDATE_IGNORED: u32 = 1072;
/// `MessageOptions.map_entry`, `FieldOptions.packed`, `FieldOptions.deprecated`.
const MAP_ENTRY: u32 = 7;
const PACKED: u32 = 2;
const DEPRECATED: u32 = 3;

const TYPE_MESSAGE: u32 = 11;
const TYPE_ENUM: u32 = 14;

/// Sorted by name; an index into these vectors is how a field names its type.
pub(crate) struct Table {
    pub(crate) messages: Vec<Message>,
    pub(crate) enums: Vec<Enum>,
    /// Top-level messages Envoy has and the schema has not: they are named as such in errors.
    pub(crate) other_messages: Vec<String>,
}

pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
    pub(crate) oneofs: Vec<(String, bool)>,
    pub(crate) map_entry: bool,
    pub(crate) validated: bool,
    pub(crate) supported: bool,
}

pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) json_name: String,
    pub(crate) number: u32,
    pub(crate) kind: u32,
    pub(crate) type_index: u32,
    pub(crate) oneof: Option<u32>,
    pub(crate) flags: Flags,
    pub(crate) rules: Vec<u8>,
    pub(crate) support: Support,
}

#[derive(Default)]
pub(crate) struct Flags {
    pub(crate) repeated: bool,
    pub(crate) map: bool,
    pub(crate) packed: bool,
    pub(crate) presence: bool,
    pub(crate) sensitive: bool,
    pub(crate) deprecated: bool,
    pub(crate) disallowed: bool,
}

#[derive(Clone, PartialEq)]
pub(crate) enum Support {
    No,
    Yes,
    Ignored(String),
}

pub(crate) struct Enum {
    pub(crate) name: String,
    /// Name, number, supported.
    pub(crate) values: Vec<(String, i32, bool)>,
}

pub(crate) fn build(universe: &Universe, roots: &[String], supported: &Supported) -> Result<Table> {
    check_names(universe, roots, supported)?;
    let (messages, enums) = reach(universe, roots, supported)?;
    let message_index = index(&messages);
    let enum_index = index(&enums);
    let other_messages = universe
        .messages
        .iter()
        .filter(|(name, info)| info.top_level && !messages.contains(*name) && !name.starts_with("google.api."))
        .map(|(name, _)| name.clone())
        .collect();
    let messages = messages
        .iter()
        .map(|name| message(universe, name, supported, &message_index, &enum_index))
        .collect::<Result<Vec<_>>>()?;
    let enums =
        enums.iter().map(|name| enumeration(universe, name, supported.get(name))).collect::<Result<Vec<_>>>()?;
    Ok(Table { messages, enums, other_messages })
}

fn index(names: &BTreeSet<String>) -> BTreeMap<String, u32> {
    names.iter().cloned().zip(0..).collect()
}

fn check_names(universe: &Universe, roots: &[String], supported: &Supported) -> Result<()> {
    let mut problems = Vec::new();
    for name in roots.iter().filter(|name| !universe.messages.contains_key(*name)) {
        problems.push(format!("src/roots.txt: Envoy has no message {name}"));
    }
    for (name, entry) in supported {
        let known: Vec<&str> = if let Some(info) = universe.messages.get(name) {
            info.fields.iter().map(|field| field.name.as_str()).collect()
        } else if let Some(values) = universe.enums.get(name) {
            values.iter().map(|value| value.name.as_str()).collect()
        } else {
            problems.push(format!("src/supported.txt:{}: Envoy has no type {name}", entry.line));
            continue;
        };
        for member in entry.names.iter().chain(entry.ignored.keys()) {
            if !known.contains(&member.as_str()) {
                problems.push(format!("src/supported.txt:{}: {name} has no `{member}`", entry.line));
            }
        }
    }
    fail_on(problems)
}

fn fail_on(problems: Vec<String>) -> Result<()> {
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

/// Everything the roots and the supported messages reach through their fields.
fn reach(universe: &Universe, roots: &[String], supported: &Supported) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let mut messages = BTreeSet::new();
    let mut enums = BTreeSet::new();
    let mut queue: Vec<String> = roots.to_vec();
    queue.extend(supported.keys().filter(|name| universe.messages.contains_key(*name)).cloned());
    while let Some(name) = queue.pop() {
        let info = universe.messages.get(&name).ok_or_else(|| format!("no descriptor for {name}"))?;
        if !messages.insert(name) {
            continue;
        }
        for field in &info.fields {
            let target = field.type_name.trim_start_matches('.').to_owned();
            match field.kind {
                TYPE_MESSAGE => queue.push(target),
                TYPE_ENUM => drop(enums.insert(target)),
                _ => {}
            }
        }
    }
    Ok((messages, enums))
}

fn message(
    universe: &Universe,
    name: &str,
    supported: &Supported,
    messages: &BTreeMap<String, u32>,
    enums: &BTreeMap<String, u32>,
) -> Result<Message> {
    let info = &universe.messages[name];
    let entry = supported.get(name);
    let mut fields = info
        .fields
        .iter()
        .map(|raw| field(universe, name, info, raw, entry, messages, enums))
        .collect::<Result<Vec<_>>>()?;
    fields.sort_by_key(|field| field.number);
    check_closed(name, info, &fields, supported, universe)?;
    let oneofs = info
        .oneofs
        .iter()
        .map(|oneof| Ok((oneof.name.clone(), varint_option(&oneof.options, VALIDATE)? == Some(1))))
        .collect::<Result<Vec<_>>>()?;
    let disabled = varint_option(&info.options, VALIDATE)? == Some(1);
    let ignored = varint_option(&info.options, VALIDATE_IGNORED)? == Some(1);
    Ok(Message {
        name: name.to_owned(),
        fields,
        oneofs,
        map_entry: varint_option(&info.options, MAP_ENTRY)? == Some(1),
        validated: !disabled && !ignored,
        supported: entry.is_some() || name.starts_with("google.protobuf."),
    })
}

fn field(
    universe: &Universe,
    message: &str,
    info: &MessageInfo,
    raw: &RawField,
    entry: Option<&Entry>,
    messages: &BTreeMap<String, u32>,
    enums: &BTreeMap<String, u32>,
) -> Result<Field> {
    let target = raw.type_name.trim_start_matches('.');
    let type_index = match raw.kind {
        TYPE_MESSAGE => messages[target],
        TYPE_ENUM => enums[target],
        10 => return Err(format!("{message}.{}: groups are not supported", raw.name)),
        _ => u32::MAX,
    };
    let repeated = raw.label == 3;
    let map_entry = match universe.messages.get(target).filter(|_| raw.kind == TYPE_MESSAGE) {
        Some(target) => varint_option(&target.options, MAP_ENTRY)? == Some(1),
        None => false,
    };
    let packed = match varint_option(&raw.options, PACKED)? {
        Some(value) => value == 1,
        None => info.proto3,
    };
    let scalar = !matches!(raw.kind, 9 | 11 | 12);
    let flags = Flags {
        repeated,
        map: repeated && map_entry,
        packed: repeated && packed && scalar,
        presence: !repeated
            && (raw.kind == TYPE_MESSAGE || raw.oneof_index.is_some() || raw.proto3_optional || !info.proto3),
        sensitive: varint_option(&raw.options, SENSITIVE)? == Some(1),
        deprecated: varint_option(&raw.options, DEPRECATED)? == Some(1),
        disallowed: varint_option(&raw.options, DISALLOWED)? == Some(1),
    };
    Ok(Field {
        name: raw.name.clone(),
        json_name: raw.json_name.clone(),
        number: raw.number,
        kind: raw.kind,
        type_index,
        oneof: raw.oneof_index.filter(|_| !raw.proto3_optional).and_then(|index| u32::try_from(index).ok()),
        flags,
        rules: bytes_option(&raw.options, VALIDATE)?,
        support: support(message, &raw.name, entry),
    })
}

fn support(message: &str, field: &str, entry: Option<&Entry>) -> Support {
    let Some(entry) = entry else {
        // The well-known types are plain values: whoever lists the field that holds one supports it.
        return if message.starts_with("google.protobuf.") { Support::Yes } else { Support::No };
    };
    if let Some(reason) = entry.ignored.get(field) {
        Support::Ignored(reason.clone())
    } else if entry.all || entry.names.iter().any(|name| name == field) {
        Support::Yes
    } else {
        Support::No
    }
}

/// A supported field of a type that the table does not list would make the table lie.
fn check_closed(
    message: &str,
    info: &MessageInfo,
    fields: &[Field],
    supported: &Supported,
    universe: &Universe,
) -> Result<()> {
    let mut problems = Vec::new();
    for field in fields.iter().filter(|field| field.support == Support::Yes && field.kind == TYPE_MESSAGE) {
        let Some(raw) = info.fields.iter().find(|raw| raw.number == field.number) else { continue };
        let mut target = raw.type_name.trim_start_matches('.');
        if field.flags.map {
            let value = universe.messages[target].fields.iter().find(|field| field.number == 2);
            match value.filter(|value| value.kind == TYPE_MESSAGE) {
                Some(value) => target = value.type_name.trim_start_matches('.'),
                None => continue,
            }
        }
        if !supported.contains_key(target) && !target.starts_with("google.protobuf.") {
            problems.push(format!(
                "src/supported.txt: {message} lists `{}`, but its type {target} is not in the table",
                field.name
            ));
        }
    }
    fail_on(problems)
}

fn enumeration(universe: &Universe, name: &str, entry: Option<&Entry>) -> Result<Enum> {
    let raw = universe.enums.get(name).ok_or_else(|| format!("no descriptor for {name}"))?;
    let supported = |value: &str| entry.is_none_or(|e| e.all || e.names.iter().any(|name| name == value));
    let values = raw.iter().map(|value| (value.name.clone(), value.number, supported(&value.name))).collect();
    Ok(Enum { name: name.to_owned(), values })
}
