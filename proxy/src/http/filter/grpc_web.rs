//! `envoy.filters.http.grpc_web`: gRPC-Web in front of gRPC.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, header};

use super::{FilteredBody, Flow, FrameMap};
use crate::http::HeaderMap;
use crate::http::body::Body;
use crate::http::head::ResponseHead;
use crate::http::stream::StreamCtx;

const TEXT: &str = "application/grpc-web-text";

/// Whether the request's content type is gRPC-Web, and whether its body is base64.
fn kind(content_type: &str) -> Option<bool> {
    let base = content_type.split(';').next().unwrap_or_default().trim();
    match base {
        "application/grpc-web" | "application/grpc-web+proto" => Some(false),
        "application/grpc-web-text" | "application/grpc-web-text+proto" => Some(true),
        _ => None,
    }
}

/// Turns a gRPC-Web request into gRPC.
pub(super) fn request(mut ctx: Box<StreamCtx>, body: Body) -> Flow {
    let content_type = ctx.request.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let Some(text) = kind(content_type) else { return Flow::Continue(ctx, body) };
    let accept_text =
        ctx.request.headers.get(header::ACCEPT).is_some_and(|v| v.as_bytes().starts_with(TEXT.as_bytes()));
    ctx.grpc_web = Some(text || accept_text);
    let headers = &mut ctx.request.headers;
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
    let body = if text { FilteredBody::wrap(body, Decode { carry: Vec::new() }) } else { body };
    Flow::Continue(ctx, body)
}

/// Turns the gRPC answer into gRPC-Web: trailers become a last message.
pub(super) fn response(ctx: &mut StreamCtx, head: &mut ResponseHead, body: Body) -> Body {
    let Some(text) = ctx.grpc_web else { return body };
    let kind = if text { "application/grpc-web-text+proto" } else { "application/grpc-web+proto" };
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    head.headers.remove(header::CONTENT_LENGTH);
    FilteredBody::wrap(body, Encode { text, carry: BytesMut::new() })
}

struct Decode {
    carry: Vec<u8>,
}

impl FrameMap for Decode {
    fn data(&mut self, data: Bytes) -> Bytes {
        self.carry.extend(data.iter().filter(|b| !b.is_ascii_whitespace()));
        let whole = self.carry.len() / 4 * 4;
        let mut out = Vec::new();
        // Quads one by one: padding may stand in the middle where messages were encoded apart.
        for quad in self.carry[..whole].chunks(4) {
            if STANDARD.decode_vec(quad, &mut out).is_err() {
                break;
            }
        }
        self.carry.drain(..whole);
        out.into()
    }
}

struct Encode {
    text: bool,
    carry: BytesMut,
}

impl Encode {
    fn emit(&mut self, data: &[u8], last: bool) -> Bytes {
        self.carry.extend_from_slice(data);
        let n = if last { self.carry.len() } else { self.carry.len() / 3 * 3 };
        STANDARD.encode(self.carry.split_to(n)).into()
    }
}

impl FrameMap for Encode {
    fn data(&mut self, data: Bytes) -> Bytes {
        if self.text { self.emit(&data, false) } else { data }
    }

    fn trailers(&mut self, trailers: HeaderMap) -> Result<HeaderMap, Bytes> {
        let mut text = Vec::new();
        for (name, value) in &trailers {
            text.extend_from_slice(name.as_str().as_bytes());
            text.push(b':');
            text.extend_from_slice(value.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        let mut message = BytesMut::with_capacity(5 + text.len());
        message.put_u8(0x80);
        message.put_u32(text.len() as u32);
        message.extend_from_slice(&text);
        Err(if self.text { self.emit(&message, true) } else { message.freeze() })
    }

    fn end(&mut self) -> Option<Bytes> {
        (self.text && !self.carry.is_empty()).then(|| self.emit(b"", true))
    }
}
