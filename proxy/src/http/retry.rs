//! Retry decisions: sans-io. What happened comes in, whether and when to try again comes out.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use http::HeaderName;

use super::body::BodyError;
use super::route::values_match;
use crate::config::{RetryOn, RetryPolicy};
use crate::http::HeaderMap;
use crate::upstream::ConnectFault;

/// How an attempt failed before a response head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No host could be picked.
    NoHost,
    /// Connecting failed or took too long.
    Connect {
        /// For logs.
        reason: std::borrow::Cow<'static, str>,
        /// How.
        fault: ConnectFault,
    },
    /// A circuit breaker is open.
    Overflow,
    /// The connection ended.
    Closed,
    /// The upstream reset the stream.
    Reset(crate::http::h2::Reason),
    /// The response was not understood.
    Protocol,
    /// An attempt's own time ran out.
    PerTry {
        /// By idleness.
        idle: bool,
    },
    /// The cluster's `max_stream_duration` was reached.
    MaxDuration,
    /// The client's body failed; nobody is there to answer or retry for.
    Upload(BodyError),
}

impl Failure {
    /// As response bodies and details have it.
    pub fn reset_reason(&self) -> &'static str {
        match self {
            Failure::Connect { fault: ConnectFault::Timeout, .. } => "connection timeout",
            Failure::Connect { fault: ConnectFault::Local, .. } => "local connection failure",
            Failure::Connect { fault: ConnectFault::Remote, .. } => "remote connection failure",
            Failure::Overflow => "overflow",
            Failure::Reset(crate::http::h2::Reason::REFUSED_STREAM) => "remote refused stream reset",
            Failure::Reset(_) => "remote reset",
            Failure::Protocol => "protocol error",
            _ => "connection termination",
        }
    }
}

/// The policy of requests that ask for retries by themselves. **Source**: the defaults of `RetryPolicy`.
static BY_HEADERS: LazyLock<Arc<RetryPolicy>> = LazyLock::new(|| {
    Arc::new(RetryPolicy {
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
    })
});

/// The retries of one request.
pub struct RetryState {
    policy: Arc<RetryPolicy>,
    /// The policy's conditions and the request's own.
    on: RetryOn,
    /// `x-envoy-retriable-status-codes`.
    codes: Vec<u16>,
    /// `x-envoy-retriable-header-names`.
    names: Vec<HeaderName>,
    left: u32,
    /// The next back-off is random below this.
    ceiling: Duration,
    grpc: bool,
}

impl RetryState {
    /// `None` where nothing is ever retried. `steered`: the request has headers that say something about it.
    pub fn new(policy: Option<&Arc<RetryPolicy>>, request: &HeaderMap, steered: bool, grpc: bool) -> Option<Self> {
        let text = |name: &str| if steered { request.get(name)?.to_str().ok() } else { None };
        if policy.is_none() && !steered {
            return None;
        }
        let mut on = policy.map(|p| p.on).unwrap_or_default();
        for name in ["x-envoy-retry-on", "x-envoy-retry-grpc-on"] {
            if let Some(list) = text(name) {
                on = union(on, RetryOn::parse(list).0);
            }
        }
        if on == RetryOn::default() {
            return None;
        }
        let policy = policy.unwrap_or(&BY_HEADERS);
        let wanted = &policy.retriable_request_headers;
        if !wanted.is_empty() && !wanted.iter().any(|m| values_match(m, request.get_all(&m.name).map(|v| v.as_bytes())))
        {
            return None;
        }
        let list = |name: &str| text(name).unwrap_or_default().split(',').map(str::trim).filter(|w| !w.is_empty());
        let max_retries = text("x-envoy-max-retries").and_then(|v| v.parse().ok());
        Some(RetryState {
            on,
            codes: list("x-envoy-retriable-status-codes").filter_map(|c| c.parse().ok()).collect(),
            names: list("x-envoy-retriable-header-names").filter_map(|n| n.parse().ok()).collect(),
            left: max_retries.unwrap_or(policy.num_retries),
            ceiling: policy.back_off.base,
            grpc,
            policy: policy.clone(),
        })
    }

    /// The policy in force.
    pub fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// Whether later attempts depend on the hosts of earlier ones.
    pub fn remembers_hosts(&self) -> bool {
        !self.policy.host_predicates.is_empty() || self.policy.previous_priorities.is_some()
    }

    /// Uses up a retry; false where none is left.
    pub fn take(&mut self) -> bool {
        let any = self.left > 0;
        self.left = self.left.saturating_sub(1);
        any
    }

    /// Whether a response with this head would be retried, were retries left.
    pub fn wants_response(&self, status: u16, headers: &HeaderMap) -> bool {
        let on = &self.on;
        if headers.contains_key("x-envoy-ratelimited") {
            return on.envoy_ratelimited;
        }
        let grpc = || headers.get("grpc-status").and_then(|v| v.to_str().ok()?.parse::<u32>().ok());
        (on.five_xx && (500..600).contains(&status))
            || (on.gateway_error && (502..=504).contains(&status))
            || (on.retriable_4xx && status == 409)
            || (on.retriable_status_codes
                && (self.policy.retriable_status_codes.contains(&status) || self.codes.contains(&status)))
            || (on.retriable_headers && self.retriable_header(headers))
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

    fn retriable_header(&self, headers: &HeaderMap) -> bool {
        let values = |m: &crate::config::HeaderMatcher| values_match(m, headers.get_all(&m.name).map(|v| v.as_bytes()));
        self.policy.retriable_headers.iter().any(values) || self.names.iter().any(|n| headers.contains_key(n))
    }

    /// Whether a failed attempt would be retried, were retries left. `sent`: the request's head went out.
    pub fn wants_failure(&self, failure: &Failure, sent: bool) -> bool {
        let on = &self.on;
        match failure {
            Failure::NoHost | Failure::Overflow | Failure::Upload(_) => false,
            _ if on.five_xx || on.gateway_error || on.reset => true,
            Failure::Connect { .. } => on.connect_failure || on.reset_before_request,
            Failure::Reset(crate::http::h2::Reason::REFUSED_STREAM) => on.refused_stream,
            _ => on.reset_before_request && !sent,
        }
    }

    /// How long to wait before the next attempt: anything below a ceiling that doubles each time.
    pub fn back_off(&mut self, random: u64) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = ceiling.saturating_mul(2).min(self.policy.back_off.max);
        below(ceiling, random)
    }

    /// The wait that a rate-limited response asks for, if the policy looks at it: that long, and up to half of it longer, so
    /// that the clients that were turned away do not come back together.
    pub fn rate_limited(&self, headers: &HeaderMap, now: SystemTime, random: u64) -> Option<Duration> {
        let r = self.policy.rate_limited_back_off.as_ref()?;
        let wait = r.reset_headers.iter().find_map(|(name, unix)| {
            let n: u64 = headers.get(name)?.to_str().ok()?.trim().parse().ok()?;
            let wait =
                if *unix { n.checked_sub(now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())? } else { n };
            Some(Duration::from_secs(wait)).filter(|w| *w <= r.max_interval)
        })?;
        (!wait.is_zero()).then(|| wait + below(wait / 2, random))
    }
}

fn below(ceiling: Duration, random: u64) -> Duration {
    let ms = u64::try_from(ceiling.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random % ms.max(1))
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

#[cfg(test)]
mod tests;
