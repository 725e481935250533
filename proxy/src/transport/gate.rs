//! A stream that is asked about before what it carries gets through.
//!
//! Runs on: workers.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Sleep;

use super::Stream;

/// What is said of bytes, or of the end, that came.
pub enum Admission {
    /// They get through, and what follows does unasked.
    Open,
    /// They get through; it is asked again for what follows.
    AskAgain,
    /// They do not, and reading fails, after so long: nothing is read meanwhile.
    Refused(Option<Duration>),
    /// That is not known yet: they wait, and nothing more is read.
    Wait(Pin<Box<dyn Future<Output = Admission> + Send>>),
}

/// What is said of bytes, once it is known.
type Verdict = Pin<Box<dyn Future<Output = Admission> + Send>>;

/// A stream behind a gate.
pub struct Gated {
    pub(super) inner: Stream,
    ask: Box<dyn FnMut() -> Admission + Send + Sync>,
    refused: Option<Pin<Box<Sleep>>>,
    /// Bytes, or the end, that wait, and for what.
    waiting: Option<(Bytes, Mutex<Verdict>)>,
    /// Bytes that were let through, but had no room.
    admitted: Bytes,
    /// What comes behind them gets through unasked.
    open: bool,
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
        Gated {
            inner,
            ask: Box::new(ask),
            refused: None,
            waiting: None,
            admitted: Bytes::new(),
            open: false,
            withheld: 0,
        }
    }

    /// Reads; `true`: the gate is open from now on.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        if !self.admitted.is_empty() {
            let room = self.admitted.len().min(buf.remaining());
            buf.put_slice(&self.admitted.split_to(room));
            return Poll::Ready(Ok(self.open && self.admitted.is_empty()));
        }
        if self.refused.is_none() && self.waiting.is_none() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
            let admission = (self.ask)();
            if let Some(open) = self.take(admission, buf, before) {
                return Poll::Ready(Ok(open));
            }
        }
        while let Some((bytes, verdict)) = &mut self.waiting {
            let admission = ready!(verdict.get_mut().as_mut().poll(cx));
            let mut bytes = std::mem::take(bytes);
            self.waiting = None;
            let before = buf.filled().len();
            // There is as much room as there was when they were read, as a rule.
            let room = bytes.len().min(buf.remaining());
            buf.put_slice(&bytes.split_to(room));
            self.admitted = bytes;
            if let Some(open) = self.take(admission, buf, before) {
                self.open = open;
                return Poll::Ready(Ok(open && self.admitted.is_empty()));
            }
        }
        ready!(self.poll_refused(cx));
        Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()))
    }

    /// Does with what was read behind `before` what is said of it; `None`: it does not get through, at least not now.
    fn take(&mut self, admission: Admission, buf: &mut ReadBuf<'_>, before: usize) -> Option<bool> {
        match admission {
            Admission::Open => return Some(true),
            Admission::AskAgain => return Some(false),
            Admission::Refused(after) => {
                self.withheld = (buf.filled().len() - before) as u64 + self.admitted.len() as u64;
                self.admitted = Bytes::new();
                self.refused = Some(Box::pin(tokio::time::sleep(after.unwrap_or(Duration::ZERO))));
            }
            Admission::Wait(verdict) => {
                let bytes = [&buf.filled()[before..], &self.admitted].concat();
                self.admitted = Bytes::new();
                // Never locked: a stream is to be shareable, which futures need not be.
                self.waiting = Some((bytes.into(), Mutex::new(verdict)));
            }
        }
        buf.set_filled(before);
        None
    }

    /// As [`Stream::poll_readable`].
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.refused.is_some() {
            return self.poll_refused(cx).map(Ok);
        }
        // Whoever reads finds out what is said of what waits.
        if self.waiting.is_some() || !self.admitted.is_empty() {
            return Poll::Ready(Ok(()));
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
        let mut answers = Mutex::new(answers.into_iter());
        let ask = move || answers.get_mut().next().expect("asked once too often");
        (client, Stream::gated(Stream::Memory(server), ask))
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

    #[tokio::test(start_paused = true)]
    async fn what_waits_gets_through_later_or_not() {
        let later = |admission: fn() -> Admission| {
            Admission::Wait(Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                admission()
            }))
        };
        let (mut client, mut server) = pair([later(|| Admission::Open)]);
        client.write_all(b"abc").await.unwrap();
        let mut first = [0; 2];
        server.read_exact(&mut first).await.unwrap();
        // There was no room for the rest.
        assert_eq!((&first, server.read_u8().await.unwrap()), (b"ab", b'c'));
        client.write_all(b"d").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'd');
        let (mut client, mut server) = pair([later(|| Admission::Refused(None))]);
        client.write_all(b"abc").await.unwrap();
        assert!(server.read_u8().await.is_err());
        // One byte was asked for, so one was read.
        assert_eq!(server.withheld(), 1);
    }

    #[tokio::test]
    async fn the_end_is_asked_about_as_well() {
        let (client, mut server) = pair([Admission::Refused(None)]);
        drop(client);
        assert!(server.read(&mut [0; 4]).await.is_err());
    }
}
