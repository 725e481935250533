//! Heads out of the fields of a header block: what makes a message malformed (RFC 9113 section 8.1.1).

use bytes::Bytes;
use http::{Method, StatusCode, header};

use super::hpack::Field;
use crate::http::HeaderMap;

/// What a header block says.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) method: Option<Method>,
    pub(super) scheme: Option<Bytes>,
    pub(super) authority: Option<Bytes>,
    pub(super) path: Option<Bytes>,
    pub(super) protocol: Option<Bytes>,
    pub(super) status: Option<StatusCode>,
    pub(super) fields: HeaderMap,
    /// Fields, pseudo-headers among them.
    pub(super) count: usize,
    malformed: bool,
    size: usize,
}

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is none.
    Malformed,
    /// Its fields are more than is allowed.
    TooLarge,
}

impl Block {
    /// A block with room for what a message has as a rule.
    pub(super) fn new() -> Self {
        Block { fields: HeaderMap::with_capacity(12), ..Block::default() }
    }

    /// Takes a field; what is beyond `max` bytes is only counted.
    pub(super) fn take(&mut self, field: Field, max: usize) {
        self.size += field.size();
        self.count += 1;
        if self.size > max {
            return;
        }
        let twice = match field {
            Field::Header(name, value) => {
                self.malformed |= is_forbidden(&name, &value);
                self.fields.append(name, value);
                return;
            }
            Field::Method(v) => self.method.replace(v).is_some(),
            Field::Scheme(v) => self.scheme.replace(v).is_some(),
            Field::Authority(v) => self.authority.replace(v).is_some(),
            Field::Path(v) => self.path.replace(v).is_some(),
            Field::Status(v) => self.status.replace(v).is_some(),
            Field::Protocol(v) => self.protocol.replace(v).is_some(),
            Field::Invalid(..) => true,
        };
        // Pseudo-headers come first, and once.
        self.malformed |= twice || !self.fields.is_empty();
    }

    fn checked(&self, max: usize) -> Result<(), Wrong> {
        match () {
            () if self.malformed => Err(Wrong::Malformed),
            () if self.size > max => Err(Wrong::TooLarge),
            () => Ok(()),
        }
    }

    /// A request's, complete as RFC 9113 section 8.3.1 has it; `connect`: extended CONNECT is allowed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn request(&self, max: usize, connect: bool) -> Result<(), Wrong> {
        self.checked(max)?;
        let tunnel = self.method == Some(Method::CONNECT) && self.protocol.is_none();
        let complete = self.method.is_some()
            && self.status.is_none()
            && self.scheme.as_ref().map_or(tunnel, |s| !tunnel && is_scheme(s))
            && self.path.is_some() != tunnel
            && self.path.as_ref().is_none_or(|p| !p.is_empty())
            && (!tunnel || self.authority.is_some())
            && (self.protocol.is_none() || (connect && self.method == Some(Method::CONNECT)));
        if complete { Ok(()) } else { Err(Wrong::Malformed) }
    }

    /// A response's.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn response(&self, max: usize) -> Result<StatusCode, Wrong> {
        self.checked(max)?;
        if self.has_request_parts() {
            return Err(Wrong::Malformed);
        }
        self.status.ok_or(Wrong::Malformed)
    }

    /// Trailers have no pseudo-headers.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn trailers(&self, max: usize) -> Result<(), Wrong> {
        self.checked(max)?;
        if self.has_request_parts() || self.status.is_some() { Err(Wrong::Malformed) } else { Ok(()) }
    }

    fn has_request_parts(&self) -> bool {
        self.method.is_some()
            || self.scheme.is_some()
            || self.authority.is_some()
            || self.path.is_some()
            || self.protocol.is_some()
    }

    /// The declared length of the body.
    ///
    /// # Errors
    /// It is not a number, or there are several.
    pub(super) fn length(&self) -> Result<Option<u64>, Wrong> {
        let mut all = self.fields.get_all(header::CONTENT_LENGTH);
        let Some(first) = all.next() else { return Ok(None) };
        let text = first.as_bytes();
        if text.is_empty() || text.len() > 19 || !text.iter().all(u8::is_ascii_digit) || all.any(|v| v != first) {
            return Err(Wrong::Malformed);
        }
        Ok(Some(text.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0'))))
    }
}

/// RFC 3986 section 3.1.
fn is_scheme(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_alphabetic)
        && text.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

/// Fields that are about one connection, which HTTP/2 has no use for (RFC 9113 section 8.2.2).
pub(super) fn is_forbidden(name: &http::HeaderName, value: &http::HeaderValue) -> bool {
    match name.as_str() {
        "connection" | "transfer-encoding" | "upgrade" | "keep-alive" | "proxy-connection" | "http2-settings" => true,
        "te" => value != "trailers",
        _ => false,
    }
}
