//! Those who are asked about requests (CUSTOM).
//!
//! As in Istio: a filter judges by shadow rules which requests are asked about, and the one behind it asks if one matched. All
//! policies of a workload must name one provider; where they do not, or it cannot be asked, what would be asked about is denied.

use std::collections::BTreeSet;

use weft_proto::pb::envoy::config::core::v3::{self as core, grpc_service, http_uri};
use weft_proto::pb::envoy::config::listener::v3::Filter;
use weft_proto::pb::envoy::config::rbac::v3::{self as pb, rbac};
use weft_proto::pb::envoy::extensions::filters::http::ext_authz::v3::{
    self as http_authz, AuthorizationRequest, AuthorizationResponse, BufferSettings, HttpService, ext_authz,
};
use weft_proto::pb::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use weft_proto::pb::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz as NetworkAuthz;
use weft_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use weft_proto::pb::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use weft_proto::pb::envoy::r#type::matcher::v3::{self as matcher, string_matcher::MatchPattern};
use weft_proto::pb::envoy::r#type::v3 as types;

use super::super::view::View;
use super::super::{http, names, wire};
use super::{HTTP, NETWORK, NETWORK_STATS, Policy, judgement, matching};
use crate::model::authorizer::{Authorizer, Speaks};
use crate::model::kinds::Kind;
use crate::model::kinds::authorization::{Action, AuthorizationPolicy};
use crate::model::kinds::extension_provider::{ExtAuthzHttp, RequestBody};

/// In front of what is left in the metadata.
const SHADOW_PREFIX: &str = "istio_ext_authz_";
/// In front of names of policies that are asked about.
const NAME_PREFIX: &str = "istio-ext-authz";
/// Behind names of policies that nobody can be asked about.
const BAD: &str = "-deny-due-to-bad-CUSTOM-action";
/// How long an answer may take, if nobody says (Istio's default).
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(600);

/// What is asked about, and whom.
struct Question<'w> {
    rules: pb::Rbac,
    authorizer: Result<Authorizer<'w>, String>,
}

fn question<'w>(view: &View<'w>, policies: &[Policy<'w>], is_http: bool) -> Option<Question<'w>> {
    // A dry run would ask as well.
    let asked = |(object, policy): &&Policy<'w>| policy.spec.action == Action::Custom && !object.meta.is_dry_run();
    let policies: Vec<Policy<'w>> = policies.iter().filter(asked).copied().collect();
    let providers: BTreeSet<&str> = policies.iter().map(|(_, policy)| policy.spec.provider()).collect();
    let provider = *providers.first()?;
    let authorizer = match providers.len() {
        1 => Authorizer::find(view.world, provider),
        _ => Err("several providers".to_owned()),
    };
    let prefix = format!("{NAME_PREFIX}-{provider}-");
    let mut rules = judgement(view, &policies, rbac::Action::Deny, is_http, &prefix);
    if authorizer.is_err() {
        rules = nobody_to_ask(rules);
    }
    Some(Question { rules, authorizer })
}

/// The same rules by names that say why they deny.
fn nobody_to_ask(rules: pb::Rbac) -> pb::Rbac {
    let policies = rules.policies.into_iter().map(|(name, policy)| (name + BAD, policy)).collect();
    pb::Rbac { policies, ..rules }
}

/// The filters for requests.
pub(super) fn http_filters(view: &View<'_>, policies: &[Policy<'_>]) -> Vec<HttpFilter> {
    let Some(Question { rules, authorizer }) = question(view, policies, true) else { return Vec::new() };
    let Ok(authorizer) = authorizer else {
        return vec![http::http_filter(HTTP, &HttpRbac { rules: Some(rules), ..HttpRbac::default() })];
    };
    let judge = HttpRbac {
        shadow_rules: Some(rules),
        shadow_rules_stat_prefix: SHADOW_PREFIX.to_owned(),
        ..HttpRbac::default()
    };
    let ask = of_requests(&authorizer);
    vec![http::http_filter(HTTP, &judge), http::http_filter("envoy.filters.http.ext_authz", &ask)]
}

/// The filters for connections; a server that speaks HTTP is not asked about them.
pub(super) fn network_filters(view: &View<'_>, policies: &[Policy<'_>]) -> Vec<Filter> {
    let Some(Question { rules, authorizer }) = question(view, policies, false) else { return Vec::new() };
    let stat_prefix = NETWORK_STATS.to_owned();
    let Ok(authorizer) = authorizer else {
        let deny = NetworkRbac { rules: Some(rules), stat_prefix, ..NetworkRbac::default() };
        return vec![wire::network_filter(NETWORK, &deny)];
    };
    let Speaks::Grpc(how) = authorizer.speaks else { return Vec::new() };
    let ask = NetworkAuthz {
        stat_prefix: stat_prefix.clone(),
        failure_mode_allow: how.fail_open,
        transport_api_version: core::ApiVersion::V3 as i32,
        grpc_service: Some(grpc_service(&authorizer, how.timeout)),
        filter_enabled_metadata: Some(was_matched(NETWORK)),
        ..NetworkAuthz::default()
    };
    let judge = NetworkRbac {
        shadow_rules: Some(rules),
        shadow_rules_stat_prefix: SHADOW_PREFIX.to_owned(),
        stat_prefix,
        ..NetworkRbac::default()
    };
    vec![wire::network_filter(NETWORK, &judge), wire::network_filter("envoy.filters.network.ext_authz", &ask)]
}

/// The services of those who may be asked by workloads of the proxy's namespace: it has to reach them whatever its Sidecar says.
pub(in crate::translate) fn services<'w>(view: &View<'w>) -> Vec<Authorizer<'w>> {
    let mesh = &view.world.config().mesh;
    if mesh.extension_providers.is_empty() {
        return Vec::new();
    }
    let own: BTreeSet<&str> = [mesh.root_namespace(), &view.proxy.namespace].into();
    let objects = own.into_iter().flat_map(|of| view.world.objects().in_namespace(Kind::AuthorizationPolicy, of));
    let policies = objects.filter_map(|object| object.of::<AuthorizationPolicy>());
    let asking = policies.filter(|policy| policy.spec.action == Action::Custom);
    let names: BTreeSet<&str> = asking.map(|policy| policy.spec.provider()).collect();
    names.into_iter().filter_map(|name| Authorizer::find(view.world, name).ok()).collect()
}

fn cluster(authorizer: &Authorizer<'_>) -> String {
    names::outbound(authorizer.port.number.into(), "", &authorizer.service.key.host)
}

fn grpc_service(authorizer: &Authorizer<'_>, timeout: Option<std::time::Duration>) -> core::GrpcService {
    let envoy = grpc_service::EnvoyGrpc {
        cluster_name: cluster(authorizer),
        authority: authorizer.service.key.host.to_string(),
        ..grpc_service::EnvoyGrpc::default()
    };
    core::GrpcService {
        timeout: wire::duration(timeout.unwrap_or(TIMEOUT)),
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(envoy)),
        ..core::GrpcService::default()
    }
}

fn of_requests(authorizer: &Authorizer<'_>) -> http_authz::ExtAuthz {
    let (services, fail_open, clear_route_cache, body) = match authorizer.speaks {
        Speaks::Grpc(how) => {
            let service = ext_authz::Services::GrpcService(grpc_service(authorizer, how.timeout));
            (service, how.fail_open, how.clear_route_cache, &how.include_request_body_in_check)
        }
        Speaks::Http(how) => {
            let service = ext_authz::Services::HttpService(http_service(authorizer, how));
            (service, how.fail_open, how.clear_route_cache, &how.include_request_body_in_check)
        }
    };
    let allowed_headers = match authorizer.speaks {
        Speaks::Http(how) => {
            headers(&how.include_request_headers_in_check).or_else(|| headers(&how.include_headers_in_check))
        }
        Speaks::Grpc(_) => None,
    };
    http_authz::ExtAuthz {
        services: Some(services),
        transport_api_version: core::ApiVersion::V3 as i32,
        failure_mode_allow: fail_open,
        clear_route_cache,
        status_on_error: authorizer.status_on_error.map(|code| types::HttpStatus { code: code.into() }),
        with_request_body: body.as_ref().map(buffer),
        filter_enabled_metadata: Some(was_matched(HTTP)),
        allowed_headers,
        ..http_authz::ExtAuthz::default()
    }
}

fn http_service(authorizer: &Authorizer<'_>, how: &ExtAuthzHttp) -> HttpService {
    let added = how.include_additional_headers_in_check.iter().map(|(key, value)| core::HeaderValue {
        key: key.clone(),
        value: value.clone(),
        ..core::HeaderValue::default()
    });
    let headers_to_add: Vec<_> = added.collect();
    let answer = AuthorizationResponse {
        allowed_upstream_headers: headers(&how.headers_to_upstream_on_allow),
        allowed_client_headers: headers(&how.headers_to_downstream_on_deny),
        allowed_client_headers_on_success: headers(&how.headers_to_downstream_on_allow),
        ..AuthorizationResponse::default()
    };
    HttpService {
        server_uri: Some(core::HttpUri {
            // Only its cluster counts.
            uri: format!("http://{}", authorizer.service.key.host),
            timeout: wire::duration(how.timeout.unwrap_or(TIMEOUT)),
            http_upstream_type: Some(http_uri::HttpUpstreamType::Cluster(cluster(authorizer))),
        }),
        path_prefix: how.path_prefix.clone(),
        authorization_request: (!headers_to_add.is_empty())
            .then(|| AuthorizationRequest { headers_to_add, ..AuthorizationRequest::default() }),
        authorization_response: (answer != AuthorizationResponse::default()).then_some(answer),
        ..HttpService::default()
    }
}

fn buffer(body: &RequestBody) -> BufferSettings {
    BufferSettings {
        max_request_bytes: body.max_request_bytes,
        allow_partial_message: body.allow_partial_message,
        pack_as_bytes: body.pack_as_bytes,
    }
}

/// Names of headers, `*` at an end; `None`: there are none.
fn headers(names: &[String]) -> Option<matcher::ListStringMatcher> {
    let one = |name: &String| matcher::StringMatcher { ignore_case: true, ..matching::text(name, false) };
    (!names.is_empty()).then(|| matcher::ListStringMatcher { patterns: names.iter().map(one).collect() })
}

/// Whether a shadow rule in front matched.
fn was_matched(filter: &str) -> matcher::MetadataMatcher {
    let key = format!("{SHADOW_PREFIX}shadow_effective_policy_id");
    let prefix = wire::string_matcher(MatchPattern::Prefix(NAME_PREFIX.to_owned()));
    matching::at(filter, &[key], matching::value_of(prefix))
}
