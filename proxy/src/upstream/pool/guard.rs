//! What an open connection holds: its counts, its place in the cluster's books, its way home.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::{Ask, Parked};
use crate::cluster::{Cluster, Host, Permit};
use crate::http::h1::client::H1Conn;
use crate::stream_info::PeerAddr;

/// What a waiting request gets. Dropped unseen, it goes to the next one who waits.
pub(super) enum Turn {
    /// A connection. Dropped, it is closed, which makes place for another.
    Conn(Box<H1Conn>),
    /// A place is free: connect.
    Connect(Place),
}

/// The right to look for a place.
pub(super) struct Place(Option<Turns>);

impl Place {
    /// The one who got it looks.
    pub(super) fn taken(mut self) {
        self.0 = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.pass();
        }
    }
}

/// The queue of one pool for places on HTTP/1 connections, or on HTTP/2 ones.
#[derive(Clone)]
pub struct Turns {
    host: Weak<Host>,
    worker: usize,
    key: u64,
    h1: bool,
}

impl Turns {
    /// Those who wait for a place on an HTTP/2 connection.
    pub(super) fn for_streams(ask: &Ask<'_>) -> Self {
        Turns { host: Arc::downgrade(ask.host), worker: ask.worker, key: ask.key, h1: false }
    }

    /// A request that waits for a place may look for one.
    pub fn pass(&self) {
        let Some(host) = self.host.upgrade() else { return };
        let mut pools = host.pool(self.worker).lock();
        let Some(pool) = pools.find(self.key) else { return };
        loop {
            let place = Place(Some(self.clone()));
            let unseen = if self.h1 {
                let Some(w) = pool.waiting.pop_front() else { return place.taken() };
                match w.send(Turn::Connect(place)) {
                    Err(Turn::Connect(place)) => place,
                    _ => return,
                }
            } else {
                let Some(w) = pool.h2_full.pop_front() else { return place.taken() };
                match w.send(place) {
                    Err(place) => place,
                    Ok(()) => return,
                }
            };
            // Nobody is there any more; it must not come back here while the lock is held.
            unseen.taken();
        }
    }
}

/// Counts a connection while it is open, whatever its protocol.
pub struct ConnGuard {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    worker: usize,
    key: u64,
    opened: Instant,
    generation: u32,
    pub(super) h1: bool,
    /// It was the peer that ended it.
    remote: bool,
    /// Requests were under way on it when it ended.
    busy: bool,
    _permit: Permit,
}

impl ConnGuard {
    /// Counts a connection that is being made. The pool's lock is held; its own counts are the caller's.
    pub(super) fn new(ask: &Ask<'_>, permit: Permit, h1: bool) -> Self {
        ask.cluster.stats.upstream_cx_active.inc();
        ask.cluster.stats.upstream_cx_total.inc();
        ask.host.cx_active.fetch_add(1, Ordering::Relaxed);
        ask.host.cx_total.fetch_add(1, Ordering::Relaxed);
        ConnGuard {
            cluster: ask.cluster.clone(),
            host: ask.host.clone(),
            worker: ask.worker,
            key: ask.key,
            opened: crate::clock::now(),
            generation: ask.host.generation(),
            h1,
            remote: false,
            busy: false,
            _permit: permit,
        }
    }

    /// Its cluster.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Its host.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// How long it has been there.
    pub fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// How it ends: by the peer, with requests under way.
    pub fn closing(&mut self, remote: bool, busy: bool) {
        (self.remote, self.busy) = (remote, busy);
    }

    /// Those who wait for its end, or for that of a stream on it.
    pub fn turns(&self) -> Turns {
        Turns { host: Arc::downgrade(&self.host), worker: self.worker, key: self.key, h1: self.h1 }
    }

    fn count_end(&self) {
        let s = &self.cluster.stats;
        s.upstream_cx_active.dec();
        s.upstream_cx_destroy.inc();
        let (end, end_busy) = if self.remote {
            (&s.upstream_cx_destroy_remote, &s.upstream_cx_destroy_remote_with_active_rq)
        } else {
            (&s.upstream_cx_destroy_local, &s.upstream_cx_destroy_local_with_active_rq)
        };
        end.inc();
        if self.busy {
            s.upstream_cx_destroy_with_active_rq.inc();
            end_busy.inc();
        }
        s.upstream_cx_length_ms.record(u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX));
        self.host.cx_active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ConnGuard {
    fn drop(&mut self) {
        self.count_end();
        let turns = self.turns();
        let mut pools = self.host.pool(self.worker).lock();
        pools.open -= 1;
        let pool = pools.of(self.key);
        if self.h1 {
            pool.open -= 1;
        } else {
            pool.h2.retain(crate::http::h2::client::H2Handle::is_open);
        }
        pools.tidy(self.key);
        drop(pools);
        turns.pass();
    }
}

/// Where a connection belongs, and what it holds while it is open.
pub struct Home {
    pub(super) guard: ConnGuard,
    /// Id, unique in the process.
    pub id: u64,
    /// Address it comes from.
    pub local: Option<PeerAddr>,
    waker: Waker,
}

impl Home {
    /// The home of a new HTTP/1 connection.
    pub(super) fn new(guard: ConnGuard, id: u64, local: Option<PeerAddr>) -> Self {
        let idle = Idle { host: Arc::downgrade(&guard.host), worker: guard.worker, key: guard.key, id };
        Home { guard, id, local, waker: Waker::from(Arc::new(idle)) }
    }

    /// The cluster it is of.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.guard.cluster
    }

    /// The host it goes to.
    pub fn host(&self) -> &Arc<Host> {
        &self.guard.host
    }

    /// How long the connection has been there.
    pub fn age(&self) -> Duration {
        self.guard.age()
    }

    /// How the connection ends: by the peer, with an exchange under way.
    pub fn closing(&mut self, remote: bool, busy: bool) {
        self.guard.closing(remote, busy);
    }

    /// Gives a connection back: to a request that waits, or to the stack.
    pub fn check_in(mut conn: Box<H1Conn>) {
        let guard = &conn.home().guard;
        let (host, worker, key) = (guard.host.clone(), guard.worker, guard.key);
        let common = &guard.cluster.config.common;
        if common.max_requests_per_connection.is_some_and(|m| conn.served() >= u64::from(m)) {
            guard.cluster.stats.upstream_cx_max_requests.inc();
            return;
        }
        if common.max_connection_duration.is_some_and(|m| guard.age() >= m) {
            guard.cluster.stats.upstream_cx_max_duration_reached.inc();
            return;
        }
        let waker = conn.home().waker.clone();
        if conn.poll_idle(&mut Context::from_waker(&waker)).is_ready() {
            return;
        }
        let mut pools = host.pool(worker).lock();
        // Looked at under the lock: the drain closes what is parked before it takes the lock, and this sees it after.
        if host.is_removed() || host.generation() != conn.home().guard.generation {
            drop(pools);
            drop(conn);
            return;
        }
        let pool = pools.of(key);
        while let Some(waiting) = pool.waiting.pop_front() {
            match waiting.send(Turn::Conn(conn)) {
                Ok(()) => return,
                Err(Turn::Conn(back)) => conn = back,
                Err(Turn::Connect(_)) => return,
            }
        }
        pool.idle.push(Parked { conn, since: crate::clock::now() });
    }
}

/// Wakes when something happens on an idle connection.
struct Idle {
    host: Weak<Host>,
    worker: usize,
    key: u64,
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
        let mut pools = host.pool(self.worker).lock();
        let Some(pool) = pools.find(self.key) else { return };
        let Some(at) = pool.idle.iter().position(|p| p.conn.home().id == self.id) else { return };
        let waker = pool.idle[at].conn.home().waker.clone();
        if pool.idle[at].conn.poll_idle(&mut Context::from_waker(&waker)).is_ready() {
            let gone = pool.idle.remove(at);
            drop(pools);
            drop(gone);
        }
    }
}
