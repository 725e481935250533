//! Istio's VirtualService.
//!
//! The same types hold what routes of the Gateway API and Ingresses become, so that there is one way from a route to xDS.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_proto::document::{Data, Node};

use super::meta::Labels;
use crate::model::read::{Read, Reader, record};

record! {
    /// A VirtualService. **Source**: `networking.istio.io/v1.VirtualService`.
    pub struct VirtualService (ignoring "status") {
        /// Its routes.
        spec: VirtualServiceSpec,
    }
}

record! {
    /// Routes for hosts. **Source**: `networking.istio.io/v1.VirtualService`.
    pub struct VirtualServiceSpec {
        /// Short names, full names, `*.example.com` or `*`. None: it is a delegate.
        hosts: Vec<String>,
        /// `mesh` (the default), `name` or `namespace/name`.
        gateways: Vec<String>,
        /// HTTP routes; the first that matches is taken.
        http: Vec<HttpRoute>,
        /// TLS routes, by SNI.
        tls: Vec<TlsRoute>,
        /// TCP routes.
        tcp: Vec<TcpRoute>,
        /// Namespaces that see it: `.`, `*` or names. Default: the mesh's `defaultVirtualServiceExportTo`.
        export_to: Vec<String>,
    }
}

record! {
    /// A rule for HTTP. **Source**: `networking.istio.io/v1.HTTPRoute`.
    pub struct HttpRoute {
        /// Its name, in logs and stats.
        name: Option<String>,
        /// Any of these; none: everything.
        r#match: Vec<HttpMatch>,
        /// Where to, by weight.
        route: Vec<HttpDestination>,
        /// Instead of routing: a redirect.
        redirect: Option<HttpRedirect>,
        /// Instead of routing: an answer.
        direct_response: Option<DirectResponse>,
        /// Instead of routing: the rules of another VirtualService.
        delegate: Option<Delegate>,
        /// Path and authority on the way.
        rewrite: Option<HttpRewrite>,
        /// For the whole request with its retries. Default: none.
        timeout: Option<Duration>,
        /// When to try again. Default: the mesh's, else two more attempts.
        retries: Option<Retries>,
        /// Faults to inject.
        fault: Option<Fault>,
        /// Where to send a copy.
        mirror: Option<Destination>,
        /// How many requests of [`mirror`](Self::mirror) are copied. Default: all.
        mirror_percentage: Option<Percent>,
        /// The same in its former form, in percent.
        mirror_percent: Option<u32>,
        /// Where to send copies.
        mirrors: Vec<Mirror>,
        /// Who may call from a browser.
        cors_policy: Option<CorsPolicy>,
        /// Header operations.
        headers: Option<Headers>,
    }
}

record! {
    /// What a request must be; all that is set must hold. **Source**: `networking.istio.io/v1.HTTPMatchRequest`.
    pub struct HttpMatch {
        /// Its name, added to the route's.
        name: Option<String>,
        /// The path.
        uri: Option<StringMatch>,
        /// `http` or `https`.
        scheme: Option<StringMatch>,
        /// The method.
        method: Option<StringMatch>,
        /// The host.
        authority: Option<StringMatch>,
        /// Headers; an empty match: it is there.
        headers: BTreeMap<String, StringMatch>,
        /// Headers that must not match.
        without_headers: BTreeMap<String, StringMatch>,
        /// Query parameters.
        query_params: BTreeMap<String, StringMatch>,
        /// The port of the service or gateway.
        port: Option<u32>,
        /// The caller's labels.
        source_labels: Labels,
        /// The caller's namespace.
        source_namespace: Option<String>,
        /// Through which gateways; overrides the VirtualService's.
        gateways: Vec<String>,
        /// Whether [`uri`](Self::uri) is compared without regard to case.
        ignore_uri_case: bool,
        /// A prefix for stats of the route.
        stat_prefix: Option<String>,
    }
}

/// How a text is compared. **Source**: `networking.istio.io/v1.StringMatch`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StringMatch {
    /// It is there.
    #[default]
    Present,
    /// It is this.
    Exact(String),
    /// It begins with this.
    Prefix(String),
    /// All of it matches this RE2 expression.
    Regex(String),
    /// Its path elements begin with these: `/a` matches `/a` and `/a/b`, not `/ab`. Only the Gateway API and Ingress have it.
    PathPrefix(String),
}

impl Read for StringMatch {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Data::Map(entries) = &node.data else { return reader.wrong(node, "one of exact, prefix, regex") };
        let mut given = entries.iter().filter(|entry| entry.value.data != Data::Null);
        let Some(entry) = given.next() else { return Some(Self::Present) };
        if let Some(second) = given.next() {
            return reader
                .refuse(second.at, format!("{} is set, too; only one of exact, prefix, regex may be", entry.key));
        }
        let text = reader.field(&entry.key, |reader| String::read(&entry.value, reader))?;
        match &*entry.key {
            "exact" => Some(Self::Exact(text)),
            "prefix" => Some(Self::Prefix(text)),
            "regex" => Some(Self::Regex(text)),
            other => reader.refuse(entry.at, format!("{other:?} is not known; write exact, prefix or regex")),
        }
    }
}

record! {
    /// A weighted destination. **Source**: `networking.istio.io/v1.HTTPRouteDestination`.
    pub struct HttpDestination {
        /// Where to.
        destination: Destination,
        /// Its share. Default of a single one: all.
        weight: Option<u32>,
        /// Header operations.
        headers: Option<Headers>,
    }
}

record! {
    /// A service, or a part of it. **Source**: `networking.istio.io/v1.Destination`.
    pub struct Destination {
        /// A short or full name.
        host: String,
        /// A subset that a DestinationRule defines.
        subset: Option<String>,
        /// The port; a service with one port needs none.
        port: Option<PortSelector>,
    }
}

record! {
    /// A port. **Source**: `networking.istio.io/v1.PortSelector`.
    pub struct PortSelector {
        /// The number.
        number: u32,
    }
}

record! {
    /// A redirect. **Source**: `networking.istio.io/v1.HTTPRedirect`.
    pub struct HttpRedirect {
        /// The new path.
        uri: Option<String>,
        /// The new host.
        authority: Option<String>,
        /// The new port.
        port: Option<u32>,
        /// `FROM_PROTOCOL_DEFAULT` or `FROM_REQUEST_PORT`.
        derive_port: Option<String>,
        /// The new scheme.
        scheme: Option<String>,
        /// 301 (the default), 302, 303, 307 or 308.
        redirect_code: Option<u32>,
    }
}

record! {
    /// An answer without an upstream. **Source**: `networking.istio.io/v1.HTTPDirectResponse`.
    pub struct DirectResponse {
        /// The status.
        status: u32,
        /// The body.
        body: Option<DirectBody>,
    }
}

record! {
    /// A body. **Source**: `networking.istio.io/v1.HTTPBody`.
    pub struct DirectBody {
        /// As text.
        string: Option<String>,
        /// In base64.
        bytes: Option<String>,
    }
}

record! {
    /// The VirtualService that goes on. **Source**: `networking.istio.io/v1.Delegate`.
    pub struct Delegate {
        /// Its name.
        name: String,
        /// Its namespace. Default: the same.
        namespace: Option<String>,
    }
}

record! {
    /// A rewrite. **Source**: `networking.istio.io/v1.HTTPRewrite`.
    pub struct HttpRewrite {
        /// The path, or what replaces the prefix that matched.
        uri: Option<String>,
        /// The authority.
        authority: Option<String>,
        /// The path by a regular expression.
        uri_regex_rewrite: Option<RegexRewrite>,
    }
}

record! {
    /// A rewrite by expression. **Source**: `networking.istio.io/v1.RegexRewrite`.
    pub struct RegexRewrite {
        /// RE2.
        r#match: String,
        /// With `\1` for groups.
        rewrite: String,
    }
}

record! {
    /// Retries. **Source**: `networking.istio.io/v1.HTTPRetry`.
    pub struct Retries {
        /// Attempts after the first; 0: none.
        attempts: u32,
        /// For each attempt. Default: the route's timeout.
        per_try_timeout: Option<Duration>,
        /// Envoy's conditions and status codes, by comma.
        retry_on: Option<String>,
        /// Also in other localities.
        retry_remote_localities: Option<bool>,
        /// Not on hosts already tried. Default: true.
        retry_ignore_previous_hosts: Option<bool>,
        /// The first pause. Default: 25 ms.
        backoff: Option<Duration>,
    }
}

record! {
    /// Faults. **Source**: `networking.istio.io/v1.HTTPFaultInjection`.
    pub struct Fault {
        /// Requests that wait.
        delay: Option<Delay>,
        /// Requests that are refused.
        abort: Option<Abort>,
    }
}

record! {
    /// A delay. **Source**: `networking.istio.io/v1.HTTPFaultInjection.Delay`.
    pub struct Delay {
        /// How long.
        fixed_delay: Option<Duration>,
        /// How many. Default: all.
        percentage: Option<Percent>,
        /// The same in its former form.
        percent: Option<u32>,
    }
}

record! {
    /// A refusal. **Source**: `networking.istio.io/v1.HTTPFaultInjection.Abort`.
    pub struct Abort {
        /// The HTTP status.
        http_status: Option<u32>,
        /// The gRPC status, by name or number.
        grpc_status: Option<String>,
        /// How many. Default: all.
        percentage: Option<Percent>,
    }
}

record! {
    /// A percentage. **Source**: `networking.istio.io/v1.Percent`.
    pub struct Percent {
        /// 0.0 to 100.0.
        value: f64,
    }
}

record! {
    /// A copy. **Source**: `networking.istio.io/v1.HTTPMirrorPolicy`.
    pub struct Mirror {
        /// Where to.
        destination: Destination,
        /// How many. Default: all.
        percentage: Option<Percent>,
    }
}

record! {
    /// Cross-origin rules. **Source**: `networking.istio.io/v1.CorsPolicy`.
    pub struct CorsPolicy {
        /// Who may call.
        allow_origins: Vec<StringMatch>,
        /// Its former form, exact.
        allow_origin: Vec<String>,
        /// Which methods.
        allow_methods: Vec<String>,
        /// Which headers.
        allow_headers: Vec<String>,
        /// Which headers scripts may see.
        expose_headers: Vec<String>,
        /// How long the answer to a preflight request holds.
        max_age: Option<Duration>,
        /// Whether with cookies.
        allow_credentials: Option<bool>,
        /// `FORWARD` (the default) or `IGNORE` preflight requests that do not match.
        unmatched_preflights: Option<String>,
    }
}

record! {
    /// Header operations. **Source**: `networking.istio.io/v1.Headers`.
    pub struct Headers {
        /// On the request.
        request: HeaderOperations,
        /// On the response.
        response: HeaderOperations,
    }
}

record! {
    /// Header operations of one direction. **Source**: `networking.istio.io/v1.Headers.HeaderOperations`.
    pub struct HeaderOperations {
        /// Overwrite.
        set: BTreeMap<String, String>,
        /// Append.
        add: BTreeMap<String, String>,
        /// Take away.
        remove: Vec<String>,
    }
}

record! {
    /// A rule for TLS. **Source**: `networking.istio.io/v1.TLSRoute`.
    pub struct TlsRoute {
        /// Any of these.
        r#match: Vec<TlsMatch>,
        /// Where to, by weight.
        route: Vec<RouteDestination>,
    }
}

record! {
    /// What a TLS connection must be. **Source**: `networking.istio.io/v1.TLSMatchAttributes`.
    pub struct TlsMatch {
        /// SNI values, exact or `*.example.com`.
        sni_hosts: Vec<String>,
        /// Where the client wants to go.
        destination_subnets: Vec<String>,
        /// The port.
        port: Option<u32>,
        /// The caller's labels.
        source_labels: Labels,
        /// The caller's namespace.
        source_namespace: Option<String>,
        /// Through which gateways.
        gateways: Vec<String>,
    }
}

record! {
    /// A rule for TCP. **Source**: `networking.istio.io/v1.TCPRoute`.
    pub struct TcpRoute {
        /// Any of these; none: everything.
        r#match: Vec<L4Match>,
        /// Where to, by weight.
        route: Vec<RouteDestination>,
    }
}

record! {
    /// What a TCP connection must be. **Source**: `networking.istio.io/v1.L4MatchAttributes`.
    pub struct L4Match {
        /// Where the client wants to go.
        destination_subnets: Vec<String>,
        /// The port.
        port: Option<u32>,
        /// Where the client comes from.
        source_subnet: Option<String>,
        /// The caller's labels.
        source_labels: Labels,
        /// The caller's namespace.
        source_namespace: Option<String>,
        /// Through which gateways.
        gateways: Vec<String>,
    }
}

record! {
    /// A weighted destination of connections. **Source**: `networking.istio.io/v1.RouteDestination`.
    pub struct RouteDestination {
        /// Where to.
        destination: Destination,
        /// Its share.
        weight: Option<u32>,
    }
}
