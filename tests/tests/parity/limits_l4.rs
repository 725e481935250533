//! Global rate limits of connections.

use anyhow::Result;
use weft_tests::config::{Config, access_log, dedent, indent};
use weft_tests::parity::{Group, Step, run, stats};

const TYPE: &str = "\"@type\": type.googleapis.com/envoy.extensions.filters.network.ratelimit.v3.RateLimit";
const HTTP2: &str = "typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http2_protocol_options: {}}
";

fn filter(name: &str, cluster: &str, fields: &str) -> String {
    format!(
        "- name: envoy.filters.network.ratelimit\n  typed_config:\n    {TYPE}\n    stat_prefix: {name}\n    domain: d\n    timeout: 1s\n    rate_limit_service: {{transport_api_version: V3, grpc_service: {{envoy_grpc: {{cluster_name: {cluster}}}}}}}\n{}",
        indent(&dedent(fields), 4)
    )
}

fn chain(name: &str, before: &str) -> String {
    let said = "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% in=%BYTES_RECEIVED% out=%BYTES_SENT%";
    let end = format!(
        "{before}- name: tcp\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n    stat_prefix: {name}\n    cluster: tcp-a\n    access_log:\n{}",
        indent(&access_log(said), 4)
    );
    format!("filter_chains:\n- filters:\n{}", indent(&end, 2))
}

fn counters(of: &str) -> Step {
    let names = ["total", "ok", "over_limit", "error", "failure_mode_allowed", "cx_closed", "active"];
    stats(&names.map(|name| format!("ratelimit.{of}.{name}")).each_ref().map(String::as_str))
}

#[test]
fn connections() -> Result<()> {
    let descriptors = "descriptors: [{entries: [{key: a, value: b}, {key: c, value: d}]}, {entries: [{key: ip, value: \"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\"}]}]";
    let over = "descriptors: [{entries: [{key: script, value: \"grpc=0802\"}]}]";
    let config = Config::new()
        .cluster("tcp-a", "")
        .cluster("limits", HTTP2)
        .cluster("dead", HTTP2)
        .listener("plain", &chain("plain", &filter("plain", "limits", descriptors)))
        .listener("over", &chain("over", &filter("over", "limits", over)))
        .listener("open", &chain("open", &filter("open", "dead", over)))
        .listener("deny", &chain("deny", &filter("deny", "dead", &format!("{over}\nfailure_mode_deny: true"))))
        .listener("two", &chain("two", &(filter("two", "limits", descriptors) + &filter("twice", "limits", over))));
    let mut group = Group::new("limit-l4", config);
    for to in ["plain", "over", "open", "deny", "two"] {
        // What is refused with bytes unread is reset: so those say nothing.
        let allowed = matches!(to, "plain" | "open");
        let writes = if allowed { vec![b"hello".to_vec()] } else { Vec::new() };
        let talk = Step::Bytes { to: to.to_owned(), writes, finish: allowed, tls: None };
        group = group.step(to, talk).step(&format!("{to}-counters"), counters(to));
    }
    run(&group.step("twice-counters", counters("twice")))
}
