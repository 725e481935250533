//! Global rate limits: a service counts, requests and connections ask it.

use super::{Cidr, GrpcService, HeaderMatcher, HeaderMutations, QueryMatcher, RuntimeFraction};

/// **Source**: `envoy.extensions.filters.http.ratelimit.v3.RateLimit`.
#[derive(Debug, Clone, PartialEq)]
pub struct GlobalRateLimit {
    /// `domain`: whose limits.
    pub domain: String,
    /// `stage`: rules of routes count where theirs is the same.
    pub stage: u32,
    /// `request_type`: the requests that are counted.
    pub requests: LimitedRequests,
    /// `rate_limit_service`, with the filter's `timeout` (default 20 ms).
    pub service: Box<GrpcService>,
    /// `failure_mode_deny`: without an answer a request is refused.
    pub failure_mode_deny: bool,
    /// `failure_mode_deny_percent`: it is for this share; absent: as `failure_mode_deny` says.
    pub deny_share: Option<RuntimeFraction>,
    /// `rate_limited_as_resource_exhausted`: gRPC's status of a refusal is `RESOURCE_EXHAUSTED` in place of `UNAVAILABLE`.
    pub as_resource_exhausted: bool,
    /// `enable_x_ratelimit_headers` is `DRAFT_VERSION_03`.
    pub limit_headers: bool,
    /// `enable_retry_after_header`.
    pub retry_after: bool,
    /// `disable_x_envoy_ratelimited_header` is off: refusals carry `x-envoy-ratelimited`.
    pub envoy_header: bool,
    /// `rate_limited_status` (default 429).
    pub limited_status: u16,
    /// `status_on_error` (default 500).
    pub status_on_error: u16,
    /// `response_headers_to_add`: fields of a refusal.
    pub headers: HeaderMutations,
    /// `stat_prefix`: stats are `ratelimit.<stat_prefix>.*` of the route's cluster.
    pub stat_prefix: String,
    /// `filter_enabled`; absent: what the runtime key `ratelimit.http_filter_enabled` says (default: all).
    pub enabled: Option<RuntimeFraction>,
    /// `filter_enforced`; absent: what the runtime key `ratelimit.http_filter_enforcing` says (default: all).
    pub enforced: Option<RuntimeFraction>,
    /// `rate_limits`; empty: those of routes and virtual hosts.
    pub rules: Vec<LimitRule>,
    /// `metadata_namespace` (default `envoy.filters.http.ratelimit`).
    pub metadata_namespace: String,
}

/// Requests that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitedRequests {
    /// All.
    Both,
    /// Of internal clients.
    Internal,
    /// Of others.
    External,
}

/// **Source**: `envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute`.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitPerRoute {
    /// `vh_rate_limits`.
    pub of_host: HostLimits,
    /// `rate_limits`; empty: those of the filter, or of routes and virtual hosts.
    pub rules: Vec<LimitRule>,
    /// `domain`; empty: the filter's.
    pub domain: String,
}

/// When the rules of a virtual host count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostLimits {
    /// Where the route has none.
    #[default]
    Override,
    /// Always.
    Include,
    /// Never.
    Ignore,
}

/// What makes a descriptor. **Source**: `envoy.config.route.v3.RateLimit`.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitRule {
    /// `stage`.
    pub stage: u32,
    /// `disable_key`: switched off where the runtime key `ratelimit.<disable_key>.http_filter_enabled` is 0; empty: never.
    pub disable_key: String,
    /// `actions`: an entry each, in order. One that finds nothing makes the rule count for nothing.
    pub actions: Vec<LimitAction>,
    /// `limit`: a limit that takes the place of the service's own.
    pub limit: Option<LimitOverride>,
    /// `hits_addend`; absent: the service's default of one hit.
    pub hits: Option<Hits>,
}

/// What makes an entry of a descriptor. **Source**: `envoy.config.route.v3.RateLimit.Action`.
#[derive(Debug, Clone, PartialEq)]
pub enum LimitAction {
    /// `source_cluster`: the cluster this proxy belongs to.
    SourceCluster,
    /// `destination_cluster`: the cluster the route leads to.
    DestinationCluster,
    /// `request_headers`.
    RequestHeader {
        /// Header name, in lower case.
        name: String,
        /// Key.
        key: String,
        /// Without the header there is no entry, rather than no descriptor.
        skip: bool,
    },
    /// `query_parameters`.
    QueryParameter {
        /// Parameter.
        name: String,
        /// Key.
        key: String,
        /// Without the parameter there is no entry, rather than no descriptor.
        skip: bool,
    },
    /// `remote_address`: the client's.
    RemoteAddress,
    /// `masked_remote_address`: its first bits, of IPv4 and IPv6.
    MaskedRemoteAddress(u8, u8),
    /// `generic_key`: key and value.
    Generic(String, String),
    /// `header_value_match`.
    HeaderMatch {
        /// Key.
        key: String,
        /// Value.
        value: String,
        /// What all headers must match.
        headers: Vec<HeaderMatcher>,
        /// They must, or they must not (`expect_match`).
        expect: bool,
    },
    /// `query_parameter_value_match`.
    QueryMatch {
        /// Key.
        key: String,
        /// Value.
        value: String,
        /// What all parameters must match.
        params: Vec<QueryMatcher>,
        /// They must, or they must not (`expect_match`).
        expect: bool,
    },
    /// `remote_address_match`.
    AddressMatch {
        /// Key.
        key: String,
        /// Value, operators allowed.
        value: String,
        /// Where the value comes out empty; empty: there is no descriptor then.
        default: String,
        /// Any of these.
        ranges: Vec<Cidr>,
        /// None of them.
        invert: bool,
    },
    /// `metadata` or `dynamic_metadata`.
    Metadata {
        /// Key.
        key: String,
        /// Whose metadata.
        source: LimitMetadata,
        /// Where in the metadata.
        path: MetadataPath,
        /// Where there is no text; empty: nothing.
        default: String,
        /// Without text there is no entry, rather than no descriptor.
        skip: bool,
    },
}

/// A place in metadata. **Source**: `envoy.type.metadata.v3.MetadataKey`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataPath {
    /// The namespace.
    pub namespace: String,
    /// Keys below it.
    pub keys: Vec<String>,
}

/// Whose metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitMetadata {
    /// The request's.
    Dynamic,
    /// The route's.
    Route,
}

/// **Source**: `envoy.config.route.v3.RateLimit.Override`.
#[derive(Debug, Clone, PartialEq)]
pub enum LimitOverride {
    /// `dynamic_metadata`: an object with `requests_per_unit` and `unit`.
    Dynamic(MetadataPath),
    /// `rate_limit`: requests per unit, and Envoy's number of the unit.
    Fixed(u32, i32),
}

/// **Source**: `envoy.config.route.v3.RateLimit.HitsAddend`.
#[derive(Debug, Clone, PartialEq)]
pub struct Hits {
    /// How many.
    pub number: HitsNumber,
    /// They are given back.
    pub negative: bool,
}

/// A number of hits.
#[derive(Debug, Clone, PartialEq)]
pub enum HitsNumber {
    /// `number`.
    Fixed(u64),
    /// `format`: an operator.
    Format(String),
}

/// **Source**: `envoy.extensions.filters.network.ratelimit.v3.RateLimit`.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkRateLimit {
    /// Stats are `ratelimit.<stat_prefix>.*`.
    pub stat_prefix: String,
    /// `domain`.
    pub domain: String,
    /// `descriptors`: keys and values, operators allowed in values.
    pub descriptors: Vec<Vec<(String, String)>>,
    /// `rate_limit_service`, with the filter's `timeout` (default 20 ms).
    pub service: Box<GrpcService>,
    /// `failure_mode_deny`: without an answer a connection is refused.
    pub failure_mode_deny: bool,
}
