use std::time::Duration;

use serde_json::{Value, json};

use super::{Doc, any, endpoint, ext, refuses};
use crate::config::{
    Address, Discovery, DnsFamily, HealthStatus, LbPolicy, LocalityLb, PerMillion, UpstreamProtocol, UpstreamTransport,
};

const HTTP: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const TCP: &str = "envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions";
const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const RANDOM: &str = "envoy.extensions.load_balancing_policies.random.v3.Random";
const UNKNOWN: &str = "envoy.config.core.v3.Pipe";

fn with(fields: Value) -> Doc {
    fields.as_object().unwrap().iter().fold(Doc::new(), |doc, (k, v)| doc.set(&format!("$cluster.{k}"), v.clone()))
}

fn assignment(endpoints: Value) -> Value {
    json!({ "cluster_name": "c", "endpoints": [{ "lb_endpoints": endpoints }] })
}

#[test]
fn defaults_are_envoys() {
    let c = Doc::new().cluster();
    assert_eq!((c.connect_timeout, c.discovery), (Duration::from_secs(5), Discovery::Static));
    assert_eq!((c.lb, c.lb_common.panic_threshold), (LbPolicy::RoundRobin(LocalityLb::None), 50.0));
    assert_eq!((c.breakers_default.max_connections, c.breakers_high.max_retries), (1024, 3));
    assert_eq!((c.protocol, c.transport), (UpstreamProtocol::Http1, UpstreamTransport::Plaintext));
    assert_eq!((c.tcp_idle_timeout, c.cleanup_interval), (Some(Duration::from_secs(600)), Duration::from_secs(5)));
    assert_eq!(c.assignment.overprovisioning_factor, 140);
    assert_eq!(c.assignment.localities[0].endpoints[0].weight, 1);
    assert!(c.outlier.is_none() && c.wait_for_warm_on_init);
}

#[test]
fn stat_names() {
    assert_eq!(with(json!({ "alt_stat_name": "a:b" })).cluster().stat_name, "a_b");
    let doc = Doc::new().set("$cluster.name", json!("x:y")).set("$route.route.cluster", json!("x:y"));
    assert_eq!(doc.cluster().stat_name, "x_y");
}

#[test]
fn endpoints_in_full() {
    let mut first = endpoint("10.0.0.1");
    first["load_balancing_weight"] = 7.into();
    first["health_status"] = "DRAINING".into();
    first["metadata"] = json!({ "filter_metadata": { "envoy.lb": { "v": 1 } } });
    first["endpoint"]["hostname"] = "h".into();
    first["endpoint"]["additional_addresses"] = json!([endpoint("::1")["endpoint"].clone()]);
    let c = with(json!({ "load_assignment": {
        "cluster_name": "c",
        "policy": { "overprovisioning_factor": 200, "drop_overloads": [{ "category": "d", "drop_percentage": { "numerator": 5 } }] },
        "endpoints": [{ "priority": 1, "load_balancing_weight": 3, "locality": { "zone": "z" }, "lb_endpoints": [first] }],
    } }))
    .cluster();
    let locality = &c.assignment.localities[0];
    assert_eq!((locality.priority, locality.weight, locality.locality.zone.as_str()), (1, Some(3), "z"));
    let e = &locality.endpoints[0];
    assert_eq!((e.weight, e.health, e.hostname.as_str()), (7, HealthStatus::Draining, "h"));
    assert_eq!(e.additional_addresses, [Address::Ip("[::1]:8080".parse().unwrap())]);
    assert_eq!(e.metadata["envoy.lb"], json!({ "v": 1 }));
    assert_eq!(c.assignment.drop_overloads, [("d".to_owned(), PerMillion(50_000))]);
    assert_eq!(c.assignment.overprovisioning_factor, 200);
}

#[test]
fn bad_endpoints() {
    let at = "$cluster.load_assignment.endpoints[0].lb_endpoints[0]";
    let one = |e: Value| with(json!({ "load_assignment": assignment(json!([e])) }));
    one(endpoint("localhost")).refused(
        &format!("{at}.endpoint.address.socket_address.address"),
        "malformed IP address: localhost. Consider setting resolver_name or setting cluster type to 'STRICT_DNS' or 'LOGICAL_DNS'",
    );
    one(json!({ "endpoint": {} })).refused(&format!("{at}.endpoint.address"), "value is required");
    one(json!({})).refused(&format!("{at}.endpoint"), "value is required");
    let mut weightless = endpoint("10.0.0.1");
    weightless["load_balancing_weight"] = 0.into();
    one(weightless).refused(&format!("{at}.load_balancing_weight"), "value must be inside range [1, 4294967295]");
    refuses(&[
        (
            "$cluster.load_assignment.cluster_name",
            json!(""),
            "$cluster.load_assignment.cluster_name",
            "value length must be at least 1 characters",
        ),
        (
            "$cluster.load_assignment.endpoints[0].priority",
            json!(129),
            "$cluster.load_assignment.endpoints[0].priority",
            "value must be inside range [0, 128]",
        ),
        (
            "$cluster.load_assignment.policy",
            json!({ "overprovisioning_factor": 0 }),
            "$cluster.load_assignment.policy.overprovisioning_factor",
            "value must be inside range [1, 4294967295]",
        ),
    ]);
}

#[test]
fn dns_clusters() {
    let two = || assignment(json!([endpoint("a.example"), endpoint("10.0.0.1")]));
    let c = with(json!({
        "type": "STRICT_DNS",
        "load_assignment": two(),
        "dns_lookup_family": "V4_ONLY",
        "dns_failure_refresh_rate": { "base_interval": "2s" },
        "dns_resolution_config": { "resolvers": [endpoint("10.0.0.9")["endpoint"]["address"].clone()] },
    }))
    .cluster();
    let Discovery::StrictDns(dns) = &c.discovery else { panic!() };
    assert_eq!((dns.refresh, dns.family), (Duration::from_secs(5), DnsFamily::V4Only));
    assert_eq!(dns.failure_refresh.unwrap().max, Duration::from_secs(20));
    assert_eq!(dns.resolvers, ["10.0.0.9:8080".parse().unwrap()]);
    assert_eq!(c.assignment.localities[0].endpoints[0].address, Address::Host { name: "a.example".into(), port: 8080 });
    let single = "LOGICAL_DNS clusters must have a single locality_lb_endpoint and a single lb_endpoint";
    with(json!({ "type": "LOGICAL_DNS", "load_assignment": two() })).refused("$cluster.load_assignment", single);
    with(json!({ "type": "LOGICAL_DNS", "load_assignment": null })).refused("$cluster.load_assignment", single);
    with(json!({ "type": "STRICT_DNS", "dns_refresh_rate": "0.001s" }))
        .refused("$cluster.dns_refresh_rate", "value must be greater than 0.001s");
}

#[test]
fn cluster_types_as_extensions() {
    let dns = |fields: Value| json!({ "cluster_type": ext("envoy.cluster.dns", "envoy.extensions.clusters.dns.v3.DnsCluster", fields) });
    assert!(matches!(with(dns(json!({}))).cluster().discovery, Discovery::StrictDns(_)));
    let one = with(dns(json!({ "all_addresses_in_single_endpoint": true, "dns_jitter": "1s" }))).cluster();
    let Discovery::LogicalDns(dns) = one.discovery else { panic!() };
    assert_eq!(dns.jitter, Duration::from_secs(1));
    assert!(matches!(
        with(json!({ "cluster_type": { "name": "envoy.cluster.strict_dns" } })).cluster().discovery,
        Discovery::StrictDns(_)
    ));
    with(json!({ "cluster_type": { "name": "envoy.clusters.aggregate" } })).refused(
        "$cluster.cluster_type",
        "Didn't find a registered implementation for 'envoy.clusters.aggregate' with type URL: ''",
    );
}

#[test]
fn original_dst_clusters() {
    let by = |fields: Value| {
        let base = with(json!({ "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "load_assignment": null }));
        fields.as_object().unwrap().iter().fold(base, |doc, (k, v)| doc.set(&format!("$cluster.{k}"), v.clone()))
    };
    assert_eq!(
        by(json!({})).cluster().discovery,
        Discovery::OriginalDst { http_header: None, metadata: None, port: None }
    );
    let header = json!({ "original_dst_lb_config": { "use_http_header": true, "upstream_port_override": 99 } });
    assert_eq!(
        by(header).cluster().discovery,
        Discovery::OriginalDst {
            http_header: Some("x-envoy-original-dst-host".into()),
            metadata: None,
            port: Some(99)
        }
    );
    by(json!({ "load_assignment": assignment(json!([])) }))
        .refused("$cluster.load_assignment", "ORIGINAL_DST clusters must have no load assignment configured");
    by(json!({ "lb_policy": "ROUND_ROBIN" })).refused(
        "$cluster.lb_policy",
        "cluster: LB policy ROUND_ROBIN is not valid for Cluster type ORIGINAL_DST. Only 'CLUSTER_PROVIDED' is allowed with cluster type 'ORIGINAL_DST'",
    );
}

#[test]
fn eds_clusters() {
    let eds = |source: Value| with(json!({ "type": "EDS", "load_assignment": null, "eds_cluster_config": source }));
    let discovered = |name: &str| Discovery::Eds {
        service_name: name.into(),
        source: crate::config::ConfigSource {
            from: crate::config::Source::Ads,
            initial_fetch_timeout: Some(Duration::from_secs(15)),
        },
    };
    assert_eq!(eds(json!({ "eds_config": { "ads": {} } })).cluster().discovery, discovered("c"));
    let named = json!({ "eds_config": { "ads": {} }, "service_name": "s" });
    assert_eq!(eds(named).cluster().discovery, discovered("s"));
    eds(Value::Null).refused("$cluster.eds_cluster_config", "cannot create an EDS cluster without an EDS config");
}

#[test]
fn load_balancers() {
    let policies = |list: &[Value]| {
        let list: Vec<_> = list.iter().map(|p| json!({ "typed_extension_config": p })).collect();
        json!({ "policies": list })
    };
    let lb = |fields: Value| with(fields).cluster().lb;
    assert_eq!(
        lb(json!({ "lb_policy": "RANDOM", "common_lb_config": { "locality_weighted_lb_config": {} } })),
        LbPolicy::Random(LocalityLb::Weighted)
    );
    let least = LbPolicy::LeastRequest {
        choice_count: 5,
        full_scan: false,
        active_request_bias: 0.5,
        locality: LocalityLb::None,
    };
    let config = json!({ "choice_count": 5, "active_request_bias": { "default_value": 0.5 } });
    assert_eq!(lb(json!({ "lb_policy": "LEAST_REQUEST", "least_request_lb_config": config.clone() })), least);
    let typed = ext("l", "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest", config);
    let unknown = ext("u", UNKNOWN, json!({}));
    assert_eq!(lb(json!({ "load_balancing_policy": policies(&[unknown.clone(), typed]) })), least);
    let wrr = json!({ "endpoint_picking_policy": policies(&[ext("r", RANDOM, json!({}))]) });
    let wrr = ext("w", "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality", wrr);
    assert_eq!(lb(json!({ "load_balancing_policy": policies(&[wrr]) })), LbPolicy::Random(LocalityLb::Weighted));

    with(json!({ "load_balancing_policy": policies(&[unknown.clone(), unknown]) })).refused(
        "$cluster.load_balancing_policy",
        "cluster: didn't find a registered load balancer factory implementation for cluster: 'c' with names from [u, u]",
    );
    with(json!({ "lb_policy": "RING_HASH" }))
        .refused("$cluster.lb_policy", "the load balancer RING_HASH is not supported");
    with(json!({ "lb_subset_config": {} }))
        .refused("$cluster.lb_subset_config", "subset load balancing is not supported");
    with(json!({ "lb_policy": "LEAST_REQUEST", "least_request_lb_config": { "choice_count": 1 } }))
        .refused("$cluster.least_request_lb_config.choice_count", "value must be inside range [2, 4294967295]");
}

#[test]
fn protocol_options() {
    let http = |fields: Value| json!({ "typed_extension_protocol_options": { HTTP: any(HTTP, fields) } });
    let c = with(http(json!({
        "explicit_http_config": { "http2_protocol_options": { "max_concurrent_streams": 10 } },
        "common_http_protocol_options": { "max_requests_per_connection": 3 },
        "upstream_http_protocol_options": { "auto_sni": true, "override_auto_sni_header": "X-Sni" },
        "retry_policy": { "retry_on": "5xx" },
    })))
    .cluster();
    assert_eq!((c.protocol, c.http2.max_concurrent_streams), (UpstreamProtocol::Http2, 10));
    assert_eq!((c.common.max_requests_per_connection, c.auto_sni_header.as_deref()), (Some(3), Some("x-sni")));
    assert!(c.auto_sni && c.retry_policy.unwrap().on.five_xx);
    assert_eq!(with(json!({ "http2_protocol_options": {} })).cluster().protocol, UpstreamProtocol::Http2);
    assert_eq!(
        with(json!({ "protocol_selection": "USE_DOWNSTREAM_PROTOCOL" })).cluster().protocol,
        UpstreamProtocol::Downstream
    );
    let tcp = json!({ "typed_extension_protocol_options": { TCP: any(TCP, json!({ "idle_timeout": "0s" })) } });
    assert_eq!(with(tcp).cluster().tcp_idle_timeout, None);
    let at = "$cluster.typed_extension_protocol_options[\"envoy.extensions.upstreams.http.v3.HttpProtocolOptions\"]";
    with(http(json!({})))
        .refused(at, "a protocol is required: explicit_http_config, use_downstream_protocol_config or auto_config");
    with(http(json!({ "explicit_http_config": { "http3_protocol_options": {} } })))
        .refused(&format!("{at}.explicit_http_config.http3_protocol_options"), "HTTP/3 is not supported");
    with(http(json!({ "auto_config": {} })))
        .refused("$cluster.transport_socket", "ALPN configured for cluster c which has a non-ALPN transport socket");
    with(json!({ "typed_extension_protocol_options": { "zz": any(UNKNOWN, json!({ "path": "/x" })) } })).refused(
        "$cluster.typed_extension_protocol_options[\"zz\"]",
        "Didn't find a registered network or http filter or protocol options implementation for name: 'zz'",
    );
}

#[test]
fn circuit_breakers_and_outliers() {
    let c = with(json!({
        "circuit_breakers": {
            "thresholds": [
                { "priority": "HIGH", "max_requests": 9 },
                { "max_connections": 1, "retry_budget": {} },
                { "max_connections": 2 },
            ],
            "per_host_thresholds": [{ "max_connections": 4 }],
        },
        "outlier_detection": { "base_ejection_time": "400s", "enforcing_consecutive_5xx": 50 },
    }))
    .cluster();
    assert_eq!((c.breakers_high.max_requests, c.breakers_default.max_connections), (9, 1));
    let budget = c.breakers_default.retry_budget.unwrap();
    assert_eq!((budget.percent, budget.min_concurrency, c.per_host_max_connections), (20.0, 3, Some(4)));
    let o = c.outlier.unwrap();
    assert_eq!((o.consecutive_5xx, o.enforcing_consecutive_5xx), (5, 50));
    assert_eq!((o.max_ejection_time, o.interval), (Duration::from_secs(400), Duration::from_secs(10)));
    refuses(&[
        (
            "$cluster.circuit_breakers",
            json!({ "per_host_thresholds": [{ "max_requests": 1 }] }),
            "$cluster.circuit_breakers.per_host_thresholds[0]",
            "Unsupported field in per_host_thresholds",
        ),
        (
            "$cluster.outlier_detection",
            json!({ "base_ejection_time": "10s", "max_ejection_time": "5s" }),
            "$cluster.outlier_detection.max_ejection_time",
            "outlier detector's max_ejection_time cannot be smaller than base_ejection_time",
        ),
        (
            "$cluster.outlier_detection",
            json!({ "max_ejection_percent": 101 }),
            "$cluster.outlier_detection.max_ejection_percent",
            "value must be inside range [0, 100]",
        ),
    ]);
}

#[test]
fn transports() {
    let matches =
        json!([{ "name": "m", "match": { "a": "b" }, "transport_socket": ext("tls", TLS, json!({ "sni": "s" })) }]);
    let c = with(json!({ "transport_socket_matches": matches })).cluster();
    assert_eq!(c.transport_matches[0].labels["a"], json!("b"));
    assert!(matches!(&c.transport_matches[0].transport, UpstreamTransport::Tls(t) if t.sni == "s"));
    let raw = ext("raw", "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer", json!({}));
    let proxy = "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";
    let fields = json!({ "transport_socket": raw, "config": {
        "version": "V2", "pass_through_tlvs": { "match_type": "INCLUDE_ALL" }, "added_tlvs": [{ "type": 5, "value": "eA==" }] } });
    let UpstreamTransport::ProxyProtocol { version, pass_through_tlvs, added_tlvs, inner } =
        with(json!({ "transport_socket": ext("pp", proxy, fields) })).cluster().transport
    else {
        panic!()
    };
    assert_eq!((version, pass_through_tlvs, added_tlvs), (2, Some(vec![]), vec![(5, b"x".to_vec())]));
    assert_eq!(*inner, UpstreamTransport::Plaintext);
    with(json!({ "transport_socket": ext("x", UNKNOWN, json!({})) })).refused(
        "$cluster.transport_socket.typed_config",
        "Didn't find a registered implementation for 'x' with type URL: 'envoy.config.core.v3.Pipe'",
    );
}

#[test]
fn where_connections_come_from() {
    let bind = json!({ "source_address": { "address": "10.0.0.7", "port_value": 0 } });
    let global = || Doc::new().set("cluster_manager.upstream_bind_config", bind.clone());
    assert_eq!(global().cluster().bind_address, Some("10.0.0.7:0".parse().unwrap()));
    let own = json!({ "source_address": { "address": "10.0.0.8", "port_value": 0 } });
    let c = global().set("$cluster.upstream_bind_config", own).cluster();
    assert_eq!(c.bind_address, Some("10.0.0.8:0".parse().unwrap()));
}

#[test]
fn bad_clusters() {
    refuses(&[
        ("$cluster.connect_timeout", json!("0s"), "$cluster.connect_timeout", "value must be greater than 0s"),
        ("$cluster.cleanup_interval", json!("0s"), "$cluster.cleanup_interval", "value must be greater than 0s"),
        (
            "$cluster.common_lb_config",
            json!({ "healthy_panic_threshold": { "value": 101 } }),
            "$cluster.common_lb_config.healthy_panic_threshold.value",
            "value must be inside range [0, 100]",
        ),
        (
            "cluster_manager",
            json!({ "local_cluster_name": "gone" }),
            "cluster_manager.local_cluster_name",
            "local cluster 'gone' must be defined",
        ),
    ]);
    Doc::new()
        .set("static_resources.clusters[1]", Doc::new().get("$cluster"))
        .refused("static_resources.clusters[1].name", "cluster manager: duplicate cluster 'c'");
}
