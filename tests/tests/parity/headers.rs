//! Header mutations at all levels, request ids, via, server, local replies.

use anyhow::Result;
use weft_tests::config::Config;
use weft_tests::parity::{Group, get, h1, h2, request, run, stats};
use weft_tests::upstream::script::hex;

const LEVELS: &str = r#"
    route_config:
      request_headers_to_add: [{header: {key: x-order, value: config}}]
      response_headers_to_add: [{header: {key: x-order, value: config}}]
      MOST
      virtual_hosts:
      - name: all
        domains: ["*"]
        request_headers_to_add: [{header: {key: x-order, value: vhost}}]
        response_headers_to_add: [{header: {key: x-order, value: vhost}}]
        request_headers_to_remove: [x-drop-vhost]
        response_headers_to_remove: [x-up-drop]
        routes:
        - match: {prefix: "/levels"}
          request_headers_to_add: [{header: {key: x-order, value: route}}]
          response_headers_to_add: [{header: {key: x-order, value: route}}]
          request_headers_to_remove: [x-drop, "X-Drop-Upper"]
          route:
            weighted_clusters:
              clusters:
              - name: a
                weight: 1
                request_headers_to_add: [{header: {key: x-order, value: weight}}]
                response_headers_to_add: [{header: {key: x-order, value: weight}}]
        - match: {prefix: "/actions"}
          request_headers_to_add:
          - {header: {key: x-append, value: new}, append_action: APPEND_IF_EXISTS_OR_ADD}
          - {header: {key: x-if-absent, value: new}, append_action: ADD_IF_ABSENT}
          - {header: {key: x-overwrite, value: new}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
          - {header: {key: x-only-if, value: new}, append_action: OVERWRITE_IF_EXISTS}
          - {header: {key: x-empty, value: "%REQ(x-none)%"}}
          - {header: {key: x-keep-empty, value: ""}, keep_empty_value: true}
          - {header: {key: x-legacy, value: new}, append: false}
          response_headers_to_add:
          - {header: {key: x-append, value: new}, append_action: APPEND_IF_EXISTS_OR_ADD}
          - {header: {key: x-if-absent, value: new}, append_action: ADD_IF_ABSENT}
          - {header: {key: x-overwrite, value: new}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
          - {header: {key: x-only-if, value: new}, append_action: OVERWRITE_IF_EXISTS}
          route: {cluster: a}
        - match: {prefix: "/operators"}
          request_headers_to_add:
          - {header: {key: x-protocol, value: "%PROTOCOL%"}}
          - {header: {key: x-req, value: "%REQ(x-in)%"}}
          - {header: {key: x-req-alt, value: "%REQ(x-none?x-in)%"}}
          - {header: {key: x-req-len, value: "%REQ(x-in):3%"}}
          - {header: {key: x-remote, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}
          - {header: {key: x-local, value: "%DOWNSTREAM_LOCAL_ADDRESS%"}}
          - {header: {key: x-local-port, value: "%DOWNSTREAM_LOCAL_PORT%"}}
          - {header: {key: x-percent, value: "100%%"}}
          - {header: {key: x-mixed, value: "a-%REQ(:method)%-%REQ(:path)%-z"}}
          - {header: {key: x-route, value: "%ROUTE_NAME%"}}
          - {header: {key: x-vhost, value: "%VIRTUAL_CLUSTER_NAME%"}}
          - {header: {key: x-upstream, value: "%UPSTREAM_REMOTE_ADDRESS%"}}
          - {header: {key: x-environment, value: "%ENVIRONMENT(WEFT_NOT_SET)%"}}
          - {header: {key: x-meta, value: "%METADATA(ROUTE:com.test:key)%"}}
          metadata: {filter_metadata: {com.test: {key: value}}}
          name: operators
          response_headers_to_add:
          - {header: {key: x-code, value: "%RESPONSE_CODE%"}}
          - {header: {key: x-resp, value: "%RESP(x-up)%"}}
          - {header: {key: x-cluster, value: "%UPSTREAM_CLUSTER%"}}
          - {header: {key: x-host, value: "%UPSTREAM_HOST%"}}
          - {header: {key: x-details, value: "%RESPONSE_CODE_DETAILS%"}}
          - {header: {key: x-bytes, value: "%BYTES_RECEIVED%"}}
          route: {cluster: a}
        - match: {prefix: "/host"}
          request_headers_to_add: [{header: {key: x-authority, value: "%REQ(:authority)%"}}]
          route: {cluster: a, auto_host_rewrite: true}
        - match: {prefix: "/direct"}
          request_headers_to_add: [{header: {key: x-order, value: route}}]
          response_headers_to_add: [{header: {key: x-order, value: route}}]
          direct_response: {status: 200, body: {inline_string: direct}}
        - {match: {prefix: "/"}, route: {cluster: a}}
    "#;

fn levels(name: &str, most: &str) -> Result<()> {
    let config = Config::new().http("http", &LEVELS.replace("MOST", most)).cluster("a", "");
    let group = Group::new(name, config)
        .step(
            "levels",
            get(
                "http",
                "/levels",
                &[
                    "x-order: client",
                    "x-drop: 1",
                    "x-drop-upper: 1",
                    "x-drop-vhost: 1",
                    "x-script: 200,h=x-order:upstream,h=x-up-drop:1",
                ],
            ),
        )
        .step("direct", get("http", "/direct", &[]))
        .step("no-route-levels", request("http", "CONNECT", "host:1", &[], ""))
        .step(
            "actions-present",
            get(
                "http",
                "/actions",
                &[
                    "x-append: old",
                    "x-if-absent: old",
                    "x-overwrite: old",
                    "x-overwrite: old2",
                    "x-only-if: old",
                    "x-legacy: old",
                    "x-script: 200,h=x-append:old,h=x-if-absent:old,h=x-overwrite:old,h=x-only-if:old",
                ],
            ),
        )
        .step("actions-absent", get("http", "/actions", &[]))
        .step("operators", get("http", "/operators?q=1", &["x-in: abcdef", "x-script: 200,h=x-up:value"]))
        .step("operators-absent", get("http", "/operators", &[]))
        .step("authority", get("http", "/host", &[]));
    run(&group)
}

#[test]
fn mutations() -> Result<()> {
    levels("mutations", "")
}

#[test]
fn mutations_most_specific() -> Result<()> {
    levels("mutations-most-specific", "most_specific_header_mutations_wins: true")
}

const ONE_ROUTE: &str = r#"
    route_config:
      virtual_hosts:
      - name: all
        domains: ["*"]
        routes: [{match: {prefix: "/"}, route: {cluster: a}}]
    "#;

fn with(fields: &str) -> String {
    let margin = "    ";
    let more: String = fields.lines().map(|line| format!("{margin}{line}\n")).collect();
    format!("{}\n{more}", ONE_ROUTE.trim_end())
}

#[test]
fn identity_headers() -> Result<()> {
    let config = Config::new()
        .http("plain", ONE_ROUTE)
        .http("named", &with("server_name: mine\nvia: edge"))
        .http("append", &with("server_header_transformation: APPEND_IF_ABSENT"))
        .http("pass", &with("server_header_transformation: PASS_THROUGH"))
        .http("keep-id", &with("preserve_external_request_id: true\nalways_set_request_id_in_response: true\nuse_remote_address: true"))
        .http("no-id", &with("generate_request_id: false"))
        .http("edge", &with("use_remote_address: true\ninternal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}"))
        .http("proper", &with("http_protocol_options: {header_key_format: {proper_case_words: {}}}"))
        .http(
            "preserve",
            &with("http_protocol_options: {header_key_format: {stateful_formatter: {name: p, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig}}}}"),
        )
        .http("underscores", &with("common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}"))
        .http("underscores-drop", &with("common_http_protocol_options: {headers_with_underscores_action: DROP_HEADER}"))
        .http("scheme", &with("scheme_header_transformation: {scheme_to_overwrite: https}"))
        .cluster("a", "");
    let up = "x-script: 200,h=server:upstream,h=Via:1.1 up,h=X-Mixed-Case:v,h=x_under:1";
    let mut group = Group::new("identity", config);
    for listener in [
        "plain",
        "named",
        "append",
        "pass",
        "keep-id",
        "no-id",
        "edge",
        "proper",
        "preserve",
        "underscores-drop",
        "scheme",
    ] {
        group = group.step(
            listener,
            get(listener, "/", &[up, "x-request-id: mine", "Via: 1.0 client", "X-Mixed-Case: v", "x_under: 1"]),
        );
        group = group.step(&format!("{listener}-bare"), get(listener, "/", &[]));
    }
    let group = group
        .step("underscores", get("underscores", "/", &["x_under: 1"]))
        .step("hop-by-hop", get("plain", "/", &["connection: x-gone, keep-alive", "keep-alive: 5", "x-gone: 1", "proxy-connection: x", "te: trailers", "upgrade-insecure-requests: 1"]))
        .step("te-gzip", get("plain", "/", &["te: gzip"]))
        .step("envoy-headers-external", get("plain", "/", &["x-envoy-internal: true", "x-envoy-retry-on: 5xx", "x-envoy-attempt-count: 9", "x-envoy-unknown: 1", "x-envoy-original-path: /x", "x-envoy-decorator-operation: op", "x-envoy-external-address: 1.2.3.4", "x-envoy-downstream-service-cluster: c", "x-envoy-upstream-rq-timeout-ms: 100"]))
        .step("envoy-headers-edge", get("edge", "/", &["x-envoy-internal: true", "x-envoy-retry-on: 5xx", "x-envoy-attempt-count: 9", "x-envoy-unknown: 1", "x-envoy-original-path: /x", "x-envoy-decorator-operation: op", "x-envoy-external-address: 1.2.3.4", "x-envoy-downstream-service-cluster: c", "x-envoy-upstream-rq-timeout-ms: 100"]))
        .step("cookies", get("plain", "/", &["cookie: a=b", "cookie: c=d", "x-script: 200,h=set-cookie:a=b,h=set-cookie:c=d"]))
        .step("repeated", get("plain", "/", &["accept: a", "accept: b", "x-r: 1", "x-r: 2"]))
        .step("empty-value", get("plain", "/", &["x-empty:", "x-spaces:    a  b   "]))
        .step("latin1", h1("plain", "GET / HTTP/1.1\nhost: a\nx-l: caf\u{e9}\n\n"))
        .step("response-hop-by-hop", get("plain", "/", &["x-script: 200,h=keep-alive:5,h=connection:keep-alive,h=proxy-authenticate:basic,h=x-envoy-upstream-service-time:77,h=date:yesterday"]));
    run(&group)
}

#[test]
fn local_replies() -> Result<()> {
    let mapper = r#"
local_reply_config:
  body_format: {json_format: {code: "%RESPONSE_CODE%", body: "%LOCAL_REPLY_BODY%", path: "%REQ(:path)%"}}
  mappers:
  - filter: {status_code_filter: {comparison: {op: EQ, value: {default_value: 404, runtime_key: a}}}}
    status_code: 410
    body: {inline_string: "gone"}
    headers_to_add: [{header: {key: x-mapped, value: "%RESPONSE_CODE%"}}]
  - filter: {response_flag_filter: {flags: [UF]}}
    status_code: 599
    body_format_override: {text_format_source: {inline_string: "flags %RESPONSE_FLAGS%: %LOCAL_REPLY_BODY%\n"}, content_type: "text/x-mine"}
  - filter: {header_filter: {header: {name: x-plain, string_match: {exact: "1"}}}}
    body_format_override: {text_format: "plain %RESPONSE_CODE%"}"#;
    let route = r#"
    route_config:
      virtual_hosts:
      - name: all
        domains: ["all.test"]
        routes:
        - {match: {path: "/direct"}, direct_response: {status: 404, body: {inline_string: direct}}}
        - {match: {path: "/dead"}, route: {cluster: dead}}
        - {match: {path: "/none"}, route: {cluster: none}}
        - {match: {path: "/up"}, route: {cluster: a}}
    "#;
    let more: String = mapper.lines().map(|line| format!("    {line}\n")).collect();
    let config = Config::new()
        .http("http", &format!("{}\n{more}", route.trim_end()))
        .cluster("a", "")
        .cluster("dead", "")
        .cluster_of("none", &[], "");
    let host = "host: all.test";
    let group = Group::new("local-replies", config)
        .step("no-route", get("http", "/x", &[host]))
        .step("no-virtual-host", get("http", "/x", &[]))
        .step("direct", get("http", "/direct", &[host]))
        .step("connect-failure", get("http", "/dead", &[host]))
        .step("no-host", get("http", "/none", &[host]))
        .step("by-header", get("http", "/none", &[host, "x-plain: 1"]))
        .step("upstream-404-is-not-local", get("http", "/up", &[host, "x-script: 404,body=theirs"]))
        .step("grpc", request("http", "POST", "/none", &[host, "content-type: application/grpc"], "x"))
        .step("head", request("http", "HEAD", "/none", &[host], ""));
    run(&group)
}

#[test]
fn early_mutations() -> Result<()> {
    let config = Config::new()
        .http(
            "http",
            r#"
            use_remote_address: true
            route_config:
              virtual_hosts:
              - name: all
                domains: ["*"]
                routes:
                - {match: {prefix: "/", headers: [{name: x-in, present_match: true}]}, direct_response: {status: 200, body: {inline_string: still there}}}
                - {match: {prefix: "/"}, route: {cluster: a}}
            early_header_mutation_extensions:
            - name: e
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation
                mutations:
                - append: {header: {key: x-forwarded-for, value: 9.9.9.9}}
                - append: {header: {key: x-envoy-retry-on, value: 5xx}}
                - append: {header: {key: x-seen, value: "%REQ(x-forwarded-proto)%/%REQ(x-in)%/%PROTOCOL%"}}
                - remove: x-in
        "#,
        )
        .cluster("a", "");
    run(&Group::new("early-mutations", config)
        .step("bare", get("http", "/", &[]))
        .step("with", get("http", "/", &["x-in: 1", "x-forwarded-for: 1.1.1.1"])))
}

#[test]
fn trailer_mutations() -> Result<()> {
    let filter = r#"
            http_protocol_options: {enable_trailers: true}
            route_config:
              virtual_hosts:
              - {name: all, domains: ["*"], routes: [{match: {prefix: "/"}, route: {cluster: a}}]}
            http_filters:
            - name: envoy.filters.http.header_mutation
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
                mutations:
                  request_trailers_mutations:
                  - append: {header: {key: x-up, value: "%REQ(x-a)%"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
                  response_trailers_mutations:
                  - append: {header: {key: x-down, value: made}}
                  - remove: x-gone
        "#;
    let config = Config::new().http("http", filter).cluster("a", "http_protocol_options: {enable_trailers: true}\n");
    let group = Group::new("trailer-mutations", config)
        .step("response", get("http", "/", &["x-script: 200,body=a,t=x-kept:2,t=x-gone:1"]))
        .step("none", get("http", "/", &["x-script: 200,body=a"]))
        .step(
            "request",
            h1("http", "POST / HTTP/1.1\nhost: a\nx-a: 7\ntransfer-encoding: chunked\n\n1\na\n0\nx-t: v\n\n"),
        );
    run(&group)
}

#[test]
fn strict_headers() -> Result<()> {
    let config = Config::new()
        .http(
            "http",
            r#"
            use_remote_address: true
            internal_address_config: {cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}
            route_config:
              virtual_hosts:
              - {name: all, domains: ["*"], routes: [{match: {prefix: "/"}, route: {cluster: a}}]}
            http_filters:
            - name: envoy.filters.http.router
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                strict_check_headers: [x-envoy-upstream-rq-timeout-ms, x-envoy-max-retries, x-envoy-retry-on]
        "#,
        )
        .cluster("a", "");
    run(&Group::new("strict-headers", config)
        .step("good", get("http", "/", &["x-envoy-max-retries: 3", "x-envoy-retry-on: 5xx, reset"]))
        .step("timeout", get("http", "/", &["x-envoy-upstream-rq-timeout-ms: 1s"]))
        .step("retries", get("http", "/", &["x-envoy-max-retries: many"]))
        .step("retry-on", get("http", "/", &["x-envoy-retry-on: 5xx,sometimes"]))
        .step("unchecked", get("http", "/", &["x-envoy-retry-grpc-on: never"])))
}

#[test]
fn upstream_targets() -> Result<()> {
    let route = r#"
            route_config:
              virtual_hosts:
              - {name: all, domains: ["*"], routes: [{match: {prefix: "/"}, route: {cluster: a}}]}
        "#;
    let case = "header_key_format: {stateful_formatter: {name: p, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig}}}";
    let upstream = format!(
        "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    explicit_http_config: {{http_protocol_options: {{send_fully_qualified_url: true, {case}}}}}\n"
    );
    let config = Config::new().http("http", route).cluster("a", &upstream);
    run(&Group::new("upstream-targets", config)
        .step("whole-url", get("http", "/x?y", &[]))
        .step("case-of-answers", get("http", "/", &["x-script: 200,h=X-Mixed-Case:v,h=UPPER:w"])))
}

#[test]
fn proxy_status() -> Result<()> {
    let routes = r#"
            route_config:
              virtual_hosts:
              - name: all
                domains: ["*"]
                routes:
                - {match: {prefix: "/direct"}, direct_response: {status: 404}}
                - {match: {prefix: "/nowhere"}, route: {cluster_header: x-nowhere}}
                - {match: {prefix: "/dead"}, route: {cluster: dead}}
                - {match: {prefix: "/none"}, route: {cluster: none}}
                - {match: {prefix: "/slow"}, route: {cluster: a, timeout: 0.2s}}
                - {match: {prefix: "/a"}, route: {cluster: a}}
        "#;
    let with = |fields: &str| format!("{routes}\n            proxy_status_config: {fields}\n");
    let config = Config::new()
        .http("all", &with("{}"))
        .http("bare", &with("{remove_details: true}"))
        .http(
            "codes",
            &with("{remove_response_flags: true, set_recommended_response_code: true, literal_proxy_name: px}"),
        )
        .cluster("a", "")
        .cluster("dead", "")
        .cluster_of("none", &[], "");
    let mut group = Group::new("proxy-status", config);
    for to in ["all", "bare", "codes"] {
        for (case, path, script) in [
            ("ok", "/a", "200"),
            ("upstream-503", "/a", "503"),
            ("direct", "/direct", ""),
            ("no-route", "/x", ""),
            ("no-cluster", "/nowhere", ""),
            ("refused", "/dead", ""),
            ("no-host", "/none", ""),
            ("timeout", "/slow", "200,delay=1000"),
            ("garbage", "/a", &format!("raw={}", hex(b"nonsense\r\n\r\n"))),
        ] {
            group = group.step(&format!("{to}-{case}"), get(to, path, &[&format!("x-script: {script}")]));
        }
    }
    run(&group)
}

#[test]
fn underscores() -> Result<()> {
    let listener = |action: &str| {
        format!(
            "route_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n    - {{match: {{prefix: \"/\"}}, route: {{cluster: a}}}}\ncommon_http_protocol_options: {{headers_with_underscores_action: {action}}}\n"
        )
    };
    let config = Config::new()
        .http("allow", &listener("ALLOW"))
        .http("reject", &listener("REJECT_REQUEST"))
        .http("drop", &listener("DROP_HEADER"))
        .cluster("a", "");
    let mut group = Group::new("underscores", config);
    for to in ["allow", "reject", "drop"] {
        group = group
            .step(&format!("{to}-h1"), get(to, "/", &["x_a: 1", "x_b: 2", "x-c: 3"]))
            .step(&format!("{to}-h2"), h2(to, "/", &[("x_a", "1"), ("x_b", "2"), ("x-c", "3")], b""));
    }
    let group = group.step(
        "counters",
        stats(&[
            "http1.dropped_headers_with_underscores",
            "http1.requests_rejected_with_underscores_in_headers",
            "http2.dropped_headers_with_underscores",
            "http2.requests_rejected_with_underscores_in_headers",
        ]),
    );
    run(&group)
}
