//! HTTP/2 upstream connections and the exchanges on them.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use h2::client::{ResponseFuture, SendRequest};
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderName, Method, Request, header};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::body::{Body, BodyError, Frame};
use super::super::head::{RequestHead, ResponseHead};
use super::super::limits::Shared as Limits;
use super::super::names::{HTTP2_SETTINGS, KEEP_ALIVE, PROXY_CONNECTION};
use super::io::{self, Gathered, Io};
use super::keepalive::Keepalive;
use super::{Upload, body_error};
use crate::cluster::Cluster;
use crate::stream_info::{PeerAddr, Protocol, TlsInfo};
use crate::transport::Stream;
use crate::upstream::pool::{ConnGuard, Turns};
use crate::upstream::{ConnectFault, PoolError};

/// Settings must arrive within this of the transport being up, else the peer does not speak HTTP/2.
const HANDSHAKE: Duration = Duration::from_secs(10);

struct Shared {
    send: SendRequest<Bytes>,
    active: AtomicU32,
    served: AtomicU64,
    max_streams: u32,
    max_requests: u64,
    closed: AtomicBool,
    draining: AtomicBool,
    /// Something that its task must look at: it is to drain, or its last stream ended.
    wake: Notify,
    cluster: Arc<Cluster>,
    turns: Turns,
    id: u64,
    local: Option<PeerAddr>,
    tls: Option<Arc<TlsInfo>>,
}

/// A pooled HTTP/2 connection.
pub struct H2Handle(Arc<Shared>);

/// A stream's place on a connection, given back when dropped.
pub struct H2Slot {
    conn: Arc<Shared>,
    /// Ready to take the request.
    send: SendRequest<Bytes>,
}

impl Shared {
    /// Streams at a time: ours and the peer's limit.
    fn limit(&self) -> u32 {
        self.max_streams.min(self.send.current_max_send_streams().try_into().unwrap_or(u32::MAX))
    }

    fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.wake.notify_one();
    }
}

impl H2Handle {
    /// Speaks HTTP/2 on `stream`. The connection lives in a task of this worker and ends with its peer, or when it was drained and
    /// its last stream ended.
    ///
    /// # Errors
    /// The handshake failed.
    pub async fn connect(stream: Stream, id: u64, guard: ConnGuard) -> Result<H2Handle, PoolError> {
        let cluster = guard.cluster().clone();
        let o = &cluster.config.http2;
        let (local, tls) = (stream.local_addr(), stream.tls_info());
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(o.initial_stream_window)
            .initial_connection_window_size(o.initial_connection_window)
            .header_table_size(o.hpack_table_size)
            .max_header_list_size(cluster.config.common.max_response_headers_bytes.try_into().unwrap_or(u32::MAX))
            .max_send_buffer_size(cluster.config.per_connection_buffer_limit)
            .enable_push(false);
        let failed = |reason: &'static str| PoolError::Connect { reason: reason.into(), fault: ConnectFault::Remote };
        let stats = &cluster.stats;
        let counts = io::Counts(stats.upstream_cx_rx_bytes_total.clone(), stats.upstream_cx_tx_bytes_total.clone());
        let (stream, out) = io::gather(stream, Bytes::new(), None, counts);
        let (send, connection) = tokio::time::timeout(HANDSHAKE, builder.handshake(stream))
            .await
            .map_err(|_| failed("HTTP/2 handshake timeout"))?
            .map_err(|_| failed("HTTP/2 handshake failed"))?;
        let shared = Arc::new(Shared {
            send,
            active: AtomicU32::new(0),
            served: AtomicU64::new(0),
            max_streams: o.max_concurrent_streams,
            max_requests: cluster.config.common.max_requests_per_connection.map_or(u64::MAX, u64::from),
            closed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            wake: Notify::new(),
            cluster: cluster.clone(),
            turns: guard.turns(),
            id,
            local,
            tls,
        });
        let state = shared.clone();
        let mut guard = guard;
        tokio::spawn(async move {
            let remote = run(connection, out, &state, &guard).await;
            state.closed.store(true, Ordering::Release);
            let served = state.served.load(Ordering::Relaxed);
            state.cluster.stats.upstream_rq_per_cx.record(served);
            guard.closing(remote, state.active.load(Ordering::Relaxed) > 0);
            drop(guard);
        });
        Ok(H2Handle(shared))
    }

    /// Whether new streams may be opened on it.
    pub fn is_open(&self) -> bool {
        !self.0.closed.load(Ordering::Acquire) && !self.0.draining.load(Ordering::Acquire)
    }

    /// Takes a stream's place, if there is one.
    pub fn reserve(&self) -> Option<H2Slot> {
        let s = &self.0;
        if !self.is_open() || s.active.load(Ordering::Relaxed) >= s.limit() {
            return None;
        }
        let mut send = s.send.clone();
        match send.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => {}
            Poll::Pending => return None,
            Poll::Ready(Err(e)) => {
                // The peer's GOAWAY is here already: asking it would fail the request.
                if e.is_go_away() {
                    s.cluster.stats.upstream_cx_close_notify.inc();
                }
                s.drain();
                return None;
            }
        }
        s.active.fetch_add(1, Ordering::Relaxed);
        if s.served.fetch_add(1, Ordering::Relaxed) + 1 >= s.max_requests {
            s.cluster.stats.upstream_cx_max_requests.inc();
            s.drain();
        }
        Some(H2Slot { conn: s.clone(), send })
    }

    /// No new streams; the connection ends with its last one.
    pub fn drain(&self) {
        self.0.drain();
    }
}

/// Drives a connection until it ends, was drained, or has been idle or there for too long. Whether the peer ended it.
async fn run(
    mut connection: h2::client::Connection<Io<Stream>, Bytes>,
    out: Gathered<Stream>,
    state: &Shared,
    guard: &ConnGuard,
) -> bool {
    let common = &guard.cluster().config.common;
    let stats = &guard.cluster().stats;
    let idle = common.idle_timeout;
    // Coarse on purpose: one timer per connection, looked at a few times per idle period.
    let step = idle.unwrap_or(Duration::from_secs(3600)).clamp(Duration::from_millis(100), Duration::from_secs(60));
    let mut keepalive = Keepalive::new(guard.cluster().config.http2.keepalive.as_ref(), connection.ping_pong());
    let mut quiet = Duration::ZERO;
    let mut served = 0;
    let mut ends =
        common.max_connection_duration.and_then(|d| Instant::now().checked_add(d.saturating_sub(guard.age())));
    loop {
        let slept = ends.map_or(step, |at| at.saturating_duration_since(Instant::now()).min(step));
        tokio::select! {
            end = poll_fn(|cx| {
                if keepalive.as_mut().is_some_and(|k| k.poll_dead(cx).is_ready()) {
                    // Nobody will answer what waits here.
                    return Poll::Ready(Err(h2::Reason::CANCEL.into()));
                }
                let end = connection.poll_unpin(cx);
                match out.poll_flush(cx) {
                    Poll::Ready(Err(_)) => Poll::Ready(Err(h2::Reason::CONNECT_ERROR.into())),
                    _ => end,
                }
            }) => {
                if end.is_err() {
                    stats.upstream_cx_protocol_error.inc();
                }
                return true;
            }
            () = state.wake.notified() => {}
            () = tokio::time::sleep(slept) => {
                let now = state.served.load(Ordering::Relaxed);
                let busy = state.active.load(Ordering::Relaxed) > 0 || now != served;
                served = now;
                quiet = if busy { Duration::ZERO } else { quiet + slept };
                if idle.is_some_and(|limit| quiet >= limit) {
                    stats.upstream_cx_idle_timeout.inc();
                    return false;
                }
            }
        }
        if ends.is_some_and(|at| at <= Instant::now()) {
            stats.upstream_cx_max_duration_reached.inc();
            state.draining.store(true, Ordering::Release);
            ends = None;
        }
        if state.draining.load(Ordering::Acquire) && state.active.load(Ordering::Relaxed) == 0 {
            return false;
        }
    }
}

impl H2Slot {
    /// Connection id.
    pub fn id(&self) -> u64 {
        self.conn.id
    }

    /// Address it comes from.
    pub fn local(&self) -> Option<&PeerAddr> {
        self.conn.local.as_ref()
    }

    /// TLS facts.
    pub fn tls(&self) -> Option<&Arc<TlsInfo>> {
        self.conn.tls.as_ref()
    }

    /// Begins an exchange.
    ///
    /// # Errors
    /// The connection takes no more streams, or the head cannot be expressed in HTTP/2.
    pub fn start(mut self, head: &RequestHead, body: Body) -> Result<Box<H2Body>, BodyError> {
        let request = request(head).ok_or(BodyError::Protocol)?;
        let end = body.is_end();
        let (response, stream) = self.send.send_request(request, end).map_err(|e| {
            self.conn.drain();
            body_error(&e)
        })?;
        Ok(Box::new(H2Body {
            interim: None,
            response: Some(response),
            recv: None,
            upload: Upload::new(stream, body, end),
            held: 0,
            slot: self,
        }))
    }
}

impl Drop for H2Slot {
    fn drop(&mut self) {
        let before = self.conn.active.fetch_sub(1, Ordering::Relaxed);
        if before >= self.conn.limit() {
            // It was full, so somebody may wait.
            self.conn.turns.pass();
        }
        if before == 1 && self.conn.draining.load(Ordering::Acquire) {
            self.conn.wake.notify_one();
        }
    }
}

/// The head as the library wants it.
fn request(head: &RequestHead) -> Option<Request<()>> {
    let mut uri = http::uri::Parts::default();
    let connect = head.method == Method::CONNECT && head.upgrade.is_none();
    if !connect {
        uri.scheme = Some(match head.scheme {
            super::super::head::Scheme::Http => http::uri::Scheme::HTTP,
            super::super::head::Scheme::Https => http::uri::Scheme::HTTPS,
        });
        uri.path_and_query = Some(PathAndQuery::try_from(head.path.as_str()).ok()?);
    }
    let authority = head.authority.as_ref()?;
    uri.authority = Some(Authority::try_from(authority.as_bytes()).ok()?);
    let mut request = Request::new(());
    *request.method_mut() = if head.upgrade.is_some() { Method::CONNECT } else { head.method.clone() };
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    *request.version_mut() = http::Version::HTTP_2;
    if let Some(protocol) = &head.upgrade {
        request.extensions_mut().insert(h2::ext::Protocol::from(protocol.to_str().ok()?));
    }
    *request.headers_mut() = head.headers.clone();
    strip_h1(request.headers_mut());
    Some(request)
}

/// Removes the fields that HTTP/2 forbids (RFC 9113 section 8.2.2). As a rule there are none, which one pass tells.
pub(super) fn strip_h1(headers: &mut http::HeaderMap) {
    use header::{CONNECTION, TRANSFER_ENCODING, UPGRADE};
    let own = ["keep-alive", "proxy-connection", "http2-settings"];
    let forbidden =
        |n: &HeaderName| matches!(*n, CONNECTION | TRANSFER_ENCODING | UPGRADE) || own.contains(&n.as_str());
    if headers.keys().any(forbidden) {
        for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE, KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS] {
            headers.remove(name);
        }
    }
}

/// An exchange: the upload, and the response as it comes.
pub struct H2Body {
    /// Told when the upstream answers 100 Continue.
    pub interim: Option<Arc<Limits>>,
    response: Option<ResponseFuture>,
    recv: Option<h2::RecvStream>,
    upload: Upload,
    /// Bytes handed out whose window is still to be given back.
    held: usize,
    slot: H2Slot,
}

impl H2Body {
    /// The connection.
    pub fn slot(&self) -> &H2Slot {
        &self.slot
    }

    /// The response's head. The upload goes on meanwhile, and afterwards as the body is polled.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, BodyError>> {
        let upload = self.upload.poll(cx);
        let Some(response) = &mut self.response else { return Poll::Ready(Err(BodyError::Closed)) };
        if let Some(told) = &self.interim
            && let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx)
            && interim.status() == http::StatusCode::CONTINUE
        {
            told.go_on();
        }
        match std::future::Future::poll(std::pin::Pin::new(response), cx) {
            Poll::Ready(Ok(r)) => {
                self.response = None;
                let (parts, recv) = r.into_parts();
                self.recv = Some(recv);
                Poll::Ready(Ok(ResponseHead {
                    status: parts.status,
                    headers: parts.headers,
                    protocol: Protocol::Http2,
                    spelling: None,
                }))
            }
            Poll::Ready(Err(e)) => {
                self.response = None;
                if e.is_reset() && e.is_remote() && e.reason() != Some(h2::Reason::REFUSED_STREAM) {
                    self.slot.conn.cluster.stats.upstream_rq_rx_reset.inc();
                }
                Poll::Ready(Err(body_error(&e)))
            }
            Poll::Pending => match upload {
                // The client's own body failed: there will be no response to wait for.
                Poll::Ready(Err(e)) if !matches!(e, BodyError::Reset(_)) => {
                    self.upload.reset(h2::Reason::CANCEL);
                    Poll::Ready(Err(e))
                }
                _ => Poll::Pending,
            },
        }
    }

    /// Nothing more will come.
    pub fn is_end(&self) -> bool {
        self.response.is_none() && self.recv.as_ref().is_none_or(h2::RecvStream::is_end_stream)
    }

    /// The next frame of the response.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let _ = self.upload.poll(cx);
        let Some(recv) = &mut self.recv else { return Poll::Ready(None) };
        let frame = ready!(super::server::poll_recv(recv, &mut self.held, cx));
        if !matches!(frame, Some(Ok(Frame::Data(_)))) {
            self.recv = None;
        }
        if matches!(frame, Some(Err(BodyError::Reset(_)))) {
            self.slot.conn.cluster.stats.upstream_rq_rx_reset.inc();
        }
        Poll::Ready(frame)
    }
}

impl Drop for H2Body {
    fn drop(&mut self) {
        if !self.is_end() || !self.upload.is_done() {
            self.slot.conn.cluster.stats.upstream_rq_tx_reset.inc();
            self.upload.reset(h2::Reason::CANCEL);
        }
    }
}
