use std::time::Duration;

use serde_json::{Value, json};

use super::{Doc, ext, refuses};
use crate::config::{
    Address, FilterChainPredicate, ListenerFilterKind, SocketOptionState, SocketOptionValue, SourceType,
    TrafficDirection,
};

const TLS_INSPECTOR: &str = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
const PROXY_PROTOCOL: &str = "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";

#[test]
fn defaults_are_envoys() {
    let l = Doc::new().listener();
    assert_eq!(l.addresses[0].address, Address::Ip("127.0.0.1:10000".parse().unwrap()));
    assert!(l.reuse_port && l.bind_to_port && !l.transparent && !l.freebind);
    assert_eq!(l.per_connection_buffer_limit, 1 << 20);
    assert_eq!(l.listener_filters_timeout, Some(Duration::from_secs(15)));
    assert_eq!((l.direction, l.backlog, l.stat_prefix), (TrafficDirection::Unspecified, 4096, None));
}

#[test]
fn every_setting_arrives() {
    let l = Doc::new()
        .set("$listener.additional_addresses", json!([{ "address": { "pipe": { "path": "@x", "mode": 0o600 } } }]))
        .set("$listener.listener_filters_timeout", json!("0s"))
        .set("$listener.deprecated_v1", json!({ "bind_to_port": false }))
        .set("$listener.connection_balance_config", json!({ "exact_balance": {} }))
        .set("$listener.traffic_direction", json!("INBOUND"))
        .set("$listener.drain_type", json!("MODIFY_ONLY"))
        .set("$listener.tcp_keepalive", json!({ "keepalive_time": 7 }))
        .set("$listener.socket_options", json!([{ "level": 6, "name": 9, "int_value": 1, "state": "STATE_LISTENING" }]))
        .listener();
    assert_eq!(l.addresses[1].address, Address::Pipe { path: "@x".into(), mode: 0o600 });
    assert!(l.exact_balance && l.drain_modify_only && !l.bind_to_port);
    assert_eq!((l.listener_filters_timeout, l.direction), (None, TrafficDirection::Inbound));
    assert_eq!(l.tcp_keepalive.unwrap().time, Some(Duration::from_secs(7)));
    let option = &l.socket_options[0];
    assert_eq!((&option.value, option.state), (&SocketOptionValue::Int(1), SocketOptionState::Listening));
}

#[test]
fn a_name_is_made_up_where_none_is_given() {
    let names = [(); 2].map(|()| Doc::new().set("$listener.name", Value::Null).listener().name);
    assert_eq!(names[0].len(), 36);
    assert_ne!(names[0], names[1]);
}

#[test]
fn deprecated_switches_stand_for_listener_filters() {
    let l = Doc::new()
        .set("$listener.use_original_dst", json!(true))
        .set("$chain.use_proxy_proto", json!(true))
        .set("$listener.listener_filters", json!([ext("tls", TLS_INSPECTOR, json!({}))]))
        .listener();
    let kinds: Vec<_> = l.listener_filters.iter().map(|f| &f.kind).collect();
    assert!(matches!(
        kinds[..],
        [
            ListenerFilterKind::TlsInspector { max_client_hello_size: 16384, close_on_error: false },
            ListenerFilterKind::OriginalDst,
            ListenerFilterKind::ProxyProtocol(_)
        ]
    ));
}

#[test]
fn bad_listeners() {
    refuses(&[
        ("$listener.address", Value::Null, "$listener.address", "value is required"),
        (
            "$listener.address.socket_address.address",
            json!("localhost"),
            "$listener.address.socket_address.address",
            "malformed IP address: localhost",
        ),
        (
            "$listener.address.socket_address.port_value",
            json!(65536),
            "$listener.address.socket_address.port_value",
            "value must be less than or equal to 65535",
        ),
        (
            "$listener.address.socket_address.protocol",
            json!("UDP"),
            "$listener.address.socket_address.protocol",
            "UDP is not supported",
        ),
        (
            "$listener.filter_chains",
            json!([]),
            "$listener.filter_chains",
            "error adding listener '127.0.0.1:10000': no filter chains specified",
        ),
        ("$listener.api_listener", json!({}), "$listener.api_listener", "an API listener is not supported"),
        (
            "$listener.listener_filters_timeout",
            json!("-1s"),
            "$listener.listener_filters_timeout",
            "Invalid duration: Expected positive duration",
        ),
        (
            "$listener.max_connections_to_accept_per_socket_event",
            json!(0),
            "$listener.max_connections_to_accept_per_socket_event",
            "value must be greater than 0",
        ),
    ]);
}

#[test]
fn two_listeners_may_not_share_name_or_address() {
    let second = Doc::new().get("$listener");
    Doc::new()
        .set("static_resources.listeners[1]", second.clone())
        .set("static_resources.listeners[1].name", json!("other"))
        .refused(
            "static_resources.listeners[1].address",
            "error adding listener: 'other' has duplicate address '127.0.0.1:10000' as existing listener",
        );
    Doc::new()
        .set("static_resources.listeners[1]", second)
        .set("static_resources.listeners[1].address.socket_address.port_value", json!(1))
        .refused("static_resources.listeners[1].name", "duplicate listener l found");
}

#[test]
fn listener_filters() {
    refuses(&[
        (
            "$listener.listener_filters",
            json!([{ "name": "envoy.filters.listener.tls_inspector" }]),
            "$listener.listener_filters[0]",
            "Didn't find a registered implementation for 'envoy.filters.listener.tls_inspector' with type URL: ''",
        ),
        (
            "$listener.listener_filters",
            json!([ext("p", "envoy.config.core.v3.Pipe", json!({}))]),
            "$listener.listener_filters[0].typed_config",
            "Didn't find a registered implementation for 'p' with type URL: 'envoy.config.core.v3.Pipe'",
        ),
        (
            "$listener.listener_filters",
            json!([ext("t", TLS_INSPECTOR, json!({ "max_client_hello_size": 255 }))]),
            "$listener.listener_filters[0].typed_config.max_client_hello_size",
            "value must be inside range [256, 16384]",
        ),
        (
            "$listener.listener_filters",
            json!([ext(
                "p",
                PROXY_PROTOCOL,
                json!({ "rules": [{ "tlv_type": 256, "on_tlv_present": { "key": "k" } }] })
            )]),
            "$listener.listener_filters[0].typed_config.rules[0].tlv_type",
            "value must be less than 256",
        ),
    ]);
}

#[test]
fn proxy_protocol_in_full() {
    let fields = json!({
        "rules": [{ "tlv_type": 2, "on_tlv_present": { "key": "k" } }],
        "pass_through_tlvs": { "match_type": "INCLUDE", "tlv_type": [1, 2] },
        "disallowed_versions": ["V1"],
        "stat_prefix": "pp",
    });
    let l = Doc::new().set("$listener.listener_filters", json!([ext("p", PROXY_PROTOCOL, fields)])).listener();
    let ListenerFilterKind::ProxyProtocol(p) = &l.listener_filters[0].kind else { panic!() };
    assert_eq!(p.rules[0].namespace, "envoy.filters.listener.proxy_protocol");
    assert_eq!((p.pass_through_tlvs.as_deref(), &p.disallowed_versions[..]), (Some(&[1, 2][..]), &[1][..]));
}

#[test]
fn port_ranges_of_predicates() {
    use FilterChainPredicate as P;
    let predicate = |start: i32, end: i32| {
        let mut filter = ext("t", TLS_INSPECTOR, json!({}));
        filter["filter_disabled"] = json!({ "destination_port_range": { "start": start, "end": end } });
        Doc::new().set("$listener.listener_filters", json!([filter])).listener().listener_filters.remove(0).disabled
    };
    assert_eq!(predicate(80, 90), Some(P::DestinationPort(80, 90)));
    assert_eq!(predicate(80, 65536), Some(P::Not(Box::new(P::DestinationPort(0, 80)))));
    assert_eq!(predicate(-1, 70000), Some(P::Any));
    assert_eq!(predicate(90, 80), Some(P::Not(Box::new(P::Any))));
}

/// A listener whose chains have these matches.
fn chains(matches: &[Value]) -> Doc {
    let chain = Doc::new().get("$chain");
    matches.iter().enumerate().fold(Doc::new(), |doc, (i, m)| {
        let mut chain = chain.clone();
        chain["name"] = format!("fc{i}").into();
        chain["filter_chain_match"] = m.clone();
        doc.set(&format!("$listener.filter_chains[{i}]"), chain)
    })
}

#[test]
fn filter_chain_matches_arrive() {
    let l = chains(&[
        json!({
            "destination_port": 443,
            "server_names": ["A.example.com", "*.Example.org"],
            "prefix_ranges": [{ "address_prefix": "10.1.2.3", "prefix_len": 8 }],
            "source_prefix_ranges": [{ "address_prefix": "10.0.0.1", "prefix_len": 40 }],
            "transport_protocol": "tls",
            "application_protocols": ["h2"],
            "source_type": "EXTERNAL",
            "source_ports": [1, 2],
        }),
        json!({}),
    ])
    .listener();
    let m = &l.filter_chains[0].matches;
    assert_eq!(m.server_names, ["a.example.com", "*.example.org"]);
    assert_eq!(m.prefix_ranges[0].address.to_string(), "10.0.0.0");
    assert_eq!(m.source_prefix_ranges[0].prefix, 32);
    assert_eq!(
        (m.destination_port, m.source_type, &m.source_ports[..]),
        (Some(443), SourceType::External, &[1, 2][..])
    );
}

#[test]
fn filter_chains_that_take_the_same_are_refused() {
    let overlap =
        "error adding listener '127.0.0.1:10000': multiple filter chains with overlapping matching rules are defined";
    let same =
        "error adding listener '127.0.0.1:10000': filter chain 'fc1' has the same matching rules defined as 'fc0'";
    let at = "$listener.filter_chains[1].filter_chain_match";
    let names = |list: &[&str]| json!({ "server_names": list });
    chains(&[names(&["a", "b"]), names(&["a", "b"])]).refused(at, same);
    chains(&[names(&["a", "b"]), names(&["b", "c"])]).refused(at, overlap);
    chains(&[names(&["*.com"]), names(&[".com"])]).refused(at, overlap);
    chains(&[json!({ "source_ports": [1, 2] }), json!({ "source_ports": [2] })]).refused(at, overlap);
    chains(&[names(&["a", "a"])]).refused("$listener.filter_chains[0].filter_chain_match", overlap);
    chains(&[names(&["a"]), json!({ "server_names": ["a"], "destination_port": 1 }), json!({})]).bootstrap();
}

#[test]
fn bad_filter_chain_matches() {
    let at = "$listener.filter_chains[0].filter_chain_match";
    let partial = r#"partial wildcards are not supported in "server_names""#;
    chains(&[json!({ "server_names": ["*a.com"] })]).refused(&format!("{at}.server_names[0]"), partial);
    chains(&[json!({ "server_names": ["ok", "*"] })]).refused(&format!("{at}.server_names[1]"), partial);
    chains(&[json!({ "destination_port": 0 })])
        .refused(&format!("{at}.destination_port"), "value must be inside range [1, 65535]");
    chains(&[json!({ "source_ports": [70000] })])
        .refused(&format!("{at}.source_ports[0]"), "value must be inside range [1, 65535]");
    chains(&[json!({ "prefix_ranges": [{ "address_prefix": "a" }] })])
        .refused(&format!("{at}.prefix_ranges[0].address_prefix"), "malformed IP address: a");
    chains(&[json!({ "address_suffix": "1.2.3.4" })]).refused(at, "filter chain 'fc0' contains unimplemented fields");
}

#[test]
fn the_match_of_a_default_chain_is_ignored() {
    let mut chain = Doc::new().get("$chain");
    chain["name"] = "d".into();
    chain["filter_chain_match"] = json!({ "destination_port": 1 });
    let doc = Doc::new().set("$listener.default_filter_chain", chain);
    doc.warned("$listener.default_filter_chain.filter_chain_match", "filter chain match in chain 'd' is ignored");
    assert_eq!(doc.listener().default_filter_chain.unwrap().matches, Default::default());
}
