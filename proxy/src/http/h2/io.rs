//! The transport under an HTTP/2 connection: frames are looked at in passing, outbound ones leave together.
//!
//! The library writes and flushes frame by frame, which is a system call (and a TLS record) for each. Here a write only appends
//! to a buffer, a flush does nothing, and whoever drives the connection calls [`Gathered::poll_flush`] once the library has
//! nothing more to do: the answers of all streams that were ready leave in one write. The buffer is bounded: beyond
//! [`HIGH_WATER`] a write waits for the socket. It is given back when it is empty.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guard::{self, Breach, Guard};
use crate::stats::Counter;

/// Bytes that may wait for the socket.
const HIGH_WATER: usize = 128 << 10;

struct Inner<S> {
    stream: S,
    already: Bytes,
    guard: Option<Guard>,
    out: BytesMut,
    /// What the peer is to be left for; its GOAWAY is in `out`.
    breach: Option<Breach>,
    counts: Counts,
}

/// Where bytes are counted: those read, those written.
pub(super) struct Counts(pub(super) Counter, pub(super) Counter);

/// The library's end.
pub(super) struct Io<S>(Arc<Mutex<Inner<S>>>);

/// The driver's end.
pub(super) struct Gathered<S>(Arc<Mutex<Inner<S>>>);

/// Both ends over `stream`, of which `already` was read; `guard` looks at what comes and goes.
pub(super) fn gather<S>(stream: S, already: Bytes, guard: Option<Guard>, counts: Counts) -> (Io<S>, Gathered<S>) {
    let inner = Arc::new(Mutex::new(Inner { stream, already, guard, out: BytesMut::new(), breach: None, counts }));
    (Io(inner.clone()), Gathered(inner))
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    /// Takes the library's bytes; after a breach nothing more leaves but what is there.
    fn take(&mut self, bytes: &[u8]) {
        if self.breach.is_some() {
            return;
        }
        self.out.extend_from_slice(bytes);
        if let Some(Err(breach)) = self.guard.as_mut().map(|g| g.sent(bytes)) {
            self.leave(breach);
        }
    }

    fn leave(&mut self, breach: Breach) {
        let last = self.guard.as_ref().map_or(0, |g| g.last_stream);
        self.breach = Some(breach);
        self.out.extend_from_slice(&guard::goaway(last, breach.reason()));
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(n);
            self.counts.1.add(n as u64);
        }
        if self.out.capacity() > 0 {
            self.out = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// Writes what has gathered; fails too where the peer is to be left.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.poll_out(cx))?;
        ready!(Pin::new(&mut inner.stream).poll_flush(cx))?;
        Poll::Ready(inner.breach.map_or(Ok(()), |breach| Err(io::Error::other(breach))))
    }

    /// Ends a connection so that its last words arrive: they are written, and what the peer still sends is read and dropped until
    /// it has closed its side too, for `limit` at most. Closing before would reset the connection.
    pub(super) async fn linger(&self, limit: Duration)
    where
        S: AsyncRead,
    {
        let ended = poll_fn(|cx| {
            let mut inner = self.0.lock();
            ready!(inner.poll_out(cx))?;
            ready!(Pin::new(&mut inner.stream).poll_shutdown(cx))?;
            let mut scratch = [0; 4096];
            loop {
                let mut buf = ReadBuf::new(&mut scratch);
                ready!(Pin::new(&mut inner.stream).poll_read(cx, &mut buf))?;
                if buf.filled().is_empty() {
                    return Poll::Ready(io::Result::Ok(()));
                }
            }
        });
        // Either way there is nothing more to say.
        let _ = tokio::time::timeout(limit, ended).await;
    }

    /// What the peer was left for.
    pub(super) fn breach(&self) -> Option<Breach> {
        self.0.lock().breach
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Io<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.lock();
        let before = buf.filled().len();
        if inner.already.is_empty() {
            ready!(Pin::new(&mut inner.stream).poll_read(cx, buf))?;
        } else {
            let n = inner.already.len().min(buf.remaining());
            buf.put_slice(&inner.already[..n]);
            inner.already.advance(n);
        }
        inner.counts.0.add((buf.filled().len() - before) as u64);
        if let Some(Err(breach)) = inner.guard.as_mut().map(|g| g.received(&buf.filled()[before..])) {
            inner.leave(breach);
            return Poll::Ready(Err(io::Error::other(breach)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Io<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        if inner.out.len() >= HIGH_WATER {
            ready!(inner.poll_out(cx))?;
        }
        inner.take(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        if inner.out.len() >= HIGH_WATER {
            ready!(inner.poll_out(cx))?;
        }
        let mut n = 0;
        for b in bufs {
            inner.take(b);
            n += b.len();
        }
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.poll_out(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn writes_leave_together_and_the_buffer_goes() {
        let (here, mut there) = tokio::io::duplex(1 << 20);
        let (mut io, gathered) =
            gather(here, Bytes::from_static(b"first"), None, Counts(Counter::noop(), Counter::noop()));
        io.write_all(b"a").await.unwrap();
        io.write_all(b"b").await.unwrap();
        io.flush().await.unwrap();
        poll_fn(|cx| gathered.poll_flush(cx)).await.unwrap();
        let mut got = [0; 2];
        there.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ab");
        assert_eq!(gathered.0.lock().out.capacity(), 0);
        let mut first = [0; 5];
        io.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"first");
    }
}
