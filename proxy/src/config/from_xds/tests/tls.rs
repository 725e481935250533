use serde_json::{Value, json};

use super::{Doc, ext, refuses};
use crate::config::{
    CertificateSource, DataSource, DownstreamTls, DownstreamTransport, SanKind, SdsConfig, TlsVersion, UpstreamTls,
    UpstreamTransport, ValidationSource,
};

const DOWNSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const UPSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const SPIFFE: &str = "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

fn certificate() -> Value {
    json!({ "certificate_chain": { "filename": "/c" }, "private_key": { "inline_string": "secret" } })
}

/// The listener's TLS context: with a certificate, and these fields of the common part.
fn server(common: Value) -> Doc {
    let mut all = json!({ "tls_certificates": [certificate()] });
    for (key, value) in common.as_object().unwrap() {
        all[key] = value.clone();
    }
    Doc::new().set("$chain.transport_socket", ext("tls", DOWNSTREAM, json!({ "common_tls_context": all })))
}

fn downstream(doc: &Doc) -> DownstreamTls {
    match doc.listener().filter_chains.remove(0).transport {
        DownstreamTransport::Tls(t) => *t,
        other => panic!("{other:?}"),
    }
}

fn client(fields: Value) -> Doc {
    Doc::new().set("$cluster.transport_socket", ext("tls", UPSTREAM, fields))
}

fn upstream(fields: Value) -> UpstreamTls {
    match client(fields).cluster().transport {
        UpstreamTransport::Tls(t) => *t,
        other => panic!("{other:?}"),
    }
}

const COMMON: &str = "$chain.transport_socket.typed_config.common_tls_context";

#[test]
fn server_contexts() {
    let t = downstream(
        &server(json!({
            "alpn_protocols": ["h2,http/1.1"],
            "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "ecdh_curves": ["X25519MLKEM768"] },
            "key_log": { "path": "/k", "local_address_range": [{ "address_prefix": "10.0.0.0", "prefix_len": 8 }] },
        }))
        .set("$chain.transport_socket.typed_config.require_client_certificate", json!(true))
        .set("$chain.transport_socket.typed_config.disable_stateless_session_resumption", json!(true)),
    );
    assert!(t.require_client_certificate && t.disable_stateless_resumption && !t.disable_stateful_resumption);
    assert_eq!(t.common.alpn, ["h2", "http/1.1"]);
    assert_eq!((t.common.params.min, t.common.params.max), (Some(TlsVersion::V1_3), None));
    assert_eq!(t.common.key_log.unwrap().local_ranges.len(), 1);
    let CertificateSource::Inline(c) = &t.common.certificates[0] else { panic!() };
    assert_eq!(c.chain, DataSource::File { path: "/c".into(), watched_directory: None });
    assert_eq!(format!("{:?}", c.private_key), "Inline(6 bytes)");
}

#[test]
fn client_contexts() {
    let t = upstream(json!({ "sni": "s", "auto_host_sni": true }));
    assert_eq!((t.sni.as_str(), t.auto_host_sni, t.max_session_keys), ("s", true, 1));
    assert!(t.common.certificates.is_empty() && t.common.validation.is_none());
}

#[test]
fn validation_in_full() {
    let hash = "ab".repeat(32);
    let colons = ["ab"; 32].join(":");
    let t = downstream(&server(json!({ "validation_context": {
        "trusted_ca": { "filename": "/ca" },
        "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "prefix": "spiffe://a/" } }],
        "match_subject_alt_names": [{ "exact": "b" }],
        "verify_certificate_hash": [hash, colons],
        "verify_certificate_spki": ["NvqYIYSbgK2vCJpQhObf77vv+bQWtc5ek5RIOwPiC9A="],
        "trust_chain_verification": "ACCEPT_UNTRUSTED",
        "max_verify_depth": 3,
    } })));
    let Some(ValidationSource::Inline(v)) = t.common.validation else { panic!() };
    let kinds: Vec<_> = v.subject_alt_names.iter().map(|n| n.kind).collect();
    assert_eq!(kinds, [SanKind::Uri, SanKind::Any]);
    assert_eq!(v.certificate_hashes, [[0xab; 32]; 2]);
    assert_eq!((v.spki_hashes[0][0], v.max_verify_depth, v.accept_untrusted), (0x36, Some(3), true));
}

#[test]
fn secrets_by_name_and_file() {
    let sds = json!({
        "tls_certificates": null,
        "tls_certificate_sds_secret_configs": [{ "name": "cert" }],
        "combined_validation_context": {
            "default_validation_context": { "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": "a" } }] },
            "validation_context_sds_secret_config": {
                "name": "trust",
                "sds_config": { "path_config_source": { "path": "/sds.yaml", "watched_directory": { "path": "/sds" } } },
            },
        },
    });
    let doc =
        server(sds).set("static_resources.secrets", json!([{ "name": "cert", "tls_certificate": certificate() }]));
    let t = downstream(&doc);
    assert!(matches!(&t.common.certificates[..], [CertificateSource::Sds(s)] if s.config == SdsConfig::Static));
    let Some(ValidationSource::Combined(default, source)) = t.common.validation else { panic!() };
    assert_eq!(default.subject_alt_names.len(), 1);
    let file = SdsConfig::File { path: "/sds.yaml".into(), watched_directory: Some("/sds".into()) };
    assert_eq!((source.name.as_str(), source.config), ("trust", file));

    let named = |common: Value| server(common);
    named(json!({ "tls_certificates": null, "tls_certificate_sds_secret_configs": [{ "name": "x" }] }))
        .refused(&format!("{COMMON}.tls_certificate_sds_secret_configs[0].name"), "Unknown static secret: x");
    // A secret of another type is another secret.
    named(json!({ "validation_context_sds_secret_config": { "name": "cert" } }))
        .set("static_resources.secrets", json!([{ "name": "cert", "tls_certificate": certificate() }]))
        .refused(
            &format!("{COMMON}.validation_context_sds_secret_config.name"),
            "Unknown static certificate validation context: cert",
        );
    named(json!({ "validation_context_sds_secret_config": { "name": "x", "sds_config": { "self": {} } } })).refused(
        &format!("{COMMON}.validation_context_sds_secret_config.sds_config.self"),
        "Missing config source specifier in envoy::config::core::v3::ConfigSource",
    );
}

#[test]
fn spiffe_trust() {
    let with = |domains: Value| {
        let config = ext("envoy.tls.cert_validator.spiffe", SPIFFE, json!({ "trust_domains": domains }));
        server(json!({ "validation_context": {
            "custom_validator_config": config,
            "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": "a" } }],
        } }))
    };
    let bundle = json!({ "filename": "/b" });
    let t = downstream(&with(json!([{ "name": "a", "trust_bundle": bundle }])));
    assert!(matches!(t.common.validation, Some(ValidationSource::Inline(v)) if v.spiffe_trust_domains.len() == 1));
    let at = format!("{COMMON}.validation_context.custom_validator_config.typed_config.trust_domains");
    with(json!([{ "name": "a", "trust_bundle": bundle }, { "name": "a", "trust_bundle": bundle }]))
        .refused(&format!("{at}[1].name"), "Multiple trust bundles are given for one trust domain for a");
    with(json!([{ "name": "a" }])).refused(&format!("{at}[0].trust_bundle"), "value is required");
}

#[test]
fn bad_server_contexts() {
    let bad = |common: Value, at: &str, why: &str| server(common).refused(&format!("{COMMON}{at}"), why);
    bad(json!({ "tls_certificates": null }), "", "No TLS certificates found for server context");
    bad(
        json!({ "tls_certificates": [{ "certificate_chain": { "filename": "/c" } }] }),
        ".tls_certificates[0].private_key",
        "value is required",
    );
    bad(
        json!({ "tls_certificate_sds_secret_configs": [{ "name": "s", "sds_config": { "path": "/x" } }] }),
        "",
        "SDS and non-SDS TLS certificates may not be mixed in server contexts",
    );
    bad(
        json!({ "tls_params": { "tls_minimum_protocol_version": "TLSv1_1" } }),
        ".tls_params.tls_minimum_protocol_version",
        "TLS below 1.2 is not supported: it is broken, and formally deprecated (RFC 8996)",
    );
    bad(
        json!({ "validation_context": { "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": "a" } }] } }),
        ".validation_context",
        "SAN-based verification of peer certificates without trusted CA is insecure and not allowed",
    );
    bad(
        json!({ "validation_context": { "verify_certificate_hash": ["zz"] } }),
        ".validation_context.verify_certificate_hash[0]",
        "Invalid hex-encoded SHA-256 zz",
    );
    bad(
        json!({ "validation_context": { "verify_certificate_spki": ["zz"] } }),
        ".validation_context.verify_certificate_spki[0]",
        "Invalid base64-encoded SHA-256 zz",
    );
    bad(
        json!({ "validation_context": { "system_root_certs": {} } }),
        ".validation_context.system_root_certs",
        "the system's trust store is not supported",
    );
    bad(json!({ "alpn_protocols": ["h2", ""] }), ".alpn_protocols", "'' is not a protocol name of 1 to 255 bytes");
    bad(json!({ "key_log": {} }), ".key_log.path", "value length must be at least 1 characters");
}

#[test]
fn bad_client_contexts() {
    let at = "$cluster.transport_socket.typed_config";
    client(json!({ "common_tls_context": { "tls_certificates": [certificate(), certificate()] } })).refused(
        &format!("{at}.common_tls_context"),
        "Multiple TLS certificates are not supported for client contexts",
    );
    client(json!({ "auto_sni_san_validation": true })).refused(
        &format!("{at}.auto_sni_san_validation"),
        "'auto_sni_san_validation' was configured without a validation context",
    );
    client(json!({ "allow_renegotiation": true })).refused(
        &format!("{at}.allow_renegotiation"),
        "renegotiation is not supported: it is gone from TLS 1.3, and unsafe before",
    );
    client(json!({ "common_tls_context": { "tls_params": { "tls_minimum_protocol_version": "TLSv1_3" } } })).refused(
        &format!("{at}.common_tls_context.tls_params.tls_minimum_protocol_version"),
        "the lowest version is above the highest: tls_maximum_protocol_version is TLSv1_2 for clients unless set",
    );
}

#[test]
fn duplicate_secrets() {
    let cert = json!({ "name": "s", "tls_certificate": certificate() });
    let trust = json!({ "name": "s", "validation_context": {} });
    assert_eq!(Doc::new().set("static_resources.secrets", json!([cert, trust])).bootstrap().secrets.len(), 2);
    refuses(&[
        (
            "static_resources.secrets",
            json!([cert, cert]),
            "static_resources.secrets[1].name",
            "Duplicate static TlsCertificate secret name s",
        ),
        (
            "static_resources.secrets",
            json!([{ "name": "s" }]),
            "static_resources.secrets[0]",
            "a secret is required: tls_certificate, validation_context, session_ticket_keys or generic_secret",
        ),
    ]);
}
