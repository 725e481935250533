//! HTTP/2 downstream connections: one task for the connection, one for each of its streams.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, header};

use super::super::body::{Body, BodyError, Frame};
use super::super::connection::{EndReason, HttpConn, Reply};
use super::super::head::RequestHead;
use super::super::limits::{Clock, Expiry, Shared};
use super::core::{Accepted, Core, End, Options, Role};
use super::driver::{Counts, Driver};
use super::guard::{Breach, Guard};
use super::handle::StreamRef;
use super::keepalive::Keepalive;
use super::request::{Refused, split};
use super::{Reason, Upload};
use crate::config::HttpConnectionManager;
use crate::timer::LazyTimer;
use crate::transport::Stream;

/// Serves a connection until it ends.
pub async fn serve(stream: Stream, already: Bytes, conn: Arc<HttpConn>) {
    let config = &conn.manager.config;
    let o = &config.http2;
    let options = Options {
        role: Role::Server,
        stream_window: o.initial_stream_window,
        connection_window: o.initial_connection_window,
        max_streams: o.max_concurrent_streams,
        max_head: config.max_request_headers_bytes,
        table: o.hpack_table_size,
        connect: o.allow_connect,
        spare_connection: spares_connection(config),
    };
    let stats = &conn.manager.stats;
    let counts = Counts(stats.downstream_cx_rx_bytes_total.clone(), stats.downstream_cx_tx_bytes_total.clone());
    let mut driver = Driver::new(stream, &already, Core::new(options, Some(Guard::new(o))), counts);
    let ended = run(&mut driver, &conn).await;
    if let (Ended::ByUs, Some(limit)) = (ended, config.delayed_close_timeout) {
        driver.linger(limit).await;
    }
    conn.manager.stats.destroyed(ended == Ended::ByClient);
}

/// How long a client may take for its preface where no idle timeout is set.
const MAX_SILENCE: Duration = Duration::from_secs(3600);

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// There is nothing to say.
    Quietly,
    /// There is nobody left to listen.
    ByClient,
    /// For something the client did: it is to read what.
    ByUs,
}

/// Whether a malformed request costs only its stream.
fn spares_connection(config: &HttpConnectionManager) -> bool {
    config.http2.override_stream_error.unwrap_or(config.stream_error_on_invalid_http_message)
}

async fn run(driver: &mut Driver<Stream>, conn: &Arc<HttpConn>) -> Ended {
    let config = &conn.manager.config;
    let mut idle = LazyTimer::default();
    let mut drain_end = LazyTimer::default();
    let mut age = LazyTimer::default();
    age.set(config.common.max_connection_duration.and_then(|d| conn.info.start.checked_add(d)));
    // A client that says nothing is idle.
    idle.set_after(Some(config.common.idle_timeout.unwrap_or(MAX_SILENCE)));
    let drain = conn.drain.notified();
    tokio::pin!(drain);
    let mut draining = conn.is_draining();
    if draining {
        driver.core().lock().leave();
    }
    let mut keepalive = Keepalive::new(config.http2.keepalive.as_ref());
    let mut begun = false;
    let active = Arc::new(());
    let mut requests = 0u64;
    loop {
        let event = poll_fn(|cx| {
            let polled = driver.poll(cx);
            let mut core = driver.core().lock();
            if !begun && core.has_settings() {
                begun = true;
                idle.set_after(config.common.idle_timeout);
            }
            if let Some(accepted) = core.accepted.pop_front() {
                return Poll::Ready(Event::Accepted(accepted));
            }
            if let Poll::Ready(end) = polled {
                return Poll::Ready(Event::Ended(end));
            }
            if keepalive.as_mut().is_some_and(|k| k.poll_dead(&mut core, cx).is_ready()) {
                return Poll::Ready(Event::Dead);
            }
            if !draining && drain.as_mut().as_mut().poll_drain(cx).is_ready() {
                return Poll::Ready(Event::Drain);
            }
            if drain_end.poll_expired(cx).is_ready() {
                return Poll::Ready(Event::DrainEnd);
            }
            if age.poll_expired(cx).is_ready() {
                return Poll::Ready(Event::Age);
            }
            idle.poll_expired(cx).map(|()| Event::Idle)
        })
        .await;
        match event {
            Event::Accepted(first) => {
                idle.set_after(config.common.idle_timeout);
                let mut next = Some(first);
                while let Some(accepted) = next {
                    requests += 1;
                    if !draining && conn.is_last_request(requests) {
                        draining = true;
                        driver.core().lock().leave();
                    }
                    let (alive, conn) = (active.clone(), conn.clone());
                    let handle = StreamRef::adopt(driver.core(), accepted.key);
                    // Boxed: the runtime copies a task when it starts and when it ends.
                    tokio::spawn(Box::pin(async move {
                        stream(accepted, handle, conn).await;
                        drop(alive);
                    }));
                    next = driver.core().lock().accepted.pop_front();
                }
            }
            Event::Ended(End::Closed) => return Ended::ByClient,
            Event::Ended(End::Goodbye) => return Ended::Quietly,
            Event::Ended(End::Protocol(reason)) => {
                tracing::debug!(connection = conn.info.id, ?reason, "HTTP/2 connection ended");
                conn.manager.stats.downstream_cx_protocol_error.inc();
                return Ended::ByUs;
            }
            Event::Ended(End::Breach(breach)) => {
                tracing::debug!(connection = conn.info.id, error = %breach, "HTTP/2 connection ended");
                record(conn, breach);
                return Ended::ByUs;
            }
            Event::Dead => {
                conn.manager.stats.http2.keepalive_timeout.inc();
                return Ended::Quietly;
            }
            Event::DrainEnd => return Ended::Quietly,
            Event::Age => {
                conn.manager.stats.downstream_cx_max_duration_reached.inc();
                draining = true;
                driver.core().lock().leave();
            }
            // Nobody is told to leave who has not said anything.
            Event::Drain if !begun => return Ended::Quietly,
            Event::Drain => {
                draining = true;
                driver.core().lock().leave();
            }
            Event::Idle if Arc::strong_count(&active) > 1 => idle.set_after(config.common.idle_timeout),
            Event::Idle => {
                conn.manager.stats.downstream_cx_idle_timeout.inc();
                if !begun {
                    return Ended::Quietly;
                }
                driver.core().lock().leave();
                drain_end.set_after(Some(config.drain_timeout));
            }
        }
    }
}

/// Counts what a client is left for, and logs the request that it was.
fn record(conn: &Arc<HttpConn>, breach: Breach) {
    let stats = &conn.manager.stats;
    stats.downstream_cx_protocol_error.inc();
    match breach {
        Breach::Malformed => {
            stats.http2.rx_messaging_error.inc();
            conn.refuse_stream(Reason::PROTOCOL_ERROR, Refused::MALFORMED.details);
        }
        Breach::NoSettings => stats.http2.rx_messaging_error.inc(),
        Breach::EmptyFrames => stats.http2.inbound_empty_frames_flood.inc(),
        Breach::Priority => stats.http2.inbound_priority_frames_flood.inc(),
        Breach::Control => stats.http2.outbound_control_flood.inc(),
        Breach::WindowUpdates => stats.http2.inbound_window_update_frames_flood.inc(),
        Breach::Resets => stats.downstream_rq_too_many_premature_resets.inc(),
    }
}

#[allow(clippy::large_enum_variant, reason = "lives on the stack for one turn of the loop")]
enum Event {
    Accepted(Accepted),
    Ended(End),
    /// A PING was not answered.
    Dead,
    Drain,
    DrainEnd,
    Idle,
    /// `max_connection_duration` has passed.
    Age,
}

/// Polling a notification that may have been used up.
trait PollDrain {
    fn poll_drain(self, cx: &mut Context<'_>) -> Poll<()>;
}

impl<F: Future<Output = ()>> PollDrain for std::pin::Pin<&mut F> {
    fn poll_drain(self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll(cx)
    }
}

/// Serves one stream.
async fn stream(accepted: Accepted, respond: StreamRef, conn: Arc<HttpConn>) {
    let mut clock = Clock::new(Arc::default(), &conn.manager.config);
    let mut timer = LazyTimer::default();
    let (mut head, body) = match split(accepted.head, accepted.end, &respond, &conn, &clock.shared) {
        Ok(parts) => parts,
        Err(refused) => {
            respond.refuse(refused.reason);
            // What costs the connection is told of where it ends.
            if refused.reason != Reason::PROTOCOL_ERROR || spares_connection(&conn.manager.config) {
                conn.refuse_stream(refused.reason, refused.details);
            }
            return;
        }
    };
    let expects = head.headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if expects && !conn.manager.config.proxy_100_continue {
        head.headers.remove(header::EXPECT);
        go_on(&respond);
    }
    let no_body = head.method == Method::HEAD;
    match answer(head, body, conn, &respond, &mut clock, &mut timer).await {
        Ok(reply) => {
            clock.shared.touch();
            send(reply, respond, no_body, clock, timer).await;
        }
        Err(Some(reason)) => respond.reset(reason),
        Err(None) => {}
    }
}

/// The answer to a request. `Err`: the stream is reset by us, or was by the client.
async fn answer(
    head: RequestHead,
    body: Body,
    conn: Arc<HttpConn>,
    respond: &StreamRef,
    clock: &mut Clock,
    timer: &mut LazyTimer,
) -> Result<Reply, Option<Reason>> {
    // Pinned where it is made: moving it would cost more than much of what it does.
    let mut handler = std::pin::pin!(conn.handle(head, body, 0, clock.shared.clone()));
    poll_fn(|cx| {
        let polled = handler.as_mut().poll(cx);
        // Also where the answer came together with it.
        if clock.shared.take_go_on() {
            go_on(respond);
        }
        if let Poll::Ready(reply) = polled {
            return Poll::Ready(Ok(reply));
        }
        // The client's reset ends the request and what it does upstream.
        if let Poll::Ready(reset) = respond.poll_reset(cx) {
            if let Some(reason) = reset {
                clock.shared.set_reset(reason);
            }
            return Poll::Ready(Err(None));
        }
        timer.set(clock.deadline(clock.shared.is_uploaded()));
        std::task::ready!(timer.poll_expired(cx));
        clock.expire();
        match handler.as_mut().poll(cx) {
            Poll::Ready(reply) => Poll::Ready(Ok(reply)),
            // A filter holds the request where it cannot be answered for.
            Poll::Pending => Poll::Ready(Err(Some(Reason::CANCEL))),
        }
    })
    .await
}

/// Tells the client to send the body it holds back.
fn go_on(respond: &StreamRef) {
    // Where it cannot be sent the client is gone, which the stream finds out by itself.
    let _ = respond.respond(StatusCode::CONTINUE, &crate::http::HeaderMap::new(), false);
}

/// Writes an answer.
async fn send(mut reply: Reply, respond: StreamRef, no_body: bool, mut clock: Clock, mut timer: LazyTimer) {
    // An upgrade's 101 is a 200 of extended CONNECT (RFC 8441).
    let status = match reply.head.status {
        StatusCode::SWITCHING_PROTOCOLS => StatusCode::OK,
        status => status,
    };
    let mut body = std::mem::take(&mut reply.body);
    if no_body {
        body = Body::Empty;
    }
    let end = body.is_end();
    reply.end.head_sent(0);
    if !respond.respond(status, &reply.head.headers, end) {
        reply.end.finish(EndReason::DownstreamClosed);
        return;
    }
    let mut upload = Upload::new(respond, body, end);
    if reply.end.logs_response() {
        upload.trailers = Some(crate::http::HeaderMap::new());
    }
    let mut sent = 0;
    let result = poll_fn(|cx| {
        if let Poll::Ready(result) = upload.poll(cx) {
            return Poll::Ready(Ok(result));
        }
        if upload.sent > sent {
            sent = upload.sent;
            clock.shared.touch();
        }
        clock.flushing(upload.is_blocked());
        timer.set(clock.deadline(clock.shared.is_uploaded()));
        timer.poll_expired(cx).map(|()| Err(clock.expire()))
    })
    .await;
    reply.end.body_sent(upload.sent);
    if let Some(t) = upload.trailers.take().filter(|t| !t.is_empty()) {
        reply.end.trailers(t);
    }
    let result = match result {
        Ok(result) => result,
        Err(limit) => {
            upload.reset(if limit == Expiry::Flush { Reason::INTERNAL_ERROR } else { Reason::NO_ERROR });
            reply.end.finish(EndReason::Expired(limit));
            return;
        }
    };
    let reason = match result {
        Ok(()) => EndReason::Complete,
        Err(BodyError::Reset(r)) if upload.peer_reset => EndReason::DownstreamReset(r),
        Err(BodyError::Closed) if upload.peer_reset => EndReason::DownstreamClosed,
        Err(e) => {
            // What there was of the answer goes out first: a reset takes back what the connection has not written yet.
            tokio::task::yield_now().await;
            upload.reset(Reason::INTERNAL_ERROR);
            EndReason::Upstream(e)
        }
    };
    reply.end.finish(reason);
}

/// The body of a request stream. The window opens as what was read is written on.
pub struct H2Recv {
    stream: StreamRef,
    held: usize,
    limits: Arc<Shared>,
}

impl H2Recv {
    /// The body of a stream whose limits are these.
    pub(super) fn new(stream: StreamRef, limits: Arc<Shared>) -> Self {
        H2Recv { stream, held: 0, limits }
    }

    /// Nothing more will come.
    pub fn is_end(&self) -> bool {
        self.stream.is_end()
    }

    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let frame = std::task::ready!(self.stream.poll_frame(cx, &mut self.held));
        self.limits.touch();
        if let Some(Ok(Frame::Data(d))) = &frame {
            self.limits.add_received(d.len());
        }
        if !matches!(frame, Some(Ok(Frame::Data(_)))) || self.stream.is_end() {
            self.limits.set_uploaded();
        }
        Poll::Ready(frame)
    }
}

impl Drop for H2Recv {
    fn drop(&mut self) {
        self.stream.stop_reading(std::mem::take(&mut self.held));
    }
}
