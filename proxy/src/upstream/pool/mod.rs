//! Connection pools: per host and worker, so that no request crosses threads.
//!
//! HTTP/1: idle connections on a stack (the warmest first). Whoever finds none connects by itself, or waits where the cluster
//! may not have more connections. HTTP/2: connections are shared by streams; one connects, the others wait for it.
//!
//! Requests that must not share connections (another server name, another client) have pools of their own beside the main one,
//! told apart by a key; 0 is the main one's.
//!
//! Races, and who settles them: an idle connection that the peer closes wakes its `Idle` waker, which takes it out; a request
//! that takes it before that event is seen finds out when it reads nothing, and is sent again elsewhere (see
//! `ExchangeError::Closed`). A host whose connections are to drain begins a new generation first, and `check_in` looks at it
//! under the pool's lock, so that no connection is parked behind the drain. A waiting request that is given its turn and given
//! up before it sees that passes the turn on (`Turn`). One turn is enough for any number of HTTP/2 places: whoever takes one
//! of several passes the turn on (`Pool::next_may_look`). Nothing that owns a connection is dropped under a pool's lock.

mod guard;
mod http1;
mod http2;
#[cfg(test)]
mod tests;

pub use guard::{ConnGuard, Home, Turns};

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{PoolError, connector};
use crate::cluster::{Cluster, ClusterStats, Host, Permit, Resource};
use crate::http::h1::client::H1Conn;
use crate::http::h2::client::{H2Handle, H2Slot};
use crate::stream_info::ConnInfo;
use guard::{Place, Turn};

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// All pools of one worker for one host.
#[derive(Default)]
pub struct HostPool {
    main: Pool,
    /// By key; one without connections and requests is removed.
    keyed: HashMap<u64, Pool>,
    /// Connections of this worker to this host, idle or not, of any pool.
    open: u32,
}

/// Connections that any request with the same key may use.
#[derive(Default)]
struct Pool {
    idle: Vec<Parked>,
    waiting: VecDeque<oneshot::Sender<Turn>>,
    /// HTTP/1 connections open, idle or not.
    open: u32,
    h2: Vec<H2Handle>,
    h2_connecting: bool,
    /// Requests that wait for the connection being made.
    h2_waiting: Vec<oneshot::Sender<Result<(), PoolError>>>,
    /// Requests that wait for a stream's end: no further connection may be made.
    h2_full: VecDeque<oneshot::Sender<Place>>,
    /// What ALPN settled on: HTTP/1 in spite of an offer of HTTP/2.
    speaks_h1: bool,
    /// Its place among the cluster's pools, where those are limited.
    place: Option<Permit>,
}

struct Parked {
    conn: Box<H1Conn>,
    since: Instant,
}

impl Pool {
    fn reserve_h2(&mut self) -> Option<H2Slot> {
        self.h2.retain(H2Handle::is_open);
        self.h2.iter().find_map(H2Handle::reserve)
    }

    /// Somebody waits for a place on an HTTP/2 connection though there is one, or nothing that could become one.
    fn next_may_look(&self) -> bool {
        !self.h2_full.is_empty()
            && !self.h2_connecting
            && (self.h2.iter().any(H2Handle::has_place) || !self.h2.iter().any(H2Handle::is_open))
    }

    fn is_unused(&self) -> bool {
        self.idle.is_empty()
            && self.open == 0
            && self.h2.is_empty()
            && !self.h2_connecting
            && self.waiting.iter().all(oneshot::Sender::is_closed)
            && self.h2_waiting.iter().all(oneshot::Sender::is_closed)
            && self.h2_full.iter().all(oneshot::Sender::is_closed)
    }
}

impl HostPool {
    fn of(&mut self, key: u64) -> &mut Pool {
        if key == 0 { &mut self.main } else { self.keyed.entry(key).or_default() }
    }

    fn find(&mut self, key: u64) -> Option<&mut Pool> {
        if key == 0 { Some(&mut self.main) } else { self.keyed.get_mut(&key) }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Pool> {
        std::iter::once(&mut self.main).chain(self.keyed.values_mut())
    }

    /// Gives up a pool that is no longer used.
    fn tidy(&mut self, key: u64) {
        if key == 0 {
            if self.main.place.is_some() && self.main.is_unused() {
                self.main.place = None;
            }
        } else if self.keyed.get(&key).is_some_and(Pool::is_unused) {
            self.keyed.remove(&key);
        }
    }

    /// Takes out everything idle, and lets everything else end with what is under way; the caller drops it outside the lock.
    pub fn close_idle(&mut self) -> Vec<Box<H1Conn>> {
        let mut out = Vec::new();
        for pool in self.all() {
            pool.h2.iter().for_each(H2Handle::drain);
            out.extend(pool.idle.drain(..).map(|p| p.conn));
        }
        out
    }
}

/// Adds somebody who waits. Those who gave up meanwhile are cleared away before the queue grows.
fn enqueue<T>(queue: &mut VecDeque<oneshot::Sender<T>>) -> oneshot::Receiver<T> {
    if queue.len() >= 16 && queue.len() == queue.capacity() {
        queue.retain(|w| !w.is_closed());
    }
    let (tx, rx) = oneshot::channel();
    queue.push_back(tx);
    rx
}

/// Closes connections that were idle or open for longer than their cluster allows. Called now and then by each worker.
pub fn sweep_idle(cluster: &Cluster, worker: usize) {
    let c = &cluster.config.common;
    if c.idle_timeout.is_none() && c.max_connection_duration.is_none() {
        return;
    }
    for host in cluster.hosts().all() {
        let (mut idle, mut old) = (Vec::new(), Vec::new());
        for pool in host.pool(worker).lock().all() {
            if let Some(limit) = c.idle_timeout
                && pool.idle.first().is_some_and(|p| p.since.elapsed() >= limit)
            {
                idle.extend(pool.idle.extract_if(.., |p| p.since.elapsed() >= limit));
            }
            if let Some(limit) = c.max_connection_duration {
                old.extend(pool.idle.extract_if(.., |p| p.conn.home().age() >= limit));
            }
        }
        cluster.stats.upstream_cx_idle_timeout.add(idle.len() as u64);
        cluster.stats.upstream_cx_max_duration_reached.add(old.len() as u64);
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
    /// Requests share connections only where this is the same; see [`key`].
    pub key: u64,
    /// Settings of the transport.
    pub connect: &'a connector::Options<'a>,
}

/// Seeded at random: whoever chooses names must not be able to make two of them meet.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// What a PROXY protocol header says of a client, as a part of a key.
pub fn told(conn: &ConnInfo) -> u64 {
    HASHER.hash_one((&conn.remote, &conn.local, &conn.proxy_tlvs))
}

/// The key of requests for connections under `name` (server name or name to be verified) and of one client connection.
pub fn key(name: Option<&str>, downstream: Option<u64>) -> u64 {
    match (name, downstream) {
        (None, None) => 0,
        which => HASHER.hash_one(which).max(1),
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

/// A connection that is at hand. Apart from [`checkout`], whose future is large: most requests never need it.
pub fn ready(ask: &Ask<'_>, h2: bool) -> Option<Checkout> {
    let mut pools = ask.host.pool(ask.worker).lock();
    let pool = pools.find(ask.key)?;
    if !h2 {
        return pool.idle.pop().map(|parked| Checkout::H1(parked.conn));
    }
    let slot = pool.reserve_h2()?;
    let more = pool.next_may_look();
    drop(pools);
    if more {
        slot.pass();
    }
    Some(Checkout::H2(slot))
}

/// A connection for a request: one at hand, or a new one. With `auto`, of the protocol that ALPN chooses.
///
/// # Errors
/// A circuit breaker is open, or connecting failed.
///
/// # Cancel safety
/// Dropped, it gives back what it holds; a connect under way is given up.
pub async fn checkout(ask: &Ask<'_>, h2: bool, auto: bool) -> Result<Checkout, PoolError> {
    if !take_place(ask) {
        ask.cluster.stats.upstream_cx_pool_overflow.inc();
        return Err(PoolError::NoPool);
    }
    let _tidy = Tidy(ask);
    if h2 { http2::checkout(ask, auto).await } else { http1::checkout(ask).await.map(Checkout::H1) }
}

/// A place among the cluster's pools, where `max_connection_pools` limits them and this one has none yet.
fn take_place(ask: &Ask<'_>) -> bool {
    let breaker = ask.cluster.breaker(ask.high);
    if !breaker.is_limited(Resource::Pools) {
        return true;
    }
    let mut pools = ask.host.pool(ask.worker).lock();
    let pool = pools.of(ask.key);
    if pool.place.is_none() {
        pool.place = breaker.acquire(Resource::Pools);
    }
    let placed = pool.place.is_some();
    if !placed {
        pools.tidy(ask.key);
    }
    placed
}

/// Gives up a pool that came to nothing.
struct Tidy<'a, 'b>(&'a Ask<'b>);

impl Drop for Tidy<'_, '_> {
    fn drop(&mut self) {
        self.0.host.pool(self.0.worker).lock().tidy(self.0.key);
    }
}

/// What a connection may take in the cluster's books; `first`: this pool has no other, and may always have one, else its
/// requests would wait for ever. The host's own limit (`per_host_thresholds`) holds in the same way.
fn connection_place(ask: &Ask<'_>, first: bool, on_host: u32) -> Option<Permit> {
    let breaker = ask.cluster.breaker(ask.high);
    let stats = &ask.cluster.stats;
    if !ask.high && ask.cluster.config.per_host_max_connections.is_some_and(|max| on_host >= max) {
        stats.upstream_cx_overflow.inc();
        return first.then(|| breaker.force(Resource::Connections));
    }
    breaker.acquire(Resource::Connections).or_else(|| {
        stats.upstream_cx_overflow.inc();
        first.then(|| breaker.force(Resource::Connections))
    })
}

/// A request that waits for a connection, in the cluster's books.
struct Pending<'a> {
    stats: &'a ClusterStats,
    /// It was given up.
    cancelled: bool,
    _permit: Permit,
}

impl<'a> Pending<'a> {
    fn new(ask: &Ask<'a>) -> Result<Self, PoolError> {
        let stats = &ask.cluster.stats;
        let Some(permit) = ask.cluster.breaker(ask.high).acquire(Resource::Pending) else {
            stats.upstream_rq_pending_overflow.inc();
            return Err(PoolError::Overflow);
        };
        stats.upstream_rq_pending_total.inc();
        stats.upstream_rq_pending_active.inc();
        Ok(Pending { stats, cancelled: true, _permit: permit })
    }

    /// The wait is over, one way or the other.
    fn over(mut self) {
        self.cancelled = false;
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.stats.upstream_rq_pending_active.dec();
        if self.cancelled {
            self.stats.upstream_rq_cancelled.inc();
        }
    }
}
