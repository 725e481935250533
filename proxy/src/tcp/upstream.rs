//! The upstream connection of a TCP proxy: attempts to get one, and what is counted while it is there.
//!
//! Each downstream connection has one of its own; there is no pool. Envoy has one all the same, so that the circuit breakers
//! for pending requests and for requests bound TCP connections, too, and its stats count each as a request. Runs on: workers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::tunnel::Tunnel;
use crate::cluster::{Cluster, Host, Permit, Resource, lb, outlier};
use crate::config::{Address, BackOff};
use crate::stream_info::{PeerAddr, ResponseFlags, StreamInfo};
use crate::transport::Stream;
use crate::upstream::attempt::Books;
use crate::upstream::{ConnectFault, PoolError, connector};

/// Why there is no upstream connection, with Envoy's number for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InitFailure {
    /// All attempts failed.
    Connect = 0,
    /// No host is usable.
    NoHealthyUpstream = 1,
    /// A circuit breaker is open.
    ResourceLimit = 2,
    /// There is no such cluster.
    NoRoute = 3,
}

/// A connected upstream.
pub(super) struct Upstream {
    /// The stream.
    pub(super) stream: Stream,
    /// Its cluster.
    pub(super) cluster: Arc<Cluster>,
    _open: Open,
    _books: Books,
}

/// How attempts are made.
pub(super) struct Attempts<'a> {
    /// The cluster of this moment; looked up at each attempt.
    pub(super) cluster: &'a (dyn Fn() -> Option<Arc<Cluster>> + Send + Sync),
    /// At most so many.
    pub(super) max: u32,
    /// Pauses between them.
    pub(super) back_off: Option<BackOff>,
    /// What is asked for before bytes go out.
    pub(super) tunnel: Option<&'a Tunnel>,
    /// This worker.
    pub(super) worker: usize,
}

impl Attempts<'_> {
    /// Connects.
    ///
    /// # Errors
    /// There is no connection to be had; the flags are in `facts`.
    ///
    /// # Cancel safety
    /// Dropped, the attempt is given up and what it holds given back.
    pub(super) async fn connect(&self, facts: &mut StreamInfo) -> Result<Upstream, InitFailure> {
        loop {
            let Some(cluster) = (self.cluster)() else {
                facts.flags.set(ResponseFlags::NO_CLUSTER_FOUND);
                return Err(InitFailure::NoRoute);
            };
            facts.upstream.cluster = Some(cluster.name.clone());
            if facts.upstream.attempts >= self.max {
                cluster.stats.upstream_cx_connect_attempts_exceeded.inc();
                facts.flags.set(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
                return Err(InitFailure::Connect);
            }
            if let Some(upstream) = self.attempt(&cluster, facts).await? {
                return Ok(upstream);
            }
            if let Some(b) = self.back_off
                && facts.upstream.attempts < self.max
            {
                tokio::time::sleep(b.interval(facts.upstream.attempts, crate::worker::random())).await;
            }
        }
    }

    /// One attempt; `None`: it failed, and another may be made.
    async fn attempt(&self, cluster: &Arc<Cluster>, facts: &mut StreamInfo) -> Result<Option<Upstream>, InitFailure> {
        let breaker = cluster.breaker(false);
        let Some(connection) = breaker.acquire(Resource::Connections) else {
            cluster.stats.upstream_cx_overflow.inc();
            facts.flags.set(ResponseFlags::UPSTREAM_OVERFLOW);
            return Err(InitFailure::ResourceLimit);
        };
        let random = lb::mix(facts.stream_id ^ u64::from(facts.upstream.attempts));
        let destination = cluster.destination(None, facts);
        let Some(host) = cluster.pick(self.worker, &lb::Request { random, destination, ..lb::Request::default() })
        else {
            cluster.stats.upstream_cx_none_healthy.inc();
            facts.flags.set(ResponseFlags::NO_HEALTHY_UPSTREAM);
            return Err(InitFailure::NoHealthyUpstream);
        };
        facts.upstream.attempts += 1;
        let stats = &cluster.stats;
        let Some(pending) = breaker.acquire(Resource::Pending) else {
            stats.upstream_rq_pending_overflow.inc();
            return Ok(None);
        };
        stats.upstream_rq_pending_total.inc();
        chosen(facts, &host);
        let open = Open::new(cluster, &host, connection);
        facts.times.upstream_connect_start.get_or_insert_with(Instant::now);
        let downstream = facts.conn.clone();
        let options = connector::Options { downstream: Some(&downstream), ..connector::Options::default() };
        match connector::connect(cluster, &host, &options).await {
            Ok(stream) => {
                cluster.observe(&host, outlier::Outcome::Status(200));
                drop(pending);
                let Some(request) = breaker.acquire(Resource::Requests) else {
                    stats.upstream_rq_pending_overflow.inc();
                    return Ok(None);
                };
                stats.upstream_rq_total.inc();
                let stream = match self.tunnel {
                    None => stream,
                    Some(tunnel) => match through(tunnel, stream, cluster, facts).await {
                        Ok(stream) => stream,
                        Err((reason, fault)) => {
                            facts.upstream.transport_failure = Some(reason.into());
                            blame(cluster, &host, fault, facts);
                            return Ok(None);
                        }
                    },
                };
                facts.times.upstream_connect_complete = Some(crate::clock::now());
                facts.upstream.local = stream.local_addr();
                facts.upstream.tls = stream.tls_info();
                let mut books = Books::new(cluster, &host);
                books.sent(request);
                Ok(Some(Upstream { stream, cluster: cluster.clone(), _open: open, _books: books }))
            }
            Err(error) => {
                failed(cluster, &host, error, facts);
                Ok(None)
            }
        }
    }
}

/// The connection inside of a request; its answer may take as long as connecting.
async fn through(
    tunnel: &Tunnel,
    stream: Stream,
    cluster: &Cluster,
    facts: &mut StreamInfo,
) -> Result<Stream, (String, ConnectFault)> {
    cluster.stats.upstream_cx_http1_total.inc();
    let asked = tokio::time::timeout(cluster.config.connect_timeout, tunnel.open(stream, cluster, facts)).await;
    match asked {
        Ok(opened) => opened.map_err(|reason| (reason, ConnectFault::Remote)),
        Err(_) => Err(("tunnel response: timeout".to_owned(), ConnectFault::Timeout)),
    }
}

/// Books an attempt that failed. One that did not leave this machine says nothing of the host, and is no upstream failure.
fn failed(cluster: &Cluster, host: &Arc<Host>, error: PoolError, facts: &mut StreamInfo) {
    let fault = match error {
        PoolError::Connect { reason, fault } => {
            facts.upstream.transport_failure = Some(reason);
            fault
        }
        PoolError::Overflow | PoolError::NoPool => ConnectFault::Local,
    };
    cluster.stats.upstream_rq_pending_failure_eject.inc();
    blame(cluster, host, fault, facts);
}

/// Books whose fault it was.
fn blame(cluster: &Cluster, host: &Arc<Host>, fault: ConnectFault, facts: &mut StreamInfo) {
    let stats = &cluster.stats;
    match fault {
        ConnectFault::Remote => stats.upstream_cx_destroy_remote.inc(),
        ConnectFault::Local | ConnectFault::Timeout => stats.upstream_cx_destroy_local.inc(),
    }
    match fault {
        ConnectFault::Remote => cluster.observe(host, outlier::Outcome::LocalFailure),
        ConnectFault::Timeout => cluster.observe(host, outlier::Outcome::Timeout),
        ConnectFault::Local => return,
    }
    facts.flags.set(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
}

fn chosen(facts: &mut StreamInfo, host: &Host) {
    let upstream = &mut facts.upstream;
    upstream.host = Some(match &host.address {
        Address::Ip(a) => PeerAddr::Ip(*a),
        other => PeerAddr::Pipe(other.to_string().into()),
    });
    upstream.hostname = host.hostname.clone();
    upstream.metadata = Some(host.metadata.clone());
    upstream.locality = Some(host.locality.clone());
}

/// Counts an upstream connection while it is open or being opened.
struct Open {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    since: Instant,
    _permit: Permit,
}

impl Open {
    fn new(cluster: &Arc<Cluster>, host: &Arc<Host>, permit: Permit) -> Self {
        cluster.stats.upstream_cx_total.inc();
        cluster.stats.upstream_cx_active.inc();
        host.cx_total.fetch_add(1, Ordering::Relaxed);
        host.cx_active.fetch_add(1, Ordering::Relaxed);
        Open { cluster: cluster.clone(), host: host.clone(), since: crate::clock::now(), _permit: permit }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let stats = &self.cluster.stats;
        stats.upstream_cx_active.dec();
        stats.upstream_cx_destroy.inc();
        stats.upstream_cx_length_ms.record(self.since.elapsed().as_millis() as u64);
        self.host.cx_active.fetch_sub(1, Ordering::Relaxed);
    }
}
