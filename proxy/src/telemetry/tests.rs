//! Peers and series without a proxy around them.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::config::{Attribute, Metric, MetricOverride, Node};
use crate::stats::Query;
use crate::stream_info::ResponseFlags;

fn telemetry() -> (Arc<Telemetry>, Arc<Store>) {
    let stats = Store::new(2, &Default::default());
    let metadata =
        json!({"NAME": "a-0", "WORKLOAD_NAME": "a", "NAMESPACE": "shop", "LABELS": {"app": "a", "version": "v2"}});
    let node = Node { id: "sidecar~1.2.3.4~a-0.shop~x".into(), metadata, ..Node::default() };
    (Telemetry::new(&node, &stats), stats)
}

fn key<'a>(peer: Option<&'a Workload>, host: &'a str, code: u16) -> Key<'a> {
    let service = Service { host, name: host, namespace: "" };
    let (reporter, security) = (Reporter::Source, Security::Unknown);
    let edge = Edge { reporter, peer, peer_principal: "", own_principal: "", service, security };
    let outcome = Outcome { protocol: Protocol::Http, code, grpc: None, flags: ResponseFlags::NONE };
    Key { kind: Kind::Requests, edge, outcome, values: &[] }
}

fn page(stats: &Arc<Store>) -> String {
    stats.prometheus(&Query::default()).unwrap()
}

#[test]
fn a_workload_comes_through_its_header() {
    let (telemetry, _) = telemetry();
    let header = telemetry.header.as_bytes();
    let read = Workload::of_header(header).unwrap();
    assert_eq!((&*read.name, &*read.namespace, &*read.app, &*read.version), ("a", "shop", "a", "v2"));
    assert_eq!((&*read.canonical_name, &*read.canonical_revision, &*read.instance), ("a", "v2", "a-0"));
    // Istio's own: fields of other types and unknown labels are passed over.
    let theirs = "CiIKDUFQUF9DT05UQUlORVJTEhEaD2RldGFpbHMsaXN0aW8tcA==";
    assert!(Workload::of_header(theirs.as_bytes()).is_none_or(|of| of.name.is_empty()));
    assert!(of_header(b"!").is_none() && of_header(&[0xff; 9000]).is_none());
    assert_eq!(of_header(header).as_deref(), Some(&read));
}

#[test]
fn an_endpoint_is_five_names() {
    let of = Workload::of_endpoint("reviews-v1;default;reviews;v1;Kubernetes").unwrap();
    assert_eq!((&*of.name, &*of.namespace, &*of.cluster), ("reviews-v1", "default", "Kubernetes"));
    assert_eq!((&*of.canonical_name, &*of.canonical_revision), ("reviews", "v1"));
    assert!(Workload::of_endpoint("reviews-v1;default;reviews;v1").is_none());
}

#[test]
fn the_same_labels_are_one_series() {
    let (telemetry, stats) = telemetry();
    let plan = telemetry.plan(&[]);
    let peer = Workload::of_endpoint("b;shop;b;v1;Kubernetes").unwrap();
    let again = Workload::of_endpoint("b;shop;b;v1;Kubernetes").unwrap();
    let one = telemetry.series(&key(Some(&peer), "b", 200), &plan);
    assert!(Arc::ptr_eq(&one, &telemetry.series(&key(Some(&again), "b", 200), &plan)));
    assert!(!Arc::ptr_eq(&one, &telemetry.series(&key(Some(&peer), "b", 500), &plan)));
    assert!(!Arc::ptr_eq(&one, &telemetry.series(&key(None, "b", 200), &plan)));
    one.requests.inc();
    // Another thread has a table of its own, and the same series.
    std::thread::scope(|s| {
        s.spawn(|| telemetry.series(&key(Some(&peer), "b", 200), &plan).requests.inc());
    });
    let page = page(&stats);
    let line = page.lines().find(|line| line.starts_with("istio_requests_total{") && line.ends_with(" 2"));
    let line = line.unwrap_or_else(|| panic!("{page}"));
    for label in [
        r#"reporter="source""#,
        r#"source_workload="a""#,
        r#"source_version="v2""#,
        r#"source_cluster="unknown""#,
        r#"destination_workload="b""#,
        r#"destination_service_namespace="shop""#,
        r#"response_flags="-""#,
    ] {
        assert!(line.contains(label), "{label}: {line}");
    }
    assert!(page.contains("# TYPE istio_requests_total counter"), "{page}");
    assert!(!page.contains("istiocustom") && !page.contains("envoy_istio_requests"), "{page}");
}

#[test]
fn series_are_bounded() {
    let (telemetry, stats) = telemetry();
    let plan = telemetry.plan(&[]);
    for n in 0..MAX_SERIES + 100 {
        let host = format!("host-{n}");
        telemetry.series(&key(None, &host, 200), &plan).requests.inc();
    }
    let page = page(&stats);
    let lines = page.lines().filter(|line| line.starts_with("istio_requests_total{")).count();
    assert_eq!(lines, MAX_SERIES + 1);
    assert!(page.contains("envoy_istio_stats_overflow{} 100"), "the rest is told");
    let rest = page.lines().find(|line| line.starts_with("istio_requests_total{") && line.ends_with(" 100")).unwrap();
    assert!(rest.contains(r#"destination_service="unknown""#), "{rest}");
}

#[test]
fn overrides_change_what_there_is() {
    let (telemetry, stats) = telemetry();
    let all = MetricOverride {
        remove: vec!["destination_version".into()],
        set: vec![("team".into(), Attribute::Text("blue".into())), ("method".into(), Attribute::Method)],
        ..MetricOverride::default()
    };
    let bytes = MetricOverride { metric: Some(Metric::RequestBytes), drop: true, ..MetricOverride::default() };
    let plan = telemetry.plan(&[all, bytes]);
    let values = plan.values(|of| match of {
        Attribute::Text(text) => Some(text.clone()),
        _ => None,
    });
    let series = telemetry.series(&Key { values: &values, ..key(None, "b", 200) }, &plan);
    series.requests.inc();
    series.request_bytes.record(1);
    let page = page(&stats);
    let line = page.lines().find(|line| line.starts_with("istio_requests_total{")).unwrap();
    assert!(line.contains(r#"team="blue",method="unknown""#) && !line.contains("destination_version"), "{line}");
    assert!(!page.contains("istio_request_bytes"), "{page}");
    assert!(page.contains("istio_response_bytes"), "{page}");
    // Of the same words there is one plan, and of others another.
    assert!(Arc::ptr_eq(&plan, &telemetry.plan(&plan.overrides.clone())));
    assert_ne!(plan.id, telemetry.plan(&[]).id);
}

#[test]
fn messages_wait_until_it_is_known_whose_they_are() {
    let (telemetry, stats) = telemetry();
    let plan = telemetry.plan(&[]);
    let messages = Messages::default();
    messages.count(Side::Request);
    messages.count(Side::Request);
    let of = Key { kind: Kind::Messages, ..key(None, "b", 0) };
    messages.belong(|| telemetry.series(&of, &plan));
    messages.count(Side::Response);
    messages.belong(|| unreachable!("it is known"));
    let page = page(&stats);
    let value = |name: &str| page.lines().find(|line| line.starts_with(name)).and_then(|line| line.rsplit(' ').next());
    assert_eq!(value("istio_request_messages_total{"), Some("2"));
    assert_eq!(value("istio_response_messages_total{"), Some("1"));
}
