//! HTTP filters, and what routes say of them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{
    AccessLog, AuthzPerRoute, ConfigSource, Cors, ExtAuthz, Fault, GlobalRateLimit, HeaderMatcher, HeaderMutations,
    HttpRbac, IstioStats, JwtAuthn, JwtPerRoute, LimitPerRoute, PeerMetadata, PerMillion,
};

/// **Source**: `envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter`.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpFilter {
    /// Name; the key of per-route overrides.
    pub name: String,
    /// Off unless a route turns it on.
    pub disabled: bool,
    /// Which one.
    pub kind: HttpFilterKind,
}

/// The HTTP filters.
#[derive(Debug, Clone, PartialEq)]
pub enum HttpFilterKind {
    /// `router.v3.Router`. Last.
    Router(RouterFilter),
    /// `cors.v3.Cors`.
    Cors,
    /// `header_mutation.v3.HeaderMutation`.
    HeaderMutation(HeaderMutationFilter),
    /// `health_check.v3.HealthCheck`.
    HealthCheck(HealthCheckFilter),
    /// `buffer.v3.Buffer`: `max_request_bytes`.
    Buffer(u64),
    /// `fault.v3.HTTPFault`.
    Fault(Box<Fault>),
    /// `rbac.v3.RBAC`.
    Rbac(Box<HttpRbac>),
    /// `jwt_authn.v3.JwtAuthentication`.
    Jwt(Box<JwtAuthn>),
    /// `ext_authz.v3.ExtAuthz`.
    ExtAuthz(Box<ExtAuthz>),
    /// `ratelimit.v3.RateLimit`.
    RateLimit(Box<GlobalRateLimit>),
    /// `grpc_web.v3.GrpcWeb`.
    GrpcWeb,
    /// `grpc_stats.v3.FilterConfig`.
    GrpcStats(GrpcStatsFilter),
    /// `stats.PluginConfig`: Istio's.
    IstioStats(IstioStats),
    /// `io.istio.http.peer_metadata.Config`: Istio's.
    PeerMetadata(PeerMetadata),
    /// `on_demand.v3.OnDemand`: who delivers clusters that are not there; absent: nobody.
    OnDemand(Option<OnDemandClusters>),
    /// One of the others, by discovery.
    Discovered(Box<ExtensionDiscovery>),
}

/// Clusters by discovery when a request needs them. **Source**: `envoy.extensions.filters.http.on_demand.v3.OnDemandCds`,
/// `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.OnDemand`.
#[derive(Debug, Clone, PartialEq)]
pub struct OnDemandClusters {
    /// Who delivers them; delta only.
    pub source: ConfigSource,
    /// A request waits for so long (default 5 s), a connection of a TCP proxy as well (default 60 s).
    pub timeout: Duration,
}

/// Where a filter's configuration comes from. **Source**: `envoy.config.core.v3.ExtensionConfigSource`.
#[derive(Debug, Clone, PartialEq)]
pub struct ExtensionDiscovery<K = HttpFilterKind> {
    /// Who delivers it.
    pub source: ConfigSource,
    /// In force until it comes, and when it is taken away.
    pub default: Option<K>,
    /// Its listener waits for it (`apply_default_config_without_warming` is off).
    pub warm: bool,
    /// Names of the messages it may be (`type_urls`).
    pub types: Vec<String>,
    /// It is the last of its chain, which only what ends one may be.
    pub last: bool,
}

/// A filter's configuration by discovery. **Source**: `envoy.config.core.v3.TypedExtensionConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct Extension<K = HttpFilterKind> {
    /// The full name of its message.
    pub type_name: String,
    /// The filter.
    pub kind: K,
}

/// **Source**: `envoy.extensions.filters.http.router.v3.Router`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RouterFilter {
    /// No `x-envoy-*` headers are added.
    pub suppress_envoy_headers: bool,
    /// `x-envoy-*` request headers that must be well-formed, else 400.
    pub strict_check_headers: Vec<String>,
    /// Take `x-envoy-expected-rq-timeout-ms` as the timeout.
    pub respect_expected_rq_timeout: bool,
    /// One line per upstream attempt.
    pub upstream_log: Vec<AccessLog>,
}

/// **Source**: `envoy.extensions.filters.http.header_mutation.v3.HeaderMutation`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeaderMutationFilter {
    /// Request headers.
    pub request: HeaderMutations,
    /// Response headers.
    pub response: HeaderMutations,
    /// Request trailers.
    pub request_trailers: HeaderMutations,
    /// Response trailers.
    pub response_trailers: HeaderMutations,
    /// Query parameters.
    pub query: Vec<QueryMutation>,
    /// `most_specific_header_mutations_wins`.
    pub most_specific_wins: bool,
}

/// **Source**: `envoy.config.core.v3.KeyValueMutation`.
#[derive(Debug, Clone, PartialEq)]
pub enum QueryMutation {
    /// Add, or set, by the same actions as headers.
    Append {
        /// Name.
        key: String,
        /// Value, operators allowed.
        value: String,
        /// What where it is there already.
        action: super::AppendAction,
    },
    /// Remove.
    Remove(String),
}

/// **Source**: `envoy.extensions.filters.http.health_check.v3.HealthCheck`.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheckFilter {
    /// Checks go to the upstream.
    pub pass_through: bool,
    /// With `pass_through`: an answer is reused for so long.
    pub cache_time: Option<Duration>,
    /// Cluster to the share of healthy endpoints wanted.
    pub cluster_min_healthy: BTreeMap<String, PerMillion>,
    /// Requests that are health checks.
    pub headers: Vec<HeaderMatcher>,
}

/// **Source**: `envoy.extensions.filters.http.grpc_stats.v3.FilterConfig`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GrpcStatsFilter {
    /// A stat for every method (unbounded: callers choose the names).
    pub all_methods: bool,
    /// Service to its methods.
    pub allowlist: Vec<(String, Vec<String>)>,
    /// Request and response message counts as filter state.
    pub emit_filter_state: bool,
    /// `enable_upstream_stats`.
    pub upstream_stats: bool,
    /// `replace_dots_in_grpc_service_name`.
    pub replace_dots: bool,
}

/// A per-route override of one filter. **Source**: `typed_per_filter_config`, `envoy.config.route.v3.FilterConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct PerFilter {
    /// The filter is off (`Some(true)`) or on (`Some(false)`) for these routes; `None`: as the chain has it.
    pub disabled: Option<bool>,
    /// Its own settings here.
    pub config: Option<PerFilterConfig>,
}

/// Settings of a filter for some routes.
#[derive(Debug, Clone, PartialEq)]
pub enum PerFilterConfig {
    /// `cors.v3.CorsPolicy`.
    Cors(Box<Cors>),
    /// `header_mutation.v3.HeaderMutationPerRoute`.
    HeaderMutation(Box<HeaderMutationFilter>),
    /// `buffer.v3.BufferPerRoute`: the new limit.
    Buffer(u64),
    /// `on_demand.v3.PerRouteConfig`: who delivers clusters instead; absent: nobody.
    OnDemand(Option<Box<OnDemandClusters>>),
    /// `fault.v3.HTTPFault`.
    Fault(Box<Fault>),
    /// `rbac.v3.RBACPerRoute`.
    Rbac(Box<HttpRbac>),
    /// `jwt_authn.v3.PerRouteConfig`.
    Jwt(JwtPerRoute),
    /// `ext_authz.v3.ExtAuthzPerRoute`.
    ExtAuthz(Box<AuthzPerRoute>),
    /// `ratelimit.v3.RateLimitPerRoute`.
    RateLimit(Box<LimitPerRoute>),
}
