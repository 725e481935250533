//! What HTTP/1 (and 2) connections do: versions, bodies, trailers, interim responses, upgrades, closing.

use anyhow::Result;
use weft_tests::config::Config;
use weft_tests::h2_client::H2Request;
use weft_tests::parity::{Group, Step, crlf, get, h1, h2, request, run, stats};
use weft_tests::upstream::script::hex;

fn listener(fields: &str) -> String {
    let route = r#"
    route_config:
      virtual_hosts:
      - name: all
        domains: ["*"]
        routes:
        - {match: {prefix: "/direct"}, direct_response: {status: 200, body: {inline_string: direct}}}
        - {match: {prefix: "/h2"}, route: {cluster: b}}
        - {match: {prefix: "/ws"}, route: {cluster: a, upgrade_configs: [{upgrade_type: websocket}]}}
        - {match: {prefix: "/nows"}, route: {cluster: a, upgrade_configs: [{upgrade_type: websocket, enabled: false}]}}
        - {match: {prefix: "/post"}, route: {cluster: tcp, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {allow_post: true}}]}}
        - {match: {connect_matcher: {}}, route: {cluster: tcp, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}}
        - {match: {prefix: "/"}, route: {cluster: a}}
    "#;
    let more: String = fields.lines().map(|line| format!("    {line}\n")).collect();
    format!("{}\n{more}", route.trim_end())
}

const HTTP2: &str = r#"
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    "#;

#[test]
fn bodies() -> Result<()> {
    let config = Config::new()
        .http("http", &listener(""))
        .http("ten", &listener("http_protocol_options: {accept_http_10: true, default_host_for_http_10: ten.test}"))
        .http("trailers", &listener("http_protocol_options: {enable_trailers: true}"))
        .http("absolute", &listener("http_protocol_options: {allow_absolute_url: false}"))
        .http("one", &listener("common_http_protocol_options: {max_requests_per_connection: 1}"))
        .http("continue", &listener("proxy_100_continue: true"))
        .cluster("a", "")
        .cluster("tcp", "")
        .cluster("b", HTTP2);
    let chunks = "4\nwiki\n5;ext=1\npedia\n0\n";
    let mut group = Group::new("bodies", config);
    for (up, path) in [("h1", "/"), ("h2", "/h2")] {
        let name = |case: &str| format!("{up}-{case}");
        group = group
            .step(&name("get"), get("http", path, &[]))
            .step(&name("post"), request("http", "POST", path, &[], "hello"))
            .step(&name("post-empty"), h1("http", &format!("POST {path} HTTP/1.1\nhost: a\ncontent-length: 0\n\n")))
            .step(
                &name("chunked"),
                h1("http", &format!("POST {path} HTTP/1.1\nhost: a\ntransfer-encoding: chunked\n\n{chunks}\n")),
            )
            .step(
                &name("chunked-trailers"),
                h1(
                    "http",
                    &format!(
                        "POST {path} HTTP/1.1\nhost: a\ntransfer-encoding: chunked\ntrailer: x-t\n\n{chunks}x-t: v\n\n"
                    ),
                ),
            )
            .step(
                &name("chunked-trailers-on"),
                h1(
                    "trailers",
                    &format!(
                        "POST {path} HTTP/1.1\nhost: a\ntransfer-encoding: chunked\nte: trailers\n\n{chunks}x-t: v\n\n"
                    ),
                ),
            )
            .step(&name("large"), request("http", "PUT", path, &["x-script: 200,size=300000"], &"x".repeat(200_000)))
            .step(&name("head"), request("http", "HEAD", path, &[], ""))
            .step(&name("204"), get("http", path, &["x-script: 204"]))
            .step(&name("304"), get("http", path, &["x-script: 304,h=etag:x"]))
            .step(&name("205"), get("http", path, &["x-script: 205,body="]))
            .step(&name("empty-200"), get("http", path, &["x-script: 200,body="]))
            .step(&name("delete-body"), request("http", "DELETE", path, &[], "gone"))
            .step(&name("response-chunked"), get("http", path, &["x-script: 200,chunked,body=abc"]))
            .step(&name("response-trailers"), get("http", path, &["te: trailers", "x-script: 200,body=abc,t=x-t:v"]))
            .step(
                &name("response-trailers-on"),
                get("trailers", path, &["te: trailers", "x-script: 200,body=abc,t=x-t:v"]),
            )
            .step(&name("status-299"), get("http", path, &["x-script: 299"]))
            .step(&name("status-599"), get("http", path, &["x-script: 599"]))
            .step(&name("cut"), get("http", path, &["x-script: 200,body=abcdefgh,cut"]).and_close())
            .step(&name("cut-chunked"), get("http", path, &["x-script: 200,chunked,body=abcdefgh,cut"]).and_close())
            .step(&name("reset"), get("http", path, &["x-script: reset"]))
            .step(&name("h2-client"), h2("http", path, &[("x-script", "200,body=abc")], b"post"))
            .step(
                &name("h2-client-trailers"),
                h2("trailers", path, &[("te", "trailers"), ("x-script", "200,body=abc,t=x-t:v")], b""),
            )
            .step(&name("h2-client-cut"), h2("http", path, &[("x-script", "200,body=abcdefgh,cut")], b""))
            .step(&name("h2-client-head-204"), h2("http", path, &[("x-script", "204")], b""));
    }
    let group = group
        .step("h1-close", get("http", "/", &["x-script: close"]))
        .step("h2-refuse", get("http", "/h2", &["x-script: refuse"]))
        .step("hints", get("http", "/", &["x-script: hints,200"]))
        .step("upstream-continue", get("http", "/", &["x-script: continue,200"]))
        .step("expect-answered", h1("http", "POST / HTTP/1.1\nhost: a\nexpect: 100-continue\ncontent-length: 4\n\nbody"))
        .step("expect-proxied", h1("continue", "POST / HTTP/1.1\nhost: a\nexpect: 100-continue\ncontent-length: 4\nx-script: continue,200\n\nbody"))
        .step("expect-other", h1("http", "POST / HTTP/1.1\nhost: a\nexpect: tea\ncontent-length: 4\n\nbody"))
        .step("early-answer", Step::Http1 { to: "http".into(), bytes: crlf("POST /direct HTTP/1.1\nhost: a\ncontent-length: 100\n\npart"), methods: vec!["POST".into()], tls: None, closes: true })
        .step("version-10-refused", h1("http", "GET / HTTP/1.0\nhost: a\n\n").and_close())
        .step("version-10", h1("ten", "GET / HTTP/1.0\n\n").and_close())
        .step("version-10-keep-alive", h1("ten", "GET / HTTP/1.0\nhost: a\nconnection: keep-alive\n\n").and_close())
        .step("version-10-chunked-answer", h1("ten", "GET / HTTP/1.0\nhost: a\nx-script: 200,chunked,body=abc\n\n").and_close())
        .step("version-10-post", h1("ten", "POST / HTTP/1.0\ncontent-length: 2\n\nab").and_close())
        .step("connection-close", get("http", "/", &["connection: close"]).and_close())
        .step("keep-alive", get("http", "/", &[]).and_close())
        .step("one-request", get("one", "/", &[]).and_close())
        .step("upstream-closes", get("http", "/", &["x-script: 200,end,h=connection:close"]).and_close())
        .step("absolute-refused", get("absolute", "http://x.test/p", &[]))
        .step(
            "pipelined",
            Step::Http1 {
                to: "http".into(),
                bytes: crlf("GET /1 HTTP/1.1\nhost: a\n\nPOST /2 HTTP/1.1\nhost: a\ncontent-length: 2\n\nxyGET /3 HTTP/1.1\nhost: a\nconnection: close\n\n"),
                methods: vec!["GET".into(), "POST".into(), "GET".into()],
                tls: None,
                closes: true,
            },
        )
        .step("until-close", get("http", "/", &[&format!("x-script: raw={}", hex(b"HTTP/1.1 200 OK\r\nx-a: b\r\n\r\nall there is"))]))
        .step("upstream-10", get("http", "/", &[&format!("x-script: raw={}", hex(b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"))]));
    let mut group = group;
    for (name, raw) in [
        ("garbage", &b"not http at all\r\n\r\n"[..]),
        ("no-reason", b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok"),
        ("two-lengths", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok"),
        (
            "both-framings",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        ("bad-chunk", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n"),
        ("gzip-coding", b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nxx"),
        ("status-99", b"HTTP/1.1 99 Odd\r\ncontent-length: 0\r\n\r\n"),
        ("status-1000", b"HTTP/1.1 1000 Odd\r\ncontent-length: 0\r\n\r\n"),
        ("head-cut", b"HTTP/1.1 200 OK\r\ncontent-le"),
        ("too-long-body", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokmore"),
        ("204-with-length", b"HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n"),
        ("304-with-length", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n"),
        ("header-control-byte", b"HTTP/1.1 200 OK\r\nx-a: b\x01c\r\ncontent-length: 0\r\n\r\n"),
        ("header-no-colon", b"HTTP/1.1 200 OK\r\nxa\r\ncontent-length: 0\r\n\r\n"),
        ("101-unasked", b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"),
        ("bare-lf", b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok"),
    ] {
        group = group.step(&format!("upstream-{name}"), get("http", "/", &[&format!("x-script: raw={}", hex(raw))]));
    }
    let group = group.step(
        "counters",
        stats(&[
            "cluster.a.upstream_cx_protocol_error",
            "cluster.a.upstream_rq_rx_reset",
            "cluster.a.upstream_rq_pending_total",
            "cluster.a.upstream_cx_destroy_with_active_rq",
            "cluster.b.upstream_cx_http2_total",
            "cluster.b.upstream_cx_total",
            "http.http.downstream_rq_http1_total",
            "http.http.downstream_rq_http2_total",
            "http.http.downstream_rq_3xx",
            "http.http.downstream_rq_5xx",
        ]),
    );
    run(&group)
}

#[test]
fn upgrades() -> Result<()> {
    let config = Config::new()
        .http("http", &listener(""))
        .http("everywhere", &listener("upgrade_configs: [{upgrade_type: websocket}]"))
        .cluster("a", "")
        .cluster("b", HTTP2)
        .cluster("tcp", "");
    let upgrade = |path: &str, kind: &str, script: &str| {
        crlf(&format!(
            "GET {path} HTTP/1.1\nhost: a\nconnection: Upgrade\nupgrade: {kind}\nsec-websocket-key: x\nx-script: {script}\n\n"
        ))
    };
    let talk = |to: &str, first: Vec<u8>| Step::Bytes {
        to: to.into(),
        writes: vec![first, b"ping".to_vec(), b"pong".to_vec()],
        finish: true,
        tls: None,
    };
    let tunnel = |body: &[u8]| Step::Http2 {
        to: "http".into(),
        request: H2Request {
            method: "CONNECT".into(),
            uri: "host.test:80".into(),
            body: body.to_vec(),
            ..H2Request::default()
        },
        tls: None,
    };
    let group = Group::new("upgrades", config)
        .step("websocket", talk("http", upgrade("/ws", "websocket", "101")))
        .step("websocket-upper", talk("http", upgrade("/ws", "WebSocket", "101")))
        .step("websocket-by-manager", talk("everywhere", upgrade("/", "websocket", "101")))
        .step("websocket-off-at-route", h1("everywhere", &String::from_utf8_lossy(&upgrade("/nows", "websocket", "101"))))
        .step("websocket-refused-by-upstream", h1("http", &String::from_utf8_lossy(&upgrade("/ws", "websocket", "403,body=no"))))
        .step("websocket-answered-200", h1("http", &String::from_utf8_lossy(&upgrade("/ws", "websocket", "200,body=hm"))))
        .step("not-configured", h1("http", &String::from_utf8_lossy(&upgrade("/", "websocket", "101"))))
        .step("other-protocol", h1("http", &String::from_utf8_lossy(&upgrade("/ws", "foo", "101"))))
        .step("h2c", h1("http", "GET / HTTP/1.1\nhost: a\nconnection: Upgrade, HTTP2-Settings\nupgrade: h2c\nhttp2-settings: AAMAAABkAAQAAP__\n\n"))
        .step("connect", talk("http", crlf("CONNECT host.test:80 HTTP/1.1\nhost: host.test:80\n\n")))
        .step("connect-h2", tunnel(b"ping"))
        .step("connect-by-post", request("http", "POST", "/post", &[], "ping"))
        .step("connect-no-port", h1("http", "CONNECT host.test HTTP/1.1\nhost: host.test\n\n"));
    run(&group)
}

#[test]
fn connect_not_routed() -> Result<()> {
    let config = Config::new()
        .http("http", "route_config:\n  virtual_hosts:\n  - {name: all, domains: [\"*\"], routes: [{match: {prefix: \"/\"}, route: {cluster: a}}]}\n")
        .cluster("a", "");
    let group = Group::new("connect", config)
        .step("refused", h1("http", "CONNECT host.test:80 HTTP/1.1\nhost: host.test:80\n\n").and_close())
        .step("h2-refused", h2("http", "/", &[("x-a", "b")], b""))
        .step("trace", request("http", "TRACE", "/", &[], ""))
        .step("unknown-method", request("http", "BREW", "/", &[], ""))
        .step("patch", request("http", "PATCH", "/", &[], "x"));
    run(&group)
}

#[test]
fn limits() -> Result<()> {
    let config = Config::new()
        .http("http", &listener(""))
        .http("small", &listener("max_request_headers_kb: 1\ncommon_http_protocol_options: {max_headers_count: 10}"))
        .http("timeouts", &listener("request_timeout: 0.3s\nstream_idle_timeout: 0s"))
        .http("headers-timeout", &listener("request_headers_timeout: 0.3s"))
        .http("idle", &listener("stream_idle_timeout: 0.3s"))
        .http("idle-connection", &listener("common_http_protocol_options: {idle_timeout: 0.2s}\ndrain_timeout: 0.1s"))
        .http("duration", &listener("common_http_protocol_options: {max_stream_duration: 0.3s}"))
        .cluster("a", "")
        .cluster("b", HTTP2)
        .cluster("tcp", "");
    let big = format!("x-big: {}", "v".repeat(2000));
    let many: Vec<String> = (0..20).map(|at| format!("x-{at}: v")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let group = Group::new("limits", config)
        .step("headers-too-large", get("small", "/", &[&big]).and_close())
        .step("headers-too-many", get("small", "/", &many).and_close())
        .step("headers-h2-too-large", h2("small", "/", &[("x-big", &"v".repeat(2000))], b""))
        .step("headers-default-fits", get("http", "/direct", &[&format!("x-big: {}", "v".repeat(50_000))]))
        .step("headers-default-too-large", get("http", "/direct", &[&format!("x-big: {}", "v".repeat(70_000))]))
        .step("request-timeout", h1("timeouts", "POST / HTTP/1.1\nhost: a\ncontent-length: 10\n\nabc").and_close())
        .step("headers-timeout", h1("headers-timeout", "GET / HTTP/1.1\nhost: a\n").and_close())
        .step("stream-idle", get("idle", "/", &["x-script: 200,delay=5000"]).and_close())
        .step("stream-idle-after-head", get("idle", "/", &["x-script: 200,stall=5000"]).and_close())
        .step("idle-connection", get("idle-connection", "/", &[]).and_close())
        .step("max-duration", get("duration", "/", &["x-script: 200,delay=5000"]).and_close())
        .step("max-duration-h2", h2("duration", "/", &[("x-script", "200,delay=5000")], b""))
        .step(
            "counters",
            stats(&[
                "http.idle.downstream_rq_idle_timeout",
                "http.timeouts.downstream_rq_timeout",
                "http.headers-timeout.downstream_rq_header_timeout",
                "http.duration.downstream_rq_max_duration_reached",
                "http.idle-connection.downstream_cx_idle_timeout",
            ]),
        );
    run(&group)
}

#[test]
fn log_moments() -> Result<()> {
    let log = weft_tests::config::access_log("%ACCESS_LOG_TYPE% %RESPONSE_CODE% %ROUTE_NAME% %VIRTUAL_CLUSTER_NAME%");
    let options = "access_log_options: {flush_access_log_on_new_request: true, flush_log_on_tunnel_successfully_established: true}";
    let config = Config::new()
        .http("http", &listener(&format!("access_log:\n{log}{options}")))
        .cluster("a", "")
        .cluster("b", HTTP2)
        .cluster("tcp", "");
    let group = Group::new("log-moments", config)
        .step("request", get("http", "/", &[]))
        .logs(2)
        .step("direct", get("http", "/direct", &[]))
        .logs(2)
        .step(
            "upgrade",
            Step::Bytes {
                to: "http".into(),
                writes: vec![
                    crlf("GET /ws HTTP/1.1\nhost: a\nconnection: Upgrade\nupgrade: websocket\nx-script: 101\n\n"),
                    b"ping".to_vec(),
                ],
                finish: true,
                tls: None,
            },
        )
        .logs(3)
        .step("refused", h1("http", "GET / HTTP/1.1\nhost: a\nconnection: Upgrade\nupgrade: websocket\n\n"))
        .logs(2);
    run(&group)
}
