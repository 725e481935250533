//! Below HTTP: network filters, listener access logs, what becomes of connections that nobody wants, and of resets.

use anyhow::Result;
use weft_tests::config::{Config, access_log, indent};
use weft_tests::parity::{ClientTls, Group, Step, run, stats};

const CONNECTION: &str = "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% in=%BYTES_RECEIVED% out=%BYTES_SENT% cluster=%UPSTREAM_CLUSTER% chain=%FILTER_CHAIN_NAME% sni=%REQUESTED_SERVER_NAME% closed=%DOWNSTREAM_LOCAL_CLOSE_REASON% %DOWNSTREAM_DETECTED_CLOSE_TYPE% %UPSTREAM_DETECTED_CLOSE_TYPE% attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT% %ACCESS_LOG_TYPE%";

/// Listener access log and filter chains; `head` is what else the listener has.
fn listener(head: &str, chains: &[&str]) -> String {
    let log = access_log(&format!(
        "listener {CONNECTION} remote=%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"
    ));
    format!("{head}access_log:\n{log}filter_chains:\n{}", chains.concat())
}

/// A filter chain.
fn chain(name: &str, matching: &str, filters: &[String]) -> String {
    format!("- name: {name}\n  filter_chain_match: {{{matching}}}\n  filters:\n{}", indent(&filters.concat(), 2))
}

fn filter(name: &str, version: &str, fields: &str) -> String {
    format!(
        "- name: {name}\n  typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.{version}, {fields}}}\n"
    )
}

fn tcp(prefix: &str, fields: &str) -> String {
    format!(
        "- name: tcp\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n    stat_prefix: {prefix}\n{}    access_log:\n{}",
        indent(fields, 4),
        indent(&access_log(&format!("tcp {CONNECTION}")), 4)
    )
}

fn greeting(text: &str) -> String {
    filter("direct", "direct_response.v3.Config", &format!("response: {{inline_string: {text}}}"))
}

fn limit(prefix: &str, fields: &str) -> String {
    filter(
        "limit",
        "connection_limit.v3.ConnectionLimit",
        &format!("stat_prefix: {prefix}, max_connections: 1{fields}"),
    )
}

fn inspector(kind: &str, fields: &str) -> String {
    format!(
        "listener_filters: [{{name: i, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.listener.{kind}.v3.{}}}{fields}}}]\n",
        if kind == "tls_inspector" { "TlsInspector" } else { "HttpInspector" }
    )
}

fn talk(to: &str, writes: &[&[u8]]) -> Step {
    Step::Bytes { to: to.into(), writes: writes.iter().map(|write| write.to_vec()).collect(), finish: true, tls: None }
}

fn tls(sni: &str) -> ClientTls {
    ClientTls { sni: Some(sni.into()), ..ClientTls::default() }
}

fn abort(to: &str, write: &[u8]) -> Step {
    Step::Abort { to: to.into(), write: write.to_vec() }
}

fn beside(to: &str, step: Step) -> Step {
    Step::Beside { to: to.into(), step: Box::new(step) }
}

#[test]
fn connections() -> Result<()> {
    let limited = |prefix: &str, fields: &str| [limit(prefix, fields), tcp("limited", "cluster: tcp-a")];
    let limits = |fields: &str| limited("limit", fields);
    // With a prefix of its own: the gauge of a filter that is switched off goes below zero in Envoy.
    let unlimited = limited("switched", ", runtime_enabled: {default_value: false, runtime_key: x}");
    let config = Config::new()
        .listener("plain", &listener("", &[&chain("plain", "", &[tcp("plain", "cluster: tcp-a")])]))
        .listener("nobody", &listener("", &[&chain("ten", "destination_port: 1", &[greeting("never")])]))
        .listener(
            "nobody-looks",
            &listener(&inspector("http_inspector", ""), &[&chain("ten", "destination_port: 1", &[greeting("never")])]),
        )
        .listener("limited", &listener("", &[&chain("limited", "", &limits(""))]))
        .listener("limited-later", &listener("", &[&chain("later", "", &limits(", delay: 0.3s"))]))
        .listener(
            "unlimited",
            &listener("", &[&chain("unlimited", "", &unlimited)]),
        )
        .listener("short", &listener("", &[&chain("short", "", &[tcp("short", "cluster: tcp-a\nmax_downstream_connection_duration: 0.3s")])]))
        .listener("silent", &listener("", &[&chain("silent", "", &[tcp("silent", "cluster: tcp-a\nidle_timeout: 0.3s")])]))
        .listener("told", &listener("", &[&chain("told", "", &[tcp("told", "cluster: tcp-a\naccess_log_options: {flush_access_log_on_connected: true}")])]))
        .listener("told-again", &listener("", &[&chain("told-again", "", &[tcp("told-again", "cluster: tcp-a\nidle_timeout: 0.6s\naccess_log_options: {access_log_flush_interval: 0.4s}")])]))
        .listener("again", &listener("", &[&chain("again", "", &[tcp("again", "cluster: dead\nmax_connect_attempts: 3\nbackoff_options: {base_interval: 0.01s, max_interval: 0.02s}")])]))
        .listener("missing", &listener("", &[&chain("missing", "", &[tcp("missing", "cluster: nobody")])]))
        .listener("none", &listener("", &[&chain("none", "", &[tcp("none", "cluster: none")])]))
        .listener("full", &listener("", &[&chain("full", "", &[tcp("full", "cluster: tcp-full")])]))
        .listener("echo", &listener("", &[&chain("echo", "", &[filter("echo", "echo.v3.Echo", "")])]))
        .listener("greeting", &listener("", &[&chain("greeting", "", &[greeting("hello")])]))
        .cluster("tcp-a", "")
        .cluster("tcp-full", "circuit_breakers: {thresholds: [{max_connections: 1}]}")
        .cluster("dead", "")
        .cluster_of("none", &[], "");
    let group = Group::new("connections", config)
        .step("served", talk("plain", &[b"hello"]))
        .logs(2)
        .step("client-resets", abort("plain", b"hello"))
        .logs(2)
        .step("upstream-resets", talk("plain", &[b"reset!"]))
        .logs(2)
        .step("no-chain", talk("nobody", &[]))
        .step("no-chain-looked-at", talk("nobody-looks", &[b"GET / HTTP/1.1\r\n\r\n"]))
        .step("limited", beside("limited", talk("limited", &[])))
        .logs(4)
        .step("limited-later", beside("limited-later", talk("limited-later", &[b"hello"])))
        .logs(4)
        .step("unlimited", beside("unlimited", talk("unlimited", &[b"hello"])))
        .logs(4)
        .step("duration", Step::Bytes { to: "short".into(), writes: vec![b"x".to_vec()], finish: false, tls: None })
        .logs(2)
        .step("idle", Step::Bytes { to: "silent".into(), writes: vec![b"x".to_vec()], finish: false, tls: None })
        .logs(2)
        .step("on-connected", talk("told", &[b"hello"]))
        .logs(3)
        .step(
            "from-time-to-time",
            Step::Bytes { to: "told-again".into(), writes: vec![b"x".to_vec()], finish: false, tls: None },
        )
        .logs(3)
        .step("attempts", talk("again", &[]))
        .logs(2)
        .step("missing", talk("missing", &[]))
        .logs(2)
        .step("no-host", talk("none", &[]))
        .logs(2)
        .step("overflow", beside("full", talk("full", &[])))
        .logs(4)
        .step("echo", talk("echo", &[b"one", b"two"]))
        .step("greeting", talk("greeting", &[]))
        .step(
            "counters",
            stats(&[
                "connection_limit.limit.limited_connections",
                "connection_limit.limit.active_connections",
                "tcp.limited.downstream_cx_total",
                "tcp.short.max_downstream_connection_duration",
                "tcp.silent.idle_timeout",
                "tcp.missing.downstream_cx_no_route",
                "cluster.dead.upstream_cx_connect_attempts_exceeded",
                "cluster.dead.upstream_cx_total",
                "cluster.dead.upstream_rq_pending_failure_eject",
                "cluster.dead.upstream_rq_pending_total",
                "cluster.tcp-full.upstream_cx_overflow",
                "cluster.tcp-a.upstream_cx_active",
                "cluster.tcp-a.upstream_rq_active",
                "cluster.tcp-a.upstream_cx_destroy_local",
                "cluster.tcp-a.upstream_cx_destroy_remote",
                "cluster.tcp-a.upstream_cx_destroy_with_active_rq",
                "cluster.tcp-a.upstream_rq_total",
            ]),
        );
    run(&group)
}

/// Bytes inside of a CONNECT: what the upstream sees, and what becomes of the connection for each of its answers.
#[test]
fn tunnels() -> Result<()> {
    let through = |name: &str, fields: &str| {
        let fields = format!("cluster: {}\n{fields}", if name == "dead" { "dead" } else { "a" });
        let of = tcp(name, &fields);
        listener("", &[&chain(name, "", &[of])])
    };
    let script = |text: &str| {
        format!(
            "tunneling_config: {{hostname: \"host.test:80\", headers_to_add: [{{header: {{key: x-script, value: \"{text}\"}}}}]}}"
        )
    };
    let names = "tunneling_config: {hostname: \"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%:81\", headers_to_add: [{header: {key: x-chain, value: \"%FILTER_CHAIN_NAME%\"}}, {header: {key: x-chain, value: two}}]}";
    let config = Config::new()
        .listener("plain", &through("plain", "tunneling_config: {hostname: \"host.test:80\"}"))
        .listener("names", &through("names", names))
        .listener("created", &through("created", &script("201,h=x-a:b")))
        .listener("interim", &through("interim", &script("200,hints")))
        .listener("forbidden", &through("forbidden", &script("403,body=no")))
        .listener("moved", &through("moved", &script("302")))
        .listener("closed", &through("closed", &script("close")))
        .listener("reset", &through("reset", &script("reset")))
        .listener("nonsense", &through("nonsense", &script("raw=6e6f6e73656e73650d0a0d0a")))
        .listener("again", &through("again", &format!("max_connect_attempts: 2\n{}", script("503;200"))))
        .listener("dead", &through("dead", "tunneling_config: {hostname: \"host.test:80\"}"))
        .cluster("a", "")
        .cluster("dead", "");
    let mut group = Group::new("tunnels", config);
    for name in
        ["plain", "names", "created", "interim", "forbidden", "moved", "closed", "reset", "nonsense", "again", "dead"]
    {
        // What is sent before all fails may or may not have been read: the connection is reset or closed by that.
        let opens = ["plain", "names", "created", "interim", "again"].contains(&name);
        let writes: &[&[u8]] = if opens { &[b"hello"] } else { &[] };
        group = group.step(name, talk(name, writes)).logs(2);
    }
    let group = group.step(
        "counters",
        stats(&[
            "cluster.a.upstream_cx_active",
            "cluster.a.upstream_rq_active",
            "cluster.a.upstream_rq_total",
            "cluster.a.upstream_cx_total",
            "cluster.a.upstream_cx_http1_total",
            "cluster.a.upstream_cx_connect_fail",
            "cluster.a.upstream_cx_protocol_error",
            "cluster.a.upstream_rq_pending_total",
            "cluster.a.upstream_rq_pending_failure_eject",
            "cluster.dead.upstream_rq_pending_failure_eject",
        ]),
    );
    run(&group)
}

#[test]
fn server_names() -> Result<()> {
    let names = [
        chain("exact", "server_names: [a.example.com]", &[greeting("exact")]),
        chain("suffix", "server_names: ['*.example.com']", &[greeting("suffix")]),
        chain("plain", "transport_protocol: raw_buffer", &[greeting("plain")]),
    ];
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    // The size of a handshake is not ours to compare.
    let tcp = tcp("sni", "cluster: tls-a").replace("in=%BYTES_RECEIVED% out=%BYTES_SENT% ", "");
    let by_sni = [filter("sni", "sni_cluster.v3.SniCluster", ""), tcp.clone()];
    let listener =
        |head: &str, chains: &[&str]| listener(head, chains).replace("in=%BYTES_RECEIVED% out=%BYTES_SENT% ", "");
    let waiting = |fields: &str| {
        let head = format!("listener_filters_timeout: 0.2s\n{fields}{}", inspector("tls_inspector", ""));
        listener(&head, &[&chain("patient", "", &[greeting("hello")])])
    };
    let secured = |name: &str, timeout: &str, filter: &str| {
        let chain = format!(
            "- name: {name}\n{timeout}  transport_socket:\n    name: tls\n    typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n      common_tls_context:\n        tls_certificates: [{{certificate_chain: {{filename: \"{{{{dir}}}}/server.pem\"}}, private_key: {{filename: \"{{{{dir}}}}/server.key\"}}}}]\n  filters:\n{}",
            indent(filter, 2)
        );
        listener(&format!("stat_prefix: {name}\n"), &[&chain])
            .replace("attempts=", "why=%DOWNSTREAM_TRANSPORT_FAILURE_REASON% attempts=")
    };
    let config = Config::new()
        .listener("secure", &secured("secure", "", &tcp))
        .listener(
            "secure-soon",
            &secured("secure-soon", "  transport_socket_connect_timeout: 0.2s\n", &filter("echo", "echo.v3.Echo", "")),
        )
        .listener("names", &listener(&inspector("tls_inspector", ""), &names))
        .listener("sni", &listener(&inspector("tls_inspector", ""), &[&chain("sni", "", &by_sni)]))
        .listener("sni-blind", &listener("", &[&chain("sni-blind", "", &by_sni)]))
        .listener("speaks-first", &waiting("continue_on_listener_filters_timeout: true\n"))
        .listener("waits", &waiting(""))
        .listener(
            "disabled",
            &listener(
                &inspector("tls_inspector", ", filter_disabled: {any_match: true}"),
                &[&chain("disabled", "", &[greeting("hello")])],
            ),
        )
        .cluster("tls-a", "")
        .cluster("tls-b", "");
    let group = Group::new("server-names", config)
        .step("exact", talk("names", &[]).over(tls("a.example.com")))
        .step("upper-case", talk("names", &[]).over(tls("A.Example.com")))
        .step("suffix", talk("names", &[]).over(tls("b.example.com")))
        .step("other", talk("names", &[]).over(tls("example.com")))
        .step("not-tls", talk("names", &[b"hello there"]))
        .step("sni-cluster", talk("sni", &[]).over(tls("tls-b")))
        .logs(2)
        .step("sni-cluster-unknown", talk("sni", &[]).over(tls("nobody.example")))
        .logs(2)
        .step("sni-cluster-none", talk("sni", &[]).over(ClientTls::default()))
        .logs(2)
        .step("sni-cluster-blind", talk("sni-blind", &[]).over(tls("tls-b")))
        .logs(2)
        .step(
            "server-speaks-first",
            Step::Bytes { to: "speaks-first".into(), writes: vec![vec![]], finish: false, tls: None },
        )
        .step("filters-time-out", Step::Bytes { to: "waits".into(), writes: Vec::new(), finish: false, tls: None })
        .step("client-leaves", talk("waits", &[]))
        .step("disabled", talk("disabled", &[]))
        .step("handshake", talk("secure-soon", &[b"hello"]).over(tls("a.example.com")))
        .step(
            "handshake-fails",
            Step::Bytes {
                to: "secure-soon".into(),
                writes: vec![b"GET / HTTP/1.1\r\n\r\n".to_vec()],
                finish: false,
                tls: None,
            },
        )
        .step(
            "handshake-too-slow",
            Step::Bytes { to: "secure-soon".into(), writes: vec![vec![]], finish: false, tls: None },
        )
        .step(
            "handshake-fails-before-tcp",
            Step::Bytes {
                to: "secure".into(),
                writes: vec![b"GET / HTTP/1.1\r\n\r\n".to_vec()],
                finish: false,
                tls: None,
            },
        )
        .logs(2)
        .step(
            "counters",
            stats(&[
                "tcp.sni.downstream_cx_total",
                "listener.secure-soon.downstream_cx_transport_socket_connect_timeout",
                "listener.secure-soon.ssl.connection_error",
                "listener.secure-soon.ssl.handshake",
                "listener.secure-soon.downstream_cx_total",
                "listener.secure-soon.downstream_cx_destroy",
                "tls_inspector.tls_found",
                "tls_inspector.tls_not_found",
                "tls_inspector.sni_found",
                "tls_inspector.sni_not_found",
                "tls_inspector.alpn_not_found",
                "tcp.sni.downstream_cx_total",
                "tcp.sni.downstream_cx_no_route",
                "cluster.tls-b.upstream_cx_total",
            ]),
        );
    run(&group)
}

/// Which listener serves a connection, and whether any does.
#[test]
fn listeners() -> Result<()> {
    let proxied = "listener_filters: [{name: p, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}}]\n";
    let entry = |head: &str| listener(&format!("{head}{proxied}"), &[&chain("entry", "", &[greeting("entry")])]);
    let meant = |name: &str| {
        let log = access_log(
            "%FILTER_CHAIN_NAME% remote=%DOWNSTREAM_REMOTE_ADDRESS% local=%DOWNSTREAM_LOCAL_ADDRESS% direct=%DOWNSTREAM_DIRECT_LOCAL_ADDRESS%",
        );
        format!("access_log:\n{log}filter_chains:\n{}", chain(name, "", &[tcp(name, "cluster: tcp-a")]))
    };
    let options = "socket_options: [{level: 1, name: 9, int_value: 1, state: STATE_PREBIND}, {level: 6, name: 4, buf_value: PAAAAA==, state: STATE_LISTENING}]\ntcp_fast_open_queue_length: 5\nfreebind: true\nconnection_balance_config: {exact_balance: {}}\nmax_connections_to_accept_per_socket_event: 1\ntcp_keepalive: {keepalive_time: 60}\nadditional_addresses: [{address: {socket_address: {address: 127.0.0.1, port_value: {{port:options-two}}}}}]\n";
    let one =
        |name: &str| listener(&format!("stat_prefix: {name}\n"), &[&chain(name, "", &[tcp(name, "cluster: tcp-a")])]);
    let config = Config::new()
        .top("layered_runtime: {layers: [{name: static, static_layer: {envoy.resource_limits.listener.one.connection_limit: 1}}]}\n")
        .listener("entry", &entry("use_original_dst: true\n"))
        .listener("entry-stays", &entry(""))
        .unbound("exact", "10.9.8.7:80", &meant("exact"))
        .unbound("any", "0.0.0.0:81", &meant("any"))
        .unbound("any-six", ":::82", &meant("any-six"))
        .listener("options", &listener(options, &[&chain("options", "", &[greeting("options")])]))
        .listener("one", &one("one"))
        .cluster("tcp-a", "");
    let to = |address: &str, port: u16| format!("PROXY TCP4 192.0.2.9 {address} 1000 {port}\r\nhello").into_bytes();
    let group = Group::new("listeners", config)
        .step("meant-for-another", talk("entry", &[&to("10.9.8.7", 80)]))
        .logs(2)
        .step("meant-for-a-wildcard", talk("entry", &[&to("10.1.1.1", 81)]))
        .logs(2)
        .step("meant-for-a-wildcard-six", talk("entry", &[b"PROXY TCP6 2001:db8::9 2001:db8::1 1000 82\r\nhello"]))
        .logs(2)
        .step("four-is-not-six", talk("entry", &[&to("10.1.1.1", 82)]))
        .step("meant-for-nobody", talk("entry", &[&to("10.9.8.7", 99)]))
        .step("stays", talk("entry-stays", &[&to("10.9.8.7", 80)]))
        .step("options", talk("options", &[]))
        .step("options-two", talk("options-two", &[]))
        // Nothing is sent: bytes that meet a closed socket turn its close into a reset, or not, as they arrive.
        .step("limit", beside("one", talk("one", &[])))
        .logs(2)
        .step("limit-again", talk("one", &[]))
        .logs(2)
        .step(
            "counters",
            stats(&[
                "listener.one.downstream_cx_overflow",
                "listener.one.downstream_cx_total",
                "listener.one.downstream_cx_active",
                "listener.10.9.8.7_80.downstream_cx_total",
                "listener.0.0.0.0_81.downstream_cx_total",
            ]),
        );
    run(&group)
}
