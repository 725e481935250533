use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::document::Format;
use crate::pb::envoy::config::bootstrap::v3::Bootstrap;
use crate::pb::envoy::config::cluster::v3 as cluster;
use crate::pb::envoy::config::core::v3 as core;
use crate::pb::envoy::extensions::filters::http::buffer::v3::Buffer;
use crate::pb::google::protobuf as wkt;

fn ty(name: &str) -> MessageType {
    MessageType::find(name).unwrap()
}

fn read(text: &str, format: Format, ty: MessageType) -> Converted {
    convert(&Document::parse("t.yaml", text, format).unwrap(), ty)
}

/// The problems of a bootstrap, as shown.
fn problems(text: &str) -> Vec<String> {
    let found = read(text, Format::Yaml, ty("envoy.config.bootstrap.v3.Bootstrap"));
    found.problems.iter().map(ToString::to_string).collect()
}

fn good<M: prost::Message + prost::Name + Default>(text: &str) -> M {
    let found = read(text, Format::Yaml, ty(&M::full_name()));
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    M::decode(found.message.encode().as_slice()).unwrap()
}

fn cluster(fields: &str) -> cluster::Cluster {
    good(&format!("{{name: c, {fields}}}"))
}

fn refused(fields: &str) -> String {
    let found = read(fields, Format::Yaml, ty("envoy.config.cluster.v3.Cluster"));
    assert_eq!(found.problems.len(), 1, "{fields}: {:?}", found.problems);
    found.problems[0].to_string()
}

#[test]
fn a_bootstrap_is_read() {
    let text = "
node: {id: a, metadata: {x: 1, y: [yes, 1.5, null]}}
staticResources:
  clusters:
  - name: one
    connect_timeout: 0.25s
    type: STRICT_DNS
    load_assignment:
      cluster_name: one
      endpoints:
        lb_endpoints:
        - endpoint: {address: {socket_address: {address: h, port_value: 80}}}
";
    let bootstrap: Bootstrap = good(text);
    let cluster = &bootstrap.static_resources.unwrap().clusters[0];
    assert_eq!(cluster.connect_timeout, Some(wkt::Duration { seconds: 0, nanos: 250_000_000 }));
    assert_eq!(cluster.cluster_discovery_type, Some(cluster::cluster::ClusterDiscoveryType::Type(1)));
    assert_eq!(cluster.load_assignment.as_ref().unwrap().endpoints[0].lb_endpoints.len(), 1);
    let metadata = bootstrap.node.unwrap().metadata.unwrap();
    let number = wkt::Value { kind: Some(wkt::value::Kind::NumberValue(1.0)) };
    assert_eq!(metadata.fields["x"], number);
    // A fraction is text in Envoy's YAML, wherever the type of the field does not make it a number.
    let Some(wkt::value::Kind::ListValue(list)) = &metadata.fields["y"].kind else { panic!() };
    assert_eq!(list.values[1].kind, Some(wkt::value::Kind::StringValue("1.5".into())));
    assert_eq!(list.values[2].kind, Some(wkt::value::Kind::NullValue(0)));
}

#[test]
fn every_problem_has_its_path_and_line() {
    let text = "
node: {id: 5}
nodee: {}
static_resources:
  clusters:
  - name: one
    typ: STATIC
    lb_policy: ROUND
    connect_timeout: 5
  - [1]
  - name: two
    per_connection_buffer_limit_bytes: -1
    typed_extension_protocol_options:
      a.b:
        '@type': type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Bufer
";
    assert_eq!(
        problems(text),
        [
            "t.yaml:2:12: node.id: expected a string (put it in quotes), found the number 5",
            "t.yaml:3:1: nodee: unknown field of envoy.config.bootstrap.v3.Bootstrap, did you mean `node`?",
            "t.yaml:7:5: static_resources.clusters[0].typ: unknown field of envoy.config.cluster.v3.Cluster, \
             did you mean `type`?",
            "t.yaml:8:16: static_resources.clusters[0].lb_policy: \"ROUND\" is no value of \
             envoy.config.cluster.v3.Cluster.LbPolicy: expected one of ROUND_ROBIN, LEAST_REQUEST, RING_HASH, RANDOM, \
             MAGLEV, CLUSTER_PROVIDED, LOAD_BALANCING_POLICY_CONFIG",
            "t.yaml:9:22: static_resources.clusters[0].connect_timeout: expected a duration such as 1.5s, found the number 5",
            "t.yaml:10:6: static_resources.clusters[1]: expected a map for envoy.config.cluster.v3.Cluster, found the number 1",
            "t.yaml:12:40: static_resources.clusters[2].per_connection_buffer_limit_bytes: -1 is out of range: \
             expected 0 to 4294967295",
            "t.yaml:15:9: static_resources.clusters[2].typed_extension_protocol_options[\"a.b\"]: there is no type \
             envoy.extensions.filters.http.buffer.v3.Bufer, did you mean envoy.extensions.filters.http.buffer.v3.Buffer?",
        ]
    );
}

#[test]
fn scalars_follow_envoys_reader() {
    let limit = |text: &str| {
        let fields = format!("per_connection_buffer_limit_bytes: {text}");
        cluster(&fields).per_connection_buffer_limit_bytes.unwrap().value
    };
    for (text, value) in [
        ("5", 5),
        ("\"5\"", 5),
        ("\"+5\"", 5),
        ("\"08\"", 8),
        ("08", 8),
        ("010", 8),
        ("0x10", 16),
        ("\"0x10\"", 16),
        ("1.0", 1),
        ("1e3", 1000),
        ("\"1e3\"", 1000),
        ("-0", 0),
        ("{value: 5}", 5),
    ] {
        assert_eq!(limit(text), value, "{text}");
    }
    for text in ["1.5", "\" 5\"", "\"5 \"", "-1", "5000000000", "\"\"", "1_000", "0b1", "true", "\"NaN\"", "[]"] {
        refused(&format!("per_connection_buffer_limit_bytes: {text}"));
    }
    let flag = |text: &str| cluster(&format!("ignore_health_on_host_removal: {text}")).ignore_health_on_host_removal;
    assert!(["yes", "ON", "\"true\"", "tRue", "\"1\"", "\"T\"", "\"YeS\""].into_iter().all(flag));
    assert!(!["no", "\"0\"", "\"f\"", "off"].into_iter().any(flag));
    for text in ["1", "\"on\"", "\" true\"", "1.0", "\"null\""] {
        refused(&format!("ignore_health_on_host_removal: {text}"));
    }
    let percent = |text: &str| {
        let fields = format!("common_lb_config: {{healthy_panic_threshold: {{value: {text}}}}}");
        cluster(&fields).common_lb_config.unwrap().healthy_panic_threshold.unwrap().value
    };
    for (text, value) in [("5.5", 5.5), ("\"5.5\"", 5.5), (".5", 0.5), ("5.", 5.0), ("\" 5.5\"", 5.5), ("\"0x5\"", 5.0)]
    {
        assert!((percent(text) - value).abs() < f64::EPSILON, "{text}");
    }
    assert!(percent("NaN").is_nan() && percent("-Infinity").is_infinite());
    for text in [".nan", ".inf", "abc", "true", "1e999"] {
        refused(&format!("common_lb_config: {{healthy_panic_threshold: {{value: {text}}}}}"));
    }
}

#[test]
fn enums_are_named_in_any_case_or_numbered() {
    for text in ["RANDOM", "random", "Random", "3", "\"3\"", "\" 3\""] {
        assert_eq!(cluster(&format!("lb_policy: {text}")).lb_policy, 3, "{text}");
    }
    assert_eq!(cluster("lb_policy: 77").lb_policy, 77);
    for text in ["round-robin", "RoundRobin", "\"\"", "\"0x1\"", "1.0", "2147483648", "true"] {
        refused(&format!("lb_policy: {text}"));
    }
}

#[test]
fn null_and_single_values() {
    let node: core::Node = good("{id: ~, locality: null, client_features: [[a, null], b]}");
    assert_eq!(node.client_features, ["a", "", "b"]);
    assert_eq!((node.id.as_str(), node.locality), ("", None));
    let node: core::Node = good("{client_features: a, metadata: ~}");
    assert_eq!(node.client_features, ["a"]);
}

#[test]
fn bytes_are_base64_of_either_alphabet() {
    let bytes = |text: &str| -> Vec<u8> {
        let source: core::DataSource = good(&format!("inline_bytes: {text}"));
        let Some(core::data_source::Specifier::InlineBytes(bytes)) = source.specifier else { panic!() };
        bytes
    };
    assert_eq!(bytes("YQ=="), b"a");
    assert_eq!(bytes("YQ"), b"a");
    assert_eq!(bytes("\"_/8=\""), [0xff, 0xff]);
    for text in ["\"Y Q==\"", "\"!\"", "Y", "\"YQ=\"", "5"] {
        let found = read(&format!("inline_bytes: {text}"), Format::Yaml, ty("envoy.config.core.v3.DataSource"));
        assert_eq!(found.problems.len(), 1, "{text}");
    }
}

#[test]
fn durations_follow_envoys_reader() {
    for (text, seconds, nanos) in [
        ("1s", 1, 0),
        ("1.5s", 1, 500_000_000),
        ("-0.5s", 0, -500_000_000),
        ("1.123456789s", 1, 123_456_789),
        ("315576000000s", 315_576_000_000, 0),
        ("{seconds: \"1\", nanos: 5}", 1, 5),
    ] {
        let found = cluster(&format!("connect_timeout: {text}")).connect_timeout.unwrap();
        assert_eq!((found.seconds, found.nanos), (seconds, nanos), "{text}");
    }
    for text in ["1", "\"1\"", "1ms", "1.s", ".5s", "+1s", "\" 1s\"", "\"1 s\"", "1e3s", "1.1234567890s", "\"\""] {
        refused(&format!("connect_timeout: {text}"));
    }
    assert!(refused("connect_timeout: 315576000001s").ends_with("the duration 315576000001s is out of range"));
}

#[test]
fn timestamps_and_masks() {
    let timestamp = |text: &str| super::well_known::timestamp(text);
    assert_eq!(timestamp("1970-01-01T00:00:00Z"), Some((0, 0)));
    assert_eq!(timestamp("2026-01-31T12:30:01.5+01:00"), Some((1_769_859_001, 500_000_000)));
    assert_eq!(timestamp("0001-01-01T00:00:00Z"), Some((-62_135_596_800, 0)));
    assert_eq!(timestamp("9999-12-31T23:59:59.999999999Z"), Some((253_402_300_799, 999_999_999)));
    assert_eq!(timestamp("2024-02-29T00:00:00Z"), Some((1_709_164_800, 0)));
    for text in ["2023-02-29T00:00:00Z", "2026-01-31", "2026-01-31T12:30:01", "2026-1-31T12:30:01Z", "x"] {
        assert_eq!(timestamp(text), None, "{text}");
    }
}

#[test]
fn an_any_holds_its_fields() {
    let options = "typed_extension_protocol_options";
    let buffer = |content: &str| {
        let any = cluster(&format!("{options}: {{x: {content}}}")).typed_extension_protocol_options["x"].clone();
        crate::any::unpack::<Buffer>(&any).unwrap().max_request_bytes.unwrap().value
    };
    let name = "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer";
    assert_eq!(buffer(&format!("{{max_request_bytes: 7, '@type': {name}}}")), 7);
    for kind in ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"] {
        let typed =
            format!("{{'@type': type.googleapis.com/{kind}, type_url: {name}, value: {{max_request_bytes: 8}}}}");
        assert_eq!(buffer(&typed), 8);
    }
    let any =
        |content: &str| cluster(&format!("{options}: {{x: {content}}}")).typed_extension_protocol_options["x"].clone();
    assert_eq!(any("{}"), wkt::Any::default());
    let duration = any("{'@type': type.googleapis.com/google.protobuf.Duration, value: 1s}");
    assert_eq!(wkt::Duration::decode(duration.value.as_slice()).unwrap().seconds, 1);
    for (content, reason) in [
        ("{a: 1}", "\"@type\" is missing: it names the type of what is here"),
        (
            "{'@type': envoy.config.core.v3.Node}",
            "it must contain a `/` after a host, as in type.googleapis.com/envoy.config.core.v3.Node",
        ),
        (
            "{'@type': a/google.protobuf.Duration, seconds: 1}",
            "only \"@type\" and \"value\" may stand in a google.protobuf.Duration",
        ),
        ("{'@type': a/google.protobuf.Duration}", "\"value\" is missing: it holds the google.protobuf.Duration"),
        ("{'@type': a/foo.Bar}", "there is no type foo.Bar"),
        (
            "{'@type': a/envoy.extensions.filters.http.tap.v3.Tap, b: 1}",
            "envoy.extensions.filters.http.tap.v3.Tap is not supported by weft",
        ),
        (
            "{'@type': a/envoy.config.core.v3.Node, ix: 1}",
            "unknown field of envoy.config.core.v3.Node, did you mean `id`?",
        ),
    ] {
        let shown = refused(&format!("{options}: {{x: {content}}}"));
        assert!(shown.ends_with(reason), "{shown}");
    }
}

#[test]
fn a_oneof_takes_one() {
    let shown = refused("type: STATIC\ncluster_type: {name: x}\n");
    assert_eq!(shown, "t.yaml:2:1: cluster_type: `type` and `cluster_type` are both set, and only one may be");
    cluster("type: ~, cluster_type: {name: x}");
}

#[test]
fn nesting_is_bounded_by_messages() {
    let nested = |n: usize| format!("node: {{metadata: {{a: {}{}}}}}", "[".repeat(n), "]".repeat(n));
    assert_eq!(problems(&nested(40)), [""; 0]);
    assert!(problems(&nested(60))[0].ends_with("nested more than 100 messages deep"));
    let found = read(&nested(48), Format::Yaml, ty("envoy.config.bootstrap.v3.Bootstrap"));
    if found.problems.is_empty() {
        Bootstrap::decode(found.message.encode().as_slice()).unwrap();
    }
}

#[test]
fn spans_follow_the_fields_through_an_any() {
    let text = "
static_resources:
  clusters:
  - name: one
    typed_extension_protocol_options:
      x:
        '@type': type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer
        maxRequestBytes: 7
";
    let spans = read(text, Format::Yaml, ty("envoy.config.bootstrap.v3.Bootstrap")).spans;
    let options = "static_resources.clusters[0].typed_extension_protocol_options";
    assert_eq!(spans.locate(&format!("{options}[\"x\"].max_request_bytes")), Some((8, 9)));
    assert_eq!(spans.locate(&format!("{options}[\"x\"].other")), Some((6, 7)));
    assert_eq!(spans.locate("static_resources.clusters[0].type"), Some((4, 5)));
    assert_eq!(spans.locate("static_resources.listeners[0]"), Some((2, 1)));
}

/// A descriptor pool of the whole API, for the oracle.
fn oracle() -> prost_reflect::DescriptorPool {
    let bytes = std::fs::read(env!("WEFT_DESCRIPTOR_SET")).unwrap();
    let mut pool = prost_reflect::DescriptorPool::decode(bytes.as_slice()).unwrap();
    // Our own.
    let own = include_bytes!(concat!(env!("OUT_DIR"), "/own.bin"));
    pool.decode_file_descriptor_set(own.as_slice()).unwrap();
    pool
}

/// A message with some of its fields set, as an independent implementation has it.
fn arbitrary(
    desc: &prost_reflect::MessageDescriptor,
    choices: &mut impl Iterator<Item = u32>,
    depth: usize,
) -> prost_reflect::DynamicMessage {
    use prost_reflect::{Kind as K, Value as V};
    let mut message = prost_reflect::DynamicMessage::new(desc.clone());
    for field in desc.fields() {
        let pick = choices.next().unwrap();
        if !pick.is_multiple_of(3) || field.is_map() {
            continue;
        }
        let one = match field.kind() {
            K::Message(inner) => {
                let special = inner.package_name() == "google.protobuf"
                    && ["Any", "Value", "Struct", "ListValue", "FieldMask"].contains(&inner.name());
                if depth == 0 || special {
                    continue;
                }
                if ["Duration", "Timestamp"].contains(&inner.name()) && inner.package_name() == "google.protobuf" {
                    let mut time = prost_reflect::DynamicMessage::new(inner);
                    time.set_field_by_name("seconds", V::I64(i64::from(pick)));
                    time.set_field_by_name("nanos", V::I32(i32::try_from(pick % 1_000_000_000).unwrap()));
                    V::Message(time)
                } else {
                    V::Message(arbitrary(&inner, choices, depth - 1))
                }
            }
            K::Enum(inner) => {
                let values: Vec<_> = inner.values().collect();
                V::EnumNumber(values[pick as usize % values.len()].number())
            }
            K::Bool => V::Bool(pick.is_multiple_of(2)),
            K::String => V::String(format!("s{pick}")),
            K::Bytes => V::Bytes(pick.to_le_bytes().to_vec().into()),
            K::Double => V::F64(f64::from(pick) / 7.0),
            K::Float => V::F32(0.5 * f32::from(u16::try_from(pick % 60_000).unwrap())),
            K::Int32 | K::Sint32 | K::Sfixed32 => V::I32(pick.cast_signed()),
            K::Int64 | K::Sint64 | K::Sfixed64 => V::I64(i64::from(pick) * -77_777_777),
            K::Uint32 | K::Fixed32 => V::U32(pick),
            K::Uint64 | K::Fixed64 => V::U64(u64::from(pick) * 77_777_777),
        };
        let value = if field.is_list() { V::List(vec![one.clone(), one]) } else { one };
        message.set_field(&field, value);
    }
    message
}

#[test]
fn json_of_an_independent_implementation_is_read_to_the_same_message() {
    let pool = oracle();
    // A fixed linear congruence: the test is the same each time.
    let mut state = 1u64;
    let mut choices = std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    });
    for message in crate::schema::messages().filter(|m| !m.is_map_entry() && m.well_known().is_none()) {
        let desc = pool.get_message_by_name(message.name()).unwrap();
        let wanted = arbitrary(&desc, &mut choices, 2);
        let json = serde_json::to_string(&wanted).unwrap();
        let found = read(&json, Format::Json, message);
        assert!(found.problems.is_empty(), "{}: {:?}\n{json}", message.name(), found.problems);
        let again = prost_reflect::DynamicMessage::decode(desc.clone(), found.message.encode().as_slice()).unwrap();
        // What is set to its default without presence is not on the wire.
        let wanted = prost_reflect::DynamicMessage::decode(desc, wanted.encode_to_vec().as_slice()).unwrap();
        assert!(again == wanted, "{}: {json}", message.name());
    }
}

proptest! {
    #[test]
    fn no_document_panics(text in "[a-z@{}\\[\\]:, \"'0-9.\\-]{0,80}") {
        let text = format!("static_resources: {text}");
        if let Ok(document) = Document::parse("t", &text, Format::Yaml) {
            convert(&document, ty("envoy.config.bootstrap.v3.Bootstrap"));
        }
    }
}
