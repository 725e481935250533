//! The one body type that runs through codecs, filters and the router.
//!
//! A body is pulled: whoever writes it on polls the next frame, so that a slow reader on one side stops the reading on the other
//! without a queue in between. It may also carry work that must go on while it is read, such as the rest of a request's
//! upload behind an early response. Runs on: workers, inside the task of the stream it belongs to.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;

use super::filter::{FilteredBody, HeldBody, LimitedBody};
use super::h1::client::H1Conn;
use super::h2::client::H2Body;
use super::h2::server::H2Recv;
use super::replay::ReplayBody;
use super::timed_body::TimedBody;
use crate::http::HeaderMap;

/// A piece of a body.
#[derive(Debug)]
pub enum Frame {
    /// Payload, never empty.
    Data(Bytes),
    /// Trailers; nothing follows.
    Trailers(HeaderMap),
}

/// Why a body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// The peer closed its connection.
    Closed,
    /// The peer reset the stream.
    Reset(crate::http::h2::Reason),
    /// The peer's GOAWAY says that it will not look at the stream.
    GoneAway,
    /// The peer broke the protocol.
    Protocol,
    /// A limit of ours was exceeded.
    TooLarge,
    /// Trailers beyond the size of heads.
    TrailersTooLarge,
    /// More trailers than a head may have fields.
    TooManyTrailers,
    /// Nothing came for too long.
    IdleTimeout,
    /// The whole stream took too long.
    Timeout,
    /// The stream was given up by this side.
    Cancelled,
}

/// A request's or response's body.
#[derive(Default)]
pub enum Body {
    /// Nothing (any more).
    #[default]
    Empty,
    /// All of it at hand.
    Full(Bytes),
    /// Fed by a codec as it is asked for.
    Pipe(PipeBody),
    /// From an HTTP/1 upstream connection, which it returns to its pool at the end.
    H1(Box<H1Conn>),
    /// From an HTTP/2 upstream stream.
    H2(Box<H2Body>),
    /// From a client's HTTP/2 stream.
    H2Recv(H2Recv),
    /// A request body that can be sent again.
    Replay(ReplayBody),
    /// Seen or changed by filters.
    Filtered(Box<FilteredBody>),
    /// A response with time limits of its own.
    Timed(Box<TimedBody>),
    /// A response that goes out slowly.
    Limited(Box<LimitedBody>),
    /// A request of which a part was read while a filter held it.
    Held(Box<HeldBody>),
}

impl Body {
    /// A body of these bytes, or none.
    pub fn from_bytes(bytes: Bytes) -> Self {
        if bytes.is_empty() { Body::Empty } else { Body::Full(bytes) }
    }

    /// Known to hold nothing more.
    pub fn is_end(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(b) => b.is_empty(),
            Body::H1(c) => c.body_done(),
            Body::H2(b) => b.is_end(),
            Body::H2Recv(b) => b.is_end(),
            Body::Timed(b) => b.is_end(),
            Body::Held(b) => b.is_end(),
            Body::Pipe(_) | Body::Replay(_) | Body::Filtered(_) | Body::Limited(_) => false,
        }
    }

    /// Exact number of bytes to come, where it is known without reading.
    pub fn exact_len(&self) -> Option<u64> {
        match self {
            Body::Empty => Some(0),
            Body::Full(b) => Some(b.len() as u64),
            Body::H2(b) if b.is_end() => Some(0),
            _ => None,
        }
    }

    /// The next frame; `None` at the end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match self {
            Body::Empty => Poll::Ready(None),
            Body::Full(b) => {
                let b = std::mem::take(b);
                *self = Body::Empty;
                Poll::Ready((!b.is_empty()).then_some(Ok(Frame::Data(b))))
            }
            Body::Pipe(p) => p.poll_frame(cx),
            Body::H1(c) => {
                let frame = std::task::ready!(c.poll_frame(cx));
                if !matches!(frame, Some(Ok(_))) {
                    finish_h1(std::mem::take(self));
                }
                Poll::Ready(frame)
            }
            Body::H2(b) => b.poll_frame(cx),
            Body::H2Recv(b) => b.poll_frame(cx),
            Body::Replay(r) => r.poll_frame(cx),
            Body::Filtered(f) => f.poll_frame(cx),
            Body::Timed(t) => t.poll_frame(cx),
            Body::Limited(l) => l.poll_frame(cx),
            Body::Held(h) => h.poll_frame(cx),
        }
    }

    /// Lets go of a body that [`is_end`](Body::is_end): an HTTP/1 connection goes home to its pool.
    pub fn finish(self) {
        finish_h1(self);
    }

    /// The next frame; `None` at the end.
    ///
    /// # Cancel safety
    /// Safe: a frame is either returned or still to come.
    pub async fn frame(&mut self) -> Option<Result<Frame, BodyError>> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// A handle that feeds a [`Body::Pipe`].
    pub fn pipe() -> (PipeFeed, Body) {
        let shared = Arc::new(Mutex::new(Pipe::default()));
        (PipeFeed(shared.clone()), Body::Pipe(PipeBody(shared)))
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Body::Empty => "Empty",
            Body::Full(_) => "Full",
            Body::Pipe(_) => "Pipe",
            Body::H1(_) => "H1",
            Body::H2(_) => "H2",
            Body::H2Recv(_) => "H2Recv",
            Body::Replay(_) => "Replay",
            Body::Filtered(_) => "Filtered",
            Body::Timed(_) => "Timed",
            Body::Limited(_) => "Limited",
            Body::Held(_) => "Held",
        })
    }
}

fn finish_h1(body: Body) {
    if let Body::H1(conn) = body {
        conn.finish();
    }
}

#[derive(Default)]
struct Pipe {
    frames: VecDeque<Frame>,
    end: Option<Result<(), BodyError>>,
    /// The reader found nothing and waits.
    wanted: bool,
    reader: Option<Waker>,
    reader_gone: bool,
}

/// The reading end of a pipe.
pub struct PipeBody(Arc<Mutex<Pipe>>);

impl PipeBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let mut p = self.0.lock();
        if let Some(f) = p.frames.pop_front() {
            return Poll::Ready(Some(Ok(f)));
        }
        match p.end {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(e)) => Poll::Ready(Some(Err(e))),
            None => {
                p.wanted = true;
                match &mut p.reader {
                    Some(w) if w.will_wake(cx.waker()) => {}
                    w => *w = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

impl Drop for PipeBody {
    fn drop(&mut self) {
        self.0.lock().reader_gone = true;
    }
}

/// The feeding end of a pipe: a codec pushes a frame only when one is wanted, so at most a read's worth is held.
pub struct PipeFeed(Arc<Mutex<Pipe>>);

impl PipeFeed {
    /// The reader waits for a frame.
    pub fn wanted(&self) -> bool {
        self.0.lock().wanted
    }

    /// Nobody reads any more.
    pub fn reader_gone(&self) -> bool {
        self.0.lock().reader_gone
    }

    /// Hands over a frame.
    pub fn push(&self, frame: Frame) {
        self.update(|p| p.frames.push_back(frame));
    }

    /// Ends the body.
    pub fn end(&self, result: Result<(), BodyError>) {
        self.update(|p| {
            p.end.get_or_insert(result);
        });
    }

    fn update(&self, f: impl FnOnce(&mut Pipe)) {
        let mut p = self.0.lock();
        f(&mut p);
        p.wanted = false;
        let waker = p.reader.take();
        drop(p);
        if let Some(w) = waker {
            w.wake();
        }
    }
}

impl Drop for PipeFeed {
    fn drop(&mut self) {
        self.end(Err(BodyError::Closed));
    }
}
