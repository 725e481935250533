use serde_json::json;

use super::*;

fn shown(what: What, dump: &Json) -> Vec<String> {
    let table = table(&Dump::new(dump).unwrap(), what);
    table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn dump(part: &str, field: &str, entries: Json) -> Json {
    json!({ "configs": [{ "@type": format!("type.googleapis.com/envoy.admin.v3.{part}"), field: entries }] })
}

#[test]
fn listeners() {
    let manager = |rds: &str| {
        json!({ "name": "hcm", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "rds": { "route_config_name": rds },
        } })
    };
    let tcp = json!({ "name": "tcp", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "weighted_clusters": { "clusters": [{ "name": "a", "weight": 1 }, { "name": "b", "weight": 3 }] },
    } });
    let listener = json!({
        "name": "l",
        "address": { "socket_address": { "address": "10.0.0.1", "port_value": 9080 } },
        "filter_chains": [
            { "filter_chain_match": { "server_names": ["x", "y"], "transport_protocol": "tls" }, "filters": [tcp] },
            { "filters": [manager("9080")] },
        ],
    });
    let dump = dump(
        "ListenersConfigDump",
        "dynamic_listeners",
        json!([{ "name": "l", "active_state": { "listener": listener } }]),
    );
    assert_eq!(
        shown(What::Listener, &dump),
        ["l 10.0.0.1:9080 SNI x,y; transport tls Cluster: a (1), b (3)", "l 10.0.0.1:9080 ALL Route: 9080"]
    );
}

#[test]
fn routes() {
    let header = json!({ "name": "end-user", "string_match": { "exact": "jason" } });
    let table = json!({ "name": "9080", "virtual_hosts": [{ "name": "v", "domains": ["a", "b", "c"], "routes": [
        { "match": { "prefix": "/x", "headers": [header] }, "route": { "cluster": "c1" } },
        { "match": { "path": "/y" }, "direct_response": { "status": 404 } },
    ] }] });
    let dump = dump("RoutesConfigDump", "dynamic_route_configs", json!([{ "route_config": table }]));
    assert_eq!(
        shown(What::Route, &dump),
        ["9080 v a, b + 1 more /x*; header end-user=jason c1", "9080 v a, b + 1 more /y answer 404"]
    );
}

#[test]
fn clusters_are_taken_apart_and_sorted() {
    let named = |name: &str| json!({ "cluster": { "name": name, "type": "EDS" } });
    let names = json!([named("outbound|80|v1|b.default.svc.cluster.local"), named("BlackHole"), named("inbound|80||")]);
    let dump = dump("ClustersConfigDump", "dynamic_active_clusters", names);
    assert_eq!(
        shown(What::Cluster, &dump),
        [
            "BlackHole - - - EDS ROUND_ROBIN no",
            "b.default.svc.cluster.local 80 v1 outbound EDS ROUND_ROBIN no",
            "inbound|80|| 80 - inbound EDS ROUND_ROBIN no",
        ]
    );
}

#[test]
fn endpoints_and_secrets() {
    let endpoint = json!({ "endpoint": { "address": { "socket_address": { "address": "::1", "port_value": 80 } } } });
    let groups = json!([{ "locality": { "region": "r", "zone": "z" }, "lb_endpoints": [endpoint] }]);
    let assignment = json!({ "cluster_name": "c", "endpoints": groups });
    let endpoints = dump("EndpointsConfigDump", "dynamic_endpoint_configs", json!([{ "endpoint_config": assignment }]));
    assert_eq!(shown(What::Endpoint, &endpoints), ["[::1]:80 UNKNOWN 1 0 r/z c"]);
    let secret = json!({ "name": "s", "secret": { "name": "s", "tls_certificate": {} } });
    let secrets = dump("SecretsConfigDump", "dynamic_active_secrets", json!([secret]));
    assert_eq!(shown(What::Secret, &secrets), ["s certificate and key"]);
}
