//! Route tables: virtual hosts, routes, and what they do to a request.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{
    ConfigSource, DataSource, HeaderMatcher, LogFormat, Metadata, Pattern, PerFilter, RetryPolicy, RuntimeFraction,
    StringMatcher,
};

/// **Source**: `envoy.config.route.v3.RouteConfiguration`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RouteConfig {
    /// Name.
    pub name: String,
    /// Hosts.
    pub virtual_hosts: Vec<VirtualHost>,
    /// `vhds`: who delivers further hosts; delta only.
    pub vhds: Option<ConfigSource>,
    /// Removed from external requests.
    pub internal_only_headers: Vec<String>,
    /// Header mutations of this level.
    pub headers: HeaderMutationLevel,
    /// `most_specific_header_mutations_wins`.
    pub most_specific_header_mutations_wins: bool,
    /// `ignore_port_in_host_matching`.
    pub ignore_port_in_host_matching: bool,
    /// `ignore_path_parameters_in_path_matching`.
    pub ignore_path_parameters: bool,
    /// `vhost_header`: taken instead of the host; empty: the host.
    pub vhost_header: String,
    /// `validate_clusters`.
    pub validate_clusters: bool,
    /// `max_direct_response_body_size_bytes` (default 4096).
    pub max_direct_response_body: usize,
    /// Per-filter overrides.
    pub per_filter: BTreeMap<String, PerFilter>,
    /// `request_mirror_policies`.
    pub mirrors: Vec<Mirror>,
}

/// Request and response mutations of one level.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeaderMutationLevel {
    /// Request.
    pub request: HeaderMutations,
    /// Response.
    pub response: HeaderMutations,
}

/// In order of application. **Source**: `*_headers_to_add`, `*_headers_to_remove`, `envoy.config.common.mutation_rules.v3.HeaderMutation`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeaderMutations(pub Vec<HeaderMutation>);

/// One mutation.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderMutation {
    /// Remove by name (lower case).
    Remove(String),
    /// Remove what matches (`remove_on_match`).
    RemoveOnMatch(StringMatcher),
    /// Add or set.
    Append {
        /// Name.
        name: String,
        /// Value, `%OPERATORS%` allowed.
        value: String,
        /// What where it is there already.
        action: AppendAction,
        /// `keep_empty_value`: an empty result is still added.
        keep_empty: bool,
    },
}

/// **Source**: `envoy.config.core.v3.HeaderValueOption.HeaderAppendAction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendAction {
    /// One more value.
    AppendIfExistsOrAdd,
    /// Only where there is none.
    AddIfAbsent,
    /// In place of what is there, or new.
    OverwriteIfExistsOrAdd,
    /// Only in place of what is there.
    OverwriteIfExists,
}

/// **Source**: `envoy.config.route.v3.VirtualHost`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VirtualHost {
    /// Name.
    pub name: String,
    /// `a.example.com`, `*.example.com`, `a.*`, `*`; in lower case.
    pub domains: Vec<String>,
    /// In order; the first match wins.
    pub routes: Vec<Route>,
    /// `require_tls`.
    pub require_tls: RequireTls,
    /// Header mutations of this level.
    pub headers: HeaderMutationLevel,
    /// Taken where the route has none.
    pub retry_policy: Option<RetryPolicy>,
    /// `include_request_attempt_count`.
    pub include_request_attempt_count: bool,
    /// `include_attempt_count_in_response`.
    pub include_attempt_count_in_response: bool,
    /// `include_is_timeout_retry_header`.
    pub include_is_timeout_retry_header: bool,
    /// Replay buffer in bytes (`request_body_buffer_limit`, `per_request_buffer_limit_bytes`).
    pub request_body_buffer_limit: Option<u64>,
    /// The deprecated `cors` field.
    pub cors: Option<Cors>,
    /// Per-filter overrides.
    pub per_filter: BTreeMap<String, PerFilter>,
    /// Mirrors where the route has none.
    pub mirrors: Vec<Mirror>,
    /// `rate_limits`, where the route has none, or both count.
    pub rate_limits: Vec<super::LimitRule>,
    /// `virtual_clusters`: name and the headers that make it.
    pub virtual_clusters: Vec<(String, Vec<HeaderMatcher>)>,
}

/// **Source**: `VirtualHost.TlsRequirementType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequireTls {
    /// No.
    #[default]
    None,
    /// External requests.
    ExternalOnly,
    /// All.
    All,
}

/// **Source**: `envoy.config.route.v3.Route`.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Name; may be empty.
    pub name: String,
    /// Which requests.
    pub matches: RouteMatch,
    /// What happens.
    pub action: RouteKind,
    /// `metadata`.
    pub metadata: Metadata,
    /// Header mutations of this level.
    pub headers: HeaderMutationLevel,
    /// Per-filter overrides.
    pub per_filter: BTreeMap<String, PerFilter>,
    /// Replay buffer in bytes.
    pub request_body_buffer_limit: Option<u64>,
    /// Stats are `vhost.<vhost>.route.<stat_prefix>.*`; empty: none.
    pub stat_prefix: String,
}

/// **Source**: `envoy.config.route.v3.RouteMatch`. All of it must match.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteMatch {
    /// Path.
    pub path: PathMatch,
    /// `case_sensitive` (default true).
    pub case_sensitive: bool,
    /// Share of requests.
    pub runtime_fraction: Option<RuntimeFraction>,
    /// Headers.
    pub headers: Vec<HeaderMatcher>,
    /// Query parameters.
    pub query: Vec<QueryMatcher>,
    /// `cookies`.
    pub cookies: Vec<CookieMatcher>,
    /// Only gRPC requests.
    pub grpc: bool,
    /// `tls_context`.
    pub tls: Option<TlsMatch>,
    /// `dynamic_metadata`.
    pub dynamic_metadata: Vec<MetadataMatcher>,
}

/// How a path is matched; the query string never counts.
#[derive(Debug, Clone, PartialEq)]
pub enum PathMatch {
    /// `prefix`.
    Prefix(String),
    /// `path`.
    Exact(String),
    /// `safe_regex`, the whole path.
    Regex(Pattern),
    /// `path_separated_prefix`: the prefix itself or what follows it after `/`.
    SeparatedPrefix(String),
    /// `path_match_policy` with a URI template, as an expression with named groups.
    Template {
        /// Template as configured.
        template: String,
        /// Compiled; variables are named groups.
        pattern: Pattern,
    },
    /// `connect_matcher`: CONNECT requests.
    Connect,
}

/// **Source**: `envoy.config.route.v3.QueryParameterMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryMatcher {
    /// Name.
    pub name: String,
    /// Value wanted; absent: present at all.
    pub value: Option<StringMatcher>,
    /// `present_match: false`: must be absent.
    pub absent: bool,
}

/// **Source**: `envoy.config.route.v3.CookieMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct CookieMatcher {
    /// Name.
    pub name: String,
    /// Value.
    pub value: StringMatcher,
    /// Turned round.
    pub invert: bool,
}

/// **Source**: `RouteMatch.TlsContextMatchOptions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsMatch {
    /// A client certificate was (or was not) presented.
    pub presented: Option<bool>,
    /// It was (or was not) validated.
    pub validated: Option<bool>,
}

/// **Source**: `envoy.type.matcher.v3.MetadataMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct MetadataMatcher {
    /// Filter name (namespace).
    pub filter: String,
    /// Keys downwards.
    pub path: Vec<String>,
    /// What the value must be.
    pub value: ValueMatcher,
    /// Turned round.
    pub invert: bool,
}

/// **Source**: `envoy.type.matcher.v3.ValueMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueMatcher {
    /// Null.
    Null,
    /// A number within a range (start inclusive, end exclusive), or exactly one (`start == end`).
    Double(f64, f64),
    /// A string.
    String(StringMatcher),
    /// A boolean.
    Bool(bool),
    /// There at all.
    Present(bool),
    /// A list one of whose elements matches.
    ListAnyOf(Box<ValueMatcher>),
    /// Any of these.
    Or(Vec<ValueMatcher>),
}

/// What a route does.
#[derive(Debug, Clone, PartialEq)]
pub enum RouteKind {
    /// Forwards.
    Forward(Box<RouteAction>),
    /// Redirects.
    Redirect(Box<RedirectAction>),
    /// Answers by itself.
    Direct(DirectResponse),
    /// `non_forwarding_action`: matched, never forwarded.
    NonForwarding,
}

/// **Source**: `envoy.config.route.v3.DirectResponseAction`.
#[derive(Debug, Clone, PartialEq)]
pub struct DirectResponse {
    /// Status, 200 to 599.
    pub status: u16,
    /// Body; absent: none.
    pub body: Option<DataSource>,
    /// `body_format`.
    pub body_format: Option<LogFormat>,
}

/// **Source**: `envoy.config.route.v3.RedirectAction`.
#[derive(Debug, Clone, PartialEq)]
pub struct RedirectAction {
    /// `https_redirect`.
    pub https: bool,
    /// `scheme_redirect`; empty: none.
    pub scheme: String,
    /// `host_redirect`; empty: none.
    pub host: String,
    /// `port_redirect`; 0: none.
    pub port: u16,
    /// Path.
    pub path: RedirectPath,
    /// 301, 302, 303, 307, 308.
    pub status: u16,
    /// `strip_query`.
    pub strip_query: bool,
}

/// What becomes of the path of a redirect.
#[derive(Debug, Clone, PartialEq)]
pub enum RedirectPath {
    /// Kept.
    Keep,
    /// Replaced.
    Replace(String),
    /// The matched prefix is replaced.
    Prefix(String),
    /// Replaced by an expression.
    Regex(Pattern, String),
}

/// **Source**: `envoy.config.route.v3.RouteAction`.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteAction {
    /// Where to.
    pub cluster: ClusterSpecifier,
    /// Status where the cluster is not there: 503 (default), 404 or 500.
    pub cluster_not_found_status: u16,
    /// Endpoint metadata wanted (subset balancing).
    pub metadata_match: Option<Metadata>,
    /// Path rewrite.
    pub path_rewrite: PathRewrite,
    /// Host rewrite.
    pub host_rewrite: HostRewrite,
    /// `append_x_forwarded_host`.
    pub append_x_forwarded_host: bool,
    /// Whole time for the upstream; default 15 s, `None`: no limit.
    pub timeout: Option<Duration>,
    /// Stream idle timeout of this route; outer `None`: the connection manager's; inner `None`: off.
    pub idle_timeout: Option<Option<Duration>>,
    /// `flush_timeout`.
    pub flush_timeout: Option<Option<Duration>>,
    /// `max_stream_duration.max_stream_duration`; inner `None`: no limit.
    pub max_stream_duration: Option<Option<Duration>>,
    /// `max_stream_duration` is there, even if empty: `timeout` and `max_grpc_timeout` are out of force.
    pub stream_timeouts: bool,
    /// `max_stream_duration.grpc_timeout_header_max`; `Some(None)`: `grpc-timeout` honoured without a bound.
    pub grpc_timeout_header_max: Option<Option<Duration>>,
    /// `max_stream_duration.grpc_timeout_header_offset`.
    pub grpc_timeout_header_offset: Option<Duration>,
    /// The deprecated `max_grpc_timeout`; `Some(None)`: no bound.
    pub max_grpc_timeout: Option<Option<Duration>>,
    /// The deprecated `grpc_timeout_offset`.
    pub grpc_timeout_offset: Option<Duration>,
    /// Retry policy.
    pub retry_policy: Option<RetryPolicy>,
    /// Mirrors.
    pub mirrors: Vec<Mirror>,
    /// Hash policies, in order.
    pub hash_policy: Vec<HashPolicy>,
    /// `cors` (deprecated field).
    pub cors: Option<Cors>,
    /// High priority (circuit breakers).
    pub high_priority: bool,
    /// `upgrade_configs`: type (lower case) to enabled and, for CONNECT, whether it is terminated here.
    pub upgrades: Vec<RouteUpgrade>,
    /// `rate_limits`-free seam: whether vhost rate limits apply is not used here.
    pub include_vh_rate_limits: bool,
    /// `rate_limits`.
    pub rate_limits: Vec<super::LimitRule>,
}

/// **Source**: `RouteAction.UpgradeConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteUpgrade {
    /// Type.
    pub upgrade_type: String,
    /// Allowed.
    pub enabled: bool,
    /// `connect_config`: the tunnel's payload goes to the upstream as plain TCP.
    pub terminate_connect: bool,
    /// `connect_config.allow_post`.
    pub allow_post: bool,
    /// `connect_config.proxy_protocol_config`: version of the header sent first.
    pub proxy_protocol: Option<u8>,
}

/// Which cluster.
#[derive(Debug, Clone, PartialEq)]
pub enum ClusterSpecifier {
    /// By name.
    Name(String),
    /// Named by a request header.
    Header(String),
    /// By weight.
    Weighted(WeightedClusters),
}

/// **Source**: `envoy.config.route.v3.WeightedCluster`.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedClusters {
    /// Choices; the sum of weights is not 0.
    pub clusters: Vec<WeightedCluster>,
    /// `header_name`: the request header that holds the random value.
    pub header_name: String,
    /// `use_hash_policy`.
    pub use_hash_policy: bool,
    /// `runtime_key_prefix`.
    pub runtime_key_prefix: String,
}

/// **Source**: `WeightedCluster.ClusterWeight`.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedCluster {
    /// Cluster, by name or header.
    pub cluster: Box<ClusterSpecifier>,
    /// Weight.
    pub weight: u32,
    /// Endpoint metadata wanted.
    pub metadata_match: Option<Metadata>,
    /// Header mutations of this level.
    pub headers: HeaderMutationLevel,
    /// Per-filter overrides.
    pub per_filter: BTreeMap<String, PerFilter>,
    /// `host_rewrite_literal`.
    pub host_rewrite: Option<String>,
}

/// What becomes of the path.
#[derive(Debug, Clone, PartialEq)]
pub enum PathRewrite {
    /// Kept.
    Keep,
    /// `prefix_rewrite`: the matched prefix is replaced.
    Prefix(String),
    /// `regex_rewrite`: every match in the path (without query) is replaced; `\1` are groups.
    Regex(Pattern, String),
    /// `path_rewrite`: a format with operators makes the whole path.
    Format(String),
    /// `path_rewrite_policy`: a URI template filled with the matched variables.
    Template(String),
}

/// What becomes of the host.
#[derive(Debug, Clone, PartialEq)]
pub enum HostRewrite {
    /// Kept.
    Keep,
    /// `host_rewrite_literal`.
    Literal(String),
    /// `auto_host_rewrite`: the endpoint's host name.
    Auto,
    /// `host_rewrite_header`.
    Header(String),
    /// `host_rewrite_path_regex`.
    PathRegex(Pattern, String),
}

/// **Source**: `RouteAction.RequestMirrorPolicy`.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    /// Where to (by name or header).
    pub cluster: ClusterSpecifier,
    /// Share of requests.
    pub fraction: RuntimeFraction,
    /// No `-shadow` suffix to the host.
    pub disable_host_suffix: bool,
    /// Mutations of the mirrored request.
    pub headers: HeaderMutations,
    /// `host_rewrite_literal`.
    pub host_rewrite: Option<String>,
}

/// **Source**: `RouteAction.HashPolicy`.
#[derive(Debug, Clone, PartialEq)]
pub struct HashPolicy {
    /// What is hashed.
    pub kind: HashPolicyKind,
    /// Stop here once there is a hash.
    pub terminal: bool,
}

/// What a hash policy hashes.
#[derive(Debug, Clone, PartialEq)]
pub enum HashPolicyKind {
    /// A header, optionally rewritten first.
    Header {
        /// Name.
        name: String,
        /// `regex_rewrite`.
        rewrite: Option<(Pattern, String)>,
    },
    /// A cookie; made where there is none if `ttl` is given.
    Cookie {
        /// Name.
        name: String,
        /// Life; zero: a session cookie. Absent: none is made.
        ttl: Option<Duration>,
        /// Path.
        path: String,
        /// Attributes.
        attributes: Vec<(String, String)>,
    },
    /// The client's address.
    SourceIp,
    /// A query parameter.
    Query(String),
    /// Filter state.
    FilterState(String),
}

/// **Source**: `envoy.extensions.filters.http.cors.v3.CorsPolicy`.
#[derive(Debug, Clone, PartialEq)]
pub struct Cors {
    /// Origins allowed.
    pub allow_origins: Vec<StringMatcher>,
    /// `access-control-allow-methods`; empty: not sent.
    pub allow_methods: String,
    /// `access-control-allow-headers`.
    pub allow_headers: String,
    /// `access-control-expose-headers`.
    pub expose_headers: String,
    /// `access-control-max-age`.
    pub max_age: String,
    /// `access-control-allow-credentials: true`.
    pub allow_credentials: bool,
    /// `allow_private_network_access`.
    pub allow_private_network: bool,
    /// Preflights that do not match go upstream (default true).
    pub forward_not_matching_preflights: bool,
    /// `filter_enabled` (default all).
    pub enabled: RuntimeFraction,
    /// `shadow_enabled`.
    pub shadow: Option<RuntimeFraction>,
}
