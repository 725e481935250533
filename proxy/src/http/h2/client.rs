//! HTTP/2 upstream connections and the exchanges on them.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::body::{Body, BodyError, Frame};
use super::super::head::{RequestHead, ResponseHead};
use super::super::limits::Shared as Limits;
use super::core::{Core, End, Options, Role};
use super::driver::{Counts, Driver};
use super::handle::{Connection, StreamRef};
use super::keepalive::Keepalive;
use super::{Reason, Upload};
use crate::cluster::Cluster;
use crate::stream_info::{PeerAddr, Protocol, TlsInfo};
use crate::transport::Stream;
use crate::upstream::pool::{ConnGuard, Turns};

struct Shared {
    core: Connection,
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
}

impl Shared {
    /// Streams at a time: ours and the peer's limit.
    fn limit(&self) -> u32 {
        self.max_streams.min(self.core.lock().peer_streams())
    }

    fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.wake.notify_one();
    }
}

impl H2Handle {
    /// Speaks HTTP/2 on `stream`. The connection lives in a task of this worker and ends with its peer, or when it was drained and
    /// its last stream ended. The peer's settings are not waited for: nothing in them is needed to begin.
    pub fn connect(stream: Stream, id: u64, guard: ConnGuard) -> H2Handle {
        let cluster = guard.cluster().clone();
        let o = &cluster.config.http2;
        let (local, tls) = (stream.local_addr(), stream.tls_info());
        let options = Options {
            role: Role::Client,
            stream_window: o.initial_stream_window,
            connection_window: o.initial_connection_window,
            max_streams: 0,
            max_head: cluster.config.common.max_response_headers_bytes,
            table: o.hpack_table_size,
            connect: false,
            spare_connection: true,
        };
        let stats = &cluster.stats;
        let counts = Counts(stats.upstream_cx_rx_bytes_total.clone(), stats.upstream_cx_tx_bytes_total.clone());
        let driver = Driver::new(stream, &[], Core::new(options, None), counts);
        let shared = Arc::new(Shared {
            core: driver.core().clone(),
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
            let remote = run(driver, &state, &guard).await;
            state.closed.store(true, Ordering::Release);
            let served = state.served.load(Ordering::Relaxed);
            state.cluster.stats.upstream_rq_per_cx.record(served);
            guard.closing(remote, state.active.load(Ordering::Relaxed) > 0);
            drop(guard);
        });
        H2Handle(shared)
    }

    /// Whether new streams may be opened on it.
    pub fn is_open(&self) -> bool {
        !self.0.closed.load(Ordering::Acquire) && !self.0.draining.load(Ordering::Acquire)
    }

    /// Whether [`H2Handle::reserve`] would find a place now.
    pub fn has_place(&self) -> bool {
        self.is_open() && self.0.active.load(Ordering::Relaxed) < self.0.limit()
    }

    /// Takes a stream's place, if there is one.
    pub fn reserve(&self) -> Option<H2Slot> {
        let s = &self.0;
        if !self.has_place() {
            return None;
        }
        {
            let core = s.core.lock();
            if !core.takes_streams() {
                // The peer's GOAWAY is here already: asking it would fail the request.
                if core.is_going_away() {
                    s.cluster.stats.upstream_cx_close_notify.inc();
                }
                drop(core);
                s.drain();
                return None;
            }
        }
        s.active.fetch_add(1, Ordering::Relaxed);
        if s.served.fetch_add(1, Ordering::Relaxed) + 1 >= s.max_requests {
            s.cluster.stats.upstream_cx_max_requests.inc();
            s.drain();
        }
        Some(H2Slot { conn: s.clone() })
    }

    /// No new streams; the connection ends with its last one.
    pub fn drain(&self) {
        self.0.drain();
    }
}

/// Drives a connection until it ends, was drained, or has been idle or there for too long. Whether the peer ended it.
async fn run(mut driver: Driver<Stream>, state: &Shared, guard: &ConnGuard) -> bool {
    let common = &guard.cluster().config.common;
    let stats = &guard.cluster().stats;
    let idle = common.idle_timeout;
    // Coarse on purpose: one timer per connection, looked at a few times per idle period.
    let step = idle.unwrap_or(Duration::from_secs(3600)).clamp(Duration::from_millis(100), Duration::from_secs(60));
    let mut keepalive = Keepalive::new(guard.cluster().config.http2.keepalive.as_ref());
    let mut quiet = Duration::ZERO;
    let mut served = 0;
    let (mut places, mut told) = (u32::MAX, false);
    let mut ends =
        common.max_connection_duration.and_then(|d| Instant::now().checked_add(d.saturating_sub(guard.age())));
    loop {
        let slept = ends.map_or(step, |at| at.saturating_duration_since(Instant::now()).min(step));
        tokio::select! {
            end = poll_fn(|cx| {
                if let Poll::Ready(end) = driver.poll(cx) {
                    return Poll::Ready(end);
                }
                let mut core = driver.core().lock();
                let more = core.peer_streams() > std::mem::replace(&mut places, core.peer_streams());
                if keepalive.as_mut().is_some_and(|k| k.poll_dead(&mut core, cx).is_ready()) {
                    // Nobody will answer what waits here.
                    return Poll::Ready(End::Protocol(Reason::CANCEL));
                }
                drop(core);
                if more {
                    state.turns.pass();
                }
                Poll::Pending
            }) => {
                if matches!(end, End::Protocol(_)) {
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
        if state.draining.load(Ordering::Acquire) {
            if !std::mem::replace(&mut told, true) {
                // Who waits for a place here may connect anew.
                state.turns.pass();
            }
            if state.active.load(Ordering::Relaxed) == 0 {
                return false;
            }
        }
    }
}

impl H2Slot {
    /// There is place for more: who waits for it may look.
    pub fn pass(&self) {
        self.conn.turns.pass();
    }

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
    pub fn start(self, head: &RequestHead, body: Body) -> Result<Box<H2Body>, BodyError> {
        let end = body.is_end();
        let Some(stream) = StreamRef::request(&self.conn.core, head, end) else {
            self.conn.drain();
            return Err(BodyError::Closed);
        };
        Ok(Box::new(H2Body {
            interim: None,
            stream: stream.clone(),
            has_head: false,
            ended: false,
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

/// An exchange: the upload, and the response as it comes.
pub struct H2Body {
    /// Told when the upstream answers 100 Continue.
    pub interim: Option<Arc<Limits>>,
    stream: StreamRef,
    has_head: bool,
    /// Its last frame was handed out.
    ended: bool,
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
        if let Some(told) = &self.interim
            && self.stream.take_interim() == Some(http::StatusCode::CONTINUE)
        {
            told.go_on();
        }
        match self.stream.poll_head(cx) {
            Poll::Ready(Ok((status, headers))) => {
                self.has_head = true;
                Poll::Ready(Ok(ResponseHead { status, headers, protocol: Protocol::Http2, spelling: None }))
            }
            Poll::Ready(Err(e)) => {
                self.ended = true;
                if self.stream.peer_reset().is_some_and(|reason| reason != Reason::REFUSED_STREAM) {
                    self.slot.conn.cluster.stats.upstream_rq_rx_reset.inc();
                }
                Poll::Ready(Err(e))
            }
            Poll::Pending => match upload {
                // The client's own body failed: there will be no response to wait for.
                Poll::Ready(Err(e)) if !matches!(e, BodyError::Reset(_)) => {
                    self.upload.reset(Reason::CANCEL);
                    Poll::Ready(Err(e))
                }
                _ => Poll::Pending,
            },
        }
    }

    /// Nothing more will come.
    pub fn is_end(&self) -> bool {
        self.ended || (self.has_head && self.stream.is_end())
    }

    /// The next frame of the response.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let _ = self.upload.poll(cx);
        if self.ended || !self.has_head {
            return Poll::Ready(None);
        }
        let frame = ready!(self.stream.poll_frame(cx, &mut self.held));
        self.ended = !matches!(frame, Some(Ok(Frame::Data(_))));
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
            self.upload.reset(Reason::CANCEL);
        }
        self.stream.stop_reading(std::mem::take(&mut self.held));
    }
}
