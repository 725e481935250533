//! `envoy.filters.network.tcp_proxy`.

use std::sync::Arc;

use crate::access_log::{AccessLogs, LogContext, LogType};
use crate::app::Parts;
use crate::cluster::{ClusterHandle, Resource, lb};
use crate::config::{self, ConfigError, TcpCluster};
use crate::stats::{Counter, Gauge};
use crate::stream_info::{ConnInfo, PeerAddr, ResponseFlags, StreamInfo};
use crate::transport::Stream;
use crate::upstream::attempt::Books;
use crate::upstream::{PoolError, connector};

/// A TCP proxy.
pub struct TcpProxy {
    config: config::TcpProxy,
    clusters: Vec<(Arc<ClusterHandle>, u64)>,
    total: u64,
    access_logs: AccessLogs,
    stats: Stats,
}

struct Stats {
    downstream_cx_total: Counter,
    downstream_cx_no_route: Counter,
    downstream_cx_rx_bytes_total: Counter,
    downstream_cx_tx_bytes_total: Counter,
    active: Gauge,
}

impl TcpProxy {
    /// Compiles.
    ///
    /// # Errors
    /// What cannot be compiled.
    pub fn new(config: config::TcpProxy, parts: &Parts) -> Result<Arc<Self>, ConfigError> {
        let scope = parts.stats.root().tagged("tcp", "envoy.tcp_prefix", &config.stat_prefix);
        let clusters: Vec<_> = match &config.cluster {
            TcpCluster::Single(name) => vec![(parts.clusters.handle(name), 1)],
            TcpCluster::Weighted(list) => {
                list.iter().map(|c| (parts.clusters.handle(&c.name), u64::from(c.weight))).collect()
            }
        };
        Ok(Arc::new(TcpProxy {
            total: clusters.iter().map(|(_, w)| w).sum::<u64>().max(1),
            clusters,
            access_logs: parts.access_logs(&config.access_log)?,
            stats: Stats {
                downstream_cx_total: scope.counter("downstream_cx_total"),
                downstream_cx_no_route: scope.counter("downstream_cx_no_route"),
                downstream_cx_rx_bytes_total: scope.counter("downstream_cx_rx_bytes_total"),
                downstream_cx_tx_bytes_total: scope.counter("downstream_cx_tx_bytes_total"),
                active: scope.gauge("downstream_cx_active"),
            },
            config,
        }))
    }

    /// Serves a connection.
    pub async fn serve(self: Arc<Self>, stream: Stream, info: Arc<ConnInfo>, worker: usize) {
        self.stats.downstream_cx_total.inc();
        self.stats.active.inc();
        let mut facts = StreamInfo::new(info, crate::worker::random(), None);
        self.relay(stream, &mut facts, worker).await;
        self.stats.active.dec();
        facts.times.end = Some(tokio::time::Instant::now());
        if !self.access_logs.is_empty() {
            self.access_logs.log(&LogContext { log_type: LogType::TcpConnectionEnd, ..LogContext::new(&facts) });
        }
    }

    async fn relay(&self, mut down: Stream, facts: &mut StreamInfo, worker: usize) {
        let mut at = facts.stream_id % self.total;
        let handle = self.clusters.iter().find(|(_, w)| {
            let here = at < *w;
            at = at.saturating_sub(*w);
            here
        });
        let Some(cluster) = handle.and_then(|(h, _)| h.get()) else {
            self.stats.downstream_cx_no_route.inc();
            facts.flags.set(ResponseFlags::NO_CLUSTER_FOUND);
            return;
        };
        facts.upstream.cluster = Some(cluster.name.clone());
        for attempt in 1..=self.config.max_connect_attempts.max(1) {
            facts.upstream.attempts = attempt;
            let request =
                lb::Request { random: lb::mix(facts.stream_id ^ u64::from(attempt)), ..lb::Request::default() };
            let Some(host) = cluster.pick(worker, &request) else {
                cluster.stats.upstream_cx_none_healthy.inc();
                facts.flags.set(ResponseFlags::NO_HEALTHY_UPSTREAM);
                return;
            };
            facts.upstream.host = match &host.address {
                config::Address::Ip(a) => Some(PeerAddr::Ip(*a)),
                other => Some(PeerAddr::Pipe(other.to_string().into())),
            };
            let Some(_permit) = cluster.breaker(false).acquire(Resource::Connections) else {
                cluster.stats.upstream_cx_overflow.inc();
                facts.flags.set(ResponseFlags::UPSTREAM_OVERFLOW);
                return;
            };
            cluster.stats.upstream_cx_total.inc();
            match connector::connect(&cluster, &host, &connector::Options::default()).await {
                Ok(mut up) => {
                    let _books = Books::new(&cluster, &host);
                    cluster.stats.upstream_cx_active.inc();
                    facts.upstream.local = up.local_addr();
                    if let Ok((rx, tx)) =
                        tokio::io::copy_bidirectional_with_sizes(&mut down, &mut up, 16 << 10, 64 << 10).await
                    {
                        self.stats.downstream_cx_rx_bytes_total.add(rx);
                        self.stats.downstream_cx_tx_bytes_total.add(tx);
                        facts.bytes.received = rx;
                        facts.bytes.sent = tx;
                    }
                    cluster.stats.upstream_cx_active.dec();
                    cluster.stats.upstream_cx_destroy.inc();
                    return;
                }
                Err(PoolError::Connect { reason, .. }) => facts.upstream.transport_failure = Some(reason),
                Err(PoolError::Overflow) => {}
            }
        }
        facts.flags.set(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        facts.flags.set(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        down.set_reset_on_close();
    }
}
