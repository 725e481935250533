//! Time limits of one attempt: `per_try_timeout`, `per_try_idle_timeout`, the cluster's `max_stream_duration`.
//!
//! Before the head they end the attempt, and a retry may follow; behind it those that still count end the body. Requests
//! without such limits pay nothing: their body is not wrapped.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::body::{Body, BodyError, Frame};
use super::retry::Failure;
use super::upload::Progress;

/// The limits of an attempt.
pub(super) struct Limits {
    /// From the end of the request, but not before the attempt, to the head.
    pub(super) per_try: Option<Duration>,
    /// From the end of the request, and from anything that comes.
    pub(super) idle: Option<Duration>,
    /// From the attempt's beginning to its end.
    pub(super) whole: Option<Duration>,
}

impl Limits {
    pub(super) fn is_none(&self) -> bool {
        self.per_try.is_none() && self.idle.is_none() && self.whole.is_none()
    }

    /// Resolves when a limit passes before the head is there; `began`: the attempt had its connection.
    pub(super) async fn passed(&self, upload: &Progress, began: Instant) -> Failure {
        let of_try = async {
            let (limit, idle) = match (self.per_try, self.idle) {
                (Some(t), Some(i)) if i < t => (i, true),
                (Some(t), _) => (t, false),
                (None, Some(i)) => (i, true),
                (None, None) => return std::future::pending().await,
            };
            upload.done().await;
            tokio::time::sleep(limit).await;
            Failure::PerTry { idle }
        };
        let whole = async {
            match self.whole {
                Some(limit) => tokio::time::sleep_until(began + limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            failure = of_try => failure,
            () = whole => Failure::MaxDuration,
        }
    }
}

/// A response's body with the limits that hold behind the head.
pub(super) fn wrap(body: Body, limits: &Limits, began: Instant) -> Body {
    if body.is_end() || (limits.idle.is_none() && limits.whole.is_none()) {
        return body;
    }
    let sleep = |at: Instant| Box::pin(tokio::time::sleep_until(at));
    Body::Timed(Box::new(TimedBody {
        idle: limits.idle.map(|d| (d, sleep(Instant::now() + d))),
        whole: limits.whole.map(|d| sleep(began + d)),
        body,
    }))
}

/// A body that ends with an error when it takes too long.
pub struct TimedBody {
    body: Body,
    idle: Option<(Duration, Pin<Box<Sleep>>)>,
    whole: Option<Pin<Box<Sleep>>>,
}

impl TimedBody {
    /// Known to hold nothing more.
    pub fn is_end(&self) -> bool {
        self.body.is_end()
    }

    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if let Poll::Ready(frame) = self.body.poll_frame(cx) {
            if let Some((limit, sleep)) = &mut self.idle {
                sleep.as_mut().reset(Instant::now() + *limit);
            }
            return Poll::Ready(frame);
        }
        let mut passed = |sleep: &mut Pin<Box<Sleep>>| sleep.as_mut().poll(cx).is_ready();
        let error = match () {
            () if self.whole.as_mut().is_some_and(&mut passed) => BodyError::Timeout,
            () if self.idle.as_mut().is_some_and(|(_, s)| passed(s)) => BodyError::IdleTimeout,
            () => return Poll::Pending,
        };
        self.body = Body::Empty;
        (self.idle, self.whole) = (None, None);
        Poll::Ready(Some(Err(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[tokio::test(start_paused = true)]
    async fn a_silent_body_ends() {
        let (feed, body) = Body::pipe();
        let limits = Limits { per_try: None, idle: Some(Duration::from_secs(2)), whole: Some(Duration::from_secs(5)) };
        let began = Instant::now();
        let mut body = wrap(body, &limits, began);
        tokio::time::advance(Duration::from_secs(1)).await;
        feed.push(Frame::Data(Bytes::from_static(b"x")));
        assert!(matches!(body.frame().await, Some(Ok(Frame::Data(_)))));
        assert!(matches!(body.frame().await, Some(Err(BodyError::IdleTimeout))));
        assert_eq!(began.elapsed().as_secs(), 3);
        assert!(body.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_limit_counts() {
        let (_, upload) = super::super::upload::track(Body::Empty);
        let second = Duration::from_secs(1);
        let began = Instant::now();
        let mut limits = Limits { per_try: Some(2 * second), idle: Some(second), whole: Some(3 * second) };
        assert_eq!(limits.passed(&upload, began).await, Failure::PerTry { idle: true });
        limits.idle = None;
        assert_eq!(limits.passed(&upload, Instant::now()).await, Failure::PerTry { idle: false });
        assert_eq!(limits.passed(&upload, began).await, Failure::MaxDuration);
    }
}
