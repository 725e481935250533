//! HPACK, the header compression of HTTP/2 (RFC 7541).
//!
//! No I/O, no knowledge of frames. Both sides keep a dynamic table, which lives as long as the connection.

mod decode;
mod encode;
mod huffman;
mod table;

pub(super) use decode::Decoder;
pub(super) use encode::{Encoder, method, pseudo, status};
pub(super) use table::Field;

/// The header block breaks the rules of compression, which costs the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;
