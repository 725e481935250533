//! Faults on purpose.

use std::num::NonZeroU64;
use std::time::Duration;

use bytes::Bytes;

use super::{HeaderMatcher, RuntimeFraction};

/// Which requests are delayed, answered with an error, or have their answers slowed down. Runtime keys are resolved: where the
/// configuration names none, they are Envoy's.
///
/// **Source**: `envoy.extensions.filters.http.fault.v3.HTTPFault`.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// `delay`.
    pub delay: Option<FaultDelay>,
    /// `abort`.
    pub abort: Option<FaultAbort>,
    /// `response_rate_limit`.
    pub rate_limit: Option<FaultRateLimit>,
    /// Only requests to this cluster; empty: to any.
    pub upstream_cluster: String,
    /// Only requests with these headers.
    pub headers: Vec<HeaderMatcher>,
    /// Only requests whose `x-envoy-downstream-service-node` is one of these; empty: any.
    pub downstream_nodes: Vec<String>,
    /// Requests of one filter that have a fault at a time; `None`: no limit.
    pub max_active: Option<u32>,
    /// Runtime key of that limit (`max_active_faults_runtime`).
    pub max_active_key: String,
    /// Nothing is counted by `x-envoy-downstream-service-cluster`.
    pub disable_downstream_cluster_stats: bool,
    /// Dynamic metadata of a request that was delayed or aborted: an object, which may be empty (`filter_metadata`).
    pub metadata: serde_json::Value,
}

/// **Source**: `envoy.extensions.filters.common.fault.v3.FaultDelay`.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultDelay {
    /// `fixed_delay`; `None`: as `x-envoy-fault-delay-request` says (`header_delay`).
    pub fixed: Option<Duration>,
    /// Share of requests.
    pub share: RuntimeFraction,
    /// Runtime key of the delay, in milliseconds (`delay_duration_runtime`).
    pub duration_key: String,
}

/// **Source**: `envoy.extensions.filters.http.fault.v3.FaultAbort`.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultAbort {
    /// The answer.
    pub status: AbortStatus,
    /// Share of requests.
    pub share: RuntimeFraction,
    /// Runtime key of the HTTP status (`abort_http_status_runtime`).
    pub http_status_key: String,
    /// Runtime key of the gRPC status (`abort_grpc_status_runtime`).
    pub grpc_status_key: String,
    /// `response_body`, by default `fault filter abort`.
    pub body: Bytes,
}

/// What an aborted request is answered with. **Source**: `FaultAbort.error_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortStatus {
    /// An HTTP status, 200 to 599.
    Http(u16),
    /// A gRPC status.
    Grpc(u32),
    /// What `x-envoy-fault-abort-request` or `x-envoy-fault-abort-grpc-request` say.
    Header,
}

/// **Source**: `envoy.extensions.filters.common.fault.v3.FaultRateLimit`.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultRateLimit {
    /// KiB per second; `None`: as `x-envoy-fault-throughput-response` says (`header_limit`).
    pub fixed: Option<NonZeroU64>,
    /// Share of requests.
    pub share: RuntimeFraction,
}
