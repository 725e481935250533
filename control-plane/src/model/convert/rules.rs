//! Rules of HTTPRoutes and GRPCRoutes as those of VirtualServices.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_proto::problem::{Position, Severity};

use super::gateways::is_granted;
use crate::model::config::Problems;
use crate::model::host;
use crate::model::kinds::gateway_api::BackendRef;
use crate::model::kinds::gateway_routes::{
    ApiHttpRoute, GrpcMethod, GrpcRoute, HeaderFilter, HttpBackendRef, HttpFilter, HttpRule, HttpRuleMatch,
    PathModifier, RedirectFilter, Retry, RewriteFilter, Timeouts, ValueMatch,
};
use crate::model::kinds::virtual_service::{
    CorsPolicy, Destination, DirectResponse, HeaderOperations, Headers, HttpDestination, HttpMatch, HttpRedirect,
    HttpRewrite, HttpRoute, Mirror, Percent, PortSelector, Retries, RouteDestination, StringMatch,
};
use crate::model::kinds::{Kind, Object};
use crate::model::objects::Objects;

/// In front of a new path: it replaces the prefix that matched (Istio's mark).
pub(crate) const PREFIX_MARK: &str = "%PREFIX()%";
/// In front of a new path: it replaces the whole path (Istio's mark).
pub(crate) const FULL_MARK: &str = "%FULLREPLACE()%";

/// Tells an object's author what is wrong with it.
pub(super) fn told(object: &Object, at: Position, path: &str, reason: String, problems: &mut Problems) {
    problems.entry(object.key.clone()).or_default().push(object.problem(Severity::Invalid, at, path, reason));
}

/// The rules of an HTTPRoute; each has at least one match.
pub(super) fn of_http(
    object: &Object,
    route: &ApiHttpRoute,
    objects: &Objects,
    problems: &mut Problems,
) -> Vec<HttpRoute> {
    let rule = |rule: &HttpRule| {
        let mut matches: Vec<HttpMatch> = rule.matches.iter().map(http_match).collect();
        if matches.is_empty() {
            matches.push(http_match(&HttpRuleMatch::default()));
        }
        let mut made = HttpRoute { name: rule.name.clone(), r#match: matches, ..HttpRoute::default() };
        filters(object, &rule.filters, &mut made, objects, problems);
        backends(object, &rule.backend_refs, &mut made, objects, problems);
        limits(rule.timeouts.as_ref(), rule.retry.as_ref(), &mut made);
        made
    };
    route.spec.rules.iter().map(rule).collect()
}

/// The rules of a GRPCRoute; each has at least one match.
pub(super) fn of_grpc(
    object: &Object,
    route: &GrpcRoute,
    objects: &Objects,
    problems: &mut Problems,
) -> Vec<HttpRoute> {
    let mut made = Vec::new();
    for rule in &route.spec.rules {
        let of = |of: &crate::model::kinds::gateway_routes::GrpcMatch| HttpMatch {
            uri: Some(of.method.as_ref().map_or_else(any_path, method_path)),
            headers: values(&of.headers),
            ..HttpMatch::default()
        };
        let mut matches: Vec<HttpMatch> = rule.matches.iter().map(of).collect();
        if matches.is_empty() {
            matches.push(HttpMatch { uri: Some(any_path()), ..HttpMatch::default() });
        }
        let mut one = HttpRoute { name: rule.name.clone(), r#match: matches, ..HttpRoute::default() };
        filters(object, &rule.filters, &mut one, objects, problems);
        backends(object, &rule.backend_refs, &mut one, objects, problems);
        made.push(one);
    }
    made
}

fn any_path() -> StringMatch {
    StringMatch::PathPrefix("/".to_owned())
}

/// `/service/method`, of which either may be missing.
fn method_path(of: &GrpcMethod) -> StringMatch {
    let is_regex = of.r#type.as_deref() == Some("RegularExpression");
    match (&of.service, &of.method) {
        (None, None) => any_path(),
        (Some(service), Some(method)) if !is_regex => StringMatch::Exact(format!("/{service}/{method}")),
        (Some(service), None) if !is_regex => StringMatch::Prefix(format!("/{service}/")),
        (service, method) => {
            let any = "[^/]+";
            let escaped = |text: &str| if is_regex { text.to_owned() } else { text.replace('.', "\\.") };
            let service = service.as_deref().map_or_else(|| any.to_owned(), escaped);
            let method = method.as_deref().map_or_else(|| any.to_owned(), escaped);
            StringMatch::Regex(format!("/{service}/{method}"))
        }
    }
}

fn http_match(of: &HttpRuleMatch) -> HttpMatch {
    let path = of.path.as_ref();
    let value = path.and_then(|path| path.value.clone()).unwrap_or_else(|| "/".to_owned());
    let uri = match path.and_then(|path| path.r#type.as_deref()) {
        Some("Exact") => StringMatch::Exact(value),
        Some("RegularExpression") => StringMatch::Regex(value),
        _ => StringMatch::PathPrefix(value),
    };
    HttpMatch {
        uri: Some(uri),
        method: of.method.clone().map(StringMatch::Exact),
        headers: values(&of.headers),
        query_params: values(&of.query_params),
        ..HttpMatch::default()
    }
}

/// Matches by name; of several with one name the first counts, as the API says.
fn values(of: &[ValueMatch]) -> BTreeMap<String, StringMatch> {
    let mut made = BTreeMap::new();
    for entry in of {
        let value = match entry.r#type.as_deref() {
            Some("RegularExpression") => StringMatch::Regex(entry.value.clone()),
            _ => StringMatch::Exact(entry.value.clone()),
        };
        made.entry(entry.name.clone()).or_insert(value);
    }
    made
}

fn filters(object: &Object, filters: &[HttpFilter], made: &mut HttpRoute, objects: &Objects, problems: &mut Problems) {
    for filter in filters {
        if let Some(of) = &filter.request_header_modifier {
            made.headers.get_or_insert_default().request = operations(of);
        } else if let Some(of) = &filter.response_header_modifier {
            made.headers.get_or_insert_default().response = operations(of);
        } else if let Some(of) = &filter.request_redirect {
            made.redirect = Some(redirect(of));
        } else if let Some(of) = &filter.url_rewrite {
            made.rewrite = Some(rewrite(of));
        } else if let Some(of) = &filter.request_mirror {
            let to = Backend {
                name: &of.backend_ref.name,
                namespace: of.backend_ref.namespace.as_deref(),
                port: of.backend_ref.port,
            };
            let fraction = of.fraction.as_ref().map(|of| {
                100.0 * f64::from(of.numerator) / f64::from(of.denominator.filter(|of| *of > 0).unwrap_or(100))
            });
            let percentage =
                fraction.or(of.percent.map(f64::from)).map(|value| Percent { value, ..Percent::default() });
            if let Some(destination) = destination(object, &to, of.at.0, objects, problems) {
                made.mirrors.push(Mirror { destination, percentage, ..Mirror::default() });
            }
        } else if let Some(of) = &filter.cors {
            made.cors_policy = Some(CorsPolicy {
                allow_origins: of.allow_origins.iter().map(|origin| origin_match(origin)).collect(),
                allow_methods: of.allow_methods.clone(),
                allow_headers: of.allow_headers.clone(),
                expose_headers: of.expose_headers.clone(),
                max_age: Some(Duration::from_secs(of.max_age.unwrap_or(5).into())),
                allow_credentials: of.allow_credentials,
                ..CorsPolicy::default()
            });
        } else {
            let reason = format!("filter {:?} is not supported: its requests are answered with 500", filter.r#type);
            told(object, filter.at.0, "spec.rules.filters", reason, problems);
            made.direct_response = Some(DirectResponse { status: 500, ..DirectResponse::default() });
        }
    }
}

/// `https://*.example.com` is every host below it.
fn origin_match(origin: &str) -> StringMatch {
    match origin.split_once('*') {
        Some(("", "")) => StringMatch::Regex(".*".to_owned()),
        Some((before, after)) => {
            let escaped = |text: &str| text.replace('.', "\\.");
            StringMatch::Regex(format!("{}[^/]*{}", escaped(before), escaped(after)))
        }
        None => StringMatch::Exact(origin.to_owned()),
    }
}

fn operations(of: &HeaderFilter) -> HeaderOperations {
    let pairs = |of: &[crate::model::kinds::gateway_routes::Header]| {
        of.iter().map(|header| (header.name.clone(), header.value.clone())).collect()
    };
    HeaderOperations {
        set: pairs(&of.set),
        add: pairs(&of.add),
        remove: of.remove.clone(),
        ..HeaderOperations::default()
    }
}

fn new_path(of: &PathModifier) -> Option<String> {
    match (&of.replace_full_path, &of.replace_prefix_match) {
        (Some(path), _) => Some(format!("{FULL_MARK}{path}")),
        (None, Some(prefix)) => Some(format!("{PREFIX_MARK}{prefix}")),
        (None, None) => None,
    }
}

fn redirect(of: &RedirectFilter) -> HttpRedirect {
    let uri = of.path.as_ref().and_then(new_path);
    let standard = match of.scheme.as_deref() {
        Some("http") => Some(80),
        Some("https") => Some(443),
        _ => None,
    };
    HttpRedirect {
        uri: uri.map(|uri| uri.strip_prefix(FULL_MARK).map(str::to_owned).unwrap_or(uri)),
        authority: of.hostname.clone(),
        port: of.port.or(standard),
        // Without a scheme or port of its own a redirect stays on the listener's port.
        derive_port: (of.port.is_none() && standard.is_none()).then(|| "FROM_REQUEST_PORT".to_owned()),
        scheme: of.scheme.clone(),
        redirect_code: Some(of.status_code.unwrap_or(302)),
        ..HttpRedirect::default()
    }
}

fn rewrite(of: &RewriteFilter) -> HttpRewrite {
    HttpRewrite { uri: of.path.as_ref().and_then(new_path), authority: of.hostname.clone(), ..HttpRewrite::default() }
}

fn limits(timeouts: Option<&Timeouts>, retry: Option<&Retry>, made: &mut HttpRoute) {
    let request = timeouts.and_then(|of| of.request);
    let backend = timeouts.and_then(|of| of.backend_request).filter(|limit| !limit.is_zero());
    made.timeout = request.or(if retry.is_none() { backend } else { None });
    if let Some(of) = retry {
        let codes: Vec<String> = of.codes.iter().map(u32::to_string).collect();
        // Connections that cannot be made are always tried again (GEP-1731).
        let retry_on = format!("connect-failure,refused-stream,{}", codes.join(","));
        made.retries = Some(Retries {
            attempts: of.attempts.unwrap_or(1),
            per_try_timeout: backend,
            retry_on: Some(retry_on.trim_end_matches(',').to_owned()),
            backoff: of.backoff,
            ..Retries::default()
        });
    } else if let (Some(_), Some(backend)) = (request, backend) {
        made.retries = Some(Retries { attempts: 2, per_try_timeout: Some(backend), ..Retries::default() });
    }
}

/// A backend, whatever kind of route it is of.
struct Backend<'a> {
    name: &'a str,
    namespace: Option<&'a str>,
    port: Option<u32>,
}

fn backends(object: &Object, of: &[HttpBackendRef], made: &mut HttpRoute, objects: &Objects, problems: &mut Problems) {
    if made.redirect.is_some() || made.direct_response.is_some() {
        return;
    }
    for backend in of {
        let is_service = backend.kind.as_deref().is_none_or(|kind| kind == "Service")
            && backend.group.as_deref().is_none_or(str::is_empty);
        if !is_service {
            let reason = format!(
                "{} {:?} is no Service, and nothing else is supported",
                backend.kind.as_deref().unwrap_or_default(),
                backend.name
            );
            told(object, backend.at.0, "spec.rules.backendRefs", reason, problems);
            continue;
        }
        let to = Backend { name: &backend.name, namespace: backend.namespace.as_deref(), port: backend.port };
        let Some(destination) = destination(object, &to, backend.at.0, objects, problems) else { continue };
        let mut inner = HttpRoute::default();
        filters(object, &backend.filters, &mut inner, objects, problems);
        let headers: Option<Headers> = inner.headers;
        let weight = Some(backend.weight.unwrap_or(1));
        made.route.push(HttpDestination { destination, weight, headers, ..HttpDestination::default() });
    }
    let total: u32 = made.route.iter().filter_map(|to| to.weight).fold(0, u32::saturating_add);
    if total == 0 {
        // As the API says: what has no backend that exists is answered, not passed to another rule.
        made.route.clear();
        made.direct_response = Some(DirectResponse { status: 500, ..DirectResponse::default() });
    }
}

fn destination(
    object: &Object,
    of: &Backend<'_>,
    at: Position,
    objects: &Objects,
    problems: &mut Problems,
) -> Option<Destination> {
    let namespace = of.namespace.unwrap_or(&object.key.namespace);
    let refused = if !is_granted(object, "Service", namespace, of.name, objects) {
        Some("is in another namespace, where no ReferenceGrant allows it")
    } else if objects.get(Kind::Service, namespace, of.name).is_none() {
        Some("does not exist")
    } else if of.port.is_none() {
        Some("has no port here: a reference to a Service needs one")
    } else {
        None
    };
    if let Some(reason) = refused {
        told(object, at, "spec.rules.backendRefs", format!("Service {namespace}/{} {reason}", of.name), problems);
        return None;
    }
    Some(Destination {
        host: host::service_host(of.name, namespace),
        port: of.port.map(|number| PortSelector { number, ..PortSelector::default() }),
        ..Destination::default()
    })
}

/// Where connections of a TCPRoute or TLSRoute go.
pub(super) fn connections(
    object: &Object,
    of: &[BackendRef],
    objects: &Objects,
    problems: &mut Problems,
) -> Vec<RouteDestination> {
    let mut made = Vec::new();
    for backend in of {
        let to = Backend { name: &backend.name, namespace: backend.namespace.as_deref(), port: backend.port };
        if let Some(destination) = destination(object, &to, backend.at.0, objects, problems) {
            let weight = Some(backend.weight.unwrap_or(1));
            made.push(RouteDestination { destination, weight, ..RouteDestination::default() });
        }
    }
    made
}
