//! RBAC filters: what is refused rather than left out, and the order of policies.

use serde_json::{Value, json};

use super::{Doc, any, ext, refuses, router};
use crate::config::{HttpFilterKind, NetworkFilterKind, PerFilterConfig};

const HTTP: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
const PER_ROUTE: &str = "envoy.extensions.filters.http.rbac.v3.RBACPerRoute";
const NETWORK: &str = "envoy.extensions.filters.network.rbac.v3.RBAC";

fn policy(permission: Value, principal: Value) -> Value {
    json!({ "permissions": [permission], "principals": [principal] })
}

fn filters(fields: Value) -> Value {
    json!([ext("rbac", HTTP, fields), router()])
}

fn one(permission: Value, principal: Value) -> Value {
    filters(json!({ "rules": { "policies": { "p": policy(permission, principal) } } }))
}

#[test]
fn policies_are_in_the_order_of_their_names() {
    let policies = json!({ "b": policy(json!({"any": true}), json!({"any": true})), "a": policy(json!({"any": true}), json!({"any": true})) });
    let rules = json!({ "rules": { "policies": policies } });
    let HttpFilterKind::Rbac(found) = Doc::new().set("$hcm.http_filters", filters(rules)).hcm().filters.remove(0).kind
    else {
        panic!("another filter");
    };
    let names: Vec<_> = found.rules.unwrap().policies.into_iter().map(|p| p.name).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn an_empty_override_has_no_rules() {
    let per = json!({ "rbac": any(PER_ROUTE, json!({})) });
    let doc = Doc::new().set("$hcm.http_filters", filters(json!({}))).set("$route.typed_per_filter_config", per);
    let route = doc.hcm().routes.virtual_hosts.remove(0).routes.remove(0);
    match route.per_filter["rbac"].config.as_ref() {
        Some(PerFilterConfig::Rbac(r)) => assert!(r.rules.is_none() && r.shadow.is_none()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn connections() {
    let fields = json!({ "stat_prefix": "t.", "enforcement_type": "CONTINUOUS", "delay_deny": "0s" });
    let tcp = ext(
        "tcp",
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        json!({ "stat_prefix": "t", "cluster": "c" }),
    );
    let doc = Doc::new().set("$chain.filters", json!([ext("rbac", NETWORK, fields), tcp]));
    match doc.listener().filter_chains.remove(0).filters.remove(0).kind {
        NetworkFilterKind::Rbac(r) => assert!(r.continuous && r.delay_deny.is_none() && r.rules.is_none()),
        other => panic!("{other:?}"),
    }
    let rules = json!({ "policies": { "p": policy(json!({ "not_rule": { "header": { "name": "x" } } }), json!({ "any": true })) } });
    let with = |fields: Value| json!([ext("rbac", NETWORK, fields)]);
    refuses(&[
        (
            "$chain.filters",
            with(json!({})),
            "$chain.filters[0].typed_config.stat_prefix",
            "value length must be at least 1 characters",
        ),
        (
            "$chain.filters",
            with(json!({ "stat_prefix": "t", "rules": rules })),
            "$chain.filters[0].typed_config.rules.policies[\"p\"].permissions[0].not_rule.header",
            "Found header(x) rule,not supported by RBAC network filter",
        ),
    ]);
}

#[test]
fn what_is_not_understood_is_refused() {
    let yes = || json!({ "any": true });
    let at = "$hcm.http_filters";
    let permission =
        |field: &str| format!("$hcm.http_filters[0].typed_config.rules.policies[\"p\"].permissions[0].{field}");
    let principal =
        |field: &str| format!("$hcm.http_filters[0].typed_config.rules.policies[\"p\"].principals[0].{field}");
    let extension = || json!({ "name": "x", "typed_config": any("envoy.config.core.v3.Pipe", json!({ "path": "p" })) });
    let unknown = "Didn't find a registered implementation for 'x' with type URL: 'envoy.config.core.v3.Pipe'";
    let range = |start: i64, end: i64| one(json!({ "destination_port_range": { "start": start, "end": end } }), yes());
    let condition = json!({ "rules": { "policies": { "p": {
        "permissions": [yes()], "principals": [yes()], "condition": { "const_expr": { "bool_value": true } } } } } });
    let state = json!({ "filter_state": { "key": "k", "string_match": { "exact": "v" } } });
    refuses(&[
        (at, one(json!({ "matcher": extension() }), yes()), &permission("matcher"), unknown),
        (at, one(json!({ "uri_template": extension() }), yes()), &permission("uri_template"), unknown),
        (at, one(yes(), json!({ "custom": extension() })), &principal("custom"), unknown),
        (at, one(yes(), state), &principal("filter_state"), "a filter state matcher is not supported"),
        (at, one(json!({ "any": false }), yes()), &permission("any"), "value must equal true"),
        (at, range(-1, 5), &permission("destination_port_range.start"), "range start -1 is out of bounds"),
        (at, range(1, 65_537), &permission("destination_port_range.end"), "range end 65537 is out of bounds"),
        (
            at,
            range(5, 5),
            &permission("destination_port_range"),
            "range start 5 cannot be greater or equal than range end 5",
        ),
        (
            at,
            filters(condition),
            "$hcm.http_filters[0].typed_config.rules.policies[\"p\"].condition",
            "a condition in CEL is not supported",
        ),
        (
            at,
            filters(json!({ "shadow_matcher": {} })),
            "$hcm.http_filters[0].typed_config.shadow_matcher",
            "a matcher tree is not supported",
        ),
        (
            at,
            filters(json!({ "rules": { "policies": { "p": { "permissions": [yes()] } } } })),
            "$hcm.http_filters[0].typed_config.rules.policies[\"p\"].principals",
            "value must contain at least 1 item(s)",
        ),
        (
            at,
            filters(json!({ "rules": { "audit_logging_options": {} } })),
            "$hcm.http_filters[0].typed_config.rules.audit_logging_options",
            "audit logging is not supported",
        ),
    ]);
}
