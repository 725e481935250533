//! Time limits of a stream that its codec keeps: idleness, the whole request's arrival, the stream's life.
//!
//! The codec holds a [`Clock`] and one timer; moving a deadline is all that a request costs. When one passes, the codec says so
//! in [`Shared`] and polls the request once more, which answers. Runs on: the task of the stream, both sides of it.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use tokio::time::Instant;

use super::connection::Reply;
use super::local_reply;
use super::stream::StreamCtx;
use crate::config::HttpConnectionManager;
use crate::stream_info::ResponseFlags;

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// `stream_idle_timeout`.
    Idle,
    /// `request_timeout`.
    Request,
    /// `max_stream_duration`.
    Duration,
    /// The route's `timeout`, of the whole answer.
    Route,
    /// `stream_flush_timeout`: what there is of the answer is not taken.
    Flush,
}

impl Expiry {
    /// `%RESPONSE_CODE_DETAILS%`.
    pub fn details(self) -> &'static str {
        match self {
            Expiry::Idle => "stream_idle_timeout",
            Expiry::Request => "request_overall_timeout",
            Expiry::Duration => "max_duration_timeout",
            Expiry::Route => "response_timeout",
            Expiry::Flush => "stream_flush_timeout",
        }
    }

    /// Flag and stat.
    pub fn record(self, ctx: &mut StreamCtx) {
        let stats = &ctx.conn.manager.stats;
        match self {
            Expiry::Idle => {
                stats.downstream_rq_idle_timeout.inc();
                ctx.info.flags.set(ResponseFlags::STREAM_IDLE_TIMEOUT);
            }
            Expiry::Request => stats.downstream_rq_timeout.inc(),
            Expiry::Duration => stats.downstream_rq_max_duration_reached.inc(),
            Expiry::Flush => stats.http2.tx_flush_timeout.inc(),
            Expiry::Route => {
                ctx.info.flags.set(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT);
                if let Some(b) = &ctx.books {
                    b.timed_out();
                }
            }
        }
    }

    /// Answers a request that reached a limit; `complete`: all of it had arrived.
    pub fn reply(self, mut ctx: Box<StreamCtx>, complete: bool) -> Reply {
        self.record(&mut ctx);
        // Whose fault it is: with the whole request here it is not the client that keeps us waiting.
        let status = if complete { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::REQUEST_TIMEOUT };
        let text = match self {
            Expiry::Idle | Expiry::Flush => "stream timeout",
            Expiry::Request => "request timeout",
            Expiry::Duration => "downstream duration timeout",
            Expiry::Route => "upstream request timeout",
        };
        // DEADLINE_EXCEEDED.
        let grpc = (self == Expiry::Duration && local_reply::is_grpc(&ctx)).then(|| HeaderValue::from_static("4"));
        local_reply::with_headers(ctx, status, bytes::Bytes::from_static(text.as_bytes()), self.details(), |h| {
            if let Some(code) = grpc {
                h.insert("grpc-status", code);
            }
        })
    }
}

/// What the codec and the request tell each other.
#[derive(Debug, Default)]
pub struct Shared {
    /// Milliseconds; 0: none.
    idle: AtomicU64,
    /// Milliseconds; 0: none.
    max: AtomicU64,
    /// Milliseconds from the request's end; 0: none.
    route: AtomicU64,
    /// Milliseconds for which filters held the request.
    held: AtomicU64,
    /// Milliseconds; 0: as for idleness.
    flush: AtomicU64,
    expired: AtomicU8,
    /// The HTTP/2 error code with which the client reset the stream, plus 1; 0: it did not.
    reset: AtomicU64,
    touched: AtomicBool,
    uploaded: AtomicBool,
    /// Bytes of the request's body.
    received: AtomicU64,
    /// The upstream says that the client may go on.
    go_on: AtomicBool,
}

impl Shared {
    /// The upstream has answered 100 Continue: the codec passes it on.
    pub fn go_on(&self) {
        self.go_on.store(true, Relaxed);
    }

    /// Whether it has since the last call.
    pub fn take_go_on(&self) -> bool {
        // Nearly always false: a load is cheaper than a swap.
        self.go_on.load(Relaxed) && self.go_on.swap(false, Relaxed)
    }

    /// So many bytes of the request's body have come.
    pub fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
    }

    /// Bytes of the request's body that have come.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// The whole request has arrived (where the codec does not see it by itself).
    pub fn set_uploaded(&self) {
        self.uploaded.store(true, Relaxed);
    }

    /// Whether [`Shared::set_uploaded`] was called.
    pub fn is_uploaded(&self) -> bool {
        self.uploaded.load(Relaxed)
    }

    /// The route's own limits; outer `None`: as the connection manager has it.
    pub fn of_route(
        &self,
        idle: Option<Option<Duration>>,
        max: Option<Option<Duration>>,
        flush: Option<Option<Duration>>,
    ) {
        if let Some(flush) = flush {
            self.flush.store(never_zero(flush), Relaxed);
        }
        if let Some(idle) = idle {
            self.idle.store(millis(idle), Relaxed);
            self.touch();
        }
        if let Some(max) = max {
            self.max.store(millis(max), Relaxed);
        }
    }

    /// The time the upstream has for its whole answer, from the end of the request on, but not before that is sent to it: filters
    /// have `held` it for so long.
    pub fn answer_within(&self, limit: Option<Duration>, held: Duration) {
        self.held.store(millis(Some(held)), Relaxed);
        self.route.store(millis(limit), Relaxed);
    }

    /// The client reset the stream.
    pub fn set_reset(&self, reason: crate::http::h2::Reason) {
        self.reset.store(u64::from(u32::from(reason)) + 1, Relaxed);
    }

    /// With what the client reset the stream, if it did.
    pub fn reset(&self) -> Option<crate::http::h2::Reason> {
        let code = self.reset.load(Relaxed).checked_sub(1)?;
        Some(u32::try_from(code).unwrap_or_default().into())
    }

    /// Something moved.
    pub fn touch(&self) {
        self.touched.store(true, Relaxed);
    }

    /// Resolves once the codec has said that a limit was reached. The codec polls the request then: no waker is kept.
    pub async fn expired(&self) -> Expiry {
        poll_fn(|_| match self.expired.load(Relaxed) {
            1 => Poll::Ready(Expiry::Idle),
            2 => Poll::Ready(Expiry::Request),
            3 => Poll::Ready(Expiry::Duration),
            4 => Poll::Ready(Expiry::Route),
            _ => Poll::Pending,
        })
        .await
    }
}

fn millis(limit: Option<Duration>) -> u64 {
    limit.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// A limit where 0 has another meaning: none is one that never comes.
fn never_zero(limit: Option<Duration>) -> u64 {
    limit.map_or(u64::MAX, |d| millis(Some(d)).max(1))
}

fn duration(millis: &AtomicU64) -> Option<Duration> {
    Some(millis.load(Relaxed)).filter(|m| *m > 0 && *m < u64::MAX).map(Duration::from_millis)
}

/// The codec's side.
pub struct Clock {
    /// The other side's.
    pub shared: Arc<Shared>,
    began: Instant,
    idle_at: Option<Instant>,
    request_by: Option<Instant>,
    /// When the whole request had arrived.
    uploaded: Option<Instant>,
    /// What there is of the answer waits for the client.
    flushing: bool,
}

impl Clock {
    /// The clock of a request that begins now; `shared` is taken over from the one before.
    pub fn new(shared: Arc<Shared>, config: &HttpConnectionManager) -> Self {
        let began = Instant::now();
        shared.idle.store(millis(config.stream_idle_timeout), Relaxed);
        shared.max.store(millis(config.common.max_stream_duration), Relaxed);
        shared.route.store(0, Relaxed);
        shared.flush.store(config.stream_flush_timeout.map_or(0, |d| never_zero(Some(d))), Relaxed);
        shared.expired.store(0, Relaxed);
        shared.touched.store(false, Relaxed);
        shared.received.store(0, Relaxed);
        shared.go_on.store(false, Relaxed);
        let after = |limit: Option<Duration>| limit.and_then(|d| began.checked_add(d));
        Clock {
            shared,
            began,
            idle_at: after(config.stream_idle_timeout),
            request_by: after(config.request_timeout),
            uploaded: None,
            flushing: false,
        }
    }

    /// Whether it is the client that keeps what there is of the answer from going out.
    pub fn flushing(&mut self, flushing: bool) {
        if self.flushing != flushing {
            self.flushing = flushing;
            self.shared.touch();
        }
    }

    /// When to look again; `uploaded`: the whole request has arrived.
    pub fn deadline(&mut self, uploaded: bool) -> Option<Instant> {
        if uploaded && self.uploaded.is_none() {
            self.request_by = None;
            self.uploaded = Some(crate::clock::now());
        }
        if self.shared.touched.swap(false, Relaxed) {
            let idle = if self.has_flush_limit() { &self.shared.flush } else { &self.shared.idle };
            self.idle_at = duration(idle).and_then(|d| crate::clock::now().checked_add(d));
        }
        [self.idle_at, self.request_by, self.ends(), self.answer_by()].into_iter().flatten().min()
    }

    fn has_flush_limit(&self) -> bool {
        self.flushing && self.shared.flush.load(Relaxed) != 0
    }

    fn ends(&self) -> Option<Instant> {
        duration(&self.shared.max).and_then(|d| self.began.checked_add(d))
    }

    fn answer_by(&self) -> Option<Instant> {
        let limit = duration(&self.shared.route)?;
        let sent = self.began.checked_add(Duration::from_millis(self.shared.held.load(Relaxed)))?;
        self.uploaded?.max(sent).checked_add(limit)
    }

    /// The limit behind the deadline that has passed, told to the request too.
    pub fn expire(&self) -> Expiry {
        let now = Instant::now();
        let passed = |at: Option<Instant>| at.is_some_and(|t| t <= now);
        let (code, expiry) = match () {
            () if passed(self.ends()) => (3, Expiry::Duration),
            () if passed(self.answer_by()) => (4, Expiry::Route),
            () if passed(self.request_by) => (2, Expiry::Request),
            () if self.has_flush_limit() => (1, Expiry::Flush),
            () => (1, Expiry::Idle),
        };
        self.shared.expired.store(code, Relaxed);
        expiry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_next_deadline() {
        let shared = Arc::new(Shared::default());
        shared.idle.store(5000, Relaxed);
        let began = Instant::now();
        let at = |s| began + Duration::from_secs(s);
        let mut clock =
            Clock { shared, began, idle_at: Some(at(5)), request_by: Some(at(4)), uploaded: None, flushing: false };
        assert_eq!(clock.deadline(false), Some(at(4)));
        assert_eq!(clock.deadline(true), Some(at(5)));
        tokio::time::advance(Duration::from_secs(3)).await;
        clock.shared.touch();
        assert_eq!(clock.deadline(true), Some(at(8)));
        clock.shared.of_route(Some(None), Some(Some(Duration::from_secs(6))), None);
        assert_eq!(clock.deadline(true), Some(at(6)));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(clock.expire(), Expiry::Duration);
        assert_eq!(clock.shared.expired().await, Expiry::Duration);
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_has_its_time_from_the_end_of_the_request() {
        let shared = Arc::new(Shared::default());
        shared.answer_within(Some(Duration::from_secs(2)), Duration::ZERO);
        let began = Instant::now();
        let mut clock = Clock { shared, began, idle_at: None, request_by: None, uploaded: None, flushing: false };
        assert_eq!(clock.deadline(false), None);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(clock.deadline(true), Some(began + Duration::from_secs(5)));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(clock.deadline(true), Some(began + Duration::from_secs(5)));
        assert_eq!(clock.expire(), Expiry::Route);
        assert_eq!(clock.shared.expired().await, Expiry::Route);
    }

    #[tokio::test(start_paused = true)]
    async fn what_filters_take_is_not_the_upstreams_time() {
        let shared = Arc::new(Shared::default());
        let began = Instant::now();
        let mut clock = Clock { shared, began, idle_at: None, request_by: None, uploaded: None, flushing: false };
        assert_eq!(clock.deadline(true), None);
        clock.shared.answer_within(Some(Duration::from_secs(2)), Duration::from_secs(7));
        assert_eq!(clock.deadline(true), Some(began + Duration::from_secs(9)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken() {
        let shared = Arc::new(Shared::default());
        shared.idle.store(60_000, Relaxed);
        let began = Instant::now();
        let at = |s| Some(began + Duration::from_secs(s));
        let mut clock = Clock { shared, began, idle_at: at(60), request_by: None, uploaded: None, flushing: false };
        clock.shared.of_route(None, None, Some(Some(Duration::from_secs(2))));
        assert_eq!(clock.deadline(true), at(60));
        clock.flushing(true);
        assert_eq!(clock.deadline(true), at(2));
        tokio::time::advance(Duration::from_secs(1)).await;
        clock.flushing(true);
        assert_eq!(clock.deadline(true), at(2), "only what goes out moves it");
        clock.shared.touch();
        assert_eq!(clock.deadline(true), at(3));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(clock.expire(), Expiry::Flush);
        clock.flushing(false);
        assert_eq!(clock.deadline(true), at(63));
        clock.shared.of_route(None, None, Some(None));
        clock.flushing(true);
        assert_eq!(clock.deadline(true), None);
    }
}
