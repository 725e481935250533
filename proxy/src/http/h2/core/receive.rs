//! What the peer sends: frames in, their effects on streams and settings (RFC 9113 sections 5 and 6).

use std::ops::Range;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;

use super::{ALIVE, Accepted, Core, End, LEAVING, Leaving, Partial, Role, keep};
use crate::http::HeaderMap;
use crate::http::body::{BodyError, Frame};
use crate::http::h2::Reason;
use crate::http::h2::frame::{self, Head, MAX_SIZE, MAX_WINDOW, flag, kind, setting};
use crate::http::h2::guard::Breach;
use crate::http::h2::heads::{Block, Wrong};

/// What a frame may do wrong.
enum Fault {
    /// The connection cannot go on.
    Connection(Reason),
    /// Its stream ends; what makes a message malformed costs the connection, where that is not spared.
    Stream(u32, Reason),
    /// A body belies its length, which costs its stream and no more.
    Length(u32),
}

use Fault::{Connection, Length, Stream as OnStream};

type Done = Result<(), Fault>;

impl Core {
    /// Takes a whole frame but DATA. What it does wrong ends its stream or the connection, see [`Core::ended`].
    pub(in super::super) fn frame(&mut self, head: Head, payload: &[u8]) {
        if self.passes(head) {
            let done = self.take(head, payload);
            self.judge(done);
        }
    }

    /// Takes a whole DATA frame.
    pub(in super::super) fn data_frame(&mut self, head: Head, payload: Bytes) {
        if self.passes(head) {
            let done = self.begun_well(head).and_then(|()| self.data(head, payload));
            self.judge(done);
        }
    }

    fn passes(&mut self, head: Head) -> bool {
        let Some(Err(breach)) = self.guard.as_mut().map(|g| g.received(head)) else { return true };
        self.end(End::Breach(breach));
        false
    }

    fn judge(&mut self, done: Done) {
        match done {
            Ok(()) => {}
            Err(Connection(reason)) => self.end(End::Protocol(reason)),
            Err(OnStream(id, reason)) => match self.by_id.get(&id) {
                Some(key) => self.refuse(*key, reason),
                // There is no stream that could be reset.
                None => self.end(End::Protocol(reason)),
            },
            Err(Length(id)) => {
                if let Some(key) = self.by_id.get(&id).copied() {
                    self.give_up(key, Reason::PROTOCOL_ERROR);
                }
            }
        }
    }

    /// A frame header announces more than may come in one frame.
    pub(in super::super) fn oversized(&mut self) {
        self.end(End::Protocol(Reason::FRAME_SIZE_ERROR));
    }

    /// The client's first bytes are not those of HTTP/2.
    pub(in super::super) fn no_preface(&mut self) {
        self.end(End::Protocol(Reason::PROTOCOL_ERROR));
    }

    /// Whether the peer has begun.
    pub(in super::super) fn has_settings(&self) -> bool {
        self.got_settings
    }

    /// Settings come first, and nothing between the pieces of a header block.
    fn begun_well(&self, head: Head) -> Done {
        let first = self.got_settings || (head.kind == kind::SETTINGS && !head.has(flag::ACK));
        let whole = self.partial.is_none() || head.kind == kind::CONTINUATION;
        if first && whole { Ok(()) } else { Err(Connection(Reason::PROTOCOL_ERROR)) }
    }

    fn take(&mut self, head: Head, payload: &[u8]) -> Done {
        self.begun_well(head)?;
        match head.kind {
            kind::HEADERS => self.headers(head, payload),
            kind::PRIORITY => priority(head, payload),
            kind::RST_STREAM => self.reset_by_peer(head, payload),
            kind::SETTINGS => self.settings(head, payload),
            kind::PUSH_PROMISE => Err(Connection(Reason::PROTOCOL_ERROR)),
            kind::PING => self.pinged(head, payload),
            kind::GOAWAY => self.goaway(head, payload),
            kind::WINDOW_UPDATE => self.window(head, payload),
            kind::CONTINUATION => self.continuation(head, payload),
            // Unknown ones are ignored.
            _ => Ok(()),
        }
    }

    fn data(&mut self, head: Head, payload: Bytes) -> Done {
        if head.stream == 0 {
            return Err(Connection(Reason::PROTOCOL_ERROR));
        }
        let whole = payload.len();
        let data = payload.slice(unpadded(head, &payload)?);
        self.receive_window -= whole as i64;
        if self.receive_window < 0 {
            return Err(Connection(Reason::FLOW_CONTROL_ERROR));
        }
        let Some(key) = self.by_id.get(&head.stream).copied() else {
            // Nobody will read it.
            self.give_back(whole);
            return self.without_stream(head.stream);
        };
        let taken = self.data_of(key, head, data, whole);
        if taken.is_err() {
            self.give_back(whole);
        }
        taken
    }

    /// Data of a stream that is known; `whole`: with its padding.
    fn data_of(&mut self, key: u32, head: Head, data: Bytes, whole: usize) -> Done {
        let Some(s) = self.stream(key) else { return Ok(()) };
        if s.got_end {
            return Err(Connection(Reason::STREAM_CLOSED));
        }
        if !s.got_head {
            return Err(OnStream(head.stream, Reason::PROTOCOL_ERROR));
        }
        s.receive_window -= whole as i64;
        if s.receive_window < 0 {
            return Err(OnStream(head.stream, Reason::FLOW_CONTROL_ERROR));
        }
        if let Some(left) = &mut s.length {
            let Some(rest) = left.checked_sub(data.len() as u64) else { return Err(Length(head.stream)) };
            *left = rest;
        }
        s.got_end = head.has(flag::END_STREAM);
        if s.got_end && s.length.is_some_and(|left| left > 0) {
            s.got_end = false;
            return Err(Length(head.stream));
        }
        let kept = if s.deaf { 0 } else { data.len() };
        // Padding is given back at once.
        s.released += (whole - kept) as u32;
        if kept > 0 {
            s.data.push_back(data);
        }
        if let Some(reader) = s.reader.take() {
            reader.wake();
        }
        self.give_back(whole - kept);
        self.settle(key);
        Ok(())
    }

    /// A frame for a stream that is not there: one that was, or one that nobody began.
    fn without_stream(&self, id: u32) -> Done {
        // It was under way when we reset the stream. Of a server's late frames nothing else depends on which it was: requests of
        // others are on this connection too.
        if self.reset.contains(&id) || (self.options.role == Role::Client && self.was_begun(id)) {
            return Ok(());
        }
        Err(Connection(if self.was_begun(id) { Reason::STREAM_CLOSED } else { Reason::PROTOCOL_ERROR }))
    }

    fn was_begun(&self, id: u32) -> bool {
        match (self.options.role, id % 2) {
            (Role::Server, 1) => id <= self.last_peer,
            (Role::Client, 1) => id < self.next_local,
            _ => false,
        }
    }

    fn headers(&mut self, head: Head, payload: &[u8]) -> Done {
        if head.stream == 0 || (self.options.role == Role::Client && !self.was_begun(head.stream)) {
            return Err(Connection(Reason::PROTOCOL_ERROR));
        }
        let mut block = &payload[unpadded(head, payload)?];
        let mut itself = false;
        if head.has(flag::PRIORITY) {
            let (depends, rest) = block.split_at_checked(5).ok_or(Connection(Reason::FRAME_SIZE_ERROR))?;
            itself = dependency(depends) == head.stream;
            block = rest;
        }
        let end = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            self.block_read(head.stream, end, block)?;
        } else {
            self.partial = Some(Partial { stream: head.stream, end, block: block.to_vec() });
        }
        // A stream cannot depend on itself; its block had to be read all the same.
        if itself { Err(OnStream(head.stream, Reason::PROTOCOL_ERROR)) } else { Ok(()) }
    }

    fn continuation(&mut self, head: Head, payload: &[u8]) -> Done {
        let Some(mut partial) = self.partial.take().filter(|p| p.stream == head.stream) else {
            return Err(Connection(Reason::PROTOCOL_ERROR));
        };
        partial.block.extend_from_slice(payload);
        if head.has(flag::END_HEADERS) {
            return self.block_read(partial.stream, partial.end, &partial.block);
        }
        // Compressed, a head that is allowed is smaller than this.
        if partial.block.len() > self.options.max_head.saturating_add(MAX_SIZE) {
            return Err(Connection(Reason::ENHANCE_YOUR_CALM));
        }
        self.partial = Some(partial);
        Ok(())
    }

    /// A whole header block: a request or a response, or trailers.
    fn block_read(&mut self, id: u32, end: bool, bytes: &[u8]) -> Done {
        let max = self.options.max_head;
        let mut block = Block::new();
        self.decoder
            .decode(bytes, |field| block.take(field, max))
            .map_err(|_| Connection(Reason::COMPRESSION_ERROR))?;
        match self.by_id.get(&id).copied() {
            Some(key) => self.block_of(key, id, end, block),
            None if self.options.role == Role::Server && id % 2 == 1 && id > self.last_peer => {
                self.begun(id, end, block);
                Ok(())
            }
            None => self.without_stream(id),
        }
    }

    /// A new request.
    fn begun(&mut self, id: u32, end: bool, block: Block) {
        if self.leaving == Leaving::Said {
            // It was told of the last one; what it sends there is let pass.
            return;
        }
        self.last_peer = id;
        if self.open >= self.options.max_streams {
            return self.reset_id(id, Reason::REFUSED_STREAM);
        }
        let mut head = block.request(self.options.max_head, self.options.connect);
        let length = block.length();
        if length.is_err() || (end && length.is_ok_and(|l| l.unwrap_or(0) > 0)) {
            head = Err(Wrong::Malformed);
        }
        let key = self.insert(id);
        if let Some(s) = self.stream(key) {
            (s.got_head, s.got_end) = (true, end);
            s.length = length.unwrap_or(None);
            s.handles = 1;
        }
        self.accepted.push_back(Accepted { key, head: head.map(|()| block), end });
    }

    /// A header block on a stream that is there.
    fn block_of(&mut self, key: u32, id: u32, end: bool, block: Block) -> Done {
        let max = self.options.max_head;
        let client = self.options.role == Role::Client;
        let Some(s) = self.stream(key) else { return Ok(()) };
        if s.got_end {
            return Err(Connection(Reason::STREAM_CLOSED));
        }
        let wrong = |wrong: Wrong| match wrong {
            Wrong::Malformed => OnStream(id, Reason::PROTOCOL_ERROR),
            Wrong::TooLarge => OnStream(id, Reason::INTERNAL_ERROR),
        };
        if client && !s.got_head {
            let status = block.response(max).map_err(wrong)?;
            if status.is_informational() {
                if end {
                    return Err(OnStream(id, Reason::PROTOCOL_ERROR));
                }
                s.interim = Some(status);
            } else {
                let bodiless = s.no_body || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
                let length = if bodiless { None } else { block.length().map_err(wrong)? };
                if end && length.is_some_and(|l| l > 0) {
                    return Err(OnStream(id, Reason::PROTOCOL_ERROR));
                }
                (s.got_head, s.got_end, s.length) = (true, end, length);
                s.head = Some(Box::new((status, block.fields)));
            }
        } else {
            block.trailers(max).map_err(wrong)?;
            if !end {
                return Err(OnStream(id, Reason::PROTOCOL_ERROR));
            }
            if s.length.is_some_and(|left| left > 0) {
                return Err(Length(id));
            }
            s.got_end = true;
            if !block.fields.is_empty() && !s.deaf {
                s.trailers = Some(Box::new(block.fields));
            }
        }
        if let Some(reader) = s.reader.take() {
            reader.wake();
        }
        self.settle(key);
        Ok(())
    }

    fn reset_by_peer(&mut self, head: Head, payload: &[u8]) -> Done {
        let reason = Reason::from(number(payload)?);
        if !self.was_begun(head.stream) {
            return Err(Connection(Reason::PROTOCOL_ERROR));
        }
        let Some(key) = self.by_id.get(&head.stream).copied() else { return Ok(()) };
        if let Some(s) = self.stream(key) {
            s.peer_reset = Some(reason);
            // After a complete answer it only says that the rest of the request is of no interest.
            if s.got_end && reason == Reason::NO_ERROR {
                s.sent_end = true;
            }
        }
        self.fail(key, BodyError::Reset(reason));
        Ok(())
    }

    fn settings(&mut self, head: Head, payload: &[u8]) -> Done {
        if head.stream != 0 {
            return Err(Connection(Reason::PROTOCOL_ERROR));
        }
        if head.has(flag::ACK) {
            return if payload.is_empty() { Ok(()) } else { Err(Connection(Reason::FRAME_SIZE_ERROR)) };
        }
        let (all, []) = payload.as_chunks::<6>() else { return Err(Connection(Reason::FRAME_SIZE_ERROR)) };
        self.got_settings = true;
        for [i1, i2, v1, v2, v3, v4] in all {
            self.setting(u16::from_be_bytes([*i1, *i2]), u32::from_be_bytes([*v1, *v2, *v3, *v4]))?;
        }
        frame::settings_ack(&mut self.out);
        self.wake_driver();
        Ok(())
    }

    fn setting(&mut self, id: u16, value: u32) -> Done {
        match id {
            setting::ENABLE_PUSH if value > 1 || (value == 1 && self.options.role == Role::Client) => {
                return Err(Connection(Reason::PROTOCOL_ERROR));
            }
            setting::HEADER_TABLE_SIZE => self.encoder.resize(value),
            setting::MAX_CONCURRENT_STREAMS => self.peer_streams = value,
            setting::INITIAL_WINDOW_SIZE => {
                if i64::from(value) > MAX_WINDOW {
                    return Err(Connection(Reason::FLOW_CONTROL_ERROR));
                }
                let by = i64::from(value) - self.peer_window;
                self.peer_window = i64::from(value);
                for s in self.streams.iter_mut().flatten() {
                    s.send_window += by;
                    if s.send_window > MAX_WINDOW {
                        return Err(Connection(Reason::FLOW_CONTROL_ERROR));
                    }
                    if by > 0
                        && let Some(writer) = s.writer.take()
                    {
                        writer.wake();
                    }
                }
            }
            setting::MAX_FRAME_SIZE if !(MAX_SIZE..=(1 << 24) - 1).contains(&(value as usize)) => {
                return Err(Connection(Reason::PROTOCOL_ERROR));
            }
            setting::ENABLE_CONNECT_PROTOCOL if value > 1 => return Err(Connection(Reason::PROTOCOL_ERROR)),
            // Sizes of heads are the peer's to judge. Unknown ones are ignored.
            _ => {}
        }
        Ok(())
    }

    fn pinged(&mut self, head: Head, payload: &[u8]) -> Done {
        if head.stream != 0 {
            return Err(Connection(Reason::PROTOCOL_ERROR));
        }
        let payload: [u8; 8] = payload.try_into().map_err(|_| Connection(Reason::FRAME_SIZE_ERROR))?;
        match (head.has(flag::ACK), payload) {
            (false, _) => frame::ping(&mut self.out, true, payload),
            (true, LEAVING) if self.leaving == Leaving::Told => {
                self.leaving = Leaving::Said;
                frame::goaway(&mut self.out, self.last_peer, Reason::NO_ERROR);
            }
            (true, ALIVE) => self.pong = true,
            (true, _) => return Ok(()),
        }
        self.wake_driver();
        Ok(())
    }

    fn goaway(&mut self, head: Head, payload: &[u8]) -> Done {
        if head.stream != 0 {
            return Err(Connection(Reason::PROTOCOL_ERROR));
        }
        let [l1, l2, l3, l4, ..] = *payload else { return Err(Connection(Reason::FRAME_SIZE_ERROR)) };
        if payload.len() < 8 {
            return Err(Connection(Reason::FRAME_SIZE_ERROR));
        }
        let last = u32::from_be_bytes([l1, l2, l3, l4]) & 0x7fff_ffff;
        self.farewell = Some(last);
        if self.options.role == Role::Client {
            // Those beyond it were not looked at, and never will be.
            let beyond: Vec<u32> = self.by_id.iter().filter(|(id, _)| **id > last).map(|(_, key)| *key).collect();
            for key in beyond {
                self.fail(key, BodyError::GoneAway);
            }
        }
        self.wake_driver();
        Ok(())
    }

    fn window(&mut self, head: Head, payload: &[u8]) -> Done {
        let by = i64::from(number(payload)? & 0x7fff_ffff);
        if head.stream == 0 {
            self.send_window += by;
            if by == 0 {
                return Err(Connection(Reason::PROTOCOL_ERROR));
            }
            if self.send_window > MAX_WINDOW {
                return Err(Connection(Reason::FLOW_CONTROL_ERROR));
            }
            self.pass_on();
            return Ok(());
        }
        if !self.was_begun(head.stream) {
            return Err(Connection(Reason::PROTOCOL_ERROR));
        }
        let Some(key) = self.by_id.get(&head.stream).copied() else { return Ok(()) };
        let Some(s) = self.stream(key) else { return Ok(()) };
        s.send_window += by;
        if by == 0 {
            return Err(OnStream(head.stream, Reason::PROTOCOL_ERROR));
        }
        if s.send_window > MAX_WINDOW {
            return Err(OnStream(head.stream, Reason::FLOW_CONTROL_ERROR));
        }
        if let Some(writer) = s.writer.take() {
            writer.wake();
        }
        Ok(())
    }

    /// Resets a stream for what its peer did. A malformed request costs the connection, where that is not spared.
    pub(in super::super) fn refuse(&mut self, key: u32, reason: Reason) {
        let spare = self.options.spare_connection || self.options.role == Role::Client;
        self.give_up(key, reason);
        if reason == Reason::PROTOCOL_ERROR && !spare {
            self.end(End::Breach(Breach::Malformed));
        }
    }

    /// Resets a stream whose peer broke the rules.
    fn give_up(&mut self, key: u32, reason: Reason) {
        self.send_reset(key, reason);
        if let Some(s) = self.stream(key) {
            s.error =
                Some(if reason == Reason::PROTOCOL_ERROR { BodyError::Protocol } else { BodyError::Reset(reason) });
        }
    }

    /// The next frame of a stream's body. `held`: bytes that its reader has had, and whose window opens again.
    pub(in super::super) fn poll_frame(
        &mut self,
        key: u32,
        cx: &Context<'_>,
        held: &mut usize,
    ) -> Poll<Option<Result<Frame, BodyError>>> {
        if *held > 0 {
            self.release(key, std::mem::take(held));
        }
        let Some(s) = self.stream(key) else { return Poll::Ready(Some(Err(BodyError::Closed))) };
        if let Some(data) = s.data.pop_front() {
            *held = data.len();
            return Poll::Ready(Some(Ok(Frame::Data(data))));
        }
        if let Some(trailers) = s.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::Trailers(*trailers))));
        }
        match s.error {
            _ if s.got_end => Poll::Ready(None),
            Some(error) => Poll::Ready(Some(Err(error))),
            None => {
                keep(&mut s.reader, cx);
                Poll::Pending
            }
        }
    }

    /// The head of a response.
    pub(in super::super) fn poll_head(
        &mut self,
        key: u32,
        cx: &Context<'_>,
    ) -> Poll<Result<(StatusCode, HeaderMap), BodyError>> {
        let Some(s) = self.stream(key) else { return Poll::Ready(Err(BodyError::Closed)) };
        if let Some(head) = s.head.take() {
            return Poll::Ready(Ok(*head));
        }
        match s.error {
            Some(error) => Poll::Ready(Err(error)),
            None if s.got_head => Poll::Ready(Err(BodyError::Closed)),
            None => {
                keep(&mut s.reader, cx);
                Poll::Pending
            }
        }
    }

    /// An informational answer that came since the last call.
    pub(in super::super) fn take_interim(&mut self, key: u32) -> Option<StatusCode> {
        self.stream(key)?.interim.take()
    }

    /// The peer reset it, and with what.
    pub(in super::super) fn peer_reset(&mut self, key: u32) -> Option<Reason> {
        self.stream(key)?.peer_reset
    }

    /// Nothing more will come, and nothing is left to be read.
    pub(in super::super) fn is_end(&mut self, key: u32) -> bool {
        self.stream(key).is_none_or(|s| s.got_end && s.data.is_empty() && s.trailers.is_none() && s.head.is_none())
    }

    /// Nobody will read what comes.
    pub(in super::super) fn stop_reading(&mut self, key: u32, held: usize) {
        let Some(s) = self.stream(key) else { return self.give_back(held) };
        s.deaf = true;
        s.trailers = None;
        let unread: usize = s.data.drain(..).map(|d| d.len()).sum();
        self.give_back(unread + held);
    }

    fn release(&mut self, key: u32, bytes: usize) {
        self.give_back(bytes);
        let half = self.options.stream_window / 2;
        let Some(s) = self.stream(key) else { return };
        s.released += bytes as u32;
        if s.released >= half && !s.got_end && s.error.is_none() {
            let by = std::mem::take(&mut s.released);
            s.receive_window += i64::from(by);
            let id = s.id;
            frame::window(&mut self.out, id, by);
            self.wake_driver();
        }
    }
}

/// A payload of four bytes.
fn number(payload: &[u8]) -> Result<u32, Fault> {
    payload.try_into().map(u32::from_be_bytes).map_err(|_| Connection(Reason::FRAME_SIZE_ERROR))
}

/// The stream that a priority depends on.
fn dependency(priority: &[u8]) -> u32 {
    priority.first_chunk().map_or(0, |first| u32::from_be_bytes(*first) & 0x7fff_ffff)
}

/// Priorities are not used (RFC 9113 section 5.3.2), but must be well-formed.
fn priority(head: Head, payload: &[u8]) -> Done {
    match () {
        () if head.stream == 0 => Err(Connection(Reason::PROTOCOL_ERROR)),
        () if payload.len() != 5 => Err(OnStream(head.stream, Reason::FRAME_SIZE_ERROR)),
        () if dependency(payload) == head.stream => Err(OnStream(head.stream, Reason::PROTOCOL_ERROR)),
        () => Ok(()),
    }
}

/// Where a payload is without its padding.
fn unpadded(head: Head, payload: &[u8]) -> Result<Range<usize>, Fault> {
    if !head.has(flag::PADDED) {
        return Ok(0..payload.len());
    }
    let (padding, rest) = payload.split_first().ok_or(Connection(Reason::FRAME_SIZE_ERROR))?;
    let len = rest.len().checked_sub(usize::from(*padding)).ok_or(Connection(Reason::PROTOCOL_ERROR))?;
    Ok(1..1 + len)
}
