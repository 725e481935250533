//! Answers made here: bodies, gRPC's form of them, and the rewriting that `local_reply_config` asks for.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use super::body::Body;
use super::connection::Reply;
use super::head::ResponseHead;
use super::stream::StreamCtx;
use crate::stream_info::Protocol;

/// Makes a local reply of `status` with `text`.
pub fn make(ctx: Box<StreamCtx>, status: StatusCode, text: &str, details: &'static str) -> Reply {
    with_headers(ctx, status, Bytes::copy_from_slice(text.as_bytes()), details, |_| {})
}

/// As [`make`], with `headers` applied to the answer.
pub fn with_headers(
    mut ctx: Box<StreamCtx>,
    status: StatusCode,
    body: Bytes,
    details: impl Into<std::borrow::Cow<'static, str>>,
    headers: impl FnOnce(&mut crate::http::HeaderMap),
) -> Reply {
    ctx.info.details = Some(details.into());
    if ctx.info.upstream.cluster.is_none() {
        ctx.info.upstream.cluster = ctx.routed_cluster().map(|c| c.name.clone());
    }
    let mut head = ResponseHead::new(status);
    // A bad request may be one whose end was misunderstood.
    let close = status == StatusCode::BAD_REQUEST && ctx.request.protocol != Protocol::Http2 && {
        let m = &ctx.conn.manager.config;
        !m.http1.override_stream_error.unwrap_or(m.stream_error_on_invalid_http_message)
    };
    headers(&mut head.headers);
    let mut body = body;
    let manager = ctx.conn.manager.clone();
    let content_type = manager.replies.apply(&mut ctx, &mut head, &mut body);
    if is_grpc(&ctx) {
        let message = percent(body.trim_ascii_end());
        head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let own = head.headers.get("grpc-status").and_then(|v| v.to_str().ok()?.parse().ok());
        let code = own.unwrap_or_else(|| grpc_status(head.status.as_u16()));
        head.status = StatusCode::OK;
        ctx.info.grpc_status = Some(code);
        head.headers.insert("grpc-status", HeaderValue::from(code));
        if !message.is_empty()
            && let Ok(v) = HeaderValue::from_str(&message)
        {
            head.headers.insert("grpc-message", v);
        }
        body = Bytes::new();
    } else {
        if let Some(made) = content_type.filter(|_| !body.is_empty()) {
            head.headers.insert(header::CONTENT_TYPE, made);
        } else if !body.is_empty() && !head.headers.contains_key(header::CONTENT_TYPE) {
            head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        if !body.is_empty() {
            head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
    }
    super::filter::apply_edits(&mut ctx, &mut head.headers, None);
    super::manager::finish_response(&mut ctx, &mut head, true);
    let body = super::filter::limit(&ctx, Body::from_bytes(body), None);
    Reply { close, ..Reply::new(ctx, head, body, true) }
}

/// Whether the request is gRPC, by its content type.
pub fn is_grpc(ctx: &StreamCtx) -> bool {
    ctx.request.headers.get(header::CONTENT_TYPE).is_some_and(|v| is_grpc_type(v.as_bytes()))
}

/// `application/grpc`, alone or followed by `+` or `;`.
pub fn is_grpc_type(value: &[u8]) -> bool {
    value.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The gRPC status of an HTTP status, as Envoy maps it.
pub fn grpc_status(http: u16) -> u32 {
    match http {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Percent-encodes a gRPC message (gRPC over HTTP/2, "Status-Message").
fn percent(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text {
        match b {
            0x20..=0x24 | 0x26..=0x7e => out.push(*b as char),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}
