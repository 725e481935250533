//! HTTP/2, both directions: our own codec.
//!
//! | | |
//! |---|---|
//! | `frame`, `hpack`, `heads` | bytes and fields |
//! | `core` | the state of a connection, sans-io |
//! | `driver` | its transport |
//! | `guard`, `keepalive` | floods, silence |
//! | `handle` | a stream as its task holds it |
//! | `server`, `client`, `request` | connections as the layers above know them |

pub mod client;
mod core;
mod driver;
mod frame;
mod guard;
mod handle;
mod heads;
mod hpack;
mod keepalive;
mod reason;
mod request;
pub mod server;
#[doc(hidden)]
pub mod stranger;

use std::task::{Context, Poll, ready};

use bytes::Bytes;

use self::handle::StreamRef;
pub use self::reason::Reason;
use super::body::{Body, BodyError, Frame};
use crate::http::HeaderMap;

/// Sends a body on a stream, no faster than its window opens: the source is polled only when all it gave has been taken.
pub(super) struct Upload {
    stream: StreamRef,
    body: Body,
    pending: Bytes,
    /// Nothing follows what is pending.
    last: bool,
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
    fn new(stream: StreamRef, body: Body, done: bool) -> Self {
        Upload { stream, body, pending: Bytes::new(), last: false, done, peer_reset: false, sent: 0, trailers: None }
    }

    /// Drives it. `Ready(Ok)` once everything was handed to the connection.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        while !self.done {
            if self.pending.is_empty() {
                if let Poll::Ready(reset) = self.stream.poll_reset(cx) {
                    self.stop();
                    self.peer_reset = true;
                    return Poll::Ready(Err(reset.map_or(BodyError::Closed, BodyError::Reset)));
                }
                match ready!(self.body.poll_frame(cx)) {
                    Some(Ok(Frame::Data(d))) => {
                        self.pending = d;
                        self.last = self.body.is_end();
                    }
                    Some(Ok(Frame::Trailers(t))) => {
                        self.done = true;
                        if let Some(kept) = &mut self.trailers {
                            kept.clone_from(&t);
                        }
                        return Poll::Ready(if self.stream.trailers(&t) { Ok(()) } else { Err(BodyError::Closed) });
                    }
                    None => {
                        self.done = true;
                        return self.stream.poll_send(cx, &mut Bytes::new(), true).map_err(|_| BodyError::Closed);
                    }
                    Some(Err(e)) => {
                        self.stop();
                        return Poll::Ready(Err(e));
                    }
                }
            }
            let before = self.pending.len();
            let sent = self.stream.poll_send(cx, &mut self.pending, self.last);
            self.sent += (before - self.pending.len()) as u64;
            if ready!(sent).is_err() {
                self.stop();
                self.peer_reset = true;
                return Poll::Ready(Err(BodyError::Closed));
            }
            if self.last {
                self.done = true;
                std::mem::take(&mut self.body).finish();
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
    pub(super) fn reset(&mut self, reason: Reason) {
        self.stop();
        self.stream.reset(reason);
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
