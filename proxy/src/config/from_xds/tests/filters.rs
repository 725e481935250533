use std::time::Duration;

use serde_json::{Value, json};

use super::{Doc, any, ext, refuses, router};
use crate::config::{
    AbortStatus, AppendAction, HashPolicyKind, HeaderMutation, HttpFilterKind, NetworkFilterKind, PerFilterConfig,
    PerMillion, QueryMutation, TcpCluster, TcpProxy,
};

const TCP: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const CORS: &str = "envoy.extensions.filters.http.cors.v3.Cors";
const CORS_POLICY: &str = "envoy.extensions.filters.http.cors.v3.CorsPolicy";
const MUTATION: &str = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation";
const HEALTH: &str = "envoy.extensions.filters.http.health_check.v3.HealthCheck";
const BUFFER: &str = "envoy.extensions.filters.http.buffer.v3.Buffer";
const FAULT: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";
const FILTER_CONFIG: &str = "envoy.config.route.v3.FilterConfig";
const UNKNOWN: &str = "envoy.config.core.v3.Pipe";

fn tcp(fields: Value) -> Value {
    let mut all = json!({ "stat_prefix": "t", "cluster": "c" });
    for (key, value) in fields.as_object().unwrap() {
        all[key] = value.clone();
    }
    ext("tcp", TCP, all)
}

fn tcp_proxy(fields: Value) -> TcpProxy {
    let mut l = Doc::new().set("$chain.filters", json!([tcp(fields)])).listener();
    match l.filter_chains.remove(0).filters.remove(0).kind {
        NetworkFilterKind::TcpProxy(t) => *t,
        other => panic!("{other:?}"),
    }
}

#[test]
fn on_demand() {
    const ON_DEMAND: &str = "envoy.extensions.filters.http.on_demand.v3.OnDemand";
    let with = |fields: Value| Doc::new().set("$hcm.http_filters", json!([ext("o", ON_DEMAND, fields), router()]));
    let found = |fields: Value| match with(fields).hcm().filters.remove(0).kind {
        HttpFilterKind::OnDemand(clusters) => clusters,
        other => panic!("{other:?}"),
    };
    assert_eq!(found(json!({})), None);
    let clusters = found(json!({ "odcds": { "source": { "ads": {} } } })).unwrap();
    assert_eq!((clusters.source.from, clusters.timeout), (crate::config::Source::Ads, Duration::from_secs(5)));
    assert_eq!(tcp_proxy(json!({ "on_demand": {} })).on_demand, None);
    let tcp = tcp_proxy(json!({ "on_demand": { "odcds_config": { "ads": {} } } })).on_demand.unwrap();
    assert_eq!(tcp.timeout, Duration::from_secs(60));
    let at = "$hcm.http_filters";
    let filter = |odcds: Value| json!([ext("o", ON_DEMAND, json!({ "odcds": odcds })), router()]);
    let path = |field: &str| format!("$hcm.http_filters[0].typed_config.odcds.{field}");
    let file = json!({ "source": { "path": "/clusters.yaml" } });
    let locator = json!({ "source": { "ads": {} }, "resources_locator": "xdstp://x" });
    refuses(&[
        (at, filter(json!({})), &path("source"), "value is required"),
        (
            at,
            filter(file),
            &path("source"),
            "only 'DELTA_GRPC' or 'ADS' (which uses Delta xDS) is supported as a config source of what is asked for on demand",
        ),
        (at, filter(locator), &path("resources_locator"), "a resource locator is not supported"),
    ]);
}

#[test]
fn tcp_proxy_settings() {
    let t = tcp_proxy(json!({}));
    assert_eq!((t.idle_timeout, t.max_connect_attempts), (Some(Duration::from_secs(3600)), 1));
    let t = tcp_proxy(json!({
        "cluster": null,
        "weighted_clusters": { "clusters": [{ "name": "gone", "weight": 3 }] },
        "idle_timeout": "0s",
        "hash_policy": [{ "source_ip": {} }],
        "max_downstream_connection_duration": "2s",
        "max_downstream_connection_duration_jitter_percentage": { "value": 50 },
        "access_log_options": { "flush_access_log_on_connected": true },
        "backoff_options": { "base_interval": "1s" },
    }));
    let TcpCluster::Weighted(w) = &t.cluster else { panic!() };
    assert_eq!((w[0].name.as_str(), w[0].weight), ("gone", 3));
    assert_eq!((t.idle_timeout, t.access_log_on_connected), (None, true));
    assert!(matches!(t.hash_policy[0].kind, HashPolicyKind::SourceIp));
    assert_eq!(t.max_downstream_connection_duration_jitter, 0.5);
    assert_eq!(t.backoff.unwrap().max, Duration::from_secs(10));
}

#[test]
fn bad_network_filters() {
    let cases: [(Value, &str, &str); 12] = [
        (
            json!([tcp(json!({ "stat_prefix": "" }))]),
            "[0].typed_config.stat_prefix",
            "value length must be at least 1 characters",
        ),
        (
            json!([tcp(json!({ "cluster": null }))]),
            "[0].typed_config",
            "a cluster is required: cluster or weighted_clusters",
        ),
        (
            json!([tcp(json!({ "max_connect_attempts": 0 }))]),
            "[0].typed_config.max_connect_attempts",
            "value must be inside range [1, 4294967295]",
        ),
        (
            json!([tcp(json!({ "hash_policy": [{ "source_ip": {} }, { "source_ip": {} }] }))]),
            "[0].typed_config.hash_policy",
            "value must contain no more than 1 item(s)",
        ),
        (
            json!([tcp(json!({ "flush_access_log_on_connected": true, "access_log_options": {} }))]),
            "[0].typed_config.access_log_options",
            "Only one of flush_access_log_on_connected or access_log_options can be specified.",
        ),
        (
            json!([tcp(json!({ "tunneling_config": { "hostname": "" } }))]),
            "[0].typed_config.tunneling_config.hostname",
            "value length must be at least 1 characters",
        ),
        (
            json!([tcp(json!({ "tunneling_config": { "hostname": "x", "use_post": true } }))]),
            "[0].typed_config.tunneling_config.use_post",
            "anything but CONNECT with an answer that is not kept is not supported",
        ),
        (
            json!([tcp(json!({})), tcp(json!({}))]),
            "[0]",
            "Error: terminal filter named tcp of type envoy.filters.network.tcp_proxy must be the last filter in a network filter chain.",
        ),
        (
            json!([ext("sni", "envoy.extensions.filters.network.sni_cluster.v3.SniCluster", json!({}))]),
            "[0]",
            "Error: non-terminal filter named sni of type envoy.filters.network.sni_cluster is the last filter in a network filter chain.",
        ),
        (
            json!([ext("x", UNKNOWN, json!({}))]),
            "[0].typed_config",
            "Didn't find a registered implementation for 'x' with type URL: 'envoy.config.core.v3.Pipe'",
        ),
        (
            json!([{ "name": "envoy.filters.network.tcp_proxy" }]),
            "[0]",
            "Didn't find a registered implementation for 'envoy.filters.network.tcp_proxy' with type URL: ''",
        ),
        (
            json!([
                ext(
                    "l",
                    "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
                    json!({ "stat_prefix": "s" })
                ),
                tcp(json!({}))
            ]),
            "[0].typed_config.max_connections",
            "value is required",
        ),
    ];
    for (filters, at, reason) in cases {
        Doc::new().set("$chain.filters", filters).refused(&format!("$chain.filters{at}"), reason);
    }
}

#[test]
fn a_chain_without_filters_is_fine() {
    assert!(Doc::new().set("$chain.filters", json!([])).listener().filter_chains[0].filters.is_empty());
}

fn http_filters(filters: Value) -> Doc {
    Doc::new().set("$hcm.http_filters", filters)
}

#[test]
fn the_router_is_last() {
    let cors = || ext("cors", CORS, json!({}));
    let off = |mut filter: Value| {
        filter["disabled"] = true.into();
        filter
    };
    http_filters(json!([cors(), off(cors()), router()])).bootstrap();
    http_filters(json!([])).bootstrap();
    http_filters(json!([router(), cors()])).refused(
        "$hcm.http_filters[0]",
        "Error: terminal filter named router of type envoy.filters.http.router must be the last filter in a http filter chain.",
    );
    http_filters(json!([cors()])).refused(
        "$hcm.http_filters[0]",
        "Error: non-terminal filter named cors of type envoy.filters.http.cors is the last filter in a http filter chain.",
    );
    http_filters(json!([off(router())])).refused(
        "$hcm.http_filters[0]",
        "Error: the last (terminal) filter (router) in the chain cannot be disabled by default.",
    );
    Doc::new().set("$hcm.upgrade_configs", json!([{ "upgrade_type": "websocket", "filters": [cors()] }])).refused(
        "$hcm.upgrade_configs[0].filters[0]",
        "Error: non-terminal filter named cors of type envoy.filters.http.cors is the last filter in a http upgrade filter chain.",
    );
}

#[test]
fn unknown_filters_are_refused_unless_optional() {
    let mut unknown = ext("zz", UNKNOWN, json!({}));
    http_filters(json!([unknown, router()])).refused(
        "$hcm.http_filters[0].typed_config",
        "Didn't find a registered implementation for 'zz' with type URL: 'envoy.config.core.v3.Pipe'",
    );
    unknown["is_optional"] = true.into();
    let doc = http_filters(json!([unknown, router()]));
    doc.warned("$hcm.http_filters[0].typed_config", "the optional filter 'zz' is unknown and left out");
    assert_eq!(doc.hcm().filters.len(), 1);
}

#[test]
fn header_mutation_filter() {
    let fields = json!({
        "most_specific_header_mutations_wins": true,
        "mutations": {
            "request_mutations": [
                { "remove": ":path" },
                { "append": { "header": { "key": "X-A", "value": "%PROTOCOL%" }, "append_action": "OVERWRITE_IF_EXISTS" } },
                { "remove_on_match": { "key_matcher": { "prefix": "x-" } } },
            ],
            "query_parameter_mutations": [
                { "remove": "q" },
                { "append": { "record": { "key": "k", "value": "v" }, "action": "ADD_IF_ABSENT" } },
            ],
        },
    });
    let hcm = http_filters(json!([ext("hm", MUTATION, fields), router()])).hcm();
    let HttpFilterKind::HeaderMutation(f) = &hcm.filters[0].kind else { panic!() };
    assert!(f.most_specific_wins);
    assert!(matches!(&f.request.0[0], HeaderMutation::Remove(name) if name == ":path"));
    assert_eq!(
        f.request.0[1],
        HeaderMutation::Append {
            name: "x-a".into(),
            value: "%PROTOCOL%".into(),
            action: AppendAction::OverwriteIfExists,
            keep_empty: false
        }
    );
    assert_eq!(
        f.query,
        [
            QueryMutation::Remove("q".into()),
            QueryMutation::Append { key: "k".into(), value: "v".into(), action: AppendAction::AddIfAbsent }
        ]
    );
}

#[test]
fn bad_http_filters() {
    let at = |path: &str| format!("$hcm.http_filters[0].typed_config.{path}");
    let mutate =
        |mutations: Value| http_filters(json!([ext("hm", MUTATION, json!({ "mutations": mutations })), router()]));
    mutate(json!({ "request_mutations": [{ "append": { "header": { "key": ":path", "value": "/" } } }] })).refused(
        &at("mutations.request_mutations[0].append.header.key"),
        ":-prefixed or host headers may not be modified",
    );
    mutate(json!({ "response_mutations": [{}] }))
        .refused(&at("mutations.response_mutations[0]"), "an action is required: remove, append or remove_on_match");
    mutate(json!({ "query_parameter_mutations": [{ "append": {} }] }))
        .refused(&at("mutations.query_parameter_mutations[0].append"), "No record specified for append mutation.");
    let one = |message: &str, fields: Value| http_filters(json!([ext("f", message, fields), router()]));
    one(BUFFER, json!({})).refused(&at("max_request_bytes"), "value is required");
    one(BUFFER, json!({ "max_request_bytes": 0 })).refused(&at("max_request_bytes"), "value must be greater than 0");
    one(HEALTH, json!({})).refused(&at("pass_through_mode"), "value is required");
    one(HEALTH, json!({ "pass_through_mode": false, "cache_time": "1s" }))
        .refused(&at("cache_time"), "cache_time_ms must not be set when path_through_mode is disabled");
    http_filters(json!([ext("r", "envoy.extensions.filters.http.router.v3.Router", json!({ "strict_check_headers": ["x"] }))]))
        .refused(
            &at("strict_check_headers[0]"),
            "value must be in list [x-envoy-upstream-rq-timeout-ms, x-envoy-upstream-rq-per-try-timeout-ms, x-envoy-max-retries, x-envoy-retry-grpc-on, x-envoy-retry-on]",
        );
}

#[test]
fn health_check_and_grpc_stats() {
    let health = json!({ "pass_through_mode": false, "cluster_min_healthy_percentages": { "c": { "value": 12.5 } } });
    let grpc = json!({ "individual_method_stats_allowlist": { "services": [{ "name": "s", "method_names": ["m"] }] } });
    let hcm = http_filters(json!([
        ext("h", HEALTH, health),
        ext("g", "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig", grpc),
        router()
    ]))
    .hcm();
    let HttpFilterKind::HealthCheck(h) = &hcm.filters[0].kind else { panic!() };
    assert_eq!(h.cluster_min_healthy["c"], PerMillion(125_000));
    let HttpFilterKind::GrpcStats(g) = &hcm.filters[1].kind else { panic!() };
    assert_eq!(g.allowlist, [("s".to_owned(), vec!["m".to_owned()])]);
    assert!(!g.all_methods);
}

#[test]
fn faults() {
    let fields = json!({
        "delay": { "fixed_delay": "1.5s", "percentage": { "numerator": 3, "denominator": "TEN_THOUSAND" } },
        "abort": { "grpc_status": 5 },
        "abort_percent_runtime": "mine",
        "response_rate_limit": { "fixed_limit": { "limit_kbps": "7" } },
        "filter_metadata": { "a": 1 },
    });
    let hcm = http_filters(json!([ext("f", FAULT, fields), router()])).hcm();
    let HttpFilterKind::Fault(f) = &hcm.filters[0].kind else { panic!() };
    let delay = f.delay.as_ref().unwrap();
    assert_eq!((delay.fixed, delay.share.default), (Some(Duration::from_millis(1500)), PerMillion(300)));
    assert_eq!((delay.share.denominator, delay.share.key.as_str()), (10_000, "fault.http.delay.fixed_delay_percent"));
    let abort = f.abort.as_ref().unwrap();
    assert_eq!(
        (abort.status, abort.share.default),
        (AbortStatus::Grpc(5), PerMillion(0)),
        "without a share none is hit"
    );
    assert_eq!((abort.share.key.as_str(), &abort.body[..]), ("mine", &b"fault filter abort"[..]));
    assert_eq!(f.rate_limit.as_ref().unwrap().fixed.map(u64::from), Some(7));
    assert_eq!((f.max_active, f.metadata.clone()), (None, json!({ "a": 1 })));

    let bad = [
        (json!({ "delay": {} }), "delay", "a delay is required: fixed_delay or header_delay"),
        (json!({ "delay": { "fixed_delay": "0s" } }), "delay.fixed_delay", "value must be greater than 0s"),
        (json!({ "abort": {} }), "abort", "an answer is required: http_status, grpc_status or header_abort"),
        (json!({ "abort": { "http_status": 199 } }), "abort.http_status", "value must be inside range [200, 600)"),
        (json!({ "abort": { "http_status": 600 } }), "abort.http_status", "value must be inside range [200, 600)"),
        (
            json!({ "response_rate_limit": {} }),
            "response_rate_limit",
            "a limit is required: fixed_limit or header_limit",
        ),
        (
            json!({ "response_rate_limit": { "fixed_limit": {} } }),
            "response_rate_limit.fixed_limit.limit_kbps",
            "value must be greater than or equal to 1",
        ),
    ];
    for (fields, path, reason) in bad {
        http_filters(json!([ext("f", FAULT, fields.clone()), router()]))
            .refused(&format!("$hcm.http_filters[0].typed_config.{path}"), reason);
        Doc::new()
            .set("$route.typed_per_filter_config", json!({ "f": any(FAULT, fields) }))
            .refused(&format!("$route.typed_per_filter_config[\"f\"].{path}"), reason);
    }
}

#[test]
fn per_route_settings() {
    let policy = json!({ "allow_origin_string_match": [{ "exact": "https://a" }], "allow_credentials": true });
    let config = json!({
        "cors": any(CORS_POLICY, policy.clone()),
        "off": any(FILTER_CONFIG, json!({ "disabled": true })),
        "wrapped": any(FILTER_CONFIG, json!({ "config": any(CORS_POLICY, policy) })),
        "skipped": any(FILTER_CONFIG, json!({ "is_optional": true, "config": any(UNKNOWN, json!({ "path": "/x" })) })),
        "buffer": any("envoy.extensions.filters.http.buffer.v3.BufferPerRoute", json!({ "disabled": true })),
    });
    let doc = Doc::new().set("$route.typed_per_filter_config", config);
    doc.warned(
        "$route.typed_per_filter_config[\"skipped\"].config",
        "the optional configuration of filter 'skipped' is unknown and left out",
    );
    let per_filter = doc.route().per_filter;
    assert_eq!(per_filter.keys().collect::<Vec<_>>(), ["buffer", "cors", "off", "wrapped"]);
    assert_eq!(per_filter["off"].disabled, Some(true));
    assert_eq!((per_filter["buffer"].disabled, per_filter["cors"].disabled), (Some(true), Some(false)));
    for name in ["cors", "wrapped"] {
        let Some(PerFilterConfig::Cors(cors)) = &per_filter[name].config else { panic!() };
        assert!(cors.allow_credentials && cors.forward_not_matching_preflights);
        assert_eq!(cors.enabled.default, PerMillion::ALL);
    }
}

#[test]
fn bad_per_route_settings() {
    let at = "$vhost.typed_per_filter_config";
    refuses(&[
        (
            at,
            json!({ "x": any(UNKNOWN, json!({ "path": "/x" })) }),
            "$vhost.typed_per_filter_config[\"x\"]",
            "Didn't find a registered implementation for 'x' with type URL: 'envoy.config.core.v3.Pipe'",
        ),
        (
            at,
            json!({ "x": any(FILTER_CONFIG, json!({})) }),
            "$vhost.typed_per_filter_config[\"x\"]",
            "Empty route/virtual host per filter configuration for x filter",
        ),
        (
            at,
            json!({ "r": any("envoy.extensions.filters.http.router.v3.Router", json!({})) }),
            "$vhost.typed_per_filter_config[\"r\"]",
            "The filter r doesn't support virtual host or route specific configurations",
        ),
        (
            at,
            json!({ "b": any("envoy.extensions.filters.http.buffer.v3.BufferPerRoute", json!({ "buffer": {} })) }),
            "$vhost.typed_per_filter_config[\"b\"].buffer.max_request_bytes",
            "value is required",
        ),
    ]);
}
