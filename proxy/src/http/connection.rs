//! A downstream HTTP connection as the codecs see it, and the answer they write.
//!
//! The seam between codecs and everything above them: a codec calls [`HttpConn::handle`] with a head and a body and writes the
//! [`Reply`] it gets; it tells the reply's [`StreamEnd`] what it wrote and how it ended.

use std::sync::Arc;

use http::StatusCode;

use super::body::{Body, BodyError};
use super::head::{RequestHead, ResponseHead};
use super::limits::{Expiry, Shared};
use super::local_reply;
use super::manager::Manager;
use super::request;
use super::stream::StreamCtx;
use crate::drain::Drain;
use crate::http::HeaderMap;
use crate::stream_info::{ConnInfo, Protocol, ResponseFlags};

/// A downstream connection of an HTTP connection manager.
pub struct HttpConn {
    /// Its connection manager.
    pub manager: Arc<Manager>,
    /// Its facts.
    pub info: Arc<ConnInfo>,
    /// The worker it lives on.
    pub worker: usize,
    /// Tells when to drain.
    pub drain: Drain,
}

impl HttpConn {
    /// Whether no further request should be invited.
    pub fn is_draining(&self) -> bool {
        self.drain.is_draining()
    }

    /// Whether request number `n` of the connection is the last.
    pub fn is_last_request(&self, n: u64) -> bool {
        let max = self.manager.config.common.max_requests_per_connection;
        let reached = max.is_some_and(|m| n >= u64::from(m));
        if reached {
            self.manager.stats.downstream_cx_max_requests_reached.inc();
        }
        reached || self.drain.should_close()
    }

    /// Answers a request. Always answers: what goes wrong becomes a local reply.
    pub fn handle(
        self: Arc<Self>,
        head: RequestHead,
        body: Body,
        head_bytes: u64,
        limits: Arc<Shared>,
    ) -> impl Future<Output = Reply> {
        // Before the future begins, so that it has no room for the head.
        let mut ctx = Box::new(StreamCtx::new(self, head));
        ctx.limits = limits;
        ctx.info.bytes.headers_received = head_bytes;
        ctx.info.bytes.wire_received = head_bytes;
        request::handle(ctx, body)
    }

    /// The client left in the middle of a head.
    pub fn cut_off(self: &Arc<Self>) {
        Box::new(StreamCtx::without_request(self.clone(), Protocol::Http11)).finish(EndReason::DownstreamClosed);
    }

    /// A stream was reset before it was a request.
    pub fn refuse_stream(self: &Arc<Self>, reason: crate::http::h2::Reason, details: &'static str) {
        let mut ctx = Box::new(StreamCtx::without_request(self.clone(), Protocol::Http2));
        ctx.info.flags.set(match reason {
            crate::http::h2::Reason::PROTOCOL_ERROR => ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
            _ => ResponseFlags::DOWNSTREAM_REMOTE_RESET,
        });
        ctx.refused(details);
    }

    /// An answer to what could not be read as a request.
    pub fn refuse(self: &Arc<Self>, status: StatusCode, details: &'static str, flags: ResponseFlags) -> Reply {
        let mut ctx = Box::new(StreamCtx::without_request(self.clone(), Protocol::Http11));
        ctx.info.flags.set(flags);
        if flags.any_of(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR) {
            self.manager.stats.downstream_cx_protocol_error.inc();
        }
        let text = match status {
            StatusCode::REQUEST_TIMEOUT => "request header timeout",
            _ => status.canonical_reason().unwrap_or_default(),
        };
        local_reply::make(ctx, status, text, details)
    }
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The whole answer was written.
    Complete,
    /// The client closed its connection.
    DownstreamClosed,
    /// The client reset the stream.
    DownstreamReset(crate::http::h2::Reason),
    /// A time limit was reached after the answer had begun.
    Expired(Expiry),
    /// The answer's body ended badly.
    Upstream(BodyError),
}

/// An answer for a codec to write.
pub struct Reply {
    /// Head.
    pub head: ResponseHead,
    /// Body.
    pub body: Body,
    /// Made here and not by an upstream.
    pub local: bool,
    /// Close the connection after it.
    pub close: bool,
    /// The body's end was seen; for the codec's use.
    pub done: bool,
    /// The body ended badly; for the codec's use.
    pub failed: Option<BodyError>,
    /// To be told how it went.
    pub end: StreamEnd,
}

impl Reply {
    /// An answer that belongs to `ctx`.
    pub fn new(ctx: Box<StreamCtx>, head: ResponseHead, body: Body, local: bool) -> Self {
        Reply { head, body, local, close: false, done: false, failed: None, end: StreamEnd { ctx: Some(ctx) } }
    }
}

/// The end of a stream: counts what is written; finished or dropped, it closes the books.
pub struct StreamEnd {
    ctx: Option<Box<StreamCtx>>,
}

impl StreamEnd {
    fn with(&mut self, f: impl FnOnce(&mut StreamCtx)) {
        if let Some(ctx) = &mut self.ctx {
            f(ctx);
        }
    }

    /// The head was encoded into so many bytes.
    pub fn head_sent(&mut self, bytes: u64) {
        self.with(|c| {
            c.info.bytes.headers_sent = bytes;
            c.info.times.first_downstream_tx = Some(crate::clock::now());
        });
    }

    /// So many bytes of the body were handed to the connection.
    pub fn body_sent(&mut self, bytes: u64) {
        self.with(|c| c.info.bytes.sent += bytes);
    }

    /// So many bytes were written to the socket.
    pub fn wire_sent(&mut self, bytes: u64) {
        self.with(|c| c.info.bytes.wire_sent += bytes);
    }

    /// Whether a log looks at the answer's fields.
    pub fn logs_response(&self) -> bool {
        self.ctx.as_ref().is_some_and(|c| c.conn.manager.access_logs.needs_response_headers())
    }

    /// The answer had trailers.
    pub fn trailers(&mut self, trailers: HeaderMap) {
        self.with(|c| c.trailers = Some(trailers));
    }

    /// The stream ended.
    pub fn finish(&mut self, reason: EndReason) {
        if let Some(ctx) = self.ctx.take() {
            ctx.finish(reason);
        }
    }
}

impl Drop for StreamEnd {
    fn drop(&mut self) {
        self.finish(EndReason::DownstreamClosed);
    }
}
