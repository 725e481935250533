//! Retry decisions: sans-io. What happened comes in, whether and when to try again comes out.

use std::time::Duration;

use http::HeaderMap;

use super::body::BodyError;
use super::route::values_match;
use crate::config::{RetryOn, RetryPolicy};

/// How an attempt failed before a response head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No host could be picked.
    NoHost,
    /// Connecting failed or took too long.
    Connect {
        /// For logs.
        reason: std::borrow::Cow<'static, str>,
        /// It was the time that ran out.
        timeout: bool,
    },
    /// A circuit breaker is open.
    Overflow,
    /// The connection ended.
    Closed,
    /// The upstream reset the stream.
    Reset(h2::Reason),
    /// The response was not understood.
    Protocol,
    /// An attempt's own time ran out.
    PerTry {
        /// By idleness.
        idle: bool,
    },
    /// The client's body failed; nobody is there to answer or retry for.
    Upload(BodyError),
}

impl Failure {
    /// As response bodies and details have it.
    pub fn reset_reason(&self) -> &'static str {
        match self {
            Failure::Connect { timeout: true, .. } => "connection timeout",
            Failure::Connect { .. } => "remote connection failure",
            Failure::Overflow => "overflow",
            Failure::Reset(h2::Reason::REFUSED_STREAM) => "remote refused stream reset",
            Failure::Reset(_) => "remote reset",
            Failure::Protocol => "protocol error",
            _ => "connection termination",
        }
    }
}

/// The retries of one request.
pub struct RetryState {
    policy: RetryPolicy,
    left: u32,
    done: u32,
    grpc: bool,
}

impl RetryState {
    /// `None` where nothing is ever retried.
    pub fn new(policy: Option<RetryPolicy>, request: &HeaderMap, grpc: bool) -> Option<Self> {
        let mut policy = policy.unwrap_or_else(|| RetryPolicy {
            on: RetryOn::default(),
            num_retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            back_off: crate::config::BackOff { base: Duration::from_millis(25), max: Duration::from_millis(250) },
            retriable_status_codes: Vec::new(),
            retriable_headers: Vec::new(),
            retriable_request_headers: Vec::new(),
            host_predicates: Vec::new(),
            host_selection_max_attempts: 1,
            rate_limited_back_off: None,
            previous_priorities: None,
        });
        let text = |name: &str| request.get(name).and_then(|v| v.to_str().ok());
        for name in ["x-envoy-retry-on", "x-envoy-retry-grpc-on"] {
            if let Some(list) = text(name) {
                policy.on = union(policy.on, RetryOn::parse(list).0);
            }
        }
        if let Some(n) = text("x-envoy-max-retries").and_then(|v| v.parse().ok()) {
            policy.num_retries = n;
        }
        if let Some(codes) = text("x-envoy-retriable-status-codes") {
            policy.retriable_status_codes.extend(codes.split(',').filter_map(|c| c.trim().parse::<u16>().ok()));
        }
        if policy.on == RetryOn::default() || policy.num_retries == 0 {
            return None;
        }
        let wanted = &policy.retriable_request_headers;
        if !wanted.is_empty()
            && !wanted.iter().any(|m| values_match(m, request.get_all(&m.name).iter().map(|v| v.as_bytes())))
        {
            return None;
        }
        Some(RetryState { left: policy.num_retries, done: 0, grpc, policy })
    }

    /// The policy in force.
    pub fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// Whether retries are left.
    pub fn exhausted(&self) -> bool {
        self.left == 0
    }

    /// Whether a response with this head would be retried, were retries left.
    pub fn wants_response(&self, status: u16, headers: &HeaderMap) -> bool {
        let on = &self.policy.on;
        if headers.contains_key("x-envoy-ratelimited") && !on.envoy_ratelimited {
            return false;
        }
        let grpc = || headers.get("grpc-status").and_then(|v| v.to_str().ok()?.parse::<u32>().ok());
        (on.five_xx && (500..600).contains(&status))
            || (on.gateway_error && (502..=504).contains(&status))
            || (on.retriable_4xx && status == 409)
            || (on.envoy_ratelimited && headers.contains_key("x-envoy-ratelimited"))
            || (on.retriable_status_codes && self.policy.retriable_status_codes.contains(&status))
            || (on.retriable_headers
                && self
                    .policy
                    .retriable_headers
                    .iter()
                    .any(|m| values_match(m, headers.get_all(&m.name).iter().map(|v| v.as_bytes()))))
            || (self.grpc || grpc().is_some())
                && match grpc() {
                    Some(1) => on.grpc_cancelled,
                    Some(4) => on.grpc_deadline_exceeded,
                    Some(8) => on.grpc_resource_exhausted,
                    Some(13) => on.grpc_internal,
                    Some(14) => on.grpc_unavailable,
                    _ => false,
                }
    }

    /// Whether a failed attempt would be retried, were retries left. `sent`: the request's head went out.
    pub fn wants_failure(&self, failure: &Failure, sent: bool) -> bool {
        let on = &self.policy.on;
        match failure {
            Failure::NoHost | Failure::Overflow | Failure::Upload(_) => false,
            _ if on.five_xx || on.gateway_error || on.reset => true,
            Failure::Connect { .. } => on.connect_failure || on.reset_before_request,
            Failure::Reset(h2::Reason::REFUSED_STREAM) => on.refused_stream,
            _ => on.reset_before_request && !sent,
        }
    }

    /// Uses up a retry and says how long to wait before it.
    pub fn next(&mut self, random: u64) -> Duration {
        self.left = self.left.saturating_sub(1);
        self.done += 1;
        let b = self.policy.back_off;
        // Full jitter over an interval that doubles: base * (2^n - 1), bounded.
        let factor = (1u64 << self.done.min(20)) - 1;
        let ceiling = (b.base.as_millis() as u64).saturating_mul(factor).clamp(1, (b.max.as_millis() as u64).max(1));
        Duration::from_millis(random % ceiling)
    }

    /// The wait that a rate-limited response asks for, if the policy looks at it.
    pub fn rate_limited(&self, headers: &HeaderMap) -> Option<Duration> {
        let r = self.policy.rate_limited_back_off.as_ref()?;
        r.reset_headers.iter().find_map(|(name, unix)| {
            let n: u64 = headers.get(name)?.to_str().ok()?.trim().parse().ok()?;
            let wait = if *unix {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
                n.checked_sub(now)?
            } else {
                n
            };
            (wait <= r.max_interval.as_secs()).then(|| Duration::from_secs(wait))
        })
    }
}

fn union(a: RetryOn, b: RetryOn) -> RetryOn {
    RetryOn {
        five_xx: a.five_xx | b.five_xx,
        gateway_error: a.gateway_error | b.gateway_error,
        reset: a.reset | b.reset,
        reset_before_request: a.reset_before_request | b.reset_before_request,
        connect_failure: a.connect_failure | b.connect_failure,
        envoy_ratelimited: a.envoy_ratelimited | b.envoy_ratelimited,
        retriable_4xx: a.retriable_4xx | b.retriable_4xx,
        refused_stream: a.refused_stream | b.refused_stream,
        retriable_status_codes: a.retriable_status_codes | b.retriable_status_codes,
        retriable_headers: a.retriable_headers | b.retriable_headers,
        http3_post_connect_failure: a.http3_post_connect_failure | b.http3_post_connect_failure,
        grpc_cancelled: a.grpc_cancelled | b.grpc_cancelled,
        grpc_deadline_exceeded: a.grpc_deadline_exceeded | b.grpc_deadline_exceeded,
        grpc_internal: a.grpc_internal | b.grpc_internal,
        grpc_resource_exhausted: a.grpc_resource_exhausted | b.grpc_resource_exhausted,
        grpc_unavailable: a.grpc_unavailable | b.grpc_unavailable,
    }
}
