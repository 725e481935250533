//! Whatever the bytes, a conversion answers and does not panic.

use proptest::prelude::*;
use prost::Message as _;
use serde_json::json;
use weft_proto::pb::envoy::config::bootstrap::v3::Bootstrap;

use super::super::NodeOverrides;
use super::{Doc, document, ext};

/// A document that reaches far, encoded.
fn seed() -> Vec<u8> {
    let tls = json!({ "common_tls_context": {
        "tls_certificates": [{ "certificate_chain": { "filename": "/c" }, "private_key": { "inline_string": "k" } }],
        "validation_context": { "trusted_ca": { "filename": "/ca" }, "verify_certificate_hash": ["ab".repeat(32)] },
    } });
    let doc = Doc::new()
        .set(
            "$chain.transport_socket",
            ext("tls", "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", tls),
        )
        .set(
            "$chain.filter_chain_match",
            json!({ "server_names": ["a"], "prefix_ranges": [{ "address_prefix": "::1", "prefix_len": 3 }] }),
        )
        .set("$route.route.retry_policy", json!({ "retry_on": "5xx", "retry_back_off": { "base_interval": "1s" } }))
        .set("$route.route.regex_rewrite", json!({ "pattern": { "regex": "(a)" }, "substitution": "\\1" }))
        .set("$route.match.headers", json!([{ "name": "x", "range_match": { "start": 1, "end": 2 } }]))
        .set("$cluster.outlier_detection", json!({ "base_ejection_time": "1s" }))
        .set(
            "$cluster.typed_extension_protocol_options",
            json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions":
                super::any("envoy.extensions.upstreams.http.v3.HttpProtocolOptions", json!({ "auto_config": {} })) }),
        )
        .set("layered_runtime.layers", json!([{ "name": "s", "static_layer": { "a": { "b": 1 } } }]));
    document::bootstrap(&doc.0).encode_to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn changed_bytes_are_answered(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let mut bytes = seed();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(b) = Bootstrap::decode(bytes.as_slice()) {
            let _ = super::super::bootstrap(&b, &NodeOverrides::default());
        }
    }
}
