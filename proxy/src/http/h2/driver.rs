//! The transport of an HTTP/2 connection: bytes in and out of its state.
//!
//! What streams write gathers in the state's buffer and leaves in one write, once the tasks that were ready have run. While
//! nothing is under way the connection holds no buffer.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::core::{Core, End, HIGH_WATER};
use super::frame::{HEADER, Head, MAX_SIZE, PREFACE, kind};
use super::handle::Connection;
use crate::http::{h1, spare};
use crate::stats::Counter;

/// The most that is read at once.
const READ: usize = 64 << 10;
/// Reads in a row, so that one connection does not hold up the others.
const TURNS: usize = 8;
/// Where bytes are counted: those read, those written.
pub(super) struct Counts(pub(super) Counter, pub(super) Counter);

/// A connection and its transport.
pub(super) struct Driver<S> {
    stream: S,
    core: Connection,
    input: BytesMut,
    /// Read at once.
    size: usize,
    /// The client's first bytes are still to come.
    preface: bool,
    /// So much of the state's buffer has left.
    written: usize,
    /// A flush of the transport is due.
    unflushed: bool,
    counts: Counts,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// `already`: what was read of the stream.
    pub(super) fn new(stream: S, already: &[u8], core: Core, counts: Counts) -> Self {
        let preface = core.is_server();
        let core = Arc::new(Mutex::new(core));
        Driver { stream, core, input: BytesMut::from(already), size: 0, preface, written: 0, unflushed: false, counts }
    }

    /// The state.
    pub(super) fn core(&self) -> &Connection {
        &self.core
    }

    /// Reads and writes what can be. Ready once the connection has ended; its last words have then been tried.
    ///
    /// What is accepted is left in the state: see [`Core::accepted`].
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let core = self.core.clone();
        let mut core = core.lock();
        self.read(&mut core, cx);
        if let Poll::Ready(Err(_)) = self.poll_write(&mut core, cx) {
            core.end(End::Closed);
        }
        if let Some(end) = core.ended {
            return Poll::Ready(end);
        }
        if core.is_done() && core.out.is_empty() && core.accepted.is_empty() {
            return Poll::Ready(End::Goodbye);
        }
        core.drive_with(cx);
        Poll::Pending
    }

    fn read(&mut self, core: &mut Core, cx: &mut Context<'_>) {
        if !self.input.is_empty() {
            self.feed(core);
        }
        for turn in 0.. {
            // Who does not take our answers is not read from.
            if core.ended.is_some() || core.out.len() >= HIGH_WATER {
                return;
            }
            if turn == TURNS {
                return cx.waker().wake_by_ref();
            }
            match h1::poll_read_body(&mut self.stream, cx, &mut self.input, &mut self.size, READ) {
                Poll::Pending => break,
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.counts.0.add(n as u64);
                    self.feed(core);
                }
                Poll::Ready(_) => return core.end(End::Closed),
            }
        }
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    /// Takes whole frames off the input.
    fn feed(&mut self, core: &mut Core) {
        if self.preface {
            let n = self.input.len().min(PREFACE.len());
            if self.input[..n] != PREFACE[..n] {
                return core.no_preface();
            }
            if n < PREFACE.len() {
                return;
            }
            self.input.advance(n);
            self.preface = false;
        }
        feed(&mut self.input, core);
    }

    /// Writes what has gathered.
    fn poll_write(&mut self, core: &mut Core, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < core.out.len() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &core.out[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
            self.unflushed = true;
            self.counts.1.add(n as u64);
        }
        if self.written > 0 {
            self.written = 0;
            spare::give_back(&mut core.out);
            core.pass_on();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends a connection so that its last words arrive: they are written, and what the peer still sends is read and dropped until
    /// it has closed its side too, for `limit` at most. Closing before would reset the connection.
    pub(super) async fn linger(&mut self, limit: Duration) {
        let core = self.core.clone();
        let ended = poll_fn(|cx| {
            ready!(self.poll_write(&mut core.lock(), cx))?;
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            let mut scratch = [0; 4096];
            loop {
                let mut buf = ReadBuf::new(&mut scratch);
                ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
                if buf.filled().is_empty() {
                    return Poll::Ready(io::Result::Ok(()));
                }
            }
        });
        // Either way there is nothing more to say.
        let _ = tokio::time::timeout(limit, ended).await;
    }
}

impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        // Nobody will move the streams any more.
        self.core.lock().end(End::Closed);
    }
}

/// Takes whole frames off what was read.
pub(super) fn feed(input: &mut BytesMut, core: &mut Core) {
    while core.ended.is_none()
        && let Some(head) = Head::read(input)
    {
        if head.len > MAX_SIZE {
            return core.oversized();
        }
        if input.len() < HEADER + head.len {
            return;
        }
        input.advance(HEADER);
        if head.kind == kind::DATA {
            core.data_frame(head, input.split_to(head.len).freeze());
        } else {
            core.frame(head, &input[..head.len]);
            input.advance(head.len);
        }
    }
}
