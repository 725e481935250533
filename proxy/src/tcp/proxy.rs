//! `envoy.filters.network.tcp_proxy`.
//!
//! Runs on: workers serve; the control thread compiles.

use std::io;
use std::sync::Arc;

use tokio::time::Instant;

use super::demand::Demand;
use super::tunnel::Tunnel;
use super::upstream::{Attempts, InitFailure, Upstream};
use crate::access_log::{AccessLogs, LogContext, LogType};
use crate::app::Parts;
use crate::cluster::{Cluster, ClusterHandle, ClusterStats, Clusters};
use crate::config::{self, ConfigError, TcpCluster};
use crate::stats::Counter;
use crate::stream_info::{CloseType, ConnInfo, ResponseFlags, StreamInfo};
use crate::telemetry::{Series, TcpReport};
use crate::transport::{Relay, RelayEnd, RelayOptions, Stream};

/// A TCP proxy.
pub struct TcpProxy {
    config: config::TcpProxy,
    clusters: Vec<(Arc<ClusterHandle>, u64)>,
    total: u64,
    /// For a cluster named by the connection itself.
    all: Arc<Clusters>,
    /// For a cluster that is not there.
    demand: Option<Box<Demand>>,
    tunnel: Option<Box<Tunnel>>,
    access_logs: AccessLogs,
    buffer_limit: usize,
    stats: Stats,
}

struct Stats {
    downstream_cx_total: Counter,
    downstream_cx_no_route: Counter,
    downstream_cx_rx_bytes_total: Counter,
    downstream_cx_tx_bytes_total: Counter,
    idle_timeout: Counter,
    max_downstream_connection_duration: Counter,
}

impl TcpProxy {
    /// Compiles. `buffer_limit`: the listener's `per_connection_buffer_limit_bytes`.
    ///
    /// # Errors
    /// What cannot be compiled.
    pub fn new(config: config::TcpProxy, buffer_limit: usize, parts: &Parts) -> Result<Arc<Self>, ConfigError> {
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
            all: parts.clusters.clone(),
            demand: config.on_demand.as_ref().map(|c| Box::new(Demand::new(c, parts.on_demand.clone(), &scope))),
            tunnel: config.tunnel.as_ref().map(Tunnel::new).transpose()?.map(Box::new),
            access_logs: parts.access_logs(&config.access_log)?,
            buffer_limit,
            stats: Stats {
                downstream_cx_total: scope.counter("downstream_cx_total"),
                downstream_cx_no_route: scope.counter("downstream_cx_no_route"),
                downstream_cx_rx_bytes_total: scope.counter("downstream_cx_rx_bytes_total"),
                downstream_cx_tx_bytes_total: scope.counter("downstream_cx_tx_bytes_total"),
                idle_timeout: scope.counter("idle_timeout"),
                max_downstream_connection_duration: scope.counter("max_downstream_connection_duration"),
            },
            config,
        }))
    }

    /// Counts a connection, served or not.
    pub fn opened(&self) {
        self.stats.downstream_cx_total.inc();
    }

    /// Serves a connection until it is closed; its facts are to be given to [`TcpProxy::log_end`], which comes after the
    /// listener's own log. `cluster`: the one to use in place of those configured.
    pub async fn serve(
        self: Arc<Self>,
        mut down: Stream,
        info: Arc<ConnInfo>,
        cluster: Option<&str>,
        worker: usize,
        reports: &[Arc<TcpReport>],
    ) -> Box<StreamInfo> {
        // Boxed: it would make the task of every connection larger, HTTP ones included.
        let mut facts = Box::new(StreamInfo {
            start: info.start,
            start_wall: info.start_wall,
            upstream_close: Some(CloseType::Normal),
            ..StreamInfo::new(info, crate::worker::random(), None)
        });
        let deadline = self.deadline(facts.stream_id);
        let route = self.route(facts.stream_id);
        let find = || match cluster {
            Some(name) => self.all.find(name),
            None => route.get(),
        };
        let attempts = Attempts {
            cluster: &find,
            max: self.config.max_connect_attempts.max(1),
            back_off: self.config.backoff,
            tunnel: self.tunnel.as_deref(),
            worker,
        };
        let connect = async {
            if let Some(demand) = &self.demand
                && find().is_none()
            {
                demand.wait(cluster.unwrap_or(&route.name), &find).await;
            }
            attempts.connect(&mut facts).await
        };
        // Boxed: with TLS it is large, and it is over when the connection is idle.
        match within(deadline, Box::pin(connect)).await {
            None => {
                self.expired(&mut facts);
                Reported::failed(reports, &facts, find().as_deref());
            }
            Some(Err(failure)) => {
                Reported::failed(reports, &facts, find().as_deref());
                if failure == InitFailure::NoRoute {
                    self.stats.downstream_cx_no_route.inc();
                }
                down.reset_if_unread();
                close_reason(&facts, format!("tcp_initializion_failure:{}", failure as u8));
            }
            Some(Ok(mut up)) => {
                if self.config.access_log_on_connected {
                    self.log(&facts, LogType::TcpUpstreamConnected);
                }
                let reported = Reported::opened(reports, &facts, &up.cluster);
                let end = self.relay(&mut down, &mut up, &mut facts, deadline, &reported).await;
                self.ended(end, (&down, &up), &mut facts);
            }
        }
        facts.times.end = Some(crate::clock::now());
        facts
    }

    /// Logs the end of a connection that was served.
    pub fn log_end(&self, facts: &StreamInfo) {
        self.log(facts, LogType::TcpConnectionEnd);
    }

    /// One of the configured clusters, by weight.
    fn route(&self, random: u64) -> &ClusterHandle {
        let mut at = random % self.total;
        let found = self.clusters.iter().find(|(_, w)| {
            let here = at < *w;
            at = at.saturating_sub(*w);
            here
        });
        &found.unwrap_or(&self.clusters[0]).0
    }

    /// When the connection has lived for long enough.
    fn deadline(&self, random: u64) -> Option<Instant> {
        let life = self.config.max_downstream_connection_duration?;
        let share = (random >> 11) as f64 / (1u64 << 53) as f64;
        Some(Instant::now() + life.mul_f64(1.0 + self.config.max_downstream_connection_duration_jitter * share))
    }

    async fn relay(
        &self,
        down: &mut Stream,
        up: &mut Upstream,
        facts: &mut StreamInfo,
        deadline: Option<Instant>,
        reported: &Reported,
    ) -> RelayEnd {
        let ClusterStats { upstream_cx_rx_bytes_total, upstream_cx_tx_bytes_total, .. } = &up.cluster.stats;
        let own = [&self.stats.downstream_cx_rx_bytes_total, upstream_cx_tx_bytes_total];
        let to_upstream = reported.with(own, |series| &series.received);
        let own = [upstream_cx_rx_bytes_total, &self.stats.downstream_cx_tx_bytes_total];
        let to_downstream = reported.with(own, |series| &series.sent);
        let mut relay = Relay::new(RelayOptions {
            idle_timeout: self.config.idle_timeout,
            downstream_idle_timeout: self.config.downstream_idle_timeout,
            upstream_idle_timeout: self.config.upstream_idle_timeout,
            deadline,
            to_upstream: &to_upstream,
            to_downstream: &to_downstream,
            buffer_limit: Some(self.buffer_limit.min(up.cluster.config.per_connection_buffer_limit)),
        });
        let count = |relay: &Relay<'_>, facts: &mut StreamInfo| {
            let (received, sent) = relay.moved();
            (facts.bytes.received, facts.bytes.sent) = (received, sent);
            (facts.bytes.wire_received, facts.bytes.wire_sent) = (received, sent);
            (facts.bytes.upstream_wire_sent, facts.bytes.upstream_wire_received) = (received, sent);
        };
        let end = loop {
            let Some(interval) = self.config.access_log_flush_interval else {
                break relay.run(down, &mut up.stream).await;
            };
            if let Ok(end) = tokio::time::timeout(interval, relay.run(down, &mut up.stream)).await {
                break end;
            }
            count(&relay, facts);
            self.log(facts, LogType::TcpPeriodic);
        };
        count(&relay, facts);
        end
    }

    /// Books how it ended, and passes a reset on.
    fn ended(&self, end: RelayEnd, (down, up): (&Stream, &Upstream), facts: &mut StreamInfo) {
        let stats = &up.cluster.stats;
        stats.upstream_cx_destroy_with_active_rq.inc();
        // Who ends last ends the connection.
        if matches!(end, RelayEnd::DownstreamClosed | RelayEnd::UpstreamFailed(_)) {
            stats.upstream_cx_destroy_remote.inc();
            stats.upstream_cx_destroy_remote_with_active_rq.inc();
        } else {
            stats.upstream_cx_destroy_local.inc();
            stats.upstream_cx_destroy_local_with_active_rq.inc();
        }
        match end {
            RelayEnd::DownstreamClosed | RelayEnd::UpstreamClosed => {}
            RelayEnd::DownstreamFailed(e) => {
                // They came, though they went nowhere.
                facts.bytes.received += down.withheld();
                self.stats.downstream_cx_rx_bytes_total.add(down.withheld());
                if is_reset(&e) {
                    facts.downstream_close = CloseType::RemoteReset;
                    up.stream.set_reset_on_close();
                }
            }
            RelayEnd::UpstreamFailed(e) => {
                if is_reset(&e) {
                    facts.flags.set(ResponseFlags::UPSTREAM_REMOTE_RESET);
                    facts.upstream_close = Some(CloseType::RemoteReset);
                    facts.downstream_close = CloseType::LocalReset;
                    down.set_reset_on_close();
                }
            }
            RelayEnd::Idle => {
                self.stats.idle_timeout.inc();
                close_reason(facts, "tcp_session_idle_timeout".to_owned());
            }
            RelayEnd::Deadline => self.expired(facts),
        }
    }

    fn expired(&self, facts: &mut StreamInfo) {
        self.stats.max_downstream_connection_duration.inc();
        facts.flags.set(ResponseFlags::DURATION_TIMEOUT);
        close_reason(facts, "max_connection_duration_reached".to_owned());
    }

    fn log(&self, facts: &StreamInfo, log_type: LogType) {
        if !self.access_logs.is_empty() {
            self.access_logs.log(&LogContext { log_type, ..LogContext::new(facts) });
        }
    }
}

/// What a connection is counted in, from its opening to its end.
struct Reported(Vec<Arc<Series>>);

impl Reported {
    fn of(reports: &[Arc<TcpReport>], facts: &StreamInfo, cluster: Option<&Cluster>) -> Self {
        let all: Vec<_> = reports.iter().map(|report| report.series(facts, cluster)).collect();
        all.iter().for_each(|series| series.opened.inc());
        Self(all)
    }

    fn opened(reports: &[Arc<TcpReport>], facts: &StreamInfo, cluster: &Cluster) -> Self {
        Self::of(reports, facts, Some(cluster))
    }

    /// It got no upstream: it was opened, and is closed at once.
    fn failed(reports: &[Arc<TcpReport>], facts: &StreamInfo, cluster: Option<&Cluster>) {
        drop(Self::of(reports, facts, cluster));
    }

    /// The counters of bytes, with further ones.
    fn with<'a>(&'a self, own: [&'a Counter; 2], of: impl Fn(&Series) -> &Counter) -> Vec<&'a Counter> {
        own.into_iter().chain(self.0.iter().map(|series| of(series))).collect()
    }
}

impl Drop for Reported {
    /// However it ends, cut off at the end of a drain too.
    fn drop(&mut self) {
        self.0.iter().for_each(|series| series.closed.inc());
    }
}

/// Runs until the deadline; `None`: it has passed.
async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(at) => tokio::time::timeout_at(at, work).await.ok(),
        None => Some(work.await),
    }
}

fn close_reason(facts: &StreamInfo, reason: String) {
    *facts.conn.local_close.lock() = Some(reason.into());
}

/// The peer aborted: writing to what it has closed fails in its own way.
fn is_reset(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an idle connection costs besides its sockets.
    #[test]
    fn is_small() {
        fn size<F>(_: impl FnOnce(Arc<TcpProxy>, Stream, Arc<ConnInfo>) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(|proxy, down, info| proxy.serve(down, info, None, 0, &[]));
        assert!(size <= 1400, "{size}");
    }
}
