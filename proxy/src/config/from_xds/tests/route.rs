use std::time::Duration;

use serde_json::{Value, json};

use super::{Doc, ext, refuses};
use crate::config::{
    AppendAction, ClusterSpecifier, HashPolicyKind, HeaderMutation, HeaderValueMatcher, HostRewrite, PathMatch,
    PathRewrite, PerMillion, RedirectPath, RequireTls, RetryHostPredicate, RouteAction, RouteKind, StringPattern,
};

const MATCH_TEMPLATE: &str = "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig";
const REWRITE_TEMPLATE: &str = "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig";

/// The action of the route, with these fields of it set.
fn action(fields: Value) -> RouteAction {
    match with_action(fields).route().action {
        RouteKind::Forward(a) => *a,
        other => panic!("{other:?}"),
    }
}

fn with_action(fields: Value) -> Doc {
    fields.as_object().unwrap().iter().fold(Doc::new(), |doc, (k, v)| doc.set(&format!("$route.route.{k}"), v.clone()))
}

/// Another kind of action in place of forwarding.
fn instead(kind: &str, action: Value) -> Doc {
    Doc::new().set("$route.route", Value::Null).set(&format!("$route.{kind}"), action)
}

#[test]
fn defaults_are_envoys() {
    let a = action(json!({}));
    assert_eq!((a.timeout, a.idle_timeout, a.cluster_not_found_status), (Some(Duration::from_secs(15)), None, 503));
    assert_eq!(a.cluster, ClusterSpecifier::Name("c".into()));
    let routes = Doc::new().hcm().routes;
    assert!(routes.validate_clusters);
    assert_eq!(routes.max_direct_response_body, 4096);
    assert_eq!(routes.virtual_hosts[0].require_tls, RequireTls::None);
    assert!(Doc::new().route().matches.case_sensitive);
}

#[test]
fn zero_is_not_the_same_as_unset() {
    let a = action(json!({
        "timeout": "0s",
        "idle_timeout": "0s",
        "max_grpc_timeout": "0s",
        "max_stream_duration": { "max_stream_duration": "2s", "grpc_timeout_header_max": "0s" },
    }));
    assert_eq!((a.timeout, a.idle_timeout, a.max_grpc_timeout), (None, Some(None), Some(None)));
    assert_eq!(a.max_stream_duration, Some(Some(Duration::from_secs(2))));
    assert_eq!((a.grpc_timeout_header_max, a.flush_timeout), (Some(None), None));
}

#[test]
fn clusters_must_exist_in_static_routes() {
    let gone = || with_action(json!({ "cluster": "gone" }));
    gone().refused("$route.route.cluster", "route: unknown cluster 'gone'");
    gone().set("$routes.validate_clusters", json!(false)).bootstrap();
    let weighted = json!({ "clusters": [{ "name": "gone", "weight": 1 }] });
    with_action(json!({ "cluster": null, "weighted_clusters": weighted }))
        .refused("$route.route.weighted_clusters.clusters[0].name", "route: unknown weighted cluster 'gone'");
    with_action(json!({ "request_mirror_policies": [{ "cluster": "gone" }] }))
        .refused("$route.route.request_mirror_policies[0].cluster", "route: unknown shadow cluster 'gone'");
}

#[test]
fn domains() {
    let second = Doc::new().get("$vhost");
    let two = |first: Value, other: Value| {
        Doc::new()
            .set("$vhost.domains", first)
            .set("$routes.virtual_hosts[1]", second.clone())
            .set("$routes.virtual_hosts[1].domains", other)
    };
    let hosts = two(json!(["A.example.com", "*.b", "c.*"]), json!(["*"])).hcm().routes.virtual_hosts;
    assert_eq!(hosts[0].domains, ["a.example.com", "*.b", "c.*"]);
    two(json!(["a"]), json!(["b", "A"])).refused(
        "$routes.virtual_hosts[1].domains[1]",
        "Only unique values for domains are permitted. Duplicate entry of domain a in route r",
    );
    two(json!(["*"]), json!(["*"]))
        .refused("$routes.virtual_hosts[1].domains[0]", "Only a single wildcard domain is permitted in route r");
    Doc::new().set("$vhost.domains", json!([])).refused("$vhost.domains", "value must contain at least 1 item(s)");
}

#[test]
fn path_specifiers() {
    let path = |m: Value| Doc::new().set("$route.match", m).route().matches.path;
    assert!(matches!(path(json!({ "prefix": "" })), PathMatch::Prefix(p) if p.is_empty()));
    assert!(matches!(path(json!({ "path": "/a" })), PathMatch::Exact(p) if p == "/a"));
    assert!(matches!(path(json!({ "path_separated_prefix": "/a" })), PathMatch::SeparatedPrefix(p) if p == "/a"));
    assert!(matches!(path(json!({ "connect_matcher": {} })), PathMatch::Connect));
    let PathMatch::Regex(p) = path(json!({ "safe_regex": { "regex": "/a.*" } })) else { panic!() };
    assert!(p.is_match("/ab") && !p.is_match("x/ab"));
    let bad =
        |m: Value, at: &str, why: &str| Doc::new().set("$route.match", m).refused(&format!("$route.match{at}"), why);
    bad(
        json!({}),
        "",
        "a path specifier is required: prefix, path, safe_regex, path_separated_prefix, path_match_policy or connect_matcher",
    );
    let pattern = r#"value does not match regex pattern "^[^?#]+[^?#/]$""#;
    bad(json!({ "path_separated_prefix": "/a/" }), ".path_separated_prefix", pattern);
    bad(json!({ "path_separated_prefix": "/" }), ".path_separated_prefix", pattern);
    bad(json!({ "safe_regex": { "regex": "(" } }), ".safe_regex.regex", "Invalid regex '(': unclosed group");
    bad(json!({ "safe_regex": {} }), ".safe_regex.regex", "value length must be at least 1 characters");
    bad(
        json!({ "prefix": "/", "filter_state": [{ "key": "k" }] }),
        ".filter_state",
        "a filter state matcher is not supported",
    );
}

#[test]
fn uri_templates() {
    let templates = |pattern: &str, rewrite: &str| {
        Doc::new()
            .set(
                "$route.match",
                json!({ "path_match_policy": ext("m", MATCH_TEMPLATE, json!({ "path_template": pattern })) }),
            )
            .set(
                "$route.route.path_rewrite_policy",
                ext("r", REWRITE_TEMPLATE, json!({ "path_template_rewrite": rewrite })),
            )
    };
    let route = templates("/a/{b}/{c=**}", "/x/{c}/{b}").route();
    let PathMatch::Template { pattern, .. } = &route.matches.path else { panic!() };
    assert_eq!(&pattern.regex().captures("/a/1/2/3").unwrap()["c"], "2/3");
    let RouteKind::Forward(action) = route.action else { panic!() };
    assert!(matches!(action.path_rewrite, PathRewrite::Template(t) if t == "/x/{c}/{b}"));
    templates("/{a", "/").refused(
        "$route.match.path_match_policy.typed_config.path_template",
        r#"path_match_policy.path_template /{a is invalid: Unmatched variable bracket in "{a""#,
    );
    let at = "$route.route.path_rewrite_policy.typed_config.path_template_rewrite";
    for bad in ["x", "/{b", "/a b", "/a//b", "/{1}"] {
        let why = format!("path_rewrite_policy.path_template_rewrite {bad} is invalid");
        templates("/a/{b}", bad).refused(at, &why);
    }
    templates("/a/{b}", "/{z}").refused(
        at,
        "mismatch between variables in path_match_policy and path_rewrite_policy /{z}: 'z' is not in the former",
    );
}

#[test]
fn header_matchers_by_all_spellings() {
    let one = |m: Value| Doc::new().set("$route.match.headers", json!([m])).route().matches.headers.remove(0);
    assert_eq!(one(json!({ "name": "X" })).value, HeaderValueMatcher::Present(true));
    assert_eq!(one(json!({ "name": "x", "present_match": false })).value, HeaderValueMatcher::Present(false));
    assert_eq!(
        one(json!({ "name": "x", "range_match": { "start": -5, "end": 5 } })).value,
        HeaderValueMatcher::Range { start: -5, end: 5 }
    );
    let text = |m: Value| match one(m).value {
        HeaderValueMatcher::String(s) => s.pattern,
        other => panic!("{other:?}"),
    };
    assert_eq!(text(json!({ "name": "x", "exact_match": "v" })), StringPattern::Exact("v".into()));
    assert_eq!(text(json!({ "name": "x", "prefix_match": "v" })), StringPattern::Prefix("v".into()));
    assert_eq!(text(json!({ "name": "x", "suffix_match": "v" })), StringPattern::Suffix("v".into()));
    assert_eq!(text(json!({ "name": "x", "contains_match": "v" })), StringPattern::Contains("v".into()));
    assert!(matches!(text(json!({ "name": "x", "safe_regex_match": { "regex": "v" } })), StringPattern::Regex(_)));
    let m = one(json!({ "name": "X-A", "string_match": { "exact": "V", "ignore_case": true }, "invert_match": true }));
    assert!(m.invert && m.name == "x-a");
    let bad = |m: Value, at: &str, why: &str| {
        Doc::new().set("$route.match.headers", json!([m])).refused(&format!("$route.match.headers[0]{at}"), why);
    };
    bad(json!({ "name": "" }), ".name", "value length must be at least 1 characters");
    bad(json!({ "name": "a b" }), ".name", "'a b' is not a valid header name");
    bad(json!({ "name": "x", "prefix_match": "" }), ".prefix_match", "value length must be at least 1 characters");
    bad(
        json!({ "name": "x", "string_match": {} }),
        ".string_match",
        "a match pattern is required: exact, prefix, suffix, contains or safe_regex",
    );
    bad(
        json!({ "name": "x", "string_match": { "safe_regex": { "regex": "a" }, "ignore_case": true } }),
        ".string_match.ignore_case",
        "ignore_case has no effect for safe_regex.",
    );
}

#[test]
fn header_mutations() {
    let v = Doc::new()
        .set(
            "$vhost.request_headers_to_add",
            json!([
                { "header": { "key": "A", "value": "1" } },
                { "header": { "key": "b", "value": "2" }, "append": false },
                { "header": { "key": "c", "raw_value": "Mw==" }, "append_action": "ADD_IF_ABSENT", "keep_empty_value": true },
            ]),
        )
        .set("$vhost.request_headers_to_remove", json!(["X-Gone"]))
        .hcm()
        .routes
        .virtual_hosts
        .remove(0);
    let append = |name: &str, value: &str, action, keep_empty| HeaderMutation::Append {
        name: name.into(),
        value: value.into(),
        action,
        keep_empty,
    };
    assert_eq!(
        v.headers.request.0,
        [
            HeaderMutation::Remove("x-gone".into()),
            append("a", "1", AppendAction::AppendIfExistsOrAdd, false),
            append("b", "2", AppendAction::OverwriteIfExistsOrAdd, false),
            append("c", "3", AppendAction::AddIfAbsent, true),
        ]
    );
    let removed = ":-prefixed or host headers may not be removed";
    refuses(&[
        ("$vhost.request_headers_to_remove", json!(["Host"]), "$vhost.request_headers_to_remove[0]", removed),
        ("$routes.response_headers_to_remove", json!([":status"]), "$routes.response_headers_to_remove[0]", removed),
        (
            "$route.request_headers_to_add",
            json!([{ "header": { "key": ":path", "value": "x" } }]),
            "$route.request_headers_to_add[0].header.key",
            ":-prefixed or host headers may not be modified",
        ),
        (
            "$route.request_headers_to_add",
            json!([{ "header": { "key": "x" }, "append": true, "append_action": "ADD_IF_ABSENT" }]),
            "$route.request_headers_to_add[0].append",
            "Both append and append_action are set and it's not allowed",
        ),
        (
            "$route.response_headers_to_add",
            json!([{ "header": { "key": "x", "value": "a\r\nb" } }]),
            "$route.response_headers_to_add[0].header.value",
            "a header value must not hold NUL, CR or LF",
        ),
        (
            "$route.response_headers_to_add",
            json!([{}]),
            "$route.response_headers_to_add[0].header",
            "value is required",
        ),
    ]);
}

#[test]
fn weighted_clusters() {
    let weighted = |w: Value| with_action(json!({ "cluster": null, "weighted_clusters": w }));
    let RouteKind::Forward(a) = weighted(json!({
        "clusters": [{ "name": "c", "weight": 0, "host_rewrite_literal": "h" }, { "cluster_header": "X-C", "weight": 2 }],
        "use_hash_policy": true,
    }))
    .route()
    .action
    else {
        panic!()
    };
    let ClusterSpecifier::Weighted(w) = a.cluster else { panic!() };
    assert_eq!(*w.clusters[1].cluster, ClusterSpecifier::Header("x-c".into()));
    assert!(w.use_hash_policy && w.clusters[0].host_rewrite.as_deref() == Some("h"));
    let bad = |w: Value, at: &str, why: &str| weighted(w).refused(&format!("$route.route.weighted_clusters{at}"), why);
    bad(
        json!({ "clusters": [{ "name": "c", "weight": 0 }] }),
        "",
        "Sum of weights in the weighted_cluster must be greater than 0.",
    );
    bad(json!({ "clusters": [{ "name": "c" }] }), ".clusters[0].weight", "value is required");
    bad(json!({ "clusters": [] }), ".clusters", "value must contain at least 1 item(s)");
    bad(
        json!({ "clusters": [{ "weight": 1 }] }),
        ".clusters[0]",
        "At least one of name or cluster_header need to be specified",
    );
    bad(
        json!({ "clusters": [{ "name": "c", "cluster_header": "x", "weight": 1 }] }),
        ".clusters[0]",
        "Only one of name or cluster_header can be specified",
    );
}

#[test]
fn rewrites() {
    assert!(matches!(action(json!({ "prefix_rewrite": "/x" })).path_rewrite, PathRewrite::Prefix(p) if p == "/x"));
    let regex = json!({ "pattern": { "regex": "^/(a)" }, "substitution": "/\\1\\\\" });
    assert!(
        matches!(action(json!({ "regex_rewrite": regex })).path_rewrite, PathRewrite::Regex(_, s) if s == "/\\1\\\\")
    );
    assert!(matches!(action(json!({ "host_rewrite_literal": "h" })).host_rewrite, HostRewrite::Literal(h) if h == "h"));
    assert!(matches!(action(json!({ "auto_host_rewrite": true })).host_rewrite, HostRewrite::Auto));
    assert!(matches!(action(json!({ "auto_host_rewrite": false })).host_rewrite, HostRewrite::Keep));
    with_action(json!({ "prefix_rewrite": "/x", "path_rewrite": "/y" })).refused(
        "$route.route",
        "Specify only one of prefix_rewrite, regex_rewrite, path_rewrite or path_rewrite_policy",
    );
    with_action(json!({ "regex_rewrite": { "pattern": { "regex": "a" }, "substitution": "\\1" } })).refused(
        "$route.route.regex_rewrite.substitution",
        "invalid substitution string: requests group 1, but the regexp has only 0 parenthesized subexpressions",
    );
}

#[test]
fn retry_policies() {
    let a = action(json!({ "retry_policy": {
        "retry_on": "5xx,connect-failure,foo",
        "num_retries": 3,
        "per_try_timeout": "0s",
        "retriable_status_codes": [409, 70000],
        "retry_host_predicate": [
            ext("p", "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", json!({})),
            ext("m", "envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig",
                json!({ "metadata_match": { "filter_metadata": { "envoy.lb": { "a": "b" } } } })),
        ],
        "retry_priority": ext("r", "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
            json!({ "update_frequency": 2 })),
        "rate_limited_retry_back_off": { "reset_headers": [{ "name": "Retry-After", "format": "SECONDS" }] },
        "retry_back_off": { "base_interval": "0.0001s", "max_interval": "0.0005s" },
    } }));
    let p = a.retry_policy.unwrap();
    assert!(p.on.five_xx && p.on.connect_failure && !p.on.reset);
    assert_eq!((p.num_retries, p.per_try_timeout, p.retriable_status_codes), (3, None, vec![409]));
    assert_eq!(p.host_predicates[1], RetryHostPredicate::OmitHostMetadata(json!({ "a": "b" })));
    assert_eq!((p.previous_priorities, p.host_selection_max_attempts), (Some(2), 1));
    let limited = p.rate_limited_back_off.unwrap();
    assert_eq!(limited.reset_headers, [("retry-after".to_owned(), false)]);
    assert_eq!(limited.max_interval, Duration::from_secs(300));
    assert_eq!((p.back_off.base, p.back_off.max), (Duration::from_millis(1), Duration::from_millis(1)));
    let p = action(json!({ "retry_policy": {} })).retry_policy.unwrap();
    assert_eq!(
        (p.num_retries, p.back_off.base, p.back_off.max),
        (1, Duration::from_millis(25), Duration::from_millis(250))
    );
}

#[test]
fn bad_retry_policies() {
    with_action(json!({ "retry_policy": { "retry_on": "foo" } }))
        .warned("$route.route.retry_policy.retry_on", "unknown conditions are ignored: foo");
    let bad = |p: Value, at: &str, why: &str| {
        with_action(json!({ "retry_policy": p })).refused(&format!("$route.route.retry_policy.{at}"), why);
    };
    bad(
        json!({ "retry_back_off": { "base_interval": "2s", "max_interval": "1s" } }),
        "retry_back_off.max_interval",
        "max_interval must be greater than or equal to the base_interval",
    );
    bad(json!({ "retry_back_off": {} }), "retry_back_off.base_interval", "value is required");
    bad(
        json!({ "retry_host_predicate": [{ "name": "envoy.retry_host_predicates.previous_hosts" }] }),
        "retry_host_predicate[0]",
        "Didn't find a registered implementation for 'envoy.retry_host_predicates.previous_hosts' with type URL: ''",
    );
    bad(
        json!({ "rate_limited_retry_back_off": {} }),
        "rate_limited_retry_back_off.reset_headers",
        "value must contain at least 1 item(s)",
    );
}

#[test]
fn hash_policies_and_mirrors() {
    let a = action(json!({
        "hash_policy": [
            { "connection_properties": {} },
            { "cookie": { "name": "k", "ttl": "0s", "attributes": [{ "name": "SameSite", "value": "Lax" }] }, "terminal": true },
            { "connection_properties": { "source_ip": true } },
        ],
        "request_mirror_policies": [
            { "cluster": "c", "runtime_fraction": { "default_value": { "numerator": 10 }, "runtime_key": "m" } },
            { "cluster_header": "X-Mirror", "disable_shadow_host_suffix_append": true },
        ],
    }));
    let HashPolicyKind::Cookie { ttl, attributes, .. } = &a.hash_policy[0].kind else { panic!() };
    assert_eq!((*ttl, attributes[0].0.as_str()), (Some(Duration::ZERO), "SameSite"));
    assert!(a.hash_policy[0].terminal && matches!(a.hash_policy[1].kind, HashPolicyKind::SourceIp));
    assert_eq!((a.mirrors[0].fraction.default, a.mirrors[0].fraction.key.as_str()), (PerMillion(100_000), "m"));
    assert_eq!(a.mirrors[1].cluster, ClusterSpecifier::Header("x-mirror".into()));
    assert_eq!(a.mirrors[1].fraction.default, PerMillion::ALL);
    with_action(json!({ "request_mirror_policies": [{}] })).refused(
        "$route.route.request_mirror_policies[0]",
        "Exactly one of cluster or cluster_header in request mirror policy need to be specified",
    );
    with_action(json!({ "hash_policy": [{ "cookie": {} }] }))
        .refused("$route.route.hash_policy[0].cookie.name", "value length must be at least 1 characters");
}

#[test]
fn redirects_and_direct_responses() {
    let route =
        instead("redirect", json!({ "https_redirect": true, "prefix_rewrite": "/x", "response_code": "SEE_OTHER" }))
            .route();
    let RouteKind::Redirect(r) = route.action else { panic!() };
    assert!(r.https && matches!(&r.path, RedirectPath::Prefix(p) if p == "/x"));
    assert_eq!((r.status, r.port), (303, 0));
    instead("redirect", json!({ "path_redirect": "/a?b", "strip_query": true })).warned(
        "$route.redirect.path_redirect",
        "`strip_query` is set to true, but `path_redirect` contains query string and it will not be stripped: /a?b",
    );
    let RouteKind::Direct(d) = instead("direct_response", json!({ "status": 204 })).route().action else { panic!() };
    assert_eq!((d.status, d.body), (204, None));
    assert!(matches!(instead("non_forwarding_action", json!({})).route().action, RouteKind::NonForwarding));
    let at = "$route.direct_response";
    instead("direct_response", json!({ "status": 199 }))
        .refused(&format!("{at}.status"), "value must be inside range [200, 599]");
    instead("direct_response", json!({ "status": 200, "body": { "inline_string": "x".repeat(4097) } }))
        .refused(&format!("{at}.body"), "response body size is 4097 bytes; maximum is 4096");
    instead("direct_response", json!({ "status": 200, "body": { "environment_variable": "WEFT_NOT_SET" } }))
        .refused(&format!("{at}.body.environment_variable"), "Environment variable doesn't exist: WEFT_NOT_SET");
    Doc::new()
        .set("$route.route", Value::Null)
        .refused("$route", "an action is required: route, redirect, direct_response or non_forwarding_action");
}

#[test]
fn upgrades() {
    let a = action(json!({ "upgrade_configs": [
        { "upgrade_type": "CONNECT", "connect_config": { "allow_post": true, "proxy_protocol_config": { "version": "V2" } } },
        { "upgrade_type": "websocket", "enabled": false },
    ] }));
    assert!(a.upgrades[0].terminate_connect && a.upgrades[0].allow_post && !a.upgrades[1].enabled);
    assert_eq!((a.upgrades[0].upgrade_type.as_str(), a.upgrades[0].proxy_protocol), ("connect", Some(2)));
    with_action(json!({ "upgrade_configs": [{ "upgrade_type": "websocket", "connect_config": {} }] }))
        .refused("$route.route.upgrade_configs[0]", "Non-CONNECT upgrade type websocket has ConnectConfig");
}

#[test]
fn virtual_hosts_and_route_level_settings() {
    let doc = Doc::new()
        .set("$vhost.require_tls", json!("EXTERNAL_ONLY"))
        .set("$vhost.per_request_buffer_limit_bytes", json!(10))
        .set("$route.request_body_buffer_limit", json!(20))
        .set("$route.per_request_buffer_limit_bytes", json!(30))
        .set(
            "$vhost.cors",
            json!({ "allow_methods": "GET", "filter_enabled": { "default_value": { "numerator": 50 } } }),
        )
        .set(
            "$vhost.virtual_clusters",
            json!([{ "name": "v", "headers": [{ "name": ":path", "prefix_match": "/v" }] }]),
        );
    let v = doc.hcm().routes.virtual_hosts.remove(0);
    assert_eq!((v.require_tls, v.request_body_buffer_limit), (RequireTls::ExternalOnly, Some(10)));
    assert_eq!(v.routes[0].request_body_buffer_limit, Some(20));
    assert_eq!(v.cors.unwrap().enabled.default, PerMillion(500_000));
    assert_eq!(v.virtual_clusters[0].1[0].name, ":path");
    refuses(&[
        (
            "$vhost.virtual_clusters",
            json!([{ "name": "v" }]),
            "$vhost.virtual_clusters[0].headers",
            "virtual clusters must define 'headers'",
        ),
        ("$vhost.name", json!(""), "$vhost.name", "value length must be at least 1 characters"),
        ("$routes.vhds", json!({}), "$routes.vhds", "only discovered routes can have discovered virtual hosts"),
    ]);
}
