//! A stream as its task holds it.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex;

use super::Reason;
use super::core::Core;
use crate::http::HeaderMap;
use crate::http::body::{BodyError, Frame};
use crate::http::head::RequestHead;

/// A connection's state, shared by its task and those of its streams.
pub(super) type Connection = Arc<Mutex<Core>>;

/// A handle to a stream. When the last one goes, what is left of the stream is reset.
pub(super) struct StreamRef {
    core: Connection,
    key: u32,
}

impl StreamRef {
    /// Takes over the handle that an accepted stream comes with.
    pub(super) fn adopt(core: &Connection, key: u32) -> Self {
        StreamRef { core: core.clone(), key }
    }

    /// Begins a stream; `None`: the connection takes no more.
    pub(super) fn request(core: &Connection, head: &RequestHead, end: bool) -> Option<Self> {
        let key = core.lock().request(head, end)?;
        Some(StreamRef { core: core.clone(), key })
    }

    /// Answers. `end`: there is no body. `false`: the stream has ended.
    pub(super) fn respond(&self, status: StatusCode, headers: &HeaderMap, end: bool) -> bool {
        self.core.lock().respond(self.key, status, headers, end)
    }

    /// Sends of `data` what can leave now; ready once all has. `end`: nothing follows.
    pub(super) fn poll_send(&self, cx: &Context<'_>, data: &mut Bytes, end: bool) -> Poll<Result<(), BodyError>> {
        self.core.lock().poll_send(self.key, cx, data, end)
    }

    /// Ends it with trailers; `false`: it has ended.
    pub(super) fn trailers(&self, trailers: &HeaderMap) -> bool {
        self.core.lock().trailers(self.key, trailers)
    }

    /// Ready once it was reset by the peer, or has failed (`None`).
    pub(super) fn poll_reset(&self, cx: &Context<'_>) -> Poll<Option<Reason>> {
        self.core.lock().poll_reset(self.key, cx)
    }

    /// Resets it.
    pub(super) fn reset(&self, reason: Reason) {
        self.core.lock().send_reset(self.key, reason);
    }

    /// Resets it for its request; a malformed one may cost the connection.
    pub(super) fn refuse(&self, reason: Reason) {
        self.core.lock().refuse(self.key, reason);
    }

    /// The next frame of what comes. `held`: bytes handed out before, whose window opens again.
    pub(super) fn poll_frame(&self, cx: &Context<'_>, held: &mut usize) -> Poll<Option<Result<Frame, BodyError>>> {
        self.core.lock().poll_frame(self.key, cx, held)
    }

    /// The head of the response.
    pub(super) fn poll_head(&self, cx: &Context<'_>) -> Poll<Result<(StatusCode, HeaderMap), BodyError>> {
        self.core.lock().poll_head(self.key, cx)
    }

    /// An informational answer since the last call.
    pub(super) fn take_interim(&self) -> Option<StatusCode> {
        self.core.lock().take_interim(self.key)
    }

    /// With what the peer reset it, if it did.
    pub(super) fn peer_reset(&self) -> Option<Reason> {
        self.core.lock().peer_reset(self.key)
    }

    /// Nothing more will come.
    pub(super) fn is_end(&self) -> bool {
        self.core.lock().is_end(self.key)
    }

    /// Nobody will read what comes; `held` as in [`StreamRef::poll_frame`].
    pub(super) fn stop_reading(&self, held: usize) {
        self.core.lock().stop_reading(self.key, held);
    }
}

impl Clone for StreamRef {
    fn clone(&self) -> Self {
        self.core.lock().hold(self.key);
        StreamRef { core: self.core.clone(), key: self.key }
    }
}

impl Drop for StreamRef {
    fn drop(&mut self) {
        self.core.lock().let_go(self.key);
    }
}
