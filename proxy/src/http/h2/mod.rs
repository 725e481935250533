//! HTTP/2, both directions, on the `h2` crate: it owns frames, HPACK and flow control; streams, limits and life cycle are ours.

pub mod client;
mod frames;
mod guard;
mod io;
mod keepalive;
mod request;
pub mod server;

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;

use super::body::{Body, BodyError, Frame};

/// Sends a body on a stream, no faster than its window opens: the source is polled only when all it gave has been taken.
pub(super) struct Upload {
    stream: SendStream<Bytes>,
    body: Body,
    pending: Bytes,
    done: bool,
    /// The peer, and not the source, ended it.
    pub(super) peer_reset: bool,
    /// Payload bytes sent.
    pub(super) sent: u64,
    /// Where trailers are kept for whoever logs them.
    pub(super) trailers: Option<HeaderMap>,
}

impl Upload {
    /// Sends `body` on `stream`; `done` where the head ended the stream already.
    pub(super) fn new(stream: SendStream<Bytes>, body: Body, done: bool) -> Self {
        Upload { stream, body, pending: Bytes::new(), done, peer_reset: false, sent: 0, trailers: None }
    }

    /// Drives it. `Ready(Ok)` once everything was handed to the connection.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        while !self.done {
            if self.pending.is_empty() {
                if let Poll::Ready(r) = self.stream.poll_reset(cx) {
                    self.stop();
                    self.peer_reset = true;
                    return Poll::Ready(Err(r.map_or(BodyError::Closed, BodyError::Reset)));
                }
                match ready!(self.body.poll_frame(cx)) {
                    Some(Ok(Frame::Data(d))) => {
                        self.pending = d;
                        self.stream.reserve_capacity(self.pending.len());
                    }
                    Some(Ok(Frame::Trailers(t))) => {
                        self.done = true;
                        if let Some(kept) = &mut self.trailers {
                            kept.clone_from(&t);
                        }
                        self.stream.send_trailers(t).map_err(|_| BodyError::Closed)?;
                    }
                    None => {
                        self.done = true;
                        self.stream.send_data(Bytes::new(), true).map_err(|_| BodyError::Closed)?;
                    }
                    Some(Err(e)) => {
                        self.stop();
                        return Poll::Ready(Err(e));
                    }
                }
                continue;
            }
            if self.stream.capacity() == 0 {
                match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(_)) => continue,
                    _ => {
                        self.stop();
                        self.peer_reset = true;
                        return Poll::Ready(Err(BodyError::Closed));
                    }
                }
            }
            let n = self.stream.capacity().min(self.pending.len());
            let data = self.pending.split_to(n);
            self.sent += n as u64;
            let end = self.pending.is_empty() && self.body.is_end();
            self.done = end;
            if end {
                std::mem::take(&mut self.body).finish();
            }
            if self.stream.send_data(data, end).is_err() {
                self.stop();
                self.peer_reset = true;
                return Poll::Ready(Err(BodyError::Closed));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Gives up the source and what was not sent.
    pub(super) fn stop(&mut self) {
        self.done = true;
        self.body = Body::Empty;
        self.pending = Bytes::new();
    }

    /// Resets the stream.
    pub(super) fn reset(&mut self, reason: h2::Reason) {
        self.stop();
        self.stream.send_reset(reason);
    }

    /// What there is of the body waits for the peer's window.
    pub(super) fn is_blocked(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Everything was sent.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }
}

/// What an error of the library means for a body.
fn body_error(e: &h2::Error) -> BodyError {
    match e.reason() {
        Some(_) if e.is_go_away() && e.is_remote() => BodyError::GoneAway,
        Some(reason) if e.is_reset() || e.is_go_away() => BodyError::Reset(reason),
        Some(_) => BodyError::Protocol,
        None => BodyError::Closed,
    }
}
