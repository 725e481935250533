//! Stats of routes (`stat_prefix`) and of virtual clusters: `vhost.<vhost>.route.<prefix>.*`, `vhost.<vhost>.vcluster.<name>.*`.
//!
//! Runs on: the control thread compiles; workers match and count.

use std::sync::Arc;
use std::time::Duration;

use super::matcher;
use crate::config::HeaderMatcher;
use crate::http::stream::StreamCtx;
use crate::stats::{CodeStats, Counter, Histogram, Scope, Unit};
use crate::stream_info::{ResponseFlags, StreamInfo};

/// Counts of the requests of one route or virtual cluster.
pub struct RouteStats {
    codes: CodeStats,
    total: Counter,
    timeout: Counter,
    retry: Counter,
    retry_success: Counter,
    retry_limit_exceeded: Counter,
    time: Histogram,
}

impl RouteStats {
    /// Counts below `scope`.
    pub fn new(scope: &Scope) -> Self {
        RouteStats {
            codes: CodeStats::new(scope, "upstream_rq_"),
            total: scope.counter("upstream_rq_total"),
            timeout: scope.counter("upstream_rq_timeout"),
            retry: scope.counter("upstream_rq_retry"),
            retry_success: scope.counter("upstream_rq_retry_success"),
            retry_limit_exceeded: scope.counter("upstream_rq_retry_limit_exceeded"),
            time: scope.histogram("upstream_rq_time", Unit::Milliseconds),
        }
    }

    /// Counts a request that was forwarded.
    pub fn record(&self, info: &StreamInfo, took: Duration) {
        self.total.add(u64::from(info.upstream.attempts));
        let retries = u64::from(info.upstream.attempts.saturating_sub(1));
        self.retry.add(retries);
        let limited = info.flags.any_of(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        if limited {
            self.retry_limit_exceeded.inc();
        } else if retries > 0 {
            self.retry_success.inc();
        }
        if info.flags.any_of(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT) {
            self.timeout.inc();
        }
        if info.response_code != 0 {
            self.codes.record(info.response_code);
            self.time.record(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        }
    }
}

/// A virtual cluster: requests of a virtual host that are counted together.
pub struct VirtualCluster {
    /// Name.
    pub name: Arc<str>,
    /// Counts.
    pub stats: RouteStats,
}

/// The virtual clusters of a virtual host, in order, and one for what is in none of them.
pub struct VirtualClusters {
    list: Vec<(Vec<HeaderMatcher>, Arc<VirtualCluster>)>,
    other: Arc<VirtualCluster>,
}

impl VirtualClusters {
    /// Compiles; `None`: there are none. `vhost`: the scope of the virtual host.
    pub fn new(configured: &[(String, Vec<HeaderMatcher>)], vhost: &Scope) -> Option<Self> {
        if configured.is_empty() {
            return None;
        }
        let make = |name: &str| {
            let scope = vhost.tagged("vcluster", "envoy.virtual_cluster", name);
            Arc::new(VirtualCluster { name: name.into(), stats: RouteStats::new(&scope) })
        };
        Some(VirtualClusters {
            list: configured.iter().map(|(name, headers)| (headers.clone(), make(name))).collect(),
            other: make("other"),
        })
    }

    /// The one a request belongs to.
    pub fn of(&self, ctx: &StreamCtx) -> Arc<VirtualCluster> {
        let holds = |headers: &[HeaderMatcher]| headers.iter().all(|h| matcher::header_matches(h, ctx));
        let found = self.list.iter().find(|(headers, _)| holds(headers));
        found.map_or(&self.other, |(_, cluster)| cluster).clone()
    }
}
