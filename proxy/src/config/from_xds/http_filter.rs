//! HTTP filters and the order they must stand in.

use std::time::Duration;

use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::extensions::filters::http::{
    buffer::v3 as buffer, grpc_stats::v3 as grpc_stats, header_mutation::v3 as header_mutation,
    health_check::v3 as health_check, on_demand::v3 as on_demand, router::v3 as router,
};
use weft_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;

use super::ctx::{Ctx, Out, type_name};
use super::extension::{self, Family};
use super::network_filter::terminal_last;
use super::{access_log, ext_authz, fault, headers, jwt, matcher, rate_limit, rbac, source, telemetry, value};
use crate::config::{
    AppendAction, ConfigError, Extension, ExtensionDiscovery, GrpcStatsFilter, HeaderMutationFilter, HealthCheckFilter,
    HttpFilter, HttpFilterKind, OnDemandClusters, PerMillion, QueryMutation, RouterFilter,
};

/// Headers that `strict_check_headers` may name.
const STRICT_HEADERS: [&str; 5] = [
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-max-retries",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
];

/// **Source**: `OnDemandCds.timeout`.
const DEFAULT_ODCDS_TIMEOUT: Duration = Duration::from_secs(5);

/// Filters that there are, by the full name of their message.
const KNOWN: [&str; 15] = [
    "envoy.extensions.filters.http.router.v3.Router",
    "envoy.extensions.filters.http.cors.v3.Cors",
    "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
    "envoy.extensions.filters.http.health_check.v3.HealthCheck",
    "envoy.extensions.filters.http.buffer.v3.Buffer",
    "envoy.extensions.filters.http.fault.v3.HTTPFault",
    "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
    "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
    "envoy.extensions.filters.http.on_demand.v3.OnDemand",
    "envoy.extensions.filters.http.rbac.v3.RBAC",
    "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
    "stats.PluginConfig",
    "io.istio.http.peer_metadata.Config",
];

/// The filters of a chain: the last one ends it, and no other does.
pub(super) fn chain(
    c: &Ctx<'_>,
    field: &'static str,
    filters: &[pb::HttpFilter],
    kind_of_chain: &str,
) -> Out<Vec<HttpFilter>> {
    let mut converted = c.each(field, filters, filter)?;
    let count = converted.len();
    // A skipped optional filter keeps its place: paths name what stands in the document, and the router must stand last in it.
    for (i, f) in converted.iter_mut().enumerate() {
        let Some(f) = f else { continue };
        let (here, last) = (c.index(field, i), i + 1 == count);
        let fixed = match &mut f.kind {
            HttpFilterKind::Discovered(d) => {
                d.last = last;
                d.default.as_ref()
            }
            kind => Some(&*kind),
        };
        // What is discovered is checked when it comes.
        let (kind, terminal) = fixed.map_or(("", last), extension);
        terminal_last(&here, &f.name, kind, kind_of_chain, terminal, last)?;
        here.ensure(!(terminal && f.disabled), || {
            format!("Error: the last (terminal) filter ({}) in the chain cannot be disabled by default.", f.name)
        })?;
    }
    Ok(converted.into_iter().flatten().collect())
}

/// HTTP filters, for what is discovered.
const FAMILY: Family<HttpFilterKind> = Family { known: &KNOWN, convert: kind };

/// Whether a filter may stand where its configuration is discovered for, in Envoy's words.
///
/// # Errors
/// Why it may not.
pub fn fits(d: &ExtensionDiscovery, name: &str, found: &Extension) -> Result<(), ConfigError> {
    let (kind, terminal) = extension(&found.kind);
    extension::fits(d, name, found, Some((kind, terminal, "http")))
}

/// A discovered configuration.
pub(super) fn discovered(c: &Ctx<'_>, t: &core::TypedExtensionConfig) -> Out<Extension> {
    extension::discovered(c, t, &FAMILY)
}

/// The name Envoy registers a filter by, and whether it ends a chain.
fn extension(kind: &HttpFilterKind) -> (&'static str, bool) {
    match kind {
        HttpFilterKind::Router(_) => ("envoy.filters.http.router", true),
        HttpFilterKind::Cors => ("envoy.filters.http.cors", false),
        HttpFilterKind::HeaderMutation(_) => ("envoy.filters.http.header_mutation", false),
        HttpFilterKind::HealthCheck(_) => ("envoy.filters.http.health_check", false),
        HttpFilterKind::Buffer(_) => ("envoy.filters.http.buffer", false),
        HttpFilterKind::Fault(_) => ("envoy.filters.http.fault", false),
        HttpFilterKind::Rbac(_) => ("envoy.filters.http.rbac", false),
        HttpFilterKind::Jwt(_) => ("envoy.filters.http.jwt_authn", false),
        HttpFilterKind::ExtAuthz(_) => ("envoy.filters.http.ext_authz", false),
        HttpFilterKind::RateLimit(_) => ("envoy.filters.http.ratelimit", false),
        HttpFilterKind::GrpcWeb => ("envoy.filters.http.grpc_web", false),
        HttpFilterKind::GrpcStats(_) => ("envoy.filters.http.grpc_stats", false),
        HttpFilterKind::IstioStats(_) => ("istio.stats", false),
        HttpFilterKind::PeerMetadata(_) => ("envoy.filters.http.peer_metadata", false),
        HttpFilterKind::OnDemand(_) => ("envoy.filters.http.on_demand", false),
        // None stands for another.
        HttpFilterKind::Discovered(_) => ("", false),
    }
}

/// A filter; `None`: unknown and optional.
fn filter(c: &Ctx<'_>, f: &pb::HttpFilter) -> Out<Option<HttpFilter>> {
    use pb::http_filter::ConfigType as T;
    let name = c.non_empty("name", &f.name)?;
    let any = match &f.config_type {
        Some(T::ConfigDiscovery(d)) => {
            let kind = HttpFilterKind::Discovered(Box::new(extension::discovery(
                &c.field("config_discovery"),
                &name,
                d,
                &FAMILY,
            )?));
            return Ok(Some(HttpFilter { name, disabled: f.disabled, kind }));
        }
        Some(T::TypedConfig(any)) => Some(any),
        None => None,
    };
    let here = c.field("typed_config");
    let kind = match any.map(|any| kind(&here, any)) {
        Some(Some(kind)) => kind?,
        _ if f.is_optional => {
            here.skip(format!("the optional filter '{name}' is unknown and left out"));
            return Ok(None);
        }
        Some(None) => return here.unknown_extension(&name, any),
        None => return c.unknown_extension(&name, None),
    };
    Ok(Some(HttpFilter { name, disabled: f.disabled, kind }))
}

/// `None`: nobody here implements it.
fn kind(c: &Ctx<'_>, any: &weft_proto::pb::google::protobuf::Any) -> Option<Out<HttpFilterKind>> {
    let name = type_name(any);
    if !KNOWN.contains(&&*name) {
        return None;
    }
    Some(match &*name {
        "envoy.extensions.filters.http.router.v3.Router" => {
            c.unpack(any).and_then(|r| router(c, &r)).map(HttpFilterKind::Router)
        }
        "envoy.extensions.filters.http.cors.v3.Cors" => Ok(HttpFilterKind::Cors),
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation" => {
            c.unpack(any).and_then(|h: header_mutation::HeaderMutation| {
                let mut filter = mutations(c, &h.mutations)?;
                filter.most_specific_wins = h.most_specific_header_mutations_wins;
                Ok(HttpFilterKind::HeaderMutation(filter))
            })
        }
        "envoy.extensions.filters.http.health_check.v3.HealthCheck" => {
            c.unpack(any).and_then(|h| health_check(c, &h)).map(HttpFilterKind::HealthCheck)
        }
        "envoy.extensions.filters.http.buffer.v3.Buffer" => {
            c.unpack(any).and_then(|b| buffer(c, &b)).map(HttpFilterKind::Buffer)
        }
        "envoy.extensions.filters.http.fault.v3.HTTPFault" => {
            c.unpack(any).and_then(|f| fault::fault(c, &f)).map(|f| HttpFilterKind::Fault(Box::new(f)))
        }
        "envoy.extensions.filters.http.rbac.v3.RBAC" => {
            c.unpack(any).and_then(|r| rbac::http(c, &r)).map(|r| HttpFilterKind::Rbac(Box::new(r)))
        }
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication" => {
            c.unpack(any).and_then(|j| jwt::filter(c, &j)).map(|j| HttpFilterKind::Jwt(Box::new(j)))
        }
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz" => {
            c.unpack(any).and_then(|e| ext_authz::http(c, &e)).map(|e| HttpFilterKind::ExtAuthz(Box::new(e)))
        }
        "envoy.extensions.filters.http.ratelimit.v3.RateLimit" => {
            c.unpack(any).and_then(|r| rate_limit::http(c, &r)).map(|r| HttpFilterKind::RateLimit(Box::new(r)))
        }
        "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb" => Ok(HttpFilterKind::GrpcWeb),
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig" => {
            c.unpack(any).map(|g| HttpFilterKind::GrpcStats(grpc_stats(&g)))
        }
        "stats.PluginConfig" => c.unpack(any).and_then(|s| telemetry::stats(c, &s)).map(HttpFilterKind::IstioStats),
        "io.istio.http.peer_metadata.Config" => {
            c.unpack(any).and_then(|p| telemetry::peers(c, &p)).map(HttpFilterKind::PeerMetadata)
        }
        "envoy.extensions.filters.http.on_demand.v3.OnDemand" => c
            .unpack(any)
            .and_then(|o: on_demand::OnDemand| c.opt("odcds", &o.odcds, odcds))
            .map(HttpFilterKind::OnDemand),
        _ => return None,
    })
}

fn router(c: &Ctx<'_>, r: &router::Router) -> Out<RouterFilter> {
    let upstream_log = c.each("upstream_log", &r.upstream_log, access_log::access_log);
    let strict_check_headers = c.each("strict_check_headers", &r.strict_check_headers, |c, h| {
        c.ensure(STRICT_HEADERS.contains(&h.as_str()), || {
            format!("value must be in list [{}]", STRICT_HEADERS.join(", "))
        })?;
        Ok(h.clone())
    });
    if !r.upstream_http_filters.is_empty() {
        return c.field("upstream_http_filters").unsupported("a chain of upstream filters");
    }
    Ok(RouterFilter {
        suppress_envoy_headers: r.suppress_envoy_headers,
        strict_check_headers: strict_check_headers?,
        respect_expected_rq_timeout: r.respect_expected_rq_timeout,
        upstream_log: upstream_log?,
    })
}

/// The mutations of a `header_mutation` filter, in the chain or for some routes.
pub(super) fn mutations(c: &Ctx<'_>, m: &Option<header_mutation::Mutations>) -> Out<HeaderMutationFilter> {
    let Some(m) = m else {
        return Ok(HeaderMutationFilter::default());
    };
    let c = c.field("mutations");
    let request = headers::mutations(&c, "request_mutations", &m.request_mutations);
    let response = headers::mutations(&c, "response_mutations", &m.response_mutations);
    let request_trailers = headers::mutations(&c, "request_trailers_mutations", &m.request_trailers_mutations);
    let response_trailers = headers::mutations(&c, "response_trailers_mutations", &m.response_trailers_mutations);
    let query = c.each("query_parameter_mutations", &m.query_parameter_mutations, query_mutation);
    Ok(HeaderMutationFilter {
        request: request?,
        response: response?,
        request_trailers: request_trailers?,
        response_trailers: response_trailers?,
        query: query?,
        most_specific_wins: false,
    })
}

fn query_mutation(c: &Ctx<'_>, m: &core::KeyValueMutation) -> Out<QueryMutation> {
    use core::key_value_append::KeyValueAppendAction as A;
    use weft_proto::pb::google::protobuf::value::Kind;
    c.ensure(m.append.is_some() || !m.remove.is_empty(), || "One of 'append'/'remove' must be specified.".into())?;
    let Some(append) = &m.append else {
        return Ok(QueryMutation::Remove(m.remove.clone()));
    };
    c.ensure(m.remove.is_empty(), || "Only one of 'append'/'remove can be specified.".into())?;
    let c = c.field("append");
    let Some(record) = &append.record else {
        return c.refuse("No record specified for append mutation.");
    };
    let r = c.field("record");
    let key = r.non_empty("key", &record.key)?;
    let Some(Kind::StringValue(value)) = record.value.as_ref().and_then(|v| v.kind.as_ref()) else {
        return r.field("value").refuse("Only string type value is allowed for record value.");
    };
    let value = value.clone();
    let action = match c.enumeration::<A>("action", append.action)? {
        A::AppendIfExistsOrAdd => AppendAction::AppendIfExistsOrAdd,
        A::AddIfAbsent => AppendAction::AddIfAbsent,
        A::OverwriteIfExistsOrAdd => AppendAction::OverwriteIfExistsOrAdd,
        A::OverwriteIfExists => AppendAction::OverwriteIfExists,
    };
    Ok(QueryMutation::Append { key, value, action })
}

fn health_check(c: &Ctx<'_>, h: &health_check::HealthCheck) -> Out<HealthCheckFilter> {
    let pass_through = c.required("pass_through_mode", &h.pass_through_mode, |_, b| Ok(b.value));
    let headers = c.each("headers", &h.headers, matcher::header);
    let healthy = c.each_key("cluster_min_healthy_percentages", &h.cluster_min_healthy_percentages, |c, _, p| {
        let percent = value::percent(c, p)?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1,000,000")]
        Ok(PerMillion((percent * 10_000.0).round() as u32))
    });
    let (pass_through, healthy) = (pass_through?, healthy?);
    let cache_time = c.timeout("cache_time", &h.cache_time, None)?;
    if !pass_through && cache_time.is_some() {
        return c.field("cache_time").refuse("cache_time_ms must not be set when path_through_mode is disabled");
    }
    Ok(HealthCheckFilter {
        pass_through,
        cache_time,
        cluster_min_healthy: healthy.into_iter().collect(),
        headers: headers?,
    })
}

/// `max_request_bytes`.
pub(super) fn buffer(c: &Ctx<'_>, b: &buffer::Buffer) -> Out<u64> {
    c.required("max_request_bytes", &b.max_request_bytes, |c, n| {
        c.ensure(n.value > 0, || "value must be greater than 0".into())?;
        Ok(u64::from(n.value))
    })
}

/// Clusters on demand, in the chain or for some routes.
pub(super) fn odcds(c: &Ctx<'_>, o: &on_demand::OnDemandCds) -> Out<OnDemandClusters> {
    if !o.resources_locator.is_empty() {
        return c.field("resources_locator").unsupported("a resource locator");
    }
    let source = c.required("source", &o.source, source::delta);
    let timeout = c.duration("timeout", &o.timeout)?.unwrap_or(DEFAULT_ODCDS_TIMEOUT);
    Ok(OnDemandClusters { source: source?, timeout })
}

fn grpc_stats(g: &grpc_stats::FilterConfig) -> GrpcStatsFilter {
    use grpc_stats::filter_config::PerMethodStatSpecifier as S;
    let (all_methods, allowlist) = match &g.per_method_stat_specifier {
        // Since Envoy 1.17 no method has its own stats unless it is asked for.
        None => (false, Vec::new()),
        Some(S::StatsForAllMethods(b)) => (b.value, Vec::new()),
        Some(S::IndividualMethodStatsAllowlist(list)) => {
            (false, list.services.iter().map(|s| (s.name.clone(), s.method_names.clone())).collect())
        }
    };
    GrpcStatsFilter {
        all_methods,
        allowlist,
        emit_filter_state: g.emit_filter_state,
        upstream_stats: g.enable_upstream_stats,
        replace_dots: g.replace_dots_in_grpc_service_name,
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::pb::google::protobuf::Any;

    use super::*;
    use crate::config::from_xds::Environment;
    use crate::config::from_xds::ctx::Shared;

    #[test]
    fn every_known_filter_is_converted() {
        let environment = Environment::default();
        let shared = Shared::new(&environment);
        let c = Ctx::root(&shared);
        for name in KNOWN {
            let any = Any { type_url: format!("type.googleapis.com/{name}"), value: Vec::new() };
            assert!(kind(&c, &any).is_some(), "{name}");
        }
    }

    #[test]
    fn what_is_discovered_must_fit_its_place() {
        let source = crate::config::ConfigSource { from: crate::config::Source::Ads, initial_fetch_timeout: None };
        let types = vec![KNOWN[0].to_owned(), KNOWN[1].to_owned()];
        let mut d = ExtensionDiscovery { source, default: None, warm: true, types, last: false };
        let router = Extension { type_name: KNOWN[0].into(), kind: HttpFilterKind::Router(RouterFilter::default()) };
        let cors = Extension { type_name: KNOWN[1].into(), kind: HttpFilterKind::Cors };
        let web = Extension { type_name: KNOWN[6].into(), kind: HttpFilterKind::GrpcWeb };
        assert!(fits(&d, "f", &cors).is_ok());
        assert!(fits(&d, "f", &router).unwrap_err().reason.contains("must be the last filter"));
        assert!(fits(&d, "f", &web).unwrap_err().reason.starts_with("Error: filter config has type URL"));
        d.last = true;
        assert!(fits(&d, "f", &router).is_ok());
        assert!(fits(&d, "f", &cors).unwrap_err().reason.contains("is the last filter"));
    }
}
