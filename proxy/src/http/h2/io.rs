//! The transport under an HTTP/2 connection: inbound frames are counted, outbound ones leave together.
//!
//! The library writes and flushes frame by frame, which is a system call (and a TLS record) for each. Here a write only appends
//! to a buffer, a flush does nothing, and whoever drives the connection calls [`Gathered::poll_flush`] once the library has
//! nothing more to do: the answers of all streams that were ready leave in one write. The buffer is bounded: beyond
//! [`HIGH_WATER`] a write waits for the socket. It is given back when it is empty.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guard::Counts;

/// Bytes that may wait for the socket.
const HIGH_WATER: usize = 128 << 10;

struct Inner<S> {
    stream: S,
    already: Bytes,
    counts: Option<Counts>,
    out: BytesMut,
}

/// The library's end.
pub(super) struct Io<S>(Arc<Mutex<Inner<S>>>);

/// The driver's end.
pub(super) struct Gathered<S>(Arc<Mutex<Inner<S>>>);

/// Both ends over `stream`, of which `already` was read; `counts` looks at what comes in.
pub(super) fn gather<S>(stream: S, already: Bytes, counts: Option<Counts>) -> (Io<S>, Gathered<S>) {
    let inner = Arc::new(Mutex::new(Inner { stream, already, counts, out: BytesMut::new() }));
    (Io(inner.clone()), Gathered(inner))
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(n);
        }
        if self.out.capacity() > 0 {
            self.out = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// Writes what has gathered.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.poll_out(cx))?;
        Pin::new(&mut inner.stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Io<S> {
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
        match &mut inner.counts {
            Some(c) => Poll::Ready(c.feed(&buf.filled()[before..]).map_err(io::Error::other)),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Io<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        if inner.out.len() >= HIGH_WATER {
            ready!(inner.poll_out(cx))?;
        }
        inner.out.extend_from_slice(buf);
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
            inner.out.extend_from_slice(b);
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
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn writes_leave_together_and_the_buffer_goes() {
        let (here, mut there) = tokio::io::duplex(1 << 20);
        let (mut io, gathered) = gather(here, Bytes::from_static(b"first"), None);
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
