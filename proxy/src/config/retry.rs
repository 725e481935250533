//! Retry policies of routes and virtual hosts.

use std::time::Duration;

use super::{BackOff, HeaderMatcher};

/// **Source**: `envoy.config.route.v3.RetryPolicy`.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Conditions.
    pub on: RetryOn,
    /// Retries (default 1).
    pub num_retries: u32,
    /// Bound of one attempt; `None`: only the whole timeout.
    pub per_try_timeout: Option<Duration>,
    /// `per_try_idle_timeout`.
    pub per_try_idle_timeout: Option<Duration>,
    /// Default 25 ms base, 250 ms max.
    pub back_off: BackOff,
    /// With `retriable-status-codes`.
    pub retriable_status_codes: Vec<u16>,
    /// With `retriable-headers`: response headers that make a response retriable.
    pub retriable_headers: Vec<HeaderMatcher>,
    /// Only such requests are retried; empty: all.
    pub retriable_request_headers: Vec<HeaderMatcher>,
    /// Hosts not to pick again.
    pub host_predicates: Vec<RetryHostPredicate>,
    /// `host_selection_retry_max_attempts` (default 1).
    pub host_selection_max_attempts: u32,
    /// `rate_limited_retry_back_off`.
    pub rate_limited_back_off: Option<RateLimitedBackOff>,
    /// `retry_priority` with `previous_priorities`: `update_frequency`.
    pub previous_priorities: Option<u32>,
}

/// Conditions of a retry. **Source**: `RetryPolicy.retry_on`, a comma-separated list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "each is the word of `retry_on` it is named for")]
pub struct RetryOn {
    pub five_xx: bool,
    pub gateway_error: bool,
    pub reset: bool,
    pub reset_before_request: bool,
    pub connect_failure: bool,
    pub envoy_ratelimited: bool,
    pub retriable_4xx: bool,
    pub refused_stream: bool,
    pub retriable_status_codes: bool,
    pub retriable_headers: bool,
    pub http3_post_connect_failure: bool,
    pub grpc_cancelled: bool,
    pub grpc_deadline_exceeded: bool,
    pub grpc_internal: bool,
    pub grpc_resource_exhausted: bool,
    pub grpc_unavailable: bool,
}

impl RetryOn {
    /// Reads a comma-separated list. Unknown words are returned, the rest is taken: Envoy ignores them, the caller reports them.
    pub fn parse(list: &str) -> (RetryOn, Vec<&str>) {
        let (mut on, mut unknown) = (RetryOn::default(), Vec::new());
        for word in list.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            match on.flag(word) {
                Some(flag) => *flag = true,
                None => unknown.push(word),
            }
        }
        (on, unknown)
    }

    fn flag(&mut self, word: &str) -> Option<&mut bool> {
        Some(match word {
            "5xx" => &mut self.five_xx,
            "gateway-error" => &mut self.gateway_error,
            "reset" => &mut self.reset,
            "reset-before-request" => &mut self.reset_before_request,
            "connect-failure" => &mut self.connect_failure,
            "envoy-ratelimited" => &mut self.envoy_ratelimited,
            "retriable-4xx" => &mut self.retriable_4xx,
            "refused-stream" => &mut self.refused_stream,
            "retriable-status-codes" => &mut self.retriable_status_codes,
            "retriable-headers" => &mut self.retriable_headers,
            "http3-post-connect-failure" => &mut self.http3_post_connect_failure,
            "cancelled" => &mut self.grpc_cancelled,
            "deadline-exceeded" => &mut self.grpc_deadline_exceeded,
            "internal" => &mut self.grpc_internal,
            "resource-exhausted" => &mut self.grpc_resource_exhausted,
            "unavailable" => &mut self.grpc_unavailable,
            _ => return None,
        })
    }
}

/// **Source**: `envoy.extensions.retry.host.*`.
#[derive(Debug, Clone, PartialEq)]
pub enum RetryHostPredicate {
    /// Not one already tried.
    PreviousHosts,
    /// Not a canary.
    OmitCanaryHosts,
    /// Not one with this `envoy.lb` metadata.
    OmitHostMetadata(serde_json::Value),
}

/// **Source**: `RetryPolicy.RateLimitedRetryBackOff`.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimitedBackOff {
    /// Header and whether it holds a Unix time (`true`) or seconds.
    pub reset_headers: Vec<(String, bool)>,
    /// Bound (default 300 s).
    pub max_interval: Duration,
}
