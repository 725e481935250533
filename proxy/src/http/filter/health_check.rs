//! `envoy.filters.http.health_check`: answers health checks in place of the application, or remembers its answers.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Flow;
use crate::app::Parts;
use crate::cluster::Clusters;
use crate::config::{ConfigError, HealthCheckFilter, PerMillion};
use crate::http::HeaderMap;
use crate::http::body::Body;
use crate::http::head::ResponseHead;
use crate::http::local_reply;
use crate::http::route;
use crate::http::stream::StreamCtx;
use crate::stats::{Counter, Scope};
use crate::stream_info::ResponseFlags;

/// The filter.
pub(super) struct HealthCheck {
    config: HealthCheckFilter,
    clusters: Arc<Clusters>,
    healthy: crate::app::Healthy,
    /// What `x-envoy-upstream-healthchecked-cluster` says: the service cluster of this process.
    cluster: HeaderValue,
    cached: Mutex<Option<(Instant, StatusCode)>>,
    stats: Stats,
}

/// `http.<stat_prefix>.health_check.*`.
struct Stats {
    request_total: Counter,
    ok: Counter,
    failed: Counter,
    cached_response: Counter,
    failed_cluster_not_found: Counter,
    failed_cluster_empty: Counter,
    failed_cluster_unhealthy: Counter,
}

impl Stats {
    fn new(scope: &Scope) -> Self {
        let scope = scope.scope("health_check");
        Stats {
            request_total: scope.counter("request_total"),
            ok: scope.counter("ok"),
            failed: scope.counter("failed"),
            cached_response: scope.counter("cached_response"),
            failed_cluster_not_found: scope.counter("failed_cluster_not_found"),
            failed_cluster_empty: scope.counter("failed_cluster_empty"),
            failed_cluster_unhealthy: scope.counter("failed_cluster_unhealthy"),
        }
    }
}

impl HealthCheck {
    pub(super) fn new(config: &HealthCheckFilter, scope: &Scope, parts: &Parts) -> Result<Self, ConfigError> {
        Ok(HealthCheck {
            config: config.clone(),
            clusters: parts.clusters.clone(),
            healthy: parts.healthy.clone(),
            cluster: route::header_value(parts.healthy.cluster(), "node.cluster")?,
            cached: Mutex::new(None),
            stats: Stats::new(scope),
        })
    }

    pub(super) fn request(&self, mut ctx: Box<StreamCtx>, body: Body) -> Flow {
        if !self.config.headers.iter().all(|h| route::header_matches(h, &ctx)) {
            return Flow::Continue(ctx, body);
        }
        ctx.info.health_check = true;
        self.stats.request_total.inc();
        if self.config.pass_through && self.healthy.get() {
            let fresh = self.config.cache_time.unwrap_or(Duration::ZERO);
            let cached = *self.cached.lock();
            let Some((_, status)) = cached.filter(|(at, _)| at.elapsed() < fresh) else {
                return Flow::Continue(ctx, body);
            };
            self.stats.cached_response.inc();
            return Flow::Answer(self.answer(ctx, status, "health_check_cached"));
        }
        let verdict = if self.healthy.get() { self.clusters_enough() } else { Err("health_check_failed") };
        Flow::Answer(match verdict {
            Ok(()) => self.answer(ctx, StatusCode::OK, "health_check_ok"),
            Err(details) => self.answer(ctx, StatusCode::SERVICE_UNAVAILABLE, details),
        })
    }

    fn answer(
        &self,
        mut ctx: Box<StreamCtx>,
        status: StatusCode,
        details: &'static str,
    ) -> crate::http::connection::Reply {
        if status == StatusCode::OK {
            self.stats.ok.inc();
        } else {
            self.stats.failed.inc();
            ctx.info.flags.set(ResponseFlags::FAILED_LOCAL_HEALTH_CHECK);
        }
        local_reply::with_headers(ctx, status, bytes::Bytes::new(), details, |h| self.mark(h))
    }

    fn mark(&self, headers: &mut HeaderMap) {
        headers.insert("x-envoy-upstream-healthchecked-cluster", self.cluster.clone());
    }

    /// The application's answer to a check that was passed through: remembered, and marked.
    pub(super) fn response(&self, ctx: &StreamCtx, head: &mut ResponseHead) {
        if !ctx.info.health_check {
            return;
        }
        if self.config.pass_through && self.config.cache_time.is_some() {
            *self.cached.lock() = Some((Instant::now(), head.status));
        }
        if head.status == StatusCode::OK {
            self.stats.ok.inc();
        } else {
            self.stats.failed.inc();
        }
        self.mark(&mut head.headers);
    }

    /// Whether every cluster named has the share of healthy hosts asked of it; else what the answer's details say.
    fn clusters_enough(&self) -> Result<(), &'static str> {
        let mut named = self.config.cluster_min_healthy.iter();
        named.try_for_each(|(name, min)| self.enough(name, *min))
    }

    fn enough(&self, cluster: &str, min: PerMillion) -> Result<(), &'static str> {
        let Some(cluster) = self.clusters.find(cluster) else {
            self.stats.failed_cluster_not_found.inc();
            return Err("health_check_failed_no_cluster_found");
        };
        let (total, healthy, degraded) = cluster.hosts().counts();
        if total == 0 {
            if min.0 == 0 {
                return Ok(());
            }
            self.stats.failed_cluster_empty.inc();
            return Err("health_check_failed_cluster_empty");
        }
        if (healthy + degraded) as u64 * 1_000_000 >= u64::from(min.0) * total as u64 {
            return Ok(());
        }
        self.stats.failed_cluster_unhealthy.inc();
        Err("health_check_failed_cluster_unhealthy")
    }
}
