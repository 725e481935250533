//! JSON: formats with operators in their leaves, and the writing of JSON text.

use serde_json::Value as Json;

use super::{LogContext, Piece, pieces, render_text};

/// A compiled JSON format. What does not depend on a request is text already.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// Anything without an operator, as JSON text.
    Fixed(Vec<u8>),
    /// One operator alone: its value keeps its type.
    Typed(Piece),
    /// Text with operators in it.
    Text(Vec<Piece>),
    /// Keys, quoted and with their colon, in order.
    Object(Vec<(Vec<u8>, Node)>),
    Array(Vec<Node>),
}

impl Node {
    pub(super) fn new(format: &Json) -> Result<Node, String> {
        Ok(match format {
            Json::String(text) => Node::from_text(pieces(text)?),
            Json::Object(fields) => {
                let mut sorted: Vec<_> = fields.iter().collect();
                sorted.sort_by_key(|(key, _)| key.as_str());
                let field = |(key, value): (&String, &Json)| {
                    let mut quoted = key.clone().into_bytes();
                    write_string(0, &mut quoted);
                    quoted.push(b':');
                    Node::new(value).map(|node| (quoted, node))
                };
                Node::Object(sorted.into_iter().map(field).collect::<Result<_, _>>()?)
            }
            Json::Array(items) => Node::Array(items.iter().map(Node::new).collect::<Result<_, _>>()?),
            fixed => {
                let mut text = Vec::new();
                write_fixed(fixed, &mut text);
                Node::Fixed(text)
            }
        })
    }

    fn from_text(mut pieces: Vec<Piece>) -> Node {
        match pieces.as_mut_slice() {
            [] => Node::Fixed(b"\"\"".to_vec()),
            [Piece::Literal(text)] => {
                let mut text = text.clone();
                write_string(0, &mut text);
                Node::Fixed(text)
            }
            [Piece::Operator { .. }] => pieces.pop().map_or(Node::Text(Vec::new()), Node::Typed),
            _ => Node::Text(pieces),
        }
    }

    /// Every operator below this node.
    pub(super) fn pieces(&self) -> Vec<&Piece> {
        match self {
            Node::Fixed(_) => Vec::new(),
            Node::Typed(piece) => vec![piece],
            Node::Text(pieces) => pieces.iter().collect(),
            Node::Object(fields) => fields.iter().flat_map(|(_, node)| node.pieces()).collect(),
            Node::Array(items) => items.iter().flat_map(Node::pieces).collect(),
        }
    }

    /// Appends the JSON text; `false` if `omit_empty` left nothing of it.
    pub(super) fn render(&self, omit_empty: bool, ctx: &LogContext<'_>, out: &mut Vec<u8>) -> bool {
        match self {
            Node::Fixed(text) if omit_empty && text == b"null" => return false,
            Node::Fixed(text) => out.extend_from_slice(text),
            Node::Typed(Piece::Operator { command, limit }) => {
                if !command.evaluate(ctx).write_json(*limit, out) {
                    if omit_empty {
                        return false;
                    }
                    out.extend_from_slice(b"null");
                }
            }
            Node::Typed(Piece::Literal(text)) => out.extend_from_slice(text),
            Node::Text(pieces) => {
                let start = out.len();
                render_text(pieces, omit_empty, ctx, out);
                write_string(start, out);
            }
            Node::Object(fields) => return render_object(fields, omit_empty, ctx, out),
            Node::Array(items) => {
                out.push(b'[');
                let first = out.len();
                for item in items {
                    separated(first, out, |out| item.render(omit_empty, ctx, out));
                }
                out.push(b']');
            }
        }
        true
    }
}

/// An object that would be empty goes, too.
fn render_object(fields: &[(Vec<u8>, Node)], omit_empty: bool, ctx: &LogContext<'_>, out: &mut Vec<u8>) -> bool {
    out.push(b'{');
    let first = out.len();
    for (key, node) in fields {
        separated(first, out, |out| {
            out.extend_from_slice(key);
            node.render(omit_empty, ctx, out)
        });
    }
    if omit_empty && out.len() == first {
        out.pop();
        return false;
    }
    out.push(b'}');
    true
}

/// Writes one of several things with a comma before it, or takes it all back if `write` says there is nothing.
fn separated(first: usize, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> bool) {
    let start = out.len();
    if start > first {
        out.push(b',');
    }
    if !write(out) {
        out.truncate(start);
    }
}

/// Makes a JSON string of what stands in `out` from `start` on, in place where nothing needs escaping.
pub(super) fn write_string(start: usize, out: &mut Vec<u8>) {
    out.insert(start, b'"');
    let text = &out[start + 1..];
    let plain = |b: &u8| *b >= b' ' && *b != b'"' && *b != b'\\';
    let valid = std::str::from_utf8(text).is_ok();
    if !valid || !text.iter().all(plain) {
        let raw = out.split_off(start + 1);
        if valid { raw.iter().for_each(|b| escape(*b, out)) } else { raw.iter().for_each(|b| escape_invalid(*b, out)) }
    }
    out.push(b'"');
}

fn escape(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0x08 => out.extend_from_slice(b"\\b"),
        0x0c => out.extend_from_slice(b"\\f"),
        0..0x20 => hex(byte, out),
        _ => out.push(byte),
    }
}

/// As Envoy writes what is not UTF-8: each byte that is not plain text as if it were a code point.
fn escape_invalid(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => escape(byte, out),
        b'"' | b'\\' | 0..0x20 | 0x7f.. => hex(byte, out),
        _ => out.push(byte),
    }
}

fn hex(byte: u8, out: &mut Vec<u8>) {
    let digit = |n: u8| char::from_digit(u32::from(n), 16).map_or(b'0', |c| c as u8);
    out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
}

/// Writes a JSON value as protobuf's `Value` comes out: whole numbers without a fraction.
pub(super) fn write_value(value: &Json, out: &mut Vec<u8>) {
    match value {
        Json::Null => out.extend_from_slice(b"null"),
        Json::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Json::Number(n) => out.extend_from_slice(number(n).as_bytes()),
        Json::String(text) => {
            let start = out.len();
            out.extend_from_slice(text.as_bytes());
            write_string(start, out);
        }
        Json::Array(items) => {
            out.push(b'[');
            let first = out.len();
            for item in items {
                separated(first, out, |out| {
                    write_value(item, out);
                    true
                });
            }
            out.push(b']');
        }
        Json::Object(fields) => {
            out.push(b'{');
            let first = out.len();
            for (key, value) in fields {
                separated(first, out, |out| {
                    let start = out.len();
                    out.extend_from_slice(key.as_bytes());
                    write_string(start, out);
                    out.push(b':');
                    write_value(value, out);
                    true
                });
            }
            out.push(b'}');
        }
    }
}

/// Whole numbers below 2^53 are integers, whatever they were written as.
fn number(n: &serde_json::Number) -> String {
    match n.as_f64() {
        Some(f) if !n.is_i64() && !n.is_u64() && f.fract() == 0.0 && f.abs() < 9_007_199_254_740_992.0 => {
            format!("{}", f as i64)
        }
        _ => n.to_string(),
    }
}

/// A leaf of a format that is no string. Envoy shows numbers that are no 64-bit integers as strings.
fn write_fixed(value: &Json, out: &mut Vec<u8>) {
    let start = out.len();
    write_value(value, out);
    if let Json::Number(n) = value
        && number(n).parse::<i64>().is_err()
    {
        write_string(start, out);
    }
}
