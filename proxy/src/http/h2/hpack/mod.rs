//! HPACK, the header compression of HTTP/2 (RFC 7541).
//!
//! Decoding keeps the peer's dynamic table. Encoding has none: what it saves on the wire costs both sides more in keeping it
//! up, and memory for every connection; names and common fields come from the static table.

mod decode;
mod encode;
mod huffman;
mod table;

pub(super) use decode::Decoder;
pub(super) use encode::{begin, field, method, pseudo, status};
pub(super) use table::Field;

/// The header block breaks the rules of compression, which costs the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;
