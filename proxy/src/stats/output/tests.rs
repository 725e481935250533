use super::*;
use crate::config::{Pattern, StatTag, StatTagValue, StatsConfig, StringMatcher};
use crate::stats::{CodeStats, Unit};

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

fn names(store: &Arc<Store>, name: &str) -> Vec<String> {
    let counter = store.root().counter(name);
    counter.inc();
    let filter = regex::Regex::new(&format!("^{}$", regex::escape(name))).unwrap();
    let text = store.prometheus(&Query { filter: Some(filter), ..Query::default() }).unwrap();
    text.lines().filter(|l| !l.starts_with('#')).map(|l| l.trim_end_matches(" 1").to_owned()).collect()
}

#[test]
fn text_is_sorted_and_filtered() {
    let store = Store::new(1, &StatsConfig::default());
    let (b, a) = (store.root().gauge("b"), store.root().scope("a").counter("x"));
    let text = store.root().text_readout("control_plane.identifier");
    text.set("<me>");
    let histogram = store.root().histogram("time", Unit::Milliseconds);
    a.inc();
    let all = store.text(&Query::default());
    assert_eq!(all, "control_plane.identifier: \"&lt;me&gt;\"\na.x: 1\nb: 0\ntime: No recorded values\n");
    let used = Query { used_only: true, ..Query::default() };
    assert_eq!(lines(&store.text(&used))[1..], ["a.x: 1"]);
    b.inc();
    b.dec();
    assert_eq!(lines(&store.text(&used))[1..], ["a.x: 1", "b: 0"], "a gauge that was touched is used");
    let gauges = Query { stat_type: StatType::Gauges, ..Query::default() };
    assert_eq!(store.text(&gauges), "b: 0\n");
    let filter = Query { filter: Some(regex::Regex::new("x|b").unwrap()), ..Query::default() };
    assert_eq!(store.text(&filter), "a.x: 1\nb: 0\n");
    let inverted = Query { invert_filter: true, stat_type: StatType::Histograms, ..filter };
    assert_eq!(store.text(&inverted), "time: No recorded values\n");
    drop(histogram);
}

#[test]
fn histograms_in_every_view() {
    let store = Store::new(1, &StatsConfig::default());
    let h = store.root().histogram("t", Unit::Milliseconds);
    [0, 0, 0, 4, 44].iter().for_each(|v| h.record(*v));
    let view = |histograms| Query { histograms, ..Query::default() };
    assert_eq!(
        store.text(&Query::default()),
        "t: P0(nan,0) P25(nan,0) P50(nan,0) P75(nan,4.05) P90(nan,44.5) P95(nan,44.5) P99(nan,44.5) P99.5(nan,44.5) \
         P99.9(nan,44.5) P100(nan,44.5)\n"
    );
    let cumulative = store.text(&view(HistogramView::Cumulative));
    assert!(cumulative.starts_with("t: B0.5(0,3) B1(0,3) B5(0,4) B10(0,4) B25(0,4) B50(0,5)"), "{cumulative}");
    assert!(cumulative.ends_with("B1.8e+06(0,5) B3.6e+06(0,5)\n"), "{cumulative}");
    let disjoint = store.text(&view(HistogramView::Disjoint));
    assert!(disjoint.starts_with("t: B0.5(0,3) B1(0,0) B5(0,1)"), "{disjoint}");
    let detailed = store.text(&view(HistogramView::Detailed));
    assert!(
        detailed.starts_with("t:\n  totals=0,0:3, 4,0.1:1, 44,1:1\n  intervals=\n  summary=P0(nan,0) P25"),
        "{detailed}"
    );
    store.flush();
    assert!(store.text(&Query::default()).starts_with("t: P0(0,0) P25(0,0) P50(0,0) P75(4.05,4.05)"));
}

#[test]
fn json_as_envoy_writes_it() {
    let store = Store::new(1, &StatsConfig::default());
    assert_eq!(store.json(&Query::default()), "{\"stats\":[]}");
    let (c, h) = (store.root().counter("c"), store.root().histogram("t", Unit::Milliseconds));
    c.add(3);
    let json = store.json(&Query::default());
    let start = "{\"stats\":[{\"name\":\"c\",\"value\":3},{\"histograms\":{\"supported_quantiles\":[0,25,50,75,90,95,99,99.5,\
                 99.9,100],\"computed_quantiles\":[{\"name\":\"t\",\"values\":[{\"cumulative\":null,\"interval\":null},";
    assert!(json.starts_with(start), "{json}");
    h.record(44);
    for histograms in [HistogramView::Cumulative, HistogramView::Disjoint, HistogramView::Detailed] {
        let json = store.json(&Query { histograms, ..Query::default() });
        serde_json::from_str::<serde_json::Value>(&json).unwrap();
    }
    let json = store.json(&Query { histograms: HistogramView::Cumulative, ..Query::default() });
    assert!(json.contains("{\"upper_bound\":3e+05,\"interval\":0,\"cumulative\":1}"), "{json}");
}

#[test]
fn prometheus_families_and_labels() {
    let store = Store::new(1, &StatsConfig::default());
    let cluster = store.root().tagged("cluster", "envoy.cluster_name", "a.b");
    let other = store.root().tagged("cluster", "envoy.cluster_name", "c");
    let (one, two) = (cluster.counter("upstream_rq_total"), other.counter("upstream_rq_total"));
    one.add(2);
    two.inc();
    let codes = CodeStats::new(&cluster, "upstream_rq_");
    codes.record(503);
    let h = cluster.histogram("upstream_rq_time", Unit::Milliseconds);
    h.record(2);
    h.record(44);
    let gauge = store.root().scope("server").gauge("uptime");
    gauge.set(7);
    let text = store.prometheus(&Query::default()).unwrap();
    let expected = [
        "# TYPE envoy_cluster_upstream_rq counter",
        "envoy_cluster_upstream_rq{envoy_response_code=\"503\",envoy_cluster_name=\"a.b\"} 1",
        "# TYPE envoy_cluster_upstream_rq_completed counter",
        "envoy_cluster_upstream_rq_completed{envoy_cluster_name=\"a.b\"} 1",
        "# TYPE envoy_cluster_upstream_rq_total counter",
        "envoy_cluster_upstream_rq_total{envoy_cluster_name=\"a.b\"} 2",
        "envoy_cluster_upstream_rq_total{envoy_cluster_name=\"c\"} 1",
        "# TYPE envoy_cluster_upstream_rq_xx counter",
        "envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"5\",envoy_cluster_name=\"a.b\"} 1",
        "# TYPE envoy_server_uptime gauge",
        "envoy_server_uptime{} 7",
        "# TYPE envoy_cluster_upstream_rq_time histogram",
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"a.b\",le=\"0.5\"} 0",
    ];
    assert_eq!(lines(&text)[..expected.len()], expected);
    let end = [
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"a.b\",le=\"+Inf\"} 2",
        "envoy_cluster_upstream_rq_time_sum{envoy_cluster_name=\"a.b\"} 46.543162510276786747454025316983",
        "envoy_cluster_upstream_rq_time_count{envoy_cluster_name=\"a.b\"} 2",
    ];
    assert_eq!(lines(&text)[lines(&text).len() - 3..], end);
    let detailed = Query { histograms: HistogramView::Detailed, ..Query::default() };
    assert!(store.prometheus(&detailed).is_err());
}

#[test]
fn envoys_rules_find_tags_in_plain_names() {
    let store = Store::new(1, &StatsConfig::default());
    for (name, metric) in [
        (
            "listener.127.0.0.1_80.http.in.downstream_rq_2xx",
            "envoy_listener_http_downstream_rq_xx{envoy_response_code_class=\"2\",envoy_http_conn_manager_prefix=\"in\",\
             envoy_listener_address=\"127.0.0.1_80\"}",
        ),
        ("listener.admin.downstream_cx_total", "envoy_listener_admin_downstream_cx_total{}"),
        (
            "listener.[__1]_80.worker_1.downstream_cx_total",
            "envoy_listener_worker_downstream_cx_total{envoy_worker_id=\"1\",envoy_listener_address=\"[__1]_80\"}",
        ),
        (
            "vhost.all.vcluster.other.upstream_rq_timeout",
            "envoy_vhost_vcluster_upstream_rq_timeout{envoy_virtual_cluster=\"other\",envoy_virtual_host=\"all\"}",
        ),
        (
            "http.in.rbac.policy.p1.allowed",
            "envoy_http_rbac_policy_allowed{envoy_rbac_policy_name=\"p1\",envoy_http_conn_manager_prefix=\"in\"}",
        ),
        (
            "http.in.rbac.pre.policy.p1.shadow_denied",
            "envoy_http_rbac_policy_shadow_denied{envoy_rbac_policy_name=\"p1\",envoy_rbac_http_prefix=\"pre\",\
             envoy_http_conn_manager_prefix=\"in\"}",
        ),
        ("net.rbac.allowed", "envoy_rbac_allowed{envoy_rbac_prefix=\"net\"}"),
        ("lrl.http_local_rate_limit.ok", "envoy_http_local_rate_limit_ok{envoy_local_http_ratelimit_prefix=\"lrl\"}"),
        (
            "listener.0.0.0.0_443.ssl.versions.TLSv1.3",
            "envoy_listener_ssl_versions{envoy_ssl_version=\"TLSv1.3\",envoy_listener_address=\"0.0.0.0_443\"}",
        ),
        ("tcp.t.downstream_cx_total", "envoy_tcp_downstream_cx_total{envoy_tcp_prefix=\"t\"}"),
        ("cluster_manager.cds.update_attempt", "envoy_cluster_manager_cds_update_attempt{}"),
        (
            "thread_local_cluster_manager.worker_0.clusters_inflated",
            "envoy_thread_local_cluster_manager_worker_clusters_inflated{envoy_worker_id=\"0\"}",
        ),
    ] {
        assert_eq!(names(&store, name), [metric]);
    }
}

#[test]
fn stats_tags_of_istio() {
    let tag = |name: &str, source| StatTag {
        name: name.into(),
        value: StatTagValue::Regex(Pattern::search(source).unwrap()),
    };
    let config = StatsConfig {
        tags: vec![
            tag("cluster_name", r"^cluster\.((.+?(\..+?\.svc\.cluster\.local)?)\.)"),
            tag("response_code_class", r"_rq(_(\dxx))$"),
            StatTag { name: "mesh".into(), value: StatTagValue::Fixed("m1".into()) },
        ],
        use_default_tags: Some(false),
        ..StatsConfig::default()
    };
    let store = Store::new(1, &config);
    let scope = store.root().tagged("cluster", "envoy.cluster_name", "outbound|80||r.default.svc.cluster.local");
    let codes = CodeStats::new(&scope, "upstream_rq_");
    codes.record(200);
    let text = store.prometheus(&Query::default()).unwrap();
    let wanted = "envoy_cluster_upstream_rq{mesh=\"m1\",cluster_name=\"outbound|80||r.default.svc.cluster.local\",\
                  response_code_class=\"2xx\"} 1";
    assert!(text.contains(wanted), "{text}");
}

#[test]
fn configured_buckets() {
    let config = StatsConfig { buckets: vec![(StringMatcher::exact("a.t"), vec![1.0, 2.5])], ..StatsConfig::default() };
    let store = Store::new(1, &config);
    let (a, b) = (store.root().scope("a").histogram("t", Unit::Bytes), store.root().histogram("t", Unit::Percent));
    a.record(3);
    b.record(500_000);
    let text = store.text(&Query { histograms: HistogramView::Cumulative, ..Query::default() });
    assert!(text.starts_with("a.t: B1(0,0) B2.5(0,0)\nt: B0.5(0,1) B1(0,1)"), "{text}");
}

#[test]
fn every_default_rule_is_sound() {
    // One whose expression did not compile would be missing.
    assert_eq!(super::tags::rule_count(), (18, 20));
}
