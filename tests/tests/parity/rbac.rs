//! RBAC of requests and of connections: every kind of permission and principal, actions, order, shadow rules, routes.

use anyhow::Result;
use weft_tests::config::{Config, LOG_FORMAT, access_log, connection_manager, dedent, indent};
use weft_tests::parity::{ClientTls, Group, Step, get, h1, h2, request, run, stats};

const TYPE: &str = "\"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3";
const NETWORK: &str = "\"@type\": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";
const ANY: &str = "[{any: true}]";

/// A policy of one permission and one principal.
fn policy(permissions: &str, principals: &str) -> String {
    format!("policies: {{p: {{permissions: {permissions}, principals: {principals}}}}}")
}

/// Fields of a connection manager whose filter has `fields`, and whose routes are `routes`; by default, one to the upstream `a`.
fn manager(fields: &str, routes: &str) -> String {
    manager_of(
        &format!("- name: envoy.filters.http.rbac\n  typed_config:\n    {TYPE}.RBAC\n{}", indent(&dedent(fields), 4)),
        routes,
    )
}

/// The same with these filters.
fn manager_of(filters: &str, routes: &str) -> String {
    let said = "metadata=%DYNAMIC_METADATA(envoy.filters.http.rbac)% common=%DYNAMIC_METADATA(envoy.common)%";
    let routes = if routes.is_empty() { "- {match: {prefix: \"/\"}, route: {cluster: a}}" } else { routes };
    format!(
        "access_log:\n{}http_filters:\n{filters}route_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n{}",
        access_log(&format!("{LOG_FORMAT} {said}")),
        indent(&dedent(routes), 4),
    )
}

/// Rules that allow what one policy matches.
fn allow(permissions: &str, principals: &str) -> String {
    format!("rules: {{action: ALLOW, {}}}", policy(permissions, principals))
}

fn counters(of: &str) -> Step {
    let names = ["allowed", "denied", "shadow_allowed", "shadow_denied"];
    stats(&names.map(|name| format!("http.{of}.rbac.{name}")).each_ref().map(String::as_str))
}

#[test]
fn permissions() -> Result<()> {
    let metadata = "filter: m, path: [{key: k}], value: {string_match: {exact: v}}";
    let template = "name: t, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: \"/api/{id}/**\"}";
    let route_metadata = "
        - {match: {prefix: /with}, route: {cluster: a}, metadata: {filter_metadata: {m: {k: v}}}}
        - {match: {prefix: /other}, route: {cluster: a}, metadata: {filter_metadata: {m: {k: w}}}}
        - {match: {prefix: /}, route: {cluster: a}}";
    let kinds = [
        ("any", "{any: true}"),
        (
            "and",
            "{and_rules: {rules: [{header: {name: \":method\", string_match: {exact: GET}}}, {url_path: {path: {prefix: /open}}}]}}",
        ),
        ("or", "{or_rules: {rules: [{url_path: {path: {exact: /a}}}, {url_path: {path: {suffix: .txt}}}]}}"),
        ("not", "{not_rule: {url_path: {path: {prefix: /closed}}}}"),
        ("header", "{header: {name: x-role, string_match: {exact: admin}}}"),
        ("header-present", "{header: {name: x-role, present_match: true}}"),
        ("header-not", "{header: {name: x-role, string_match: {exact: admin}, invert_match: true}}"),
        ("host", "{header: {name: \":authority\", string_match: {exact: EXAMPLE.com, ignore_case: true}}}"),
        ("path", "{url_path: {path: {exact: /open}}}"),
        ("path-regex", "{url_path: {path: {safe_regex: {regex: \"/v[0-9]+/.*\"}}}}"),
        ("destination", "{destination_ip: {address_prefix: 127.0.0.0, prefix_len: 8}}"),
        ("destination-other", "{destination_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}"),
        ("port", "{destination_port: {{port:port}}}"),
        ("port-other", "{destination_port: 1}"),
        ("ports", "{destination_port_range: {start: 1024, end: 65536}}"),
        ("ports-below", "{destination_port_range: {start: 1, end: 1024}}"),
        ("dynamic", &format!("{{metadata: {{{metadata}}}}}")),
        ("dynamic-not", &format!("{{metadata: {{{metadata}, invert: true}}}}")),
        ("route", &format!("{{sourced_metadata: {{metadata_matcher: {{{metadata}}}, metadata_source: ROUTE}}}}")),
        ("sourced", &format!("{{sourced_metadata: {{metadata_matcher: {{{metadata}}}}}}}")),
        ("sni", "{requested_server_name: {exact: a.example}}"),
        ("sni-none", "{requested_server_name: {exact: \"\"}}"),
        ("template", &format!("{{uri_template: {{{template}}}}}")),
    ];
    let mut config = Config::new().cluster("a", "");
    for (name, kind) in kinds {
        config = config
            .http(name, &manager(&allow(&format!("[{kind}]"), ANY), if name == "route" { route_metadata } else { "" }));
    }
    let mut group = Group::new("rbac-permissions", config);
    for (name, _) in kinds {
        group = group
            .step(&format!("{name}-open"), get(name, "/open", &["x-role: admin"]))
            .step(&format!("{name}-none"), get(name, "/closed/x?/open", &[]));
    }
    let connect = "CONNECT example.com:80 HTTP/1.1\nhost: example.com:80\n\n";
    group = group
        .step("and-post", request("and", "POST", "/open", &[], "x"))
        .step("or-first", get("or", "/a?b", &[]))
        .step("or-second", get("or", "/x.txt#y", &[]))
        .step("header-twice", get("header", "/", &["x-role: user", "x-role: admin"]))
        .step("header-list", get("header", "/", &["x-role: user,admin"]))
        .step("header-not-other", get("header-not", "/", &["x-role: user"]))
        .step("host-other", get("host", "/", &["host: other.example"]))
        .step("host-case", get("host", "/", &["host: Example.COM"]))
        .step("path-query", get("path", "/open?x=/y", &[]))
        .step("path-encoded", get("path", "/%6fpen", &[]))
        .step("path-slash", get("path", "/open/", &[]))
        .step("path-connect", h1("path", connect))
        .step("path-regex-whole", get("path-regex", "/v1/x", &[]))
        .step("path-regex-part", get("path-regex", "/x/v1/x", &[]))
        .step("route-with", get("route", "/with", &[]))
        .step("route-other", get("route", "/other", &[]))
        .step("template-fits", get("template", "/api/7/x/y?z", &[]))
        .step("template-short", get("template", "/api", &[]))
        .step("grpc", h2("path", "/closed", &[("content-type", "application/grpc")], b"x"))
        .step("head", request("path", "HEAD", "/closed", &[], ""))
        .step("body", request("path", "POST", "/closed", &[], "0123456789").and_close())
        .step("counters", counters("path"));
    run(&group)
}

#[test]
fn principals() -> Result<()> {
    let kinds = [
        ("any", "{any: true}"),
        (
            "and",
            "{and_ids: {ids: [{header: {name: x-role, string_match: {exact: admin}}}, {direct_remote_ip: {address_prefix: 127.0.0.1}}]}}",
        ),
        (
            "or",
            "{or_ids: {ids: [{header: {name: x-role, string_match: {exact: admin}}}, {header: {name: x-role, string_match: {exact: owner}}}]}}",
        ),
        ("not", "{not_id: {header: {name: x-role, string_match: {exact: admin}}}}"),
        ("source", "{source_ip: {address_prefix: 127.0.0.0, prefix_len: 8}}"),
        ("direct", "{direct_remote_ip: {address_prefix: 127.0.0.0, prefix_len: 8}}"),
        ("remote", "{remote_ip: {address_prefix: 10.1.0.0, prefix_len: 16}}"),
        ("remote-not", "{not_id: {remote_ip: {address_prefix: 10.1.0.0, prefix_len: 16}}}"),
        ("path", "{url_path: {path: {prefix: /open}}}"),
        ("metadata", "{metadata: {filter: m, path: [{key: k}], value: {present_match: false}}}"),
        ("tls", "{authenticated: {}}"),
    ];
    let forwarded = "xff_num_trusted_hops: 1\nuse_remote_address: true\n";
    let mut config = Config::new().cluster("a", "");
    for (name, kind) in kinds {
        config = config.http(name, &(manager(&allow(ANY, &format!("[{kind}]")), "") + forwarded));
    }
    let mut group = Group::new("rbac-principals", config);
    for (name, _) in kinds {
        group = group
            .step(&format!("{name}-known"), get(name, "/open", &["x-role: admin", "x-forwarded-for: 10.1.2.3"]))
            .step(&format!("{name}-unknown"), get(name, "/", &["x-forwarded-for: 10.2.2.3"]));
    }
    run(&group)
}

/// A chain over TLS that asks for a certificate, with these filters.
fn tls_chain(filters: &str, require: bool) -> String {
    format!(
        "listener_filters: [{{name: i, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}}}]\nfilter_chains:\n- transport_socket:\n    name: tls\n    typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n      require_client_certificate: {require}\n      common_tls_context:\n        tls_certificates: [{{certificate_chain: {{filename: \"{{{{dir}}}}/server.pem\"}}, private_key: {{filename: \"{{{{dir}}}}/server.key\"}}}}]\n        validation_context: {{trusted_ca: {{filename: \"{{{{dir}}}}/ca.pem\"}}}}\n  filters:\n{}",
        indent(filters, 2)
    )
}

#[test]
fn identities() -> Result<()> {
    let kinds = [
        ("anyone", "{authenticated: {}}"),
        ("uri", "{authenticated: {principal_name: {exact: \"spiffe://example/client\"}}}"),
        ("uri-prefix", "{authenticated: {principal_name: {prefix: \"spiffe://example/\"}}}"),
        ("uri-regex", "{authenticated: {principal_name: {safe_regex: {regex: \".*/client\"}}}}"),
        ("uri-not", "{not_id: {authenticated: {principal_name: {exact: \"spiffe://example/client\"}}}}"),
        ("dns", "{authenticated: {principal_name: {exact: other.example}}}"),
        ("dns-beside-uri", "{authenticated: {principal_name: {exact: client.example}}}"),
        ("subject", "{authenticated: {principal_name: {exact: CN=nameless}}}"),
        ("subject-beside-uri", "{authenticated: {principal_name: {exact: CN=client}}}"),
        ("empty", "{authenticated: {principal_name: {exact: \"\"}}}"),
    ];
    let mut config = Config::new().cluster("a", "").cluster("tcp-a", "");
    for (name, kind) in kinds {
        let http = connection_manager(name, &manager(&allow(ANY, &format!("[{kind}]")), ""));
        config = config.listener(name, &tls_chain(&http, false));
    }
    let sni = connection_manager("sni", &manager(&allow("[{requested_server_name: {suffix: .example}}]", ANY), ""));
    let tcp = tcp_chain("tcp", &format!("rules: {{{}}}", policy(ANY, &format!("[{}]", kinds[1].1))));
    config = config.listener("sni", &tls_chain(&sni, false)).listener("tcp", &tls_chain(&tcp, false));
    let with = |identity: Option<&'static str>| ClientTls { identity, ..ClientTls::default() };
    let mut group = Group::new("rbac-identities", config);
    for (name, _) in kinds {
        for identity in [Some("client"), Some("other"), Some("nameless"), None] {
            let case = format!("{name}-{}", identity.unwrap_or("nobody"));
            group = group.step(&case, get(name, "/", &[]).over(with(identity)));
        }
    }
    for sni in [Some("a.example"), Some("localhost"), None] {
        let tls = ClientTls { sni: sni.map(str::to_owned), ..ClientTls::default() };
        group = group.step(&format!("sni-{}", sni.unwrap_or("none")), get("sni", "/", &[]).over(tls));
    }
    for identity in [Some("client"), Some("other"), None] {
        let case = format!("tcp-{}", identity.unwrap_or("nobody"));
        group = group.step(&case, talk("tcp", &[b"hello"]).over(with(identity)));
    }
    run(&group.step("counters", stats(&["tcp.rbac.allowed", "tcp.rbac.denied"])))
}

#[test]
fn actions() -> Result<()> {
    let two = |action: &str| {
        format!(
            "rules:\n  action: {action}\n  policies:\n    \"b second\": {{permissions: [{{url_path: {{path: {{prefix: /both}}}}}}, {{url_path: {{path: {{prefix: /b}}}}}}], principals: {ANY}}}\n    \"a first\": {{permissions: [{{url_path: {{path: {{prefix: /both}}}}}}, {{url_path: {{path: {{prefix: /a}}}}}}], principals: {ANY}}}\n"
        )
    };
    let shadow = |action: &str| two(action).replace("rules:", "shadow_rules:");
    let prefixed = "rules_stat_prefix: enf\nshadow_rules_stat_prefix: \"shad.\"\ntrack_per_rule_stats: true\n";
    let reply = "local_reply_config: {mappers: [{filter: {status_code_filter: {comparison: {op: EQ, value: {default_value: 403, runtime_key: k}}}}, body: {inline_string: \"no: %RESPONSE_CODE_DETAILS%\"}, body_format_override: {text_format_source: {inline_string: \"%LOCAL_REPLY_BODY% %RESPONSE_CODE_DETAILS%\"}}}]}\n";
    let one = |fields: &str| {
        format!("- name: envoy.filters.http.rbac\n  typed_config:\n    {TYPE}.RBAC\n{}", indent(&dedent(fields), 4))
    };
    let deny_then_allow =
        one(&format!("rules: {{action: DENY, {}}}", policy("[{url_path: {path: {prefix: /never}}}]", ANY)))
            + &one(&allow("[{header: {name: \":method\", string_match: {exact: GET}}}]", ANY))
                .replace("http.rbac\n", "http.rbac.second\n");
    let config = Config::new()
        .http("allow", &manager(&two("ALLOW"), ""))
        .http("deny", &manager(&two("DENY"), ""))
        .http("log", &manager(&two("LOG"), ""))
        .http("no-policy-allow", &manager("rules: {action: ALLOW}", ""))
        .http("no-policy-deny", &manager("rules: {action: DENY}", ""))
        .http("no-rules", &manager("rules_stat_prefix: x", ""))
        .http("shadow", &manager(&shadow("DENY"), ""))
        .http("shadow-log", &manager(&shadow("LOG"), ""))
        .http("shadow-and-rules", &manager(&(shadow("ALLOW") + &two("DENY")), ""))
        .http("prefixed", &manager(&(shadow("DENY") + &two("ALLOW") + prefixed), ""))
        .http("reply", &(manager(&two("DENY"), "") + reply))
        .http("two", &manager_of(&deny_then_allow, ""))
        .cluster("a", "");
    let mut group = Group::new("rbac-actions", config);
    let listeners = [
        "allow",
        "deny",
        "log",
        "no-policy-allow",
        "no-policy-deny",
        "no-rules",
        "shadow",
        "shadow-log",
        "shadow-and-rules",
        "prefixed",
        "reply",
        "two",
    ];
    for to in listeners {
        for path in ["/a", "/b", "/both", "/none", "/never"] {
            group = group.step(&format!("{to}-{}", &path[1..]), get(to, path, &[]));
        }
        group = group.step(&format!("{to}-counters"), counters(to));
    }
    let each = [
        "http.prefixed.rbac.enf.allowed",
        "http.prefixed.rbac.enf.denied",
        "http.prefixed.rbac.shad.shadow_allowed",
        "http.prefixed.rbac.shad.shadow_denied",
        "http.prefixed.rbac.enf.policy.a first.allowed",
        "http.prefixed.rbac.enf.policy.b second.allowed",
        "http.prefixed.rbac.shad.policy.a first.shadow_denied",
        "http.prefixed.rbac.shad.policy.b second.shadow_denied",
    ];
    group = group.step("two-post", request("two", "POST", "/a", &[], "x")).step("prefixed-each", stats(&each));
    run(&group)
}

#[test]
fn routes() -> Result<()> {
    let own =
        |fields: &str| format!("typed_per_filter_config: {{envoy.filters.http.rbac: {{{TYPE}.RBACPerRoute{fields}}}}}");
    let deny = format!(
        ", rbac: {{rules: {{action: DENY, {}}}}}",
        policy("[{header: {name: x-bad, present_match: true}}]", ANY)
    );
    let shadow =
        format!(", rbac: {{shadow_rules_stat_prefix: own, shadow_rules: {{action: DENY, {}}}}}", policy(ANY, ANY));
    let counted = format!(", rbac: {{track_per_rule_stats: true, rules: {{action: ALLOW, {}}}}}", policy(ANY, ANY));
    let routes = format!(
        "
        - {{match: {{prefix: /deny}}, route: {{cluster: a}}, {}}}
        - {{match: {{prefix: /shadow}}, route: {{cluster: a}}, {}}}
        - {{match: {{prefix: /counted}}, route: {{cluster: a}}, {}}}
        - {{match: {{prefix: /off}}, route: {{cluster: a}}, {}}}
        - {{match: {{prefix: /disabled}}, route: {{cluster: a}}, typed_per_filter_config: {{envoy.filters.http.rbac: {{\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}}}}}}
        - {{match: {{prefix: /direct}}, direct_response: {{status: 204}}}}
        - {{match: {{prefix: /a}}, route: {{cluster: a}}}}",
        own(&deny),
        own(&shadow),
        own(&counted),
        own("")
    );
    let fields = format!("{}\nrules_stat_prefix: chain", allow("[{url_path: {path: {prefix: /a}}}]", ANY));
    let config = Config::new().http("routes", &manager(&fields, &routes)).cluster("a", "");
    let mut group = Group::new("rbac-routes", config);
    for path in ["/deny", "/shadow", "/counted", "/off", "/disabled", "/direct", "/a", "/nowhere"] {
        group = group
            .step(&path[1..], get("routes", path, &[]))
            .step(&format!("{}-bad", &path[1..]), get("routes", path, &["x-bad: 1"]));
    }
    let names = [
        "http.routes.rbac.chain.allowed",
        "http.routes.rbac.chain.denied",
        "http.routes.rbac.shadow_denied",
        "http.routes.rbac.chain.policy.p.allowed",
    ];
    run(&group.step("counters", stats(&names)))
}

fn talk(to: &str, writes: &[&[u8]]) -> Step {
    Step::Bytes { to: to.into(), writes: writes.iter().map(|write| write.to_vec()).collect(), finish: true, tls: None }
}

/// The network filter with these fields.
fn network(prefix: &str, fields: &str) -> String {
    format!(
        "- name: envoy.filters.network.rbac\n  typed_config:\n    {NETWORK}\n    stat_prefix: {prefix}\n{}",
        indent(&dedent(fields), 4)
    )
}

/// It, and a TCP proxy to an echo behind it.
fn tcp_chain(prefix: &str, fields: &str) -> String {
    let log = access_log(
        "tcp %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% in=%BYTES_RECEIVED% out=%BYTES_SENT% cluster=%UPSTREAM_CLUSTER% end=%CONNECTION_TERMINATION_DETAILS% closed=%DOWNSTREAM_LOCAL_CLOSE_REASON% metadata=%DYNAMIC_METADATA(envoy.filters.network.rbac)%",
    );
    let typed = "\"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    format!(
        "{}- name: envoy.filters.network.tcp_proxy\n  typed_config:\n    {typed}\n    stat_prefix: {prefix}\n    cluster: tcp-a\n    access_log:\n{}",
        network(prefix, fields),
        indent(&log, 4)
    )
}

#[test]
fn connections() -> Result<()> {
    let here = "[{destination_ip: {address_prefix: 127.0.0.0, prefix_len: 8}}]";
    let away = "[{destination_port: 1}]";
    let chain = |filters: &str| format!("filter_chains:\n- filters:\n{}", indent(filters, 2));
    let tcp = |name: &str, fields: &str| chain(&tcp_chain(name, fields));
    let http = connection_manager("http", &manager_of("", "").replace("http_filters:\n", ""));
    let rules = |action: &str, permissions: &str| format!("rules: {{action: {action}, {}}}", policy(permissions, ANY));
    let twice = network("first", &rules("DENY", away)) + &tcp_chain("twice", &rules("ALLOW", away));
    let config = Config::new()
        .listener("allow", &tcp("allow", &rules("ALLOW", here)))
        .listener("allow-none", &tcp("allow-none", &rules("ALLOW", away)))
        .listener("deny", &tcp("deny", &rules("DENY", here)))
        .listener("deny-none", &tcp("deny-none", &rules("DENY", away)))
        .listener("log", &tcp("log", &rules("LOG", here)))
        .listener("none", &tcp("none", ""))
        .listener("continuous", &tcp("continuous", &format!("{}\nenforcement_type: CONTINUOUS", rules("ALLOW", here))))
        .listener("continuous-deny", &tcp("cd", &format!("{}\nenforcement_type: CONTINUOUS", rules("DENY", here))))
        .listener("delay", &tcp("delay", &format!("{}\ndelay_deny: 0.2s", rules("DENY", here))))
        .listener(
            "shadow",
            &tcp(
                "shadow",
                &format!("{}\nshadow_rules_stat_prefix: sh", rules("DENY", here).replace("rules", "shadow_rules")),
            ),
        )
        .listener("both", &tcp("both.", &format!("{}\nshadow_{}", rules("ALLOW", here), rules("ALLOW", away))))
        .listener("twice", &chain(&twice))
        .listener("http", &chain(&(network("h", &rules("ALLOW", here)) + &http)))
        .listener("http-deny", &chain(&(network("hd", &rules("DENY", here)) + &http)))
        .cluster("a", "")
        .cluster("tcp-a", "");
    let mut group = Group::new("rbac-connections", config);
    let listeners = [
        "allow",
        "allow-none",
        "deny",
        "deny-none",
        "log",
        "none",
        "continuous",
        "continuous-deny",
        "delay",
        "shadow",
        "both",
        "twice",
    ];
    for to in listeners {
        group = group.step(to, talk(to, &[b"hello"])).step(&format!("{to}-silent"), talk(to, &[]));
    }
    group = group
        .step("http", get("http", "/", &[]))
        .step("http-deny", get("http-deny", "/", &[]))
        .logs(0)
        .step(
            "http-deny-h2",
            Step::Bytes {
                to: "http-deny".into(),
                writes: vec![b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()],
                finish: false,
                tls: None,
            },
        )
        .logs(0);
    let mut names = Vec::new();
    for to in [
        "allow",
        "allow-none",
        "deny",
        "deny-none",
        "log",
        "none",
        "cd",
        "delay",
        "shadow",
        "both",
        "first",
        "twice",
        "h",
        "hd",
    ] {
        for what in ["allowed", "denied", "shadow_allowed", "sh.shadow_denied", "shadow_denied"] {
            names.push(format!("{to}.rbac.{what}"));
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    run(&group.step("counters", stats(&names)))
}
