use crate::convert::convert;
use crate::document::{Document, Format};
use crate::schema::{Field, MessageType, messages};

use super::*;

fn broken(name: &str, text: &str) -> Vec<String> {
    let document = Document::parse("t", text, Format::Yaml).unwrap();
    let found = convert(&document, MessageType::find(name).unwrap());
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    check(&found.message).iter().map(ToString::to_string).collect()
}

fn bootstrap(text: &str) -> Vec<String> {
    broken("envoy.config.bootstrap.v3.Bootstrap", text)
}

/// The words are those Envoy 1.40 answers the same documents with.
#[test]
fn bootstraps_are_refused_in_envoys_words() {
    for (text, reason) in [
        (
            "static_resources: {listeners: [{name: l, address: {}}]}",
            "static_resources.listeners[0].address.address: is required",
        ),
        (
            "layered_runtime: {layers: [{name: \"\", admin_layer: {}}]}",
            "layered_runtime.layers[0].name: value length must be at least 1 characters",
        ),
        ("stats_flush_interval: 360s", "stats_flush_interval: value must be inside range [1ms, 5m0s)"),
        ("stats_flush_interval: 0s", "stats_flush_interval: value must be inside range [1ms, 5m0s)"),
        (
            "static_resources: {clusters: [{name: c, ring_hash_lb_config: {minimum_ring_size: 99999999}}]}",
            "static_resources.clusters[0].ring_hash_lb_config.minimum_ring_size: value must be less than or equal to 8388608",
        ),
        (
            "static_resources: {clusters: [{name: c, lb_policy: 99}]}",
            "static_resources.clusters[0].lb_policy: value must be one of the defined enum values",
        ),
        (
            "static_resources: {clusters: [{name: c, common_lb_config: {healthy_panic_threshold: {value: 500}}}]}",
            "static_resources.clusters[0].common_lb_config.healthy_panic_threshold.value: value must be inside range [0, 100]",
        ),
        (
            "static_resources: {clusters: [{name: c, connect_timeout: 0s}]}",
            "static_resources.clusters[0].connect_timeout: value must be greater than 0s",
        ),
        (
            "static_resources: {clusters: [{name: c, outlier_detection: {max_ejection_percent: 101}}]}",
            "static_resources.clusters[0].outlier_detection.max_ejection_percent: value must be less than or equal to 100",
        ),
    ] {
        assert_eq!(bootstrap(text), [reason], "{text}");
    }
}

#[test]
fn all_broken_rules_are_found() {
    assert_eq!(
        bootstrap("static_resources: {listeners: [{address: {socket_address: {port_value: 99999}}}]}"),
        [
            "static_resources.listeners[0].address.socket_address.address: value length must be at least 1 characters",
            "static_resources.listeners[0].address.socket_address.port_value: value must be less than or equal to 65535",
        ]
    );
    assert_eq!(
        bootstrap("static_resources: {clusters: [{name: c, health_checks: [{}]}]}"),
        [
            "static_resources.clusters[0].health_checks[0].timeout: value is required",
            "static_resources.clusters[0].health_checks[0].interval: value is required",
            "static_resources.clusters[0].health_checks[0].unhealthy_threshold: value is required",
            "static_resources.clusters[0].health_checks[0].healthy_threshold: value is required",
            "static_resources.clusters[0].health_checks[0].health_checker: is required",
        ]
    );
}

#[test]
fn only_the_set_field_of_a_oneof_is_checked() {
    let name = "envoy.config.route.v3.RouteMatch";
    assert_eq!(broken(name, "{prefix: \"\"}"), [""; 0]);
    assert_eq!(
        broken(name, "{safe_regex: {regex: \"\"}}"),
        ["safe_regex.regex: value length must be at least 1 characters"]
    );
    assert_eq!(broken(name, "{}"), ["path_specifier: is required"]);
}

#[test]
fn header_names_and_values() {
    let name = "envoy.config.core.v3.HeaderValue";
    assert_eq!(broken(name, "{key: x-a, value: b}"), [""; 0]);
    assert_eq!(broken(name, "{key: \":path\", value: \"\"}"), [""; 0]);
    let bad = broken(name, "{key: \"a\\nb\", value: \"a\\r\\nb\"}");
    assert_eq!(bad.len(), 2, "{bad:?}");
    assert!(bad[0].starts_with("key: value does not match regex pattern"), "{bad:?}");
}

#[test]
fn maps_and_lists_check_their_elements() {
    let name = "envoy.config.route.v3.VirtualHost";
    assert_eq!(
        broken(name, "{name: v, domains: [a], request_headers_to_remove: [x, \"\"]}"),
        ["request_headers_to_remove[1]: value length must be at least 1 characters"]
    );
    // Where a header name need not be strict, it may be empty.
    let mirror = "envoy.config.route.v3.RouteAction.RequestMirrorPolicy";
    assert_eq!(broken(mirror, "{cluster: c}"), [""; 0]);
    let any = "{name: v, domains: [a], typed_per_filter_config: {x: {'@type': \
               type.googleapis.com/envoy.extensions.filters.http.buffer.v3.BufferPerRoute}}}";
    assert_eq!(broken(name, any), ["typed_per_filter_config[\"x\"].override: is required"]);
}

/// What `unwrap_or_default` and `ok` in the walk assume.
#[test]
fn every_rule_of_the_schema_is_readable() {
    fn patterns(rules: &FieldRules) -> Vec<String> {
        match &rules.r#type {
            Some(Type::String(rules)) => rules.pattern.iter().cloned().collect(),
            Some(Type::Repeated(rules)) => rules.items.iter().flat_map(|rules| patterns(rules)).collect(),
            Some(Type::Map(rules)) => {
                rules.keys.iter().chain(&rules.values).flat_map(|rules| patterns(rules)).collect()
            }
            _ => Vec::new(),
        }
    }
    let fields = messages().flat_map(MessageType::fields).collect::<Vec<Field>>();
    assert!(fields.iter().filter(|field| !field.rules().is_empty()).count() > 300);
    for field in fields {
        let rules = FieldRules::decode(field.rules()).unwrap();
        for pattern in patterns(&rules) {
            regex::Regex::new(&pattern).unwrap();
        }
    }
}
