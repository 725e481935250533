//! HTTP filters: CORS, buffer, health check, header mutation, local rate limit.

use anyhow::Result;
use weft_tests::config::Config;
use weft_tests::parity::{Group, get, h1, h2, request, run, stats};

fn listener(filters: &str, route_fields: &str) -> String {
    let filters: String = weft_tests::config::dedent(filters).lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "
    http_filters:
{filters}    route_config:
      virtual_hosts:
      - name: all
        domains: [\"*\"]
        routes:
        - match: {{prefix: \"/\"}}
          route: {{cluster: a}}
{}",
        weft_tests::config::indent(&weft_tests::config::dedent(route_fields), 10)
    )
}

#[test]
fn cors() -> Result<()> {
    let filter = "- {name: envoy.filters.http.cors, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}}";
    let policy = |more: &str| {
        format!(
            "typed_per_filter_config: {{envoy.filters.http.cors: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy, allow_origin_string_match: [{{exact: \"http://good.test\"}}, {{suffix: \".also.test\"}}]{more}}}}}"
        )
    };
    let config = Config::new()
        .http("full", &listener(filter, &policy(", allow_methods: \"GET, PUT\", allow_headers: \"x-a, x-b\", expose_headers: x-e, max_age: \"600\", allow_credentials: true")))
        .http("small", &listener(filter, &policy("")))
        .http("private", &listener(filter, &policy(", allow_private_network_access: true, forward_not_matching_preflights: false")))
        .http("none", &listener(filter, ""))
        .cluster("a", "");
    let preflight = |to: &str, origin: &str| {
        request(
            to,
            "OPTIONS",
            "/",
            &[
                &format!("origin: {origin}"),
                "access-control-request-method: PUT",
                "access-control-request-headers: x-a",
                "access-control-request-private-network: true",
            ],
            "",
        )
    };
    let mut group = Group::new("cors", config);
    for to in ["full", "small", "private", "none"] {
        group = group
            .step(&format!("{to}-preflight"), preflight(to, "http://good.test"))
            .step(&format!("{to}-preflight-suffix"), preflight(to, "https://x.also.test"))
            .step(&format!("{to}-preflight-bad"), preflight(to, "http://bad.test"))
            .step(&format!("{to}-simple"), get(to, "/", &["origin: http://good.test"]))
            .step(&format!("{to}-simple-bad"), get(to, "/", &["origin: http://bad.test"]))
            .step(&format!("{to}-no-origin"), get(to, "/", &[]))
            .step(&format!("{to}-not-preflight"), request(to, "OPTIONS", "/", &["origin: http://good.test"], ""))
            .step(
                &format!("{to}-upstream-has"),
                get(to, "/", &["origin: http://good.test", "x-script: 200,h=access-control-allow-origin:mine"]),
            );
    }
    run(&group.step("counters", stats(&["http.full.cors.origin_valid", "http.full.cors.origin_invalid"])))
}

#[test]
fn small_filters() -> Result<()> {
    let buffer = "- {name: envoy.filters.http.buffer, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 10}}";
    let health = r#"
        - name: envoy.filters.http.health_check
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck
            pass_through_mode: false
            headers: [{name: ":path", string_match: {exact: /healthz}}]
        "#;
    let health_clusters = r#"
        - name: envoy.filters.http.health_check
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck
            pass_through_mode: false
            headers: [{name: ":path", string_match: {exact: /healthz}}]
            cluster_min_healthy_percentages: {a: {value: 50}, none: {value: 50}}
        "#;
    let mutation = r#"
        - name: envoy.filters.http.header_mutation
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
            mutations:
              request_mutations:
              - {append: {header: {key: x-added, value: "%REQ(:path)%"}, append_action: APPEND_IF_EXISTS_OR_ADD}}
              - {remove: x-gone}
              response_mutations:
              - {append: {header: {key: x-answer, value: "%RESPONSE_CODE%"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}
              - {remove: x-up-gone}
        "#;
    let grpc_stats = "- {name: envoy.filters.http.grpc_stats, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig, stats_for_all_methods: true}}";
    let config = Config::new()
        .http("buffer", &listener(buffer, ""))
        .http("health", &listener(health, ""))
        .http("health-clusters", &listener(health_clusters, ""))
        .http("mutation", &listener(mutation, ""))
        .http("grpc-stats", &listener(grpc_stats, ""))
        .http("disabled", &listener(buffer, "typed_per_filter_config: {envoy.filters.http.buffer: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.BufferPerRoute, disabled: true}}"))
        .cluster("a", "")
        .cluster_of("none", &[], "");
    let group = Group::new("filters", config)
        .step("buffer-fits", request("buffer", "POST", "/", &[], "0123456789"))
        .step(
            "buffer-chunked-gets-length",
            h1("buffer", "POST / HTTP/1.1\nhost: a\ntransfer-encoding: chunked\n\n3\nabc\n0\n\n"),
        )
        .step("buffer-too-large", request("buffer", "POST", "/", &[], "0123456789a"))
        .step("buffer-too-large-h2", h2("buffer", "/", &[], b"0123456789a"))
        .step("buffer-disabled", request("disabled", "POST", "/", &[], "0123456789a"))
        .step("health", get("health", "/healthz", &[]))
        .step("health-other", get("health", "/other", &[]))
        .step("health-head", request("health", "HEAD", "/healthz", &[], ""))
        .step("health-clusters", get("health-clusters", "/healthz", &[]))
        .step(
            "mutation",
            get("mutation", "/p?q", &["x-added: 0", "x-gone: 1", "x-script: 201,h=x-up-gone:1,h=x-answer:old"]),
        )
        .step(
            "grpc-stats",
            h2(
                "grpc-stats",
                "/pkg.Service/Method",
                &[
                    ("content-type", "application/grpc"),
                    ("te", "trailers"),
                    ("x-script", "200,h=content-type:application/grpc,h=grpc-status:0,body="),
                ],
                b"\0\0\0\0\x01x",
            ),
        )
        .step(
            "counters",
            stats(&[
                "http.health.health_check.request_total",
                "http.health.health_check.ok",
                "http.health-clusters.health_check.failed",
                "cluster.a.grpc.pkg.Service.Method.total",
                "cluster.a.grpc.pkg.Service.Method.success",
                "cluster.a.grpc.pkg.Service.Method.0",
                "http.buffer.downstream_rq_too_large",
                "http.buffer.buffer.rq_timeout",
            ]),
        );
    run(&group)
}

#[test]
fn local_rate_limit() -> Result<()> {
    let limit = r#"
        - name: envoy.filters.http.local_ratelimit
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
            stat_prefix: limiter
            token_bucket: {max_tokens: 1, tokens_per_fill: 1, fill_interval: 3600s}
            filter_enabled: {default_value: {numerator: 100}}
            filter_enforced: {default_value: {numerator: 100}}
            response_headers_to_add: [{header: {key: x-limited, value: "yes"}}]
            enable_x_ratelimit_headers: DRAFT_VERSION_03
        "#;
    let config = Config::new().http("limit", &listener(limit, "")).cluster("a", "");
    let group = Group::new("local-rate-limit", config)
        .step("limit-first", get("limit", "/", &[]))
        .step("limit-second", get("limit", "/", &[]))
        .step("limit-grpc", h2("limit", "/", &[("content-type", "application/grpc")], b"x"))
        .step(
            "counters",
            stats(&[
                "limiter.http_local_rate_limit.rate_limited",
                "limiter.http_local_rate_limit.ok",
                "limiter.http_local_rate_limit.enforced",
            ]),
        );
    run(&group)
}
