//! External authorization: what the service is asked over gRPC and HTTP, what its answers do, and what becomes of its failures.
#![allow(deprecated, reason = "services still answer with the deprecated spellings")]

use anyhow::Result;
use prost::Message as _;
use weft_proto::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction as Append;
use weft_proto::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, QueryParameter};
use weft_proto::pb::envoy::service::auth::v3::check_response::HttpResponse;
use weft_proto::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use weft_proto::pb::envoy::r#type::v3::HttpStatus;
use weft_proto::pb::google::protobuf::{BoolValue, Struct, Value, value};
use weft_proto::pb::google::rpc::Status;
use weft_tests::config::{Config, LOG_FORMAT, access_log, connection_manager, dedent, indent};
use weft_tests::parity::{ClientTls, Group, Step, get, h1, h2, request, run, stats};
use weft_tests::upstream::script::hex;

const TYPE: &str = "\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3";
const HTTP2: &str = "typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http2_protocol_options: {}}
";
const GRPC: &str = "transport_api_version: V3\ngrpc_service: {envoy_grpc: {cluster_name: authz}, timeout: 5s}\n";
const ROUTE: &str = "- {match: {prefix: \"/\"}, route: {cluster: a}}";

/// Fields of a connection manager whose filter has `fields` beside its service.
fn manager(fields: &str, routes: &str) -> String {
    manager_of(&filter(&format!("{GRPC}{}", dedent(fields))), routes)
}

fn filter(fields: &str) -> String {
    format!(
        "- name: envoy.filters.http.ext_authz\n  typed_config:\n    {TYPE}.ExtAuthz\n{}",
        indent(&dedent(fields), 4)
    )
}

fn manager_of(filters: &str, routes: &str) -> String {
    let said = "flags=%RESPONSE_FLAGS_LONG% host=%UPSTREAM_HOST%";
    let routes = if routes.is_empty() { ROUTE } else { routes };
    format!(
        "access_log:\n{}http_filters:\n{filters}route_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n{}",
        access_log(&format!("{LOG_FORMAT} {said}")),
        indent(&dedent(routes), 4),
    )
}

fn config() -> Config {
    Config::new().cluster("a", "").cluster("authz", HTTP2)
}

fn header(key: &str, value: &str) -> Option<HeaderValue> {
    Some(HeaderValue { key: key.to_owned(), value: value.to_owned(), raw_value: Vec::new() })
}

fn option(key: &str, value: &str, action: Append) -> HeaderValueOption {
    HeaderValueOption { header: header(key, value), append_action: action as i32, ..HeaderValueOption::default() }
}

/// The deprecated way to say how a field is added.
fn append(key: &str, value: &str, append: bool) -> HeaderValueOption {
    HeaderValueOption {
        header: header(key, value),
        append: Some(BoolValue { value: append }),
        ..HeaderValueOption::default()
    }
}

/// A request field that asks the service for this answer.
fn answer(code: i32, response: Option<HttpResponse>, metadata: Option<Struct>) -> String {
    let status = Some(Status { code, ..Status::default() });
    let message = CheckResponse { status, http_response: response, dynamic_metadata: metadata };
    format!("x-authz: grpc={}", hex(&message.encode_to_vec()))
}

fn ok(response: OkHttpResponse) -> String {
    answer(0, Some(HttpResponse::OkResponse(response)), None)
}

fn denied(status: i32, headers: Vec<HeaderValueOption>, body: &str) -> String {
    let status = Some(HttpStatus { code: status });
    answer(7, Some(HttpResponse::DeniedResponse(DeniedHttpResponse { status, headers, body: body.to_owned() })), None)
}

fn structure(key: &str, text: &str) -> Struct {
    let value = Value { kind: Some(value::Kind::StringValue(text.to_owned())) };
    Struct { fields: [(key.to_owned(), value)].into() }
}

const COUNTS: [&str; 8] =
    ["ok", "denied", "error", "disabled", "failure_mode_allowed", "invalid", "timeout", "ignored_dynamic_metadata"];

fn counters(of: &str) -> Step {
    let own = COUNTS.map(|name| format!("http.{of}.ext_authz.{name}"));
    let cluster =
        ["ok", "denied", "error", "failure_mode_allowed", "invalid"].map(|name| format!("cluster.a.ext_authz.{name}"));
    stats(&own.iter().chain(&cluster).map(String::as_str).collect::<Vec<_>>())
}

fn of_cluster(cluster: &str) -> Step {
    let names = [
        "upstream_rq_total",
        "upstream_rq_completed",
        "upstream_rq_2xx",
        "upstream_rq_200",
        "upstream_rq_4xx",
        "upstream_rq_403",
        "upstream_rq_5xx",
        "upstream_rq_503",
        "upstream_rq_504",
        "upstream_rq_timeout",
        "upstream_rq_rx_reset",
        "upstream_rq_retry",
        "upstream_rq_retry_success",
        "upstream_cx_total",
        "upstream_cx_none_healthy",
        "internal.upstream_rq_200",
        "external.upstream_rq_200",
        "internal.upstream_rq_completed",
        "upstream_rq_active",
    ];
    stats(&names.map(|name| format!("cluster.{cluster}.{name}")).each_ref().map(String::as_str))
}

#[test]
fn answers() -> Result<()> {
    use Append::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};
    let all = |key: &str| {
        vec![
            option(key, "appended", AppendIfExistsOrAdd),
            option(key, "again", AppendIfExistsOrAdd),
            option("x-absent", "absent", AddIfAbsent),
            option("x-absent", "second", AddIfAbsent),
            option("x-exists", "exists", OverwriteIfExists),
            option("x-exists-not", "exists", OverwriteIfExists),
            option("x-set", "set", OverwriteIfExistsOrAdd),
            option("x-set-new", "set", OverwriteIfExistsOrAdd),
        ]
    };
    let old = |key: &str| {
        vec![append(key, "a", true), append(key, "b", true), append("x-set", "s", false), append("x-new", "n", true)]
    };
    let fields = ["x-own: own", "x-exists: was", "x-set: was", "x-set: twice"];
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let param = |key: &str, value: &str| QueryParameter { key: key.to_owned(), value: value.to_owned() };
    let mut group = Group::new("authz-answers", config().http("plain", &manager("", "")).http("clear", &manager("clear_route_cache: true",
        "- {match: {prefix: \"/\", headers: [{name: x-tenant, string_match: {exact: b}}]}, direct_response: {status: 202}}\n- {match: {prefix: /moved}, direct_response: {status: 203}}\n- {match: {prefix: \"/\"}, route: {cluster: a}}")).http("meta", &(manager_of(&filter(&format!("{GRPC}enable_dynamic_metadata_ingestion: false")), "")))
        .http("limited", &manager("max_denied_response_body_bytes: 4", "")).http("rules", &manager("decoder_header_mutation_rules: {disallow_all: false, disallow_expression: {regex: \"x-no.*\"}, allow_expression: {regex: x-none-ok}}", ""))
        .http("strict-rules", &manager("decoder_header_mutation_rules: {disallow_expression: {regex: \"x-no.*\"}, disallow_is_error: true}", ""))
        .http("routing", &manager("decoder_header_mutation_rules: {allow_all_routing: true, allow_envoy: true}", ""))
        .http("no-rules", &manager("decoder_header_mutation_rules: {}", ""))
        .http("nothing", &manager("decoder_header_mutation_rules: {disallow_all: true}", ""))
        .http("no-system", &manager("decoder_header_mutation_rules: {disallow_system: true, allow_all_routing: true}", ""))
        .http("validates", &manager("validate_mutations: true", "")));
    let with = |to: &str, script: &str, more: &[&str]| {
        let fields: Vec<&str> = more.iter().copied().chain([script]).collect();
        get(to, "/p?q=1", &fields)
    };
    let requests: Vec<(&str, String)> = vec![
        ("empty", answer(0, None, None)),
        ("no-status", format!("x-authz: grpc={}", hex(&CheckResponse::default().encode_to_vec()))),
        ("ok", ok(OkHttpResponse::default())),
        ("headers", ok(OkHttpResponse { headers: all("x-own"), ..Default::default() })),
        ("headers-old", ok(OkHttpResponse { headers: old("x-own"), ..Default::default() })),
        ("headers-absent", ok(OkHttpResponse { headers: all("x-fresh"), ..Default::default() })),
        (
            "pseudo",
            ok(OkHttpResponse {
                headers: vec![
                    option(":path", "/other", OverwriteIfExistsOrAdd),
                    option(":authority", "other.example", OverwriteIfExistsOrAdd),
                    option(":method", "PUT", OverwriteIfExistsOrAdd),
                    option("x-envoy-own", "1", OverwriteIfExistsOrAdd),
                ],
                ..Default::default()
            }),
        ),
        (
            "host",
            ok(OkHttpResponse {
                headers: vec![option("host", "h.example", OverwriteIfExistsOrAdd)],
                ..Default::default()
            }),
        ),
        (
            "remove",
            ok(OkHttpResponse {
                headers_to_remove: names(&["x-own", "X-Set", ":path", "host", ":method", "x-none"]),
                ..Default::default()
            }),
        ),
        ("response", ok(OkHttpResponse { response_headers_to_add: all("x-up"), ..Default::default() })),
        ("response-old", ok(OkHttpResponse { response_headers_to_add: old("x-up"), ..Default::default() })),
        (
            "query",
            ok(OkHttpResponse {
                query_parameters_to_set: vec![param("q", "2"), param("new", "v")],
                query_parameters_to_remove: names(&["gone"]),
                ..Default::default()
            }),
        ),
        ("query-remove", ok(OkHttpResponse { query_parameters_to_remove: names(&["q"]), ..Default::default() })),
        ("metadata", answer(0, None, Some(structure("k", "v")))),
        ("metadata-denied", answer(7, None, Some(structure("k", "v")))),
        ("ok-metadata", ok(OkHttpResponse { dynamic_metadata: Some(structure("old", "w")), ..Default::default() })),
        ("unknown-code", answer(99, None, None)),
        ("code-with-ok", answer(5, Some(HttpResponse::OkResponse(OkHttpResponse::default())), None)),
        ("denied", denied(0, Vec::new(), "")),
        ("denied-401", denied(401, vec![option("www-authenticate", "Basic", OverwriteIfExistsOrAdd)], "who are you?")),
        ("denied-200", denied(200, Vec::new(), "")),
        ("denied-302", denied(302, vec![option("location", "/login", OverwriteIfExistsOrAdd)], "")),
        (
            "denied-headers",
            denied(
                403,
                vec![
                    option("set-cookie", "a=1", AppendIfExistsOrAdd),
                    option("set-cookie", "b=2", AppendIfExistsOrAdd),
                    option("content-type", "application/json", OverwriteIfExistsOrAdd),
                    option("x-one", "1", OverwriteIfExistsOrAdd),
                    option("x-one", "2", OverwriteIfExistsOrAdd),
                    option("x-absent", "1", AddIfAbsent),
                    option("x-exists", "1", OverwriteIfExists),
                ],
                "{}",
            ),
        ),
        (
            "denied-old-headers",
            denied(
                403,
                vec![
                    append("x-one", "1", true),
                    append("x-one", "2", true),
                    append("x-two", "1", false),
                    append("x-two", "2", false),
                ],
                "no",
            ),
        ),
        (
            "error-response",
            answer(
                13,
                Some(HttpResponse::ErrorResponse(DeniedHttpResponse {
                    status: Some(HttpStatus { code: 503 }),
                    headers: vec![option("retry-after", "1", OverwriteIfExistsOrAdd)],
                    body: "later".to_owned(),
                })),
                None,
            ),
        ),
        ("error-response-plain", answer(13, Some(HttpResponse::ErrorResponse(DeniedHttpResponse::default())), None)),
        (
            "bad-action",
            ok(OkHttpResponse {
                headers: vec![HeaderValueOption {
                    header: header("x-own", "bad"),
                    append_action: 77,
                    ..Default::default()
                }],
                ..Default::default()
            }),
        ),
    ];
    for (name, script) in &requests {
        let step = with("plain", script, &fields);
        let response = name.starts_with("response");
        let more = ["x-script: 200,h=x-up:up,h=x-exists:was,h=x-set:was,h=x-set:twice"];
        group = group.step(name, if response { with("plain", script, &more) } else { step });
    }
    let moved =
        ok(OkHttpResponse { headers: vec![option("x-tenant", "b", OverwriteIfExistsOrAdd)], ..Default::default() });
    let path =
        ok(OkHttpResponse { headers: vec![option(":path", "/moved", OverwriteIfExistsOrAdd)], ..Default::default() });
    let appended = ok(OkHttpResponse { headers: vec![append("x-tenant", "b", true)], ..Default::default() });
    let some = ok(OkHttpResponse {
        headers: vec![
            option("x-nope", "1", OverwriteIfExistsOrAdd),
            option("x-none-ok", "1", OverwriteIfExistsOrAdd),
            option("x-yes", "1", AppendIfExistsOrAdd),
            option(":path", "/by-rules", OverwriteIfExistsOrAdd),
            option("host", "by.rules", OverwriteIfExistsOrAdd),
            option("x-envoy-own", "1", OverwriteIfExistsOrAdd),
        ],
        headers_to_remove: names(&["x-not", "x-set", ":path", "host", "x-envoy-foo"]),
        ..Default::default()
    });
    let bad = |name: &str, value: &str| {
        ok(OkHttpResponse { headers: vec![option(name, value, OverwriteIfExistsOrAdd)], ..Default::default() })
    };
    group = group
        .step("clear-set", with("clear", &moved, &[]))
        .step("clear-path", with("clear", &path, &[]))
        .step("clear-append", with("clear", &appended, &["x-tenant: a"]))
        .step("clear-not", with("plain", &moved, &[]))
        .step("metadata-ignored", with("meta", &answer(0, None, Some(structure("k", "v"))), &[]))
        .step("denied-long", with("limited", &denied(403, Vec::new(), "too long"), &[]));
    for to in ["rules", "strict-rules", "routing", "no-rules", "nothing", "no-system"] {
        group = group.step(to, with(to, &some, &["x-not: 1", "x-set: 1", "x-envoy-foo: 1"]));
    }
    for (name, script) in [
        ("bad-name", bad("x bad", "v")),
        ("bad-value", bad("x-bad", "a\nb")),
        (
            "bad-response",
            ok(OkHttpResponse {
                response_headers_to_add: vec![option("x bad", "1", OverwriteIfExistsOrAdd)],
                ..Default::default()
            }),
        ),
        ("bad-query", ok(OkHttpResponse { query_parameters_to_set: vec![param("a b", "c")], ..Default::default() })),
        ("bad-denied", denied(403, vec![option("x-bad", "a\nb", OverwriteIfExistsOrAdd)], "")),
        ("bad-remove", ok(OkHttpResponse { headers_to_remove: names(&["x bad"]), ..Default::default() })),
        ("bad-append", requests.last().map(|r| r.1.clone()).unwrap_or_default()),
    ] {
        group = group.step(&format!("validates-{name}"), with("validates", &script, &[]));
    }
    group = group
        .step(
            "grpc-denied",
            h2(
                "plain",
                "/",
                &[
                    ("content-type", "application/grpc"),
                    ("x-authz", denied(401, Vec::new(), "no").trim_start_matches("x-authz: ")),
                ],
                b"x",
            ),
        )
        .step("head-denied", request("plain", "HEAD", "/", &[&denied(401, Vec::new(), "no")], ""))
        .step(
            "post-denied",
            request("plain", "POST", "/", &[&denied(401, Vec::new(), "no")], "0123456789").and_close(),
        );
    for to in ["plain", "clear", "meta", "rules", "strict-rules", "validates"] {
        group = group.step(&format!("{to}-counters"), counters(to));
    }
    run(&group.step("of-service", of_cluster("authz")).step("of-cluster", of_cluster("a")))
}

#[test]
fn questions() -> Result<()> {
    let metadata = "- {match: {prefix: \"/\"}, route: {cluster: a}, metadata: {filter_metadata: {of.route: {k: v, number: 1, l: [true, null]}, other: {k: w}}}}";
    let raw = "encode_raw_headers: true";
    let config = config()
        .top("node: {id: node, cluster: c, metadata: {labels: {app: proxy, number: 1, version: v2}}}")
        .http("plain", &manager("", ""))
        .http("raw", &manager(raw, ""))
        .http("allowed", &manager("allowed_headers: {patterns: [{exact: x-own}, {prefix: \":\"}, {exact: x-authz}]}", ""))
        .http("disallowed", &manager("disallowed_headers: {patterns: [{exact: x-own}, {prefix: x-forwarded}, {exact: \":path\"}]}", ""))
        .http("both", &manager("allowed_headers: {patterns: [{prefix: x-}]}\ndisallowed_headers: {patterns: [{exact: x-own, ignore_case: true}]}", ""))
        .http("labels", &manager("bootstrap_metadata_labels_key: labels\ninclude_tls_session: true\ninclude_peer_certificate: true", ""))
        .http("route", &manager("route_metadata_context_namespaces: [of.route, none]\nmetadata_context_namespaces: [of.request]", metadata))
        .http("edge", &(manager("", "") + "use_remote_address: true\nxff_num_trusted_hops: 1\n"))
        .http("headers", &manager_of(&filter("transport_api_version: V3\ngrpc_service:\n  envoy_grpc: {cluster_name: authz, authority: auth.example}\n  timeout: 1.5s\n  initial_metadata: [{key: x-meta, value: \"m-%REQ(x-own)%\"}, {key: x-meta, value: two}, {key: X-Upper, value: u}]\n"), ""))
        .http("no-envoy", &manager_of(&filter("transport_api_version: V3\ngrpc_service: {envoy_grpc: {cluster_name: authz, skip_envoy_headers: true}, timeout: 0s}\n"), ""))
        .http("ws", &(manager("", "") + "upgrade_configs: [{upgrade_type: websocket}]\n"));
    let mut group = Group::new("authz-questions", config);
    for to in ["plain", "raw", "allowed", "disallowed", "both", "labels", "route", "headers", "no-envoy"] {
        group = group
            .step(
                &format!("{to}-get"),
                get(
                    to,
                    "/a%20b?q=1",
                    &[
                        "x-own: a",
                        "x-own: b",
                        "accept: x",
                        "Accept: y",
                        "x-envoy-auth-partial-body: true",
                        "x-envoy-downstream-service-cluster: caller",
                    ],
                ),
            )
            .step(&format!("{to}-post"), request(to, "POST", "/post", &["content-type: text/plain"], "0123456789"));
    }
    group = group
        .step("edge", get("edge", "/", &["x-forwarded-for: 10.1.2.3, 10.2.2.3", "x-forwarded-proto: https"]))
        .step("bytes", h1("plain", "GET / HTTP/1.1\nhost: example.com\nx-own: caf\u{e9}\n\n"))
        .step("http10", h1("plain", "GET / HTTP/1.0\nhost: example.com\n\n"))
        .step(
            "h2",
            h2("plain", "/h2?x", &[("x-own", "1"), ("te", "trailers"), ("cookie", "a=1"), ("cookie", "b=2")], b"body"),
        )
        .step("grpc", h2("plain", "/svc/m", &[("content-type", "application/grpc")], b"\0\0\0\0\0"))
        .step("chunked", h1("plain", "POST / HTTP/1.1\nhost: example.com\ntransfer-encoding: chunked\n\n3\nabc\n0\n\n"))
        .step(
            "connection",
            get("plain", "/", &["connection: keep-alive, x-hop", "x-hop: 1", "te: trailers", "keep-alive: 5"]),
        )
        .step("ws", get("ws", "/", &["connection: Upgrade", "upgrade: websocket", "x-script: 400"]));
    run(&group)
}

/// A listener over TLS with this connection manager.
fn over_tls(name: &str, fields: &str) -> String {
    format!(
        "filter_chains:\n- transport_socket:\n    name: tls\n    typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n      common_tls_context:\n        tls_certificates: [{{certificate_chain: {{filename: \"{{{{dir}}}}/server.pem\"}}, private_key: {{filename: \"{{{{dir}}}}/server.key\"}}}}]\n        validation_context: {{trusted_ca: {{filename: \"{{{{dir}}}}/ca.pem\"}}}}\n  filters:\n{}",
        indent(&connection_manager(name, fields), 2)
    )
}

#[test]
fn identities() -> Result<()> {
    let config = config()
        .listener("some", &over_tls("some", &manager("", "")))
        .listener("all", &over_tls("all", &manager("include_peer_certificate: true\ninclude_tls_session: true", "")));
    let mut group = Group::new("authz-identities", config);
    for to in ["some", "all"] {
        for identity in [Some("client"), Some("other"), Some("nameless"), None] {
            let tls = ClientTls { identity, sni: Some("a.example".into()), ..ClientTls::default() };
            group = group.step(&format!("{to}-{}", identity.unwrap_or("nobody")), get(to, "/", &[]).over(tls));
        }
    }
    run(&group.step("no-sni", get("all", "/", &[]).over(ClientTls::default())))
}

#[test]
fn bodies() -> Result<()> {
    let body = |more: &str| manager(&format!("with_request_body: {{max_request_bytes: 10{more}}}"), "");
    let per_route = |settings: &str| {
        format!("typed_per_filter_config: {{envoy.filters.http.ext_authz: {{{TYPE}.ExtAuthzPerRoute, {settings}}}}}")
    };
    let routes = format!(
        "- {{match: {{prefix: /none}}, route: {{cluster: a}}, {}}}\n- {{match: {{prefix: /less}}, route: {{cluster: a}}, {}}}\n- {{match: {{prefix: \"/\"}}, route: {{cluster: a}}}}",
        per_route("check_settings: {disable_request_body_buffering: true}"),
        per_route(
            "check_settings: {with_request_body: {max_request_bytes: 4, allow_partial_message: true, pack_as_bytes: true}}"
        ),
    );
    let config = config()
        .http("whole", &body(""))
        .http("partial", &body(", allow_partial_message: true"))
        .http("packed", &body(", allow_partial_message: true, pack_as_bytes: true"))
        .http("routes", &manager("with_request_body: {max_request_bytes: 10}", &routes))
        .http(
            "raw",
            &manager(
                "with_request_body: {max_request_bytes: 10, allow_partial_message: true}\nencode_raw_headers: true",
                "",
            ),
        )
        .http("allow", &manager("with_request_body: {max_request_bytes: 10}\nfailure_mode_allow: true", ""));
    let mut group = Group::new("authz-bodies", config);
    for to in ["whole", "partial", "packed", "raw", "allow"] {
        for (name, text) in [("short", "01234"), ("exact", "0123456789"), ("long", "0123456789abcdef"), ("none", "")] {
            group = group.step(&format!("{to}-{name}"), request(to, "POST", "/", &[], text).and_close());
        }
        group = group
            .step(&format!("{to}-get"), get(to, "/", &[]))
            .step(
                &format!("{to}-chunked"),
                h1(to, "POST / HTTP/1.1\nhost: example.com\ntransfer-encoding: chunked\n\n3\nabc\n2\nde\n0\n\n"),
            )
            .step(
                &format!("{to}-chunked-trailers"),
                h1(to, "POST / HTTP/1.1\nhost: example.com\ntransfer-encoding: chunked\n\n3\nabc\n0\nx-trailer: 1\n\n"),
            )
            .step(&format!("{to}-h2"), h2(to, "/", &[], b"01234"))
            .step(
                &format!("{to}-denied"),
                request(to, "POST", "/", &[&denied(401, Vec::new(), "no")], "01234").and_close(),
            );
    }
    for path in ["/none", "/less", "/other"] {
        group = group.step(&format!("routes-{}", &path[1..]), request("routes", "POST", path, &[], "01234567"));
    }
    run(&group.step("bytes", request("partial", "POST", "/", &[], "caf\u{e9}")).step("counters", counters("allow")))
}

#[test]
fn failures() -> Result<()> {
    let with =
        |service: &str, more: &str| manager_of(&filter(&format!("transport_api_version: V3\n{service}\n{more}")), "");
    let to = |cluster: &str, timeout: &str| {
        format!("grpc_service: {{envoy_grpc: {{cluster_name: {cluster}}}, timeout: {timeout}}}")
    };
    let config = config()
        .cluster("dead", HTTP2)
        .cluster_of("empty", &[], HTTP2)
        .http("slow", &with(&to("authz", "0.2s"), ""))
        .http("dead", &with(&to("dead", "1s"), ""))
        .http("empty", &with(&to("empty", "1s"), ""))
        .http("unknown", &with(&to("nobody", "1s"), ""))
        .http("allow", &with(&to("dead", "1s"), "failure_mode_allow: true"))
        .http("allow-header", &with(&to("dead", "1s"), "failure_mode_allow: true\nfailure_mode_allow_header_add: true"))
        .http("status", &with(&to("dead", "1s"), "status_on_error: {code: 503}\nstat_prefix: own"))
        .http("own", &with(&to("authz", "5s"), "stat_prefix: own\ncharge_cluster_response_stats: false"))
        .http("plain", &with(&to("authz", "5s"), ""))
        .http("lenient", &with(&to("authz", "5s"), "failure_mode_allow: true"))
        .http("retry", &with("grpc_service: {envoy_grpc: {cluster_name: dead}, timeout: 1s, retry_policy: {num_retries: 2, retry_on: connect-failure, retry_back_off: {base_interval: 0.001s}}}", ""));
    let mut group =
        Group::new("authz-failures", config).step("slow", get("slow", "/", &["x-authz: delay=1000,grpc=0a00"]));
    for to in ["dead", "empty", "unknown", "allow", "allow-header", "status", "retry"] {
        group = group.step(to, get(to, "/", &[])).step(&format!("{to}-post"), request(to, "POST", "/", &[], "x"));
    }
    let grpc = "h=content-type:application/grpc";
    let scripts = [
        ("status-13", format!("{grpc},h=grpc-status:13,h=grpc-message:broken,body=")),
        ("status-7", format!("{grpc},h=grpc-status:7,body=")),
        ("status-0-only", format!("{grpc},h=grpc-status:0,body=")),
        ("trailers-13", format!("{grpc},body=,t=grpc-status:13")),
        ("message-and-13", "grpc=0a00,t=grpc-status:13".to_owned()),
        ("no-trailers", format!("{grpc},body=ok")),
        ("http-404", "404,body=nope".to_owned()),
        ("http-503", "503,body=".to_owned()),
        ("nonsense", format!("{grpc},body=nonsense,t=grpc-status:0")),
        ("bad-message", "grpc=ffffff".to_owned()),
        ("unknown-fields", "grpc=0a00f2ff0100".to_owned()),
        ("reset", "reset".to_owned()),
        ("refuse", "refuse".to_owned()),
        ("cut", "grpc=0a00,cut".to_owned()),
    ];
    for (name, script) in &scripts {
        group = group
            .step(&format!("plain-{name}"), get("plain", "/", &[&format!("x-authz: {script}")]))
            .step(&format!("lenient-{name}"), get("lenient", "/", &[&format!("x-authz: {script}")]));
    }
    group = group
        .step("own-ok", get("own", "/", &[]))
        .step("own-denied", get("own", "/", &[&denied(0, Vec::new(), "")]))
        .step(
            "own-stats",
            stats(&[
                "http.own.ext_authz.own.ok",
                "http.own.ext_authz.own.denied",
                "cluster.a.ext_authz.own.ok",
                "cluster.a.ext_authz.own.denied",
                "cluster.a.ext_authz.own.error",
                "cluster.a.upstream_rq_403",
            ]),
        );
    for of in ["slow", "dead", "unknown", "allow", "plain", "lenient"] {
        group = group.step(&format!("{of}-counters"), counters(of));
    }
    for cluster in ["dead", "empty", "authz"] {
        group = group.step(&format!("of-{cluster}"), of_cluster(cluster));
    }
    run(&group)
}

#[test]
fn routes() -> Result<()> {
    let own = |settings: &str| {
        format!("typed_per_filter_config: {{envoy.filters.http.ext_authz: {{{TYPE}.ExtAuthzPerRoute, {settings}}}}}")
    };
    let routes = format!(
        "- {{match: {{prefix: /off}}, route: {{cluster: a}}, {}}}
- {{match: {{prefix: /context}}, route: {{cluster: a}}, {}}}
- {{match: {{prefix: /weighted}}, route: {{weighted_clusters: {{clusters: [{{name: a, weight: 1, {}}}]}}}}, {}}}
- {{match: {{prefix: /disabled}}, route: {{cluster: a}}, typed_per_filter_config: {{envoy.filters.http.ext_authz: {{\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}}}}}}
- {{match: {{prefix: /direct}}, direct_response: {{status: 204}}}}
- {{match: {{prefix: /other-service}}, route: {{cluster: a}}, {}}}
- {{match: {{prefix: /http-service}}, route: {{cluster: a}}, {}}}
- {{match: {{prefix: /a}}, route: {{cluster: a}}}}",
        own("disabled: true"),
        own("check_settings: {context_extensions: {route: r, both: route}}"),
        own("check_settings: {context_extensions: {weighted: w, both: weighted}}"),
        own("check_settings: {context_extensions: {route: r, both: route}}"),
        own("check_settings: {grpc_service: {envoy_grpc: {cluster_name: authz2}, timeout: 2s}}"),
        own("check_settings: {http_service: {server_uri: {uri: \"http://authz2\", cluster: authz2h1, timeout: 2s}, authorization_response: {allowed_upstream_headers: {patterns: [{prefix: x-up}]}}}}"),
    );
    let manager = manager("", &routes).replace(
        "  - name: all\n    domains: [\"*\"]\n",
        &format!(
            "  - name: all\n    domains: [\"*\"]\n    {}\n",
            own("check_settings: {context_extensions: {host: h, both: host}}")
        ),
    );
    let enabled = |more: &str| {
        format!(
            "- name: envoy.filters.http.ext_authz\n  typed_config:\n    {TYPE}.ExtAuthz\n{}",
            indent(&format!("{GRPC}{more}"), 4)
        )
    };
    let config = config()
        .cluster("authz2", HTTP2)
        .cluster_of("authz2h1", &["authz2"], "")
        .http("routes", &manager)
        .http("shut", &manager_of(&enabled("filter_enabled: {default_value: {numerator: 0}, runtime_key: shut}\n"), ""))
        .http("shut-deny", &manager_of(&enabled("filter_enabled: {default_value: {numerator: 0}}\ndeny_at_disable: {default_value: {value: true}, runtime_key: deny}\nstatus_on_error: {code: 503}\n"), ""))
        .http("by-metadata", &manager_of(&enabled("filter_enabled_metadata: {filter: m, path: [{key: k}], value: {string_match: {exact: v}}}\n"), ""))
        .http("by-metadata-not", &manager_of(&enabled("filter_enabled_metadata: {filter: m, path: [{key: k}], value: {string_match: {exact: v}}, invert: true}\n"), ""))
        .http("disabled", &manager_of(&filter(GRPC).replace("  typed_config", "  disabled: true\n  typed_config"), ""))
        .http("two", &manager_of(&format!("{}{}", filter(GRPC), filter(GRPC).replace("- name: envoy.filters.http.ext_authz", "- name: second")), ""));
    let mut group = Group::new("authz-routes", config);
    for path in ["off", "context", "weighted", "disabled", "direct", "other-service", "http-service", "a", "none"] {
        group = group.step(path, get("routes", &format!("/{path}"), &["x-authz2: y"]));
    }
    for to in ["shut", "shut-deny", "by-metadata", "by-metadata-not", "disabled"] {
        group = group.step(&format!("{to}-filter"), get(to, "/", &[])).step(&format!("{to}-counters"), counters(to));
    }
    let add = ok(OkHttpResponse {
        response_headers_to_add: vec![append("x-add", "1", true)],
        headers: vec![append("x-own", "1", true)],
        ..Default::default()
    });
    group = group
        .step("two-ok", get("two", "/", &[&add, "x-own: 0"]))
        .step("two-denied", get("two", "/", &[&denied(401, Vec::new(), "no")]))
        .step("added-to-local", get("routes", "/direct", &[&add]))
        .step("added-to-failure", request("two", "POST", "/", &[&add, "x-script: reset"], "x"))
        .step("two-counters", counters("two"));
    run(&group)
}

#[test]
fn over_http() -> Result<()> {
    let service = |more: &str| {
        format!(
            "http_service:\n  server_uri: {{uri: \"http://auth.example:80/base\", cluster: authz, timeout: 5s}}\n{}",
            indent(more, 2)
        )
    };
    let with = |more: &str, fields: &str| manager_of(&filter(&format!("{}{fields}", service(more))), "");
    let response = "authorization_response:
  allowed_upstream_headers: {patterns: [{prefix: x-up}]}
  allowed_upstream_headers_to_append: {patterns: [{exact: x-append}]}
  allowed_client_headers: {patterns: [{prefix: x-client}]}
  allowed_client_headers_on_success: {patterns: [{prefix: x-success}]}
  dynamic_metadata_from_headers: {patterns: [{prefix: x-meta}]}
authorization_request: {allowed_headers: {patterns: [{exact: x-script}]}}
";
    let config = Config::new()
        .cluster("a", "")
        .cluster("authz", "")
        .cluster("dead", "")
        .http("plain", &with("", ""))
        .http("prefix", &with("path_prefix: /prefix\n", ""))
        .http("override", &with("path_override: /instead\n", ""))
        .http("response", &with(response, ""))
        .http("request", &with("authorization_request:\n  allowed_headers: {patterns: [{prefix: x-, ignore_case: true}, {exact: cookie}]}\n  headers_to_add: [{key: x-own, value: added}, {key: x-new, value: \"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\"}]\n", ""))
        .http("allowed", &with("", "allowed_headers: {patterns: [{exact: x-script}, {exact: x-own}]}\n"))
        .http("disallowed", &with("", "disallowed_headers: {patterns: [{exact: authorization}]}\n"))
        .http("raw", &with("", "encode_raw_headers: true\nallowed_headers: {patterns: [{prefix: x-}]}\n"))
        .http("body", &with("authorization_request: {allowed_headers: {patterns: [{exact: x-script}]}}\n", "with_request_body: {max_request_bytes: 10, allow_partial_message: true}\n"))
        .http("status", &with("authorization_request: {allowed_headers: {patterns: [{exact: x-script}]}}\n", "status_on_error: {code: 503}\n"))
        .http("retry-not", &with("retry_policy: {num_retries: 2}\nauthorization_request: {allowed_headers: {patterns: [{exact: x-script}]}}\n", ""))
        .http("retry", &with("retry_policy: {num_retries: 2, retry_on: 5xx, retry_back_off: {base_interval: 0.001s}}\nauthorization_request: {allowed_headers: {patterns: [{exact: x-script}]}}\n", ""))
        .http("clear", &manager_of(&filter(&format!("{}clear_route_cache: true\n", service("authorization_response: {allowed_upstream_headers: {patterns: [{exact: x-tenant}]}}\nauthorization_request: {allowed_headers: {patterns: [{exact: x-script}]}}\n"))),
            "- {match: {prefix: \"/\", headers: [{name: x-tenant, string_match: {exact: b}}]}, direct_response: {status: 202}}\n- {match: {prefix: \"/\"}, route: {cluster: a}}"))
        .http("dead", &manager_of(&filter("http_service: {server_uri: {uri: \"http://x\", cluster: dead, timeout: 1s}}"), ""));
    let mut group = Group::new("authz-http", config);
    for to in ["plain", "prefix", "override", "request", "allowed", "disallowed", "raw", "response"] {
        group = group
            .step(
                &format!("{to}-get"),
                get(to, "/p?q=1", &["authorization: Basic x", "x-own: 1", "X-Own: 2", "cookie: a=b", "accept: y"]),
            )
            .step(&format!("{to}-post"), request(to, "POST", "/post", &["content-type: text/plain"], "0123"));
    }
    for (name, text) in [("short", "01234"), ("long", "0123456789abcdef")] {
        group = group.step(&format!("body-{name}"), request("body", "POST", "/", &[], text));
    }
    // What the upstream answers is scripted by the same field, and comes after the service's answer.
    let scripts = [
        ("ok", "200,h=x-up-a:1,h=x-up-a:2,h=x-append:2,h=x-success:s,h=x-meta:m,h=x-other:o,h=x-client:c"),
        ("remove", "200,h=x-envoy-auth-headers-to-remove:x-gone; 200"),
        ("remove-some", "200,h=x-envoy-auth-headers-to-remove:x-gone%"),
        ("201", "201,h=x-up-a:1"),
        ("204", "204"),
        (
            "401",
            "401,body=who,h=www-authenticate:Basic,h=x-client:c,h=x-other:o,h=x-up-a:1,h=set-cookie:a=1,h=set-cookie:b=2",
        ),
        ("302", "302,body=,h=location:/login,h=x-client:c"),
        ("403-chunked", "403,body=chunks,chunked"),
        ("500", "500,body=oops"),
        ("503", "503"),
        ("429", "429,body=slow,h=retry-after:1"),
        ("raw", "raw=6e6f6e73656e7365"),
    ];
    for (name, script) in scripts {
        let script = format!("x-script: {script}");
        for to in ["response", "status"] {
            group =
                group.step(&format!("{to}-{name}"), get(to, "/", &[&script, "x-gone: 1", "x-append: 1", "x-up-a: 0"]));
        }
    }
    group = group
        .step("retry-ok", get("retry", "/", &["x-script: 503;503;200"]))
        .step("retry-fails", get("retry", "/", &["x-script: 503"]))
        .step("retry-not", get("retry-not", "/", &["x-script: 503;200"]))
        .step("clear", get("clear", "/", &["x-script: 200,h=x-tenant:b"]))
        .step("dead", get("dead", "/", &[]))
        .step("h2", h2("request", "/h2", &[("x-own", "1"), ("authorization", "b")], b"body"))
        .step("head", request("request", "HEAD", "/", &[], ""))
        .step("connect", h1("plain", "CONNECT example.com:80 HTTP/1.1\nhost: example.com:80\n\n"));
    for of in ["response", "status", "retry"] {
        group = group.step(&format!("{of}-counters"), counters(of));
    }
    run(&group.step("of-service", of_cluster("authz")))
}
