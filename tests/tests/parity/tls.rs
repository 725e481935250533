//! TLS on both sides: names, ALPN, client certificates, upstream verification.

use anyhow::Result;
use weft_tests::config::{Config, connection_manager, indent};
use weft_tests::parity::{ClientTls, Group, Step, get, h2, run, stats};

fn chain(name: &str, matching: &str, certificate: &str, more: &str, text: &str) -> String {
    let http = connection_manager(
        "tls",
        &format!(
            "forward_client_cert_details: SANITIZE_SET\nset_current_client_cert_details: {{subject: true, uri: true, dns: true}}\nroute_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n    - match: {{prefix: \"/\"}}\n      response_headers_to_add: [{{header: {{key: x-chain, value: \"{text}\"}}}}, {{header: {{key: x-sni, value: \"%REQUESTED_SERVER_NAME%\"}}}}, {{header: {{key: x-peer, value: \"%DOWNSTREAM_PEER_URI_SAN%\"}}}}, {{header: {{key: x-version, value: \"%DOWNSTREAM_TLS_VERSION%\"}}}}]\n      route: {{cluster: a}}\n"
        ),
    );
    format!(
        "- name: {name}\n  filter_chain_match: {{{matching}}}\n  transport_socket:\n    name: tls\n    typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n{}      common_tls_context:\n        tls_certificates: [{{certificate_chain: {{filename: \"{{{{dir}}}}/{certificate}.pem\"}}, private_key: {{filename: \"{{{{dir}}}}/{certificate}.key\"}}}}]\n{}  filters:\n{}",
        if more.contains("validation_context") { "      require_client_certificate: true\n" } else { "" },
        indent(more, 8),
        indent(&http, 2)
    )
}

const INSPECTOR: &str = "listener_filters: [{name: i, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}]\n";

fn with(sni: Option<&str>, alpn: &[&'static str], identity: Option<&'static str>) -> ClientTls {
    ClientTls { sni: sni.map(str::to_owned), alpn: alpn.to_vec(), identity }
}

#[test]
fn downstream() -> Result<()> {
    let alpn = "alpn_protocols: [h2, http/1.1]\n";
    let validate = "validation_context: {trusted_ca: {filename: \"{{dir}}/ca.pem\"}}\n";
    let uri = "validation_context: {trusted_ca: {filename: \"{{dir}}/ca.pem\"}, match_typed_subject_alt_names: [{san_type: URI, matcher: {prefix: \"spiffe://example/\"}}]}\n";
    let wrong_uri = "validation_context: {trusted_ca: {filename: \"{{dir}}/ca.pem\"}, match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: \"spiffe://example/other\"}}]}\n";
    let config = Config::new()
        .listener(
            "names",
            &format!(
                "{INSPECTOR}filter_chains:\n{}{}{}{}",
                chain("exact", "server_names: [localhost]", "server", alpn, "exact"),
                chain("wild", "server_names: [\"*.wild.example\"]", "other", alpn, "wild"),
                chain("proto", "server_names: [other.example], application_protocols: [h2]", "other", alpn, "other h2"),
                chain("tls", "transport_protocol: tls, server_names: [tls.example]", "server", alpn, "tls")
            ),
        )
        .listener("one", &format!("filter_chains:\n{}", chain("one", "", "server", "", "one")))
        .listener("mutual", &format!("filter_chains:\n{}", chain("mutual", "", "server", validate, "mutual")))
        .listener("uri", &format!("filter_chains:\n{}", chain("uri", "", "server", uri, "uri")))
        .listener("wrong-uri", &format!("filter_chains:\n{}", chain("wrong", "", "server", wrong_uri, "wrong")))
        .listener(
            "old",
            &format!(
                "filter_chains:\n{}",
                chain("old", "", "server", "tls_params: {tls_maximum_protocol_version: TLSv1_2}\n", "old")
            ),
        )
        .cluster("a", "");
    let ask = |to: &str, tls: ClientTls| get(to, "/", &["x-forwarded-client-cert: forged"]).over(tls);
    let group = Group::new("tls-downstream", config)
        .step("sni-exact", ask("names", with(Some("localhost"), &[], None)))
        .step("sni-wild", ask("names", with(Some("a.wild.example"), &[], None)))
        .step("sni-wild-deeper", ask("names", with(Some("a.b.wild.example"), &[], None)))
        .step("sni-upper", ask("names", with(Some("LOCALHOST"), &[], None)))
        .step("sni-unknown", ask("names", with(Some("nobody.example"), &[], None)))
        .logs(0)
        .step("sni-none", ask("names", with(None, &[], None)))
        .logs(0)
        .step("sni-and-alpn", h2("names", "/", &[], b"").over(with(Some("other.example"), &["h2"], None)))
        .step("sni-without-alpn", ask("names", with(Some("other.example"), &[], None)))
        .logs(0)
        .step(
            "plain-to-tls",
            Step::Bytes {
                to: "names".into(),
                writes: vec![b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()],
                finish: false,
                tls: None,
            },
        )
        .logs(0)
        .step(
            "plain-to-tls-no-inspector",
            Step::Bytes {
                to: "one".into(),
                writes: vec![b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()],
                finish: false,
                tls: None,
            },
        )
        .logs(0)
        .step("alpn-h2", h2("names", "/", &[], b"").over(with(Some("localhost"), &["h2", "http/1.1"], None)))
        .step("alpn-http1", ask("names", with(Some("localhost"), &["http/1.1"], None)))
        .step("alpn-unknown", ask("names", with(Some("localhost"), &["foo"], None)))
        .step("alpn-server-order", h2("names", "/", &[], b"").over(with(Some("localhost"), &["http/1.1", "h2"], None)))
        .step("no-alpn-configured", ask("one", with(None, &["h2", "http/1.1"], None)))
        .step("no-alpn-h2-anyway", h2("one", "/", &[], b"").over(with(None, &[], None)))
        .step("mutual", ask("mutual", with(None, &[], Some("client"))))
        .step("mutual-none", ask("mutual", with(None, &[], None)))
        .logs(0)
        .step("mutual-stranger", ask("mutual", with(None, &[], Some("stranger"))))
        .logs(0)
        .step("uri", ask("uri", with(None, &[], Some("client"))))
        .step("uri-none-in-certificate", ask("uri", with(None, &[], Some("other"))))
        .logs(0)
        .step("uri-wrong", ask("wrong-uri", with(None, &[], Some("client"))))
        .logs(0)
        .step("tls12-only", ask("old", with(None, &[], None)))
        .step(
            "counters",
            stats(&[
                "listener.127.0.0.1_0.ssl.handshake",
                "http.tls.downstream_cx_ssl_total",
                "http.tls.downstream_cx_total",
                "http.tls.downstream_cx_http2_total",
            ]),
        );
    run(&group)
}

#[test]
fn upstream() -> Result<()> {
    let tls = |more: &str, common: &str| {
        format!(
            "transport_socket:\n  name: tls\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n{}    common_tls_context: {{{common}}}\n",
            indent(more, 4).trim_start_matches('\n')
        )
    };
    let ca = "trusted_ca: {filename: \"{{dir}}/ca.pem\"}";
    let http2 = "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    explicit_http_config: {http2_protocol_options: {}}\n";
    let auto = http2.replace(
        "explicit_http_config: {http2_protocol_options: {}}",
        "auto_config: {http_protocol_options: {}, http2_protocol_options: {}}",
    );
    let routes: String = ["plain", "sni", "verified", "san", "wrong-san", "untrusted", "h2", "auto", "new", "to-plain"]
        .iter()
        .map(|name| format!("    - {{match: {{prefix: \"/{name}/\"}}, route: {{cluster: {name}}}}}\n"))
        .collect();
    let one = &["tls-a"];
    let config = Config::new()
        .http("http", &format!("route_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n{routes}"))
        .cluster_of("plain", one, &tls("", ""))
        .cluster_of("sni", one, &tls("sni: name.test\n", "alpn_protocols: [http/1.1]"))
        .cluster_of("verified", one, &tls("sni: localhost\n", &format!("validation_context: {{{ca}}}")))
        .cluster_of("san", one, &tls("", &format!("validation_context: {{{ca}, match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: localhost}}}}]}}")))
        .cluster_of("wrong-san", one, &tls("", &format!("validation_context: {{{ca}, match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: other.test}}}}]}}")))
        .cluster_of("untrusted", one, &tls("", "validation_context: {trusted_ca: {filename: \"{{dir}}/stranger.pem\"}}"))
        .cluster_of("h2", one, &(tls("", "") + http2))
        .cluster_of("auto", one, &(tls("", "") + &auto))
        .cluster_of("new", one, &tls("", "tls_params: {tls_maximum_protocol_version: TLSv1_3}"))
        .cluster_of("to-plain", &["a"], &tls("", ""));
    let mut group = Group::new("tls-upstream", config);
    for name in ["plain", "sni", "verified", "san", "wrong-san", "untrusted", "h2", "auto", "new"] {
        group = group.step(name, get("http", &format!("/{name}/"), &[]));
    }
    run(&group.step(
        "counters",
        stats(&[
            "cluster.plain.ssl.handshake",
            "cluster.wrong-san.ssl.fail_verify_san",
            "cluster.untrusted.ssl.fail_verify_error",
            "cluster.wrong-san.upstream_cx_connect_fail",
            "cluster.plain.upstream_cx_ssl_total",
            "cluster.plain.ssl.no_certificate",
            "cluster.auto.upstream_cx_http2_total",
        ]),
    ))
}
