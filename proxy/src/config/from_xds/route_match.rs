//! Which requests a route takes.

use std::collections::BTreeSet;

use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::config::route::v3 as pb;
use weft_proto::pb::envoy::extensions::path::r#match::uri_template::v3 as template;

use super::ctx::{Ctx, Out, type_name};
use super::{matcher, uri_template, value};
use crate::config::{PathMatch, RouteMatch, TlsMatch};

/// What is known of the URI template that matches a route.
#[derive(Clone, Copy)]
pub(super) enum Template<'a> {
    /// The match is refused: what depends on it is not checked.
    Refused,
    /// It is matched by something else.
    Absent,
    /// It has these variables.
    Variables(&'a BTreeSet<String>),
}

/// A match, and the variables of its URI template if it has one.
pub(super) struct Matched {
    pub(super) route_match: RouteMatch,
    pub(super) variables: Option<BTreeSet<String>>,
}

/// A route match.
pub(super) fn route_match(c: &Ctx<'_>, m: &pb::RouteMatch) -> Out<Matched> {
    // Dropped in silence it would make the route take more requests than it may.
    if !m.filter_state.is_empty() {
        return c.field("filter_state").unsupported("a filter state matcher");
    }
    let path = path(c, m);
    let headers = c.each("headers", &m.headers, matcher::header);
    let query = c.each("query_parameters", &m.query_parameters, matcher::query);
    let cookies = c.each("cookies", &m.cookies, matcher::cookie);
    let dynamic_metadata = c.each("dynamic_metadata", &m.dynamic_metadata, matcher::metadata);
    let runtime_fraction = c.opt("runtime_fraction", &m.runtime_fraction, value::runtime_fraction);
    let (path, variables) = path?;
    Ok(Matched {
        route_match: RouteMatch {
            path,
            case_sensitive: value::bool_or(&m.case_sensitive, true),
            runtime_fraction: runtime_fraction?,
            headers: headers?,
            query: query?,
            cookies: cookies?,
            grpc: m.grpc.is_some(),
            tls: m.tls_context.as_ref().map(|t| TlsMatch {
                presented: t.presented.as_ref().map(|b| b.value),
                validated: t.validated.as_ref().map(|b| b.value),
            }),
            dynamic_metadata: dynamic_metadata?,
        },
        variables,
    })
}

fn path(c: &Ctx<'_>, m: &pb::RouteMatch) -> Out<(PathMatch, Option<BTreeSet<String>>)> {
    use pb::route_match::PathSpecifier as P;
    let path = match &m.path_specifier {
        None => {
            return c.refuse(
                "a path specifier is required: prefix, path, safe_regex, path_separated_prefix, path_match_policy or connect_matcher",
            );
        }
        Some(P::Prefix(p)) => PathMatch::Prefix(p.clone()),
        Some(P::Path(p)) => PathMatch::Exact(p.clone()),
        Some(P::SafeRegex(r)) => PathMatch::Regex(matcher::regex(&c.field("safe_regex"), r)?),
        Some(P::ConnectMatcher(_)) => PathMatch::Connect,
        Some(P::PathSeparatedPrefix(p)) => {
            let ok = p.len() >= 2 && !p.contains(['?', '#']) && !p.ends_with('/');
            c.field("path_separated_prefix")
                .ensure(ok, || r#"value does not match regex pattern "^[^?#]+[^?#/]$""#.into())?;
            PathMatch::SeparatedPrefix(p.clone())
        }
        Some(P::PathMatchPolicy(ext)) => {
            let (path, variables) = template(&c.field("path_match_policy"), ext)?;
            return Ok((path, Some(variables)));
        }
    };
    Ok((path, None))
}

fn template(c: &Ctx<'_>, ext: &core::TypedExtensionConfig) -> Out<(PathMatch, BTreeSet<String>)> {
    match &ext.typed_config {
        Some(any) if type_name(any) == "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig" => {
            let c = c.field("typed_config");
            let config: template::UriTemplateMatchConfig = c.unpack(any)?;
            let text = c.non_empty("path_template", &config.path_template)?;
            let (pattern, variables) = uri_template::pattern(&c.field("path_template"), &text)?;
            Ok((PathMatch::Template { template: text, pattern }, variables))
        }
        any => c.unknown_extension(&ext.name, any.as_ref()),
    }
}
