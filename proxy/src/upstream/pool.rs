//! Connection pools: one per host and worker, so that no request crosses threads.
//!
//! HTTP/1: idle connections on a stack (the warmest first). Whoever finds none connects by itself, or waits where the cluster
//! may not have more connections. HTTP/2: connections are shared by streams; one connects, the others wait for it.
//!
//! Races, and who settles them: an idle connection that the peer closes wakes its `Idle` waker, which takes it out; a request
//! that takes it before that event is seen finds out when it reads nothing, and is sent again elsewhere (see
//! `ExchangeError::Closed`). A host that leaves its cluster is marked first and drained then, and `check_in` looks at the mark
//! under the pool's lock, so that no connection is parked behind the drain.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Wake, Waker};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{PoolError, connector};
use crate::cluster::{Cluster, Host, Permit, Resource};
use crate::http::h1::client::H1Conn;
use crate::http::h2::client::{H2Handle, H2Slot};
use crate::stream_info::PeerAddr;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Connections of one worker to one host.
#[derive(Default)]
pub struct HostPool {
    idle: Vec<Parked>,
    waiting: VecDeque<oneshot::Sender<Turn>>,
    /// HTTP/1 connections open, idle or not.
    open: u32,
    h2: Vec<H2Handle>,
    h2_connecting: bool,
    h2_waiting: Vec<oneshot::Sender<Result<(), PoolError>>>,
    /// What ALPN settled on: HTTP/1 in spite of an offer of HTTP/2.
    pub speaks_h1: bool,
}

struct Parked {
    conn: Box<H1Conn>,
    since: Instant,
}

/// What a waiting request gets.
enum Turn {
    Conn(Box<H1Conn>),
    /// A place is free: connect.
    Connect,
}

impl HostPool {
    fn reserve_h2(&mut self) -> Option<H2Slot> {
        self.h2.retain(H2Handle::is_open);
        self.h2.iter().find_map(H2Handle::reserve)
    }

    /// Takes out everything idle; the caller drops it outside the lock.
    pub fn close_idle(&mut self) -> Vec<Box<H1Conn>> {
        self.h2.retain(|h| {
            h.drain();
            false
        });
        self.idle.drain(..).map(|p| p.conn).collect()
    }
}

/// Counts a connection while it is open, whatever its protocol.
pub struct ConnGuard {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    worker: usize,
    opened: Instant,
    h1: bool,
    _permit: Permit,
}

impl ConnGuard {
    /// Its cluster.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Its host.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }
}

impl Drop for ConnGuard {
    fn drop(&mut self) {
        let s = &self.cluster.stats;
        s.upstream_cx_active.dec();
        s.upstream_cx_destroy.inc();
        s.upstream_cx_length_ms.record(self.opened.elapsed().as_millis() as u64);
        self.host.cx_active.fetch_sub(1, Ordering::Relaxed);
        if self.h1 {
            let mut pool = self.host.pool(self.worker).lock();
            pool.open -= 1;
            // A request that waits for a place may connect now.
            while let Some(w) = pool.waiting.pop_front() {
                if w.send(Turn::Connect).is_ok() {
                    break;
                }
            }
        }
    }
}

/// Where a connection belongs, and what it holds while it is open.
pub struct Home {
    guard: ConnGuard,
    /// Id, unique in the process.
    pub id: u64,
    /// Address it comes from.
    pub local: Option<PeerAddr>,
    waker: Waker,
}

impl Home {
    /// The cluster it is of.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.guard.cluster
    }

    /// The host it goes to.
    pub fn host(&self) -> &Arc<Host> {
        &self.guard.host
    }

    /// Gives a connection back: to a request that waits, or to the stack.
    pub fn check_in(mut conn: Box<H1Conn>) {
        let (host, worker) = (conn.home().guard.host.clone(), conn.home().guard.worker);
        let max = conn.home().cluster().config.common.max_requests_per_connection;
        if max.is_some_and(|m| conn.served() >= u64::from(m)) {
            conn.home().cluster().stats.upstream_cx_max_requests.inc();
            return;
        }
        let waker = conn.home().waker.clone();
        if conn.poll_idle(&mut Context::from_waker(&waker)).is_ready() {
            return;
        }
        let mut pool = host.pool(worker).lock();
        while let Some(waiting) = pool.waiting.pop_front() {
            match waiting.send(Turn::Conn(conn)) {
                Ok(()) => return,
                Err(Turn::Conn(back)) => conn = back,
                Err(Turn::Connect) => return,
            }
        }
        if host.is_removed() {
            drop(pool);
            drop(conn);
            return;
        }
        pool.idle.push(Parked { conn, since: Instant::now() });
    }
}

/// Wakes when something happens on an idle connection.
struct Idle {
    host: Weak<Host>,
    worker: usize,
    id: u64,
}

impl Wake for Idle {
    fn wake(self: Arc<Self>) {
        // Looked at from a task of its own: the waker may be called from within the I/O driver.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { self.look() });
        }
    }
}

impl Idle {
    /// Takes the connection out if it is idle and no longer silent.
    fn look(self: Arc<Self>) {
        let Some(host) = self.host.upgrade() else { return };
        let mut pool = host.pool(self.worker).lock();
        let Some(at) = pool.idle.iter().position(|p| p.conn.home().id == self.id) else { return };
        let waker = pool.idle[at].conn.home().waker.clone();
        if pool.idle[at].conn.poll_idle(&mut Context::from_waker(&waker)).is_ready() {
            let gone = pool.idle.remove(at);
            drop(pool);
            gone.conn.home().cluster().stats.upstream_cx_destroy_remote.inc();
        }
    }
}

/// Closes connections that were idle for longer than their cluster allows. Called now and then by each worker.
pub fn sweep_idle(cluster: &Cluster, worker: usize) {
    let Some(limit) = cluster.config.common.idle_timeout else { return };
    for host in cluster.hosts().all() {
        let mut pool = host.pool(worker).lock();
        if pool.idle.first().is_none_or(|p| p.since.elapsed() < limit) {
            continue;
        }
        let old: Vec<_> = pool.idle.extract_if(.., |p| p.since.elapsed() >= limit).collect();
        drop(pool);
        cluster.stats.upstream_cx_idle_timeout.add(old.len() as u64);
    }
}

/// What a request brings to a pool.
pub struct Ask<'a> {
    /// Cluster.
    pub cluster: &'a Arc<Cluster>,
    /// Host picked.
    pub host: &'a Arc<Host>,
    /// This worker.
    pub worker: usize,
    /// High priority.
    pub high: bool,
    /// Settings of the transport.
    pub connect: &'a connector::Options<'a>,
}

/// A connection that is at hand. Apart from [`checkout`], whose future is large: most requests never need it.
pub fn ready(ask: &Ask<'_>, h2: bool) -> Option<Checkout> {
    let mut pool = ask.host.pool(ask.worker).lock();
    if h2 { pool.reserve_h2().map(Checkout::H2) } else { pool.idle.pop().map(|parked| Checkout::H1(parked.conn)) }
}

/// A connection for a request: one at hand, or a new one. With `auto`, of the protocol that ALPN chooses.
///
/// # Errors
/// A circuit breaker is open, or connecting failed.
///
/// # Cancel safety
/// Dropped, it gives back what it holds; a connect under way is given up.
pub async fn checkout(ask: &Ask<'_>, h2: bool, auto: bool) -> Result<Checkout, PoolError> {
    if h2 { http2(ask, auto).await } else { http1(ask).await.map(Checkout::H1) }
}

async fn http1(ask: &Ask<'_>) -> Result<Box<H1Conn>, PoolError> {
    let breaker = ask.cluster.breaker(ask.high);
    let stats = &ask.cluster.stats;
    let Some(_pending) = breaker.acquire(Resource::Pending) else {
        stats.upstream_rq_pending_overflow.inc();
        return Err(PoolError::Overflow);
    };
    stats.upstream_rq_pending_total.inc();
    let _gauge = Held::new(&stats.upstream_rq_pending_active);
    loop {
        let wait = {
            let mut pool = ask.host.pool(ask.worker).lock();
            if let Some(parked) = pool.idle.pop() {
                return Ok(parked.conn);
            }
            let permit = match breaker.acquire(Resource::Connections) {
                Some(p) => Some(p),
                None => {
                    stats.upstream_cx_overflow.inc();
                    // A pool may always have one connection, else its requests would wait for ever.
                    (pool.open == 0).then(|| breaker.force(Resource::Connections))
                }
            };
            match permit {
                Some(p) => {
                    pool.open += 1;
                    Err(guard(ask, p, true))
                }
                None => {
                    let (tx, rx) = oneshot::channel();
                    pool.waiting.push_back(tx);
                    Ok(rx)
                }
            }
        };
        match wait {
            Err(guard) => return connect_h1(ask, guard).await,
            Ok(rx) => {
                if let Ok(Turn::Conn(conn)) = rx.await {
                    return Ok(conn);
                }
            }
        }
    }
}

fn guard(ask: &Ask<'_>, permit: Permit, h1: bool) -> ConnGuard {
    ask.cluster.stats.upstream_cx_active.inc();
    ask.cluster.stats.upstream_cx_total.inc();
    ask.host.cx_active.fetch_add(1, Ordering::Relaxed);
    ask.host.cx_total.fetch_add(1, Ordering::Relaxed);
    ConnGuard {
        cluster: ask.cluster.clone(),
        host: ask.host.clone(),
        worker: ask.worker,
        opened: Instant::now(),
        h1,
        _permit: permit,
    }
}

async fn connect_h1(ask: &Ask<'_>, guard: ConnGuard) -> Result<Box<H1Conn>, PoolError> {
    let stream = connector::connect(ask.cluster, ask.host, ask.connect).await?;
    ask.cluster.stats.upstream_cx_http1_total.inc();
    Ok(new_h1(ask, guard, stream))
}

fn new_h1(ask: &Ask<'_>, guard: ConnGuard, stream: crate::transport::Stream) -> Box<H1Conn> {
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let idle = Arc::new(Idle { host: Arc::downgrade(ask.host), worker: ask.worker, id });
    let c = &ask.cluster.config;
    let limits = crate::http::h1::ParseLimits {
        max_bytes: c.common.max_response_headers_bytes,
        max_headers: c.common.max_headers_count as usize,
        underscores: c.common.underscores,
        custom_methods: true,
    };
    let home = Home { guard, id, local: stream.local_addr(), waker: Waker::from(idle) };
    H1Conn::new(stream, limits, c.http1.header_key_format, c.http1.enable_trailers, home)
}

/// A gauge held up while a value lives.
struct Held<'a>(&'a crate::stats::Gauge);

impl<'a> Held<'a> {
    fn new(gauge: &'a crate::stats::Gauge) -> Self {
        gauge.inc();
        Held(gauge)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A connection for a request, of either protocol.
pub enum Checkout {
    /// HTTP/1, for this request alone.
    H1(Box<H1Conn>),
    /// A place on an HTTP/2 connection.
    H2(H2Slot),
}

impl Checkout {
    /// Gives back what was not used.
    pub fn put_back(self) {
        match self {
            Checkout::H1(conn) => Home::check_in(conn),
            Checkout::H2(_) => {}
        }
    }
}

async fn http2(ask: &Ask<'_>, auto: bool) -> Result<Checkout, PoolError> {
    let stats = &ask.cluster.stats;
    let breaker = ask.cluster.breaker(ask.high);
    let mut pending = None;
    loop {
        let next = {
            let mut pool = ask.host.pool(ask.worker).lock();
            if let Some(h) = pool.reserve_h2() {
                return Ok(Checkout::H2(h));
            }
            if pool.h2_connecting {
                let (tx, rx) = oneshot::channel();
                pool.h2_waiting.push(tx);
                Next::Wait(rx)
            } else if auto && pool.speaks_h1 {
                Next::Http1
            } else {
                Next::Connect
            }
        };
        if let Next::Http1 = next {
            return http1(ask).await.map(Checkout::H1);
        }
        if pending.is_none() {
            let Some(permit) = breaker.acquire(Resource::Pending) else {
                stats.upstream_rq_pending_overflow.inc();
                return Err(PoolError::Overflow);
            };
            stats.upstream_rq_pending_total.inc();
            pending = Some((permit, Held::new(&stats.upstream_rq_pending_active)));
        }
        if let Next::Wait(rx) = next {
            if let Ok(Err(e)) = rx.await {
                return Err(e);
            }
            continue;
        }
        let permit = match breaker.acquire(Resource::Connections) {
            Some(p) => p,
            None => {
                stats.upstream_cx_overflow.inc();
                breaker.force(Resource::Connections)
            }
        };
        return connect_h2(ask, permit).await;
    }
}

/// What a request that found no HTTP/2 connection does.
enum Next {
    Wait(oneshot::Receiver<Result<(), PoolError>>),
    Http1,
    Connect,
}

/// Connects for everybody who waits. Ends the waiting however it ends, also when it is dropped.
async fn connect_h2(ask: &Ask<'_>, permit: Permit) -> Result<Checkout, PoolError> {
    let mut waiters = Waiters { ask, result: None };
    ask.host.pool(ask.worker).lock().h2_connecting = true;
    let result = async {
        let guard = guard(ask, permit, false);
        let stream = connector::connect(ask.cluster, ask.host, ask.connect).await?;
        if ask.connect.alpn_decides && stream.tls_info().is_none_or(|t| &*t.alpn != "h2") {
            let mut guard = guard;
            guard.h1 = true;
            let mut pool = ask.host.pool(ask.worker).lock();
            pool.speaks_h1 = true;
            pool.open += 1;
            drop(pool);
            ask.cluster.stats.upstream_cx_http1_total.inc();
            return Ok(Checkout::H1(new_h1(ask, guard, stream)));
        }
        ask.cluster.stats.upstream_cx_http2_total.inc();
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let handle = H2Handle::connect(stream, id, guard).await?;
        let mine = handle.reserve();
        ask.host.pool(ask.worker).lock().h2.push(handle);
        mine.map(Checkout::H2).ok_or(PoolError::Connect { reason: "connection closed by peer".into(), timeout: false })
    }
    .await;
    waiters.result = Some(result.as_ref().map(|_| ()).map_err(Clone::clone));
    result
}

struct Waiters<'a, 'b> {
    ask: &'a Ask<'b>,
    result: Option<Result<(), PoolError>>,
}

impl Drop for Waiters<'_, '_> {
    fn drop(&mut self) {
        let waiting = {
            let mut pool = self.ask.host.pool(self.ask.worker).lock();
            pool.h2_connecting = false;
            std::mem::take(&mut pool.h2_waiting)
        };
        // Given up midway: the others try again by themselves.
        let result = self.result.take().unwrap_or(Ok(()));
        for w in waiting {
            let _ = w.send(result.clone());
        }
    }
}
