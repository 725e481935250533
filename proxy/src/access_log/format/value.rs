//! The value of an operator, and how it is written into text and JSON.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::SystemTime;

use super::json::{write_string, write_value};
use super::time::TimeFormat;
use crate::stream_info::{PeerAddr, ResponseFlags};

/// What an operator stands for, borrowed from the context wherever it can be.
pub(super) enum Value<'a> {
    /// There is none: `-`, or `null`.
    Missing,
    Bytes(&'a [u8]),
    Owned(String),
    Uint(u64),
    Int(i64),
    Address(&'a PeerAddr),
    Ip(IpAddr),
    /// A network address and the length of its prefix.
    Network(IpAddr, u8),
    /// Joined by commas.
    List(&'a [String]),
    /// Short names, or long ones; `-` for none even in JSON.
    Flags(ResponseFlags, bool),
    Time(SystemTime, &'a TimeFormat),
    Json(&'a serde_json::Value),
    /// A string of JSON that shows its quotes in text.
    QuotedJson(&'a serde_json::Value),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Value::Bytes(text.as_bytes())
    }
}

impl<'a> Value<'a> {
    /// A text that counts as missing when it is empty.
    pub(super) fn non_empty(text: &'a str) -> Self {
        if text.is_empty() { Value::Missing } else { text.into() }
    }

    pub(super) fn optional<T: Into<Value<'a>>>(value: Option<T>) -> Self {
        value.map_or(Value::Missing, Into::into)
    }

    /// Appends the text, cut to `limit` bytes; `false`: there is no value, and nothing was appended.
    pub(super) fn write_text(&self, limit: Option<usize>, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        match self {
            Value::Missing | Value::Json(serde_json::Value::Null) => return false,
            Value::Bytes(bytes) => out.extend_from_slice(bytes),
            Value::Owned(text) => out.extend_from_slice(text.as_bytes()),
            Value::Uint(n) => out.extend_from_slice(itoa::Buffer::new().format(*n).as_bytes()),
            Value::Int(n) => out.extend_from_slice(itoa::Buffer::new().format(*n).as_bytes()),
            Value::Json(serde_json::Value::String(text)) => out.extend_from_slice(text.as_bytes()),
            Value::Json(value) | Value::QuotedJson(value) => {
                write_value(value, out);
                if value.is_object() || value.is_array() {
                    // Half a structure is of no use to anyone.
                    return true;
                }
            }
            Value::List(names) => join(names, out),
            Value::Flags(flags, long) => write_flags(*flags, *long, out),
            Value::Time(time, format) => {
                let mut text = String::with_capacity(32);
                format.write(*time, &mut text);
                out.extend_from_slice(text.as_bytes());
            }
            // Writing to a vector cannot fail.
            Value::Address(address) => drop(write!(out, "{address}")),
            Value::Ip(ip) => drop(write!(out, "{ip}")),
            Value::Network(ip, prefix) => drop(write!(out, "{ip}/{prefix}")),
        }
        if let Some(limit) = limit {
            out.truncate(start.saturating_add(limit).min(out.len()));
        }
        true
    }

    /// Appends the value as JSON, numbers as numbers; `false`: there is no value, and nothing was appended.
    pub(super) fn write_json(&self, limit: Option<usize>, out: &mut Vec<u8>) -> bool {
        match self {
            Value::Missing | Value::Json(serde_json::Value::Null) => false,
            Value::Uint(_) | Value::Int(_) => self.write_text(None, out),
            Value::Json(serde_json::Value::String(_)) => self.write_json_string(limit, out),
            Value::Json(value) | Value::QuotedJson(value) => {
                write_value(value, out);
                true
            }
            _ => self.write_json_string(limit, out),
        }
    }

    fn write_json_string(&self, limit: Option<usize>, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        if !self.write_text(limit, out) {
            return false;
        }
        write_string(start, out);
        true
    }

    /// Whether there is something to show, for `COALESCE`.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Value::Missing | Value::Json(serde_json::Value::Null) => true,
            Value::Bytes(bytes) => bytes.is_empty(),
            Value::Owned(text) => text.is_empty(),
            Value::List(names) => names.is_empty(),
            _ => false,
        }
    }
}

fn join(names: &[String], out: &mut Vec<u8>) {
    for (i, name) in names.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name.as_bytes());
    }
}

fn write_flags(flags: ResponseFlags, long: bool, out: &mut Vec<u8>) {
    if flags.is_empty() {
        out.push(b'-');
        return;
    }
    for (i, (short_name, long_name)) in flags.names().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(if long { long_name } else { short_name }.as_bytes());
    }
}

/// Appends what can be displayed to a string.
pub(super) fn display(value: impl std::fmt::Display) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(text, "{value}");
    text
}
