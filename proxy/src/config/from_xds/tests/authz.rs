use serde_json::{Value, json};

use super::{Doc, any, ext, refuses, router};
use crate::config::{AuthzService, HttpFilterKind, PerFilterConfig};

const EXT_AUTHZ: &str = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";
const PER_ROUTE: &str = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute";

fn filters(fields: Value) -> Value {
    json!([ext("z", EXT_AUTHZ, fields), router()])
}

fn grpc(more: Value) -> Value {
    let mut all = json!({ "transport_api_version": "V3", "grpc_service": { "envoy_grpc": { "cluster_name": "c" } } });
    for (key, value) in more.as_object().unwrap() {
        all[key] = value.clone();
    }
    all
}

#[test]
fn defaults() {
    let HttpFilterKind::ExtAuthz(found) =
        Doc::new().set("$hcm.http_filters", filters(grpc(json!({})))).hcm().filters.remove(0).kind
    else {
        panic!("another filter")
    };
    assert_eq!((found.status_on_error, found.charge_cluster, found.ingest_metadata), (403, true, true));
    assert!(found.allowed_headers.is_none() && found.rules.is_none());
    let AuthzService::Grpc(service) = &found.service else { panic!("another service") };
    assert_eq!((service.timeout, service.max_message), (Some(std::time::Duration::from_millis(200)), 4 << 20));
    let http = json!({ "http_service": { "server_uri": { "uri": "http://x", "cluster": "c", "timeout": "1s" } } });
    let HttpFilterKind::ExtAuthz(found) =
        Doc::new().set("$hcm.http_filters", filters(http)).hcm().filters.remove(0).kind
    else {
        panic!("another filter")
    };
    // A few fields an HTTP service is always told.
    assert_eq!(found.allowed_headers.map(|list| list.len()), Some(4));
}

#[test]
fn what_is_refused() {
    let at = "$hcm.http_filters";
    let path = |field: &str| format!("$hcm.http_filters[0].typed_config{field}");
    let google = json!({ "transport_api_version": "V3", "grpc_service": { "google_grpc": { "target_uri": "x:1", "stat_prefix": "s" } } });
    let http = |more: Value| {
        let mut service = json!({ "server_uri": { "uri": "http://x", "cluster": "c", "timeout": "1s" } });
        for (key, value) in more.as_object().unwrap() {
            service[key] = value.clone();
        }
        json!({ "http_service": service })
    };
    let list = json!({ "patterns": [{ "exact": "x" }] });
    let mut both = http(json!({ "authorization_request": { "allowed_headers": list } }));
    both["allowed_headers"] = json!({ "patterns": [{ "exact": "y" }] });
    refuses(&[
        (at, filters(json!({})), &path(""), "a service is required: grpc_service or http_service"),
        (
            at,
            filters(google),
            &path(".grpc_service.google_grpc"),
            "a gRPC client beside this proxy's clusters (envoy_grpc names one) is not supported",
        ),
        (
            at,
            filters(grpc(json!({ "shadow_mode": true }))),
            &path(".shadow_mode"),
            "this setting of external authorization is not supported",
        ),
        (at, filters(both), &path(".allowed_headers"), "Invalid duplicate configuration for allowed_headers."),
        (
            at,
            filters(http(json!({ "path_prefix": "x" }))),
            &path(".http_service.path_prefix"),
            "path_prefix should start with \"/\".",
        ),
    ]);
}

#[test]
fn of_routes() {
    let own = |fields: Value| json!({ "z": any(PER_ROUTE, fields) });
    let doc = Doc::new().set("$hcm.http_filters", filters(grpc(json!({}))));
    let settings =
        json!({ "check_settings": { "context_extensions": { "k": "v" }, "disable_request_body_buffering": true } });
    let hcm = doc.clone().set("$route.typed_per_filter_config", own(settings)).hcm();
    match &hcm.routes.virtual_hosts[0].routes[0].per_filter["z"].config {
        Some(PerFilterConfig::ExtAuthz(found)) => {
            assert!(found.no_body && !found.disabled && found.context["k"] == "v" && found.service.is_none());
        }
        other => panic!("{other:?}"),
    }
}
