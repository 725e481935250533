//! The body of a request that a filter holds: it is read meanwhile, up to a bound, so that a client that sends is not taken for
//! idle and what has come is known. Runs on: workers, in the task of the stream.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use crate::http::body::{Body, BodyError, Frame};
use crate::http::connection::Reply;
use crate::http::stream::StreamCtx;

/// How much is read ahead unless the route says otherwise: Envoy's `per_connection_buffer_limit_bytes` by default.
const LIMIT: u64 = 1 << 20;

/// A body that is read while something else is waited for.
pub struct HeldBody {
    body: Body,
    /// What was read, in order.
    frames: VecDeque<Result<Frame, BodyError>>,
    bytes: u64,
    limit: u64,
    ended: bool,
}

impl HeldBody {
    pub(super) fn new(ctx: &StreamCtx, body: Body) -> Self {
        let limit = ctx.route.as_ref().and_then(|m| m.entry.body_limit).unwrap_or(LIMIT);
        HeldBody { ended: body.is_end(), body, frames: VecDeque::new(), bytes: 0, limit }
    }

    /// Waits, and reads.
    pub(super) async fn during<T>(&mut self, wait: impl Future<Output = T>) -> T {
        let mut wait = pin!(wait);
        poll_fn(|cx| {
            let done = wait.as_mut().poll(cx);
            if done.is_pending() {
                self.read(cx);
            }
            done
        })
        .await
    }

    fn read(&mut self, cx: &mut Context<'_>) {
        while !self.ended && self.bytes < self.limit {
            let Poll::Ready(frame) = self.body.poll_frame(cx) else { return };
            if let Some(Ok(Frame::Data(data))) = &frame {
                self.bytes = self.bytes.saturating_add(data.len() as u64);
            }
            // Nothing follows trailers or an error.
            self.ended = !matches!(frame, Some(Ok(Frame::Data(_)))) || self.body.is_end();
            self.frames.extend(frame);
        }
    }

    /// Reads until `bytes` have come, or all of it.
    pub(super) async fn read_to(&mut self, bytes: u64) {
        self.limit = self.limit.max(bytes);
        poll_fn(|cx| {
            self.read(cx);
            if self.ended || self.bytes >= bytes { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// How many bytes have come.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The first `max` bytes of what has come.
    pub(super) fn beginning(&self, max: u64) -> Vec<u8> {
        let mut all = Vec::new();
        let data = self.frames.iter().filter_map(|f| if let Ok(Frame::Data(data)) = f { Some(data) } else { None });
        for data in data {
            let room = usize::try_from(max).unwrap_or(usize::MAX).saturating_sub(all.len());
            all.extend_from_slice(&data[..data.len().min(room)]);
        }
        all
    }

    /// Why no more of it comes, where it broke.
    pub(super) fn error(&self) -> Option<BodyError> {
        self.frames.back().and_then(|frame| frame.as_ref().err()).copied()
    }

    /// Whether all of it has come.
    pub(super) fn is_complete(&self) -> bool {
        self.ended && !matches!(self.frames.back(), Some(Err(_)))
    }

    /// The whole body, from its beginning.
    pub(super) fn into_body(self) -> Body {
        match (self.frames.is_empty(), self.ended) {
            (true, true) => Body::Empty,
            (true, false) => self.body,
            (false, _) => Body::Held(Box::new(self)),
        }
    }

    /// Known to hold nothing more.
    pub fn is_end(&self) -> bool {
        self.ended && self.frames.is_empty()
    }

    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match self.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None if self.ended => Poll::Ready(None),
            None => self.body.poll_frame(cx),
        }
    }
}

/// Waits while a filter holds a request; a time limit of the stream ends that.
///
/// # Errors
/// The answer, where the request goes no further.
#[allow(clippy::result_large_err, reason = "the answer is what the caller returns as it is")]
pub(super) async fn until<T>(
    ctx: Box<StreamCtx>,
    body: &mut HeldBody,
    wait: impl Future<Output = T>,
) -> Result<(Box<StreamCtx>, T), Reply> {
    let limits = ctx.limits.clone();
    let wait = async {
        tokio::select! {
            biased;
            done = wait => Ok(done),
            limit = limits.expired() => Err(limit),
        }
    };
    match body.during(wait).await {
        Ok(done) => Ok((ctx, done)),
        Err(limit) => Err(limit.reply(ctx, body.is_complete())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn held(body: Body, limit: u64) -> HeldBody {
        HeldBody { ended: body.is_end(), body, frames: VecDeque::new(), bytes: 0, limit }
    }

    async fn text(mut body: Body) -> (String, bool) {
        let (mut all, mut trailers) = (Vec::new(), false);
        while let Some(Ok(frame)) = body.frame().await {
            match frame {
                Frame::Data(data) => all.extend_from_slice(&data),
                Frame::Trailers(_) => trailers = true,
            }
        }
        (String::from_utf8_lossy(&all).into_owned(), trailers)
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_meanwhile_is_read_and_comes_first() {
        let (feed, body) = Body::pipe();
        let mut waits = held(body, 8);
        feed.push(Frame::Data("one ".into()));
        waits.during(tokio::time::sleep(Duration::from_secs(1))).await;
        assert!(!waits.is_complete() && waits.bytes == 4);
        feed.push(Frame::Data("two ".into()));
        feed.push(Frame::Data("three".into()));
        waits.during(tokio::time::sleep(Duration::from_secs(1))).await;
        assert_eq!(waits.bytes, 8, "no more than the bound is read");
        feed.push(Frame::Trailers(crate::http::HeaderMap::new()));
        feed.end(Ok(()));
        let body = waits.into_body();
        assert!(!body.is_end());
        assert_eq!(text(body).await, ("one two three".into(), true));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_is_seen_and_so_is_an_error() {
        let (feed, body) = Body::pipe();
        let mut waits = held(body, LIMIT);
        feed.push(Frame::Data("all".into()));
        feed.end(Ok(()));
        waits.during(tokio::time::sleep(Duration::from_secs(1))).await;
        assert!(waits.is_complete());
        assert_eq!(text(waits.into_body()).await, ("all".into(), false));
        let (feed, body) = Body::pipe();
        let mut waits = held(body, LIMIT);
        feed.end(Err(BodyError::Protocol));
        waits.during(tokio::time::sleep(Duration::from_secs(1))).await;
        assert!(!waits.is_complete());
        assert!(matches!(waits.into_body().frame().await, Some(Err(BodyError::Protocol))));
        assert!(held(Body::Empty, LIMIT).into_body().is_end());
    }
}
