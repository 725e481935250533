//! HTTP/2 downstream connections: the library drives frames, each stream is a task of this worker.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Method, Request, Response, StatusCode, header};

use super::super::body::{Body, BodyError, Frame};
use super::super::connection::{EndReason, HttpConn, Reply};
use super::super::head::RequestHead;
use super::super::limits::{Clock, Expiry, Shared};
use super::guard::{Breach, Guard};
use super::io::{self, Gathered, Io};
use super::keepalive::Keepalive;
use super::request::{Refused, split};
use super::{Upload, body_error, client};
use crate::config::HttpConnectionManager;
use crate::timer::LazyTimer;
use crate::transport::Stream;

/// Serves a connection until it ends.
pub async fn serve(stream: Stream, already: Bytes, conn: Arc<HttpConn>) {
    let config = &conn.manager.config;
    let o = &config.http2;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(o.initial_stream_window)
        .initial_connection_window_size(o.initial_connection_window)
        .max_concurrent_streams(o.max_concurrent_streams)
        .max_header_list_size(config.max_request_headers_bytes.try_into().unwrap_or(u32::MAX))
        .max_send_buffer_size(1 << 20)
        // Streams reset by the peer before they were looked at: beyond this the connection ends (rapid reset).
        .max_pending_accept_reset_streams(128)
        .max_local_error_reset_streams(Some(1024));
    if o.allow_connect {
        builder.enable_connect_protocol();
    }
    let guard = Guard::new(o, spares_connection(config));
    let stats = &conn.manager.stats;
    let counts = io::Counts(stats.downstream_cx_rx_bytes_total.clone(), stats.downstream_cx_tx_bytes_total.clone());
    let (stream, out) = io::gather(stream, already, Some(guard), counts);
    let handshake = builder.handshake::<_, Bytes>(stream);
    tokio::pin!(handshake);
    let connection = poll_fn(|cx| {
        let done = handshake.as_mut().poll(cx);
        match out.poll_flush(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(Err(h2::Error::from(Reason::CONNECT_ERROR))),
            _ => done,
        }
    });
    // A client that says nothing is idle.
    let idle = config.common.idle_timeout.unwrap_or(MAX_SILENCE);
    let begun = tokio::select! {
        biased;
        begun = tokio::time::timeout(idle, connection) => begun,
        // Nobody is told to leave who has not said anything.
        () = conn.drain.notified() => return,
    };
    let ended = match begun {
        Ok(Ok(connection)) => run(connection, &out, &conn).await,
        Ok(Err(_)) => {
            conn.manager.stats.downstream_cx_protocol_error.inc();
            Ended::ByUs
        }
        Err(_) => {
            conn.manager.stats.downstream_cx_idle_timeout.inc();
            Ended::Quietly
        }
    };
    if let (Ended::ByUs, Some(limit)) = (ended, config.delayed_close_timeout) {
        out.linger(limit).await;
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

async fn run(mut connection: Connection<Io<Stream>, Bytes>, out: &Gathered<Stream>, conn: &Arc<HttpConn>) -> Ended {
    let config = &conn.manager.config;
    let mut idle = LazyTimer::default();
    let mut drain_end = LazyTimer::default();
    let mut age = LazyTimer::default();
    age.set(config.common.max_connection_duration.and_then(|d| conn.info.start.checked_add(d)));
    idle.set_after(config.common.idle_timeout);
    let drain = conn.drain.notified();
    tokio::pin!(drain);
    let mut draining = conn.is_draining();
    if draining {
        connection.graceful_shutdown();
    }
    let mut keepalive = Keepalive::new(config.http2.keepalive.as_ref(), connection.ping_pong());
    let active = Arc::new(());
    let mut requests = 0u64;
    loop {
        let event = poll_fn(|cx| {
            if keepalive.as_mut().is_some_and(|k| k.poll_dead(cx).is_ready()) {
                return Poll::Ready(Event::Dead);
            }
            if let Poll::Ready(accepted) = connection.poll_accept(cx) {
                if !matches!(accepted, Some(Ok(_))) {
                    // The last words, GOAWAY as a rule.
                    let _ = out.poll_flush(cx);
                }
                return Poll::Ready(Event::Accepted(accepted));
            }
            if let Poll::Ready(Err(e)) = out.poll_flush(cx) {
                return Poll::Ready(Event::Broken(e));
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
            Event::Accepted(Some(Ok((request, respond)))) => {
                requests += 1;
                idle.set_after(config.common.idle_timeout);
                if !draining && conn.is_last_request(requests) {
                    draining = true;
                    connection.graceful_shutdown();
                }
                let alive = active.clone();
                let conn = conn.clone();
                // Boxed: the runtime copies a task when it starts and when it ends.
                tokio::spawn(Box::pin(async move {
                    stream(request, respond, conn).await;
                    drop(alive);
                }));
            }
            Event::Accepted(Some(Err(e))) => {
                match out.breach() {
                    Some(breach) => record(conn, breach),
                    None if e.is_io() => return Ended::ByClient,
                    None => conn.manager.stats.downstream_cx_protocol_error.inc(),
                }
                return Ended::ByUs;
            }
            Event::Broken(e) => {
                tracing::debug!(connection = conn.info.id, error = %e, "HTTP/2 connection ended");
                let Some(breach) = out.breach() else { return Ended::ByClient };
                record(conn, breach);
                return Ended::ByUs;
            }
            Event::Dead => {
                conn.manager.stats.http2.keepalive_timeout.inc();
                return Ended::Quietly;
            }
            Event::Accepted(None) if !draining => return Ended::ByClient,
            Event::Accepted(None) | Event::DrainEnd => return Ended::Quietly,
            Event::Age => {
                conn.manager.stats.downstream_cx_max_duration_reached.inc();
                if !draining {
                    draining = true;
                    connection.graceful_shutdown();
                }
            }
            Event::Drain => {
                draining = true;
                connection.graceful_shutdown();
            }
            Event::Idle if Arc::strong_count(&active) > 1 => idle.set_after(config.common.idle_timeout),
            Event::Idle => {
                conn.manager.stats.downstream_cx_idle_timeout.inc();
                connection.graceful_shutdown();
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

type Accepted = Option<Result<(Request<RecvStream>, SendResponse<Bytes>), h2::Error>>;

#[allow(clippy::large_enum_variant, reason = "lives on the stack for one turn of the loop")]
enum Event {
    Accepted(Accepted),
    /// The transport failed, or the client is left for what it did.
    Broken(std::io::Error),
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
async fn stream(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, conn: Arc<HttpConn>) {
    let mut clock = Clock::new(Arc::default(), &conn.manager.config);
    let mut timer = LazyTimer::default();
    let (mut head, body) = match split(request, &conn, &clock.shared) {
        Ok(parts) => parts,
        Err(refused) => {
            respond.send_reset(refused.reason);
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
        go_on(&mut respond);
    }
    let no_body = head.method == Method::HEAD;
    match answer(head, body, conn, &mut respond, &mut clock, &mut timer).await {
        Ok(reply) => {
            clock.shared.touch();
            send(reply, respond, no_body, clock, timer).await;
        }
        Err(Some(reason)) => respond.send_reset(reason),
        Err(None) => {}
    }
}

/// The answer to a request. `Err`: the stream is reset by us, or was by the client.
async fn answer(
    head: RequestHead,
    body: Body,
    conn: Arc<HttpConn>,
    respond: &mut SendResponse<Bytes>,
    clock: &mut Clock,
    timer: &mut LazyTimer,
) -> Result<Reply, Option<Reason>> {
    let handler = conn.handle(head, body, 0, clock.shared.clone());
    tokio::pin!(handler);
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
            if let Ok(reason) = reset {
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
fn go_on(respond: &mut SendResponse<Bytes>) {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::CONTINUE;
    // Where it cannot be sent the client is gone, which the stream finds out by itself.
    let _ = respond.send_informational(response);
}

/// Writes an answer.
async fn send(
    mut reply: Reply,
    mut respond: SendResponse<Bytes>,
    no_body: bool,
    mut clock: Clock,
    mut timer: LazyTimer,
) {
    let mut response = Response::new(());
    *response.status_mut() = reply.head.status;
    *response.headers_mut() = std::mem::take(&mut reply.head.headers);
    client::strip_h1(response.headers_mut());
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // An upgrade's 101 is a 200 of extended CONNECT (RFC 8441).
        *response.status_mut() = StatusCode::OK;
    }
    let mut body = std::mem::take(&mut reply.body);
    if no_body {
        body = Body::Empty;
    }
    let end = body.is_end();
    reply.end.head_sent(0);
    let stream = match respond.send_response(response, end) {
        Ok(s) => s,
        Err(_) => {
            reply.end.finish(EndReason::DownstreamClosed);
            return;
        }
    };
    let mut upload = Upload::new(stream, body, end);
    if reply.end.logs_response() {
        upload.trailers = Some(http::HeaderMap::new());
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
    recv: RecvStream,
    held: usize,
    limits: Arc<Shared>,
}

impl H2Recv {
    /// The body of a stream whose limits are these.
    pub(super) fn new(recv: RecvStream, limits: Arc<Shared>) -> Self {
        H2Recv { recv, held: 0, limits }
    }

    /// Nothing more will come.
    pub fn is_end(&self) -> bool {
        self.recv.is_end_stream()
    }

    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let frame = std::task::ready!(poll_recv(&mut self.recv, &mut self.held, cx));
        self.limits.touch();
        if let Some(Ok(Frame::Data(d))) = &frame {
            self.limits.add_received(d.len());
        }
        if !matches!(frame, Some(Ok(Frame::Data(_)))) || self.recv.is_end_stream() {
            self.limits.set_uploaded();
        }
        Poll::Ready(frame)
    }
}

/// Reads a stream, giving its window back once more is asked for.
pub(super) fn poll_recv(
    recv: &mut RecvStream,
    held: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame, BodyError>>> {
    if *held > 0 {
        let _ = recv.flow_control().release_capacity(std::mem::take(held));
    }
    loop {
        return match std::task::ready!(recv.poll_data(cx)) {
            Some(Ok(data)) if data.is_empty() => continue,
            Some(Ok(data)) => {
                *held = data.len();
                Poll::Ready(Some(Ok(Frame::Data(data))))
            }
            Some(Err(e)) => Poll::Ready(Some(Err(body_error(&e)))),
            None => match std::task::ready!(recv.poll_trailers(cx)) {
                Ok(t) => Poll::Ready(t.map(|t| Ok(Frame::Trailers(t)))),
                Err(e) => Poll::Ready(Some(Err(body_error(&e)))),
            },
        };
    }
}
