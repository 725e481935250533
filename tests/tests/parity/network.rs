//! Below HTTP: TCP proxy, filter chain matching, PROXY protocol, JSON access logs.

use anyhow::Result;
use weft_tests::config::{Config, access_log, connection_manager, indent};
use weft_tests::parity::{Group, Step, crlf, get, run, stats};

fn tcp(prefix: &str, cluster: &str) -> String {
    let log = access_log(
        "tcp %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% in=%BYTES_RECEIVED% out=%BYTES_SENT% cluster=%UPSTREAM_CLUSTER% %UPSTREAM_TRANSPORT_FAILURE_REASON% remote=%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% local=%DOWNSTREAM_LOCAL_ADDRESS%",
    );
    let typed = "\"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    format!(
        "- name: envoy.filters.network.tcp_proxy\n  typed_config:\n    {typed}\n    stat_prefix: {prefix}\n    {cluster}\n    access_log:\n{}",
        indent(&log, 4)
    )
}

fn chain(filter: &str) -> String {
    format!("filter_chains:\n- filters:\n{}", indent(filter, 2))
}

fn talk(to: &str, writes: &[&[u8]]) -> Step {
    Step::Bytes { to: to.into(), writes: writes.iter().map(|write| write.to_vec()).collect(), finish: true, tls: None }
}

#[test]
fn tcp_proxy() -> Result<()> {
    let config = Config::new()
        .listener("plain", &chain(&tcp("plain", "cluster: tcp-a")))
        .listener("dead", &chain(&tcp("dead", "cluster: dead")))
        .listener("missing", &chain(&tcp("missing", "cluster: nobody")))
        .listener("none", &chain(&tcp("none", "cluster: none")))
        .listener(
            "weighted",
            &chain(
                &tcp("weighted", "weighted_clusters: {clusters: [{name: tcp-a, weight: 0}, {name: tcp-b, weight: 1}]}")
                    .replace("weight: 0", "weight: 1")
                    .replace("tcp-a, weight: 1", "tcp-b, weight: 3"),
            ),
        )
        .listener("idle", &chain(&tcp("idle", "cluster: tcp-a\n    idle_timeout: 0.2s")))
        .cluster("tcp-a", "")
        .cluster("tcp-b", "")
        .cluster("dead", "")
        .cluster_of("none", &[], "");
    let large = vec![b'x'; 300_000];
    let group = Group::new("tcp-proxy", config)
        .step("echo", talk("plain", &[b"hello", b"again"]))
        .step("large", talk("plain", &[&large]))
        .step("nothing-sent", talk("plain", &[]))
        .step("connect-failure", talk("dead", &[]))
        .step("missing-cluster", talk("missing", &[]))
        .step("no-host", talk("none", &[]))
        .step("weighted", talk("weighted", &[b"w"]))
        .step("idle", Step::Bytes { to: "idle".into(), writes: vec![b"hello".to_vec()], finish: false, tls: None })
        .step(
            "counters",
            stats(&[
                "tcp.plain.downstream_cx_total",
                "tcp.plain.downstream_cx_rx_bytes_total",
                "tcp.plain.downstream_cx_tx_bytes_total",
                "tcp.missing.downstream_cx_no_route",
                "tcp.idle.idle_timeout",
                "cluster.dead.upstream_cx_connect_fail",
                "cluster.tcp-a.upstream_cx_total",
                "cluster.none.upstream_cx_none_healthy",
                "cluster.tcp-a.upstream_cx_rx_bytes_total",
                "cluster.tcp-a.upstream_cx_tx_bytes_total",
            ]),
        );
    run(&group)
}

fn direct(text: &str) -> String {
    connection_manager(
        "m",
        &format!(
            "route_config: {{virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: \"/\"}}, direct_response: {{status: 200, body: {{inline_string: \"{text}\"}}}}}}]}}]}}\n"
        ),
    )
}

#[test]
fn chains() -> Result<()> {
    let one = |name: &str, matching: &str, filter: &str| {
        format!("- name: {name}\n  filter_chain_match: {{{matching}}}\n  filters:\n{}", indent(filter, 2))
    };
    let inspector = "listener_filters: [{name: i, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector}}]\n";
    let proxy_protocol = "listener_filters: [{name: p, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}}]\n";
    let proxy_optional = "listener_filters: [{name: p, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol, allow_requests_without_proxy_protocol: true}}]\n";
    let show = connection_manager(
        "p",
        "use_remote_address: true\nroute_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n    - match: {prefix: \"/\"}\n      request_headers_to_add: [{header: {key: x-remote, value: \"%DOWNSTREAM_REMOTE_ADDRESS%\"}}, {header: {key: x-local, value: \"%DOWNSTREAM_LOCAL_ADDRESS%\"}}, {header: {key: x-direct, value: \"%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%\"}}]\n      route: {cluster: a}\n",
    );
    let config = Config::new()
        .listener(
            "protocols",
            &format!(
                "{inspector}filter_chains:\n{}{}",
                one("http", "application_protocols: [http/1.1]", &direct("http chain")),
                one("h2", "application_protocols: [h2c]", &direct("h2 chain"))
            ),
        )
        .listener(
            "sources",
            &format!(
                "filter_chains:\n{}{}",
                one("ten", "source_prefix_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]", &direct("ten")),
                one("loop", "source_prefix_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]", &direct("loop"))
            ),
        )
        .listener(
            "nothing",
            &format!(
                "filter_chains:\n{}",
                one("ten", "source_prefix_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]", &direct("ten"))
            ),
        )
        .listener(
            "default",
            &format!(
                "filter_chains:\n{}default_filter_chain:\n  filters:\n{}",
                one("ten", "destination_port: 1", &direct("port one")),
                indent(&direct("default chain"), 2)
            ),
        )
        .listener(
            "direct-source",
            &format!(
                "filter_chains:\n{}{}",
                one("same", "source_type: SAME_IP_OR_LOOPBACK", &direct("same")),
                one("external", "source_type: EXTERNAL", &direct("external"))
            ),
        )
        .listener("pp", &format!("{proxy_protocol}{}", chain(&show)))
        .listener("pp-optional", &format!("{proxy_optional}{}", chain(&show)))
        .cluster("a", "")
        .cluster("tcp-a", "");
    let asked = "GET / HTTP/1.1\nhost: a\nconnection: close\n\n";
    let v2 = |rest: &[u8]| {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        bytes.extend_from_slice(rest);
        bytes.extend_from_slice(&crlf(asked));
        bytes
    };
    let http = |to: &str, bytes: Vec<u8>| Step::Http1 {
        to: to.into(),
        bytes,
        methods: vec!["GET".into()],
        tls: None,
        closes: false,
    };
    let mut group = Group::new("chains", config)
        .step("inspector-http1", get("protocols", "/", &[]))
        .step("inspector-h2", weft_tests::parity::h2("protocols", "/", &[], b""))
        .step("inspector-neither", talk("protocols", &[b"\x01\x02\x03\x04 neither\r\n\r\n"]))
        .logs(0)
        .step("source-prefix", get("sources", "/", &[]))
        .step("no-chain", talk("nothing", &[]))
        .logs(0)
        .step("default-chain", get("default", "/", &[]))
        .step("source-type", get("direct-source", "/", &[]))
        .step("v2-ipv4", http("pp", v2(b"\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x50\x01\xbb")))
        .step("v2-local", http("pp", v2(b"\x20\x00\0\0")))
        .step("v2-tlv", http("pp", v2(b"\x21\x11\0\x11\x01\x02\x03\x04\x05\x06\x07\x08\x00\x50\x01\xbb\x01\0\x02h2")));
    for (name, line) in [
        ("v1-tcp4", "PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000\n"),
        ("v1-tcp6", "PROXY TCP6 2001:db8::1 2001:db8::2 1000 2000\n"),
        ("v1-unknown", "PROXY UNKNOWN\n"),
        ("v1-unknown-more", "PROXY UNKNOWN 1.2.3.4 5.6.7.8 1 2\n"),
        ("v1-bad-address", "PROXY TCP4 1.2.3 5.6.7.8 1000 2000\n"),
        ("v1-bad-port", "PROXY TCP4 1.2.3.4 5.6.7.8 99999 2000\n"),
        ("v1-none", ""),
        (
            "v1-too-long",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000 and so on and so on and so on and so on and so on and so on and so on and so on\n",
        ),
    ] {
        for to in ["pp", "pp-optional"] {
            let bytes = crlf(&format!("{line}{asked}"));
            let fails = line.contains("1.2.3 ")
                || line.contains("99999")
                || line.contains("so on")
                || (line.is_empty() && to == "pp");
            group = group.step(&format!("{to}-{name}"), http(to, bytes)).logs(usize::from(!fails));
        }
    }
    run(&group)
}

#[test]
fn json_logs() -> Result<()> {
    let log = r#"
    access_log:
    - name: f
      filter: FILTER
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
        path: "{{dir}}/access.log"
        log_format: LOGFORMAT
    route_config:
      virtual_hosts:
      - name: all
        domains: ["*"]
        routes: [{match: {prefix: "/"}, name: r, route: {cluster: a}, metadata: {filter_metadata: {m: {k: {n: 1, s: x}}}}}]
    "#;
    let listener = |filter: &str, format: &str| {
        let text = log.replace("LOGFORMAT", format);
        if filter.is_empty() { text.replace("      filter: FILTER\n", "") } else { text.replace("FILTER", filter) }
    };
    let json = "{json_format: {code: \"%RESPONSE_CODE%\", z: \"%REQ(x-none)%\", method: \"%REQ(:method)%\", mixed: \"a %RESPONSE_CODE% b\", nested: {in: \"%BYTES_RECEIVED%\", list: [\"%PROTOCOL%\", 1, true]}, text: plain, quote: \"%REQ(x-quote)%\", flags: \"%RESPONSE_FLAGS%\", meta: \"%METADATA(ROUTE:m:k)%\", number: 7, flags_long: \"%RESPONSE_FLAGS_LONG%\"}}";
    let config = Config::new()
        .http("json", &listener("", json))
        .http("omit", &listener("", &json.replacen("{json_format", "{omit_empty_values: true, json_format", 1)))
        .http("default", &listener("", "{text_format_source: {inline_string: \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%|%RESP(x-up)%|%REQ(x-none)%|%UPSTREAM_HOST%|%UPSTREAM_REMOTE_PORT%|%UPSTREAM_PROTOCOL%|%REQUEST_HEADERS_BYTES%|%DOWNSTREAM_PEER_SUBJECT%|%REQUESTED_SERVER_NAME%|%QUERY_PARAM(a)%|%PATH(NQ)%|%PATH(WQ:ORIG)%|%CONNECTION_TERMINATION_DETAILS%|%FILTER_CHAIN_NAME%|%ACCESS_LOG_TYPE%\\n\"}}"))
        .http("codes", &listener("{status_code_filter: {comparison: {op: GE, value: {default_value: 400, runtime_key: k}}}}", json))
        .http("combined", &listener("{or_filter: {filters: [{not_health_check_filter: {}}, {header_filter: {header: {name: x-log, present_match: true}}}]}}", json))
        .cluster("a", "");
    let group = Group::new("json-logs", config)
        .step("typed", get("json", "/x", &["x-quote: a\"b\\c"]))
        .step("upstream-error", get("json", "/x", &["x-script: reset"]))
        .step("omit-empty", get("omit", "/x", &[]))
        .step("text-operators", get("default", "/x?a=b&c=d", &["x-script: 200,h=x-up:yes"]))
        .step("filter-passes", get("codes", "/x", &["x-script: 404"]))
        .step("filter-stops", get("codes", "/x", &[]))
        .logs(0)
        .step("or-filter", get("combined", "/x", &[]));
    run(&group)
}
