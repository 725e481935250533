//! What happens to a request: where it goes, and what is changed on the way.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::config::route::v3::{self as pb, redirect_action, route, route_action, weighted_cluster};
use weft_proto::pb::envoy::r#type::matcher::v3 as matcher;

use super::super::names;
use super::super::policy::Policy;
use super::super::wire::{self, bool_value, duration, u32_value};
use super::{Rules, retry};
use crate::model::kinds::destination_rule::{ConsistentHash, CookieAttribute, SimpleLb, Subset, TrafficPolicy};
use crate::model::kinds::virtual_service::{
    Destination, DirectResponse, Headers, HttpDestination, HttpMatch, HttpRedirect, HttpRewrite, HttpRoute, StringMatch,
};
use crate::model::service::Service;
use crate::model::{FULL_MARK, PREFIX_MARK, host};

impl Rules<'_, '_> {
    /// What a route does with requests of this match.
    pub(super) fn action(&self, rule: &HttpRoute, of: Option<&HttpMatch>, made: &mut pb::Route) {
        if self.is_grpc && (rule.redirect.is_some() || rule.direct_response.is_some()) {
            // A client that cannot do it would refuse the whole table; a cluster without endpoints fails the call at once.
            let specifier = Some(route_action::ClusterSpecifier::Cluster(names::BLACK_HOLE.to_owned()));
            made.action =
                Some(route::Action::Route(pb::RouteAction { cluster_specifier: specifier, ..Default::default() }));
            return;
        }
        if let Some(redirect) = &rule.redirect {
            made.action = Some(route::Action::Redirect(redirect_action(redirect, self.port)));
        } else if let Some(answer) = &rule.direct_response {
            made.action = Some(route::Action::DirectResponse(direct_response(answer)));
        } else {
            let mut action = self.route_action(rule, of);
            self.destinations(rule, made, &mut action);
            made.action = Some(route::Action::Route(action));
        }
        headers(rule.headers.as_ref(), made);
        made.typed_per_filter_config = super::per_route::configs(rule);
    }

    fn route_action(&self, rule: &HttpRoute, of: Option<&HttpMatch>) -> pb::RouteAction {
        let limit = rule.timeout.unwrap_or_default();
        let mut action = pb::RouteAction {
            timeout: duration(limit),
            retry_policy: retry::policy(rule.retries.as_ref(), &self.view.world.config().mesh),
            ..Default::default()
        };
        if self.is_grpc && !limit.is_zero() {
            // gRPC reads no other limit.
            action.max_stream_duration =
                Some(route_action::MaxStreamDuration { max_stream_duration: duration(limit), ..Default::default() });
        }
        if let Some(rewrite) = &rule.rewrite {
            self::rewrite(rewrite, of, &mut action);
        }
        let mirrors =
            rule.mirrors.iter().map(|mirror| (&mirror.destination, mirror.percentage.as_ref().map(|of| of.value)));
        let former = rule.mirror_percentage.as_ref().map(|of| of.value).or(rule.mirror_percent.map(f64::from));
        let single = rule.mirror.iter().map(|mirror| (mirror, former));
        for (destination, share) in single.chain(mirrors).filter(|(_, share)| share.is_none_or(|share| share > 0.0)) {
            action.request_mirror_policies.push(route_action::RequestMirrorPolicy {
                cluster: self.cluster_name(destination),
                runtime_fraction: Some(core::RuntimeFractionalPercent {
                    default_value: Some(wire::percent(share.unwrap_or(100.0))),
                    ..Default::default()
                }),
                trace_sampled: bool_value(false),
                ..Default::default()
            });
        }
        action
    }

    fn destinations(&self, rule: &HttpRoute, made: &mut pb::Route, action: &mut pb::RouteAction) {
        let weighed: Vec<(&HttpDestination, u32)> = match &rule.route[..] {
            [single] => vec![(single, single.weight.unwrap_or(1).max(1))],
            several => {
                several.iter().map(|to| (to, to.weight.unwrap_or(0))).filter(|(_, weight)| *weight > 0).collect()
            }
        };
        for (to, _) in &weighed {
            for policy in self.hash_policies(&to.destination) {
                if !action.hash_policy.contains(&policy) {
                    action.hash_policy.push(policy);
                }
            }
        }
        if let [(single, _)] = weighed[..] {
            let name = self.cluster_name(&single.destination);
            action.cluster_specifier = Some(route_action::ClusterSpecifier::Cluster(name));
            let mut of_route = pb::Route::default();
            headers(single.headers.as_ref(), &mut of_route);
            if let Some(host) = host_header(single.headers.as_ref()) {
                action.host_rewrite_specifier =
                    Some(route_action::HostRewriteSpecifier::HostRewriteLiteral(host.to_owned()));
            }
            made.request_headers_to_add.append(&mut of_route.request_headers_to_add);
            made.request_headers_to_remove.append(&mut of_route.request_headers_to_remove);
            made.response_headers_to_add.append(&mut of_route.response_headers_to_add);
            made.response_headers_to_remove.append(&mut of_route.response_headers_to_remove);
        } else {
            let clusters = weighed.iter().map(|(to, weight)| self.weighted(to, *weight)).collect();
            let clusters = pb::WeightedCluster { clusters, ..Default::default() };
            action.cluster_specifier = Some(route_action::ClusterSpecifier::WeightedClusters(clusters));
        }
        if let Some(host) = host_header(rule.headers.as_ref()) {
            action.host_rewrite_specifier =
                Some(route_action::HostRewriteSpecifier::HostRewriteLiteral(host.to_owned()));
        }
    }

    fn weighted(&self, to: &HttpDestination, weight: u32) -> weighted_cluster::ClusterWeight {
        let mut of_route = pb::Route::default();
        headers(to.headers.as_ref(), &mut of_route);
        let host = host_header(to.headers.as_ref()).map(str::to_owned);
        weighted_cluster::ClusterWeight {
            name: self.cluster_name(&to.destination),
            weight: u32_value(weight),
            request_headers_to_add: of_route.request_headers_to_add,
            request_headers_to_remove: of_route.request_headers_to_remove,
            response_headers_to_add: of_route.response_headers_to_add,
            response_headers_to_remove: of_route.response_headers_to_remove,
            host_rewrite_specifier: host
                .map(weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
            ..Default::default()
        }
    }

    /// The cluster of a destination. One that does not exist answers 503, as in Istio: it is not a route that is missing.
    pub(super) fn cluster_name(&self, to: &Destination) -> String {
        self.view.destination_cluster(to, &self.routes.key.namespace, self.port)
    }

    /// What the balancers of a destination hash.
    fn hash_policies(&self, to: &Destination) -> Vec<route_action::HashPolicy> {
        let host = host::resolve(&to.host, &self.routes.key.namespace);
        let Some(service) = self.view.service(&host) else { return Vec::new() };
        let port = self.view.destination_port(to, service, self.port);
        let rules = self.view.destination_rules(service);
        let whole = rules.first().and_then(|rule| rule.spec.traffic_policy.as_ref());
        let subsets = rules.iter().flat_map(|rule| &rule.spec.subsets);
        let subset = to.subset.as_ref().and_then(|name| subsets.into_iter().find(|subset| subset.name == *name));
        hash_policies_of(whole, subset, port, service)
    }
}

/// What the balancer of a service hashes.
pub(super) fn hash_policies_of(
    whole: Option<&TrafficPolicy>,
    subset: Option<&Subset>,
    port: u32,
    service: &Service,
) -> Vec<route_action::HashPolicy> {
    let balancer = Policy::of(whole, subset, port).load_balancer;
    let unspecified = balancer.is_none_or(|of| of.simple.unwrap_or_default() == SimpleLb::Unspecified);
    match balancer.and_then(|of| of.consistent_hash.as_ref()) {
        Some(hash) => hash_policy(hash).into_iter().collect(),
        None if service.client_ip_affinity && unspecified => vec![source_ip()],
        None => Vec::new(),
    }
}

impl super::super::view::View<'_> {
    /// The cluster of a destination, which may be one that does not exist.
    pub(in crate::translate) fn destination_cluster(
        &self,
        to: &Destination,
        namespace: &str,
        listener_port: u32,
    ) -> String {
        let host = host::resolve(&to.host, namespace);
        let port = match self.service(&host) {
            Some(service) => self.destination_port(to, service, listener_port),
            None => to.port.as_ref().map_or(listener_port, |port| port.number),
        };
        names::outbound(port, to.subset.as_deref().unwrap_or_default(), &host)
    }

    /// The port of a destination: as told, else the service's only one, else the one the request came to.
    fn destination_port(&self, to: &Destination, service: &Service, listener_port: u32) -> u32 {
        match (&to.port, &service.ports[..]) {
            (Some(port), _) if port.number > 0 => port.number,
            (_, [only]) => only.number.into(),
            _ => listener_port,
        }
    }
}

fn source_ip() -> route_action::HashPolicy {
    use route_action::hash_policy::{ConnectionProperties, PolicySpecifier};
    let specifier = PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true });
    route_action::HashPolicy { policy_specifier: Some(specifier), ..Default::default() }
}

fn hash_policy(of: &ConsistentHash) -> Option<route_action::HashPolicy> {
    use route_action::hash_policy::{Cookie, Header, PolicySpecifier, QueryParameter};
    let specifier = if let Some(name) = &of.http_header_name {
        PolicySpecifier::Header(Header { header_name: name.clone(), ..Default::default() })
    } else if let Some(cookie) = &of.http_cookie {
        PolicySpecifier::Cookie(Cookie {
            name: cookie.name.clone(),
            ttl: cookie.ttl.and_then(duration),
            path: cookie.path.clone().unwrap_or_default(),
            attributes: cookie.attributes.iter().map(attribute).collect(),
        })
    } else if let Some(name) = &of.http_query_parameter_name {
        PolicySpecifier::QueryParameter(QueryParameter { name: name.clone() })
    } else if of.use_source_ip == Some(true) {
        return Some(source_ip());
    } else {
        return None;
    };
    Some(route_action::HashPolicy { policy_specifier: Some(specifier), ..Default::default() })
}

fn attribute(of: &CookieAttribute) -> route_action::hash_policy::CookieAttribute {
    route_action::hash_policy::CookieAttribute { name: of.name.clone(), value: of.value.clone().unwrap_or_default() }
}

/// The host that header operations set: that is a rewrite.
fn host_header(of: Option<&Headers>) -> Option<&str> {
    let set = &of?.request.set;
    set.iter().find(|(name, _)| is_host(name)).map(|(_, value)| value.as_str())
}

fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

fn header_option(name: &str, value: &str, append: bool) -> core::HeaderValueOption {
    use core::header_value_option::HeaderAppendAction::{AppendIfExistsOrAdd, OverwriteIfExistsOrAdd};
    let action = if append { AppendIfExistsOrAdd } else { OverwriteIfExistsOrAdd };
    core::HeaderValueOption {
        header: Some(core::HeaderValue { key: name.to_owned(), value: value.to_owned(), ..Default::default() }),
        append_action: action as i32,
        ..Default::default()
    }
}

fn headers(of: Option<&Headers>, made: &mut pb::Route) {
    let Some(of) = of else { return };
    let options = |of: &crate::model::kinds::virtual_service::HeaderOperations| {
        let set =
            of.set.iter().filter(|(name, _)| !is_host(name)).map(|(name, value)| header_option(name, value, false));
        let add = of.add.iter().map(|(name, value)| header_option(name, value, true));
        set.chain(add).collect::<Vec<_>>()
    };
    made.request_headers_to_add = options(&of.request);
    made.request_headers_to_remove = of.request.remove.iter().filter(|name| !is_host(name)).cloned().collect();
    made.response_headers_to_add = options(&of.response);
    made.response_headers_to_remove = of.response.remove.clone();
}

fn rewrite(of: &HttpRewrite, matched: Option<&HttpMatch>, action: &mut pb::RouteAction) {
    if let Some(host) = &of.authority {
        action.host_rewrite_specifier = Some(route_action::HostRewriteSpecifier::HostRewriteLiteral(host.clone()));
    }
    if let Some(regex) = &of.uri_regex_rewrite {
        action.regex_rewrite = Some(substitute(&regex.r#match, &regex.rewrite));
        return;
    }
    let Some(uri) = &of.uri else { return };
    if let Some(path) = uri.strip_prefix(FULL_MARK) {
        action.regex_rewrite = Some(substitute("/.*", &path.replace('\\', "\\\\")));
        return;
    }
    let uri = uri.strip_prefix(PREFIX_MARK).unwrap_or(uri);
    match matched.and_then(|matched| matched.uri.as_ref()) {
        // A prefix of path elements keeps the slash behind it, so that `/` would become `//`.
        Some(StringMatch::PathPrefix(prefix)) if uri.trim_end_matches('/').is_empty() => {
            let prefix = regex_escaped(prefix.trim_end_matches('/'));
            action.regex_rewrite = Some(substitute(&format!("^{prefix}(/?)(.*)"), r"/\2"));
        }
        Some(StringMatch::PathPrefix(_)) => uri.trim_end_matches('/').clone_into(&mut action.prefix_rewrite),
        _ => uri.clone_into(&mut action.prefix_rewrite),
    }
}

fn regex_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_ascii_alphanumeric() && !matches!(c, '/' | '_') && c.is_ascii() {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

fn substitute(pattern: &str, substitution: &str) -> matcher::RegexMatchAndSubstitute {
    matcher::RegexMatchAndSubstitute { pattern: Some(wire::regex(pattern)), substitution: substitution.to_owned() }
}

fn redirect_action(of: &HttpRedirect, port: u32) -> pb::RedirectAction {
    use pb::redirect_action::RedirectResponseCode as Code;
    let code = match of.redirect_code {
        Some(302) => Code::Found,
        Some(303) => Code::SeeOther,
        Some(307) => Code::TemporaryRedirect,
        Some(308) => Code::PermanentRedirect,
        _ => Code::MovedPermanently,
    };
    let path = of.uri.as_deref().map(|uri| match uri.strip_prefix(PREFIX_MARK) {
        Some(prefix) => redirect_action::PathRewriteSpecifier::PrefixRewrite(prefix.to_owned()),
        None => redirect_action::PathRewriteSpecifier::PathRedirect(uri.to_owned()),
    });
    let from_request = of.derive_port.as_deref() == Some("FROM_REQUEST_PORT");
    pb::RedirectAction {
        host_redirect: of.authority.clone().unwrap_or_default(),
        port_redirect: of.port.unwrap_or(if from_request { port } else { 0 }),
        response_code: code as i32,
        scheme_rewrite_specifier: of.scheme.clone().map(redirect_action::SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: path,
        ..Default::default()
    }
}

fn direct_response(of: &DirectResponse) -> pb::DirectResponseAction {
    use core::data_source::Specifier;
    let body = of.body.as_ref().and_then(|body| match (&body.string, &body.bytes) {
        (Some(text), _) => Some(Specifier::InlineString(text.clone())),
        (None, Some(bytes)) => Some(Specifier::InlineBytes(STANDARD.decode(bytes).ok()?)),
        (None, None) => None,
    });
    pb::DirectResponseAction {
        status: of.status,
        body: body.map(|specifier| core::DataSource { specifier: Some(specifier), ..Default::default() }),
        ..Default::default()
    }
}
