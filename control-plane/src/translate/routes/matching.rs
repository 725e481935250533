//! What a request must be: matches of routes.

use weft_proto::pb::envoy::config::route::v3::{self as pb, header_matcher, query_parameter_matcher, route_match};
use weft_proto::pb::envoy::r#type::matcher::v3::{self as matcher, string_matcher::MatchPattern};

use super::super::authorization;
use super::super::wire::{self, bool_value};
use super::Rules;
use crate::model::attribute::{is_claims, routing_claims};
use crate::model::config::GatewayRef;
use crate::model::kinds::meta::contains_all;
use crate::model::kinds::virtual_service::{HttpMatch, StringMatch};

impl Rules<'_, '_> {
    /// Whether a match can hold for this proxy, port and gateway at all.
    pub(super) fn applies(&self, of: &HttpMatch) -> bool {
        let namespace = &self.routes.key.namespace;
        let in_gateway = of.gateways.is_empty()
            || of.gateways.iter().any(|name| self.gateways.contains(&GatewayRef::parse(name, namespace)));
        let from_mesh = self.gateways.contains(&GatewayRef::Mesh);
        // Nobody verifies tokens on the way out.
        let by_claims = from_mesh && of.headers.keys().any(|name| is_claims(name));
        let from_source = !from_mesh
            || (contains_all(self.view.labels, &of.source_labels)
                && of.source_namespace.as_ref().is_none_or(|source| *source == self.view.proxy.namespace));
        of.port.is_none_or(|port| port == self.port) && in_gateway && from_source && !by_claims
    }
}

/// The paths of a match: two, where a proxyless gRPC client does not know path elements.
pub(super) fn paths(of: Option<&HttpMatch>, is_grpc: bool) -> Vec<route_match::PathSpecifier> {
    use route_match::PathSpecifier::{Path, PathSeparatedPrefix, Prefix, SafeRegex};
    let everything = || vec![Prefix("/".to_owned())];
    let Some(uri) = of.and_then(|of| of.uri.as_ref()) else { return everything() };
    match uri {
        StringMatch::Present => everything(),
        StringMatch::Exact(path) => vec![Path(path.clone())],
        StringMatch::Prefix(prefix) => vec![Prefix(prefix.clone())],
        StringMatch::Regex(text) => vec![SafeRegex(wire::regex(text))],
        StringMatch::PathPrefix(prefix) => match prefix.trim_end_matches('/') {
            "" => everything(),
            prefix if is_grpc => vec![Path(prefix.to_owned()), Prefix(format!("{prefix}/"))],
            prefix => vec![PathSeparatedPrefix(prefix.to_owned())],
        },
    }
}

/// A match with this path.
pub(super) fn route_match(of: Option<&HttpMatch>, path: route_match::PathSpecifier) -> pb::RouteMatch {
    let mut made = pb::RouteMatch { path_specifier: Some(path), ..Default::default() };
    let Some(of) = of else { return made };
    if of.ignore_uri_case {
        made.case_sensitive = bool_value(false);
    }
    for (name, value) in [(":method", &of.method), (":authority", &of.authority), (":scheme", &of.scheme)] {
        made.headers.extend(value.iter().map(|value| header(name, value)));
    }
    let both = of.headers.iter().map(|of| (of, false)).chain(of.without_headers.iter().map(|of| (of, true)));
    for ((name, value), invert_match) in both {
        if is_claims(name) {
            // A name that cannot be read is a claim that no token has.
            let path = routing_claims(name).unwrap_or_else(|| vec![name.clone()]);
            made.dynamic_metadata.push(claim(&path, value, invert_match));
        } else {
            made.headers.push(pb::HeaderMatcher { invert_match, ..header(name, value) });
        }
    }
    made.query_parameters = of.query_params.iter().map(|(name, value)| query(name, value)).collect();
    made
}

/// Whether a match takes every request.
pub(super) fn is_catch_all(of: &pb::RouteMatch) -> bool {
    let all_paths = match &of.path_specifier {
        Some(route_match::PathSpecifier::Prefix(prefix)) => prefix == "/",
        Some(route_match::PathSpecifier::SafeRegex(regex)) => regex.regex == ".*",
        _ => false,
    };
    all_paths && of.headers.is_empty() && of.query_parameters.is_empty() && of.dynamic_metadata.is_empty()
}

fn pattern(of: &StringMatch) -> Option<MatchPattern> {
    match of {
        StringMatch::Present => None,
        StringMatch::Exact(text) => Some(MatchPattern::Exact(text.clone())),
        StringMatch::Prefix(text) | StringMatch::PathPrefix(text) => Some(MatchPattern::Prefix(text.clone())),
        // Anything at all is the same as being there, and cheaper.
        StringMatch::Regex(text) if text == ".*" => None,
        StringMatch::Regex(text) => Some(MatchPattern::SafeRegex(wire::regex(text))),
    }
}

fn header(name: &str, value: &StringMatch) -> pb::HeaderMatcher {
    use header_matcher::HeaderMatchSpecifier::{PresentMatch, StringMatch};
    let specifier = pattern(value).map_or(PresentMatch(true), |pattern| StringMatch(wire::string_matcher(pattern)));
    pb::HeaderMatcher { name: name.to_owned(), header_match_specifier: Some(specifier), ..Default::default() }
}

/// A claim of a token that a gateway has verified.
fn claim(path: &[String], value: &StringMatch, invert: bool) -> matcher::MetadataMatcher {
    let anything = || MatchPattern::SafeRegex(wire::regex(".+"));
    let text = wire::string_matcher(pattern(value).unwrap_or_else(anything));
    matcher::MetadataMatcher { invert, ..authorization::claim(path, authorization::value_of(text)) }
}

fn query(name: &str, value: &StringMatch) -> pb::QueryParameterMatcher {
    use query_parameter_matcher::QueryParameterMatchSpecifier::{PresentMatch, StringMatch};
    let specifier = pattern(value).map_or(PresentMatch(true), |pattern| StringMatch(wire::string_matcher(pattern)));
    pb::QueryParameterMatcher { name: name.to_owned(), query_parameter_match_specifier: Some(specifier) }
}
