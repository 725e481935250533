//! External authorization of connections.
#![allow(deprecated, reason = "services still answer with the deprecated spellings")]

use anyhow::Result;
use prost::Message as _;
use weft_proto::pb::envoy::service::auth::v3::CheckResponse;
use weft_proto::pb::google::protobuf::{Struct, Value, value};
use weft_proto::pb::google::rpc::Status;
use weft_tests::config::{Config, access_log, dedent, indent};
use weft_tests::parity::{ClientTls, Group, Step, run, stats};
use weft_tests::upstream::script::hex;

const TYPE: &str = "\"@type\": type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz";
const HTTP2: &str = "typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http2_protocol_options: {}}
";

fn filter(name: &str, cluster: &str, fields: &str) -> String {
    format!(
        "- name: envoy.filters.network.ext_authz\n  typed_config:\n    {TYPE}\n    stat_prefix: {name}\n    transport_api_version: V3\n    grpc_service: {{envoy_grpc: {{cluster_name: {cluster}}}, timeout: 1s}}\n{}",
        indent(&dedent(fields), 4)
    )
}

/// Filters of a chain that ends in a TCP proxy.
fn filters(name: &str, before: &str) -> String {
    let said = "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% %DOWNSTREAM_LOCAL_CLOSE_REASON% in=%BYTES_RECEIVED% out=%BYTES_SENT% metadata=%DYNAMIC_METADATA(envoy.filters.network.ext_authz:k)%";
    format!(
        "{before}- name: tcp\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n    stat_prefix: {name}\n    cluster: tcp-a\n    access_log:\n{}",
        indent(&access_log(said), 4)
    )
}

fn chain(name: &str, before: &str) -> String {
    format!("filter_chains:\n- filters:\n{}", indent(&filters(name, before), 2))
}

fn tls_chain(name: &str, before: &str) -> String {
    format!(
        "listener_filters: [{{name: i, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}}}]\nfilter_chains:\n- transport_socket:\n    name: tls\n    typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n      common_tls_context:\n        tls_certificates: [{{certificate_chain: {{filename: \"{{{{dir}}}}/server.pem\"}}, private_key: {{filename: \"{{{{dir}}}}/server.key\"}}}}]\n        validation_context: {{trusted_ca: {{filename: \"{{{{dir}}}}/ca.pem\"}}}}\n  filters:\n{}",
        indent(&filters(name, before), 2)
    )
}

fn talk(to: &str, writes: &[&[u8]]) -> Step {
    Step::Bytes { to: to.to_owned(), writes: writes.iter().map(|w| w.to_vec()).collect(), finish: true, tls: None }
}

fn counters(of: &str) -> Step {
    let names = ["total", "ok", "denied", "error", "failure_mode_allowed", "cx_closed", "disabled", "active"];
    let own = names.map(|name| format!("ext_authz.{of}.{name}"));
    let tcp = ["downstream_cx_rx_bytes_total", "downstream_cx_tx_bytes_total"].map(|name| format!("tcp.{of}.{name}"));
    stats(&own.iter().chain(&tcp).map(String::as_str).collect::<Vec<_>>())
}

/// An answer with metadata, as the scripted service takes it.
fn answer(code: i32) -> String {
    let value = Value { kind: Some(value::Kind::StringValue("v".to_owned())) };
    let message = CheckResponse {
        status: Some(Status { code, ..Status::default() }),
        dynamic_metadata: Some(Struct { fields: [("k".to_owned(), value)].into() }),
        ..CheckResponse::default()
    };
    hex(&message.encode_to_vec())
}

#[test]
fn connections() -> Result<()> {
    let rbac = "- name: envoy.filters.network.rbac\n  typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, stat_prefix: r, rules: {action: DENY, policies: {p: {permissions: [{any: true}], principals: [{any: true}]}}}}\n";
    // Asked about what shadow rules in front of it match, as Istio's CUSTOM policies are translated.
    let shadow = |permission: &str| {
        format!(
            "- name: envoy.filters.network.rbac\n  typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, stat_prefix: s, shadow_rules_stat_prefix: ask_, shadow_rules: {{action: DENY, policies: {{p: {{permissions: [{{{permission}}}], principals: [{{any: true}}]}}}}}}}}\n"
        )
    };
    let judged = "filter_enabled_metadata: {filter: envoy.filters.network.rbac, path: [{key: ask_shadow_effective_policy_id}], value: {string_match: {exact: p}}}";
    let labels = "include_peer_certificate: true\ninclude_tls_session: true\nbootstrap_metadata_labels_key: labels";
    let config = Config::new()
        .top(&format!(
            "node: {{id: node, cluster: c, metadata: {{labels: {{app: proxy}}, deny: {{script: \"grpc={}\"}}, meta: {{script: \"grpc={}\"}}}}}}",
            answer(7),
            answer(0)
        ))
        .cluster("tcp-a", "")
        .cluster("authz", HTTP2)
        .cluster("dead", HTTP2)
        .listener("plain", &chain("plain", &filter("plain", "authz", "")))
        .listener("deny", &chain("deny", &filter("deny", "authz", "bootstrap_metadata_labels_key: deny")))
        .listener("meta", &chain("meta", &filter("meta", "authz", "bootstrap_metadata_labels_key: meta")))
        .listener("down", &chain("down", &filter("down", "dead", "")))
        .listener("allow", &chain("allow", &filter("allow", "dead", "failure_mode_allow: true")))
        .listener("unknown", &chain("unknown", &filter("unknown", "nobody", "")))
        .listener("shut", &chain("shut", &filter("shut", "dead", "filter_enabled_metadata: {filter: m, path: [{key: k}], value: {string_match: {exact: v}}}")))
        .listener("shadow", &chain("shadow", &(shadow("any: true") + &filter("shadow", "dead", judged))))
        .listener("spared", &chain("spared", &(shadow("destination_port: 1") + &filter("spared", "dead", judged))))
        .listener("two", &chain("two", &(filter("two", "authz", "") + &filter("twice", "authz", ""))))
        .listener("rbac-first", &chain("rbac-first", &(rbac.to_owned() + &filter("rbac-first", "authz", ""))))
        .listener("rbac-last", &chain("rbac-last", &(filter("rbac-last", "authz", "") + rbac)))
        .listener("tls", &tls_chain("tls", &filter("tls", "authz", labels)))
        .listener("tls-few", &tls_chain("tls-few", &filter("tls-few", "authz", "")));
    let mut group = Group::new("authz-l4", config);
    for to in [
        "plain",
        "deny",
        "meta",
        "shut",
        "down",
        "allow",
        "unknown",
        "two",
        "rbac-first",
        "rbac-last",
        "shadow",
        "spared",
    ] {
        group = group
            .step(to, talk(to, &[b"hello"]))
            .step(&format!("{to}-more"), talk(to, &[b"hello", b"again"]))
            .step(&format!("{to}-nothing"), talk(to, &[]))
            .step(&format!("{to}-counters"), counters(to));
    }
    for to in ["tls", "tls-few"] {
        for identity in [Some("client"), Some("other"), None] {
            let tls = ClientTls { identity, sni: Some("a.example".into()), ..ClientTls::default() };
            group = group.step(&format!("{to}-{}", identity.unwrap_or("nobody")), talk(to, &[b"hello"]).over(tls));
        }
    }
    run(&group.step("tls-counters", counters("tls")).step("twice-counters", counters("twice")))
}
