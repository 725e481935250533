use prost::Message as _;
use serde_json::json;

use super::mask::Mask;
use super::*;
use crate::any::pack;
use crate::document::{Document, Format};
use crate::pb::envoy::admin::v3 as admin;
use crate::pb::google::protobuf as wkt;

fn ty(name: &str) -> MessageType {
    MessageType::find(name).unwrap()
}

fn read(name: &str, text: &str) -> Message {
    let document = Document::parse("t", text, Format::Yaml).unwrap();
    let found = crate::convert::convert(&document, ty(name));
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    found.message
}

fn printed(name: &str, text: &str) -> Json {
    message(&read(name, text), Options::default())
}

#[test]
fn a_cluster_prints_as_in_envoys_dump() {
    let text = "
name: one
type: STRICT_DNS
connect_timeout: 0.25s
per_connection_buffer_limit_bytes: 0
common_lb_config: {healthy_panic_threshold: {value: 5.5}, update_merge_window: 3s}
metadata: {filter_metadata: {a: {x: 1, y: [true, null, 1.5]}}}
transport_socket:
  name: tls
  typed_config:
    '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
    sni: x
";
    let wanted = json!({
        "name": "one",
        "type": "STRICT_DNS",
        "connect_timeout": "0.250s",
        "per_connection_buffer_limit_bytes": 0,
        "common_lb_config": {"healthy_panic_threshold": {"value": 5.5}, "update_merge_window": "3s"},
        "metadata": {"filter_metadata": {"a": {"x": 1, "y": [true, null, "1.5"]}}},
        "transport_socket": {
            "name": "tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": "x",
            },
        },
    });
    assert_eq!(printed("envoy.config.cluster.v3.Cluster", text), wanted);
}

#[test]
fn secrets_are_redacted_also_in_an_any_and_a_typed_struct() {
    let name = "envoy.extensions.transport_sockets.tls.v3.TlsCertificate";
    let certificate = "private_key: {inline_bytes: c2VjcmV0}, certificate_chain: {inline_string: chain}, \
                       password: {inline_string: pass}";
    let wanted = json!({
        "private_key": {"inline_bytes": "W3JlZGFjdGVkXQ=="},
        "certificate_chain": {"inline_string": "chain"},
        "password": {"inline_string": "[redacted]"},
    });
    assert_eq!(printed(name, &format!("{{{certificate}}}")), wanted);
    let any = printed("google.protobuf.Any", &format!("{{'@type': type.googleapis.com/{name}, {certificate}}}"));
    assert_eq!(any["private_key"], wanted["private_key"]);
    let shown = message(&read(name, &format!("{{{certificate}}}")), Options { secrets: true, ..Options::default() });
    assert_eq!(shown["password"]["inline_string"], "pass");

    let text = |text: &str| wkt::Value { kind: Some(wkt::value::Kind::StringValue(text.into())) };
    let inner = wkt::Struct { fields: [("inline_string".to_owned(), text("pass"))].into() };
    let inner = wkt::Value { kind: Some(wkt::value::Kind::StructValue(inner)) };
    let value = wkt::Struct { fields: [("password".to_owned(), inner)].into() };
    let mut typed = vec![0x0a, u8::try_from(name.len()).unwrap()];
    typed.extend(name.as_bytes());
    let value = value.encode_to_vec();
    typed.extend([0x12, u8::try_from(value.len()).unwrap()]);
    typed.extend(value);
    let any = wkt::Any { type_url: "type.googleapis.com/xds.type.v3.TypedStruct".into(), value: typed };
    assert_eq!(
        generated(&any, Options::default()).unwrap(),
        json!({
            "@type": "type.googleapis.com/xds.type.v3.TypedStruct",
            "type_url": name,
            "value": {"password": {"inline_string": "[redacted]"}},
        })
    );
}

#[test]
fn what_cannot_be_opened_is_not_shown() {
    let any = wkt::Any { type_url: "a/b.C".into(), value: b"secret".to_vec() };
    let wanted = json!({"@type": "a/b.C", "value": "W3JlZGFjdGVkXQ=="});
    assert_eq!(generated(&any, Options::default()).unwrap(), wanted);
}

#[test]
fn defaults_are_printed_where_asked_for() {
    let memory = admin::Memory { allocated: 5, ..Default::default() };
    assert_eq!(generated(&memory, Options::default()).unwrap(), json!({"allocated": "5"}));
    let all = Options { defaults: true, ..Options::default() };
    assert_eq!(
        generated(&memory, all).unwrap(),
        json!({
            "allocated": "5", "heap_size": "0", "pageheap_unmapped": "0", "pageheap_free": "0",
            "total_thread_cache": "0", "total_physical_bytes": "0",
        })
    );
    let certificates = admin::Certificates { certificates: vec![admin::Certificate::default()] };
    assert_eq!(generated(&certificates, all).unwrap(), json!({"certificates": [{"ca_cert": [], "cert_chain": []}]}));
}

#[test]
fn well_known_values_have_their_own_forms() {
    let duration = |seconds, nanos| {
        let duration = wkt::Duration { seconds, nanos };
        generated(&duration, Options::default()).unwrap()
    };
    assert_eq!(duration(1, 0), "1s");
    assert_eq!(duration(0, 1), "0.000000001s");
    assert_eq!(duration(0, -500_000_000), "-0.500s");
    assert_eq!(duration(-1, -1000), "-1.000001s");
    let time = |seconds, nanos| generated(&wkt::Timestamp { seconds, nanos }, Options::default()).unwrap();
    assert_eq!(time(0, 0), "1970-01-01T00:00:00Z");
    assert_eq!(time(1_769_859_001, 500_000_000), "2026-01-31T11:30:01.500Z");
    assert_eq!(time(i64::MIN, 0), "0001-01-01T00:00:00Z");
    let any = pack(&wkt::Duration { seconds: 1, nanos: 0 });
    let wanted = json!({"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"});
    assert_eq!(generated(&any, Options::default()).unwrap(), wanted);
    let float = |value| generated(&wkt::FloatValue { value }, Options::default()).unwrap();
    assert_eq!((float(0.1), float(f32::NAN), float(2.0)), (json!(0.1), json!("NaN"), json!(2)));
    let unsigned = generated(&wkt::UInt64Value { value: u64::MAX }, Options::default()).unwrap();
    assert_eq!(unsigned, "18446744073709551615");
}

#[test]
fn a_mask_cuts_through_lists_and_any() {
    let node = "{id: a, cluster: b, locality: {region: r, zone: z}}";
    let cut = |mask: &str| {
        let mut message = read("envoy.config.core.v3.Node", node);
        Mask::parse(mask).apply(&mut message).map(|()| super::message(&message, Options::default()))
    };
    assert_eq!(cut("id,locality.zone").unwrap(), json!({"id": "a", "locality": {"zone": "z"}}));
    assert_eq!(cut("locality.zone,locality").unwrap(), json!({"locality": {"region": "r", "zone": "z"}}));
    assert_eq!(cut("foo").unwrap_err(), "envoy.config.core.v3.Node has no field `foo`");
    let cluster =
        crate::pb::envoy::config::cluster::v3::Cluster { name: "c".into(), lb_policy: 3, ..Default::default() };
    let dump = admin::ClustersConfigDump {
        version_info: "v".into(),
        static_clusters: vec![admin::clusters_config_dump::StaticCluster {
            cluster: Some(pack(&cluster)),
            last_updated: None,
        }],
        ..Default::default()
    };
    let mut message = Message::decode(ty("envoy.admin.v3.ClustersConfigDump"), &dump.encode_to_vec()).unwrap();
    Mask::parse("static_clusters.cluster.name").apply(&mut message).unwrap();
    assert_eq!(
        super::message(&message, Options::default()),
        json!({"static_clusters": [{"cluster": {
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "c",
        }}]})
    );
}

/// What is printed is read back to the same message.
#[test]
fn printing_and_reading_agree() {
    let before = read("envoy.config.bootstrap.v3.Bootstrap", crate::load::SAMPLE);
    let json = message(&before, Options { secrets: true, ..Options::default() }).to_string();
    let document = Document::parse("t", &json, Format::Json).unwrap();
    let after = crate::convert::convert(&document, before.ty());
    assert!(after.problems.is_empty(), "{:?}", after.problems);
    assert_eq!(after.message.encode(), before.encode());
}
