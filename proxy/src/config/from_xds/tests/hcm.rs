use std::time::Duration;

use serde_json::{Value, json};

use super::{Doc, ext, refuses};
use crate::config::{
    CodecType, EscapedSlashes, ForwardClientCert, HeaderKeyFormat, OriginalIpDetection, StripPort, UnderscoresAction,
};

const XFF: &str = "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig";

/// Sets several fields of the connection manager.
fn manager(fields: Value) -> Doc {
    fields.as_object().unwrap().iter().fold(Doc::new(), |doc, (k, v)| doc.set(&format!("$hcm.{k}"), v.clone()))
}

#[test]
fn defaults_are_envoys() {
    let m = Doc::new().hcm();
    assert_eq!((m.codec, m.max_request_headers_bytes), (CodecType::Auto, 60 << 10));
    assert_eq!(m.stream_idle_timeout, Some(Duration::from_secs(300)));
    assert_eq!((m.request_timeout, m.request_headers_timeout), (None, None));
    assert_eq!((m.drain_timeout, m.delayed_close_timeout), (Duration::from_secs(5), Some(Duration::from_secs(1))));
    assert_eq!(m.common.idle_timeout, Some(Duration::from_secs(3600)));
    assert!(m.generate_request_id && m.pack_trace_reason && m.add_proxy_protocol_connection_state);
    assert!(!m.normalize_path && !m.use_remote_address && !m.internal_addresses.unix_sockets);
    assert_eq!((m.server_name.as_str(), m.strip_port), ("envoy", StripPort::No));
    assert_eq!((m.http2.max_concurrent_streams, m.http1.allow_absolute_url), (1024, true));
}

#[test]
fn zero_turns_timeouts_off() {
    let m = manager(json!({
        "stream_idle_timeout": "0s",
        "request_timeout": "0s",
        "delayed_close_timeout": "0s",
        "drain_timeout": "0s",
        "common_http_protocol_options": { "idle_timeout": "0s", "max_requests_per_connection": 0 },
    }))
    .hcm();
    assert_eq!((m.stream_idle_timeout, m.request_timeout, m.delayed_close_timeout), (None, None, None));
    assert_eq!((m.drain_timeout, m.common.idle_timeout), (Duration::ZERO, None));
    assert_eq!(m.common.max_requests_per_connection, None);
}

#[test]
fn every_setting_arrives() {
    let m = manager(json!({
        "codec_type": "HTTP2",
        "max_request_headers_kb": 96,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
        "internal_address_config": { "unix_sockets": true, "cidr_ranges": [{ "address_prefix": "10.0.0.0", "prefix_len": 8 }] },
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": { "subject": true, "dns": true },
        "strip_any_host_port": true,
        "proxy_status_config": { "use_node_id": true, "remove_details": true },
        "forward_proto_config": { "https_destination_ports": [443] },
        "request_id_extension": { "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig", "pack_trace_reason": false } },
        "http_protocol_options": { "header_key_format": { "proper_case_words": {} }, "accept_http_10": true },
        "http2_protocol_options": {
            "connection_keepalive": { "interval": "30s", "timeout": "5s" }, "stream_error_on_invalid_http_messaging": true },
        "common_http_protocol_options": { "headers_with_underscores_action": "REJECT_REQUEST", "max_headers_count": 7 },
        "access_log_options": { "access_log_flush_interval": "1s", "flush_access_log_on_new_request": true },
        "original_ip_detection_extensions": [ext("x", XFF, json!({ "xff_num_trusted_hops": 2 }))],
    }))
    .hcm();
    assert_eq!((m.codec, m.max_request_headers_bytes), (CodecType::Http2, 96 << 10));
    assert_eq!((m.escaped_slashes, m.strip_port), (EscapedSlashes::UnescapeAndRedirect, StripPort::Any));
    assert!(m.internal_addresses.unix_sockets && m.internal_addresses.ranges.len() == 1);
    assert_eq!(m.forward_client_cert, ForwardClientCert::SanitizeSet);
    assert!(m.client_cert_details.subject && m.client_cert_details.dns && !m.client_cert_details.uri);
    assert_eq!(m.proxy_status.unwrap().proxy_name, "node-1");
    assert_eq!((m.forward_proto_https_ports, m.pack_trace_reason), (vec![443], false));
    assert_eq!((m.http1.header_key_format, m.http1.accept_http_10), (HeaderKeyFormat::Proper, true));
    let keepalive = m.http2.keepalive.unwrap();
    assert_eq!((keepalive.jitter, keepalive.timeout), (0.15, Duration::from_secs(5)));
    assert_eq!(m.http2.override_stream_error, Some(true));
    assert_eq!((m.common.underscores, m.common.max_headers_count), (UnderscoresAction::Reject, 7));
    assert_eq!((m.access_log_flush_interval, m.access_log_on_new_request), (Some(Duration::from_secs(1)), true));
    assert!(matches!(
        m.original_ip_detection[..],
        [OriginalIpDetection::Xff { num_trusted_hops: 2, skip_xff_append: true, .. }]
    ));
}

#[test]
fn client_cert_details_need_a_mode_that_sets_them() {
    let m = manager(json!({
        "forward_client_cert_details": "FORWARD_ONLY",
        "set_current_client_cert_details": { "uri": true },
    }))
    .hcm();
    assert!(!m.client_cert_details.uri);
}

#[test]
fn local_replies() {
    let filter = json!({ "status_code_filter": { "comparison": { "op": "GE", "value": { "default_value": 500 } } } });
    let m = manager(json!({ "local_reply_config": {
        "mappers": [{
            "filter": filter,
            "status_code": 418,
            "body": { "inline_string": "teapot" },
            "headers_to_add": [{ "header": { "key": "x", "value": "y" } }],
        }],
        "body_format": { "text_format_source": { "inline_string": "%LOCAL_REPLY_BODY%" }, "content_type": "text/x" },
    } }))
    .hcm();
    assert_eq!(m.local_reply.mappers[0].status, Some(418));
    assert_eq!(m.local_reply.mappers[0].headers_to_add.0.len(), 1);
    assert_eq!(m.local_reply.body_format.unwrap().content_type.as_deref(), Some("text/x"));
}

#[test]
fn bad_connection_managers() {
    refuses(&[
        ("$hcm.stat_prefix", json!(""), "$hcm.stat_prefix", "value length must be at least 1 characters"),
        ("$hcm.route_config", Value::Null, "$hcm", "a route specifier is required: route_config"),
        ("$hcm.codec_type", json!("HTTP3"), "$hcm.codec_type", "HTTP/3 codec configured on non-QUIC listener."),
        (
            "$hcm.max_request_headers_kb",
            json!(8193),
            "$hcm.max_request_headers_kb",
            "value must be inside range [1, 8192]",
        ),
        ("$hcm.server_name", json!("a\nb"), "$hcm.server_name", "a header value must not hold NUL, CR or LF"),
        (
            "$hcm.scheme_header_transformation",
            json!({ "scheme_to_overwrite": "ftp" }),
            "$hcm.scheme_header_transformation.scheme_to_overwrite",
            "value must be in list [http, https]",
        ),
        (
            "$hcm.upgrade_configs",
            json!([{ "upgrade_type": "websocket" }, { "upgrade_type": "WebSocket" }]),
            "$hcm.upgrade_configs[1].upgrade_type",
            "Error: multiple upgrade configs with the same name: 'WebSocket'",
        ),
        (
            "$hcm.http2_protocol_options",
            json!({ "initial_stream_window_size": 1 }),
            "$hcm.http2_protocol_options.initial_stream_window_size",
            "value must be inside range [65535, 2147483647]",
        ),
        (
            "$hcm.http2_protocol_options",
            json!({ "connection_keepalive": { "interval": "1s" } }),
            "$hcm.http2_protocol_options.connection_keepalive.timeout",
            "value is required",
        ),
        (
            "$hcm.access_log_flush_interval",
            json!("0s"),
            "$hcm.access_log_flush_interval",
            "value must be greater than or equal to 1ms",
        ),
        (
            "$hcm.local_reply_config",
            json!({ "mappers": [{}] }),
            "$hcm.local_reply_config.mappers[0].filter",
            "value is required",
        ),
        (
            "$hcm.original_ip_detection_extensions",
            json!([ext("x", "envoy.config.core.v3.Pipe", json!({}))]),
            "$hcm.original_ip_detection_extensions[0].typed_config",
            "Didn't find a registered implementation for 'x' with type URL: 'envoy.config.core.v3.Pipe'",
        ),
        (
            "$hcm.early_header_mutation_extensions",
            json!([ext(
                "e",
                "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                json!({ "mutations": [{ "append": { "header": { "key": "host", "value": "x" } } }] })
            )]),
            "$hcm.early_header_mutation_extensions[0].typed_config.mutations[0].append.header.key",
            ":-prefixed or host headers may not be modified",
        ),
    ]);
}

#[test]
fn fields_that_exclude_each_other() {
    manager(json!({ "strip_matching_host_port": true, "strip_any_host_port": true })).refused(
        "$hcm.strip_any_host_port",
        "Error: Only one of `strip_matching_host_port` or `strip_any_host_port` can be set.",
    );
    let xff = json!([ext("x", XFF, json!({}))]);
    manager(json!({ "use_remote_address": true, "original_ip_detection_extensions": xff })).refused(
        "$hcm.original_ip_detection_extensions",
        "Original IP detection extensions and use_remote_address may not be mixed",
    );
    manager(json!({ "access_log_flush_interval": "1s", "access_log_options": {} })).refused(
        "$hcm.access_log_options",
        "Only one of access_log_flush_interval or access_log_options can be specified.",
    );
    Doc::new()
        .set("$hcm.route_config", Value::Null)
        .set("$hcm.rds", json!({ "route_config_name": "r", "config_source": {} }))
        .refused("$hcm.rds.config_source", "Missing config source specifier in envoy::config::core::v3::ConfigSource");
}
