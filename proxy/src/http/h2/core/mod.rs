//! The state of an HTTP/2 connection, either side: streams, windows, what waits to be written; sans-io.
//!
//! The task of the connection feeds it with frames ([`Core::frame`]) and writes what it has to say ([`Core::out`]). The tasks of
//! the streams write straight into that buffer, as far as windows and [`HIGH_WATER`] allow, and take what has come for them.
//! Nothing is queued for sending: a body stays with its source until it can leave.
//!
//! Runs on: the worker of the connection. The lock around it is there because futures are `Send`; nobody waits for it.

mod receive;
mod send;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::StatusCode;

use super::Reason;
use super::frame::{self, DEFAULT_WINDOW, setting};
use super::guard::{Breach, Guard};
use super::heads::Block;
use super::hpack::{Decoder, Encoder};
use crate::http::HeaderMap;
use crate::http::body::BodyError;
use crate::http::spare;

/// Bytes that may wait for the socket.
pub(super) const HIGH_WATER: usize = 128 << 10;

/// Streams that were reset from here and whose late frames are still let pass.
const REMEMBERED: usize = 1024;

/// Which end this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

/// What one end wants.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) role: Role,
    pub(super) stream_window: u32,
    pub(super) connection_window: u32,
    /// Streams the peer may have open.
    pub(super) max_streams: u32,
    /// Bytes of a head, as HPACK counts them.
    pub(super) max_head: usize,
    /// HPACK's table.
    pub(super) table: u32,
    /// Extended CONNECT.
    pub(super) connect: bool,
    /// Malformed requests cost only their streams.
    pub(super) spare_connection: bool,
}

#[cfg(test)]
impl Options {
    /// Those of a test.
    pub(super) fn of(role: Role) -> Self {
        Options {
            role,
            stream_window: 1 << 20,
            connection_window: 1 << 20,
            max_streams: 100,
            max_head: 60 << 10,
            table: 4096,
            connect: false,
            spare_connection: false,
        }
    }
}

/// Why a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The transport is gone, or the peer closed it.
    Closed,
    /// The peer broke the protocol.
    Protocol(Reason),
    /// The peer did what it is left for.
    Breach(Breach),
    /// One side said goodbye, and no stream is left.
    Goodbye,
}

/// A request that a peer began.
pub(super) struct Accepted {
    pub(super) key: u32,
    /// Its head, or why it goes no further.
    pub(super) head: Result<Block, super::heads::Wrong>,
    /// There is no body.
    pub(super) end: bool,
}

/// A stream.
struct Stream {
    id: u32,
    /// Handles to it.
    handles: u8,
    /// Our END_STREAM is out.
    sent_end: bool,
    /// The peer's END_STREAM is here.
    got_end: bool,
    /// It ended before that.
    error: Option<BodyError>,
    /// The peer reset it.
    peer_reset: Option<Reason>,
    /// It has a place among those that count as open.
    counted: bool,
    /// Nobody reads what comes any more.
    deaf: bool,
    /// The final head has been seen (client), or the request's (server).
    got_head: bool,
    /// It answers a HEAD: a length says nothing about a body.
    no_body: bool,
    receive_window: i64,
    /// Taken by its reader, and not yet told to the peer.
    released: u32,
    send_window: i64,
    data: VecDeque<Bytes>,
    head: Option<Box<(StatusCode, HeaderMap)>>,
    interim: Option<StatusCode>,
    trailers: Option<Box<HeaderMap>>,
    /// Body bytes that are still to come, where the head says.
    length: Option<u64>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// It waits in the queue for the connection's window.
    waits: bool,
}

/// Stream identifiers are counted up by the peers: nothing to be gained from mixing them well.
#[derive(Default)]
pub(super) struct Ids(u64);

impl Hasher for Ids {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u32(u32::from(*b));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A header block that arrives in pieces.
struct Partial {
    stream: u32,
    end: bool,
    block: Vec<u8>,
}

/// How far a graceful end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// The peer was told that we leave, not yet with what; a PING shows when it knows.
    Told,
    /// It knows the last stream that will be served.
    Said,
}

/// The state of a connection.
pub(super) struct Core {
    options: Options,
    streams: Vec<Option<Stream>>,
    free: Vec<u32>,
    by_id: HashMap<u32, u32, BuildHasherDefault<Ids>>,
    /// What is to be written.
    pub(super) out: Vec<u8>,
    decoder: Decoder,
    encoder: Encoder,
    pub(super) guard: Option<Guard>,
    peer_window: i64,
    peer_streams: u32,
    send_window: i64,
    receive_window: i64,
    released: u32,
    /// Streams that wait for the connection's window or for room in `out`, in turn.
    queue: VecDeque<u32>,
    last_peer: u32,
    next_local: u32,
    /// Streams that count.
    open: u32,
    partial: Option<Partial>,
    reset: VecDeque<u32>,
    leaving: Leaving,
    /// The peer's GOAWAY: its last stream.
    farewell: Option<u32>,
    /// The keepalive's PING was answered.
    pong: bool,
    got_settings: bool,
    pub(super) ended: Option<End>,
    pub(super) accepted: VecDeque<Accepted>,
    driver: Option<Waker>,
}

/// Payloads of our PINGs.
const LEAVING: [u8; 8] = *b"weft-bye";
const ALIVE: [u8; 8] = *b"weft-now";

impl Core {
    /// A connection that has just begun; its first words are in `out`.
    pub(super) fn new(options: Options, guard: Option<Guard>) -> Self {
        let mut out = Vec::new();
        spare::ready(&mut out);
        let o = &options;
        let head = u32::try_from(o.max_head).unwrap_or(u32::MAX);
        match o.role {
            Role::Client => {
                out.extend_from_slice(frame::PREFACE);
                let all = [
                    (setting::HEADER_TABLE_SIZE, o.table),
                    (setting::ENABLE_PUSH, 0),
                    (setting::INITIAL_WINDOW_SIZE, o.stream_window),
                    (setting::MAX_HEADER_LIST_SIZE, head),
                ];
                frame::settings(&mut out, &all);
            }
            Role::Server => {
                let all = [
                    (setting::HEADER_TABLE_SIZE, o.table),
                    (setting::MAX_CONCURRENT_STREAMS, o.max_streams),
                    (setting::INITIAL_WINDOW_SIZE, o.stream_window),
                    (setting::MAX_HEADER_LIST_SIZE, head),
                    (setting::ENABLE_CONNECT_PROTOCOL, 1),
                ];
                frame::settings(&mut out, if o.connect { &all } else { &all[..4] });
            }
        }
        if let Some(more) = o.connection_window.checked_sub(DEFAULT_WINDOW).filter(|more| *more > 0) {
            frame::window(&mut out, 0, more);
        }
        Core {
            decoder: Decoder::new(o.table as usize),
            receive_window: i64::from(o.connection_window.max(DEFAULT_WINDOW)),
            streams: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::default(),
            out,
            encoder: Encoder::default(),
            guard,
            peer_window: i64::from(DEFAULT_WINDOW),
            // Until its settings say.
            peer_streams: 100,
            send_window: i64::from(DEFAULT_WINDOW),
            released: 0,
            queue: VecDeque::new(),
            last_peer: 0,
            next_local: 1,
            open: 0,
            partial: None,
            reset: VecDeque::new(),
            leaving: Leaving::No,
            farewell: None,
            pong: false,
            got_settings: false,
            ended: None,
            accepted: VecDeque::new(),
            driver: None,
            options,
        }
    }

    /// Whoever drives the connection is to be woken by this.
    pub(super) fn drive_with(&mut self, cx: &Context<'_>) {
        keep(&mut self.driver, cx);
    }

    /// There is something to write.
    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Streams the peer lets us have.
    pub(super) fn peer_streams(&self) -> u32 {
        self.peer_streams
    }

    /// Whether new streams may be begun: the peer has not said goodbye, and there are identifiers left.
    pub(super) fn takes_streams(&self) -> bool {
        self.ended.is_none() && self.farewell.is_none() && self.next_local <= i32::MAX as u32
    }

    /// The peer has said goodbye.
    pub(super) fn is_going_away(&self) -> bool {
        self.farewell.is_some()
    }

    /// Begins a graceful end: streams are served until the peer knows that it should begin no more.
    pub(super) fn leave(&mut self) {
        if self.leaving == Leaving::No && self.ended.is_none() {
            self.leaving = Leaving::Told;
            frame::goaway(&mut self.out, i32::MAX as u32, Reason::NO_ERROR);
            frame::ping(&mut self.out, false, LEAVING);
            self.wake_driver();
        }
    }

    /// The peer has been told all, and no stream is left.
    pub(super) fn is_done(&self) -> bool {
        self.open == 0
            && (self.leaving == Leaving::Said || (self.farewell.is_some() && self.options.role == Role::Client))
    }

    /// Sends a PING.
    pub(super) fn ping(&mut self) {
        self.pong = false;
        frame::ping(&mut self.out, false, ALIVE);
        self.wake_driver();
    }

    /// Whether the last PING was answered.
    pub(super) fn take_pong(&mut self) -> bool {
        std::mem::take(&mut self.pong)
    }

    /// Ends the connection: every stream that is open fails. Later ends change nothing.
    pub(super) fn end(&mut self, end: End) {
        if self.ended.is_some() {
            return;
        }
        match end {
            End::Protocol(reason) => frame::goaway(&mut self.out, self.last_peer, reason),
            End::Breach(breach) => frame::goaway(&mut self.out, self.last_peer, breach.reason()),
            End::Closed | End::Goodbye => {}
        }
        self.ended = Some(end);
        let error = if matches!(end, End::Protocol(_)) { BodyError::Protocol } else { BodyError::Closed };
        for key in 0..self.streams.len() as u32 {
            self.fail(key, error);
        }
        self.wake_driver();
    }

    fn stream(&mut self, key: u32) -> Option<&mut Stream> {
        self.streams.get_mut(key as usize)?.as_mut()
    }

    fn insert(&mut self, id: u32) -> u32 {
        let stream = Stream {
            id,
            handles: 0,
            sent_end: false,
            got_end: false,
            error: None,
            peer_reset: None,
            counted: true,
            deaf: false,
            got_head: false,
            no_body: false,
            receive_window: i64::from(self.options.stream_window),
            released: 0,
            send_window: self.peer_window,
            data: VecDeque::new(),
            head: None,
            interim: None,
            trailers: None,
            length: None,
            reader: None,
            writer: None,
            waits: false,
        };
        self.open += 1;
        let key = match self.free.pop() {
            Some(key) => {
                self.streams[key as usize] = Some(stream);
                key
            }
            None => {
                self.streams.push(Some(stream));
                self.streams.len() as u32 - 1
            }
        };
        self.by_id.insert(id, key);
        key
    }

    /// Fails a stream that has not ended.
    fn fail(&mut self, key: u32, error: BodyError) {
        let Some(s) = self.stream(key) else { return };
        if s.error.is_none() && !(s.got_end && s.sent_end) {
            s.error = Some(error);
        }
        for waker in [s.reader.take(), s.writer.take()].into_iter().flatten() {
            waker.wake();
        }
        self.settle(key);
    }

    /// Gives up a stream's place once both sides have ended it, and the stream itself once nobody holds it.
    fn settle(&mut self, key: u32) {
        let Some(Some(s)) = self.streams.get_mut(key as usize) else { return };
        let over = s.error.is_some() || (s.got_end && s.sent_end);
        let gone = over && s.handles == 0;
        if over && std::mem::take(&mut s.counted) {
            let id = s.id;
            self.open -= 1;
            self.by_id.remove(&id);
            if self.open == 0 && (self.leaving != Leaving::No || self.farewell.is_some()) {
                self.wake_driver();
            }
        }
        if gone {
            let unread = self.streams[key as usize].take().map_or(0, |s| s.data.iter().map(Bytes::len).sum());
            self.free.push(key);
            self.give_back(unread);
            // Its turn may have come meanwhile.
            self.pass_on();
        }
        if self.streams.len() > 64 && self.free.len() == self.streams.len() {
            // A burst is over.
            self.streams = Vec::new();
            self.free = Vec::new();
        }
    }

    /// Bytes of the connection's window that nobody holds any more.
    fn give_back(&mut self, bytes: usize) {
        self.released += bytes as u32;
        if self.released >= self.options.connection_window.max(DEFAULT_WINDOW) / 2 {
            let by = std::mem::take(&mut self.released);
            self.receive_window += i64::from(by);
            frame::window(&mut self.out, 0, by);
            self.wake_driver();
        }
    }

    /// Room for payload: the connection's window, and the buffer.
    fn room(&self) -> usize {
        let window = usize::try_from(self.send_window).unwrap_or(0);
        window.min(HIGH_WATER.saturating_sub(self.out.len()))
    }

    /// Wakes whose turn it is, if there is room.
    pub(super) fn pass_on(&mut self) {
        while self.room() > 0
            && let Some(key) = self.queue.pop_front()
        {
            let Some(s) = self.stream(key) else { continue };
            if !std::mem::take(&mut s.waits) {
                continue;
            }
            if let Some(writer) = s.writer.take() {
                writer.wake();
                return;
            }
        }
    }

    /// Another handle to a stream.
    pub(super) fn hold(&mut self, key: u32) {
        if let Some(s) = self.stream(key) {
            s.handles += 1;
        }
    }

    /// A handle is gone. With the last one the stream ends, whatever was still to come.
    pub(super) fn let_go(&mut self, key: u32) {
        let Some(s) = self.stream(key) else { return };
        s.handles -= 1;
        if s.handles == 0 {
            if s.error.is_none() && !(s.got_end && s.sent_end) {
                // The answer is complete, and the rest of the request is of no interest.
                let reason = if s.sent_end { Reason::NO_ERROR } else { Reason::CANCEL };
                return self.send_reset(key, reason);
            }
            self.settle(key);
        }
    }
}

fn keep(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *slot = Some(cx.waker().clone()),
    }
}

/// What a poll of a stream that is gone says.
const GONE: Poll<Result<(), BodyError>> = Poll::Ready(Err(BodyError::Closed));
