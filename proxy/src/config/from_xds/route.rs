//! Routes: which requests, and what does not forward them.

use weft_proto::pb::envoy::config::route::v3 as pb;
use weft_proto::pb::google::protobuf as wkt;

use super::ctx::{Ctx, Out};
use super::matcher;
use super::route_match::Template;
use super::{access_log, headers, per_filter, route_action, route_match, value};
use crate::config::{DataSource, DirectResponse, RedirectAction, RedirectPath, Route, RouteKind};

/// A route.
pub(super) fn route(c: &Ctx<'_>, r: &pb::Route, max_body: usize) -> Out<Route> {
    use pb::route::Action as A;
    let matched = c.required("match", &r.r#match, route_match::route_match);
    let action = match &r.action {
        None => c.refuse("an action is required: route, redirect, direct_response or non_forwarding_action"),
        Some(A::Route(a)) => {
            let template = match &matched {
                Err(_) => Template::Refused,
                Ok(m) => m.variables.as_ref().map_or(Template::Absent, Template::Variables),
            };
            route_action::route_action(&c.field("route"), a, template).map(|a| RouteKind::Forward(Box::new(a)))
        }
        Some(A::Redirect(a)) => redirect(&c.field("redirect"), a).map(|a| RouteKind::Redirect(Box::new(a))),
        Some(A::DirectResponse(a)) => direct(&c.field("direct_response"), a, max_body).map(RouteKind::Direct),
        Some(A::NonForwardingAction(_)) => Ok(RouteKind::NonForwarding),
        Some(A::FilterAction(_)) => c.field("filter_action").unsupported("a filter action"),
    };
    let headers = headers::level(
        c,
        (&r.request_headers_to_add, &r.request_headers_to_remove),
        (&r.response_headers_to_add, &r.response_headers_to_remove),
    );
    let per_filter = per_filter::per_filter(c, &r.typed_per_filter_config);
    Ok(Route {
        name: r.name.clone(),
        matches: matched?.route_match,
        action: action?,
        metadata: value::metadata_or_empty(&r.metadata),
        headers: headers?,
        per_filter: per_filter?,
        request_body_buffer_limit: body_limit(&r.request_body_buffer_limit, &r.per_request_buffer_limit_bytes),
        stat_prefix: r.stat_prefix.clone(),
    })
}

/// The present field wins over the deprecated one.
pub(super) fn body_limit(limit: &Option<wkt::UInt64Value>, deprecated: &Option<wkt::UInt32Value>) -> Option<u64> {
    limit.as_ref().map(|n| n.value).or(value::u32_opt(deprecated).map(u64::from))
}

fn redirect(c: &Ctx<'_>, r: &pb::RedirectAction) -> Out<RedirectAction> {
    use pb::redirect_action::{PathRewriteSpecifier as P, RedirectResponseCode as Code, SchemeRewriteSpecifier as S};
    headers::plain_value(&c.field("host_redirect"), &r.host_redirect)?;
    let (https, scheme) = match &r.scheme_rewrite_specifier {
        Some(S::HttpsRedirect(on)) => (*on, String::new()),
        Some(S::SchemeRedirect(scheme)) => (false, scheme.clone()),
        None => (false, String::new()),
    };
    let path = match &r.path_rewrite_specifier {
        None => RedirectPath::Keep,
        // An empty path replaces nothing.
        Some(P::PathRedirect(path)) if path.is_empty() => RedirectPath::Keep,
        Some(P::PathRedirect(path)) => {
            let here = c.field("path_redirect");
            headers::plain_value(&here, path)?;
            if r.strip_query && path.contains('?') {
                here.warn(format!(
                    "`strip_query` is set to true, but `path_redirect` contains query string and it will not be stripped: {path}"
                ));
            }
            RedirectPath::Replace(path.clone())
        }
        Some(P::PrefixRewrite(prefix)) => {
            headers::plain_value(&c.field("prefix_rewrite"), prefix)?;
            RedirectPath::Prefix(prefix.clone())
        }
        Some(P::RegexRewrite(r)) => {
            let (pattern, substitution) = matcher::substitute(&c.field("regex_rewrite"), r)?;
            RedirectPath::Regex(pattern, substitution)
        }
        Some(P::PathRewrite(_)) => return c.field("path_rewrite").unsupported("a formatted redirect path"),
    };
    Ok(RedirectAction {
        https,
        scheme,
        host: r.host_redirect.clone(),
        port: c.port("port_redirect", r.port_redirect)?,
        path,
        status: match c.enumeration::<Code>("response_code", r.response_code)? {
            Code::MovedPermanently => 301,
            Code::Found => 302,
            Code::SeeOther => 303,
            Code::TemporaryRedirect => 307,
            Code::PermanentRedirect => 308,
        },
        strip_query: r.strip_query,
    })
}

fn direct(c: &Ctx<'_>, d: &pb::DirectResponseAction, max_body: usize) -> Out<DirectResponse> {
    let body = c.opt("body", &d.body, |c, b| {
        let body = value::data_source(c, b)?;
        let size = match &body {
            DataSource::Inline(b) => b.len(),
            DataSource::File { path, .. } => match std::fs::metadata(path) {
                Ok(m) => usize::try_from(m.len()).unwrap_or(usize::MAX),
                Err(e) => return c.field("filename").refuse(format!("Invalid path: {path}: {e}")),
            },
        };
        c.ensure(size <= max_body, || format!("response body size is {size} bytes; maximum is {max_body}"))?;
        Ok(body)
    });
    let body_format = c.opt("body_format", &d.body_format, access_log::format);
    let status = c.bounded("status", d.status, 200, 599)?;
    Ok(DirectResponse { status: u16::try_from(status).unwrap_or(200), body: body?, body_format: body_format? })
}
