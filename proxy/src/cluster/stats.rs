//! `cluster.<name>.*`.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use crate::ext_authz::ClusterCounts;
use crate::rate_limit;
use crate::stats::{CodeStats, Counter, Gauge, Histogram, Scope, Unit};

macro_rules! cluster_stats {
    ($($name:ident)*; gauges: $($gauge:ident)*) => {
        /// Stats of a cluster, under Envoy's names.
        #[allow(missing_docs, reason = "each is the Envoy stat it is named for")]
        pub struct ClusterStats {
            $(pub $name: Counter,)*
            $(pub $gauge: Gauge,)*
            pub upstream_rq_time: Histogram,
            pub upstream_cx_length_ms: Histogram,
            pub upstream_rq_per_cx: Histogram,
            pub upstream_cx_connect_ms: Histogram,
            codes: CodeStats,
            /// Of responses that were not passed on but tried again; made with the first.
            retry: OnceLock<CodeStats>,
            internal: OnceLock<Origin>,
            external: OnceLock<Origin>,
            /// `ext_authz.*`: what filters without a stat prefix of their own counted here.
            authz: OnceLock<ClusterCounts>,
            /// The same of those with one.
            prefixed_authz: Mutex<BTreeMap<Box<str>, Arc<ClusterCounts>>>,
            /// `ratelimit.*`, in the same way.
            limits: OnceLock<rate_limit::ClusterCounts>,
            prefixed_limits: Mutex<BTreeMap<Box<str>, Arc<rate_limit::ClusterCounts>>>,
            /// The scope, for stats made later.
            pub scope: Scope,
        }

        impl ClusterStats {
            /// Stats below `scope`.
            pub fn new(scope: Scope) -> Self {
                ClusterStats {
                    $($name: scope.counter(stringify!($name)),)*
                    $($gauge: scope.gauge(stringify!($gauge)),)*
                    upstream_rq_time: scope.histogram("upstream_rq_time", Unit::Milliseconds),
                    upstream_rq_per_cx: scope.histogram("upstream_rq_per_cx", Unit::Unspecified),
                    upstream_cx_length_ms: scope.histogram("upstream_cx_length_ms", Unit::Milliseconds),
                    upstream_cx_connect_ms: scope.histogram("upstream_cx_connect_ms", Unit::Milliseconds),
                    codes: CodeStats::new(&scope, "upstream_rq_"),
                    retry: OnceLock::new(),
                    internal: OnceLock::new(),
                    external: OnceLock::new(),
                    authz: OnceLock::new(),
                    prefixed_authz: Mutex::default(),
                    limits: OnceLock::new(),
                    prefixed_limits: Mutex::default(),
                    scope,
                }
            }
        }
    };
}

cluster_stats! {
    upstream_cx_total upstream_cx_http1_total upstream_cx_http2_total upstream_cx_connect_fail upstream_cx_connect_timeout
    upstream_cx_idle_timeout upstream_cx_overflow upstream_cx_destroy upstream_cx_destroy_local upstream_cx_destroy_remote
    upstream_cx_destroy_with_active_rq upstream_cx_destroy_local_with_active_rq upstream_cx_destroy_remote_with_active_rq
    upstream_cx_close_notify upstream_cx_rx_bytes_total upstream_cx_tx_bytes_total upstream_cx_protocol_error
    upstream_cx_connect_attempts_exceeded upstream_cx_max_requests upstream_cx_max_duration_reached upstream_cx_none_healthy upstream_cx_pool_overflow upstream_cx_connect_with_0_rtt
    upstream_rq_total upstream_rq_pending_total upstream_rq_pending_overflow upstream_rq_pending_failure_eject
    upstream_rq_cancelled upstream_rq_maintenance_mode upstream_rq_timeout upstream_rq_max_duration_reached
    upstream_rq_per_try_timeout upstream_rq_per_try_idle_timeout upstream_rq_rx_reset upstream_rq_tx_reset upstream_rq_retry
    upstream_rq_retry_backoff_exponential upstream_rq_retry_backoff_ratelimited upstream_rq_retry_limit_exceeded
    upstream_rq_retry_success upstream_rq_retry_overflow retry_or_shadow_abandoned
    bind_errors update_attempt update_success update_failure update_empty update_no_rebuild membership_change
    lb_healthy_panic lb_recalculate_zone_structures upstream_flow_control_paused_reading_total
    upstream_flow_control_resumed_reading_total original_dst_host_invalid;
    gauges: upstream_cx_active upstream_rq_active upstream_rq_pending_active membership_total membership_healthy
    membership_degraded membership_excluded max_host_weight warming_state
}

/// `internal.*` or `external.*`: responses by who asked. Made with the first.
struct Origin {
    codes: CodeStats,
    time: Histogram,
}

impl ClusterStats {
    /// Counts a response to a client; `internal`: the client is (`x-envoy-internal`).
    pub fn answered(&self, status: u16, internal: bool) {
        self.codes.record(status);
        self.origin(internal).codes.record(status);
    }

    /// Counts a response that another attempt follows.
    pub fn retried(&self, status: u16) {
        self.retry.get_or_init(|| CodeStats::new(&self.scope.scope("retry"), "upstream_rq_")).record(status);
    }

    /// Records the time of a whole exchange.
    pub fn took(&self, time: Duration, internal: bool) {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.upstream_rq_time.record(ms);
        self.origin(internal).time.record(ms);
    }

    fn origin(&self, internal: bool) -> &Origin {
        let (place, name) = if internal { (&self.internal, "internal") } else { (&self.external, "external") };
        place.get_or_init(|| {
            let scope = self.scope.scope(name);
            Origin {
                codes: CodeStats::new(&scope, "upstream_rq_"),
                time: scope.histogram("upstream_rq_time", Unit::Milliseconds),
            }
        })
    }

    /// Counts what an external authorization said of a request to this cluster; `prefix`: the filter's, mostly none.
    pub(crate) fn authorized(&self, prefix: &str, what: crate::ext_authz::Count) {
        if prefix.is_empty() {
            return self.authz.get_or_init(|| ClusterCounts::new(&self.scope, "")).count(what);
        }
        // Few filters have a prefix, and what they ask takes longer than a look-up.
        let mut all = self.prefixed_authz.lock();
        let counts = match all.get(prefix) {
            Some(counts) => counts.clone(),
            None => all.entry(prefix.into()).or_insert(Arc::new(ClusterCounts::new(&self.scope, prefix))).clone(),
        };
        drop(all);
        counts.count(what);
    }

    /// Counts what a rate limit service said of a request to this cluster; `prefix`: the filter's, mostly none.
    pub(crate) fn limited(&self, prefix: &str, what: rate_limit::Count) {
        if prefix.is_empty() {
            return self.limits.get_or_init(|| rate_limit::ClusterCounts::new(&self.scope, "")).count(what);
        }
        let mut all = self.prefixed_limits.lock();
        let make = || Arc::new(rate_limit::ClusterCounts::new(&self.scope, prefix));
        let counts = match all.get(prefix) {
            Some(counts) => counts.clone(),
            None => all.entry(prefix.into()).or_insert_with(make).clone(),
        };
        drop(all);
        counts.count(what);
    }

    /// Makes host counts be there, as they are.
    pub fn show_membership(&self) {
        for gauge in [&self.membership_total, &self.membership_healthy, &self.membership_degraded] {
            gauge.add(0);
        }
    }

    /// Publishes host counts.
    pub fn set_membership(&self, total: usize, healthy: usize, degraded: usize) {
        self.membership_total.set(total as u64);
        self.membership_healthy.set(healthy as u64);
        self.membership_degraded.set(degraded as u64);
        self.membership_excluded.set(0);
        self.warming_state.set(0);
    }
}
