use serde_json::{Value, json};

use super::{Doc, any, ext, refuses, router};
use crate::config::{HostLimits, HttpFilterKind, LimitAction, PerFilterConfig};

const RATE_LIMIT: &str = "envoy.extensions.filters.http.ratelimit.v3.RateLimit";
const PER_ROUTE: &str = "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute";

fn filters(more: Value) -> Value {
    let service = json!({ "transport_api_version": "V3", "grpc_service": { "envoy_grpc": { "cluster_name": "c" } } });
    let mut all = json!({ "domain": "d", "rate_limit_service": service });
    for (key, value) in more.as_object().unwrap() {
        all[key] = value.clone();
    }
    json!([ext("l", RATE_LIMIT, all), router()])
}

fn rule(more: Value) -> Value {
    let mut all = json!({ "actions": [{ "generic_key": { "descriptor_value": "v" } }] });
    for (key, value) in more.as_object().unwrap() {
        all[key] = value.clone();
    }
    all
}

#[test]
fn defaults() {
    let HttpFilterKind::RateLimit(found) =
        Doc::new().set("$hcm.http_filters", filters(json!({}))).hcm().filters.remove(0).kind
    else {
        panic!("another filter")
    };
    assert_eq!((found.limited_status, found.status_on_error, found.envoy_header), (429, 500, true));
    assert_eq!(found.service.timeout, Some(std::time::Duration::from_millis(20)));
    let hcm = Doc::new().set("$route.route.rate_limits", json!([rule(json!({ "stage": 3 }))])).hcm();
    let crate::config::RouteKind::Forward(action) = &hcm.routes.virtual_hosts[0].routes[0].action else {
        panic!("no route")
    };
    assert_eq!(action.rate_limits[0].stage, 3);
    assert_eq!(action.rate_limits[0].actions, [LimitAction::Generic("generic_key".into(), "v".into())]);
}

#[test]
fn of_routes() {
    let own = |fields: Value| json!({ "l": any(PER_ROUTE, fields) });
    let doc = Doc::new().set("$hcm.http_filters", filters(json!({})));
    let settings = json!({ "vh_rate_limits": "INCLUDE", "rate_limits": [rule(json!({}))], "domain": "other" });
    let hcm = doc.set("$route.typed_per_filter_config", own(settings)).hcm();
    match &hcm.routes.virtual_hosts[0].routes[0].per_filter["l"].config {
        Some(PerFilterConfig::RateLimit(found)) => {
            assert_eq!((found.of_host, found.rules.len(), &*found.domain), (HostLimits::Include, 1, "other"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_refused() {
    let at = "$vhost.rate_limits";
    let path = |field: &str| format!("$vhost.rate_limits[0].{field}");
    refuses(&[
        (
            at,
            json!([rule(json!({ "apply_on_stream_done": true }))]),
            &path("apply_on_stream_done"),
            "counting at the end of a request is not supported",
        ),
        (
            at,
            json!([rule(json!({ "actions": [{ "metadata": {
                "descriptor_key": "k", "metadata_key": { "key": "m", "path": [{ "key": "p" }] }, "source": "CLUSTER_ENTRY",
            } }] }))]),
            &path("actions[0].metadata.source"),
            "metadata of a cluster or locality is not supported",
        ),
        (at, json!([rule(json!({ "hits_addend": {} }))]), &path("hits_addend"), "a number or a format is required"),
        (
            "$hcm.http_filters",
            filters(json!({ "rate_limits": [rule(json!({ "stage": 1 }))] })),
            "$hcm.http_filters[0].typed_config.rate_limits[0]",
            "'stage' field and 'disable_key' field cannot be set in per filter config",
        ),
    ]);
}
