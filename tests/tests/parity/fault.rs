//! The fault filter: what it does to requests, by configuration, by headers, by runtime, and by route.

use anyhow::Result;
use weft_tests::config::{Config, LOG_FORMAT, access_log, dedent, indent};
use weft_tests::parity::{Group, Step, get, h2, request, run, stats};

const TYPE: &str = "\"@type\": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
const ALL: &str = "percentage: {numerator: 100}";

/// A listener whose fault filter has `fields`, and whose routes are `routes`; by default, one to the upstream `a`. Its log
/// tells faults by their metadata, and has a second line for requests that took a fifth of a second.
fn listener(fields: &str, routes: &str) -> String {
    let format = format!(
        "{LOG_FORMAT} cluster-metadata=%DYNAMIC_METADATA(envoy.filters.http.fault)% %DYNAMIC_METADATA(faults)%"
    );
    let slow = format!(
        "{}  filter: {{duration_filter: {{comparison: {{op: GE, value: {{default_value: 200, runtime_key: x}}}}}}}}\n",
        access_log("slow %RESPONSE_FLAGS%")
    );
    let routes = if routes.is_empty() { "- {match: {prefix: \"/\"}, route: {cluster: a}}" } else { routes };
    format!(
        "access_log:\n{}{slow}http_filters:\n- name: faults\n  typed_config:\n    {TYPE}\n{}route_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n{}",
        access_log(&format),
        indent(&dedent(fields), 4),
        indent(&dedent(routes), 4),
    )
}

/// The stats of a listener's filter.
fn counters(of: &str) -> Step {
    let names = ["aborts_injected", "delays_injected", "faults_overflow", "response_rl_injected", "active_faults"];
    stats(&names.map(|name| format!("http.{of}.fault.{name}")).each_ref().map(String::as_str))
}

#[test]
fn aborts() -> Result<()> {
    let config = Config::new()
        .http(
            "http",
            &listener(&format!("abort: {{http_status: 418, {ALL}}}\nfilter_metadata: {{why: test, n: 1}}"), ""),
        )
        .http("bad-request", &listener(&format!("abort: {{http_status: 400, {ALL}}}"), ""))
        .http("ok", &listener(&format!("abort: {{http_status: 200, {ALL}}}"), ""))
        .http("grpc", &listener(&format!("abort: {{grpc_status: 7, {ALL}}}"), ""))
        .http("own-body", &listener(&format!("abort: {{http_status: 503, response_body: \"no way\", {ALL}}}"), ""))
        .http("by-header", &listener(&format!("abort: {{header_abort: {{}}, {ALL}}}"), ""))
        .http("by-header-none", &listener("abort: {header_abort: {}, percentage: {numerator: 0}}", ""))
        .http("no-share", &listener("abort: {http_status: 418}", ""))
        .http("nothing", &listener("upstream_cluster: \"\"", ""))
        .cluster("a", "");
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let mut group = Group::new("fault-aborts", config);
    for to in ["http", "bad-request", "ok", "grpc", "own-body", "no-share", "nothing"] {
        group = group
            .step(to, get(to, "/x?y", &[]).and_close())
            .step(&format!("{to}-body"), request(to, "POST", "/", &[], "0123456789"))
            .step(&format!("{to}-head"), request(to, "HEAD", "/", &[], ""))
            .step(&format!("{to}-grpc"), h2(to, "/pkg.Service/Method", &grpc, b"\0\0\0\0\x01x"));
    }
    let (http, code, share) =
        ("x-envoy-fault-abort-request", "x-envoy-fault-abort-grpc-request", "x-envoy-fault-abort-request-percentage");
    for (name, fields) in [
        ("http", vec![format!("{http}: 429")]),
        ("first", vec![format!("{http}: 429"), format!("{http}: 430")]),
        ("low", vec![format!("{http}: 199")]),
        ("high", vec![format!("{http}: 600")]),
        ("text", vec![format!("{http}: 5xx")]),
        ("spaces", vec![format!("{http}:  503  ")]),
        ("grpc", vec![format!("{code}: 5")]),
        ("both", vec![format!("{http}: 429"), format!("{code}: 5")]),
        ("bad-and-grpc", vec![format!("{http}: 1"), format!("{code}: 5")]),
        ("share-0", vec![format!("{http}: 429"), format!("{share}: 0")]),
        ("share-100", vec![format!("{http}: 429"), format!("{share}: 100")]),
        ("share-text", vec![format!("{http}: 429"), format!("{share}: x")]),
        ("none", vec![]),
    ] {
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        group = group.step(&format!("by-header-{name}"), get("by-header", "/", &fields));
    }
    let more = [format!("{http}: 429"), format!("{share}: 100")];
    group = group
        .step("by-header-grpc-request", h2("by-header", "/s/m", &[grpc[0], (code, "9")], b"\0\0\0\0\x01x"))
        .step("no-share-by-header", get("by-header-none", "/", &[&more[0], &more[1]]));
    for to in ["http", "by-header", "nothing"] {
        group = group.step(&format!("{to}-counters"), counters(to));
    }
    run(&group)
}

#[test]
fn delays() -> Result<()> {
    let limit = "stream_idle_timeout: 0.4s\n";
    let config = Config::new()
        .http("fixed", &listener(&format!("delay: {{fixed_delay: 0.3s, {ALL}}}\nfilter_metadata: {{why: slow}}"), ""))
        .http("by-header", &listener(&format!("delay: {{header_delay: {{}}, {ALL}}}"), ""))
        .http(
            "then-abort",
            &listener(&format!("delay: {{fixed_delay: 0.3s, {ALL}}}\nabort: {{http_status: 503, {ALL}}}"), ""),
        )
        .http("tiny", &listener(&format!("delay: {{fixed_delay: 0.0001s, {ALL}}}"), ""))
        .http("idle", &format!("{limit}{}", listener(&format!("delay: {{fixed_delay: 2s, {ALL}}}"), "")))
        .http(
            "direct",
            &listener(
                &format!("delay: {{fixed_delay: 0.3s, {ALL}}}"),
                "- {match: {prefix: /}, direct_response: {status: 200}}",
            ),
        )
        .http(
            "route-timeout",
            &listener(
                &format!("delay: {{fixed_delay: 0.3s, {ALL}}}"),
                "- {match: {prefix: /}, route: {cluster: a, timeout: 0.2s}}",
            ),
        )
        .http(
            "route-idle",
            &listener(
                &format!("delay: {{fixed_delay: 2s, {ALL}}}"),
                "- {match: {prefix: /max}, route: {cluster: a, timeout: 0s, max_stream_duration: {max_stream_duration: 0.4s}}}\n- {match: {prefix: /}, route: {cluster: a, idle_timeout: 0.4s}}",
            ),
        )
        .cluster("a", "");
    let half = Step::Http1 {
        to: "route-idle".to_owned(),
        bytes: b"POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 20\r\n\r\n0123456789".to_vec(),
        methods: vec!["POST".to_owned()],
        tls: None,
        closes: false,
    };
    let (delay, share) = ("x-envoy-fault-delay-request", "x-envoy-fault-delay-request-percentage");
    let mut group = Group::new("fault-delays", config)
        .step("fixed", get("fixed", "/", &[]))
        .logs(2)
        .step("fixed-body", request("fixed", "POST", "/", &[], "0123456789"))
        .logs(2)
        .step("fixed-h2", h2("fixed", "/", &[], b"0123456789"))
        .logs(2)
        .step("then-abort", get("then-abort", "/", &[]))
        .logs(2)
        .step("tiny", get("tiny", "/", &[]))
        .step("idle", get("idle", "/", &[]).and_close())
        .logs(2)
        .step("direct", get("direct", "/", &[]))
        .logs(2)
        .step("route-idle", get("route-idle", "/", &[]).and_close())
        .logs(2)
        .step("route-idle-body", request("route-idle", "POST", "/", &[], "0123456789").and_close())
        .logs(2)
        .step("route-idle-body-h2", h2("route-idle", "/", &[], b"0123456789"))
        .logs(2)
        .step("route-idle-half-a-body", half.and_close())
        .logs(2)
        .step("route-max", get("route-idle", "/max", &[]).and_close())
        .logs(2)
        .step("fixed-body", request("fixed", "POST", "/", &[], "0123456789"))
        .logs(2)
        .step("route-timeout-begins-later", get("route-timeout", "/", &[]))
        .logs(2);
    for (name, fields, lines) in [
        ("given", vec![format!("{delay}: 300")], 2),
        ("zero", vec![format!("{delay}: 0")], 1),
        ("text", vec![format!("{delay}: 1s")], 1),
        ("none", vec![], 1),
        ("share-0", vec![format!("{delay}: 300"), format!("{share}: 0")], 1),
    ] {
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        group = group.step(&format!("by-header-{name}"), get("by-header", "/", &fields)).logs(lines);
    }
    for to in ["fixed", "by-header", "then-abort", "tiny", "idle"] {
        group = group.step(&format!("{to}-counters"), counters(to));
    }
    run(&group)
}

#[test]
fn which_requests() -> Result<()> {
    let abort = |more: &str| format!("abort: {{http_status: 418, {ALL}}}\n{more}");
    let off = "{\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}";
    let status = |code: u16| format!("{{{TYPE}, abort: {{http_status: {code}, {ALL}}}}}");
    let nothing = format!("{{{TYPE}}}");
    let routes = format!(
        "
        - {{match: {{prefix: /none}}, route: {{cluster: a}}, typed_per_filter_config: {{faults: {nothing}}}}}
        - {{match: {{prefix: /off}}, route: {{cluster: a}}, typed_per_filter_config: {{faults: {off}}}}}
        - {{match: {{prefix: /own}}, route: {{cluster: a}}, typed_per_filter_config: {{faults: {}}}}}
        - match: {{prefix: /weighted}}
          route:
            weighted_clusters:
              clusters:
              - {{name: a, weight: 1, typed_per_filter_config: {{faults: {}}}}}
          typed_per_filter_config: {{faults: {}}}
        - {{match: {{prefix: /direct}}, direct_response: {{status: 200}}, typed_per_filter_config: {{faults: {}}}}}
        - {{match: {{prefix: /}}, route: {{cluster: a}}}}
        ",
        status(501),
        status(503),
        status(502),
        status(504),
    );
    let config = Config::new()
        .http("headers", &listener(&abort("headers: [{name: x-fault, present_match: true}, {name: \":path\", string_match: {prefix: /a}}]"), ""))
        .http("cluster", &listener(&abort("upstream_cluster: a"), "- {match: {prefix: /b}, route: {cluster: b}}\n- {match: {prefix: /h}, route: {cluster_header: x-to}}\n- {match: {prefix: /d}, direct_response: {status: 200}}\n- {match: {prefix: /w}, route: {weighted_clusters: {clusters: [{name: a, weight: 1}]}}}\n- {match: {prefix: /}, route: {cluster: a}}"))
        .http("nodes", &listener(&abort("downstream_nodes: [n1, n2]"), ""))
        .http("routes", &listener(&abort(""), &routes))
        .http("downstream", &listener(&abort(&format!("delay: {{fixed_delay: 0.01s, {ALL}}}")), ""))
        .http("quiet", &listener(&abort("disable_downstream_cluster_stats: true"), ""))
        .cluster("a", "")
        .cluster("b", "");
    let node = "x-envoy-downstream-service-node";
    let cluster = "x-envoy-downstream-service-cluster: me";
    let mut group = Group::new("fault-matches", config)
        .step("headers-both", get("headers", "/a", &["x-fault: 1"]))
        .step("headers-one", get("headers", "/b", &["x-fault: 1"]))
        .step("headers-none", get("headers", "/a", &[]))
        .step("cluster-same", get("cluster", "/", &[]))
        .step("cluster-other", get("cluster", "/b", &[]))
        .step("cluster-by-header", get("cluster", "/h", &["x-to: a"]))
        .step("cluster-by-header-other", get("cluster", "/h", &["x-to: b"]))
        .step("cluster-by-header-unknown", get("cluster", "/h", &["x-to: nowhere"]))
        .step("cluster-weighted", get("cluster", "/w", &[]))
        .step("cluster-direct", get("cluster", "/d", &[]))
        .step("nodes-one", get("nodes", "/", &[&format!("{node}: n2")]))
        .step("nodes-other", get("nodes", "/", &[&format!("{node}: n3")]))
        .step("nodes-none", get("nodes", "/", &[]))
        .step("downstream", get("downstream", "/", &[cluster]))
        .step("downstream-empty", get("downstream", "/", &["x-envoy-downstream-service-cluster:"]))
        .step("quiet", get("quiet", "/", &[cluster]));
    for path in ["none", "off", "own", "weighted", "direct", "other"] {
        group = group.step(&format!("routes-{path}"), get("routes", &format!("/{path}"), &[]));
    }
    run(&group
        .step(
            "downstream-counters",
            stats(&[
                "http.downstream.fault.me.aborts_injected",
                "http.downstream.fault.me.delays_injected",
                "http.downstream.fault.aborts_injected",
            ]),
        )
        .step("quiet-counters", stats(&["http.quiet.fault.me.aborts_injected", "http.quiet.fault.aborts_injected"]))
        .step("routes-counters", counters("routes")))
}

#[test]
fn runtime() -> Result<()> {
    let both = format!("delay: {{fixed_delay: 2s, {ALL}}}\nabort: {{http_status: 418, {ALL}}}");
    let mine =
        "abort: {http_status: 418}\nabort_percent_runtime: mine.percent\nabort_http_status_runtime: mine.status\n";
    let config = Config::new()
        .http("usual", &listener(&both, ""))
        .http("mine", &listener(mine, ""))
        .http("mine-grpc", &listener(&format!("abort: {{grpc_status: 3, {ALL}}}\nabort_grpc_status_runtime: mine.grpc\nabort_percent_runtime: other.percent"), ""))
        .http("duration", &listener(&format!("delay: {{fixed_delay: 5s, {ALL}}}\ndelay_percent_runtime: d.percent\ndelay_duration_runtime: d.ms"), ""))
        .http("overflow", &listener(&format!("abort: {{http_status: 418, {ALL}}}\nmax_active_faults: 0\nabort_percent_runtime: o.percent\nabort_http_status_runtime: o.status"), ""))
        .http("overflow-runtime", &listener(&format!("abort: {{http_status: 418, {ALL}}}\nmax_active_faults_runtime: o.most\nabort_percent_runtime: o.percent\nabort_http_status_runtime: o.status"), ""))
        .cluster("a", "")
        .top(
            "
            layered_runtime:
              layers:
              - name: static
                static_layer:
                  mine: {percent: {numerator: 10000, denominator: TEN_THOUSAND}, status: 507, grpc: 11}
                  d: {ms: 250}
                  o: {most: 0}
                  fault.http:
                    delay: {fixed_delay_percent: 0}
                    abort: {abort_percent: 100, http_status: 509}
                    known: {abort: {abort_percent: 0}}
                    other: {abort: {http_status: 410}, delay: {fixed_delay_percent: 100, fixed_duration_ms: 230}}
            ",
        );
    let from = |cluster: &str| format!("x-envoy-downstream-service-cluster: {cluster}");
    let grpc = [("content-type", "application/grpc")];
    run(&Group::new("fault-runtime", config)
        .step("usual", get("usual", "/", &[]))
        .step("of-a-cluster", get("usual", "/", &[&from("other")]))
        .logs(2)
        .step("not-for-a-cluster", get("mine", "/", &[&from("known")]))
        .step("own-keys", get("mine", "/", &[]))
        .step("own-keys-grpc", h2("mine-grpc", "/s/m", &grpc, b"\0\0\0\0\x01x"))
        .step("duration", get("duration", "/", &[]))
        .logs(2)
        .step("overflow", get("overflow", "/", &[]))
        .step("overflow-runtime", get("overflow-runtime", "/", &[]))
        .step("overflow-counters", counters("overflow"))
        .step("overflow-runtime-counters", counters("overflow-runtime")))
}

#[test]
fn response_rate() -> Result<()> {
    let config = Config::new()
        .http("fixed", &listener(&format!("response_rate_limit: {{fixed_limit: {{limit_kbps: 1}}, {ALL}}}"), "- {match: {prefix: /direct}, direct_response: {status: 200, body: {inline_string: \"0123456789\"}}}\n- {match: {prefix: /}, route: {cluster: a}}"))
        .http("by-header", &listener(&format!("response_rate_limit: {{header_limit: {{}}, {ALL}}}"), ""))
        .http("never", &listener("response_rate_limit: {fixed_limit: {limit_kbps: 1}, percentage: {numerator: 0}}", ""))
        .cluster("a", "");
    let body = format!("x-script: 200,body={}", "x".repeat(400));
    let rate = |n: &str| format!("x-envoy-fault-throughput-response: {n}");
    run(&Group::new("fault-rate", config)
        .step("fixed", get("fixed", "/", &[&body]))
        .logs(2)
        .step("fixed-h2", h2("fixed", "/", &[("x-script", &body[10..])], b""))
        .logs(2)
        .step("small", get("fixed", "/", &["x-script: 200,body=x"]))
        .step("empty", get("fixed", "/", &["x-script: 204"]))
        .step("direct", get("fixed", "/direct", &[]))
        .step("by-header", get("by-header", "/", &[&body, &rate("1")]))
        .logs(2)
        .step("by-header-fast", get("by-header", "/", &[&body, &rate("1000")]))
        .step("by-header-zero", get("by-header", "/", &[&body, &rate("0")]))
        .step("by-header-text", get("by-header", "/", &[&body, &rate("x")]))
        .step("by-header-none", get("by-header", "/", &[&body]))
        .step(
            "by-header-share",
            get("by-header", "/", &[&body, &rate("1"), "x-envoy-fault-throughput-response-percentage: 0"]),
        )
        .step("never", get("never", "/", &[&body]))
        .step("fixed-counters", counters("fixed"))
        .step("by-header-counters", counters("by-header")))
}
