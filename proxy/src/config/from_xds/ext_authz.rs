//! External authorization. Whatever is not understood is refused: left out, it would let more in.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_proto::pb::envoy::config::common::mutation_rules::v3 as rules;
use weft_proto::pb::envoy::extensions::filters::http::ext_authz::v3 as pb;
use weft_proto::pb::envoy::extensions::filters::network::ext_authz::v3 as network;
use weft_proto::pb::envoy::r#type::matcher::v3::ListStringMatcher;
use weft_proto::pb::envoy::r#type::v3::HttpStatus;

use super::ctx::{Ctx, Out};
use super::{headers, matcher, service, value};
use crate::config::{
    AuthzBody, AuthzHttp, AuthzPeers, AuthzPerRoute, AuthzService, ExtAuthz, HeaderMutations, MutationRules,
    NetworkExtAuthz, StringMatcher,
};

/// Envoy's default for the time a service has.
const TIMEOUT: Duration = Duration::from_millis(200);
/// Envoy's default for requests nobody can say anything about.
const STATUS_ON_ERROR: u16 = 403;

/// The HTTP filter.
pub(super) fn http(c: &Ctx<'_>, f: &pb::ExtAuthz) -> Out<ExtAuthz> {
    for (field, set) in [
        ("filter_metadata", f.filter_metadata.is_some()),
        ("emit_filter_state_stats", f.emit_filter_state_stats),
        ("shadow_mode", f.shadow_mode),
    ] {
        if set {
            return c.field(field).unsupported("this setting of external authorization");
        }
    }
    let services = match &f.services {
        None => return c.refuse("a service is required: grpc_service or http_service"),
        Some(pb::ext_authz::Services::GrpcService(g)) => {
            service::version(c, f.transport_api_version)?;
            AuthzService::Grpc(Box::new(service::grpc(&c.field("grpc_service"), g, Some(TIMEOUT))?))
        }
        Some(pb::ext_authz::Services::HttpService(h)) => {
            AuthzService::Http(Box::new(http_service(&c.field("http_service"), h)?))
        }
    };
    let list = |field, list: &Option<ListStringMatcher>| c.opt(field, list, strings);
    let allowed = list("allowed_headers", &f.allowed_headers)?;
    let disallowed = list("disallowed_headers", &f.disallowed_headers)?.unwrap_or_default();
    let allowed = match &f.services {
        Some(pb::ext_authz::Services::HttpService(h)) => http_allowed(c, h, allowed)?,
        _ => allowed,
    };
    Ok(ExtAuthz {
        service: services,
        failure_mode_allow: f.failure_mode_allow,
        failure_mode_allow_header_add: f.failure_mode_allow_header_add,
        body: c.opt("with_request_body", &f.with_request_body, body)?,
        clear_route_cache: f.clear_route_cache,
        status_on_error: status(c, "status_on_error", &f.status_on_error, STATUS_ON_ERROR)?,
        validate_mutations: f.validate_mutations,
        metadata_namespaces: f.metadata_context_namespaces.clone(),
        route_metadata_namespaces: f.route_metadata_context_namespaces.clone(),
        enabled: c.opt("filter_enabled", &f.filter_enabled, value::runtime_fraction)?,
        enabled_metadata: c.opt("filter_enabled_metadata", &f.filter_enabled_metadata, matcher::metadata)?,
        deny_at_disable: c.opt("deny_at_disable", &f.deny_at_disable, value::runtime_flag)?,
        peers: AuthzPeers {
            certificate: f.include_peer_certificate,
            tls_session: f.include_tls_session,
            labels: labels(c, &f.bootstrap_metadata_labels_key),
        },
        stat_prefix: f.stat_prefix.clone(),
        allowed_headers: allowed,
        disallowed_headers: disallowed,
        charge_cluster: value::bool_or(&f.charge_cluster_response_stats, true),
        raw_headers: f.encode_raw_headers,
        rules: c.opt("decoder_header_mutation_rules", &f.decoder_header_mutation_rules, mutation_rules)?,
        ingest_metadata: value::bool_or(&f.enable_dynamic_metadata_ingestion, true),
        max_denied_body: f.max_denied_response_body_bytes as usize,
        limit_response_headers: f.enforce_response_header_limits,
    })
}

/// The filter for some routes.
pub(super) fn per_route(c: &Ctx<'_>, p: &pb::ExtAuthzPerRoute) -> Out<AuthzPerRoute> {
    use pb::ext_authz_per_route::Override as O;
    let settings = match &p.r#override {
        None => return c.refuse("an override is required: disabled or check_settings"),
        Some(O::Disabled(disabled)) => return Ok(AuthzPerRoute { disabled: *disabled, ..AuthzPerRoute::default() }),
        Some(O::CheckSettings(s)) => s,
    };
    let c = c.field("check_settings");
    let both = settings.disable_request_body_buffering && settings.with_request_body.is_some();
    c.ensure(!both, || {
        "Invalid configuration for check_settings. Only one of disable_request_body_buffering or with_request_body can be set.".into()
    })?;
    use pb::check_settings::ServiceOverride as S;
    let service = match &settings.service_override {
        None => None,
        Some(S::GrpcService(g)) => {
            Some(AuthzService::Grpc(Box::new(service::grpc(&c.field("grpc_service"), g, Some(TIMEOUT))?)))
        }
        Some(S::HttpService(h)) => Some(AuthzService::Http(Box::new(http_service(&c.field("http_service"), h)?))),
    };
    Ok(AuthzPerRoute {
        disabled: false,
        context: settings.context_extensions.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        no_body: settings.disable_request_body_buffering,
        body: c.opt("with_request_body", &settings.with_request_body, body)?,
        service,
    })
}

/// The network filter.
pub(super) fn network(c: &Ctx<'_>, f: &network::ExtAuthz) -> Out<NetworkExtAuthz> {
    for (field, set) in [("send_tls_alert_on_denial", f.send_tls_alert_on_denial), ("shadow_mode", f.shadow_mode)] {
        if set {
            return c.field(field).unsupported("this setting of external authorization");
        }
    }
    let stat_prefix = c.non_empty("stat_prefix", &f.stat_prefix);
    service::version(c, f.transport_api_version)?;
    let service = c.required("grpc_service", &f.grpc_service, |c, g| service::grpc(c, g, Some(TIMEOUT)));
    Ok(NetworkExtAuthz {
        stat_prefix: stat_prefix?,
        service: Box::new(service?),
        failure_mode_allow: f.failure_mode_allow,
        peers: AuthzPeers {
            certificate: f.include_peer_certificate,
            tls_session: f.include_tls_session,
            labels: labels(c, &f.bootstrap_metadata_labels_key),
        },
        enabled_metadata: c.opt("filter_enabled_metadata", &f.filter_enabled_metadata, matcher::metadata)?,
        metadata_namespaces: f.metadata_context_namespaces.clone(),
    })
}

fn http_service(c: &Ctx<'_>, h: &pb::HttpService) -> Out<AuthzHttp> {
    let server = c.required("server_uri", &h.server_uri, service::http_uri);
    let path = |field: &'static str, path: &str, what: &str| {
        c.field(field).ensure(path.is_empty() || path.starts_with('/'), || format!("{what} should start with \"/\"."))
    };
    path("path_prefix", &h.path_prefix, "path_prefix")?;
    path("path_override", &h.path_override, "path_override")?;
    c.field("path_override").ensure(h.path_prefix.is_empty() || h.path_override.is_empty(), || {
        "Only one of path_prefix or path_override may be set.".into()
    })?;
    let request = h.authorization_request.clone().unwrap_or_default();
    let response = h.authorization_response.clone().unwrap_or_default();
    let add = {
        let c = c.field("authorization_request");
        HeaderMutations(c.each("headers_to_add", &request.headers_to_add, headers::set)?)
    };
    let c_response = c.field("authorization_response");
    let list = |field, list: &Option<ListStringMatcher>| -> Out<Vec<StringMatcher>> {
        Ok(c_response.opt(field, list, strings)?.unwrap_or_default())
    };
    Ok(AuthzHttp {
        server: server?,
        path_prefix: h.path_prefix.clone(),
        path_override: h.path_override.clone(),
        headers_to_add: add,
        upstream: list("allowed_upstream_headers", &response.allowed_upstream_headers)?,
        upstream_append: list("allowed_upstream_headers_to_append", &response.allowed_upstream_headers_to_append)?,
        client: list("allowed_client_headers", &response.allowed_client_headers)?,
        client_on_success: list("allowed_client_headers_on_success", &response.allowed_client_headers_on_success)?,
        metadata: list("dynamic_metadata_from_headers", &response.dynamic_metadata_from_headers)?,
        retry: c.opt("retry_policy", &h.retry_policy, |c, r| service::retry(c, r, ""))?,
    })
}

/// The fields an HTTP service is told: some always.
fn http_allowed(
    c: &Ctx<'_>,
    h: &pb::HttpService,
    allowed: Option<Vec<StringMatcher>>,
) -> Out<Option<Vec<StringMatcher>>> {
    let deprecated = h.authorization_request.as_ref().and_then(|r| r.allowed_headers.as_ref());
    c.field("allowed_headers").ensure(allowed.is_none() || deprecated.is_none(), || {
        "Invalid duplicate configuration for allowed_headers.".into()
    })?;
    let mut list = match deprecated {
        Some(list) => strings(&c.field("http_service").field("authorization_request").field("allowed_headers"), list)?,
        None => allowed.unwrap_or_default(),
    };
    list.extend(["authorization", ":method", ":path", ":authority"].map(StringMatcher::exact));
    Ok(Some(list))
}

fn strings(c: &Ctx<'_>, list: &ListStringMatcher) -> Out<Vec<StringMatcher>> {
    c.field("patterns").ensure(!list.patterns.is_empty(), || "value must contain at least 1 item(s)".into())?;
    c.each("patterns", &list.patterns, matcher::string)
}

fn body(c: &Ctx<'_>, b: &pb::BufferSettings) -> Out<AuthzBody> {
    c.field("max_request_bytes").ensure(b.max_request_bytes > 0, || "value must be greater than 0".into())?;
    Ok(AuthzBody {
        max_bytes: u64::from(b.max_request_bytes),
        allow_partial: b.allow_partial_message,
        as_bytes: b.pack_as_bytes,
    })
}

/// A status that answers a request; one that Envoy does not know counts as not set.
pub(super) fn status(c: &Ctx<'_>, field: &'static str, s: &Option<HttpStatus>, default: u16) -> Out<u16> {
    let Some(s) = s else { return Ok(default) };
    match u16::try_from(s.code) {
        Ok(code) if (200..600).contains(&code) => Ok(code),
        Ok(0) => Ok(default),
        _ => c.field(field).refuse(format!("{} is no status that could answer a request", s.code)),
    }
}

/// Text values of an object in the node's metadata.
fn labels(c: &Ctx<'_>, key: &str) -> BTreeMap<String, String> {
    let object = c.env().node_metadata.get(key).and_then(serde_json::Value::as_object);
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    object.into_iter().flatten().map(|(k, v)| (k.clone(), text(v))).collect()
}

fn mutation_rules(c: &Ctx<'_>, r: &rules::HeaderMutationRules) -> Out<MutationRules> {
    let on = |b| value::bool_or(b, false);
    Ok(MutationRules {
        routing: on(&r.allow_all_routing),
        envoy: on(&r.allow_envoy),
        no_system: on(&r.disallow_system),
        nothing: on(&r.disallow_all),
        allow: c.opt("allow_expression", &r.allow_expression, matcher::regex)?,
        disallow: c.opt("disallow_expression", &r.disallow_expression, matcher::regex)?,
        is_error: on(&r.disallow_is_error),
    })
}
