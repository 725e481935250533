use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::pb::envoy::config::core::v3 as core;
use crate::pb::google::protobuf as wkt;

fn ty(name: &str) -> MessageType {
    MessageType::find(name).unwrap()
}

fn node() -> core::Node {
    let number = wkt::Value { kind: Some(wkt::value::Kind::NumberValue(-1.5)) };
    let list = wkt::ListValue { values: vec![number.clone(), wkt::Value { kind: None }] };
    let list = wkt::Value { kind: Some(wkt::value::Kind::ListValue(list)) };
    core::Node {
        id: "a".into(),
        cluster: "b".into(),
        metadata: Some(wkt::Struct { fields: [("x".into(), number), ("y".into(), list)].into() }),
        client_features: vec!["f".into(), String::new()],
        ..core::Node::default()
    }
}

#[test]
fn what_prost_writes_is_read_and_written_back() {
    let bytes = node().encode_to_vec();
    let message = Message::decode(ty("envoy.config.core.v3.Node"), &bytes).unwrap();
    assert_eq!(message.string(1), "a");
    assert!(message.unknown().is_empty());
    assert_eq!(core::Node::decode(message.encode().as_slice()).unwrap(), node());
}

#[test]
fn unknown_fields_survive() {
    let mut bytes = node().encode_to_vec();
    // Number 1000, a varint; number 1 (a string) as a varint.
    bytes.extend([0xc0, 0x3e, 7, 0x08, 9]);
    let message = Message::decode(ty("envoy.config.core.v3.Node"), &bytes).unwrap();
    assert_eq!(message.unknown().iter().map(|u| u.number).collect::<Vec<_>>(), [1000, 1]);
    assert!(message.encode().ends_with(&[0xc0, 0x3e, 7, 0x08, 9]));
}

#[test]
fn joined_encodings_merge() {
    let locality = |region: &str, zone: &str| core::Node {
        locality: Some(core::Locality { region: region.into(), zone: zone.into(), ..Default::default() }),
        client_features: vec![region.into()],
        ..Default::default()
    };
    let mut bytes = locality("r", "z").encode_to_vec();
    bytes.extend(locality("s", "").encode_to_vec());
    let message = Message::decode(ty("envoy.config.core.v3.Node"), &bytes).unwrap();
    assert_eq!(
        core::Node::decode(message.encode().as_slice()).unwrap(),
        core::Node {
            locality: Some(core::Locality { region: "s".into(), zone: "z".into(), ..Default::default() }),
            client_features: vec!["r".into(), "s".into()],
            ..Default::default()
        }
    );
}

#[test]
fn nesting_is_bounded() {
    let mut value = wkt::Value { kind: None };
    for _ in 0..200 {
        let list = wkt::ListValue { values: vec![value] };
        value = wkt::Value { kind: Some(wkt::value::Kind::ListValue(list)) };
    }
    let error = Message::decode(ty("google.protobuf.Value"), &value.encode_to_vec()).unwrap_err();
    assert_eq!(error.to_string(), "cannot be decoded as google.protobuf.Value: too deeply nested");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for name in ["envoy.config.core.v3.Node", "google.protobuf.Struct", "envoy.config.bootstrap.v3.Bootstrap"] {
            if let Ok(message) = Message::decode(ty(name), &bytes) {
                // What was read reads the same again.
                let again = Message::decode(ty(name), &message.encode()).unwrap();
                prop_assert_eq!(again.encode(), message.encode());
            }
        }
    }

    #[test]
    fn integers_of_all_forms_agree_with_prost(a: i64, b: u64, c: i32, d: u32, e: f64, f: f32, g: bool) {
        macro_rules! same {
            ($($name:literal $ty:ident $value:expr;)*) => {$({
                let bytes = wkt::$ty { value: $value }.encode_to_vec();
                let message = Message::decode(ty(concat!("google.protobuf.", $name)), &bytes).unwrap();
                prop_assert_eq!(message.encode(), bytes);
            })*};
        }
        same! {
            "Int64Value" Int64Value a; "UInt64Value" UInt64Value b; "Int32Value" Int32Value c;
            "UInt32Value" UInt32Value d; "DoubleValue" DoubleValue e; "FloatValue" FloatValue f;
            "BoolValue" BoolValue g;
        }
    }
}
