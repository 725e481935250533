//! One byte stream: what every codec and filter above reads and writes, whatever carries it.
//!
//! An enum instead of a trait object: no allocation and no dynamic call for a plaintext socket, whose idle cost is the socket
//! and nothing else. TLS and peeked bytes live behind a box; the box of peeked bytes goes away with the last of them.
//! Runs on: workers.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::gate::{Admission, Gated};
use crate::stream_info::{PeerAddr, TlsInfo};

/// A connected byte stream.
///
/// Reading past a TLS peer's close is end of stream with or without `close_notify`, as in Envoy; codecs that need to tell
/// truncation from completion must have framing of their own.
#[derive(Debug, Default)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS, our side the server.
    Tls(Box<ServerTlsStream>),
    /// TLS, our side the client.
    TlsClient(Box<ClientTlsStream>),
    /// Bytes that were read ahead come first. Turns into the inner stream once they are consumed.
    Prefixed(Box<Prefixed>),
    /// It is asked before what is read gets through. Turns into the inner stream once it need not be any more.
    Gated(Box<Gated>),
    /// An in-memory pipe, for tests and in-process connections.
    Memory(DuplexStream),
    /// Nothing: what is left where a stream was taken out of its place. Reads end, writes fail.
    #[default]
    Closed,
}

/// The server side of a TLS session, handshake done.
#[derive(Debug)]
pub struct ServerTlsStream {
    /// Session and carrier.
    pub io: tokio_rustls::server::TlsStream<Stream>,
    /// What the handshake established.
    pub info: Arc<TlsInfo>,
}

/// The client side of a TLS session, handshake done.
#[derive(Debug)]
pub struct ClientTlsStream {
    /// Session and carrier.
    pub io: tokio_rustls::client::TlsStream<Stream>,
    /// What the handshake established.
    pub info: Arc<TlsInfo>,
}

/// A stream some bytes of which were read already.
#[derive(Debug)]
pub struct Prefixed {
    prefix: Bytes,
    inner: Stream,
}

impl Stream {
    /// Puts `prefix`, which was read from it, back in front of `inner`. An empty prefix gives `inner` itself.
    pub fn prefixed(prefix: Bytes, inner: Stream) -> Stream {
        if prefix.is_empty() { inner } else { Stream::Prefixed(Box::new(Prefixed { prefix, inner })) }
    }

    /// A stream of whose bytes, and of whose end, `ask` is asked before they get through.
    pub fn gated(inner: Stream, ask: impl FnMut() -> Admission + Send + Sync + 'static) -> Stream {
        Stream::Gated(Box::new(Gated::new(inner, ask)))
    }

    /// Bytes that were read and did not get through a gate.
    pub fn withheld(&self) -> u64 {
        if let Stream::Gated(g) = self { g.withheld } else { 0 }
    }

    /// Takes the stream, leaving [`Stream::Closed`].
    pub fn take(&mut self) -> Stream {
        std::mem::take(self)
    }

    /// The remote end as the socket has it.
    pub fn peer_addr(&self) -> Option<PeerAddr> {
        match self {
            Stream::Tcp(s) => s.peer_addr().ok().map(PeerAddr::from),
            Stream::Unix(s) => s.peer_addr().ok().map(|a| pipe_addr(&a)),
            other => other.carrier()?.peer_addr(),
        }
    }

    /// Our end as the socket has it.
    pub fn local_addr(&self) -> Option<PeerAddr> {
        match self {
            Stream::Tcp(s) => s.local_addr().ok().map(PeerAddr::from),
            Stream::Unix(s) => s.local_addr().ok().map(|a| pipe_addr(&a)),
            other => other.carrier()?.local_addr(),
        }
    }

    /// What the TLS handshake established; `None`: not TLS.
    pub fn tls_info(&self) -> Option<Arc<TlsInfo>> {
        match self {
            Stream::Tls(s) => Some(Arc::clone(&s.info)),
            Stream::TlsClient(s) => Some(Arc::clone(&s.info)),
            Stream::Prefixed(p) => p.inner.tls_info(),
            Stream::Gated(g) => g.inner.tls_info(),
            _ => None,
        }
    }

    /// Makes the coming close an abort: the peer gets a RST, what is unsent is dropped. Best effort.
    pub fn set_reset_on_close(&self) {
        if let Some(fd) = self.fd() {
            // A socket that cannot linger (Unix) is closed the ordinary way.
            let _ = socket2::SockRef::from(&fd).set_linger(Some(Duration::ZERO));
        }
    }

    /// Makes the coming close an abort if bytes that were read ahead have not been taken: to the system they were read, and it
    /// would close in the ordinary way what Envoy, which only peeks, closes with bytes unread.
    pub fn reset_if_unread(&self) {
        match self {
            Stream::Prefixed(p) if !p.prefix.is_empty() => self.set_reset_on_close(),
            Stream::Gated(g) => g.inner.reset_if_unread(),
            _ => {}
        }
    }

    /// The socket, for zero-copy and socket calls on plain bytes. `None` with TLS, while peeked bytes are unread, or while there is
    /// a gate.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Stream::Tcp(s) => Some(s),
            _ => None,
        }
    }

    /// The socket below whatever is on top of it, for socket options; `None`: there is no socket.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Stream::Tcp(s) => Some(s.as_fd()),
            Stream::Unix(s) => Some(s.as_fd()),
            other => other.carrier()?.fd(),
        }
    }

    /// Ready when a read is likely to give bytes, end of stream, or an error: what waits for the next request without
    /// holding a buffer. Only a hint: a read may be pending after it, and then has registered the waker.
    ///
    /// # Errors
    /// Those of the socket or the TLS session.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(s) => s.poll_read_ready(cx),
            Stream::Unix(s) => s.poll_read_ready(cx),
            // Decrypts into the session's own buffer: exact, not a guess from the socket.
            Stream::Tls(s) => truncated_is_end(Pin::new(&mut s.io).poll_fill_buf(cx).map_ok(|_| ())),
            Stream::TlsClient(s) => truncated_is_end(Pin::new(&mut s.io).poll_fill_buf(cx).map_ok(|_| ())),
            Stream::Prefixed(p) if p.prefix.is_empty() => p.inner.poll_readable(cx),
            Stream::Gated(g) => g.poll_readable(cx),
            Stream::Prefixed(_) | Stream::Memory(_) | Stream::Closed => Poll::Ready(Ok(())),
        }
    }

    /// Waits as [`Stream::poll_readable`] does.
    ///
    /// # Errors
    /// Those of the socket or the TLS session.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn readable(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// The stream that carries this one.
    fn carrier(&self) -> Option<&Stream> {
        match self {
            Stream::Tls(s) => Some(s.io.get_ref().0),
            Stream::TlsClient(s) => Some(s.io.get_ref().0),
            Stream::Prefixed(p) => Some(&p.inner),
            Stream::Gated(g) => Some(&g.inner),
            Stream::Tcp(_) | Stream::Unix(_) | Stream::Memory(_) | Stream::Closed => None,
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(s: TcpStream) -> Self {
        Stream::Tcp(s)
    }
}

impl From<UnixStream> for Stream {
    fn from(s: UnixStream) -> Self {
        Stream::Unix(s)
    }
}

impl From<DuplexStream> for Stream {
    fn from(s: DuplexStream) -> Self {
        Stream::Memory(s)
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Tls(s) => truncated_is_end(Pin::new(&mut s.io).poll_read(cx, buf)),
            Stream::TlsClient(s) => truncated_is_end(Pin::new(&mut s.io).poll_read(cx, buf)),
            Stream::Memory(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Closed => Poll::Ready(Ok(())),
            Stream::Gated(g) => {
                if ready!(g.poll_read(cx, buf))? {
                    *self = g.inner.take();
                }
                Poll::Ready(Ok(()))
            }
            Stream::Prefixed(p) => {
                let n = p.prefix.len().min(buf.remaining());
                buf.put_slice(&p.prefix[..n]);
                p.prefix.advance(n);
                if p.prefix.is_empty() {
                    *self = p.inner.take();
                    if n == 0 {
                        return self.poll_read(cx, buf);
                    }
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Stream::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Stream::Unix(s) => Pin::new(s).poll_write(cx, buf),
            Stream::Tls(s) => Pin::new(&mut s.io).poll_write(cx, buf),
            Stream::TlsClient(s) => Pin::new(&mut s.io).poll_write(cx, buf),
            Stream::Prefixed(p) => Pin::new(&mut p.inner).poll_write(cx, buf),
            Stream::Gated(g) => Pin::new(&mut g.inner).poll_write(cx, buf),
            Stream::Memory(s) => Pin::new(s).poll_write(cx, buf),
            Stream::Closed => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Stream::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Stream::Unix(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Stream::Tls(s) => Pin::new(&mut s.io).poll_write_vectored(cx, bufs),
            Stream::TlsClient(s) => Pin::new(&mut s.io).poll_write_vectored(cx, bufs),
            Stream::Prefixed(p) => Pin::new(&mut p.inner).poll_write_vectored(cx, bufs),
            Stream::Gated(g) => Pin::new(&mut g.inner).poll_write_vectored(cx, bufs),
            Stream::Memory(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Stream::Closed => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tcp(s) => s.is_write_vectored(),
            Stream::Unix(s) => s.is_write_vectored(),
            Stream::Tls(s) => s.io.is_write_vectored(),
            Stream::TlsClient(s) => s.io.is_write_vectored(),
            Stream::Prefixed(p) => p.inner.is_write_vectored(),
            Stream::Gated(g) => g.inner.is_write_vectored(),
            Stream::Memory(s) => s.is_write_vectored(),
            Stream::Closed => false,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Tcp(s) => Pin::new(s).poll_flush(cx),
            Stream::Unix(s) => Pin::new(s).poll_flush(cx),
            Stream::Tls(s) => Pin::new(&mut s.io).poll_flush(cx),
            Stream::TlsClient(s) => Pin::new(&mut s.io).poll_flush(cx),
            Stream::Prefixed(p) => Pin::new(&mut p.inner).poll_flush(cx),
            Stream::Gated(g) => Pin::new(&mut g.inner).poll_flush(cx),
            Stream::Memory(s) => Pin::new(s).poll_flush(cx),
            Stream::Closed => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Tls(s) => Pin::new(&mut s.io).poll_shutdown(cx),
            Stream::TlsClient(s) => Pin::new(&mut s.io).poll_shutdown(cx),
            Stream::Prefixed(p) => Pin::new(&mut p.inner).poll_shutdown(cx),
            Stream::Gated(g) => Pin::new(&mut g.inner).poll_shutdown(cx),
            Stream::Memory(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Closed => Poll::Ready(Ok(())),
        }
    }
}

/// A TLS peer that closes without `close_notify` has closed: Envoy makes no difference, and neither do most peers.
fn truncated_is_end(read: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
    Poll::Ready(match ready!(read) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        done => done,
    })
}

fn pipe_addr(a: &tokio::net::unix::SocketAddr) -> PeerAddr {
    PeerAddr::Pipe(a.as_pathname().map(|p| Arc::from(p.to_string_lossy())).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn tcp_pair() -> (Stream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (a, b) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (a.unwrap().into(), b.unwrap().0.into())
    }

    #[test]
    fn is_small_and_movable() {
        fn movable<T: Send + Unpin>() {}
        movable::<Stream>();
        assert!(size_of::<Stream>() <= 48, "{}", size_of::<Stream>());
    }

    #[tokio::test]
    async fn prefix_first_then_the_socket_itself() {
        let (mut client, server) = tcp_pair().await;
        let mut server = Stream::prefixed(Bytes::from_static(b"hello "), server);
        assert!(server.tcp().is_none());
        client.write_all(b"world").await.unwrap();
        server.readable().await.unwrap();
        let mut got = [0; 11];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello world");
        assert!(server.tcp().is_some(), "the box is gone with its bytes");
        server.write_all(b"!").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'!');
    }

    #[tokio::test]
    async fn addresses_reach_through_a_prefix() {
        let (client, server) = tcp_pair().await;
        let server = Stream::prefixed(Bytes::from_static(b"x"), server);
        assert_eq!(server.peer_addr(), client.local_addr());
        assert_eq!(client.peer_addr(), server.local_addr());
        assert!(server.tls_info().is_none());
    }

    #[tokio::test]
    async fn reset_on_close() {
        let (mut client, server) = tcp_pair().await;
        server.set_reset_on_close();
        drop(server);
        let e = client.read_u8().await.unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn closed_ends_reads_and_fails_writes() {
        let mut s = Stream::default();
        assert_eq!(s.read(&mut [0; 4]).await.unwrap(), 0);
        assert!(s.write(b"x").await.is_err());
    }
}
