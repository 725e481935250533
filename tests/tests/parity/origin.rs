//! Where upstream connections go and what they say of where they come from: ORIGINAL_DST, PROXY protocol, source addresses.

use anyhow::Result;
use weft_tests::config::{Config, access_log, connection_manager, indent};
use weft_tests::parity::{Group, Step, get, run, stats};

/// Clients say where they come from and where they want to go.
const PROXIED: &str = "listener_filters: [{name: p, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol, allow_requests_without_proxy_protocol: true, pass_through_tlvs: {match_type: INCLUDE_ALL}}}]\n";

fn tcp(cluster: &str) -> String {
    let log = access_log(
        "tcp %RESPONSE_FLAGS% in=%BYTES_RECEIVED% out=%BYTES_SENT% cluster=%UPSTREAM_CLUSTER% host=%UPSTREAM_HOST% from=%UPSTREAM_LOCAL_ADDRESS% %UPSTREAM_TRANSPORT_FAILURE_REASON% remote=%DOWNSTREAM_REMOTE_ADDRESS% local=%DOWNSTREAM_LOCAL_ADDRESS%",
    );
    let filter = format!(
        "- name: envoy.filters.network.tcp_proxy\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n    stat_prefix: {cluster}\n    cluster: {cluster}\n    access_log:\n{}",
        indent(&log, 4)
    );
    format!("{PROXIED}filter_chains:\n- filters:\n{}", indent(&filter, 2))
}

fn http(cluster: &str) -> String {
    let filter = connection_manager(
        cluster,
        &format!(
            "route_config: {{virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: \"/\"}}, route: {{cluster: {cluster}}}}}]}}]}}\n"
        ),
    );
    format!("{PROXIED}filter_chains:\n- filters:\n{}", indent(&filter, 2))
}

/// A header of version 2 with TLVs of types 1 and 5, and a greeting.
fn version_2() -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x18\x01\x02\x03\x04\x05\x06\x07\x08\x00\x50\x01\xbb".to_vec();
    bytes.extend_from_slice(b"\x01\0\x02h2\x05\0\x04uniqhello");
    bytes
}

fn talk(to: &str, write: &[u8]) -> Step {
    Step::Bytes { to: to.into(), writes: vec![write.to_vec()], finish: true, tls: None }
}

#[test]
fn proxy_protocol_upstream() -> Result<()> {
    let transport = |config: &str| {
        format!(
            "transport_socket: {{name: p, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport, config: {{{config}}}, transport_socket: {{name: raw, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}}}}}}"
        )
    };
    let clusters = [
        ("tcp-v1", "version: V1"),
        ("tcp-v2", "version: V2"),
        ("tcp-all", "version: V2, pass_through_tlvs: {match_type: INCLUDE_ALL}"),
        ("tcp-some", "version: V2, pass_through_tlvs: {match_type: INCLUDE, tlv_type: [5]}"),
        ("tcp-none", "version: V2, pass_through_tlvs: {match_type: INCLUDE}"),
        (
            "tcp-added",
            "version: V2, added_tlvs: [{type: 224, value: YWRkZWQ=}, {type: 1, value: b3Vycw==}], pass_through_tlvs: {match_type: INCLUDE_ALL}",
        ),
    ];
    let mut config = Config::new();
    for (name, fields) in clusters {
        config = config.cluster(name, &transport(fields)).listener(name, &tcp(name));
    }
    // HTTP connections are kept, and must not be shared among clients: the inner listener shows whom it was told of.
    let show = connection_manager(
        "inner",
        "route_config: {virtual_hosts: [{name: all, domains: [\"*\"], routes: [{match: {prefix: \"/\"}, request_headers_to_add: [{header: {key: x-remote, value: \"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\"}}], route: {cluster: a}}]}]}\n",
    );
    for (name, protocol) in [
        ("one", ""),
        (
            "two",
            "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}\n",
        ),
    ] {
        config = config.listener(&format!("outer-{name}"), &http(&format!("inner-{name}"))).cluster_raw(&format!(
            "name: inner-{name}\ntype: STATIC\nconnect_timeout: 2s\n{}\n{protocol}load_assignment: {{cluster_name: inner, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {{{{port:inner}}}}}}}}}}}}]}}]}}\n",
            transport("version: V2")
        ));
    }
    let config = config
        .listener("inner", &format!("{PROXIED}filter_chains:\n- filters:\n{}", indent(&show, 2)))
        .cluster("a", "");
    let asked = |n: u8, to: &str| {
        Step::Http1 {
        to: to.into(),
        bytes: format!("PROXY TCP4 192.0.2.{n} 10.9.8.7 1000 80\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .into_bytes(),
        methods: vec!["GET".into(), "GET".into()],
        tls: None,
        closes: false,
    }
    };
    let mut group = Group::new("proxy-out", config)
        .step("http", asked(1, "outer-one"))
        .logs(4)
        .step("http-other-client", asked(2, "outer-one"))
        .logs(4)
        .step("http2", asked(1, "outer-two"))
        .logs(4)
        .step("http2-other-client", asked(2, "outer-two"))
        .logs(4)
        .step("v1", talk("tcp-v1", b"hello"))
        .step("v1-told", talk("tcp-v1", b"PROXY TCP4 192.0.2.9 10.9.8.7 1000 80\r\nhello"))
        .step("v1-told-six", talk("tcp-v1", b"PROXY TCP6 2001:db8::9 2001:db8::1 1000 80\r\nhello"))
        .step("v2-told-six", talk("tcp-v2", b"PROXY TCP6 2001:db8::9 2001:db8::1 1000 80\r\nhello"));
    for (name, _) in clusters {
        group = group.step(&format!("{name}-from-v2"), talk(name, &version_2()));
    }
    let group = group.step(
        "counters",
        stats(&[
            "cluster.tcp-v1.upstream_cx_tx_bytes_total",
            "tcp.tcp-v1.downstream_cx_rx_bytes_total",
            "cluster.inner-one.upstream_cx_total",
            "cluster.inner-two.upstream_cx_total",
        ]),
    );
    run(&group)
}

#[test]
fn original_destination() -> Result<()> {
    let original = |name: &str, options: &str| {
        format!(
            "name: {name}\ntype: ORIGINAL_DST\nlb_policy: CLUSTER_PROVIDED\nconnect_timeout: 1s\noriginal_dst_lb_config: {{{options}}}\n"
        )
    };
    let config = Config::new()
        .listener("tcp", &tcp("where-tcp"))
        .listener(
            "told",
            &tcp("where-told").replace(
                "allow_requests",
                "rules: [{tlv_type: 234, on_tlv_present: {metadata_namespace: ns, key: to}}], allow_requests",
            ),
        )
        .listener("http", &http("where-http"))
        .listener("http-here", &http("where-here"))
        .cluster_raw(&original("where-tcp", "upstream_port_override: {{upstream:tcp-a}}"))
        .cluster_raw(&original(
            "where-told",
            "metadata_key: {key: ns, path: [{key: to}]}, upstream_port_override: {{upstream:tcp-b}}",
        ))
        .cluster_raw(&original("where-http", "use_http_header: true, upstream_port_override: {{upstream:a}}"))
        .cluster_raw(&original("where-here", "use_http_header: true, http_header_name: x-to"));
    // Version 2 with a TLV that says where to.
    let told = |to: &str| {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0".to_vec();
        bytes.push(15 + to.len() as u8);
        bytes.extend_from_slice(b"\x01\x02\x03\x04\x7f\0\0\x01\x00\x50\x01\xbb\xea\0");
        bytes.push(to.len() as u8);
        bytes.extend_from_slice(to.as_bytes());
        bytes.extend_from_slice(b"hello");
        bytes
    };
    let asked = |line: &str, to: &str| Step::Http1 {
        to: to.into(),
        bytes: format!("{line}GET / HTTP/1.1\r\nhost: a\r\n\r\n").into_bytes(),
        methods: vec!["GET".into()],
        tls: None,
        closes: false,
    };
    let group = Group::new("original-dst", config)
        .step("tcp", talk("tcp", b"PROXY TCP4 192.0.2.9 127.0.0.1 1000 9\r\nhello"))
        .step("tcp-nothing-restored", talk("tcp", b"hello"))
        .step("metadata", talk("told", &told("127.0.0.1:1")))
        .step("metadata-nonsense", talk("told", &told("nonsense")))
        .step("metadata-absent", talk("told", b"PROXY TCP4 192.0.2.9 127.0.0.1 1000 9\r\nhello"))
        .step("http", asked("PROXY TCP4 192.0.2.9 127.0.0.1 1000 9\r\n", "http"))
        .step("http-nothing-restored", asked("", "http"))
        .step("header", get("http", "/", &["x-envoy-original-dst-host: 127.0.0.1:1"]))
        .step(
            "header-first-counts",
            get("http", "/", &["x-envoy-original-dst-host: 127.0.0.1:1", "x-envoy-original-dst-host: nonsense"]),
        )
        .step("header-nonsense", get("http", "/", &["x-envoy-original-dst-host: nonsense"]))
        .step("header-without-port", get("http", "/", &["x-envoy-original-dst-host: 127.0.0.1"]))
        .step("header-of-its-own", get("http-here", "/", &["x-to: 127.0.0.1:1"]))
        .step("not-that-header", get("http-here", "/", &["x-envoy-original-dst-host: 127.0.0.1:1"]))
        .step(
            "counters",
            stats(&[
                "cluster.where-tcp.upstream_cx_total",
                "cluster.where-tcp.upstream_cx_none_healthy",
                "cluster.where-told.original_dst_host_invalid",
                "cluster.where-http.upstream_cx_total",
                "cluster.where-http.upstream_cx_none_healthy",
                "cluster.where-http.original_dst_host_invalid",
                "cluster.where-http.membership_total",
                "cluster.where-here.membership_total",
                "cluster.where-here.upstream_cx_connect_fail",
            ]),
        );
    run(&group)
}

#[test]
fn source_address() -> Result<()> {
    let from = |ip: &str| {
        format!(
            "upstream_bind_config: {{source_address: {{address: {ip}, port_value: 0}}, socket_options: [{{level: 1, name: 9, int_value: 1, state: STATE_PREBIND}}]}}\nupstream_connection_options: {{tcp_keepalive: {{keepalive_time: 60}}}}"
        )
    };
    let config = Config::new()
        .listener("tcp-two", &tcp("tcp-two"))
        .listener("tcp-not-ours", &tcp("tcp-not-ours"))
        .listener("web-two", &http("web-two"))
        .listener("web-not-ours", &http("web-not-ours"))
        .cluster("tcp-two", &from("127.0.0.2"))
        .cluster("tcp-not-ours", &from("192.0.2.77"))
        .cluster("web-two", &from("127.0.0.2"))
        .cluster("web-not-ours", &from("192.0.2.77"));
    let group = Group::new("source-address", config)
        .step("tcp", talk("tcp-two", b"hello"))
        .step("tcp-not-ours", talk("tcp-not-ours", b"hello"))
        .step("http", get("web-two", "/", &[]))
        .step("http-not-ours", get("web-not-ours", "/", &[]))
        .step(
            "counters",
            stats(&[
                "cluster.tcp-two.bind_errors",
                "cluster.tcp-not-ours.bind_errors",
                "cluster.tcp-not-ours.upstream_cx_total",
                "cluster.tcp-not-ours.upstream_cx_connect_fail",
                "cluster.tcp-not-ours.upstream_cx_destroy_local",
                "cluster.tcp-not-ours.upstream_cx_destroy_remote",
                "cluster.tcp-not-ours.upstream_rq_pending_failure_eject",
                "cluster.web-not-ours.bind_errors",
            ]),
        );
    run(&group)
}
