//! Clusters, endpoints, load balancing, circuit breaking and outlier detection.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::{
    Address, ConfigSource, HashPolicy, Http1Options, Http2Options, HttpCommonOptions, Locality, Metadata, Mirror,
    RetryPolicy, SocketOption, TcpKeepalive, UpstreamTransport,
};

/// **Source**: `envoy.config.cluster.v3.Cluster`.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// Unique name.
    pub name: String,
    /// Stats are `cluster.<this>.*`: `alt_stat_name`, or the name with `:` turned into `_`.
    pub stat_name: String,
    /// How endpoints are found.
    pub discovery: Discovery,
    /// Endpoints as configured; host names are resolved by DNS clusters.
    pub assignment: LoadAssignment,
    /// Default 5 s.
    pub connect_timeout: Duration,
    /// Balancer.
    pub lb: LbPolicy,
    /// Settings all balancers share.
    pub lb_common: LbCommon,
    /// Circuit breakers of default priority.
    pub breakers_default: CircuitBreaker,
    /// Circuit breakers of high priority.
    pub breakers_high: CircuitBreaker,
    /// `per_host_thresholds`: connections per endpoint, default priority.
    pub per_host_max_connections: Option<u32>,
    /// Outlier detection; absent: off.
    pub outlier: Option<OutlierDetection>,
    /// Which HTTP to speak.
    pub protocol: UpstreamProtocol,
    /// HTTP/1 options.
    pub http1: Http1Options,
    /// HTTP/2 options (upstream windows as Envoy's).
    pub http2: Http2Options,
    /// Common HTTP options.
    pub common: HttpCommonOptions,
    /// `upstream_http_protocol_options.auto_sni`.
    pub auto_sni: bool,
    /// `override_auto_sni_header`.
    pub auto_sni_header: Option<String>,
    /// `auto_san_validation`.
    pub auto_san_validation: bool,
    /// `HttpProtocolOptions.retry_policy`.
    pub retry_policy: Option<RetryPolicy>,
    /// `HttpProtocolOptions.request_mirror_policies`.
    pub mirrors: Vec<Mirror>,
    /// `HttpProtocolOptions.hash_policy`.
    pub hash_policy: Vec<HashPolicy>,
    /// Default transport.
    pub transport: UpstreamTransport,
    /// `transport_socket_matches`: first whose labels an endpoint's `envoy.transport_socket_match` metadata holds.
    pub transport_matches: Vec<TransportMatch>,
    /// Bytes buffered per connection; default 1 MiB.
    pub per_connection_buffer_limit: usize,
    /// `upstream_connection_options.tcp_keepalive`.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Address connections come from.
    pub bind_address: Option<SocketAddr>,
    /// Raw socket options of upstream connections.
    pub socket_options: Vec<SocketOption>,
    /// `tcp.v3.TcpProtocolOptions.idle_timeout` of pooled TCP connections.
    pub tcp_idle_timeout: Option<Duration>,
    /// `cleanup_interval` (ORIGINAL_DST; default 5 s).
    pub cleanup_interval: Duration,
    /// `ignore_health_on_host_removal`.
    pub ignore_health_on_host_removal: bool,
    /// `close_connections_on_host_health_failure`.
    pub close_connections_on_host_health_failure: bool,
    /// `connection_pool_per_downstream_connection`.
    pub pool_per_downstream: bool,
    /// `metadata`.
    pub metadata: Metadata,
    /// `track_cluster_stats.timeout_budgets`.
    pub track_timeout_budgets: bool,
    /// `track_cluster_stats.request_response_sizes`.
    pub track_request_response_sizes: bool,
    /// `wait_for_warm_on_init` (default true).
    pub wait_for_warm_on_init: bool,
}

/// A transport chosen by endpoint metadata. **Source**: `Cluster.TransportSocketMatch`.
#[derive(Debug, Clone, PartialEq)]
pub struct TransportMatch {
    /// Name; its stat is `<name>.total_match_count`.
    pub name: String,
    /// Labels wanted; empty: any endpoint.
    pub labels: BTreeMap<String, serde_json::Value>,
    /// The transport.
    pub transport: UpstreamTransport,
}

/// How endpoints are found. **Source**: `Cluster.DiscoveryType`, `cluster_type`.
#[derive(Debug, Clone, PartialEq)]
pub enum Discovery {
    /// As configured.
    Static,
    /// Every address of every name is an endpoint.
    StrictDns(DnsOptions),
    /// One name; a connection goes to the newest first address.
    LogicalDns(DnsOptions),
    /// The downstream connection's original destination.
    OriginalDst {
        /// Take it from this request header instead; empty: from the connection.
        http_header: Option<String>,
        /// `metadata_key`: take it from this dynamic metadata instead, before all else.
        metadata: Option<MetadataKey>,
        /// `port_override`.
        port: Option<u16>,
    },
    /// From a management server or file.
    Eds {
        /// Name of the load assignment: the cluster's, if it has no other.
        service_name: String,
        /// Who delivers it.
        source: ConfigSource,
    },
}

/// A value within dynamic metadata. **Source**: `envoy.type.metadata.v3.MetadataKey`.
#[derive(Debug, Clone, PartialEq)]
pub struct MetadataKey {
    /// Namespace.
    pub namespace: String,
    /// Keys from there on, at least one.
    pub path: Vec<String>,
}

/// **Source**: `Cluster.dns_*`, `envoy.extensions.clusters.dns.v3.DnsCluster`.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsOptions {
    /// Default 5 s.
    pub refresh: Duration,
    /// Jitter added.
    pub jitter: Duration,
    /// After a failure; default: `refresh`.
    pub failure_refresh: Option<BackOffRange>,
    /// Refresh when the record's TTL ends instead.
    pub respect_ttl: bool,
    /// Families.
    pub family: DnsFamily,
    /// Name servers in place of the system's.
    pub resolvers: Vec<SocketAddr>,
}

/// A base and a maximum interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackOffRange {
    /// First.
    pub base: Duration,
    /// Ceiling.
    pub max: Duration,
}

/// **Source**: `Cluster.DnsLookupFamily`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsFamily {
    /// IPv6, or IPv4 where there is none.
    Auto,
    /// IPv4.
    V4Only,
    /// IPv6.
    V6Only,
    /// IPv4, or IPv6 where there is none.
    V4Preferred,
    /// Both.
    All,
}

/// **Source**: `envoy.config.endpoint.v3.ClusterLoadAssignment`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LoadAssignment {
    /// Groups of endpoints.
    pub localities: Vec<LocalityEndpoints>,
    /// `policy.overprovisioning_factor` in percent (default 140).
    pub overprovisioning_factor: u32,
    /// `policy.drop_overloads`: category and share.
    pub drop_overloads: Vec<(String, super::PerMillion)>,
}

/// **Source**: `envoy.config.endpoint.v3.LocalityLbEndpoints`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LocalityEndpoints {
    /// Locality.
    pub locality: Locality,
    /// Weight among localities; absent: none.
    pub weight: Option<u32>,
    /// 0 is the highest.
    pub priority: u32,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// **Source**: `envoy.config.endpoint.v3.LbEndpoint`.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Address.
    pub address: Address,
    /// More addresses of the same endpoint, for happy eyeballs.
    pub additional_addresses: Vec<Address>,
    /// `hostname`: for `auto_host_rewrite` and health checks.
    pub hostname: String,
    /// Weight, at least 1.
    pub weight: u32,
    /// Health as told.
    pub health: HealthStatus,
    /// Metadata.
    pub metadata: Metadata,
}

/// **Source**: `envoy.config.core.v3.HealthStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HealthStatus {
    /// Not said: healthy.
    #[default]
    Unknown,
    /// Healthy.
    Healthy,
    /// Unhealthy.
    Unhealthy,
    /// Going away: unhealthy.
    Draining,
    /// Unhealthy.
    Timeout,
    /// Used where no healthy one is.
    Degraded,
}

/// Balancers of this stage. **Source**: `Cluster.lb_policy` or `load_balancing_policy`.
#[derive(Debug, Clone, PartialEq)]
pub enum LbPolicy {
    /// Weighted round robin.
    RoundRobin(LocalityLb),
    /// Least request.
    LeastRequest {
        /// Choices compared (default 2).
        choice_count: u32,
        /// Look at all endpoints instead.
        full_scan: bool,
        /// With different weights: weight / (active + 1)^bias. Default 1.
        active_request_bias: f64,
        /// Locality settings.
        locality: LocalityLb,
    },
    /// Random.
    Random(LocalityLb),
    /// The address decides (ORIGINAL_DST).
    ClusterProvided,
}

impl LbPolicy {
    /// How it looks at localities.
    pub fn locality(&self) -> LocalityLb {
        match self {
            LbPolicy::RoundRobin(l) | LbPolicy::Random(l) | LbPolicy::LeastRequest { locality: l, .. } => *l,
            LbPolicy::ClusterProvided => LocalityLb::None,
        }
    }
}

/// How localities count. **Source**: `LocalityLbConfig`, `CommonLbConfig`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalityLb {
    /// All endpoints alike.
    #[default]
    None,
    /// By locality weight.
    Weighted,
}

/// **Source**: `Cluster.CommonLbConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct LbCommon {
    /// Share of healthy hosts below which all are used, in percent (default 50; 0: never).
    pub panic_threshold: f64,
    /// Health changes within this are merged (default 1 s).
    pub update_merge_window: Duration,
    /// `close_connections_on_host_set_change`.
    pub close_on_host_set_change: bool,
}

/// **Source**: `envoy.config.cluster.v3.CircuitBreakers.Thresholds`; defaults 1024, 1024, 1024, 3.
#[derive(Debug, Clone, PartialEq)]
pub struct CircuitBreaker {
    /// Connections.
    pub max_connections: u32,
    /// Requests waiting for a connection.
    pub max_pending_requests: u32,
    /// Requests under way.
    pub max_requests: u32,
    /// Retries under way.
    pub max_retries: u32,
    /// In place of `max_retries`.
    pub retry_budget: Option<RetryBudget>,
    /// Publish `remaining_*` gauges.
    pub track_remaining: bool,
    /// Connection pools.
    pub max_connection_pools: Option<u32>,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        CircuitBreaker {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
            track_remaining: false,
            max_connection_pools: None,
        }
    }
}

/// **Source**: `CircuitBreakers.Thresholds.RetryBudget`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// Retries as a percentage of active and pending requests (default 20).
    pub percent: f64,
    /// Retries always allowed (default 3).
    pub min_concurrency: u32,
}

/// **Source**: `envoy.config.cluster.v3.OutlierDetection`; Envoy's defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierDetection {
    /// 5xx in a row (default 5).
    pub consecutive_5xx: u32,
    /// 502, 503, 504 in a row (default 5).
    pub consecutive_gateway_failure: u32,
    /// Local origin failures in a row (default 5).
    pub consecutive_local_origin_failure: u32,
    /// `split_external_local_origin_errors`.
    pub split_errors: bool,
    /// Between sweeps (default 10 s).
    pub interval: Duration,
    /// Times ejections so far (default 30 s).
    pub base_ejection_time: Duration,
    /// Ceiling (default 300 s or the base, whichever is more).
    pub max_ejection_time: Duration,
    /// Random addition.
    pub max_ejection_jitter: Duration,
    /// Of hosts (default 10).
    pub max_ejection_percent: u32,
    /// At least one may be ejected in spite of the percentage.
    pub always_eject_one: bool,
    /// Percent of detections acted on (default 100).
    pub enforcing_consecutive_5xx: u32,
    /// Default 0.
    pub enforcing_consecutive_gateway_failure: u32,
    /// Default 100.
    pub enforcing_consecutive_local_origin_failure: u32,
    /// Hosts with enough requests below which success rates are not compared (default 5).
    pub success_rate_minimum_hosts: u32,
    /// Requests in an interval below which a host's rate does not count (default 100).
    pub success_rate_request_volume: u32,
    /// Standard deviations below the mean at which a host is out, in thousandths (default 1900).
    pub success_rate_stdev_factor: u32,
    /// Default 100.
    pub enforcing_success_rate: u32,
    /// Default 100.
    pub enforcing_local_origin_success_rate: u32,
    /// Failures in percent at which a host is out (default 85).
    pub failure_percentage_threshold: u32,
    /// As `success_rate_minimum_hosts` (default 5).
    pub failure_percentage_minimum_hosts: u32,
    /// As `success_rate_request_volume` (default 50).
    pub failure_percentage_request_volume: u32,
    /// Default 0.
    pub enforcing_failure_percentage: u32,
    /// Default 0.
    pub enforcing_failure_percentage_local_origin: u32,
}

/// Which HTTP an upstream gets. **Source**: `envoy.extensions.upstreams.http.v3.HttpProtocolOptions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 (prior knowledge, or ALPN over TLS).
    Http2,
    /// What the client spoke.
    Downstream,
    /// What ALPN says.
    Auto,
}
