//! `envoy.filters.network.ratelimit`: a service counts connections and says when it is enough. Runs on: workers.

use std::sync::Arc;

use weft_proto::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use weft_proto::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use weft_proto::pb::envoy::service::ratelimit::v3::RateLimitResponse;

use crate::access_log::{LogContext, Template};
use crate::app::Parts;
use crate::config::{ConfigError, NetworkRateLimit, PerMillion, RuntimeFraction};
use crate::http::grpc_client::GrpcClient;
use crate::rate_limit::{self, Answer, SHOULD_RATE_LIMIT};
use crate::runtime::Fraction;
use crate::stats::{Counter, Gauge};
use crate::stream_info::{ConnInfo, StreamInfo};

/// Why a refused connection was closed, as access logs have it.
const CLOSED: &str = "ratelimit_close_over_limit";

/// The filter.
pub(super) struct RateLimit {
    config: NetworkRateLimit,
    service: GrpcClient,
    /// Keys, and values with their operators.
    descriptors: Vec<Vec<(String, Template)>>,
    enabled: Fraction,
    enforced: Fraction,
    stats: Stats,
}

/// `ratelimit.<stat_prefix>.*`.
struct Stats {
    total: Counter,
    ok: Counter,
    over_limit: Counter,
    error: Counter,
    failure_mode_allowed: Counter,
    cx_closed: Counter,
    active: Gauge,
}

/// A question under way.
struct Active<'a>(&'a Gauge);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Whether all `limits` let a connection be.
///
/// # Cancel safety
/// Dropped, it gives the question up.
pub(super) async fn admit(limits: &[Arc<RateLimit>], conn: &Arc<ConnInfo>) -> bool {
    for limit in limits {
        if !limit.admits(conn).await {
            return false;
        }
    }
    true
}

impl RateLimit {
    /// # Errors
    /// A service or format that cannot be compiled.
    pub(super) fn new(config: &NetworkRateLimit, parts: &Parts) -> Result<Arc<Self>, ConfigError> {
        let scope = parts.stats.root().tagged("ratelimit", "envoy.ratelimit_prefix", &config.stat_prefix);
        let format = |(key, value): &(String, String)| {
            let value = Template::value(value).map_err(|e| ConfigError::at("descriptors.entries.value", e))?;
            Ok((key.clone(), value))
        };
        let descriptor = |entries: &Vec<_>| entries.iter().map(format).collect::<Result<Vec<_>, ConfigError>>();
        let share = |key: &str| {
            let all = RuntimeFraction { default: PerMillion::ALL, key: key.to_owned(), denominator: 100 };
            parts.runtime.fraction(&all)
        };
        Ok(Arc::new(RateLimit {
            service: GrpcClient::new(&config.service, SHOULD_RATE_LIMIT, &parts.clusters)?,
            descriptors: config.descriptors.iter().map(descriptor).collect::<Result<_, _>>()?,
            enabled: share("ratelimit.tcp_filter_enabled"),
            enforced: share("ratelimit.tcp_filter_enforcing"),
            stats: Stats {
                total: scope.counter("total"),
                ok: scope.counter("ok"),
                over_limit: scope.counter("over_limit"),
                error: scope.counter("error"),
                failure_mode_allowed: scope.counter("failure_mode_allowed"),
                cx_closed: scope.counter("cx_closed"),
                active: scope.gauge("active"),
            },
            config: config.clone(),
        }))
    }

    async fn admits(&self, conn: &Arc<ConnInfo>) -> bool {
        if !self.enabled.admits(crate::worker::random()) {
            return true;
        }
        self.stats.total.inc();
        self.stats.active.inc();
        let active = Active(&self.stats.active);
        let answer = self.ask(conn).await;
        drop(active);
        let why = match answer {
            Ok(answer) if !answer.over_limit => {
                self.stats.ok.inc();
                return true;
            }
            Ok(_) => {
                self.stats.over_limit.inc();
                if !self.enforced.admits(crate::worker::random()) {
                    return true;
                }
                "over the limit"
            }
            Err(()) => {
                self.stats.error.inc();
                if !self.config.failure_mode_deny {
                    self.stats.failure_mode_allowed.inc();
                    return true;
                }
                "the rate limit service did not answer"
            }
        };
        self.stats.cx_closed.inc();
        tracing::debug!(connection = conn.id, why, peer = %conn.direct_remote, "rate limited");
        *conn.local_close.lock() = Some(CLOSED.into());
        false
    }

    async fn ask(&self, conn: &Arc<ConnInfo>) -> Result<Answer, ()> {
        let facts = StreamInfo::new(conn.clone(), crate::worker::random(), None);
        let context = LogContext::new(&facts);
        let entry = |(key, value): &(String, Template)| {
            let mut text = Vec::new();
            value.render(&context, &mut text);
            Entry { key: key.clone(), value: String::from_utf8_lossy(&text).into_owned() }
        };
        let descriptor = |entries: &Vec<_>| RateLimitDescriptor {
            entries: entries.iter().map(entry).collect(),
            ..RateLimitDescriptor::default()
        };
        let descriptors = self.descriptors.iter().map(descriptor).collect();
        let request = rate_limit::request(&self.config.domain, descriptors);
        let head = self.service.head(&context);
        drop(facts);
        match self.service.call::<RateLimitResponse>(head, &request, conn).await {
            Ok(response) => Ok(response.into()),
            Err(failure) => {
                tracing::debug!(?failure, "the rate limit service did not answer");
                Err(())
            }
        }
    }
}
