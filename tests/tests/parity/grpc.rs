//! gRPC: local replies, statuses, log operators.

use anyhow::Result;
use weft_tests::config::{Config, access_log};
use weft_tests::parity::{Group, h2, request, run};

#[test]
fn grpc() -> Result<()> {
    let log = access_log(
        "%RESPONSE_CODE% %GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %TRAILER(grpc-message)%",
    );
    let log: String = log.lines().map(|line| format!("    {line}\n")).collect();
    let route = r#"
    route_config:
      virtual_hosts:
      - name: all
        domains: ["*"]
        routes:
        - {match: {prefix: "/direct/400"}, direct_response: {status: 400, body: {inline_string: "bad: 100% \n done"}}}
        - {match: {prefix: "/direct/401"}, direct_response: {status: 401}}
        - {match: {prefix: "/direct/403"}, direct_response: {status: 403, body: {inline_string: "no"}}}
        - {match: {prefix: "/direct/404"}, direct_response: {status: 404}}
        - {match: {prefix: "/direct/429"}, direct_response: {status: 429}}
        - {match: {prefix: "/direct/500"}, direct_response: {status: 500}}
        - {match: {prefix: "/direct/503"}, direct_response: {status: 503}}
        - {match: {prefix: "/direct/200"}, direct_response: {status: 200, body: {inline_string: fine}}}
        - {match: {prefix: "/redirect"}, redirect: {path_redirect: /x}}
        - {match: {prefix: "/up"}, route: {cluster: a, max_stream_duration: {grpc_timeout_header_max: 0s}}}
    "#;
    let config = Config::new().http("http", &format!("{}\n    access_log:\n{log}", route.trim_end())).cluster(
        "a",
        r#"
            typed_extension_protocol_options:
              envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
                "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
                explicit_http_config: {http2_protocol_options: {}}
            "#,
    );
    let mut group = Group::new("grpc", config);
    let kind = ("content-type", "application/grpc");
    for code in ["400", "401", "403", "404", "429", "500", "503", "200"] {
        group = group.step(&format!("direct-{code}"), h2("http", &format!("/direct/{code}"), &[kind], b"x"));
    }
    for (name, script) in [
        ("ok", "200,h=content-type:application/grpc,body=abc,t=grpc-status:0"),
        ("error-trailers", "200,h=content-type:application/grpc,body=abc,t=grpc-status:5,t=grpc-message:not found"),
        ("trailers-only", "200,h=content-type:application/grpc,body=,h=grpc-status:7,h=grpc-message:denied"),
        ("http-503", "503,body=plain"),
        ("no-status", "200,h=content-type:application/grpc,body=abc"),
        ("reset", "reset"),
        ("cut", "200,h=content-type:application/grpc,body=abcdef,cut"),
        ("deadline", "200,delay=2000"),
        ("odd-status", "200,h=content-type:application/grpc,body=,h=grpc-status:99"),
    ] {
        group = group.step(
            name,
            h2(
                "http",
                "/up/pkg.S/M",
                &[kind, ("te", "trailers"), ("grpc-timeout", "300m"), ("x-script", script)],
                b"x",
            ),
        );
    }
    let group = group
        .step("redirect", h2("http", "/redirect", &[kind], b"x"))
        .step("no-route", h2("http", "/nowhere", &[kind], b"x"))
        .step("http1", request("http", "POST", "/direct/403", &["content-type: application/grpc"], "x"))
        .step("grpc-web-type", request("http", "POST", "/direct/403", &["content-type: application/grpc-web"], "x"))
        .step("upper-case-type", request("http", "POST", "/direct/403", &["content-type: Application/gRPC"], "x"));
    run(&group)
}
