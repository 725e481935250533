//! Writing HTTP/1 heads and body framing.

use bytes::Bytes;
use http::{HeaderName, Method, StatusCode, header};

use super::super::head::{RequestHead, Spelling};
use super::super::spare;
use super::Framing;
use crate::config::HeaderKeyFormat;
use crate::http::HeaderMap;
use crate::stream_info::Protocol;

/// Fields that belong to a connection and are written by the codec itself, never copied.
fn is_hop(name: &HeaderName) -> bool {
    matches!(*name, header::CONNECTION | header::TRANSFER_ENCODING)
        || name.as_str() == "keep-alive"
        || name.as_str() == "proxy-connection"
}

/// How names are written: as they were spelled where that is known, else in one format for all.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    /// For names of which nothing is known.
    pub format: HeaderKeyFormat,
    /// Names with capitals as they came.
    pub spelling: &'a [Bytes],
}

impl<'a> Names<'a> {
    /// As `head` had them, else in `format`.
    pub fn new(format: HeaderKeyFormat, spelling: &'a Spelling) -> Self {
        Names { format, spelling: spelling.as_deref().unwrap_or_default() }
    }

    fn write(self, out: &mut Vec<u8>, name: &str) {
        if let Some(known) = self.spelling.iter().find(|s| s.eq_ignore_ascii_case(name.as_bytes())) {
            out.extend_from_slice(known);
        } else if self.format == HeaderKeyFormat::Proper {
            let mut up = true;
            for b in name.bytes() {
                out.push(if up { b.to_ascii_uppercase() } else { b });
                up = !b.is_ascii_alphanumeric();
            }
        } else {
            out.extend_from_slice(name.as_bytes());
        }
    }
}

/// Writes a request head; `full_url`: its target is a whole URL.
pub fn request(out: &mut Vec<u8>, head: &RequestHead, framing: Framing, format: HeaderKeyFormat, full_url: bool) {
    let names = Names::new(format, &head.spelling);
    let authority = head.authority.as_ref().map_or(&b""[..], |a| a.as_bytes());
    spare::ready(out);
    out.reserve(room(&head.headers) + head.path.len());
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    if full_url && head.path.starts_with('/') {
        for part in [head.scheme.as_str().as_bytes(), b"://", authority] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(match head.path.as_bytes() {
        b"" if authority.is_empty() => b"/",
        b"" => authority,
        path => path,
    });
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if let Some(host) = &head.authority {
        field(out, "host", host.as_bytes(), names);
    }
    fields(out, &head.headers, names);
    if let Some(protocol) = &head.upgrade {
        // HTTP/2 clients say nothing that could be repeated here.
        let value: &[u8] = if head.protocol == Protocol::Http2 { b"upgrade" } else { b"Upgrade" };
        field(out, "connection", value, names);
        field(out, "upgrade", protocol.as_bytes(), names);
    }
    // A method that usually has a body says that it has none.
    let bodiless = matches!(head.method, Method::GET | Method::HEAD | Method::DELETE | Method::TRACE | Method::CONNECT);
    let framing = if framing == Framing::None && !bodiless { Framing::Length(0) } else { framing };
    framing_field(out, framing, &head.headers, names);
    out.extend_from_slice(b"\r\n");
}

/// Writes a response head, as HTTP/1.0 to an `old` client; `connection` is the value of the `Connection` field, if any.
pub fn response(
    out: &mut Vec<u8>,
    old: bool,
    status: StatusCode,
    headers: &HeaderMap,
    framing: Framing,
    connection: Option<&str>,
    names: Names<'_>,
) {
    spare::ready(out);
    out.reserve(room(headers));
    out.extend_from_slice(if old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    // Where protocols are switched it stands beside what they are switched to.
    let (before, behind) =
        if status == StatusCode::SWITCHING_PROTOCOLS { (connection, None) } else { (None, connection) };
    if let Some(value) = before {
        field(out, "connection", value.as_bytes(), names);
    }
    fields(out, headers, names);
    if let Some(value) = behind {
        field(out, "connection", value.as_bytes(), names);
    }
    framing_field(out, framing, headers, names);
    out.extend_from_slice(b"\r\n");
}

/// About as much as a head takes, so that it is not moved as it grows.
fn room(headers: &HeaderMap) -> usize {
    256 + headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>()
}

/// The reason phrase, in Envoy's words.
fn reason(status: StatusCode) -> &'static str {
    match status.as_u16() {
        203 => "Non-Authoritative Information",
        418 => "Unknown",
        599 => "Last Unassigned Server Error Code",
        _ => status.canonical_reason().unwrap_or("Unknown"),
    }
}

fn framing_field(out: &mut Vec<u8>, framing: Framing, headers: &HeaderMap, names: Names<'_>) {
    match framing {
        Framing::Chunked => field(out, "transfer-encoding", b"chunked", names),
        Framing::Length(n) if !headers.contains_key(header::CONTENT_LENGTH) => {
            field(out, "content-length", itoa::Buffer::new().format(n).as_bytes(), names);
        }
        _ => {}
    }
}

fn fields(out: &mut Vec<u8>, headers: &HeaderMap, names: Names<'_>) {
    for (name, value) in headers {
        if !is_hop(name) {
            field(out, name.as_str(), value.as_bytes(), names);
        }
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8], names: Names<'_>) {
    names.write(out, name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes a chunk's size line.
pub fn chunk_head(out: &mut Vec<u8>, len: usize) {
    use std::io::Write;
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{len:x}\r\n");
}

/// Writes the last chunk, with trailers if there are any.
pub fn last_chunk(out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(t) = trailers {
        fields(out, t, Names { format: HeaderKeyFormat::Lower, spelling: &[] });
    }
    out.extend_from_slice(b"\r\n");
}

/// Bytes waiting to be written: a head and framing in one buffer, payload beside it so that it is not copied.
#[derive(Default)]
pub struct Outgoing {
    /// Written first.
    pub head: Vec<u8>,
    at: usize,
    /// Written after `head`.
    pub payload: Bytes,
    /// Written last (the end of a chunk).
    tail: &'static [u8],
}

/// Payloads up to this size are copied behind the head: one `write` costs less than a `writev` of two.
const COPY_MAX: usize = 4 << 10;

impl Outgoing {
    /// Nothing left.
    pub fn is_empty(&self) -> bool {
        self.at == self.head.len() && self.payload.is_empty() && self.tail.is_empty()
    }

    /// Queues payload, framed as a chunk if `chunked`. The previous payload must have been written.
    pub fn push(&mut self, data: Bytes, chunked: bool) {
        debug_assert!(self.payload.is_empty() && self.tail.is_empty());
        if chunked {
            chunk_head(&mut self.head, data.len());
        }
        if data.len() <= COPY_MAX {
            self.head.extend_from_slice(&data);
            if chunked {
                self.head.extend_from_slice(b"\r\n");
            }
        } else {
            self.payload = data;
            self.tail = if chunked { b"\r\n" } else { b"" };
        }
    }

    /// Writes until everything is out. Returns the bytes written by this call alongside readiness through `written`.
    pub fn poll_write<S: tokio::io::AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut std::task::Context<'_>,
        written: &mut u64,
    ) -> std::task::Poll<std::io::Result<()>> {
        use std::io::IoSlice;
        use std::pin::Pin;
        use std::task::{Poll, ready};
        while !self.is_empty() {
            let head = &self.head[self.at..];
            let n = if self.payload.is_empty() && self.tail.is_empty() {
                ready!(Pin::new(&mut *stream).poll_write(cx, head))?
            } else {
                let slices = [IoSlice::new(head), IoSlice::new(&self.payload), IoSlice::new(self.tail)];
                let skip = usize::from(head.is_empty());
                ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &slices[skip..]))?
            };
            if n == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            *written += n as u64;
            self.consume(n);
        }
        // An idle connection holds no buffer.
        if self.head.capacity() > 0 {
            spare::give_back(&mut self.head);
            self.at = 0;
        }
        Poll::Ready(Ok(()))
    }

    fn consume(&mut self, mut n: usize) {
        let head = (self.head.len() - self.at).min(n);
        self.at += head;
        n -= head;
        let payload = self.payload.len().min(n);
        bytes::Buf::advance(&mut self.payload, payload);
        n -= payload;
        self.tail = &self.tail[n.min(self.tail.len())..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::fixture;

    #[test]
    fn names_and_targets() {
        let mut head = fixture::request();
        head.headers.clear();
        head.headers.insert("x-mixed-case", http::HeaderValue::from_static("1"));
        let write = |head: &RequestHead, format, full| {
            let mut out = Vec::new();
            request(&mut out, head, Framing::None, format, full);
            String::from_utf8(out).unwrap()
        };
        assert!(write(&head, HeaderKeyFormat::Proper, false).contains("X-Mixed-Case: 1"));
        head.spelling = Some(vec![Bytes::from_static(b"X-mIxed-Case")].into());
        assert!(write(&head, HeaderKeyFormat::Lower, false).contains("X-mIxed-Case: 1"));
        let host = head.authority.clone().unwrap();
        let url = format!(" {}://{}{} HTTP/1.1", head.scheme.as_str(), host.to_str().unwrap(), head.path);
        assert!(write(&head, HeaderKeyFormat::Lower, true).contains(&url));
    }
}
