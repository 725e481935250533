//! What streams send.

use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::{Method, StatusCode};

use super::{Core, GONE, REMEMBERED, Role, keep};
use crate::http::HeaderMap;
use crate::http::body::BodyError;
use crate::http::h2::Reason;
use crate::http::h2::frame::{self, Head, MAX_SIZE, flag, kind};
use crate::http::h2::heads::is_forbidden;
use crate::http::h2::hpack::{self, Encoder};
use crate::http::head::RequestHead;
use crate::http::spare;

impl Core {
    /// Begins a stream with a request; its key. `end`: there is no body.
    pub(in super::super) fn request(&mut self, head: &RequestHead, end: bool) -> Option<u32> {
        if !self.takes_streams() {
            return None;
        }
        let id = self.next_local;
        self.next_local += 2;
        let key = self.insert(id);
        let extended = head.upgrade.is_some();
        let tunnel = head.method == Method::CONNECT && !extended;
        let s = self.stream(key)?;
        s.no_body = head.method == Method::HEAD;
        s.sent_end = end;
        s.handles = 1;
        self.block(id, end, |encoder, out| {
            hpack::method(out, if extended { &Method::CONNECT } else { &head.method });
            if !tunnel {
                hpack::pseudo(out, ":scheme", head.scheme.as_str().as_bytes());
            }
            if let Some(authority) = &head.authority {
                encoder.authority(out, authority);
            }
            if !tunnel {
                hpack::pseudo(out, ":path", head.path.as_bytes());
            }
            if let Some(protocol) = &head.upgrade {
                hpack::pseudo(out, ":protocol", protocol.as_bytes());
            }
            encoder.fields(out, &head.headers, is_forbidden);
        });
        Some(key)
    }

    /// Answers a stream. `end`: there is no body. `false`: it has ended.
    pub(in super::super) fn respond(&mut self, key: u32, status: StatusCode, headers: &HeaderMap, end: bool) -> bool {
        let Some(s) = self.stream(key).filter(|s| s.error.is_none() && !s.sent_end) else { return false };
        s.sent_end = end;
        let id = s.id;
        self.block(id, end, |encoder, out| {
            hpack::status(out, status);
            encoder.fields(out, headers, is_forbidden);
        });
        if end {
            self.settle(key);
        }
        true
    }

    /// Ends a stream with trailers.
    pub(in super::super) fn trailers(&mut self, key: u32, trailers: &HeaderMap) -> bool {
        let Some(s) = self.stream(key).filter(|s| s.error.is_none() && !s.sent_end) else { return false };
        s.sent_end = true;
        let id = s.id;
        self.block(id, true, |encoder, out| encoder.fields(out, trailers, is_forbidden));
        self.settle(key);
        true
    }

    /// A header block, in as many frames as it takes: larger ones than anybody has to take are never sent.
    fn block(&mut self, stream: u32, end: bool, write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let out = &mut self.out;
        spare::ready(out);
        let start = out.len();
        let flags = if end { flag::END_STREAM } else { 0 };
        Head { len: 0, kind: kind::HEADERS, flags: flags | flag::END_HEADERS, stream }.write(out);
        let body = out.len();
        self.encoder.begin(out);
        write(&mut self.encoder, out);
        let len = out.len() - body;
        if len <= MAX_SIZE {
            let [_, l1, l2, l3] = (len as u32).to_be_bytes();
            out[start..start + 3].copy_from_slice(&[l1, l2, l3]);
        } else {
            let block = out.split_off(body);
            out.truncate(start);
            let mut kind = kind::HEADERS;
            let mut flags = flags;
            let mut pieces = block.chunks(MAX_SIZE).peekable();
            while let Some(piece) = pieces.next() {
                let last = if pieces.peek().is_none() { flag::END_HEADERS } else { 0 };
                Head { len: piece.len(), kind, flags: flags | last, stream }.write(out);
                out.extend_from_slice(piece);
                (kind, flags) = (kind::CONTINUATION, 0);
            }
        }
        self.wake_driver();
    }

    /// Sends of `data` what windows and buffer take now; ready once all is out. `end`: nothing follows.
    ///
    /// Ready with an error where the stream has ended.
    pub(in super::super) fn poll_send(
        &mut self,
        key: u32,
        cx: &Context<'_>,
        data: &mut Bytes,
        end: bool,
    ) -> Poll<Result<(), BodyError>> {
        loop {
            let room = self.room();
            let Some(s) = self.stream(key) else { return GONE };
            if let Some(error) = s.error.or(s.peer_reset.map(BodyError::Reset)) {
                return Poll::Ready(Err(error));
            }
            let window = usize::try_from(s.send_window).unwrap_or(0);
            let n = data.len().min(window).min(room).min(MAX_SIZE);
            if n == 0 && !data.is_empty() {
                keep(&mut s.writer, cx);
                // What only waits for its own window is woken when that opens.
                if window > 0 && !std::mem::replace(&mut s.waits, true) {
                    self.queue.push_back(key);
                }
                // A turn that is not used is somebody else's.
                self.pass_on();
                return Poll::Pending;
            }
            let last = end && n == data.len();
            s.send_window -= n as i64;
            s.sent_end = last;
            let stream = s.id;
            self.send_window -= n as i64;
            let flags = if last { flag::END_STREAM } else { 0 };
            spare::ready(&mut self.out);
            Head { len: n, kind: kind::DATA, flags, stream }.write(&mut self.out);
            self.out.extend_from_slice(&data[..n]);
            data.advance(n);
            if let Some(guard) = &mut self.guard {
                guard.sent_data();
            }
            self.wake_driver();
            if data.is_empty() {
                self.pass_on();
                if last {
                    self.settle(key);
                }
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Ready once the stream was reset by the peer, or has failed.
    pub(in super::super) fn poll_reset(&mut self, key: u32, cx: &Context<'_>) -> Poll<Option<Reason>> {
        let Some(s) = self.stream(key) else { return Poll::Ready(None) };
        if s.error.is_some() || s.peer_reset.is_some() {
            return Poll::Ready(s.peer_reset);
        }
        keep(&mut s.writer, cx);
        Poll::Pending
    }

    /// Resets a stream, if it has not ended. A server's PROTOCOL_ERROR says that the request was malformed: where streams are
    /// not spared for that it costs the connection.
    pub(in super::super) fn send_reset(&mut self, key: u32, reason: Reason) {
        let Some(s) = self.stream(key) else { return };
        if s.error.is_none() && !(s.got_end && s.sent_end) {
            let id = s.id;
            s.deaf = true;
            let unread = s.data.drain(..).map(|d| d.len()).sum();
            s.trailers = None;
            s.error = Some(BodyError::Cancelled);
            self.reset_id(id, reason);
            self.give_back(unread);
        }
        self.fail(key, BodyError::Cancelled);
    }

    /// Sends a RST_STREAM, and remembers the stream: what is under way to it is let pass.
    pub(super) fn reset_id(&mut self, id: u32, reason: Reason) {
        if self.ended.is_some() {
            return;
        }
        if self.reset.len() == REMEMBERED {
            self.reset.pop_front();
        }
        self.reset.push_back(id);
        frame::reset(&mut self.out, id, reason);
        self.wake_driver();
    }

    /// Whether this is a server.
    pub(in super::super) fn is_server(&self) -> bool {
        self.options.role == Role::Server
    }
}
