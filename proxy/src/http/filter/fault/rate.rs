//! Answers that go out no faster than so many bytes a second.

use std::future::Future;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use crate::http::body::{Body, BodyError, Frame};

/// How often what may go out goes out. Envoy's value: often enough to look like a slow network, seldom enough to cost little.
const INTERVAL: Duration = Duration::from_millis(50);

/// Bytes that may go out, counted in billionths so that nothing is lost between two looks.
struct Bucket {
    per_second: NonZeroU64,
    credit: u128,
    at: Instant,
}

const NANOS: u128 = 1_000_000_000;

impl Bucket {
    /// A bucket that holds the bytes of one interval.
    fn new(per_second: NonZeroU64, now: Instant) -> Self {
        let credit = u128::from(per_second.get()) * INTERVAL.as_nanos();
        Bucket { per_second, credit, at: now }
    }

    /// Takes up to `wanted` bytes.
    fn take(&mut self, now: Instant, wanted: usize) -> usize {
        let per_second = u128::from(self.per_second.get());
        let earned = now.saturating_duration_since(self.at).as_nanos().saturating_mul(per_second);
        self.at = now;
        // No more than a second's worth is saved up.
        self.credit = self.credit.saturating_add(earned).min(per_second * NANOS);
        let bytes = usize::try_from(self.credit / NANOS).unwrap_or(usize::MAX).min(wanted);
        self.credit -= bytes as u128 * NANOS;
        bytes
    }
}

/// A body that goes out slowly. It holds one piece at most: what is not taken from it is not read.
pub struct LimitedBody {
    body: Body,
    bucket: Bucket,
    /// What was read and may not go out yet.
    held: Bytes,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

impl LimitedBody {
    /// Wraps `body`.
    pub(super) fn wrap(body: Body, per_second: NonZeroU64) -> Body {
        if body.is_end() {
            return body;
        }
        let now = Instant::now();
        Body::Limited(Box::new(LimitedBody {
            body,
            bucket: Bucket::new(per_second, now),
            held: Bytes::new(),
            timer: Box::pin(tokio::time::sleep_until(now)),
            waiting: false,
        }))
    }

    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        loop {
            if self.held.is_empty() {
                match ready!(self.body.poll_frame(cx)) {
                    Some(Ok(Frame::Data(data))) => self.held = data,
                    other => return Poll::Ready(other),
                }
            }
            if self.waiting {
                ready!(self.timer.as_mut().poll(cx));
                self.waiting = false;
            }
            let now = Instant::now();
            let bytes = self.bucket.take(now, self.held.len());
            let piece = self.held.split_to(bytes);
            if !self.held.is_empty() {
                self.waiting = true;
                self.timer.as_mut().reset(now + INTERVAL);
            }
            if !piece.is_empty() {
                return Poll::Ready(Some(Ok(Frame::Data(piece))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kib(n: u64) -> NonZeroU64 {
        NonZeroU64::new(n * 1024).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_takes_its_time() {
        let began = Instant::now();
        let mut body = LimitedBody::wrap(Body::from_bytes(vec![b'x'; 3000].into()), kib(1));
        let mut pieces = Vec::new();
        while let Some(Ok(Frame::Data(piece))) = body.frame().await {
            pieces.push((began.elapsed().as_millis() as u64, piece.len()));
        }
        assert_eq!(pieces[0], (0, 51), "an interval's worth goes at once");
        assert_eq!(pieces.iter().map(|p| p.1).sum::<usize>(), 3000);
        let last = pieces.last().unwrap().0;
        assert!((2850..=2950).contains(&last), "3000 bytes at 1024 a second end after {last} ms");
        assert!(pieces.iter().all(|p| p.1 <= 52), "{pieces:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn ends_and_errors_pass() {
        let (feed, body) = Body::pipe();
        let mut body = LimitedBody::wrap(body, kib(1));
        feed.push(Frame::Data(vec![0; 100].into()));
        feed.push(Frame::Trailers(crate::http::HeaderMap::new()));
        let mut seen = 0;
        loop {
            match body.frame().await {
                Some(Ok(Frame::Data(piece))) => seen += piece.len(),
                Some(Ok(Frame::Trailers(_))) => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, 100);
        drop(feed);
        assert!(matches!(body.frame().await, Some(Err(BodyError::Closed))));
        assert!(LimitedBody::wrap(Body::Empty, kib(1)).is_end(), "nothing is wrapped for nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_saves_a_second_and_never_overflows() {
        let now = Instant::now();
        let mut bucket = Bucket::new(kib(100), now);
        assert_eq!(bucket.take(now, usize::MAX), 5120);
        assert_eq!(bucket.take(now, usize::MAX), 0);
        assert_eq!(bucket.take(now + Duration::from_secs(60), usize::MAX), 102_400);
        let mut most = Bucket::new(NonZeroU64::MAX, now);
        assert_eq!(most.take(now + Duration::from_secs(1 << 40), 1 << 40), 1 << 40);
    }
}
