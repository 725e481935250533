use prost::Message as _;
use serde_json::{Value, json};

use super::super::NodeOverrides;
use super::{Doc, document, refuses};
use crate::config::{AccessLogSink, Address, ApplicationLogFormat, RuntimeLayerKind, StatTagValue, StatsMatcher};

#[test]
fn the_command_line_wins_over_the_node() {
    let doc =
        Doc::new().set("node.locality", json!({ "region": "r", "zone": "z" })).set("node.metadata", json!({ "a": 1 }));
    let b = doc.bootstrap();
    assert_eq!((b.node.id.as_str(), b.node.cluster.as_str(), b.node.locality.zone.as_str()), ("node-1", "here", "z"));
    assert_eq!(b.node.metadata, json!({ "a": 1 }));
    let overrides = NodeOverrides { id: Some("me".into()), cluster: None, zone: Some("y".into()) };
    let b = super::super::bootstrap(&document::bootstrap(&doc.0), &overrides).unwrap().value;
    assert_eq!((b.node.id.as_str(), b.node.cluster.as_str(), b.node.locality.zone.as_str()), ("me", "here", "y"));
    assert_eq!(b.node.locality.region, "r");
}

#[test]
fn the_bootstrap_itself_is_kept() {
    let b = Doc::new().bootstrap();
    let raw = weft_proto::pb::envoy::config::bootstrap::v3::Bootstrap::decode(b.raw.as_ref()).unwrap();
    assert_eq!(raw.node.unwrap().id, "node-1");
}

#[test]
fn admin() {
    assert_eq!(Doc::new().set("admin", json!({})).bootstrap().admin, None);
    let admin = Doc::new()
        .set("admin.address", json!({ "socket_address": { "address": "127.0.0.1", "port_value": 0 } }))
        .set("admin.access_log_path", json!("/dev/null"))
        .bootstrap()
        .admin
        .unwrap();
    assert_eq!(admin.address, Address::Ip("127.0.0.1:0".parse().unwrap()));
    assert_eq!(admin.access_log[0].sink, AccessLogSink::File("/dev/null".into()));
}

#[test]
fn runtime_layers() {
    assert!(matches!(Doc::new().bootstrap().runtime_layers[..], [ref l] if l.kind == RuntimeLayerKind::Admin));
    let layers = json!([
        { "name": "s", "static_layer": { "a": { "b": true, "c": { "d": 2 } }, "f": { "numerator": 1, "denominator": "HUNDRED" } } },
        { "name": "d", "disk_layer": { "symlink_root": "/r", "append_service_cluster": true } },
        { "name": "a", "admin_layer": {} },
        { "name": "r", "rtds_layer": { "name": "rt", "rtds_config": { "ads": {} } } },
    ]);
    let found = Doc::new().set("layered_runtime.layers", layers).bootstrap().runtime_layers;
    let RuntimeLayerKind::Static(flat) = &found[0].kind else { panic!() };
    let keys: Vec<_> = flat.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    let fraction = json!({ "numerator": 1, "denominator": "HUNDRED" });
    assert_eq!(keys, [("a.b", json!(true)), ("a.c.d", json!(2)), ("f", fraction)]);
    assert!(matches!(&found[1].kind, RuntimeLayerKind::Disk { append_service_cluster: true, .. }));
    assert!(matches!(&found[3].kind, RuntimeLayerKind::Discovered { resource, .. } if resource == "rt"));
    let at = "layered_runtime.layers";
    refuses(&[
        (
            at,
            json!([{ "static_layer": {} }]),
            "layered_runtime.layers[0].name",
            "value length must be at least 1 characters",
        ),
        (
            at,
            json!([{ "name": "a" }]),
            "layered_runtime.layers[0]",
            "a layer is required: static_layer, disk_layer, admin_layer or rtds_layer",
        ),
        (
            at,
            json!([{ "name": "a", "static_layer": {} }, { "name": "a", "static_layer": {} }]),
            "layered_runtime.layers[1].name",
            "Duplicate layer name: a",
        ),
        (
            at,
            json!([{ "name": "a", "static_layer": { "x": [1] } }]),
            "layered_runtime.layers[0].static_layer",
            "Invalid runtime entry value for x",
        ),
        (
            at,
            json!([{ "name": "a", "rtds_layer": { "name": "x" } }]),
            "layered_runtime.layers[0].rtds_layer.rtds_config",
            "value is required",
        ),
    ]);
}

#[test]
fn stats() {
    let config = json!({
        "stats_tags": [
            { "tag_name": "r", "regex": "^a\\.((.*?)\\.)" },
            { "tag_name": "f", "fixed_value": "v" },
            { "tag_name": "envoy.cluster_name" },
        ],
        "stats_matcher": { "inclusion_list": { "patterns": [{ "prefix": "cluster." }] } },
        "histogram_bucket_settings": [{ "match": { "prefix": "x" }, "buckets": [5, 1] }],
    });
    let s = Doc::new().set("stats_config", config).bootstrap().stats;
    assert!(matches!(s.tags[0].value, StatTagValue::Regex(_)) && s.tags.len() == 2);
    assert!(matches!(&s.matcher, StatsMatcher::Inclusion(list) if list[0].matches("cluster.c")));
    assert_eq!((s.buckets[0].1.as_slice(), s.use_default_tags), (&[1.0, 5.0][..], None));
    Doc::new()
        .set("stats_config.stats_tags", json!([{ "tag_name": "t", "regex": "abc" }]))
        .warned("stats_config.stats_tags[0].regex", "tag 't' never has a value: its regex has no capture group");
    refuses(&[
        (
            "stats_config.stats_tags",
            json!([{ "tag_name": "t" }]),
            "stats_config.stats_tags[0].regex",
            "No regex specified for tag specifier and no default regex for name: 't'",
        ),
        (
            "stats_config.histogram_bucket_settings",
            json!([{ "match": { "prefix": "x" }, "buckets": [1, 1] }]),
            "stats_config.histogram_bucket_settings[0].buckets",
            "repeated value must contain unique items",
        ),
        (
            "stats_config.stats_matcher",
            json!({}),
            "stats_config.stats_matcher",
            "a matcher is required: reject_all, exclusion_list or inclusion_list",
        ),
    ]);
}

#[test]
fn the_rest_of_the_bootstrap() {
    let b = Doc::new()
        .set("cluster_manager", json!({ "local_cluster_name": "c", "outlier_detection": { "event_log_path": "/e" } }))
        .set("application_log_config.log_format", json!({ "text_format": "%v" }))
        .bootstrap();
    assert_eq!((b.local_cluster_name.as_deref(), b.outlier_event_log.as_deref()), (Some("c"), Some("/e")));
    assert_eq!(b.application_log_format, Some(ApplicationLogFormat::Text("%v".into())));
    assert_eq!(Doc::new().set("cluster_manager", Value::Null).bootstrap().local_cluster_name, None);
}
