use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::access_log::fixture::{address, at, conn, headers, request, response, stream};
use crate::stream_info::{PeerCertificate, ResponseFlags, TlsInfo};

fn show(format: &str, ctx: &LogContext<'_>) -> String {
    let mut out = Vec::new();
    Template::text(format).unwrap().render(ctx, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn show_json(format: serde_json::Value, omit_empty: bool, ctx: &LogContext<'_>) -> String {
    let mut out = Vec::new();
    Template::json(&format, omit_empty).unwrap().render(ctx, &mut out);
    String::from_utf8(out).unwrap()
}

/// Each line as Envoy 1.40 logged it for the same request.
const SEEN: &[(&str, &str)] = &[
    ("START_TIME", "2026-11-20T22:04:21.065Z"),
    ("START_TIME(%s.%3f)", "1795212261.065"),
    ("BYTES_RECEIVED", "0"),
    ("BYTES_SENT", "5"),
    ("PACKETS_RETRANSMITTED", "0"),
    ("PROTOCOL", "HTTP/1.1"),
    ("UPSTREAM_PROTOCOL", "HTTP/1.1"),
    ("RESPONSE_CODE", "200"),
    ("RESPONSE_CODE_DETAILS", "via_upstream"),
    ("CONNECTION_TERMINATION_DETAILS", "-"),
    ("DURATION", "3"),
    ("REQUEST_DURATION", "0"),
    ("REQUEST_TX_DURATION", "1"),
    ("RESPONSE_DURATION", "2"),
    ("RESPONSE_TX_DURATION", "1"),
    ("DOWNSTREAM_HANDSHAKE_DURATION", "-"),
    ("COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)", "3000"),
    ("COMMON_DURATION(DS_TX_END:DS_RX_BEG)", "-3"),
    ("COMMON_DURATION(DS_RX_BEG:NOPE:us)", "-"),
    ("RESPONSE_FLAGS", "-"),
    ("ROUTE_NAME", "-"),
    ("UPSTREAM_HOST", "127.0.0.1:36123"),
    ("UPSTREAM_HOST_NAME", "127.0.0.1:36123"),
    ("UPSTREAM_HOST_NAME_WITHOUT_PORT", "127.0.0.1"),
    ("UPSTREAM_CLUSTER", "upstream"),
    ("UPSTREAM_LOCAL_ADDRESS", "127.0.0.1:43428"),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", "127.0.0.1"),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(16)", "127.0.0.0/16"),
    ("UPSTREAM_REMOTE_PORT", "36123"),
    ("UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID", ""),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", "1"),
    ("UPSTREAM_CONNECTION_ID", "4"),
    ("UPSTREAM_TLS_VERSION", "-"),
    ("UPSTREAM_METADATA(ns:k)", "-"),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(20)", "127.0.0.0/20"),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(x)", "127.0.0.1"),
    ("DOWNSTREAM_REMOTE_PORT", "48224"),
    ("DOWNSTREAM_LOCAL_ADDRESS", "127.0.0.1:41083"),
    ("DOWNSTREAM_PEER_CERT_V_START", "-"),
    ("REQUESTED_SERVER_NAME", "-"),
    ("REQUESTED_SERVER_NAME(SNI_FIRST:HOST)", "example.com:80"),
    ("REQUESTED_SERVER_NAME(HOST_FIRST)", "example.com:80"),
    ("CONNECTION_ID", "3"),
    ("STREAM_ID", "29a80736-a565-4a82-b90a-c2a8a5e74c75"),
    ("FILTER_CHAIN_NAME", "-"),
    ("LISTENER_NAME", "main"),
    ("ACCESS_LOG_TYPE", "DownstreamEnd"),
    ("ENVIRONMENT(NOPE_X)", "-"),
    ("DYNAMIC_METADATA(ns:a:b)", "-"),
    ("METADATA(ROUTE:ns:k)", "-"),
    ("GRPC_STATUS", "-"),
    ("LOCAL_REPLY_BODY", ""),
    ("CUSTOM_FLAGS", ""),
    ("QUERY_PARAM(x)", "hello"),
    ("QUERY_PARAM(x):2", "he"),
    ("QUERY_PARAM(y)", "A b+c"),
    ("QUERY_PARAM(z)", "-"),
    ("QUERY_PARAMS", "x=hello&y=%41%20b+c"),
    ("QUERY_PARAMS(DECODED)", "x=hello&y=A%20b+c"),
    ("PATH", "/p%20a/th?x=hello&y=%41%20b+c"),
    ("PATH(NQ)", "/p%20a/th"),
    ("PATH(WQ:PATH):4", "/p%2"),
    ("PATH(NQ:ORIG)", "-"),
    ("REQ(:METHOD)", "GET"),
    ("REQ(X-ENVOY-ORIGINAL-PATH?:PATH)", "/p%20a/th?x=hello&y=%41%20b+c"),
    ("REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)", "/p%20a/th"),
    ("REQ(:PATH):3", "/p%"),
    ("REQ(:SCHEME)", "http"),
    ("REQ(NOPE)", "-"),
    ("RESP(CONTENT-LENGTH)", "5"),
    ("RESP(:STATUS)", "200"),
    ("TRAILER(X)", "-"),
    (
        "COALESCE({\"operators\":[\"REQUESTED_SERVER_NAME\",{\"command\":\"REQ\",\"param\":\":authority\",\"max_length\":5}]})",
        "examp",
    ),
];

#[test]
fn operators_as_seen_on_envoy() {
    let (info, request, response) = (stream(), request(), response());
    let ctx = LogContext {
        request: Some(&request),
        response: Some(&response),
        log_type: LogType::DownstreamEnd,
        ..LogContext::new(&info)
    };
    for (operator, text) in SEEN {
        assert_eq!(show(&format!("%{operator}%"), &ctx), *text, "{operator}");
    }
}

#[test]
fn the_default_line() {
    let (info, request, response) = (stream(), request(), response());
    let ctx = LogContext { request: Some(&request), response: Some(&response), ..LogContext::new(&info) };
    assert_eq!(
        show(DEFAULT_FORMAT, &ctx),
        "[2026-11-20T22:04:21.065Z] \"GET /p%20a/th?x=hello&y=%41%20b+c HTTP/1.1\" 200 - 0 5 3 1 \"-\" \"ua\" \
         \"29a80736-a565-4a82-b90a-c2a8a5e74c75\" \"example.com:80\" \"127.0.0.1:36123\"\n"
    );
}

#[test]
fn json_as_seen_on_envoy() {
    let (info, request) = (stream(), request());
    let ctx = LogContext { request: Some(&request), ..LogContext::new(&info) };
    let format = json!({
        "utf": "%REQ(X-U)%", "c": "%REQ(X-C)%", "bin": "%REQ(X-BIN)%", "esc": "é<>&'/ %REQ(X-U)%", "lit": 1, "fl": 1.5,
        "t": true, "n": null, "arr": ["%REQ(NOPE)%"], "e": {}, "o": {"x": null}, "kéy<\"": "", "z": "a%%b",
        "lst": [1, "%PROTOCOL%", {"b": 1, "a": 2}], "code": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%",
        "two": "%PROTOCOL% %REQ(NOPE)%", "rd": "%RESPONSE_DURATION%", "sni": "%REQUESTED_SERVER_NAME%"
    });
    assert_eq!(
        show_json(format.clone(), false, &ctx),
        "{\"arr\":[null],\"bin\":\"a\\u0080\\u00ffb\\u0022\\u005c<>&'/\\u00c3\\u00a9\",\"c\":\"a\\tb\",\"code\":200,\"e\":{},\
         \"esc\":\"é<>&'/ é\\\"\\\\<€\",\"fl\":\"1.5\",\"flags\":\"-\",\"kéy<\\\"\":\"\",\"lit\":1,\
         \"lst\":[1,\"HTTP/1.1\",{\"a\":2,\"b\":1}],\"n\":null,\"o\":{\"x\":null},\"rd\":2,\"sni\":null,\"t\":true,\
         \"two\":\"HTTP/1.1 -\",\"utf\":\"é\\\"\\\\<€\",\"z\":\"a%b\"}\n"
    );
    let omitted = show_json(format, true, &ctx);
    let expected = "{\"arr\":[],\"bin\":\"a\\u0080\\u00ffb\\u0022\\u005c<>&'/\\u00c3\\u00a9\",\"c\":\"a\\tb\",\"code\":200,\
                    \"esc\":\"é<>&'/ é\\\"\\\\<€\",\"fl\":\"1.5\",\"flags\":\"-\",\"kéy<\\\"\":\"\",\"lit\":1,\
                    \"lst\":[1,\"HTTP/1.1\",{\"a\":2,\"b\":1}],\"rd\":2,\"t\":true,\"two\":\"HTTP/1.1 \",\
                    \"utf\":\"é\\\"\\\\<€\",\"z\":\"a%b\"}\n";
    assert_eq!(omitted, expected);
    assert_eq!(show_json(json!({"a": null}), true, &ctx), "{}\n");
}

#[test]
fn omitted_text_and_literals() {
    let info = stream();
    let mut out = Vec::new();
    Template::value("%REQ(NOPE)%|%ROUTE_NAME%|%PROTOCOL%%%").unwrap().render(&LogContext::new(&info), &mut out);
    assert_eq!(out, b"||HTTP/1.1%");
    assert_eq!(Template::value("a%%b").unwrap().as_literal(), Some(&b"a%b"[..]));
    assert_eq!(Template::value("").unwrap().as_literal(), Some(&b""[..]));
    assert_eq!(Template::value("%PROTOCOL%").unwrap().as_literal(), None);
    assert!(Template::text("%RESP(A)%").unwrap().reads_response());
    assert!(Template::json(&json!({"a": ["x %TRAILER(B)%"]}), false).unwrap().reads_response());
    assert!(!Template::text("%REQ(A)% %RESPONSE_CODE%").unwrap().reads_response());
}

#[test]
fn errors_are_envoys() {
    for (format, error) in [
        ("REQ", "REQ requires parameters"),
        ("REQ()", "REQ requires parameters"),
        ("REQ(A?B?C)", "More than 1 alternative header specified in token: A?B?C"),
        ("REQ(a b)", "Invalid header configuration. Format string contains invalid characters."),
        ("NOPE", "Not supported field in StreamInfo: NOPE"),
        ("CEL(request.path)", "Not supported field in StreamInfo: CEL"),
        ("PROTOCOL(x)", "PROTOCOL does not take any parameters or length"),
        ("TRACE_ID:3", "TRACE_ID does not take any parameters or length"),
        ("START_TIME:3", "START_TIME does not allow length to be specified."),
        ("START_TIME(%1n)", "Invalid header configuration. Format string contains newline."),
        ("FILTER_STATE", "Invalid filter state configuration, key cannot be empty."),
        ("FILTER_STATE(a:NOPE)", "Invalid filter state serialize type, only support PLAIN/TYPED/FIELD."),
        ("FILTER_STATE(a:FIELD)", "Invalid filter state serialize type, FIELD should be used with the field name."),
        ("GRPC_STATUS(X)", "GrpcStatusFormatter only supports CAMEL_STRING, SNAKE_STRING or NUMBER. Got: X"),
        ("COMMON_DURATION(a)", "Invalid common duration configuration: a."),
        ("COMMON_DURATION(a:b:c)", "Invalid common duration precision: c."),
        ("PATH(X)", "Invalid PATH option: 'X', only 'WQ'/'NQ' are allowed"),
        ("QUERY_PARAMS(X)", "Invalid QUERY_PARAMS option: 'X', only 'ORIG'/'DECODED' are allowed"),
        ("METADATA", " is not supported type of metadata"),
        ("COALESCE({\"operators\":[]})", "COALESCE: 'operators' array must not be empty"),
        (
            "COALESCE({\"operators\":[\"REQ\"]})",
            "COALESCE: failed to parse operator at index 0: REQ requires parameters",
        ),
    ] {
        assert_eq!(Template::text(&format!("%{format}%")).unwrap_err(), error, "{format}");
    }
    assert!(Template::json(&json!({"a": {"b": ["%NOPE%"]}}), false).is_err());
}

#[test]
fn flags_details_and_failures() {
    let mut info = stream();
    info.flags.set(ResponseFlags::UPSTREAM_CONNECTION_FAILURE | ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
    info.details = Some("a b\tc".into());
    info.upstream.transport_failure = Some("TLS error: x y".into());
    *info.conn.transport_failure.lock() = Some("no cert".into());
    let ctx = LogContext::new(&info);
    assert_eq!(show("%RESPONSE_FLAGS%", &ctx), "UF,URX");
    assert_eq!(show("%RESPONSE_FLAGS_LONG%", &ctx), "UpstreamConnectionFailure,UpstreamRetryLimitExceeded");
    assert_eq!(show("%RESPONSE_CODE_DETAILS%", &ctx), "a_b_c");
    assert_eq!(show("%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%", &ctx), "a b\tc");
    assert_eq!(show("%UPSTREAM_TRANSPORT_FAILURE_REASON%", &ctx), "TLS_error:_x_y");
    assert_eq!(show("%DOWNSTREAM_TRANSPORT_FAILURE_REASON%", &ctx), "no_cert");
}

#[test]
fn metadata_and_filter_state() {
    let mut info = stream();
    let metadata = json!({"key": "foo", "obj": {"inner": [1.0, 2.5, true], "nil": null}});
    info.metadata = Some(Box::new([("ns".to_owned(), metadata)].into()));
    info.filter_state =
        Some(Box::new([("s".to_owned(), json!("text")), ("o".to_owned(), json!({"f": 3, "g": "x"}))].into()));
    let ctx = LogContext::new(&info);
    for (operator, text) in [
        ("DYNAMIC_METADATA(ns:key)", "foo"),
        ("DYNAMIC_METADATA(ns:key):2", "fo"),
        ("DYNAMIC_METADATA([\"ns\", \"key\"])", "foo"),
        ("DYNAMIC_METADATA(ns:obj:inner)", "[1,2.5,true]"),
        ("DYNAMIC_METADATA(ns:obj:inner):2", "[1,2.5,true]"),
        ("DYNAMIC_METADATA(ns:obj:nil)", "-"),
        ("METADATA(DYNAMIC:ns:obj)", "{\"inner\":[1,2.5,true],\"nil\":null}"),
        ("DYNAMIC_METADATA(other)", "-"),
        ("FILTER_STATE(s)", "\"text\""),
        ("FILTER_STATE(s:PLAIN)", "text"),
        ("FILTER_STATE(s:PLAIN):2", "te"),
        ("PER_REQUEST_STATE(s)", "text"),
        ("FILTER_STATE(o)", "{\"f\":3,\"g\":\"x\"}"),
        ("FILTER_STATE(o:FIELD:g)", "x"),
        ("FILTER_STATE(none)", "-"),
    ] {
        assert_eq!(show(&format!("%{operator}%"), &ctx), text, "{operator}");
    }
    let json = show_json(json!({"a": "%DYNAMIC_METADATA(ns:obj)%", "b": "%FILTER_STATE(s)%"}), false, &ctx);
    assert_eq!(json, "{\"a\":{\"inner\":[1,2.5,true],\"nil\":null},\"b\":\"text\"}\n");
}

#[test]
fn grpc_statuses() {
    let info = stream();
    let plain = request();
    let mut request = request();
    request.headers.extend(headers(&[("content-type", b"application/grpc+proto")]));
    let trailers = headers(&[("grpc-status", b"3")]);
    let ctx = |request, trailers| LogContext { request: Some(request), trailers, ..LogContext::new(&info) };
    assert_eq!(show("%GRPC_STATUS%", &ctx(&plain, Some(&trailers))), "-", "not a gRPC request");
    let all = "%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER%";
    assert_eq!(show(all, &ctx(&request, Some(&trailers))), "InvalidArgument INVALID_ARGUMENT 3 3");
    assert_eq!(show(all, &ctx(&request, None)), "Unknown UNKNOWN 2 2", "from the HTTP status");
    let odd = headers(&[("grpc-status", b"99")]);
    assert_eq!(show(all, &ctx(&request, Some(&odd))), "99 99 99 99");
}

#[test]
fn tls_and_certificates() {
    let certificate = PeerCertificate {
        subject: "CN=a,O=b".into(),
        uri_sans: vec!["spiffe://t/a".into(), "spiffe://t/b".into()],
        sha256: "ab".into(),
        not_after: Some(at(0, 0)),
        chain_der: vec![vec![0xfb; 60]],
        ..PeerCertificate::default()
    };
    let mut conn = conn();
    conn.sni = "a_b.example".into();
    conn.tls = Some(Arc::new(TlsInfo {
        version: "TLSv1.3",
        cipher: "TLS_AES_256_GCM_SHA384".into(),
        peer: Some(Arc::new(certificate)),
        ..TlsInfo::default()
    }));
    let info = StreamInfoOn(conn).build();
    let ctx = LogContext::new(&info);
    assert_eq!(show("%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER%", &ctx), "TLSv1.3 TLS_AES_256_GCM_SHA384");
    assert_eq!(show("%DOWNSTREAM_PEER_URI_SAN%|%DOWNSTREAM_PEER_DNS_SAN%", &ctx), "spiffe://t/a,spiffe://t/b|-");
    assert_eq!(show("%DOWNSTREAM_PEER_SUBJECT%|%DOWNSTREAM_LOCAL_SUBJECT%", &ctx), "CN=a,O=b|-");
    assert_eq!(show("%DOWNSTREAM_PEER_CERT_V_END(%F)%", &ctx), "1970-01-01");
    assert_eq!(show("%REQUESTED_SERVER_NAME%", &ctx), "a_b.example");
    let pem = show("%DOWNSTREAM_PEER_CERT%", &ctx);
    assert!(pem.starts_with("-----BEGIN%20CERTIFICATE-----%0A%2B"), "{pem}");
    assert!(pem.ends_with("%0A-----END%20CERTIFICATE-----%0A") && !pem.contains(['+', '/', '=']), "{pem}");
    // As `sha1sum` and `sha256sum` have it of 60 bytes 0xfb.
    assert_eq!(show("%DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1%", &ctx), "bf3d6df27740dede16249510c2779fef391c762e");
    assert_eq!(
        show("%DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256%", &ctx),
        "d0d573487ceb7bcf33032b74d8297f25ae90d1840f7f3d65c2cf69bfa65b3f5f"
    );
}

struct StreamInfoOn(crate::stream_info::ConnInfo);

impl StreamInfoOn {
    fn build(self) -> crate::stream_info::StreamInfo {
        crate::stream_info::StreamInfo::new(Arc::new(self.0), 1, None)
    }
}

#[test]
fn connections_without_streams() {
    let mut conn = conn();
    conn.remote = address("[2001:db8:1234:5678:9abc:def0:1234:5678]:5");
    conn.metadata = [("ns".to_owned(), json!({"k": 1}))].into();
    let info = StreamInfoOn(conn).build();
    let ctx = LogContext { log_type: LogType::TcpConnectionEnd, ..LogContext::new(&info) };
    assert_eq!(show("%DOWNSTREAM_REMOTE_ADDRESS%", &ctx), "[2001:db8:1234:5678:9abc:def0:1234:5678]:5");
    assert_eq!(show("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(64)%", &ctx), "2001:db8:1234:5678::/64");
    assert_eq!(show("%RESPONSE_CODE% %PROTOCOL% %REQ(:METHOD)%", &ctx), "0 - -");
    assert_eq!(show("%DYNAMIC_METADATA(ns:k)% %ACCESS_LOG_TYPE%", &ctx), "1 TcpConnectionEnd");
    assert_eq!(show("%STREAM_ID%", &ctx).len(), 36);
    assert_ne!(show("%UNIQUE_ID%", &ctx), show("%UNIQUE_ID%", &ctx));
}
