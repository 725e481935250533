//! Retries, timeouts, circuit breakers, outlier ejection, failures of upstreams.

use anyhow::Result;
use weft_tests::config::Config;
use weft_tests::parity::{Group, Step, get, h2, request, run, stats};

#[test]
fn retries() -> Result<()> {
    let config = Config::new()
        .http(
            "http",
            r#"
            route_config:
              virtual_hosts:
              - name: all
                domains: ["*"]
                include_request_attempt_count: true
                include_attempt_count_in_response: true
                retry_policy: {retry_on: "5xx", num_retries: 1}
                routes:
                - {match: {prefix: "/vhost"}, route: {cluster: a}}
                - {match: {prefix: "/5xx"}, route: {cluster: a, retry_policy: {retry_on: "5xx", num_retries: 2}}}
                - {match: {prefix: "/gateway"}, route: {cluster: a, retry_policy: {retry_on: "gateway-error"}}}
                - {match: {prefix: "/reset"}, route: {cluster: a, retry_policy: {retry_on: "reset"}}}
                - {match: {prefix: "/4xx"}, route: {cluster: a, retry_policy: {retry_on: "retriable-4xx"}}}
                - {match: {prefix: "/codes"}, route: {cluster: a, retry_policy: {retry_on: "retriable-status-codes", retriable_status_codes: [418, 404]}}}
                - {match: {prefix: "/headers"}, route: {cluster: a, retry_policy: {retry_on: "retriable-headers", retriable_headers: [{name: x-again, present_match: true}]}}}
                - {match: {prefix: "/request-headers"}, route: {cluster: a, retry_policy: {retry_on: "5xx", retriable_request_headers: [{name: x-may, present_match: true}]}}}
                - {match: {prefix: "/grpc"}, route: {cluster: a, retry_policy: {retry_on: "unavailable,cancelled"}}}
                - {match: {prefix: "/pertry"}, route: {cluster: a, timeout: 3s, retry_policy: {retry_on: "5xx", num_retries: 1, per_try_timeout: 0.2s}}}
                - {match: {prefix: "/idle"}, route: {cluster: a, timeout: 3s, retry_policy: {retry_on: "5xx", num_retries: 1, per_try_idle_timeout: 0.2s}}}
                - {match: {prefix: "/refused"}, route: {cluster: h2, retry_policy: {retry_on: "refused-stream"}}}
                - {match: {prefix: "/connect"}, route: {cluster: dead, retry_policy: {retry_on: "connect-failure", num_retries: 2}}}
                - {match: {prefix: "/mixed"}, route: {cluster: mixed, retry_policy: {retry_on: "connect-failure", num_retries: 5, retry_host_predicate: [{name: p, typed_config: {"@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}], host_selection_retry_max_attempts: 5}}}
                - {match: {prefix: "/backoff"}, route: {cluster: a, retry_policy: {retry_on: "5xx", num_retries: 3, retry_back_off: {base_interval: 0.001s, max_interval: 0.002s}}}}
                - {match: {prefix: "/rate-limited"}, route: {cluster: a, retry_policy: {retry_on: "retriable-status-codes", retriable_status_codes: [429], rate_limited_retry_back_off: {reset_headers: [{name: retry-after, format: SECONDS}], max_interval: 2s}}}}
                - {match: {prefix: "/overflow"}, route: {cluster: noretry, retry_policy: {retry_on: "5xx", num_retries: 2}}}
                - {match: {prefix: "/post-buffer"}, per_request_buffer_limit_bytes: 10, route: {cluster: a, retry_policy: {retry_on: "5xx", num_retries: 2}}}
                - {match: {prefix: "/fresh"}, request_headers_to_add: [{header: {key: x-try, value: "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"}}], route: {cluster: a, retry_policy: {retry_on: "5xx", num_retries: 2}}}
                - {match: {prefix: "/client"}, route: {cluster: a}}
            internal_address_config: {cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}
            "#,
        )
        .cluster("a", "")
        .cluster("dead", "")
        .cluster("noretry", "circuit_breakers: {thresholds: [{max_retries: 0}]}")
        .cluster_of("mixed", &["dead2", "live"], "")
        .cluster(
            "h2",
            r#"
            typed_extension_protocol_options:
              envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
                "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
                explicit_http_config: {http2_protocol_options: {}}
            "#,
        );
    let mut group = Group::new("retries", config);
    for (name, path, script) in [
        ("vhost-policy", "/vhost", "503;200"),
        ("5xx-once", "/5xx", "500;200"),
        ("5xx-twice", "/5xx", "500;502;200"),
        ("5xx-gives-up", "/5xx", "500"),
        ("5xx-on-reset", "/5xx", "reset;200"),
        ("5xx-on-close", "/5xx", "close;200"),
        ("5xx-not-4xx", "/5xx", "404;200"),
        ("gateway-502", "/gateway", "502;200"),
        ("gateway-500", "/gateway", "500;200"),
        ("gateway-reset", "/gateway", "reset;200"),
        ("reset", "/reset", "reset;200"),
        ("reset-gives-up", "/reset", "reset"),
        ("reset-not-503", "/reset", "503;200"),
        ("conflict", "/4xx", "409;200"),
        ("conflict-not-404", "/4xx", "404;200"),
        ("codes", "/codes", "418;404"),
        ("codes-other", "/codes", "500;200"),
        ("headers", "/headers", "200,h=x-again:1;200,body=second"),
        ("request-headers-without", "/request-headers", "500;200"),
        ("per-try-timeout", "/pertry", "200,delay=2000;200"),
        ("per-try-timeout-twice", "/pertry", "200,delay=2000"),
        ("per-try-after-head", "/pertry", "200,stall=600;200"),
        ("per-try-idle", "/idle", "200,delay=2000;200"),
        ("grpc-unavailable", "/grpc", "200,h=grpc-status:14,body=;200,h=grpc-status:0,body="),
        ("grpc-other", "/grpc", "200,h=grpc-status:3,body=;200,h=grpc-status:0,body="),
        ("refused-stream", "/refused", "refuse;200"),
        ("refused-not-reset", "/refused", "reset;200"),
        ("connect-failure", "/connect", "200"),
        ("previous-hosts", "/mixed", "200"),
        ("previous-hosts-again", "/mixed", "200"),
        ("backoff", "/backoff", "500;500;500;200"),
        ("rate-limited", "/rate-limited", "429,h=retry-after:1;200"),
        ("retry-overflow", "/overflow", "500;200"),
        ("fresh-headers", "/fresh", "500;500;200"),
        ("garbage", "/5xx", "raw=786f78;200"),
        ("cut-is-too-late", "/5xx", "200,body=abcdef,cut;200"),
    ] {
        group = group.step(name, get("http", path, &[&format!("x-script: {script}")]));
    }
    let group = group
        .step("request-headers-with", get("http", "/request-headers", &["x-may: 1", "x-script: 500;200"]))
        .step("post-replayed", request("http", "POST", "/5xx", &["x-script: 500;200"], "hello"))
        .step("post-too-large", request("http", "POST", "/post-buffer", &["x-script: 500;200"], "more than ten bytes"))
        .step(
            "client-asks",
            get(
                "http",
                "/client",
                &[
                    "x-forwarded-for: 127.0.0.1",
                    "x-envoy-retry-on: 5xx",
                    "x-envoy-max-retries: 3",
                    "x-script: 500;500;500;200",
                ],
            ),
        )
        .step(
            "client-asks-codes",
            get(
                "http",
                "/client",
                &[
                    "x-forwarded-for: 127.0.0.1",
                    "x-envoy-retry-on: retriable-status-codes",
                    "x-envoy-retriable-status-codes: 418",
                    "x-script: 418;200",
                ],
            ),
        )
        .step(
            "client-asks-timeout",
            get(
                "http",
                "/client",
                &["x-forwarded-for: 127.0.0.1", "x-envoy-upstream-rq-timeout-ms: 200", "x-script: 200,delay=2000"],
            ),
        )
        .step(
            "client-asks-alt-response",
            get(
                "http",
                "/client",
                &[
                    "x-forwarded-for: 127.0.0.1",
                    "x-envoy-upstream-rq-timeout-ms: 200",
                    "x-envoy-upstream-rq-timeout-alt-response: 1",
                    "x-script: 200,delay=2000",
                ],
            ),
        )
        .step("h2-client", h2("http", "/5xx", &[("x-script", "500;200")], b"post"))
        .step(
            "counters",
            stats(&[
                "cluster.a.upstream_rq_retry",
                "cluster.a.upstream_rq_retry_success",
                "cluster.a.upstream_rq_retry_limit_exceeded",
                "cluster.a.upstream_rq_retry_backoff_exponential",
                "cluster.a.upstream_rq_retry_backoff_ratelimited",
                "cluster.a.upstream_rq_per_try_timeout",
                "cluster.a.upstream_rq_per_try_idle_timeout",
                "cluster.a.upstream_rq_total",
                "cluster.a.retry.upstream_rq_500",
                "cluster.a.retry.upstream_rq_5xx",
                "cluster.noretry.upstream_rq_retry_overflow",
                "cluster.dead.upstream_rq_retry",
                "cluster.dead.upstream_cx_connect_fail",
                "cluster.dead.upstream_cx_total",
                "cluster.a.upstream_rq_timeout",
            ]),
        );
    run(&group)
}

#[test]
fn failures() -> Result<()> {
    let config = Config::new()
        .http(
            "http",
            r#"
            route_config:
              virtual_hosts:
              - name: all
                domains: ["*"]
                routes:
                - {match: {prefix: "/timeout"}, route: {cluster: a, timeout: 0.2s}}
                - {match: {prefix: "/no-timeout"}, route: {cluster: a, timeout: 0s}}
                - {match: {prefix: "/idle"}, route: {cluster: a, idle_timeout: 0.2s}}
                - {match: {prefix: "/duration"}, route: {cluster: a, max_stream_duration: {max_stream_duration: 0.2s}}}
                - {match: {prefix: "/grpc-timeout"}, route: {cluster: a, max_stream_duration: {grpc_timeout_header_max: 1s}}}
                - {match: {prefix: "/dead"}, route: {cluster: dead}}
                - {match: {prefix: "/two-addresses"}, route: {cluster: two-addresses}}
                - {match: {prefix: "/bounded-grpc-timeout"}, route: {cluster: a, max_stream_duration: {grpc_timeout_header_max: 0.2s, grpc_timeout_header_offset: 0.05s}}}
                - {match: {prefix: "/none"}, route: {cluster: none}}
                - {match: {prefix: "/unhealthy"}, route: {cluster: unhealthy}}
                - {match: {prefix: "/panic"}, route: {cluster: panic}}
                - {match: {prefix: "/drop"}, route: {cluster: drop}}
                - {match: {prefix: "/maintenance"}, route: {cluster: a}}
                - {match: {prefix: "/"}, route: {cluster: a}}
            "#,
        )
        .cluster("a", "")
        .cluster("dead", "")
        .cluster_raw(
            r#"
            name: two-addresses
            type: STATIC
            connect_timeout: 2s
            load_assignment:
              cluster_name: two-addresses
              endpoints:
              - lb_endpoints:
                - endpoint:
                    address: {socket_address: {address: 127.0.0.1, port_value: {{upstream:dead}}}}
                    additional_addresses: [{address: {socket_address: {address: 127.0.0.1, port_value: {{upstream:u}}}}}]
            "#,
        )
        .cluster_of("none", &[], "")
        .cluster_raw(
            r#"
            name: unhealthy
            type: STATIC
            common_lb_config: {healthy_panic_threshold: {value: 0}}
            load_assignment:
              cluster_name: unhealthy
              endpoints: [{lb_endpoints: [{health_status: UNHEALTHY, endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{upstream:u}}}}}}]}]
            "#,
        )
        .cluster_raw(
            r#"
            name: panic
            type: STATIC
            load_assignment:
              cluster_name: panic
              endpoints: [{lb_endpoints: [{health_status: UNHEALTHY, endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{upstream:u}}}}}}]}]
            "#,
        )
        .cluster_raw(
            r#"
            name: drop
            type: STATIC
            load_assignment:
              cluster_name: drop
              policy: {drop_overloads: [{category: all, drop_percentage: {numerator: 100}}]}
              endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{upstream:u}}}}}}]}]
            "#,
        );
    let slow = "x-script: 200,delay=3000";
    let group = Group::new("failures", config)
        .step("timeout", get("http", "/timeout", &[slow]))
        .step("timeout-head", request("http", "HEAD", "/timeout", &[slow], ""))
        .step("timeout-after-head", get("http", "/timeout", &["x-script: 200,stall=3000"]).and_close())
        .step("timeout-h2", h2("http", "/timeout", &[("x-script", "200,delay=3000")], b""))
        .step("timeout-grpc", request("http", "POST", "/timeout", &["content-type: application/grpc", slow], "x"))
        .step("no-timeout", get("http", "/no-timeout", &["x-script: 200,delay=300"]))
        .step("route-idle", get("http", "/idle", &[slow]))
        .step("route-duration", get("http", "/duration", &[slow]))
        .step(
            "grpc-timeout",
            h2(
                "http",
                "/grpc-timeout",
                &[("content-type", "application/grpc"), ("grpc-timeout", "200m"), ("x-script", "200,delay=3000")],
                b"x",
            ),
        )
        .step(
            "grpc-timeout-max",
            h2(
                "http",
                "/bounded-grpc-timeout",
                &[("content-type", "application/grpc"), ("grpc-timeout", "5S"), ("x-script", "200,delay=3000")],
                b"x",
            ),
        )
        .step("two-addresses", get("http", "/two-addresses", &[]))
        .step("connect-failure", get("http", "/dead", &[]))
        .step("connect-failure-h2", h2("http", "/dead", &[], b""))
        .step("connect-failure-grpc", h2("http", "/dead", &[("content-type", "application/grpc")], b"x"))
        .step("no-host", get("http", "/none", &[]))
        .step("no-host-grpc", h2("http", "/none", &[("content-type", "application/grpc")], b"x"))
        .step("unhealthy", get("http", "/unhealthy", &[]))
        .step("panic", get("http", "/panic", &[]))
        .step("drop-overload", get("http", "/drop", &[]))
        .step("reset", get("http", "/", &["x-script: reset"]))
        .step("close", get("http", "/", &["x-script: close"]))
        .step(
            "client-leaves",
            Step::Bytes {
                to: "http".to_owned(),
                writes: vec![format!("GET /no-timeout HTTP/1.1\r\nhost: example.com\r\n{slow}\r\n\r\n").into_bytes()],
                finish: false,
                tls: None,
            },
        )
        .step(
            "client-half-closes",
            Step::Bytes {
                to: "http".to_owned(),
                writes: vec![format!("GET /no-timeout HTTP/1.1\r\nhost: example.com\r\n{slow}\r\n\r\n").into_bytes()],
                finish: true,
                tls: None,
            },
        )
        .step(
            "early-error",
            request("http", "POST", "/", &["x-script: 413,early,end,h=connection:close"], &"x".repeat(100)),
        )
        .step(
            "counters",
            stats(&[
                "cluster.a.upstream_rq_timeout",
                "cluster.a.upstream_rq_504",
                "cluster.dead.upstream_cx_connect_fail",
                "cluster.dead.upstream_rq_503",
                "cluster.dead.upstream_rq_total",
                "cluster.dead.upstream_rq_pending_failure_eject",
                "cluster.none.upstream_cx_none_healthy",
                "cluster.unhealthy.upstream_cx_none_healthy",
                "cluster.unhealthy.membership_healthy",
                "cluster.unhealthy.membership_total",
                "cluster.panic.lb_healthy_panic",
                "cluster.drop.upstream_rq_drop_overload",
                "cluster.a.upstream_cx_destroy_remote_with_active_rq",
                "cluster.a.upstream_cx_destroy_local_with_active_rq",
                "cluster.a.membership_healthy",
                "cluster.a.upstream_cx_close_notify",
                "cluster.a.upstream_rq_cancelled",
                "cluster.a.upstream_rq_active",
                "cluster.a.upstream_cx_active",
                "http.http.downstream_cx_destroy_remote_active_rq",
                "http.http.downstream_cx_destroy_remote",
                "http.http.downstream_rq_active",
            ]),
        );
    run(&group)
}

#[test]
fn limits() -> Result<()> {
    let config = Config::new()
        .http(
            "http",
            r#"
            route_config:
              virtual_hosts:
              - name: all
                domains: ["*"]
                routes:
                - {match: {prefix: "/requests"}, route: {cluster: requests}}
                - {match: {prefix: "/pending"}, route: {cluster: pending}}
                - {match: {prefix: "/connections"}, route: {cluster: connections}}
                - {match: {prefix: "/outlier"}, route: {cluster: outlier}}
                - {match: {prefix: "/local"}, route: {cluster: local}}
                - {match: {prefix: "/per-connection"}, route: {cluster: per-connection}}
            "#,
        )
        .cluster("requests", "circuit_breakers: {thresholds: [{max_requests: 0, track_remaining: true}]}\ntyped_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    explicit_http_config: {http2_protocol_options: {}}\n")
        .cluster("pending", "circuit_breakers: {thresholds: [{max_pending_requests: 0}]}")
        .cluster("connections", "circuit_breakers: {thresholds: [{max_connections: 0}]}")
        .cluster("outlier", "common_lb_config: {healthy_panic_threshold: {value: 0}}\noutlier_detection: {consecutive_5xx: 2, consecutive_gateway_failure: 10, max_ejection_percent: 100, base_ejection_time: 60s, interval: 60s}")
        .cluster("local", "common_lb_config: {healthy_panic_threshold: {value: 0}}\noutlier_detection: {split_external_local_origin_errors: true, consecutive_local_origin_failure: 2, max_ejection_percent: 100, base_ejection_time: 60s, interval: 60s}")
        .cluster("per-connection", "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    common_http_protocol_options: {max_requests_per_connection: 1}\n    explicit_http_config: {http_protocol_options: {}}\n");
    let again = |path: &str, script: &str, times: usize| -> Vec<Step> {
        vec![get("http", path, &[&format!("x-script: {script}")]); times]
    };
    let ejected = Step::Await("cluster.outlier.outlier_detection.ejections_active".into(), 1);
    let group = Group::new("breakers", config)
        .step("max-requests", get("http", "/requests", &[]))
        .step("max-pending", get("http", "/pending", &[]))
        .step("max-pending-grpc", h2("http", "/pending", &[("content-type", "application/grpc")], b"x"))
        .step("max-connections", get("http", "/connections", &[]))
        .case("outlier-5xx", again("/outlier", "500", 2))
        // Envoy ejects on another thread than the one that saw the answer.
        .case("outlier-ejected", vec![ejected, get("http", "/outlier", &[])])
        .case("outlier-local", again("/local", "reset", 3))
        .case("requests-per-connection", again("/per-connection", "200", 2))
        .step(
            "counters",
            stats(&[
                "cluster.requests.upstream_rq_pending_overflow",
                "cluster.pending.upstream_rq_pending_overflow",
                "cluster.connections.upstream_cx_overflow",
                "cluster.outlier.outlier_detection.ejections_active",
                "cluster.outlier.outlier_detection.ejections_enforced_total",
                "cluster.outlier.outlier_detection.ejections_enforced_consecutive_5xx",
                "cluster.outlier.outlier_detection.ejections_detected_consecutive_5xx",
                "cluster.outlier.membership_healthy",
                "cluster.local.outlier_detection.ejections_enforced_consecutive_local_origin_failure",
                "cluster.requests.circuit_breakers.default.rq_open",
                "cluster.requests.circuit_breakers.default.remaining_rq",
                "cluster.pending.circuit_breakers.default.rq_pending_open",
                "cluster.connections.circuit_breakers.default.cx_open",
                "cluster.per-connection.upstream_cx_total",
                "cluster.per-connection.upstream_cx_max_requests",
            ]),
        );
    run(&group)
}
