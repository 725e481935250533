//! `envoy.filters.http.health_check`: answers health checks in place of the application, or remembers its answers.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Flow;
use crate::app::Parts;
use crate::cluster::Clusters;
use crate::config::{HealthCheckFilter, PerMillion};
use crate::http::body::Body;
use crate::http::local_reply;
use crate::http::route;
use crate::http::stream::StreamCtx;
use crate::stream_info::ResponseFlags;

/// The filter.
pub(super) struct HealthCheck {
    config: HealthCheckFilter,
    clusters: Arc<Clusters>,
    healthy: crate::app::Healthy,
    cached: Mutex<Option<(Instant, StatusCode)>>,
}

impl HealthCheck {
    pub(super) fn new(config: &HealthCheckFilter, parts: &Parts) -> Self {
        HealthCheck {
            config: config.clone(),
            clusters: parts.clusters.clone(),
            healthy: parts.healthy.clone(),
            cached: Mutex::new(None),
        }
    }

    pub(super) fn request(&self, mut ctx: Box<StreamCtx>, body: Body) -> Flow {
        if !self.config.headers.iter().all(|h| route::header_matches(h, &ctx)) {
            return Flow::Continue(ctx, body);
        }
        ctx.info.health_check = true;
        if self.config.pass_through && self.healthy.get() {
            let fresh = self.config.cache_time.unwrap_or(Duration::ZERO);
            let cached = self.cached.lock().filter(|(at, _)| at.elapsed() < fresh);
            return match cached {
                Some((_, status)) => Flow::Answer(local_reply::make(ctx, status, "", "health_check_cached")),
                None => Flow::Continue(ctx, body),
            };
        }
        let (status, details) = if !self.healthy.get() {
            ctx.info.flags.set(ResponseFlags::FAILED_LOCAL_HEALTH_CHECK);
            (StatusCode::SERVICE_UNAVAILABLE, "health_check_failed")
        } else if self.config.cluster_min_healthy.iter().all(|(name, min)| self.enough(name, *min)) {
            (StatusCode::OK, "health_check_ok")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "health_check_failed_cluster_unhealthy")
        };
        Flow::Answer(local_reply::make(ctx, status, "", details))
    }

    fn enough(&self, cluster: &str, min: PerMillion) -> bool {
        let Some(cluster) = self.clusters.find(cluster) else { return min.0 == 0 };
        let (total, healthy, degraded) = cluster.hosts().counts();
        if total == 0 { min.0 == 0 } else { (healthy + degraded) as u64 * 1_000_000 >= u64::from(min.0) * total as u64 }
    }
}
