//! Global rate limits: what the service is asked, by every action and level, and what its answers and failures do.

use anyhow::Result;
use prost::Message as _;
use weft_proto::pb::envoy::config::core::v3::HeaderValue;
use weft_proto::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use weft_proto::pb::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use weft_proto::pb::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus, RateLimit};
use weft_proto::pb::google::protobuf::{Duration, Struct, Value, value};
use weft_tests::config::{Config, LOG_FORMAT, access_log, dedent, indent};
use weft_tests::parity::{Group, Step, get, h2, request, run, stats};
use weft_tests::upstream::script::hex;

const TYPE: &str = "\"@type\": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3";
const HTTP2: &str = "typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http2_protocol_options: {}}
";
const SERVICE: &str = "rate_limit_service: {transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: limits}}}\ntimeout: 5s\n";
/// What the service answers is in this field.
const SCRIPT: &str = "{request_headers: {header_name: x-limit, descriptor_key: script, skip_if_absent: true}}";

fn config() -> Config {
    Config::new().top("node: {id: node, cluster: own}").cluster("a", "").cluster("limits", HTTP2)
}

fn filter(fields: &str) -> String {
    format!(
        "- name: envoy.filters.http.ratelimit\n  typed_config:\n    {TYPE}.RateLimit\n{}",
        indent(&format!("domain: d\n{}", dedent(fields)), 4)
    )
}

/// Fields of a connection manager with one filter, beside its service, and these routes.
fn manager(fields: &str, routes: &str) -> String {
    manager_of(&filter(&format!("{SERVICE}{fields}")), "", routes)
}

fn manager_of(filters: &str, host: &str, routes: &str) -> String {
    let said = "flags=%RESPONSE_FLAGS_LONG% metadata=%DYNAMIC_METADATA(envoy.filters.http.ratelimit)% own=%DYNAMIC_METADATA(own)%";
    format!(
        "access_log:\n{}http_filters:\n{filters}route_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n{}    routes:\n{}",
        access_log(&format!("{LOG_FORMAT} {said}")),
        indent(&dedent(host), 4),
        indent(&dedent(routes), 4),
    )
}

/// A route to `a` with these rules.
fn route(prefix: &str, rules: &str) -> String {
    format!("- {{match: {{prefix: {prefix}}}, route: {{cluster: a, rate_limits: [{rules}]}}}}\n")
}

fn answer(response: &RateLimitResponse) -> String {
    format!("x-limit: grpc={}", hex(&response.encode_to_vec()))
}

fn code(code: Code) -> RateLimitResponse {
    RateLimitResponse { overall_code: code as i32, ..RateLimitResponse::default() }
}

fn fields(list: &[(&str, &str)]) -> Vec<HeaderValue> {
    let field = |(key, value): &(&str, &str)| HeaderValue {
        key: (*key).to_owned(),
        value: (*value).to_owned(),
        raw_value: Vec::new(),
    };
    list.iter().map(field).collect()
}

fn status(requests: u32, unit: Unit, name: &str, left: u32, reset: i64) -> DescriptorStatus {
    DescriptorStatus {
        code: Code::OverLimit as i32,
        current_limit: Some(RateLimit { name: name.into(), requests_per_unit: requests, unit: unit as i32 }),
        limit_remaining: left,
        duration_until_reset: Some(Duration { seconds: reset, nanos: 500_000_000 }),
        ..DescriptorStatus::default()
    }
}

fn counters(prefix: &str) -> Step {
    let names =
        ["ok", "over_limit", "error", "failure_mode_allowed"].map(|name| format!("cluster.a.ratelimit.{prefix}{name}"));
    let answers = [
        "cluster.a.upstream_rq_429",
        "cluster.a.upstream_rq_4xx",
        "cluster.a.internal.upstream_rq_429",
        "cluster.a.upstream_rq_503",
    ];
    stats(&names.iter().map(String::as_str).chain(answers).collect::<Vec<_>>())
}

#[test]
fn descriptors() -> Result<()> {
    let actions = [
        ("source", "{source_cluster: {}}"),
        ("destination", "{destination_cluster: {}}"),
        ("header", "{request_headers: {header_name: x-own, descriptor_key: own}}"),
        (
            "header-skip",
            "{request_headers: {header_name: x-own, descriptor_key: own, skip_if_absent: true}}, {generic_key: {descriptor_value: g}}",
        ),
        ("path", "{request_headers: {header_name: \":path\", descriptor_key: PATH}}"),
        ("host", "{request_headers: {header_name: \":authority\", descriptor_key: host}}"),
        ("query", "{query_parameters: {query_parameter_name: q, descriptor_key: Q}}"),
        (
            "query-skip",
            "{query_parameters: {query_parameter_name: q, descriptor_key: Q, skip_if_absent: true}}, {generic_key: {descriptor_value: g}}",
        ),
        ("address", "{remote_address: {}}"),
        ("masked", "{masked_remote_address: {v4_prefix_mask_len: 16, v6_prefix_mask_len: 64}}"),
        ("masked-all", "{masked_remote_address: {}}"),
        ("generic", "{generic_key: {descriptor_value: v}}"),
        ("generic-key", "{generic_key: {descriptor_key: k, descriptor_value: \"%REQ(x-own)%\"}}"),
        (
            "header-match",
            "{header_value_match: {descriptor_value: m, headers: [{name: x-own, string_match: {exact: a}}]}}",
        ),
        (
            "header-match-not",
            "{header_value_match: {descriptor_key: neg, descriptor_value: m, expect_match: false, headers: [{name: x-own, string_match: {exact: a}}]}}",
        ),
        (
            "query-match",
            "{query_parameter_value_match: {descriptor_value: m, query_parameters: [{name: q, string_match: {prefix: a}}]}}",
        ),
        (
            "query-match-not",
            "{query_parameter_value_match: {descriptor_key: neg, descriptor_value: m, expect_match: false, query_parameters: [{name: q, present_match: true}]}}",
        ),
        (
            "address-match",
            "{remote_address_match: {descriptor_value: m, address_matcher: {ranges: [{address_prefix: 10.1.0.0, prefix_len: 16}]}}}",
        ),
        (
            "address-match-not",
            "{remote_address_match: {descriptor_key: k, descriptor_value: \"%REQ(x-own)%\", default_value: none, address_matcher: {ranges: [{address_prefix: 10.1.0.0, prefix_len: 16}], invert_match: true}}}",
        ),
        (
            "metadata",
            "{metadata: {descriptor_key: m, metadata_key: {key: of.route, path: [{key: k}]}, source: ROUTE_ENTRY}}",
        ),
        (
            "metadata-deep",
            "{metadata: {descriptor_key: m, metadata_key: {key: of.route, path: [{key: o}, {key: p}]}, source: ROUTE_ENTRY}}",
        ),
        (
            "metadata-number",
            "{metadata: {descriptor_key: m, metadata_key: {key: of.route, path: [{key: number}]}, source: ROUTE_ENTRY}}",
        ),
        (
            "metadata-default",
            "{metadata: {descriptor_key: m, metadata_key: {key: of.route, path: [{key: none}]}, source: ROUTE_ENTRY, default_value: d}}",
        ),
        (
            "metadata-skip",
            "{metadata: {descriptor_key: m, metadata_key: {key: none, path: [{key: none}]}, skip_if_absent: true}}, {generic_key: {descriptor_value: g}}",
        ),
        ("metadata-none", "{metadata: {descriptor_key: m, metadata_key: {key: none, path: [{key: none}]}}}"),
        ("several", "{remote_address: {}}, {destination_cluster: {}}, {generic_key: {descriptor_value: g}}"),
        (
            "one-missing",
            "{generic_key: {descriptor_value: g}}, {request_headers: {header_name: x-own, descriptor_key: own}}",
        ),
    ];
    let mut routes = String::new();
    for (name, actions) in actions {
        routes += &format!(
            "- {{match: {{prefix: /{name}/}}, route: {{cluster: a, rate_limits: [{{actions: [{actions}]}}]}}, metadata: {{filter_metadata: {{of.route: {{k: v, number: 1, o: {{p: deep}}}}}}}}}}\n"
        );
    }
    let rules = [
        (
            "two",
            "{actions: [{generic_key: {descriptor_value: one}}]}, {actions: [{generic_key: {descriptor_value: two}}]}",
        ),
        (
            "stage",
            "{stage: 1, actions: [{generic_key: {descriptor_value: one}}]}, {stage: 0, actions: [{generic_key: {descriptor_value: zero}}]}",
        ),
        ("other-stage", "{stage: 2, actions: [{generic_key: {descriptor_value: two}}]}"),
        (
            "disabled",
            "{disable_key: off_by_key, actions: [{generic_key: {descriptor_value: disabled}}]}, {disable_key: on_by_key, actions: [{generic_key: {descriptor_value: enabled}}]}",
        ),
        (
            "limit",
            "{actions: [{generic_key: {descriptor_value: g}}], limit: {dynamic_metadata: {metadata_key: {key: none, path: [{key: none}]}}}}",
        ),
        (
            "limit-fixed",
            "{actions: [{generic_key: {descriptor_value: g}}], limit: {rate_limit: {requests_per_unit: 7, unit: HOUR}}}",
        ),
        ("empty", ""),
    ];
    for (name, rules) in rules {
        routes += &route(&format!("/{name}/"), rules);
    }
    routes += "- {match: {prefix: /direct/}, direct_response: {status: 204}}\n- {match: {prefix: /gone/}, route: {cluster: nobody, rate_limits: [{actions: [{generic_key: {descriptor_value: g}}]}]}}\n";
    let config = config()
        .top("layered_runtime: {layers: [{name: static, static_layer: {ratelimit.off_by_key.http_filter_enabled: 0}}]}")
        .http(
            "all",
            &(manager("", &routes) + "  validate_clusters: false\nxff_num_trusted_hops: 1\nuse_remote_address: true\n"),
        )
        .http("staged", &manager("stage: 1", &routes.replace("cluster: nobody", "cluster: a")))
        .http("internal", &manager("request_type: internal", &routes.replace("cluster: nobody", "cluster: a")))
        .http("external", &manager("request_type: external", &routes.replace("cluster: nobody", "cluster: a")));
    let mut group = Group::new("limit-descriptors", config);
    for (name, _) in actions.iter().copied().chain(rules) {
        group = group
            .step(
                &format!("{name}-with"),
                get("all", &format!("/{name}/?q=a%20b&r=1"), &["x-own: a", "x-own: b", "x-forwarded-for: 10.1.2.3"]),
            )
            .step(&format!("{name}-without"), get("all", &format!("/{name}/"), &["x-forwarded-for: fd00::1:2:3:4"]));
    }
    for path in ["direct", "gone", "none"] {
        group = group.step(path, get("all", &format!("/{path}/"), &[]));
    }
    group = group.step("staged", get("staged", "/stage/", &[]));
    for to in ["internal", "external"] {
        group = group
            .step(&format!("{to}-from-within"), get(to, "/generic/", &["x-forwarded-for: 10.1.2.3"]))
            .step(&format!("{to}-from-outside"), get(to, "/generic/", &["x-forwarded-for: 8.8.8.8"]));
    }
    run(&group)
}

#[test]
fn levels() -> Result<()> {
    let own = |fields: &str| {
        format!("typed_per_filter_config: {{envoy.filters.http.ratelimit: {{{TYPE}.RateLimitPerRoute, {fields}}}}}")
    };
    let rule = |name: &str| format!("{{actions: [{{generic_key: {{descriptor_value: {name}}}}}]}}");
    let with = |path: &str, more: &str, fields: &str| {
        format!(
            "- {{match: {{prefix: /{path}/}}, route: {{cluster: a{more}}}{}}}\n",
            if fields.is_empty() { String::new() } else { format!(", {}", own(fields)) }
        )
    };
    let limits = |name: &str| format!(", rate_limits: [{}]", rule(name));
    let mut routes = String::new();
    for (name, more) in [
        ("bare", String::new()),
        ("ruled", limits("route")),
        ("included", format!("{}, include_vh_rate_limits: true", limits("route"))),
    ] {
        routes += &with(name, &more, "");
        for kind in ["OVERRIDE", "INCLUDE", "IGNORE"] {
            routes += &with(&format!("{name}-{kind}"), &more, &format!("vh_rate_limits: {kind}"));
        }
    }
    routes += &with("domain", &limits("route"), "domain: other");
    routes += &with("embedded", &limits("route"), &format!("rate_limits: [{}]", rule("per-route")));
    routes += &with(
        "hits",
        "",
        &format!(
            "rate_limits: [{{actions: [{{generic_key: {{descriptor_value: h}}}}], hits_addend: {{number: 5}}}}, {}]",
            rule("one")
        ),
    );
    routes += &with(
        "hits-format",
        "",
        "rate_limits: [{actions: [{generic_key: {descriptor_value: h}}], hits_addend: {format: \"%REQ(x-hits)%\"}}]",
    );
    routes += &with(
        "hits-back",
        "",
        "rate_limits: [{actions: [{generic_key: {descriptor_value: h}}], hits_addend: {number: 2, is_negative_hits: true}}]",
    );
    let host = format!("rate_limits: [{}]", rule("host"));
    let config = config()
        .http("routes", &manager_of(&filter(SERVICE), &host, &routes))
        .http("filter", &manager_of(&filter(&format!("{SERVICE}rate_limits: [{}]", rule("filter"))), &host, &routes))
        .http(
            "two",
            &manager_of(
                &format!(
                    "{}{}",
                    filter(SERVICE),
                    filter(&format!("{SERVICE}stage: 1"))
                        .replace("- name: envoy.filters.http.ratelimit", "- name: second")
                ),
                "",
                &route(
                    "/",
                    &format!(
                        "{}, {{stage: 1, actions: [{{generic_key: {{descriptor_value: later}}}}]}}",
                        rule("first")
                    ),
                ),
            ),
        );
    let mut group = Group::new("limit-levels", config);
    let paths = [
        "bare",
        "bare-OVERRIDE",
        "bare-INCLUDE",
        "bare-IGNORE",
        "ruled",
        "ruled-OVERRIDE",
        "ruled-INCLUDE",
        "ruled-IGNORE",
        "included",
        "included-OVERRIDE",
        "included-IGNORE",
        "domain",
        "embedded",
        "hits",
        "hits-back",
    ];
    for path in paths {
        group = group.step(path, get("routes", &format!("/{path}/"), &[]));
    }
    for (name, hits) in [("number", "12"), ("text", "twelve"), ("many", "1000000001"), ("zero", "0")] {
        group = group.step(&format!("hits-{name}"), get("routes", "/hits-format/", &[&format!("x-hits: {hits}")]));
    }
    group = group.step("hits-none", get("routes", "/hits-format/", &[]));
    for path in ["bare", "ruled", "embedded", "ruled-INCLUDE"] {
        group = group.step(&format!("filter-{path}"), get("filter", &format!("/{path}/"), &[]));
    }
    run(&group.step("two", get("two", "/", &[])))
}

#[test]
fn answers() -> Result<()> {
    let routes = route("/", &format!("{{actions: [{{generic_key: {{descriptor_value: g}}}}, {SCRIPT}]}}"));
    let with = |fields: &str| manager(fields, &routes);
    let listeners = [
        ("plain", ""),
        ("headers", "enable_x_ratelimit_headers: DRAFT_VERSION_03"),
        ("quiet", "disable_x_envoy_ratelimited_header: true"),
        ("exhausted", "rate_limited_as_resource_exhausted: true"),
        ("status", "rate_limited_status: {code: 503}\nstat_prefix: own"),
        ("status-low", "rate_limited_status: {code: 200}"),
        (
            "added",
            "response_headers_to_add: [{header: {key: x-added, value: \"%RESPONSE_CODE%-%REQ(:path)%\"}}, {header: {key: x-up, value: over}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]",
        ),
        ("lax", "filter_enforced: {default_value: {numerator: 0}}"),
        ("off", "filter_enabled: {default_value: {numerator: 0}}"),
        ("retry", "enable_retry_after_header: true"),
        ("namespace", "metadata_namespace: own"),
    ];
    let mut config = config();
    for (name, fields) in listeners {
        config = config.http(&format!("to-{name}"), &with(fields));
    }
    let two =
        vec![status(1, Unit::Minute, "first", 2, 3), status(4, Unit::Hour, "", 1, 6), DescriptorStatus::default()];
    let metadata =
        Struct { fields: [("k".to_owned(), Value { kind: Some(value::Kind::StringValue("v".to_owned())) })].into() };
    let ok = code(Code::Ok);
    let over = code(Code::OverLimit);
    let answers = [
        ("ok", ok.clone()),
        ("over", over.clone()),
        ("unknown", code(Code::Unknown)),
        ("ok-told", RateLimitResponse { statuses: two.clone(), ..ok.clone() }),
        ("over-told", RateLimitResponse { statuses: two, ..over.clone() }),
        (
            "ok-fields",
            RateLimitResponse {
                response_headers_to_add: fields(&[("x-up", "1"), ("x-up", "2"), ("x-down", "3")]),
                request_headers_to_add: fields(&[("x-own", "1"), ("x-own", "2"), ("x-new", "3")]),
                ..ok.clone()
            },
        ),
        (
            "over-fields",
            RateLimitResponse {
                response_headers_to_add: fields(&[
                    ("x-up", "1"),
                    ("x-up", "2"),
                    ("retry-after", "9"),
                    ("x-envoy-ratelimited", "no"),
                ]),
                request_headers_to_add: fields(&[("x-own", "1")]),
                ..over.clone()
            },
        ),
        ("over-body", RateLimitResponse { raw_body: b"too much".to_vec(), ..over.clone() }),
        (
            "over-typed-body",
            RateLimitResponse {
                raw_body: b"{}".to_vec(),
                response_headers_to_add: fields(&[("content-type", "application/json")]),
                ..over.clone()
            },
        ),
        ("ok-metadata", RateLimitResponse { dynamic_metadata: Some(metadata.clone()), ..ok }),
        ("over-metadata", RateLimitResponse { dynamic_metadata: Some(metadata), ..over.clone() }),
    ];
    let mut group = Group::new("limit-answers", config);
    for (to, _) in listeners {
        for (name, response) in &answers {
            let script = answer(response);
            let step = get(&format!("to-{to}"), "/p", &[&script, "x-own: 0", "x-script: 200,h=x-up:up"]);
            group = group.step(&format!("{to}-{name}"), step);
        }
        let over = answer(&over);
        let over = over.trim_start_matches("x-limit: ");
        group = group
            .step(
                &format!("{to}-grpc"),
                h2(&format!("to-{to}"), "/", &[("content-type", "application/grpc"), ("x-limit", over)], b"x"),
            )
            .step(
                &format!("{to}-post"),
                request(&format!("to-{to}"), "POST", "/", &[&format!("x-limit: {over}")], "0123456789").and_close(),
            );
    }
    run(&group.step("counters", counters("")).step("own-counters", counters("own.")))
}

#[test]
fn failures() -> Result<()> {
    let routes = route("/", &format!("{{actions: [{{generic_key: {{descriptor_value: g}}}}, {SCRIPT}]}}"));
    let to = |cluster: &str, timeout: &str| {
        format!(
            "rate_limit_service: {{transport_api_version: V3, grpc_service: {{envoy_grpc: {{cluster_name: {cluster}}}, timeout: 9s}}}}\n{timeout}\n"
        )
    };
    let with = |service: &str, more: &str| manager_of(&filter(&format!("{service}{more}")), "", &routes);
    let config = config()
        .cluster("dead", HTTP2)
        .cluster_of("vacant", &[], HTTP2)
        .http("open", &with(&to("dead", "timeout: 1s"), ""))
        .http("deny", &with(&to("dead", "timeout: 1s"), "failure_mode_deny: true"))
        .http(
            "deny-status",
            &with(
                &to("dead", "timeout: 1s"),
                "failure_mode_deny: true\nstatus_on_error: {code: 503}\nstat_prefix: own",
            ),
        )
        .http(
            "deny-none",
            &with(
                &to("dead", "timeout: 1s"),
                "failure_mode_deny: true\nfailure_mode_deny_percent: {default_value: {numerator: 0}}",
            ),
        )
        .http(
            "deny-all",
            &with(&to("dead", "timeout: 1s"), "failure_mode_deny_percent: {default_value: {numerator: 100}}"),
        )
        .http("vacant", &with(&to("vacant", "timeout: 1s"), "failure_mode_deny: true"))
        .http("unknown", &with(&to("nobody", "timeout: 1s"), "failure_mode_deny: true"))
        .http("slow", &with(&to("limits", "timeout: 0.2s"), "failure_mode_deny: true"))
        .http("default-time", &with(&to("limits", ""), ""))
        .http("live", &with(&to("limits", "timeout: 5s"), "failure_mode_deny: true"));
    let mut group = Group::new("limit-failures", config)
        .step("slow", get("slow", "/", &["x-limit: delay=1000,grpc=0801"]))
        .step("slow-default", get("default-time", "/", &["x-limit: delay=500,grpc=0802"]));
    for to in ["open", "deny", "deny-status", "deny-none", "deny-all", "vacant", "unknown"] {
        group = group
            .step(to, get(to, "/", &[]))
            .step(&format!("{to}-grpc"), h2(to, "/", &[("content-type", "application/grpc")], b""));
    }
    let grpc = "h=content-type:application/grpc";
    for (name, script) in [
        ("status-13", format!("{grpc},h=grpc-status:13,body=")),
        ("status-8", format!("{grpc},h=grpc-status:8,body=")),
        ("http-503", "503".to_owned()),
        ("nonsense", format!("{grpc},body=nonsense,t=grpc-status:0")),
        ("bad-message", "grpc=ffffff".to_owned()),
        ("no-message", "grpc=".to_owned()),
        ("bad-code", "grpc=0863".to_owned()),
        ("reset", "reset".to_owned()),
    ] {
        group = group.step(name, get("live", "/", &[&format!("x-limit: {script}")]));
    }
    run(&group.step("counters", counters("")).step("own-counters", counters("own.")))
}
