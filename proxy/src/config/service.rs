//! Services that filters ask: gRPC and HTTP servers behind this proxy's own clusters.

use std::time::Duration;

use super::{HeaderMutations, RetryPolicy};

/// A gRPC service. **Source**: `envoy.config.core.v3.GrpcService` with `envoy_grpc`.
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcService {
    /// `envoy_grpc.cluster_name`. There need not be such a cluster: then calls fail.
    pub cluster: String,
    /// `envoy_grpc.authority`; absent: the cluster's name.
    pub authority: Option<String>,
    /// `timeout` of a call; absent: none.
    pub timeout: Option<Duration>,
    /// `initial_metadata`: header fields of a call, operators allowed; of one name the last counts.
    pub metadata: HeaderMutations,
    /// `retry_policy`, of the service or of `envoy_grpc`.
    pub retry: Option<RetryPolicy>,
    /// `envoy_grpc.max_receive_message_length` in bytes (default 4 MiB, where Envoy has no limit).
    pub max_message: usize,
    /// Calls carry `x-envoy-internal` and `x-forwarded-for` (`envoy_grpc.skip_envoy_headers` is off).
    pub envoy_headers: bool,
}

/// A server by URI. **Source**: `envoy.config.core.v3.HttpUri`.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpUri {
    /// `uri`: where a request goes, as the server knows it.
    pub uri: String,
    /// `cluster`: who answers it.
    pub cluster: String,
    /// `timeout` of a request; absent: none.
    pub timeout: Option<Duration>,
}
