//! A stream that is asked about before what it carries gets through.
//!
//! Runs on: workers.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Sleep;

use super::Stream;

/// What is said of bytes, or of the end, that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// They get through, and what follows does unasked.
    Open,
    /// They get through; it is asked again for what follows.
    AskAgain,
    /// They do not, and reading fails, after so long: nothing is read meanwhile.
    Refused(Option<Duration>),
}

/// A stream behind a gate.
pub struct Gated {
    pub(super) inner: Stream,
    ask: Box<dyn FnMut() -> Admission + Send + Sync>,
    refused: Option<Pin<Box<Sleep>>>,
    /// Bytes that did not get through.
    pub(super) withheld: u64,
}

impl fmt::Debug for Gated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gated").field("inner", &self.inner).field("refused", &self.refused.is_some()).finish()
    }
}

impl Gated {
    pub(super) fn new(inner: Stream, ask: impl FnMut() -> Admission + Send + Sync + 'static) -> Self {
        Gated { inner, ask: Box::new(ask), refused: None, withheld: 0 }
    }

    /// Reads; `true`: the gate is open from now on.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        if self.refused.is_none() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
            match (self.ask)() {
                Admission::Open => return Poll::Ready(Ok(true)),
                Admission::AskAgain => return Poll::Ready(Ok(false)),
                Admission::Refused(after) => {
                    self.withheld = (buf.filled().len() - before) as u64;
                    buf.set_filled(before);
                    self.refused = Some(Box::pin(tokio::time::sleep(after.unwrap_or(Duration::ZERO))));
                }
            }
        }
        ready!(self.poll_refused(cx));
        Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()))
    }

    /// As [`Stream::poll_readable`].
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.refused.is_some() {
            return self.poll_refused(cx).map(Ok);
        }
        self.inner.poll_readable(cx)
    }

    fn poll_refused(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.refused.as_mut().map_or(Poll::Ready(()), |sleep| sleep.as_mut().poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pair<const N: usize>(answers: [Admission; N]) -> (tokio::io::DuplexStream, Stream) {
        let (client, server) = tokio::io::duplex(64);
        let mut answers = answers.into_iter();
        (client, Stream::gated(Stream::Memory(server), move || answers.next().expect("asked once too often")))
    }

    #[tokio::test]
    async fn opens_once_and_is_gone() {
        let (mut client, mut server) = pair([Admission::AskAgain, Admission::Open]);
        for _ in 0..3 {
            client.write_all(b"x").await.unwrap();
            assert_eq!(server.read_u8().await.unwrap(), b'x');
        }
        assert!(matches!(server, Stream::Memory(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn refuses_after_a_while_and_writes_until_then() {
        let (mut client, mut server) = pair([Admission::Refused(Some(Duration::from_secs(3)))]);
        client.write_all(b"x").await.unwrap();
        server.write_all(b"y").await.unwrap();
        let began = tokio::time::Instant::now();
        let error = server.read_u8().await.unwrap_err();
        assert_eq!((error.kind(), began.elapsed().as_secs()), (io::ErrorKind::PermissionDenied, 3));
        assert_eq!(client.read_u8().await.unwrap(), b'y');
        assert_eq!(server.withheld(), 1);
        assert!(server.readable().await.is_ok() && server.read_u8().await.is_err(), "it stays refused");
    }

    #[tokio::test]
    async fn the_end_is_asked_about_as_well() {
        let (client, mut server) = pair([Admission::Refused(None)]);
        drop(client);
        assert!(server.read(&mut [0; 4]).await.is_err());
    }
}
