//! External authorization: a service says who may do what.

use std::collections::BTreeMap;

use super::{
    GrpcService, HeaderMutations, HttpUri, MetadataMatcher, Pattern, RetryPolicy, RuntimeFlag, RuntimeFraction,
    StringMatcher,
};

/// **Source**: `envoy.extensions.filters.http.ext_authz.v3.ExtAuthz`.
#[derive(Debug, Clone, PartialEq)]
pub struct ExtAuthz {
    /// Who is asked.
    pub service: AuthzService,
    /// `failure_mode_allow`: a request goes on if nobody can be asked.
    pub failure_mode_allow: bool,
    /// `failure_mode_allow_header_add`: and says so to the upstream in `x-envoy-auth-failure-mode-allowed`.
    pub failure_mode_allow_header_add: bool,
    /// `with_request_body`.
    pub body: Option<AuthzBody>,
    /// `clear_route_cache`: the route is found anew where the answer changes the request.
    pub clear_route_cache: bool,
    /// `status_on_error` (default 403).
    pub status_on_error: u16,
    /// `validate_mutations`: an answer with a field that is none refuses the request with 500.
    pub validate_mutations: bool,
    /// `metadata_context_namespaces`.
    pub metadata_namespaces: Vec<String>,
    /// `route_metadata_context_namespaces`.
    pub route_metadata_namespaces: Vec<String>,
    /// `filter_enabled`; absent: always.
    pub enabled: Option<RuntimeFraction>,
    /// `filter_enabled_metadata`; absent: always.
    pub enabled_metadata: Option<MetadataMatcher>,
    /// `deny_at_disable`: what is not asked about is refused.
    pub deny_at_disable: Option<RuntimeFlag>,
    /// What of a connection is told.
    pub peers: AuthzPeers,
    /// `stat_prefix`: stats are `ext_authz.<stat_prefix>.*`.
    pub stat_prefix: String,
    /// `allowed_headers`: the request fields that are told; absent: all, but to an HTTP service only a few.
    pub allowed_headers: Option<Vec<StringMatcher>>,
    /// `disallowed_headers`: the request fields that are not told.
    pub disallowed_headers: Vec<StringMatcher>,
    /// `charge_cluster_response_stats` (default on): refusals count as answers of the route's cluster.
    pub charge_cluster: bool,
    /// `encode_raw_headers`: fields are told one by one, as bytes.
    pub raw_headers: bool,
    /// `decoder_header_mutation_rules`; absent: everything but the removal of what makes a request may be changed.
    pub rules: Option<MutationRules>,
    /// `enable_dynamic_metadata_ingestion` (default on): the answer's metadata becomes the request's.
    pub ingest_metadata: bool,
    /// `max_denied_response_body_bytes`: a refusal's body is cut at so many bytes; 0: never.
    pub max_denied_body: usize,
    /// `enforce_response_header_limits`: what exceeds the number of fields a response may have is left out.
    pub limit_response_headers: bool,
}

/// Who is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum AuthzService {
    /// `grpc_service`: `envoy.service.auth.v3.Authorization/Check`.
    Grpc(Box<GrpcService>),
    /// `http_service`.
    Http(Box<AuthzHttp>),
}

/// **Source**: `envoy.extensions.filters.http.ext_authz.v3.HttpService`.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthzHttp {
    /// `server_uri`.
    pub server: HttpUri,
    /// `path_prefix`: in front of the request's own path.
    pub path_prefix: String,
    /// `path_override`: in place of it; empty: the request's own.
    pub path_override: String,
    /// `authorization_request.headers_to_add`, which take the place of the request's own.
    pub headers_to_add: HeaderMutations,
    /// `authorization_response.allowed_upstream_headers`: fields of an answer that the request is given, in place of its own.
    pub upstream: Vec<StringMatcher>,
    /// `authorization_response.allowed_upstream_headers_to_append`: the same, beside its own.
    pub upstream_append: Vec<StringMatcher>,
    /// `authorization_response.allowed_client_headers`: fields of a refusal that the client is given; empty: all.
    pub client: Vec<StringMatcher>,
    /// `authorization_response.allowed_client_headers_on_success`: fields of an answer that the upstream's answer is given.
    pub client_on_success: Vec<StringMatcher>,
    /// `authorization_response.dynamic_metadata_from_headers`.
    pub metadata: Vec<StringMatcher>,
    /// `retry_policy`.
    pub retry: Option<RetryPolicy>,
}

/// **Source**: `envoy.extensions.filters.http.ext_authz.v3.BufferSettings`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthzBody {
    /// `max_request_bytes`: so much of a body is told.
    pub max_bytes: u64,
    /// `allow_partial_message`: of a longer one the beginning; else it is refused with 413.
    pub allow_partial: bool,
    /// `pack_as_bytes`: as it is, rather than as text.
    pub as_bytes: bool,
}

/// What of a connection is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuthzPeers {
    /// `include_peer_certificate`.
    pub certificate: bool,
    /// `include_tls_session`.
    pub tls_session: bool,
    /// Labels of the destination: the node's metadata at `bootstrap_metadata_labels_key`.
    pub labels: BTreeMap<String, String>,
}

/// **Source**: `envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AuthzPerRoute {
    /// Nobody is asked.
    pub disabled: bool,
    /// `check_settings.context_extensions`, over those of less specific levels.
    pub context: BTreeMap<String, String>,
    /// `check_settings.disable_request_body_buffering`.
    pub no_body: bool,
    /// `check_settings.with_request_body`; absent: the filter's.
    pub body: Option<AuthzBody>,
    /// `check_settings.grpc_service` or `http_service`; absent: the filter's.
    pub service: Option<AuthzService>,
}

/// Which header fields an answer may change. **Source**: `envoy.config.common.mutation_rules.v3.HeaderMutationRules`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MutationRules {
    /// `allow_all_routing`: also what decides where a request goes.
    pub routing: bool,
    /// `allow_envoy`: also `x-envoy-*`.
    pub envoy: bool,
    /// `disallow_system`: nothing that begins with a colon.
    pub no_system: bool,
    /// `disallow_all`.
    pub nothing: bool,
    /// `allow_expression`: names that may be changed all the same.
    pub allow: Option<Pattern>,
    /// `disallow_expression`: names that may not.
    pub disallow: Option<Pattern>,
    /// `disallow_is_error`: the attempt refuses the request.
    pub is_error: bool,
}

/// **Source**: `envoy.extensions.filters.network.ext_authz.v3.ExtAuthz`.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkExtAuthz {
    /// Stats are `ext_authz.<stat_prefix>.*`.
    pub stat_prefix: String,
    /// Who is asked.
    pub service: Box<GrpcService>,
    /// `failure_mode_allow`: a connection goes on if nobody can be asked.
    pub failure_mode_allow: bool,
    /// What is told.
    pub peers: AuthzPeers,
    /// `filter_enabled_metadata`; absent: always.
    pub enabled_metadata: Option<MetadataMatcher>,
    /// `metadata_context_namespaces`.
    pub metadata_namespaces: Vec<String>,
}
