//! `envoy.filters.http.buffer`: the whole request before any of it goes on.

use bytes::BytesMut;
use http::{HeaderValue, StatusCode, header};

use super::Flow;
use crate::http::body::{Body, BodyError, Frame};
use crate::http::connection::Reply;
use crate::http::local_reply;
use crate::http::stream::StreamCtx;

/// Reads the body; one that is larger than `max` is answered with 413.
pub(super) async fn request(mut ctx: Box<StreamCtx>, mut body: Body, max: u64) -> Flow {
    let mut all = BytesMut::new();
    loop {
        match body.frame().await {
            Some(Ok(Frame::Data(d))) => {
                // What comes together with the end need not be held, and is not counted.
                if all.len() as u64 + d.len() as u64 > max && !body.is_end() {
                    return Flow::Answer(too_large(ctx));
                }
                all.extend_from_slice(&d);
            }
            Some(Ok(Frame::Trailers(_))) | None => break,
            Some(Err(e)) => {
                return Flow::Answer(broken(ctx, e));
            }
        }
    }
    if !all.is_empty() {
        ctx.request.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(all.len()));
    }
    Flow::Continue(ctx, Body::from_bytes(all.freeze()))
}

/// The answer to a body that is larger than what may be held.
pub(super) fn too_large(ctx: Box<StreamCtx>) -> Reply {
    ctx.conn.manager.stats.downstream_rq_too_large.inc();
    let (text, details) = ("Payload Too Large", "request_payload_too_large");
    let mut reply = local_reply::make(ctx, StatusCode::PAYLOAD_TOO_LARGE, text, details);
    reply.close = true;
    reply
}

/// The answer to a body that ended before its end.
pub(super) fn broken(ctx: Box<StreamCtx>, error: BodyError) -> Reply {
    let status = if error == BodyError::Protocol { StatusCode::BAD_REQUEST } else { StatusCode::REQUEST_TIMEOUT };
    local_reply::make(ctx, status, "", "http1.codec_error")
}
