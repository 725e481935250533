//! Who the client is: X-Forwarded-For, trusted hops, internal addresses, forwarded protocol, ports in hosts.

use anyhow::Result;
use weft_tests::config::Config;
use weft_tests::parity::{Group, get, run, stats};

fn listener(fields: &str) -> String {
    let route = r#"
    route_config:
      virtual_hosts:
      - name: all
        domains: ["*"]
        routes:
        - match: {prefix: "/"}
          request_headers_to_add:
          - {header: {key: x-remote, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}
          - {header: {key: x-direct, value: "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"}}
          route: {cluster: a}
    "#;
    let more: String = fields.lines().map(|line| format!("    {line}\n")).collect();
    format!("{}\n{more}", route.trim_end())
}

#[test]
fn forwarded() -> Result<()> {
    let internal = "internal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}, {address_prefix: 127.0.0.0, prefix_len: 8}]}";
    let listeners = [
        ("plain", String::new()),
        ("hops", "xff_num_trusted_hops: 1".to_owned()),
        ("remote", "use_remote_address: true".to_owned()),
        ("remote-hops", "use_remote_address: true\nxff_num_trusted_hops: 1".to_owned()),
        ("skip", "use_remote_address: true\nskip_xff_append: true".to_owned()),
        ("internal", format!("use_remote_address: true\n{internal}")),
        ("internal-plain", internal.to_owned()),
        (
            "detect",
            "original_ip_detection_extensions: [{name: x, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.http.original_ip_detection.xff.v3.XffConfig, xff_num_trusted_hops: 1}}]".to_owned(),
        ),
        (
            "custom",
            "original_ip_detection_extensions: [{name: x, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig, header_name: x-real-ip, allow_extension_to_set_address_as_trusted: true}}]".to_owned(),
        ),
    ];
    let mut config = Config::new().cluster("a", "");
    for (name, fields) in &listeners {
        config = config.http(name, &listener(fields));
    }
    let mut group = Group::new("forwarded", config);
    for (name, _) in &listeners {
        group = group
            .step(&format!("{name}-none"), get(name, "/", &[]))
            .step(
                &format!("{name}-one"),
                get(name, "/", &["x-forwarded-for: 1.2.3.4", "x-forwarded-proto: https", "x-real-ip: 9.9.9.9"]),
            )
            .step(&format!("{name}-three"), get(name, "/", &["x-forwarded-for: 1.2.3.4, 10.0.0.1,5.6.7.8"]))
            .step(
                &format!("{name}-internal"),
                get(
                    name,
                    "/",
                    &[
                        "x-forwarded-for: 10.1.2.3",
                        "x-envoy-retry-on: 5xx",
                        "x-envoy-upstream-rq-timeout-ms: 5000",
                        "x-envoy-internal: false",
                    ],
                ),
            )
            .step(
                &format!("{name}-garbage"),
                get(name, "/", &["x-forwarded-for: not an address", "x-forwarded-proto: gopher"]),
            );
    }
    let group = group
        .step("plain-v6", get("plain", "/", &["x-forwarded-for: 2001:db8::1"]))
        .step("plain-port", get("plain", "/", &["x-forwarded-for: 1.2.3.4:5678"]))
        .step("plain-repeated", get("plain", "/", &["x-forwarded-for: 1.1.1.1", "x-forwarded-for: 2.2.2.2"]))
        .step("hops-repeated", get("hops", "/", &["x-forwarded-for: 1.1.1.1", "x-forwarded-for: 2.2.2.2"]))
        .step("counters", stats(&["http.plain.downstream_rq_total"]));
    run(&group)
}

#[test]
fn hosts() -> Result<()> {
    let config = Config::new()
        .http("strip-any", &listener("strip_any_host_port: true"))
        .http("strip-dot", &listener("strip_trailing_host_dot: true"))
        .http("keep", &listener(""))
        .http(
            "ignore-port",
            &listener("").replace("virtual_hosts:", "ignore_port_in_host_matching: true\n      virtual_hosts:"),
        )
        .http("vhost-header", &listener("").replace("virtual_hosts:", "vhost_header: x-vhost\n      virtual_hosts:"))
        .cluster("a", "");
    let mut group = Group::new("hosts", config);
    for listener in ["strip-any", "strip-dot", "keep", "ignore-port"] {
        for (name, host) in [
            ("port", "host.test:81"),
            ("dot", "host.test."),
            ("dot-port", "host.test.:81"),
            ("v6", "[::1]:80"),
            ("upper", "HOST.Test"),
            ("user", "user@host.test"),
        ] {
            group = group.step(&format!("{listener}-{name}"), get(listener, "/", &[&format!("host: {host}")]));
        }
    }
    run(&group.step("vhost-header", get("vhost-header", "/", &["x-vhost: a.test"])))
}

#[test]
fn mapped() -> Result<()> {
    let fields = "use_remote_address: true\nrepresent_ipv4_remote_address_as_ipv4_mapped_ipv6: true";
    let config = Config::new().http("represent", &listener(fields)).cluster("a", "");
    run(&Group::new("mapped", config).step("xff", get("represent", "/", &[])))
}
