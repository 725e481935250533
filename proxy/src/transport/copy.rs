//! Carrying bytes between two connections, both ways, until both have ended.
//!
//! Nothing is held for a direction that is quiet: no buffer, no pipe. Bytes are read into a buffer of the thread and written
//! at once; only what the other side does not take is kept, with the buffer it is in. Bulk between two plain TCP sockets is
//! moved by the kernel, see [`super::splice`]. Runs on: workers.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::time::Instant;

use super::Stream;
use super::splice::{PIPE_SIZE, Pipe};
use crate::stats::Counter;
use crate::timer::LazyTimer;

#[cfg(test)]
mod tests;

/// A read. Larger ones leave the cache between being read and being written.
const CHUNK: usize = 64 << 10;
/// The smallest read, whatever limit is set.
const MIN_CHUNK: usize = 1 << 10;
/// Up to so much, what could not be written is copied to a buffer of its size; above, its buffer is kept.
const SMALL_REST: usize = 8 << 10;
/// Buffers a thread keeps for later.
const KEPT_BUFFERS: usize = 4;
/// A direction lets others run after so much.
const TURN: usize = 1 << 20;
/// Reads of at least this size are bulk.
const BULK_READ: usize = 16 << 10;
/// So much bulk in a row, and the kernel takes over.
const BULK: usize = 64 << 10;
/// So many small moves in a row, and it is left again: a buffer costs fewer system calls.
const SMALL_MOVES: u8 = 16;

/// What bounds a relay, and what counts its bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct RelayOptions<'a> {
    /// Neither side has sent or taken anything for so long; `None`: no limit.
    pub idle_timeout: Option<Duration>,
    /// Nothing went to or came from the downstream connection for so long.
    pub downstream_idle_timeout: Option<Duration>,
    /// Nothing went to or came from the upstream connection for so long.
    pub upstream_idle_timeout: Option<Duration>,
    /// It ends then at the latest.
    pub deadline: Option<Instant>,
    /// Count bytes from downstream to upstream, as they flow.
    pub to_upstream: &'a [&'a Counter],
    /// Count bytes from upstream to downstream, as they flow.
    pub to_downstream: &'a [&'a Counter],
    /// At most so much is held per direction; `None`: what is best.
    pub buffer_limit: Option<usize>,
}

/// Why a relay ended.
#[derive(Debug)]
pub enum RelayEnd {
    /// Both sides have ended, the client first.
    DownstreamClosed,
    /// Both sides have ended, the upstream first.
    UpstreamClosed,
    /// The downstream connection failed, as by a reset.
    DownstreamFailed(io::Error),
    /// The upstream connection failed.
    UpstreamFailed(io::Error),
    /// One of the idle timeouts.
    Idle,
    /// The deadline.
    Deadline,
}

/// Carries bytes between two streams. It may be left and taken up again: what is under way stays in it.
pub struct Relay<'a> {
    to_upstream: Direction<'a>,
    to_downstream: Direction<'a>,
    /// Which side ended first.
    first: Option<Side>,
    clock: IdleClock<'a>,
}

impl<'a> Relay<'a> {
    /// A relay that begins now.
    pub fn new(options: RelayOptions<'a>) -> Self {
        let now = Instant::now();
        let mut clock = IdleClock { options, downstream: now, upstream: now, timer: LazyTimer::default() };
        clock.arm();
        Relay {
            to_upstream: Direction::new(options.to_upstream, options.buffer_limit),
            to_downstream: Direction::new(options.to_downstream, options.buffer_limit),
            first: None,
            clock,
        }
    }

    /// Bytes carried so far: from downstream to upstream, and back.
    pub fn moved(&self) -> (u64, u64) {
        (self.to_upstream.moved, self.to_downstream.moved)
    }

    /// Carries bytes until both sides have ended, one fails, or time is up. One side's end is passed on as the end of writing
    /// to the other, which may go on sending. The streams are left for the caller to close.
    ///
    /// # Cancel safety
    /// Nothing is lost if it is called again, with the same streams.
    pub async fn run(&mut self, down: &mut Stream, up: &mut Stream) -> RelayEnd {
        std::future::poll_fn(|cx| self.poll(down, up, cx)).await
    }
}

#[derive(Clone, Copy)]
enum Side {
    Downstream,
    Upstream,
}

impl Relay<'_> {
    fn poll(&mut self, down: &mut Stream, up: &mut Stream, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        let forth = match self.to_upstream.poll(down, up, cx) {
            Poll::Ready(Err(Failed::Reading(e))) => return Poll::Ready(RelayEnd::DownstreamFailed(e)),
            Poll::Ready(Err(Failed::Writing(e))) => return Poll::Ready(RelayEnd::UpstreamFailed(e)),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        if self.first.is_none() && self.to_upstream.has_ended() {
            self.first = Some(Side::Downstream);
        }
        let back = match self.to_downstream.poll(up, down, cx) {
            Poll::Ready(Err(Failed::Reading(e))) => return Poll::Ready(RelayEnd::UpstreamFailed(e)),
            Poll::Ready(Err(Failed::Writing(e))) => return Poll::Ready(RelayEnd::DownstreamFailed(e)),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        if self.first.is_none() && self.to_downstream.has_ended() {
            self.first = Some(Side::Upstream);
        }
        if forth && back {
            return Poll::Ready(match self.first {
                Some(Side::Upstream) => RelayEnd::UpstreamClosed,
                _ => RelayEnd::DownstreamClosed,
            });
        }
        let (a, b) = (self.to_upstream.take_activity(), self.to_downstream.take_activity());
        self.clock.poll(Activity { downstream: a.read || b.wrote, upstream: b.read || a.wrote }, cx)
    }
}

/// What happened since last asked.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    read: bool,
    wrote: bool,
}

/// On which connection something happened.
#[derive(Debug, Clone, Copy)]
struct Activity {
    downstream: bool,
    upstream: bool,
}

/// All limits of time, on one timer.
struct IdleClock<'a> {
    options: RelayOptions<'a>,
    /// Last activity.
    downstream: Instant,
    upstream: Instant,
    timer: LazyTimer,
}

impl IdleClock<'_> {
    fn arm(&mut self) {
        let o = self.options;
        let limits = [
            o.idle_timeout.map(|t| self.downstream.max(self.upstream) + t),
            o.downstream_idle_timeout.map(|t| self.downstream + t),
            o.upstream_idle_timeout.map(|t| self.upstream + t),
            o.deadline,
        ];
        self.timer.set(limits.into_iter().flatten().min());
    }

    fn poll(&mut self, seen: Activity, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        if seen.downstream || seen.upstream {
            let now = Instant::now();
            if seen.downstream {
                self.downstream = now;
            }
            if seen.upstream {
                self.upstream = now;
            }
            self.arm();
        }
        ready!(self.timer.poll_expired(cx));
        Poll::Ready(match self.options.deadline {
            Some(deadline) if deadline <= Instant::now() => RelayEnd::Deadline,
            _ => RelayEnd::Idle,
        })
    }
}

/// Which end of a direction failed.
enum Failed {
    Reading(io::Error),
    Writing(io::Error),
}

/// One way.
struct Direction<'a> {
    state: State,
    moved: u64,
    progress: Progress,
    /// Written since the last flush: TLS may hold some of it.
    unflushed: bool,
    method: Method,
    /// Size of a read.
    chunk: usize,
    counters: &'a [&'a Counter],
}

enum State {
    /// Waiting for something to read.
    Open,
    /// What the other side has not taken yet.
    Rest(Rest),
    /// Being moved by the kernel.
    Piped(Pipe),
    /// Ended; the end is still to be passed on.
    Ending,
    /// The end has been passed on.
    Ended,
}

/// How bytes are to be moved.
enum Method {
    /// Through a buffer; so much of it was bulk, in a row.
    Buffer { bulk: usize },
    /// By the kernel; so many moves were small, in a row.
    Splice { small: u8 },
    /// Through a buffer, for good.
    BufferOnly,
}

impl<'a> Direction<'a> {
    fn new(counters: &'a [&'a Counter], limit: Option<usize>) -> Self {
        // A pipe holds what it holds; who wants less gets a buffer.
        let method = match limit {
            Some(limit) if limit < PIPE_SIZE => Method::BufferOnly,
            _ => Method::Buffer { bulk: 0 },
        };
        Direction {
            state: State::Open,
            moved: 0,
            progress: Progress::default(),
            unflushed: false,
            method,
            chunk: limit.unwrap_or(CHUNK).clamp(MIN_CHUNK, CHUNK),
            counters,
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self.state, State::Ending | State::Ended)
    }

    fn take_activity(&mut self) -> Progress {
        std::mem::take(&mut self.progress)
    }

    fn poll(&mut self, from: &mut Stream, to: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        let turn = self.moved;
        loop {
            if self.moved - turn >= TURN as u64 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match &mut self.state {
                State::Open => ready!(self.poll_open(from, to, cx))?,
                State::Rest(rest) => {
                    let before = rest.at;
                    let done = rest.poll_write(to, cx);
                    self.progress.wrote |= rest.at > before;
                    ready!(done).map_err(Failed::Writing)?;
                    self.unflushed = true;
                    if let State::Rest(rest) = std::mem::replace(&mut self.state, State::Open) {
                        rest.recycle();
                    }
                }
                State::Piped(_) => ready!(self.poll_piped(from, to, cx))?,
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Failed::Writing)?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_open(&mut self, from: &mut Stream, to: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        match from.poll_readable(cx) {
            Poll::Ready(result) => result.map_err(Failed::Reading)?,
            Poll::Pending => {
                if self.unflushed {
                    ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Failed::Writing)?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
        }
        if matches!(self.method, Method::Splice { .. }) && from.tcp().is_some() && to.tcp().is_some() {
            match Pipe::take() {
                Ok(pipe) => {
                    self.state = State::Piped(pipe);
                    return Poll::Ready(Ok(()));
                }
                // Out of descriptors: a buffer needs none.
                Err(_) => self.method = Method::BufferOnly,
            }
        }
        self.poll_copy(from, to, cx)
    }

    /// One read, and as many writes as it takes.
    fn poll_copy(&mut self, from: &mut Stream, to: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        let mut rest = Rest { buffer: buffer(), at: 0, end: 0 };
        let mut read = ReadBuf::new(&mut rest.buffer[..self.chunk]);
        let result = Pin::new(from).poll_read(cx, &mut read);
        let n = read.filled().len();
        match result {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(e)) => return Poll::Ready(Err(Failed::Reading(e))),
            Poll::Pending => {
                rest.recycle();
                return Poll::Pending;
            }
        }
        if n == 0 {
            rest.recycle();
            self.state = State::Ending;
            return Poll::Ready(Ok(()));
        }
        rest.end = n;
        self.count(n);
        self.after_read(n);
        let written = rest.poll_write(to, cx);
        self.progress.wrote |= rest.at > 0;
        match written {
            Poll::Ready(Ok(())) => {
                self.unflushed = true;
                rest.recycle();
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(Failed::Writing(e))),
            Poll::Pending => {
                self.state = State::Rest(rest.shrink());
                Poll::Pending
            }
        }
    }

    /// Through the pipe, until the source pauses or the other side is full.
    fn poll_piped(&mut self, from: &mut Stream, to: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        let (State::Piped(pipe), Some(source), Some(sink)) = (&mut self.state, from.tcp(), to.tcp()) else {
            self.state = State::Open;
            return Poll::Ready(Ok(()));
        };
        while pipe.len() > 0 {
            ready!(sink.poll_write_ready(cx)).map_err(Failed::Writing)?;
            match sink.try_io(Interest::WRITABLE, || pipe.drain(sink)) {
                Ok(0) => return Poll::Ready(Err(Failed::Writing(io::ErrorKind::WriteZero.into()))),
                Ok(_) => self.progress.wrote = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(Failed::Writing(e))),
            }
        }
        let filled = match source.poll_read_ready(cx) {
            Poll::Ready(Ok(())) => source.try_io(Interest::READABLE, || pipe.fill(source)),
            Poll::Ready(Err(e)) => Err(e),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        };
        let next = match filled {
            Ok(0) => State::Ending,
            Ok(n) => {
                self.count(n);
                self.after_read(n);
                return Poll::Ready(Ok(()));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => State::Open,
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                // A socket that cannot be spliced.
                self.method = Method::BufferOnly;
                State::Open
            }
            Err(e) => return Poll::Ready(Err(Failed::Reading(e))),
        };
        if let State::Piped(pipe) = std::mem::replace(&mut self.state, next) {
            pipe.give_back();
        }
        Poll::Ready(Ok(()))
    }

    fn count(&mut self, n: usize) {
        self.progress.read = true;
        self.moved += n as u64;
        for counter in self.counters {
            counter.add(n as u64);
        }
    }

    /// Chooses how to go on, by the size of the latest read.
    fn after_read(&mut self, n: usize) {
        match &mut self.method {
            Method::Buffer { bulk } => {
                *bulk = if n >= BULK_READ { *bulk + n } else { 0 };
                if *bulk >= BULK {
                    self.method = Method::Splice { small: 0 };
                }
            }
            Method::Splice { small } => {
                *small = if n >= BULK_READ { 0 } else { *small + 1 };
                if *small >= SMALL_MOVES {
                    self.method = Method::Buffer { bulk: 0 };
                }
            }
            Method::BufferOnly => {}
        }
    }
}

/// Bytes on their way, `at..end` of a buffer.
struct Rest {
    buffer: Box<[u8]>,
    at: usize,
    end: usize,
}

thread_local! {
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of [`CHUNK`] bytes with anything in it.
fn buffer() -> Box<[u8]> {
    BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; CHUNK].into())
}

impl Rest {
    fn poll_write(&mut self, to: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.end {
            match ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer[self.at..self.end]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.at += n,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn recycle(self) {
        BUFFERS.with_borrow_mut(|buffers| {
            if self.buffer.len() == CHUNK && buffers.len() < KEPT_BUFFERS {
                buffers.push(self.buffer);
            }
        });
    }

    /// A little that has to wait does not hold a large buffer.
    fn shrink(self) -> Rest {
        let len = self.end - self.at;
        if len > SMALL_REST {
            return self;
        }
        let buffer = self.buffer[self.at..self.end].into();
        self.recycle();
        Rest { buffer, at: 0, end: len }
    }
}
