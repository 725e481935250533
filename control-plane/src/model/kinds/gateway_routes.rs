//! The Gateway API's routes: HTTPRoute, GRPCRoute, TLSRoute, TCPRoute.

use std::time::Duration;

use super::gateway_api::{BackendObject, BackendRef, ParentRef};
use crate::model::read::record;

record! {
    /// An HTTPRoute. **Source**: `gateway.networking.k8s.io/v1.HTTPRoute`.
    pub struct ApiHttpRoute (ignoring "status") {
        /// The route.
        spec: HttpRouteSpec,
    }
}

record! {
    /// A route. **Source**: `gateway.networking.k8s.io/v1.HTTPRouteSpec`.
    pub struct HttpRouteSpec {
        /// Gateways and Services.
        parent_refs: Vec<ParentRef>,
        /// Hosts. Default: the listener's.
        hostnames: Vec<String>,
        /// The rules.
        rules: Vec<HttpRule>,
    }
}

record! {
    /// A rule. **Source**: `gateway.networking.k8s.io/v1.HTTPRouteRule`.
    pub struct HttpRule {
        /// Its name.
        name: Option<String>,
        /// Any of these. Default: everything.
        matches: Vec<HttpRuleMatch>,
        /// What is done.
        filters: Vec<HttpFilter>,
        /// Where to, by weight.
        backend_refs: Vec<HttpBackendRef>,
        /// Time limits.
        timeouts: Option<Timeouts>,
        /// Retries.
        retry: Option<Retry>,
    }
}

record! {
    /// What a request must be. **Source**: `gateway.networking.k8s.io/v1.HTTPRouteMatch`.
    pub struct HttpRuleMatch {
        /// Default: prefix `/`.
        path: Option<PathMatch>,
        /// Headers.
        headers: Vec<ValueMatch>,
        /// Query parameters.
        query_params: Vec<ValueMatch>,
        /// The method.
        method: Option<String>,
    }
}

record! {
    /// A path. **Source**: `gateway.networking.k8s.io/v1.HTTPPathMatch`.
    pub struct PathMatch {
        /// `Exact`, `PathPrefix` (the default) or `RegularExpression`.
        r#type: Option<String>,
        /// Default: `/`.
        value: Option<String>,
    }
}

record! {
    /// A header or query parameter. **Source**: `gateway.networking.k8s.io/v1.HTTPHeaderMatch`, `HTTPQueryParamMatch`.
    pub struct ValueMatch {
        /// `Exact` (the default) or `RegularExpression`.
        r#type: Option<String>,
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    }
}

record! {
    /// What is done. **Source**: `gateway.networking.k8s.io/v1.HTTPRouteFilter`.
    pub struct HttpFilter {
        /// Which of the following.
        r#type: String,
        /// On the request.
        request_header_modifier: Option<HeaderFilter>,
        /// On the response.
        response_header_modifier: Option<HeaderFilter>,
        /// A copy.
        request_mirror: Option<MirrorFilter>,
        /// A redirect.
        request_redirect: Option<RedirectFilter>,
        /// A rewrite.
        url_rewrite: Option<RewriteFilter>,
        /// Cross-origin rules.
        cors: Option<CorsFilter>,
    }
}

record! {
    /// Header operations. **Source**: `gateway.networking.k8s.io/v1.HTTPHeaderFilter`.
    pub struct HeaderFilter {
        /// Overwrite.
        set: Vec<Header>,
        /// Append.
        add: Vec<Header>,
        /// Take away.
        remove: Vec<String>,
    }
}

record! {
    /// A header. **Source**: `gateway.networking.k8s.io/v1.HTTPHeader`.
    pub struct Header {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    }
}

record! {
    /// A copy. **Source**: `gateway.networking.k8s.io/v1.HTTPRequestMirrorFilter`.
    pub struct MirrorFilter {
        /// Where to.
        backend_ref: BackendObject,
        /// How many. Default: all.
        percent: Option<u32>,
        /// The same as a fraction.
        fraction: Option<Fraction>,
    }
}

record! {
    /// A fraction. **Source**: `gateway.networking.k8s.io/v1.Fraction`.
    pub struct Fraction {
        /// Of these…
        numerator: u32,
        /// …so many. Default: 100.
        denominator: Option<u32>,
    }
}

record! {
    /// A redirect. **Source**: `gateway.networking.k8s.io/v1.HTTPRequestRedirectFilter`.
    pub struct RedirectFilter {
        /// The new scheme.
        scheme: Option<String>,
        /// The new host.
        hostname: Option<String>,
        /// The new path.
        path: Option<PathModifier>,
        /// The new port. Default: the scheme's, else the listener's.
        port: Option<u32>,
        /// Default: 302.
        status_code: Option<u32>,
    }
}

record! {
    /// A new path. **Source**: `gateway.networking.k8s.io/v1.HTTPPathModifier`.
    pub struct PathModifier {
        /// `ReplaceFullPath` or `ReplacePrefixMatch`.
        r#type: String,
        /// The whole path.
        replace_full_path: Option<String>,
        /// What replaces the prefix that matched.
        replace_prefix_match: Option<String>,
    }
}

record! {
    /// A rewrite. **Source**: `gateway.networking.k8s.io/v1.HTTPURLRewriteFilter`.
    pub struct RewriteFilter {
        /// The new host.
        hostname: Option<String>,
        /// The new path.
        path: Option<PathModifier>,
    }
}

record! {
    /// Cross-origin rules. **Source**: `gateway.networking.k8s.io/v1.HTTPCORSFilter`.
    pub struct CorsFilter {
        /// Who may call; `*` is anybody.
        allow_origins: Vec<String>,
        /// Whether with cookies.
        allow_credentials: Option<bool>,
        /// Which methods.
        allow_methods: Vec<String>,
        /// Which headers.
        allow_headers: Vec<String>,
        /// Which headers scripts may see.
        expose_headers: Vec<String>,
        /// How many seconds the answer to a preflight request holds. Default: 5.
        max_age: Option<u32>,
    }
}

record! {
    /// A weighted backend. **Source**: `gateway.networking.k8s.io/v1.HTTPBackendRef`.
    pub struct HttpBackendRef {
        /// Empty, for a Service.
        group: Option<String>,
        /// `Service` (the default).
        kind: Option<String>,
        /// Its name.
        name: String,
        /// Its namespace.
        namespace: Option<String>,
        /// Its port.
        port: Option<u32>,
        /// Its share. Default: 1.
        weight: Option<u32>,
        /// Header operations on requests to it.
        filters: Vec<HttpFilter>,
    }
}

record! {
    /// Time limits. **Source**: `gateway.networking.k8s.io/v1.HTTPRouteTimeouts`.
    pub struct Timeouts {
        /// For the whole request.
        request: Option<Duration>,
        /// For each attempt.
        backend_request: Option<Duration>,
    }
}

record! {
    /// Retries. **Source**: `gateway.networking.k8s.io/v1.HTTPRouteRetry`.
    pub struct Retry {
        /// Status codes that are tried again.
        codes: Vec<u32>,
        /// How often.
        attempts: Option<u32>,
        /// The least pause.
        backoff: Option<Duration>,
    }
}

record! {
    /// A GRPCRoute. **Source**: `gateway.networking.k8s.io/v1.GRPCRoute`.
    pub struct GrpcRoute (ignoring "status") {
        /// The route.
        spec: GrpcRouteSpec,
    }
}

record! {
    /// A route. **Source**: `gateway.networking.k8s.io/v1.GRPCRouteSpec`.
    pub struct GrpcRouteSpec {
        /// Gateways and Services.
        parent_refs: Vec<ParentRef>,
        /// Hosts. Default: the listener's.
        hostnames: Vec<String>,
        /// The rules.
        rules: Vec<GrpcRule>,
    }
}

record! {
    /// A rule. **Source**: `gateway.networking.k8s.io/v1.GRPCRouteRule`.
    pub struct GrpcRule {
        /// Its name.
        name: Option<String>,
        /// Any of these. Default: everything.
        matches: Vec<GrpcMatch>,
        /// What is done.
        filters: Vec<HttpFilter>,
        /// Where to, by weight.
        backend_refs: Vec<HttpBackendRef>,
    }
}

record! {
    /// What a call must be. **Source**: `gateway.networking.k8s.io/v1.GRPCRouteMatch`.
    pub struct GrpcMatch {
        /// Service and method.
        method: Option<GrpcMethod>,
        /// Headers.
        headers: Vec<ValueMatch>,
    }
}

record! {
    /// A method. **Source**: `gateway.networking.k8s.io/v1.GRPCMethodMatch`.
    pub struct GrpcMethod {
        /// `Exact` (the default) or `RegularExpression`.
        r#type: Option<String>,
        /// The service with its package.
        service: Option<String>,
        /// The method.
        method: Option<String>,
    }
}

record! {
    /// A TLSRoute. **Source**: `gateway.networking.k8s.io/v1.TLSRoute`.
    pub struct ApiTlsRoute (ignoring "status") {
        /// The route.
        spec: L4RouteSpec,
    }
}

record! {
    /// A TCPRoute. **Source**: `gateway.networking.k8s.io/v1alpha2.TCPRoute`.
    pub struct ApiTcpRoute (ignoring "status") {
        /// The route.
        spec: L4RouteSpec,
    }
}

record! {
    /// A route of connections. **Source**: `gateway.networking.k8s.io/v1.TLSRouteSpec`, `v1alpha2.TCPRouteSpec`.
    pub struct L4RouteSpec {
        /// Gateways and Services.
        parent_refs: Vec<ParentRef>,
        /// SNI values; a TCPRoute has none.
        hostnames: Vec<String>,
        /// The rules, of which the first counts.
        rules: Vec<L4Rule>,
    }
}

record! {
    /// A rule. **Source**: `gateway.networking.k8s.io/v1.TLSRouteRule`, `v1alpha2.TCPRouteRule`.
    pub struct L4Rule {
        /// Its name.
        name: Option<String>,
        /// Where to, by weight.
        backend_refs: Vec<BackendRef>,
    }
}
